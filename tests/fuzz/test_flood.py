"""Clients that ask for more than they read, or write more than the ensemble can: memory stays bounded, others are answered."""

import contextlib
import random
import struct
import threading
from collections.abc import Callable, Iterator

from tests.fuzz.conftest import MEBIBYTE, resident, unharmed, works
from tests.support.ensembles import Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import Closed, RawClient, create_body, multi_body, path_watch_body, set_body

from quorate.binary import pack_buffer
from quorate.zookeeper.constants import Code, Op

LARGE = 100_000
READS = 20_000
"""Two gigabytes of replies."""
WRITES = 4000
"""Four hundred megabytes of requests."""
GREEDY = 3
GROWTH = (GREEDY * 64 + 64) * MEBIBYTE
"""What a member may hold for them: 64 MiB of replies each that they do not take, and what it makes of their writes."""
WRITES_GROWTH = 700 * MEBIBYTE
"""What a thousand outstanding requests, as request, transaction and packet, and five hundred in the history come to."""


def request(xid: int, op: int, body: bytes) -> bytes:
    return pack_buffer(struct.pack(">ii", xid, op) + body)


@contextlib.contextmanager
def highest(member: Member) -> Iterator[Callable[[], int]]:
    """The most memory that the member was seen to hold; looked at all the time."""
    most = [resident(member)]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], resident(member))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield lambda: max(most[0], resident(member))
    finally:
        done.set()
        watcher.join()


def push(client: RawClient, data: bytes) -> int:
    """Send until all is sent or nothing was taken for a second; bytes sent."""
    sock = client._socket
    sock.settimeout(1)
    sent = 0
    view = memoryview(data)
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += sock.send(view[sent : sent + (1 << 20)])
    sock.settimeout(20)
    return sent


def large_node(member: Member, path: str) -> None:
    with RawClient(member.host, member.client_port) as client:
        data = random.Random(1).randbytes(LARGE)
        assert client.call(Op.CREATE, create_body(path, data))[-1].err in (Code.OK, Code.NODE_EXISTS)
        assert client.call(Op.CLOSE_SESSION)[-1].err == Code.OK


def memory(ensemble: Ensemble) -> dict[int, int]:
    return {member.sid: resident(member) for member in ensemble.members}


def test_reads_of_a_client_that_does_not_read(ensemble: Ensemble) -> None:
    member = ensemble.members[0]
    large_node(member, "/flood-reads")
    before = memory(ensemble)
    requests = [request(xid, Op.GET_DATA, path_watch_body("/flood-reads")) for xid in range(1, READS + 1)]
    with highest(member) as most, RawClient(member.host, member.client_port) as greedy:
        sent = push(greedy, b"".join(requests))
        assert sent > 0
        for _ in range(20):
            works(member)
        assert most() - before[member.sid] < 32 * MEBIBYTE, "replies are made as they are taken"
        # it reads at last: everything comes, in order
        for xid in range(1, 501):
            frame = greedy.read()
            assert (frame.xid, frame.err) == (xid, 0)
            assert len(frame.body) > LARGE
    unharmed(ensemble, before, 32 * MEBIBYTE)


def test_reads_behind_a_write_of_a_client_that_does_not_read(ensemble: Ensemble) -> None:
    """Reads that wait for a write of their session are all due at once when it is committed."""
    member = ensemble.members[1]
    large_node(member, "/flood-behind")
    before = memory(ensemble)
    reads = [request(xid, Op.GET_DATA, path_watch_body("/flood-behind")) for xid in range(2, 2000)]
    write = request(1, Op.SET_DATA, set_body("/flood-behind", bytes(LARGE)))
    with highest(member) as most:
        greedy = [RawClient(member.host, member.client_port) for _ in range(GREEDY)]
        try:
            for client in greedy:
                push(client, b"".join([write, *reads]))
            for _ in range(10):
                works(member)
            assert most() - before[member.sid] < GROWTH
            assert member.process.output().count("does not read; dropping it") == len(greedy)
        finally:
            for client in greedy:
                client.close()
    unharmed(ensemble, before, GROWTH)


def test_writes_of_a_client_that_does_not_read(ensemble: Ensemble) -> None:
    member = ensemble.leader()
    large_node(member, "/flood-writes")
    before = memory(ensemble)
    data = random.Random(2).randbytes(LARGE)
    requests = b"".join([request(xid, Op.SET_DATA, set_body("/flood-writes", data)) for xid in range(1, WRITES + 1)])
    with (
        highest(member) as most,
        RawClient(member.host, member.client_port, timeout_ms=40_000, patience=60.0) as greedy,
    ):
        done = threading.Event()

        def flood() -> None:
            with contextlib.suppress(OSError, Closed):
                greedy._socket.settimeout(60)
                greedy._socket.sendall(requests)
            done.set()

        thread = threading.Thread(target=flood)
        thread.start()
        works(member)
        for other in ensemble.members:
            works(other)
        wait_until(done.is_set, 60, "all writes are taken")
        thread.join()
        for xid in range(1, WRITES + 1):
            frame = greedy.read()
            assert (frame.xid, frame.err) == (xid, 0)
        assert most() - before[member.sid] < WRITES_GROWTH
    unharmed(ensemble, before, WRITES_GROWTH)


def test_one_request_for_more_than_fits(ensemble: Ensemble) -> None:
    """A multiRead of half a megabyte that names one node over and over asks for two gigabytes in one reply."""
    member = ensemble.members[0]
    large_node(member, "/flood-multi")
    before = memory(ensemble)
    part = (Op.GET_DATA, path_watch_body("/flood-multi"))
    with highest(member) as most, RawClient(member.host, member.client_port) as greedy:
        frame = greedy.call(Op.MULTI_READ, multi_body([part] * 20_000))[-1]
        assert (frame.err, frame.body) == (Code.BAD_ARGUMENTS, b"")
        frame = greedy.call(Op.MULTI_READ, multi_body([part] * 100))[-1]
        assert frame.err == Code.OK
        assert len(frame.body) > 100 * LARGE
        assert most() - before[member.sid] < 128 * MEBIBYTE
    unharmed(ensemble, before, 128 * MEBIBYTE)
