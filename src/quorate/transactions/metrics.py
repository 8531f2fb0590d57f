"""What a coordinator counts; a collector of prometheus_client's (``REGISTRY.register(coordinator.metrics)``)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quorate.transactions.recovery import Report

if TYPE_CHECKING:
    from prometheus_client import Metric


class Metrics:
    """``in_doubt_branches`` and the oldest's age by participant are as of the last sweep of this process."""

    def __init__(self) -> None:
        self.begun_total = 0
        self.committed_total = 0
        self.aborted_total = 0
        self.in_doubt_total = 0
        self.heuristic_total = 0
        self.commit_seconds = 0.0
        self.sweeps_total = 0
        self.recovered_total: dict[str, int] = {"committed": 0, "rolled back": 0}
        self.in_doubt_branches: dict[str, int] = {}
        self.oldest_in_doubt_seconds: dict[str, float] = {}
        self.unreachable: dict[str, bool] = {}
        self.foreign_branches: dict[str, int] = {}

    def begun(self) -> None:
        self.begun_total += 1

    def committed(self, seconds: float) -> None:
        self.committed_total += 1
        self.commit_seconds += seconds

    def aborted(self) -> None:
        self.aborted_total += 1

    def in_doubt(self) -> None:
        self.in_doubt_total += 1

    def heuristic(self) -> None:
        self.heuristic_total += 1

    def swept(self, report: Report) -> None:
        self.sweeps_total += 1
        self.recovered_total["committed"] += len(report.committed)
        self.recovered_total["rolled back"] += len(report.aborted)
        self.heuristic_total += report.heuristic_new
        self.in_doubt_branches = {}
        self.oldest_in_doubt_seconds = {}
        for _, participant, age in report.in_doubt:
            self.in_doubt_branches[participant] = self.in_doubt_branches.get(participant, 0) + 1
            self.oldest_in_doubt_seconds[participant] = max(age, self.oldest_in_doubt_seconds.get(participant, 0.0))
        self.foreign_branches = {}
        for participant, _ in report.foreign:
            self.foreign_branches[participant] = self.foreign_branches.get(participant, 0) + 1
        self.unreachable = dict.fromkeys(report.unreachable, True)

    def collect(self) -> "Iterator[Metric]":
        yield _family("begun", "Transactions begun", "counter", {"": self.begun_total})
        yield _family("committed", "Transactions committed", "counter", {"": self.committed_total})
        yield _family("aborted", "Transactions aborted", "counter", {"": self.aborted_total})
        yield _family("left_in_doubt", "Transactions whose end their program did not learn", "counter", {"": self.in_doubt_total})  # fmt: skip
        yield _family("heuristic", "Branches ended otherwise than decided", "counter", {"": self.heuristic_total})
        yield _family("commit_seconds", "Time that commits took", "counter", {"": self.commit_seconds})
        yield _family("sweeps", "Rounds of recovery", "counter", {"": self.sweeps_total})
        yield _family("recovered", "Branches that recovery ended", "counter", self.recovered_total, "how")
        yield _family("in_doubt", "Branches prepared and not ended, at the last sweep", "gauge", self.in_doubt_branches, "participant")  # fmt: skip
        yield _family("oldest_in_doubt_seconds", "Age of the oldest of them", "gauge", self.oldest_in_doubt_seconds, "participant")  # fmt: skip
        yield _family("foreign", "Prepared branches that are not ours", "gauge", self.foreign_branches, "participant")
        yield _family("unreachable", "1 if the last sweep could not reach it", "gauge", dict.fromkeys(self.unreachable, 1), "participant")  # fmt: skip


def _family(name: str, text: str, kind: str, values: dict[str, int] | dict[str, float], label: str = "") -> "Metric":
    from prometheus_client import Metric

    full = f"quorate_transactions_{name}"
    family = Metric(full, text, kind)
    for of, value in values.items():
        family.add_sample(f"{full}_total" if kind == "counter" else full, {label: of} if label else {}, float(value))
    return family
