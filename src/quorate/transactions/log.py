"""The decision log: one record per transaction, written once by compare-and-set. Whoever finds a transaction can finish it from here.

Records are forgotten in the end, and a forgotten decision must not be taken a second time by somebody who slept. So the log has a *horizon*: nothing is
decided any more for transactions whose deadline is before it. It is raised first, then the records before it are deleted. What has no record and lies
before the horizon is aborted (presumed abort), for a COMMIT is forgotten only after every branch is known to have followed.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from quorate.transactions.gtid import Gtid
from quorate.transactions.records import Decision, Record

TOO_LATE = "its time was up long ago, and its record is forgotten"


class DecisionLog(Protocol):
    """Each method may be plain, a coroutine function or a flow, as a participant's. All raise QuorateError if the log cannot be had, or cannot be had now."""

    def decide(self, record: Record, riding: Any = None) -> Any:
        """The Record that stands for ``record.gtid``: this one if there was none. Durable when it returns; asked again, it answers the same.

        ``riding``: writes to the log's own store that are done with a COMMIT or not at all; raises VotedNo if their conditions do not hold.
        """

    def read(self, gtid: Gtid) -> Any:
        """The Record, or None."""

    def records(self) -> Any:
        """A sequence of all Records. What lies among them and is none is passed over, and told in ``unreadable``, if the log has that: a list of what and why."""

    def amend(self, records: Sequence[Record]) -> Any:
        """Add ``done``, ``heuristic`` and ``branches`` to the records that stand (``records.amended``); what somebody else has added stays, and what is forgotten
        stays so. Need not be durable on return."""

    def forget(self, gtids: Sequence[Gtid], horizon: float) -> Any:
        """Raise the horizon (seconds since 1970), then delete."""

    def claim_sweep(self, by: str, now: float, every: float) -> Any:
        """Whether ``by`` is to sweep now: nobody has in the last ``every`` seconds."""

    def close(self) -> Any: ...


def presumed_abort(gtid: Gtid, now: float, by: str) -> Record:
    return Record(gtid, Decision.ABORT, [], now, by, TOO_LATE)
