"""Three real processes on a network of their own, clients that write, and one failure after another.

QUORATE_CHAOS_ROUNDS sets how many (20); QUORATE_TEST_KIND=apache lets Apache ZooKeeper stand the same, and
QUORATE_TEST_KIND=apache,quorate,quorate a mixed ensemble. Afterwards no acknowledged write may be missing, no version given
twice, no order turned round, no ephemeral left, and all members hold the same tree. How long writes stood still after each
failure goes into build/chaos-*.json. QUORATE_CHAOS_SEED repeats the order of failures and the choice of followers, not the
timing. Apache's own digests are not judged: after kill -9 an ensemble of Apache's alone counts mismatches too.
"""

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chaos.judging import committed_log, findings
from tests.chaos.workers import (
    EPHEMERAL,
    REGISTER,
    SEQUENCE,
    SWAPPED,
    KazooWriter,
    Keeper,
    Mortal,
    Observer,
    Record,
    RegisterWriter,
    Sequencer,
    Swapper,
    Worker,
)
from tests.support.ensembles import OURS, Ensemble, Member
from tests.support.namespaces import Network, network_or_skip
from tests.support.processes import wait_until
from tests.support.raw import RawClient, create_body, path_watch_body
from tests.support.trees import assert_equal_trees, metrics

from quorate.binary import Reader, pack_string
from quorate.zookeeper.constants import Op

ROUNDS = int(os.environ.get("QUORATE_CHAOS_ROUNDS", "20"))
KIND = os.environ.get("QUORATE_TEST_KIND", OURS)
KINDS = (KIND.split(",") * 3)[:3]
SEED = int(os.environ.get("QUORATE_CHAOS_SEED") or random.randrange(1 << 32))
SETTINGS = {"tickTime": "200", "initLimit": "50", "syncLimit": "5"}
PATIENCE = 60.0
NEVER_LOGGED = ("Traceback (most recent call last)", "a bug of ours", "Digests are not matching")
CALM = 100
"""Operations to be acknowledged between one failure and the next, and while one lasts."""

WORKERS: list[tuple[type[Worker], int]] = [
    (RegisterWriter, 2),
    (Swapper, 2),
    (Sequencer, 2),
    (Mortal, 1),
    (Keeper, 1),
    (Observer, 2),
    (KazooWriter, 1),
]


class Chaos:
    """The ensemble, its network and what clients saw of it."""

    def __init__(self, ensemble: Ensemble, network: Network | None, record: Record) -> None:
        self.random = random.Random(SEED)
        self.ensemble = ensemble
        self.network = network
        self.record = record

    def steady(self) -> Member:
        """Wait until one member leads and all others follow it; that one."""

        def look() -> bool:
            modes = sorted(member.mode for member in self.ensemble.members)
            return modes == ["follower", "follower", "leader"]

        wait_until(look, PATIENCE, "one leader and two followers")
        return self.ensemble.leader()

    def wait_acknowledged(self) -> None:
        enough = self.record.acknowledged + CALM
        wait_until(lambda: self.record.acknowledged >= enough, PATIENCE, "clients write")

    def run(self, failure: Callable[["Chaos", Member, Member], None]) -> float:
        """One failure, from calm to calm; the seconds from its beginning to the end of the first write sent after it."""
        leader = self.steady()
        follower = self.random.choice([member for member in self.ensemble.members if member is not leader])
        self.wait_acknowledged()
        began = time.monotonic_ns()
        failure(self, leader, follower)
        struck = time.monotonic_ns()
        wait_until(lambda: self.record.last > struck, PATIENCE, "a write succeeds")
        seconds = (struck - began) / 1e9 + self.record.first_after(struck)
        if failure in (pause_follower, cut_follower, cut_pair):
            wait_until(lambda: metrics(leader).get("synced_followers") == "1", PATIENCE, "the leader misses a follower")
        self.wait_acknowledged()
        if self.network is not None:
            self.network.heal()
        for member in self.ensemble.members:
            member.resume()
        self.ensemble.start()
        return seconds

    def index(self, member: Member) -> int:
        return member.sid - 1

    def others(self, member: Member) -> list[int]:
        return [self.index(other) for other in self.ensemble.members if other is not member]


def kill_leader(chaos: Chaos, leader: Member, follower: Member) -> None:
    leader.kill()


def kill_leader_and_successor(chaos: Chaos, leader: Member, follower: Member) -> None:
    """The next leader dies as soon as it leads; the third member and the first one are left, who saw different ends."""
    leader.kill()
    chaos.ensemble.leader().kill()
    leader.start()


def kill_follower(chaos: Chaos, leader: Member, follower: Member) -> None:
    follower.kill()


def kill_everyone(chaos: Chaos, leader: Member, follower: Member) -> None:
    for member in chaos.ensemble.members:
        member.kill()
    for member in chaos.ensemble.members:
        member.start()


def pause_leader(chaos: Chaos, leader: Member, follower: Member) -> None:
    leader.pause()


def pause_follower(chaos: Chaos, leader: Member, follower: Member) -> None:
    follower.pause()


def restart_leader(chaos: Chaos, leader: Member, follower: Member) -> None:
    leader.stop()
    leader.start()


def wipe_follower(chaos: Chaos, leader: Member, follower: Member) -> None:
    """Never the first member: its log is what the history is judged by."""
    first = chaos.ensemble.members[0]
    victim = next(member for member in (follower, *chaos.ensemble.members) if member not in (leader, first))
    victim.kill()
    victim.wipe()
    victim.start()


