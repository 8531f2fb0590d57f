"""Transactions over the shards of a store by workers in several processes, while workers and members die and fall asleep at random.

QUORATE_CHAOS_SECONDS is how long (15 if not set), QUORATE_CHAOS_SEED which failures. Afterwards everything that was done is strictly serializable, and
nothing is prepared or locked.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.shard_worker import KEYS
from tests.support.bank import until
from tests.support.kvcluster import KvCluster
from tests.support.processes import ROOT
from tests.support.shards import SHARDS

from quorate.errors import QuorateError
from quorate.transactions.sync import Coordinator
from quorate.verification import list_append
from quorate.verification.history import History, Operation

SECONDS = float(os.environ.get("QUORATE_CHAOS_SECONDS", "15"))
SEED = int(os.environ.get("QUORATE_CHAOS_SEED") or random.randrange(1 << 32))
PROCESSES = 3
TASKS = 3
PATIENCE = 60.0
CALM = 40
"""Operations to succeed between one failure and the next."""


class Chaos:
    def __init__(self, store: KvCluster, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.random = random.Random(SEED)
        self.failures: Counter[str] = Counter()
        self.files: list[Path] = []
        self.workers = [self._worker() for _ in range(PROCESSES)]

    def _worker(self) -> "subprocess.Popen[bytes]":
        name = f"w{len(self.files)}"
        self.files.append(self.folder / f"{name}.jsonl")
        task = {
            "store": ",".join(self.store.addresses),
            "name": name,
            "seed": self.random.randrange(1 << 30),
            "file": str(self.files[-1]),
            "tasks": TASKS,
        }
        command = [sys.executable, "-m", "tests.chaos.shard_worker", json.dumps(task)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)

    def end(self) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.close()
        try:
            assert [worker.wait(PATIENCE) for worker in self.workers] == [0] * PROCESSES
        finally:
            for worker in self.workers:
                worker.kill()
                worker.wait()

    def done(self) -> int:
        return sum(file.read_bytes().count(b'"ok"') for file in self.files if file.exists())

    def calm(self) -> None:
        enough = self.done() + CALM
        until(lambda: self.done() >= enough, "workers get on", PATIENCE)

    # ---- failures

    def kill_worker(self) -> None:
        index = self.random.randrange(PROCESSES)
        self.workers[index].kill()
        self.workers[index].wait()
        self.workers[index] = self._worker()

    def pause_worker(self) -> None:
        """Past the deadline of what it is at: others abort that meanwhile."""
        worker = self.random.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(4.5)
        worker.send_signal(signal.SIGCONT)

    def kill_member(self) -> None:
        sid = self.random.choice(sorted(self.store.processes))
        self.store.kill(sid)
        self.store.start(sid)

    def kill_leader(self) -> None:
        leader = self.store.leader()
        self.store.kill(leader)
        self.store.start(leader)

    def pause_member(self) -> None:
        sid = self.random.choice(sorted(self.store.processes))
        self.store.signal(sid, signal.SIGSTOP)
        time.sleep(1.5)
        self.store.signal(sid, signal.SIGCONT)


FAILURES: list[Callable[[Chaos], None]] = [
    Chaos.kill_worker,
    Chaos.kill_worker,
    Chaos.pause_worker,
    Chaos.kill_member,
    Chaos.kill_leader,
    Chaos.pause_member,
]


def history_of(files: list[Path]) -> History:
    """All of them together, in the order of the machine's time."""
    events: list[tuple[int, str, str, Any]] = []
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        # the last line of one that was killed may be cut off
        events += [tuple(json.loads(line)) for line in lines if line.endswith("\n")]
    events.sort(key=lambda event: event[0])
    moment = 0
    history = History(lambda: moment, model="list-append")
    begun: dict[str, Operation] = {}
    for moment, what, name, steps in events:  # noqa: B007  # it is the history's clock
        if what == "invoke":
            begun[name] = history.invoke(name, "txn", None, steps)
        else:
            history.end(begun.pop(name), what, steps)  # type: ignore[arg-type]  # as it was written
    return history


@pytest.mark.timeout(int(SECONDS * 2 + 300))
def test_transactions_over_shards_stay_strictly_serializable(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with KvCluster(tmp_path / "store", settings=SHARDS) as store:
        store.steady()
        chaos = Chaos(store, tmp_path)
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
            chaos.end()
        with Coordinator(",".join(store.addresses), space="chaos", sweep_every=None) as coordinator:

            def swept() -> bool:
                try:
                    report = coordinator.sweep()
                except QuorateError:
                    return False
                assert not report.heuristic
                return not (report.in_doubt or report.unreachable or report.unknown)

            until(swept, "recovery", PATIENCE)
        history = history_of(chaos.files)
        with store.client() as kv:
            assert [held for group in kv.groups() for held in kv.held(group)] == []
            for key in KEYS:
                item = kv.get(key)
                steps = [["r", key, [] if item is None else json.loads(item.value)]]
                history.end(history.invoke("end", "txn", None, [["r", key, None]]), "ok", steps)
        outcomes = Counter(operation.outcome for operation in history.operations)
        sys.stdout.write(f"\nseed {SEED}: {dict(chaos.failures)}; {dict(outcomes)}\n")
        found = list_append.check(history)
        assert not found, "\n".join(found[:5])
        assert outcomes["ok"] > 5 * CALM
