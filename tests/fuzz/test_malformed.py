"""Mutated bytes to the client, election and quorum ports of a running ensemble: it goes on, and says one line of each.

``QUORATE_FUZZ_SEED`` repeats a run, ``QUORATE_FUZZ_CONNECTIONS`` makes it longer.
"""

import contextlib
import os
import re
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from random import Random

import pytest
from tests.fuzz.conftest import MEBIBYTE, resident, unharmed, works
from tests.fuzz.frames import client_bytes, election_bytes, mutated, quorum_bytes
from tests.support.ensembles import Ensemble, Member
from tests.support.processes import wait_until

from quorate.consensus.zab.messages import Acks, FollowerInfo, Service, Snap
from quorate.consensus.zab.wire import encode, greeting

SEED = int(os.environ.get("QUORATE_FUZZ_SEED") or secrets.randbits(32))
CONNECTIONS = int(os.environ.get("QUORATE_FUZZ_CONNECTIONS", "3000"))
HELD = 60
GROWTH = 32 * MEBIBYTE

BYTES: dict[str, Callable[[Random], bytes]] = {
    "client": client_bytes,
    "election": election_bytes,
    "quorum": quorum_bytes,
}
CONNECT = struct.pack(">iiqiqi", 44, 0, 0, 4000, 0, 16) + bytes(16)


def port_of(member: Member, kind: str) -> int:
    return {"client": member.client_port, "election": member.election_port, "quorum": member.quorum_port}[kind]


def give(sock: socket.socket, data: bytes) -> None:
    """Send what the member takes: it may hang up at any byte."""
    with contextlib.suppress(OSError):
        sock.sendall(data)


def finish(sock: socket.socket) -> None:
    """Tell the member that no more comes, and read until it hangs up or has been silent for a while."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2)
        while sock.recv(65536):
            continue
    sock.close()


def drop(sock: socket.socket) -> None:
    """Hang up with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_mutated_bytes_harm_nobody(ensemble: Ensemble) -> None:
    sys.stdout.write(f"QUORATE_FUZZ_SEED={SEED} repeats this\n")
    random = Random(SEED)
    for member in ensemble.members:
        works(member)
    before = {member.sid: resident(member) for member in ensemble.members}
    held: list[socket.socket] = []
    try:
        for count in range(CONNECTIONS):
            member = random.choice(ensemble.members)
            kind = random.choice(("client", "client", "election", "quorum"))
            data = BYTES[kind](random)
            if random.random() < 0.2:
                data = mutated(random, data)
            try:
                sock = socket.create_connection((member.host, port_of(member, kind)), 10)
            except ConnectionResetError:
                continue
            except ConnectionRefusedError:
                # a member that changes its role listens on
                raise AssertionError(f"member {member.sid} does not listen on its {kind} port") from None
            how = random.randrange(10)
            if how == 0:
                drop(sock)
            elif how == 1:
                cut = random.randrange(len(data) + 1)
                give(sock, data[:cut])
                held.append(sock)
                if len(held) > HELD:
                    random.choice((finish, drop))(held.pop(random.randrange(len(held))))
            elif how == 2:
                for start in range(0, len(data), 7):
                    give(sock, data[start : start + 7])
                finish(sock)
            elif how == 3:
                give(sock, data)
                drop(sock)
            else:
                give(sock, data)
                finish(sock)
            if count % 500 == 499:
                for member in ensemble.members:
                    assert member.process.alive, f"seed {SEED}:\n{member.process.output()[-3000:]}"
    finally:
        for sock in held:
            sock.close()
    unharmed(ensemble, before, GROWTH)


OVERSIZED = struct.pack(">i", 2**31 - 1)
FOLLOWER = encode(FollowerInfo(9, 0, True))
CLEAR = {
    "a first frame of two gigabytes": ("client", OVERSIZED, r"first frame of 2147483647 bytes"),
    "a first frame of negative length": ("client", struct.pack(">i", -5), r"first frame of -5 bytes"),
    "a web browser": ("client", b"GET / HTTP/1.1\r\n\r\n", r"first frame of \d+ bytes is neither"),
    "a handshake too short": ("client", struct.pack(">ii", 4, 0), r"connect request of 4 bytes, expected at least"),
    "a request of two gigabytes": ("client", CONNECT + OVERSIZED + bytes(8), r"request of 2147483647 bytes, expected"),
    "a request of negative length": ("client", CONNECT + struct.pack(">i", -1), r"request of -1 bytes, expected"),
    "a request without a type": ("client", CONNECT + struct.pack(">ii", 4, 1), r"request of 4 bytes, expected"),
    "an unknown request": ("client", CONNECT + struct.pack(">iii", 8, 1, 77), r"unknown request type 77"),
    "an unknown election protocol": ("election", struct.pack(">q", -7), r"unknown protocol -7"),
    "an address too long": ("election", struct.pack(">qqi", -65536, 9, 99999), r"address of 99999 bytes"),
    "a negative sid": ("election", greeting(-9, "a:1"), r"greeting with sid -9"),
    "a notification too long": ("election", greeting(9, "a:1") + OVERSIZED, r"notification of 2147483647 bytes"),
    "a notification too short": ("election", greeting(9, "a:1") + struct.pack(">ii", 4, 0), r"notification of 4 bytes"),
    "a packet of two gigabytes": ("quorum", struct.pack(">iqii", 11, 0, 2**31 - 1, 0), r"2147483647 bytes of data"),
    "an unknown packet": ("quorum", struct.pack(">iqii", 99, 0, -1, -1), r"99"),
    "identities without end": ("quorum", struct.pack(">iqii", 1, 0, -1, 10**6), r"packet with 1000000 identities"),
    "a second learner's greeting": ("quorum", FOLLOWER + FOLLOWER, r"second FOLLOWERINFO of learner 9"),
    "a first packet that goes on and on": (
        "quorum",
        struct.pack(">iqi", 11, 0, 60 << 20) + bytes(10_000),
        r"first packet of more than 4096 bytes",
    ),
    "a snapshot from a learner": ("quorum", FOLLOWER + encode(Snap(5)), r"SNAP.* learner"),
    "an acknowledgement first": ("quorum", encode(Acks(5, 5)), r"ACK of learner .*out of turn"),
    "a request before the synchronisation": ("quorum", encode(Service(1, b"", None)), r"before it is in sync"),
}


@pytest.mark.parametrize("what", CLEAR)
def test_malformed_input_is_one_clear_line(ensemble: Ensemble, what: str) -> None:
    kind, data, expected = CLEAR[what]
    member = ensemble.leader()
    start = len(member.process.output())

    def lines() -> list[str]:
        fresh = member.process.output()[start:].splitlines()
        return [line for line in fresh if re.search(expected, line)]

    sock = socket.create_connection((member.host, port_of(member, kind)), 10)
    ours = sock.getsockname()
    give(sock, data)
    wait_until(lambda: bool(lines()), 10, f"the member's log says {expected!r} of {what}")
    finish(sock)
    assert len(lines()) == 1
    assert f"127.0.0.1:{ours[1]}" in lines()[0], "the line names the peer"
    assert "Traceback" not in member.process.output()
