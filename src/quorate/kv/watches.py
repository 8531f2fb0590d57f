"""Watches of one shard: who is to hear of which changes, and up to where it has.

A watch gets every change of its range after a revision, once and in order: first those that are kept, then each as it is applied. One whose
connection does not take more is left behind and catches up from the store when it does; if what it lacks was compacted meanwhile, it
is told so and ends.
"""

from collections.abc import Callable, Iterable, Sequence

from quorate.kv.entries import Entry
from quorate.kv.mvcc import Store

PROGRESS = 1000
"""A watch without changes is told of every so manieth revision, so that it can go on from there after a reconnect."""
CATCH_UP_ENTRIES = 1000

Deliver = Callable[[int, Sequence[Entry]], bool]
"""(revision, changes): whether more can be taken right away."""


class Watch:
    __slots__ = ("after", "behind", "deliver", "end", "ended", "start")

    def __init__(self, start: bytes, end: bytes, after: int, deliver: Deliver, ended: Callable[[int], None]) -> None:
        """``after``: the revision up to which all was told. ``ended(compacted)`` is called if that is not kept any more."""
        self.start = start
        self.end = end
        self.after = after
        self.deliver = deliver
        self.ended = ended
        self.behind = True
        """What is applied does not go to it at once: it has not caught up."""


class Watches:
    def __init__(self) -> None:
        self._keys: dict[bytes, dict[Watch, None]] = {}
        """Those of a single key."""
        self._ranges: dict[Watch, None] = {}

    def __len__(self) -> int:
        return len(self._ranges) + sum(len(found) for found in self._keys.values())

    def add(self, store: Store, watch: Watch) -> None:
        if watch.end == watch.start + b"\0":
            self._keys.setdefault(watch.start, {})[watch] = None
        else:
            self._ranges[watch] = None
        self.catch_up(store, watch)

    def remove(self, watch: Watch) -> None:
        self._ranges.pop(watch, None)
        found = self._keys.get(watch.start)
        if found is not None:
            found.pop(watch, None)
            if not found:
                del self._keys[watch.start]

    def catch_up(self, store: Store, watch: Watch) -> None:
        """Tell what is kept, as long as it is taken."""
        while True:
            if watch.after < store.compacted:
                self.remove(watch)
                watch.ended(store.compacted)
                return
            changes: list[Entry] = []
            upto = store.revision
            for entry in store.changes_after(watch.after):
                if len(changes) >= CATCH_UP_ENTRIES and entry.modified != changes[-1].modified:
                    upto = changes[-1].modified
                    break
                if watch.start <= entry.key and (not watch.end or entry.key < watch.end):
                    changes.append(entry)
            watch.after = upto
            more = not changes or watch.deliver(upto, changes)
            watch.behind = not more
            if watch.behind or upto == store.revision:
                return

    def tell(self, revision: int, changes: Iterable[Entry]) -> None:
        """These were applied, up to ``revision``."""
        told: dict[Watch, list[Entry]] = {}
        ranges = self._ranges
        for entry in changes:
            key = entry.key
            for watch in self._keys.get(key, ()):
                if not watch.behind:
                    told.setdefault(watch, []).append(entry)
            for watch in ranges:
                if not watch.behind and watch.start <= key and (not watch.end or key < watch.end):
                    told.setdefault(watch, []).append(entry)
        for watch, found in told.items():
            watch.after = revision
            watch.behind = not watch.deliver(revision, found)

    def progress(self, revision: int) -> None:
        """Tell those that have not heard for long how far the store is."""
        for watch in [*ranges_of(self._keys.values()), *self._ranges]:
            if not watch.behind and revision - watch.after >= PROGRESS:
                watch.after = revision
                watch.behind = not watch.deliver(revision, ())

    def clear(self) -> list[Watch]:
        """All of them, which are none any more."""
        found = [*ranges_of(self._keys.values()), *self._ranges]
        self._keys.clear()
        self._ranges.clear()
        return found


def ranges_of(groups: Iterable[Iterable[Watch]]) -> list[Watch]:
    return [watch for group in groups for watch in group]
