"""Watches: a client hears of a change before it sees anything that comes after it, once, and of nothing else.

"ZooKeeper Programmer's Guide", "What ZooKeeper Guarantees about Watches": a client that watches sees the event before it sees
the new data, and events come in the order of the changes. After a reconnection the client sets its watches again and hears of
what it missed; one thing it may miss: a node that was not there, created and deleted meanwhile.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

from quorate.verification.history import NEVER, History, Operation
from quorate.verification.zookeeper.order import REQUESTS, by_end, told, zxid_of

_KINDS: Final = {"get": "data", "exists": "data", "children": "children"}
_HEARS: Final = {
    "data": ("changed", "deleted"),
    "absent": ("created",),
    "children": ("child", "deleted"),
}
"""What fires a watch of each kind."""
_CONSUMES: Final = {
    "created": ("data", "absent"),
    "changed": ("data", "absent"),
    "deleted": ("data", "absent", "children"),
    "child": ("children",),
}
_EXPLAINS: Final = {
    "created": ("created",),
    # a node that was deleted and created again while the client was away has changed
    "changed": ("changed", "created"),
    "deleted": ("deleted",),
    "child": ("child",),
}


class Changes:
    """What is known to have changed, path by path, in the order of zxids. ``complete``: this is all that has."""

    def __init__(self, complete: bool) -> None:
        self.complete = complete
        self._all: dict[tuple[str, str], list[int]] = {}

    def add(self, kind: str, path: str, zxid: int) -> None:
        self._all.setdefault((kind, path), []).append(zxid)

    def sort(self) -> None:
        """For changes that were not added in order."""
        for zxids in self._all.values():
            zxids.sort()

    def first_after(self, kinds: tuple[str, ...], path: str, zxid: int) -> int:
        """The first change of one of these kinds after ``zxid``; NEVER if there is none."""
        first = NEVER
        for kind in kinds:
            zxids = self._all.get((kind, path), ())
            place = bisect_right(zxids, zxid)
            if place < len(zxids):
                first = min(first, zxids[place])
        return first

    def there(self, path: str, zxid: int) -> bool:
        """Whether a node that was created at some time is there at ``zxid``."""
        return self._last("created", path, zxid) > self._last("deleted", path, zxid)

    def _last(self, kind: str, path: str, zxid: int) -> int:
        zxids = self._all.get((kind, path), ())
        place = bisect_right(zxids, zxid)
        return zxids[place - 1] if place else -1


class _Watch:
    __slots__ = ("away", "operation", "since")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.since = zxid_of(operation)
        self.away = False
        """Whether the client was disconnected since."""


def check(history: History, changes: Changes) -> list[str]:
    """What is wrong, a sentence each."""
    sessions: dict[str, list[Operation]] = {}
    for op in history.operations:
        sessions.setdefault(op.process, []).append(op)
    found: list[str] = []
    for operations in sessions.values():
        found += _Session(changes).findings(by_end(operations))
    return found


class _Session:
    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._twice: set[str] = set()
        """Nodes whose deletion may be told again: to a client that comes back, for its data and its children each."""
        self._heard = -1
        """The zxid of the latest change whose event has come."""

    def findings(self, operations: list[Operation]) -> Iterator[str]:
        for op in operations:
            if op.name == "event":
                yield from self._event(op)
            elif op.name == "disconnected":
                for watch in self._watches.values():
                    watch.away = True
            elif op.name in REQUESTS and zxid_of(op) >= 0:
                yield from self._reply(op)

    def _reply(self, op: Operation) -> Iterator[str]:
        zxid = zxid_of(op)
        if zxid < self._heard:
            yield f"watches: {told(op)} shows a state before {self._heard:#x}, of which the client has heard"
        for (kind, path), watch in list(self._watches.items()):
            change = self._changes.first_after(_HEARS[kind], path, watch.since)
            if change <= zxid and not self._may_be_missed(kind, path, watch, zxid):
                yield (
                    f"watches: {op.process} sees {zxid:#x} ({op.name}) and has not heard of {change:#x}, "
                    f"which changed {path} after {told(watch.operation)} watched it"
                )
                del self._watches[kind, path]
        if op.outcome == "ok" and op.name in _KINDS and op.value.get("watch"):
            kind = _KINDS[op.name]
            if op.name == "exists" and op.result["stat"] is None:
                kind = "absent"
            # the server has one watch for each of these, so the first stays
            self._watches.setdefault((kind, op.key), _Watch(op))

    def _may_be_missed(self, kind: str, path: str, watch: _Watch, zxid: int) -> bool:
        if kind != "absent" or not watch.away:
            return False
        return not self._changes.complete or not self._changes.there(path, zxid)

    def _event(self, op: Operation) -> Iterator[str]:
        event, path = op.value["type"], op.key
        fired = [(kind, watch) for kind in _CONSUMES[event] if (watch := self._watches.pop((kind, path), None))]
        if not fired:
            if event == "deleted" and path in self._twice:
                self._twice.remove(path)
                return
            yield f"watches: {op.process} hears that {path} is {event} and does not watch it"
            return
        if event == "deleted" and len(fired) > 1 and any(watch.away for _, watch in fired):
            self._twice.add(path)
        if not self._changes.complete:
            return
        since = min(watch.since for _, watch in fired)
        change = self._changes.first_after(_EXPLAINS[event], path, since)
        if change == NEVER:
            yield f"watches: {op.process} hears that {path} is {event}, which it never was after {since:#x}"
        elif not any(watch.away for _, watch in fired):
            if change < self._heard:
                yield f"watches: {op.process} hears of {change:#x} ({path} {event}) after it has heard of {self._heard:#x}"
            self._heard = max(self._heard, change)
