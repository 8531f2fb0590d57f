"""Transactions: what the leader decided, as logged, proposed and applied (zookeeper.jute, module txn).

A transaction is a 32-byte header, a body by type, and the digest of the tree after it (absent in old logs). A multi's
body holds the bodies of its parts, each with its type.
"""

from struct import Struct

from quorate.binary import BOOL, INT, INT_INT, LONG, Reader, pack_buffer, pack_string
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.acl import Acl, pack_acl, read_acl
from quorate.zookeeper.constants import Op

HEADER = Struct(">qiqqi")
"""clientId, cxid, zxid, time (ms), type."""
DIGEST = Struct(">iQ")
"""digest version, tree digest."""
DIGEST_VERSION = 2
_VERSION_AND_DIGEST = Struct(">iiQ")


class Create:
    """A node is made: CREATE and CREATE2 (owner 0 or a session), CREATE_CONTAINER, CREATE_TTL by ``op``."""

    __slots__ = ("acl", "data", "ephemeral", "op", "parent_cversion", "path", "ttl")

    def __init__(
        self, op: int, path: str, data: bytes | None, acl: Acl, ephemeral: bool, parent_cversion: int, ttl: int = 0
    ) -> None:
        self.op = op
        self.path = path
        self.data = data
        self.acl = acl
        self.ephemeral = ephemeral
        self.parent_cversion = parent_cversion
        self.ttl = ttl

    def pack(self) -> bytes:
        head = pack_string(self.path) + pack_buffer(self.data) + pack_acl(self.acl)
        if self.op == Op.CREATE_TTL:
            return head + INT.pack(self.parent_cversion) + LONG.pack(self.ttl)
        if self.op == Op.CREATE_CONTAINER:
            return head + INT.pack(self.parent_cversion)
        return head + BOOL.pack(self.ephemeral) + INT.pack(self.parent_cversion)


class Delete:
    """DELETE or DELETE_CONTAINER by ``op``."""

    __slots__ = ("op", "path")

    def __init__(self, op: int, path: str) -> None:
        self.op = op
        self.path = path

    def pack(self) -> bytes:
        return pack_string(self.path)


class SetData:
    """``version`` is the new version. ``op`` is SET_DATA, or RECONFIG, which sets the configuration node."""

    __slots__ = ("data", "op", "path", "version")

    def __init__(self, path: str, data: bytes | None, version: int, op: int = Op.SET_DATA) -> None:
        self.op = op
        self.path = path
        self.data = data
        self.version = version

    def pack(self) -> bytes:
        path = self.path.encode()
        data = self.data
        if data is None:
            return INT.pack(len(path)) + path + INT_INT.pack(-1, self.version)
        return b"".join((INT.pack(len(path)), path, INT.pack(len(data)), data, INT.pack(self.version)))


class SetAcl:
    """``version`` is the new aversion."""

    __slots__ = ("acl", "path", "version")
    op = Op.SET_ACL

    def __init__(self, path: str, acl: Acl, version: int) -> None:
        self.path = path
        self.acl = acl
        self.version = version

    def pack(self) -> bytes:
        return pack_string(self.path) + pack_acl(self.acl) + INT.pack(self.version)


class Check:
    """Part of a multi only: nothing changes. ``version`` is what the client gave."""

    __slots__ = ("path", "version")
    op = Op.CHECK

    def __init__(self, path: str, version: int) -> None:
        self.path = path
        self.version = version

    def pack(self) -> bytes:
        return pack_string(self.path) + INT.pack(self.version)


class CreateSession:
    """``timeout`` in milliseconds."""

    __slots__ = ("timeout",)
    op = Op.CREATE_SESSION

    def __init__(self, timeout: int) -> None:
        self.timeout = timeout

    def pack(self) -> bytes:
        return INT.pack(self.timeout)


class CloseSession:
    """``paths`` are the ephemerals that go with the session; None in logs older than 3.6, then the tree knows."""

    __slots__ = ("paths",)
    op = Op.CLOSE_SESSION

    def __init__(self, paths: list[str] | None) -> None:
        self.paths = paths

    def pack(self) -> bytes:
        if self.paths is None:
            return b""
        return INT.pack(len(self.paths)) + b"".join(map(pack_string, self.paths))


class Error:
    """The request failed with ``code``; a failure consumes a zxid too."""

    __slots__ = ("code",)
    op = Op.ERROR

    def __init__(self, code: int) -> None:
        self.code = code

    def pack(self) -> bytes:
        return INT.pack(self.code)


