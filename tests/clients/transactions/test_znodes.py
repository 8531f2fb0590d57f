"""Znodes in a transaction: they ride in the decision, in an unmodified ensemble, Apache's and ours."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.security import make_acl, make_digest_acl
from tests.support.bank import START, Bank
from tests.support.cutting import Cutter
from tests.support.ensembles import OURS, THEIRS, Ensemble

from quorate.errors import UsageError
from quorate.transactions import Aborted
from quorate.transactions import Coordinator as AsyncCoordinator
from quorate.transactions.drivers.kazoo import EnsembleError
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.logs.zookeeper import ZooKeeperLog
from quorate.transactions.sync import Coordinator, Transaction

_roots = count()


@pytest.fixture(scope="module", params=[OURS, THEIRS], ids=["ours", "theirs"])
def ensemble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([request.param], tmp_path_factory.mktemp("ensemble")) as made:
        yield made


@pytest.fixture
def client(ensemble: Ensemble) -> Iterator[KazooClient]:
    """Somebody who knows nothing of transactions."""
    made = KazooClient(ensemble.addresses)
    made.start()
    yield made
    made.stop()
    made.close()


@pytest.fixture
def root(client: KazooClient) -> str:
    """A znode of the test's own, with one child."""
    path = f"/app-{next(_roots)}"
    client.create(path)
    client.create(path + "/stock", b"10")
    return path


@pytest.fixture
def coordinator(ensemble: Ensemble) -> Iterator[Coordinator]:
    with Coordinator(f"zookeeper://{ensemble.addresses}", sweep_every=None) as made:
        yield made


def aborted(coordinator: Coordinator, work: Callable[[Transaction], object]) -> str:
    tx = coordinator.transaction()
    with pytest.raises(Aborted) as told, tx:
        work(tx)
    assert tx.state == "aborted"
    return str(told.value).partition(": ")[2]


