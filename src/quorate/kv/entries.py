"""A key's state, and how it is written: in answers, in results, in snapshots."""

from struct import Struct

from quorate.errors import RemoteProtocolError

_ENTRY = Struct(">HIQQQQQQQ")


class Entry:
    """A key's state from one change to the next; never changed. ``version`` 0 is a deletion."""

    __slots__ = ("created", "flags", "holder", "key", "lease", "lock_index", "modified", "value", "version")

    def __init__(
        self,
        key: bytes,
        value: bytes,
        version: int,
        created: int,
        modified: int,
        lease: int = 0,
        flags: int = 0,
        lock_index: int = 0,
        holder: int = 0,
    ) -> None:
        """``created``, ``modified``: revisions; ``holder``: the lease that holds the lock, 0 if none does."""
        self.key = key
        self.value = value
        self.version = version
        self.created = created
        self.modified = modified
        self.lease = lease
        self.flags = flags
        self.lock_index = lock_index
        self.holder = holder

    def fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.fields() == self.fields()

    def __hash__(self) -> int:
        return hash((self.key, self.modified))

    def __repr__(self) -> str:
        return f"Entry({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def pack_entry(entry: Entry) -> bytes:
    head = _ENTRY.pack(
        len(entry.key),
        len(entry.value),
        entry.version,
        entry.created,
        entry.modified,
        entry.lease,
        entry.flags,
        entry.lock_index,
        entry.holder,
    )
    return b"".join((head, entry.key, entry.value))


def unpack_entry(data: bytes, at: int) -> tuple[Entry, int]:
    """The entry at ``at``, and where it ends. Raises RemoteProtocolError."""
    if len(data) - at < _ENTRY.size:
        raise RemoteProtocolError("an entry that ends early")
    key_size, size, *numbers = _ENTRY.unpack_from(data, at)
    at += _ENTRY.size
    middle = at + key_size
    end = middle + size
    if end > len(data):
        raise RemoteProtocolError(f"an entry of {key_size} and {size} bytes where {len(data) - at} are left")
    return Entry(data[at:middle], data[middle:end], *numbers), end
