"""The parts of the benchmark: each starts servers of both kinds, measures them in turn, ends them, and yields samples.

Rounds go ours, Apache, Apache, ours, ...: a load of the machine that drifts meets both. For the loads both kinds are up
during the whole part, so that the turns are seconds apart; elsewhere one kind runs at a time.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import Closed, RawClient, create_body, path_watch_body, set_body

from benchmarks.zookeeper.generator import Generator
from quorate.zookeeper.constants import Op

SETTINGS = {"maxClientCnxns": "0"}
JAVA_HEAP = ""
"""Java's default (a quarter of the machine's memory at most), as a user would run it."""
MANY = 10_000
RECOVERIES = 5


class Sample(NamedTuple):
    """What one measurement of one kind gave, by figure; ``case`` is empty in parts that have only one."""

    part: str
    case: str
    kind: str
    figures: dict[str, float]


def turns(rounds: int) -> Iterator[str]:
    for number in range(rounds):
        yield from (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS)


@contextlib.contextmanager
def stopped_ensemble(kind: str, members: int) -> Iterator[Ensemble]:
    """An ensemble that the caller starts, in a folder of its own, both gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Ensemble([kind] * members, Path(folder), settings=SETTINGS, java_heap=JAVA_HEAP)
        for member in servers.members:  # the servers compared must be those that the document describes
            if kind == THEIRS and not JAVA_HEAP and any(word.startswith("-Xmx") for word in member.process.command):
                raise RuntimeError(f"Java's heap is limited: {' '.join(member.process.command)}")
        try:
            yield servers
        finally:
            servers.close()


@contextlib.contextmanager
def ensemble(kind: str, members: int) -> Iterator[Ensemble]:
    with stopped_ensemble(kind, members) as servers:
        servers.start()
        yield servers


def generator(servers: Ensemble) -> Generator:
    return Generator(servers.addresses, [member.process.pid for member in servers.members])


def resident(servers: Ensemble) -> float:
    """MiB of the largest member."""
    sizes = []
    for member in servers.members:
        text = Path(f"/proc/{member.process.pid}/status").read_text()
        sizes.append(int(text.partition("VmRSS:")[2].split()[0]) / 1024)
    return max(sizes)


def where(members: int) -> str:
    return "standalone" if members == 1 else "three members"


def wait_first_answer(member: Member) -> None:
    """Until a client gets a session and an answer, trying without pause."""

    def answered() -> bool:
        try:
            with RawClient(member.host, member.client_port, patience=2.0) as client:
                return client.call(Op.EXISTS, path_watch_body("/"))[-1].err == 0
        except (OSError, Closed):
            return False

    wait_until(answered, 600, f"the first answer of member {member.sid} ({member.kind})")


def start(arguments: argparse.Namespace) -> Iterator[Sample]:
    """From exec to the first answered request; of three members, the last of the three."""
    for members in (1, 3):
        for kind in turns(arguments.rounds):
            with stopped_ensemble(kind, members) as servers:
                began = time.perf_counter()
                for member in servers.members:
                    member.start()
                for member in servers.members:
                    wait_first_answer(member)
                took = time.perf_counter() - began
                yield Sample(
                    "start",
                    "",
                    kind,
                    {
                        f"{where(members)}: exec to the first answer (s)": took,
                        f"{where(members)}: memory then (MiB, largest member)": resident(servers),
                    },
                )


def load_cases(quick: bool) -> list[tuple[str, int, int, int]]:
    """(workload, connections, in flight on each, payload in bytes)."""
    if quick:
        return [(name, 16, depth, 100) for name in ("get", "set", "create") for depth in (1, 10)]
    cases = [
        (name, connections, depth, 100)
        for name in ("get", "set", "create")
        for connections in (1, 16, 64)
        for depth in (1, 10, 100)
    ]
    return [*cases, ("set", 16, 10, 1024), ("exists", 16, 10, 100), ("ping", 16, 10, 100)]


