"""Connections: what becomes of them when a statement's answer is not waited for, when the work on them fails, and when their transaction is at its end.

A connection whose answers are out of step with its statements is the worst thing that can be given back: it answers, and says something else.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pymysql
import pytest
from psycopg.rows import dict_row
from tests.support.bank import Bank

from quorate.transactions import Aborted, MariaDB, Postgres
from quorate.transactions.aio import Coordinator as AsyncCoordinator
from quorate.transactions.drivers import session_for
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.gtid import parse
from quorate.transactions.sync import Coordinator

PG_OUT = "update accounts set balance = balance - 7 where id = 1"
MY_IN = "update accounts set balance = balance + 7 where id = 1"


BLOCKING: dict[str, Callable[[Bank], Any]] = {"PyMySQL": Bank.my, "psycopg": Bank.pg}


@pytest.mark.parametrize("driver", ["PyMySQL", "psycopg"])
def test_a_session_whose_answer_was_not_taken_is_of_no_use(bank: Bank, driver: str) -> None:
    with contextlib.closing(BLOCKING[driver](bank)) as connection:
        _, session = session_for(connection)
        request = session.execute("select 1")
        assert session.state() == "broken"
        while not request.advance():
            """It comes."""
        assert [str(value) for (value,) in request.answer().rows] == ["1"]
        assert session.state() == "idle"


@pytest.mark.parametrize(
    ("statement", "hung_up"), [("commit", True), ("select pg_sleep(60)", True), ("select pg_sleep(60)", False)]
)
def test_asyncpg_closed_by_somebody_else_has_not_answered(bank: Bank, statement: str, hung_up: bool) -> None:
    """It gives None for what was under way then, which is no command's tag, or an error of its own: the statement may have been carried out."""

    async def main() -> None:
        connection = await asyncpg.connect(bank.postgres.url.replace("postgresql+psycopg", "postgresql"))
        _, session = session_for(connection)
        server_process = connection.get_server_pid()
        await session.execute("begin")
        # the commit takes its time
        await session.execute(
            "create temporary table slow (id int); "
            "create function pg_temp.sleeps() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end'; "
            "create constraint trigger slow after insert on slow deferrable initially deferred for each row execute function pg_temp.sleeps(); "
            "insert into slow values (1)"
        )
        asked = asyncio.ensure_future(session.execute(statement))
        await asyncio.sleep(0)
        # as is done with the connection of whoever was cancelled in SQLAlchemy
        if hung_up:
            session.hang_up()
        closing = asyncio.ensure_future(connection.close())
        with pytest.raises(ConnectionBroken):
            await asked
        await asyncio.wait({closing})
        assert session.state() == "broken"
        # it sees that nobody is there only when it has slept
        bank.pg_run(f"select pg_terminate_backend({server_process})")

    asyncio.run(main())


def test_connections_are_opened_as_the_user_says(bank: Bank, decisions: Path) -> None:
    postgres = Postgres("orders", bank.postgres.conninfo, row_factory=dict_row, prepare_threshold=None)
    mariadb = MariaDB("stock", **bank.mariadb.parameters, cursorclass=pymysql.cursors.DictCursor)  # type: ignore[arg-type]  # a dict of several types
    with Coordinator(decisions, [postgres, mariadb], sweep_every=None) as coordinator, coordinator.transaction() as tx:
        connection = tx.enlist("orders")
        assert connection.prepare_threshold is None
        assert connection.execute("select 1 as one").fetchone() == {"one": 1}
        with tx.enlist("stock").cursor() as cursor:
            cursor.execute("select 1 as one")
            assert cursor.fetchone() == {"one": 1}

    async def main() -> None:
        postgres = Postgres("orders", bank.postgres.conninfo, row_factory=dict_row)
        async with (
            AsyncCoordinator(decisions, [postgres], sweep_every=None) as coordinator,
            coordinator.transaction() as tx,
        ):
            cursor = await (await tx.enlist("orders")).execute("select 1 as one")
            assert await cursor.fetchone() == {"one": 1}

    asyncio.run(main())


class InTheWay:
    """Makes a branch's witness row, and does not commit: its prepare waits, until just after the coordinator has given it up."""

    def __init__(self, bank: Bank) -> None:
        self._connection = bank.my()
        self._connection.autocommit(False)

    def insert(self, gtid: str) -> None:
        found = parse(gtid)
        assert found is not None
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"insert into quorate_txn values ({round(found.deadline * 1000)}, X'{gtid.encode().hex()}', 'stock', 1)"
            )

    def watch(self, when: str, point: str) -> None:
        if (when, point) == ("before", "stock: rollback"):
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def in_the_way(bank: Bank) -> Iterator[InTheWay]:
    with contextlib.closing(InTheWay(bank)) as made:
        yield made


def test_a_connection_that_does_not_answer_in_time_answers_nothing_wrong_later(
    bank: Bank, decisions: Path, in_the_way: InTheWay
) -> None:
    with Coordinator(decisions, bank.participants(), sweep_every=None, watch=in_the_way.watch) as coordinator:
        connection = bank.my()
        tx = coordinator.transaction(timeout=5.0)
        tx.enlist("orders").execute(PG_OUT)
        with tx.enlist(connection, resource="stock").cursor() as cursor:
            cursor.execute(MY_IN)
        in_the_way.insert(tx.gtid)
        with pytest.raises(Aborted, match="no answer in time"):
            tx.commit()
        with contextlib.suppress(pymysql.Error, OSError), connection.cursor() as cursor:
            cursor.execute("select 42")
            assert cursor.fetchall() == ((42,),)
        with contextlib.suppress(pymysql.Error):
            connection.close()


def test_nor_does_an_asynchronous_one(bank: Bank, decisions: Path, in_the_way: InTheWay) -> None:
    asyncio.run(_nor_does_an_asynchronous_one(bank, decisions, in_the_way))


async def _nor_does_an_asynchronous_one(bank: Bank, decisions: Path, in_the_way: InTheWay) -> None:
    import aiomysql  # type: ignore[import-untyped]  # it has no types

    parameters = dict(bank.mariadb.parameters)
    parameters["db"] = parameters.pop("database")
    async with AsyncCoordinator(
        decisions, bank.participants(), sweep_every=None, watch=in_the_way.watch
    ) as coordinator:
        connection = await aiomysql.connect(**parameters, autocommit=True)
        tx = coordinator.transaction(timeout=5.0)
        await (await tx.enlist("orders")).execute(PG_OUT)
        async with (await tx.enlist(connection, resource="stock")).cursor() as cursor:
            await cursor.execute(MY_IN)
        await asyncio.to_thread(in_the_way.insert, tx.gtid)
        with pytest.raises(Aborted, match="no answer in time"):
            await tx.commit()
        with contextlib.suppress(pymysql.Error, OSError, RuntimeError):
            async with connection.cursor() as cursor:
                await cursor.execute("select 42")
                assert await cursor.fetchall() == ((42,),)
        connection.close()
