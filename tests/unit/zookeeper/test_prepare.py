"""The leader's decisions: Apache 3.8.0's answers to odd requests, many requests at once, and the digest in each transaction."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.binary import INT, LONG, pack_buffer, pack_string
from quorate.zookeeper.acl import OPEN_ACL, PACKED_OPEN_ACL, READ_ACL, Acl, AclEntry, Id, pack_acl
from quorate.zookeeper.auth import SUPER, digest_id
from quorate.zookeeper.constants import CONTAINER_OWNER, MAX_TTL, TTL_OWNER_MASK, Code, Op
from quorate.zookeeper.digest import DIGEST_MASK, node_digest
from quorate.zookeeper.prepare import RECORD_SLACK, Preparer, Settings
from quorate.zookeeper.request import Request
from quorate.zookeeper.tree import DataTree, Outcome
from quorate.zookeeper.txns import (
    Check,
    CloseSession,
    Create,
    Delete,
    Error,
    Multi,
    Record,
    SetAcl,
    SetData,
    Txn,
    unpack_txn,
)

LOCAL = Id("ip", "127.0.0.1")
ALICE = Id("digest", digest_id("alice:secret"))
ANY = -1
SESSION = 0x100

# ---- request bodies


def create(path: str | None, data: bytes | None = b"", acl: Acl = OPEN_ACL, flags: int = 0) -> bytes:
    return pack_string(path) + pack_buffer(data) + pack_acl(acl) + INT.pack(flags)


def create_ttl(path: str, ttl: int, flags: int = 5) -> bytes:
    return create(path, flags=flags) + LONG.pack(ttl)


def set_data(path: str | None, data: bytes | None = b"", version: int = ANY) -> bytes:
    return pack_string(path) + pack_buffer(data) + INT.pack(version)


def delete(path: str | None, version: int = ANY) -> bytes:
    return pack_string(path) + INT.pack(version)


check = delete


def set_acl(path: str | None, acl: Acl = OPEN_ACL, version: int = ANY) -> bytes:
    return pack_string(path) + pack_acl(acl) + INT.pack(version)


def multi(*parts: tuple[int, bytes]) -> bytes:
    header = struct.Struct(">i?i")
    return b"".join([header.pack(op, False, -1) + body for op, body in parts]) + header.pack(-1, True, -1)


class Leader:
    """A tree and its preparer; time and zxid grow by one with each request."""

    def __init__(self, **options: bool | int) -> None:
        self.tree = DataTree()
        self.settings = Settings()
        for name, value in options.items():
            setattr(self.settings, name, value)
        self.preparer = Preparer(self.tree, self.settings)
        self.zxid = 0
        self.proposed: list[Txn] = []
        self.do(Op.CREATE_SESSION, INT.pack(10000))

    def propose(self, op: int, body: bytes, session: int = SESSION, identities: tuple[Id, ...] = (LOCAL,)) -> Txn:
        self.zxid += 1
        txn = self.preparer.prepare(Request(session, self.zxid, op, body, identities), self.zxid, 1000 + self.zxid)
        self.proposed.append(txn)
        return txn

    def apply(self, count: int | None = None) -> list[Outcome]:
        """Apply the oldest proposals; what is applied is what was predicted."""
        count = len(self.proposed) if count is None else count
        outcomes: list[Outcome] = []
        for txn in self.proposed[:count]:
            outcome = self.tree.apply(unpack_txn(txn.pack()))
            self.preparer.applied(txn.zxid)
            outcomes.append(outcome)
            if isinstance(txn.record, Error):
                assert txn.digest is None
                assert outcome.code == txn.record.code
            elif self.settings.digest_enabled:
                assert outcome.code == 0, "what the leader accepts applies"
                assert txn.digest == self.tree.digest
        del self.proposed[:count]
        return outcomes

    def do(self, op: int, body: bytes, session: int = SESSION, identities: tuple[Id, ...] = (LOCAL,)) -> Record:
        record = self.propose(op, body, session, identities).record
        self.apply()
        return record

    def code(self, op: int, body: bytes, session: int = SESSION, identities: tuple[Id, ...] = (LOCAL,)) -> int:
        return code_of(self.do(op, body, session, identities))


def code_of(record: Record) -> int:
    return record.code if isinstance(record, Error) else 0


def codes_of(record: Record) -> list[int]:
    assert isinstance(record, Multi)
    return [code_of(part) for part in record.parts]


def path_of(record: Record) -> str:
    assert isinstance(record, Create)
    return record.path


# ---- codes, as Apache 3.8.0 gave them


@pytest.mark.parametrize(
    ("path", "created", "deleted", "written"),
    [
        ("", -8, -8, -8),
        ("/", -110, -8, 0),
        ("x", -8, -8, -8),
        ("//", -8, -101, -8),
        ("//x", -8, -101, -8),
        ("/a/", -8, -101, -8),
        ("/nope/", -101, -101, -8),
        ("/nope/x", -101, -101, -101),
        ("/a//b", -101, -101, -8),
        ("/a/./b", -101, -101, -8),
        ("/a/..", -8, -101, -8),
        ("/a/.", -8, -101, -8),
        ("/a/...", 0, 0, -101),
        ("/a/\0b", -8, -8, -8),
        ("/a\0/b", -8, -8, -8),
        ("/a/\x01", -8, -101, -8),
        ("/a/\x7f", -8, -101, -8),
        ("/a/\ue000", -8, -101, -8),
        ("/a/\U0001f600", -8, -101, -8),
        ("/zookeeper", -110, -8, 0),
        ("/zookeeper/quota", -110, -8, 0),
        ("/zookeeper/config", -110, -8, -102),
        ("/zookeeper/x", 0, 0, -101),
        (None, -5, -5, -8),
        ("/a/ok ", 0, 0, -101),
    ],
)
def test_paths(path: str | None, created: int, deleted: int, written: int) -> None:
    leader = Leader()
    assert leader.code(Op.CREATE, create("/a")) == 0
    assert leader.code(Op.CREATE, create(path)) == created
    assert leader.code(Op.DELETE, delete(path)) == deleted
    assert leader.code(Op.SET_DATA, set_data(path, b"x")) == written


def test_a_path_that_is_not_utf8_is_a_bad_path() -> None:
    leader = Leader()
    raw = INT.pack(3) + b"/\xff\xfe"
    assert leader.code(Op.CREATE, raw + pack_buffer(b"") + PACKED_OPEN_ACL + INT.pack(0)) == Code.BAD_ARGUMENTS
    assert leader.code(Op.SET_DATA, raw + pack_buffer(b"") + INT.pack(-1)) == Code.BAD_ARGUMENTS
    assert leader.code(Op.DELETE, raw + INT.pack(-1)) == Code.NO_NODE


@pytest.mark.parametrize(
    ("op", "flags", "code"),
    [
        (op, flags, code)
        for op in (Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER)
        for flags, code in [(-1, -8), (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, -6), (6, -6), (7, -8)]
    ],
)
def test_flags(op: int, flags: int, code: int) -> None:
    leader = Leader()
    record = leader.do(op, create("/f", flags=flags))
    assert code_of(record) == code
    if code == 0:
        assert path_of(record) == ("/f0000000000" if flags in (2, 3) else "/f")
        owner = leader.tree.nodes[path_of(record)].owner
        if op == Op.CREATE_CONTAINER:
            assert owner == CONTAINER_OWNER
        else:
            assert owner == (SESSION if flags in (1, 3) else 0)


@pytest.mark.parametrize(
    ("flags", "ttl", "code", "enabled"),
    [
        (5, 1000, -6, False),
        (0, 1000, -8, False),
        (0, -1, -8, False),  # Apache accepts it and ends when it applies it
        (5, 1000, 0, True),
        (6, MAX_TTL, 0, True),
        (5, 0, -8, True),
        (5, -1, -8, True),
        (5, MAX_TTL + 1, -8, True),
        (4, 1000, -8, True),
        (7, 1000, -8, True),
    ],
)
def test_ttl(flags: int, ttl: int, code: int, enabled: bool) -> None:
    leader = Leader(extended_types_enabled=enabled)
    record = leader.do(Op.CREATE_TTL, create_ttl("/t", ttl, flags))
    assert code_of(record) == code
    if code == 0:
        assert leader.tree.nodes[path_of(record)].owner == TTL_OWNER_MASK | ttl


def test_ttl_flags_without_a_ttl() -> None:
    assert Leader(extended_types_enabled=True).code(Op.CREATE2, create("/t", flags=5)) == Code.BAD_ARGUMENTS


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.CREATE, b""),
        (Op.CREATE, create("/a")[:-1]),
        (Op.CREATE, pack_string("/a") + INT.pack(100)),
        (Op.CREATE, pack_string("/a") + INT.pack(-2) + PACKED_OPEN_ACL + INT.pack(0)),
        (Op.CREATE, pack_string("/a") + pack_buffer(b"") + INT.pack(1 << 30) + INT.pack(0)),
        (
            Op.CREATE,
            pack_string("/a") + pack_buffer(b"") + INT.pack(1) + INT.pack(31) + pack_string("world") + b"\xff" * 4,
        ),
        (Op.CREATE_TTL, create("/a")),
        (Op.DELETE, INT.pack(-2) + INT.pack(0)),
        (Op.DELETE, pack_string("/a")),
        (Op.DELETE, INT.pack(1 << 30) + b"/a"),
        (Op.SET_DATA, INT.pack(-2) + pack_buffer(b"x") + INT.pack(-1)),
        (Op.SET_DATA, set_data("/a")[:-1]),
        (Op.SET_ACL, set_acl("/a")[:-1]),
        (Op.RECONFIG, b"\0"),
        (Op.CREATE_SESSION, b"\0\0"),
        (Op.MULTI, b""),
        (Op.MULTI, multi((Op.CREATE, create("/a")))[:-9]),
        (Op.MULTI, multi((Op.CREATE, create("/a")), (Op.GET_DATA, pack_string("/a") + b"\0"))),
        (Op.MULTI, multi((Op.SET_ACL, set_acl("/a")))),
        (Op.MULTI, multi((Op.DELETE_CONTAINER, pack_string("/a")))),
        (Op.MULTI, multi((Op.CREATE, create("/a", flags=5)))),
        (Op.MULTI, multi((Op.SET_DATA, set_data(None)))),
        (Op.MULTI, multi((Op.CREATE, create(None)))),
    ],
)
def test_malformed(op: int, body: bytes) -> None:
    leader = Leader()
    before = leader.tree.digest
    assert leader.code(op, body) == Code.MARSHALLING_ERROR
    assert leader.tree.digest == before
    assert leader.preparer.outstanding == 0


def test_bytes_after_a_record_are_ignored() -> None:
    leader = Leader()
    assert leader.code(Op.CREATE, create("/a") + b"more") == 0
    assert leader.code(Op.SET_DATA, set_data("/a") + b"more") == 0
    assert leader.code(Op.DELETE, delete("/a") + b"more") == 0


def test_requests_that_are_none() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    leader.do(Op.CREATE_CONTAINER, create("/c", flags=4))
    assert leader.code(Op.CHECK, check("/a")) == Code.UNIMPLEMENTED
    assert leader.code(99, b"") == Code.UNIMPLEMENTED
    assert leader.code(Op.RECONFIG, b"\xff" * 12 + LONG.pack(-1)) == Code.RECONFIG_DISABLED
    assert leader.code(Op.DELETE_CONTAINER, pack_string("/c")) == Code.BAD_ARGUMENTS, "only the server itself may"
    assert leader.code(Op.CLOSE_SESSION, b"", session=0) == Code.BAD_ARGUMENTS
    assert set(leader.tree.nodes) > {"/a", "/c"}


def test_versions() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    assert leader.code(Op.SET_DATA, set_data("/a", b"1", 1)) == Code.BAD_VERSION
    record = leader.do(Op.SET_DATA, set_data("/a", b"1", 0))
    assert isinstance(record, SetData)
    assert record.version == 1
    assert leader.code(Op.SET_DATA, set_data("/a", None, -2)) == Code.BAD_VERSION
    assert leader.code(Op.SET_DATA, set_data("/a", None, 1)) == 0
    assert leader.tree.nodes["/a"].data is None
    assert leader.code(Op.DELETE, delete("/a", 1)) == Code.BAD_VERSION
    assert leader.code(Op.SET_ACL, set_acl("/a", READ_ACL, 1)) == Code.BAD_VERSION
    acl_record = leader.do(Op.SET_ACL, set_acl("/a", READ_ACL, 0))
    assert isinstance(acl_record, SetAcl)
    assert acl_record.version == 1
    assert leader.code(Op.DELETE, delete("/a", 2)) == 0


@pytest.mark.parametrize(("current", "following"), [(2**31 - 1, -(2**31)), (-2, 0), (-1, 0), (-(2**31), -(2**31) + 1)])
def test_versions_wrap_as_javas_do_and_are_never_minus_one(current: int, following: int) -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    leader.tree.nodes["/a"].version = current
    record = leader.do(Op.SET_DATA, set_data("/a"))
    assert isinstance(record, SetData)
    assert record.version == following


def test_the_suffix_counts_the_creates_of_the_parent() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    assert [path_of(leader.do(Op.CREATE, create("/a/s-", flags=2))) for _ in range(2)] == [
        "/a/s-0000000000",
        "/a/s-0000000001",
    ]
    leader.do(Op.DELETE, delete("/a/s-0000000001"))
    assert path_of(leader.do(Op.CREATE2, create("/a/s-", flags=3))) == "/a/s-0000000002"
    assert path_of(leader.do(Op.CREATE, create("/a/", flags=2))) == "/a/0000000003"
    assert path_of(leader.do(Op.CREATE, create("/", flags=2))) == "/0000000001"
    leader.tree.nodes["/a"].cversion = -5
    assert path_of(leader.do(Op.CREATE, create("/a/s-", flags=2))) == "/a/s--000000005"


def test_the_last_suffix() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    leader.tree.nodes["/a"].cversion = 2**31 - 1
    record = leader.do(Op.CREATE, create("/a/s-", flags=2))
    assert path_of(record) == "/a/s-2147483647"
    assert isinstance(record, Create)
    assert record.parent_cversion == -(2**31)
    assert leader.code(Op.CREATE, create("/a/s-", flags=2)) == Code.NODE_EXISTS


def test_ephemerals_have_no_children_and_others_must_be_empty_to_go() -> None:
    leader = Leader(extended_types_enabled=True)
    leader.do(Op.CREATE, create("/e", flags=1))
    assert leader.code(Op.CREATE, create("/e/x")) == Code.NO_CHILDREN_FOR_EPHEMERALS
    for op, path, body in (
        (Op.CREATE, "/p", create("/p")),
        (Op.CREATE_CONTAINER, "/c", create("/c", flags=4)),
        (Op.CREATE_TTL, "/t", create_ttl("/t", 5)),
    ):
        leader.do(op, body)
        assert leader.code(Op.CREATE, create(path + "/x")) == 0
        assert leader.code(Op.CREATE, create(path + "/x")) == Code.NODE_EXISTS
        assert leader.code(Op.DELETE, delete(path, 7)) == Code.BAD_VERSION
        assert leader.code(Op.DELETE, delete(path)) == Code.NOT_EMPTY
        assert leader.code(Op.DELETE, delete(path + "/x")) == 0
        assert leader.code(Op.DELETE, delete(path)) == 0


def test_ttl_owners_are_sessions_where_the_types_are_off() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/t"))
    leader.tree.nodes["/t"].owner = TTL_OWNER_MASK | 5
    assert leader.code(Op.CREATE, create("/t/x")) == Code.NO_CHILDREN_FOR_EPHEMERALS


def test_the_server_deletes_containers() -> None:
    leader = Leader(extended_types_enabled=True)
    leader.do(Op.CREATE_CONTAINER, create("/c", flags=4))
    leader.do(Op.CREATE_TTL, create_ttl("/t", 5))
    leader.do(Op.CREATE, create("/c/x"))
    leader.do(Op.CREATE, create("/p"))
    leader.do(Op.CREATE, create("/e", flags=1))
    reap: Callable[[str], int] = lambda path: leader.code(Op.DELETE_CONTAINER, pack_string(path), session=0)  # noqa: E731
    assert reap("/c") == Code.NOT_EMPTY
    assert reap("/p") == Code.BAD_VERSION
    assert reap("/e") == Code.BAD_VERSION
    assert reap("/none") == Code.NO_NODE
    assert reap("/zookeeper") == Code.BAD_ARGUMENTS
    leader.do(Op.DELETE, delete("/c/x"))
    assert reap("/c") == 0
    assert reap("/t") == 0
    assert not leader.tree.containers
    assert not leader.tree.ttl_nodes


# ---- access


def test_access() -> None:
    leader = Leader()
    mine: Acl = (AclEntry(31, "digest", ALICE.id), AclEntry(1, "world", "anyone"))
    leader.do(Op.CREATE, create("/m", acl=(AclEntry(31, "auth", ""), mine[1])), identities=(LOCAL, ALICE))
    assert leader.tree.nodes["/m"].acl == mine
    leader.do(Op.CREATE, create("/m/x"), identities=(ALICE,))
    for identities, code in (((LOCAL,), Code.NO_AUTH), ((LOCAL, ALICE), 0), ((SUPER,), 0)):
        assert leader.code(Op.SET_DATA, set_data("/m"), identities=identities) == code
        assert leader.code(Op.SET_ACL, set_acl("/m", mine), identities=identities) == code
        assert leader.code(Op.CREATE, create("/m/y"), identities=identities) == code
        assert leader.code(Op.DELETE, delete("/m/y"), identities=identities) == (code if code == 0 else Code.NO_AUTH), (
            "deleting asks the parent's list"
        )
        assert codes_of(leader.do(Op.MULTI, multi((Op.CHECK, check("/m"))), identities=identities)) == [0]


def test_skip_acl() -> None:
    leader = Leader(skip_acl=True)
    leader.do(Op.CREATE, create("/m", acl=READ_ACL))
    assert leader.code(Op.SET_DATA, set_data("/m")) == 0


def test_bad_lists_come_before_missing_nodes_and_after_bad_paths() -> None:
    leader = Leader()
    assert leader.code(Op.CREATE, create("/none/x", acl=())) == Code.INVALID_ACL
    assert leader.code(Op.SET_ACL, set_acl("/none", ())) == Code.INVALID_ACL
    assert leader.code(Op.SET_ACL, set_acl("none", ())) == Code.BAD_ARGUMENTS
    assert leader.code(Op.SET_ACL, set_acl(None)) == Code.BAD_ARGUMENTS
    assert leader.code(Op.SET_ACL, set_acl("/none")) == Code.NO_NODE
    assert leader.code(Op.SET_ACL, set_acl("/", READ_ACL)) == 0
    null_list = pack_string("/n") + pack_buffer(b"") + INT.pack(-1) + INT.pack(0)
    assert leader.code(Op.CREATE, null_list) == Code.INVALID_ACL


def test_a_repeated_open_list_is_the_open_list() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a", acl=(OPEN_ACL[0], OPEN_ACL[0])))
    assert leader.tree.nodes["/a"].acl is OPEN_ACL


# ---- quotas and sizes


def quota(leader: Leader, limits: str) -> None:
    for path in ("/q", "/zookeeper/quota/q"):
        leader.do(Op.CREATE, create(path))
    leader.do(Op.CREATE, create("/zookeeper/quota/q/zookeeper_limits", limits.encode()))
    leader.do(Op.CREATE, create("/zookeeper/quota/q/zookeeper_stats", b"count=0,bytes=0"))


def test_quota() -> None:
    leader = Leader(enforce_quota=True)
    quota(leader, "count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=2")
    assert leader.code(Op.CREATE, create("/q/a", b"12345678")) == 0
    assert leader.code(Op.CREATE, create("/q/b")) == Code.QUOTA_EXCEEDED
    assert leader.code(Op.SET_DATA, set_data("/q/a", b"1234567890")) == 0
    assert leader.code(Op.SET_DATA, set_data("/q/a", b"12345678901")) == Code.QUOTA_EXCEEDED
    assert leader.code(Op.SET_DATA, set_data("/q/a", b"", 7)) == Code.BAD_VERSION
    assert codes_of(leader.do(Op.MULTI, multi((Op.CREATE, create("/q/b"))))) == [Code.QUOTA_EXCEEDED]
    assert leader.code(Op.CREATE, create("/elsewhere", b"x" * 100)) == 0


def test_quota_is_only_counted_if_not_enforced() -> None:
    leader = Leader()
    quota(leader, "count=-1,bytes=-1=;countHardLimit=1")
    assert leader.code(Op.CREATE, create("/q/a")) == 0


def test_a_request_as_large_as_a_frame_may_be_is_taken() -> None:
    leader = Leader(max_buffer=5000)
    empty = len(create("/a")) + 8
    assert leader.code(Op.CREATE, create("/a", b"x" * (5000 - empty))) == 0
    assert leader.code(Op.SET_DATA, set_data("/a", b"y" * (5000 - 8 - len(set_data("/a"))))) == 0


def test_transactions_above_the_limit_are_refused_before_they_are_logged() -> None:
    leader = Leader(max_buffer=5000)
    leader.do(Op.CREATE, create("/a"))
    large = b"x" * (5000 + RECORD_SLACK)
    before = leader.tree.digest
    many = tuple(Id("digest", digest_id(f"user{i}:x")) for i in range(4))
    wide: Acl = tuple(AclEntry(perms, "auth", "") for perms in range(1, 32))
    for op, body in (
        (Op.CREATE, create("/b", large)),
        (Op.SET_DATA, set_data("/a", large)),
        (Op.MULTI, multi((Op.SET_DATA, set_data("/a", large[:3500])), (Op.CREATE, create("/b", large[:3500])))),
        (Op.CREATE, create("/b", acl=wide)),
        (Op.SET_ACL, set_acl("/a", wide)),
        (Op.MULTI, multi((Op.CREATE, create("/b", acl=wide[:15])), (Op.CREATE, create("/c", acl=wide[15:])))),
    ):
        assert leader.code(op, body, identities=many) == Code.MARSHALLING_ERROR
        assert leader.tree.digest == before
        assert leader.preparer.outstanding == 0
    assert leader.code(Op.CREATE, create("/b", acl=wide), identities=many[:1]) == 0


# ---- sessions


def test_closing_a_session_names_its_ephemerals_sorted() -> None:
    leader = Leader()
    for path in ("/z", "/b", "/a", "/gone"):
        leader.do(Op.CREATE, create(path, flags=1))
    leader.do(Op.CREATE, create("/kept"))
    leader.propose(Op.DELETE, delete("/gone"))
    leader.propose(Op.CREATE, create("/new", flags=1))
    leader.propose(Op.DELETE, delete("/b"))
    leader.propose(Op.CREATE, create("/b"))
    txn = leader.propose(Op.CLOSE_SESSION, b"")
    assert isinstance(txn.record, CloseSession)
    assert txn.record.paths == ["/a", "/new", "/z"]
    leader.apply()
    assert SESSION not in leader.tree.sessions
    assert set(leader.tree.nodes) >= {"/kept", "/b"}
    assert not leader.tree.ephemerals


def test_a_node_that_changes_hands_stays_with_its_new_session() -> None:
    leader = Leader()
    leader.propose(Op.CREATE_SESSION, INT.pack(1000), session=7)
    leader.propose(Op.CREATE, create("/lock", flags=1))
    leader.apply()
    leader.propose(Op.DELETE, delete("/lock"), session=7)
    leader.propose(Op.CREATE, create("/lock", flags=1), session=7)
    closing = leader.propose(Op.CLOSE_SESSION, b"")
    assert isinstance(closing.record, CloseSession)
    assert closing.record.paths == []
    leader.apply()
    assert leader.tree.ephemerals == {7: {"/lock"}}


def test_a_closing_session_changes_nothing_more() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/a"))
    leader.propose(Op.CLOSE_SESSION, b"")
    for _ in range(2):  # while it closes, and when it is closed
        assert code_of(leader.propose(Op.CREATE, create("/e", flags=1)).record) == Code.SESSION_EXPIRED
        expired = leader.propose(Op.MULTI, multi((Op.CREATE, create("/e", flags=1)), (Op.CHECK, check("/a")))).record
        assert codes_of(expired) == [Code.SESSION_EXPIRED, Code.RUNTIME_INCONSISTENCY]
        leader.apply()
    leader.propose(Op.CREATE_SESSION, INT.pack(1000), session=8)
    leader.propose(Op.CLOSE_SESSION, b"", session=8)
    for op, body in (
        (Op.CREATE, create("/n")),
        (Op.SET_DATA, set_data("/a")),
        (Op.DELETE, delete("/a")),
        (Op.SET_ACL, set_acl("/a")),
    ):
        assert code_of(leader.propose(op, body, session=8).record) == Code.SESSION_EXPIRED
    assert codes_of(leader.propose(Op.MULTI, multi(), session=8).record) == []


def test_an_unknown_session_has_no_ephemerals() -> None:
    leader = Leader()
    assert leader.code(Op.CREATE, create("/e", flags=1), session=99) == Code.SESSION_EXPIRED
    leader.propose(Op.CREATE_SESSION, INT.pack(1000), session=99)
    assert code_of(leader.propose(Op.CREATE, create("/e", flags=1), session=99).record) == 0
    leader.apply()


def test_a_parent_is_free_once_the_session_is_closing() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/p"))
    leader.do(Op.CREATE, create("/p/e", flags=1))
    leader.propose(Op.CREATE_SESSION, INT.pack(1000), session=7)
    assert code_of(leader.propose(Op.DELETE, delete("/p"), session=7).record) == Code.NOT_EMPTY
    leader.propose(Op.CLOSE_SESSION, b"")
    assert code_of(leader.propose(Op.DELETE, delete("/p"), session=7).record) == 0
    leader.apply()
    assert "/p" not in leader.tree.nodes


# ---- multi


def test_a_multi_sees_its_own_changes() -> None:
    leader = Leader()
    record = leader.do(
        Op.MULTI,
        multi(
            (Op.CREATE, create("/m")),
            (Op.CREATE2, create("/m/s-", flags=2)),
            (Op.CREATE, create("/m/s-", flags=3)),
            (Op.CREATE_CONTAINER, create("/m/c", flags=4)),
            (Op.CREATE, create("/m/d", flags=4)),
            (Op.CREATE_CONTAINER, create("/m/e")),
            (Op.SET_DATA, set_data("/m", b"x", 0)),
            (Op.CHECK, check("/m", 1)),
            (Op.DELETE, delete("/m/e", 0)),
        ),
    )
    assert isinstance(record, Multi)
    # the kind of create follows from the flags, as in 3.8
    assert [part.op for part in record.parts] == [1, 1, 1, 19, 19, 1, 5, 13, 2]
    assert [path_of(part) for part in record.parts[1:3]] == ["/m/s-0000000000", "/m/s-0000000001"]
    checked = record.parts[7]
    assert isinstance(checked, Check)
    assert checked.version == 2, "Apache logs the version after the one that was checked"
    assert leader.tree.nodes["/m"].children == {"s-0000000000", "s-0000000001", "c", "d"}


def test_a_failed_multi_leaves_nothing_behind() -> None:
    leader = Leader()
    leader.do(Op.CREATE, create("/m"))
    leader.propose(Op.SET_DATA, set_data("/m", b"pending"))
    leader.propose(Op.CREATE, create("/m/kept"))
    record = leader.propose(
        Op.MULTI,
        multi(
            (Op.CREATE, create("/m/s-", flags=2)),
            (Op.SET_DATA, set_data("/m", b"lost", 1)),
            (Op.DELETE, delete("/m/kept")),
            (Op.DELETE, delete("/none")),
            (Op.CREATE, create("/m/y")),
            (Op.CHECK, check("/m")),
        ),
    ).record
    assert codes_of(record) == [0, 0, 0, -101, -2, -2]
    assert isinstance(record, Multi)
    assert all(isinstance(part, Error) for part in record.parts)
    assert code_of(leader.propose(Op.SET_DATA, set_data("/m", b"after", 1)).record) == 0
    assert path_of(leader.propose(Op.CREATE, create("/m/s-", flags=2)).record) == "/m/s-0000000001"
    assert code_of(leader.propose(Op.CREATE, create("/m/kept")).record) == Code.NODE_EXISTS
    leader.apply()
    assert leader.tree.nodes["/m"].data == b"after"


def test_flags_that_are_none_fail_their_part_only() -> None:
    leader = Leader()
    record = leader.do(Op.MULTI, multi((Op.CREATE, create("/x")), (Op.CREATE, create("/y", flags=9))))
    assert codes_of(record) == [0, Code.BAD_ARGUMENTS]
    assert codes_of(leader.do(Op.MULTI, multi((Op.CREATE_TTL, create_ttl("/x", 5))))) == [Code.UNIMPLEMENTED]
    plain = leader.do(Op.MULTI, multi((Op.CREATE_TTL, create_ttl("/x", 5, flags=0))))
    assert isinstance(plain, Multi)
    assert plain.parts[0].op == Op.CREATE
    assert codes_of(leader.do(Op.MULTI, multi())) == []


# ---- many at once


def test_outstanding_changes_are_forgotten_as_they_are_applied() -> None:
    leader = Leader()
    for body in (create("/a"), create("/a/b"), create("/a/c")):
        leader.propose(Op.CREATE, body)
    assert leader.preparer.outstanding == 6
    leader.apply(1)
    assert leader.preparer.outstanding == 4
    leader.apply(2)
    assert leader.preparer.outstanding == 0


def test_reset_forgets_what_will_never_be_applied() -> None:
    leader = Leader()
    leader.propose(Op.CREATE, create("/a"))
    leader.propose(Op.CLOSE_SESSION, b"")
    leader.preparer.reset()
    leader.proposed.clear()
    assert leader.preparer.outstanding == 0
    assert leader.code(Op.SET_DATA, set_data("/a")) == Code.NO_NODE
    assert leader.code(Op.CREATE, create("/e", flags=1)) == 0


def test_no_digests() -> None:
    leader = Leader(digest_enabled=False)
    assert leader.propose(Op.CREATE, create("/a")).digest is None
    leader.apply()
    assert leader.propose(Op.MULTI, multi((Op.DELETE, delete("/a")))).digest is None


_PATHS = st.sampled_from(
    ["/", "/a", "/b", "/a/x", "/a/y", "/a/x/p", "/b/s-", "/a/s-0000000001", "/zookeeper/q", "/a/\u00e9", "/a/"]
)
_DATA = st.one_of(st.none(), st.binary(max_size=4))
_VERSION = st.sampled_from([-1, -1, -1, 0, 1, 2])
_ACLS = st.sampled_from([OPEN_ACL, OPEN_ACL, OPEN_ACL, READ_ACL, (AclEntry(31, "auth", ""),), ()])
_FLAGS = st.sampled_from([0, 0, 1, 2, 3, 4, 5, 6, 7])

_CREATES = st.tuples(
    st.sampled_from([Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER]), st.builds(create, _PATHS, _DATA, _ACLS, _FLAGS)
)
_TTLS = st.tuples(st.just(Op.CREATE_TTL), st.builds(create_ttl, _PATHS, st.sampled_from([0, 1, 1000]), _FLAGS))
_DELETES = st.tuples(st.just(Op.DELETE), st.builds(delete, _PATHS, _VERSION))
_SETS = st.tuples(st.just(Op.SET_DATA), st.builds(set_data, _PATHS, _DATA, _VERSION))
_CHECKS = st.tuples(st.just(Op.CHECK), st.builds(check, _PATHS, _VERSION))
_MULTIS = st.lists(st.one_of(_CREATES, _TTLS, _DELETES, _SETS, _CHECKS), max_size=4).map(
    lambda parts: (Op.MULTI, multi(*parts))
)
_SET_ACLS = st.tuples(st.just(Op.SET_ACL), st.builds(set_acl, _PATHS, _ACLS, _VERSION))
_OPENS = st.just((Op.CREATE_SESSION, INT.pack(1000)))
_CLOSES = st.just((Op.CLOSE_SESSION, b""))
_GARBAGE = st.tuples(st.sampled_from([Op.CREATE, Op.SET_DATA, Op.DELETE, Op.SET_ACL, Op.MULTI]), st.binary(max_size=20))
_STEPS = st.tuples(
    st.one_of(_CREATES, _CREATES, _TTLS, _DELETES, _SETS, _SET_ACLS, _MULTIS, _MULTIS, _OPENS, _CLOSES, _GARBAGE),
    st.sampled_from([SESSION, SESSION, 7]),
    st.sampled_from([(LOCAL,), (LOCAL, ALICE)]),
    st.integers(0, 3),
)
"""A request, its session and identities, and how many of the outstanding transactions are applied after it."""


@settings(max_examples=150, deadline=None)
@given(st.lists(_STEPS, max_size=25))
def test_what_is_decided_does_not_depend_on_how_much_is_applied(
    steps: list[tuple[tuple[int, bytes], int, tuple[Id, ...], int]],
) -> None:
    ahead = Leader(extended_types_enabled=True)
    at_once = Leader(extended_types_enabled=True)
    sessions = {SESSION}
    for (op, body), session, identities, count in steps:
        if op == Op.CREATE_SESSION:
            sessions.add(session)
        elif session not in sessions:
            continue  # the session tracker refuses it before it comes here
        elif op == Op.CLOSE_SESSION:
            sessions.discard(session)
        first = ahead.propose(op, body, session, identities)
        second = at_once.propose(op, body, session, identities)
        at_once.apply()
        assert first.pack() == second.pack()
        ahead.apply(count)
    ahead.apply()
    assert ahead.preparer.outstanding == 0
    total = sum([node_digest(path, node) for path, node in ahead.tree.nodes.items()]) & DIGEST_MASK
    assert ahead.tree.digest == at_once.tree.digest == total
    for session, paths in ahead.tree.ephemerals.items():
        assert session in ahead.tree.sessions, f"ephemerals {paths} outlive their session"


@given(st.integers(0, 25), st.binary(max_size=60))
def test_no_request_raises(op: int, body: bytes) -> None:
    leader = Leader(extended_types_enabled=True, enforce_quota=True)
    leader.propose(op, body)
    leader.apply()


def test_a_delete_in_a_multi_is_a_delete() -> None:
    leader = Leader()
    record = leader.do(Op.MULTI, multi((Op.CREATE, create("/m")), (Op.DELETE, delete("/m"))))
    assert isinstance(record, Multi)
    assert isinstance(record.parts[1], Delete)
    assert "/m" not in leader.tree.nodes