def load(arguments: argparse.Namespace) -> Iterator[Sample]:
    """Rates, latencies and CPU time of servers under load; with three members the connections are spread over them."""
    for members in (1, 3):
        with ensemble(OURS, members) as ours, ensemble(THEIRS, members) as theirs:
            pairs = {OURS: ours, THEIRS: theirs}
            for servers in pairs.values():  # Java's compiler needs some seconds of load before its code is fast
                for workload in ("get", "set", "create"):
                    generator(servers).run(workload, 16, 10, 100, 0, arguments.warm_up)
            for workload, connections, depth, payload in load_cases(arguments.quick):
                case = f"{where(members)}: {workload} {payload} B, {connections} × {depth}"
                for kind in turns(arguments.rounds):
                    figures = generator(pairs[kind]).run(
                        workload, connections, depth, payload, min(0.3, arguments.seconds), arguments.seconds
                    )
                    # CPU times come in ticks of 10 ms
                    figures["per_cpu"] = figures["operations"] / max(figures["server_cpu"], 0.01)
                    yield Sample("load", case, kind, figures)
            for kind, servers in pairs.items():
                label = f"{where(members)}: memory after the load (MiB, largest member)"
                yield Sample("memory", "", kind, {label: resident(servers)})


def nodes(arguments: argparse.Namespace) -> Iterator[Sample]:
    """Nodes of 100 bytes, on one server: making them, memory, and a restart with them."""
    for count in map(int, arguments.nodes.split(",")):
        for kind in (OURS, THEIRS):
            with ensemble(kind, 1) as servers:
                filled = generator(servers).fill(count, 16, 50, 100)
                memory = resident(servers)
                member = servers.members[0]
                member.stop()
                began = time.perf_counter()
                member.start()
                wait_first_answer(member)
                label = f"{count:,} nodes"
                yield Sample(
                    "nodes",
                    "",
                    kind,
                    {
                        f"{label}: created (per s)": filled["rate"],
                        f"{label}: created (per server-CPU-s)": count / max(filled["server_cpu"], 0.01),
                        f"{label}: memory (MiB)": memory,
                        f"{label}: restart, exec to the first answer (s)": time.perf_counter() - began,
                        f"{label}: memory after the restart (MiB)": resident(servers),
                    },
                )


def sessions(arguments: argparse.Namespace) -> Iterator[Sample]:
    """Idle sessions on one server, all kept alive by pings."""
    for kind in turns(arguments.rounds):
        with ensemble(kind, 1) as servers:
            before = resident(servers)
            figures, during = generator(servers).idle(MANY, arguments.seconds, partial(resident, servers))
            yield Sample(
                "sessions",
                "",
                kind,
                {
                    "sessions opened (per s)": MANY / figures["opened"],
                    "memory for them (MiB)": during - before,
                    "one ping (server-CPU µs)": figures["server_cpu"] / figures["pings"] * 1e6,
                },
            )


def watchers(arguments: argparse.Namespace) -> Iterator[Sample]:
    """Watchers of one node on one server."""
    for kind in turns(arguments.rounds):
        with ensemble(kind, 1) as servers:
            figures = generator(servers).watch(MANY, 3)
            yield Sample(
                "watchers",
                "",
                kind,
                {
                    "set answered (ms)": figures["answered_ms"],
                    "last watcher told (ms)": figures["told_ms"],
                    "server-CPU for it (ms)": figures["server_cpu"] * 1000 / figures["rounds"],
                },
            )


def recovery(arguments: argparse.Namespace) -> Iterator[Sample]:
    """From kill -9 of the leader to the next write acknowledged to a client that tries the others without pause."""
    for kind in (OURS, THEIRS):
        with ensemble(kind, 3) as servers:
            with RawClient(servers.members[0].host, servers.members[0].client_port) as client:
                client.call(Op.CREATE, create_body("/recovery"))
            for _ in range(1 if arguments.quick else RECOVERIES):
                servers.wait_converged()
                leader = servers.leader()
                others = [member for member in servers.members if member is not leader]
                began = time.perf_counter()
                leader.kill()
                wait_until(partial(_written, others), 60, "a write after the leader's death")
                yield Sample(
                    "recovery", "", kind, {"kill -9 to the next acknowledged write (s)": time.perf_counter() - began}
                )
                leader.start()
                leader.wait_serving()


def _written(members: list[Member]) -> bool:
    for member in members:
        try:
            with RawClient(member.host, member.client_port, patience=5.0) as client:
                if client.call(Op.SET_DATA, set_body("/recovery", b"x"))[-1].err == 0:
                    return True
        except (OSError, Closed):
            continue
    return False


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Sample]]] = {
    "start": start,
    "load": load,
    "nodes": nodes,
    "sessions": sessions,
    "watchers": watchers,
    "recovery": recovery,
}
