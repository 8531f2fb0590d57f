"""Apache ZooKeeper's own files, judged by our tree and the other way round.

A real server carries out operations; its log is replayed on our tree, whose digest must equal the one that Apache wrote
into every transaction. Its snapshot must load as the tree that the replay made, and a snapshot of ours must start it.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple
from zlib import adler32

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoAuthError, NodeExistsError, NoNodeError, NotEmptyError, RolledBackError
from kazoo.security import make_acl, make_digest_acl

from quorate.binary import INT, LONG, pack_buffer, pack_string
from quorate.zookeeper.acl import PACKED_OPEN_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.node import STAT, Node
from quorate.zookeeper.snapshot import load_snapshot_file, snapshot_file
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Multi, Txn, unpack_txn

JAR = Path("/usr/share/java/zookeeper.jar")
JAVA = shutil.which("java")
PATIENCE = 60.0
"""Seconds after which a server that does not do what is waited for has failed."""
PROBE = 2.0
"""Seconds to wait for an answer: a connection that meets a server while it starts is sometimes never served."""

pytestmark = pytest.mark.skipif(JAVA is None or not JAR.exists(), reason="Apache ZooKeeper (Debian) is not installed")


class Apache:
    """A standalone server on ``folder``, ended when the block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> "Apache":
        assert JAVA is not None
        self.folder.mkdir(exist_ok=True)
        config = self.folder.parent / f"zoo-{self.port}.cfg"
        config.write_text(
            f"dataDir={self.folder}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\ntickTime=2000\n"
            "admin.enableServer=false\n4lw.commands.whitelist=*\n"
        )
        self.output = (self.folder.parent / f"output-{self.port}.txt").open("wb")
        options = ["-Dzookeeper.extendedTypesEnabled=true", "-Xmx256m", "-cp", str(JAR)]
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self.process = subprocess.Popen(
            [JAVA, *options, main, str(config)], stdout=self.output, stderr=subprocess.STDOUT, cwd=self.folder.parent
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while self.word("ruok") != "imok":
                assert self.process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
        except BaseException:
            self.__exit__()
            raise
        return self

    def word(self, word: str) -> str:
        """The answer to a four-letter word; empty while the server is not there."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PROBE) as connection:
                connection.sendall(word.encode())
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        except OSError:
            return ""

    def metrics(self) -> dict[str, str]:
        pairs = (line.split("\t") for line in self.word("mntr").splitlines())
        return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    @property
    def files(self) -> Path:
        return self.folder / "version-2"


class Connected:
    """A kazoo client for the length of a block; its session is closed at the end."""

    def __init__(self, apache: Apache) -> None:
        self.client = KazooClient(f"127.0.0.1:{apache.port}", timeout=10)

    def __enter__(self) -> KazooClient:
        self.client.start(PATIENCE)
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.stop()
        self.client.close()


class RawCreate:
    """A create that kazoo has no call for: containers and TTL nodes."""

    def __init__(self, op: Op, path: str, data: bytes | None, flags: int, ttl: int | None = None) -> None:
        self.type = int(op)
        self._op = op
        self._body = pack_string(path) + pack_buffer(data) + PACKED_OPEN_ACL + INT.pack(flags)
        if ttl is not None:
            self._body += LONG.pack(ttl)

    def serialize(self) -> bytes:
        return self._body

    def deserialize(self, data: bytes, offset: int) -> str:
        size: int = INT.unpack_from(data, offset)[0]
        return data[offset + 4 : offset + 4 + size].decode()

    def send(self, client: KazooClient) -> str:
        result = client.handler.async_result()
        client._call(self, result)
        path: str = result.get(timeout=PATIENCE)
        return path


def exercise(client: KazooClient) -> None:
    """Every kind of transaction, and failures between them."""
    client.create("/a", b"first")
    client.create("/a/b", b"")
    client.set("/a", b"second")
    client.set("/a", b"third", version=1)
    client.set("/", b"the root has data too")
    with pytest.raises(BadVersionError):
        client.set("/a", b"never", version=7)
    with pytest.raises(NodeExistsError):
        client.create("/a", b"never")
    with pytest.raises(NotEmptyError):
        client.delete("/a")
    with pytest.raises(NoNodeError):
        client.delete("/missing")
    for _ in range(3):
        client.create("/a/seq-", b"s", sequence=True)
        client.create("/a/eph-", b"e", ephemeral=True, sequence=True)
    client.create("/große/Привет/世界", b"\x00\xff" * 40, makepath=True)
    client.delete("/a/b")
    client.create("/a/b", b"again")
    client.set_acls("/a/b", [make_digest_acl("user", "secret", all=True), make_acl("world", "anyone", read=True)])
    client.create("/guarded", b"g", acl=[make_acl("ip", "127.0.0.1", all=True)])
    transaction = client.transaction()
    transaction.check("/a", 2)
    transaction.create("/multi", b"1")
    transaction.create("/multi/child", b"2", ephemeral=True)
    transaction.set_data("/multi", b"3")
    transaction.set_data("/multi", b"4")
    transaction.delete("/multi/child")
    transaction.create("/multi/child", b"5")
    assert not [result for result in transaction.commit() if isinstance(result, Exception)]
    transaction = client.transaction()
    transaction.create("/multi/other", b"1")
    transaction.delete("/missing")
    transaction.create("/multi/third", b"1")
    results = transaction.commit()
    assert isinstance(results[0], RolledBackError)
    assert isinstance(results[1], NoNodeError)
    for path, text in (("zookeeper_limits", b"count=5,bytes=-1"), ("zookeeper_stats", b"count=0,bytes=0")):
        client.create("/zookeeper/quota/a/" + path, text, makepath=True)
    client.create("/a/counted", b"12345")
    client.set("/a/counted", b"1234567890")
    RawCreate(Op.CREATE_CONTAINER, "/container", b"c", 4).send(client)
    client.create("/container/child", b"")
    RawCreate(Op.CREATE_TTL, "/ttl", b"t", 5, 3_600_000).send(client)
    RawCreate(Op.CREATE2, "/null", None, 0).send(client)
    client.create("/container/ephemeral", b"", ephemeral=True)


def entries(path: Path) -> Iterator[bytes]:
    """The transactions of a log file."""
    data = path.read_bytes()
    assert data[:4] == b"ZKLG"
    offset = 16
    while offset + 12 <= len(data):
        check, size = unpack_from(">qi", data, offset)
        if size == 0:
            return
        entry = data[offset + 12 : offset + 12 + size]
        assert adler32(entry) == check
        yield entry
        offset += 13 + size


def logged_bytes(folder: Path) -> list[bytes]:
    logs = sorted(folder.glob("log.*"), key=lambda path: int(path.suffix[1:], 16))
    return [entry for log in logs for entry in entries(log)]


def logged(folder: Path) -> list[Txn]:
    return [unpack_txn(entry) for entry in logged_bytes(folder)]


def replay(tree: DataTree, txns: list[Txn]) -> int:
    """Apply what the tree does not have yet; how many digests were compared."""
    compared = 0
    for txn in txns:
        if txn.zxid > tree.last_zxid:
            tree.apply(txn)
            if txn.digest is not None:
                assert tree.digest == txn.digest, f"after {txn.zxid:#x}, {type(txn.record).__name__}"
                compared += 1
    return compared


def contents(tree: DataTree) -> dict[str, tuple[object, ...]]:
    fields = [name for name in Node.__slots__ if name != "packed_stat"]
    return {path: tuple(getattr(node, name) for name in fields) for path, node in tree.nodes.items()}


class Story(NamedTuple):
    """What a server made of :func:`exercise`, and was asked afterwards."""

    folder: Path
    txns: list[Txn]
    stats: dict[str, bytes]
    """Every node's Stat as the server tells it, packed."""
    children: dict[str, list[str]]
    metrics: dict[str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    apache = Apache(tmp_path_factory.mktemp("apache") / "data")
    with apache:
        with Connected(apache) as client:
            exercise(client)
        with Connected(apache) as client:
            client.create("/after", b"", ephemeral=True)
    txns = logged(apache.files)
    # on its second start the server writes a snapshot of all this
    with apache, Connected(apache) as client:
        stats: dict[str, bytes] = {}
        children: dict[str, list[str]] = {}
        waiting = ["/"]
        while waiting:
            path = waiting.pop()
            stats[path] = STAT.pack(*client.exists(path))
            children[path] = sorted(client.get_children(path))
            waiting += [path.rstrip("/") + "/" + name for name in children[path]]
        metrics = apache.metrics()
    return Story(apache.files, txns, stats, children, metrics)


def test_log_holds_every_kind_of_transaction(story: Story) -> None:
    """Or the other tests would show less than they say; and the bytes of each come back as they were."""
    parts = [part for txn in story.txns if isinstance(txn.record, Multi) for part in txn.record.parts]
    kinds = {txn.record.op for txn in story.txns} | {part.op for part in parts}
    expected = {Op.CREATE, Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL, Op.DELETE, Op.SET_DATA, Op.SET_ACL}
    expected |= {Op.MULTI, Op.CHECK, Op.ERROR, Op.CREATE_SESSION, Op.CLOSE_SESSION}
    assert not expected - kinds
    for entry, txn in zip(logged_bytes(story.folder), story.txns, strict=False):
        assert txn.pack() == entry


def test_digest_of_every_transaction(story: Story) -> None:
    assert replay(DataTree(), story.txns) > 30


def test_snapshot_loads_as_the_replayed_tree(story: Story) -> None:
    tree = DataTree()
    replay(tree, story.txns)
    snapshot = max(story.folder.glob("snapshot.*"), key=lambda path: int(path.suffix[1:], 16))
    loaded = load_snapshot_file(snapshot.read_bytes(), str(snapshot))
    assert loaded.last_zxid == tree.last_zxid
    assert loaded.snapshot_digest == (tree.last_zxid, tree.digest)
    assert loaded.digest == tree.digest
    assert contents(loaded) == contents(tree)
    assert loaded.sessions == tree.sessions
    assert loaded.containers == tree.containers == {"/container"}
    assert loaded.ttl_nodes == tree.ttl_nodes == {"/ttl"}
    assert loaded.limited == tree.limited == {"/a"}
    assert loaded.acls == tree.acls
    assert loaded.data_size == tree.data_size


def test_stat_of_every_node(story: Story) -> None:
    tree = DataTree()
    replay(tree, story.txns)
    assert {path: node.stat() for path, node in tree.nodes.items()} == story.stats


def test_children_and_counts(story: Story) -> None:
    tree = DataTree()
    replay(tree, story.txns)
    assert {path: sorted(node.children or ()) for path, node in tree.nodes.items()} == story.children
    assert int(story.metrics["zk_znode_count"]) == tree.node_count
    assert int(story.metrics["zk_ephemerals_count"]) == tree.ephemeral_count == 0


def test_apache_starts_from_our_snapshot(story: Story, tmp_path: Path) -> None:
    """And goes on from there: the digests in its log are still ours, its own comparison finds no fault."""
    tree = DataTree()
    replay(tree, story.txns)
    apache = Apache(tmp_path / "data")
    apache.files.mkdir(parents=True)
    (apache.files / f"snapshot.{tree.last_zxid:x}").write_bytes(b"".join(snapshot_file(tree)))
    with apache:
        with Connected(apache) as client:
            assert client.get("/a")[0] == b"third"
            assert client.get("/große/Привет/世界")[0] == b"\x00\xff" * 40
            assert client.get("/guarded")[0] == b"g"
            assert [(acl.perms, acl.id.scheme, acl.id.id) for acl in client.get_acls("/guarded")[0]] == [
                (31, "ip", "127.0.0.1")
            ]
            with pytest.raises(NoAuthError):
                client.set("/a/b", b"only its user may")
            client.set("/a", b"fourth")
            client.create("/a/new", b"n")
            client.delete("/a/counted")
            quota = client.get("/zookeeper/quota/a/zookeeper_stats")[0]
        assert int(apache.metrics()["zk_digest_mismatches_count"]) == 0
    assert replay(tree, logged(apache.files)) >= 5
    assert tree.nodes["/zookeeper/quota/a/zookeeper_stats"].data == quota
