"""What a coordinator shows to Prometheus, read back with Prometheus' own parser."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.transactions.shelf import NO, Shelf

from quorate.transactions import Aborted, HeuristicOutcome, Outcome
from quorate.transactions.metrics import BOUNDS, Metrics
from quorate.transactions.recovery import Report
from quorate.transactions.sync import Coordinator

PREFIX = "quorate_transactions_"


def scraped(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """By name, and by the values of the labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix(PREFIX), {})[tuple(sample.labels.values())] = sample.value
    return found


def move(coordinator: Coordinator, *shelves: Shelf, fails: bool = False) -> None:
    with coordinator.transaction() as tx:
        for shelf in shelves:
            tx.enlist(shelf)
        if fails:
            raise ZeroDivisionError


def test_before_anything_happened() -> None:
    found = scraped(Metrics())
    assert found["begun_total"] == {(): 0}
    assert found["ended_total"] == {
        (outcome,): 0 for outcome in ("committed", "aborted", "in doubt", "not yet applied", "heuristic")
    }
    assert found["commit_seconds_count"] == {(): 0}
    assert "in_doubt" not in found
    assert "process_cpu_seconds_total" in found


def test_transactions_are_counted_and_their_phases_measured(tmp_path: Path) -> None:
    one, other, against = Shelf("one"), Shelf("other"), Shelf("against", NO)
    with Coordinator(tmp_path / "decisions", [one, other, against], sweep_every=None) as coordinator:
        for _ in range(3):
            move(coordinator, one, other)
        with pytest.raises(Aborted):
            move(coordinator, one, against)
        with pytest.raises(ZeroDivisionError):
            move(coordinator, one, fails=True)
        one.commit = _commits_otherwise(one)  # type: ignore[assignment]  # an operator was there first
        with pytest.raises(HeuristicOutcome):
            move(coordinator, one, other)
        found = scraped(coordinator.metrics)
    assert found["begun_total"] == {(): 6}
    assert found["ended_total"] == {
        ("committed",): 3, ("aborted",): 2, ("heuristic",): 1, ("in doubt",): 0, ("not yet applied",): 0,
    }  # fmt: skip
    assert found["commit_seconds_count"] == {(): 5}
    assert found["phase_seconds_count"] == {
        ("one", "prepare"): 5, ("other", "prepare"): 4, ("against", "prepare"): 1, ("", "decide"): 4,
        ("one", "commit"): 4, ("other", "commit"): 4, ("one", "rollback"): 2, ("against", "rollback"): 1,
    }  # fmt: skip
    for phase in found["phase_seconds_count"]:
        assert found["phase_seconds_bucket"][("+Inf", *phase)] == found["phase_seconds_count"][phase]
    total = found["commit_seconds_sum"][()]
    assert total >= found["phase_seconds_sum"]["", "decide"] > 0


def _commits_otherwise(shelf: Shelf) -> Callable[[object], None]:
    def commit(branch: object) -> None:
        for name, prepared in list(shelf.prepared.items()):
            if prepared is branch:
                del shelf.prepared[name]
                shelf.outcomes[name] = Outcome.ABORTED
        Shelf.commit(shelf, branch)  # type: ignore[arg-type]  # what the interface gives

    return commit


def test_buckets_are_cumulative_and_a_bound_is_in_its_own() -> None:
    metrics = Metrics()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] + 1e-9, 29.0, 31.0):
        metrics.ended("committed", seconds)
    buckets = scraped(metrics)["commit_seconds_bucket"]
    assert [buckets[str(bound),] for bound in (*BOUNDS[:2], *BOUNDS[-2:])] == [2, 3, 3, 4]
    assert buckets["+Inf",] == 5
    assert scraped(metrics)["commit_seconds_sum"] == {(): pytest.approx(60.001)}


def test_what_a_sweep_found() -> None:
    metrics = Metrics(lambda: 1234.5)
    report = Report()
    report.committed = [("g", "orders"), ("h", "orders")]
    report.aborted = [("i", "stock")]
    report.in_doubt = [("j", "orders", 5.0), ("k", "orders", 65.0), ("k", "stock", 65.0)]
    report.foreign = [("stock", "theirs")]
    report.unknown = [("l", "stock")]
    report.heuristic = [("m", "orders", "rolled back")]
    report.unresolved = [("m", "orders", "rolled back"), ("n", "stock", "committed")]
    report.unreachable = {"gone": "connection refused"}
    metrics.swept(report, ["orders", "stock", "gone"], {"orders": {"prepared_slots_used": 2.0, "prepared_slots_max": 64.0}, "stock": {"lost_branches": 1.0}})  # fmt: skip
    metrics.sweep_failed()
    found = scraped(metrics)
    assert found["sweeps_total"] == {("made",): 1, ("failed",): 1}
    assert found["last_sweep_timestamp_seconds"] == {(): 1234.5}
    assert found["recovered_total"] == {("committed", "orders"): 2, ("rolled back", "stock"): 1}
    # of what could not be asked there is no number
    assert found["in_doubt"] == {("orders",): 2, ("stock",): 1}
    assert found["oldest_in_doubt_seconds"] == {("orders",): 65, ("stock",): 65}
    assert found["foreign"] == {("orders",): 0, ("stock",): 1}
    assert found["unreachable"] == {("orders",): 0, ("stock",): 0, ("gone",): 1}
    assert found["unknown"] == {("orders",): 0, ("stock",): 1}
    assert found["unresolved"] == {("orders",): 1, ("stock",): 1, ("gone",): 0}
    assert found["heuristic_total"] == {("rolled back", "orders"): 1, ("committed", "stock"): 1}
    assert found["prepared_slots_used"] == {("orders",): 2}
    assert found["prepared_slots_max"] == {("orders",): 64}
    assert found["lost_branches"] == {("stock",): 1}


