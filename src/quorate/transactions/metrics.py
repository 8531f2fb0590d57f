"""What a coordinator counts and measures; a collector of prometheus_client's (``REGISTRY.register(coordinator.metrics)``), which is imported only when
somebody scrapes. Any thread may count.

What is told of participants (in doubt, foreign, unreachable, their own gauges) is as of the last sweep that *this* coordinator made: of several that
share a decision log only one sweeps at a time, so the current numbers are those of the one that swept last, or of ``quorate txn serve``, which always does.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from quorate.transactions.recovery import Report

if TYPE_CHECKING:
    from prometheus_client import Metric

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the histograms' buckets, in seconds: from one flush of a fast disk to a lock timeout."""
HEURISTICS_MAX = 1000
OUTCOMES = ("committed", "aborted", "in doubt", "not yet applied", "heuristic")
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """``counts``: of each bucket alone, the last one for what is above all bounds. Guarded by the metrics' lock."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Metrics:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since 1970."""
        self._lock = threading.Lock()
        self._clock = clock
        self.begun_total = 0
        self.ended_total = dict.fromkeys(OUTCOMES, 0)
        self.commit_seconds = Histogram()
        self.phase_seconds: dict[tuple[str, str], Histogram] = {}
        """By phase and participant, which is "" where the decision log is asked."""
        self.heuristic_total: dict[tuple[str, str], int] = {}
        """By participant and what became of its branch."""
        self._heuristics: dict[tuple[str, str, str], None] = {}
        """Those counted that a sweep may still tell of: transaction, participant, outcome."""
        self.sweeps_total = {"made": 0, "failed": 0}
        self.last_sweep = 0.0
        """Seconds since 1970, 0 if there was none."""
        self.recovered_total: dict[tuple[str, str], int] = {}
        """By participant and how."""
        self.report: Report | None = None
        """Of the last sweep."""
        self.measured: dict[str, Mapping[str, float]] = {}
        """What participants told of themselves then."""
        self._participants: list[str] = []

    # ---- counting

    def begun(self) -> None:
        with self._lock:
            self.begun_total += 1

    def ended(self, outcome: str, seconds: float | None = None) -> None:
        """``outcome``: one of OUTCOMES; ``seconds``: how long the commit took, if one was asked for."""
        with self._lock:
            self.ended_total[outcome] += 1
            if seconds is not None:
                self.commit_seconds.observe(seconds)

    def heuristic(self, gtid: str, others: Mapping[str, str]) -> None:
        """``others``: what became of branches that somebody ended otherwise than decided, by participant."""
        with self._lock:
            for participant, what in others.items():
                self._heuristic((gtid, participant, what))

    def _heuristic(self, found: tuple[str, str, str]) -> None:
        """Each is counted once, however often it is met."""
        if found not in self._heuristics:
            self._heuristics[found] = None
            self.heuristic_total[found[1:]] = self.heuristic_total.get(found[1:], 0) + 1

    def phase(self, phase: str, participant: str, seconds: float) -> None:
        with self._lock:
            histogram = self.phase_seconds.get((phase, participant))
            if histogram is None:
                histogram = self.phase_seconds[phase, participant] = Histogram()
            histogram.observe(seconds)

    def swept(self, report: Report, participants: Iterable[str], measured: Mapping[str, Mapping[str, float]]) -> None:
        with self._lock:
            self.sweeps_total["made"] += 1
            self.last_sweep = self._clock()
            self._participants = list(participants)
            self.measured = dict(measured)
            for how, ended in (("committed", report.committed), ("rolled back", report.aborted)):
                for _, participant in ended:
                    key = (participant, how)
                    self.recovered_total[key] = self.recovered_total.get(key, 0) + 1
            self.report = report
            # what an earlier sweep told of is told of again until somebody has seen to it
            told = dict.fromkeys([*report.heuristic, *report.unresolved])
            for found in told:
                self._heuristic(found)
            if len(self._heuristics) > HEURISTICS_MAX:
                self._heuristics = {found: None for found in self._heuristics if found in told}

    def sweep_failed(self) -> None:
        with self._lock:
            self.sweeps_total["failed"] += 1

    # ---- for Prometheus

    def exposition(self) -> bytes:
        """In Prometheus' text format, with the process's own."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        return generate_latest(registry)

    def collect(self) -> "Iterator[Metric]":
        with self._lock:
            families = [*self._of_transactions(), *self._of_recovery()]
        yield from families

    def _of_transactions(self) -> "Iterator[Metric]":
        yield _family("begun", "Transactions begun", "counter", [((), self.begun_total)])
        yield _family("ended", "Transactions ended, by what their program was told", "counter", _by(self.ended_total, "outcome"))  # fmt: skip
        yield _histogram(
            "commit_seconds", "Time that commits took, as their callers waited", [((), self.commit_seconds)]
        )
        yield _histogram(
            "phase_seconds",
            "Time that a participant took for a phase; the decision has none",
            [((("phase", phase), ("participant", of)), found) for (phase, of), found in self.phase_seconds.items()],
        )
        yield _family(
            "heuristic",
            "Branches found that somebody ended otherwise than decided",
            "counter",
            [((("participant", of), ("outcome", what)), count) for (of, what), count in self.heuristic_total.items()],
        )

    def _of_recovery(self) -> "Iterator[Metric]":
        yield _family("sweeps", "Rounds of recovery", "counter", _by(self.sweeps_total, "result"))
        yield _family("last_sweep_timestamp_seconds", "When the last one was made", "gauge", [((), self.last_sweep)])
        yield _family(
            "recovered",
            "Branches that recovery ended",
            "counter",
            [((("participant", of), ("how", how)), count) for (of, how), count in self.recovered_total.items()],
        )
        report = self.report
        if report is None:
            return
        names = self._participants
        oldest = dict.fromkeys(names, 0.0)
        for _, name, age in report.in_doubt:
            oldest[name] = max(age, oldest.get(name, 0.0))
        unreachable = {name: float(name in report.unreachable) for name in names}
        # nobody knows what is at one that could not be asked: no number is better than an old one, or 0; one that lists a branch and would not end it was asked
        listing = {name for _, name, _ in report.in_doubt}
        asked = [name for name in names if name not in report.unreachable or name in listing]
        gauges = (
            ("in_doubt", "Branches prepared and not ended", _count(asked, [name for _, name, _ in report.in_doubt])),
            ("oldest_in_doubt_seconds", "Age of the oldest of them", {name: oldest[name] for name in asked}),
            ("foreign", "Prepared branches that are not ours", _count(asked, [name for name, _ in report.foreign])),
            ("unreachable", "1 if it could not be asked", unreachable),
            ("unknown", "Branches that are committed, and it cannot be told whether there", _count(asked, [name for _, name in report.unknown])),
            ("unresolved", "Heuristic outcomes on record that no operator has acknowledged", _count(names, [name for _, name, _ in report.unresolved])),
        )  # fmt: skip
        for name, text, values in gauges:
            yield _family(name, f"{text}, at the last sweep", "gauge", _by(values, "participant"))
        for gauge in sorted({gauge for told in self.measured.values() for gauge in told}):
            values = {name: told[gauge] for name, told in self.measured.items() if gauge in told}
            yield _family(gauge, _TEXTS.get(gauge, gauge), "gauge", _by(values, "participant"))


_TEXTS = {
    "prepared_slots_used": "Prepared transactions of the whole server",
    "prepared_slots_max": "How many there may be (max_prepared_transactions)",
    "oldest_prepared_age_transactions": "How many transactions ago the oldest of the server was prepared; vacuum waits for it",
    "prepared_branches": "Prepared branches of the whole server",
    "lost_branches": "Branches that the server keeps locked and does not list, until it restarts",
}


def _count(names: Iterable[str], found: Iterable[str]) -> dict[str, float]:
    counts = dict.fromkeys(names, 0.0)
    for name in found:
        counts[name] = counts.get(name, 0.0) + 1
    return counts


def _by(values: Mapping[str, float], label: str) -> list[tuple[Labels, float]]:
    return [(((label, of),), value) for of, value in values.items()]


def _family(name: str, text: str, kind: str, samples: Iterable[tuple[Labels, float]]) -> "Metric":
    from prometheus_client import Metric

    full = f"quorate_transactions_{name}"
    family = Metric(full, text, kind)
    for labels, value in samples:
        family.add_sample(f"{full}_total" if kind == "counter" else full, dict(labels), float(value))
    return family


def _histogram(name: str, text: str, found: Iterable[tuple[Labels, Histogram]]) -> "Metric":
    from prometheus_client import Metric

    full = f"quorate_transactions_{name}"
    family = Metric(full, text, "histogram")
    for labels, histogram in found:
        below = 0
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], histogram.counts, strict=True):
            below += count
            family.add_sample(f"{full}_bucket", {**dict(labels), "le": bound}, float(below))
        family.add_sample(f"{full}_sum", dict(labels), histogram.sum)
        family.add_sample(f"{full}_count", dict(labels), float(below))
    return family
