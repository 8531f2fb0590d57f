"""The entries that a member holds."""

from collections.abc import Hashable, Sequence

from quorate.consensus.paxos import members
from quorate.consensus.paxos.members import Members
from quorate.consensus.paxos.messages import Entries, Entry, Kind
from quorate.errors import RemoteProtocolError


class Log:
    """Entries after ``base``, which a snapshot stands for. ``decided``: the index up to which it is chosen, as far as the member knows.

    ``members`` is who they are after the last entry, chosen or not.
    """

    __slots__ = ("_configurations", "_entries", "base", "decided", "members", "sids")

    def __init__(
        self, entries: Sequence[Entry] = (), decided: int = 0, *, base: int = 0, base_members: Members = ()
    ) -> None:
        """``base_members``: as the snapshot, or the group's beginning, has them."""
        self._entries: list[Entry] = []
        self.base = base
        self.decided = max(decided, base)
        self._configurations: list[tuple[int, Members]] = [(base, base_members)]
        self.members = base_members
        self.sids: tuple[int, ...] = ()
        """Of ``members``, in order."""
        self._latest()
        self.append(entries)

    def _latest(self) -> None:
        self.members = self._configurations[-1][1]
        self.sids = tuple([member.sid for member in self.members])

    @property
    def last(self) -> int:
        return self.base + len(self._entries)

    @property
    def members_at(self) -> int:
        """The index of the entry that made ``members``; the base's if it was before."""
        return self._configurations[-1][0]

    def members_of(self, index: int) -> Members:
        """Who they are after the entry at ``index``, which is not before ``base``."""
        return next(found for at, found in reversed(self._configurations) if at <= index)

    def after(self, index: int) -> Entries:
        """The entries after ``index``, which is not before ``base``."""
        return tuple(self._entries[index - self.base :])

    def between(self, first: int, last: int) -> Entries:
        """Both ends included; ``first`` is after ``base``."""
        base = self.base
        return tuple(self._entries[first - base - 1 : last - base])

    def append(self, entries: Sequence[Entry]) -> None:
        """Raises RemoteProtocolError for a list of members that cannot be read."""
        changed = False
        for index, entry in enumerate(entries, self.last + 1):
            if entry.kind == Kind.MEMBERS:
                self._configurations.append((index, members.unpack(entry.payload)))
                changed = True
        self._entries.extend(entries)
        if changed:
            self._latest()

    def replace(self, first: int, entries: Sequence[Entry]) -> None:
        """From ``first`` on it becomes ``entries``. Raises RemoteProtocolError if that would leave a gap or change what is chosen."""
        if first > self.last + 1:
            raise RemoteProtocolError(f"entries from {first} on would leave a gap after {self.last}")
        assert first > self.base
        chosen = self.decided - first + 1
        if chosen > 0 and tuple(entries[:chosen]) != self.between(first, self.decided):
            raise RemoteProtocolError(f"entries from {first} on contradict what is chosen up to {self.decided}")
        del self._entries[first - self.base - 1 :]
        while self._configurations[-1][0] >= first:
            self._configurations.pop()
        self._latest()
        self.append(entries)

    def trim(self, base: int) -> None:
        """A snapshot stands for the entries up to ``base``, all of them chosen."""
        assert base <= self.decided
        if base > self.base:
            self._forget(base, self.members_of(base))

    def install(self, base: int, base_members: Members) -> None:
        """A snapshot of what is chosen up to ``base`` has come from another member; what is after it stays."""
        assert base > self.decided
        self._forget(base, base_members)
        self.decided = base

    def _forget(self, base: int, base_members: Members) -> None:
        del self._entries[: base - self.base]
        self.base = base
        later = [(at, found) for at, found in self._configurations if at > base]
        self._configurations = [(base, base_members), *later]
        self._latest()

    def state(self) -> Hashable:
        return self.base, tuple(self._entries), self.decided, self._configurations[0][1]
