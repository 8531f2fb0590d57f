"""mysqlclient, whose connections block: each has a thread for its statements."""

from typing import Any

import MySQLdb

from quorate.transactions.drivers import shut_down
from quorate.transactions.drivers.pymysql import translated
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer


class MysqlclientSession:
    blocks = True

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._attached = False
        self._hung_up = False
        self._asked = False
        """Its answer is still to come, or nobody took it."""

    def state(self) -> str:
        if self._hung_up or self._asked or not self.connection.open:
            return sessions.BROKEN
        return sessions.OPEN if self._attached else sessions.IDLE

    def execute(self, statement: str) -> Answer:
        if self._hung_up or self._asked:
            raise ConnectionBroken("the connection is lost")
        self._asked = True
        rows: list[Any] = []
        try:
            cursor = self.connection.cursor()
            try:
                cursor.execute(statement)
                rows += cursor.fetchall()
                while cursor.nextset():
                    rows += cursor.fetchall()
            finally:
                cursor.close()
        except MySQLdb.Error as error:
            found = translated(error)
            self._asked = isinstance(found, ConnectionBroken)
            raise found from error
        self._asked = False
        return Answer("", rows)

    def attach(self) -> None:
        self._attached = True

    def detach(self) -> None:
        self._attached = False

    def hang_up(self) -> None:
        self._hung_up = True
        shut_down(self.connection.fileno())

    def close(self) -> None:
        self._hung_up = True
        self.connection.close()
