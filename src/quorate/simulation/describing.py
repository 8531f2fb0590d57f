"""The bytes of a ZooKeeper connection in words, for a trace: what the frames say that a chunk of bytes completes.

Each direction of a connection has a describer of its own, because frames need not end where chunks do. The production code's
decoders are used, so what is described is what a member reads. Describing never fails: from bytes that are no frame on, it says
how many bytes there were and why they could not be read.
"""

import struct
from collections.abc import Callable, Sized
from typing import Final, Literal, assert_never

from quorate.binary import INT, Reader
from quorate.consensus.zab.messages import (
    REQUEST,
    REVALIDATE,
    AckEpoch,
    Acks,
    Commits,
    Diff,
    FollowerInfo,
    LeaderInfo,
    NewLeader,
    Packet,
    Ping,
    Proposals,
    Service,
    Snap,
    Trunc,
    UpToDate,
)
from quorate.consensus.zab.wire import NOTIFICATION_MAX, PacketDecoder, decode_notification, read_greeting
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.bodies import read_multi, read_path
from quorate.zookeeper.constants import AUTH_XID, NOTIFICATION_XID, PING_XID, SET_WATCHES_XID, Code, Event, Op
from quorate.zookeeper.fourletter import FOUR_LETTER_WORDS
from quorate.zookeeper.handshake import decode_connect_request
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.snapshot import SnapshotParser
from quorate.zookeeper.txns import Create, Delete, Error, Multi, Record, SetData, Txn, unpack_txn

Kind = Literal["quorum", "election", "client"]

SEPARATOR: Final = "; "
"""Between the frames of one chunk; the first word of each is its type."""
FRAME_MAX: Final = 64 << 20
"""A longer frame is taken for garbage."""
LISTED_MAX: Final = 4
"""Proposals that are told apart in one chunk; of more, the range is told."""
_PATH_MAX: Final = 80
_WHY_MAX: Final = 160

_STATES: Final = ("LOOKING", "FOLLOWING", "LEADING", "OBSERVING")
_MALFORMED: Final = (RemoteProtocolError, RequestError, struct.error, ValueError, IndexError)
"""What the decoders raise for bytes that are not what they should be (UnicodeDecodeError is a ValueError)."""


class Describer:
    """One direction of one connection. ``toward_server`` is the direction from the end that dialled to the one that listened."""

    __slots__ = ("_broken", "_read")

    def __init__(self, kind: Kind, toward_server: bool) -> None:
        self._broken = False
        if kind == "quorum":
            self._read = _Quorum(toward_server).feed
        elif kind == "election":
            self._read = _Election(toward_server).feed
        elif kind == "client":
            self._read = _Client(toward_server).feed
        else:
            assert_never(kind)

    def feed(self, data: bytes) -> str:
        """The frames that ``data`` completes, joined by SEPARATOR; what it adds to, if it completes none."""
        if self._broken:
            return f"garbage {len(data)} bytes"
        try:
            return self._read(data)
        except Exception as error:  # a trace must not end the run it describes, whatever the decoders make of the bytes
            self._broken = True
            why = " ".join(str(error).split())[:_WHY_MAX] or type(error).__name__
            return f"garbage {len(data)} bytes: {why}"


class _Frames:
    """Cuts a stream into frames with a length of four bytes before them."""

    __slots__ = ("buffer",)

    def __init__(self) -> None:
        self.buffer = b""

    def next(self, most: int) -> bytes | None:
        """The next frame, None until it is all there. Raises RemoteProtocolError for a length beyond ``most``."""
        buffer = self.buffer
        if len(buffer) < 4:
            return None
        size: int = INT.unpack_from(buffer)[0]
        if not 0 <= size <= most:
            raise RemoteProtocolError(f"frame of {size} bytes")
        if len(buffer) < 4 + size:
            return None
        self.buffer = buffer[4 + size :]
        return buffer[4 : 4 + size]

    def told(self, said: list[str]) -> str:
        return SEPARATOR.join(said) if said else f"partial frame, {len(self.buffer)} bytes so far"


# ---- the election port


class _Election:
    def __init__(self, toward_server: bool) -> None:
        self._frames = _Frames()
        self._greeted = not toward_server

    def feed(self, data: bytes) -> str:
        frames = self._frames
        frames.buffer += data
        said: list[str] = []
        if not self._greeted:
            greeting = read_greeting(frames.buffer)
            if greeting is not None:
                sid, used = greeting
                frames.buffer = frames.buffer[used:]
                self._greeted = True
                said.append(f"greeting from {sid}")
        while self._greeted and (body := frames.next(NOTIFICATION_MAX)) is not None:
            said.append(_notification(body))
        return frames.told(said)


