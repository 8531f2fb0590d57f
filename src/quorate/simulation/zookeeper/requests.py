"""Requests to ZooKeeper and its replies, between the words of a history and the bytes on the wire (zookeeper.jute, module proto).

The words, operation by operation, are those that quorate.verification.zookeeper judges: paths are keys, data are strings of
latin-1, a Stat is a mapping of its fields, errors are ZooKeeper's codes.
"""

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final

from quorate.binary import BOOL, INT, LONG, Reader, pack_buffer, pack_string
from quorate.zookeeper.acl import PACKED_OPEN_ACL
from quorate.zookeeper.constants import (
    CONTAINER,
    EPHEMERAL,
    PERSISTENT_SEQUENTIAL,
    PERSISTENT_SEQUENTIAL_WITH_TTL,
    PERSISTENT_WITH_TTL,
    Event,
    Op,
)

REPLY: Final = Struct(">iqi")
"""xid, zxid, error"""
_CONNECT = Struct(">iqiq")
"""protocol, last zxid seen, timeout in ms, session"""
_WELCOME = Struct(">iiq")
"""protocol, timeout in ms, session"""
_STAT = Struct(">qqqqiiiqiiq")
"""czxid, mzxid, ctime, mtime, version, cversion, aversion, ephemeralOwner, dataLength, numChildren, pzxid"""
_REQUEST = Struct(">ii")
"""xid, type"""
_PART = Struct(">i?i")
"""type, done, error"""
_END_OF_PARTS = _PART.pack(-1, True, -1)

EVENTS: Final[dict[int, str]] = {
    Event.CREATED: "created",
    Event.DELETED: "deleted",
    Event.DATA_CHANGED: "changed",
    Event.CHILDREN_CHANGED: "child",
}

_PART_OPS: Final = {"create": Op.CREATE, "delete": Op.DELETE, "set": Op.SET_DATA, "check": Op.CHECK}


def connect(last_zxid: int, timeout_ms: int, session: int, password: bytes) -> bytes:
    """A ConnectRequest, framed."""
    return pack_buffer(
        _CONNECT.pack(0, last_zxid, timeout_ms, session) + pack_buffer(password) + BOOL.pack(False),
    )


def welcome(frame: bytes) -> tuple[int, int, bytes]:
    """A ConnectResponse: timeout in ms (0: the session is gone), session, password."""
    _, timeout, session = _WELCOME.unpack_from(frame)
    return timeout, session, Reader(frame, _WELCOME.size).buffer() or b""


def request(xid: int, op: int, body: bytes) -> bytes:
    """A request, framed."""
    return pack_buffer(_REQUEST.pack(xid, op) + body)


def set_watches(zxid: int, data: Sequence[str], exists: Sequence[str], children: Sequence[str]) -> bytes:
    """The body of setWatches: what the session watched when it had seen ``zxid``."""
    return LONG.pack(zxid) + b"".join(
        INT.pack(len(paths)) + b"".join(map(pack_string, paths)) for paths in (data, exists, children)
    )


def encode(name: str, key: str | None, value: Mapping[str, Any]) -> tuple[int, bytes]:
    """Type and body of a request in the words of a history."""
    if name == "multi":
        parts: list[bytes] = []
        for part, path, details in value["ops"]:
            parts += (_PART.pack(_PART_OPS[part], False, -1), _body(part, path, details)[1])
        return Op.MULTI, b"".join(parts) + _END_OF_PARTS
    if name == "close":
        return Op.CLOSE_SESSION, b""
    return _body(name, key or "/", value)


def _body(name: str, path: str, value: Mapping[str, Any]) -> tuple[int, bytes]:
    packed = pack_string(path)
    if name == "create":
        return _create(packed, value)
    if name == "delete":
        return Op.DELETE, packed + INT.pack(value["version"])
    if name == "check":
        return Op.CHECK, packed + INT.pack(value["version"])
    if name == "set":
        return Op.SET_DATA, packed + pack_buffer(value["data"].encode("latin-1")) + INT.pack(value["version"])
    if name == "sync":
        return Op.SYNC, packed
    op = {"get": Op.GET_DATA, "exists": Op.EXISTS, "children": Op.GET_CHILDREN2}[name]
    return op, packed + BOOL.pack(value["watch"])


def _create(packed: bytes, value: Mapping[str, Any]) -> tuple[int, bytes]:
    head = packed + pack_buffer(value["data"].encode("latin-1")) + PACKED_OPEN_ACL
    sequential = value.get("sequential", False)
    if "ttl" in value:
        flags = PERSISTENT_SEQUENTIAL_WITH_TTL if sequential else PERSISTENT_WITH_TTL
        return Op.CREATE_TTL, head + INT.pack(flags) + LONG.pack(value["ttl"])
    if value.get("container"):
        return Op.CREATE_CONTAINER, head + INT.pack(CONTAINER)
    flags = (EPHEMERAL if value.get("ephemeral") else 0) | (PERSISTENT_SEQUENTIAL if sequential else 0)
    return Op.CREATE, head + INT.pack(flags)


def decode(name: str, frame: bytes) -> dict[str, Any]:
    """What a reply without an error says, in the words of a history. Raises RemoteProtocolError or struct.error for bytes that
    are no such reply."""
    _, zxid, _ = REPLY.unpack_from(frame)
    reader = Reader(frame, REPLY.size)
    result: dict[str, Any] = {"zxid": zxid}
    if name == "create":
        result["path"] = reader.text()
    elif name == "set" or name == "exists":
        result["stat"] = _stat(reader)
    elif name == "get":
        result["data"] = (reader.buffer() or b"").decode("latin-1")
        result["stat"] = _stat(reader)
    elif name == "children":
        result["children"] = sorted(reader.text() for _ in range(reader.count(4)))
        result["stat"] = _stat(reader)
    elif name == "multi":
        result["results"] = _results(reader)
    return result


def event(frame: bytes) -> tuple[int, str]:
    """A watch event: its type and path."""
    reader = Reader(frame, REPLY.size)
    kind = reader.int32()
    reader.int32()
    return kind, reader.text()


def _stat(reader: Reader) -> dict[str, int]:
    stat = unpack_stat(reader.data, reader.offset)
    reader.offset += _STAT.size
    return stat


def unpack_stat(data: bytes, offset: int = 0) -> dict[str, int]:
    """A Stat, without the times of day."""
    czxid, mzxid, _, _, version, cversion, aversion, owner, length, children, pzxid = _STAT.unpack_from(data, offset)
    return {
        "czxid": czxid,
        "mzxid": mzxid,
        "pzxid": pzxid,
        "version": version,
        "cversion": cversion,
        "aversion": aversion,
        "ephemeralOwner": owner,
        "dataLength": length,
        "numChildren": children,
    }


def _results(reader: Reader) -> list[Any]:
    """One mapping for each part; codes instead if the multi failed."""
    results: list[Any] = []
    while True:
        op, done, _ = _PART.unpack_from(reader.data, reader.offset)
        reader.offset += _PART.size
        if done:
            return results
        if op == Op.ERROR:
            results.append(reader.int32())
        elif op == Op.CREATE:
            results.append({"path": reader.text()})
        elif op == Op.SET_DATA:
            results.append({"stat": _stat(reader)})
        else:
            results.append({})
