"""The committed log against what clients saw: each write had its effect, once and in order, and each read shows a state that was.

The log is carried out on the specification's tree. A reply with zxid Z speaks of the state after Z: a write was decided on the
state before it, a read was taken from the state after the last transaction that its server had applied.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quorate.verification.history import History, Operation
from quorate.verification.zookeeper.order import WRITES, told, zxid_of
from quorate.verification.zookeeper.tree import CannotApply, Node, Tree, parent_of, sequential_name
from quorate.verification.zookeeper.watches import Changes
from quorate.zookeeper.constants import Code
from quorate.zookeeper.txns import CloseSession, Create, CreateSession, Delete, Error, Multi, Record, SetData, Txn

_READS = frozenset(("get", "exists", "children"))
_OF_SESSIONS = (Code.SESSION_EXPIRED, Code.SESSION_MOVED)
_COUNTER = 0xFFFFFFFF

Log = Sequence[tuple[int, Txn]]


class Replay:
    """``findings``: what is wrong, a sentence each; ``tree``: the state after the log; ``changes``: what watches could see."""

    def __init__(self, history: History, log: Log) -> None:
        self.tree = Tree()
        self.changes = Changes(complete=True)
        self.findings: list[str] = []
        self._data: dict[tuple[str, int], bytes] = {("/", 0): b""}
        """What each change of a node left in it."""
        self._log = log
        self._sessions = {
            op.result["session"]: op.process for op in history.operations if op.name == "connect" and op.outcome == "ok"
        }
        self._check(history)

    def _check(self, history: History) -> None:
        reads: list[Operation] = []
        unplaced: list[Operation] = []
        writes: dict[int, list[Operation]] = {}
        for op in history.operations:
            zxid = zxid_of(op)
            if zxid < 0:
                if op.name == "get" and op.outcome == "ok":
                    unplaced.append(op)
            elif op.name in _READS:
                reads.append(op)
            elif op.name in WRITES:
                writes.setdefault(zxid, []).append(op)
        reads.sort(key=zxid_of, reverse=True)
        for zxid, txn in self._log:
            while reads and zxid_of(reads[-1]) < zxid:
                self._read(reads.pop())
            decided = writes.pop(zxid, [])
            for op in decided:
                self._decide(op, txn)
            self._apply(txn)
            for op in decided:
                self._show(op, txn)
        while reads:
            self._read(reads.pop())
        for op in unplaced:
            self._read_somewhere(op)
        for zxid, lost in sorted(writes.items()):
            for op in lost:
                # an error need not be a transaction of its own
                if op.outcome == "ok":
                    self._find(f"durability: {told(op)} was acknowledged, but {zxid:#x} is not in the log")
        self._match(history)
        self._after_close(history)

    def _find(self, finding: str) -> None:
        self.findings.append(finding)

    # ---- transactions

    def _apply(self, txn: Txn) -> None:
        try:
            for kind, path in self.tree.apply(txn):
                self.changes.add(kind, path, txn.zxid)
                if kind in ("created", "changed"):
                    self._data[path, txn.zxid] = self.tree.nodes[path].data
        except CannotApply as error:
            self._find(f"log: {_described(txn)} cannot be carried out: {error}")

    # ---- writes

    def _decide(self, op: Operation, txn: Txn) -> None:
        """Whether the answer is right for the state just before the transaction."""
        answer = self.tree.answer(op.name, op.key, op.value)
        if op.outcome == "ok":
            if answer != Code.OK:
                self._find(f"writes: {told(op)} succeeded, but should have failed with {answer}")
            if self._sessions.get(txn.session) != op.process:
                self._find(f"zxids: {told(op)} is not what the log has there: {_described(txn)}")
            return
        if self._sessions.get(txn.session) != op.process or not (isinstance(txn.record, Error) or _failed(txn.record)):
            return  # refused before it became a transaction; the zxid only says what the server had applied
        got = op.result["results"] if op.name == "multi" and "results" in op.result else op.result["error"]
        if got != answer and got not in _OF_SESSIONS:
            self._find(f"writes: {told(op)} failed with {got}, but should have been answered {answer}")

    def _show(self, op: Operation, txn: Txn) -> None:
        """Whether what came back is what the transaction did."""
        if op.outcome != "ok":
            return
        record, result = txn.record, op.result
        if not _same(op, record):
            self._find(f"writes: {told(op)} was acknowledged, but the log has {_described(txn)}")
        elif op.name == "create":
            assert isinstance(record, Create)
            if result["path"] != record.path or not self._rightly_named(op.key, op.value, record.path):
                self._find(f"writes: {told(op)} created {record.path}, and was told {result['path']}")
        elif op.name == "set":
            node = self.tree.nodes.get(op.key)
            self._compare(op, "stat", result["stat"], None if node is None else node.stat())
        elif op.name == "multi":
            assert isinstance(record, Multi)
            for (name, path, value), part, shown in zip(op.value["ops"], record.parts, result["results"], strict=True):
                if name == "create" and isinstance(part, Create):
                    sequential = value.get("sequential")
                    if shown["path"] != part.path or (part.path != path and not sequential):
                        self._find(f"writes: {told(op)} created {part.path}, and was told {shown['path']}")

    def _rightly_named(self, asked: str, value: Mapping[str, Any], path: str) -> bool:
        if not value.get("sequential"):
            return path == asked
        # this creation has been counted already
        parent = self.tree.nodes.get(parent_of(path))
        return parent is not None and path == sequential_name(asked, parent.creates - 1)

    # ---- reads

    def _read(self, op: Operation) -> None:
        """Whether it shows the state as it is now."""
        last = self._last_zxid(zxid_of(op))
        if last != zxid_of(op) and zxid_of(op) & _COUNTER:
            self._find(f"dirty read: {told(op)} shows what nobody has committed")
            return
        node = self.tree.nodes.get(op.key)
        if op.outcome == "fail":
            if op.result["error"] in _OF_SESSIONS:
                return
            if op.result["error"] != Code.NO_NODE or node is not None:
                self._find(f"reads: {told(op)} failed with {op.result['error']}, but {op.key} is {_shown(node)}")
            return
        stat = op.result["stat"]
        if node is None or stat is None:
            if node is not None or stat is not None:
                self._find(f"reads: {told(op)} shows {_shown_stat(stat)}, but {op.key} is {_shown(node)}")
            return
        self._compare(op, "stat", stat, node.stat())
        if op.name == "get":
            self._compare(op, "data", op.result["data"], node.data.decode("latin-1"))
        elif op.name == "children":
            self._compare(op, "children", op.result["children"], sorted(node.children))

    def _read_somewhere(self, op: Operation) -> None:
        """Of a read whose zxid the client's library does not tell: whether its data were there as of the Stat beside them."""
        mzxid = op.result["stat"]["mzxid"]
        right = self._data.get((op.key, mzxid))
        if right is None:
            self._find(f"dirty read: {told(op)} shows {op.key} as of {mzxid:#x}, when nothing changed it")
        else:
            self._compare(op, "data", op.result["data"], right.decode("latin-1"))

    def _last_zxid(self, zxid: int) -> int:
        """The last transaction of the log up to ``zxid``."""
        low, high = 0, len(self._log)
        while low < high:
            middle = (low + high) // 2
            if self._log[middle][0] <= zxid:
                low = middle + 1
            else:
                high = middle
        return self._log[low - 1][0] if low else 0

    def _compare(self, op: Operation, what: str, shown: object, right: object) -> None:
        if isinstance(shown, dict) and isinstance(right, dict):
            wrong = [name for name in right if shown.get(name) != right[name]]
            shown, right = {name: shown.get(name) for name in wrong}, {name: right[name] for name in wrong}
        if shown != right:
            self._find(f"reads: {told(op)} shows {what} {shown}, but there it is {right}")

    # ---- sessions

    def _match(self, history: History) -> None:
        """What a session has in the log is what it asked for, in that order and once."""
        asked: dict[str, list[Operation]] = {}
        for op in history.operations:
            if op.name in WRITES and op.outcome != "fail":
                asked.setdefault(op.process, []).append(op)
        places = dict.fromkeys(asked, 0)
        for zxid, txn in self._log:
            process = self._sessions.get(txn.session)
            if process is None or isinstance(txn.record, CreateSession | CloseSession | Error) or _failed(txn.record):
                continue
            operations = asked.get(process, [])
            place = places.get(process, 0)
            while place < len(operations):
                op = operations[place]
                place += 1
                if _same(op, txn.record) and zxid_of(op) in (-1, zxid):
                    break
            else:
                self._find(f"log: {_described(txn)} is not what {process} asked for then, or is there twice")
                return
            places[process] = place

    def _after_close(self, history: History) -> None:
        """A session that is closed is not answered any more."""
        closed = {
            self._sessions[session]: zxid for session, zxid in self.tree.closed.items() if session in self._sessions
        }
        for op in history.operations:
            end = closed.get(op.process)
            if end is None or op.name not in WRITES | _READS or zxid_of(op) < end:
                continue
            if op.outcome == "ok" and not (op.name == "close" and zxid_of(op) == end):
                self._find(f"sessions: {told(op)} was answered, but the session was closed at {end:#x}")


