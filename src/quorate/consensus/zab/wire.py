"""Apache ZooKeeper's bytes for Zab's messages: notifications of the election port, packets of the quorum port.

Sources: FastLeaderElection.buildMsg, QuorumCnxManager (greeting), zookeeper.jute (QuorumPacket), LearnerHandler and Learner
(what each packet carries). Packets have no frame of their own: int type, long zxid, buffer data, vector<Id> authinfo.
"""

from collections.abc import Callable
from struct import Struct
from typing import Protocol

from quorate.binary import INT, LONG, Reader, pack_buffer, pack_string
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
    Trunc,
    UpToDate,
    Vote,
    epoch_of,
    first_zxid,
)
from quorate.errors import RemoteProtocolError

# ===== election port =====

GREETING_V1 = -65536
GREETING_V2 = -65535
GREETING_HEAD = Struct(">qqi")
"""protocol, sid, length of the address."""
GREETING_MAX_ADDRESS = 2048
NOTIFICATION_MAX = 512 * 1024
UNKNOWN_OBSERVER = (1 << 63) - 1
"""The sid that an observer outside the configuration sends."""

_NOTIFICATION = Struct(">iqqqqi")
"""state, leader, zxid, electionEpoch, peerEpoch, version."""
_NOTIFICATION_28 = Struct(">iqqq")
_NOTIFICATION_40 = Struct(">iqqqq")


def greeting(sid: int, address: str) -> bytes:
    """What the dialling side of an election connection sends first; ``address`` is its own host:electionPort."""
    raw = address.encode()
    return GREETING_HEAD.pack(GREETING_V1, sid, len(raw)) + raw


def read_greeting(data: bytes) -> tuple[int, int] | None:
    """(sid, bytes used), or None if more bytes are needed. Raises RemoteProtocolError."""
    if len(data) < 8:
        return None
    protocol: int = LONG.unpack_from(data)[0]
    if protocol >= 0:
        return protocol, 8  # a server older than 3.5 sends its sid alone
    if protocol not in (GREETING_V1, GREETING_V2):
        raise RemoteProtocolError(f"election greeting with unknown protocol {protocol}")
    if len(data) < GREETING_HEAD.size:
        return None
    _, sid, length = GREETING_HEAD.unpack_from(data)
    if not 0 < length <= GREETING_MAX_ADDRESS:
        raise RemoteProtocolError(
            f"election greeting with an address of {length} bytes, expected 1 to {GREETING_MAX_ADDRESS}"
        )
    if len(data) < GREETING_HEAD.size + length:
        return None
    return sid, GREETING_HEAD.size + length


def encode_notification(n: Notification) -> bytes:
    """With its length in front."""
    vote = n.vote
    body = _NOTIFICATION.pack(n.state, vote.leader, vote.zxid, n.round, vote.epoch, n.version) + pack_buffer(n.config)
    return INT.pack(len(body)) + body


def decode_notification(body: bytes) -> Notification:
    """Raises RemoteProtocolError. Accepts the forms of older servers (28 bytes: no epoch; 40: no version)."""
    size = len(body)
    if size < _NOTIFICATION_28.size:
        raise RemoteProtocolError(f"notification of {size} bytes, expected at least {_NOTIFICATION_28.size}")
    version, config = 0, b""
    if size == _NOTIFICATION_28.size:
        state, leader, zxid, round_ = _NOTIFICATION_28.unpack(body)
        epoch = epoch_of(zxid)
    elif size < _NOTIFICATION.size:
        state, leader, zxid, round_, epoch = _NOTIFICATION_40.unpack_from(body.ljust(_NOTIFICATION_40.size, b"\0"))
    else:
        state, leader, zxid, round_, epoch, version = _NOTIFICATION.unpack_from(body)
        if version > 1:
            config = Reader(body, _NOTIFICATION.size).buffer() or b""
    if not 0 <= state <= 3:
        raise RemoteProtocolError(f"notification with unknown state {state}")
    return Notification(state, Vote(leader, zxid, epoch), round_, version, config)


