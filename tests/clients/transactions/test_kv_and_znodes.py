"""One transaction over the key-value store and a znode tree, Apache's and ours: the tree carries the decision, the store's keys wait for it as intents."""

from collections.abc import Iterator
from itertools import count

import pytest
from kazoo.client import KazooClient
from tests.support.bank import until
from tests.support.ensembles import OURS, THEIRS, Ensemble
from tests.support.kvcluster import KvCluster

from quorate.kv.client.sync import Client
from quorate.transactions import Aborted, Kv
from quorate.transactions.shells.aio import Watch
from quorate.transactions.sync import Coordinator, Transaction

_numbers = count()


class Died(BaseException):
    """What a process that is killed does not catch."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("kv"), 1) as running:
        yield running


@pytest.fixture(scope="module", params=[OURS, THEIRS], ids=["ours", "theirs"])
def ensemble(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([request.param], tmp_path_factory.mktemp("ensemble")) as made:
        yield made


class Both:
    """Ten apples at a znode, and none under a key."""

    def __init__(self, cluster: KvCluster, ensemble: Ensemble, kv: Client, zk: KazooClient) -> None:
        self.kv, self.zk = kv, zk
        self.znode, self.key = f"/apples-{next(_numbers)}", f"apples-{next(_numbers)}"
        zk.create(self.znode, b"10")
        self._decisions = f"zookeeper://{ensemble.addresses}"
        self._members = ",".join(cluster.addresses)

    def coordinator(self, watch: Watch = lambda when, point: None) -> Coordinator:
        return Coordinator(self._decisions, [Kv("inventory", self._members)], sweep_every=None, watch=watch)

    def move(self, tx: Transaction, apples: int) -> None:
        inventory = tx.enlist("inventory")
        have = int(inventory.get(self.key) or b"0")
        inventory.put(self.key, b"%d" % (have + apples))
        left = int(tx.znodes.get(self.znode) or b"0")
        tx.znodes.set(self.znode, b"%d" % (left - apples))

    def found(self) -> tuple[int, int]:
        item = self.kv.get(self.key)
        value, _ = self.zk.get(self.znode)
        return int(value), 0 if item is None else int(item.value)

    def prepared(self) -> int:
        return sum(len(self.kv.held(group)) for group in self.kv.groups())


@pytest.fixture
def both(cluster: KvCluster, ensemble: Ensemble) -> Iterator[Both]:
    client = KazooClient(ensemble.addresses)
    client.start()
    with cluster.client() as kv:
        made = Both(cluster, ensemble, kv, client)
        yield made
        assert made.prepared() == 0
    client.stop()
    client.close()


def test_both_or_neither(both: Both) -> None:
    with both.coordinator() as coordinator:
        with coordinator.transaction() as tx:
            both.move(tx, 3)
        assert both.found() == (7, 3)
        tx = coordinator.transaction()
        both.move(tx, 3)
        tx.rollback()
    assert both.found() == (7, 3)


def test_what_was_read_of_either_has_to_hold(both: Both) -> None:
    with both.coordinator() as coordinator:
        tx = coordinator.transaction()
        both.move(tx, 3)
        both.zk.set(both.znode, b"9")
        with pytest.raises(Aborted):
            tx.commit()
        tx = coordinator.transaction()
        both.move(tx, 3)
        both.kv.put(both.key, b"1")
        with pytest.raises(Aborted):
            tx.commit()
    assert both.found() == (9, 1)


@pytest.mark.parametrize(
    ("strike", "moved"), [("inventory: prepare", 0), ("log: decide", 0), ("inventory: commit", 3)], ids=lambda value: str(value)
)  # fmt: skip
def test_the_coordinator_dies(both: Both, strike: str, moved: int) -> None:
    """Another one finishes what it has decided, and aborts what it has not."""

    def watch(when: str, point: str) -> None:
        if (when, point) == ("before", strike):
            raise Died

    dying = both.coordinator(watch)
    tx = dying.transaction(timeout=1.0)
    both.move(tx, 3)
    with pytest.raises(Died):
        tx.commit()
    with both.coordinator() as other:

        def swept() -> bool:
            report = other.sweep()
            return not report.in_doubt and not report.unknown and not report.unreachable

        until(swept, "recovery", 30.0)
    dying.close()
    assert both.found() == (10 - moved, moved)