def test_a_heuristic_outcome_is_counted_once_and_what_is_over_is_no_more_in_doubt() -> None:
    metrics = Metrics()
    for heuristic in ([("m", "orders", "rolled back")], []):
        report = Report()
        report.heuristic = list(heuristic)
        report.unresolved = [("m", "orders", "rolled back")]
        report.in_doubt = [("j", "orders", 5.0)]
        metrics.swept(report, ["orders"], {})
    assert scraped(metrics)["heuristic_total"] == {("rolled back", "orders"): 1}
    metrics.swept(Report(), ["orders"], {})
    found = scraped(metrics)
    assert (found["in_doubt"], found["oldest_in_doubt_seconds"]) == ({("orders",): 0}, {("orders",): 0})
    assert found["unresolved"] == {("orders",): 0}
    assert found["heuristic_total"] == {("rolled back", "orders"): 1}


def test_one_that_lists_a_branch_and_does_not_end_it_has_numbers() -> None:
    metrics = Metrics()
    report = Report()
    report.in_doubt = [("j", "orders", 5.0)]
    report.unreachable = {
        "orders": "the connection 7 was killed, and the server has not let go of it",
        "stock": "refused",
    }
    metrics.swept(report, ["orders", "stock"], {})
    found = scraped(metrics)
    assert found["in_doubt"] == {("orders",): 1}
    assert found["oldest_in_doubt_seconds"] == {("orders",): 5}
    assert found["unreachable"] == {("orders",): 1, ("stock",): 1}


def test_a_sweep_tells_of_participants(tmp_path: Path) -> None:
    one, other = Shelf("one"), Shelf("other")
    one.strangers = [
        "theirs",
        "q.shop.01kbn5x0000000000000000000.1e8/other",
        "q.shop.01kbn5x0000000000000000000.1e8/third",
    ]
    with Coordinator(tmp_path / "decisions", [one, other], sweep_every=None, space="shop") as coordinator:
        with coordinator.transaction() as tx:
            tx.enlist(one)
            tx.enlist(other)
            other.vote = NO
            one.rollback = _unheard  # type: ignore[method-assign]  # it is out of reach just then
            with pytest.raises(Aborted):
                tx.commit()
        coordinator.sweep()
        found = scraped(coordinator.metrics)
    assert found["in_doubt"] == {("one",): 1, ("other",): 0}
    assert found["oldest_in_doubt_seconds"]["one",] >= 0
    # another participant's branch, on the same server, is no stranger's
    assert found["foreign"] == {("one",): 2, ("other",): 0}
    assert found["prepared_slots_used"] == {("one",): 1, ("other",): 0}
    assert found["prepared_slots_max"] == {("one",): 5, ("other",): 5}


def _unheard(branch: object) -> None:
    raise OSError("unreachable")


class Yielding(str):
    """A name that lets other threads go first whenever it is looked up, which is when a count could be lost."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(1e-5)
        return super().__hash__()


@pytest.mark.parametrize("what", ["phase", "heuristic", "ended"])
def test_threads_lose_no_counts(what: str) -> None:
    threads, times = 4, 100
    metrics = Metrics()
    start = threading.Barrier(threads)

    def count(worker: int) -> None:
        start.wait()
        for number in range(times):
            if what == "phase":
                metrics.phase("prepare", Yielding("orders"), 0.1)
            elif what == "heuristic":
                metrics.heuristic(f"{worker}.{number}", {Yielding("orders"): "rolled back"})
            else:
                metrics.ended(Yielding("committed"), 0.1)

    running = [threading.Thread(target=count, args=(worker,)) for worker in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    counted = {
        "phase": sum(sum(one.counts) for one in metrics.phase_seconds.values()),
        "heuristic": sum(metrics.heuristic_total.values()),
        "ended": metrics.ended_total["committed"],
    }
    assert counted == {**dict.fromkeys(counted, 0), what: threads * times}
