"""The leader's decision on every write: what transaction it becomes (PrepRequestProcessor.java).

Requests are checked against the tree as it will be when they are applied: the applied tree plus the changes of all
transactions proposed and not applied yet, which the :class:`Preparer` keeps by path. A transaction is therefore never
refused when it is applied, and many can be on their way at once. A request that fails becomes an Error transaction (each
failure is logged and consumes a zxid), a multi that fails a Multi of Errors.

Every transaction that leaves the tree's digest defined carries the digest of the tree after it; as in Apache, a failed
single request carries none. Sessions are tracked elsewhere; here it is only made sure that no ephemeral can outlive its
session: one that closes, or is not known to the tree, creates none.
"""

import struct
from collections import deque
from typing import Final

from quorate.binary import INT
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.acl import OPEN_ACL, Acl, intern_acl
from quorate.zookeeper.auth import fix_acl, permitted
from quorate.zookeeper.bodies import (
    NO_TTL,
    Part,
    check_reconfig,
    read_create,
    read_delete,
    read_multi,
    read_path,
    read_set_acl,
    read_set_data,
    read_ttl,
)
from quorate.zookeeper.changes import Change, change_of, copy_change
from quorate.zookeeper.constants import (
    ADMIN,
    CONTAINER_OWNER,
    CREATE,
    DELETE,
    EPHEMERAL,
    EPHEMERAL_SEQUENTIAL,
    MAX_TTL,
    PERSISTENT_SEQUENTIAL,
    PERSISTENT_SEQUENTIAL_WITH_TTL,
    PERSISTENT_WITH_TTL,
    READ,
    TTL_OWNER_MASK,
    WRITE,
    Code,
    Op,
)
from quorate.zookeeper.digest import digest_of
from quorate.zookeeper.paths import SYSTEM_NODES, parent_path, valid_name, valid_path
from quorate.zookeeper.quota import exceeds
from quorate.zookeeper.request import Request, RequestError
from quorate.zookeeper.settings import Settings as Settings
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import (
    Check,
    CloseSession,
    Create,
    CreateSession,
    Delete,
    Error,
    Multi,
    Record,
    SetAcl,
    SetData,
    Txn,
)

# plain numbers: looking up a member of an enumeration costs more than comparing with it
_OP_CHECK: Final = int(Op.CHECK)
_OP_CLOSE_SESSION: Final = int(Op.CLOSE_SESSION)
_OP_CREATE: Final = int(Op.CREATE)
_OP_CREATE2: Final = int(Op.CREATE2)
_OP_CREATE_CONTAINER: Final = int(Op.CREATE_CONTAINER)
_OP_CREATE_TTL: Final = int(Op.CREATE_TTL)
_OP_CREATE_SESSION: Final = int(Op.CREATE_SESSION)
_OP_DELETE: Final = int(Op.DELETE)
_OP_MULTI: Final = int(Op.MULTI)
_OP_SET_DATA: Final = int(Op.SET_DATA)

RECORD_SLACK = 1024
"""Bytes a log record may have above jute.maxbuffer (Apache's jute.maxbuffer.extrasize), so that requests up to it fit."""
_GROWTH = 128
"""More bytes than a transaction without ``auth`` in its access list has above its request: headers, digest, a suffix."""
_PART_GROWTH = 16
"""The same for a part of a multi."""

_DIGEST_MASK = (1 << 64) - 1
_INT_MAX = 0x7FFFFFFF


def _next_version(current: int, expected: int) -> int:
    """The version after a change that expects ``expected``, -1 for any. Raises RequestError(BAD_VERSION)."""
    if expected != current and expected != -1:
        raise RequestError(Code.BAD_VERSION)
    if current == _INT_MAX:
        return -_INT_MAX - 1
    # -1 would be a version that nobody could expect (ZOOKEEPER-4743)
    return current + 1 if current != -2 else 0


