"""A few sessions for recovery and for questions, kept for the next one who needs them."""

from collections.abc import Callable
from typing import TypeVar

from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.flow import Flow, call
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Session

KEPT = 4
Value = TypeVar("Value")


class Pool:
    """``connect`` may block; raises ParticipantError."""

    def __init__(self, name: str, connect: Callable[[], Session]) -> None:
        self.name = name
        self._connect = connect
        self._idle: list[Session] = []
        self._closed = False

    def use(self, work: Callable[[Session], Flow[Value]]) -> Flow[Value]:
        """Carry out ``work``, which may be done twice, on an idle session. A kept one may have been cut off since: then a new one is tried."""
        while True:
            kept = self._kept()
            session = kept
            if session is None:
                if self._closed:
                    raise ConnectionBroken(f"{self.name} is closed")
                session = yield from call(f"{self.name}: connect", self._connect, blocks=True)
            try:
                return (yield from work(session))
            except ConnectionBroken:
                session.hang_up()
                if kept is None:
                    raise
            finally:
                self._give_back(session)

    def _kept(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.state() == sessions.IDLE:
                return session
            session.hang_up()
        return None

    def _give_back(self, session: Session) -> None:
        if session.state() != sessions.IDLE:
            session.hang_up()
        elif self._closed or len(self._idle) >= KEPT:
            session.close()
        else:
            self._idle.append(session)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
