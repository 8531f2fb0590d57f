"""A node as transactions that are proposed and not applied yet will leave it (ZooKeeperServer.ChangeRecord)."""

from quorate.zookeeper.acl import Acl
from quorate.zookeeper.node import Node


class Change:
    """A node as it will be once the transactions up to ``zxid`` are applied; ``alive`` is False if it is gone then."""

    __slots__ = (
        "acl",
        "alive",
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
        "pzxid",
        "version",
        "zxid",
    )

    def __init__(self, data: bytes | None, acl: Acl, owner: int, zxid: int, time: int) -> None:
        self.data = data
        self.acl = acl
        self.owner = owner
        self.czxid = zxid
        self.mzxid = zxid
        self.pzxid = zxid
        self.ctime = time
        self.mtime = time
        self.version = 0
        self.cversion = 0
        self.aversion = 0
        self.children = 0
        """How many."""
        self.digest = 0
        self.zxid = zxid
        self.alive = True


def change_of(node: Node) -> Change:
    change = Change(node.data, node.acl, node.owner, node.czxid, node.ctime)
    change.mzxid = node.mzxid
    change.pzxid = node.pzxid
    change.mtime = node.mtime
    change.version = node.version
    change.cversion = node.cversion
    change.aversion = node.aversion
    change.digest = node.digest
    children = node.children
    if children is not None:
        change.children = len(children)
    return change


def copy_change(old: Change) -> Change:
    change = Change(old.data, old.acl, old.owner, old.czxid, old.ctime)
    change.mzxid = old.mzxid
    change.pzxid = old.pzxid
    change.mtime = old.mtime
    change.version = old.version
    change.cversion = old.cversion
    change.aversion = old.aversion
    change.digest = old.digest
    change.children = old.children
    change.zxid = old.zxid
    change.alive = old.alive
    return change
