"""Transactions over shards by whole members and coordinators under faults: fixed seeds, fresh ones for as long as the budget lasts, and deliberate bugs.

A failing seed is named; ``quorate simulate shards --seed N --trace out.html`` runs it again and draws it. QUORATE_SEEDS=A..B names the fresh seeds.
"""

import os
import secrets
import sys
from collections.abc import Iterable, Iterator

import pytest
from tests.support.deliberate import Search

from quorate.cli.simulate import parse_seeds
from quorate.simulation.batch import Batch, Outcome, Totals
from quorate.simulation.protocols import location
from quorate.simulation.shards.mutations import MUTATIONS
from quorate.simulation.shards.run import SIMULATION

FIXED = 40
FRESH_SECONDS = 5.0
FRESH_SPAN = 10**9
NOTICED_WITHIN = 30
FIRST = {"decided-is-not-in-force": 23, "no-fence": 300, "readers-drop-out": 25}
"""Where to begin with those that take many runs."""

PROBES = (
    "prepared",
    "committed at once",
    "a reader meets an intent",
    "a reader finishes an intent",
    "a writer meets an intent",
    "a writer waits in vain",
    "recovery aborted",
    "recovery committed",
    "forgotten",
    "sleeps",
    "snapshot adopted",
    "txn ok",
    "told fail",
)
"""What a batch of seeds must have come across, or it shows little."""


def passed(seeds: Iterable[int], time_budget: float = 0.0) -> Totals:
    """Run the seeds on all CPUs; none may fail."""
    failures: list[str] = []

    def report(outcome: Outcome) -> None:
        failures.append(f"seed {outcome.seed}: {outcome.failure or outcome.crash}")

    workers = len(os.sched_getaffinity(0))
    totals = Batch(location("shards"), seeds, workers=workers, time_budget=time_budget).run(report)
    assert not failures, "\n".join(failures)
    return totals


def test_fixed_seeds_keep_every_promise_and_come_across_everything() -> None:
    totals = passed(range(1, FIXED + 1))
    assert totals.seeds == FIXED
    assert [name for name in PROBES if name not in totals.probes] == []
    assert any(name.startswith("dies after prepare") for name in totals.probes)
    assert any(name.startswith("dies before finish") for name in totals.probes)
    assert totals.operations > 20 * FIXED


def test_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    given = os.environ.get("QUORATE_SEEDS")
    first = secrets.randbelow(FRESH_SPAN)
    seeds, _ = parse_seeds(given or f"{first}..{first + FRESH_SPAN}")
    with capsys.disabled():
        sys.stdout.write(f"\nfresh seeds of shards from {given or first} on")
        sys.stdout.flush()
    totals = passed(seeds, time_budget=0.0 if given else FRESH_SECONDS)
    with capsys.disabled():
        sys.stdout.write(f": {totals.seeds} passed\n")


def test_one_seed_gives_one_run() -> None:
    for seed in (1, 2, 3):
        traced = SIMULATION.run(seed, None, True)
        assert traced.digest == SIMULATION.run(seed).digest, "a trace changes the run"


@pytest.fixture(scope="module")
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    with Search("shards", NOTICED_WITHIN, FIRST).of(request) as begun:
        yield begun


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_deliberate_bug_is_noticed(search: Search, name: str) -> None:
    search.judge(name)
