"""Watches: who is told of which change, once or again and again (WatchManager, DataTree).

Data watches (getData, exists) fire on the creation, change and deletion of a node; child watches (getChildren) on its
deletion and on changes of its children. Both fire once. Persistent watches fire on all of these and stay; recursive ones
also fire for everything below their node, but never for changes of children. A watcher that an event reaches in several
ways is told once. An event is kept from a watcher that may not read the node (CVE-2024-23944); its watch is spent all the
same.

One event is one frame, built once and handed to all its watchers. The frame's header carries the zxid of the change, as
ZooKeeper 3.9's does. Watchers are told in the order in which they set their watches on the node, then those above it.
"""

from struct import Struct
from typing import Final, Protocol

from quorate.zookeeper.acl import OPEN_ACL, Acl, Id
from quorate.zookeeper.auth import permitted
from quorate.zookeeper.constants import NOTIFICATION_XID, READ, Event, KeeperState, WatcherType

_FRAME = Struct(">iiqiiii")
"""frame length; xid, zxid, error; event type, state, length of the path"""
_SYNC_CONNECTED: Final = int(KeeperState.SYNC_CONNECTED)
_DELETED: Final = int(Event.DELETED)
_CHILDREN_CHANGED: Final = int(Event.CHILDREN_CHANGED)

NO_ZXID: Final = -1
"""In the header of events that tell of the past: those that setWatches makes."""

# how a watcher watches a path, as bits of one number
_ONCE: Final = 1
_PERSISTENT: Final = 2
_RECURSIVE: Final = 4
_ANY: Final = 7
_MODES: Final = {
    int(WatcherType.CHILDREN): _ONCE,
    int(WatcherType.DATA): _ONCE,
    int(WatcherType.ANY): _ANY,
    int(WatcherType.PERSISTENT): _PERSISTENT,
    int(WatcherType.PERSISTENT_RECURSIVE): _RECURSIVE,
}


class Watcher(Protocol):
    """A client's connection, told apart from others by identity."""

    session: int
    identities: tuple[Id, ...]

    def notify(self, frame: bytes) -> None:
        """Queue the frame for the client. It is shared; the call may remove watches but must not change the tree."""

    def __hash__(self) -> int: ...


def event_frame(path: str, event: int, zxid: int) -> bytes:
    """A notification as it goes to the client: ReplyHeader and WatcherEvent, with the frame's length before them."""
    raw = path.encode()
    size = len(raw)
    return _FRAME.pack(28 + size, NOTIFICATION_XID, zxid, 0, event, _SYNC_CONNECTED, size) + raw


