"""Snapshots: the bytes, fuzziness, and what a reader does with pieces, damage and malice."""

import gzip
from collections.abc import Iterator
from random import Random
from struct import pack
from zlib import adler32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.zookeeper.test_tree import (
    IP_ACL,
    SESSION,
    USER_ACL,
    History,
    add_quota,
    check,
    everything,
    random_step,
)

from quorate.binary import INT, LONG, pack_buffer, pack_string
from quorate.errors import CorruptionError, RemoteProtocolError
from quorate.zookeeper.acl import OPEN_ACL, PACKED_OPEN_ACL, READ_ACL, Acl, AclEntry, pack_acl
from quorate.zookeeper.constants import CONTAINER_OWNER, Op
from quorate.zookeeper.quota import stats_path
from quorate.zookeeper.snapshot import (
    MalformedSnapshot,
    SnapshotParser,
    load_snapshot_file,
    snapshot_file,
    snapshot_stream,
)
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import CreateSession, Delete, SetAcl, SetData, Txn


def whole(tree: DataTree) -> bytes:
    return b"".join(snapshot_stream(tree))


def parse(stream: bytes, *cuts: int) -> DataTree:
    parser = SnapshotParser()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        parser.feed(stream[start:end])
    assert parser.done
    assert parser.leftover == b""
    return parser.tree


def populated(seed: int = 1, steps: int = 80) -> History:
    history = History()
    add_quota(history, "/a")
    random = Random(seed)
    for _ in range(steps):
        random_step(history, random)
    return history


def node(path: str, data: bytes | None = b"", key: int = -1, czxid: int = 1, owner: int = 0) -> bytes:
    stat = pack(">qqqqiiiqq", czxid, czxid, 5, 5, 0, 0, 0, owner, czxid)
    return pack_string(path) + pack_buffer(data) + LONG.pack(key) + stat


HEAD = INT.pack(0) + INT.pack(0)
END = pack_string("/")


# ---- the stream


def test_bytes_of_a_small_stream() -> None:
    history = History()
    history.apply(CreateSession(30000))
    history.create("/a", None, acl=USER_ACL)
    history.ephemeral("/a/b")
    sealed: Acl = (AclEntry(0, "world", "anyone"),)
    zeros = pack(">qqqqiii", 0, 0, 0, 0, 0, 0, 0) + LONG.pack(0)
    assert whole(history.tree) == b"".join(
        [
            INT.pack(1),
            pack(">qi", SESSION, 30000),
            INT.pack(3),
            LONG.pack(1) + pack_acl(READ_ACL),
            LONG.pack(2) + pack_acl(USER_ACL),
            LONG.pack(3) + pack_acl(sealed),
            pack_string("") + pack_buffer(b"") + LONG.pack(-1) + pack(">qqqqiiiqq", 0, 0, 0, 0, 0, 1, 0, 0, 2),
            pack_string("/zookeeper") + pack_buffer(b"") + LONG.pack(-1) + zeros + LONG.pack(0),
            pack_string("/zookeeper/quota") + pack_buffer(b"") + LONG.pack(-1) + zeros + LONG.pack(0),
            pack_string("/zookeeper/config") + pack_buffer(b"") + LONG.pack(1),
            pack(">qqqqiiiqq", 0, 0, 0, 0, 0, 0, -1, 0, 0),
            pack_string("/a") + INT.pack(-1) + LONG.pack(2),
            pack(">qqqqiiiqq", 2, 2, 1002, 1002, 0, 1, 0, 0, 3),
            pack_string("/a/b") + pack_buffer(b"") + LONG.pack(-1),
            pack(">qqqqiiiqq", 3, 3, 1003, 1003, 0, 0, 0, SESSION, 3),
            pack_string("/"),
        ]
    )


