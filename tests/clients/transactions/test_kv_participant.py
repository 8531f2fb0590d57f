"""Our own store in transactions: over its shards, beside others, and where the decisions lie elsewhere. A coordinator that dies is a thread or a task that is
never heard of again: what it left is finished by readers, writers or recovery."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.support.kvcluster import KvCluster
from tests.support.processes import wait_until
from tests.support.shards import SHARDS, SPACE, Steps

from quorate.errors import QuorateError, UsageError
from quorate.kv import commands
from quorate.kv.client import Locked, put
from quorate.kv.client.errors import DeadlineExceeded
from quorate.kv.client.sync import Client
from quorate.kv.commands import Write
from quorate.transactions import Aborted, HeuristicOutcome, Kv, Outcome
from quorate.transactions.aio import Coordinator as AsyncCoordinator
from quorate.transactions.gtid import parse
from quorate.transactions.kv import STORE
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sync import Coordinator

KEYS = ("a", "n", "z")
"""In three shards, none of which has the decisions."""
RIDES = "quorate/other"
"""In the shard that has the decisions."""


class Died(BaseException):
    """What a process that is killed does not catch."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("kv"), settings=SHARDS) as running:
        yield running


@pytest.fixture
def kv(cluster: KvCluster) -> Iterator[Client]:
    """Empty but for KEYS with the value ``old``. At the end nothing may be prepared."""
    with cluster.client() as client:
        for item in client.list():
            if not item.key.startswith("quorate/txn/"):
                client.delete(item.key)
        for key in KEYS:
            client.put(key, b"old")
        yield client
        assert [held for group in client.groups() for held in client.held(group)] == []


def values(kv: Client, *keys: str) -> list[bytes | None]:
    return [None if item is None else item.value for item in map(kv.get, keys or KEYS)]


def coordinator(cluster: KvCluster, **options: Any) -> Coordinator:
    return Coordinator(",".join(cluster.addresses), space=SPACE, sweep_every=None, **options)


def die_at(point: str, when: str = "before") -> Callable[[str, str], None]:
    def watch(at: str, name: str) -> None:
        if (at, name) == (when, point):
            raise Died

    return watch


def undone(kv: Client, gtid: str) -> list[int]:
    return [kv.outcome(group, f"{gtid}/{STORE}")[0] for group in kv.groups(KEYS)]


# ---- over the shards of the store that the decisions lie in


def test_a_transaction_over_shards_and_with_the_decision(kv: Client, cluster: KvCluster) -> None:
    points: list[str] = []
    with coordinator(cluster, watch=lambda when, point: points.append(point) if when == "before" else None) as co:
        with co.transaction() as tx:
            assert [tx.kv.get(key) for key in KEYS] == [b"old"] * 3
            assert tx.kv.get(RIDES) is None
            for key in (*KEYS, RIDES):
                tx.kv.put(key, b"new")
        assert tx.state == "committed"
    assert points.count(f"{STORE}: prepare") == points.count(f"{STORE}: commit") == 3 + 1
    assert points.count("log: commit") == 1
    assert values(kv, *KEYS, RIDES) == [b"new"] * 4
    assert undone(kv, tx.gtid) == [commands.COMMITTED] * 3


def test_the_same_on_an_event_loop(kv: Client, cluster: KvCluster) -> None:
    async def work() -> str:
        async with AsyncCoordinator(",".join(cluster.addresses), space=SPACE, sweep_every=None) as co:
            async with co.transaction() as tx:
                assert [await tx.kv.get(key) for key in KEYS] == [b"old"] * 3
                for key in (*KEYS, RIDES):
                    tx.kv.put(key, b"new")
                tx.kv.delete("z")
            lost = co.transaction()
            lost.kv.put("n", b"newest")
            lost.kv.put("a", b"newest", version=1)
            with pytest.raises(Aborted, match="conflict: a is at version 2"):
                await lost.commit()
            assert undone(kv, lost.gtid)[:2] == [commands.ABORTED] * 2
            return tx.gtid

    gtid = asyncio.run(work())
    assert values(kv, *KEYS, RIDES) == [b"new", b"new", None, b"new"]
    assert undone(kv, gtid) == [commands.COMMITTED] * 3


