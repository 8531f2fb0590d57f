"""Snapshots in Apache's form: the stream that follows a SNAP packet and the file ``snapshot.<zxid>`` (SerializeUtils,
DataTree.serialize, ReferenceCountedACLCache, FileSnap, SnapStream).

The stream holds the sessions, the access lists by number, and the nodes, each parent before its children (Apache goes
depth first, but no reader asks for more than the parent); the path ``/`` ends it. The file is a header, the stream, a
seal (Adler-32 of everything before it, and ``/``), then zxid and digest with a seal, and in 3.9 the last zxid applied
with a seal. Apache 3.8 reads the newer form too: it stops before what it does not know.

Snapshots are fuzzy: transactions are applied while one is written, and replaying them from the snapshot's zxid on makes
the tree exact again (see tree.py).
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final
from zlib import adler32, crc32, decompressobj

from quorate.binary import INT, LONG
from quorate.errors import CorruptionError, RemoteProtocolError
from quorate.zookeeper.acl import OPEN_ACL, Acl, AclEntry, intern_acl, pack_acl
from quorate.zookeeper.digest import DIGEST_MASK, DIGEST_VERSION
from quorate.zookeeper.node import Node
from quorate.zookeeper.quota import limited_by
from quorate.zookeeper.tree import DataTree

CHUNK_BYTES: Final = 64 * 1024
MAX_RECORD: Final = 64 << 20
"""Bytes that the path or the data of one node, or one string of an access list, may have in what we read."""

_SESSION = Struct(">qi")
_NODE = Struct(">qqqqqiiiqq")
"""Number of the access list, and the persisted Stat (node.STAT_PERSISTED)."""
_HEADER = Struct(">4siq")
_MAGIC: Final = b"ZKSN"
_VERSION: Final = 2
_DATABASE: Final = -1
_SEAL = Struct(">qi1s")
_DIGEST = Struct(">qiQ")
_END: Final = INT.pack(1) + b"/"

_OPEN_KEY: Final = -1
"""The number that readers take for the open list without looking it up."""
_SEALED_ACL: Final[Acl] = intern_acl((AclEntry(0, "world", "anyone"),))
"""Lets nobody do anything: for a node whose own list the snapshot lacks, until replay gives it back."""

_NAME = re.compile(r"(?:.*/)?(?:installed\.[0-9a-f]+\.)?snapshot\.([0-9a-fA-F]{1,16})(\.gz|\.snappy)?\Z")


# ---- writing


def snapshot_stream(tree: DataTree, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The stream, in pieces of about ``chunk_bytes``; transactions may be applied between two pieces.

    It is as of the ``tree.last_zxid`` of this call, not of the first piece. The access lists come before the nodes, so
    a list that comes into use later has no number. Nodes made later would need one, and are left out: all transactions
    after the snapshot's zxid are replayed over it, and make them again. A node whose list is changed later is written
    with one that lets nobody in, and replay sets the true one.
    """
    keys: dict[Acl, int] = {acl: number for number, acl in enumerate(tree.acls, 1)}
    sealed = keys.setdefault(_SEALED_ACL, len(keys) + 1)
    head = [INT.pack(len(tree.sessions))]
    head += [_SESSION.pack(session, timeout) for session, timeout in sorted(tree.sessions.items())]
    head.append(INT.pack(len(keys)))
    for acl, number in keys.items():
        head += (LONG.pack(number), pack_acl(acl))
    return _stream(tree.nodes, list(tree.nodes), keys, sealed, b"".join(head), tree.last_zxid, chunk_bytes)


