"""What a client says of a write whose answer never came."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cutting import Cutter
from tests.support.kvcluster import KvCluster

from quorate.kv.client import DeadlineExceeded


@pytest.fixture
def cut(tmp_path: Path) -> Iterator[tuple[Cutter, KvCluster]]:
    """A member that clients reach through a proxy alone."""
    with Cutter(0.0) as cutter, KvCluster(tmp_path, 1, fronts={1: cutter.address}, started=False) as cluster:
        cutter.target = cluster.client_address(1)
        cluster.start(1)
        cluster.wait()
        yield cutter, cluster


def test_a_write_that_was_sent_once_may_be_done_though_nobody_could_be_asked_again(
    cut: tuple[Cutter, KvCluster],
) -> None:
    """It goes out at once over the connection that is there; its answer is lost, and no other connection is to be had."""
    cutter, cluster = cut
    with cluster.client(timeout=1.0) as kv, cluster.client() as other:
        assert kv.put("k", b"before") == 1
        cutter.chance = 1.0
        with pytest.raises(DeadlineExceeded, match="it may be done or not") as caught:
            kv.put("k", b"after")
        assert caught.value.maybe_done
        cutter.chance = 0.0
        item = other.get("k")
        assert item is not None
        assert item.value == b"after"


def test_a_write_that_could_never_be_sent_is_surely_not_done(cut: tuple[Cutter, KvCluster]) -> None:
    _, cluster = cut
    with cluster.client(timeout=1.0) as kv:
        assert kv.put("k", b"before") == 1
        cluster.kill(1)
        with pytest.raises(DeadlineExceeded):
            kv.get("k")
        with pytest.raises(DeadlineExceeded) as caught:
            kv.put("k", b"after")
        assert not caught.value.maybe_done
