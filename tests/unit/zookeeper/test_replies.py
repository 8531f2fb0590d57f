"""The bodies of replies to writes, against frames that Apache 3.8.0 sent."""

import pytest

from quorate.binary import INT, pack_string
from quorate.zookeeper.acl import OPEN_ACL
from quorate.zookeeper.constants import Code, Op
from quorate.zookeeper.replies import reply_body, sync_body
from quorate.zookeeper.request import RequestError
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

END = b"\xff\xff\xff\xff\x01\xff\xff\xff\xff"


class World:
    def __init__(self) -> None:
        self.tree = DataTree()
        self.zxid = 0

    def reply(self, op: int, record: Record, session: int = 0) -> bytes:
        self.zxid += 1
        outcome = self.tree.apply(Txn(session, 0, self.zxid, 1000, record))
        assert outcome.code == 0
        return reply_body(op, outcome, record)

    def stat(self, path: str) -> bytes:
        return self.tree.nodes[path].stat()


def create(op: int, path: str) -> Create:
    return Create(op, path, b"x", OPEN_ACL, False, -1, 1000 if op == Op.CREATE_TTL else 0)


def test_create() -> None:
    assert World().reply(Op.CREATE, create(Op.CREATE, "/a\u00e9")) == b"\0\0\0\x04/a\xc3\xa9"


@pytest.mark.parametrize("op", [Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL])
def test_creates_with_a_stat(op: int) -> None:
    world = World()
    body = world.reply(op, create(op, "/a"))
    assert body == pack_string("/a") + world.stat("/a")
    assert len(body) == 6 + 68


def test_changes_answer_the_stat_after_them() -> None:
    world = World()
    world.reply(Op.CREATE, create(Op.CREATE, "/a"))
    before = world.stat("/a")
    after_data = world.reply(Op.SET_DATA, SetData("/a", b"longer", 1))
    assert after_data == world.stat("/a") != before
    assert world.reply(Op.SET_ACL, SetAcl("/a", OPEN_ACL, 1)) == world.stat("/a") != after_data


def test_replies_without_a_body() -> None:
    world = World()
    world.reply(Op.CREATE, create(Op.CREATE, "/a"))
    assert world.reply(Op.DELETE, Delete(Op.DELETE, "/a")) == b""
    assert world.reply(Op.CREATE_SESSION, CreateSession(1000), 7) == b""
    assert world.reply(Op.CLOSE_SESSION, CloseSession([]), 7) == b""


def test_multi() -> None:
    world = World()
    world.reply(Op.CREATE, create(Op.CREATE, "/gone"))
    body = world.reply(
        Op.MULTI,
        Multi(
            [
                create(Op.CREATE, "/a"),
                create(Op.CREATE_CONTAINER, "/c"),
                create(Op.CREATE2, "/b"),
                SetData("/a", b"y", 1),
                Check("/a", 2),
                Delete(Op.DELETE, "/gone"),
            ]
        ),
    )
    ok = b"\0\0\0\0\0"
    assert body == b"".join(
        (
            INT.pack(1) + ok + pack_string("/a"),
            INT.pack(15) + ok + pack_string("/c") + world.stat("/c"),
            INT.pack(15) + ok + pack_string("/b") + world.stat("/b"),
            INT.pack(5) + ok + world.stat("/a"),
            INT.pack(13) + ok,
            INT.pack(2) + ok,
            END,
        )
    )


def test_a_failed_multi_is_a_success_with_errors() -> None:
    # Apache 3.8.0: create, a delete of nothing, create, check
    codes = (Code.OK, Code.NO_NODE, Code.RUNTIME_INCONSISTENCY, Code.RUNTIME_INCONSISTENCY)
    assert World().reply(Op.MULTI, Multi([Error(code) for code in codes])) == (
        b"\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xff\xff\xff\xff\x00\xff\xff\xff\x9b\xff\xff\xff\x9b"
        b"\xff\xff\xff\xff\x00\xff\xff\xff\xfe\xff\xff\xff\xfe"
        b"\xff\xff\xff\xff\x00\xff\xff\xff\xfe\xff\xff\xff\xfe" + END
    )


def test_a_failed_multi_as_a_java_leader_logs_it() -> None:
    # the parts before the culprit are there in full
    world = World()
    body = world.reply(Op.MULTI, Multi([create(Op.CREATE, "/a"), Error(Code.NO_NODE)]))
    assert body == INT.pack(-1) + b"\0" + INT.pack(0) * 2 + INT.pack(-1) + b"\0" + INT.pack(-101) * 2 + END
    assert "/a" not in world.tree.nodes


def test_an_empty_multi() -> None:
    assert World().reply(Op.MULTI, Multi([])) == END


def test_a_multi_that_could_not_be_read_has_an_error_in_the_header() -> None:
    outcome = DataTree().apply(Txn(0, 0, 1, 1, Error(Code.MARSHALLING_ERROR)))
    assert outcome.code == Code.MARSHALLING_ERROR
    assert outcome.parts is None


def test_the_stat_is_asked_for() -> None:
    with pytest.raises(AssertionError, match="Stat"):
        reply_body(Op.SET_DATA, Outcome(0, "/a"), SetData("/a", b"", 1))


def test_sync() -> None:
    assert sync_body(pack_string("/nope") + b"more") == pack_string("/nope")
    assert sync_body(INT.pack(-1)) == INT.pack(-1)
    assert sync_body(b"\0\0\0\x01\xff") == b"\0\0\0\x03\xef\xbf\xbd"
    for bad in (b"", b"\0\0", INT.pack(5) + b"/", INT.pack(-2)):
        with pytest.raises(RequestError) as caught:
            sync_body(bad)
        assert caught.value.code == Code.MARSHALLING_ERROR
