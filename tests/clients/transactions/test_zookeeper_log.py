"""Decisions in a ZooKeeper ensemble, Apache's and ours: what is its own besides the contract of decision logs (``test_logs``)."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_digest_acl
from tests.support.cutting import Cutter
from tests.support.ensembles import OURS, THEIRS, Ensemble

from quorate.errors import QuorateError, UsageError
from quorate.transactions import Aborted, Coordinator
from quorate.transactions.drivers.kazoo import Ensemble as Connection
from quorate.transactions.drivers.kazoo import EnsembleError, get
from quorate.transactions.flow import ask
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.logs.zookeeper import ZooKeeperLog
from quorate.transactions.records import Decision, Record
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sync import Coordinator as BlockingCoordinator

BEGAN = 1_800_000_000.0
_spaces = count()
_random = count(1)


@pytest.fixture(scope="module", params=[OURS, THEIRS], ids=["ours", "theirs"])
def ensemble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    settings = {"minSessionTimeout": "1000"}
    with Ensemble([request.param], tmp_path_factory.mktemp("ensemble"), settings) as made:
        yield made


@pytest.fixture
def space() -> str:
    return f"space-{next(_spaces)}"


@contextmanager
def connected(hosts: str, **options: Any) -> Iterator[KazooClient]:
    client = KazooClient(hosts, **options)
    client.start()
    try:
        yield client
    finally:
        client.stop()
        client.close()


def gtid_of(space: str) -> Gtid:
    return new(space, BEGAN, 5.0, next(_random))


def commit(gtid: Gtid) -> Record:
    return Record(gtid, Decision.COMMIT, [], gtid.began, "one")


def do(log: Any, method: str, *arguments: Any) -> Any:
    return Shell().run(ask(method, log, method, *arguments))


def test_a_record_lies_where_the_formats_say(ensemble: Ensemble, space: str) -> None:
    gtid = new(space, BEGAN, 5.0, 1)
    with (
        closing(ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space)) as log,
        connected(ensemble.addresses) as client,
    ):
        do(log, "decide", commit(gtid))
        root = f"/quorate/txn/{space}"
        assert sorted(client.get_children(root)) == ["d", "horizon", "sweep"]
        buckets = client.get_children(f"{root}/d")
        assert sorted(buckets) == [f"{number:02x}" for number in range(256)]
        (bucket,) = [bucket for bucket in buckets if client.get_children(f"{root}/d/{bucket}")]
        assert json.loads(client.get(f"{root}/d/{bucket}/{gtid.text}")[0])["decision"] == "commit"
        assert client.get(f"{root}/horizon")[0] == b"0.0"


def test_records_have_the_clients_acl(ensemble: Ensemble, space: str) -> None:
    acl = [make_digest_acl("app", "secret", all=True)]
    gtid = gtid_of(space)
    root = f"/guarded-{space}"
    with connected(ensemble.addresses, auth_data=[("digest", "app:secret")], default_acl=acl) as client:
        log = ZooKeeperLog(client, space, root=root)
        do(log, "decide", commit(gtid))
        do(log, "amend", [commit(gtid)])
        assert [record.gtid for record in do(log, "records")] == [gtid]
        paths = [root, f"{root}/{space}", f"{root}/{space}/horizon", f"{root}/{space}/d/00"]
        assert [client.get_acls(path)[0] for path in paths] == [acl] * len(paths)
    with closing(ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space, root=root)) as stranger:
        for call in (("decide", commit(gtid)), ("read", gtid), ("records",), ("claim_sweep", "one", BEGAN, 1.0)):
            with pytest.raises(EnsembleError, match="its ACL does not allow that"):
                do(stranger, *call)


def test_a_chroot(ensemble: Ensemble, space: str) -> None:
    gtid = gtid_of(space)
    address = f"zookeeper://{ensemble.addresses}/apps/{space}"
    with connected(ensemble.addresses) as client:
        with closing(ZooKeeperLog(address)) as log:
            with pytest.raises(EnsembleError, match=f"has no /apps/{space}, the path in the address; create it first"):
                do(log, "decide", commit(gtid))
            client.ensure_path(f"/apps/{space}")
            do(log, "decide", commit(gtid))
            assert [record.gtid for record in do(log, "records")] == [gtid]
        assert client.get_children(f"/apps/{space}/quorate/txn") == ["default"]


def test_a_log_that_lost_its_horizon_is_not_taken_for_a_new_one(ensemble: Ensemble, space: str) -> None:
    with closing(ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space)) as log:
        do(log, "decide", commit(gtid_of(space)))
        with connected(ensemble.addresses) as client:
            client.delete(f"/quorate/txn/{space}/horizon")
        with pytest.raises(
            EnsembleError, match=rf"cannot be written: znode /quorate/txn/{space}/horizon: it does not exist"
        ):
            do(log, "decide", commit(gtid_of(space)))
    with closing(ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space)) as log:
        for method in ("decide", "read"):
            gtid = gtid_of(space)
            with pytest.raises(EnsembleError, match="there is no horizon"):
                do(log, method, commit(gtid) if method == "decide" else gtid)


def test_a_decision_that_is_too_large_is_none(ensemble: Ensemble, space: str) -> None:
    """An ensemble would hang up on it, time and again."""
    with BlockingCoordinator(f"zookeeper://{ensemble.addresses}", space=space, sweep_every=None) as coordinator:
        large = coordinator.transaction()
        with (
            pytest.raises(Aborted, match=r"are 1\d{6} bytes, and a request to ZooKeeper has 1000000 at most"),
            large as tx,
        ):
            tx.znodes.create(f"/large-{space}", b"x" * 999_990)
        with coordinator.transaction() as tx:
            tx.znodes.create(f"/large-{space}", b"x" * 999_000)


def test_a_client_that_nobody_started(ensemble: Ensemble) -> None:
    log = ZooKeeperLog(KazooClient(ensemble.addresses), timeout=0.1)
    with pytest.raises(
        EnsembleError,
        match=r"no connection to ZooKeeper at .* in 0\.1 s; the KazooClient is CLOSED, and whoever made it starts it",
    ):
        do(log, "read", gtid_of("default"))


def expire(client: KazooClient, address: str) -> None:
    """Somebody else takes the session up and ends it."""
    before = client.client_id
    other = KazooClient(address, client_id=before)
    other.start()
    other.stop()
    other.close()
    again = client.handler.event_object()
    client.add_listener(lambda state: again.set() if state == "CONNECTED" and client.client_id != before else None)
    if client.client_id in (None, before):
        again.wait(30)
    assert client.client_id not in (None, before)


def test_a_session_that_ended_is_followed_by_another(ensemble: Ensemble, space: str) -> None:
    gtid = gtid_of(space)
    with connected(ensemble.addresses) as client:
        log = ZooKeeperLog(client, space)
        do(log, "decide", commit(gtid))
        expire(client, ensemble.addresses)
        assert do(log, "read", gtid).decision is Decision.COMMIT
        assert do(log, "decide", commit(gtid_of(space))).decision is Decision.COMMIT


def test_what_is_asked_together_is_answered_in_one_session(ensemble: Ensemble) -> None:
    """A new session may go back in history, and the order of two reads would mean nothing."""

    asked: list[Any] = []

    def first(client: KazooClient) -> Any:
        asked.append(client.get_async("/"))
        return asked[0]

    def later(client: KazooClient) -> Any:
        # what is not answered yet would be lost with the session
        asked[0].get(timeout=30)
        expire(client, ensemble.addresses)
        return client.get_async("/")

    with connected(ensemble.addresses) as client:
        connection = Connection(client, 5.0)
        with pytest.raises(EnsembleError, match="the session changed while it was asked"):
            connection.ask(first, later)
        assert len(connection.ask(get("/"), get("/"))) == 2


def test_an_answer_that_is_lost_is_asked_for_again(ensemble: Ensemble, space: str) -> None:
    """Asked again, the log answers with the decision that was written, not with a second one."""
    with Cutter(0.0) as cutter:
        cutter.target = ensemble.addresses
        with closing(ZooKeeperLog(f"zookeeper://{cutter.address}", space)) as log:
            do(log, "read", gtid_of(space))
            gtid = gtid_of(space)

            def cut(when: str, point: str) -> None:
                if (when, point) == ("before", "log: commit"):
                    cutter.due = 1

            with pytest.raises(EnsembleError, match="connection loss"):
                Shell(cut).run(ask("decide", log, "decide", commit(gtid)))
            assert cutter.cuts == 1
            with closing(ZooKeeperLog(f"zookeeper://{ensemble.addresses}", space)) as other:
                assert do(other, "read", gtid).decision is Decision.COMMIT
            assert do(log, "decide", Record(gtid, Decision.ABORT, [], BEGAN, "one")).decision is Decision.COMMIT


def test_an_ensemble_that_is_not_there() -> None:
    why = r"no connection to ZooKeeper at 127\.0\.0\.1:1 in 0\.2 s$"
    with closing(ZooKeeperLog("zookeeper://127.0.0.1:1", timeout=0.2)) as log, pytest.raises(EnsembleError, match=why):
        do(log, "read", gtid_of("default"))


@pytest.mark.parametrize(
    "address",
    [
        "zookeeper://",
        "zookeeper://host:port",
        "zookeeper://one:2181,,two:2181",
        "zookeeper://one:2181/a//b",
        "zookeeper:///a",
    ],
)
@pytest.mark.parametrize("kind", [Coordinator, BlockingCoordinator])
def test_no_address(address: str, kind: Any) -> None:
    with pytest.raises(UsageError, match=r"is no address \(.*\), expected zookeeper://host:port,host:port/chroot"):
        kind(address)


def test_no_root() -> None:
    with pytest.raises(UsageError, match="'quorate' is no path of a znode, expected one like /app/leader"):
        ZooKeeperLog("zookeeper://host:2181", root="quorate")


def test_without_kazoo() -> None:
    """All else works, and who wants ZooKeeper is told what to install."""
    program = (
        "import sys; sys.modules['kazoo'] = None; sys.modules['kazoo.client'] = None\n"
        "from quorate.transactions.sync import Coordinator\n"
        "try: Coordinator('zookeeper://host:2181')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "UsageError decisions at zookeeper://host:2181 need kazoo, which is not installed: pip install 'quorate[kazoo]'\n"
    )
    assert issubclass(UsageError, QuorateError)
