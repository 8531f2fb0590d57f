"""The end of one transaction: two-phase commit with the decision in a replicated log.

Gray and Lamport, "Consensus on Transaction Commit" (2006): with the decision agreed on by consensus, any process can learn it and finish the
transaction, so that nobody's death blocks the others. Databases cannot talk to acceptors themselves, so all votes go into one entry. Presumed abort
(Mohan, Lindsay and Obermarck, 1986): there is no record before the decision, and none of an abort by the one in charge, for only it ever writes
a COMMIT. Read-only branches drop out at their vote; a single branch commits in one phase.

Rules that recovery relies on:
- COMMIT is durable in the log before the first branch is told to commit.
- Whoever does not know whether its COMMIT was written tells no branch anything.
- The deadline is looked at before the decision, never after.
"""

from collections.abc import Sequence
from typing import Any

from quorate.transactions.errors import (
    Aborted,
    ConnectionBroken,
    HeuristicOutcome,
    InDoubt,
    NotYetApplied,
    UnknownBranch,
    VotedNo,
    tell,
)
from quorate.transactions.flow import Done, Failed, Flow, ask, now, side_by_side, sleep
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import TOO_LATE, DecisionLog
from quorate.transactions.participant import Branch, Outcome, Vote
from quorate.transactions.records import Decision, Record, amended

ROLLBACK_SECONDS = 5.0
"""For telling participants of an abort; who does not hear it is told by recovery."""
DECISION_SECONDS = 5.0
"""Past the deadline, for learning whether a decision was written."""
APPLY_SECONDS = 5.0
"""Past the deadline, for telling participants of a commit."""
TOLD_SECONDS = 60.0
"""Past the deadline, for as long as participants remember the outcome of a transaction that has no record (``MariaDBParticipant.tidy``)."""
_AGAIN_SECONDS = 0.02
_AGAIN_SECONDS_MAX = 0.5


class Part:
    """A branch, and who has it. ``given``: what its ``begin`` gave."""

    __slots__ = ("branch", "given", "participant")

    def __init__(self, branch: Branch, participant: Any, given: Any = None) -> None:
        self.given = given
        self.branch = branch
        self.participant = participant

    @property
    def name(self) -> str:
        return self.branch.participant


class Ended:
    """How a transaction ended. ``decided``: its record in the log, None if it needed none; ``applied``: all have followed."""

    __slots__ = ("applied", "decided", "parts")

    def __init__(self, decided: Record | None, parts: Sequence[Part], applied: bool) -> None:
        self.decided = decided
        self.parts = list(parts)
        self.applied = applied


def commit(
    gtid: Gtid, parts: Sequence[Part], log: DecisionLog, by: str, riding: Any = None, early: bool = False
) -> Flow[Ended]:
    """Commit. ``early``: return at the decision, the caller applies it. Raises Aborted, InDoubt, NotYetApplied, HeuristicOutcome."""
    if not parts and riding is None:
        return Ended(None, [], True)
    if riding is None and (yield from _is_alone(parts)):
        yield from _one_phase(gtid, parts[0])
        return Ended(None, parts, True)
    voted_yes = yield from prepare(gtid, parts, log, by)
    return (yield from commit_prepared(gtid, voted_yes, log, by, riding, early))


def commit_prepared(
    gtid: Gtid, voted_yes: Sequence[Part], log: DecisionLog, by: str, riding: Any = None, early: bool = False
) -> Flow[Ended]:
    """The second half of ``commit``, with what ``prepare`` gave. Raises as ``commit`` does."""
    if not voted_yes and riding is None:
        return Ended(None, [], True)
    time = yield from now()
    if time >= gtid.deadline:
        told = f"the time was up after {time - gtid.began:.3f} s, before it was decided"
        yield from give_up(gtid, voted_yes, log, by, told)
        raise Aborted(gtid.text, told)
    record = Record(gtid, Decision.COMMIT, [part.branch for part in voted_yes], time, by)
    try:
        stands = yield from decide(log, record, riding, gtid.deadline + DECISION_SECONDS)
    except VotedNo as error:
        yield from give_up(gtid, voted_yes, log, by, str(error))
        raise Aborted(gtid.text, str(error)) from error
    if stands.decision is Decision.ABORT:
        yield from give_up(gtid, voted_yes, log, by, stands.reason)
        raise Aborted(gtid.text, f"aborted by {stands.by}: {stands.reason}")
    if early:
        return Ended(stands, voted_yes, False)
    yield from apply(stands, voted_yes, log)
    return Ended(stands, voted_yes, True)


def _is_alone(parts: Sequence[Part]) -> Flow[bool]:
    """Whether there is a single one, that decides by itself."""
    if len(parts) != 1 or not hasattr(parts[0].participant, "commit_one_phase"):
        return False
    part = parts[0]
    if not hasattr(part.participant, "can_decide"):
        return True
    found: bool = yield from ask(f"{part.name}: can decide", part.participant, "can_decide", part.branch)
    return found


