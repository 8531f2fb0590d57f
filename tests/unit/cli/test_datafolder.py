"""The data folder of `quorate up`: whose it is, its lock, its ports, its files."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import free_ports

from quorate.cli.datafolder import LOCK, MARKER, PORTS_SPANNED, DataFolder, MemberPorts
from quorate.errors import UsageError
from quorate.kv import config as kv_config
from quorate.zookeeper import zoocfg


def opened(path: Path) -> DataFolder:
    return DataFolder(str(path))


def closed(folder: DataFolder) -> None:
    os.close(folder.lock)


def written(path: Path, nodes: int | None = None, base: int | None = None) -> list[MemberPorts]:
    folder = opened(path)
    folder.choose_ports(nodes, base)
    folder.write()
    closed(folder)
    return folder.ports


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        opened(path)
    return str(caught.value)


def test_members_files_are_what_apache_expects(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dätä 1"
    ports = written(path, 5)
    assert len({port for member in ports for port in member}) == 35
    for number in range(1, 6):
        config = zoocfg.load(str(path / "zookeeper" / str(number) / "zoo.cfg"))
        assert config.warnings == []
        assert config.my_id == number
        assert config.data_dir == str(path / "zookeeper" / str(number))
        assert config.client_address == ("127.0.0.1", ports[number - 1].client)
        assert config.admin_address == ("127.0.0.1", ports[number - 1].admin)
        assert [(server.quorum.port, server.election.port) for server in config.servers] == [
            (member.quorum, member.election) for member in ports
        ]


def test_one_member_is_standalone(tmp_path: Path) -> None:
    written(tmp_path, 1)
    config = zoocfg.load(str(tmp_path / "zookeeper" / "1" / "zoo.cfg"))
    assert config.standalone
    assert config.servers == ()


def test_a_relative_folder_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("data"))
    assert zoocfg.load("data/zookeeper/3/zoo.cfg").data_dir == str(tmp_path / "data" / "zookeeper" / "3")


def test_ports_and_size_are_kept(tmp_path: Path) -> None:
    first = written(tmp_path, 1)
    assert written(tmp_path) == first
    assert written(tmp_path, 1) == first
    folder = opened(tmp_path)
    with pytest.raises(UsageError, match=r"holds an ensemble of 1; start it with --nodes 1"):
        folder.choose_ports(3, None)
    closed(folder)


def free_base() -> int:
    """A base whose ports were all free a moment ago."""
    while True:
        (base,) = free_ports(1)
        with ExitStack() as probes:
            try:
                for offset in range(PORTS_SPANNED):
                    probes.enter_context(socket.create_server(("127.0.0.1", base + offset)))
            except OSError:
                continue
        return base


def test_a_port_base_wins_over_recorded_ports(tmp_path: Path) -> None:
    written(tmp_path, 3)
    base = free_base()
    assert written(tmp_path, None, base) == [
        MemberPorts(*[base + offset + number for offset in range(0, 70, 10)]) for number in range(3)
    ]


def test_a_taken_port_of_a_base_is_refused(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    base = free_base()
    with socket.create_server(("127.0.0.1", base + 21)):
        wanted = f"port {base + 21} of --port-base {base} cannot be had: address already in use"
        with pytest.raises(UsageError, match=wanted):
            folder.choose_ports(3, base)
    closed(folder)
    assert not (tmp_path / MARKER).exists()


def test_a_recorded_port_that_is_taken_is_replaced_alone(tmp_path: Path) -> None:
    ports = written(tmp_path, 3)
    with socket.create_server(("127.0.0.1", ports[1].client)):
        folder = opened(tmp_path)
        changes = folder.choose_ports(None, None)
        closed(folder)
    assert len(changes) == 1
    assert changes[0].startswith(f"the client port {ports[1].client} of member 2 cannot be had")
    assert folder.ports[0] == ports[0]
    assert folder.ports[1] == ports[1]._replace(client=folder.ports[1].client)
    assert folder.ports[1].client != ports[1].client
    assert folder.ports[2] == ports[2]


def test_a_foreign_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "is not empty and was not made by quorate; name another with --data-dir" in refusal(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_with_left_over_lock_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("")
    (tmp_path / "lost+found").mkdir()
    assert len(written(tmp_path)) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"layout": 1}', '{"layout": 1, "zookeeper": [{"client": 1}]}', '{"layout": 1, "zookeeper": 5}',
     '{"layout": 1, "zookeeper": [{"client": "a", "quorum": 1, "election": 2, "admin": 3}]}'],
)  # fmt: skip
def test_a_damaged_marker_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    assert "is damaged" in refusal(tmp_path)


def test_the_first_layout_is_taken_over(tmp_path: Path) -> None:
    first = [{"client": 20_001, "quorum": 20_011, "election": 20_021, "admin": 20_031}]
    (tmp_path / MARKER).write_text(json.dumps({"layout": 1, "zookeeper": first}))
    folder = opened(tmp_path)
    (ports,) = folder.ports
    assert ports[:4] == (20_001, 20_011, 20_021, 20_031)
    assert len(set(ports)) == 7
    folder.write()
    assert json.loads((tmp_path / MARKER).read_text())["members"] == [ports._asdict()]
    closed(folder)


def test_the_configuration_of_the_store_is_one(tmp_path: Path) -> None:
    ports = written(tmp_path, 3)
    for number in (1, 2, 3):
        config = kv_config.load(str(tmp_path / "kv" / str(number) / "node.toml"))
        assert config.sid == number
        assert config.data_dir == str(tmp_path / "kv" / str(number) / "data")
        assert [member.addresses for member in config.members] == [
            {
                "peer": f"127.0.0.1:{other.peer}",
                "client": f"127.0.0.1:{other.kv}",
                "http": f"127.0.0.1:{other.registry}",
            }
            for other in ports
        ]


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(json.dumps({"layout": 3, "zookeeper": "other"}))
    assert refusal(tmp_path) == f"the data folder {tmp_path} has layout 3, but this quorate knows 2 only"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert refusal(tmp_path) == f"the data folder {tmp_path} is already in use by process {os.getpid()}"
    closed(folder)
    closed(opened(tmp_path))


def test_members_left_behind_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `up` that locked the folder is gone, but a process that inherited the lock is still ending."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = opened(tmp_path).lock
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{gone.pid}\n".encode(), 0)
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock])
    os.close(lock)
    assert heir.stdin is not None
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        heir.communicate()

    monkeypatch.setattr("quorate.cli.datafolder.time.sleep", wait)
    try:
        closed(opened(tmp_path))
        assert len(waits) == 1
    finally:
        heir.kill()
        heir.communicate()