@pytest.mark.parametrize("key", [*KEYS, RIDES])
def test_what_was_read_has_to_hold_in_every_shard(kv: Client, cluster: KvCluster, key: str) -> None:
    with coordinator(cluster) as co:
        tx = co.transaction()
        for each in (*KEYS, RIDES):
            tx.kv.get(each)
        tx.kv.put("b", b"mine")
        tx.kv.put("y", b"mine")
        kv.put(key, b"theirs")
        with pytest.raises(Aborted, match="conflict"):
            tx.commit()
    assert values(kv, "b", "y", key) == [None, None, b"theirs"]


def test_what_was_read_and_not_written_is_locked_until_the_end(kv: Client, cluster: KvCluster) -> None:
    """No write skew: who reads one and writes the other excludes who does it the other way round."""
    steps: list[Steps] = []

    def between(when: str, point: str) -> None:
        if (when, point) == ("after", f"{STORE}: prepare") and not steps:
            steps.append(Steps(kv))
            with pytest.raises(Locked):
                kv.put("n", b"theirs", timeout=1.0)

    with coordinator(cluster, watch=between) as co, co.transaction() as tx:
        tx.kv.get("n")
        tx.kv.put("a", b"mine")
    assert steps
    assert values(kv, "a", "n") == [b"mine", b"old"]


def test_everything_in_one_other_shard_needs_no_decision(kv: Client, cluster: KvCluster) -> None:
    points: list[str] = []
    with coordinator(cluster, watch=lambda when, point: points.append(point)) as co:
        with co.transaction() as tx:
            tx.kv.get("n")
            tx.kv.put("na", b"new")
            tx.kv.put("nb", b"new")
        lost = co.transaction()
        lost.kv.put("na", b"newer", version=7)
        with pytest.raises(Aborted, match="conflict"):
            lost.commit()
    assert "log: commit" not in points
    assert values(kv, "na", "nb") == [b"new"] * 2
    assert kv.get(KvLog(kv, SPACE).key(parse(tx.gtid))) is None  # type: ignore[arg-type]  # it is one
    assert undone(kv, lost.gtid)[1] == commands.ABORTED


def test_everything_in_the_shard_of_the_decision_needs_no_prepare(kv: Client, cluster: KvCluster) -> None:
    points: list[str] = []
    with coordinator(cluster, watch=lambda when, point: points.append(point)) as co, co.transaction() as tx:
        tx.kv.put(RIDES, b"new")
    assert not any("prepare" in point for point in points)
    assert values(kv, RIDES) == [b"new"]


def test_what_is_rolled_back_or_does_nothing_leaves_nothing(kv: Client, cluster: KvCluster) -> None:
    before = [kv.status()["shards"][group - 1]["applied"] for group in (1, 2, 4)]
    with coordinator(cluster) as co:
        tx = co.transaction()
        tx.kv.put("a", b"new")
        tx.kv.put("n", b"new")
        tx.rollback()
        with co.transaction() as nothing:
            assert nothing.kv is not None
    assert nothing.state == "committed"
    assert values(kv) == [b"old"] * 3
    assert undone(kv, tx.gtid) == [commands.UNDECIDED] * 3
    assert [kv.status()["shards"][group - 1]["applied"] for group in (1, 2, 4)] == before


# ---- a coordinator that dies


@pytest.mark.parametrize(
    ("when", "point", "committed"),
    [
        ("after", f"{STORE}: prepare", False),
        ("before", "log: commit", False),
        ("after", "log: commit", True),
        ("before", f"{STORE}: commit", True),
        ("after", f"{STORE}: commit", True),
    ],
)
@pytest.mark.parametrize("by", ["readers", "writers", "recovery"])
def test_a_coordinator_that_dies_is_finished_by_whoever_comes(
    kv: Client, cluster: KvCluster, when: str, point: str, committed: bool, by: str
) -> None:
    dead = coordinator(cluster, watch=die_at(point, when))
    tx = dead.transaction(timeout=0.5)
    for key in (*KEYS, RIDES):
        tx.kv.put(key, b"new")
    with pytest.raises(Died):
        tx.commit()
    if (when, point) != ("after", f"{STORE}: commit"):
        assert commands.PREPARED in undone(kv, tx.gtid)
    expected = b"new" if committed else b"old"
    rides = b"new" if committed else None
    if by == "readers":
        # at once what is decided, and the rest once its time is up
        assert values(kv, *KEYS, RIDES) == [expected] * 3 + [rides]
        if not committed:
            wait_until(lambda: bool(values(kv)) and commands.PREPARED not in undone(kv, tx.gtid), 30.0, "it is aborted")
    elif by == "writers":
        for key in KEYS:
            assert kv.put(key, b"later") == (3 if committed else 2)
        assert values(kv, RIDES) == [rides]
    else:
        with coordinator(cluster) as other:

            def swept() -> bool:
                report = other.sweep()
                assert not report.heuristic
                assert not report.foreign
                return commands.PREPARED not in undone(kv, tx.gtid)

            wait_until(swept, 30.0, "recovery finishes it")
        assert values(kv, *KEYS, RIDES) == [expected] * 3 + [rides]
    found = {commands.COMMITTED} if committed else {commands.ABORTED, commands.UNDECIDED}
    assert set(undone(kv, tx.gtid)) <= found
    dead.close()


