"""What a client of the store may raise besides UsageError."""

from collections.abc import Sequence

from quorate.errors import QuorateError
from quorate.kv.results import Conflicting, Locker


class KvError(QuorateError):
    """Base of the errors of a client."""


class Conflict(KvError):
    """Nothing was written, for some conditions did not hold; ``conflicts`` says which, and the keys' present versions."""

    __optimistic_conflict__ = True
    """Known to ``quorate.optimistic`` without an import of this module."""

    def __init__(self, conflicts: Sequence[Conflicting]) -> None:
        self.conflicts = list(conflicts)
        shown = ", ".join(
            f"{found.key.decode('utf-8', 'backslashreplace')} is at version {found.version}"
            if found.version
            else f"{found.key.decode('utf-8', 'backslashreplace')} does not exist"
            for found in self.conflicts[:5]
        )
        more = f" and {len(self.conflicts) - 5} more" if len(self.conflicts) > 5 else ""
        super().__init__(f"conflict: {shown}{more}")


class DeadlineExceeded(KvError):
    """The time was up. ``maybe_done``: the write may have been done, or may still be."""

    def __init__(self, what: str, seconds: float, maybe_done: bool, reason: str = "") -> None:
        self.maybe_done = maybe_done
        outcome = "; it may be done or not" if maybe_done else ""
        why = f" ({reason})" if reason else ""
        super().__init__(f"{what}: not answered within {seconds:g} s{why}{outcome}")


class Locked(DeadlineExceeded):
    """The time was up, and keys were still locked by transactions that are not decided, or of which that could not be learned; nothing was done."""

    def __init__(self, what: str, seconds: float, lockers: Sequence[Locker]) -> None:
        self.transactions = list(dict.fromkeys(locker.transaction for locker in lockers))
        shown = ", ".join(self.transactions[:3]) + (", …" if len(self.transactions) > 3 else "")
        elsewhere = "" if all(locker.decision for locker in lockers) else ", whose decision lies elsewhere"
        super().__init__(what, seconds, False, f"keys are locked by transaction {shown}{elsewhere}")


class OutcomeUnknown(KvError):
    """The write was sent, and cannot be asked about any more: the session that named it is gone."""


class LeaseExpired(KvError):
    """The lease is gone, and its keys with it."""


class Compacted(KvError):
    """The past up to ``revision`` is not kept any more."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"revisions before {revision} are compacted")


class Refused(KvError):
    """The store says why."""
