"""ZooKeeper's tree as a specification: what each transaction does to it and what each request must be answered.

Written for being right by reading, independent of the server's own tree ("ZooKeeper Programmer's Guide", chapters "The ZooKeeper
Data Model" and "ZooKeeper Stat Structure"; PrepRequestProcessor.java for which error comes first).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from quorate.zookeeper.constants import CONTAINER_OWNER, Code, Op
from quorate.zookeeper.txns import (
    Check,
    CloseSession,
    Create,
    CreateSession,
    Delete,
    Error,
    Multi,
    Record,
    SetData,
    Txn,
)

ANY_VERSION: Final = -1

Change = tuple[str, str]
"""What a watch can see: "created", "deleted", "changed" or "child", and the path."""


class CannotApply(Exception):
    """The transaction makes no sense on this tree."""


class Node:
    """``creates`` counts the children ever created, which is what names sequential ones."""

    __slots__ = ("aversion", "children", "creates", "czxid", "data", "mzxid", "owner", "pzxid", "version")

    def __init__(self, data: bytes, zxid: int, owner: int) -> None:
        self.data = data
        self.czxid = self.mzxid = self.pzxid = zxid
        self.version = 0
        self.aversion = 0
        self.creates = 0
        self.owner = owner
        self.children: set[str] = set()

    def stat(self) -> dict[str, int]:
        return {
            "czxid": self.czxid,
            "mzxid": self.mzxid,
            "pzxid": self.pzxid,
            "version": self.version,
            # creations and deletions of children
            "cversion": 2 * self.creates - len(self.children),
            "aversion": self.aversion,
            # the mark of a container is for the servers alone
            "ephemeralOwner": 0 if self.owner == CONTAINER_OWNER else self.owner,
            "dataLength": len(self.data),
            "numChildren": len(self.children),
        }


class Tree:
    def __init__(self) -> None:
        self.nodes = {
            "/": Node(b"", 0, 0),
            "/zookeeper": Node(b"", 0, 0),
            "/zookeeper/quota": Node(b"", 0, 0),
            "/zookeeper/config": Node(b"", 0, 0),
        }
        self.nodes["/"].children = {"zookeeper"}
        self.nodes["/zookeeper"].children = {"quota", "config"}
        self.closed: dict[int, int] = {}
        """Sessions that were closed or have expired, and the zxid of that."""

    # ---- transactions

    def apply(self, txn: Txn) -> Iterator[Change]:
        """What changes, as it changes. Raises CannotApply."""
        session, zxid, record = txn.session, txn.zxid, txn.record
        changes_tree = not isinstance(record, Error | CloseSession | CreateSession)
        if session in self.closed and changes_tree:
            raise CannotApply(f"session {session:#x} was closed at {self.closed[session]:#x}")
        if isinstance(record, CloseSession):
            gone = sorted((path for path, node in self.nodes.items() if node.owner == session), reverse=True)
            for path in gone:
                yield from self._delete(path, zxid)
            self.closed.setdefault(session, zxid)
        elif isinstance(record, Multi):
            for part in record.parts:
                yield from self._apply(part, session, zxid)
        else:
            yield from self._apply(record, session, zxid)

    def _apply(self, record: Record, session: int, zxid: int) -> Iterator[Change]:
        if isinstance(record, Create):
            if record.path in self.nodes:
                raise CannotApply(f"{record.path} is there already")
            parent = self.node(parent_of(record.path))
            owner = CONTAINER_OWNER if record.op == Op.CREATE_CONTAINER else session if record.ephemeral else 0
            parent.children.add(record.path.rpartition("/")[2])
            parent.creates += 1
            parent.pzxid = zxid
            self.nodes[record.path] = Node(record.data or b"", zxid, owner)
            yield "created", record.path
            yield "child", parent_of(record.path)
        elif isinstance(record, Delete):
            if self.node(record.path).children:
                raise CannotApply(f"{record.path} has children")
            yield from self._delete(record.path, zxid)
        elif isinstance(record, SetData):
            node = self.node(record.path)
            if record.version != node.version + 1:
                raise CannotApply(f"{record.path} has version {node.version}, not {record.version - 1}")
            node.data = record.data or b""
            node.version += 1
            node.mzxid = zxid
            yield "changed", record.path
        elif not isinstance(record, Error | CreateSession | Check):
            raise CannotApply(f"{type(record).__name__} is nothing that was asked for")

    def _delete(self, path: str, zxid: int) -> Iterator[Change]:
        parent = self.node(parent_of(path))
        del self.nodes[path]
        parent.children.remove(path.rpartition("/")[2])
        parent.pzxid = zxid
        yield "deleted", path
        yield "child", parent_of(path)

    def node(self, path: str) -> Node:
        node = self.nodes.get(path)
        if node is None:
            raise CannotApply(f"{path} is not there")
        return node

    # ---- requests

    def answer(self, name: str, path: str | None, value: Mapping[str, Any]) -> int | list[int]:
        """The code that a write must be answered now; for a multi that fails those of its parts."""
        if name == "multi":
            return self._answer_multi(value["ops"])
        if name in ("close", "sync"):
            return Code.OK
        assert path is not None
        return _Draft(self).take(name, path, value)

    def _answer_multi(self, ops: list[Any]) -> int | list[int]:
        draft = _Draft(self)
        for number, (name, path, value) in enumerate(ops):
            code = draft.take(name, path, value)
            if code:
                after = len(ops) - number - 1
                return [Code.OK] * number + [code] + [Code.RUNTIME_INCONSISTENCY] * after
        return Code.OK


class _Brief:
    """What of a node decides the fate of requests."""

    __slots__ = ("children", "creates", "ephemeral", "version")

    def __init__(self, version: int, children: int, creates: int, ephemeral: bool) -> None:
        self.version = version
        self.children = children
        self.creates = creates
        self.ephemeral = ephemeral


class _Draft:
    """The tree as it would be after some requests."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._briefs: dict[str, _Brief | None] = {}

    def _brief(self, path: str) -> _Brief | None:
        if path not in self._briefs:
            node = self._tree.nodes.get(path)
            if node is None:
                self._briefs[path] = None
            else:
                ephemeral = node.owner not in (0, CONTAINER_OWNER)
                self._briefs[path] = _Brief(node.version, len(node.children), node.creates, ephemeral)
        return self._briefs[path]

    def take(self, name: str, path: str, value: Mapping[str, Any]) -> int:
        if name == "create":
            return self._create(path, value)
        brief = self._brief(path)
        if brief is None:
            return Code.NO_NODE
        if value["version"] not in (ANY_VERSION, brief.version):
            return Code.BAD_VERSION
        if name == "set":
            brief.version += 1
        elif name == "delete":
            if brief.children:
                return Code.NOT_EMPTY
            self._briefs[path] = None
            parent = self._brief(parent_of(path))
            assert parent is not None
            parent.children -= 1
        return Code.OK

    def _create(self, path: str, value: Mapping[str, Any]) -> int:
        parent = self._brief(parent_of(path))
        if parent is None:
            return Code.NO_NODE
        if value.get("sequential"):
            path = sequential_name(path, parent.creates)
        if self._brief(path) is not None:
            return Code.NODE_EXISTS
        if parent.ephemeral:
            return Code.NO_CHILDREN_FOR_EPHEMERALS
        parent.creates += 1
        parent.children += 1
        self._briefs[path] = _Brief(0, 0, 0, bool(value.get("ephemeral")))
        return Code.OK


def sequential_name(path: str, creates: int) -> str:
    return f"{path}{creates:010d}"


def parent_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"
