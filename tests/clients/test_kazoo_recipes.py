"""Every recipe of kazoo, with several clients at once, on a three-member ensemble."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, LockTimeout, NoNodeError, RolledBackError, RuntimeInconsistency
from kazoo.recipe.barrier import DoubleBarrier
from kazoo.recipe.cache import TreeCache, TreeEvent
from kazoo.recipe.lock import CancelledError
from tests.support.ensembles import Ensemble
from tests.support.processes import wait_until
from tests.support.raw import RawClient, create_body

from quorate.zookeeper.constants import EPHEMERAL, Op

WORKERS = 4
PATIENCE = 20.0


@pytest.fixture
def path() -> str:
    return f"/recipes/{uuid.uuid4().hex}"


@pytest.fixture
def clients(connect: Callable[..., KazooClient]) -> list[KazooClient]:
    return [connect() for _ in range(WORKERS)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WORKERS * 2) as executor:
        yield executor


class Section:
    """A place that counts who is inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entries = 0
        self._guard = threading.Lock()

    def __enter__(self) -> None:
        with self._guard:
            self.inside += 1
            self.entries += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self.inside -= 1


def all_results(futures: list[Any]) -> list[Any]:
    return [future.result(PATIENCE) for future in futures]


def test_lock_excludes(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    section = Section()

    def work(client: KazooClient) -> None:
        for _ in range(5):
            with client.Lock(path, "worker"), section:
                client.exists(path)

    all_results([pool.submit(work, client) for client in clients])
    assert section.entries == WORKERS * 5
    assert section.most == 1


def test_lock_times_out_and_can_be_cancelled(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    holder = clients[0].Lock(path, "holder")
    assert holder.acquire()
    with pytest.raises(LockTimeout):
        clients[1].Lock(path, "late").acquire(timeout=0.2)
    waiting = clients[2].Lock(path, "cancelled")
    future = pool.submit(waiting.acquire)
    wait_until(lambda: len(holder.contenders()) == 2, PATIENCE, "the second contender waits")
    assert holder.contenders() == ["holder", "cancelled"]
    waiting.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    holder.release()


def test_lock_goes_on_when_its_holder_dies(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    assert clients[0].Lock(path).acquire()
    heir = pool.submit(clients[1].Lock(path).acquire)
    clients[0].stop()
    assert heir.result(PATIENCE)


def test_read_and_write_locks(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    readers = [client.ReadLock(path) for client in clients[:2]]
    assert all(reader.acquire(timeout=PATIENCE) for reader in readers), "readers share"
    writer = clients[2].WriteLock(path)
    with pytest.raises(LockTimeout):
        writer.acquire(timeout=0.2)
    future = pool.submit(writer.acquire)
    for reader in readers:
        reader.release()
    assert future.result(PATIENCE)
    with pytest.raises(LockTimeout):
        clients[3].ReadLock(path).acquire(timeout=0.2)
    writer.release()


def test_semaphore_bounds(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    section = Section()

    def work(client: KazooClient) -> None:
        for _ in range(4):
            with client.Semaphore(path, max_leases=2), section:
                client.exists(path)

    all_results([pool.submit(work, client) for client in clients])
    assert section.entries == WORKERS * 4
    assert section.most <= 2


def test_election_leads_one_at_a_time(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    section = Section()

    def lead() -> None:
        with section:
            pass

    all_results([pool.submit(client.Election(path, f"c{i}").run, lead) for i, client in enumerate(clients)])
    assert section.entries == WORKERS
    assert section.most == 1


def test_party(clients: list[KazooClient], path: str) -> None:
    parties = [client.Party(path, f"member-{i}") for i, client in enumerate(clients)]
    for party in parties:
        party.join()
    clients[0].sync(path)
    assert sorted(parties[0]) == [f"member-{i}" for i in range(WORKERS)]
    parties[1].leave()
    clients[2].stop()
    wait_until(lambda: len(parties[0]) == WORKERS - 2, PATIENCE, "two members have left")
    shallow = clients[0].ShallowParty(path + "-shallow", "only")
    shallow.join()
    assert list(shallow) == ["only"]


def test_barrier(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    barrier = clients[0].Barrier(path)
    barrier.create()
    assert not clients[1].Barrier(path).wait(0.1)
    waiting = [pool.submit(client.Barrier(path).wait, PATIENCE) for client in clients[1:]]
    assert barrier.remove()
    assert all(all_results(waiting))


def test_double_barrier(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    barriers = [DoubleBarrier(client, path, WORKERS) for client in clients]
    all_results([pool.submit(barrier.enter) for barrier in barriers])
    assert all(barrier.participating for barrier in barriers)
    all_results([pool.submit(barrier.leave) for barrier in barriers])
    clients[0].sync(path)
    assert not clients[0].get_children(path)


def test_queue(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    queue = clients[0].Queue(path)
    for number in range(20):
        queue.put(b"%d" % number, priority=50 if number else 10)

    def take(client: KazooClient) -> list[bytes]:
        taken = []
        while (item := client.Queue(path).get()) is not None:
            taken.append(item)
        return taken

    taken = list(chain.from_iterable(all_results([pool.submit(take, client) for client in clients])))
    assert sorted(map(int, taken)) == list(range(20))


def test_locking_queue(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    clients[0].LockingQueue(path).put_all([b"%d" % number for number in range(20)])

    def take(client: KazooClient) -> list[bytes]:
        queue = client.LockingQueue(path)
        taken = []
        while (item := queue.get(timeout=1)) is not None:
            taken.append(item)
            assert queue.consume()
        return taken

    taken = list(chain.from_iterable(all_results([pool.submit(take, client) for client in clients])))
    assert sorted(map(int, taken)) == list(range(20))


def test_counter_loses_no_increment(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    def work(client: KazooClient) -> None:
        counter = client.Counter(path)
        for _ in range(10):
            counter += 1

    all_results([pool.submit(work, client) for client in clients])
    clients[0].sync(path)
    assert clients[0].Counter(path).value == WORKERS * 10


def test_set_partitioner(clients: list[KazooClient], path: str) -> None:
    items = set(range(12))
    partitioners = [
        client.SetPartitioner(path, items, identifier=f"c{index}", time_boundary=0.5)
        for index, client in enumerate(clients)
    ]

    def settled() -> bool:
        for partitioner in partitioners:
            assert not partitioner.failed
            if partitioner.release:
                partitioner.release_set()
        return all(partitioner.acquired for partitioner in partitioners)

    wait_until(settled, PATIENCE, "every client has its part")
    parts = [list(partitioner) for partitioner in partitioners]
    assert sorted(chain.from_iterable(parts)) == sorted(items)
    assert all(parts)
    for partitioner in partitioners:
        partitioner.finish()


def test_tree_cache(clients: list[KazooClient], path: str) -> None:
    clients[0].ensure_path(path)
    clients[0].create(f"{path}/a", b"1")
    ready = threading.Event()
    cache = TreeCache(clients[1], path)
    cache.listen(lambda event: ready.set() if event.event_type == TreeEvent.INITIALIZED else None)
    cache.start()
    try:
        assert ready.wait(PATIENCE)
        assert cache.get_children(path) == frozenset({"a"})
        clients[0].set(f"{path}/a", b"2")
        clients[0].create(f"{path}/a/b", b"3")
        wait_until(
            lambda: (node := cache.get_data(f"{path}/a/b")) is not None and node.data == b"3", PATIENCE, "the new node"
        )
        wait_until(lambda: cache.get_data(f"{path}/a").data == b"2", PATIENCE, "the new data")
        clients[0].delete(path, recursive=True)
        wait_until(lambda: cache.get_data(f"{path}/a") is None, PATIENCE, "the deletion")
    finally:
        cache.close()


def test_children_and_data_watches(clients: list[KazooClient], path: str) -> None:
    clients[0].ensure_path(path)
    children: list[list[str]] = []
    values: list[bytes | None] = []
    clients[1].ChildrenWatch(path, children.append)
    clients[2].DataWatch(f"{path}/n", lambda data, stat: values.append(data))
    clients[0].create(f"{path}/n", b"1")
    wait_until(lambda: values[-1:] == [b"1"], PATIENCE, "creation seen")
    clients[0].set(f"{path}/n", b"2")
    wait_until(lambda: values[-1:] == [b"2"], PATIENCE, "change seen")
    clients[0].delete(f"{path}/n")
    wait_until(lambda: values[-1:] == [None], PATIENCE, "deletion seen")
    wait_until(lambda: [] in children and ["n"] in children and children[-1] == [], PATIENCE, "children seen")
    assert values == [None, b"1", b"2", None]


def test_transactions(clients: list[KazooClient], path: str) -> None:
    client = clients[0]
    client.ensure_path(path)
    client.create(f"{path}/n", b"0")
    transaction = client.transaction()
    transaction.check(f"{path}/n", 0)
    transaction.set_data(f"{path}/n", b"1")
    transaction.create(f"{path}/m", b"", sequence=True)
    transaction.delete(f"{path}/n", 1)
    _, stat, name, deleted = transaction.commit()
    assert stat.version == 1
    assert name.startswith(f"{path}/m00")
    assert deleted is True
    failing = client.transaction()
    failing.create(f"{path}/x")
    failing.check(f"{path}/x", 7)
    failing.create(f"{path}/y")
    kinds = [type(result) for result in failing.commit()]
    assert kinds == [RolledBackError, BadVersionError, RuntimeInconsistency]
    assert client.exists(f"{path}/x") is None


def test_version_checks_are_optimistic_locks(clients: list[KazooClient], pool: ThreadPoolExecutor, path: str) -> None:
    clients[0].create(path, b"0", makepath=True)
    winners = []

    def work(client: KazooClient) -> None:
        client.sync(path)
        for version in range(10):
            try:
                client.set(path, b"x", version=version)
                winners.append(version)
            except BadVersionError:
                client.sync(path)
                wait_until(lambda v=version: client.get(path)[1].version > v, PATIENCE, "another has set it")  # type: ignore[misc]  # mypy cannot infer lambdas with defaults

    all_results([pool.submit(work, client) for client in clients])
    assert sorted(winners) == list(range(10)), "each version is won once"


def test_a_session_and_its_watches_survive_a_lost_connection(clients: list[KazooClient], path: str) -> None:
    clients[0].ensure_path(path)
    seen: list[bytes | None] = []
    clients[1].DataWatch(path, lambda data, stat: seen.append(data))
    session = clients[1].client_id
    clients[1].create(f"{path}/mine", ephemeral=True)
    clients[1]._connection._socket.shutdown(2)
    clients[0].set(path, b"changed")
    wait_until(lambda: seen[-1:] == [b"changed"], PATIENCE, "the change is seen after the connection is made anew")
    assert clients[1].client_id == session
    assert clients[0].exists(f"{path}/mine") is not None


def test_ephemerals_go_when_their_session_expires(
    ensemble: Ensemble, connect: Callable[..., KazooClient], path: str
) -> None:
    observer = connect()
    observer.ensure_path("/recipes")
    member = ensemble.members[0]
    with RawClient(member.host, member.client_port, timeout_ms=4000) as mortal:
        assert mortal.call(Op.CREATE, create_body(path, flags=EPHEMERAL))[-1].err == 0
    gone = threading.Event()
    observer.sync(path)
    assert observer.exists(path, watch=lambda event: gone.set()) is not None
    assert gone.wait(PATIENCE), "expired by the leader"
    with pytest.raises(NoNodeError):
        observer.get(path)