def test_a_prepare_that_comes_after_the_abort_is_refused(kv: Client, cluster: KvCluster) -> None:
    """The coordinator slept before its prepares, and recovery came by meanwhile."""
    with coordinator(cluster) as co:
        tx = co.transaction(timeout=5)
        with coordinator(cluster) as other:
            branch = Branch(parse(tx.gtid), STORE)  # type: ignore[arg-type]  # it is one
            tx.kv.put("a", b"new")
            tx.kv.put("n", b"new")
            # what recovery does for a transaction that it decided to abort
            other.shell.run(other.engine.participants[STORE].rollback(branch))
        with pytest.raises(Aborted, match="aborted before it was prepared"):
            tx.commit()
    assert values(kv) == [b"old"] * 3


def test_a_late_coordinator_loses_to_a_reader_that_aborted(kv: Client, cluster: KvCluster) -> None:
    def sleep(when: str, point: str) -> None:
        if (when, point) == ("before", "log: commit"):
            (held,) = {found.id: found for group in kv.groups(KEYS) for found in kv.held(group)}.values()
            wait_until(
                lambda: bool(values(kv)) and kv.outcome(1, held.id)[0] == commands.ABORTED, 30.0, "somebody aborts it"
            )

    with coordinator(cluster, watch=sleep) as co:
        tx = co.transaction(timeout=0.5)
        for key in KEYS:
            tx.kv.put(key, b"new")
        with pytest.raises(Aborted, match="undecided, and its time is up"):
            tx.commit()
    assert values(kv) == [b"old"] * 3


def test_transactions_that_wait_for_one_another_do_not_wait_for_long(kv: Client, cluster: KvCluster) -> None:
    """Each holds what the other wants. The younger gives way; the older one goes on."""
    older, younger = Steps(kv, timeout=30.0, random=1), Steps(kv, timeout=30.0, random=2)
    older.gtid.text, younger.gtid.text = sorted((older.gtid.text, younger.gtid.text))
    for steps in (older, younger):
        steps.id, steps.decision = f"{steps.gtid.text}/{STORE}", steps.log.key(steps.gtid)
    older.prepare("a")
    younger.prepare("n")
    began = time.monotonic()
    with pytest.raises(Locked):
        younger.prepare("a")
    assert time.monotonic() - began < 20.0
    younger.decide(Decision.ABORT)
    older.prepare("n")
    older.decide()
    assert values(kv, "a", "n") == [b"new"] * 2


def test_one_whose_ride_meets_another_gives_way(kv: Client, cluster: KvCluster) -> None:
    """Its decision cannot be written while an older transaction holds a key that rides."""
    other = Steps(kv, timeout=30.0)
    (group,) = kv.groups([RIDES])
    kv.prepare(group, other.id, other.decision, other.gtid.deadline, [], [_put(RIDES)])
    with coordinator(cluster) as co:
        tx = co.transaction(timeout=20)
        tx.kv.put(RIDES, b"mine")
        tx.kv.put("a", b"mine")
        with pytest.raises(Aborted, match=f"locked by transaction {other.gtid.text}"):
            tx.commit()
    other.decide()
    assert values(kv, RIDES, "a") == [b"theirs", b"old"]


def _put(key: str) -> Write:
    return put(key, b"theirs")


# ---- decisions elsewhere


