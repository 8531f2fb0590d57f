"""Mistakes in the configuration, told in one sentence when a connection is enlisted: before any work is done, and not by the first crash.

Users with fewer rights are made by the tests; servers that differ in a setting are started for them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from tests.support.bank import Bank
from tests.support.databases import MariaDB, Postgres

from quorate import transactions
from quorate.errors import UsageError
from quorate.transactions import Aborted, ConfigurationError
from quorate.transactions.drivers import session_for
from quorate.transactions.flow import call
from quorate.transactions.gtid import new
from quorate.transactions.participant import Branch
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sync import Coordinator

PG_OUT = "update accounts set balance = balance - 7 where id = 1"
MY_IN = "update accounts set balance = balance + 7 where id = 1"


def told(decisions: Path, participants: list[Any], what: Any, resource: str) -> str:
    """What is said when it is enlisted."""
    with Coordinator(decisions, participants, sweep_every=None) as coordinator:
        tx = coordinator.transaction()
        with pytest.raises(ConfigurationError) as error:
            tx.enlist(what, resource=resource)
        tx.rollback()
    assert "\n" not in str(error.value)
    return str(error.value)


def enlists(decisions: Path, participants: list[Any], what: Any, resource: str) -> None:
    with Coordinator(decisions, participants, sweep_every=None) as coordinator:
        tx = coordinator.transaction()
        tx.enlist(what, resource=resource)
        tx.rollback()


# ---- PostgreSQL


@pytest.fixture
def as_user(bank: Bank) -> Iterator[Callable[[str], "psycopg.Connection[Any]"]]:
    """Connections of other users, who may write to the accounts."""
    with ExitStack() as opened:

        def connect(user: str) -> "psycopg.Connection[Any]":
            conninfo = bank.postgres.conninfo.replace("user=postgres", f"user={user}")
            return opened.enter_context(psycopg.connect(conninfo, autocommit=True))

        for user in ("app", "other"):
            bank.pg_run(f"drop role if exists {user}")
            bank.pg_run(f"create role {user} login")
            bank.pg_run(f"grant all on accounts to {user}")
        yield connect
    for user in ("app", "other"):
        bank.pg_run(f"drop owned by {user}")
        bank.pg_run(f"drop role {user}")


def orders(bank: Bank, user: str = "postgres", database: str = "postgres") -> Any:
    conninfo = bank.postgres.conninfo.replace("user=postgres", f"user={user}")
    return transactions.Postgres("orders", conninfo.replace("dbname=postgres", f"dbname={database}"))


def test_recovery_must_be_allowed_to_end_what_the_user_prepares(bank: Bank, decisions: Path, as_user: Any) -> None:
    connection = as_user("app")
    said = told(decisions, [orders(bank, "other")], connection, "orders")
    assert "the connection's user is app, and recovery's is other" in said
    assert connection.execute("select 1").fetchall() == [(1,)]
    enlists(decisions, [orders(bank, "app")], connection, "orders")
    enlists(decisions, [orders(bank, "postgres")], connection, "orders")


def test_recovery_must_look_at_the_same_database(bank: Bank, decisions: Path) -> None:
    bank.pg_run("create database elsewhere")
    try:
        with psycopg.connect(bank.postgres.conninfo, autocommit=True) as connection:
            said = told(decisions, [orders(bank, database="elsewhere")], connection, "orders")
        assert "to the database postgres, and recovery's to elsewhere" in said
    finally:
        bank.pg_run("drop database elsewhere with (force)")


def test_a_server_that_prepares_nothing(bank: Bank, decisions: Path, tmp_path: Path) -> None:
    """And one that is not recovery's, which another connection is of; and a standby."""
    with Postgres(tmp_path / "postgres", {"max_prepared_transactions": "0"}) as other:
        assert isinstance(other, Postgres)
        said = told(decisions, [transactions.Postgres("orders", other.conninfo)], "orders", "orders")
        assert "max_prepared_transactions is 0" in said
    with Postgres(tmp_path / "another") as another:
        assert isinstance(another, Postgres)
        with psycopg.connect(another.conninfo, autocommit=True) as connection:
            assert "to another server than recovery's" in told(decisions, [orders(bank)], connection, "orders")
        another.stop()
        (another.folder / "data" / "standby.signal").touch()
        another.start()
        said = told(decisions, [transactions.Postgres("orders", another.conninfo)], "orders", "orders")
        assert "the server is a standby, which cannot prepare transactions" in said


