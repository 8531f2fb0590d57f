"""The records of write requests, decoded (zookeeper.jute module proto, MultiOperationRecord).

Functions take the body and an offset and return the fields and the offset after them, because a multi holds the same
records in a row. Bytes after a record are ignored, as Java ignores them. Malformed bytes raise ``struct.error``,
RemoteProtocolError, or RequestError with the code that Apache answers (MARSHALLING_ERROR, or for a null path where it
looks at the path first BAD_ARGUMENTS). A path that is not UTF-8 decodes to one that no node can have.
"""

from struct import Struct
from typing import Final

from quorate.binary import INT, LONG, Reader
from quorate.zookeeper.acl import OPEN_ACL, PACKED_OPEN_ACL, Acl, AclEntry
from quorate.zookeeper.constants import (
    CONTAINER,
    PERSISTENT_SEQUENTIAL_WITH_TTL,
    PERSISTENT_WITH_TTL,
    Code,
    Op,
)
from quorate.zookeeper.request import RequestError

NO_TTL: Final = -1

_MULTI_HEADER = Struct(">i?i")
"""type, done, error"""
_OPEN_ACL_SIZE = len(PACKED_OPEN_ACL)
_unpack_int = INT.unpack_from


class Part:
    """One operation of a multi: a create of any kind, delete, setData or check. Fields that ``op`` has not are idle."""

    __slots__ = ("acl", "data", "flags", "op", "path", "ttl", "version")

    def __init__(
        self,
        op: int,
        path: str,
        version: int = -1,
        data: bytes | None = None,
        acl: Acl = OPEN_ACL,
        flags: int = 0,
        ttl: int = NO_TTL,
    ) -> None:
        self.op = op
        self.path = path
        self.version = version
        self.data = data
        self.acl = acl
        self.flags = flags
        self.ttl = ttl


def read_path(body: bytes, offset: int, code_of_null: int = Code.MARSHALLING_ERROR) -> tuple[str, int]:
    """A path and the offset after it."""
    size: int = _unpack_int(body, offset)[0]
    start = offset + 4
    if size < 0:
        raise RequestError(code_of_null if size == -1 else Code.MARSHALLING_ERROR)
    end = start + size
    if end > len(body):
        raise RequestError(Code.MARSHALLING_ERROR)
    raw = body[start:end]
    try:
        return raw.decode(), end
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), end


def read_data(body: bytes, offset: int) -> tuple[bytes | None, int]:
    """A node's data and the offset after it; the caller reads on from there, which bounds it."""
    size: int = _unpack_int(body, offset)[0]
    start = offset + 4
    if size < 0:
        if size == -1:
            return None, start
        raise RequestError(Code.MARSHALLING_ERROR)
    end = start + size
    return body[start:end], end


def read_entries(body: bytes, offset: int) -> tuple[Acl, int]:
    """``vector<ACL>`` of a request. Not interned yet: most lists that are refused should leave nothing behind."""
    if body.startswith(PACKED_OPEN_ACL, offset):
        return OPEN_ACL, offset + _OPEN_ACL_SIZE
    reader = Reader(body, offset)
    count = reader.count(12)
    entries: list[AclEntry] = []
    for _ in range(count):
        perms, scheme, id_ = reader.int32(), reader.string(), reader.string()
        if scheme == "world" and id_ is None:
            raise RequestError(Code.MARSHALLING_ERROR)
        # a null scheme or id reads as empty, which no scheme accepts
        entries.append(AclEntry(perms, scheme or "", id_ or ""))
    return tuple(entries), reader.offset


def read_create(body: bytes, offset: int) -> tuple[str, bytes | None, Acl, int, int]:
    """CreateRequest: path, data, acl, flags, end."""
    path, offset = read_path(body, offset)
    data, offset = read_data(body, offset)
    acl, offset = read_entries(body, offset)
    return path, data, acl, _unpack_int(body, offset)[0], offset + 4


