"""What ``Transaction.enlist`` does with SQLAlchemy's objects.

A *Connection* takes part until the end, and is the caller's again then, outside of a transaction. Of an *Engine* one is checked out, and given back at the
end. A *Session* takes part with every connection that it takes up until the end, whichever engines it is bound to; a *sessionmaker* makes one, which
is closed at the end. Their asynchronous kinds likewise.

The commit goes through SQLAlchemy's own: each Session is told to commit, one inside the other, so that all of them have flushed, and the
listeners of ``before_commit`` were heard, before the first connection is to commit. There the coordinator commits, everywhere. Then each Session sees
its connections committed, and does what it does after a commit. If the coordinator could not commit, each sees that exception, and is rolled back.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util import await_only, greenlet_spawn

from quorate.errors import UsageError
from quorate.transactions.errors import Aborted, HeuristicOutcome, NotYetApplied
from quorate.transactions.sqlalchemy.listeners import join
from quorate.transactions.sqlalchemy.unit import KEY, Joined, Transaction, check_kind, seat_of


async def in_greenlet(function: Callable[..., Any], *arguments: Any) -> Any:
    """SQLAlchemy's bridge: what runs there may wait for the event loop."""
    return await greenlet_spawn(function, *arguments)


class Enlisted:
    """Of one transaction. Its methods run in the calling thread, or in a greenlet."""

    def __init__(self, transaction: Transaction) -> None:
        self._unit = Joined(transaction._coordinator, transaction)
        self._sessions: list[tuple[Session, bool]] = []
        self._connections: list[tuple[Connection, Any]] = []
        """And what has to be called to give each back."""

    def enlist(self, what: Any, resource: Any) -> Any:
        """What can be worked with: of a maker what it made."""
        self._unit.transaction._work.check_active()
        if isinstance(what, (sessionmaker, scoped_session)) or _is(what, "async_sessionmaker", "async_scoped_session"):
            made = what()
            self._session(getattr(made, "sync_session", made), resource, not hasattr(what, "registry"))
            return made
        if isinstance(what, Session):
            self._session(what, resource, False)
        elif _is(what, "AsyncSession"):
            self._session(what.sync_session, resource, False)
        elif isinstance(what, Engine):
            check_kind(self._unit.coordinator, what.dialect)
            connection = what.connect()
            self._connection(connection, resource, connection.close)
            return connection
        elif _is(what, "AsyncEngine"):
            check_kind(self._unit.coordinator, what.dialect)
            opened: Any = await_only(what.connect().start())
            self._connection(opened.sync_connection, resource, lambda: await_only(opened.close()))
            return opened
        elif isinstance(what, Connection):
            self._connection(what, resource, None)
        elif _is(what, "AsyncConnection"):
            self._connection(what.sync_connection, resource, None)
        else:
            raise UsageError(
                f"{type(what).__qualname__} cannot be enlisted; of SQLAlchemy's an Engine, a Connection, a Session or a sessionmaker can, "
                "and their asynchronous kinds"
            )
        return what

    def _session(self, session: Session, resource: Any, close: bool) -> None:
        known = session.info.get(KEY)
        if known is not None and known[0] is self._unit:
            return
        if known is not None:
            raise UsageError("the Session takes part in another transaction, which has not ended")
        if session.in_transaction():
            raise UsageError("the Session is in a transaction already; commit or roll back before it is enlisted")
        session.info[KEY] = (self._unit, resource)
        self._sessions.append((session, close))

    def _connection(self, connection: Connection, resource: Any, give_back: Any) -> None:
        seat = seat_of(connection)
        if seat is not None and seat.unit is self._unit:
            return
        try:
            check_kind(self._unit.coordinator, connection.dialect)
            if connection.in_transaction():
                raise UsageError(
                    "the Connection is in a transaction already; commit or roll back before it is enlisted"
                )
            connection.begin()
            try:
                join(self._unit, connection, None, resource)
            except BaseException:
                connection.rollback()
                raise
        except BaseException:
            if give_back is not None:
                give_back()
            raise
        self._connections.append((connection, give_back))

    # ---- the end

    def commit(self) -> None:
        """Raises what ``Transaction.commit`` does, and what SQLAlchemy does of a flush that fails."""
        unit = self._unit
        unit.transaction._work.check_active()
        try:
            if unit.doomed:
                raise Aborted(unit.transaction.gtid, unit.doomed)
            unit.ending = True
            self._commit_session(0)
            for connection, _ in self._connections:
                # of one that was lost meanwhile there is nothing to commit
                connection.rollback() if connection.invalidated else connection.commit()
        except BaseException:
            self._roll_back()
            raise
        self._part()
        if unit.late is not None:
            raise unit.late

    def _commit_session(self, number: int) -> None:
        """This one and those after it, and then all."""
        unit = self._unit
        if number == len(self._sessions):
            self._decide()
            return
        unit.next = partial(self._commit_session, number + 1)
        self._sessions[number][0].commit()
        if unit.next is not None:
            # it had nothing to do with any connection
            unit.next = None
            self._commit_session(number + 1)

    def _decide(self) -> None:
        unit = self._unit
        if unit.doomed:
            raise Aborted(unit.transaction.gtid, unit.doomed)
        try:
            unit.wait(unit.transaction.end_by_commit())
        except (NotYetApplied, HeuristicOutcome) as error:
            unit.late = error

    def rollback(self) -> None:
        self._unit.transaction._work.check_open()
        self._roll_back()

    def _roll_back(self) -> None:
        """Everywhere, unless it is decided; and SQLAlchemy is told."""
        unit = self._unit
        unit.ending = True
        unit.next = None
        try:
            unit.rollback()
        finally:
            for session, _ in self._sessions:
                # what ends here has its own exception already, or has none
                with suppress(Exception):
                    session.rollback()
            for connection, _ in self._connections:
                with suppress(Exception):
                    connection.rollback()
            self._part()

    def _part(self) -> None:
        """Give back what is not the caller's."""
        for session, close in self._sessions:
            session.info.pop(KEY, None)
            if close:
                session.close()
        for _, give_back in self._connections:
            if give_back is not None:
                give_back()
        self._sessions, self._connections = [], []


def _is(what: Any, *names: str) -> bool:
    """Without importing what needs greenlets."""
    return any(kind.__name__ in names and kind.__module__.startswith("sqlalchemy.") for kind in type(what).__mro__)
