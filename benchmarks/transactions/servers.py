"""The databases and the store of one part of a run, what they count, and the processes that carry workers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import psycopg
import pymysql
from tests.support.databases import MariaDB, Postgres
from tests.support.kvcluster import KvCluster

from benchmarks.transactions.modes import Places
from benchmarks.transactions.slowsync import SlowSync
from benchmarks.transactions.worker import ROWS
from quorate import transactions
from quorate.transactions.sync import Coordinator

ROOT = Path(__file__).resolve().parents[2]
_CONNECTIONS = "400"
PRELOADED = ("postgres", "mariadb", "store", "log")

Numbers = dict[str, float]


class Servers:
    """One of each, and three members of the store. ``slow``: preloaded into all. ``binlog``: MariaDB writes and syncs one. ``think``: seconds between a worker's
    transactions."""

    def __init__(self, folder: Path, workers: int, slow: SlowSync | None, binlog: bool, think: float) -> None:
        self.folder = folder
        self.think = think
        self.slow = slow
        self._stack = ExitStack()
        self._clients: list[Client] = []
        try:
            # unslowed they are as they are out of the box, but for the number of connections
            postgres = {"max_connections": _CONNECTIONS, "max_prepared_transactions": _CONNECTIONS}
            mariadb = {"max-connections": _CONNECTIONS}
            if slow is not None:
                postgres["wal_sync_method"] = "fdatasync"
                mariadb["innodb-flush-method"] = "fsync"
            if binlog:
                mariadb |= {"log-bin": str(folder / "my" / "binlog"), "sync-binlog": "1", "server-id": "1"}
            with self._preloaded("postgres"):
                self.postgres = Postgres(folder / "pg", postgres)
                self._stack.enter_context(self.postgres)
            with self._preloaded("mariadb"):
                self.mariadb = MariaDB(folder / "my", mariadb)
                self._stack.enter_context(self.mariadb)
            (folder / "kv").mkdir()
            with self._preloaded("store"):
                self.store = KvCluster(folder / "kv")
                self._stack.callback(self.store.close)
            (folder / "log").mkdir()
            self.places = Places(
                self.postgres.conninfo, self.mariadb.parameters, self.store.addresses, str(folder / "log")
            )
            self._fill(workers * ROWS)
            self.clients(1)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Servers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._stack.close()

    def _preloaded(self, name: str) -> Any:
        return nullcontext() if self.slow is None else self.slow.inherited(name)

    def _fill(self, rows: int) -> None:
        with psycopg.connect(self.postgres.conninfo, autocommit=True) as pg:
            pg.execute("create table accounts (id int primary key, balance bigint not null) with (fillfactor = 50)")
            pg.execute("insert into accounts select n, 0 from generate_series(0, %s) n", (rows,))
        with self._my() as my:
            my.execute("create table accounts (id int primary key, balance bigint not null) engine = InnoDB")
            my.execute(f"insert into accounts select seq, 0 from seq_0_to_{rows}")

    @contextmanager
    def _my(self) -> Iterator[Any]:
        connection = pymysql.connect(**self.mariadb.parameters, autocommit=True)  # type: ignore[call-overload]  # a dict of several types
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def clients(self, count: int) -> "Sequence[Client]":
        """Processes for workers, the same each time."""
        while len(self._clients) < count:
            with self._preloaded("log"):
                self._clients.append(Client(self.places))
        return self._clients[:count]

    def flushes(self) -> Numbers:
        """So far: as the preloaded library saw them, and by PostgreSQL's own count. MariaDB 10.11 has none of its log's."""
        assert self.slow is not None
        with psycopg.connect(self.postgres.conninfo) as pg:
            row = pg.execute("select wal_sync from pg_stat_wal").fetchone()
            assert row is not None
        return {"wal_sync": row[0], **{name: self.slow.count(name) for name in PRELOADED}}

    def cpu(self) -> float:
        """Seconds that the servers used, their live processes and those that have ended."""
        used = 0.0
        for process in (self.postgres.process, self.mariadb.process, *self.store.processes.values()):
            assert process is not None
            parent = psutil.Process(process.pid)
            used += sum(parent.cpu_times()[:4])
            for child in parent.children():
                try:
                    used += sum(child.cpu_times()[:2])
                except psutil.NoSuchProcess:
                    continue
        return used

    def tidy(self) -> None:
        """End what a round has left to recovery, and forget what is finished."""
        for decisions in (self.places.folder / "decisions", ",".join(self.places.kv)):
            participants = [
                transactions.Postgres("orders", self.postgres.conninfo),
                transactions.MariaDB("stock", **self.mariadb.parameters),  # type: ignore[arg-type]  # a dict of several types
            ]
            with Coordinator(decisions, participants, space="bench", sweep_every=None, keep=0.0) as coordinator:
                coordinator.sweep()

    def check(self) -> None:
        """Nothing is left prepared."""
        with psycopg.connect(self.postgres.conninfo) as pg:
            left = [str(name) for (name,) in pg.execute("select gid from pg_prepared_xacts")]
        with self._my() as my:
            my.execute("xa recover")
            left += [str(row[3]) for row in my.fetchall()]
        if left:
            raise SystemExit(f"left prepared: {', '.join(left)}")


class Client:
    """See ``worker``."""

    def __init__(self, places: Places) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.transactions.worker", places.pack()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("a worker's process has ended")
        return line

    def begin(self, mode: str, workers: int, first: int, seconds: float, transactions: int, think: float) -> None:
        told = {
            "mode": mode,
            "workers": workers,
            "first": first,
            "seconds": seconds,
            "transactions": transactions,
            "think": think,
        }
        self.say(json.dumps(told))

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.hear())
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def drive(servers: Servers, mode: str, workers: int, processes: int, seconds: float, transactions: int = 0) -> Numbers:
    """One slice: ``workers`` in all, spread over ``processes``."""
    clients = servers.clients(processes)
    share = [workers // processes + (index < workers % processes) for index in range(processes)]
    first = 0
    for client, part in zip(clients, share, strict=True):
        client.begin(mode, part, first * ROWS, seconds, transactions, servers.think)
        first += part
    for client in clients:
        client.hear()
    before = servers.cpu()
    for client in clients:
        client.say("go")
    results = [client.result() for client in clients]
    used = servers.cpu() - before
    for client in clients:
        client.say("end")
    for client in clients:
        client.hear()
    latencies = sorted(latency for found in results for latency in found["latencies_us"])
    done = max(len(latencies), 1)
    return {
        "transactions": len(latencies),
        "p50_ms": latencies[len(latencies) // 2] / 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] / 1000,
        "mean_ms": sum(latencies) / done / 1000,
        "per_second": sum(len(found["latencies_us"]) / found["seconds"] for found in results),
        "client_cpu_ms": sum(found["cpu"] for found in results) / done * 1000,
        "server_cpu_ms": used / done * 1000,
    }


def make_folder(name: str) -> Path:
    """Below build/, where nothing else is kept."""
    folder = ROOT / "build" / f"transactions-{os.getpid()}" / name
    folder.mkdir(parents=True)
    return folder


def remove_folders() -> None:
    shutil.rmtree(ROOT / "build" / f"transactions-{os.getpid()}", ignore_errors=True)