def read_delete(body: bytes, offset: int) -> tuple[str, int, int]:
    """DeleteRequest: path, version, end."""
    path, offset = read_path(body, offset)
    return path, _unpack_int(body, offset)[0], offset + 4


def read_set_data(body: bytes, offset: int) -> tuple[str, bytes | None, int, int]:
    """SetDataRequest: path, data, version, end."""
    path, offset = read_path(body, offset, Code.BAD_ARGUMENTS)
    data, offset = read_data(body, offset)
    return path, data, _unpack_int(body, offset)[0], offset + 4


def read_set_acl(body: bytes) -> tuple[str, Acl, int]:
    """SetACLRequest: path, acl, version."""
    path, offset = read_path(body, 0, Code.BAD_ARGUMENTS)
    acl, offset = read_entries(body, offset)
    return path, acl, _unpack_int(body, offset)[0]


def read_check(body: bytes, offset: int) -> tuple[str, int, int]:
    """CheckVersionRequest: path, version, end."""
    path, offset = read_path(body, offset, Code.BAD_ARGUMENTS)
    return path, _unpack_int(body, offset)[0], offset + 4


def read_ttl(body: bytes, offset: int) -> int:
    ttl: int = LONG.unpack_from(body, offset)[0]
    return ttl


def check_reconfig(body: bytes) -> None:
    """ReconfigRequest: three strings and a configuration's number, none of which is used."""
    reader = Reader(body)
    for _ in range(3):
        reader.buffer()
    reader.int64()


def read_multi(body: bytes) -> list[Part]:
    """MultiOperationRecord of writes.

    As Apache 3.8 reads it, the kind of create follows from the flags and not from the type: a container by its flag,
    anything else a plain create, whose result has no Stat. TTL flags need the record that has a TTL.
    """
    parts: list[Part] = []
    offset = 0
    while True:
        op, done, _ = _MULTI_HEADER.unpack_from(body, offset)
        if done:
            return parts
        offset += _MULTI_HEADER.size
        if op == Op.SET_DATA:
            path, data, version, offset = read_set_data(body, offset)
            parts.append(Part(Op.SET_DATA, path, version, data))
        elif op == Op.CREATE or op == Op.CREATE2 or op == Op.CREATE_CONTAINER or op == Op.CREATE_TTL:
            path, data, acl, flags, offset = read_create(body, offset)
            ttl = NO_TTL
            if op == Op.CREATE_TTL:
                ttl = read_ttl(body, offset)
                offset += 8
            if flags == PERSISTENT_WITH_TTL or flags == PERSISTENT_SEQUENTIAL_WITH_TTL:
                if op != Op.CREATE_TTL:
                    raise RequestError(Code.MARSHALLING_ERROR)
                kind = Op.CREATE_TTL
            else:
                kind = Op.CREATE_CONTAINER if flags == CONTAINER else Op.CREATE
                ttl = NO_TTL
            parts.append(Part(kind, path, -1, data, acl, flags, ttl))
        elif op == Op.CHECK:
            path, version, offset = read_check(body, offset)
            parts.append(Part(Op.CHECK, path, version))
        elif op == Op.DELETE:
            path, version, offset = read_delete(body, offset)
            parts.append(Part(Op.DELETE, path, version))
        else:
            raise RequestError(Code.MARSHALLING_ERROR)


def read_multi_read(body: bytes) -> list[tuple[int, str]]:
    """MultiOperationRecord of reads: (GET_DATA or GET_CHILDREN, path). Their watch flags count for nothing."""
    parts: list[tuple[int, str]] = []
    offset = 0
    while True:
        op, done, _ = _MULTI_HEADER.unpack_from(body, offset)
        if done:
            return parts
        if op != Op.GET_DATA and op != Op.GET_CHILDREN:
            raise RequestError(Code.MARSHALLING_ERROR)
        path, offset = read_path(body, offset + _MULTI_HEADER.size)
        if offset >= len(body):
            raise RequestError(Code.MARSHALLING_ERROR)
        offset += 1
        parts.append((op, path))
