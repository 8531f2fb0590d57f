"""`quorate up` as a script uses it: the lines it prints, its data after a restart, its refusals, its end."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kazoo.client import KazooClient

from quorate.cli.datafolder import MARKER
from quorate.kv.client.sync import Client

PATIENCE = 60.0


class Up:
    """A running `quorate up`."""

    def __init__(self, *words: str, lines: int = 1) -> None:
        """``lines``: how many follow ``ready``."""
        self.lines = lines
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quorate", "up", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def services(self) -> dict[str, list[str]]:
        """Wait for the lines, which come in one write: the addresses of each service."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            pytest.fail(f"not ready within {PATIENCE:g} s: {self.end()}")
        first = self.process.stdout.readline()
        if not first:
            pytest.fail(f"ended without being ready: {self.ended()}")
        assert first == "ready\n"
        found: dict[str, list[str]] = {}
        while len(found) < self.lines:
            name, _, addresses = self.process.stdout.readline().strip().partition(" ")
            found[name] = addresses.split(",")
        return found

    def addresses(self) -> list[str]:
        """The same, of ZooKeeper alone."""
        return self.services()["zookeeper"]

    def members(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture
def up() -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def starter(*words: str) -> Up:
        started.append(Up("--services", "zookeeper", *words))
        return started[-1]

    yield starter
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def client(addresses: list[str]) -> KazooClient:
    return KazooClient(",".join(addresses), timeout=10.0)


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert alive == []


def test_all_services_serve_and_have_their_data_after_a_restart(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    first = Up("--data-dir", folder, lines=3)
    try:
        services = first.services()
        assert list(services) == ["zookeeper", "kv", "registry"]
        assert [len(addresses) for addresses in services.values()] == [3, 3, 3]
        with Client(services["kv"], timeout=PATIENCE) as kv:
            assert kv.put("kept", b"across restarts") == 1
        assert len(first.members()) == 6
        assert first.end(signal.SIGINT)[0] == 0
        second = Up("--data-dir", folder, "--services", "kv", lines=2)
        assert second.services() == {"kv": services["kv"], "registry": services["registry"]}
        with Client(services["kv"][0], timeout=PATIENCE) as kv:
            item = kv.get("kept")
            assert item is not None
            assert (item.value, item.version) == (b"across restarts", 1)
        for address in services["registry"]:
            with urllib.request.urlopen(f"http://{address}/quorate/v1/status") as answer:
                assert len(json.load(answer)["groups"][0]["members"]) == 3
        assert second.end()[0] == 0
    finally:
        for one in (first, locals().get("second")):
            if isinstance(one, Up) and one.process.poll() is None:
                one.process.kill()
                one.process.communicate()


@pytest.mark.parametrize("nodes", [1, 3])
def test_it_serves_and_has_its_data_after_a_restart(up: Callable[..., Up], tmp_path: Path, nodes: int) -> None:
    folder = str(tmp_path / "data")
    first = up("--data-dir", folder, "--nodes", str(nodes))
    addresses = first.addresses()
    assert len(addresses) == nodes
    zk = client(addresses)
    zk.start(PATIENCE)
    zk.create("/kept", b"across restarts")
    zk.stop()
    zk.close()
    members = first.members()
    assert len(members) == nodes
    status, out, err = first.end(signal.SIGINT)
    assert (status, out) == (0, "")
    assert f"{nodes} of {nodes} serve" in err
    assert err.count("leader") + err.count("standalone") == 1
    assert "killed" not in err
    wait_gone(members)

    second = up("--data-dir", folder)
    assert second.addresses() == addresses
    zk = client(addresses)
    zk.start(PATIENCE)
    assert zk.get("/kept")[0] == b"across restarts"
    zk.stop()
    zk.close()
    assert second.end()[0] == 0


def test_every_member_tells_its_status(up: Callable[..., Up], tmp_path: Path) -> None:
    running = up("--data-dir", str(tmp_path / "data"))
    addresses = running.addresses()
    done = subprocess.run(
        [sys.executable, "-m", "quorate", "status", *addresses], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == addresses
    assert sorted(row[1] for row in rows) == ["follower", "follower", "leader"]
    for row in rows:
        assert re.fullmatch(r"[1-9]\d*", row[2])
        assert int(row[3], 16) >> 32 == int(row[2])
        assert row[4].isdigit()
        assert row[5].isdigit()
    assert running.end()[0] == 0


def test_a_killed_member_comes_back(up: Callable[..., Up], tmp_path: Path) -> None:
    running = up("--data-dir", str(tmp_path / "data"))
    addresses = running.addresses()
    victim = running.members()[0]
    victim.kill()
    wait_gone([victim])
    zk = client(addresses)
    zk.start(PATIENCE)
    zk.create("/while-one-is-down", b"")
    zk.stop()
    zk.close()
    zk = client(addresses[:1])
    zk.start(PATIENCE)
    zk.sync("/while-one-is-down")
    assert zk.exists("/while-one-is-down") is not None
    zk.stop()
    zk.close()
    _, _, err = running.end()
    assert "zookeeper/1 was killed by SIGKILL and starts again in 0.1 s" in err


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_killed_itself_it_leaves_nothing_and_starts_again(up: Callable[..., Up], tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    first = up("--data-dir", folder)
    addresses = first.addresses()
    members = first.members()
    first.process.kill()
    # its lock goes with it, and it is not gone at once
    first.process.wait()
    second = up("--data-dir", folder)
    assert second.addresses() == addresses
    wait_gone(members)
    assert second.end()[0] == 0


def test_two_on_one_folder(up: Callable[..., Up], tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    running = up("--data-dir", folder, "--nodes", "1")
    running.addresses()
    status, out, err = up("--data-dir", folder).ended()
    assert (status, out) == (2, "")
    assert err == f"quorate: the data folder {folder} is already in use by process {running.process.pid}\n"
    assert running.end()[0] == 0


def test_a_taken_port_ends_it_before_anything_starts(up: Callable[..., Up], tmp_path: Path) -> None:
    running = up("--data-dir", str(tmp_path / "one"), "--nodes", "1")
    port = int(running.addresses()[0].rpartition(":")[2])
    status, out, err = up("--data-dir", str(tmp_path / "two"), "--port-base", str(port)).ended()
    assert (status, out) == (2, "")
    assert err == f"quorate: port {port} of --port-base {port} cannot be had: address already in use\n"
    assert not (tmp_path / "two" / MARKER).exists()
    assert running.end()[0] == 0


def test_nobody_reads_what_it_says(up: Callable[..., Up], tmp_path: Path) -> None:
    """A script that read the lines and closed its ends does not end the platform."""
    running = up("--data-dir", str(tmp_path / "data"), "--nodes", "1")
    addresses = running.addresses()
    assert running.process.stdout is not None
    assert running.process.stderr is not None
    running.process.stdout.close()
    running.process.stderr.close()
    (member,) = running.members()
    member.kill()
    wait_gone([member])
    zk = client(addresses)
    zk.start(PATIENCE)
    zk.stop()
    zk.close()
    running.process.terminate()
    assert running.process.wait(PATIENCE) == 0
    # communicate would read the closed ends
    running.process.stdout = running.process.stderr = None


def test_it_does_not_need_its_directory_on_the_path(tmp_path: Path) -> None:
    """The package is found by the members wherever `quorate` was started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quorate", "up", "--nodes", "1"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert (tmp_path / "data" / MARKER).is_file()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
