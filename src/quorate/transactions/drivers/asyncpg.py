"""asyncpg."""

from typing import Any

import asyncpg

from quorate.errors import UsageError
from quorate.transactions.drivers import shut_down
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer, SqlError


class AsyncpgSession:
    blocks = False

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._hung_up = False
        self._asked = False
        """Its answer is still to come, or nobody took it."""
        self.begin_options = ""
        """What a transaction is begun with, such as " isolation level serializable"."""

    def state(self) -> str:
        if self._hung_up or self._asked or self.connection.is_closed():
            return sessions.BROKEN
        return sessions.OPEN if self.connection.is_in_transaction() else sessions.IDLE

    async def execute(self, statement: str) -> Answer:
        if self._hung_up or self._asked:
            raise ConnectionBroken("the connection is lost")
        self._asked = True
        reads = statement.startswith("select")
        try:
            found = await (self.connection.fetch if reads else self.connection.execute)(statement)
        except asyncpg.PostgresError as error:
            code = error.sqlstate or ""
            if code.startswith(("57P", "08")):
                raise ConnectionBroken(str(error), code) from error
            self._asked = False
            raise SqlError(f"{error} ({code})", code) from error
        except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if isinstance(error, asyncpg.InterfaceError) and "another operation" in str(error):
                raise UsageError("the connection is busy with another statement") from error
            raise ConnectionBroken(str(error)) from error
        if found is None:
            # what asyncpg gives for a statement that was under way when somebody closed the connection
            raise ConnectionBroken("the connection was closed before the answer came")
        self._asked = False
        return Answer(f"SELECT {len(found)}", [tuple(row) for row in found]) if reads else Answer(found)

    def attach(self) -> None:
        return

    def detach(self) -> None:
        return

    def hang_up(self) -> None:
        self._hung_up = True
        transport = getattr(self.connection, "_transport", None)
        sock = None if transport is None else transport.get_extra_info("socket")
        if sock is not None:
            shut_down(sock.fileno())

    def close(self) -> None:
        self._hung_up = True
        self.connection.terminate()


def where(connection: Any) -> tuple[str, int, str]:
    """Host, port and database."""
    host, port = connection._addr
    return host, port, connection._params.database
