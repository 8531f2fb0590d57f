"""The tree: what each transaction does, what applying it again does, and that everything kept beside the nodes agrees."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.zookeeper.acl import OPEN_ACL, READ_ACL, Acl, AclEntry, Id, intern_acl
from quorate.zookeeper.constants import CONTAINER_OWNER, Code, Event, Op
from quorate.zookeeper.digest import node_digest
from quorate.zookeeper.node import STAT, Node
from quorate.zookeeper.quota import limits_path, stats_path
from quorate.zookeeper.tree import DataTree, Outcome
from quorate.zookeeper.txns import (
    Check,
    CloseSession,
    Create,
    CreateSession,
    Delete,
    Error,
    Multi,
    Record,
    SetAcl,
    SetData,
    Txn,
)

SESSION = 0x100000000000001
OTHER = 0x100000000000002
USER_ACL: Acl = intern_acl((AclEntry(31, "digest", "user:hash"),))
IP_ACL: Acl = intern_acl((AclEntry(31, "ip", "10.0.0.1"), AclEntry(1, "world", "anyone")))


class Events:
    """A watcher that notes what it is told."""

    def __init__(self) -> None:
        self.session = 1
        self.identities: tuple[Id, ...] = ()
        self.told: list[tuple[int, str]] = []
        self.zxids: list[int] = []

    def notify(self, frame: bytes) -> None:
        self.zxids.append(int.from_bytes(frame[8:16], "big", signed=True))
        self.told.append((int.from_bytes(frame[20:24], "big"), frame[32:].decode()))


class History:
    """A tree and the transactions that made it. Times are zxids, for easy reading."""

    def __init__(self) -> None:
        self.tree = DataTree()
        self.txns: list[Txn] = []

    def apply(self, record: Record, session: int = SESSION) -> Outcome:
        zxid = self.tree.last_zxid + 1
        txn = Txn(session, 7, zxid, 1000 + zxid, record)
        self.txns.append(txn)
        outcome = self.tree.apply(txn)
        assert self.tree.last_zxid == zxid
        return outcome

    def create(
        self, path: str, data: bytes | None = b"", op: int = Op.CREATE, ttl: int = 0, acl: Acl = OPEN_ACL
    ) -> Outcome:
        return self.apply(self.creation(path, data, False, op, ttl, acl))

    def ephemeral(self, path: str, session: int = SESSION) -> Outcome:
        return self.apply(self.creation(path, b"", True), session)

    def creation(
        self, path: str, data: bytes | None, ephemeral: bool, op: int = Op.CREATE, ttl: int = 0, acl: Acl = OPEN_ACL
    ) -> Create:
        parent = self.tree.nodes[path[: path.rindex("/")] or "/"]
        return Create(op, path, data, acl, ephemeral, parent.cversion + 1, ttl)

    def __getitem__(self, path: str) -> Node:
        return self.tree.nodes[path]


def check(tree: DataTree) -> None:
    """Everything the tree keeps beside the nodes agrees with them."""
    ephemerals: dict[int, set[str]] = {}
    containers, ttl_nodes, seen = set(), set(), set()
    children: dict[str, set[str]] = {}
    acls: dict[Acl, int] = {}
    digest = size = 0
    for path, node in tree.nodes.items():
        parent, _, name = path.rpartition("/")
        assert path == "/" or (parent or "/") in seen, "parents come first"
        seen.add(path)
        if name:
            children.setdefault(parent or "/", set()).add(name)
        digest += node_digest(path, node)
        assert node.digest == node_digest(path, node)
        size += len(path) + len(node.data or b"")
        if node.acl is not OPEN_ACL:
            acls[node.acl] = acls.get(node.acl, 0) + 1
        packed = node.packed_stat
        node.packed_stat = None
        assert packed is None or packed == node.stat(), f"the packed stat of {path} is of another time"
        if path == "/":
            # whatever a snapshot says, nobody owns it
            continue
        if node.owner == CONTAINER_OWNER:
            containers.add(path)
        elif node.owner and node.owner >> 40 == -0x10000:
            ttl_nodes.add(path)
        elif node.owner:
            ephemerals.setdefault(node.owner, set()).add(path)
    assert {path: node.children for path, node in tree.nodes.items() if node.children is not None} == children
    assert tree.digest == digest % (1 << 64)
    assert (tree.data_size, tree.approximate_data_size()) == (size, size)
    assert tree.ephemerals == ephemerals
    assert tree.ephemeral_count == sum(map(len, ephemerals.values()))
    assert tree.containers == containers
    assert tree.ttl_nodes == ttl_nodes
    assert tree.acls == acls
    assert tree.limited == {path[16:-17] for path in tree.nodes if path.endswith("/zookeeper_limits")}


def everything(tree: DataTree) -> tuple[object, ...]:
    """All that replicas of a tree must agree on."""
    fields = [name for name in Node.__slots__ if name not in ("packed_stat", "children")]
    nodes = {
        path: (sorted(node.children or ()), [getattr(node, name) for name in fields])
        for path, node in tree.nodes.items()
    }
    return (
        nodes,
        dict(tree.sessions),
        tree.ephemerals_by_session(),
        set(tree.containers),
        set(tree.ttl_nodes),
        dict(tree.acls),
        tree.digest,
        tree.last_zxid,
    )


# ---- one by one


def test_fresh_tree_is_apaches() -> None:
    tree = DataTree()
    assert list(tree.nodes) == ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"]
    for path, node in tree.nodes.items():
        assert node.data == b""
        assert (node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime, node.version, node.cversion) == (0,) * 7
        assert node.acl is (READ_ACL if path == "/zookeeper/config" else OPEN_ACL)
        assert node.aversion == (-1 if path == "/zookeeper/config" else 0)
    assert (tree.node_count, tree.approximate_data_size(), tree.last_zxid) == (5, 44, 0)
    check(tree)


def test_create() -> None:
    history = History()
    outcome = history.create("/a", b"data")
    node, root = history["/a"], history["/"]
    assert (outcome.code, outcome.path, outcome.stat, outcome.parts) == (0, "/a", None, None)
    assert (node.data, node.acl, node.owner, node.version, node.cversion, node.aversion) == (
        b"data",
        OPEN_ACL,
        0,
        0,
        0,
        0,
    )
    assert (node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime) == (1, 1, 1, 1001, 1001)
    assert (root.cversion, root.pzxid, root.mzxid, root.mtime) == (1, 1, 0, 0)
    assert root.children == {"zookeeper", "a"}
    check(history.tree)


@pytest.mark.parametrize("op", [Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL])
def test_newer_creates_answer_with_the_stat(op: Op) -> None:
    history = History()
    outcome = history.create("/a", b"data", op, ttl=5000)
    assert outcome.stat == history["/a"].stat()
    assert outcome.path == "/a"
    check(history.tree)


def test_owners() -> None:
    history = History()
    history.create("/container", op=Op.CREATE_CONTAINER)
    history.create("/ttl", op=Op.CREATE_TTL, ttl=5000)
    history.ephemeral("/ephemeral")
    # a session of server 255 looks like a TTL node's mark at first sight
    strange = -(1 << 56) | 0x18000000000 << 16
    history.ephemeral("/strange", strange)
    assert history["/container"].owner == CONTAINER_OWNER
    assert history["/ttl"].owner & ((1 << 64) - 1) == 0xFF00000000001388
    assert history["/ephemeral"].owner == SESSION
    tree = history.tree
    assert (tree.containers, tree.ttl_nodes) == ({"/container"}, {"/ttl"})
    assert tree.ephemerals == {SESSION: {"/ephemeral"}, strange: {"/strange"}}
    assert tree.ephemerals_by_session() == {strange: ["/strange"], SESSION: ["/ephemeral"]}
    check(tree)
    for path in ("/container", "/ttl", "/ephemeral", "/strange"):
        history.apply(Delete(Op.DELETE, path))
    assert (tree.containers, tree.ttl_nodes, tree.ephemerals) == (set(), set(), {})
    check(tree)


def test_set_data() -> None:
    history = History()
    history.create("/a", b"old")
    stat = history["/a"].stat()
    outcome = history.apply(SetData("/a", b"newer", 1))
    node = history["/a"]
    assert (node.data, node.version, node.mzxid, node.mtime, node.czxid, node.ctime) == (b"newer", 1, 2, 1002, 1, 1001)
    assert (outcome.code, outcome.path) == (0, "/a")
    assert outcome.stat == node.stat() != stat
    assert outcome.stat is not None
    assert STAT.unpack(outcome.stat)[8] == 5
    check(history.tree)
    history.apply(SetData("/a", None, 2))
    assert history["/a"].data is None
    check(history.tree)


def test_stat_is_packed_only_if_asked_for() -> None:
    tree = DataTree()
    txns = [
        Txn(1, 1, 1, 1, Create(Op.CREATE2, "/a", b"", OPEN_ACL, False, 1)),
        Txn(1, 1, 2, 2, SetData("/a", b"x", 1)),
        Txn(1, 1, 3, 3, SetAcl("/a", USER_ACL, 1)),
        Txn(1, 1, 4, 4, Multi([SetData("/a", b"y", 2)])),
    ]
    for txn in txns:
        outcome = tree.apply(txn, reply=False)
        assert outcome.code == 0
        assert outcome.stat is None
        assert tree.nodes["/a"].packed_stat is None
    assert tree.nodes["/a"].version == 2


def test_set_data_of_the_root() -> None:
    history = History()
    history.apply(SetData("/", b"x", 1))
    assert history["/"].data == b"x"
    check(history.tree)


def test_set_acl() -> None:
    history = History()
    history.create("/a", acl=USER_ACL)
    outcome = history.apply(SetAcl("/a", IP_ACL, 1))
    node = history["/a"]
    assert (node.acl, node.aversion, node.version, node.mzxid) == (IP_ACL, 1, 0, 1)
    assert outcome.stat == node.stat()
    assert history.tree.acls == {READ_ACL: 1, IP_ACL: 1}
    history.apply(SetAcl("/a", OPEN_ACL, 2))
    assert history.tree.acls == {READ_ACL: 1}
    check(history.tree)


def test_delete() -> None:
    history = History()
    history.create("/a")
    history.create("/a/b", acl=USER_ACL)
    before = history["/a"].stat()
    outcome = history.apply(Delete(Op.DELETE, "/a/b"))
    assert (outcome.code, outcome.path, outcome.stat) == (0, "/a/b", None)
    parent = history["/a"]
    assert "/a/b" not in history.tree.nodes
    assert (parent.children, parent.pzxid, parent.cversion, parent.mzxid) == (None, 3, 1, 1)
    assert parent.stat() != before
    check(history.tree)


@pytest.mark.parametrize("record", [SetData("/x", b"", 1), SetAcl("/x", OPEN_ACL, 1), Delete(Op.DELETE, "/x/y")])
def test_changes_of_what_is_not_there(record: Record) -> None:
    history = History()
    before = everything(history.tree)[0]
    outcome = history.apply(record)
    assert outcome.code == Code.NO_NODE
    assert everything(history.tree)[0] == before
    assert history.tree.apply(Txn(1, 1, 2, 2, Create(Op.CREATE, "/x/y", b"", OPEN_ACL, False, 1))).code == Code.NO_NODE
    check(history.tree)


@pytest.mark.parametrize("path", ["", "x", "zookeeper"])
def test_paths_that_are_none(path: str) -> None:
    history = History()
    for record in (
        Create(Op.CREATE, path, b"", OPEN_ACL, False, 1),
        Delete(Op.DELETE, path),
        SetData(path, b"", 1),
        SetAcl(path, OPEN_ACL, 1),
    ):
        assert history.apply(record).code == Code.NO_NODE
    assert history.apply(Delete(Op.DELETE, "/")).code == Code.NO_NODE
    assert history.apply(Create(Op.CREATE, "/", b"", OPEN_ACL, False, 0)).code == Code.NODE_EXISTS
    check(history.tree)


def test_error_and_check_change_nothing() -> None:
    history = History()
    before = everything(history.tree)[0]
    assert history.apply(Error(Code.BAD_VERSION)).code == Code.BAD_VERSION
    outcome = history.apply(Check("/", 0))
    assert (outcome.code, outcome.path) == (0, "/")
    assert everything(history.tree)[0] == before
    assert history.tree.last_zxid == 2


def test_parent_version_stays_a_java_int() -> None:
    history = History()
    history.create("/a")
    history["/a"].cversion = 0x7FFFFFFF
    # the leader's next number has wrapped, and is no progress
    history.apply(Create(Op.CREATE, "/a/b", b"", OPEN_ACL, False, -0x80000000))
    history.apply(Create(Op.CREATE, "/a/c", b"", OPEN_ACL, False, -1))
    assert history["/a"].cversion == 0x7FFFFFFF
    assert history["/a"].children == {"b", "c"}
    history.apply(SetData("/a", b"", -0x80000000))
    assert history["/a"].version == -0x80000000
    history["/a"].stat()


# ---- sessions


def test_sessions() -> None:
    history = History()
    history.apply(CreateSession(30000))
    history.apply(CreateSession(4000), OTHER)
    assert history.tree.sessions == {SESSION: 30000, OTHER: 4000}
    history.ephemeral("/mine")
    history.ephemeral("/theirs", OTHER)
    outcome = history.apply(CloseSession(["/mine"]))
    assert outcome.code == 0
    assert history.tree.sessions == {OTHER: 4000}
    assert set(history.tree.nodes) == {"/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "/theirs"}
    check(history.tree)


@pytest.mark.parametrize("paths", [None, [], ["/b"], ["/b", "/missing", "/c", "/a"]])
def test_close_session_leaves_no_ephemeral(paths: list[str] | None) -> None:
    """Those that the transaction names go first, in its order, then the rest in the order of their paths."""
    history, events = History(), Events()
    for path in ("/c", "/a", "/b"):
        history.ephemeral(path)
    history.tree.watches.add_recursive("/", events)
    history.apply(CloseSession(paths))
    assert history.tree.ephemerals == {}
    named = [path for path in paths or [] if path != "/missing"]
    rest = [path for path in ("/a", "/b", "/c") if path not in named]
    assert events.told == [(Event.DELETED, path) for path in named + rest]
    assert set(events.zxids) == {4}
    check(history.tree)


def test_close_of_an_unknown_session_is_harmless() -> None:
    history = History()
    history.ephemeral("/a", OTHER)
    before = everything(history.tree)[:7]
    history.apply(CloseSession(None))
    history.apply(CloseSession([]))
    assert everything(history.tree)[:7] == before


# ---- multi


def test_multi() -> None:
    history = History()
    history.create("/a")
    outcome = history.apply(
        Multi(
            [
                Check("/a", 0),
                SetData("/a", b"1", 1),
                SetData("/a", b"12", 2),
                Create(Op.CREATE, "/a/b", b"", OPEN_ACL, True, 1),
                Create(Op.CREATE2, "/a/c", b"", OPEN_ACL, False, 2),
                Delete(Op.DELETE, "/a/b"),
            ]
        )
    )
    assert outcome.code == 0
    assert outcome.parts is not None
    assert [part.code for part in outcome.parts] == [0] * 6
    assert [part.path for part in outcome.parts] == ["/a", "/a", "/a", "/a/b", "/a/c", "/a/b"]
    lengths = [part.stat and STAT.unpack(part.stat)[8] for part in outcome.parts]
    assert lengths == [None, 1, 2, None, 0, None]
    assert set(history.tree.nodes) - set(DataTree().nodes) == {"/a", "/a/c"}
    assert history["/a"].mzxid == history["/a/c"].czxid == 2
    assert history.tree.ephemerals == {}
    check(history.tree)


def test_failed_multi_changes_nothing_and_has_code_0() -> None:
    history = History()
    before = everything(history.tree)[0]
    outcome = history.apply(Multi([Error(0), Error(Code.NO_NODE), Error(Code.RUNTIME_INCONSISTENCY)]))
    assert outcome.code == 0
    assert outcome.parts is not None
    assert [part.code for part in outcome.parts] == [0, Code.NO_NODE, Code.RUNTIME_INCONSISTENCY]
    # the parts of an old log may still be what was asked for
    create = Create(Op.CREATE, "/a", b"", OPEN_ACL, False, 1)
    outcome = history.apply(Multi([create, Error(Code.NO_NODE), create]))
    assert outcome.parts is not None
    assert [part.code for part in outcome.parts] == [0, Code.NO_NODE, Code.RUNTIME_INCONSISTENCY]
    assert everything(history.tree)[0] == before
    assert history.tree.last_zxid == 2


# ---- watches


def test_watches_fire_in_the_order_of_the_changes() -> None:
    history, events = History(), Events()
    watches = history.tree.watches
    history.create("/a")
    watches.add_persistent("/a", events)
    watches.add_persistent("/a/b", events)
    watches.add_persistent("/", events)
    history.create("/a/b")
    history.apply(SetData("/a/b", b"", 1))
    history.apply(SetAcl("/a/b", READ_ACL, 1))
    history.apply(Delete(Op.DELETE, "/a/b"))
    history.apply(Delete(Op.DELETE, "/a"))
    assert events.told == [
        (Event.CREATED, "/a/b"),
        (Event.CHILDREN_CHANGED, "/a"),
        (Event.DATA_CHANGED, "/a/b"),
        (Event.DELETED, "/a/b"),
        (Event.CHILDREN_CHANGED, "/a"),
        (Event.DELETED, "/a"),
        (Event.CHILDREN_CHANGED, "/"),
    ]
    assert events.zxids == [2, 2, 3, 5, 5, 6, 6]


def test_watches_of_a_multi_fire_part_by_part() -> None:
    history, events = History(), Events()
    history.create("/a")
    history.tree.watches.add_persistent("/a", events)
    history.tree.watches.add_recursive("/", events)
    history.apply(
        Multi([Create(Op.CREATE, "/a/b", b"", OPEN_ACL, False, 1), SetData("/a", b"", 1), Delete(Op.DELETE, "/a/b")])
    )
    assert events.told == [
        (Event.CREATED, "/a/b"),
        (Event.CHILDREN_CHANGED, "/a"),
        (Event.DATA_CHANGED, "/a"),
        (Event.DELETED, "/a/b"),
        (Event.CHILDREN_CHANGED, "/a"),
    ]


def test_one_time_watches_for_each_kind_of_change() -> None:
    history = History()
    watches = history.tree.watches
    missing, data, child = Events(), Events(), Events()
    watches.add_data("/a", missing)
    history.create("/a")
    assert missing.told == [(Event.CREATED, "/a")]
    watches.add_data("/a", data)
    watches.add_child("/a", child)
    history.apply(Delete(Op.DELETE, "/a"))
    assert data.told == child.told == [(Event.DELETED, "/a")]
    assert watches.count() == 0


def test_events_are_checked_against_the_list_of_the_node_they_name() -> None:
    history, events = History(), Events()
    history.create("/secret", acl=USER_ACL)
    history.tree.watches.add_recursive("/", events)
    history.tree.watches.add_persistent("/secret", events)
    history.create("/secret/open")
    history.create("/secret/closed", acl=USER_ACL)
    history.apply(SetData("/secret/closed", b"", 1))
    history.apply(Delete(Op.DELETE, "/secret/closed"))
    history.apply(SetData("/secret", b"", 1))
    assert events.told == [(Event.CREATED, "/secret/open")]


def test_a_change_that_fails_fires_nothing() -> None:
    history, events = History(), Events()
    history.create("/a")
    history.tree.watches.add_recursive("/", events)
    history.tree.watches.add_persistent("/", events)
    history.create("/a")
    history.apply(Delete(Op.DELETE, "/b"))
    history.apply(SetData("/b", b"", 1))
    history.apply(Error(Code.NO_NODE))
    assert events.told == []


# ---- over a fuzzy snapshot


@pytest.mark.parametrize("op", [Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER])
def test_create_of_what_is_there_lifts_the_parent(op: Op) -> None:
    history = History()
    history.create("/a")
    history.create("/a/b", b"kept")
    outcome = history.apply(Create(op, "/a/b", b"new", USER_ACL, False, 5))
    assert outcome.code == Code.NODE_EXISTS
    assert (history["/a"].cversion, history["/a"].pzxid) == (5, 3)
    assert (history["/a/b"].data, history["/a/b"].acl, history["/a/b"].czxid) == (b"kept", USER_ACL, 2)
    check(history.tree)
    history.apply(Create(op, "/a/b", b"new", OPEN_ACL, False, 4))
    assert (history["/a"].cversion, history["/a"].pzxid) == (5, 3)
    history.apply(Create(op, "/a/b", b"new", OPEN_ACL, False, -1))
    assert (history["/a"].cversion, history["/a"].pzxid) == (6, 5)
    check(history.tree)


def test_delete_of_what_is_gone_lifts_the_parents_pzxid() -> None:
    history = History()
    history.create("/a")
    outcome = history.apply(Delete(Op.DELETE, "/a/b"))
    assert outcome.code == Code.NO_NODE
    assert history["/a"].pzxid == 2
    check(history.tree)
    history.tree.apply(Txn(1, 1, 1, 1, Delete(Op.DELETE, "/a/b")))
    assert history["/a"].pzxid == 2
    assert history.tree.last_zxid == 2
    check(history.tree)


def test_create_after_a_later_change_of_the_parent_takes_nothing_back() -> None:
    history = History()
    history.create("/a")
    history["/a"].cversion = 9
    history["/a"].pzxid = 90
    history.create("/x")
    history.apply(Create(Op.CREATE, "/a/b", b"", OPEN_ACL, False, 4))
    assert (history["/a"].cversion, history["/a"].pzxid) == (9, 90)


def test_digest_log() -> None:
    history = History()
    for _ in range(300):
        history.apply(SetData("/", b"", 1))
    assert [zxid for zxid, _ in history.tree.digest_log] == [128, 256]
    assert len({digest for _, digest in history.tree.digest_log}) == 2


def test_descendants() -> None:
    history = History()
    for path in ("/a", "/a/b", "/a/b/c", "/ab"):
        history.create(path)
    assert [history.tree.descendant_count(path) for path in ("/", "/a", "/a/b", "/a/b/c", "/none")] == [7, 2, 1, 0, 0]


# ---- at random


DATA = [b"", None, b"x", b"some data", b"z" * 300]
ACLS = [OPEN_ACL, OPEN_ACL, USER_ACL, IP_ACL, READ_ACL]
SESSIONS = [SESSION, OTHER, SESSION + 7, -5]


def random_record(history: History, random: Random, session: int) -> Record:
    """A record that a leader could have decided on, going by the tree as it is."""
    tree = history.tree
    own = [path for path in tree.nodes if not path.startswith("/zookeeper") and path != "/"]
    pick = random.choice(own) if own else "/"
    kind = random.randrange(12)
    if kind < 5:
        parents = [path for path in [*own, "/"] if tree.nodes[path].owner in (0, CONTAINER_OWNER)]
        parent = random.choice(parents)
        # few names, so that nodes are made again after they went
        path = parent.rstrip("/") + "/" + random.choice(["a", "b", "ü", "name"])
        if path not in tree.nodes and path.count("/") < 5:
            op = random.choice([Op.CREATE, Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL])
            ephemeral = op in (Op.CREATE, Op.CREATE2) and random.random() < 0.4
            return history.creation(
                path, random.choice(DATA), ephemeral, op, random.randrange(1, 1 << 40), random.choice(ACLS)
            )
    if kind < 7:
        return SetData(pick, random.choice(DATA), (tree.nodes[pick].version + 1))
    if kind == 7:
        return SetAcl(pick, random.choice(ACLS), tree.nodes[pick].aversion + 1)
    if kind == 8:
        return CreateSession(random.randrange(4000, 40000))
    if kind == 9 and session in tree.ephemerals:
        return CloseSession(sorted(tree.ephemerals[session]))
    leaves = [path for path in own if not tree.nodes[path].children]
    if leaves:
        return Delete(Op.DELETE, random.choice(leaves))
    return Error(Code.NO_NODE)


def random_step(history: History, random: Random) -> None:
    session = random.choice(SESSIONS)
    if random.random() < 0.1:
        # the parts of a multi are decided one upon the other; a scratch history stands in for the leader's foresight
        scratch = History()
        for txn in history.txns:
            scratch.tree.apply(txn)
        parts: list[Record] = []
        for _ in range(random.randrange(4)):
            record = random_record(scratch, random, session)
            if not isinstance(record, CreateSession | CloseSession | Error):
                parts.append(record)
                scratch.apply(record, session)
        history.apply(Multi(parts), session)
    else:
        history.apply(random_record(history, random, session), session)


def add_quota(history: History, path: str) -> None:
    history.create("/zookeeper/quota" + path)
    history.create(limits_path(path), b"count=100,bytes=1000")
    history.create(stats_path(path), b"count=0,bytes=0")


@given(st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_everything_agrees_after_any_history(random: Random) -> None:
    history, again = History(), DataTree()
    add_quota(history, "/a")
    for _ in range(60):
        random_step(history, random)
        if random.random() < 0.3:
            for node in history.tree.nodes.values():
                node.stat()
    check(history.tree)
    for txn in history.txns:
        again.apply(txn, reply=False)
    assert everything(again) == everything(history.tree)
    assert list(again.nodes) == list(history.tree.nodes)


@given(st.randoms(use_true_random=False), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_replay_over_a_tree_that_is_ahead_changes_nothing(random: Random, from_: int) -> None:
    """The whole end of a history once more, over the tree that has it already."""
    history = History()
    for _ in range(40):
        random_step(history, random)
    before = everything(history.tree)
    for txn in history.txns[from_:]:
        history.tree.apply(txn)
    check(history.tree)
    assert everything(history.tree) == before
