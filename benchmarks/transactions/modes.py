"""What is measured, for programs that block: each mode opens a worker's connections, and then does one transaction at a time on them: one row of
one table in each database is changed.

Those written by hand are as short as they can be: statements by the drivers' own calls, connections and cursors kept, no checks of what was answered.
"""

import itertools
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from quorate.transactions import MariaDB, Postgres
from quorate.transactions.sync import Coordinator

PG_UPDATE = "update accounts set balance = balance + 1 where id = %s"
MY_UPDATE = "update accounts set balance = balance + 1 where id = %s"

Once = Callable[[int], None]
"""One transaction, on that row."""


class Places:
    """Where everything is, as a worker's process is told. ``folder``: for log files, the same for all processes."""

    def __init__(self, conninfo: str, mariadb: dict[str, Any], kv: Sequence[str], folder: str) -> None:
        self.conninfo = conninfo
        self.mariadb = mariadb
        self.kv = list(kv)
        self.folder = Path(folder)

    def pack(self) -> str:
        return json.dumps([self.conninfo, self.mariadb, self.kv, str(self.folder)])


def unpack(text: str) -> Places:
    return Places(*json.loads(text))


class Mode:
    """``open`` is called once for each worker, from its thread."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._opened: list[Any] = []
        self._numbers = itertools.count()
        self._names = f"hand.{os.getpid()}"

    def open(self) -> Once:
        raise NotImplementedError

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def pg(self) -> "psycopg.Connection[tuple[Any, ...]]":
        connection = psycopg.connect(self.places.conninfo, autocommit=True)
        self._opened.append(connection)
        return connection

    def my(self) -> Any:
        """A cursor."""
        connection = pymysql.connect(**self.places.mariadb, autocommit=True)
        self._opened.append(connection)
        return connection.cursor()


class PostgresAlone(Mode):
    def open(self) -> Once:
        pg = self.pg()

        def once(row: int) -> None:
            pg.execute("begin")
            pg.execute(PG_UPDATE, (row,))
            pg.execute("commit")

        return once


class DualWrite(Mode):
    """Two transactions, one after the other: who dies in between has lost one."""

    def open(self) -> Once:
        pg, my = self.pg(), self.my()

        def once(row: int) -> None:
            pg.execute("begin")
            pg.execute(PG_UPDATE, (row,))
            my.execute("begin")
            my.execute(MY_UPDATE, (row,))
            pg.execute("commit")
            my.execute("commit")

        return once


class ByHand(Mode):
    """Two-phase commit, step by step. Without a record of the decision nobody can finish what a dead coordinator began."""

    def open(self) -> Once:
        pg, my = self.pg(), self.my()

        def once(row: int) -> None:
            name = f"{self._names}.{next(self._numbers)}"
            pg.execute("begin")
            pg.execute(PG_UPDATE, (row,))
            my.execute(f"xa start '{name}'")
            my.execute(MY_UPDATE, (row,))
            my.execute(f"xa end '{name}'")
            pg.execute(f"prepare transaction '{name}'".encode())
            my.execute(f"xa prepare '{name}'")
            self.decide(name)
            pg.execute(f"commit prepared '{name}'".encode())
            my.execute(f"xa commit '{name}'")

        return once

    def decide(self, name: str) -> None:
        return


class ByHandWithLog(ByHand):
    """With a line in a file, flushed: each transaction by itself, for to share a flush is already more than one writes by hand."""

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._file = os.open(places.folder / f"hand-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()

    def decide(self, name: str) -> None:
        os.write(self._file, f"commit {name}\n".encode())
        os.fdatasync(self._file)

    def close(self) -> None:
        super().close()
        os.close(self._file)


class Ours(Mode):
    """As a user has it: one coordinator for the process, that opens the connections itself and keeps them."""

    replicated = False
    acknowledge = "applied"

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        decisions: Any = ",".join(places.kv) if self.replicated else places.folder / "decisions"
        self._pg = Postgres("orders", places.conninfo)
        self._my = MariaDB("stock", **places.mariadb)
        self._coordinator = Coordinator(
            decisions, [self._pg, self._my], space="bench", timeout=30, acknowledge=self.acknowledge
        )
        self._coordinator.start()

    def open(self) -> Once:
        coordinator, orders, stock = self._coordinator, self._pg, self._my

        def once(row: int) -> None:
            with coordinator.transaction() as tx:
                tx.enlist(orders).execute(PG_UPDATE, (row,))
                with tx.enlist(stock).cursor() as cursor:
                    cursor.execute(MY_UPDATE, (row,))

        return once

    def close(self) -> None:
        self._coordinator.close()


class OursReplicated(Ours):
    replicated = True


class OursEarly(Ours):
    acknowledge = "decided"


class OursReplicatedEarly(OursReplicated):
    acknowledge = "decided"


MODES: dict[str, type[Mode]] = {
    "alone": PostgresAlone,
    "dual": DualWrite,
    "hand": ByHand,
    "hand-log": ByHandWithLog,
    "local": Ours,
    "early": OursEarly,
    "replicated": OursReplicated,
    "replicated-early": OursReplicatedEarly,
}
