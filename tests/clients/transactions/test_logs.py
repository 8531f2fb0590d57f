"""The contract of decision logs, kept by each of ours: a file, our own store, and a ZooKeeper ensemble, Apache's and ours.

A log is opened anew for each of those who use it, as other processes would.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from tests.support.ensembles import OURS, THEIRS, Ensemble
from tests.support.kvcluster import KvCluster

from quorate.errors import QuorateError, RemoteProtocolError
from quorate.transactions.flow import ask
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.log import TOO_LATE
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.logs.local import LocalLog
from quorate.transactions.logs.zookeeper import ZooKeeperLog
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record
from quorate.transactions.shells.aio import Watch, _nobody
from quorate.transactions.shells.blocking import Shell

BEGAN = 1_800_000_000.0
TIMEOUT = 5.0
_spaces = count()
_random = count(1)


class Place:
    """Where decisions lie, in a space of its own. ``open``: a log there, of somebody else each time."""

    def __init__(self, open_: Callable[[str], Any], ended: ExitStack) -> None:
        self.space = f"space-{next(_spaces)}"
        self._open = open_
        self._ended = ended

    def open(self) -> Any:
        log = self._open(self.space)
        self._ended.callback(log.close)
        return log

    def gtid(self, began: float = BEGAN) -> Gtid:
        return new(self.space, began, TIMEOUT, next(_random))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("store"), 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([OURS], tmp_path_factory.mktemp(OURS)) as ensemble:
        yield ensemble


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([THEIRS], tmp_path_factory.mktemp(THEIRS)) as ensemble:
        yield ensemble


@pytest.fixture(params=["local", "store", "ours", "theirs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as ended:
        if request.param == "local":
            yield Place(lambda space: LocalLog(tmp_path / space), ended)
        elif request.param == "store":
            cluster: KvCluster = request.getfixturevalue("store")
            yield Place(lambda space: KvLog(ended.enter_context(cluster.client()), space), ended)
        else:
            ensemble: Ensemble = request.getfixturevalue(request.param)
            yield Place(lambda space: ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space), ended)


def do(log: Any, method: str, *arguments: Any, watch: Watch = _nobody) -> Any:
    return Shell(watch).run(ask(method, log, method, *arguments))


def commit(gtid: Gtid, by: str = "one") -> Record:
    return Record(gtid, Decision.COMMIT, [Branch(gtid, "orders", "731"), Branch(gtid, "stock")], gtid.began + 1, by)


def abort(gtid: Gtid, by: str = "another") -> Record:
    return Record(gtid, Decision.ABORT, [Branch(gtid, "orders")], gtid.deadline + 3, by, "its time is up")


def packed(records: Sequence[Record]) -> list[bytes]:
    return sorted(record.pack() for record in records)


class TestContract:
    def test_the_first_decision_stands(self, place: Place) -> None:
        one, another = place.open(), place.open()
        gtid = place.gtid()
        first = commit(gtid)
        assert do(one, "decide", first).pack() == first.pack()
        assert do(one, "decide", first).pack() == first.pack()
        assert do(another, "decide", abort(gtid)).pack() == first.pack()
        assert do(another, "read", gtid).pack() == first.pack()
        assert do(place.open(), "decide", abort(gtid)).pack() == first.pack()

    def test_what_is_not_decided_is_not_there(self, place: Place) -> None:
        log = place.open()
        assert do(log, "read", place.gtid()) is None
        assert list(do(log, "records")) == []

    def test_commit_and_abort_race_and_both_hear_the_same(self, place: Place) -> None:
        logs = [place.open(), place.open()]
        gtids = [place.gtid() for _ in range(30)]
        together = threading.Barrier(2)

        def decide(log: Any, make: Callable[[Gtid], Record]) -> list[Record]:
            found = []
            for gtid in gtids:
                together.wait(30)
                found.append(do(log, "decide", make(gtid)))
            return found

        with ThreadPoolExecutor(2) as threads:
            told = [threads.submit(decide, log, make) for log, make in zip(logs, (commit, abort), strict=True)]
            heard = [future.result() for future in told]
        assert packed(heard[0]) == packed(heard[1])
        assert packed(heard[0]) == packed(do(place.open(), "records"))

    def test_records_are_amended_together_and_forgotten_together(self, place: Place) -> None:
        log = place.open()
        records = [commit(place.gtid()) for _ in range(600)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda record: do(log, "decide", record), records))
        for record in records:
            record.done = True
        records[7].heuristic["stock"] = "rolled back"
        do(log, "amend", records)
        assert packed(do(place.open(), "records")) == packed(records)
        assert do(place.open(), "read", records[7].gtid).heuristic == {"stock": "rolled back"}
        horizon = records[0].gtid.deadline + 1
        # somebody else has forgotten some of them just now
        do(place.open(), "forget", [record.gtid for record in records[10:20]], horizon)
        do(log, "forget", [record.gtid for record in records[1:]], horizon)
        assert packed(do(place.open(), "records")) == packed(records[:1])

    def test_what_is_forgotten_is_aborted(self, place: Place) -> None:
        one, another = place.open(), place.open()
        old, unfinished, young = place.gtid(), place.gtid(), place.gtid(BEGAN + 100)
        for gtid in (old, unfinished):
            do(one, "decide", commit(gtid))
        # another knows how things were before
        do(another, "decide", commit(place.gtid(BEGAN + 100)))
        do(one, "forget", [old], old.deadline + 1)
        for log in (one, another, place.open()):
            assert do(log, "decide", commit(old)).reason == TOO_LATE
            found = do(log, "read", old)
            assert (found.decision, found.reason) == (Decision.ABORT, TOO_LATE)
            never = place.gtid()
            assert do(log, "decide", commit(never)).reason == TOO_LATE
            assert do(log, "read", never).reason == TOO_LATE
            assert do(log, "read", unfinished).decision is Decision.COMMIT
            assert do(log, "decide", abort(unfinished)).decision is Decision.COMMIT
            assert do(log, "read", young) is None
        assert do(another, "decide", commit(young)).decision is Decision.COMMIT

    def test_the_horizon_goes_forward_only(self, place: Place) -> None:
        one, another = place.open(), place.open()
        gtid = place.gtid()
        do(one, "forget", [], gtid.deadline + 1)
        do(another, "forget", [], gtid.deadline - 100)
        assert do(another, "decide", commit(gtid)).reason == TOO_LATE
        assert list(do(one, "records")) == []

    def test_one_of_many_sweeps(self, place: Place) -> None:
        logs = [place.open() for _ in range(6)]
        together = threading.Barrier(len(logs))

        def claim(log: Any) -> bool:
            together.wait(30)
            return bool(do(log, "claim_sweep", "somebody", BEGAN, 10.0))

        with ThreadPoolExecutor(len(logs)) as threads:
            assert sorted(threads.map(claim, logs)) == [False] * 5 + [True]
        assert not do(logs[0], "claim_sweep", "one", BEGAN + 9.9, 10.0)
        assert do(logs[1], "claim_sweep", "another", BEGAN + 10, 10.0)
        assert not do(logs[0], "claim_sweep", "one", BEGAN + 10, 10.0)
        # a clock that went back keeps nobody from it
        assert do(logs[0], "claim_sweep", "one", BEGAN - 1000, 10.0)

    def test_two_claim_at_once(self, place: Place) -> None:
        """At every step of one's claim another makes theirs."""
        other = place.open()
        others: list[bool] = []
        told = self.at_every_step(
            place,
            lambda gtid: others.append(do(other, "claim_sweep", "another", gtid.began, 10.0)),
            lambda gtid: ("claim_sweep", "one", gtid.began, 10.0),
        )
        assert [one + another for one, another in zip(told, others, strict=True)] == [1] * len(told)

    def test_what_is_forgotten_while_it_is_read(self, place: Place) -> None:
        """Between any two steps of a read it is decided, and the horizon is raised: then it is committed, or not known yet, but not aborted."""

        def strike(gtid: Gtid) -> None:
            assert do(striker, "decide", commit(gtid)).decision is Decision.COMMIT
            do(striker, "forget", [], gtid.deadline + 1)

        striker = place.open()
        found = self.at_every_step(place, strike, lambda gtid: ("read", gtid))
        assert {None if record is None else record.decision for record in found} <= {None, Decision.COMMIT}

    def test_it_is_decided_otherwise_and_forgotten_while_it_is_decided(self, place: Place) -> None:
        def strike(gtid: Gtid) -> None:
            told.append(do(striker, "decide", abort(gtid)))
            do(striker, "forget", [gtid], gtid.deadline + 1)

        striker = place.open()
        told: list[Record] = []
        found = self.at_every_step(place, strike, lambda gtid: ("decide", commit(gtid)))
        assert [record.decision for record in found] == [record.decision for record in told]
        assert Decision.ABORT in [record.decision for record in found]

    def at_every_step(self, place: Place, strike: Callable[[Gtid], None], what: Callable[[Gtid], Any]) -> list[Any]:
        """What comes of it when it is struck before and after its first call, its second, and so on."""
        began = BEGAN
        found: list[Any] = []
        for step in count():
            # beyond the horizon of the last one
            began += 100
            gtid = place.gtid(began)
            seen = count()
            struck = False

            def watch(when: str, point: str, gtid: Gtid = gtid, seen: Iterator[int] = seen, step: int = step) -> None:
                nonlocal struck
                if next(seen) == step:
                    struck = True
                    strike(gtid)

            result = do(place.open(), *what(gtid), watch=watch)
            if not struck:
                return found
            found.append(result)
        raise AssertionError


