"""A transaction that connections of SQLAlchemy's take part in together, and each one's seat in it.

A unit is either *joined*, to a transaction that the user began with the coordinator, or stands for a two-phase transaction of SQLAlchemy's: that of one
Session with all its connections, or that of one Connection by itself. A seat is found by its Connection while a two-phase transaction lasts, and by what SQLAlchemy's
pool hands out (the "fairy", one per checkout), so that what a pool does with a connection later is not mistaken for the transaction's.

Whoever ends it first ends it for all: the first commit decides and applies it everywhere, the first rollback rolls back everywhere; the
others find that it is over, and only leave their seats.
"""

import weakref
from collections.abc import Callable
from contextlib import suppress
from inspect import isawaitable
from typing import Any

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from quorate.errors import UsageError
from quorate.transactions import aio, sync
from quorate.transactions.commit import Part, abort
from quorate.transactions.engine import ABORTED, COMMITTED, COMMITTING, OPEN, PREPARED
from quorate.transactions.errors import Aborted, HeuristicOutcome, InDoubt, NotYetApplied, ParticipantError
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Session

KEY = "quorate"
"""Of a seat in ``info`` of a pool's entry, and of a joined unit in ``info`` of a Session."""

Coordinator = aio.Coordinator | sync.Coordinator
Transaction = aio.Transaction | sync.Transaction

_by_connection: "weakref.WeakKeyDictionary[Connection, Seat]" = weakref.WeakKeyDictionary()


class Seat:
    """One connection's. ``unit`` is None until it is known, ``part`` until the branch is begun."""

    __slots__ = ("__weakref__", "_autocommit", "_connection", "_fairy", "finalizer", "part", "session", "unit", "xid")

    def __init__(self, connection: Connection, xid: str) -> None:
        fairy: Any = connection.connection
        self._connection = weakref.ref(connection)
        self._fairy = weakref.ref(fairy)
        self._autocommit: bool | None = None
        self.unit: Unit | None = None
        self.part: Part | None = None
        self.session: Session | None = None
        self.finalizer: Any = None
        self.xid = xid
        _by_connection[connection] = self
        fairy.info[KEY] = self

    def is_of(self, fairy: Any) -> bool:
        return self._fairy() is fairy

    def begin(self, resource: Any) -> None:
        """Start the branch. Raises what ``Transaction.enlist`` does."""
        unit, fairy = self.unit, self._fairy()
        assert unit is not None
        assert fairy is not None
        work = unit.transaction._work
        driver = fairy.driver_connection
        participant, session, part = work.find(driver, resource)
        assert session is not None
        assert part is None
        if type(driver).__module__.startswith("asyncpg"):
            # SQLAlchemy begins asyncpg's transactions itself, where other drivers do
            adapted = fairy.dbapi_connection
            if not adapted.autocommit:
                session.begin_options = _options_of(adapted)  # type: ignore[attr-defined]  # AsyncpgSession has it
            self._autocommit = adapted.autocommit
            adapted.autocommit = True
        try:
            unit.wait(unit.coordinator.shell.run(work.begin(participant, session)))
        except BaseException:
            self._restore(fairy)
            raise
        self.part = work.parts[-1]
        self.session = session
        self.finalizer = weakref.finalize(self._connection(), _let_go, self.part)
        self.finalizer.atexit = False

    def _restore(self, fairy: Any) -> None:
        if self._autocommit is not None and fairy.dbapi_connection is not None:
            fairy.dbapi_connection.autocommit = self._autocommit
        self._autocommit = None

    def leave(self) -> None:
        """The transaction is over for this connection. A connection that is broken, or still busy with it, is not used again."""
        fairy, connection = self._fairy(), self._connection()
        if connection is not None and _by_connection.get(connection) is self:
            del _by_connection[connection]
        if self.finalizer is not None:
            self.finalizer.detach()
        if fairy is None or fairy.dbapi_connection is None:
            return
        if fairy.info.get(KEY) is self:
            del fairy.info[KEY]
        self._restore(fairy)
        busy = self.unit is not None and self.unit.state == COMMITTING
        if self.session is not None and (busy or self.session.state() != sessions.IDLE):
            # whoever waits for its answer hears of it before it is closed
            self.session.hang_up()
            if connection is not None and not connection.closed:
                connection.invalidate()
            else:
                fairy.invalidate()

    def lost(self) -> None:
        """SQLAlchemy closes the driver's connection."""
        unit, part = self.unit, self.part
        if unit is None or part is None:
            return
        if unit.state == COMMITTING and self.session is not None:
            # a commit that was cancelled goes on without it
            self.session.hang_up()
        if unit.state not in OPEN:
            return
        if unit.state != PREPARED:
            unit.doom(f"the connection of {part.name} was lost")
        _let_go(part)

    def abandon(self) -> None:
        """Its connection went back to its pool and nobody ended it."""
        if self.unit is not None:
            self.unit.doom("a connection went back to its pool before the end")
        if self.part is not None:
            _let_go(self.part)
        if self.finalizer is not None:
            self.finalizer.detach()


def _let_go(part: Part) -> None:
    part.participant.let_go(part.branch)


def _options_of(adapted: Any) -> str:
    options = ""
    if adapted.isolation_level is not None:
        options += f" isolation level {adapted.isolation_level.replace('_', ' ')}"
    return options + (" read only" if adapted.readonly else "") + (" deferrable" if adapted.deferrable else "")


