"""The data folder of ``quorate up``: whose it is, which ports its members have, and their files.

Layout, version 2::

    quorate.json            marks the folder as ours; layout version, ports of every member
    .quorate.lock           locked while an `up` or a member of it runs; holds the process id of the `up`
    zookeeper/<n>/          a ZooKeeper member's dataDir: zoo.cfg, myid, version-2/, and its log in the file `log`
    kv/<n>/                 a member of the key-value store: node.toml, data/, and its log in the file `log`

Version 1 had no kv/ and knew fewer ports; it is taken over.

A folder that holds anything else and no marker is never touched.
"""

import errno
import fcntl
import json
import os
import random
import socket
import time
from typing import NamedTuple

from quorate import __version__
from quorate.errors import UsageError
from quorate.zookeeper.properties import escape

LAYOUT = 2
MARKER = "quorate.json"
LOCK = ".quorate.lock"
HOST = "127.0.0.1"
MAX_NODES = 5
PORTS_SPANNED = 60 + MAX_NODES
"""Ports from --port-base on that one platform may take."""

_NOT_OURS_TO_JUDGE = frozenset((LOCK, MARKER + ".new", "lost+found"))
_OFFSETS = {"client": 0, "quorum": 10, "election": 20, "admin": 30, "kv": 40, "peer": 50, "registry": 60}
_OFFSETS_OF_1 = ("client", "quorum", "election", "admin")
_FREE_RANGE = range(10_000, 32_000)
"""Below the ports that Linux hands to outgoing connections (net.ipv4.ip_local_port_range starts at 32768)."""
_LOCK_WAIT_SECONDS = 12.0
_TRIES = 200


class MemberPorts(NamedTuple):
    """The ports of one member of each service, all on loopback: four of ZooKeeper's, and of the key-value store those for its clients,
    for its other members, and for HTTP."""

    client: int
    quorum: int
    election: int
    admin: int
    kv: int
    peer: int
    registry: int


