"""A bank with half of its accounts in PostgreSQL and half in MariaDB: money moves between the two, and never becomes more or less."""

import time
from typing import Any

import psycopg
import pymysql
from tests.support.databases import MariaDB, Postgres

from quorate import transactions

ACCOUNTS = 64
START = 1000
INNODB_SECONDS = 0.15
"""InnoDB's tables of transactions and locks show what they did before to whoever looks again within 0.1 s, and that for as long as somebody does."""


class Bank:
    def __init__(self, postgres: Postgres, mariadb: MariaDB) -> None:
        self.postgres = postgres
        self.mariadb = mariadb

    def participants(self) -> list[Any]:
        """New ones, as another process would have."""
        return [
            transactions.Postgres("orders", self.postgres.conninfo),
            transactions.MariaDB("stock", **self.mariadb.parameters),  # type: ignore[arg-type]  # a dict of several types
        ]

    def pg(self) -> "psycopg.Connection[tuple[Any, ...]]":
        return psycopg.connect(self.postgres.conninfo, autocommit=True)

    def my(self) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        return pymysql.connect(**self.mariadb.parameters, autocommit=True)  # type: ignore[call-overload, no-any-return]  # a dict of several types

    def open(self) -> None:
        """Every account with START in it."""
        with self.pg() as connection:
            connection.execute("drop table if exists accounts")
            connection.execute("create table accounts (id int primary key, balance bigint not null)")
            connection.execute("insert into accounts select n, %s from generate_series(1, %s) n", (START, ACCOUNTS))
        self.my_run("drop table if exists accounts")
        self.my_run("create table accounts (id int primary key, balance bigint not null) engine = InnoDB")
        rows = ", ".join(f"({number}, {START})" for number in range(1, ACCOUNTS + 1))
        self.my_run(f"insert into accounts values {rows}")

    def my_run(self, statement: str) -> list[tuple[Any, ...]]:
        connection = self.my()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def pg_run(self, statement: str) -> list[tuple[Any, ...]]:
        with self.pg() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def sums(self) -> tuple[int, int]:
        ((pg,),) = self.pg_run("select sum(balance)::bigint from accounts")
        ((my,),) = self.my_run("select sum(balance) from accounts")
        return int(pg), int(my)

    def balances(self) -> list[tuple[int, int]]:
        """Of each account, in PostgreSQL and in MariaDB."""
        pg = self.pg_run("select balance from accounts order by id")
        my = self.my_run("select balance from accounts order by id")
        return [(int(one[0]), int(other[0])) for one, other in zip(pg, my, strict=True)]

    def prepared(self) -> list[str]:
        """What is prepared in either, and what only InnoDB knows of."""
        found = [str(name) for (name,) in self.pg_run("select gid from pg_prepared_xacts")]
        found += [str(row[3]) for row in self.my_run("xa recover")]
        known = self._detached()
        if known:
            # perhaps of a moment ago
            time.sleep(INNODB_SECONDS)
            known = self._detached()
        return found + known

    def _detached(self) -> list[str]:
        rows = self.my_run(
            "select trx_id from information_schema.innodb_trx where trx_mysql_thread_id = 0 and trx_id <> 0"
        )
        return [f"trx {row[0]}" for row in rows]

    def roll_back_all(self) -> None:
        """What a test that failed has left prepared, so that those after it do not wait for it."""
        for (name,) in self.pg_run("select gid from pg_prepared_xacts"):
            self.pg_run(f"rollback prepared '{name}'")
        for form, size, _, data in self.my_run("xa recover"):
            raw = data if isinstance(data, bytes) else str(data).encode()
            self.my_run(f"xa rollback X'{raw[:size].hex()}', X'{raw[size:].hex()}', {form}")

    def at_work(self) -> int:
        """Sessions of PostgreSQL that have a branch, which they may prepare yet, whoever has hung up on them."""
        ((found,),) = self.pg_run("select count(*) from pg_locks where locktype = 'advisory' and pid is not null")
        return int(found)

    def no_locks(self) -> None:
        """Every row of both can be locked now."""
        with self.pg() as pg, pg.transaction():
            pg.execute("select * from accounts for update nowait")
        connection = self.my()
        try:
            with connection.cursor() as cursor:
                cursor.execute("begin")
                cursor.execute("select * from accounts for update nowait")
                cursor.execute("rollback")
        finally:
            connection.close()

    def check(self, moved: int | None = None) -> None:
        """Nothing is prepared or locked, and no money was made or lost; ``moved``: this much went from PostgreSQL to MariaDB."""
        # transactions of the server's own come and go; a lost branch stays
        until(lambda: not self.prepared(), "nothing is prepared", 5.0)
        self.no_locks()
        pg, my = self.sums()
        assert pg + my == 2 * ACCOUNTS * START, (pg, my)
        if moved is not None:
            assert my - ACCOUNTS * START == moved, (pg, my)


def until(condition: Any, what: str, seconds: float = 30.0, pause: float = 0.01) -> None:
    """``pause``: between two looks; INNODB_SECONDS for what InnoDB tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
