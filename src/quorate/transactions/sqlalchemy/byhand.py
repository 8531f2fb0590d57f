"""``recover_twophase``, ``commit_prepared`` and ``rollback_prepared`` of SQLAlchemy's connections: somebody ends by hand what he finds prepared.

Recovery does that by itself, so these are for those who have been doing it with SQLAlchemy. What is said by hand is a decision as any other: it is written to the
decision log first, if there is none yet, for all branches of the transaction that are prepared anywhere, and all of them follow. If it was decided
otherwise before, that stands.
"""

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from sqlalchemy.util import await_only

from quorate.transactions.commit import DECISION_SECONDS, decide
from quorate.transactions.engine import Engine
from quorate.transactions.errors import HeuristicOutcome, NotYetApplied
from quorate.transactions.flow import Flow, ask, now
from quorate.transactions.gtid import Gtid
from quorate.transactions.operate import Carried, Operator
from quorate.transactions.participant import Branch, Prepared
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
    """Raises UsageError if it is decided otherwise, nothing is prepared, or it is of another space; NotYetApplied, HeuristicOutcome; InDoubt; ParticipantError if a
    participant cannot be asked what is prepared there."""
    carried: Carried = _wait(coordinator.shell.run(_resolve(coordinator.engine, gtid, decision)))
    against = carried.against()
    if against:
        raise HeuristicOutcome(gtid.text, decision.value, against)
    if carried.waiting:
        raise NotYetApplied(gtid.text, carried.waiting)


def _resolve(engine: Engine, gtid: Gtid, decision: Decision) -> Flow[Carried]:
    operator = Operator(engine.participants, engine.log, engine.space, engine.by)
    operator.gtid(gtid.text)
    if decision is Decision.ABORT:
        return (yield from operator.abort(gtid, REASON))
    record: Record | None = yield from ask("by hand: read", engine.log, "read", gtid)
    if record is None:
        branches = yield from _branches(engine, gtid)
        if branches:
            time = yield from now()
            record = Record(gtid, decision, branches, time, engine.by, REASON)
            yield from decide(engine.log, record, None, time + DECISION_SECONDS)
    return (yield from operator.commit(gtid))


def _branches(engine: Engine, gtid: Gtid) -> Flow[list[Branch]]:
    """All that are prepared, wherever. Raises if somebody cannot be asked."""
    found: list[Branch] = []
    for participant in engine.participants.values():
        listed: Sequence[Prepared] = yield from ask(f"{participant.name}: recover", participant, "recover")
        found += [one.branch for one in listed if one.branch is not None and one.branch.gtid == gtid]
    return found
