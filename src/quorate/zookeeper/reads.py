"""The requests that a member answers from its own tree, and the watches they leave (FinalRequestProcessor.java).

Each function of :data:`READS` takes the tree, the request's body without its header, and the client, and returns the body
of the reply. It raises RequestError with the code to answer: MARSHALLING_ERROR for a body that is malformed, as Apache
does. Bytes after a record are ignored.

Lists of names and paths are sorted. Apache gives them in the order of a hash table, which clients cannot rely on; sorted,
equal trees give equal answers on every member and in every run.
"""

import struct
from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

from quorate.binary import INT, Reader, pack_string
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.acl import OPEN_ACL, Acl, pack_acl
from quorate.zookeeper.auth import mask_acl, permitted, user_name
from quorate.zookeeper.bodies import read_multi_read, read_path
from quorate.zookeeper.constants import ADMIN, READ, Code, Event, Op, WatcherType
from quorate.zookeeper.node import Node
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.watches import NO_ZXID, Watcher, event_frame

_unpack_int = INT.unpack_from
_pack_int = INT.pack
_RESULT = Struct(">i?i")
"""MultiHeader: type, done, error"""
_WATCHER_TYPES = frozenset(WatcherType)
_TRIMMED = "".join(map(chr, range(0x21)))
"""What Java's String.trim takes away."""
MULTI_READ_MAX: Final = 64 << 20
"""Bytes of data and names in one reply to a multiRead, whose request of a megabyte can name the same node 40,000 times."""
PERSISTENT_MODE: Final = 0
RECURSIVE_MODE: Final = 1
_END_OF_RESULTS = _RESULT.pack(-1, True, -1)


class ReadClient(Watcher, Protocol):
    """Who reads, and who is told of changes of what it watches. ``skip_acl``: access lists do not bind it."""

    skip_acl: bool


Read = Callable[[DataTree, bytes, ReadClient], bytes]


# ---- decoding and checks


def _path_and_watch(body: bytes) -> tuple[str, bool]:
    """The records of a path and a watch flag, when the quick way did not fit."""
    try:
        path, end = read_path(body, 0)
    except struct.error:
        raise RequestError(Code.MARSHALLING_ERROR) from None
    if end >= len(body):
        raise RequestError(Code.MARSHALLING_ERROR)
    return path, body[end] != 0


def _path(body: bytes) -> str:
    try:
        return read_path(body, 0)[0]
    except struct.error:
        raise RequestError(Code.MARSHALLING_ERROR) from None


def _path_and_number(body: bytes) -> tuple[str, int]:
    try:
        path, end = read_path(body, 0)
        return path, _unpack_int(body, end)[0]
    except struct.error:
        raise RequestError(Code.MARSHALLING_ERROR) from None


def _node(tree: DataTree, path: str) -> Node:
    node = tree.nodes.get(path)
    if node is None:
        # the empty path is the root to Apache's tree
        if path:
            raise RequestError(Code.NO_NODE)
        node = tree.nodes["/"]
    return node


def _require(acl: Acl, perm: int, client: ReadClient) -> None:
    if not permitted(acl, perm, client.identities) and not client.skip_acl:
        raise RequestError(Code.NO_AUTH)


def _readable(tree: DataTree, path: str, client: ReadClient) -> Node:
    node = _node(tree, path)
    if node.acl is not OPEN_ACL:
        _require(node.acl, READ, client)
    return node


# ---- one node


