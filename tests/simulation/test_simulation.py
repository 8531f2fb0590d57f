"""ZooKeeper ensembles and their clients under faults: fixed seeds, seeds that once found a bug, and fresh ones for as long as
the budget lasts.

A failing seed is named; ``quorate simulate zab --seed N --trace out.html`` runs it again and draws it. QUORATE_SEEDS=A..B names
the fresh seeds.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from quorate.cli.simulate import parse_seeds
from quorate.simulation.batch import Batch, Outcome, Totals
from quorate.simulation.protocols import location
from quorate.simulation.zookeeper.run import SIMULATION

HERE = Path(__file__).parent
FIXED = 200
FRESH_SECONDS = 15.0
FRESH_SPAN = 10**9

PROBES = (
    "Append",
    "InstallSnapshot",
    "StoreAcceptedEpoch",
    "StoreCurrentEpoch",
    "Truncate",
    "start",
    "refused to start on a damaged disk",
    "stopped by its disk",
    "looking: member ",
    "looking: no word from the leader in syncLimit (serving)",
    "looking: the leader cannot be reached",
    "looking: the link to the leader is gone",
    "looking: the member elected is looking for a leader again",
    "looking: too few of its supporters are left",
    "looking: too few voters are connected",
    *[f"fault: {fault}" for fault in SIMULATION.faults],
)
"""What a batch of seeds must have come across, or it shows little."""


def passed(seeds: Iterable[int], time_budget: float = 0.0) -> Totals:
    """Run the seeds on all CPUs; none may fail."""
    failures: list[str] = []

    def report(outcome: Outcome) -> None:
        failures.append(f"seed {outcome.seed}: {outcome.failure or outcome.crash}")

    workers = len(os.sched_getaffinity(0))
    totals = Batch(location("zab"), seeds, workers=workers, time_budget=time_budget).run(report)
    assert not failures, "\n".join(failures)
    return totals


def regressions() -> list[int]:
    lines = (HERE / "regressions.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def test_fixed_seeds_keep_every_promise_and_come_across_everything() -> None:
    totals = passed(range(1, FIXED + 1))
    assert totals.seeds == FIXED
    assert [name for name in PROBES if name not in totals.probes] == []
    assert totals.operations > 20 * FIXED
    assert totals.commits > 20 * FIXED


def test_seeds_that_found_a_bug() -> None:
    passed(regressions())


def test_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    given = os.environ.get("QUORATE_SEEDS")
    first = secrets.randbelow(FRESH_SPAN)
    seeds, _ = parse_seeds(given or f"{first}..{first + FRESH_SPAN}")
    with capsys.disabled():
        sys.stdout.write(f"\nfresh seeds from {given or first} on")
        sys.stdout.flush()
    totals = passed(seeds, time_budget=0.0 if given else FRESH_SECONDS)
    with capsys.disabled():
        sys.stdout.write(f": {totals.seeds} passed, {totals.events * 10**9 // totals.cpu:,} events a second of CPU\n")


def test_one_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    program = (
        "from quorate.simulation.zookeeper.run import SIMULATION\n"
        "from zlib import crc32\n"
        "for seed in range(12):\n"
        "    traced = SIMULATION.run(seed, None, True)\n"
        "    assert traced.digest == SIMULATION.run(seed).digest, 'a trace changes the run'\n"
        "    print(traced.digest, crc32(repr(traced.trace).encode()), traced.events)\n"
    )
    outputs = []
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].splitlines())) == 12
