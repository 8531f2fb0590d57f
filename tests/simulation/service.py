"""The replicated service of the simulation: the list of what was applied.

The list is a chain of :class:`Applied`, each entry once for all members, so that a snapshot is one reference, and two members
that applied the same entries in the same order hold the very same object.
"""

from quorate.consensus.zab.messages import Entry


class Applied:
    """An entry at its place: everything applied up to it."""

    __slots__ = ("_next", "depth", "parent", "payload", "zxid")

    def __init__(self, parent: "Applied | None", zxid: int, payload: bytes) -> None:
        self.parent = parent
        self.zxid = zxid
        self.payload = payload
        self.depth: int = 0 if parent is None else parent.depth + 1
        self._next: dict[tuple[int, bytes], Applied] = {}

    def then(self, entry: Entry) -> "Applied":
        key = entry.zxid, entry.payload
        node = self._next.get(key)
        if node is None:
            node = self._next[key] = Applied(self, entry.zxid, entry.payload)
        return node

    def within(self, other: "Applied") -> bool:
        """Whether ``other`` continues from here."""
        node: Applied | None = other
        while node is not None and node.depth > self.depth:
            node = node.parent
        return node is self

    def __repr__(self) -> str:
        return f"Applied({self.depth}: {self.zxid:#x} {self.payload!r})"


class Service:
    """One member's copy. A snapshot may hold more than its name says, so what it holds already is not applied again."""

    __slots__ = ("node", "snapshot_of")

    def __init__(self, node: Applied) -> None:
        self.node = node
        self.snapshot_of = -1
        """The zxid that the local snapshot under way is named by; -1 if there is none."""

    def apply(self, entry: Entry) -> bool:
        """Whether it was new."""
        if entry.zxid <= self.node.zxid:
            return False
        self.node = self.node.then(entry)
        return True

    def adopt(self, node: Applied) -> None:
        self.node = node
        self.snapshot_of = -1
