"""The replicated tree: what all committed transactions together have made (DataTree, and ZKDatabase's session table).

Transactions were checked by the leader; applying one cannot fail in a way that matters. During recovery they are applied
again over a snapshot that was written while they were being applied the first time, so every one of them may find its
work done already, or undone by a later one: a create that finds its node takes over its access list and lifts the parent's
cversion and pzxid, a delete that finds none still lifts the parent's pzxid, a change of a node that is gone changes
nothing, and cversion and pzxid never go back. When all have been applied, the tree is exact again.

Watches fire while a transaction is applied, before :meth:`DataTree.apply` returns; in a multi, part by part.
"""

from collections import deque
from typing import Final

from quorate.zookeeper.acl import OPEN_ACL, READ_ACL, Acl
from quorate.zookeeper.constants import (
    CONFIG_NODE,
    CONTAINER_OWNER,
    MAX_TTL,
    QUOTA_ROOT,
    TTL_OWNER_MASK,
    Code,
    Event,
    Op,
)
from quorate.zookeeper.digest import DIGEST_MASK, node_digest
from quorate.zookeeper.node import Node, new_root
from quorate.zookeeper.quota import covering, format_stats, limited_by, measure, measured_by, parse_stats, stats_path
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
from quorate.zookeeper.watches import Watches

# plain numbers: looking up a member of an enumeration costs more than comparing with it
_NO_NODE: Final = int(Code.NO_NODE)
_NODE_EXISTS: Final = int(Code.NODE_EXISTS)
_RUNTIME_INCONSISTENCY: Final = int(Code.RUNTIME_INCONSISTENCY)
_CREATE: Final = int(Op.CREATE)
_CREATE_CONTAINER: Final = int(Op.CREATE_CONTAINER)
_CREATE_TTL: Final = int(Op.CREATE_TTL)
_CREATED: Final = int(Event.CREATED)
_DELETED: Final = int(Event.DELETED)
_DATA_CHANGED: Final = int(Event.DATA_CHANGED)
_CHILDREN_CHANGED: Final = int(Event.CHILDREN_CHANGED)

DIGEST_LOG_INTERVAL: Final = 128
DIGEST_LOG_LIMIT: Final = 1024


class Outcome:
    """What became of a transaction, for the reply to its client.

    ``code`` is a ``constants.Code``. ``path`` is that of the node; ``stat`` its packed Stat after the change where the
    reply has one (None after CREATE, DELETE and failures, and if it was not asked for). ``parts`` are the outcomes of a
    multi's parts: if it failed, those before the culprit have code 0, the culprit its code, those behind it
    RUNTIME_INCONSISTENCY, and ``code`` is 0 all the same, because Apache's reply to a failed multi says so in its header.
    """

    __slots__ = ("code", "parts", "path", "stat")

    def __init__(
        self,
        code: int = 0,
        path: str | None = None,
        stat: bytes | None = None,
        parts: "list[Outcome] | None" = None,
    ) -> None:
        self.code = code
        self.path = path
        self.stat = stat
        self.parts = parts


def is_ttl_owner(owner: int) -> bool:
    """Whether this ephemeralOwner marks a node with a time to live (its low 40 bits, in ms) and is no session."""
    return TTL_OWNER_MASK <= owner <= TTL_OWNER_MASK + MAX_TTL


