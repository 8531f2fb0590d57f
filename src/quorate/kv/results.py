"""What comes of a command, as bytes."""

from collections.abc import Sequence
from struct import Struct

from quorate.kv.commands import CONFLICT, INTENTS_TOLD_MAX, LOCKED, OK, U16, U32, U64
from quorate.kv.cursor import Cursor
from quorate.kv.entries import Entry, pack_entry, unpack_entry

_DONE = Struct(">BQH")
_ONE_DONE = Struct(">BQHQH")
_CONFLICT = Struct(">HHQQQ")
_INTENT = Struct(">HHQ")


class Conflicting:
    """What kept a commit from being done: ``part`` counts conditions, then writes, in a sequence its commits; ``version``, ``modified`` and
    ``holder`` as they are, 0 if the key does not exist."""

    __slots__ = ("holder", "key", "modified", "part", "version")

    def __init__(self, part: int, key: bytes, version: int, modified: int, holder: int = 0) -> None:
        self.part = part
        self.key = key
        self.version = version
        self.modified = modified
        self.holder = holder

    def __repr__(self) -> str:
        return f"Conflicting({self.part}, {self.key!r}, version={self.version}, modified={self.modified})"


class Locker:
    """An intent as others are told of it. ``decision``: the key of its decision, b"" if that lies in no store of ours; ``deadline_ms``: since 1970."""

    __slots__ = ("deadline_ms", "decision", "id")

    def __init__(self, id_: bytes, decision: bytes, deadline_ms: int) -> None:
        self.id = id_
        self.decision = decision
        self.deadline_ms = deadline_ms

    @property
    def transaction(self) -> str:
        return self.id.partition(b"/")[0].decode("utf-8", "backslashreplace")

    def __repr__(self) -> str:
        return f"Locker({self.id!r}, {self.decision!r}, {self.deadline_ms})"


def pack_locker(locker: Locker) -> bytes:
    head = _INTENT.pack(len(locker.id), len(locker.decision), locker.deadline_ms)
    return b"".join((head, locker.id, locker.decision))


def unpack_lockers(data: bytes, at: int, count: int) -> tuple[list[Locker], int]:
    """Raises RemoteProtocolError."""
    cursor = Cursor(data, at, len(data))
    found = []
    for _ in range(count):
        size, decision_size, deadline_ms = _INTENT.unpack(cursor.take(_INTENT.size, "an intent"))
        id_ = cursor.take(size, "a name")
        found.append(Locker(id_, cursor.take(decision_size, "a key"), deadline_ms))
    return found, cursor.at


class Result:
    """``status`` OK: ``numbers`` are, of a COMMIT, the new version of each put and the number of keys of each deletion, of a PREPARE and a FINISH what
    became of the intent and the revision, else the id that was asked for; ``entries`` of each read. CONFLICT: ``conflicts``. LOCKED: ``lockers``."""

    __slots__ = ("conflicts", "entries", "lockers", "numbers", "revision", "status")

    def __init__(
        self,
        status: int,
        revision: int,
        numbers: Sequence[int] = (),
        entries: Sequence[list[Entry]] = (),
        conflicts: Sequence[Conflicting] = (),
    ) -> None:
        self.lockers: list[Locker] = []
        self.status = status
        self.revision = revision
        self.numbers = list(numbers)
        self.entries = list(entries)
        self.conflicts = list(conflicts)


def pack_done_one(revision: int, number: int) -> bytes:
    """As ``pack_done`` of one number."""
    return _ONE_DONE.pack(OK, revision, 1, number, 0)


def pack_done(revision: int, numbers: Sequence[int], entries: Sequence[Sequence[Entry]] = ()) -> bytes:
    if len(numbers) == 1 and not entries:
        return pack_done_one(revision, numbers[0])
    pieces = [
        _DONE.pack(OK, revision, len(numbers)),
        *[U64.pack(number) for number in numbers],
        U16.pack(len(entries)),
    ]
    for found in entries:
        pieces += (U32.pack(len(found)), *[pack_entry(entry) for entry in found])
    return b"".join(pieces)


def pack_conflicts(revision: int, conflicts: Sequence[Conflicting]) -> bytes:
    pieces = [_DONE.pack(CONFLICT, revision, len(conflicts))]
    for found in conflicts:
        pieces += (_CONFLICT.pack(found.part, len(found.key), found.version, found.modified, found.holder), found.key)
    return b"".join(pieces)


def pack_locked(revision: int, lockers: Sequence[Locker]) -> bytes:
    told = lockers[:INTENTS_TOLD_MAX]
    return b"".join([_DONE.pack(LOCKED, revision, len(told)), *[pack_locker(locker) for locker in told]])


def pack_error(status: int, revision: int) -> bytes:
    return _DONE.pack(status, revision, 0)


def unpack_done_one(data: bytes) -> tuple[int, int] | None:
    """Revision and number of what ``pack_done_one`` packed; None for any other result."""
    if len(data) != _ONE_DONE.size or data[0] != OK:
        return None
    _, revision, count, number, _ = _ONE_DONE.unpack(data)
    return (revision, number) if count == 1 else None


def unpack_result(data: bytes) -> Result:
    """Raises RemoteProtocolError."""
    cursor = Cursor(data, 0, len(data))
    status, revision, count = _DONE.unpack(cursor.take(_DONE.size, "a result"))
    result = Result(status, revision)
    if status == OK:
        for _ in range(count):
            result.numbers.append(cursor.number(U64, "a number"))
        for _ in range(cursor.number(U16, "a count")):
            found = []
            for _ in range(cursor.number(U32, "a count")):
                entry, cursor.at = unpack_entry(data, cursor.at)
                found.append(entry)
            result.entries.append(found)
    elif status == CONFLICT:
        for _ in range(count):
            part, size, *numbers = _CONFLICT.unpack(cursor.take(_CONFLICT.size, "a conflict"))
            result.conflicts.append(Conflicting(part, cursor.take(size, "a key"), *numbers))
    elif status == LOCKED:
        result.lockers, _ = unpack_lockers(data, cursor.at, count)
    return result