@pytest.mark.parametrize("place", ["store", "ours", "theirs"], indirect=True)
def test_what_is_no_record_is_passed_over_and_told(place: Place) -> None:
    """Somebody has damaged one: nobody else's recovery waits for him."""
    log = place.open()
    good, bad = place.gtid(), place.gtid()
    for gtid in (good, bad):
        do(log, "decide", commit(gtid))
    if isinstance(log, KvLog):
        log.client.put(log.key(bad), b"hello")
    else:
        log.ensemble.client.set(log._path(bad), b"hello")
    assert packed(do(log, "records")) == packed([commit(good)])
    (told,) = log.unreadable
    assert bad.text in told
    assert "no decision record" in told
    with pytest.raises(RemoteProtocolError, match="no decision record"):
        do(log, "read", bad)


@pytest.mark.parametrize("place", ["local", "ours", "theirs"], indirect=True)
def test_a_closed_log_says_so(place: Place) -> None:
    log = place.open()
    do(log, "decide", commit(place.gtid()))
    log.close()
    log.close()
    with pytest.raises(QuorateError, match="closed"):
        do(log, "decide", commit(place.gtid()))


def test_a_client_of_the_users_stays_open(ours: Ensemble) -> None:
    client = KazooClient(ours.addresses)
    client.start()
    try:
        log = ZooKeeperLog(client, "users")
        gtid = new("users", BEGAN, TIMEOUT, 1)
        do(log, "decide", commit(gtid))
        log.close()
        assert do(ZooKeeperLog(client, "users"), "read", gtid).decision is Decision.COMMIT
    finally:
        client.stop()
        client.close()
