"""What a client gets and gives: keys are text or bytes, values bytes."""

from collections.abc import Iterable

from quorate.errors import UsageError
from quorate.kv import commands
from quorate.kv.commands import Condition, Write
from quorate.kv.entries import Entry
from quorate.kv.results import Locker

Key = str | bytes


def key_bytes(key: Key) -> bytes:
    """Raises UsageError for a key that cannot be one."""
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else bytes(key)
    if not 1 <= len(data) <= commands.KEY_MAX:
        raise UsageError(f"a key of {len(data)} bytes, expected 1 to {commands.KEY_MAX}")
    return data


def value_bytes(value: bytes) -> bytes:
    data = bytes(value)
    if len(data) > commands.VALUE_MAX:
        raise UsageError(f"a value of {len(data)} bytes, at most {commands.VALUE_MAX} can be")
    return data


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with ``prefix``; b"" if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""


class Item:
    """A key as it was read. ``key``: its text (bytes that are no UTF-8 come as surrogates); ``version``: 1 at its creation, +1 at each change;
    ``created``, ``modified``: revisions of the store; ``lease``: 0 for none."""

    __slots__ = ("created", "flags", "key", "lease", "modified", "value", "version")

    def __init__(self, entry: Entry) -> None:
        self.key = entry.key.decode("utf-8", "surrogateescape")
        self.value = entry.value
        self.version = entry.version
        self.created = entry.created
        self.modified = entry.modified
        self.lease = entry.lease
        self.flags = entry.flags

    def __repr__(self) -> str:
        return f"Item({self.key!r}, {self.value!r}, version={self.version}, modified={self.modified})"


class Event:
    """A change that a watch saw: ``item`` as it is now, None for a deletion."""

    __slots__ = ("item", "key", "revision")

    def __init__(self, entry: Entry) -> None:
        self.key = entry.key.decode("utf-8", "surrogateescape")
        self.revision = entry.modified
        self.item = Item(entry) if entry.version else None

    def __repr__(self) -> str:
        return f"Event({self.key!r}, revision={self.revision}, item={self.item!r})"


class Page:
    """Some of a list. ``next``: the key to go on with, b"" if that was all; ``revision``: of the store when it was read; ``preparing``: something is
    prepared in the shard."""

    __slots__ = ("items", "next", "preparing", "revision")

    def __init__(self, items: list[Item], following: bytes, revision: int, preparing: bool = False) -> None:
        self.preparing = preparing
        self.items = items
        self.next = following
        self.revision = revision


class Committed:
    """``versions``: of each put its key's new version, of each deletion how many keys were deleted."""

    __slots__ = ("revision", "versions")

    def __init__(self, revision: int, versions: list[int]) -> None:
        self.revision = revision
        self.versions = versions

    def __repr__(self) -> str:
        return f"Committed(revision={self.revision}, versions={self.versions})"


class Held:
    """An intent: what a transaction over shards has prepared. ``id``: ``<transaction>/<participant>``; ``decision``: the key of its decision, "" if that lies
    in no store of ours; ``deadline``: seconds since 1970; ``group``: the shard's."""

    __slots__ = ("deadline", "decision", "group", "id")

    def __init__(self, group: int, locker: Locker) -> None:
        self.group = group
        self.id = locker.id.decode("utf-8", "surrogateescape")
        self.decision = locker.decision.decode("utf-8", "surrogateescape")
        self.deadline = locker.deadline_ms / 1000

    def __repr__(self) -> str:
        return f"Held({self.id!r}, group={self.group}, deadline={self.deadline})"


# ---- conditions and writes, by name


def version_is(key: Key, version: int) -> Condition:
    """0: the key does not exist."""
    return Condition(commands.VERSION, key_bytes(key), version)


def modified_at(key: Key, revision: int) -> Condition:
    return Condition(commands.MODIFIED, key_bytes(key), revision)


def exists(key: Key) -> Condition:
    return Condition(commands.EXISTS, key_bytes(key))


def absent(key: Key) -> Condition:
    return Condition(commands.ABSENT, key_bytes(key))


def value_is(key: Key, value: bytes) -> Condition:
    return Condition(commands.VALUE, key_bytes(key), 0, value_bytes(value))


def put(key: Key, value: bytes, *, lease: int = 0) -> Write:
    return Write(commands.PUT, key_bytes(key), value_bytes(value), lease=lease, options=commands.KEEP_FLAGS)


def delete(key: Key) -> Write:
    return Write(commands.DELETE, key_bytes(key))


def delete_prefix(prefix: Key) -> Write:
    start = key_bytes(prefix)
    return Write(commands.DELETE_RANGE, start, prefix_end(start))


def expected(key: bytes, version: int | None, revision: int | None) -> Iterable[Condition]:
    """What a single operation expects of its key."""
    if version is not None:
        yield Condition(commands.VERSION, key, version)
    if revision is not None:
        yield Condition(commands.MODIFIED, key, revision)
