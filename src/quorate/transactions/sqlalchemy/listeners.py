"""Which connections belong to one transaction of a Session.

A Session takes a Connection from each of its engines, calls ``begin_twophase`` on it, and then tells ``after_begin`` (SQLAlchemy, ORM events): only there one
learns which Session it is. So ``begin_twophase`` begins nothing at the database; this listener does, the first of all, under the name of the
transaction that the Session's other connections have. A connection that nobody takes up is a transaction by itself, begun with its first statement.

``Session.commit`` prepares each connection and then commits each, and so does ``Session.prepare`` for those who commit later: the first means that
one connection alone needs no prepare, the second that it does.
"""

import weakref
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, SessionTransaction

from quorate.errors import UsageError
from quorate.transactions.sqlalchemy.dialect import install
from quorate.transactions.sqlalchemy.unit import KEY, Seat, SessionsTwoPhase, Unit, seat_of

_units: "weakref.WeakKeyDictionary[SessionTransaction, SessionsTwoPhase]" = weakref.WeakKeyDictionary()


@event.listens_for(Session, "after_begin", insert=True)
def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    seat = seat_of(connection)
    joined: Any = session.info.get(KEY)
    if joined is not None:
        unit, resource = joined
        if seat is None or seat.part is None:
            join(unit, connection, seat, resource)
        elif seat.unit is not unit:
            raise UsageError("the connection takes part in another transaction")
        return
    if seat is None or isinstance(seat.unit, SessionsTwoPhase):
        # no business of ours, or taken up before, and begins a savepoint now
        return
    binding = connection.dialect.quorate  # type: ignore[attr-defined]  # who has a seat has a bound engine
    root = transaction
    while root.parent is not None:
        root = root.parent
    known = _units.get(root)
    if known is None:
        known = SessionsTwoPhase(binding.coordinator, binding.new_transaction(binding.gtid(seat.xid)))
        _units[root] = known
        _watch(root, known)
    _rename(seat, connection, binding.xid(known.transaction._work.gtid))
    known.take(seat, connection, binding.participant)


def _rename(seat: Seat, connection: Connection, xid: str) -> None:
    seat.xid = xid
    connection.get_transaction().xid = xid  # type: ignore[union-attr]  # it is a TwoPhaseTransaction


def _watch(root: SessionTransaction, unit: SessionsTwoPhase) -> None:
    """Whether a prepare is what the user asked for."""
    own, transaction = root.prepare, weakref.ref(root)
    asked = False

    def prepare() -> None:
        nonlocal asked
        asked = True
        own()

    def alone() -> bool:
        found = transaction()
        return not asked and found is not None and len(found.connections) == 1

    root.prepare = prepare  # type: ignore[method-assign]  # of this transaction alone
    unit.alone = alone


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    unit = _units.pop(transaction, None)
    if unit is not None and unit.late is not None:
        # the Session knows that it is committed
        raise unit.late


def join(unit: Unit, connection: Connection, seat: Seat | None, resource: Any) -> None:
    """Take a connection into the transaction that the user began."""
    dialect = install(connection.engine)
    binding = dialect.quorate
    if binding is not None and binding.coordinator is not unit.coordinator:
        unit.doom("a connection could not take part: its engine is bound to another coordinator")
        raise UsageError("the engine is bound to another coordinator than that of the transaction")
    if binding is not None and resource is None:
        resource = binding.participant
    if seat is None:
        seat = Seat(connection, unit.transaction.gtid)
    elif binding is not None:
        _rename(seat, connection, binding.xid(unit.transaction._work.gtid))
    unit.take(seat, connection, resource)
