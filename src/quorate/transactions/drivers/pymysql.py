"""PyMySQL. A statement is sent, and its answer is read when it comes, so that one thread has several under way."""

from collections.abc import Mapping, Sequence
from typing import Any

import pymysql
from pymysql.constants import COMMAND, SERVER_STATUS

from quorate.transactions.drivers import shut_down
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer, SqlError

CUT_OFF = (0, 1053, 1317, 1927, 2006, 2013, 2014, 2027, 2055)
"""Errors after which there is no connection: of the client's, or because the server goes down or was told to end it."""


class PyMySQLSession:
    blocks = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._attached = False
        self._hung_up = False
        self._asked: PyMySQLRequest | None = None
        """Its answer is still to come: the connection is of no use to anybody else, for they would be given that answer."""

    def state(self) -> str:
        if self._hung_up or not self.connection.open or (self._asked is not None and not self._asked.answered):
            return sessions.BROKEN
        if self._attached or self.connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            return sessions.OPEN
        return sessions.IDLE

    def execute(self, statement: str) -> "PyMySQLRequest":
        if self._hung_up or (self._asked is not None and not self._asked.answered):
            raise ConnectionBroken("the connection is lost")
        self._asked = PyMySQLRequest(self.connection, statement)
        return self._asked

    def attach(self) -> None:
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def hang_up(self) -> None:
        self._hung_up = True
        sock = getattr(self.connection, "_sock", None)
        if sock is not None:
            shut_down(sock.fileno())

    def close(self) -> None:
        self._hung_up = True
        if self.connection.open:
            self.connection.close()


class PyMySQLRequest:
    """PyMySQL has no public way to send without reading: these two calls are what its ``query`` consists of, since 2014."""

    def __init__(self, connection: Any, statement: str) -> None:
        self._connection = connection
        self._rows: list[Sequence[Any]] = []
        self.answered = False
        self._descriptor = -1
        try:
            self._descriptor = connection._sock.fileno() if connection.open else -1
            connection._execute_command(COMMAND.COM_QUERY, statement)
        except (pymysql.Error, OSError) as error:
            raise translated(error) from error

    def fileno(self) -> int:
        return self._descriptor

    def advance(self) -> bool:
        """What follows the first byte follows at once: it is read to its end."""
        try:
            while True:
                self._connection._read_query_result()
                result = self._connection._result
                if result.rows:
                    self._rows += result.rows
                if not result.has_next:
                    self.answered = True
                    return True
        except (pymysql.Error, OSError) as error:
            # an error of the server's is the whole answer; after any other the connection is closed
            self.answered = True
            raise translated(error) from error

    def answer(self) -> Answer:
        return Answer("", self._rows)


def translated(error: Exception) -> SqlError | ConnectionBroken:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    message = str(error.args[1]) if len(error.args) > 1 else str(error)
    if code in CUT_OFF or isinstance(error, OSError):
        return ConnectionBroken(f"{message} ({code})" if code else message, str(code))
    return SqlError(f"{message} ({code})", str(code))


def connect(parameters: Mapping[str, Any], seconds: float) -> PyMySQLSession:
    """For recovery. Raises ConnectionBroken."""
    try:
        return PyMySQLSession(pymysql.connect(**{**parameters, "autocommit": True, "connect_timeout": seconds}))
    except (pymysql.Error, OSError) as error:
        raise ConnectionBroken(str(translated(error))) from error


def where(connection: Any) -> tuple[str, int, str]:
    """Host, port and database."""
    database = connection.db
    return connection.host, connection.port, database.decode() if isinstance(database, bytes) else str(database or "")