def _stream(
    nodes: dict[str, Node],
    paths: list[str],
    keys: dict[Acl, int],
    sealed: int,
    head: bytes,
    zxid: int,
    chunk_bytes: int,
) -> Iterator[bytes]:
    out = [head]
    size = len(head)
    pack_int = INT.pack
    pack = _NODE.pack
    for path in paths:
        node = nodes.get(path)
        if node is None or node.czxid > zxid:
            continue
        # the root's path is empty here
        raw = path.encode() if path != "/" else b""
        data = node.data
        acl = node.acl
        stat = pack(
            _OPEN_KEY if acl is OPEN_ACL else keys.get(acl, sealed),
            node.czxid,
            node.mzxid,
            node.ctime,
            node.mtime,
            node.version,
            node.cversion,
            node.aversion,
            node.owner,
            node.pzxid,
        )
        if data is None:
            out += (pack_int(len(raw)), raw, b"\xff\xff\xff\xff", stat)
            size += 76 + len(raw)
        else:
            out += (pack_int(len(raw)), raw, pack_int(len(data)), data, stat)
            size += 76 + len(raw) + len(data)
        if size >= chunk_bytes:
            yield b"".join(out)
            out = []
            size = 0
    out.append(_END)
    yield b"".join(out)


def snapshot_file(tree: DataTree, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The file, in pieces as :func:`snapshot_stream` gives them; its name is ``snapshot.<tree.last_zxid>`` at this call."""
    return _file(tree, snapshot_stream(tree, chunk_bytes))


def _file(tree: DataTree, stream: Iterator[bytes]) -> Iterator[bytes]:
    piece = _HEADER.pack(_MAGIC, _VERSION, _DATABASE)
    check = adler32(piece)
    yield piece
    for piece in stream:
        check = adler32(piece, check)
        yield piece
    tail = _SEAL.pack(check, 1, b"/")
    # the digest is of the end: whoever replays up to this zxid has left the fuzzy part
    tail += _DIGEST.pack(tree.last_zxid, DIGEST_VERSION, tree.digest)
    tail += _SEAL.pack(adler32(tail, check), 1, b"/")
    tail += LONG.pack(tree.last_zxid)
    tail += _SEAL.pack(adler32(tail, check), 1, b"/")
    yield tail


# ---- reading


class MalformedSnapshot(RemoteProtocolError):
    """``offset`` counts from the stream's start."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"snapshot stream: byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


# what the parser expects next
_SESSION_COUNT, _SESSIONS, _ACL_COUNT, _ACL_HEAD, _ACL_ENTRIES, _NODES = range(6)


class SnapshotParser:
    """Makes a tree of a stream that comes in pieces of any size.

    Feed until ``done``; ``leftover`` is then what came after the stream's end. ``tree`` is whole when ``done`` and has
    ``last_zxid`` 0: the stream does not tell it. Raises MalformedSnapshot, after which the parser must not be used. It
    holds no more than one incomplete record of at most ``max_record`` bytes beside the tree.
    """

    __slots__ = (
        "_acl_key",
        "_acl_left",
        "_acls",
        "_buffered",
        "_consumed",
        "_entries",
        "_expected",
        "_left",
        "_limited",
        "_max",
        "_need",
        "_pieces",
        "_state",
        "done",
        "leftover",
        "tree",
    )

    def __init__(self, max_record: int = MAX_RECORD) -> None:
        self.done = False
        self.leftover = b""
        tree = self.tree = DataTree()
        tree.nodes.clear()
        tree.acls.clear()
        tree.digest = tree.data_size = 0
        self._max = max_record
        self._state = _SESSION_COUNT
        self._left = 0
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._need = 4
        """Bytes without which nothing more can be read: less is kept in pieces, or a long record would be copied often."""
        self._consumed = 0
        self._acls: dict[int, Acl] = {_OPEN_KEY: OPEN_ACL}
        self._acl_key = 0
        self._acl_left = 0
        self._entries: list[AclEntry] = []
        self._limited: list[str] = []

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises MalformedSnapshot."""
        if self.done:
            self.leftover += data
        else:
            self._advance(data)

    def _advance(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered < self._need:
            return
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        position = 0 if self._state == _NODES else self._head(buffer)
        if self._state == _NODES:
            position = self._read_nodes(buffer, position)
        rest = buffer[position:]
        self._consumed += position
        if self.done:
            self.leftover = rest
            self._pieces = []
            self._finish()
        else:
            self._pieces = [rest] if rest else []
            self._buffered = len(rest)

    @property
    def position(self) -> int:
        """Bytes of the stream that have been read."""
        return self._consumed

    def _bad(self, position: int, reason: str) -> MalformedSnapshot:
        return MalformedSnapshot(self._consumed + position, reason)

    def _head(self, buffer: bytes) -> int:
        """Read sessions and access lists as far as they are there; where to go on."""
        end = len(buffer)
        position = 0
        while True:
            state = self._state
            size = 12 if state == _SESSIONS or state == _ACL_HEAD else 4
            self._need = size
            if end - position < size:
                return position
            if state == _SESSION_COUNT:
                self._left = self._count(buffer, position, "sessions")
                self._state = _SESSIONS if self._left else _ACL_COUNT
            elif state == _SESSIONS:
                session, timeout = _SESSION.unpack_from(buffer, position)
                self.tree.sessions[session] = timeout
                self._left -= 1
                if not self._left:
                    self._state = _ACL_COUNT
            elif state == _ACL_COUNT:
                self._left = self._count(buffer, position, "access lists")
                self._state = _ACL_HEAD if self._left else _NODES
            elif state == _ACL_HEAD:
                self._acl_key = LONG.unpack_from(buffer, position)[0]
                self._acl_left = self._count(buffer, position + 8, "entries of an access list")
                self._state = _ACL_ENTRIES
                self._end_of_acl()
            elif state == _ACL_ENTRIES:
                entry_end = self._acl_entry(buffer, position)
                if entry_end < 0:
                    self._need = -entry_end
                    return position
                self._acl_left -= 1
                self._end_of_acl()
                position = entry_end
                continue
            else:
                return position
            position += size

    def _count(self, buffer: bytes, position: int, what: str) -> int:
        count: int = INT.unpack_from(buffer, position)[0]
        if count < 0:
            raise self._bad(position, f"{count} {what}")
        return count

    def _end_of_acl(self) -> None:
        if not self._acl_left:
            self._acls[self._acl_key] = intern_acl(tuple(self._entries))
            self._entries.clear()
            self._left -= 1
            self._state = _ACL_HEAD if self._left else _NODES

    def _acl_entry(self, buffer: bytes, position: int) -> int:
        """Read an entry: where it ends or, negative, how many bytes from ``position`` are needed to say more."""
        fields: list[str] = []
        at = position + 4
        for _ in range(2):
            if len(buffer) < at + 4:
                return position - at - 4
            size: int = INT.unpack_from(buffer, at)[0]
            if not -1 <= size <= self._max:
                raise self._bad(at, f"a string of {size} bytes, expected at most {self._max}")
            start = at + 4
            at = start + max(size, 0)
            if len(buffer) < at:
                return position - at
            try:
                fields.append(buffer[start:at].decode())
            except UnicodeDecodeError:
                raise self._bad(start, "a string that is not UTF-8") from None
        self._entries.append(AclEntry(INT.unpack_from(buffer, position)[0], *fields))
        return at

    def _read_nodes(self, buffer: bytes, position: int) -> int:
        """Read nodes as far as they are whole; where the first incomplete one starts, or the stream ends."""
        tree = self.tree
        nodes = tree.nodes
        acls = self._acls
        acl_counts = tree.acls
        limit = self._max
        end = len(buffer)
        unpack_int = INT.unpack_from
        unpack = _NODE.unpack_from
        new = Node.__new__
        digest = tree.digest
        data_size = tree.data_size
        last_prefix = ""
        siblings: set[str] | None = None
        while True:
            if end - position < 5:
                self._need = 5
                break
            size: int = unpack_int(buffer, position)[0]
            if not 0 <= size <= limit:
                raise self._bad(position, f"a path of {size} bytes, expected at most {limit}")
            start = position + 4
            data_at = start + size
            if size == 1 and buffer[start] == 0x2F:
                if not nodes:
                    raise self._bad(position, "the stream ends before the root")
                self.done = True
                position = data_at
                break
            if end - data_at < 4:
                self._need = size + 8
                break
            data_length: int = unpack_int(buffer, data_at)[0]
            data_start = data_at + 4
            if data_length >= 0:
                stat_at = data_start + data_length
                if data_length > limit:
                    raise self._bad(data_at, f"data of {data_length} bytes, expected at most {limit}")
            elif data_length == -1:
                stat_at = data_start
            else:
                raise self._bad(data_at, f"data of {data_length} bytes")
            next_position = stat_at + 68
            if next_position > end:
                self._need = next_position - position
                break
            raw = buffer[start:data_at]
            try:
                path = raw.decode()
            except UnicodeDecodeError:
                raise self._bad(start, "a path that is not UTF-8") from None
            (key, czxid, mzxid, ctime, mtime, version, cversion, aversion, owner, pzxid) = unpack(buffer, stat_at)
            data = buffer[data_start:stat_at] if data_length >= 0 else None
            node = new(Node)
            node.data = data
            node.owner = owner
            node.czxid = czxid
            # equal numbers share one object: a tree of millions has few nodes that ever changed
            node.mzxid = czxid if mzxid == czxid else mzxid
            node.pzxid = czxid if pzxid == czxid else pzxid
            node.ctime = ctime
            node.mtime = ctime if mtime == ctime else mtime
            node.version = version
            node.cversion = cversion
            node.aversion = aversion
            node.children = None
            node.packed_stat = None
            acl = acls.get(key)
            if acl is None:
                # Apache's own fuzzy snapshots have such nodes; replay gives them their list
                acl = _SEALED_ACL
            node.acl = acl
            if acl is not OPEN_ACL:
                acl_counts[acl] = acl_counts.get(acl, 0) + 1
            if size:
                prefix, slash, name = path.rpartition("/")
                if prefix != last_prefix or siblings is None:
                    parent = nodes.get(prefix or "/")
                    if parent is None or not slash:
                        raise self._bad(start, f"node {path!r} comes before its parent")
                    if parent.children is None:
                        parent.children = set()
                    siblings = parent.children
                    last_prefix = prefix
                if not name or path in nodes:
                    raise self._bad(start, f"node {path!r} is there already or has no name")
                siblings.add(name)
                if owner:
                    tree.own(path, owner)
            elif nodes:
                raise self._bad(start, "a second root")
            else:
                path = "/"
            nodes[path] = node
            data_size += len(path) + stat_at - data_start
            if path.startswith("/zookeeper/"):
                node.digest = 0
                if limited_by(path) is not None:
                    self._limited.append(path)
            else:
                # digest.py's order: pzxid third and no number of the access list
                node.digest = share = crc32(
                    b"".join(
                        (
                            raw,
                            data or b"",
                            buffer[stat_at + 8 : stat_at + 24],
                            buffer[stat_at + 60 : next_position],
                            buffer[stat_at + 24 : stat_at + 60],
                        )
                    )
                )
                digest += share
            position = next_position
        tree.digest = digest & DIGEST_MASK
        tree.data_size = data_size
        return position

    def _finish(self) -> None:
        tree = self.tree
        for path in self._limited:
            subject = limited_by(path)
            assert subject is not None, "only limits nodes are noted"
            tree.limited.add(subject)
            tree.measure_quota(subject)


def load_snapshot_file(data: bytes | Iterable[bytes], name: str, max_record: int = MAX_RECORD) -> DataTree:
    """The tree in a snapshot file, whose contents come whole or in pieces and whose name tells zxid and compression.

    ``tree.snapshot_digest`` is what the file says of the digest. Raises CorruptionError, with the offset in the
    decompressed contents, for anything that is not a whole, intact snapshot.
    """
    match = _NAME.match(name)
    if match is None:
        raise CorruptionError(name, 0, "the name of a snapshot is snapshot.<zxid>, with .gz if compressed")
    if match[2] == ".snappy":
        raise CorruptionError(name, 0, "it is compressed with Snappy, which is not supported; recompress it with gzip")
    pieces = iter((data,)) if isinstance(data, bytes) else iter(data)
    if match[2] == ".gz":
        pieces = _gunzip(pieces, name)
    parser = SnapshotParser(max_record)
    check = 1
    header = b""
    for piece in pieces:
        if len(header) < _HEADER.size:
            header += piece
            if len(header) < _HEADER.size:
                continue
            piece = header[_HEADER.size :]
            header = header[: _HEADER.size]
            magic, version, _ = _HEADER.unpack(header)
            if magic != _MAGIC or version != _VERSION:
                raise CorruptionError(
                    name, 0, f"header {magic!r} version {version}, expected {_MAGIC!r} version {_VERSION}"
                )
            check = adler32(header)
        try:
            parser.feed(piece)
        except MalformedSnapshot as malformed:
            raise CorruptionError(name, _HEADER.size + malformed.offset, malformed.reason) from None
        if parser.done:
            check = adler32(piece[: len(piece) - len(parser.leftover)], check)
            break
        check = adler32(piece, check)
    if not parser.done:
        raise CorruptionError(name, len(header) + parser.position, "the file ends within the tree")
    tree = parser.tree
    tree.last_zxid = int(match[1], 16)
    _read_tail(tree, parser.leftover, pieces, check, name, _HEADER.size + parser.position)
    return tree


def _read_tail(tree: DataTree, tail: bytes, pieces: Iterator[bytes], check: int, name: str, offset: int) -> None:
    """Verify what follows the stream at ``offset`` of the file; ``check`` is the checksum of all before it."""
    seal, longest = _SEAL.size, 3 * _SEAL.size + _DIGEST.size + LONG.size
    while len(tail) <= longest:
        piece = next(pieces, None)
        if piece is None:
            break
        tail += piece
    with_digest = len(tail) in (2 * seal + _DIGEST.size, longest)
    ends = [seal]
    if with_digest:
        ends.append(ends[-1] + _DIGEST.size + seal)
    if len(tail) in (2 * seal + LONG.size, longest):
        ends.append(ends[-1] + LONG.size + seal)
    if len(tail) != ends[-1]:
        raise CorruptionError(name, offset, f"{min(len(tail), longest + 1)} bytes behind the tree are not its seals")
    for end in ends:
        value, size, slash = _SEAL.unpack_from(tail, end - seal)
        expected = adler32(tail[: end - seal], check)
        if value != expected or size != 1 or slash != b"/":
            raise CorruptionError(
                name, offset + end - seal, f"the seal says checksum {value:#x}, the contents have {expected:#x}"
            )
    if with_digest:
        zxid, version, digest = _DIGEST.unpack_from(tail, seal)
        if version == DIGEST_VERSION and zxid >= tree.last_zxid:
            # an older one is of a time before the snapshot, and says nothing of what follows
            tree.snapshot_digest = (zxid, digest)


def _gunzip(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Decompress, a bounded piece at a time."""
    stream = decompressobj(31)
    for piece in pieces:
        while piece:
            if stream.eof:
                raise CorruptionError(name, 0, "bytes behind the end of the gzip stream")
            try:
                out = stream.decompress(piece, 1 << 20)
            except zlib.error as error:
                raise CorruptionError(name, 0, f"not a gzip stream: {error}") from None
            piece = stream.unconsumed_tail or stream.unused_data
            if out:
                yield out
    rest = stream.flush()
    if rest:
        yield rest
    if not stream.eof:
        raise CorruptionError(name, 0, "the gzip stream is cut short")
