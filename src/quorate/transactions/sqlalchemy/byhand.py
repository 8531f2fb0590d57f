"""``recover_twophase``, ``commit_prepared`` and ``rollback_prepared`` of SQLAlchemy's connections: somebody ends by hand what he finds prepared.

Recovery does that by itself, so these are for those who have been doing it with SQLAlchemy. What is said by hand is a decision as any other: it is written to the
decision log first, if there is none yet, for all branches of the transaction that are prepared anywhere, and all of them follow. If it was decided
otherwise before, that stands.
"""

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from sqlalchemy.util import await_only

from quorate.errors import UsageError
from quorate.transactions.commit import APPLY_SECONDS, DECISION_SECONDS, Part, decide, finish
from quorate.transactions.engine import Engine
from quorate.transactions.errors import HeuristicOutcome, NotYetApplied
from quorate.transactions.flow import Failed, Flow, ask, now, side_by_side
from quorate.transactions.gtid import Gtid
from quorate.transactions.participant import Branch, Outcome, Prepared
from quorate.transactions.records import Decision, Record

REASON = "decided by hand, through SQLAlchemy"


def _wait(found: Any) -> Any:
    return await_only(found) if isawaitable(found) else found


def prepared(coordinator: Any, participant: Any) -> list[str]:
    """The xids of the participant's branches in the coordinator's space."""
    listed: Sequence[Prepared] = _wait(
        coordinator.shell.run(ask(f"{participant.name}: recover", participant, "recover"))
    )
    space = coordinator.engine.space
    return [one.name for one in listed if one.branch is not None and one.branch.gtid.space == space]


def resolve(coordinator: Any, gtid: Gtid, decision: Decision) -> None:
    """Raises UsageError if it is decided otherwise or nothing is prepared; NotYetApplied, HeuristicOutcome; InDoubt; ParticipantError if a participant
    cannot be asked what is prepared there."""
    record = _wait(coordinator.shell.run(_resolve(coordinator.engine, gtid, decision)))
    coordinator.followed(record)


def _resolve(engine: Engine, gtid: Gtid, decision: Decision) -> Flow[Record]:
    record: Record | None = yield from ask("by hand: read", engine.log, "read", gtid)
    if record is None:
        branches = yield from _branches(engine, gtid)
        if not branches:
            raise UsageError(f"nothing of transaction {gtid.text} is prepared")
        time = yield from now()
        record = Record(gtid, decision, branches, time, engine.by, REASON)
        record = yield from decide(engine.log, record, None, time + DECISION_SECONDS)
    if record.decision is not decision:
        raise UsageError(
            f"transaction {gtid.text} is decided, to {record.decision.value}, by {record.by}: that cannot be changed any more"
        )
    yield from _carry_out(engine, record)
    return record


def _branches(engine: Engine, gtid: Gtid) -> Flow[list[Branch]]:
    """All that are prepared, wherever. Raises if somebody cannot be asked."""
    found: list[Branch] = []
    for participant in engine.participants.values():
        listed: Sequence[Prepared] = yield from ask(f"{participant.name}: recover", participant, "recover")
        found += [one.branch for one in listed if one.branch is not None and one.branch.gtid == gtid]
    return found


def _carry_out(engine: Engine, record: Record) -> Flow[None]:
    until = (yield from now()) + APPLY_SECONDS
    parts = [Part(branch, engine.named(branch.participant)) for branch in record.branches]
    results = yield from side_by_side([_end(record.decision, part, until) for part in parts])
    wanted = Outcome.COMMITTED if record.decision is Decision.COMMIT else Outcome.ABORTED
    waiting: dict[str, str] = {}
    others: dict[str, str] = {}
    for part, result in zip(parts, results, strict=True):
        if isinstance(result, Failed):
            waiting[part.name] = str(result.error) or type(result.error).__name__
        elif result.value is not wanted:
            others[part.name] = result.value.value
    if others:
        raise HeuristicOutcome(record.gtid.text, record.decision.value, others)
    if waiting:
        raise NotYetApplied(record.gtid.text, waiting)


def _end(decision: Decision, part: Part, until: float) -> Flow[Outcome]:
    yield from ask(f"{part.name}: fence", part.participant, "fence", part.branch)
    return (yield from finish(decision, part, until))
