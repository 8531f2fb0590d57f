"""The bank transfer by sixteen workers in four processes, while coordinators, databases and members of the store die at random.

QUORATE_CHAOS_SECONDS is how long (30 if not set), QUORATE_CHAOS_SEED which failures. Afterwards the money is all there, every account moved as often as
workers were told (those that died, or could not be told, count as either), nothing is prepared and nothing is locked.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.txn_worker import coordinator_of
from tests.support.bank import ACCOUNTS, START, Bank, until
from tests.support.databases import MariaDB, Postgres, why_no_mariadb, why_no_postgres
from tests.support.kvcluster import KvCluster

from quorate.errors import QuorateError
from quorate.transactions.recovery import Report

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("QUORATE_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("QUORATE_CHAOS_SEED") or random.randrange(1 << 32))
PROCESSES = 4
THREADS = 4
PATIENCE = 60.0
CALM = 40
"""Transactions to be committed between one failure and the next."""


class Worker:
    """One process of several workers; what it tells is added up, and survives it."""

    def __init__(self, task: dict[str, object], told: Counter[tuple[str, int]]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.txn_worker", json.dumps(task)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._told = told
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            words = line.split()
            if len(words) == 2 and line.endswith("\n"):
                self._told[words[0], int(words[1])] += 1

    def end(self, kill: bool) -> None:
        if kill:
            self.process.kill()
        else:
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join()
        assert kill or self.process.returncode == 0


class Chaos:
    def __init__(self, bank: Bank, store: KvCluster) -> None:
        self.bank = bank
        self.store = store
        self.random = random.Random(SEED)
        self.told: Counter[tuple[str, int]] = Counter()
        self.deaths = 0
        self.failures: Counter[str] = Counter()
        self.task: dict[str, object] = {
            "postgres": bank.postgres.conninfo,
            "mariadb": bank.mariadb.parameters,
            "decisions": ",".join(store.addresses),
            "timeout": 2.0,
            "sweep_every": 1.0,
            "accounts": ACCOUNTS,
            "threads": THREADS,
        }
        self.workers = [self._worker() for _ in range(PROCESSES)]

    def _worker(self) -> Worker:
        return Worker(self.task | {"seed": self.random.randrange(1 << 30)}, self.told)

    def committed(self) -> int:
        return sum(count for (outcome, _), count in list(self.told.items()) if outcome == "committed")

    def calm(self) -> None:
        enough = self.committed() + CALM
        until(lambda: self.committed() >= enough, "workers commit", PATIENCE)

    # ---- failures

    def kill_worker(self) -> None:
        index = self.random.randrange(PROCESSES)
        self.workers[index].end(kill=True)
        self.deaths += 1
        self.workers[index] = self._worker()

    def pause_worker(self) -> None:
        """Past the deadline of what it is at: others abort that meanwhile."""
        process = self.random.choice(self.workers).process
        process.send_signal(signal.SIGSTOP)
        time.sleep(5.0)
        process.send_signal(signal.SIGCONT)

    def kill_postgres(self) -> None:
        self.bank.postgres.kill()
        self.bank.postgres.start()

    def kill_mariadb(self) -> None:
        self.bank.mariadb.kill()
        self.bank.mariadb.start()

    def kill_leader(self) -> None:
        leader = self.store.leader()
        self.store.kill(leader)
        self.store.start(leader)

    def kill_follower(self) -> None:
        sid = self.random.choice([sid for sid in self.store.processes if sid != self.store.leader()])
        self.store.kill(sid)
        self.store.start(sid)

    def kill_both_databases(self) -> None:
        self.bank.postgres.kill()
        self.bank.mariadb.kill()
        self.bank.mariadb.start()
        self.bank.postgres.start()


FAILURES: list[Callable[[Chaos], None]] = [
    Chaos.kill_worker,
    Chaos.pause_worker,
    Chaos.kill_postgres,
    Chaos.kill_mariadb,
    Chaos.kill_leader,
    Chaos.kill_follower,
    Chaos.kill_both_databases,
]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    if reason := why_no_postgres() or why_no_mariadb():
        pytest.skip(reason)
    postgres = Postgres(tmp_path / "postgres", {"max_connections": "200", "max_prepared_transactions": "200"})
    with postgres, MariaDB(tmp_path / "mariadb", {"max-connections": "200"}) as mariadb:
        assert isinstance(mariadb, MariaDB)
        made = Bank(postgres, mariadb)
        made.open()
        yield made


@pytest.mark.timeout(int(SECONDS * 2 + 300))
def test_money_is_neither_made_nor_lost(bank: Bank, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with KvCluster(tmp_path / "store") as store:
        store.steady()
        chaos = Chaos(bank, store)
        try:
            end = time.monotonic() + SECONDS
            remaining: list[Callable[[Chaos], None]] = []
            while time.monotonic() < end:
                chaos.calm()
                # each once before any comes twice
                remaining = remaining or chaos.random.sample(FAILURES, len(FAILURES))
                failure = remaining.pop()
                chaos.failures[failure.__name__] += 1
                failure(chaos)
            chaos.calm()
        finally:
            for worker in chaos.workers:
                worker.end(kill=False)
        coordinator = coordinator_of(chaos.task)
        reports: list[Report] = []

        def swept() -> bool:
            try:
                reports.append(coordinator.sweep())
            except QuorateError:
                return False
            found = reports[-1]
            return not found.in_doubt and not found.unreachable and not found.unknown

        until(swept, "recovery", PATIENCE)
        coordinator.close()
        told = Counter[str]()
        for (outcome, _), count in chaos.told.items():
            told[outcome] += count
        sys.stdout.write(f"\nseed {SEED}: {dict(chaos.failures)}; told {dict(told)}\n")
        assert all(not report.heuristic for report in reports)
        bank.check()
        for account, (pg, my) in enumerate(bank.balances(), start=1):
            assert pg + my == 2 * START, f"account {account}"
            moved = my - START
            least = chaos.told["committed", account]
            # of each thread that died, the transaction that it was at, and the one before if its line was not read
            most = least + chaos.told["doubt", account] + 2 * chaos.deaths * THREADS
            assert least <= moved <= most, f"account {account}: moved {moved}, told {least} to {most}"