# ===== quorum port =====

PROPOSAL, ACK, COMMIT, PING, INFORM = 2, 3, 4, 5, 8
NEWLEADER, FOLLOWERINFO, UPTODATE = 10, 11, 12
DIFF, TRUNC, SNAP = 13, 14, 15
OBSERVERINFO, LEADERINFO, ACKEPOCH = 16, 17, 18

PROTOCOL_VERSION = 0x10000
SNAPSHOT_SIGNATURE = pack_string("BenWasHere")

_HEAD = Struct(">iqi")
"""type, zxid, length of data (-1: none)."""
_BARE = Struct(">iqii")
"""A packet with neither data nor authinfo."""
_NULL = INT.pack(-1)
_LEARNER_INFO = Struct(">qiq")
"""sid, protocol version, configuration version."""


def _pack(type_: int, zxid: int, data: bytes) -> bytes:
    return _HEAD.pack(type_, zxid, len(data)) + data + _NULL


def encode(message: Message) -> bytes:
    """The packet or packets of a message. A Snap is only its packet; the stream and SNAPSHOT_SIGNATURE follow it."""
    if isinstance(message, Proposals):
        encoded = message.encoded
        if encoded is None:
            encoded = message.encoded = _encode_proposals(message)
        return encoded
    if isinstance(message, Acks):
        pack = _BARE.pack
        return b"".join([pack(ACK, zxid, -1, -1) for zxid in range(message.first, message.last + 1)])
    if isinstance(message, Commits):
        pack = _BARE.pack
        return b"".join([pack(COMMIT, zxid, -1, -1) for zxid in range(message.first, message.last + 1)])
    if isinstance(message, Service):
        return _encode_service(message)
    if isinstance(message, Ping):
        if message.data is None:
            return _BARE.pack(PING, message.zxid, -1, -1)
        return _pack(PING, message.zxid, message.data)
    if isinstance(message, FollowerInfo):
        info = _LEARNER_INFO.pack(message.sid, PROTOCOL_VERSION, message.config_version)
        return _pack(OBSERVERINFO if message.observer else FOLLOWERINFO, first_zxid(message.accepted_epoch), info)
    if isinstance(message, LeaderInfo):
        return _pack(LEADERINFO, first_zxid(message.epoch), INT.pack(PROTOCOL_VERSION))
    if isinstance(message, AckEpoch):
        return _pack(ACKEPOCH, message.last_zxid, INT.pack(message.current_epoch))
    if isinstance(message, NewLeader):
        return _pack(NEWLEADER, message.zxid, message.config)
    if isinstance(message, UpToDate):
        return _BARE.pack(UPTODATE, -1, -1, -1)
    if isinstance(message, Diff):
        return _BARE.pack(DIFF, message.zxid, -1, -1)
    if isinstance(message, Trunc):
        return _BARE.pack(TRUNC, message.zxid, -1, -1)
    if isinstance(message, Snap):
        return _BARE.pack(SNAP, message.zxid, -1, -1)
    raise TypeError(f"no packet for {message!r}")


def packet_count(message: Message) -> int:
    """How many packets a message stands for."""
    if isinstance(message, Proposals):
        return len(message.entries)
    if isinstance(message, Acks | Commits):
        return message.last - message.first + 1
    return 1


def _encode_proposals(message: Proposals) -> bytes:
    type_ = INFORM if message.inform else PROPOSAL
    head = _HEAD.pack
    parts: list[bytes] = []
    for entry in message.entries:
        payload = entry.payload
        parts += (head(type_, entry.zxid, len(payload)), payload, _NULL)
    return b"".join(parts)


