"""Data folders go back and forth between Apache ZooKeeper 3.8 and us: each starts on what the other wrote.

Apache's server is killed with SIGKILL, so that its folder is what a crash leaves: a log with zeros written ahead and no
fresh snapshot. Ours are written by the store alone, without a server.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry
from tests.unit.zookeeper.folders import FOLDER, Session, apply, recover, small

from quorate.consensus.zab.messages import Entry
from quorate.zookeeper.acl import OPEN_ACL
from quorate.zookeeper.constants import Op
from quorate.zookeeper.txns import Create, CreateSession, Record, SetData, Txn, unpack_txn

JAR = "/usr/share/java/zookeeper.jar"
CLASSPATH = f"/etc/zookeeper/conf:{JAR}:/usr/share/java/slf4j-nop.jar"

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None or not os.path.exists(JAR),
    reason="Apache ZooKeeper 3.8 (java, zookeeper.jar) is missing",
)


def java(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["java", "-cp", CLASSPATH, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@contextmanager
def apache(folder: Path, **properties: str) -> Iterator[tuple[KazooClient, "subprocess.Popen[bytes]"]]:
    """A standalone Apache server over ``folder``, and a client; killed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{folder.name}.cfg"
    lines = [f"dataDir={folder}", f"clientPort={port}", "tickTime=1000", "4lw.commands.whitelist=*"]
    lines.append("admin.enableServer=false")
    config.write_text("\n".join(lines) + "\n")
    output = folder.parent / f"{folder.name}.out"
    flags = [f"-D{name}={value}" for name, value in properties.items()]
    with output.open("ab") as out:
        server = subprocess.Popen(
            ["java", *flags, "-cp", CLASSPATH, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(config)],
            stdout=out,
            stderr=out,
        )
    client = KazooClient(f"127.0.0.1:{port}", timeout=20, connection_retry=KazooRetry(max_tries=-1, max_delay=0.2))
    try:
        deadline = time.monotonic() + 60
        while four_letter_word(port, "ruok") != "imok":
            assert server.poll() is None, output.read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)
        client.start(timeout=60)
        yield client, server
    finally:
        # the server first: a session that is closed would change what the test is to find
        server.kill()
        server.wait(30)
        client.stop()
        client.close()


