"""What an operator does about one transaction: look at it, have its decision carried out, abort it while it is undecided, or acknowledge that
somebody ended a branch otherwise and the data was mended by hand.

An operator may abort whatever is undecided, at any time, by the same compare-and-set by which coordinators decide: whoever comes later loses. Nobody can
commit by hand what is undecided: which participants take part is written down with the decision alone, and one that has not prepared would lose
its part. A decision that stands is never changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.transactions.commit import DECISION_SECONDS, Part, decide, finish_once
from quorate.transactions.flow import Failed, Flow, ask, now, side_by_side
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.log import TOO_LATE, DecisionLog
from quorate.transactions.participant import Blocking, Branch, Listed, Outcome, Prepared
from quorate.transactions.records import Decision, Record, Resolution
from quorate.transactions.recovery import ASK_SECONDS, ROUNDS

NOT_CONFIGURED = "there is no such participant in the configuration"


class Found:
    """A branch, as its participant tells now. ``prepared``: as it is listed, None if it is not; ``error``: why the participant, or ``blocking_error``:
    why its locks, could not be asked."""

    __slots__ = ("blocking", "blocking_error", "branch", "error", "outcome", "participant", "prepared")

    def __init__(self, participant: str, branch: Branch | None) -> None:
        self.participant = participant
        self.branch = branch
        self.prepared: Prepared | None = None
        self.outcome: Outcome | None = None
        self.error = ""
        self.blocking: Blocking | None = None
        self.blocking_error = ""


class Examined:
    """``record``: the decision, None if there is none; ``forgotten``: it was decided so long ago that the record is gone. ``branches``: those of the record, and
    those that are prepared. ``unreachable``: participants of which it is not known whether they have one."""

    __slots__ = ("branches", "forgotten", "gtid", "record", "time", "unreachable")

    def __init__(self, gtid: Gtid, record: Record | None, time: float) -> None:
        self.gtid = gtid
        self.forgotten = record is not None and record.reason == TOO_LATE
        self.record = record
        self.time = time
        self.branches: list[Found] = []
        self.unreachable: dict[str, str] = {}

    def prepared(self) -> list[Found]:
        return [found for found in self.branches if found.prepared is not None]

    @property
    def nothing(self) -> bool:
        """Nobody who could be asked knows of it."""
        return (self.record is None or self.forgotten) and not self.branches


class Carried:
    """What came of carrying a decision out. ``ended``: participant → Outcome; ``waiting``: participant → why it has not followed."""

    __slots__ = ("ended", "record", "waiting")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.ended: dict[str, Outcome] = {}
        self.waiting: dict[str, str] = {}

    def against(self) -> dict[str, str]:
        """Branches that were ended otherwise."""
        expected = Outcome.COMMITTED if self.record.decision is Decision.COMMIT else Outcome.ABORTED
        return {name: outcome.value for name, outcome in self.ended.items() if outcome is not expected}


class Operator:
    """``by``: who is at work, for the record."""

    def __init__(self, participants: Mapping[str, Any], log: DecisionLog, space: str, by: str) -> None:
        self.participants = participants
        self.log = log
        self.space = space
        self.by = by

    def gtid(self, text: str) -> Gtid:
        """Raises UsageError for what is not ours to touch."""
        found = parse(text)
        if found is None:
            raise UsageError(
                f"{text!r} is no name of a transaction of ours; branches of others are never touched: whoever prepared it has to end it"
            )
        if found.space != self.space:
            raise UsageError(
                f"{text} is of the space {found.space!r}, and the configuration of {self.space!r}: only its own coordinators may end it"
            )
        return found

    # ---- looking

    def examine(self, gtid: Gtid, locks: bool = False) -> Flow[Examined]:
        """``locks``: ask what it keeps from others, too. Raises QuorateError if the log cannot be had."""
        record: Record | None = yield from ask("log: read", self.log, "read", gtid)
        examined = Examined(gtid, record, (yield from now()))
        kept = {} if record is None else {branch.participant: branch for branch in record.branches}
        names = [*self.participants, *[name for name in kept if name not in self.participants]]
        looks = yield from side_by_side([self._look(name, gtid, kept.get(name), locks) for name in names], ASK_SECONDS)
        for name, look in zip(names, looks, strict=True):
            if not isinstance(look, Failed):
                if look.value is not None:
                    examined.branches.append(look.value)
                continue
            why = str(look.error) or type(look.error).__name__
            if name in kept:
                found = Found(name, kept[name])
                found.error = why
                examined.branches.append(found)
            else:
                examined.unreachable[name] = why
        return examined

    def _look(self, name: str, gtid: Gtid, kept: Branch | None, locks: bool) -> Flow[Found | None]:
        found = Found(name, kept)
        participant = self.participants.get(name)
        if participant is None:
            found.error = NOT_CONFIGURED
            return found
        listed: Listed = yield from ask(f"{name}: recover", participant, "recover")
        for prepared in listed:
            if prepared.branch is not None and prepared.branch.gtid == gtid:
                found.prepared = prepared
                found.branch = kept or prepared.branch
                found.outcome = Outcome.PREPARED
        if found.branch is None:
            return None
        if found.prepared is None:
            found.outcome = yield from ask(f"{name}: outcome", participant, "outcome", found.branch)
        elif locks and hasattr(participant, "blocking"):
            try:
                found.blocking = yield from ask(f"{name}: blocking", participant, "blocking", found.branch)
            except QuorateError as error:
                found.blocking_error = str(error)
        return found

    # ---- deciding

    def abort(self, gtid: Gtid, reason: str) -> Flow[Carried]:
        """Decide to abort it if it is undecided, and carry that out. Raises UsageError if it is committed, or nobody knows of it."""
        examined = yield from self.examine(gtid)
        record = examined.record
        if record is None:
            self._check_known(examined)
            if not reason:
                raise UsageError(
                    f"transaction {gtid} is undecided: an abort by hand needs a --reason, which is kept with it"
                )
            time = yield from now()
            found = [one.branch for one in examined.prepared() if one.branch is not None]
            record = yield from decide(
                self.log, Record(gtid, Decision.ABORT, found, time, self.by, reason), None, time + DECISION_SECONDS
            )
        if record.decision is not Decision.ABORT:
            raise UsageError(f"transaction {gtid} is decided: it was committed by {record.by}, which nobody can change")
        return (yield from self._carry_out(record))

    def commit(self, gtid: Gtid) -> Flow[Carried]:
        """Carry a COMMIT out. Raises UsageError if that is not what is decided."""
        examined = yield from self.examine(gtid)
        record = examined.record
        if record is None:
            self._check_known(examined)
            raise UsageError(
                f"transaction {gtid} is undecided, and cannot be committed by hand: who takes part is not known before the decision, and a participant "
                "that has not prepared would lose its part; abort it, or wait for its coordinator"
            )
        if examined.forgotten:
            self._check_known(examined)
        if record.decision is not Decision.COMMIT:
            raise UsageError(
                f"transaction {gtid} is decided: it was aborted by {record.by} ({record.reason}), which nobody can change"
            )
        return (yield from self._carry_out(record))

    def _check_known(self, examined: Examined) -> None:
        if examined.nothing and not examined.unreachable:
            raise UsageError(
                f"nobody knows of transaction {examined.gtid}: it never was, or it is finished and its record is forgotten"
            )

    # ---- carrying out

    def _carry_out(self, record: Record) -> Flow[Carried]:
        carried = Carried(record)
        names = [
            *self.participants,
            *[b.participant for b in record.branches if b.participant not in self.participants],
        ]
        results = yield from side_by_side([self._end(name, record) for name in names], ASK_SECONDS)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Failed):
                carried.waiting[name] = str(result.error) or type(result.error).__name__
            elif result.value is not None:
                carried.ended[name] = result.value
        against = carried.against()
        followed = not against and not carried.waiting
        if record.reason == TOO_LATE or (followed and record.done) or not (followed or against):
            return carried
        # as a coordinator and recovery write it down, so that nobody has to ask again
        record.done = record.done or followed
        record.heuristic.update(against)
        yield from ask("log: amend", self.log, "amend", [record])
        return carried

    def _end(self, name: str, record: Record) -> Flow[Outcome | None]:
        """What became of the branch, None if there is none. As recovery does it: a slow prepare may land after the first list."""
        participant, kept = self.participants.get(name), record.branch(name)
        if participant is None:
            raise QuorateError(NOT_CONFIGURED)
        outcome: Outcome | None = None
        for _ in range(ROUNDS):
            listed: Listed = yield from ask(f"{name}: recover", participant, "recover")
            mine = [one.branch for one in listed if one.branch is not None and one.branch.gtid == record.gtid]
            if not mine:
                break
            branch = kept or mine[0]
            if kept is None and record.decision is Decision.COMMIT:
                raise QuorateError("it is prepared there, though the decision does not name it")
            yield from ask(f"{name}: fence", participant, "fence", branch)
            outcome = yield from finish_once(record.decision, Part(branch, participant))
        if outcome is None and kept is not None:
            outcome = yield from ask(f"{name}: outcome", participant, "outcome", kept)
            if outcome not in (Outcome.COMMITTED, Outcome.ABORTED):
                if record.decision is Decision.ABORT:
                    # nothing is prepared, and not every participant remembers a rollback
                    return None
                raise QuorateError("what became of it cannot be told")
        return outcome

    # ---- heuristic outcomes

    def acknowledge(self, gtid: Gtid, reason: str) -> Flow[Record]:
        """Close the record of a transaction that was ended otherwise somewhere. Raises UsageError if there is nothing to acknowledge."""
        if not reason:
            raise UsageError("an acknowledgement needs a --reason, which is kept with the decision")
        examined = yield from self.examine(gtid)
        record = examined.record
        if record is None or examined.forgotten:
            self._check_known(examined)
            raise UsageError(f"transaction {gtid} has no decision on record, so nothing was ended against it")
        if record.resolved is not None:
            raise UsageError(
                f"transaction {gtid} was acknowledged by {record.resolved.by} already: {record.resolved.reason}"
            )
        expected = Outcome.COMMITTED if record.decision is Decision.COMMIT else Outcome.ABORTED
        self._check_ended(examined.branches, examined.unreachable)
        for found in examined.branches:
            if found.error:
                record.heuristic.setdefault(found.participant, Outcome.UNKNOWN.value)
            elif found.outcome is not None and found.outcome is not expected:
                if found.outcome is Outcome.UNKNOWN and expected is Outcome.ABORTED:
                    continue
                record.heuristic.setdefault(found.participant, found.outcome.value)
        if not record.heuristic:
            raise UsageError(
                f"every branch of transaction {gtid} followed its decision: there is nothing to acknowledge"
            )
        record.resolved = Resolution(self.by, examined.time, reason)
        record.done = True
        yield from ask("log: amend", self.log, "amend", [record])
        return record

    def _check_ended(self, branches: Sequence[Found], unreachable: Mapping[str, str]) -> None:
        """Raises if one may still be ended as decided."""
        for found in branches:
            if found.prepared is not None:
                raise UsageError(f"it is still prepared at {found.participant}: have its decision carried out first")
            if found.error and found.error != NOT_CONFIGURED:
                raise QuorateError(f"{found.participant} cannot be asked what became of its branch: {found.error}")
            participant = self.participants.get(found.participant)
            if found.outcome is Outcome.UNKNOWN and getattr(participant, "unknown_for_now", False):
                raise QuorateError(
                    f"{found.participant} cannot tell yet what became of its branch: a connection still has it, or the server has to be restarted"
                )
        for name, why in unreachable.items():
            raise QuorateError(f"{name} cannot be asked whether it has a branch: {why}")