def test_no_slots_left(bank: Bank, decisions: Path) -> None:
    held = []
    ((slots,),) = bank.pg_run("select current_setting('max_prepared_transactions')::int")
    with bank.pg() as connection:
        for number in range(slots):
            connection.execute("begin")
            connection.execute("select pg_current_xact_id()")
            connection.execute(f"prepare transaction 'held {number}'")
            held.append(number)
        with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
            tx = coordinator.transaction()
            tx.enlist("orders").execute(PG_OUT)
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute(MY_IN)
            with pytest.raises(Aborted, match=f"{slots} of max_prepared_transactions = {slots} are in use, 0 by us"):
                tx.commit()
        for number in held:
            connection.execute(f"rollback prepared 'held {number}'")
    bank.check(moved=0)


# ---- MariaDB


def root(server: MariaDB) -> "pymysql.Connection[Any]":
    return pymysql.connect(unix_socket=str(server.folder / "socket"), user="root", database="test", autocommit=True)


def stock(server: MariaDB, user: str = "tester", **more: Any) -> Any:
    return transactions.MariaDB("stock", **{**server.parameters, "user": user, **more})


@pytest.fixture
def grants(bank: Bank) -> Iterator[Callable[[str, str], "pymysql.Connection[Any]"]]:
    """A user with these rights ("" for none), and a connection of his."""
    opened: list[Any] = []
    users: list[str] = []
    administrator = root(bank.mariadb)

    def run(statement: str) -> None:
        with administrator.cursor() as cursor:
            cursor.execute(statement)

    def grant(user: str, *rights: str) -> "pymysql.Connection[Any]":
        run(f"create user {user}@'%'")
        users.append(user)
        for right in rights:
            run(f"grant {right} to {user}@'%'")
        connection = pymysql.connect(host="127.0.0.1", port=bank.mariadb.port, user=user, autocommit=True)
        opened.append(connection)
        return connection

    # made by whoever comes first
    enlists(bank.mariadb.folder / "decisions", [stock(bank.mariadb)], "stock", "stock")
    yield grant
    for connection in opened:
        connection.close()
    for user in users:
        run(f"drop user {user}@'%'")
    administrator.close()


_WORK = "select, insert, update on test.accounts"
_WITNESS = "select, insert, delete on test.quorate_txn"


def test_recovery_needs_its_rights_on_the_witness_table(bank: Bank, decisions: Path, grants: Any) -> None:
    lacks = "recovery's user lacks SELECT, INSERT and DELETE on the witness table test.quorate_txn"
    for user, rights, expected in (
        ("none", "select on test.accounts", "the witness table test.quorate_txn is not there and cannot be made"),
        ("some", "select, insert on test.quorate_txn", lacks),
        ("more", "insert, delete on test.quorate_txn", lacks),
    ):
        connection = grants(user, rights)
        assert expected in told(decisions, [stock(bank.mariadb, user)], connection, "stock")
    connection = grants("enough", _WITNESS)
    enlists(decisions, [stock(bank.mariadb, "enough")], connection, "stock")


def test_the_user_needs_his_on_it(bank: Bank, decisions: Path, grants: Any) -> None:
    connection = grants("app", _WORK)
    said = told(decisions, [stock(bank.mariadb)], connection, "stock")
    assert "the connection's user app@% lacks INSERT on the witness table" in said
    connection = grants("app2", _WORK, "insert on test.quorate_txn")
    enlists(decisions, [stock(bank.mariadb)], connection, "stock")


def test_recovery_must_be_able_to_end_connections_of_another_user(bank: Bank, decisions: Path, grants: Any) -> None:
    connection = grants("app", _WORK, "insert on test.quorate_txn")
    grants("weak", _WITNESS)
    grants("strong", _WITNESS, "connection admin on *.*")
    said = told(decisions, [stock(bank.mariadb, "weak")], connection, "stock")
    assert "recovery's is weak@%, who lacks the right CONNECTION ADMIN" in said
    enlists(decisions, [stock(bank.mariadb, "strong")], connection, "stock")


