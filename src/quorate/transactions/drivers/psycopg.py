"""psycopg 3, its blocking connections and its asynchronous ones alike: our statements go through libpq's own asynchronous calls, so that one thread has several
under way. psycopg's idea of the connection is libpq's, so that it sees the transaction that we begin."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import pq

from quorate.errors import UsageError
from quorate.transactions.drivers import shut_down
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer, SqlError

Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

_STATES: dict[int, str] = {
    pq.TransactionStatus.IDLE: sessions.IDLE,
    pq.TransactionStatus.INTRANS: sessions.OPEN,
    pq.TransactionStatus.INERROR: sessions.FAILED,
}
_CUT_OFF = ("57P01", "57P02", "57P03", "57P05")
"""Errors after which the server closes the connection."""


class PsycopgSession:
    blocks = False
    several = True
    """``execute`` takes several statements in one message, and gives the rows of all."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._pgconn = connection.pgconn
        self._hung_up = False
        self._request: PsycopgRequest | None = None

    @property
    def begin_options(self) -> str:
        """What psycopg would begin a transaction with."""
        options = []
        if self.connection.isolation_level is not None:
            options.append(f"isolation level {self.connection.isolation_level.name.replace('_', ' ').lower()}")
        if self.connection.read_only is not None:
            options.append("read only" if self.connection.read_only else "read write")
        if self.connection.deferrable is not None:
            options.append("deferrable" if self.connection.deferrable else "not deferrable")
        return "".join(f" {option}" for option in options)

    def state(self) -> str:
        if self._hung_up or self._pgconn.status != pq.ConnStatus.OK:
            return sessions.BROKEN
        return _STATES.get(self._pgconn.transaction_status, sessions.BROKEN)

    def execute(self, statement: str) -> "PsycopgRequest":
        status = self._pgconn.transaction_status
        if status == pq.TransactionStatus.ACTIVE and not self._hung_up:
            raise UsageError("the connection is busy with another statement")
        self._request = PsycopgRequest(self._pgconn, statement)
        return self._request

    def attach(self) -> None:
        return

    def detach(self) -> None:
        return

    def hang_up(self) -> None:
        self._hung_up = True
        if self._request is not None and self._request.on_cut is not None:
            # libpq's socket may be closed at once, and then nobody hears of it any more
            self._request.on_cut()
        try:
            descriptor = self._pgconn.socket
        except psycopg.Error:
            return
        shut_down(descriptor)

    def close(self) -> None:
        self._hung_up = True
        self._pgconn.finish()


class PsycopgRequest:
    def __init__(self, pgconn: Any, statement: str) -> None:
        self._pgconn = pgconn
        self._results: list[Any] = []
        self.on_cut: Callable[[], None] | None = None
        """Called when the connection is hung up while the answer is waited for."""
        self._descriptor = -1
        try:
            self._descriptor = pgconn.socket
            pgconn.send_query(statement.encode())
            while pgconn.flush():
                os.sched_yield()
        except psycopg.Error as error:
            raise ConnectionBroken(_text(error)) from error

    def fileno(self) -> int:
        return self._descriptor

    def advance(self) -> bool:
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    return True
                self._results.append(result)
        except psycopg.Error as error:
            raise ConnectionBroken(_text(error)) from error
        return False

    def answer(self) -> Answer:
        rows: list[Sequence[Any]] = []
        tag = ""
        for result in self._results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                code = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
                message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode(
                    "utf-8", "replace"
                )
                if code in _CUT_OFF or not code or self._pgconn.status != pq.ConnStatus.OK:
                    raise ConnectionBroken(message.strip(), code)
                raise SqlError(f"{message.strip()} ({code})", code)
            for row in range(result.ntuples):
                rows.append(tuple(_decoded(result.get_value(row, column)) for column in range(result.nfields)))
            tag = (result.command_status or b"").decode()
        return Answer(tag, rows)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).decode("utf-8", "surrogateescape")


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def connect(conninfo: str, seconds: float, **options: Any) -> PsycopgSession:
    """Raises ConnectionBroken."""
    chosen: dict[str, Any] = {"connect_timeout": max(2, round(seconds)), **options}
    try:
        return PsycopgSession(psycopg.connect(conninfo, autocommit=True, **chosen))
    except psycopg.Error as error:
        raise ConnectionBroken(_text(error)) from error


def where(connection: Connection) -> tuple[str, int, str]:
    """Host, port and database."""
    info = connection.info
    return info.host, info.port, info.dbname
