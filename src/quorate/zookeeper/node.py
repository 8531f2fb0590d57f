"""One znode in memory, and its Stat."""

from struct import Struct

from quorate.zookeeper.acl import OPEN_ACL, Acl
from quorate.zookeeper.constants import CONTAINER_OWNER, TTL_OWNER_MASK

STAT = Struct(">qqqqiiiqiiq")
"""czxid mzxid ctime mtime version cversion aversion ephemeralOwner dataLength numChildren pzxid: 68 bytes."""

STAT_PERSISTED = Struct(">qqqqiiiqq")
"""czxid mzxid ctime mtime version cversion aversion ephemeralOwner pzxid: 60 bytes."""

_INT_MAX = 0x7FFFFFFF


class Node:
    """A znode. Times are milliseconds since the epoch; versions are signed 32-bit and wrap as Java's do."""

    __slots__ = (
        "acl",
        "aversion",
        "children",
        "ctime",
        "cversion",
        "czxid",
        "data",
        "digest",
        "mtime",
        "mzxid",
        "owner",
        "packed_stat",
        "pzxid",
        "version",
    )

    def __init__(self, data: bytes | None, acl: Acl, owner: int, zxid: int, time: int) -> None:
        self.data = data
        self.acl = acl
        self.owner = owner
        """ephemeralOwner: 0, a session id, or the marks of container and TTL nodes in ``constants``."""
        self.czxid = zxid
        self.mzxid = zxid
        self.pzxid = zxid
        self.ctime = time
        self.mtime = time
        self.version = 0
        self.cversion = 0
        self.aversion = 0
        self.children: set[str] | None = None
        """Names (not paths) of the children; None for none, because most nodes are leaves."""
        self.packed_stat: bytes | None = None
        """The client's Stat, packed when first asked for; None after any change of a field in it."""
        self.digest = 0
        """This node's share of the tree's digest (digest.py)."""

    def stat(self) -> bytes:
        """The client's Stat record, 68 bytes. It shows two fields otherwise than they are stored (DataNode.copyStat): cversion
        counts deletions too, and only ephemeral nodes have an owner."""
        packed = self.packed_stat
        if packed is None:
            data = self.data
            children = self.children
            count = 0 if children is None else len(children)
            # stored is how many children were ever created; shown is how many were created or deleted
            cversion = 2 * self.cversion - count
            if cversion > _INT_MAX:
                cversion = (cversion + _INT_MAX + 1 & 0xFFFFFFFF) - _INT_MAX - 1
            owner = self.owner
            if owner < 0 and (owner == CONTAINER_OWNER or owner >= TTL_OWNER_MASK):
                owner = 0
            packed = self.packed_stat = STAT.pack(
                self.czxid,
                self.mzxid,
                self.ctime,
                self.mtime,
                self.version,
                cversion,
                self.aversion,
                owner,
                0 if data is None else len(data),
                count,
                self.pzxid,
            )
        return packed


def new_root() -> Node:
    """The root (and the /zookeeper nodes) as every fresh Apache tree has them: all zero."""
    return Node(b"", OPEN_ACL, 0, 0, 0)
