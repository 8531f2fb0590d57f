"""What a member knows of the replicated history: a window of committed entries and the uncommitted tail.

Everything up to ``base`` is only in the service's state. Then come the committed entries the member still keeps, for
learners that lack only those, then the tail: logged or about to be, not known to be committed.

Invariant: base <= committed <= last; zxids strictly grow; within an epoch they are consecutive, and an epoch's first entry
has counter 1.
"""

from collections import deque
from collections.abc import Hashable, Iterator

from quorate.consensus.zab.messages import Entry
from quorate.errors import LocalProtocolError


def follows(previous: int, zxid: int) -> bool:
    """Whether ``zxid`` is the one after ``previous`` in an unbroken history."""
    if zxid >> 32 == previous >> 32:
        return zxid == previous + 1
    return zxid > previous and zxid & 0xFFFFFFFF == 1


class History:
    __slots__ = ("_limit", "_tail", "_window", "base", "committed", "last")

    def __init__(self, base: int, tail: list[Entry], limit: int) -> None:
        """``base``: zxid of the service's state; ``tail``: entries after it; ``limit``: committed entries to keep."""
        self.base = base
        self.committed = base
        self.last = tail[-1].zxid if tail else base
        self._limit = limit
        self._window: deque[Entry] = deque()
        self._tail: deque[Entry] = deque(tail)

    def append(self, entry: Entry) -> None:
        if not follows(self.last, entry.zxid):
            raise LocalProtocolError(f"entry {entry.zxid:#x} does not follow {self.last:#x}")
        self.last = entry.zxid
        self._tail.append(entry)

    def commit(self, zxid: int) -> list[Entry]:
        """Commit the tail up to ``zxid``; the entries newly committed, in order."""
        if zxid <= self.committed:
            return []
        assert zxid <= self.last, f"commit of {zxid:#x} beyond the last entry {self.last:#x}"
        tail, window = self._tail, self._window
        committed = []
        while tail and tail[0].zxid <= zxid:
            committed.append(tail.popleft())
        window.extend(committed)
        self.committed = zxid
        excess = len(window) - self._limit
        if excess > 0:
            for _ in range(excess - 1):
                window.popleft()
            self.base = window.popleft().zxid
        return committed

    def truncate(self, zxid: int) -> int:
        """Drop the tail after ``zxid``; the last zxid left (``zxid`` itself if the history holds it)."""
        if zxid < self.committed:
            raise LocalProtocolError(
                f"cannot forget committed entries: TRUNC to {zxid:#x}, committed {self.committed:#x}"
            )
        tail = self._tail
        while tail and tail[-1].zxid > zxid:
            tail.pop()
        self.last = tail[-1].zxid if tail else self.committed
        return self.last

    def replacement(self, base: int) -> "History":
        """An empty history, of the same settings, that goes on from the service's state as of ``base``."""
        return History(base, [], self._limit)

    def tail(self) -> list[Entry]:
        return list(self._tail)

    def __contains__(self, zxid: int) -> bool:
        return zxid == self.base or any(entry.zxid == zxid for entry in self._all())

    def after(self, zxid: int) -> list[Entry]:
        """All entries after ``zxid``, which must not be before ``base``."""
        assert zxid >= self.base
        return [entry for entry in self._all() if entry.zxid > zxid]

    def before(self, zxid: int) -> int:
        """The last zxid held (or base) that is less than ``zxid``."""
        previous = self.base
        for entry in self._all():
            if entry.zxid >= zxid:
                break
            previous = entry.zxid
        return previous

    def _all(self) -> Iterator[Entry]:
        yield from self._window
        yield from self._tail

    def state(self) -> Hashable:
        return self.base, self.committed, self.last, (*self._window, *self._tail)
