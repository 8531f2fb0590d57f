"""Messages between members, as bytes: many groups over one connection.

A connection begins with a Hello each way. Then come frames: ``u32 length`` and items, each ``u32 group, u8 kind, u32 length, body``. All that
is sent to a member in one batch is one frame. Heartbeats and their answers, which all groups send at the same instants, are joined: the
item's group is 0, and its body is one fixed row for each group.

Integers are big-endian. Whatever comes is bounded before memory is taken: RemoteProtocolError otherwise.
"""

import struct
from collections.abc import Iterable
from struct import Struct

from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Behind,
    Entries,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Kind,
    Lead,
    Message,
    Nack,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    ReadReply,
    ReadRequest,
)
from quorate.errors import RemoteProtocolError

FRAME_MAX = 256 << 20
MAGIC = b"QPAX"
VERSION = 1

_U32 = Struct(">I")
_ITEM = Struct(">IBI")
_ENTRY = Struct(">BI")
HELLO = Struct(">4sHQHH")
"""Magic, version, cluster, the sender's sid, the receiver's."""

_B = Struct(">Q")
_BQ = Struct(">QQ")
_BQQ = Struct(">QQQ")
_BQQQQ = Struct(">QQQQQ")
_GRANT = Struct(">QBQ")
_READ_REPLY = Struct(">Qq")
_BEAT = Struct(">IQQQ")
_BEAT_REPLY = Struct(">IQQ")

PROBE, PROBE_REPLY, PREPARE, PROMISE, ACCEPT_SYNC, ACCEPT, ACCEPTED, BEHIND, LEAD, READ_REQUEST, READ_REPLY, NACK = (
    range(1, 13)
)
HEARTBEATS, HEARTBEAT_REPLIES = 13, 14
SNAPSHOT_REQUEST, SNAPSHOT_CHUNK = 15, 16


# ---- entries, here and in the journal


def pack_entries(entries: Iterable[Entry]) -> list[bytes]:
    """Pieces to be joined."""
    pieces: list[bytes] = []
    for entry in entries:
        pieces += (_ENTRY.pack(entry.kind, len(entry.payload)), entry.payload)
    return pieces


def unpack_entries(data: bytes, at: int) -> Entries:
    """All that follow, to the end of ``data``. Raises RemoteProtocolError."""
    found: list[Entry] = []
    end = len(data)
    while at < end:
        if end - at < _ENTRY.size:
            raise RemoteProtocolError(f"an entry of {end - at} bytes is shorter than its head")
        kind, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if length > end - at or kind > Kind.MEMBERS:
            raise RemoteProtocolError(f"an entry of kind {kind} and {length} bytes where {end - at} bytes are left")
        found.append(Entry(kind, data[at : at + length]))
        at += length
    return tuple(found)


# ---- messages


def pack(group: int, message: Message) -> list[bytes]:
    """One message, but no heartbeat, as pieces of a frame."""
    kind = type(message)
    tail: list[bytes] = []
    if kind is Accept:
        assert isinstance(message, Accept)
        code, head = ACCEPT, _BQQ.pack(message.ballot, message.first, message.decided)
        tail = pack_entries(message.entries)
    elif kind is Accepted:
        assert isinstance(message, Accepted)
        code, head = ACCEPTED, _BQ.pack(message.ballot, message.last)
    elif isinstance(message, AcceptSync):
        code, head = ACCEPT_SYNC, _BQQ.pack(message.ballot, message.first, message.decided)
        tail = pack_entries(message.entries)
    elif isinstance(message, Promise):
        head = _BQQQQ.pack(message.ballot, message.accepted, message.last, message.decided, message.first)
        code, tail = PROMISE, pack_entries(message.entries)
    elif isinstance(message, Prepare):
        head = _BQQQQ.pack(message.ballot, message.accepted, message.last, message.decided, message.released)
        code = PREPARE
    elif isinstance(message, Probe):
        code, head = PROBE, _B.pack(message.ballot)
    elif isinstance(message, ProbeReply):
        code, head = PROBE_REPLY, _GRANT.pack(message.ballot, message.granted, message.promised)
    elif isinstance(message, ReadRequest):
        code, head = READ_REQUEST, _B.pack(message.number)
    elif isinstance(message, ReadReply):
        code, head = READ_REPLY, _READ_REPLY.pack(message.number, message.index)
    elif isinstance(message, Nack):
        code, head = NACK, _BQ.pack(message.ballot, message.promised)
    elif isinstance(message, Behind):
        code, head = BEHIND, _BQ.pack(message.ballot, message.base)
    else:
        assert isinstance(message, Lead)
        code, head = LEAD, _B.pack(message.ballot)
    size = len(head) + sum(map(len, tail))
    return [_ITEM.pack(group, code, size), head, *tail]


