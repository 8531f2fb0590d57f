"""The parts of the benchmark: each starts servers of one kind, measures, ends them, and gives figures by name."""

import argparse
import os
import socket
import struct
import time
from pathlib import Path

from tests.support.ensembles import Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import Closed, RawClient, create_body, path_watch_body, set_body

from benchmarks.zookeeper import load as generator
from quorate.binary import pack_buffer
from quorate.zookeeper.constants import NOTIFICATION_XID, PING_XID, Op

TITLES = {
    "start": "Start and memory",
    "load": "Load",
    "nodes": "Many nodes",
    "sessions": "10,000 idle sessions",
    "watchers": "10,000 watchers of one node",
    "recovery": "kill -9 of the leader",
}
SETTINGS = {"maxClientCnxns": "0", "maxSessionTimeout": "600000"}
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20

Figures = dict[str, float]


def ensemble(kind: str, members: int, folder: Path) -> Ensemble:
    # Java's heap is its default here, as a user would run it
    return Ensemble([kind] * members, folder, settings=SETTINGS, java_heap="")


def cpu_seconds(members: list[Member]) -> float:
    """User and system time of the processes so far."""
    total = 0
    for member in members:
        fields = Path(f"/proc/{member.process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident(member: Member) -> float:
    """MiB."""
    text = Path(f"/proc/{member.process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def addresses(servers: Ensemble) -> list[tuple[str, int]]:
    return [(member.host, member.client_port) for member in servers.members]


def start(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """From exec to the first answered request, alone and three together (the slowest member)."""
    figures: Figures = {}
    for members in (1, 3):
        servers = ensemble(kind, members, folder / str(members))
        began = time.perf_counter()
        try:
            for member in servers.members:
                member.start()
            for member in servers.members:
                _first_answer(member)
            name = "alone" if members == 1 else "three members, all serve"
            figures[f"start, {name} (s)"] = time.perf_counter() - began
            figures[f"memory at start, {name} (MiB each)"] = max(map(resident, servers.members))
        finally:
            servers.close()
    return figures


def _first_answer(member: Member) -> None:
    def answered() -> bool:
        try:
            with RawClient(member.host, member.client_port, patience=2.0) as client:
                return client.call(Op.EXISTS, path_watch_body("/"))[-1].err == 0
        except (OSError, Closed):
            return False

    wait_until(answered, 60, "the first answer")


def load_cases(quick: bool) -> list[tuple[str, int, int, int]]:
    """(workload, connections, in flight, payload)."""
    cases = [(name, 16, 50, 100) for name in ("get", "set", "create")]
    if not quick:
        cases += [("set", 16, 50, 1024)]
        cases += [(name, 1, 1, 100) for name in ("get", "set", "create")]
        cases += [(name, 1, 100, 100) for name in ("get", "set")]
        cases += [(name, 64, depth, 100) for name in ("get", "set") for depth in (1, 10, 100)]
    return cases


def load(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    figures: Figures = {}
    for members in (1, 3):
        with ensemble(kind, members, folder / str(members)) as servers:
            where = "alone" if members == 1 else "three"
            for name, connections, depth, payload in load_cases(arguments.quick):
                generator.prepare(addresses(servers)[0], payload)
                result = generator.run(
                    addresses(servers),
                    name,
                    connections,
                    depth,
                    payload,
                    min(arguments.seconds, 2.0),
                    arguments.seconds,
                    lambda members=servers.members: cpu_seconds(members),  # type: ignore[misc]  # mypy infers no defaults
                )
                label = f"{where}: {name} {payload} B, {connections}×{depth}"
                figures[f"{label} (op/s)"] = result.rate
                figures[f"{label} (op per server-CPU-s)"] = result.per_cpu_second
                figures[f"{label} (p50 ms)"] = result.p50
                figures[f"{label} (p99 ms)"] = result.p99
                figures[f"{label} (p99.9 ms)"] = result.p999
                figures[f"{label} (generator's share of a core)"] = result.own_cpu
            figures[f"{where}: memory after the load (MiB, largest)"] = max(map(resident, servers.members))
    return figures


def nodes(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """``--nodes`` nodes of 100 bytes: making them, memory, and a restart with them."""
    count = arguments.nodes
    with ensemble(kind, 1, folder) as servers:
        member = servers.members[0]
        with RawClient(member.host, member.client_port, patience=60.0) as client:
            for parent in range(count // 1000):
                client.call(Op.CREATE, create_body(f"/p{parent:05d}"))
            began = time.perf_counter()
            in_flight = 0
            for index in range(count):
                client.send(Op.CREATE, create_body(f"/p{index // 1000:05d}/n{index:08d}", b"x" * 100))
                in_flight += 1
                if in_flight == 500:
                    for _ in range(250):
                        client.read()
                    in_flight -= 250
            for _ in range(in_flight):
                client.read()
            rate = count / (time.perf_counter() - began)
        memory = resident(member)
        member.stop()
        began = time.perf_counter()
        member.start()
        member.wait_serving()
        restarted = time.perf_counter() - began
    label = f"{count:,} nodes"
    return {f"{label}: created (per s)": rate, f"{label}: memory (MiB)": memory, f"{label}: restart (s)": restarted}


def _sessions(member: Member, count: int) -> list[socket.socket]:
    """Bare connections with a session each, made in batches that fit the backlog of Java's listening socket (50)."""
    shake = pack_buffer(struct.pack(">iqiq", 0, 0, 600_000, 0) + pack_buffer(bytes(16)) + b"\0")
    made: list[socket.socket] = []
    while len(made) < count:
        batch = [socket.create_connection((member.host, member.client_port)) for _ in range(min(25, count - len(made)))]
        for connection in batch:
            connection.sendall(shake)
        for connection in batch:
            size: int = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
            connection.recv(size, socket.MSG_WAITALL)
        made += batch
    return made


def sessions(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    with ensemble(kind, 1, folder) as servers:
        member = servers.members[0]
        before = resident(member)
        began = time.perf_counter()
        connections = _sessions(member, 10_000)
        rate = len(connections) / (time.perf_counter() - began)
        memory = resident(member) - before
        ping = pack_buffer(struct.pack(">ii", PING_XID, Op.PING))
        spent = cpu_seconds(servers.members)
        for connection in connections:
            connection.sendall(ping)
        for connection in connections:
            connection.recv(20, socket.MSG_WAITALL)
        spent = cpu_seconds(servers.members) - spent
        for connection in connections:
            connection.close()
    return {
        "sessions made (per s)": rate,
        "memory for them (MiB)": memory,
        "one ping of each (server-CPU-ms)": spent * 1000,
    }


def watchers(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    with ensemble(kind, 1, folder) as servers:
        member = servers.members[0]
        with RawClient(member.host, member.client_port, timeout_ms=600_000, patience=60.0) as client:
            client.call(Op.CREATE, create_body("/watched"))
            connections = _sessions(member, 10_000)
            watch = pack_buffer(struct.pack(">ii", 1, Op.GET_DATA) + path_watch_body("/watched", True))
            for connection in connections:
                connection.sendall(watch)
            for connection in connections:
                connection.recv(_reply_size(connection), socket.MSG_WAITALL)
            spent = cpu_seconds(servers.members)
            began = time.perf_counter()
            client.call(Op.SET_DATA, set_body("/watched", b"x"))
            answered = time.perf_counter() - began
            for connection in connections:
                event = connection.recv(_reply_size(connection), socket.MSG_WAITALL)
                if struct.unpack_from(">i", event)[0] != NOTIFICATION_XID:
                    raise RuntimeError("expected a watch event")
            told = time.perf_counter() - began
            spent = cpu_seconds(servers.members) - spent
        for connection in connections:
            connection.close()
    return {
        "set answered (ms)": answered * 1000,
        "last watcher told (ms)": told * 1000,
        "server-CPU for it (ms)": spent * 1000,
    }


def _reply_size(connection: socket.socket) -> int:
    size: int = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
    return size


def recovery(kind: str, folder: Path, arguments: argparse.Namespace) -> Figures:
    """From kill -9 of the leader to the next write acknowledged to a client that tries the others without pause."""
    with ensemble(kind, 3, folder) as servers:
        leader = servers.leader()
        with RawClient(leader.host, leader.client_port) as client:
            client.call(Op.CREATE, create_body("/recovery"))
        others = [member for member in servers.members if member is not leader]
        began = time.perf_counter()
        leader.kill()

        def written() -> bool:
            for member in others:
                try:
                    with RawClient(member.host, member.client_port, patience=5.0) as client:
                        if client.call(Op.SET_DATA, set_body("/recovery", b"x"))[-1].err == 0:
                            return True
                except (OSError, Closed):
                    continue
            return False

        wait_until(written, 60, "a write after the leader's death")
        elapsed = time.perf_counter() - began
    return {"kill -9 of the leader to the next acknowledged write (s)": elapsed}
