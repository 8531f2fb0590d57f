"""Reads: bodies, codes and watches, as Apache 3.8.0 answered the same frames."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.binary import INT, LONG, Reader, pack_buffer, pack_string
from quorate.zookeeper.acl import OPEN_ACL, Acl, AclEntry, Id, pack_acl, read_acl
from quorate.zookeeper.auth import SUPER, digest_id
from quorate.zookeeper.constants import Code, Event, Op, WatcherType
from quorate.zookeeper.reads import READS
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Create, Delete, Record, SetAcl, SetData, Txn
from quorate.zookeeper.watches import event_frame

LOCAL = Id("ip", "127.0.0.1")
ALICE = Id("digest", digest_id("alice:secret"))


class Client:
    """A connection as the reads see it, which keeps what it is told."""

    def __init__(self, identities: tuple[Id, ...] = (LOCAL,), session: int = 5, skip_acl: bool = False) -> None:
        self.session = session
        self.identities = identities
        self.skip_acl = skip_acl
        self.frames: list[bytes] = []

    def notify(self, frame: bytes) -> None:
        self.frames.append(frame)

    def events(self) -> list[tuple[int, str, int]]:
        """(event, path, zxid of the header) of each frame so far, which are forgotten."""
        events: list[tuple[int, str, int]] = []
        for frame in self.frames:
            size, xid, zxid, error, event, state = struct.unpack_from(">iiqiii", frame)
            assert (size, xid, error, state) == (len(frame) - 4, -1, 0, 3)
            events.append((event, Reader(frame, 28).text(), zxid))
        self.frames.clear()
        return events


class World:
    def __init__(self) -> None:
        self.tree = DataTree()
        self.zxid = 0

    def apply(self, record: Record, session: int = 0) -> None:
        self.zxid += 1
        assert self.tree.apply(Txn(session, 0, self.zxid, 1000 + self.zxid, record)).code == 0

    def create(self, path: str, data: bytes | None = b"", acl: Acl = OPEN_ACL, session: int = 0) -> None:
        self.apply(Create(Op.CREATE, path, data, acl, session != 0, -1), session)

    def stat(self, path: str) -> bytes:
        return self.tree.nodes[path].stat()


@pytest.fixture
def world() -> World:
    world = World()
    world.create("/a", b"data")
    world.create("/a/z", None)
    world.create("/a/m")
    world.create("/a/m/deep")
    return world


def ask(world: World, op: int, body: bytes, client: Client | None = None) -> bytes:
    return READS[op](world.tree, body, client or Client())


def refusal(world: World, op: int, body: bytes, client: Client | None = None) -> int:
    with pytest.raises(RequestError) as caught:
        ask(world, op, body, client)
    return caught.value.code


def watched(path: str | None, watch: bool = False) -> bytes:
    return pack_string(path) + bytes([watch])


def typed(path: str | None, number: int) -> bytes:
    return pack_string(path) + INT.pack(number)


def strings(body: bytes) -> list[str]:
    reader = Reader(body)
    return [reader.text() for _ in range(reader.count(4))]


# ---- one node


def test_get_data(world: World) -> None:
    assert ask(world, Op.GET_DATA, watched("/a")) == pack_buffer(b"data") + world.stat("/a")
    assert ask(world, Op.GET_DATA, watched("/a/z")) == INT.pack(-1) + world.stat("/a/z")
    assert ask(world, Op.GET_DATA, watched("")) == pack_buffer(b"") + world.stat("/")
    assert ask(world, Op.GET_DATA, watched("/a") + b"more") == ask(world, Op.GET_DATA, watched("/a"))
    # the stat after a change, not one packed before it
    world.apply(SetData("/a", b"new", 1))
    assert ask(world, Op.GET_DATA, watched("/a")) == pack_buffer(b"new") + world.stat("/a")


def test_exists(world: World) -> None:
    assert ask(world, Op.EXISTS, watched("/a")) == world.stat("/a")
    assert ask(world, Op.EXISTS, watched("")) == world.stat("/")
    assert ask(world, Op.EXISTS, watched("/a") + b"more") == world.stat("/a")
    assert refusal(world, Op.EXISTS, watched("/none")) == Code.NO_NODE
    assert refusal(world, Op.EXISTS, watched("/a\0")) == Code.BAD_ARGUMENTS


_BY_PATH = (
    (Op.EXISTS, watched),
    (Op.GET_DATA, watched),
    (Op.GET_CHILDREN, watched),
    (Op.GET_CHILDREN2, watched),
    (Op.GET_ACL, pack_string),
    (Op.GET_ALL_CHILDREN_NUMBER, pack_string),
)


@pytest.mark.parametrize(("op", "body"), _BY_PATH)
@pytest.mark.parametrize("path", ["/none", "x", "//", "/a/", "/a//m", "/a/.", "/a/\x01", "/\ue000"])
def test_nodes_that_are_not_there(world: World, op: int, body: Callable[[str | None], bytes], path: str) -> None:
    assert refusal(world, op, body(path)) == Code.NO_NODE


@pytest.mark.parametrize(("op", "body"), _BY_PATH)
def test_malformed_paths(world: World, op: int, body: Callable[[str | None], bytes]) -> None:
    good = body("/a")
    for bad in (
        b"",
        good[:3],
        good[:5],
        body(None),
        INT.pack(-2) + good[4:],
        INT.pack(1 << 30) + good[4:],
        b"\xff" * 4,
    ):
        assert refusal(world, op, bad) == Code.MARSHALLING_ERROR
    assert refusal(world, op, INT.pack(2) + b"/\xff\0") == Code.NO_NODE


@pytest.mark.parametrize("op", [Op.EXISTS, Op.GET_DATA, Op.GET_CHILDREN, Op.GET_CHILDREN2])
def test_the_watch_flag_must_be_there(world: World, op: int) -> None:
    assert refusal(world, op, pack_string("/a")) == Code.MARSHALLING_ERROR


def test_access(world: World) -> None:
    mine: Acl = (AclEntry(31, "digest", ALICE.id), AclEntry(16, "ip", "10.0.0.0/8"))
    world.apply(SetAcl("/a", mine, 1))
    admin = Client((Id("ip", "10.0.0.1"),))
    for op, body in _BY_PATH:
        stranger = Client()
        assert refusal(world, op, body("/a"), stranger) == Code.NO_AUTH
        assert ask(world, op, body("/a"), Client((LOCAL, ALICE)))
        assert ask(world, op, body("/a"), Client((SUPER,)))
        assert ask(world, op, body("/a"), Client(skip_acl=True))
        if op == Op.GET_ACL:
            assert ask(world, op, body("/a"), admin), "READ or ADMIN"
        else:
            assert refusal(world, op, body("/a"), admin) == Code.NO_AUTH
    # who is refused watches nothing
    client = Client()
    for op in (Op.EXISTS, Op.GET_DATA, Op.GET_CHILDREN):
        assert refusal(world, op, watched("/a", True), client) == Code.NO_AUTH
    assert world.tree.watches.count() == 0


def test_get_acl_hides_hashes_from_all_but_admins(world: World) -> None:
    mine: Acl = (AclEntry(17, "digest", ALICE.id), AclEntry(1, "world", "anyone"))
    world.apply(SetAcl("/a", mine, 1))

    def seen(client: Client) -> Acl:
        body = ask(world, Op.GET_ACL, pack_string("/a"), client)
        assert body.endswith(world.stat("/a"))
        return read_acl(Reader(body))

    assert seen(Client((LOCAL, ALICE))) == mine
    assert seen(Client((SUPER,))) == mine
    assert seen(Client(skip_acl=True)) == mine
    assert seen(Client()) == (AclEntry(17, "digest", "alice:x"), mine[1])
    assert ask(world, Op.GET_ACL, pack_string("/a/m")) == pack_acl(OPEN_ACL) + world.stat("/a/m")


# ---- children


def test_children(world: World) -> None:
    world.create("/a/\u00e9")
    body = ask(world, Op.GET_CHILDREN, watched("/a"))
    assert strings(body) == ["m", "z", "\u00e9"]
    assert ask(world, Op.GET_CHILDREN2, watched("/a")) == body + world.stat("/a")
    assert ask(world, Op.GET_CHILDREN, watched("/a/z")) == INT.pack(0)
    assert strings(ask(world, Op.GET_CHILDREN, watched(""))) == ["a", "zookeeper"]


def test_all_children_number(world: World) -> None:
    def number(path: str) -> int:
        body = ask(world, Op.GET_ALL_CHILDREN_NUMBER, pack_string(path))
        assert len(body) == 4
        return Reader(body).int32()

    assert number("/a") == 3
    assert number("/a/m") == 1
    assert number("/a/z") == 0
    assert number("/") == 7
    assert number("") == 8


def test_ephemerals(world: World) -> None:
    for path in ("/a/e2", "/a/e1", "/e0"):
        world.create(path, session=5)
    world.create("/other", session=6)

    def mine(prefix: str | None) -> list[str]:
        return strings(ask(world, Op.GET_EPHEMERALS, pack_string(prefix)))

    everything = ["/a/e1", "/a/e2", "/e0"]
    assert [mine(prefix) for prefix in (None, "", "/", " / ", "\t")] == [everything] * 5
    assert mine("/a") == ["/a/e1", "/a/e2"]
    assert mine("/a/e2") == ["/a/e2"]
    assert mine("a") == []
    assert strings(ask(world, Op.GET_EPHEMERALS, pack_string(""), Client(session=9))) == []
    assert refusal(world, Op.GET_EPHEMERALS, b"\0") == Code.MARSHALLING_ERROR


# ---- watches


def test_data_and_child_watches_fire_once(world: World) -> None:
    client = Client()
    ask(world, Op.GET_DATA, watched("/a", True), client)
    ask(world, Op.GET_CHILDREN, watched("/a", True), client)
    assert refusal(world, Op.EXISTS, watched("/new", True), client) == Code.NO_NODE
    assert refusal(world, Op.GET_DATA, watched("/none", True), client) == Code.NO_NODE
    assert refusal(world, Op.GET_CHILDREN, watched("/none", True), client) == Code.NO_NODE
    for expected in ([(Event.DATA_CHANGED, "/a"), (Event.CREATED, "/new"), (Event.CHILDREN_CHANGED, "/a")], []):
        before = world.zxid
        world.apply(SetData("/a", b"", 1))
        world.create("/new")
        world.create("/a/child")
        world.create("/none")
        for path in ("/new", "/a/child", "/none"):
            world.apply(Delete(Op.DELETE, path))
        assert client.events() == [(*event, before + 1 + index) for index, event in enumerate(expected)]


def test_exists_and_children2_watch_too(world: World) -> None:
    client = Client()
    ask(world, Op.EXISTS, watched("/a/m/deep", True), client)
    ask(world, Op.GET_CHILDREN2, watched("/a/m", True), client)
    world.apply(Delete(Op.DELETE, "/a/m/deep"))
    assert client.events() == [
        (Event.DELETED, "/a/m/deep", world.zxid),
        (Event.CHILDREN_CHANGED, "/a/m", world.zxid),
    ]


def test_persistent_and_recursive_watches(world: World) -> None:
    persistent, recursive = Client(), Client()
    assert ask(world, Op.ADD_WATCH, typed("/a", 0), persistent) == INT.pack(0)
    assert ask(world, Op.ADD_WATCH, typed("/a", 1), recursive) == INT.pack(0)
    for version in (1, 2):
        world.apply(SetData("/a", b"", version))
    world.create("/a/n")
    assert [event[:2] for event in persistent.events()] == [
        (Event.DATA_CHANGED, "/a"),
        (Event.DATA_CHANGED, "/a"),
        (Event.CHILDREN_CHANGED, "/a"),
    ]
    assert [event[:2] for event in recursive.events()] == [
        (Event.DATA_CHANGED, "/a"),
        (Event.DATA_CHANGED, "/a"),
        (Event.CREATED, "/a/n"),
    ]
    for mode in (-1, 2):
        assert refusal(world, Op.ADD_WATCH, typed("/a", mode)) == Code.MARSHALLING_ERROR
    assert refusal(world, Op.ADD_WATCH, pack_string("/a")) == Code.MARSHALLING_ERROR


def test_check_and_remove_watches(world: World) -> None:
    client = Client()
    ask(world, Op.GET_DATA, watched("/a", True), client)
    for op in (Op.CHECK_WATCHES, Op.REMOVE_WATCHES):
        assert refusal(world, op, typed("/a", WatcherType.CHILDREN), client) == Code.NO_WATCHER
        assert refusal(world, op, typed("/a/m", WatcherType.ANY), client) == Code.NO_WATCHER
        assert refusal(world, op, typed("/a", WatcherType.DATA), Client()) == Code.NO_WATCHER
        for kind in (-1, 0, 6):
            assert refusal(world, op, typed("/a", kind), client) == Code.MARSHALLING_ERROR
        assert refusal(world, op, typed(None, 1), client) == Code.MARSHALLING_ERROR
        assert refusal(world, op, pack_string("/a"), client) == Code.MARSHALLING_ERROR
    assert ask(world, Op.CHECK_WATCHES, typed("/a", WatcherType.DATA), client) == b""
    assert ask(world, Op.CHECK_WATCHES, typed("/a", WatcherType.ANY), client) == b""
    assert ask(world, Op.REMOVE_WATCHES, typed("/a", WatcherType.DATA), client) == b""
    assert refusal(world, Op.CHECK_WATCHES, typed("/a", WatcherType.ANY), client) == Code.NO_WATCHER
    world.apply(SetData("/a", b"", 1))
    assert client.events() == []


def set_watches(seen: int, *lists: list[str]) -> bytes:
    return LONG.pack(seen) + b"".join(
        [INT.pack(len(paths)) + b"".join([pack_string(path) for path in paths]) for paths in lists]
    )


def test_set_watches_tells_what_was_missed(world: World) -> None:
    client = Client()
    body = set_watches(1, ["/a/m", "/none"], ["/a", "/none"], ["/a", "/none"])
    assert ask(world, Op.SET_WATCHES, body, client) == b""
    assert client.events() == [
        (Event.DATA_CHANGED, "/a/m", -1),
        (Event.DELETED, "/none", -1),
        (Event.CREATED, "/a", -1),
        (Event.CHILDREN_CHANGED, "/a", -1),
        (Event.DELETED, "/none", -1),
    ]
    # only the node that is not there is watched again
    assert world.tree.watches.count() == 1
    world.create("/none")
    assert client.events() == [(Event.CREATED, "/none", world.zxid)]


def test_set_watches_arms_what_was_not_missed(world: World) -> None:
    client = Client()
    ask(world, Op.SET_WATCHES, set_watches(world.zxid, ["/a"], ["/none"], ["/a"]), client)
    assert client.events() == []
    world.apply(SetData("/a", b"", 1))
    world.create("/a/n")
    world.create("/none")
    assert [event[:2] for event in client.events()] == [
        (Event.DATA_CHANGED, "/a"),
        (Event.CHILDREN_CHANGED, "/a"),
        (Event.CREATED, "/none"),
    ]


def test_set_watches2(world: World) -> None:
    client = Client()
    assert ask(world, Op.SET_WATCHES2, set_watches(0, [], [], [], ["/a"], ["/a/m"]), client) == b""
    assert client.events() == [], "persistent watches replay nothing"
    world.create("/a/n")
    world.apply(SetData("/a/m/deep", b"", 1))
    assert [event[:2] for event in client.events()] == [
        (Event.CHILDREN_CHANGED, "/a"),
        (Event.DATA_CHANGED, "/a/m/deep"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        LONG.pack(1),
        LONG.pack(1) + INT.pack(-1) * 3,
        LONG.pack(1) + INT.pack(1) + INT.pack(-1) + INT.pack(0) * 2,
        LONG.pack(1) + INT.pack(1 << 30),
        LONG.pack(1) + INT.pack(-2) + INT.pack(0) * 2,
        set_watches(1, ["/a"], []),
    ],
)
def test_malformed_set_watches_change_nothing(world: World, body: bytes) -> None:
    client = Client()
    for op in (Op.SET_WATCHES, Op.SET_WATCHES2):
        assert refusal(world, op, body, client) == Code.MARSHALLING_ERROR
    assert client.frames == []
    assert world.tree.watches.count() == 0


def test_the_frame_of_an_event_is_apaches() -> None:
    # as Apache 3.8.0 sent it after setWatches, behind the frame's length
    assert event_frame("/none", Event.DELETED, -1)[4:] == (
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\x02\0\0\0\x03\0\0\0\x05/none"
    )


# ---- the rest


def test_who_am_i(world: World) -> None:
    body = ask(world, Op.WHO_AM_I, b"ignored", Client((LOCAL, ALICE, SUPER)))
    reader = Reader(body)
    assert [(reader.text(), reader.text()) for _ in range(reader.count(8))] == [
        ("ip", "127.0.0.1"),
        ("digest", "alice"),
        ("super", ""),
    ]
    assert reader.remaining() == 0


def multi_read(*parts: tuple[int, str | None]) -> bytes:
    header = struct.Struct(">i?i")
    body = b"".join([header.pack(op, False, -1) + watched(path, True) for op, path in parts])
    return body + header.pack(-1, True, -1)


def test_multi_read(world: World) -> None:
    end = b"\xff\xff\xff\xff\x01\xff\xff\xff\xff"
    body = ask(world, Op.MULTI_READ, multi_read((4, "/a"), (8, "/a"), (4, "/none"), (4, "/a/z")))
    assert body == b"".join(
        (
            b"\0\0\0\x04\0\0\0\0\0" + pack_buffer(b"data") + world.stat("/a"),
            b"\0\0\0\x08\0\0\0\0\0" + INT.pack(2) + pack_string("m") + pack_string("z"),
            b"\xff\xff\xff\xff\0" + INT.pack(-101) * 2,
            b"\0\0\0\x04\0\0\0\0\0" + INT.pack(-1) + world.stat("/a/z"),
            end,
        )
    )
    assert world.tree.watches.count() == 0
    assert ask(world, Op.MULTI_READ, multi_read()) == end
    for bad in (b"", multi_read((4, "/a"))[:-1], multi_read((3, "/a")), multi_read((1, "/a")), multi_read((4, None))):
        assert refusal(world, Op.MULTI_READ, bad) == Code.MARSHALLING_ERROR


@given(st.sampled_from(sorted(READS)), st.binary(max_size=40))
def test_hostile_bodies_are_answered_or_refused(op: int, body: bytes) -> None:
    tree = World().tree
    client = Client()
    try:
        reply = READS[op](tree, body, client)
    except RequestError:
        assert client.frames == []
    else:
        assert isinstance(reply, bytes)