def four_letter_word(port: int, word: str) -> str:
    """The answer; empty while there is no server."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(word.encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except OSError:
        return ""


def write_some(client: KazooClient) -> dict[str, bytes]:
    """A bit of everything; what is in the tree afterwards."""
    client.create("/app", b"root")
    for index in range(40):
        client.create(f"/app/n{index:02d}", b"x" * (index * 50))
    for index in range(0, 40, 3):
        client.set(f"/app/n{index:02d}", b"changed %d" % index)
    for index in range(0, 40, 5):
        client.delete(f"/app/n{index:02d}")
    client.create("/app/sequence-", b"", sequence=True)
    client.create("/app/ephemeral", b"gone with the session", ephemeral=True)
    with client.transaction() as transaction:
        transaction.create("/app/multi", b"one")
        transaction.set_data("/app/multi", b"two")
        transaction.check("/app", 0)
    return contents(client, "/app")


def contents(client: KazooClient, path: str) -> dict[str, bytes]:
    found = {path: client.get(path)[0]}
    for child in client.get_children(path):
        found |= contents(client, f"{path}/{child}")
    return found


def in_tree(nodes: dict[str, bytes | None]) -> dict[str, bytes]:
    return {path: data or b"" for path, data in nodes.items() if path.startswith("/app")}


def test_we_recover_what_a_killed_apache_left(tmp_path: Path) -> None:
    folder = tmp_path / "apache"
    with apache(folder) as (client, server):
        expected = write_some(client)
        server.send_signal(signal.SIGKILL)
        server.wait(30)
    assert not (folder / FOLDER / "acceptedEpoch").exists()
    found = recover(folder)
    assert found.snapshot_zxid == 0
    assert len(found.tail) > 60
    digests = 0
    for entry in found.tail:
        txn = unpack_txn(entry.payload)
        assert txn.zxid == entry.zxid
        found.tree.apply(txn)
        if txn.digest is not None:
            digests += 1
            assert txn.digest == found.tree.digest, hex(txn.zxid)
    assert digests > 60
    assert in_tree({path: node.data for path, node in found.tree.nodes.items()}) == expected
    assert (found.accepted_epoch, found.current_epoch) == (0, 0)


def test_we_recover_apaches_snapshots(tmp_path: Path) -> None:
    folder = tmp_path / "apache"
    with apache(folder, **{"zookeeper.snapCount": "20"}) as (client, _):
        expected = write_some(client)
        # its thread writes them under their final names; a whole one is what is waited for
        while not any(_is_whole(file) for file in (folder / FOLDER).glob("snapshot.*") if file.name != "snapshot.0"):
            client.set("/app", b"root")
    found = recover(folder)
    assert found.snapshot_zxid > 0
    apply(found.tree, found.tail)
    assert in_tree({path: node.data for path, node in found.tree.nodes.items()}) == expected


def _is_whole(file: Path) -> bool:
    return file.read_bytes().endswith(b"\0\0\0\1/")


def ours(folder: Path, snapshot_after: int) -> dict[str, bytes]:
    """A folder of our own: a session and 60 transactions, a snapshot after some of them, digests in all."""
    with Session(folder, small(preallocate=1 << 20)) as session:
        tree = session.recover().tree
        time = 1_700_000_000_000
        records: list[Record] = [CreateSession(30_000), Create(Op.CREATE2, "/app", b"ours", OPEN_ACL, False, 1)]
        for index in range(40):
            records.append(Create(Op.CREATE, f"/app/n{index}", b"y" * index * 10, OPEN_ACL, False, index + 1))
            if index % 2:
                records.append(SetData(f"/app/n{index}", b"set", 1))
        for zxid, record in enumerate(records, 1):
            txn = Txn(0x1234, zxid, zxid, time + zxid, record)
            tree.apply(txn)
            txn.digest = tree.digest
            session.append(Entry(zxid, txn.pack()))
            if zxid == snapshot_after:
                session.do(partial(session.store.take_snapshot, tree))
        return in_tree({path: node.data for path, node in tree.nodes.items()})


@pytest.mark.parametrize("snapshot_after", [0, 25, 62])
def test_apache_starts_on_ours(tmp_path: Path, snapshot_after: int) -> None:
    folder = tmp_path / "ours"
    expected = ours(folder, snapshot_after)
    with apache(folder) as (client, _):
        assert contents(client, "/app") == expected
        client.set("/app", b"theirs")
        expected["/app"] = b"theirs"
        metrics = dict(line.split("\t") for line in four_letter_word(client.hosts[0][1], "mntr").splitlines())
        assert metrics["zk_digest_mismatches_count"] == "0"
        assert int(metrics["zk_znode_count"]) > 40
    # and back again
    found = recover(folder)
    apply(found.tree, found.tail)
    assert in_tree({path: node.data for path, node in found.tree.nodes.items()}) == expected


def test_apache_starts_on_ours_after_a_crash(tmp_path: Path) -> None:
    """A tail that was torn and cut by us, and a file of ours behind it."""
    folder = tmp_path / "ours"
    ours(folder, 0)
    log = folder / FOLDER / "log.1"
    data = log.read_bytes().rstrip(b"\0")
    log.write_bytes(data[:-10] + bytes(4096))
    with Session(folder, small()) as session:
        found = session.recover()
        assert len(found.tail) == 61
        apply(found.tree, found.tail)
        txn = Txn(0x1234, 99, 62, 1_700_000_100_000, SetData("/app", b"after the crash", 1))
        session.append(Entry(62, txn.pack()))
    with apache(folder) as (client, _):
        assert client.get("/app")[0] == b"after the crash"


def test_apaches_toolkit_reads_our_log(tmp_path: Path) -> None:
    ours(tmp_path / "ours", 25)
    for name, count in (("log.1", 25), ("log.1a", 37)):
        shown = java(
            "org.apache.zookeeper.server.persistence.TxnLogToolkit", "-d", str(tmp_path / "ours" / FOLDER / name)
        )
        assert shown.returncode == 0, shown.stderr
        assert "CRC" not in shown.stdout, shown.stdout
        assert f"EOF reached after {count} txns." in shown.stdout
        assert f"zxid {25 if name == 'log.1' else 62:#x} " in shown.stdout
        assert shown.stdout.count("session 0x1234") == count
