"""Keys and their past: the entry of every key now, and as it was at any revision since the last compaction.

An entry is never changed but replaced. Those that were replaced stay in the key's history, deletions among them, until a compaction at or
after their successor's revision. So a reader of a revision needs no copy and stops no writer: it passes over what is newer.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator

from quorate.kv.entries import Entry

_FEW = 64
"""So many new keys are put into their places one by one; more are sorted in."""


class KeyIndex:
    """Keys in order. What is added is put into place when the order is asked for."""

    __slots__ = ("_keys", "_new")

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._new: dict[bytes, None] = {}

    def add(self, key: bytes) -> None:
        """A key that is not in it."""
        self._new[key] = None

    def discard(self, key: bytes) -> None:
        if key in self._new:
            del self._new[key]
            return
        keys = self._keys
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            del keys[at]

    def ordered(self) -> list[bytes]:
        """All of them; not to be changed, and to be copied by whoever keeps it."""
        if self._new:
            if len(self._new) <= _FEW:
                for key in self._new:
                    insort(self._keys, key)
            else:
                self._keys += self._new
                self._keys.sort()
            self._new.clear()
        return self._keys


class Store:
    """``revision``: of the last change; ``compacted``: nothing older than this can be read. Ranges are half open; an end of b"" is none."""

    __slots__ = ("_changes", "_history", "_index", "_pending", "_pinned", "compacted", "current", "revision")

    def __init__(self) -> None:
        self.revision = 0
        self.compacted = 0
        self.current: dict[bytes, Entry] = {}
        self._history: dict[bytes, list[Entry]] = {}
        """Entries that were replaced, and deletions, oldest first."""
        self._index = KeyIndex()
        """Every key that is in ``current`` or ``_history``."""
        self._changes: deque[Entry] = deque()
        """Since the compaction, in their order."""
        self._pinned = False
        self._pending = 0
        """A compaction that waits until nobody reads a snapshot."""

    # ---- changes, at ``revision``

    def set(self, entry: Entry) -> None:
        """``entry`` becomes its key's, or with version 0 its deletion."""
        key = entry.key
        before = self.current.get(key)
        history = self._history.get(key)
        if before is not None:
            if history is None:
                self._history[key] = [before]
            else:
                history.append(before)
        elif history is None:
            self._index.add(key)
        if entry.version:
            self.current[key] = entry
        else:
            del self.current[key]
            self._history[key].append(entry)
        self._changes.append(entry)

    def restore(self, entry: Entry) -> None:
        """From a snapshot: a key's entries come oldest first."""
        key = entry.key
        before = self.current.pop(key, None)
        if before is not None:
            self._history.setdefault(key, []).append(before)
        elif key not in self._history:
            self._index.add(key)
        if entry.version:
            self.current[key] = entry
        else:
            self._history.setdefault(key, []).append(entry)

    def restored(self) -> None:
        """All entries came: the changes since the compaction are put in order."""
        changes = [entry for entry in self.current.values() if entry.modified > self.compacted]
        for history in self._history.values():
            changes += [entry for entry in history if entry.modified > self.compacted]
        changes.sort(key=lambda entry: (entry.modified, entry.key))
        self._changes = deque(changes)

    # ---- reading

    def at(self, key: bytes, revision: int) -> Entry | None:
        """The key's entry as of ``revision``, which is not compacted."""
        entry = self.current.get(key)
        if entry is not None and entry.modified <= revision:
            return entry
        for before in reversed(self._history.get(key, ())):
            if before.modified <= revision:
                return before if before.version else None
        return None

    def keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys from ``start`` to before ``end`` that are there or were."""
        keys = self._index.ordered()
        at = bisect_left(keys, start)
        stop = bisect_left(keys, end) if end else len(keys)
        while at < stop:
            yield keys[at]
            at += 1

    def range(self, start: bytes, end: bytes, revision: int, limit: int) -> tuple[list[Entry], bytes]:
        """Up to ``limit`` entries (0: all) as of ``revision``, and where to go on, b"" if that was all."""
        found: list[Entry] = []
        now = revision >= self.revision
        current = self.current
        for key in self.keys(start, end):
            entry = current.get(key) if now else self.at(key, revision)
            if entry is None:
                continue
            if limit and len(found) == limit:
                return found, key
            found.append(entry)
        return found, b""

    def changed_after(self, start: bytes, end: bytes, revision: int) -> Entry | None:
        """A key of the range that was changed or deleted after ``revision``, as it was then; None if none was."""
        for entry in reversed(self._changes):
            if entry.modified <= revision:
                return None
            if start <= entry.key and (not end or entry.key < end):
                return entry
        return None

    def changes_after(self, revision: int) -> Iterator[Entry]:
        """Every change after ``revision``, which is not compacted, oldest first; within one revision in the order of the keys."""
        changes = self._changes
        count = 0
        for entry in reversed(changes):
            if entry.modified <= revision:
                break
            count += 1
        for at in range(len(changes) - count, len(changes)):
            yield changes[at]

    # ---- compaction

    def compact(self, revision: int) -> None:
        """Forget what is needed only to read revisions before ``revision``."""
        self.compacted = max(self.compacted, revision)
        if self._pinned:
            self._pending = self.compacted
            return
        changes = self._changes
        touched: dict[bytes, None] = {}
        while changes and changes[0].modified <= self.compacted:
            touched[changes.popleft().key] = None
        for key in touched:
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        history = self._history.get(key)
        entry = self.current.get(key)
        if history is None:
            return
        if entry is not None and entry.modified <= self.compacted:
            del self._history[key]
            return
        keep = 0
        for at, before in enumerate(history):
            if before.modified <= self.compacted:
                keep = at
        if history[keep].modified <= self.compacted and not history[keep].version:
            keep += 1  # that it did not exist needs no saying
        del history[:keep]
        if not history:
            del self._history[key]
            if entry is None:
                self._index.discard(key)

    # ---- snapshots

    def readable(self, key: bytes) -> list[Entry]:
        """The key's entries that can be read, oldest first."""
        return self._versions(key, self.revision, self.compacted)

    def pinned(self) -> Iterator[Entry]:
        """Every entry as of now that can be read, a key's oldest first; the store may change meanwhile, and forgets nothing until the
        iterator has ended."""
        self._pinned = True
        return self._pinned_entries(list(self._index.ordered()), self.revision, self.compacted)

    def _pinned_entries(self, keys: list[bytes], revision: int, compacted: int) -> Iterator[Entry]:
        try:
            for key in keys:
                yield from self._versions(key, revision, compacted)
        finally:
            self._pinned = False
            if self._pending:
                pending, self._pending = self._pending, 0
                self.compact(pending)

    def _versions(self, key: bytes, revision: int, compacted: int) -> list[Entry]:
        entries = [entry for entry in self._history.get(key, ()) if entry.modified <= revision]
        entry = self.current.get(key)
        if entry is not None and entry.modified <= revision:
            entries.append(entry)
        # those that were there for the sake of an older snapshot or compaction do not count
        start = 0
        for at, found in enumerate(entries):
            if found.modified <= compacted:
                start = at
        if entries and entries[start].modified <= compacted and not entries[start].version:
            start += 1
        return entries[start:]