def _get_data(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    size = len(body) - 5
    if size >= 0 and _unpack_int(body)[0] == size:
        try:
            path = body[4:-1].decode()
        except UnicodeDecodeError:
            raise RequestError(Code.NO_NODE) from None
        watch = body[-1] != 0
    else:
        path, watch = _path_and_watch(body)
    node = tree.nodes.get(path)
    if node is None:
        node = _node(tree, path)
    if node.acl is not OPEN_ACL:
        _require(node.acl, READ, client)
    if watch:
        tree.watches.add_data(path, client)
    data = node.data
    stat = node.packed_stat
    if stat is None:
        stat = node.stat()
    if data is None:
        return b"\xff\xff\xff\xff" + stat
    return b"".join((_pack_int(len(data)), data, stat))


def _exists(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    size = len(body) - 5
    if size >= 0 and _unpack_int(body)[0] == size:
        try:
            path = body[4:-1].decode()
        except UnicodeDecodeError:
            path = body[4:-1].decode("utf-8", "replace")
        watch = body[-1] != 0
    else:
        path, watch = _path_and_watch(body)
    node = tree.nodes.get(path)
    if node is None:
        if path:
            if "\0" in path:
                raise RequestError(Code.BAD_ARGUMENTS)
            if watch:
                tree.watches.add_data(path, client)
            raise RequestError(Code.NO_NODE)
        node = tree.nodes["/"]
    if node.acl is not OPEN_ACL:
        _require(node.acl, READ, client)
    if watch:
        tree.watches.add_data(path, client)
    stat = node.packed_stat
    return node.stat() if stat is None else stat


def _get_acl(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    node = _node(tree, _path(body))
    acl = node.acl
    if acl is not OPEN_ACL and not client.skip_acl:
        _require(acl, READ | ADMIN, client)
        if not permitted(acl, ADMIN, client.identities):
            acl = mask_acl(acl)
    return pack_acl(acl) + node.stat()


# ---- children


def _pack_strings(strings: list[str]) -> bytes:
    parts = [_pack_int(len(strings))]
    for string in strings:
        raw = string.encode()
        parts.append(_pack_int(len(raw)))
        parts.append(raw)
    return b"".join(parts)


def _children(node: Node) -> bytes:
    children = node.children
    return _pack_strings(sorted(children)) if children else b"\0\0\0\0"


def _listed(tree: DataTree, body: bytes, client: ReadClient) -> Node:
    path, watch = _path_and_watch(body)
    node = _readable(tree, path, client)
    if watch:
        tree.watches.add_child(path, client)
    return node


def _get_children(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    return _children(_listed(tree, body, client))


def _get_children2(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    node = _listed(tree, body, client)
    return _children(node) + node.stat()


def _get_all_children_number(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    path = _path(body)
    node = _readable(tree, path, client)
    nodes = tree.nodes
    if node is nodes["/"]:
        # by the empty path Apache counts the root too
        return _pack_int(len(nodes) - (1 if path else 0))
    count = 0
    inner: list[tuple[str, Node]] = [(path, node)]
    while inner:
        path, node = inner.pop()
        if node.children:
            count += len(node.children)
            for name in node.children:
                below = f"{path}/{name}"
                child = nodes[below]
                if child.children:
                    inner.append((below, child))
    return _pack_int(count)


def _get_ephemerals(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    try:
        prefix = Reader(body).string() or ""
    except RemoteProtocolError:
        raise RequestError(Code.MARSHALLING_ERROR) from None
    paths = sorted(tree.ephemerals.get(client.session, ()))
    if prefix.strip(_TRIMMED) in ("", "/"):
        return _pack_strings(paths)
    return _pack_strings([path for path in paths if path.startswith(prefix)])


# ---- watches


def _add_watch(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    path, mode = _path_and_number(body)
    if mode == PERSISTENT_MODE:
        tree.watches.add_persistent(path, client)
    elif mode == RECURSIVE_MODE:
        tree.watches.add_recursive(path, client)
    else:
        raise RequestError(Code.MARSHALLING_ERROR)
    return b"\0\0\0\0"


def _check_watches(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    path, kind = _path_and_number(body)
    if kind not in _WATCHER_TYPES:
        raise RequestError(Code.MARSHALLING_ERROR)
    if not tree.watches.contains(path, kind, client):
        raise RequestError(Code.NO_WATCHER)
    return b""


def _remove_watches(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    path, kind = _path_and_number(body)
    if kind not in _WATCHER_TYPES:
        raise RequestError(Code.MARSHALLING_ERROR)
    if not tree.watches.remove(path, kind, client):
        raise RequestError(Code.NO_WATCHER)
    return b""


def _path_list(reader: Reader) -> list[str]:
    """``vector<ustring>`` that, like its strings, may not be null."""
    if reader.remaining() >= 4 and _unpack_int(reader.data, reader.offset)[0] == -1:
        raise RequestError(Code.MARSHALLING_ERROR)
    paths: list[str] = []
    for _ in range(reader.count(4)):
        path = reader.string()
        if path is None:
            raise RequestError(Code.MARSHALLING_ERROR)
        paths.append(path)
    return paths


def _restore_watches(tree: DataTree, body: bytes, client: ReadClient, kinds: int) -> bytes:
    """A client that reconnects names its watches and the zxid it has seen: what it missed is told at once."""
    try:
        reader = Reader(body)
        seen = reader.int64()
        lists = [_path_list(reader) for _ in range(kinds)]
    except RemoteProtocolError:
        raise RequestError(Code.MARSHALLING_ERROR) from None
    watches = tree.watches
    nodes = tree.nodes
    for path in lists[0]:
        node = nodes.get(path)
        if node is None:
            client.notify(event_frame(path, Event.DELETED, NO_ZXID))
        elif node.mzxid > seen:
            client.notify(event_frame(path, Event.DATA_CHANGED, NO_ZXID))
        else:
            watches.add_data(path, client)
    for path in lists[1]:
        if path in nodes:
            client.notify(event_frame(path, Event.CREATED, NO_ZXID))
        else:
            watches.add_data(path, client)
    for path in lists[2]:
        node = nodes.get(path)
        if node is None:
            client.notify(event_frame(path, Event.DELETED, NO_ZXID))
        elif node.pzxid > seen:
            client.notify(event_frame(path, Event.CHILDREN_CHANGED, NO_ZXID))
        else:
            watches.add_child(path, client)
    if kinds == 5:
        for path in lists[3]:
            watches.add_persistent(path, client)
        for path in lists[4]:
            watches.add_recursive(path, client)
    return b""


def _set_watches(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    return _restore_watches(tree, body, client, 3)


def _set_watches2(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    return _restore_watches(tree, body, client, 5)


# ---- the rest


def _who_am_i(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    parts = [_pack_int(len(client.identities))]
    for identity in client.identities:
        parts += (pack_string(identity.scheme), pack_string(user_name(identity)))
    return b"".join(parts)


def _multi_read(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    """Each read succeeds or fails by itself; none leaves a watch."""
    try:
        reads = read_multi_read(body)
    except struct.error:
        raise RequestError(Code.MARSHALLING_ERROR) from None
    parts: list[bytes] = []
    size = 0
    for op, path in reads:
        if size > MULTI_READ_MAX:
            raise RequestError(Code.BAD_ARGUMENTS)
        try:
            node = _readable(tree, path, client)
        except RequestError as error:
            parts.append(_RESULT.pack(Op.ERROR, False, error.code) + _pack_int(error.code))
            continue
        parts.append(_RESULT.pack(op, False, 0))
        if op == Op.GET_CHILDREN:
            children = _children(node)
            size += len(children)
            parts.append(children)
        else:
            data = node.data
            if data is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                size += len(data)
                parts += (_pack_int(len(data)), data)
            parts.append(node.stat())
    parts.append(_END_OF_RESULTS)
    return b"".join(parts)


READS: Final[dict[int, Read]] = {
    int(Op.EXISTS): _exists,
    int(Op.GET_DATA): _get_data,
    int(Op.GET_ACL): _get_acl,
    int(Op.GET_CHILDREN): _get_children,
    int(Op.GET_CHILDREN2): _get_children2,
    int(Op.CHECK_WATCHES): _check_watches,
    int(Op.REMOVE_WATCHES): _remove_watches,
    int(Op.SET_WATCHES): _set_watches,
    int(Op.SET_WATCHES2): _set_watches2,
    int(Op.GET_EPHEMERALS): _get_ephemerals,
    int(Op.GET_ALL_CHILDREN_NUMBER): _get_all_children_number,
    int(Op.ADD_WATCH): _add_watch,
    int(Op.WHO_AM_I): _who_am_i,
    int(Op.MULTI_READ): _multi_read,
}
