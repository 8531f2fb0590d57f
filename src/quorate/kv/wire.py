"""The store's own protocol: what clients and members say to each other, over TCP to any member.

Requests are ``u32 length, u32 id, u8 op, body``, answers ``u32 length, u32 id, u8 status, body``; ``length`` counts what follows it. Requests may be
pipelined; answers come in any order. Integers are big-endian. ``range`` is ``u16 length, start, u16 length, end``, half open, an end
of no bytes is none; ``group`` 0 means: the one that has the key.

    op             body                                                     answered with DONE and
    1 HELLO        "QKV", u8 version                                        JSON: {"id", "members": [{"id", "client", …}], "shards": [{"start" (hex), "group", "leader"}]}
    2 WRITE        u32 group, u32 turn, command                             result (``commands``)
    3 GET          u64 staleness (ns), u64 revision (0: now), key           u64 revision, u8 marks, entry if there is one, intent if there is one
    4 LIST         u64 staleness, u64 revision, u32 limit, u8 flags, range  u64 revision, u32 count and marks, entries, u16 length and next key (none: that was all), intents
    5 WATCH        u32 group, u64 after, range                              u64 revision; then EVENTS until CANCEL or the connection's end
    6 CANCEL       u32 id of the WATCH                                      nothing
    7 KEEP_ALIVE   u32 group, u64 ids of leases and sessions                u64 ids of those that are gone
    8 TURN         u32 group, keys, each u16 length and key                 nothing, when it is the sender's turn to write these keys
    9 STATUS       nothing                                                  JSON
    10 INTENTS     u32 group                                                u32 count, intents: all that is prepared there
    11 OUTCOME     u32 group, id of an intent                               u8 what became of it, u64 revision

``turn`` of a WRITE is the id of the TURN that it ends, or 0. A LIST and a WATCH are of one shard: that of the start, or of ``group``; a LIST goes on with its next key in the shard that has it.

A GET and a LIST of the present tell of the intents that may be about to change what was asked for (``resolving``), a LIST of those in its whole
range within the shard: ``u16 length, u16 length, u64 deadline, id, decision key`` each, of a LIST with a ``u32`` count before them.

Version 1 of the protocol knows nothing of intents. It is spoken with those who greet with it, or do not greet: where an intent is concerned
their request is refused, and all else is as before.
"""

from collections.abc import Sequence
from struct import Struct

from quorate.errors import RemoteProtocolError
from quorate.kv.commands import COMMAND_MAX, KEY_MAX
from quorate.kv.entries import Entry, pack_entry, unpack_entry

MAGIC = b"QKV"
VERSION = 2
VERSIONS = (1, 2)
"""Those that a member speaks."""
REQUEST_MAX = COMMAND_MAX + (64 << 10)

HELLO, WRITE, GET, LIST, WATCH, CANCEL, KEEP_ALIVE, TURN, STATUS, INTENTS, OUTCOME = range(1, 12)

DONE, EVENTS, NOT_LEADER, UNKNOWN, COMPACTED, REFUSED, UNAVAILABLE, BUSY = range(8)
"""Statuses. EVENTS: ``u64 revision, u32 count, entries`` (version 0: a deletion), all changes of the range up to that revision. NOT_LEADER: ``u16``
number of the member that leads, 0 if unknown. UNKNOWN: the write may be done or not. COMPACTED: ``u64`` the oldest revision there is. REFUSED: a sentence.
UNAVAILABLE: nobody leads. BUSY: too much is under way here."""

FOUND, CONCERNED, PREPARING = 1, 2, 4
"""Marks of a GET's answer: there is such a key; an intent may be about to change it; and something, of whatever keys, is prepared in the shard."""
LIST_CONCERNED, LIST_PREPARING = 1 << 31, 1 << 30
"""The same of a LIST's, beside its count."""
KEYS_ONLY = 1
"""Flag of LIST: entries without values."""

HEAD = Struct(">IIB")
U16 = Struct(">H")
U32 = Struct(">I")
U64 = Struct(">Q")
TWO_U32 = Struct(">II")
GET_HEAD = Struct(">QQ")
LIST_HEAD = Struct(">QQIB")
WATCH_HEAD = Struct(">IQ")
EVENTS_HEAD = Struct(">QI")
OUTCOME_ANSWER = Struct(">BQ")
_OVERHEAD = 5


def request(id_: int, op: int, body: bytes) -> bytes:
    return HEAD.pack(len(body) + _OVERHEAD, id_, op) + body


def reply(id_: int, status: int, body: bytes = b"") -> bytes:
    return HEAD.pack(len(body) + _OVERHEAD, id_, status) + body


def pack_range(start: bytes, end: bytes) -> bytes:
    return b"".join((U16.pack(len(start)), start, U16.pack(len(end)), end))


def unpack_range(body: bytes, at: int) -> tuple[bytes, bytes]:
    """Both keys; ``body`` ends behind them. Raises RemoteProtocolError."""
    start, at = unpack_key(body, at, 0)
    end, at = unpack_key(body, at, 0)
    if at != len(body):
        raise RemoteProtocolError(f"a request with {len(body) - at} bytes too many")
    return start, end


def unpack_key(body: bytes, at: int, least: int = 1) -> tuple[bytes, int]:
    """The key at ``at``, and where it ends. Raises RemoteProtocolError."""
    if len(body) - at < U16.size:
        raise RemoteProtocolError("a request that ends before a key")
    (size,) = U16.unpack_from(body, at)
    at += U16.size
    if not least <= size <= KEY_MAX or size > len(body) - at:
        raise RemoteProtocolError(f"a key of {size} bytes where {len(body) - at} are left; {least} to {KEY_MAX} can be")
    return body[at : at + size], at + size


def pack_keys(keys: Sequence[bytes]) -> bytes:
    return b"".join([piece for key in keys for piece in (U16.pack(len(key)), key)])


def unpack_keys(body: bytes, at: int) -> list[bytes]:
    found = []
    while at < len(body):
        key, at = unpack_key(body, at)
        found.append(key)
    return found


def pack_entries(entries: list[Entry]) -> bytes:
    return b"".join([pack_entry(entry) for entry in entries])


def unpack_entries(body: bytes, at: int, count: int) -> tuple[list[Entry], int]:
    """Raises RemoteProtocolError."""
    found = []
    for _ in range(count):
        entry, at = unpack_entry(body, at)
        found.append(entry)
    return found, at


class Frames:
    """Cuts a byte stream into (id, op or status, body)."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int = REQUEST_MAX) -> None:
        self._rest = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Those that are whole now. Raises RemoteProtocolError for one that is too long or too short."""
        if self._rest:
            data = self._rest + data
        found: list[tuple[int, int, bytes]] = []
        at, end = 0, len(data)
        unpack, size = HEAD.unpack_from, HEAD.size
        while end - at >= size:
            length, id_, code = unpack(data, at)
            if not _OVERHEAD <= length <= self._limit:
                raise RemoteProtocolError(f"a frame of {length} bytes, expected {_OVERHEAD} to {self._limit}")
            stop = at + 4 + length
            if stop > end:
                break
            found.append((id_, code, data[at + size : stop]))
            at = stop
        self._rest = data[at:] if at else data
        return found
