"""Digests: known values from Apache ZooKeeper 3.8.0, and what counts."""

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from quorate.zookeeper.acl import OPEN_ACL, READ_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.digest import digest_of, node_digest
from quorate.zookeeper.node import Node
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Create, CreateSession, Txn

longs = st.integers(-(1 << 63), (1 << 63) - 1)
ints = st.integers(-(1 << 31), (1 << 31) - 1)


def node_of(data: bytes | None, numbers: tuple[int, ...], versions: tuple[int, ...]) -> Node:
    node = Node(data, OPEN_ACL, numbers[5], numbers[0], numbers[3])
    node.mzxid, node.pzxid, node.mtime = numbers[1], numbers[2], numbers[4]
    node.version, node.cversion, node.aversion = versions
    return node


@given(
    st.sampled_from(["/", "/a", "/a/ü/世界", "/zookeeper", "/zookeeperx/a"]),
    st.none() | st.binary(max_size=100),
    st.tuples(*[longs] * 6),
    st.tuples(*[ints] * 3),
)
def test_digest_is_the_crc_of_path_data_and_stat(
    path: str, data: bytes | None, numbers: tuple[int, ...], versions: tuple[int, ...]
) -> None:
    czxid, mzxid, pzxid, ctime, mtime, owner = numbers
    version, cversion, aversion = versions
    raw = ("" if path == "/" else path).encode() + (data or b"")
    for number in (czxid, mzxid, pzxid, ctime, mtime):
        raw += number.to_bytes(8, "big", signed=True)
    for number in versions:
        raw += number.to_bytes(4, "big", signed=True)
    raw += owner.to_bytes(8, "big", signed=True)
    assert node_digest(path, node_of(data, numbers, versions)) == crc32(raw)
    assert digest_of(path, data, czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, owner) == crc32(raw)


def test_nodes_below_zookeeper_count_nothing() -> None:
    assert node_digest("/zookeeper/quota", Node(b"", OPEN_ACL, 0, 1, 1)) == 0
    assert digest_of("/zookeeper/config", b"x", 1, 1, 1, 1, 1, 0, 0, 0, 0) == 0
    assert node_digest("/zookeeper", Node(b"", OPEN_ACL, 0, 1, 1)) != 0


def test_access_list_does_not_count() -> None:
    assert node_digest("/a", Node(b"", OPEN_ACL, 0, 1, 1)) == node_digest("/a", Node(b"", READ_ACL, 0, 1, 1))


def test_digests_that_apache_logged() -> None:
    """Written by Apache 3.8.0 with the first transactions of a new server."""
    tree = DataTree()
    session, time = 72057884198764544, 1795433122564
    tree.apply(Txn(session, 0, 1, time, CreateSession(10000)))
    assert tree.digest == 1371985504
    tree.apply(Txn(session, 1, 2, 1795433122581, Create(Op.CREATE, "/a", b"first", OPEN_ACL, False, 1)))
    assert tree.digest == 4807926324
    tree.apply(Txn(session, 2, 3, 1795433122593, Create(Op.CREATE, "/a/b", b"", OPEN_ACL, False, 1)))
    assert tree.digest == 4530070855