def pack_heartbeats(beats: list[tuple[int, Heartbeat]]) -> list[bytes]:
    """(group, heartbeat) of each group."""
    rows = [_BEAT.pack(group, beat.ballot, beat.number, beat.decided) for group, beat in beats]
    return [_ITEM.pack(0, HEARTBEATS, _BEAT.size * len(rows)), *rows]


def pack_heartbeat_replies(replies: list[tuple[int, HeartbeatReply]]) -> list[bytes]:
    rows = [_BEAT_REPLY.pack(group, reply.ballot, reply.number) for group, reply in replies]
    return [_ITEM.pack(0, HEARTBEAT_REPLIES, _BEAT_REPLY.size * len(rows)), *rows]


def pack_item(group: int, kind: int, body: list[bytes]) -> list[bytes]:
    """An item that is no message of the core: of a snapshot's transfer."""
    return [_ITEM.pack(group, kind, sum(map(len, body))), *body]


def frame(pieces: list[bytes]) -> bytes:
    return b"".join([_U32.pack(sum(map(len, pieces))), *pieces])


def unpack(kind: int, body: bytes) -> Message:
    """Raises RemoteProtocolError."""
    try:
        if kind == ACCEPT:
            ballot, first, decided = _BQQ.unpack_from(body)
            return Accept(ballot, first, unpack_entries(body, _BQQ.size), decided)
        if kind == ACCEPTED:
            return Accepted(*_BQ.unpack(body))
        if kind == ACCEPT_SYNC:
            ballot, first, decided = _BQQ.unpack_from(body)
            return AcceptSync(ballot, first, unpack_entries(body, _BQQ.size), decided)
        if kind == PROMISE:
            ballot, accepted, last, decided, first = _BQQQQ.unpack_from(body)
            return Promise(ballot, accepted, last, decided, first, unpack_entries(body, _BQQQQ.size))
        if kind == PREPARE:
            return Prepare(*_BQQQQ.unpack(body))
        if kind == PROBE:
            return Probe(*_B.unpack(body))
        if kind == PROBE_REPLY:
            ballot, granted, promised = _GRANT.unpack(body)
            return ProbeReply(ballot, bool(granted), promised)
        if kind == READ_REQUEST:
            return ReadRequest(*_B.unpack(body))
        if kind == READ_REPLY:
            return ReadReply(*_READ_REPLY.unpack(body))
        if kind == NACK:
            return Nack(*_BQ.unpack(body))
        if kind == BEHIND:
            return Behind(*_BQ.unpack(body))
        if kind == LEAD:
            return Lead(*_B.unpack(body))
    except struct.error as error:
        raise RemoteProtocolError(f"a message of kind {kind} in {len(body)} bytes: {error}") from None
    raise RemoteProtocolError(f"a message of unknown kind {kind}")


def unpack_heartbeats(body: bytes) -> list[tuple[int, Heartbeat]]:
    if len(body) % _BEAT.size:
        raise RemoteProtocolError(f"heartbeats in {len(body)} bytes, expected rows of {_BEAT.size}")
    return [(group, Heartbeat(ballot, number, decided)) for group, ballot, number, decided in _BEAT.iter_unpack(body)]


def unpack_heartbeat_replies(body: bytes) -> list[tuple[int, HeartbeatReply]]:
    if len(body) % _BEAT_REPLY.size:
        raise RemoteProtocolError(f"answers to heartbeats in {len(body)} bytes, expected rows of {_BEAT_REPLY.size}")
    return [(group, HeartbeatReply(ballot, number)) for group, ballot, number in _BEAT_REPLY.iter_unpack(body)]


class Frames:
    """Cuts a byte stream into frames."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = FRAME_MAX) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now. Raises RemoteProtocolError for one that is longer than the limit."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= _U32.size:
            (length,) = _U32.unpack_from(buffer, at)
            if length > self._limit:
                raise RemoteProtocolError(f"a frame of {length} bytes, at most {self._limit} can be")
            if end - at - _U32.size < length:
                break
            at += _U32.size
            found.append(bytes(buffer[at : at + length]))
            at += length
        if at:
            del buffer[:at]
        return found


def items(data: bytes) -> list[tuple[int, int, bytes]]:
    """(group, kind, body) of each item of a frame. Raises RemoteProtocolError."""
    found: list[tuple[int, int, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _ITEM.size:
            raise RemoteProtocolError(f"an item of {end - at} bytes is shorter than its head")
        group, kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > end - at:
            raise RemoteProtocolError(f"an item of {length} bytes where {end - at} are left")
        found.append((group, kind, data[at : at + length]))
        at += length
    return found
