"""Two-phase commit under faults: fixed seeds, fresh ones for as long as the budget lasts, and deliberate bugs. See ``test_paxos``."""

import os
import secrets
from collections.abc import Iterable, Iterator

import pytest
from tests.support.deliberate import Search

from quorate.cli.simulate import parse_seeds
from quorate.simulation.batch import Batch, Outcome, Totals
from quorate.simulation.protocols import location
from quorate.simulation.transactions.mutations import MUTATIONS
from quorate.simulation.transactions.run import SIMULATION

FIXED = 150
FOUND = (148, 1534)
"""Seeds that once found a bug (docs/verification.md); 1534 one of the simulation, which ended before all late writes were done."""
FRESH_SECONDS = 8.0
FRESH_SPAN = 10**9
NOTICED_WITHIN = 80

PROBES = (
    "prepared and committed",
    "prepared and rolled back",
    "told committed",
    "told aborted",
    "told doubt",
    "recovery committed",
    "recovery aborted",
    "left to recovery",
    "forgotten",
    "heuristic, commit",
    "heuristic, abort",
    *[f"fault: {fault}" for fault in ("die", "sleep", "crash", "store_away", "by_hand")],
    *[f"{what} {point}" for what in ("die", "sleep") for point in ("before decide", "after commit", "before prepare")],
)
"""What a batch of seeds must have come across, or it shows little."""


def passed(seeds: Iterable[int], time_budget: float = 0.0) -> Totals:
    """Run the seeds on all CPUs; none may fail."""
    failures: list[str] = []

    def report(outcome: Outcome) -> None:
        failures.append(f"seed {outcome.seed}: {outcome.failure or outcome.crash}")

    workers = len(os.sched_getaffinity(0))
    totals = Batch(location("txn"), seeds, workers=workers, time_budget=time_budget).run(report)
    assert not failures, "\n".join(failures)
    return totals


def test_fixed_seeds_are_all_or_nothing_and_come_across_everything() -> None:
    totals = passed(range(1, FIXED + 1))
    missing = [probe for probe in PROBES if probe not in totals.probes]
    assert not missing


def test_found_seeds_stay_found() -> None:
    passed(FOUND)


def test_fresh_seeds_are_all_or_nothing() -> None:
    named = os.environ.get("QUORATE_SEEDS")
    if named:
        passed(parse_seeds(named)[0])
        return
    start = secrets.randbelow(FRESH_SPAN)
    totals = passed(range(start, start + FRESH_SPAN), FRESH_SECONDS)
    assert totals.seeds, f"not one seed from {start} on in {FRESH_SECONDS} s"


def test_a_seed_gives_one_run() -> None:
    first, second = SIMULATION.run(7), SIMULATION.run(7)
    assert (first.digest, first.events, dict(first.probes)) == (second.digest, second.events, dict(second.probes))
    scheduled = SIMULATION.run(7, dict(first.options))
    assert scheduled.digest == first.digest


@pytest.fixture(scope="module")
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    with Search("txn", NOTICED_WITHIN).of(request) as begun:
        yield begun


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_deliberate_bug_is_noticed(search: Search, name: str) -> None:
    search.judge(name)
