"""The entries that a member holds."""

from collections.abc import Hashable, Sequence

from quorate.consensus.paxos.messages import Entries, Entry
from quorate.errors import RemoteProtocolError


class Log:
    """``decided``: the index up to which it is chosen, as far as the member knows."""

    __slots__ = ("_entries", "decided")

    def __init__(self, entries: Sequence[Entry] = (), decided: int = 0) -> None:
        self._entries = list(entries)
        self.decided = decided

    @property
    def last(self) -> int:
        return len(self._entries)

    def after(self, index: int) -> Entries:
        """The entries after ``index``."""
        return tuple(self._entries[index:])

    def between(self, first: int, last: int) -> Entries:
        """Both ends included."""
        return tuple(self._entries[first - 1 : last])

    def append(self, entries: Sequence[Entry]) -> None:
        self._entries.extend(entries)

    def replace(self, first: int, entries: Sequence[Entry]) -> None:
        """From ``first`` on it becomes ``entries``. Raises RemoteProtocolError if that would leave a gap or change what is chosen."""
        if first > self.last + 1:
            raise RemoteProtocolError(f"entries from {first} on would leave a gap after {self.last}")
        chosen = self.decided - first + 1
        if chosen > 0 and tuple(entries[:chosen]) != self.between(first, self.decided):
            raise RemoteProtocolError(f"entries from {first} on contradict what is chosen up to {self.decided}")
        self._entries[first - 1 :] = entries

    def state(self) -> Hashable:
        return tuple(self._entries), self.decided