def test_what_is_enlisted_with_these_rights_is_recovered_with_them(bank: Bank, decisions: Path, grants: Any) -> None:
    """The rights that are asked for are enough: prepared by one user, whose connection lives on, and ended by the other."""
    connection = grants("app", _WORK, "insert on test.quorate_txn")
    grants("strong", _WITNESS, "connection admin on *.*")
    participant, recovery = stock(bank.mariadb, "strong"), stock(bank.mariadb, "strong")
    _, session = session_for(connection)
    branch = Branch(new("unit", time.time(), 5.0, 1), "stock")
    Shell().run(participant.begin(branch, session, 5.0))
    with connection.cursor() as cursor:
        cursor.execute("update test.accounts set balance = balance + 7 where id = 1")
    Shell().run(call("prepare", participant.prepare, branch))
    Shell().run(call("fence", recovery.fence, branch))
    Shell().run(call("rollback", recovery.rollback, branch))
    participant.let_go(branch)
    for one in (participant, recovery):
        one.pool.close()
    bank.check(moved=0)


def test_a_witness_table_that_cannot_be_made(bank: Bank, decisions: Path, grants: Any) -> None:
    administrator = root(bank.mariadb)
    with administrator.cursor() as cursor:
        cursor.execute("create database if not exists second")
    try:
        connection = grants("second", "select on second.*")
        said = told(decisions, [stock(bank.mariadb, "second", database="second")], connection, "stock")
        assert "the witness table second.quorate_txn is not there and cannot be made" in said
    finally:
        with administrator.cursor() as cursor:
            cursor.execute("drop database second")
        administrator.close()


def test_an_engine_that_is_not_transactional(bank: Bank, decisions: Path) -> None:
    bank.my_run("create table notes (id int) engine = MyISAM")
    try:
        said = told(decisions, [stock(bank.mariadb)], "stock", "stock")
        assert "the table notes is of the engine MyISAM" in said
        enlists(decisions, [stock(bank.mariadb, ignore_tables=["notes"])], "stock", "stock")
    finally:
        bank.my_run("drop table notes")


def test_a_server_that_is_read_only_and_one_that_is_not_recoverys(
    bank: Bank, decisions: Path, tmp_path: Path, grants: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server, which writes a binary log, besides: that is warned of."""
    grants("app", _WITNESS)
    administrator = root(bank.mariadb)
    with administrator.cursor() as cursor:
        cursor.execute("set global read_only = 1")
    try:
        said = told(decisions, [stock(bank.mariadb, "app")], "stock", "stock")
        assert "the server is read only" in said
    finally:
        with administrator.cursor() as cursor:
            cursor.execute("set global read_only = 0")
        administrator.close()
    with MariaDB(tmp_path / "mariadb", {"log-bin": "binlog", "server-id": "7"}) as other:
        assert isinstance(other, MariaDB)
        with pymysql.connect(**other.parameters, autocommit=True) as connection:  # type: ignore[call-overload]  # a dict of several types
            assert "to another server than recovery's" in told(decisions, [stock(bank.mariadb)], connection, "stock")
        with caplog.at_level(logging.WARNING, "quorate.transactions"):
            enlists(decisions, [stock(other)], "stock", "stock")
        assert [record.message for record in caplog.records if "MDEV-32830" in record.message]


def test_clocks_that_differ_too_much(bank: Bank, decisions: Path) -> None:
    """By the server's own clock for this connection; what it writes down of a commit in one phase is kept for a time."""
    with bank.my() as connection:
        with connection.cursor() as cursor:
            cursor.execute("set timestamp = unix_timestamp() + 90")
        with Coordinator(decisions, [stock(bank.mariadb)], sweep_every=None) as coordinator:
            tx = coordinator.transaction()
            with pytest.raises(transactions.ParticipantError, match="its clock and ours differ by more than a minute"):
                tx.enlist(connection, resource="stock")
            tx.rollback()
        with connection.cursor() as cursor:
            cursor.execute("select 42")
            assert cursor.fetchall() == ((42,),)


def test_a_participant_that_is_not_the_coordinators(bank: Bank, decisions: Path) -> None:
    """Recovery would not look for its branches."""
    with (
        Coordinator(decisions, [orders(bank)], sweep_every=None) as coordinator,
        closing(bank.pg()) as connection,
        coordinator.transaction() as tx,
        pytest.raises(UsageError, match="'orders' is not one of the coordinator's"),
    ):
        tx.enlist(connection, resource=orders(bank))