def _failed(record: Record) -> bool:
    return isinstance(record, Multi) and any(isinstance(part, Error) for part in record.parts)


def _same(op: Operation, record: Record) -> bool:
    """Whether the record is what the operation asks for."""
    if op.name == "multi":
        parts = op.value["ops"]
        if not isinstance(record, Multi) or len(record.parts) != len(parts):
            return False
        return all(
            _same_part(name, path, value, part) for (name, path, value), part in zip(parts, record.parts, strict=True)
        )
    if op.name == "close":
        return isinstance(record, CloseSession)
    return _same_part(op.name, op.key, op.value, record)


def _same_part(name: str, path: str, value: Mapping[str, Any], record: Record) -> bool:
    if name == "create":
        if not isinstance(record, Create) or (record.data or b"") != value["data"].encode("latin-1"):
            return False
        return record.path.startswith(path) if value.get("sequential") else record.path == path
    if name == "set":
        return (
            isinstance(record, SetData)
            and record.path == path
            and (record.data or b"") == value["data"].encode("latin-1")
        )
    if name == "delete":
        return isinstance(record, Delete) and record.path == path
    return not isinstance(record, Create | Delete | SetData)


def _described(txn: Txn) -> str:
    record = txn.record
    path = getattr(record, "path", "")
    return f"{type(record).__name__.lower()}{f' {path}' if path else ''} of session {txn.session:#x} ({txn.zxid:#x})"


def _shown(node: Node | None) -> str:
    return "not there" if node is None else f"there since {node.czxid:#x}"


def _shown_stat(stat: Mapping[str, int] | None) -> str:
    return "no node" if stat is None else f"a node of {stat['czxid']:#x}"


def differences(tree: Tree, shown: Mapping[str, tuple[bytes, Mapping[str, int]]]) -> Iterator[str]:
    """Where a server's tree (data and Stat by path) is not what the log makes of it."""
    for path in sorted(tree.nodes.keys() | shown.keys()):
        node, other = tree.nodes.get(path), shown.get(path)
        if path == "/zookeeper/config":
            continue  # its data are the ensemble's configuration, which is no transaction
        if node is None or other is None:
            yield f"state: {path} is {_shown(node)} by the log, and {'not ' if other is None else ''}in the server's tree"
            continue
        right = {"data": node.data, **node.stat()}
        there = {"data": other[0], **other[1]}
        wrong = [name for name in right if right[name] != there[name]]
        if wrong:
            by_log, by_server = ({name: values[name] for name in wrong} for values in (right, there))
            yield f"state: {path} has {by_log} by the log, and {by_server} in the server's tree"
