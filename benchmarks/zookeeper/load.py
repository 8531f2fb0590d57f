"""A load generator for ZooKeeper servers: one thread, many connections, many requests in flight on each.

Requests are encoded once, replies of one workload all have one size, so a reply costs the generator a fraction of a
microsecond: it reads whole buffers, checks every reply's error, and sends as many requests as replies came. A request's
latency is from the write it left with to the read its reply came with.
"""

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tests.support.raw import RawClient, create_body, path_version_body, path_watch_body, set_body

from quorate.binary import pack_buffer
from quorate.zookeeper.constants import Op

_HEADER = 20
_STAT = 68
KEYS = 100


class Workload(NamedTuple):
    """``requests`` of one round, all sent together; ``sizes`` of their replies."""

    requests: list[bytes]
    sizes: list[int]


def _frame(op: int, body: bytes) -> bytes:
    return pack_buffer(struct.pack(">ii", 1, op) + body)


def _key(index: int) -> str:
    return f"/bench/key{index:04d}"


def workload(name: str, connection: int, payload: int) -> Workload:
    """``get``, ``set``, or ``create`` (create and delete of a node of the connection's own: two operations)."""
    key = _key(connection % KEYS)
    if name == "get":
        return Workload([_frame(Op.GET_DATA, path_watch_body(key))], [_HEADER + 4 + payload + _STAT])
    if name == "set":
        return Workload([_frame(Op.SET_DATA, set_body(key, b"x" * payload))], [_HEADER + _STAT])
    own = f"/bench/own{connection:04d}"
    requests = [_frame(Op.CREATE, create_body(own, b"x" * payload)), _frame(Op.DELETE, path_version_body(own))]
    return Workload(requests, [_HEADER + 4 + len(own), _HEADER])


def prepare(address: tuple[str, int], payload: int) -> None:
    """The nodes that the workloads use."""
    with RawClient(*address) as client:
        client.call(Op.CREATE, create_body("/bench"))
        for index in range(KEYS):
            client.call(Op.CREATE, create_body(_key(index)))
            client.call(Op.SET_DATA, set_body(_key(index), b"x" * payload))


class Result(NamedTuple):
    """``rate`` in operations per second of wall time; latencies in milliseconds; ``own_cpu`` the generator's share of a core."""

    rate: float
    p50: float
    p99: float
    p999: float
    per_cpu_second: float
    """Operations per second of CPU time of the servers, added up."""
    own_cpu: float


class _Connection:
    """One connection with ``depth`` requests in flight."""

    def __init__(self, address: tuple[str, int], work: Workload, depth: int) -> None:
        self.client = RawClient(*address)
        self.socket = self.client._socket
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.setblocking(True)
        self.work = work
        self.round = len(work.requests)
        self.cycle = sum(work.sizes)
        self.sent: deque[tuple[float, int]] = deque()
        self.buffer = b""
        self.replies = struct.Struct(">" + "".join(f"iiqi{size - _HEADER}x" for size in work.sizes))
        self.batch = b"".join(work.requests)
        self.depth = max(depth // self.round, 1)

    def start(self, now: float) -> None:
        self.socket.sendall(self.batch * self.depth)
        self.sent.append((now, self.depth))

    def receive(self, latencies: list[tuple[float, int]]) -> int:
        """Take what came, send as much again; how many operations were answered."""
        data = self.buffer + self.socket.recv(1 << 20)
        rounds = len(data) // self.cycle
        if not rounds:
            self.buffer = data
            return 0
        used = rounds * self.cycle
        for fields in self.replies.iter_unpack(data[:used]):
            if any(fields[3::4]):
                raise RuntimeError(f"a reply with error {fields[3::4]}")
        self.buffer = data[used:]
        now = time.perf_counter()
        self.socket.sendall(self.batch * rounds)
        left = rounds
        sent = self.sent
        while left:
            when, count = sent[0]
            taken = min(left, count)
            latencies.append((now - when, taken * self.round))
            if taken == count:
                sent.popleft()
            else:
                sent[0] = (when, count - taken)
            left -= taken
        sent.append((now, rounds))
        return rounds * self.round


def run(
    addresses: list[tuple[str, int]],
    name: str,
    connections: int,
    depth: int,
    payload: int,
    warm_up: float,
    seconds: float,
    server_cpu: Callable[[], float],
) -> Result:
    """Load the servers; ``server_cpu`` tells the CPU seconds that they have spent so far."""
    links = [
        _Connection(addresses[index % len(addresses)], workload(name, index, payload), depth)
        for index in range(connections)
    ]
    poll = select.epoll()
    by_fd = {link.socket.fileno(): link for link in links}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    try:
        for link in links:
            link.start(time.perf_counter())
        latencies: list[tuple[float, int]] = []
        _drive(poll, by_fd, time.perf_counter() + warm_up, latencies)
        latencies.clear()
        began, own, spent = time.perf_counter(), time.process_time(), server_cpu()
        operations = _drive(poll, by_fd, began + seconds, latencies)
        elapsed = time.perf_counter() - began
        own = (time.process_time() - own) / elapsed
        spent = max(server_cpu() - spent, 0.01)
    finally:
        poll.close()
        for link in links:
            link.client.close()
    p50, p99, p999 = quantiles(latencies, (0.5, 0.99, 0.999))
    return Result(operations / elapsed, p50, p99, p999, operations / spent, own)


def _drive(poll: select.epoll, by_fd: dict[int, _Connection], until: float, latencies: list[tuple[float, int]]) -> int:
    operations = 0
    while time.perf_counter() < until:
        for fd, _ in poll.poll(0.1):
            operations += by_fd[fd].receive(latencies)
    return operations


def quantiles(latencies: list[tuple[float, int]], shares: tuple[float, ...]) -> list[float]:
    """Weighted quantiles, in milliseconds."""
    latencies.sort()
    total = sum(count for _, count in latencies)
    found = []
    for share in shares:
        seen = 0
        for latency, count in latencies:
            seen += count
            if seen >= share * total:
                found.append(latency * 1000)
                break
    return found