@given(st.integers(0, 1 << 32), st.data())
@settings(max_examples=40, deadline=None)
def test_round_trip_in_any_pieces(seed: int, chance: st.DataObject) -> None:
    tree = populated(seed, 40).tree
    stream = whole(tree)
    cuts = sorted(chance.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    again = parse(stream, *cuts)
    assert again.last_zxid == 0
    again.last_zxid = tree.last_zxid
    assert everything(again) == everything(tree)
    assert {path: node.data for path, node in again.nodes.items()} == {
        path: node.data for path, node in tree.nodes.items()
    }
    assert again.limited == tree.limited
    check(again)
    assert len(whole(again)) == len(stream)


def test_round_trip_byte_by_byte() -> None:
    stream = whole(populated().tree)
    check(parse(stream, *range(1, len(stream))))


def test_pieces_are_of_about_the_size_asked_for() -> None:
    tree = populated().tree
    for size in (1, 100, 1000, 1 << 20):
        pieces = list(snapshot_stream(tree, size))
        assert b"".join(pieces) == whole(tree)
        assert all(size <= len(piece) < size + 600 for piece in pieces[1:-1])
    assert len(list(snapshot_stream(tree, 1))) > len(tree.nodes)


def test_what_follows_the_stream_is_left_over() -> None:
    stream = whole(DataTree()) + b"BenWas"
    for cut in range(len(stream)):
        parser = SnapshotParser()
        parser.feed(stream[:cut])
        parser.feed(stream[cut:])
        assert parser.done
        assert parser.leftover == b"BenWas"
    parser.feed(b"Here")
    assert parser.leftover == b"BenWasHere"


def test_large_records_in_small_pieces() -> None:
    history = History()
    data = bytes(range(256)) * 4096
    history.create("/a", data)
    many = tuple([AclEntry(31, "digest", f"user{number}:hash") for number in range(5000)])
    history.create("/b", acl=many)
    stream = whole(history.tree)
    tree = parse(stream, *range(0, len(stream), 1000))
    assert tree.nodes["/a"].data == data
    assert tree.nodes["/b"].acl == many
    check(tree)


def test_equal_access_lists_are_shared() -> None:
    history = History()
    history.create("/a", acl=USER_ACL)
    history.create("/b", acl=OPEN_ACL)
    tree = parse(whole(history.tree))
    assert tree.nodes["/a"].acl is USER_ACL
    assert tree.nodes["/b"].acl is OPEN_ACL
    # Apache gives the open list a number like any other
    tree = parse(INT.pack(0) + INT.pack(1) + LONG.pack(5) + PACKED_OPEN_ACL + node("", key=5) + END)
    assert tree.nodes["/"].acl is OPEN_ACL
    assert tree.acls == {}


# ---- fuzziness


def test_a_stream_is_of_the_moment_it_was_asked_for() -> None:
    history = populated()
    zxid, before = history.tree.last_zxid, set(history.tree.nodes)
    stream = snapshot_stream(history.tree, 200)
    history.create("/later", b"x", acl=IP_ACL)
    tree = parse(b"".join(stream))
    assert set(tree.nodes) == before
    # what that transaction did to the parent is in the snapshot, or not: replay settles it
    tree.last_zxid = zxid
    tree.apply(history.txns[-1])
    assert everything(tree) == everything(history.tree)


def test_a_list_set_while_the_snapshot_is_written_lets_nobody_in_until_replay() -> None:
    history = History()
    history.create("/a")
    stream = snapshot_stream(history.tree, 1)
    pieces = [next(stream)]
    history.apply(SetAcl("/a", USER_ACL, 1))
    tree = parse(b"".join([*pieces, *stream]))
    assert tree.nodes["/a"].acl == (AclEntry(0, "world", "anyone"),)
    check(tree)
    tree.apply(history.txns[-1])
    assert tree.nodes["/a"].acl is USER_ACL
    check(tree)


@given(st.randoms(use_true_random=False), st.integers(1, 500))
@settings(max_examples=60, deadline=None)
def test_replay_over_a_fuzzy_snapshot_is_exact(random: Random, chunk: int) -> None:
    history = History()
    add_quota(history, "/a")
    for _ in range(40):
        random_step(history, random)
    start = history.tree.last_zxid
    pieces = []
    for piece in snapshot_file(history.tree, chunk):
        pieces.append(piece)
        for _ in range(random.randrange(4)):
            random_step(history, random)
    end = history.tree.last_zxid
    tree = load_snapshot_file(pieces, f"snapshot.{start:x}")
    check(tree)
    assert tree.last_zxid == start
    assert tree.snapshot_digest is not None
    for txn in history.txns:
        if txn.zxid > start:
            tree.apply(txn)
            if txn.zxid == tree.snapshot_digest[0]:
                assert tree.digest == tree.snapshot_digest[1]
    check(tree)
    assert tree.last_zxid == end
    assert everything(tree) == everything(history.tree)
    statistics = [tree.nodes[stats_path("/a")].data, history.tree.nodes[stats_path("/a")].data]
    assert statistics[0] == statistics[1]


def test_node_that_goes_and_comes_back_while_the_snapshot_is_written() -> None:
    """The new one's parts must not be in the snapshot without it: readers would miss the parent."""
    history = History()
    history.create("/a")
    history.create("/a/old")
    stream = snapshot_stream(history.tree, 1)
    pieces = [next(stream) for _ in range(3)]
    history.apply(Delete(Op.DELETE, "/a/old"))
    history.apply(Delete(Op.DELETE, "/a"))
    history.create("/a")
    history.create("/a/old")
    tree = parse(b"".join([*pieces, *stream]))
    assert "/a" not in tree.nodes
    tree.last_zxid = 2
    for txn in history.txns[2:]:
        tree.apply(txn)
    assert everything(tree) == everything(history.tree)


def test_apaches_fuzzy_snapshot_may_hold_a_child_of_the_next_life() -> None:
    """Depth first, Apache may write /a and /a/b after both were made anew, under a zxid before /a was deleted."""
    history = History()
    history.create("/a")
    history.apply(Delete(Op.DELETE, "/a"))
    history.create("/a")
    history.create("/a/b")
    tree = parse(whole(history.tree))
    tree.last_zxid = 1
    for txn in history.txns[1:]:
        tree.apply(txn)
    assert tree.nodes["/a"].children == {"b"}
    check(tree)
    assert everything(tree) == everything(history.tree)


# ---- the file


def file_of(tree: DataTree) -> bytes:
    return b"".join(snapshot_file(tree))


def load(data: bytes | Iterator[bytes], name: str = "snapshot.64") -> DataTree:
    return load_snapshot_file(data, name)


def test_bytes_of_a_file() -> None:
    history = populated()
    tree = history.tree
    zxid = tree.last_zxid
    expected = b"ZKSN" + pack(">iq", 2, -1) + whole(tree)
    expected += LONG.pack(adler32(expected)) + pack_string("/")
    expected += pack(">qiQ", zxid, 2, tree.digest)
    expected += LONG.pack(adler32(expected)) + pack_string("/")
    expected += LONG.pack(zxid)
    expected += LONG.pack(adler32(expected)) + pack_string("/")
    assert file_of(tree) == expected


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 20])
def test_file_in_pieces(piece: int) -> None:
    tree = populated().tree
    data = file_of(tree)
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    loaded = load_snapshot_file(pieces, f"/data/version-2/snapshot.{tree.last_zxid:x}")
    assert everything(loaded) == everything(tree)
    assert loaded.snapshot_digest == (tree.last_zxid, tree.digest)
    check(loaded)