def test_a_store_of_its_own_with_decisions_in_a_file(kv: Client, cluster: KvCluster, tmp_path: Path) -> None:
    addresses = ",".join(cluster.addresses)
    with Coordinator(tmp_path / "log", [Kv("inventory", addresses)], space="file", sweep_every=None) as co:
        with co.transaction() as tx:
            store = tx.enlist("inventory")
            assert tx.enlist("inventory") is store
            assert [store.get(key) for key in KEYS] == [b"old"] * 3
            for key in KEYS:
                store.put(key, b"new")
        lost = co.transaction()
        store = lost.enlist("inventory")
        store.put("a", b"no", version=7)
        store.put("n", b"no")
        with pytest.raises(Aborted, match="conflict"):
            lost.commit()
        with co.transaction() as one, pytest.raises(UsageError, match="in no store"):
            one.kv.put("a", b"")
        with co.transaction() as one:
            one.enlist("inventory").put("a", b"one")
        report = co.sweep()
        assert (report.unreachable, report.heuristic, report.in_doubt, report.foreign) == ({}, [], [], [])
        (record,) = [found for found in co.engine.log.records() if found.gtid.text == tx.gtid]
    assert {branch.participant: branch.token for branch in record.branches} == {"inventory": "1,2,4"}
    assert values(kv) == [b"one", b"new", b"new"]


def test_the_same_on_an_event_loop_with_two_stores(kv: Client, cluster: KvCluster, tmp_path: Path) -> None:
    async def work() -> None:
        stores = [Kv("one", cluster.addresses), Kv("two", ",".join(cluster.addresses))]
        async with AsyncCoordinator(tmp_path / "log", stores, space="file", sweep_every=None) as co:
            async with co.transaction() as tx:
                one, two = await tx.enlist("one"), await tx.enlist(stores[1])
                assert await one.get("a") == b"old"
                one.put("a", b"new")
                two.put("n", b"new")
                two.put("z", b"new")
            lost = co.transaction(timeout=1)
            for name in ("one", "two"):
                (await lost.enlist(name)).put("a", b"no")
            with pytest.raises(Aborted, match="locked by transaction"):
                await lost.commit()
            assert (await co.sweep()).in_doubt == []

    asyncio.run(work())
    assert values(kv) == [b"new"] * 3


def test_recovery_finishes_what_lies_in_a_store_that_knows_no_decisions(
    kv: Client, cluster: KvCluster, tmp_path: Path
) -> None:
    for point, when, expected in (("log: ", "", b"new"), ("inventory: commit", "before", b"newer")):
        dead = Coordinator(
            tmp_path / "log", [Kv("inventory", cluster.addresses)], space="file", sweep_every=None,
            watch=die_at(point, when) if when else die_at("log: decide", "after"),
        )  # fmt: skip
        tx = dead.transaction(timeout=0.5)
        store = tx.enlist("inventory")
        for key in KEYS:
            store.put(key, expected)
        with pytest.raises(Died):
            tx.commit()
        with pytest.raises(Locked, match=f"{tx.gtid}, whose decision lies elsewhere"):
            kv.put("a", b"mine", timeout=1.0)
        with Coordinator(tmp_path / "log", [Kv("inventory", cluster.addresses)], space="file", sweep_every=None) as co:
            report = co.sweep()
        assert report.committed == [(tx.gtid, "inventory")]
        assert values(kv) == [expected] * 3
        dead.close()


def test_recovery_aborts_and_fences_in_every_shard(kv: Client, cluster: KvCluster, tmp_path: Path) -> None:
    dead = Coordinator(
        tmp_path / "log", [Kv("inventory", cluster.addresses)], space="file", sweep_every=None,
        watch=die_at("inventory: prepare", "after"),
    )  # fmt: skip
    tx = dead.transaction(timeout=0.2)
    store = tx.enlist("inventory")
    for key in KEYS:
        store.put(key, b"new")
    with pytest.raises(Died):
        tx.commit()
    with Coordinator(tmp_path / "log", [Kv("inventory", cluster.addresses)], space="file", sweep_every=None) as co:
        wait_until(lambda: co.sweep().aborted == [(tx.gtid, "inventory")], 30.0, "recovery aborts it")
    dead.close()
    for key, group in zip((*KEYS, RIDES), kv.groups((*KEYS, RIDES)), strict=True):
        with pytest.raises(QuorateError, match="aborted before it was prepared"):
            kv.prepare(group, f"{tx.gtid}/inventory", "", 0.0, [], [_put(key)])
    assert values(kv) == [b"old"] * 3


def test_what_an_operator_did_is_told(kv: Client, cluster: KvCluster) -> None:
    def operator(when: str, point: str) -> None:
        if (when, point) == ("after", "log: commit"):
            (held,) = kv.held(kv.groups(["n"])[0])
            kv.finish(held.group, held.id, False, held.deadline)

    with coordinator(cluster, watch=operator) as co:
        tx = co.transaction(timeout=2)
        for key in KEYS:
            tx.kv.put(key, b"new")
        with pytest.raises(HeuristicOutcome, match=f"decided to commit, but {STORE} rolled back"):
            tx.commit()
    assert values(kv) == [b"new", b"old", b"new"]