def cut_leader(chaos: Chaos, leader: Member, follower: Member) -> None:
    """The others do not hear it any more; its clients do."""
    assert chaos.network is not None
    chaos.network.cut(chaos.index(leader), chaos.others(leader))


def isolate_leader(chaos: Chaos, leader: Member, follower: Member) -> None:
    assert chaos.network is not None
    chaos.network.isolate(chaos.index(leader))


def cut_follower(chaos: Chaos, leader: Member, follower: Member) -> None:
    assert chaos.network is not None
    chaos.network.cut(chaos.index(follower), chaos.others(follower))


def cut_pair(chaos: Chaos, leader: Member, follower: Member) -> None:
    """Leader and follower do not hear each other, the third member hears both: it must go on following the leader."""
    assert chaos.network is not None
    chaos.network.cut(chaos.index(leader), [chaos.index(follower)])


PROCESS_FAILURES = [
    kill_leader,
    kill_leader_and_successor,
    kill_follower,
    pause_leader,
    wipe_follower,
    restart_leader,
    pause_follower,
    kill_everyone,
]
NETWORK_FAILURES = [cut_leader, isolate_leader, cut_follower, cut_pair]


def torture(
    chaos: Chaos, failures: list[Callable[[Chaos, Member, Member], None]], rounds: int
) -> list[tuple[str, float]]:
    """Run ``rounds`` failures under load and check everything that must hold; the seconds each stopped writes."""
    ensemble, record = chaos.ensemble, chaos.record
    first = ensemble.members[0]
    with RawClient(first.host, first.client_port) as client:
        for path in (REGISTER, SWAPPED, SEQUENCE, EPHEMERAL):
            assert client.call(Op.CREATE, create_body(path))[-1].err == 0
        client.call(Op.CLOSE_SESSION)
    kinds = [kind for kind, number in WORKERS for _ in range(number)]
    workers = [kind(f"{kind.__name__}-{i}", ensemble.members, i, record) for i, kind in enumerate(kinds)]
    for worker in workers:
        worker.start()
    times = []
    planned: list[Callable[[Chaos, Member, Member], None]] = []
    while len(planned) < rounds:
        planned += chaos.random.sample(failures, len(failures))
    try:
        for failure in planned[:rounds]:
            times.append((failure.__name__, chaos.run(failure)))
        chaos.steady()
        chaos.wait_acknowledged()
    finally:
        for worker in workers:
            worker.halt.set()
        for worker in workers:
            worker.end()
    violations = [violation for worker in workers for violation in worker.violations]
    assert not violations, "\n".join(violations[:20])

    wait_until(lambda: not ephemerals(first), PATIENCE, "the last sessions expire")
    tree = assert_equal_trees(ensemble)
    log = committed_log(ensemble)
    record.judged_by = "what clients knew" if log is None else f"a log of {len(log)} transactions"
    wrong = findings(record.history, log, tree)
    assert not wrong, "\n".join(wrong[:20])
    for member in (member for member in ensemble.members if member.kind == OURS):
        assert metrics(member)["digest_mismatches_count"] == "0", f"member {member.sid}"
        complaints = [
            line for line in member.process.output().splitlines() if any(mark in line for mark in NEVER_LOGGED)
        ]
        assert not complaints, f"member {member.sid}: {complaints[:5]}"
    active = {op.process.partition(".")[0] for op in record.history.operations if op.outcome == "ok"}
    assert active >= {worker.name for worker in workers}
    return times


def ephemerals(member: Member) -> list[str]:
    with RawClient(member.host, member.client_port) as client:
        client.call(Op.SYNC, pack_string(EPHEMERAL))
        names = Reader(client.call(Op.GET_CHILDREN, path_watch_body(EPHEMERAL))[-1].body)
        client.call(Op.CLOSE_SESSION)
    return [names.text() for _ in range(names.count(4))]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind_of_failure", "share"), [("processes", 14), ("network", 6)], ids=["processes", "network"]
)
def test_nothing_acknowledged_is_lost(
    kind_of_failure: str, share: int, tmp_path: Path, report: list[str], build_folder: Path
) -> None:
    rounds = max(1, round(ROUNDS * share / 20))
    report.append(f"seed {SEED}")
    record = Record()
    try:
        if kind_of_failure == "processes":
            with Ensemble(KINDS, tmp_path / "members", settings=SETTINGS) as ensemble:
                times = torture(Chaos(ensemble, None, record), list(PROCESS_FAILURES), rounds)
        else:
            with (
                network_or_skip(3) as network,
                Ensemble(
                    KINDS,
                    tmp_path / "members",
                    settings=SETTINGS,
                    hosts=[network.host(i) for i in range(3)],
                    prefixes=[network.prefix(i) for i in range(3)],
                ) as ensemble,
            ):
                times = torture(Chaos(ensemble, network, record), list(NETWORK_FAILURES), rounds)
    finally:
        # quorate check reads it
        record.history.write(tmp_path / "history.jsonl")
    grouped: dict[str, list[float]] = {}
    for name, seconds in times:
        grouped.setdefault(name, []).append(round(seconds, 3))
    acknowledged = record.acknowledged
    operations = len(record.history.operations)
    report.append(f"{KIND}, {len(times)} rounds, {acknowledged} writes acknowledged, {operations} operations")
    report.append(f"  judged by {record.judged_by}")
    report += [f"  {name}: next write acknowledged after {seconds} s" for name, seconds in grouped.items()]
    file = build_folder / f"chaos-{kind_of_failure}-{KIND.replace(',', '-')}.json"
    file.write_text(
        json.dumps({"settings": SETTINGS, "acknowledged": acknowledged, "seconds": grouped}, indent=2) + "\n"
    )