def test_files_of_other_versions() -> None:
    """3.5 and before have no digest, 3.8 has no last zxid; digests can be switched off."""
    tree = populated().tree
    data = b"ZKSN" + pack(">iq", 2, -1) + whole(tree)

    def seal(data: bytes) -> bytes:
        return data + LONG.pack(adler32(data)) + pack_string("/")

    bare = seal(data)
    with_digest = seal(bare + pack(">qiQ", tree.last_zxid, 2, tree.digest))
    with_zxid = seal(bare + LONG.pack(tree.last_zxid))
    name = f"snapshot.{tree.last_zxid:x}"
    for contents, digest in ((bare, None), (with_digest, (tree.last_zxid, tree.digest)), (with_zxid, None)):
        loaded = load(contents, name)
        assert everything(loaded) == everything(tree)
        assert loaded.snapshot_digest == digest


def test_digest_of_before_the_snapshot_says_nothing() -> None:
    tree = populated().tree
    assert load(file_of(tree), f"snapshot.{tree.last_zxid + 1:x}").snapshot_digest is None


def test_compressed_file() -> None:
    tree = populated().tree
    packed = gzip.compress(file_of(tree))
    name = f"snapshot.{tree.last_zxid:x}.gz"
    assert everything(load(packed, name)) == everything(tree)
    assert everything(load(iter([packed[:50], packed[50:51], packed[51:]]), name)) == everything(tree)
    for damaged in (packed[:-9], packed[:40], b"no gzip", packed + b"x", packed[:30] + b"\0\0\0\0" + packed[34:]):
        with pytest.raises(CorruptionError):
            load(damaged, name)
    with pytest.raises(CorruptionError, match="header"):
        load(file_of(tree)[:100] * 2, "snapshot.1.gz")