def _encode_service(message: Service) -> bytes:
    data = message.data
    head = _HEAD.pack(message.type, message.zxid, -1 if data is None else len(data))
    ids = message.authinfo
    if ids is None:
        return head + (data or b"") + _NULL
    packed = _packed_ids.get(ids)
    if packed is None:
        if len(_packed_ids) >= _PACKED_IDS_MAX:
            _packed_ids.clear()
        parts = [INT.pack(len(ids))]
        for scheme, id_ in ids:
            parts += (pack_string(scheme), pack_string(id_))
        packed = _packed_ids[ids] = b"".join(parts)
    return head + (data or b"") + packed


_PACKED_IDS_MAX = 1024
_packed_ids: dict[tuple[tuple[str, str], ...], bytes] = {}
"""Most requests come from few clients: their identities are packed once."""


class SnapshotParser(Protocol):
    """Takes the stream that follows a SNAP packet, in pieces; raises RemoteProtocolError.

    ``leftover``: what came after the stream's end, empty until ``done``.
    """

    done: bool
    leftover: bytes

    def feed(self, data: bytes) -> None: ...


class PacketDecoder:
    """Bytes of one quorum-port connection to messages; runs of like packets come as one message.

    A SNAP packet is followed by the service's stream: ``snapshot_parser`` makes the parser for it, and the Snap message
    (its ``snapshot`` is that parser) comes out when stream and signature are complete.
    """

    def __init__(self, snapshot_parser: Callable[[], SnapshotParser] | None, max_data: int) -> None:
        """``max_data``: bytes that one packet's data may have at most. No parser: the peer may send no SNAP."""
        self._new_parser = snapshot_parser
        self._max_data = max_data
        self._buffer = b""
        self._parser: SnapshotParser | None = None
        self._snap_zxid = 0
        self._ids_raw = b"\xfe"
        """The authinfo last decoded, as bytes (at first what none begins with); requests of one client repeat it."""
        self._ids: tuple[tuple[str, str], ...] = ()

    def feed(self, data: bytes) -> list[Packet]:
        """Messages completed by ``data``. Raises RemoteProtocolError; the connection must be closed then."""
        out: list[Packet] = []
        while data:
            parser = self._parser
            if parser is None:
                data = self._packets(self._buffer + data if self._buffer else data, out)
            elif not parser.done:
                parser.feed(data)
                data = parser.leftover
            else:
                data = self._signature(self._buffer + data, out)
        return out

    @property
    def buffered(self) -> int:
        """Bytes of a packet that is not all there."""
        return len(self._buffer)

    def _signature(self, data: bytes, out: list[Packet]) -> bytes:
        size = len(SNAPSHOT_SIGNATURE)
        if not data.startswith(SNAPSHOT_SIGNATURE[: len(data)]):
            raise RemoteProtocolError("snapshot stream does not end with its signature")
        if len(data) < size:
            self._buffer = data
            return b""
        out.append(Snap(self._snap_zxid, self._parser))
        self._parser, self._buffer = None, b""
        return data[size:]

    def _packets(self, data: bytes, out: list[Packet]) -> bytes:
        """Decode whole packets; keeps the rest, or returns it if a snapshot stream starts there."""
        unpack = _HEAD.unpack_from
        offset, end = 0, len(data)
        self._buffer = b""
        while end - offset >= 20:
            type_, zxid, size = unpack(data, offset)
            start = offset + 16
            if size > self._max_data or size < -1:
                raise RemoteProtocolError(
                    f"packet of type {type_} with {size} bytes of data, at most {self._max_data} allowed"
                )
            body_end = start + (size if size > 0 else 0)
            if body_end + 4 > end:
                break
            next_offset = body_end + 4
            ids = None
            if data.startswith(self._ids_raw, body_end):
                ids = self._ids
                next_offset = body_end + len(self._ids_raw)
            elif data[body_end:next_offset] != _NULL:
                known = self._identities(data, body_end)
                if known is None:
                    break
                ids, next_offset = known
                self._ids, self._ids_raw = ids, data[body_end:next_offset]
            payload = None if size < 0 else data[start:body_end]
            self._add(out, type_, zxid, payload, ids)
            offset = next_offset
            if type_ == SNAP:
                if self._new_parser is None:
                    raise RemoteProtocolError("SNAP, which only a leader sends, from a learner")
                self._snap_zxid = zxid
                self._parser = self._new_parser()
                return data[offset:]
        self._buffer = data[offset:]
        return b""

    def _identities(self, data: bytes, offset: int) -> tuple[tuple[tuple[str, str], ...], int] | None:
        """The authinfo vector and where it ends; None if it is not all there."""
        count: int = INT.unpack_from(data, offset)[0]
        if not 0 <= count <= 1024:
            raise RemoteProtocolError(f"packet with {count} identities")
        offset += 4
        fields: list[str] = []
        for _ in range(2 * count):
            if offset + 4 > len(data):
                return None
            size: int = INT.unpack_from(data, offset)[0]
            if not -1 <= size <= 65536:
                raise RemoteProtocolError(f"identity of {size} bytes")
            offset += 4
            if offset + max(size, 0) > len(data):
                return None
            try:
                fields.append(data[offset : offset + max(size, 0)].decode())
            except UnicodeDecodeError:
                raise RemoteProtocolError("identity is not UTF-8") from None
            offset += max(size, 0)
        return tuple(zip(fields[::2], fields[1::2], strict=True)), offset

    def _add(
        self, out: list[Packet], type_: int, zxid: int, data: bytes | None, ids: tuple[tuple[str, str], ...] | None
    ) -> None:
        last = out[-1] if out else None
        if type_ == PROPOSAL or type_ == INFORM:
            if data is None or len(data) < 32 or LONG.unpack_from(data, 12)[0] != zxid:
                raise RemoteProtocolError(f"proposal {zxid:#x} holds no transaction of that zxid")
            entry = Entry(zxid, data)
            if isinstance(last, Proposals) and last.inform == (type_ == INFORM):
                last.entries.append(entry)
            else:
                out.append(Proposals([entry], type_ == INFORM))
        elif type_ == ACK:
            if isinstance(last, Acks) and last.last + 1 == zxid:
                last.last = zxid
            else:
                out.append(Acks(zxid, zxid))
        elif type_ == COMMIT:
            if isinstance(last, Commits) and last.last + 1 == zxid:
                last.last = zxid
            else:
                out.append(Commits(zxid, zxid))
        elif type_ in (REQUEST, REVALIDATE, SYNC):
            out.append(Service(type_, data, ids, zxid))
        elif type_ == PING:
            out.append(Ping(zxid, data))
        elif type_ != SNAP:
            out.append(_decode_rare(type_, zxid, data))


