"""Three real members of the key-value store, clients, and one failure after another.

QUORATE_CHAOS_ROUNDS and QUORATE_CHAOS_SEED are as for ZooKeeper's chaos. Afterwards the histories of single keys must be linearizable, those of
transactions strictly serializable, counters must be what was acknowledged, watches without gap or repetition, and all members equal.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.chaos.kv_workers import (
    Increments,
    Load,
    incrementing,
    judge_watches,
    single_keys,
    transactions,
    watching,
)
from tests.support.cutting import Cutter
from tests.support.kvcluster import KvCluster
from tests.support.namespaces import Network, network_or_skip
from tests.support.processes import wait_until

from quorate.kv.client.aio import Client
from quorate.verification import checkers

ROUNDS = int(os.environ.get("QUORATE_CHAOS_ROUNDS", "20"))
SEED = int(os.environ.get("QUORATE_CHAOS_SEED") or random.randrange(1 << 32))
PATIENCE = 60.0
CALM = 200
"""Writes to be acknowledged between one failure and the next, and while one lasts."""
SETTINGS = "heartbeat_ms = 30\nelection_timeout_ms = 300\nhistory = 1000000\nsnapshot_mib = 1\n"
NEVER_LOGGED = ("Traceback (most recent call last)", "a bug of ours")
WORKERS = [(single_keys, 4), (transactions, 4), (incrementing, 3), (watching, 2)]


class Chaos:
    def __init__(self, cluster: KvCluster, network: Network | None, load: Load) -> None:
        self.random = random.Random(SEED)
        self.cluster = cluster
        self.network = network
        self.load = load
        self.members = list(range(1, cluster.size + 1))
        """Of the group as it is now."""
        self.fresh = cluster.size
        """The last number that was given to a member."""

    def wait_acknowledged(self) -> None:
        enough = self.load.acknowledged + CALM
        wait_until(lambda: self.load.acknowledged >= enough, PATIENCE, "clients write")

    def run(self, failure: Callable[["Chaos", int, int], None]) -> float:
        """One failure, from calm to calm; the seconds from its beginning to the end of the first write sent after it."""
        cluster = self.cluster
        self.wait_acknowledged()
        # not before: a machine that is slow for a while may change the leader meanwhile, and the failure would strike another one
        leader = cluster.steady()
        follower = self.random.choice([sid for sid in cluster.processes if sid != leader])
        before = cluster.status(leader)
        began = time.monotonic_ns()
        failure(self, leader, follower)
        struck = time.monotonic_ns()
        wait_until(lambda: self.load.last > struck, PATIENCE, "a write succeeds")
        seconds = (struck - began) / 1e9 + self.load.first_after(struck)
        self.wait_acknowledged()
        if failure in UNDISTURBING:
            after = cluster.status(leader)
            assert before is not None
            assert after is not None
            assert after["leading"]
            assert after["ballot"] == before["ballot"], f"{failure.__name__} made another leader"
        if self.network is not None:
            self.network.heal()
        for sid in self.members:
            if sid in cluster.processes:
                cluster.signal(sid, signal.SIGCONT)
            else:
                cluster.start(sid)
        return seconds


def kill_leader(chaos: Chaos, leader: int, follower: int) -> None:
    chaos.cluster.kill(leader)


def kill_leader_and_successor(chaos: Chaos, leader: int, follower: int) -> None:
    """The next leader dies as soon as it leads; the third member and the first one are left, who saw different ends."""
    chaos.cluster.kill(leader)
    chaos.cluster.kill(chaos.cluster.steady())
    chaos.cluster.start(leader)


def kill_follower(chaos: Chaos, leader: int, follower: int) -> None:
    chaos.cluster.kill(follower)


def kill_everyone(chaos: Chaos, leader: int, follower: int) -> None:
    for sid in chaos.members:
        chaos.cluster.kill(sid)
    for sid in chaos.members:
        chaos.cluster.start(sid)


def pause_leader(chaos: Chaos, leader: int, follower: int) -> None:
    chaos.cluster.signal(leader, signal.SIGSTOP)


def pause_follower(chaos: Chaos, leader: int, follower: int) -> None:
    chaos.cluster.signal(follower, signal.SIGSTOP)


def restart_leader(chaos: Chaos, leader: int, follower: int) -> None:
    chaos.cluster.kill(leader, signal.SIGTERM)
    chaos.cluster.start(leader)


def hand_over(chaos: Chaos, leader: int, follower: int) -> None:
    """As before a rolling restart."""
    member(chaos, "lead", str(follower))


def replace_follower(chaos: Chaos, leader: int, follower: int) -> None:
    """It is dead for good; a new member under a new number takes its place."""
    cluster = chaos.cluster
    cluster.kill(follower)
    chaos.fresh += 1
    new = chaos.fresh
    cluster.start(new, join=True)
    member(chaos, "replace", str(follower), str(new), *cluster.options(new))
    chaos.members = sorted({*chaos.members, new} - {follower})


def member(chaos: Chaos, *arguments: str) -> None:
    cluster = chaos.cluster
    addresses = ",".join(cluster.http(sid) for sid in cluster.processes)
    command = [sys.executable, "-m", "quorate", "member", *arguments, "--address", addresses]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr


def cut_leader(chaos: Chaos, leader: int, follower: int) -> None:
    """The others do not hear it any more; its clients do."""
    assert chaos.network is not None
    chaos.network.cut(leader - 1, [sid - 1 for sid in chaos.members if sid != leader])


def isolate_leader(chaos: Chaos, leader: int, follower: int) -> None:
    assert chaos.network is not None
    chaos.network.isolate(leader - 1)


def cut_follower(chaos: Chaos, leader: int, follower: int) -> None:
    assert chaos.network is not None
    chaos.network.cut(follower - 1, [sid - 1 for sid in chaos.members if sid != follower])


def cut_pair(chaos: Chaos, leader: int, follower: int) -> None:
    """Leader and follower do not hear each other, the third member hears both: the leader must stay the leader."""
    assert chaos.network is not None
    chaos.network.cut(leader - 1, [follower - 1])


PROCESS_FAILURES = [
    kill_leader,
    kill_leader_and_successor,
    kill_follower,
    pause_leader,
    restart_leader,
    pause_follower,
    hand_over,
    replace_follower,
    kill_everyone,
]
UNDISTURBING = [kill_follower, pause_follower, cut_follower, cut_pair]
"""Failures under which the leader goes on."""
NETWORK_FAILURES = [cut_leader, isolate_leader, cut_follower, cut_pair]


def torture(chaos: Chaos, failures: list[Callable[[Chaos, int, int], None]], rounds: int) -> list[tuple[str, float]]:
    """Run ``rounds`` failures under load and check everything that must hold; the seconds each stopped writes."""
    times = []
    planned: list[Callable[[Chaos, int, int], None]] = []
    while len(planned) < rounds:
        planned += chaos.random.sample(failures, len(failures))
    load = chaos.load
    load.start(WORKERS)
    try:
        for failure in planned[:rounds]:
            times.append((failure.__name__, chaos.run(failure)))
        chaos.cluster.steady()
        chaos.wait_acknowledged()
    finally:
        load.end()
    judge(chaos)
    return times


def judge(chaos: Chaos) -> None:
    cluster, load = chaos.cluster, chaos.load
    for history in (load.registers, load.transactions):
        report = checkers.judge(history)
        assert report.outcome == "ok", f"{report.summary}\n{report.details}"
        active = {op.process for op in history.operations if op.outcome == "ok"}
        assert len(active) == 4
    wrong = judge_watches(load) + asyncio.run(counters(load))
    assert not wrong, "\n".join(wrong[:20])
    assert all(load.increments.counted.values())
    same(cluster)
    for sid in range(1, chaos.fresh + 1):
        complaints = [line for line in cluster.log(sid).splitlines() if any(mark in line for mark in NEVER_LOGGED)]
        assert not complaints, f"member {sid}: {complaints[:5]}"


async def counters(load: Load) -> list[str]:
    async with load.client() as client:
        return await load.increments.judge(client)


def same(cluster: KvCluster) -> None:
    """All members hold the same, as each of them tells it."""
    wait_until(lambda: len({applied(cluster, sid) for sid in cluster.processes}) == 1, PATIENCE, "all applied the same")
    found = [contents(cluster, sid) for sid in cluster.processes]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def applied(cluster: KvCluster, sid: int) -> int:
    status = cluster.status(sid)
    return -1 if status is None else int(status["applied"])


def contents(cluster: KvCluster, sid: int) -> list[tuple[str, bytes, int, int]]:
    async def read() -> list[tuple[str, bytes, int, int]]:
        async with Client(cluster.client_address(sid)) as client:
            items = await client.list("", staleness=3600)
            return [(item.key, item.value, item.version, item.modified) for item in items]

    return asyncio.run(read())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind_of_failure", "share"), [("processes", 14), ("network", 6)], ids=["processes", "network"]
)
def test_nothing_acknowledged_is_lost(
    kind_of_failure: str, share: int, tmp_path: Path, report: list[str], build_folder: Path
) -> None:
    rounds = max(1, round(ROUNDS * share / 20))
    failures = PROCESS_FAILURES if kind_of_failure == "processes" else NETWORK_FAILURES
    report.append(f"seed {SEED}")
    with ExitStack() as stack:
        network = stack.enter_context(network_or_skip(3)) if kind_of_failure == "network" else None
        cluster = stack.enter_context(KvCluster(tmp_path, spare=rounds, settings=SETTINGS, network=network))
        load = Load(cluster.addresses, SEED)
        try:
            times = torture(Chaos(cluster, network, load), list(failures), rounds)
        finally:
            # quorate check reads them
            load.registers.write(tmp_path / "registers.jsonl")
            load.transactions.write(tmp_path / "transactions.jsonl")
    grouped: dict[str, list[float]] = {}
    for name, seconds in times:
        grouped.setdefault(name, []).append(round(seconds, 3))
    operations = len(load.registers.operations) + len(load.transactions.operations)
    report.append(f"kv, {len(times)} rounds, {load.acknowledged} writes acknowledged, {operations} operations")
    report += [f"  {name}: next write acknowledged after {seconds} s" for name, seconds in grouped.items()]
    file = build_folder / f"chaos-kv-{kind_of_failure}.json"
    file.write_text(json.dumps({"acknowledged": load.acknowledged, "seconds": grouped}, indent=2) + "\n")


@pytest.mark.timeout(300)
def test_a_lost_reply_never_doubles_an_increment(tmp_path: Path, report: list[str]) -> None:
    """Every twentieth piece of an answer is lost together with its connection; the clients must find out what came of each increment."""
    with ExitStack() as stack:
        cutters = {sid: stack.enter_context(Cutter(0.05, SEED + sid)) for sid in (1, 2, 3)}
        cluster = KvCluster(
            tmp_path, settings=SETTINGS, fronts={sid: cutter.address for sid, cutter in cutters.items()}, started=False
        )
        stack.enter_context(cluster)
        for sid, cutter in cutters.items():
            cutter.target = cluster.client_address(sid)
            cluster.start(sid)
        cluster.wait()
        load = Load(cluster.addresses, SEED)
        load.start([(incrementing, 6), (watching, 1), (single_keys, 2)])
        try:
            for _ in range(3):
                enough = sum(load.increments.counted.values()) + 300
                wait_until(lambda: sum(load.increments.counted.values()) >= enough, PATIENCE, "increments")  # noqa: B023
                leader = cluster.steady()
                cluster.kill(leader)
                cluster.start(leader)
        finally:
            for cutter in cutters.values():
                cutter.chance = 0.0
            load.end()
        cuts = sum(cutter.cuts for cutter in cutters.values())
        increments = load.increments
        assert cuts > 50
        assert increments.unknown == dict.fromkeys(Increments.KEYS, 0)
        wrong = asyncio.run(counters(load)) + judge_watches(load)
        assert not wrong, "\n".join(wrong[:20])
        verdict = checkers.judge(load.registers)
        assert verdict.outcome == "ok", f"{verdict.summary}\n{verdict.details}"
    report.append(f"kv, {cuts} replies lost, {sum(increments.counted.values())} increments, each once")