def seat_of(connection: Connection, xid: str | None = None) -> Seat | None:
    """The one of this connection; with ``xid``: in that transaction."""
    seat = _by_connection.get(connection)
    return seat if seat is not None and (xid is None or seat.xid == xid) else None


class Unit:
    """``joined``: to a transaction that the user began."""

    joined = False

    def __init__(self, coordinator: Coordinator, transaction: Transaction) -> None:
        self.coordinator = coordinator
        self.transaction = transaction
        self.doomed = ""
        """Why it cannot be committed any more."""
        self.late: Exception | None = None
        """What is told when SQLAlchemy has seen the commit, which it was."""
        # the connection goes back to its pool when the commit returns
        transaction._work.early = False

    @property
    def state(self) -> str:
        return self.transaction._work.state

    @property
    def over(self) -> bool:
        return self.state not in OPEN

    def wait(self, found: Any) -> Any:
        """Whatever a coordinator gives: one for event loops is waited for in SQLAlchemy's greenlet."""
        return await_only(found) if isawaitable(found) else found

    def doom(self, why: str) -> None:
        if not self.doomed:
            self.doomed = why

    def check(self) -> None:
        """Raises Aborted, UsageError if nothing can be done in it any more."""
        if self.doomed:
            raise Aborted(self.transaction.gtid, self.doomed)
        self.transaction._work.check_active()

    def take(self, seat: Seat, connection: Connection, resource: Any) -> None:
        """Give the connection its seat, and begin its branch. Whatever goes wrong then, the unit cannot be committed: it would be without what
        the connection does."""
        if seat.unit is not None:
            raise UsageError(
                "the connection worked before its Session took it up, so that it is in a transaction of its own; "
                "let no listener of after_begin come before Quorate's"
            )
        check_kind(self.coordinator, connection.dialect)
        seat.unit = self
        try:
            self.check()
            seat.begin(resource)
        except BaseException as error:
            self.doom(f"a connection could not take part: {error}")
            raise

    def prepare(self) -> None:
        """SQLAlchemy prepares one of the connections. Raises Aborted."""
        raise NotImplementedError

    def commit(self, seat: Seat) -> None:
        """SQLAlchemy commits one of the connections. Raises Aborted, InDoubt, NotYetApplied, HeuristicOutcome."""
        raise NotImplementedError

    def rollback(self, seat: Seat | None = None) -> None:
        """SQLAlchemy rolls one of the connections back."""
        if not self.over:
            self.wait(self.transaction.end_by_rollback())


class TwoPhase(Unit):
    """That of one Connection. If its user prepares it, he is to find it prepared, from anywhere, and so it does not drop out if it only read."""

    def prepare(self) -> None:
        if self.state == PREPARED:
            return
        self._still_good()
        for part in self.transaction._work.parts:
            # whatever is wrong shows again at once
            with suppress(ParticipantError):
                self.wait(self.coordinator.shell.run(part.participant.insist(part.branch)))
        self.wait(self.transaction.prepare())

    def commit(self, seat: Seat) -> None:
        if self.state == COMMITTED:
            return
        self._still_good()
        self.wait(self.transaction.end_by_commit())

    def _still_good(self) -> None:
        if not self.over and not self.doomed:
            return
        self.rollback()
        gtid = self.transaction.gtid
        if self.state == ABORTED:
            raise Aborted(gtid, self.doomed or "it was rolled back")
        raise InDoubt(gtid, "its end is not known here")


class SessionsTwoPhase(TwoPhase):
    """That of a Session's connections. ``alone``: it has one, and was not told to prepare it, so that the commit may do without, though SQLAlchemy calls
    for a prepare always. The Session is to see that it is committed before it is told that something else is amiss."""

    alone: Callable[[], bool] = staticmethod(lambda: False)

    def prepare(self) -> None:
        if self.state == PREPARED:
            return
        self._still_good()
        if not self.alone():
            self.wait(self.transaction.prepare())

    def commit(self, seat: Seat) -> None:
        try:
            super().commit(seat)
        except (NotYetApplied, HeuristicOutcome) as error:
            self.late = error


class Joined(Unit):
    joined = True
    ending = False
    """The user's transaction is at its end, so that SQLAlchemy's may be."""
    next: Callable[[], None] | None = None
    """What has to be done before SQLAlchemy may see that a connection is committed."""

    def prepare(self) -> None:
        """Nothing can be said before all have flushed."""

    def commit(self, seat: Seat) -> None:
        if not self.ending:
            self.rollback(seat)
            raise UsageError(
                "what was enlisted is committed with the coordinator's transaction, at the end of its block, and not by itself"
            )
        following, self.next = self.next, None
        if following is not None:
            following()

    def rollback(self, seat: Seat | None = None) -> None:
        """One connection is rolled back by itself: the others are when the transaction ends, which it cannot do otherwise any more."""
        if seat is None:
            super().rollback()
            return
        part = seat.part
        if part is None or self.over:
            return
        self.doom(f"the connection of {part.name} was ended by itself")
        self.transaction._work.parts.remove(part)
        self.wait(self.coordinator.shell.run(abort([part])))
        _let_go(part)


def check_kind(coordinator: Coordinator, dialect: sqlalchemy.Dialect) -> None:
    """Raises UsageError if one has an event loop and the other has none."""
    if dialect.is_async != isinstance(coordinator, aio.Coordinator):
        raise UsageError(
            "an asynchronous engine needs quorate.transactions.Coordinator, and this one is quorate.transactions.sync's"
            if dialect.is_async
            else "an engine that blocks needs quorate.transactions.sync.Coordinator, and this one is for event loops"
        )
