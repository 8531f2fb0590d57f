"""Our PostgreSQL and MariaDB adapters by the rules of the conformance kit: real servers, killed and started again, and connections that break in mid-request.

Everything goes through a proxy that can lose an answer.
"""

import contextlib
import inspect
from typing import Any

import psycopg
import pymysql
import pytest
from tests.support.bank import until
from tests.support.databases import MariaDB, Postgres
from tests.support.losing import Losing

from quorate import transactions
from quorate.transactions import Branch
from quorate.transactions.conformance import RULES, Conformance, Harness
from quorate.transactions.flow import Flow, call

SECONDS = 30.0
RESTARTS = [rule.name for rule in RULES if "restart" in inspect.getsource(rule.check)]
"""What the server does then has nothing to do with event loops, and takes its time."""


class DatabaseHarness(Harness):
    server: Any
    lost: dict[str, bytes]
    """What the deciding request of each method has in it."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.made: list[Any] = []
        self.sessions: list[Any] = []
        self.foreigners: list[Any] = []

    def open(self) -> None:
        self.proxy = Losing(("127.0.0.1", self.server.port))
        self.run("drop table if exists bag")
        self.run(self.table)

    def close(self) -> Flow[None]:
        for session in self.sessions:
            session.hang_up()
            yield from call("close", session.close)
        for connection in self.foreigners:
            connection.close()
        for participant in self.made:
            participant.pool.close()
        self.proxy.__exit__(None, None, None)
        self.end_all()
        self.run("drop table bag")

    table = "create table bag (k varchar(99))"

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Past the proxy."""
        raise NotImplementedError

    def end_all(self) -> None:
        """Whatever is open or prepared."""
        raise NotImplementedError

    def make(self, name: str) -> Any:
        raise NotImplementedError

    def participant(self, name: str) -> Any:
        made = self.make(name)
        self.made.append(made)
        return made

    def begun(self, participant: Any, branch: Branch) -> Flow[Any]:
        session = participant.session_of(branch)
        if session is None:
            connect = participant.connect_async if self.asynchronous else participant.connect
            session = yield from call("connect", connect)
            self.sessions.append(session)
            yield from participant.begin(branch, session, SECONDS)
        return session.connection

    def execute(self, connection: Any, statement: str) -> Any:
        if not self.asynchronous:
            with connection.cursor() as cursor:
                cursor.execute(statement)
            return None

        async def executed() -> None:
            async with connection.cursor() as cursor:
                await cursor.execute(statement)

        return executed()

    def work(self, participant: Any, branch: Branch, key: str) -> Flow[None]:
        connection = yield from self.begun(participant, branch)
        yield from call("work", self.execute, connection, f"insert into bag values ('{key}')")

    def look(self, participant: Any, branch: Branch) -> Flow[None]:
        connection = yield from self.begun(participant, branch)
        yield from call("look", self.execute, connection, "select * from bag")

    def seen(self, key: str) -> int:
        return len(self.run(f"select k from bag where k = '{key}'"))

    def restart(self) -> None:
        self.server.kill()
        self.server.start()

    def leave(self, participant: Any, branch: Branch) -> None:
        participant.session_of(branch).hang_up()

    def lose_answer(self, participant: Any, method: str) -> Any:
        return self.proxy.losing(self.lost[method])

    def down(self) -> Any:
        return self.proxy.down()


class PostgresHarness(DatabaseHarness):
    server: Postgres
    lost = {"prepare": b"prepare transaction", "commit": b"commit prepared", "commit_one_phase": b"commit"}  # noqa: RUF012  # never changed

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def make(self, name: str) -> Any:
        return transactions.Postgres(
            name, self.server.conninfo.replace(f"port={self.server.port}", f"port={self.proxy.port}")
        )

    def end_all(self) -> None:
        others = "from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        self.run(f"select pg_terminate_backend(pid) {others}")
        until(lambda: not self.run(f"select pid {others}"), "the end of all sessions")
        for (gid,) in self.run("select gid from pg_prepared_xacts"):
            quoted = gid.replace("'", "''")
            self.run(f"rollback prepared '{quoted}'")

    def spoil(self, participant: Any, branch: Branch) -> Flow[None]:
        connection = yield from self.begun(participant, branch)
        with contextlib.suppress(psycopg.Error):
            yield from call("spoil", self.execute, connection, "select 1 / 0")

    def foreign(self) -> str:
        with psycopg.connect(self.server.conninfo) as connection:
            connection.execute("insert into bag values ('foreign')")
            connection.execute("prepare transaction 'somebody else''s'")
        return "somebody else's"


class MariaDBHarness(DatabaseHarness):
    server: MariaDB
    lost = {"prepare": b"xa prepare", "commit": b"xa commit", "commit_one_phase": b"xa commit"}  # noqa: RUF012  # never changed
    table = "create table bag (k varchar(99)) engine = InnoDB"

    def connect(self) -> Any:
        return pymysql.connect(**self.server.parameters, autocommit=True)  # type: ignore[call-overload]  # a dict of several types

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def make(self, name: str) -> Any:
        return transactions.MariaDB(name, **(self.server.parameters | {"port": self.proxy.port}))  # type: ignore[arg-type]  # as above

    def end_all(self) -> None:
        others = "from information_schema.processlist where user = 'tester' and id <> connection_id()"
        for (number,) in self.run(f"select id {others}"):
            with contextlib.suppress(pymysql.Error):
                self.run(f"kill {number}")
        until(lambda: not self.run(f"select id {others}"), "the end of all sessions")
        for *_, xid in self.run("xa recover format = 'sql'"):
            self.run(f"xa rollback {xid}")

    def spoil(self, participant: Any, branch: Branch) -> Flow[None]:
        """Its connection is killed: MariaDB takes what other errors leave of a branch for something that can be committed."""
        connection = yield from self.begun(participant, branch)
        number = connection.thread_id()
        self.run(f"kill {number}")
        until(
            lambda: not self.run(f"select id from information_schema.processlist where id = {number}"),
            "the end of the session",
        )

    def foreign(self) -> str:
        connection = self.connect()
        self.foreigners.append(connection)
        with connection.cursor() as cursor:
            for statement in ("xa start 'somebody'", "insert into bag values ('foreign')", "xa end 'somebody'", "xa prepare 'somebody'"):  # fmt: skip
                cursor.execute(statement)
        return "somebody/"


class TestPostgres(Conformance):
    without = ["tidy_keeps_what_may_be_asked_for"]  # noqa: RUF012  # it keeps nothing: PostgreSQL does

    @pytest.fixture(autouse=True)
    def _server(self, servers: tuple[Postgres, MariaDB]) -> None:
        self.server = servers[0]

    def make(self) -> Harness:
        return PostgresHarness(self.server)


class TestPostgresOnAnEventLoop(TestPostgres):
    asynchronous = True
    without = [*RESTARTS, *TestPostgres.without]  # noqa: RUF012  # never changed


class TestMariaDB(Conformance):
    @pytest.fixture(autouse=True)
    def _server(self, servers: tuple[Postgres, MariaDB]) -> None:
        self.server = servers[1]

    def make(self) -> Harness:
        return MariaDBHarness(self.server)


class TestMariaDBOnAnEventLoop(TestMariaDB):
    asynchronous = True
    without = RESTARTS
