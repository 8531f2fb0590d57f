"""Zab ensembles under faults: fixed seeds, seeds that once found a bug, and fresh ones for as long as the budget lasts.

A failing seed is printed with what it was like; replay it with ``python -m tests.simulation.run SEED --trace``.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.simulation.run import Result, simulate

HERE = Path(__file__).parent
FIXED = 100
BUDGET = 20.0
"""CPU seconds for fresh seeds."""

PROBES = (
    "Diff",
    "Trunc",
    "Snap",
    "crash",
    "fault: sniper",
    "fault: sniper at the disk",
    "local snapshot",
    "looking: member ",
    "looking: the link to the leader is gone",
    "looking: no word from the leader in syncLimit (serving)",
    "looking: too few of its supporters are left",
    "looking: too few voters are connected",
    "looking: the member elected is looking for a leader again",
    "looking: the leader cannot be reached",
)
"""What a batch of seeds must have come across, or it shows little."""


def explain(result: Result) -> str:
    return f"seed {result.seed}: {result.failure}\n{result.options.text()}"


def regressions() -> list[int]:
    lines = (HERE / "regressions.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


def test_fixed_seeds_keep_every_promise_and_come_across_everything() -> None:
    probes: dict[str, int] = {}
    for seed in range(1, FIXED + 1):
        result = simulate(seed)
        assert not result.failure, explain(result)
        assert result.commits > 0, explain(result)
        for name, count in result.probes.items():
            probes[name] = probes.get(name, 0) + count
    assert [name for name in PROBES if not probes.get(name)] == []


@pytest.mark.parametrize("seed", regressions())
def test_seeds_that_found_a_bug(seed: int) -> None:
    result = simulate(seed)
    assert not result.failure, explain(result)


def test_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    first = seed = int.from_bytes(os.urandom(5))
    events = 0
    started = time.process_time()
    while time.process_time() - started < BUDGET:
        result = simulate(seed)
        events += result.events
        assert not result.failure, explain(result)
        seed += 1
    with capsys.disabled():
        rate = events / (time.process_time() - started)
        sys.stdout.write(f"\nseeds {first}..{seed - 1} passed, {rate:.0f} events a second\n")


def test_one_seed_gives_one_run_whatever_the_hash_seed() -> None:
    program = "from tests.simulation.run import simulate\nfor seed in range(20): print(simulate(seed).digest)"
    outputs = []
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=HERE.parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].split() == [str(simulate(seed).digest) for seed in range(20)]
    assert len(set(outputs[0].split())) == 20
