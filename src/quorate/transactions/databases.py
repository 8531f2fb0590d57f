"""PostgreSQL and MariaDB, named and reachable: what a coordinator is told of, and what its recovery connects to.

orders = Postgres("orders", "host=db1 dbname=shop user=app")
stock = MariaDB("stock", host="db2", database="shop", user="app", password="…")
"""

from collections.abc import Sequence
from typing import Any

from quorate.errors import UsageError
from quorate.transactions import drivers
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.sql.mariadb import MariaDBParticipant
from quorate.transactions.sql.pool import Pool
from quorate.transactions.sql.postgres import PostgresParticipant
from quorate.transactions.sql.session import Session

CONNECT_SECONDS = 5.0
_HERE = ("", "localhost", "127.0.0.1", "::1")


def same_place(one: tuple[str, int, str], other: tuple[str, int, str]) -> bool:
    """Host, port and database of each."""
    here = one[0] in _HERE or one[0].startswith("/")
    same_host = (other[0] in _HERE or other[0].startswith("/")) if here else one[0].lower() == other[0].lower()
    return same_host and one[1:] == other[1:]


class Postgres(PostgresParticipant):
    kind = drivers.POSTGRES

    def __init__(self, name: str, conninfo: str, **options: Any) -> None:
        """``conninfo``: as psycopg takes it, key=value or a URL. The user must be the one whose connections are enlisted, or a superuser: PostgreSQL lets no
        others end what he prepared. ``options``: what psycopg's ``connect`` takes besides, for connections that transactions open: ``row_factory``, ``prepare_threshold``
        (None behind a PgBouncer that pools transactions), … Raises UsageError."""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        from quorate.transactions.drivers.psycopg import connect

        try:
            found = conninfo_to_dict(conninfo)
        except psycopg.Error as error:
            raise UsageError(f"{name}: {' '.join(str(error).split())}") from error
        if "autocommit" in options:
            raise UsageError(f"{name}: autocommit is the coordinator's to choose")
        self.conninfo = conninfo
        self._options = options
        database = str(found.get("dbname") or found.get("user") or "")
        where = (str(found.get("host") or ""), int(found.get("port") or 5432), database)
        super().__init__(name, Pool(name, lambda: connect(conninfo, CONNECT_SECONDS)), where)

    def connect(self) -> Session:
        """For a transaction of a program that blocks."""
        from quorate.transactions.drivers.psycopg import connect

        return connect(self.conninfo, CONNECT_SECONDS, **self._options)

    async def connect_async(self) -> Session:
        import psycopg

        from quorate.transactions.drivers.psycopg import PsycopgSession

        try:
            return PsycopgSession(
                await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True, **self._options)
            )
        except psycopg.Error as error:
            raise ConnectionBroken(f"{self.name}: {' '.join(str(error).split())}") from error

    def is_where(self, connection: Any) -> bool:
        if type(connection).__module__.startswith("asyncpg"):
            from quorate.transactions.drivers.asyncpg import where as where_asyncpg

            return same_place(self.where, where_asyncpg(connection))
        from quorate.transactions.drivers.psycopg import where

        return same_place(self.where, where(connection))


class MariaDB(MariaDBParticipant):
    kind = drivers.MARIADB

    def __init__(
        self,
        name: str,
        *,
        database: str,
        host: str = "127.0.0.1",
        port: int = 3306,
        ignore_tables: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """``options``: what PyMySQL and aiomysql take besides: ``user``, ``password``, ``ssl``, … ``ignore_tables``: those of the database that have no transactions,
        and are known to. The table ``quorate_txn`` is made in the database."""
        from quorate.transactions.drivers.pymysql import connect

        self.parameters: dict[str, Any] = {"host": host, "port": port, "database": database, **options}
        parameters = self.parameters
        pool = Pool(name, lambda: connect(parameters, CONNECT_SECONDS))
        super().__init__(name, pool, (host, port, database), ignore_tables)

    def connect(self) -> Session:
        from quorate.transactions.drivers.pymysql import connect

        return connect(self.parameters, CONNECT_SECONDS)

    async def connect_async(self) -> Session:
        import aiomysql  # type: ignore[import-untyped]  # it has no types
        import pymysql

        from quorate.transactions.drivers.aiomysql import AiomysqlSession

        parameters = dict(self.parameters)
        parameters["db"] = parameters.pop("database")
        try:
            connection = await aiomysql.connect(
                **{"autocommit": True, "connect_timeout": CONNECT_SECONDS, **parameters}
            )
        except (pymysql.Error, OSError) as error:
            raise ConnectionBroken(f"{self.name}: {error}") from error
        return AiomysqlSession(connection)

    def is_where(self, connection: Any) -> bool:
        if type(connection).__module__.partition(".")[0] in ("aiomysql", "asyncmy"):
            from quorate.transactions.drivers.aiomysql import where as where_aiomysql

            return same_place(self.where, where_aiomysql(connection))
        if type(connection).__module__.partition(".")[0] == "MySQLdb":
            # it does not tell where it is connected to
            return False
        from quorate.transactions.drivers.pymysql import where

        return same_place(self.where, where(connection))


Database = Postgres | MariaDB
