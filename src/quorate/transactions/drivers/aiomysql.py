"""aiomysql and asyncmy, which have PyMySQL's ways."""

from typing import Any

from quorate.transactions.drivers import shut_down
from quorate.transactions.drivers.pymysql import translated
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer

_IN_TRANSACTION = 1


class AiomysqlSession:
    blocks = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._attached = False
        self._hung_up = False
        self._asked = False
        """Its answer is still to come, or nobody took it."""

    def state(self) -> str:
        closed = getattr(self.connection, "closed", False) or not getattr(self.connection, "_connected", True)
        if self._hung_up or self._asked or closed:
            return sessions.BROKEN
        if self._attached or self.connection.server_status & _IN_TRANSACTION:
            return sessions.OPEN
        return sessions.IDLE

    async def execute(self, statement: str) -> Answer:
        if self._hung_up or self._asked:
            raise ConnectionBroken("the connection is lost")
        self._asked = True
        rows: list[Any] = []
        try:
            # as a cursor does it, without what a cursor makes of it
            await self.connection.query(statement)
            while True:
                result = self.connection._result
                if result.rows:
                    rows += result.rows
                if not result.has_next:
                    break
                await self.connection.next_result()
        except Exception as error:
            if isinstance(error, (OSError, RuntimeError)) or _is_drivers(error):
                found = translated(error)
                self._asked = isinstance(found, ConnectionBroken)
                raise found from error
            raise
        self._asked = False
        return Answer("", rows)

    def attach(self) -> None:
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def hang_up(self) -> None:
        self._hung_up = True
        # aiomysql has a stream, asyncmy a transport
        writer = getattr(self.connection, "_writer", None) or getattr(self.connection, "_transport", None)
        sock = None if writer is None else writer.get_extra_info("socket")
        if sock is not None:
            shut_down(sock.fileno())

    def close(self) -> None:
        self._hung_up = True
        self.connection.close()


def _is_drivers(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in ("pymysql", "aiomysql", "asyncmy") for kind in type(error).__mro__)


def where(connection: Any) -> tuple[str, int, str]:
    """Host, port and database."""
    if not hasattr(connection, "host"):
        # asyncmy does not show it
        database = connection._db or ""
        return connection._host, connection._port, database.decode() if isinstance(database, bytes) else database
    return connection.host, connection.port, str(connection.db or "")