class WatchTable:
    """Watches of one kind: by path (watcher to mode, in the order they were set) and, for each watcher, its paths."""

    __slots__ = ("paths", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[str, dict[Watcher, int]] = {}
        self.paths: dict[Watcher, dict[str, None]] = {}

    def add(self, path: str, watcher: Watcher, mode: int) -> int:
        """The mode before: 0 if the watcher did not watch the path."""
        watchers = self.watchers.get(path)
        if watchers is None:
            self.watchers[path] = {watcher: mode}
            before = 0
        else:
            before = watchers.get(watcher, 0)
            watchers[watcher] = before | mode
        if not before:
            paths = self.paths.get(watcher)
            if paths is None:
                self.paths[watcher] = {path: None}
            else:
                paths[path] = None
        return before

    def mode(self, path: str, watcher: Watcher) -> int:
        watchers = self.watchers.get(path)
        return 0 if watchers is None else watchers.get(watcher, 0)

    def drop(self, path: str, watcher: Watcher, mode: int) -> int:
        """Take the bits of ``mode`` from a watch; the bits that were there."""
        before = self.mode(path, watcher)
        if before & mode:
            after = before & ~mode
            watchers = self.watchers[path]
            if after:
                watchers[watcher] = after
            else:
                del watchers[watcher]
                if not watchers:
                    del self.watchers[path]
                self._forget(path, watcher)
        return before & mode

    def fire(self, path: str) -> dict[Watcher, int]:
        """The watchers of a path; those that watch once no longer do. The caller may change the dict."""
        watchers = self.watchers.pop(path, None)
        if watchers is None:
            return {}
        stay: dict[Watcher, int] = {}
        for watcher, mode in watchers.items():
            if mode == _ONCE:
                self._forget(path, watcher)
            else:
                stay[watcher] = mode & ~_ONCE
        if stay:
            self.watchers[path] = stay
        return watchers

    def remove_watcher(self, watcher: Watcher) -> int:
        """Drop all watches of a watcher; how many of them were recursive."""
        recursive = 0
        for path in self.paths.pop(watcher, ()):
            watchers = self.watchers[path]
            if watchers.pop(watcher) & _RECURSIVE:
                recursive += 1
            if not watchers:
                del self.watchers[path]
        return recursive

    def count(self) -> int:
        return sum(map(len, self.paths.values()))

    def _forget(self, path: str, watcher: Watcher) -> None:
        paths = self.paths[watcher]
        del paths[path]
        if not paths:
            del self.paths[watcher]


class Watches:
    """All watches on one member's tree.

    ``data_watchers`` and ``child_watchers`` (path to watchers) and ``recursive`` (how many recursive watches there are)
    are for whoever wants to know without a call that a change interests nobody.
    """

    __slots__ = ("_child", "_data", "child_watchers", "data_watchers", "recursive")

    def __init__(self) -> None:
        self._data = WatchTable()
        self._child = WatchTable()
        self.data_watchers = self._data.watchers
        self.child_watchers = self._child.watchers
        self.recursive = 0

    # ---- setting and removing

    def add_data(self, path: str, watcher: Watcher) -> None:
        """For getData and exists; the node need not exist."""
        self._data.add(path, watcher, _ONCE)

    def add_child(self, path: str, watcher: Watcher) -> None:
        """For getChildren."""
        self._child.add(path, watcher, _ONCE)

    def add_persistent(self, path: str, watcher: Watcher) -> None:
        self._data.add(path, watcher, _PERSISTENT)
        self._child.add(path, watcher, _PERSISTENT)

    def add_recursive(self, path: str, watcher: Watcher) -> None:
        if not self._data.add(path, watcher, _RECURSIVE) & _RECURSIVE:
            self.recursive += 1

    def contains(self, path: str, type_: int, watcher: Watcher) -> bool:
        """Whether the watcher has a watch of ``type_`` (a WatcherType) on the path."""
        mode = _MODES.get(type_, 0)
        return (type_ != WatcherType.CHILDREN and self._data.mode(path, watcher) & mode != 0) or (
            type_ in (WatcherType.CHILDREN, WatcherType.ANY) and self._child.mode(path, watcher) & mode != 0
        )

    def remove(self, path: str, type_: int, watcher: Watcher) -> bool:
        """Remove the watcher's watches of ``type_`` (a WatcherType) on the path; False if it has none."""
        mode = _MODES.get(type_, 0)
        removed = 0
        if type_ != WatcherType.CHILDREN:
            removed = self._data.drop(path, watcher, mode)
            if removed & _RECURSIVE:
                self.recursive -= 1
        if type_ != WatcherType.DATA:
            removed |= self._child.drop(path, watcher, mode)
        return removed != 0

    def remove_watcher(self, watcher: Watcher) -> None:
        """The watcher is gone, and all its watches with it. Takes time in proportion to their number."""
        self.recursive -= self._data.remove_watcher(watcher)
        self._child.remove_watcher(watcher)

    # ---- firing

    def trigger(self, path: str, event: int, zxid: int, acl: Acl) -> None:
        """Tell everybody whom ``event`` at ``path`` concerns; ``acl`` is the node's, before it went if it is deleted."""
        if event == _CHILDREN_CHANGED:
            told = self._child.fire(path)
        else:
            told = self._data.fire(path)
            if event == _DELETED and path in self.child_watchers:
                told.update(self._child.fire(path))
            if self.recursive:
                self._add_recursive_above(path, told)
        if not told:
            return
        frame = event_frame(path, event, zxid)
        if acl is OPEN_ACL:
            for watcher in told:
                watcher.notify(frame)
        else:
            for watcher in told:
                if permitted(acl, READ, watcher.identities):
                    watcher.notify(frame)

    def _add_recursive_above(self, path: str, told: dict[Watcher, int]) -> None:
        data = self.data_watchers
        while path != "/":
            path = path[: path.rfind("/")] or "/"
            watchers = data.get(path)
            if watchers is not None:
                for watcher, mode in watchers.items():
                    if mode & _RECURSIVE:
                        told[watcher] = mode

    # ---- reports

    def count(self) -> int:
        """All watches; a persistent one counts as a data and a child watch, as in Apache."""
        return self._data.count() + self._child.count()

    def summary(self) -> tuple[int, int, int]:
        """Of the data watches: watchers, paths, watches."""
        return len(self._data.paths), len(self.data_watchers), self._data.count()

    def by_session(self) -> dict[int, list[str]]:
        """Data watches: session to paths, both ascending."""
        sessions: dict[int, list[str]] = {}
        for watcher, paths in self._data.paths.items():
            sessions.setdefault(watcher.session, []).extend(paths)
        return {session: sorted(sessions[session]) for session in sorted(sessions)}

    def by_path(self) -> dict[str, list[int]]:
        """Data watches: path to sessions, both ascending."""
        data = self.data_watchers
        return {path: sorted([watcher.session for watcher in data[path]]) for path in sorted(data)}