def test_a_bomb_is_unpacked_a_piece_at_a_time() -> None:
    bomb = gzip.compress(b"ZKSN" + pack(">iq", 2, -1) + HEAD + node("") + INT.pack(2) + b"/a" + bytes(100 << 20))
    with pytest.raises(CorruptionError):
        load(bomb, "snapshot.1.gz")


@pytest.mark.parametrize(
    "name", ["snapshot", "snapshot.", "snapshot.xyz", "log.1", "snapshot.1.zip", "snapshot.11112222333344445"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(CorruptionError, match="the name of a snapshot is"):
        load(file_of(DataTree()), name)


def test_snappy_is_refused_with_advice() -> None:
    with pytest.raises(CorruptionError, match="Snappy"):
        load(b"", "snapshot.1.snappy")


def test_every_damaged_byte_is_found() -> None:
    history = History()
    history.create("/a", b"data", acl=USER_ACL)
    data = file_of(history.tree)
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 0x04
        if 8 <= offset < 16:
            # the database's id has a seal too, though nobody reads it
            pass_through = "the seal says"
        else:
            pass_through = "snapshot.1: offset"
        with pytest.raises(CorruptionError, match=pass_through) as failure:
            load(bytes(damaged), "snapshot.1")
        assert failure.value.file == "snapshot.1"
        assert 0 <= failure.value.offset <= len(data)


def test_every_cut_is_found() -> None:
    data = file_of(DataTree())
    whole_ones = {len(data), len(data) - 21, len(data) - 54}
    for size in range(len(data)):
        if size not in whole_ones:
            with pytest.raises(CorruptionError):
                load(data[:size])
    with pytest.raises(CorruptionError, match="bytes behind the tree are not its seals"):
        load(data + b"\0")
    with pytest.raises(CorruptionError, match="68 bytes behind the tree are not its seals"):
        load(data + bytes(1000))


def test_offsets_count_from_the_start_of_the_file() -> None:
    stream = HEAD + node("") + node("/a") + INT.pack(-7) + b"x"
    with pytest.raises(CorruptionError) as failure:
        load(iter([b"ZKSN" + pack(">iq", 2, -1) + stream[:50], stream[50:]]))
    assert failure.value.offset == 16 + len(stream) - 5
    assert (
        str(failure.value)
        == f"snapshot.64: offset {16 + len(stream) - 5}: a path of -7 bytes, expected at most 67108864"
    )


@pytest.mark.parametrize("data", [b"", b"ZKSN", b"ZKLG" + pack(">iq", 2, -1), b"ZKSN" + pack(">iq", 3, -1)])
def test_headers_that_are_none(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        load(data)


# ---- malice


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (INT.pack(-1), "byte 0: -1 sessions"),
        (INT.pack(0) + INT.pack(-1), "byte 4: -1 access lists"),
        (INT.pack(0) + INT.pack(1) + LONG.pack(1) + INT.pack(-1), "byte 16: -1 entries"),
        (
            INT.pack(0) + INT.pack(1) + LONG.pack(1) + INT.pack(1) + INT.pack(31) + INT.pack(1 << 30),
            "string of 1073741824",
        ),
        (INT.pack(0) + INT.pack(1) + LONG.pack(1) + INT.pack(1) + INT.pack(31) + INT.pack(-2), "string of -2"),
        (INT.pack(0) + INT.pack(1) + LONG.pack(1) + INT.pack(1) + INT.pack(31) + pack_buffer(b"\xff"), "not UTF-8"),
        (HEAD + END, "byte 8: the stream ends before the root"),
        (HEAD + INT.pack(-1) + b"x", "a path of -1 bytes"),
        (HEAD + INT.pack(1 << 30) + b"x", "a path of 1073741824 bytes"),
        (HEAD + node("/a"), "'/a' comes before its parent"),
        (HEAD + node("") + node("a"), "'a' comes before its parent"),
        (HEAD + node("") + node("/a/b"), "'/a/b' comes before its parent"),
        (HEAD + node("") + node("/a") + node("/a"), "'/a' is there already"),
        (HEAD + node("") + node("/a") + node("/a/"), "'/a/' is there already or has no name"),
        (HEAD + node("") + node(""), "a second root"),
        (HEAD + pack_string("") + INT.pack(1 << 30), "data of 1073741824 bytes"),
        (HEAD + pack_string("") + INT.pack(-2), "data of -2 bytes"),
        (HEAD + node("") + pack_buffer(b"/\xff") + bytes(72), "a path that is not UTF-8"),
    ],
)
def test_malformed_streams(stream: bytes, reason: str) -> None:
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        parser = SnapshotParser()
        with pytest.raises(MalformedSnapshot, match=reason):
            feed_all(parser, pieces)
        assert not parser.done


def feed_all(parser: SnapshotParser, pieces: list[bytes]) -> None:
    for piece in pieces:
        parser.feed(piece)


def test_record_limit() -> None:
    stream = HEAD + node("") + node("/a", bytes(1000)) + END
    parser = SnapshotParser(max_record=1000)
    parser.feed(stream)
    assert parser.done
    parser = SnapshotParser(max_record=999)
    with pytest.raises(RemoteProtocolError, match="data of 1000 bytes, expected at most 999"):
        parser.feed(stream)


def test_node_without_its_access_list_lets_nobody_in() -> None:
    """Apache's fuzzy snapshots can have such nodes."""
    tree = parse(HEAD + node("") + node("/a", key=17) + END)
    assert tree.nodes["/a"].acl == (AclEntry(0, "world", "anyone"),)
    check(tree)


def test_what_is_kept_beside_the_nodes_is_made_from_them() -> None:
    stream = (
        HEAD + node("") + node("/c", owner=CONTAINER_OWNER) + node("/t", owner=-(1 << 56) | 99) + node("/e", owner=9)
    )
    tree = parse(stream + node("/c/d", None) + END)
    assert (tree.containers, tree.ttl_nodes, tree.ephemerals) == ({"/c"}, {"/t"}, {9: {"/e"}})
    assert tree.nodes["/"].children == {"c", "t", "e"}
    assert tree.nodes["/c"].children == {"d"}
    assert tree.nodes["/c/d"].data is None
    check(tree)


def test_quota_statistics_are_counted_afresh() -> None:
    stream = HEAD + node("") + node("/zookeeper") + node("/zookeeper/quota") + node("/zookeeper/quota/a")
    stream += node("/zookeeper/quota/a/zookeeper_limits", b"count=1,bytes=1")
    stream += node("/zookeeper/quota/a/zookeeper_stats", b"count=77,bytes=77")
    stream += node("/a", b"12345") + node("/a/b", b"678")
    tree = parse(stream + END)
    assert tree.limited == {"/a"}
    assert tree.nodes[stats_path("/a")].data == b"count=2,bytes=8"
    check(tree)


def test_sessions_are_read() -> None:
    tree = parse(INT.pack(2) + pack(">qi", 5, 4000) + pack(">qi", -5, 6000) + INT.pack(0) + node("") + END)
    assert tree.sessions == {5: 4000, -5: 6000}


@given(st.integers(0, 20), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_streams_are_refused_or_read_whole(seed: int, chance: st.DataObject) -> None:
    stream = bytearray(whole(populated(seed, 15).tree))
    for _ in range(chance.draw(st.integers(1, 4))):
        stream[chance.draw(st.integers(0, len(stream) - 1))] = chance.draw(st.integers(0, 255))
    parser = SnapshotParser()
    cut = chance.draw(st.integers(0, len(stream)))
    try:
        parser.feed(bytes(stream[:cut]))
        parser.feed(bytes(stream[cut:]))
    except MalformedSnapshot:
        return
    if parser.done:
        # what was read is a tree like any other, if not the one that was written
        tree = parser.tree
        tree.apply(Txn(1, 1, 1 << 40, 1, SetData("/", b"", 1)))
        check(tree)
