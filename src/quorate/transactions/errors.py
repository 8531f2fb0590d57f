"""What a transaction may raise, besides UsageError for what cannot be done as asked."""

from collections.abc import Mapping, Sequence

from quorate.errors import QuorateError, UsageError


class TransactionError(QuorateError):
    """Base. ``gtid``: the transaction's name, for ``quorate txn show``."""

    def __init__(self, gtid: str, message: str) -> None:
        super().__init__(f"transaction {gtid}: {message}")
        self.gtid = gtid


class Aborted(TransactionError):
    """It is committed nowhere, and never will be. ``__cause__`` is the participant's error, if it was one's."""


class InDoubt(TransactionError):
    """Whether it is committed is not known here. It is decided once, and every participant will follow."""


class NotYetApplied(InDoubt):
    """It is committed for good, and some participants have not heard of it yet; recovery tells them when they can be reached."""

    def __init__(self, gtid: str, waiting: Mapping[str, str]) -> None:
        self.waiting = dict(waiting)
        told = "; ".join(f"{name}: {why}" for name, why in sorted(waiting.items()))
        super().__init__(gtid, f"committed, but not applied yet everywhere ({told})")


class HeuristicOutcome(TransactionError):
    """A participant was made to end its part otherwise than decided, by somebody else. Data has to be mended by hand. ``recorded``: the decision log
    keeps it, for ``quorate txn list``."""

    def __init__(self, gtid: str, decision: str, others: Mapping[str, str], recorded: bool = True) -> None:
        self.decision = decision
        self.others = dict(others)
        self.recorded = recorded
        told = "; ".join(f"{name} {what}" for name, what in sorted(others.items()))
        lost = "" if recorded else " (and the decision log could not be told)"
        super().__init__(gtid, f"decided to {decision}, but {told}{lost}")


class ConfigurationError(UsageError):
    """A participant cannot take part as it is set up."""


class ParticipantError(QuorateError):
    """What a participant says; ``code``: SQLSTATE or the server's number, "" if there is none."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class VotedNo(ParticipantError):
    """The participant will not commit: nothing of its part is kept."""


class UnknownBranch(ParticipantError):
    """The participant has no such prepared branch. That does not say what became of it."""


class ConnectionBroken(ParticipantError):
    """What was asked last may have been done or not."""


class TimeUp(ParticipantError):
    """There was no answer in time; it may come to pass yet."""


def tell(errors: Sequence[BaseException]) -> str:
    return "; ".join(str(error) or type(error).__name__ for error in errors)