def _notification(body: bytes) -> str:
    message = decode_notification(body)
    vote = message.vote
    return (
        f"Notification {_STATES[message.state]} round {message.round}"
        f" vote {vote.leader} (epoch {vote.epoch}, {_hex(vote.zxid)})"
    )


# ---- the quorum port


class _Quorum:
    def __init__(self, toward_server: bool) -> None:
        parser: Callable[[], SnapshotParser] | None = None if toward_server else self._parser
        self._decoder = PacketDecoder(parser, FRAME_MAX)
        self._stream: SnapshotParser | None = None
        self._stream_bytes = 0

    def _parser(self) -> SnapshotParser:
        self._stream = SnapshotParser()
        self._stream_bytes = 0
        return self._stream

    def feed(self, data: bytes) -> str:
        said: list[str] = []
        before = self._stream
        for packet in self._decoder.feed(data):
            if isinstance(packet, Snap):
                self._stream = None
            said += _packet(packet)
        if self._stream is not None:
            self._stream_bytes += len(data)
            if self._stream is not before:
                said.append("SNAP stream begins")
            elif not said:
                return f"SNAP stream, {self._stream_bytes} bytes so far"
        if said:
            return SEPARATOR.join(said)
        return f"partial frame, {self._decoder.buffered} bytes so far"


def _packet(packet: Packet) -> list[str]:
    if isinstance(packet, Proposals):
        return _proposals(packet)
    if isinstance(packet, Acks):
        return [f"ACK {_range(packet.first, packet.last)}"]
    if isinstance(packet, Commits):
        return [f"COMMIT {_range(packet.first, packet.last)}"]
    if isinstance(packet, Ping):
        return ["PING"]
    if isinstance(packet, Service):
        return [_service(packet)]
    if isinstance(packet, FollowerInfo):
        name = "OBSERVERINFO" if packet.observer else "FOLLOWERINFO"
        return [f"{name} from {packet.sid}, accepted epoch {packet.accepted_epoch}"]
    if isinstance(packet, LeaderInfo):
        return [f"LEADERINFO epoch {packet.epoch}"]
    if isinstance(packet, AckEpoch):
        return [f"ACKEPOCH {_hex(packet.last_zxid)}, current epoch {packet.current_epoch}"]
    if isinstance(packet, Diff):
        return [f"DIFF {_hex(packet.zxid)}"]
    if isinstance(packet, Trunc):
        return [f"TRUNC {_hex(packet.zxid)}"]
    if isinstance(packet, Snap):
        return [f"SNAP {_hex(packet.zxid)} complete"]
    if isinstance(packet, NewLeader):
        return [f"NEWLEADER {_hex(packet.zxid)}"]
    if isinstance(packet, UpToDate):
        return ["UPTODATE"]
    assert_never(packet)


def _proposals(packet: Proposals) -> list[str]:
    name = "INFORM" if packet.inform else "PROPOSAL"
    entries = packet.entries
    if len(entries) > LISTED_MAX:
        return [f"{name} {_range(entries[0].zxid, entries[-1].zxid)} ({len(entries)} transactions)"]
    return [f"{name} {_hex(entry.zxid)} {_payload(entry.payload)}" for entry in entries]


def _payload(payload: bytes) -> str:
    try:
        return transaction(unpack_txn(payload))
    except _MALFORMED:
        return f"no transaction ({len(payload)} bytes)"


def transaction(txn: Txn) -> str:
    """A transaction in a few words: ``setData /a by 0x1000000000000``."""
    who = f" by {txn.session & 0xFFFFFFFFFFFFFFFF:#x}" if txn.session else ""
    return _record(txn.record) + who


def _record(record: Record) -> str:
    if isinstance(record, Error):
        return f"error {_code(record.code)}"
    if isinstance(record, Multi):
        return f"multi [{', '.join(_record(part) for part in record.parts[:LISTED_MAX])}{_more(record.parts)}]"
    name = op_name(record.op)
    if isinstance(record, Create | Delete):
        return f"{name} {_path(record.path)}"
    if isinstance(record, SetData):
        return f"{name} {_path(record.path)} version {record.version}"
    path = getattr(record, "path", None)  # setACL and check have one, the sessions' records have none
    return name if path is None else f"{name} {_path(path)}"


