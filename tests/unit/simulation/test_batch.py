"""Many seeds over worker processes: what is counted and reported, whatever becomes of the workers."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.unit.simulation.lockservice import LOCATION, SIMULATION

from quorate.errors import QuorateError, UsageError
from quorate.simulation.batch import Batch, Outcome, Totals
from quorate.simulation.result import Result

BUGGY = range(1, 61)
"""Seeds of which some fail with the mutation "forgetful", and some do not."""


def run_here(seeds: range, mutation: str = "", options: Mapping[str, object] | None = None) -> list[Result]:
    """In this process, for comparison."""
    if not mutation:
        return [SIMULATION.run(seed, options) for seed in seeds]
    with SIMULATION.mutations[mutation].applied():
        return [SIMULATION.run(seed, options) for seed in seeds]


def run_batch(batch: Batch) -> tuple[list[Outcome], Totals]:
    outcomes: list[Outcome] = []
    totals = batch.run(outcomes.append)
    return outcomes, totals


@pytest.mark.parametrize("workers", [1, 3])
def test_totals_are_the_sums_of_the_runs(workers: int) -> None:
    results = run_here(BUGGY)
    outcomes, totals = run_batch(Batch(LOCATION, BUGGY, workers=workers))
    assert outcomes == []
    assert (totals.seeds, totals.failures) == (len(results), 0)
    assert totals.events == sum(result.events for result in results)
    assert totals.virtual == sum(result.virtual for result in results)
    assert totals.commits == sum(result.commits for result in results)
    assert totals.operations == sum(result.operations for result in results)
    assert totals.recovery == max(result.recovery for result in results)
    crashes = [result.probes["crash"] for result in results]
    assert totals.probes["crash"] == [sum(count > 0 for count in crashes), sum(crashes)]


def test_failures_are_reported_with_the_options_that_repeat_them() -> None:
    expected = {result.seed: result for result in run_here(BUGGY, "forgetful") if result.failure}
    assert 0 < len(expected) < len(BUGGY)
    outcomes, totals = run_batch(Batch(LOCATION, BUGGY, workers=2, mutation="forgetful"))
    assert totals.failures == len(expected)
    assert {outcome.seed: outcome.text for outcome in outcomes} == {
        seed: result.failure for seed, result in expected.items()
    }
    one = outcomes[0]
    again = run_here(range(one.seed, one.seed + 1), "forgetful", one.options)[0]
    assert (again.failure, again.digest) == (one.failure, one.digest)


def test_options_replace_what_seeds_draw() -> None:
    _, totals = run_batch(
        Batch(LOCATION, range(1, 20), options={"clients": 1, "requests": 2, "enabled": [], "loss": 0.0})
    )
    assert (totals.seeds, totals.commits) == (19, 38)


def test_it_stops_after_so_many_failures() -> None:
    outcomes, totals = run_batch(Batch(LOCATION, range(1, 100_000), workers=2, mutation="forgetful", stop_after=3))
    assert len(outcomes) >= 3
    assert totals.seeds < 99_999


def test_the_time_budget_ends_it_and_what_was_begun_is_counted() -> None:
    _, totals = run_batch(Batch(LOCATION, range(1, 10**9), time_budget=1.0))
    assert 0 < totals.seeds < 10**9 - 1
    assert totals.failures == 0


def test_an_exception_of_the_simulation_is_a_failure_of_that_seed_alone() -> None:
    outcomes, totals = run_batch(Batch(LOCATION, range(1, 11), workers=2, mutation="exploding"))
    assert [(outcome.seed, outcome.failure) for outcome in outcomes] == [(5, "")]
    assert outcomes[0].text == "the simulator broke down: ZeroDivisionError: the simulator itself is wrong"
    assert "lockservice.py" in outcomes[0].crash
    assert (totals.seeds, totals.failures) == (10, 1)


def test_another_worker_goes_on_where_one_died() -> None:
    outcomes, totals = run_batch(Batch(LOCATION, range(1, 11), mutation="dying"))
    assert [outcome.seed for outcome in outcomes] == [5]
    assert outcomes[0].text == "the simulator broke down: the worker ended with status 9 during this run"
    assert (totals.seeds, totals.failures) == (10, 1)


def test_a_run_that_hangs_is_ended() -> None:
    outcomes, totals = run_batch(Batch(LOCATION, range(1, 11), mutation="hanging", patience=1.0))
    assert [outcome.seed for outcome in outcomes] == [5]
    assert outcomes[0].text == "the simulator broke down: the run has not ended after 1 s of real time"
    assert (totals.seeds, totals.failures) == (10, 1)


@pytest.mark.parametrize(
    ("mutation", "options", "message"),
    [
        ("forgetfull", {}, "unknown mutation 'forgetfull': expected one of forgetful"),
        (None, {"client": 2}, "unknown simulation option 'client': expected one of clients"),
        (None, {"clients": 0}, "simulation option clients: at least one is needed"),
    ],
)
def test_what_the_simulation_refuses_is_the_callers_mistake(
    mutation: str | None, options: Mapping[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run_batch(Batch(LOCATION, range(1, 11), workers=2, mutation=mutation, options=options))


def test_a_simulation_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(QuorateError, match="No module named 'quorate_nowhere'"):
        run_batch(Batch("quorate_nowhere:SIMULATION", range(1, 11)))


def test_progress_hears_of_every_seed_in_the_end() -> None:
    seen: list[int] = []
    Batch(LOCATION, range(1, 11)).run(lambda outcome: None, lambda totals: seen.append(totals.seeds))
    assert seen == sorted(seen)
    assert seen[-1] == 10


def children() -> set[int]:
    """Processes that are this one's."""
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[1]) == os.getpid():
                found.add(int(entry.name))
    return found


def test_no_worker_outlives_a_batch_that_is_broken_off() -> None:
    def stop(totals: Totals) -> None:
        if totals.seeds:
            raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        Batch(LOCATION, range(1, 10**6), workers=2).run(lambda outcome: None, stop)
    assert children() == before


def test_a_worker_ends_with_its_input_whatever_it_is_doing() -> None:
    batch = Batch(LOCATION, range(1, 11), mutation="hanging")
    batch._start()
    [worker] = batch._workers
    try:
        assert b"ready" in worker.output.readline()
        worker.hand([4, 5])
        assert b'"seed": 4' in worker.output.readline()
        worker.input.close()
        assert worker.process.wait(60) == 0
    finally:
        worker.end()
