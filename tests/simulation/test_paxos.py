"""Paxos groups with the key-value store on them under faults: fixed seeds, fresh ones for as long as the budget lasts, and deliberate bugs.

A failing seed is named; ``quorate simulate paxos --seed N --trace out.html`` runs it again and draws it. QUORATE_SEEDS=A..B names the fresh seeds.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest
from tests.support.deliberate import Search

from quorate.cli.simulate import parse_seeds
from quorate.simulation.batch import Batch, Outcome, Totals
from quorate.simulation.paxos.mutations import MUTATIONS
from quorate.simulation.paxos.run import SIMULATION
from quorate.simulation.protocols import location

FIXED = 200
FOUND = (235, 309635, 309914, 494127769)
"""Seeds that once found a bug (docs/verification.md)."""
FOUND_WITH = ((68, "older-ballot-accepted"),)
"""The same, with the options of a mutation though without its bug."""
FRESH_SECONDS = 8.0
FRESH_SPAN = 10**9
NOTICED_WITHIN = 250

PROBES = (
    "start",
    "leads",
    "snapshot adopted",
    "snapshot sent in pieces",
    "stopped by its disk",
    "added: True",
    "added: False",
    "removed: True",
    "handed over: True",
    *[f"fault: {fault}" for fault in SIMULATION.faults],
)
"""What a batch of seeds must have come across, or it shows little."""

SLOW = frozenset(("lease-by-last-event", "members-of-own-log"))
"""Not noticed within that many runs: see docs/verification.md."""


def passed(seeds: Iterable[int], time_budget: float = 0.0) -> Totals:
    """Run the seeds on all CPUs; none may fail."""
    failures: list[str] = []

    def report(outcome: Outcome) -> None:
        failures.append(f"seed {outcome.seed}: {outcome.failure or outcome.crash}")

    workers = len(os.sched_getaffinity(0))
    totals = Batch(location("paxos"), seeds, workers=workers, time_budget=time_budget).run(report)
    assert not failures, "\n".join(failures)
    return totals


def test_fixed_seeds_keep_every_promise_and_come_across_everything() -> None:
    totals = passed(range(1, FIXED + 1))
    assert totals.seeds == FIXED
    assert [name for name in PROBES if name not in totals.probes] == []
    assert totals.operations > 50 * FIXED
    assert totals.commits > 20 * FIXED


def test_seeds_that_found_a_bug() -> None:
    passed(FOUND)
    for seed, name in FOUND_WITH:
        assert not SIMULATION.run(seed, MUTATIONS[name].draw(seed)).failure


def test_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    given = os.environ.get("QUORATE_SEEDS")
    first = secrets.randbelow(FRESH_SPAN)
    seeds, _ = parse_seeds(given or f"{first}..{first + FRESH_SPAN}")
    with capsys.disabled():
        sys.stdout.write(f"\nfresh seeds of paxos from {given or first} on")
        sys.stdout.flush()
    totals = passed(seeds, time_budget=0.0 if given else FRESH_SECONDS)
    with capsys.disabled():
        sys.stdout.write(f": {totals.seeds} passed, {totals.events * 10**9 // totals.cpu:,} events a second of CPU\n")


def test_one_seed_gives_one_trace_whatever_the_hash_seed() -> None:
    program = (
        "from quorate.simulation.paxos.run import SIMULATION\n"
        "from zlib import crc32\n"
        "for seed in range(1, 9):\n"
        "    traced = SIMULATION.run(seed, None, True)\n"
        "    assert traced.digest == SIMULATION.run(seed).digest, 'a trace changes the run'\n"
        "    repeated = SIMULATION.run(seed, traced.options)\n"
        "    assert not repeated.failure, 'its own faults, given, are another run'\n"
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
    assert len(set(outputs[0].splitlines())) == 8


@pytest.fixture(scope="module")
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    with Search("paxos", NOTICED_WITHIN).of(request) as begun:
        yield begun


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in SLOW])
def test_a_deliberate_bug_is_noticed(search: Search, name: str) -> None:
    search.judge(name)


def test_there_are_enough_and_the_slow_ones_exist() -> None:
    assert MUTATIONS.keys() >= SLOW
    assert len(MUTATIONS.keys() - SLOW) >= 20
