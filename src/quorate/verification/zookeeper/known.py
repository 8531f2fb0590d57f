"""What clients know of the log between them, where nobody can show it: the transactions that were acknowledged.

Every Stat names the transaction that made the node what it is, so that reads can be held against acknowledged writes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from quorate.verification.history import NEVER, History, Operation
from quorate.verification.zookeeper.order import WRITES, told, zxid_of
from quorate.verification.zookeeper.tree import parent_of
from quorate.verification.zookeeper.watches import Changes


class Known:
    """``changes``: what acknowledged writes changed."""

    def __init__(self, history: History) -> None:
        self.changes = Changes(complete=False)
        self._data: dict[tuple[str, int], tuple[str, Operation]] = {}
        """What a transaction gave a node as its data."""
        self._written: dict[str, list[tuple[int, Operation]]] = {}
        """The acknowledged creations and changes of a node."""
        self._endings: dict[str, list[tuple[int, int]]] = {}
        """What may have deleted a node: (zxid, or NEVER if that is not known, step of the history from which on it may have happened)."""
        self._lasting: set[str] = set()
        """Nodes that only a deletion can end."""
        mortal: set[str] = set()
        for op in history.operations:
            if op.name not in WRITES or op.outcome == "fail":
                continue
            for name, path, value, result in _parts(op):
                if name == "create" and (value.get("ephemeral") or value.get("container") or "ttl" in value):
                    mortal.add(result.get("path", path))
                self._take(op, name, path, value, result)
        self._lasting = self._written.keys() - mortal
        self.changes.sort()

    def _take(self, op: Operation, name: str, path: str, value: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        zxid = zxid_of(op) if op.outcome == "ok" else -1
        if name == "delete":
            self._endings.setdefault(path, []).append((zxid if zxid >= 0 else NEVER, op.began))
            if zxid >= 0:
                self.changes.add("deleted", path, zxid)
                self.changes.add("child", parent_of(path), zxid)
        elif zxid >= 0 and name in ("create", "set"):
            path = result.get("path", path)
            self._data[path, zxid] = value["data"], op
            self._written.setdefault(path, []).append((zxid, op))
            self.changes.add("created" if name == "create" else "changed", path, zxid)
            if name == "create":
                self.changes.add("child", parent_of(path), zxid)

    def findings(self, history: History) -> Iterator[str]:
        """What is wrong, a sentence each."""
        for written in self._written.values():
            written.sort(key=lambda entry: entry[0])
        for op in history.operations:
            if op.name in ("get", "exists") and zxid_of(op) >= 0 and isinstance(op.result, dict):
                yield from self._read(op)

    def _read(self, op: Operation) -> Iterator[str]:
        path, zxid = op.key, zxid_of(op)
        stat = op.result.get("stat") if op.outcome == "ok" else None
        before = [entry for entry in self._written.get(path, ()) if entry[0] <= zxid]
        if stat is None:
            if before and path in self._lasting and not self._may_be_deleted(path, before[-1][0], zxid, op):
                yield f"lost: {told(op)} finds no node, but {told(before[-1][1])} was acknowledged and nobody deleted it"
            return
        if stat["mzxid"] > zxid:
            yield f"reads: {told(op)} shows a change of {stat['mzxid']:#x}, which is later than its reply"
        if before and stat["mzxid"] < before[-1][0] and not self._may_be_deleted(path, before[-1][0], zxid, op):
            yield f"lost: {told(op)} shows the node as of {stat['mzxid']:#x}, without {told(before[-1][1])}"
        known = self._data.get((path, stat["mzxid"]))
        if known is not None and op.name == "get" and op.result["data"] != known[0]:
            yield f"reads: {told(op)} shows {op.result['data']!r}, but {told(known[1])} wrote {known[0]!r}"

    def _may_be_deleted(self, path: str, after: int, until: int, read: Operation) -> bool:
        return any(
            began < read.finished and (zxid == NEVER or after < zxid <= until)
            for zxid, began in self._endings.get(path, ())
        )


def _parts(op: Operation) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """Each single write of an operation, with its result ({} if that is not known)."""
    known = op.outcome == "ok" and isinstance(op.result, dict)
    if op.name == "multi":
        results = op.result["results"] if known else [{}] * len(op.value["ops"])
        for (name, path, value), result in zip(op.value["ops"], results, strict=True):
            yield name, path, value, result
    elif op.name != "close":
        yield op.name, op.key, op.value, op.result if known else {}