class DataTree:
    """``nodes``, by path, hold each parent before its children; the root ``/`` is first."""

    __slots__ = (
        "acls",
        "containers",
        "data_size",
        "digest",
        "digest_log",
        "ephemerals",
        "last_zxid",
        "limited",
        "nodes",
        "sessions",
        "snapshot_digest",
        "ttl_nodes",
        "watches",
    )

    def __init__(self) -> None:
        """A fresh tree: the root and the system nodes."""
        self.nodes: dict[str, Node] = {}
        self.sessions: dict[int, int] = {}
        """Session id to timeout in ms."""
        self.ephemerals: dict[int, set[str]] = {}
        """Session id to the paths it owns; no empty sets."""
        self.containers: set[str] = set()
        self.ttl_nodes: set[str] = set()
        self.last_zxid = 0
        self.digest = 0
        self.digest_log: deque[tuple[int, int]] = deque(maxlen=DIGEST_LOG_LIMIT)
        """(zxid, digest) of every 128th zxid, oldest first."""
        self.snapshot_digest: tuple[int, int] | None = None
        """Of the snapshot file this was loaded from: a zxid and the digest that the tree has once it is applied."""
        self.watches = Watches()
        self.limited: set[str] = set()
        """Paths with a quota."""
        self.acls: dict[Acl, int] = {}
        """How many nodes have each access list; the open one is not counted."""
        self.data_size = 0
        """Lengths of all paths and data."""
        for path in ("/", "/zookeeper", QUOTA_ROOT, CONFIG_NODE):
            self._put(path, new_root())
        self.nodes["/"].children = {"zookeeper"}
        self.nodes["/zookeeper"].children = {"quota", "config"}
        config = self.nodes[CONFIG_NODE]
        config.acl = READ_ACL
        # as Apache's tree, which sets this list in place of the open one
        config.aversion = -1
        self.acls[READ_ACL] = 1

    def _put(self, path: str, node: Node) -> None:
        self.nodes[path] = node
        node.digest = node_digest(path, node)
        self.digest = (self.digest + node.digest) & DIGEST_MASK
        self.data_size += len(path) + (0 if node.data is None else len(node.data))

    # ---- applying

    def apply(self, txn: Txn, reply: bool = True) -> Outcome:
        """Apply a committed transaction and fire the watches it concerns.

        With ``reply`` False nobody asks for the stat in the outcome, and none is packed.
        """
        zxid = txn.zxid
        record = txn.record
        if isinstance(record, Multi):
            outcome = self._multi(record, txn, reply)
        elif isinstance(record, CreateSession):
            self.sessions[txn.session] = record.timeout
            outcome = Outcome()
        elif isinstance(record, CloseSession):
            self._close_session(record, txn.session, zxid)
            outcome = Outcome()
        else:
            outcome = self._apply(record, txn.session, zxid, txn.time, reply)
        if zxid > self.last_zxid:
            # only now: a snapshot begun between the parts of a multi would else claim to hold all of it
            self.last_zxid = zxid
        if not zxid % DIGEST_LOG_INTERVAL:
            self.digest_log.append((zxid, self.digest))
        return outcome

    def _apply(self, record: Record, session: int, zxid: int, time: int, reply: bool) -> Outcome:
        if isinstance(record, SetData):
            return self._set_data(record, zxid, time, reply)
        if isinstance(record, Create):
            return self._create(record, session, zxid, time, reply)
        if isinstance(record, Delete):
            return Outcome(self._delete(record.path, zxid), record.path)
        if isinstance(record, SetAcl):
            return self._set_acl(record, reply)
        if isinstance(record, Check):
            return Outcome(0, record.path)
        assert isinstance(record, Error), f"transaction {zxid:#x} holds a {type(record).__name__} where none can be"
        return Outcome(record.code)

    def _multi(self, multi: Multi, txn: Txn, reply: bool) -> Outcome:
        parts = multi.parts
        for part in parts:
            if isinstance(part, Error):
                return Outcome(parts=_failed_parts(parts))
        session, zxid, time = txn.session, txn.zxid, txn.time
        return Outcome(parts=[self._apply(part, session, zxid, time, reply) for part in parts])

    def _set_data(self, record: SetData, zxid: int, time: int, reply: bool) -> Outcome:
        path = record.path
        node = self.nodes.get(path)
        if node is None:
            return Outcome(_NO_NODE, path)
        old, data = node.data, record.data
        node.data = data
        node.mtime = time
        node.mzxid = zxid
        node.version = record.version
        node.packed_stat = None
        digest = node_digest(path, node)
        self.digest = (self.digest - node.digest + digest) & DIGEST_MASK
        node.digest = digest
        grown = (0 if data is None else len(data)) - (0 if old is None else len(old))
        self.data_size += grown
        if self.limited:
            self._count_quota(path, grown, 0)
        watches = self.watches
        if path in watches.data_watchers or watches.recursive:
            watches.trigger(path, _DATA_CHANGED, zxid, node.acl)
        return Outcome(0, path, node.stat() if reply else None)

    def _create(self, record: Create, session: int, zxid: int, time: int, reply: bool) -> Outcome:
        path = record.path
        nodes = self.nodes
        parent_path, slash, name = path.rpartition("/")
        if not parent_path:
            parent_path = "/"
        parent = nodes.get(parent_path)
        if parent is None or not slash:
            return Outcome(_NO_NODE, path)
        if path in nodes:
            self._create_again(record, parent_path, parent, zxid)
            return Outcome(_NODE_EXISTS, path)
        op = record.op
        if record.ephemeral:
            owner = session
        elif op == _CREATE_CONTAINER:
            owner = CONTAINER_OWNER
        elif op == _CREATE_TTL:
            owner = TTL_OWNER_MASK | record.ttl
        else:
            owner = 0
        acl = record.acl
        data = record.data
        nodes[path] = node = Node(data, acl, owner, zxid, time)
        if parent.children is None:
            parent.children = {name}
        else:
            parent.children.add(name)
        cversion = record.parent_cversion
        if cversion == -1:
            cversion = parent.cversion + 1
        if parent.cversion < cversion <= 0x7FFFFFFF:
            parent.cversion = cversion
            parent.pzxid = zxid
        parent.packed_stat = None
        node.digest = node_digest(path, node)
        parent_digest = node_digest(parent_path, parent)
        self.digest = (self.digest - parent.digest + parent_digest + node.digest) & DIGEST_MASK
        parent.digest = parent_digest
        size = 0 if data is None else len(data)
        self.data_size += len(path) + size
        if acl is not OPEN_ACL:
            self.acls[acl] = self.acls.get(acl, 0) + 1
        if owner:
            self.own(path, owner)
        if self.limited or parent_path.startswith("/zookeeper/quota"):
            self._quota_created(path, size)
        watches = self.watches
        recursive = watches.recursive
        if recursive or path in watches.data_watchers:
            watches.trigger(path, _CREATED, zxid, acl)
        if parent_path in watches.child_watchers:
            watches.trigger(parent_path, _CHILDREN_CHANGED, zxid, parent.acl)
        return Outcome(0, path, node.stat() if reply and op != _CREATE else None)

    def _create_again(self, record: Create, parent_path: str, parent: Node, zxid: int) -> None:
        """A replayed create whose node is there already.

        Apache lifts the parent's numbers for the oldest kind of create only; the member that did not restart has them
        lifted by every kind, so here they are too.
        """
        self._change_acl(self.nodes[record.path], record.acl)
        cversion = parent.cversion + 1 if record.parent_cversion == -1 else record.parent_cversion
        if parent.cversion < cversion <= 0x7FFFFFFF:
            parent.cversion = cversion
            parent.pzxid = zxid
            self._changed(parent_path, parent)

    def _delete(self, path: str, zxid: int) -> int:
        """The outcome's code."""
        parent_path, slash, name = path.rpartition("/")
        if not parent_path:
            parent_path = "/"
        nodes = self.nodes
        parent = nodes.get(parent_path)
        if parent is None or not slash or not name:
            return _NO_NODE
        node = nodes.pop(path, None)
        if node is not None and node.children is not None:
            self._drop_later(path, node, node.children, zxid)
        children = parent.children
        if children is not None:
            children.discard(name)
            if not children:
                parent.children = None
        if zxid > parent.pzxid:
            parent.pzxid = zxid
        parent.packed_stat = None
        parent_digest = node_digest(parent_path, parent)
        digest = self.digest - parent.digest + parent_digest
        parent.digest = parent_digest
        if node is None:
            self.digest = digest & DIGEST_MASK
            return _NO_NODE
        self.digest = (digest - node.digest) & DIGEST_MASK
        acl = node.acl
        if acl is not OPEN_ACL:
            self._release(acl)
        if node.owner:
            self._disown(path, node.owner)
        size = 0 if node.data is None else len(node.data)
        self.data_size -= len(path) + size
        if self.limited:
            subject = limited_by(path)
            if subject is not None:
                self.limited.discard(subject)
            self._count_quota(path, -size, -1)
        watches = self.watches
        if path in watches.data_watchers or watches.recursive or path in watches.child_watchers:
            watches.trigger(path, _DELETED, zxid, acl)
        if parent_path in watches.child_watchers:
            watches.trigger(parent_path, _CHILDREN_CHANGED, zxid, parent.acl)
        return 0

    def _drop_later(self, path: str, node: Node, names: set[str], zxid: int) -> None:
        """The children of a node that is being deleted: it had none when that was decided.

        They belong to a later node of the same path, which the snapshot had already; replay will make them again. (Apache
        keeps them, out of reach of their parent.)
        """
        self.nodes[path] = node
        for name in sorted(names):
            self._delete(f"{path}/{name}", zxid)
        del self.nodes[path]

    def _set_acl(self, record: SetAcl, reply: bool) -> Outcome:
        path = record.path
        node = self.nodes.get(path)
        if node is None:
            return Outcome(_NO_NODE, path)
        self._change_acl(node, record.acl)
        node.aversion = record.version
        self._changed(path, node)
        return Outcome(0, path, node.stat() if reply else None)

    def _close_session(self, record: CloseSession, session: int, zxid: int) -> None:
        """Delete what the transaction names, then what else the session owns here (all of it, if that is an old log's)."""
        left = self.ephemerals.pop(session, None)
        if record.paths is not None:
            for path in record.paths:
                self._delete(path, zxid)
                if left is not None:
                    left.discard(path)
        if left:
            for path in sorted(left):
                self._delete(path, zxid)
        self.sessions.pop(session, None)

    # ---- what hangs on a node

    def _changed(self, path: str, node: Node) -> None:
        """The Stat has changed."""
        node.packed_stat = None
        digest = node_digest(path, node)
        self.digest = (self.digest - node.digest + digest) & DIGEST_MASK
        node.digest = digest

    def _change_acl(self, node: Node, acl: Acl) -> None:
        if node.acl is not OPEN_ACL:
            self._release(node.acl)
        if acl is not OPEN_ACL:
            self.acls[acl] = self.acls.get(acl, 0) + 1
        node.acl = acl

    def _release(self, acl: Acl) -> None:
        count = self.acls[acl]
        if count == 1:
            del self.acls[acl]
        else:
            self.acls[acl] = count - 1

    def own(self, path: str, owner: int) -> None:
        """Enter a node, by its ephemeralOwner, among the containers, the TTL nodes or a session's ephemerals."""
        if owner == CONTAINER_OWNER:
            self.containers.add(path)
        elif TTL_OWNER_MASK <= owner <= TTL_OWNER_MASK + MAX_TTL:
            self.ttl_nodes.add(path)
        else:
            paths = self.ephemerals.get(owner)
            if paths is None:
                self.ephemerals[owner] = {path}
            else:
                paths.add(path)

    def _disown(self, path: str, owner: int) -> None:
        if owner == CONTAINER_OWNER:
            self.containers.discard(path)
        elif is_ttl_owner(owner):
            self.ttl_nodes.discard(path)
        else:
            paths = self.ephemerals.get(owner)
            if paths is not None:
                paths.discard(path)
                if not paths:
                    del self.ephemerals[owner]

    # ---- quotas

    def _quota_created(self, path: str, size: int) -> None:
        subject = limited_by(path)
        if subject is not None:
            self.limited.add(subject)
        subject = measured_by(path)
        if subject is not None:
            self.measure_quota(subject)
        self._count_quota(path, size, 1)

    def measure_quota(self, subject: str) -> None:
        """Count afresh what is used of the quota on ``subject``."""
        self._set_quota_stats(stats_path(subject), measure(self.nodes, subject))

    def _count_quota(self, path: str, bytes_diff: int, count_diff: int) -> None:
        subject = covering(self.limited, path)
        if subject is None:
            return
        node = self.nodes.get(stats_path(subject))
        if node is not None:
            stats = parse_stats(node.data)
            stats["count"] = stats.get("count", -1) + count_diff
            stats["bytes"] = stats.get("bytes", -1) + bytes_diff
            self._set_quota_stats(stats_path(subject), stats)

    def _set_quota_stats(self, path: str, stats: dict[str, int]) -> None:
        # no transaction's doing: neither the Stat's zxids and versions nor the digest change, and no watch fires
        node = self.nodes.get(path)
        if node is not None:
            data = format_stats(stats)
            self.data_size += len(data) - (0 if node.data is None else len(node.data))
            node.data = data
            node.packed_stat = None

    # ---- what reports ask

    @property
    def node_count(self) -> int:
        """As Apache counts: its root has two names."""
        return len(self.nodes) + 1

    @property
    def ephemeral_count(self) -> int:
        return sum(map(len, self.ephemerals.values()))

    def approximate_data_size(self) -> int:
        """Characters of all paths and bytes of all data."""
        return self.data_size

    def descendant_count(self, path: str) -> int:
        """Nodes below ``path``, for getAllChildrenNumber. Takes time in proportion to the tree."""
        if path == "/":
            return len(self.nodes) - 1
        prefix = path + "/"
        return sum([other.startswith(prefix) for other in self.nodes])

    def ephemerals_by_session(self) -> dict[int, list[str]]:
        """Session to the paths it owns, both ascending."""
        return {session: sorted(self.ephemerals[session]) for session in sorted(self.ephemerals)}


def _failed_parts(parts: list[Record]) -> list[Outcome]:
    """The outcomes of a failed multi's parts, none of which is applied. Some old logs keep parts that are no errors."""
    outcomes: list[Outcome] = []
    failed = False
    for part in parts:
        if isinstance(part, Error):
            failed = True
            outcomes.append(Outcome(part.code))
        else:
            outcomes.append(Outcome(_RUNTIME_INCONSISTENCY if failed else 0))
    return outcomes