class Preparer:
    """Turns requests into transactions. ``applied`` must be told what the tree has applied, in order.

    All outstanding changes of one path share one Change, updated in place; ``_order`` has an entry per change, so that a
    path is forgotten when its newest change is applied. A request changes nothing before its last check, but for the
    parts of a multi, which are taken back if a later part fails.
    """

    __slots__ = (
        "_changes",
        "_closing",
        "_digest",
        "_digests",
        "_limit",
        "_opening",
        "_order",
        "_settings",
        "_small",
        "_tree",
        "_undo",
    )

    def __init__(self, tree: DataTree, settings: Settings) -> None:
        self._tree = tree
        self._settings = settings
        self._digests = settings.digest_enabled
        self._limit = settings.max_buffer + RECORD_SLACK
        """Bytes of the largest transaction."""
        self._small = self._limit - _GROWTH
        """A request body up to this size makes no transaction above the limit, but for ``auth`` in its access list."""
        self._changes: dict[str, Change] = {}
        self._order: deque[tuple[int, str]] = deque()
        """(zxid, path) of the changes not applied yet, oldest first."""
        self._digest = 0
        """The tree's digest after everything prepared so far; the tree's own if nothing is outstanding."""
        self._undo: dict[str, Change | None] | None = None
        """While a multi is prepared: the changes as they were before it."""
        self._opening: dict[int, int] = {}
        """Sessions whose creation is prepared and not applied yet, with its zxid."""
        self._closing: dict[int, int] = {}
        """Sessions whose end is prepared and not applied yet, with its zxid."""

    def prepare(self, request: Request, zxid: int, time_ms: int) -> Txn:
        """The transaction of a request, with the next zxid and the wall clock's time. Never raises for what clients send."""
        if not self._order:
            self._digest = self._tree.digest
        digest: int | None = None
        try:
            record = self._record(request, zxid, time_ms)
            if self._digests:
                digest = self._digest
        except RequestError as error:
            record = Error(error.code)
        except (struct.error, RemoteProtocolError):
            record = Error(Code.MARSHALLING_ERROR)
        return Txn(request.session, request.cxid, zxid, time_ms, record, digest)

    def applied(self, zxid: int) -> None:
        """The tree has applied everything up to ``zxid``."""
        order = self._order
        if order:
            changes = self._changes
            if order[-1][0] <= zxid:
                order.clear()
                changes.clear()
            else:
                while order[0][0] <= zxid:
                    path = order.popleft()[1]
                    change = changes.get(path)
                    if change is not None and change.zxid <= zxid:
                        del changes[path]
        if self._opening:
            self._opening = {session: at for session, at in self._opening.items() if at > zxid}
        if self._closing:
            self._closing = {session: at for session, at in self._closing.items() if at > zxid}

    def reset(self) -> None:
        """Forget everything prepared and not applied: it never will be."""
        self._changes.clear()
        self._order.clear()
        self._opening.clear()
        self._closing.clear()

    @property
    def outstanding(self) -> int:
        """Changes prepared and not applied yet."""
        return len(self._order)

    # ---- requests

    def _record(self, request: Request, zxid: int, time: int) -> Record:
        op = request.op
        body = request.body
        if op == _OP_MULTI:
            return self._multi(request, zxid, time)
        if op == _OP_CLOSE_SESSION:
            return self._close_session(request.session, zxid)
        if self._closing and request.session in self._closing and op != _OP_CREATE_SESSION:
            raise RequestError(Code.SESSION_EXPIRED)
        if op == _OP_SET_DATA:
            path, data, version, _ = read_set_data(body, 0)
            return self._set_data(request, zxid, time, path, data, version)
        if op == _OP_CREATE or op == _OP_CREATE2 or op == _OP_CREATE_CONTAINER or op == _OP_CREATE_TTL:
            path, data, acl, flags, end = read_create(body, 0)
            ttl = read_ttl(body, end) if op == _OP_CREATE_TTL else NO_TTL
            return self._create(request, zxid, time, op, path, data, acl, flags, ttl)
        if op == _OP_DELETE:
            path, version, _ = read_delete(body, 0)
            return self._delete(request, zxid, path, version)
        if op == Op.SET_ACL:
            path, acl, version = read_set_acl(body)
            return self._set_acl(request, zxid, path, acl, version)
        if op == Op.DELETE_CONTAINER:
            return self._delete_container(request, zxid, read_path(body, 0)[0])
        if op == _OP_CREATE_SESSION:
            timeout: int = INT.unpack_from(body)[0]
            self._opening[request.session] = zxid
            self._closing.pop(request.session, None)
            return CreateSession(timeout)
        if op == Op.RECONFIG:
            check_reconfig(body)
            raise RequestError(Code.RECONFIG_DISABLED)
        # Apache takes a check outside a multi for no request at all
        raise RequestError(Code.UNIMPLEMENTED)

    def _set_data(
        self, request: Request, zxid: int, time: int, path: str, data: bytes | None, expected: int
    ) -> SetData:
        change = self._find(path)
        if change is None:
            raise RequestError(Code.NO_NODE if valid_path(path) else Code.BAD_ARGUMENTS)
        if change.acl is not OPEN_ACL:
            self._require(change.acl, WRITE, request)
        if self._settings.enforce_quota:
            old = change.data
            self._check_quota(path, (0 if data is None else len(data)) - (0 if old is None else len(old)), 0)
        version = _next_version(change.version, expected)
        record = SetData(path, data, version)
        if len(request.body) > self._small:
            self._check_size(record)
        if self._undo is not None:
            self._remember(path)
        change.data = data
        change.version = version
        change.mtime = time
        change.mzxid = zxid
        self._changed(path, change, zxid)
        return record

    def _create(
        self,
        request: Request,
        zxid: int,
        time: int,
        op: int,
        path: str,
        data: bytes | None,
        given_acl: Acl,
        flags: int,
        ttl: int,
    ) -> Create:
        if not 0 <= flags <= PERSISTENT_SEQUENTIAL_WITH_TTL:
            raise RequestError(Code.BAD_ARGUMENTS)
        if flags == PERSISTENT_WITH_TTL or flags == PERSISTENT_SEQUENTIAL_WITH_TTL:
            if not self._settings.extended_types_enabled:
                raise RequestError(Code.UNIMPLEMENTED)
            if not 0 < ttl <= MAX_TTL:
                raise RequestError(Code.BAD_ARGUMENTS)
        elif op == _OP_CREATE_TTL:
            # Apache lets a negative TTL pass here and dies of it when it applies the transaction
            raise RequestError(Code.BAD_ARGUMENTS)
        ephemeral = flags == EPHEMERAL or flags == EPHEMERAL_SEQUENTIAL
        if ephemeral and request.session not in self._tree.sessions and request.session not in self._opening:
            raise RequestError(Code.SESSION_EXPIRED)
        slash = path.rfind("/")
        if slash < 0 or "\0" in path:
            raise RequestError(Code.BAD_ARGUMENTS)
        acl = given_acl
        if acl is not OPEN_ACL:
            acl = intern_acl(fix_acl(acl, request.identities))
        above = path[:slash] or "/"
        parent = self._find(above)
        if parent is None:
            raise RequestError(Code.NO_NODE)
        if parent.acl is not OPEN_ACL:
            self._require(parent.acl, CREATE, request)
        if flags == PERSISTENT_SEQUENTIAL or flags == EPHEMERAL_SEQUENTIAL or flags == PERSISTENT_SEQUENTIAL_WITH_TTL:
            path += f"{parent.cversion:010d}"
        # the parent exists, so only the name is in doubt; a slash at 1 after a parent that exists is "//name"
        if slash == 1 or not valid_name(path[slash + 1 :]):
            raise RequestError(Code.NODE_EXISTS if path == "/" else Code.BAD_ARGUMENTS)
        if self._exists(path):
            raise RequestError(Code.NODE_EXISTS)
        if parent.owner != 0 and self._is_session(parent.owner):
            raise RequestError(Code.NO_CHILDREN_FOR_EPHEMERALS)
        if self._settings.enforce_quota:
            self._check_quota(path, 0 if data is None else len(data), 1)
        owner = 0
        if op == _OP_CREATE_CONTAINER:
            owner = CONTAINER_OWNER
            ephemeral = False
        elif op == _OP_CREATE_TTL:
            owner = TTL_OWNER_MASK | ttl
        elif ephemeral:
            owner = request.session
        cversion = parent.cversion + 1 if parent.cversion != _INT_MAX else -_INT_MAX - 1
        record = Create(op, path, data, acl, ephemeral, cversion, ttl)
        if len(request.body) > self._small or (acl is not OPEN_ACL and _names_caller(given_acl)):
            self._check_size(record)
        if self._undo is not None:
            self._remember(above)
            self._remember(path)
        parent.children += 1
        if cversion > parent.cversion:
            parent.cversion = cversion
            parent.pzxid = zxid
        self._changed(above, parent, zxid)
        self._changed(path, Change(data, acl, owner, zxid, time), zxid)
        return record

    def _delete(self, request: Request, zxid: int, path: str, expected: int) -> Delete:
        parent = self._parent_of_deleted(path)
        if parent.acl is not OPEN_ACL:
            self._require(parent.acl, DELETE, request)
        change = self._find(path)
        if change is None:
            raise RequestError(Code.NO_NODE)
        if expected != change.version and expected != -1:
            raise RequestError(Code.BAD_VERSION)
        if change.children > 0:
            raise RequestError(Code.NOT_EMPTY)
        self._gone(path, change, parent_path(path), parent, zxid)
        return Delete(Op.DELETE, path)

    def _delete_container(self, request: Request, zxid: int, path: str) -> Delete:
        if request.session != 0:
            # the server's own request: no access list is asked
            raise RequestError(Code.BAD_ARGUMENTS)
        parent = self._parent_of_deleted(path)
        change = self._find(path)
        if change is None:
            raise RequestError(Code.NO_NODE)
        if change.children > 0:
            raise RequestError(Code.NOT_EMPTY)
        if change.owner == 0 or self._is_session(change.owner):
            # made anew as another kind of node since the server looked
            raise RequestError(Code.BAD_VERSION)
        self._gone(path, change, parent_path(path), parent, zxid)
        return Delete(Op.DELETE_CONTAINER, path)

    def _set_acl(self, request: Request, zxid: int, path: str, given_acl: Acl, expected: int) -> SetAcl:
        if not valid_path(path):
            raise RequestError(Code.BAD_ARGUMENTS)
        acl = fix_acl(given_acl, request.identities)
        change = self._find(path)
        if change is None:
            raise RequestError(Code.NO_NODE)
        if change.acl is not OPEN_ACL:
            self._require(change.acl, ADMIN, request)
        version = _next_version(change.aversion, expected)
        record = SetAcl(path, intern_acl(acl), version)
        if len(request.body) > self._small or _names_caller(given_acl):
            self._check_size(record)
        change.acl = record.acl
        change.aversion = version
        self._changed(path, change, zxid)
        return record

    def _check(self, request: Request, path: str, expected: int) -> Check:
        change = self._find(path)
        if change is None:
            raise RequestError(Code.NO_NODE if valid_path(path) else Code.BAD_ARGUMENTS)
        if change.acl is not OPEN_ACL:
            self._require(change.acl, READ, request)
        return Check(path, _next_version(change.version, expected))

    def _multi(self, request: Request, zxid: int, time: int) -> Multi:
        try:
            parts = read_multi(request.body)
        except RequestError:
            raise RequestError(Code.MARSHALLING_ERROR) from None
        digest = self._digest
        undo = self._undo = {}
        records: list[Record] = []
        code: int = Code.OK
        try:
            if parts and self._closing and request.session in self._closing:
                raise RequestError(Code.SESSION_EXPIRED)
            for part in parts:
                records.append(self._part(request, zxid, time, part))
        except RequestError as error:
            code = error.code
        finally:
            self._undo = None
        multi = Multi(records)
        if code == Code.OK:
            grown = any(part.acl is not OPEN_ACL and _names_caller(part.acl) for part in parts)
            if (grown or len(request.body) + _PART_GROWTH * len(parts) > self._small) and len(
                multi.pack()
            ) > self._small:
                self._take_back(undo, zxid, digest)
                raise RequestError(Code.MARSHALLING_ERROR)
            return multi
        self._take_back(undo, zxid, digest)
        failed = len(records)
        results: list[Record] = [Error(Code.OK)] * failed
        results.append(Error(code))
        results += [Error(Code.RUNTIME_INCONSISTENCY)] * (len(parts) - failed - 1)
        return Multi(results)

    def _part(self, request: Request, zxid: int, time: int, part: Part) -> Record:
        op = part.op
        if op == _OP_SET_DATA:
            return self._set_data(request, zxid, time, part.path, part.data, part.version)
        if op == _OP_DELETE:
            return self._delete(request, zxid, part.path, part.version)
        if op == _OP_CHECK:
            return self._check(request, part.path, part.version)
        return self._create(request, zxid, time, op, part.path, part.data, part.acl, part.flags, part.ttl)

    def _take_back(self, undo: dict[str, Change | None], zxid: int, digest: int) -> None:
        order = self._order
        while order and order[-1][0] == zxid:
            order.pop()
        changes = self._changes
        for path, change in undo.items():
            if change is not None:
                changes[path] = change
            else:
                changes.pop(path, None)
        self._digest = digest

    def _close_session(self, session: int, zxid: int) -> CloseSession:
        if session == 0:
            raise RequestError(Code.BAD_ARGUMENTS)
        paths = set(self._tree.ephemerals.get(session, ()))
        for path, change in self._changes.items():
            if change.alive and change.owner == session:
                paths.add(path)
            else:
                paths.discard(path)
        ordered = sorted(paths)
        for path in ordered:
            change_of_path = self._find(path)
            above = parent_path(path)
            parent = self._find(above)
            assert change_of_path is not None, "an ephemeral is in the tree or among the changes"
            assert parent is not None, "every node but the root has a parent"
            self._gone(path, change_of_path, above, parent, zxid)
        self._closing[session] = zxid
        return CloseSession(ordered)

    # ---- the tree as it will be

    def _find(self, path: str) -> Change | None:
        """The node as it will be, None if there will be none. Not among the changes until ``_changed`` says so."""
        change = self._changes.get(path)
        if change is not None:
            return change if change.alive else None
        node = self._tree.nodes.get(path)
        return None if node is None else change_of(node)

    def _exists(self, path: str) -> bool:
        change = self._changes.get(path)
        return path in self._tree.nodes if change is None else change.alive

    def _changed(self, path: str, change: Change, zxid: int) -> None:
        if self._digests:
            new = digest_of(
                path,
                change.data,
                change.czxid,
                change.mzxid,
                change.pzxid,
                change.ctime,
                change.mtime,
                change.version,
                change.cversion,
                change.aversion,
                change.owner,
            )
            self._digest = (self._digest - change.digest + new) & _DIGEST_MASK
            change.digest = new
        change.zxid = zxid
        self._changes[path] = change
        self._order.append((zxid, path))

    def _gone(self, path: str, change: Change, above: str, parent: Change, zxid: int) -> None:
        if self._undo is not None:
            self._remember(above)
            self._remember(path)
        parent.children -= 1
        parent.pzxid = zxid
        self._changed(above, parent, zxid)
        self._digest = (self._digest - change.digest) & _DIGEST_MASK
        change.digest = 0
        change.alive = False
        change.zxid = zxid
        self._changes[path] = change
        self._order.append((zxid, path))

    def _remember(self, path: str) -> None:
        undo = self._undo
        assert undo is not None, "only a multi is taken back"
        if path not in undo:
            change = self._changes.get(path)
            undo[path] = None if change is None else copy_change(change)

    # ---- checks

    def _parent_of_deleted(self, path: str) -> Change:
        if "/" not in path or "\0" in path or path in SYSTEM_NODES:
            raise RequestError(Code.BAD_ARGUMENTS)
        parent = self._find(parent_path(path))
        if parent is None:
            raise RequestError(Code.NO_NODE)
        return parent

    def _require(self, acl: Acl, perm: int, request: Request) -> None:
        if not self._settings.skip_acl and not permitted(acl, perm, request.identities):
            raise RequestError(Code.NO_AUTH)

    def _is_session(self, owner: int) -> bool:
        """Whether an ephemeralOwner other than 0 is a session; the marks of TTL nodes only count where there are such."""
        if owner == CONTAINER_OWNER:
            return False
        return not (self._settings.extended_types_enabled and owner >> 56 == -1)

    def _check_quota(self, path: str, more_bytes: int, more_nodes: int) -> None:
        if exceeds(self._tree, path, more_bytes, more_nodes):
            raise RequestError(Code.QUOTA_EXCEEDED)

    def _check_size(self, record: Record) -> None:
        if len(record.pack()) > self._small:
            # a larger one could be logged and never read again (ZOOKEEPER-3496)
            raise RequestError(Code.MARSHALLING_ERROR)


def _names_caller(acl: Acl) -> bool:
    """Whether ``auth`` in the list stands for something of unknown size."""
    return any(entry.scheme == "auth" for entry in acl)