class Multi:
    """All parts or none. In a failed multi every part is an Error."""

    __slots__ = ("parts",)
    op = Op.MULTI

    def __init__(self, parts: "list[Record]") -> None:
        self.parts = parts

    def pack(self) -> bytes:
        out = [INT.pack(len(self.parts))]
        for part in self.parts:
            body = part.pack()
            out += (INT_INT.pack(part.op, len(body)), body)
        return b"".join(out)


Record = Create | Delete | SetData | SetAcl | Check | CreateSession | CloseSession | Error | Multi


class Txn:
    """One transaction. ``digest`` is the tree's digest after it, None if whoever made it gave none."""

    __slots__ = ("cxid", "digest", "record", "session", "time", "zxid")

    def __init__(
        self, session: int, cxid: int, zxid: int, time: int, record: Record, digest: int | None = None
    ) -> None:
        self.session = session
        self.cxid = cxid
        self.zxid = zxid
        self.time = time
        self.record = record
        self.digest = digest

    def pack(self) -> bytes:
        record = self.record
        head = HEADER.pack(self.session, self.cxid, self.zxid, self.time, record.op)
        if self.digest is None:
            return head + record.pack()
        return head + record.pack() + DIGEST.pack(DIGEST_VERSION, self.digest)


def unpack_txn(data: bytes) -> Txn:
    """A transaction from its bytes. Raises RemoteProtocolError for bytes that are none."""
    if len(data) < HEADER.size:
        raise RemoteProtocolError(f"transaction of {len(data)} bytes is shorter than its header")
    session, cxid, zxid, time, op = HEADER.unpack_from(data)
    if op == Op.SET_DATA:
        txn = _unpack_set_data(data, session, cxid, zxid, time)
        if txn is not None:
            return txn
    reader = Reader(data, HEADER.size)
    record = _read_record(op, reader)
    digest: int | None = None
    if reader.remaining() >= DIGEST.size:
        version, value = DIGEST.unpack_from(data, reader.offset)
        digest = value if version == DIGEST_VERSION else None
    return Txn(session, cxid, zxid, time, record, digest)


def _unpack_set_data(data: bytes, session: int, cxid: int, zxid: int, time: int) -> Txn | None:
    """The commonest transaction without a Reader; None if it is anything but as usual, digest included."""
    path_end = 36 + INT.unpack_from(data, 32)[0] if len(data) >= 36 else 0
    if not 36 <= path_end <= len(data) - 20:
        return None
    size: int = INT.unpack_from(data, path_end)[0]
    end = path_end + 4 + size
    if size < 0 or end + 16 != len(data):
        return None
    version, digest_version, digest = _VERSION_AND_DIGEST.unpack_from(data, end)
    if digest_version != DIGEST_VERSION:
        return None
    try:
        path = data[36:path_end].decode()
    except UnicodeDecodeError:
        return None
    return Txn(session, cxid, zxid, time, SetData(path, data[path_end + 4 : end], version), digest)


def _read_record(op: int, reader: Reader) -> Record:
    if op == Op.SET_DATA or op == Op.RECONFIG:
        return SetData(reader.text(), reader.buffer(), reader.int32(), op)
    if op == Op.CREATE or op == Op.CREATE2:
        path, data, acl, ephemeral = reader.text(), reader.buffer(), read_acl(reader), reader.boolean()
        # CreateTxnV0 of old logs ends here; -1 lets the tree count by itself
        parent_cversion = reader.int32() if reader.remaining() >= 4 else -1
        return Create(op, path, data, acl, ephemeral, parent_cversion)
    if op == Op.CREATE_CONTAINER:
        return Create(op, reader.text(), reader.buffer(), read_acl(reader), False, reader.int32())
    if op == Op.CREATE_TTL:
        return Create(op, reader.text(), reader.buffer(), read_acl(reader), False, reader.int32(), reader.int64())
    if op == Op.DELETE or op == Op.DELETE_CONTAINER:
        return Delete(op, reader.text())
    if op == Op.SET_ACL:
        return SetAcl(reader.text(), read_acl(reader), reader.int32())
    if op == Op.CHECK:
        return Check(reader.text(), reader.int32())
    if op == Op.CREATE_SESSION:
        return CreateSession(reader.int32())
    if op == Op.CLOSE_SESSION:
        if reader.remaining() < 4:
            return CloseSession(None)
        return CloseSession([reader.text() for _ in range(reader.count(4))])
    if op == Op.ERROR:
        return Error(reader.int32())
    if op == Op.MULTI:
        return Multi([_read_part(reader) for _ in range(reader.count(8))])
    raise RemoteProtocolError(f"transaction type {op} is unknown")


def _read_part(reader: Reader) -> Record:
    op = reader.int32()
    body = Reader(reader.buffer() or b"")
    if op == Op.MULTI:
        raise RemoteProtocolError("a multi inside a multi")
    return _read_record(op, body)
