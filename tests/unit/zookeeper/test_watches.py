"""Watches: who is told what, how often, and in which bytes."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quorate.binary import INT, Reader
from quorate.zookeeper.acl import OPEN_ACL, READ_ACL, Acl, AclEntry, Id
from quorate.zookeeper.constants import Event, WatcherType
from quorate.zookeeper.watches import Watches, event_frame


class Client:
    """Remembers the events it was told of, decoded."""

    def __init__(self, session: int = 1, *identities: Id) -> None:
        self.session = session
        self.identities: tuple[Id, ...] = identities
        self.frames: list[bytes] = []

    def notify(self, frame: bytes) -> None:
        self.frames.append(frame)

    def take(self) -> list[tuple[int, str]]:
        events = [decode(frame) for frame in self.frames]
        self.frames.clear()
        return [(event.type, event.path) for event in events]


@dataclass(frozen=True)
class Told:
    xid: int
    zxid: int
    error: int
    type: int
    state: int
    path: str


def decode(frame: bytes) -> Told:
    assert INT.unpack_from(frame)[0] == len(frame) - 4
    reader = Reader(frame, 4)
    told = Told(reader.int32(), reader.int64(), reader.int32(), reader.int32(), reader.int32(), reader.text())
    assert reader.remaining() == 0
    return told


def test_frame() -> None:
    assert decode(event_frame("/ä", Event.CREATED, 0x500000007)) == Told(-1, 0x500000007, 0, 1, 3, "/ä")


def test_data_watch_fires_once() -> None:
    watches, client = Watches(), Client()
    watches.add_data("/a", client)
    watches.add_data("/a", client)
    watches.trigger("/b", Event.DATA_CHANGED, 1, OPEN_ACL)
    watches.trigger("/a", Event.CHILDREN_CHANGED, 1, OPEN_ACL)
    assert client.take() == []
    watches.trigger("/a", Event.DATA_CHANGED, 2, OPEN_ACL)
    watches.trigger("/a", Event.DATA_CHANGED, 3, OPEN_ACL)
    assert client.take() == [(Event.DATA_CHANGED, "/a")]
    assert watches.count() == 0


def test_child_watch_fires_once_and_not_for_data() -> None:
    watches, client = Watches(), Client()
    watches.add_child("/a", client)
    watches.trigger("/a", Event.DATA_CHANGED, 1, OPEN_ACL)
    watches.trigger("/a", Event.CREATED, 1, OPEN_ACL)
    watches.trigger("/a", Event.CHILDREN_CHANGED, 1, OPEN_ACL)
    watches.trigger("/a", Event.CHILDREN_CHANGED, 1, OPEN_ACL)
    assert client.take() == [(Event.CHILDREN_CHANGED, "/a")]


def test_deletion_is_told_once_to_a_watcher_of_data_and_children() -> None:
    watches, both, child = Watches(), Client(), Client()
    watches.add_child("/a", child)
    watches.add_child("/a", both)
    watches.add_data("/a", both)
    watches.trigger("/a", Event.DELETED, 1, OPEN_ACL)
    assert both.take() == [(Event.DELETED, "/a")]
    assert child.take() == [(Event.DELETED, "/a")]
    assert watches.count() == 0


def test_persistent_watch_stays() -> None:
    watches, client = Watches(), Client()
    watches.add_persistent("/a", client)
    events = [Event.CREATED, Event.DATA_CHANGED, Event.CHILDREN_CHANGED, Event.DELETED, Event.CREATED]
    for event in events:
        watches.trigger("/a", event, 1, OPEN_ACL)
    watches.trigger("/a/b", Event.CREATED, 1, OPEN_ACL)
    assert client.take() == [(event, "/a") for event in events]


def test_recursive_watch_sees_all_below_but_no_changes_of_children() -> None:
    watches, client, other = Watches(), Client(), Client()
    watches.add_recursive("/a", client)
    watches.add_data("/a/b/c", client)
    watches.add_recursive("/", other)
    for path in ("/a", "/a/b", "/a/b/c", "/ab", "/"):
        watches.trigger(path, Event.DATA_CHANGED, 1, OPEN_ACL)
        watches.trigger(path, Event.CHILDREN_CHANGED, 1, OPEN_ACL)
    assert client.take() == [(Event.DATA_CHANGED, path) for path in ("/a", "/a/b", "/a/b/c")]
    assert other.take() == [(Event.DATA_CHANGED, path) for path in ("/a", "/a/b", "/a/b/c", "/ab", "/")]


def test_modes_on_one_path_do_not_touch_each_other() -> None:
    watches, client = Watches(), Client()
    watches.add_data("/a", client)
    watches.add_persistent("/a", client)
    watches.add_recursive("/a", client)
    watches.trigger("/a", Event.DATA_CHANGED, 1, OPEN_ACL)
    assert client.take() == [(Event.DATA_CHANGED, "/a")]
    assert not watches.contains("/a", WatcherType.DATA, client)
    assert watches.contains("/a", WatcherType.PERSISTENT, client)
    assert watches.remove("/a", WatcherType.PERSISTENT, client)
    assert not watches.remove("/a", WatcherType.PERSISTENT, client)
    watches.trigger("/a", Event.CHILDREN_CHANGED, 1, OPEN_ACL)
    watches.trigger("/a/b", Event.CREATED, 1, OPEN_ACL)
    assert client.take() == [(Event.CREATED, "/a/b")]
    assert watches.remove("/a", WatcherType.PERSISTENT_RECURSIVE, client)
    assert (watches.recursive, watches.count()) == (0, 0)


@pytest.mark.parametrize(
    ("type_", "data_left", "child_left"),
    [
        (WatcherType.DATA, False, True),
        (WatcherType.CHILDREN, True, False),
        (WatcherType.ANY, False, False),
        (WatcherType.PERSISTENT, True, True),
        (99, True, True),
    ],
)
def test_removal_by_type(type_: int, data_left: bool, child_left: bool) -> None:
    watches, client, other = Watches(), Client(), Client()
    for each in (client, other):
        watches.add_data("/a", each)
        watches.add_child("/a", each)
    expected = not (data_left and child_left)
    assert watches.contains("/a", type_, client) is expected
    assert watches.remove("/a", type_, client) is expected
    assert watches.contains("/a", WatcherType.DATA, client) is data_left
    assert watches.contains("/a", WatcherType.CHILDREN, client) is child_left
    assert watches.contains("/a", WatcherType.DATA, other)
    assert watches.contains("/a", WatcherType.CHILDREN, other)
    assert not watches.contains("/b", WatcherType.ANY, client)


def test_watchers_are_told_in_the_order_of_their_watches_with_one_frame() -> None:
    watches = Watches()
    order: list[int] = []

    class Ordered(Client):
        def notify(self, frame: bytes) -> None:
            super().notify(frame)
            order.append(self.session)

    clients = [Ordered(session) for session in (5, 3, 9, 1)]
    for client in clients:
        watches.add_data("/a", client)
    above = Ordered(7)
    watches.add_recursive("/", above)
    watches.trigger("/a", Event.DATA_CHANGED, 1, OPEN_ACL)
    assert order == [5, 3, 9, 1, 7]
    assert len({id(client.frames[0]) for client in clients}) == 1


SECRET: Acl = (AclEntry(31, "digest", "user:hash"),)
WRITE_ONLY: Acl = (AclEntry(2, "world", "anyone"),)


@pytest.mark.parametrize(
    ("acl", "identities", "allowed"),
    [
        (OPEN_ACL, (), True),
        (READ_ACL, (), True),
        ((), (), True),
        (SECRET, (), False),
        (SECRET, (Id("digest", "user:hash"),), True),
        (SECRET, (Id("digest", "other:hash"),), False),
        (WRITE_ONLY, (Id("digest", "user:hash"),), False),
        (SECRET, (Id("super", ""),), True),
    ],
)
def test_event_of_a_node_that_may_not_be_read_is_kept_back(acl: Acl, identities: tuple[Id, ...], allowed: bool) -> None:
    watches, client, reader = Watches(), Client(1, *identities), Client(2, Id("super", ""))
    watches.add_data("/a", client)
    watches.add_data("/a", reader)
    watches.trigger("/a", Event.DATA_CHANGED, 1, acl)
    assert client.take() == ([(Event.DATA_CHANGED, "/a")] if allowed else [])
    assert reader.take() == [(Event.DATA_CHANGED, "/a")]
    # kept back or not, it was the one event
    assert watches.count() == 0


def test_a_watcher_may_vanish_while_it_is_told() -> None:
    watches = Watches()

    class Fragile(Client):
        def notify(self, frame: bytes) -> None:
            super().notify(frame)
            for client in clients:
                watches.remove_watcher(client)

    clients = [Fragile(session) for session in range(3)]
    for client in clients:
        watches.add_persistent("/a", client)
        watches.add_recursive("/", client)
    watches.trigger("/a", Event.DELETED, 1, OPEN_ACL)
    assert [client.take() for client in clients] == [[(Event.DELETED, "/a")]] * 3
    assert (watches.count(), watches.recursive) == (0, 0)


def test_reports() -> None:
    watches, first, second = Watches(), Client(20), Client(10)
    watches.add_data("/b", first)
    watches.add_data("/a", first)
    watches.add_data("/a", second)
    watches.add_child("/c", second)
    watches.add_persistent("/d", second)
    assert watches.count() == 6
    assert watches.summary() == (2, 3, 4)
    assert watches.by_session() == {10: ["/a", "/d"], 20: ["/a", "/b"]}
    assert list(watches.by_session()) == [10, 20]
    assert watches.by_path() == {"/a": [10, 20], "/b": [20], "/d": [10]}
    watches.remove_watcher(second)
    assert watches.by_path() == {"/a": [20], "/b": [20]}
    assert watches.count() == 2
    watches.remove_watcher(second)


def is_at_or_below(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")


PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab"]
paths = st.sampled_from(PATHS)
numbers = st.integers(0, 2)
KINDS = ["data", "child", "persistent", "recursive"]


class WatchesAgainstAList(RuleBasedStateMachine):
    """The same rules, written down the slow way: one set of (kind, path, client)."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = Watches()
        self.clients = [Client(session) for session in range(3)]
        self.model: set[tuple[str, str, int]] = set()

    @rule(kind=st.sampled_from(KINDS), path=paths, client=numbers)
    def add(self, kind: str, path: str, client: int) -> None:
        add = {
            "data": self.watches.add_data,
            "child": self.watches.add_child,
            "persistent": self.watches.add_persistent,
            "recursive": self.watches.add_recursive,
        }[kind]
        add(path, self.clients[client])
        self.model.add((kind, path, client))

    @rule(type_=st.sampled_from(WatcherType), path=paths, client=numbers)
    def remove(self, type_: WatcherType, path: str, client: int) -> None:
        kinds = {
            WatcherType.DATA: ["data"],
            WatcherType.CHILDREN: ["child"],
            WatcherType.PERSISTENT: ["persistent"],
            WatcherType.PERSISTENT_RECURSIVE: ["recursive"],
            WatcherType.ANY: KINDS,
        }[type_]
        gone = {(kind, path, client) for kind in kinds} & self.model
        assert self.watches.contains(path, type_, self.clients[client]) is bool(gone)
        assert self.watches.remove(path, type_, self.clients[client]) is bool(gone)
        self.model -= gone

    @rule(client=numbers)
    def vanish(self, client: int) -> None:
        self.watches.remove_watcher(self.clients[client])
        self.model = {watch for watch in self.model if watch[2] != client}

    @rule(event=st.sampled_from([Event.CREATED, Event.DELETED, Event.DATA_CHANGED, Event.CHILDREN_CHANGED]), path=paths)
    def change(self, event: Event, path: str) -> None:
        kinds = {Event.DELETED: {"data", "child"}, Event.CHILDREN_CHANGED: {"child"}}.get(event, {"data"})
        told: set[int] = set()
        for kind, watched, client in sorted(self.model):
            if watched == path and (kind in kinds or kind == "persistent"):
                told.add(client)
                if kind != "persistent":
                    self.model.remove((kind, watched, client))
            elif kind == "recursive" and event != Event.CHILDREN_CHANGED and is_at_or_below(path, watched):
                told.add(client)
        self.watches.trigger(path, event, 7, OPEN_ACL)
        for number, client_object in enumerate(self.clients):
            assert client_object.take() == ([(event, path)] if number in told else [])

    @invariant()
    def counts_agree(self) -> None:
        data = {(path, client) for kind, path, client in self.model if kind != "child"}
        child = {(path, client) for kind, path, client in self.model if kind in ("child", "persistent")}
        assert self.watches.count() == len(data) + len(child)
        assert self.watches.summary() == (
            len({client for _, client in data}),
            len({path for path, _ in data}),
            len(data),
        )
        assert self.watches.recursive == len([watch for watch in self.model if watch[0] == "recursive"])
        assert set(self.watches.data_watchers) == {path for path, _ in data}
        assert set(self.watches.child_watchers) == {path for path, _ in child}


WatchesAgainstAList.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWatchesAgainstAList = WatchesAgainstAList.TestCase