def _decode_rare(type_: int, zxid: int, data: bytes | None) -> Packet:
    if type_ == FOLLOWERINFO or type_ == OBSERVERINFO:
        if data is None or len(data) < 8:
            raise RemoteProtocolError("FOLLOWERINFO without the learner's sid")
        reader = Reader(data)
        sid = reader.int64()
        version = reader.int32() if reader.remaining() >= 4 else 0
        if version < PROTOCOL_VERSION:
            raise RemoteProtocolError(
                f"learner {sid} speaks quorum protocol {version:#x}, expected {PROTOCOL_VERSION:#x}"
            )
        config_version = reader.int64() if reader.remaining() >= 8 else 0
        return FollowerInfo(sid, epoch_of(zxid), type_ == OBSERVERINFO, config_version)
    if type_ == LEADERINFO:
        return LeaderInfo(epoch_of(zxid))
    if type_ == ACKEPOCH:
        if data is None or len(data) < 4:
            raise RemoteProtocolError("ACKEPOCH without the current epoch")
        return AckEpoch(zxid, INT.unpack_from(data)[0])
    if type_ == NEWLEADER:
        return NewLeader(zxid, data or b"")
    if type_ == UPTODATE:
        return UpToDate()
    if type_ == DIFF:
        return Diff(zxid)
    if type_ == TRUNC:
        return Trunc(zxid)
    raise RemoteProtocolError(f"packet of unknown type {type_}")