def _one_phase(gtid: Gtid, part: Part) -> Flow[None]:
    """The participant decides by itself."""
    branch, participant = part.branch, part.participant
    try:
        yield from ask(f"{part.name}: one phase", participant, "commit_one_phase", branch)
    except VotedNo as error:
        yield from abort([part])
        raise Aborted(gtid.text, f"{part.name}: {error}") from error
    except Exception as error:
        # the error may have come after the commit; what can be rolled back was not committed
        told = f"{part.name}: {str(error) or type(error).__name__}"
        outcome = Outcome.UNKNOWN
        if not isinstance(error, ConnectionBroken):
            (rolled_back,) = yield from side_by_side([finish_once(Decision.ABORT, part)], ROLLBACK_SECONDS)
            outcome = rolled_back.value if isinstance(rolled_back, Done) else Outcome.UNKNOWN
        if outcome is Outcome.UNKNOWN:
            outcome = yield from _outcome_of(part, gtid.deadline + DECISION_SECONDS)
            if outcome is Outcome.ABORTED and (yield from now()) > gtid.deadline + TOLD_SECONDS:
                # who slept so long may be told so because nobody remembers
                outcome = Outcome.UNKNOWN
        if outcome is Outcome.COMMITTED:
            return
        if outcome is Outcome.ABORTED:
            raise Aborted(gtid.text, told) from error
        raise InDoubt(gtid.text, f"{told}, and it cannot be asked what came of it") from error


def _outcome_of(part: Part, until: float) -> Flow[Outcome]:
    """Asked until it can be told."""
    pause = _AGAIN_SECONDS
    while True:
        try:
            found: Outcome = yield from ask(f"{part.name}: outcome", part.participant, "outcome", part.branch)
            if found in (Outcome.COMMITTED, Outcome.ABORTED):
                return found
        except Exception:
            found = Outcome.UNKNOWN
        if (yield from now()) + pause > until:
            return found
        yield from sleep(pause)
        pause = min(pause * 2, _AGAIN_SECONDS_MAX)


def prepare(gtid: Gtid, parts: Sequence[Part], log: DecisionLog, by: str) -> Flow[list[Part]]:
    """Those that voted yes; raises Aborted, after everything was rolled back, if one did not agree."""
    left = gtid.deadline - (yield from now())
    if left <= 0:
        yield from abort(parts)
        raise Aborted(gtid.text, "the time was up before it was prepared")
    votes = yield from side_by_side(
        [ask(f"{part.name}: prepare", part.participant, "prepare", part.branch) for part in parts], left
    )
    against: list[tuple[Part, Exception]] = []
    for part, vote in zip(parts, votes, strict=True):
        if isinstance(vote, Failed):
            against.append((part, vote.error))
        elif vote.value not in (Vote.YES, Vote.READ_ONLY):
            against.append((part, VotedNo("voted no")))
    if against:
        # who did not answer may have prepared
        told = "; ".join(f"{part.name}: {tell([error])}" for part, error in against)
        no = [part for part, error in against if isinstance(error, VotedNo)]
        for part, _ in against:
            # what it learnt may not have reached the disk: PostgreSQL gives such a number again after a crash, and it would tell another transaction's outcome
            part.branch.token = ""
        left_over = [part for part, vote in zip(parts, votes, strict=True) if not _dropped_out(vote)]
        yield from give_up(gtid, left_over, log, by, told, no)
        raise Aborted(gtid.text, told) from against[0][1]
    return [part for part, vote in zip(parts, votes, strict=True) if not _dropped_out(vote)]


def _dropped_out(vote: Done[Any] | Failed) -> bool:
    return isinstance(vote, Done) and vote.value is Vote.READ_ONLY


def decide(log: DecisionLog, record: Record, riding: Any, until: float) -> Flow[Record]:
    """The record that stands, asked for until it is known. Raises InDoubt; VotedNo if ``riding`` cannot be."""
    pause = _AGAIN_SECONDS
    asked = False
    while True:
        try:
            stands: Record = yield from ask("log: decide", log, "decide", record, riding)
        except VotedNo as error:
            if not asked:
                raise
            # what was asked before may still come to pass, unless it is decided otherwise
            record, riding = Record(record.gtid, Decision.ABORT, [], record.at, record.by, str(error)), None
        except Exception as error:
            asked = True
            if (yield from now()) + pause > until:
                raise InDoubt(
                    record.gtid.text, f"the decision log does not answer ({str(error) or type(error).__name__})"
                ) from error
        else:
            if asked and stands.reason == TOO_LATE:
                # what was asked before may have been written, carried out by recovery, and forgotten
                raise InDoubt(record.gtid.text, "it was decided, and the decision is forgotten already")
            return stands
        yield from sleep(pause)
        pause = min(pause * 2, _AGAIN_SECONDS_MAX)


