"""Quotas: the text of their nodes, which node they cover, what applying transactions makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.zookeeper.acl import OPEN_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.quota import (
    covering,
    exceeds,
    format_stats,
    limited_by,
    limits_path,
    measured_by,
    parse_stats,
    stats_path,
)
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Create, Delete, Record, SetData, Txn


class Story:
    """A tree and the transactions applied to it, one after the other."""

    def __init__(self) -> None:
        self.tree = DataTree()

    def apply(self, record: Record) -> None:
        zxid = self.tree.last_zxid + 1
        assert self.tree.apply(Txn(1, 0, zxid, zxid, record)).code == 0

    def create(self, path: str, data: bytes | None = b"") -> None:
        self.apply(Create(Op.CREATE, path, data, OPEN_ACL, False, -1))

    def delete(self, path: str) -> None:
        self.apply(Delete(Op.DELETE, path))

    def set(self, path: str, data: bytes | None) -> None:
        self.apply(SetData(path, data, 1))

    def limit(self, path: str, limits: bytes) -> None:
        """As zkCli's setquota does it."""
        parent = "/zookeeper/quota"
        for name in path[1:].split("/"):
            parent += "/" + name
            if parent not in self.tree.nodes:
                self.create(parent)
        self.create(limits_path(path), limits)
        self.create(stats_path(path), b"count=0,bytes=0")

    def stats(self, path: str) -> bytes | None:
        return self.tree.nodes[stats_path(path)].data


@pytest.mark.parametrize(
    ("text", "stats"),
    [
        (b"count=1,bytes=2", {"count": 1, "bytes": 2}),
        (
            b"count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=7",
            {"count": -1, "bytes": -1, "byteHardLimit": -1, "countHardLimit": 7},
        ),
        (b"count=1;bytes=2;;,x=+3", {"count": 1, "bytes": 2, "x": 3}),
        (b"count=", {"count": -1}),
        (b"", {}),
        (None, {}),
        (b"nonsense", {}),
        (b"count=many,bytes=5", {"bytes": 5}),
        (b"\xff\xfe=1,count=3", {"��": 1, "count": 3}),
        (b"count=99999999999999999999999999999999999", {}),
    ],
)
def test_parse(text: bytes | None, stats: dict[str, int]) -> None:
    assert parse_stats(text) == stats


def test_format_is_javas() -> None:
    assert format_stats({}) == b"count=-1,bytes=-1"
    assert format_stats({"bytes": 5, "count": 4}) == b"count=4,bytes=5"
    limits = {"countHardLimit": 10, "count": 4, "byteHardLimit": 20, "bytes": 5}
    assert format_stats(limits) == b"count=4,bytes=5=;byteHardLimit=20;countHardLimit=10"


numbers = st.integers(-(1 << 60), 1 << 60)
keys = st.sampled_from(["count", "bytes", "countHardLimit", "byteHardLimit"])


@given(st.dictionaries(keys, numbers))
def test_format_and_parse(stats: dict[str, int]) -> None:
    assert parse_stats(format_stats(stats)) == {"count": -1, "bytes": -1, **stats}


@given(st.binary(max_size=60))
def test_parse_takes_anything(text: bytes) -> None:
    assert all(isinstance(value, int) for value in parse_stats(text).values())


def test_paths() -> None:
    assert limited_by("/zookeeper/quota/a/b/zookeeper_limits") == "/a/b"
    assert measured_by("/zookeeper/quota/a/b/zookeeper_stats") == "/a/b"
    assert limited_by("/zookeeper/quota/a/b/zookeeper_stats") is None
    assert limited_by("/zookeeper/quota/zookeeper_limits") is None
    assert limited_by("/zookeeper/quotas/a/zookeeper_limits") is None
    assert limited_by("/zookeeper/quota/a/my_zookeeper_limits") is None
    assert limited_by(limits_path("/x/y")) == measured_by(stats_path("/x/y")) == "/x/y"


def test_deepest_limit_counts() -> None:
    limited = {"/a", "/a/b/c"}
    assert covering(limited, "/a") == "/a"
    assert covering(limited, "/a/b") == "/a"
    assert covering(limited, "/a/b/c") == "/a/b/c"
    assert covering(limited, "/a/b/c/d/e") == "/a/b/c"
    assert covering(limited, "/ab") is None
    assert covering(limited, "/") is None