def test_all_is_done_at_the_commit_in_order(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    client.create(root + "/old")
    client.create(root + "/old/leaf")
    acl = [make_acl("world", "anyone", read=True)]
    with coordinator.transaction() as tx:
        assert tx.znodes.get(root + "/stock") == b"10"
        assert tx.znodes.get(root + "/new/leaf") is None
        assert not tx.znodes.exists(root + "/new")
        assert tx.znodes.exists(root + "/old")
        tx.znodes.set(root + "/stock", b"9", version=0)
        tx.znodes.set(root + "/stock", b"8")
        tx.znodes.create(root + "/new", b"parent")
        tx.znodes.create(root + "/new/leaf", b"child", acl=acl)
        tx.znodes.delete(root + "/old/leaf", version=0)
        tx.znodes.delete(root + "/old")
        tx.znodes.check(root, 0)
        assert client.get(root + "/stock")[0] == b"10"
        assert tx.znodes.get(root + "/stock") == b"10"
    value, stat = client.get(root + "/stock")
    assert (value, stat.version) == (b"8", 2)
    assert client.get(root + "/new")[0] == b"parent"
    assert client.get_acls(root + "/new/leaf")[0] == acl
    assert sorted(client.get_children(root)) == ["new", "stock"]


def test_without_writes_reads_still_have_to_hold(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    with coordinator.transaction() as tx:
        tx.znodes.get(root + "/stock")

    def changed(tx: Transaction) -> None:
        tx.znodes.get(root + "/stock")
        client.set(root + "/stock", b"11")

    assert aborted(coordinator, changed) == f"znode {root}/stock: it has been changed"


Interference = tuple[str, Callable[[Any, str], object], Callable[[KazooClient, str], object], str]
INTERFERENCES: list[Interference] = [
    ("set", lambda z, root: z.get(root + "/stock"), lambda c, root: c.set(root + "/stock", b"11"), "/stock: it has been changed"),
    ("deleted", lambda z, root: z.get(root + "/stock"), lambda c, root: c.delete(root + "/stock"), "/stock: it does not exist"),
    ("created", lambda z, root: z.get(root + "/no"), lambda c, root: c.create(root + "/no"), "/no: it exists"),
    ("created above", lambda z, root: z.get(root + "/no/leaf"), lambda c, root: c.create(root + "/no/leaf", makepath=True), "/no: it exists"),
    ("gone", lambda z, root: z.exists(root + "/stock"), lambda c, root: c.delete(root + "/stock"), "/stock: it does not exist"),
    ("come", lambda z, root: z.exists(root + "/no"), lambda c, root: c.create(root + "/no"), "/no: it exists"),
    ("come and set by us", lambda z, root: (z.get(root + "/no"), z.create(root + "/no")), lambda c, root: c.create(root + "/no"), "/no: it exists"),
    ("read twice", lambda z, root: (z.get(root + "/stock"), z.set(root + "/stock", b"1")), lambda c, root: c.set(root + "/stock", b"11"), "/stock: it has been changed"),
    ("checked", lambda z, root: z.check(root + "/stock", 0), lambda c, root: c.set(root + "/stock", b"11"), "/stock: it has been changed"),
    ("version of a set", lambda z, root: z.set(root + "/stock", b"1", version=0), lambda c, root: c.set(root + "/stock", b"11"), "/stock: its version is not 0"),
    ("version of a deletion", lambda z, root: z.delete(root + "/stock", version=0), lambda c, root: c.set(root + "/stock", b"11"), "/stock: its version is not 0"),
    ("set of what is gone", lambda z, root: z.set(root + "/stock", b"1"), lambda c, root: c.delete(root + "/stock"), "/stock: it does not exist"),
    ("deletion of a parent", lambda z, root: z.delete(root + "/stock"), lambda c, root: c.create(root + "/stock/leaf"), "/stock: it has children"),
    ("creation without a parent", lambda z, root: z.create(root + "/stock/leaf"), lambda c, root: c.delete(root + "/stock"), "/stock/leaf: its parent does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("does", "interferes", "told"), [case[1:] for case in INTERFERENCES], ids=[case[0] for case in INTERFERENCES])  # fmt: skip
def test_what_has_to_hold_does_not(
    client: KazooClient,
    root: str,
    coordinator: Coordinator,
    does: Callable[[Any, str], object],
    interferes: Callable[[KazooClient, str], object],
    told: str,
) -> None:
    """It is aborted with a reason, and none of its writes is done."""

    def work(tx: Transaction) -> None:
        tx.znodes.create(root + "/before")
        does(tx.znodes, root)
        tx.znodes.create(root + "/after")
        interferes(client, root)

    def undisturbed(tx: Transaction) -> None:
        does(tx.znodes, root)
        raise KeyError

    # it is not what it does that fails
    with pytest.raises(KeyError), coordinator.transaction() as tx:
        undisturbed(tx)
    assert aborted(coordinator, work) == f"znode {root}{told}"
    assert not {"before", "after"} & set(client.get_children(root))


def test_the_first_of_two_reads_has_to_hold_too(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    def work(tx: Transaction) -> None:
        assert tx.znodes.get(root + "/stock") == b"10"
        client.set(root + "/stock", b"11")
        assert tx.znodes.get(root + "/stock") == b"11"
        tx.znodes.set(root + "/stock", b"12")

    assert aborted(coordinator, work) == f"znode {root}/stock: it has been changed"
    assert client.get(root + "/stock")[0] == b"11"


def test_that_a_znode_exists_holds_whatever_is_written_to_it(
    client: KazooClient, root: str, coordinator: Coordinator
) -> None:
    with coordinator.transaction() as tx:
        assert tx.znodes.exists(root + "/stock")
        client.set(root + "/stock", b"11")
        tx.znodes.create(root + "/note")
    assert client.exists(root + "/note")


def test_a_read_of_nothing_leaves_nothing(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    with coordinator.transaction() as tx:
        assert tx.znodes.get(root + "/no/where/at/all") is None
        tx.znodes.set(root + "/stock", b"9")
    assert client.get_children(root) == ["stock"]


def test_a_creation_checks_by_itself_that_there_was_nothing(
    client: KazooClient, root: str, coordinator: Coordinator
) -> None:
    before = client.get(root)[1].cversion
    with coordinator.transaction() as tx:
        assert tx.znodes.get(root + "/no") is None
        tx.znodes.create(root + "/no")
    assert client.get(root)[1].cversion == before + 1


def test_nothing_is_below_an_ephemeral_znode(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    client.create(root + "/here", ephemeral=True)
    with coordinator.transaction() as tx:
        assert tx.znodes.get(root + "/here/leaf") is None
        tx.znodes.set(root + "/stock", b"9")
    assert client.get(root + "/stock")[0] == b"9"


def test_what_may_not_be_read_is_said(client: KazooClient, root: str, coordinator: Coordinator) -> None:
    client.set_acls(root + "/stock", [make_digest_acl("app", "secret", all=True)])
    with pytest.raises(EnsembleError, match=rf"znode {root}/stock: its ACL does not allow that"), coordinator.transaction() as tx:  # fmt: skip
        tx.znodes.get(root + "/stock")
    assert aborted(coordinator, lambda tx: tx.znodes.set(root + "/stock", b"1")) == (
        f"znode {root}/stock: its ACL does not allow that"
    )


@pytest.mark.parametrize("path", ["", "/", "app", "/app/", "//app", "/app/../x", "/a\0b", "/\ud800", b"/app", None])
def test_no_path(coordinator: Coordinator, path: Any) -> None:
    tx = coordinator.transaction()
    for use in (
        tx.znodes.get,
        tx.znodes.exists,
        tx.znodes.create,
        tx.znodes.delete,
        lambda path: tx.znodes.check(path, 0),
    ):
        with pytest.raises(UsageError, match="is no path of a znode, expected one like /app/leader"):
            use(path)


def test_what_cannot_be_asked(root: str, coordinator: Coordinator) -> None:
    tx = coordinator.transaction()
    with pytest.raises(UsageError, match="a znode's value is bytes, not str"):
        tx.znodes.set(root + "/stock", "text")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(UsageError, match="'1' is no version of a znode"):
        tx.znodes.set(root + "/stock", b"", version="1")  # type: ignore[arg-type]  # that is the point
    tx.znodes.set(root + "/stock", b"1")
    uses: list[Callable[[], object]] = [
        lambda: tx.znodes.set(root + "/stock", b"2", version=0),
        lambda: tx.znodes.delete(root + "/stock", version=0),
        lambda: tx.znodes.check(root + "/stock", 0),
    ]
    for use in uses:
        with pytest.raises(UsageError, match=f"znode {root}/stock is written by this transaction before"):
            use()
    tx.rollback()
    with pytest.raises(UsageError, match="is aborted: nothing can be done in it any more"):
        tx.znodes.set(root + "/stock", b"1")


# ---- which store rides where


def test_keys_do_not_ride_in_an_ensemble(coordinator: Coordinator) -> None:
    with pytest.raises(UsageError, match=r"there is no tx\.kv, for the decisions of this coordinator lie in ZooKeeper: use tx\.znodes"):  # fmt: skip
        coordinator.transaction().kv  # noqa: B018


def test_znodes_do_not_ride_elsewhere(tmp_path: Path) -> None:
    with Coordinator(tmp_path / "decisions", sweep_every=None) as coordinator:
        for attribute in ("kv", "znodes"):
            why = rf"there is no tx\.{attribute}, for the decisions of this coordinator lie in no store"
            with pytest.raises(UsageError, match=why):
                getattr(coordinator.transaction(), attribute)
    with Coordinator("127.0.0.1:1", sweep_every=None) as coordinator:
        assert isinstance(coordinator.engine.log, KvLog)
        with pytest.raises(UsageError, match=r"no tx\.znodes, .* lie in the key-value store: use tx\.kv"):
            coordinator.transaction().znodes  # noqa: B018


# ---- lost answers


@pytest.fixture
def cutter(ensemble: Ensemble) -> Iterator[Cutter]:
    with Cutter(0.0) as made:
        made.target = ensemble.addresses
        yield made


def test_a_lost_answer_is_no_second_try(client: KazooClient, root: str, cutter: Cutter) -> None:
    """The decision is done and its answer lost, and before it is asked for again somebody changes what it read and wrote: it is committed, once."""

    def watch(when: str, point: str) -> None:
        if (when, point) == ("before", "log: commit"):
            if not cutter.cuts:
                cutter.due = 1
            else:
                client.set(root + "/stock", b"7")

    with Coordinator(f"zookeeper://{cutter.address}", sweep_every=None, watch=watch) as coordinator:
        with coordinator.transaction() as tx:
            assert tx.znodes.get(root + "/stock") == b"10"
            tx.znodes.set(root + "/stock", b"9", version=0)
            tx.znodes.create(root + "/sold")
        assert tx.state == "committed"
    assert cutter.cuts == 1
    value, stat = client.get(root + "/stock")
    assert (value, stat.version) == (b"7", 2)
    assert client.exists(root + "/sold")


def test_counting_through_a_bad_network(client: KazooClient, root: str, cutter: Cutter) -> None:
    """What is told committed is counted once, and what is told aborted not at all."""
    with Coordinator(f"zookeeper://{cutter.address}", sweep_every=None) as coordinator:
        cutter.chance = 0.04
        committed = 0
        while committed < 40 or cutter.cuts < 10:
            try:
                with coordinator.transaction(timeout=20.0) as tx:
                    number = int(tx.znodes.get(root + "/stock") or b"")
                    tx.znodes.set(root + "/stock", b"%d" % (number + 1))
                    tx.znodes.create(f"{root}/at-{number}")
            except EnsembleError:
                # a read failed, so nothing was decided
                continue
            committed += 1
        cutter.chance = 0.0
    value, stat = client.get(root + "/stock")
    assert (int(value), stat.version) == (10 + committed, committed)
    assert len(client.get_children(root)) == committed + 1


# ---- with a database


def test_a_database_and_znodes_in_one_transaction(
    bank: Bank, ensemble: Ensemble, client: KazooClient, root: str
) -> None:
    out = "update accounts set balance = balance - 7 where id = 1"

    def balances() -> tuple[int, int]:
        return bank.balances()[0][0], int(client.get(root + "/stock")[0])

    with Coordinator(f"zookeeper://{ensemble.addresses}", bank.participants(), sweep_every=None) as coordinator:

        def move(tx: Transaction, *, meanwhile: Callable[[], object] = lambda: None) -> None:
            tx.enlist("orders").execute(out)
            stock = int(tx.znodes.get(root + "/stock") or b"")
            tx.znodes.set(root + "/stock", b"%d" % (stock + 7))
            meanwhile()

        def doomed(tx: Transaction) -> None:
            move(tx)
            fail(tx)

        with coordinator.transaction() as tx:
            move(tx)
        assert balances() == (START - 7, 17)
        # the tree does not agree
        told = aborted(coordinator, lambda tx: move(tx, meanwhile=lambda: client.set(root + "/stock", b"17")))
        assert told == f"znode {root}/stock: it has been changed"
        assert balances() == (START - 7, 17)
        # the database does not agree
        told = aborted(coordinator, doomed)
        assert "orders: " in told
        assert balances() == (START - 7, 17)
        with coordinator.transaction(acknowledge="decided") as tx:
            move(tx)
        assert client.get(root + "/stock")[0] == b"24"
    assert bank.balances()[0][0] == START - 14
    bank.no_locks()


def fail(tx: Transaction) -> None:
    """A statement that fails dooms the database's part."""
    connection = tx.enlist("orders")
    with pytest.raises(Exception, match="duplicate key"):
        connection.execute("insert into accounts values (1, 1)")


# ---- on an event loop


def test_on_an_event_loop(bank: Bank, ensemble: Ensemble, client: KazooClient, root: str) -> None:
    async def disturbed(coordinator: AsyncCoordinator) -> None:
        async with coordinator.transaction() as tx:
            await tx.znodes.get(root + "/stock")
            await asyncio.to_thread(client.set, root + "/stock", b"18")
            tx.znodes.delete(root + "/note", version=0)

    async def run() -> None:
        address = f"zookeeper://{ensemble.addresses}"
        async with AsyncCoordinator(address, bank.participants(), space="async", sweep_every=None) as coordinator:
            async with coordinator.transaction() as tx:
                orders = await tx.enlist("orders")
                await orders.execute("update accounts set balance = balance - 7 where id = 1")
                assert await tx.znodes.get(root + "/stock") == b"10"
                assert await tx.znodes.get(root + "/note") is None
                assert await tx.znodes.exists(root)
                tx.znodes.set(root + "/stock", b"17")
                tx.znodes.create(root + "/note", b"n")
            assert client.get(root + "/note")[0] == b"n"
            with pytest.raises(Aborted, match="stock: it has been changed"):
                await disturbed(coordinator)
            with pytest.raises(UsageError, match=r"no tx\.kv"):
                coordinator.transaction().kv  # noqa: B018
            assert client.exists(root + "/note")
            report = await coordinator.sweep()
            assert (report.heuristic, report.unknown, report.unreachable) == ([], [], {})

    asyncio.run(run())
    assert bank.balances()[0][0] == START - 7


def test_with_a_client_of_the_users(ensemble: Ensemble, client: KazooClient, root: str) -> None:
    async def run(log: ZooKeeperLog) -> None:
        async with AsyncCoordinator(log, sweep_every=0.1) as coordinator, coordinator.transaction() as tx:
            tx.znodes.set(root + "/stock", b"1")

    with closing(ZooKeeperLog(client, "users")) as log:
        asyncio.run(run(log))
        with Coordinator(log, sweep_every=0.1) as coordinator, coordinator.transaction() as tx:
            tx.znodes.set(root + "/stock", b"2")
    assert client.get(root + "/stock")[0] == b"2"