def _service(packet: Service) -> str:
    reader = Reader(packet.data or b"")
    if packet.type == REQUEST:
        session, xid, op = reader.int64(), reader.int32(), reader.int32()
        what = _request(op, reader.data[reader.offset :])
        return f"REQUEST {what} xid {xid} of {session & 0xFFFFFFFFFFFFFFFF:#x}"
    if packet.type == REVALIDATE:
        session = reader.int64() & 0xFFFFFFFFFFFFFFFF
        if reader.remaining() >= 4:
            return f"REVALIDATE {session:#x} timeout {reader.int32()} ms"
        return f"REVALIDATE {session:#x} {'valid' if reader.boolean() else 'not valid'}"
    return "SYNC"


# ---- the client port


class _Client:
    def __init__(self, toward_server: bool) -> None:
        self._frames = _Frames()
        self._toward_server = toward_server
        self._first = True
        self._text = False

    def feed(self, data: bytes) -> str:
        if self._text:
            return f"text {len(data)} bytes"
        frames = self._frames
        frames.buffer += data
        if self._first and self._toward_server and (word := frames.buffer[:4]) in FOUR_LETTER_WORDS:
            self._text = True
            return f"command {word.decode()}"
        said: list[str] = []
        while (frame := frames.next(FRAME_MAX)) is not None:
            said.append(self._frame(frame))
        return frames.told(said)

    def _frame(self, frame: bytes) -> str:
        first, self._first = self._first, False
        if self._toward_server:
            return _hello(frame) if first else _client_request(frame)
        return _welcome(frame) if first else _reply(frame)


def _hello(frame: bytes) -> str:
    request = decode_connect_request(frame)
    session = f"session {request.session & 0xFFFFFFFFFFFFFFFF:#x}" if request.session else "new session"
    return f"connect {session} timeout {request.timeout} ms, seen {_hex(request.last_zxid)}"


def _welcome(frame: bytes) -> str:
    reader = Reader(frame)
    reader.int32()
    timeout, session = reader.int32(), reader.int64()
    if not session or timeout <= 0:
        return "expired session"
    return f"connected session {session & 0xFFFFFFFFFFFFFFFF:#x} timeout {timeout} ms"


def _client_request(frame: bytes) -> str:
    reader = Reader(frame)
    xid, op = reader.int32(), reader.int32()
    if xid == PING_XID:
        return "ping"
    what = _request(op, frame[reader.offset :])
    return what if xid in (AUTH_XID, SET_WATCHES_XID) else f"{what} xid {xid}"


_WITHOUT_PATH: Final = frozenset(
    (Op.AUTH, Op.SASL, Op.SET_WATCHES, Op.SET_WATCHES2, Op.CLOSE_SESSION, Op.CREATE_SESSION, Op.PING, Op.WHO_AM_I)
)


def _request(op: int, body: bytes) -> str:
    name = op_name(op)
    if op in _WITHOUT_PATH:
        return name
    try:
        if op == Op.MULTI:
            parts = read_multi(body)
            listed = ", ".join(f"{op_name(part.op)} {_path(part.path)}" for part in parts[:LISTED_MAX])
            return f"{name} [{listed}{_more(parts)}]"
        return f"{name} {_path(read_path(body, 0)[0])}" if op != Op.MULTI_READ else name
    except _MALFORMED:
        return f"{name} malformed"


def _reply(frame: bytes) -> str:
    reader = Reader(frame)
    xid, zxid, error = reader.int32(), reader.int64(), reader.int32()
    if xid == PING_XID:
        return f"pong zxid {_hex(zxid)}"
    if xid == NOTIFICATION_XID:
        event, _, path = reader.int32(), reader.int32(), reader.text()
        return f"event {_event(event)} {_path(path)} zxid {_hex(zxid)}"
    return f"reply xid {xid} zxid {_hex(zxid)} {_code(error)}"


# ---- words


def op_name(op: int) -> str:
    """As ZooKeeper's documentation spells it: ``setData`` for SET_DATA."""
    try:
        first, *rest = Op(op).name.lower().split("_")
    except ValueError:
        return f"type {op}"
    return first + "".join(word.capitalize() for word in rest)


def _code(code: int) -> str:
    try:
        return Code(code).name
    except ValueError:
        return f"error {code}"


def _event(event: int) -> str:
    try:
        return Event(event).name
    except ValueError:
        return f"type {event}"


def _hex(zxid: int) -> str:
    return hex(zxid) if zxid >= 0 else str(zxid)


def _range(first: int, last: int) -> str:
    return _hex(first) if first == last else f"{_hex(first)}..{last & 0xFFFFFFFF:x}"


def _path(path: str) -> str:
    shown = path if path.isprintable() else ascii(path)[1:-1]
    return shown if len(shown) <= _PATH_MAX else f"{shown[:_PATH_MAX]}…"


def _more(items: Sized) -> str:
    return f", … {len(items)} in all" if len(items) > LISTED_MAX else ""