def test_statistics_follow_the_tree() -> None:
    story = Story()
    story.create("/a", b"12")
    story.create("/a/b", b"345")
    story.create("/a/null", None)
    story.create("/other", b"1234567")
    story.limit("/a", b"count=10,bytes=-1")
    assert story.stats("/a") == b"count=3,bytes=5"
    story.create("/a/b/c", b"6789")
    assert story.stats("/a") == b"count=4,bytes=9"
    story.set("/a/b/c", b"6")
    assert story.stats("/a") == b"count=4,bytes=6"
    story.set("/a/b/c", None)
    assert story.stats("/a") == b"count=4,bytes=5"
    story.delete("/a/b/c")
    story.set("/other", b"")
    assert story.stats("/a") == b"count=3,bytes=5"
    story.set("/a", b"")
    assert story.stats("/a") == b"count=3,bytes=3"


def test_inner_quota_takes_over() -> None:
    story = Story()
    story.create("/a")
    story.create("/a/b")
    story.limit("/a", b"count=10,bytes=-1")
    story.limit("/a/b", b"count=10,bytes=-1")
    story.create("/a/b/c", b"xx")
    assert story.stats("/a/b") == b"count=2,bytes=2"
    assert story.stats("/a") == b"count=2,bytes=0"


def test_no_statistics_without_the_limit() -> None:
    story = Story()
    story.create("/a")
    story.limit("/a", b"count=10,bytes=-1")
    story.delete(limits_path("/a"))
    assert story.tree.limited == set()
    story.create("/a/b", b"x")
    assert story.stats("/a") == b"count=1,bytes=0"


def test_limit_without_statistics_is_harmless() -> None:
    story = Story()
    story.create("/zookeeper/quota/a")
    story.create(limits_path("/a"), b"count=-1,bytes=-1=;countHardLimit=1")
    story.create("/a")
    story.create("/a/b")
    assert not exceeds(story.tree, "/a/c", 1, 1)


def test_statistics_are_no_change_of_their_node() -> None:
    """Members count for themselves: neither Stat (but for the length) nor digest may depend on it."""
    story = Story()
    story.create("/a")
    story.limit("/a", b"count=10,bytes=-1")
    node = story.tree.nodes[stats_path("/a")]
    before = (node.mzxid, node.version, node.mtime)
    length_before = len(node.data or b"")
    stat_before = node.stat()
    story.create("/a/b", b"x" * 1000)
    assert (node.mzxid, node.version, node.mtime) == before
    assert len(node.data or b"") == length_before + 3
    assert node.stat() != stat_before


@pytest.mark.parametrize(
    ("limits", "bytes_diff", "count_diff", "broken"),
    [
        (b"count=-1,bytes=-1=;countHardLimit=3;byteHardLimit=-1", 0, 1, False),
        (b"count=-1,bytes=-1=;countHardLimit=2;byteHardLimit=-1", 0, 1, True),
        (b"count=-1,bytes=-1=;countHardLimit=1;byteHardLimit=-1", 5, 0, False),
        (b"count=-1,bytes=-1=;countHardLimit=-1;byteHardLimit=15", 5, 1, False),
        (b"count=-1,bytes=-1=;countHardLimit=-1;byteHardLimit=14", 5, 0, True),
        (b"count=-1,bytes=-1=;countHardLimit=-1;byteHardLimit=9", 0, 1, False),
        (b"count=-1,bytes=-1=;countHardLimit=-1;byteHardLimit=0", -1, 0, True),
        (b"count=1,bytes=1", 100, 1, False),
        (b"count=-1,bytes=-1", 100, 1, False),
        (b"garbage", 100, 1, False),
    ],
)
def test_hard_limits(limits: bytes, bytes_diff: int, count_diff: int, broken: bool) -> None:
    """Two nodes with ten bytes so far."""
    story = Story()
    story.create("/a", b"12345")
    story.create("/a/b", b"12345")
    story.limit("/a", limits)
    assert story.stats("/a") == b"count=2,bytes=10"
    assert exceeds(story.tree, "/a/c", bytes_diff, count_diff) is broken
    assert not exceeds(story.tree, "/b", bytes_diff, count_diff)


def test_garbage_in_the_statistics_is_survived() -> None:
    story = Story()
    story.create("/a")
    story.limit("/a", b"count=10,bytes=-1")
    story.set(stats_path("/a"), b"\xff garbage")
    story.create("/a/b", b"xy")
    assert story.stats("/a") == b"count=0,bytes=1"