def abort(parts: Sequence[Part]) -> Flow[list[Done[Any] | Failed]]:
    """Roll back what can be reached; recovery does the rest. What became of each."""
    return (yield from side_by_side([finish_once(Decision.ABORT, part) for part in parts], ROLLBACK_SECONDS))


def give_up(
    gtid: Gtid, parts: Sequence[Part], log: DecisionLog, by: str, reason: str, no: Sequence[Part] = ()
) -> Flow[None]:
    """Abort what may be prepared, but for those that voted ``no``. Presumed abort needs no record of it, but two things do: a branch that cannot be reached, which
    recovery then need not leave alone until its time is up, and one that somebody has committed. Raises HeuristicOutcome."""
    found = yield from abort(parts)
    others: dict[str, str] = {}
    left: list[Branch] = []
    for part, result in zip(parts, found, strict=True):
        if isinstance(result, Done) and result.value is Outcome.COMMITTED:
            others[part.name] = Outcome.COMMITTED.value
            left.append(part.branch)
        elif isinstance(result, Failed) and part not in no:
            left.append(part.branch)
    if not left:
        return
    record = Record(gtid, Decision.ABORT, left, (yield from now()), by, reason, heuristic=others)
    (written,) = yield from side_by_side([_noted(record, log)], ROLLBACK_SECONDS)
    if others:
        raise HeuristicOutcome(gtid.text, Decision.ABORT.value, others, isinstance(written, Done))


def _noted(record: Record, log: DecisionLog) -> Flow[None]:
    """Write an ABORT, and what is against it, whoever's ABORT stands by now."""
    stands: Record = yield from ask("log: note the abort", log, "decide", record)
    if stands is not record and stands.decision is Decision.ABORT and record.heuristic:
        yield from ask(
            "log: amend", log, "amend", [amended(stands, heuristic=record.heuristic, branches=record.branches)]
        )


def apply(record: Record, parts: Sequence[Part], log: DecisionLog) -> Flow[None]:
    """Tell every branch to commit until it has. Raises NotYetApplied; HeuristicOutcome, which is written to ``log``."""
    gtid = record.gtid
    until = max(gtid.deadline, (yield from now())) + APPLY_SECONDS
    found = yield from side_by_side([finish(record.decision, part, until) for part in parts])
    waiting: dict[str, str] = {}
    others: dict[str, str] = {}
    for part, result in zip(parts, found, strict=True):
        if isinstance(result, Failed):
            waiting[part.name] = str(result.error) or type(result.error).__name__
        elif result.value is not Outcome.COMMITTED:
            others[part.name] = result.value.value
    if others:
        try:
            others = yield from against(record, others, log)
        except Exception as error:
            waiting |= {
                name: f"{what}, or finished so long ago that it is forgotten ({error})" for name, what in others.items()
            }
            others = {}
    if others:
        change = amended(record, heuristic=others)
        (noted,) = yield from side_by_side([ask("log: amend", log, "amend", [change])], ROLLBACK_SECONDS)
        raise HeuristicOutcome(gtid.text, record.decision.value, others, isinstance(noted, Done))
    if waiting:
        raise NotYetApplied(gtid.text, waiting)


def against(record: Record, others: dict[str, str], log: DecisionLog) -> Flow[dict[str, str]]:
    """Those of ``others`` that are against the decision. A participant that is asked when all is over, and tidied away, does not know what it did: whoever
    slept has to look whether somebody else has finished the transaction meanwhile."""
    if record.decision is Decision.ABORT:
        return others
    stands: Record | None = yield from ask("log: read again", log, "read", record.gtid)
    if stands is None:
        return others
    if stands.reason == TOO_LATE:
        return {}
    return {name: what for name, what in others.items() if not stands.done or name in stands.heuristic}


def finish(decision: Decision, part: Part, until: float) -> Flow[Outcome]:
    """Carry the decision out at one branch, again and again until ``until``. What became of it; raises the last error."""
    pause = _AGAIN_SECONDS
    while True:
        try:
            return (yield from finish_once(decision, part))
        except Exception:
            if (yield from now()) + pause > until:
                raise
        yield from sleep(pause)
        pause = min(pause * 2, _AGAIN_SECONDS_MAX)


def finish_once(decision: Decision, part: Part) -> Flow[Outcome]:
    """What became of the branch; raises if that is not known."""
    committing = decision is Decision.COMMIT
    verb = "commit" if committing else "rollback"
    try:
        yield from ask(f"{part.name}: {verb}", part.participant, verb, part.branch)
    except UnknownBranch:
        # it may have been ended before, by us or by somebody else, or not be let go yet: only its outcome tells
        outcome: Outcome = yield from ask(f"{part.name}: outcome", part.participant, "outcome", part.branch)
        if outcome in (Outcome.PREPARED, Outcome.UNKNOWN):
            raise
        return outcome
    return Outcome.COMMITTED if committing else Outcome.ABORTED