class DataFolder:
    """A locked data folder. Opening it raises UsageError where the folder cannot be had or is not ours."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._marker = os.path.join(path, MARKER)
        try:
            os.makedirs(path, exist_ok=True)
            entries = os.listdir(path)
        except FileExistsError:
            raise UsageError(f"{path} cannot be the data folder: it is a file") from None
        except OSError as error:
            raise UsageError(f"the data folder {path} cannot be used: {_reason(error)}") from None
        if MARKER not in entries and not _NOT_OURS_TO_JUDGE.issuperset(entries):
            raise UsageError(
                f"the data folder {path} is not empty and was not made by quorate; name another with --data-dir"
            )
        self.lock = self._lock()
        self.ports = self._recorded_ports()

    def member(self, number: int) -> str:
        """The folder of a ZooKeeper member."""
        return os.path.join(self.path, "zookeeper", str(number))

    def kv_member(self, number: int) -> str:
        """The folder of a member of the key-value store."""
        return os.path.join(self.path, "kv", str(number))

    def choose_ports(self, nodes: int | None, base: int | None) -> list[str]:
        """Settle ``self.ports`` for ``nodes`` members: from ``base``, else as recorded, else free ones.

        ``None`` nodes are as many as recorded, else three. Returns a sentence per recorded port that had to change.
        Raises UsageError if a port of ``base`` is taken or the folder holds an ensemble of another size.
        """
        recorded = self.ports
        if nodes is None:
            nodes = len(recorded) or 3
        if recorded and len(recorded) != nodes:
            raise UsageError(
                f"the data folder {self.path} holds an ensemble of {len(recorded)}; start it with --nodes {len(recorded)}"
                " or name another folder with --data-dir"
            )
        if base is not None:
            self.ports = _from_base(base, nodes)
            for ports in self.ports:
                for port in ports:
                    reason = _taken(port)
                    if reason:
                        raise UsageError(f"port {port} of --port-base {base} cannot be had: {reason}")
            return []
        if not recorded:
            self.ports = _free_ports(nodes)
            return []
        return self._replace_taken(recorded)

    def write(self) -> None:
        """Write the marker and every member's configuration."""
        try:
            members = [ports._asdict() for ports in self.ports]
            marker = {"layout": LAYOUT, "written_by": f"quorate {__version__}", "members": members}
            _replace(self._marker, json.dumps(marker, indent=2) + "\n")
            for number in range(1, len(self.ports) + 1):
                os.makedirs(self.member(number), exist_ok=True)
                _replace(os.path.join(self.member(number), "myid"), f"{number}\n")
                _replace(os.path.join(self.member(number), "zoo.cfg"), self._configuration(number))
                os.makedirs(os.path.join(self.kv_member(number), "data"), exist_ok=True)
                _replace(os.path.join(self.kv_member(number), "node.toml"), self._kv_configuration(number))
        except OSError as error:
            raise UsageError(f"the data folder {self.path} cannot be written: {_reason(error)}") from None

    def _configuration(self, number: int) -> str:
        ports = self.ports[number - 1]
        folder = escape(os.path.abspath(self.member(number)))
        lines = [
            "# Written by `quorate up` at every start; changes made here are lost.",
            f"dataDir={folder}",
            f"clientPort={ports.client}",
            f"clientPortAddress={HOST}",
            "tickTime=1000",
            "initLimit=10",
            "syncLimit=5",
            "maxClientCnxns=0",
            "maxSessionTimeout=40000",
            "4lw.commands.whitelist=*",
            "extendedTypesEnabled=true",
            "autopurge.purgeInterval=1",
            f"admin.serverAddress={HOST}",
            f"admin.serverPort={ports.admin}",
        ]
        if len(self.ports) > 1:
            lines += [
                f"server.{other}={HOST}:{peer.quorum}:{peer.election}:participant"
                for other, peer in enumerate(self.ports, 1)
            ]
        return "\n".join(lines) + "\n"

    def _kv_configuration(self, number: int) -> str:
        lines = [
            "# Written by `quorate up` at every start; changes made here are lost.",
            "[node]",
            f"id = {number}",
            'data_dir = "data"',
            "",
            "[kv]",
            'cluster = "up"',
        ]
        for other, ports in enumerate(self.ports, 1):
            lines += [
                "",
                "[[kv.members]]",
                f"id = {other}",
                f'peer = "{HOST}:{ports.peer}"',
                f'client = "{HOST}:{ports.kv}"',
                f'http = "{HOST}:{ports.registry}"',
            ]
        return "\n".join(lines) + "\n"

    def _lock(self) -> int:
        path = os.path.join(self.path, LOCK)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"the data folder {self.path} cannot be written: {_reason(error)}") from None
        deadline = time.monotonic() + _LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(lock)
                    raise UsageError(f"the data folder {self.path} cannot be locked: {_reason(error)}") from None
            owner = _owner(lock)
            if owner or time.monotonic() > deadline:
                os.close(lock)
                by = f" by process {owner}" if owner else ""
                raise UsageError(f"the data folder {self.path} is already in use{by}")
            # its owner is gone; the members that it left behind end within moments and hold the lock until then
            time.sleep(0.01)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _recorded_ports(self) -> list[MemberPorts]:
        try:
            with open(self._marker, "rb") as file:
                marker = json.loads(file.read(1 << 20))
            layout = marker["layout"]
            if layout == LAYOUT:
                return [MemberPorts(*[_port(member[name]) for name in _OFFSETS]) for member in marker["members"]]
            if layout == 1:
                return _completed([[_port(member[name]) for name in _OFFSETS_OF_1] for member in marker["zookeeper"]])
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(f"the data folder {self.path} cannot be read: {_reason(error)}") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self._marker} is damaged, so its members' ports are unknown") from None
        raise UsageError(f"the data folder {self.path} has layout {layout!r}, but this quorate knows {LAYOUT} only")

    def _replace_taken(self, recorded: list[MemberPorts]) -> list[str]:
        changes = []
        kept = {port for ports in recorded for port in ports}
        self.ports = []
        for number, ports in enumerate(recorded, 1):
            for name, port in ports._asdict().items():
                reason = _taken(port)
                if reason:
                    free = _free_port(kept)
                    kept.add(free)
                    ports = ports._replace(**{name: free})
                    changes.append(
                        f"the {name} port {port} of member {number} cannot be had ({reason}); it is now {free}"
                    )
            self.ports.append(ports)
        return changes


def _completed(known: list[list[int]]) -> list[MemberPorts]:
    """With free ports for what layout 1 did not have."""
    kept = {port for ports in known for port in ports}
    for ports in known:
        while len(ports) < len(_OFFSETS):
            ports.append(_free_port(kept))
            kept.add(ports[-1])
    return [MemberPorts(*ports) for ports in known]


def _from_base(base: int, nodes: int) -> list[MemberPorts]:
    return [MemberPorts(*[base + offset + number for offset in _OFFSETS.values()]) for number in range(nodes)]


def _free_ports(nodes: int) -> list[MemberPorts]:
    pick = random.SystemRandom()
    for _ in range(_TRIES):
        base = pick.randrange(_FREE_RANGE.start // 100, _FREE_RANGE.stop // 100 - 1) * 100 + 1
        found = _from_base(base, nodes)
        if not any(_taken(port) for ports in found for port in ports):
            return found
    raise UsageError("no free ports were found; name some with --port-base")


def _free_port(excluded: set[int]) -> int:
    pick = random.SystemRandom()
    for _ in range(_TRIES):
        port = pick.choice(_FREE_RANGE)
        if port not in excluded and not _taken(port):
            return port
    raise UsageError("no free port was found; name some with --port-base")


def _taken(port: int) -> str:
    """Why a server could not listen on ``port``; empty if it could."""
    with socket.socket() as probe:
        # as servers do, so that connections that are still winding down do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            return _reason(error)
    return ""


def _port(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError(value)
    return value


def _owner(lock: int) -> int:
    """The live process that holds the lock as its `up`; 0 if there is none."""
    text = os.pread(lock, 32, 0).strip()
    if not text.isdigit():
        return 0
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return 0
    except (PermissionError, OverflowError):
        pass
    return int(text)


def _replace(path: str, text: str) -> None:
    """Write a file so that a crash leaves the old content or the new."""
    new = path + ".new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
