"""Apache's bytes: every message survives the round trip, in any pieces, and nothing a stranger sends is believed."""

import struct

import pytest

from quorate.consensus.zab import wire
from quorate.consensus.zab.messages import (
    REQUEST,
    REVALIDATE,
    SYNC,
    AckEpoch,
    Acks,
    Commits,
    Diff,
    Entry,
    FollowerInfo,
    LeaderInfo,
    Message,
    NewLeader,
    Notification,
    Packet,
    Ping,
    Proposals,
    Service,
    Snap,
    State,
    Trunc,
    UpToDate,
    Vote,
)
from quorate.errors import RemoteProtocolError


def entry(zxid: int, body: bytes = b"") -> Entry:
    return Entry(zxid, struct.pack(">qiqqi", 1, 2, zxid, 3, 5) + body)


class Parser:
    """A service whose stream is eight bytes long."""

    def __init__(self) -> None:
        self.done = False
        self.leftover = b""
        self.taken = b""

    def feed(self, data: bytes) -> None:
        self.taken += data
        if len(self.taken) >= 8:
            self.done = True
            self.taken, self.leftover = self.taken[:8], self.taken[8:]


def decoder() -> wire.PacketDecoder:
    return wire.PacketDecoder(Parser, 1 << 20)


MESSAGES: list[Message] = [
    FollowerInfo(3, 7, False, 9),
    FollowerInfo(4, 0, True),
    LeaderInfo(8),
    AckEpoch(0x700000002, 7),
    AckEpoch(0x700000002, -1),
    Diff(0x700000002),
    Trunc(0x700000001),
    Proposals([entry(0x700000001, b"x" * 100), entry(0x700000002)]),
    Proposals([entry(0x700000003, b"y")], inform=True),
    Commits(0x700000001, 0x700000003),
    NewLeader(0x800000000, b"server.1=a:1:2:participant\nversion=0"),
    Acks(0x800000000, 0x800000000),
    UpToDate(),
    Acks(0x800000002, 0x800000040),
    Ping(0x800000001),
    Ping(0x800000001, b"\x01" * 12),
    Service(REQUEST, b"abc", (("digest", "bob:x"), ("ip", "127.0.0.1"))),
    Service(REQUEST, b"", ()),
    Service(REVALIDATE, b"\0" * 12, None, -1),
    Service(SYNC, None, None, 0),
]


def decode(data: bytes, piece: int) -> list[Packet]:
    reader = decoder()
    out: list[Packet] = []
    for start in range(0, len(data), piece):
        out += reader.feed(data[start : start + piece])
    return out


def joined(messages: list[Packet]) -> list[Packet]:
    """Runs that arrived in pieces, joined as they are when they arrive at once."""
    out: list[Packet] = []
    for message in messages:
        last = out[-1] if out else None
        if isinstance(message, Proposals) and isinstance(last, Proposals) and last.inform == message.inform:
            last.entries.extend(message.entries)
        elif isinstance(message, Acks | Commits) and type(last) is type(message) and last.last + 1 == message.first:
            last.last = message.last
        else:
            out.append(message)
    return out


@pytest.mark.parametrize("piece", [1, 3, 20, 57, 1 << 20])
def test_packets_survive_any_fragmentation(piece: int) -> None:
    data = b"".join(map(wire.encode, MESSAGES))
    assert joined(decode(data, piece)) == MESSAGES


def test_packet_bytes_are_apaches() -> None:
    assert wire.encode(Acks(5, 6)) == bytes.fromhex(
        "00000003 0000000000000005 ffffffff ffffffff 00000003 0000000000000006 ffffffff ffffffff"
    )
    assert wire.encode(FollowerInfo(1, 2, False)) == bytes.fromhex(
        "0000000b 0000000200000000 00000014 0000000000000001 00010000 0000000000000000 ffffffff"
    )
    assert wire.packet_count(Acks(5, 6)) == 2


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_snapshot_stream_between_packets(piece: int) -> None:
    data = (
        wire.encode(Snap(0x100000005))
        + b"12345678"
        + wire.SNAPSHOT_SIGNATURE
        + wire.encode(NewLeader(0x200000000))
        + wire.encode(UpToDate())
    )
    snap, *rest = decode(data, piece)
    assert isinstance(snap, Snap)
    assert snap.zxid == 0x100000005
    assert isinstance(snap.snapshot, Parser)
    assert snap.snapshot.taken == b"12345678"
    assert rest == [NewLeader(0x200000000), UpToDate()]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (struct.pack(">iqi", 2, 1, 2 << 20) + bytes(20), "2097152 bytes of data"),
        (struct.pack(">iqi", 2, 1, -2) + bytes(20), "-2 bytes of data"),
        (struct.pack(">iqii", 99, 1, -1, -1), "unknown type 99"),
        (struct.pack(">iqi", 1, 1, 0) + struct.pack(">i", 5000) + bytes(20), "5000 identities"),
        (struct.pack(">iqi", 1, 1, 0) + struct.pack(">ii", 1, 1 << 20) + bytes(20), "identity of 1048576 bytes"),
        (wire.encode(Proposals([Entry(7, entry(8).payload)])), "no transaction of that zxid"),
        (struct.pack(">iqii", 2, 7, -1, -1), "no transaction of that zxid"),
        (struct.pack(">iqii", 11, 7, -1, -1), "without the learner's sid"),
        (struct.pack(">iqi", 11, 7, 12) + struct.pack(">qi", 1, 1) + b"\xff" * 4, "quorum protocol 0x1"),
        (wire.encode(Snap(1)) + b"12345678" + b"not the signature", "signature"),
    ],
)
def test_malformed_packets_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        decoder().feed(data)


def test_notifications() -> None:
    notification = Notification(State.LOOKING, Vote(3, 0x500000002, 5), 9, config=b"server.1=x")
    data = wire.encode_notification(notification)
    assert struct.unpack_from(">i", data)[0] == len(data) - 4
    assert wire.decode_notification(data[4:]) == notification
    assert wire.decode_notification(data[4 : 4 + 28]).vote == Vote(3, 0x500000002, 5)
    older = wire.decode_notification(data[4 : 4 + 36].ljust(40, b"\0"))
    assert older.version == 0
    assert older.vote == Vote(3, 0x500000002, 5)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(27),
        struct.pack(">iqqqqi", 9, 1, 1, 1, 1, 2) + bytes(4),
        struct.pack(">iqqqqi", 0, 1, 1, 1, 1, 2) + b"\x7f\xff\xff\xff",
    ],
)
def test_malformed_notifications_are_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_notification(body)


def test_greeting() -> None:
    data = wire.greeting(2, "127.0.0.1:3888")
    assert wire.read_greeting(data) == (2, len(data))
    assert all(wire.read_greeting(data[:size]) is None for size in range(len(data)))
    assert wire.read_greeting(struct.pack(">q", 4)) == (4, 8)
    with pytest.raises(RemoteProtocolError, match="unknown protocol"):
        wire.read_greeting(struct.pack(">q", -7))
    with pytest.raises(RemoteProtocolError, match="address of 9999 bytes"):
        wire.read_greeting(struct.pack(">qqi", -65536, 1, 9999))