# ---- one phase, and answers that are lost


class Lossy:
    """A client whose next prepare loses its answer: ``done``: it is carried out all the same."""

    def __init__(self, client: Client, done: bool) -> None:
        self._client = client
        self._done = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def prepare(self, *arguments: Any, **named: Any) -> Any:
        if self._done:
            self._client.prepare(*arguments, **named)
        raise DeadlineExceeded("prepare", 0.1, maybe_done=True)


@pytest.mark.parametrize("done", [True, False])
def test_a_lost_answer_in_one_phase_is_asked_after(kv: Client, cluster: KvCluster, tmp_path: Path, done: bool) -> None:
    lossy: Any = Lossy(kv, done)
    with Coordinator(tmp_path / "log", [Kv("inventory", lossy)], space="file", sweep_every=None) as co:
        tx = co.transaction()
        participant = co.engine.participants["inventory"]
        co.shell.run(tx._work.begin(participant, None)).put("n", b"new")
        if done:
            tx.commit()
        else:
            with pytest.raises(Aborted):
                tx.commit()
    assert values(kv) == [b"old", b"new" if done else b"old", b"old"]
    # and it stays so
    with nullcontext() if done else pytest.raises(QuorateError):
        assert kv.prepare(2, f"{tx.gtid}/inventory", "", 0.0, [], [_put("n")], at_once=True)[0] == commands.COMMITTED
    assert values(kv)[1] == (b"new" if done else b"old")


def test_outcomes_are_kept_as_long_as_they_are_asked_for(kv: Client, cluster: KvCluster) -> None:
    with coordinator(cluster, keep=0.001) as co:
        tx = co.transaction(timeout=0.5)
        for key in KEYS:
            tx.kv.put(key, b"new")
        tx.commit()
        branch = Branch(parse(tx.gtid), STORE, "1,2,4")  # type: ignore[arg-type]  # it is one
        participant = co.engine.participants[STORE]
        assert co.shell.run(participant.outcome(branch)) is Outcome.COMMITTED
        assert co.shell.run(participant.outcome(Branch(branch.gtid, STORE))) is Outcome.COMMITTED
        co.shell.run(participant.tidy(branch.gtid.deadline + 120, SPACE))
        assert co.shell.run(participant.outcome(branch)) is Outcome.UNKNOWN
        with pytest.raises(QuorateError, match="aborted before it was prepared"):
            kv.prepare(1, f"{tx.gtid}/{STORE}", "", branch.gtid.deadline, [], [_put("a")])


def test_it_is_said_what_is_wrong(kv: Client, cluster: KvCluster, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'nowhere' is no address of a member"):
        Coordinator(tmp_path / "log", [Kv("inventory", "nowhere")])
    with pytest.raises(UsageError, match="inventory: its client is of the other kind than the coordinator"):
        AsyncCoordinator(tmp_path / "log", [Kv("inventory", kv)])
    with pytest.raises(UsageError, match="was not given to a coordinator yet"):
        assert Kv("inventory", "127.0.0.1:1").client
    with coordinator(cluster) as co, co.transaction() as tx, pytest.raises(UsageError, match="takes part by itself"):
        tx.enlist(STORE)
    with pytest.raises(UsageError, match=f"there are two participants named '{STORE}'"):
        coordinator(cluster, participants=[Kv(STORE, kv)])


def test_a_decision_that_was_taken_while_the_horizon_was_raised_is_found(kv: Client) -> None:
    """Whoever asks slept between looking for the record and for the horizon: "nothing, and it is too late for anything" would be an abort."""
    steps = Steps(kv, timeout=0.5)
    horizon = steps.log.prefix + "horizon"

    def sleep(when: str, point: str) -> None:
        if (when, point) == ("before", "log: horizon") and kv.get(horizon) is None:
            assert Steps.decide(steps).decision is Decision.COMMIT
            kv.put(horizon, repr(time.time() + 60).encode())

    kv.delete(horizon)
    log = KvLog(kv, SPACE)
    record = Shell(sleep).run(log.read(steps.gtid))
    kv.delete(horizon)
    assert record is not None
    assert record.decision is Decision.COMMIT
