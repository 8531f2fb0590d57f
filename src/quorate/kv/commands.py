"""What changes the store, and what comes of it, as bytes. Integers are big-endian and unsigned.

A log entry holds a batch: commands one after the other, each ``u32 length of the body, u8 kind, u64 session, u64 seq, u64 acked, body``. ``session``
and ``seq`` name the command for good: repeated, it has no second effect and gets the first one's result (``session`` 0: it has no name). Every
seq below ``acked`` is known to be answered.

A COMMIT holds conditions and writes: if all conditions hold, all writes are done, else none. A SEQUENCE holds commits, each of which sees what
those before it did: all of them are done, at one revision, or none. Nothing on the way to a member's state checks a command
again, so whoever takes commands from outside calls :func:`check` first.

A PREPARE keeps a commit as an *intent* and locks its keys (``intents``), until a FINISH with the same id carries it out or drops it. A TIDY forgets
what became of those whose time is long up.
"""

from collections.abc import Sequence
from itertools import pairwise
from struct import Struct

from quorate.errors import RemoteProtocolError

KEY_MAX = 4096
VALUE_MAX = 1 << 20
COMMAND_MAX = 4 << 20
PARTS_MAX = 4096
"""Conditions, and writes, and reads, of one commit."""
RANGES_MAX = 64
META_MAX = 4096

HEAD = Struct(">IBQQQ")
(
    COMMIT,
    OPEN_SESSION,
    CLOSE_SESSIONS,
    GRANT_LEASE,
    REVOKE_LEASES,
    COMPACT,
    END_DELAYS,
    SEQUENCE,
    PREPARE,
    FINISH,
    TIDY,
) = range(1, 12)

VERSION, MODIFIED, EXISTS, ABSENT, VALUE, HELD_BY, UNCHANGED, ABSENT_OR_MODIFIED = range(1, 9)
"""Kinds of conditions: the key's version (0: it does not exist), the revision of its last change (0: the same), that it exists or does not,
its value, the lease that holds its lock; that no key of a range was changed after a revision; and that it does not exist, or was last changed at a revision."""
PUT, DELETE, DELETE_RANGE, ACQUIRE, RELEASE = range(1, 6)
KEEP_LEASE, KEEP_FLAGS = 1, 2
"""Options of PUT: what the key has stays."""

DELETE_KEYS, RELEASE_LOCKS, DELETE_LOCKED = range(3)
"""What becomes of a lease's keys at its end: those put with it are deleted in any case; locks are released, or their keys deleted as well."""

OK, CONFLICT, NO_SESSION, ANSWERED, TOO_MANY, NO_LEASE, LEASE_EXISTS, NO_SUCH_REVISION = range(8)
LOCKED, FENCED, LEASED, FULL, OTHER_INTENT = range(8, 13)
MESSAGES = {
    LOCKED: "keys are locked by a transaction that is not finished",
    FENCED: "the transaction was aborted before it was prepared",
    LEASED: "a key belongs to a lease, or its lock is held: it cannot be in a transaction over shards",
    FULL: "too many transactions are prepared here, or too many outcomes are kept",
    OTHER_INTENT: "something else is prepared here under the same name",
    NO_SESSION: "there is no such session: it was closed, or expired",
    ANSWERED: "the command was answered before, and the answer is not kept any more",
    TOO_MANY: "the session has too many commands under way",
    NO_LEASE: "there is no such lease: it was revoked, or expired",
    LEASE_EXISTS: "there is a lease of this number already",
    NO_SUCH_REVISION: "the store has no such revision",
}

UNDECIDED, COMMITTED, ABORTED, PREPARED = range(4)
"""What became of an intent, in the results of PREPARE and FINISH: (one of these, the revision it was committed at). UNDECIDED: nothing is known of it."""
ID_MAX = 128
"""Of an intent's id: ``<transaction>/<participant>``, names as of X/Open XA."""
DECISION_KEY_MAX = 256
RESERVED = b"quorate/txn/"
"""What begins so are decisions (``decisions``): they cannot be in a PREPARE."""
RESERVED_END = b"quorate/txn0"
INTENTS_TOLD_MAX = 64
"""Intents told of in one LOCKED; who has resolved these meets the others the next time."""

_COUNTS = Struct(">HHH")
PLAIN, CONDITIONAL = _COUNTS.pack(0, 1, 0), _COUNTS.pack(1, 1, 0)
"""How commits begin that have one write, and at most one condition."""
KIND_KEY = Struct(">BH")
_U16 = Struct(">H")
U32 = Struct(">I")
U64 = Struct(">Q")
PUT_TAIL = Struct(">QQB")
_LOCK_TAIL = Struct(">QQ")
_GRANT = Struct(">QQBI")
_ENTRY = Struct(">HIQQQQQQQ")
_DONE = Struct(">BQH")
_ONE_DONE = Struct(">BQHQH")
_CONFLICT = Struct(">HHQQQ")
_INTENT = Struct(">HHQ")
_PREPARE = Struct(">HHQB")
_FINISH = Struct(">HBQ")


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


# ---- what clients make

Read = tuple[bytes, bytes | None]


class Condition:
    """``kind`` as above; ``number``: the version, revision or lease; ``value``: the value, or the end of UNCHANGED's range."""

    __slots__ = ("key", "kind", "number", "value")

    def __init__(self, kind: int, key: bytes, number: int = 0, value: bytes = b"") -> None:
        self.kind = kind
        self.key = key
        self.number = number
        self.value = value


class Write:
    """``value`` is the end of DELETE_RANGE's range, b"" for no end."""

    __slots__ = ("flags", "key", "kind", "lease", "options", "value")

    def __init__(
        self, kind: int, key: bytes, value: bytes = b"", *, lease: int = 0, flags: int = 0, options: int = 0
    ) -> None:
        self.kind = kind
        self.key = key
        self.value = value
        self.lease = lease
        self.flags = flags
        self.options = options


def pack_command(kind: int, body: bytes, session: int = 0, seq: int = 0, acked: int = 0) -> bytes:
    return HEAD.pack(len(body), kind, session, seq, acked) + body


def commit_body(conditions: Sequence[Condition], writes: Sequence[Write], reads: Sequence[Read] = ()) -> bytes:
    """Of a COMMIT; ``reads`` are ranges (start, end) whose entries are wanted as they are after it; an end of None means that key alone."""
    pieces = [_COUNTS.pack(len(conditions), len(writes), len(reads))]
    for condition in conditions:
        kind = condition.kind
        pieces += (KIND_KEY.pack(kind, len(condition.key)), condition.key)
        if kind in (VERSION, MODIFIED, HELD_BY, ABSENT_OR_MODIFIED):
            pieces.append(U64.pack(condition.number))
        elif kind == VALUE:
            pieces += (U32.pack(len(condition.value)), condition.value)
        elif kind == UNCHANGED:
            pieces += (_U16.pack(len(condition.value)), condition.value, U64.pack(condition.number))
    for write in writes:
        kind = write.kind
        pieces += (KIND_KEY.pack(kind, len(write.key)), write.key)
        if kind == PUT:
            pieces += (
                U32.pack(len(write.value)),
                write.value,
                PUT_TAIL.pack(write.lease, write.flags, write.options),
            )
        elif kind == DELETE_RANGE:
            pieces += (_U16.pack(len(write.value)), write.value)
        elif kind in (ACQUIRE, RELEASE):
            pieces += (U32.pack(len(write.value)), write.value, _LOCK_TAIL.pack(write.lease, write.flags))
    for start, end in reads:
        if end is None:
            pieces += (KIND_KEY.pack(0, len(start)), start)
        else:
            pieces += (KIND_KEY.pack(1, len(start)), start, _U16.pack(len(end)), end)
    return b"".join(pieces)


def sequence_body(commits: Sequence[bytes]) -> bytes:
    """Of a SEQUENCE; ``commits``: the bodies of COMMITs."""
    return b"".join([_U16.pack(len(commits)), *[piece for body in commits for piece in (U32.pack(len(body)), body)]])


def sequence_of(body: bytes) -> list[bytes]:
    (count,) = _U16.unpack_from(body)
    at = _U16.size
    found = []
    for _ in range(count):
        (size,) = U32.unpack_from(body, at)
        at += U32.size
        found.append(body[at : at + size])
        at += size
    return found


def open_session_body(ttl_ms: int) -> bytes:
    return U64.pack(ttl_ms)


def numbers_body(numbers: Sequence[int]) -> bytes:
    """Of CLOSE_SESSIONS and REVOKE_LEASES (their ids) and COMPACT (one revision)."""
    return b"".join(U64.pack(number) for number in numbers)


def numbers_of(body: bytes) -> list[int]:
    return [number for (number,) in U64.iter_unpack(body)]


def grant_lease_body(
    lease: int, ttl_ms: int, behaviour: int = DELETE_KEYS, lock_delay_ms: int = 0, meta: bytes = b""
) -> bytes:
    """``lease`` 0 lets the store choose the number; ``meta`` is kept and given back as it is."""
    return _GRANT.pack(lease, ttl_ms, behaviour, lock_delay_ms) + meta


def grant_of(body: bytes) -> tuple[int, int, int, int, bytes]:
    lease, ttl_ms, behaviour, lock_delay_ms = _GRANT.unpack_from(body)
    return lease, ttl_ms, behaviour, lock_delay_ms, body[_GRANT.size :]


def keys_body(keys: Sequence[bytes]) -> bytes:
    """Of END_DELAYS."""
    return b"".join(_U16.pack(len(key)) + key for key in keys)


def keys_of(body: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(body):
        (size,) = _U16.unpack_from(body, at)
        at += 2
        found.append(body[at : at + size])
        at += size
    return found


def prepare_body(id_: bytes, decision: bytes, deadline_ms: int, commit: bytes, at_once: bool = False) -> bytes:
    """``decision``: the key that the decision lies at, b"" if it lies in no store of ours; ``commit``: the body of a COMMIT; ``at_once``: commit it, and
    remember that, instead of keeping it: where nobody else takes part."""
    return b"".join((_PREPARE.pack(len(id_), len(decision), deadline_ms, at_once), id_, decision, commit))


def prepare_of(body: bytes) -> tuple[bytes, bytes, int, bool, bytes]:
    """As they were given to ``prepare_body``, the last two the other way round."""
    size, decision_size, deadline_ms, at_once = _PREPARE.unpack_from(body)
    at = _PREPARE.size + size
    end = at + decision_size
    return body[_PREPARE.size : at], body[at:end], deadline_ms, bool(at_once), body[end:]


def finish_body(id_: bytes, commit: bool, until_ms: int) -> bytes:
    """``until_ms``: the transaction's deadline: before it, what became of it is not forgotten."""
    return _FINISH.pack(len(id_), commit, until_ms) + id_


def finish_of(body: bytes) -> tuple[bytes, bool, int]:
    _, commit, until_ms = _FINISH.unpack_from(body)
    return body[_FINISH.size :], bool(commit), until_ms


def tidy_body(prefix: bytes, before_ms: int) -> bytes:
    """Forget what became of intents whose id begins with ``prefix`` and whose time was up before ``before_ms``; none of them can be prepared any more."""
    return U64.pack(before_ms) + prefix


def tidy_of(body: bytes) -> tuple[bytes, int]:
    return body[U64.size :], int(U64.unpack_from(body)[0])


# ---- what the state reads


def conditions_of(body: bytes, count: int, at: int) -> tuple[list[Condition], int]:
    found = []
    for _ in range(count):
        kind, size = KIND_KEY.unpack_from(body, at)
        at += 3
        key = body[at : at + size]
        at += size
        number, value = 0, b""
        if kind in (VERSION, MODIFIED, HELD_BY, ABSENT_OR_MODIFIED):
            (number,) = U64.unpack_from(body, at)
            at += 8
        elif kind == VALUE:
            (size,) = U32.unpack_from(body, at)
            at += 4
            value = body[at : at + size]
            at += size
        elif kind == UNCHANGED:
            (size,) = _U16.unpack_from(body, at)
            at += 2
            value = body[at : at + size]
            at += size
            (number,) = U64.unpack_from(body, at)
            at += 8
        found.append(Condition(kind, key, number, value))
    return found, at


def writes_of(body: bytes, count: int, at: int) -> tuple[list[Write], int]:
    found = []
    for _ in range(count):
        kind, size = KIND_KEY.unpack_from(body, at)
        at += 3
        key = body[at : at + size]
        at += size
        if kind == PUT:
            (size,) = U32.unpack_from(body, at)
            at += 4
            value = body[at : at + size]
            at += size
            lease, flags, options = PUT_TAIL.unpack_from(body, at)
            at += 17
            found.append(Write(kind, key, value, lease=lease, flags=flags, options=options))
        elif kind == DELETE:
            found.append(Write(kind, key))
        elif kind == DELETE_RANGE:
            (size,) = _U16.unpack_from(body, at)
            at += 2
            found.append(Write(kind, key, body[at : at + size]))
            at += size
        else:
            (size,) = U32.unpack_from(body, at)
            at += 4
            value = body[at : at + size]
            at += size
            lease, flags = _LOCK_TAIL.unpack_from(body, at)
            at += 16
            found.append(Write(kind, key, value, lease=lease, flags=flags))
    return found, at


def reads_of(body: bytes, count: int, at: int) -> list[Read]:
    found: list[Read] = []
    for _ in range(count):
        ranged, size = KIND_KEY.unpack_from(body, at)
        at += 3
        start = body[at : at + size]
        at += size
        end = None
        if ranged:
            (size,) = _U16.unpack_from(body, at)
            at += 2
            end = body[at : at + size]
            at += size
        found.append((start, end))
    return found


def commit_counts(body: bytes) -> tuple[int, int, int, int]:
    """Conditions, writes, reads, and where the first of them begins."""
    conditions, writes, reads = _COUNTS.unpack_from(body)
    return conditions, writes, reads, _COUNTS.size


# ---- what comes from outside


class _Cursor:
    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def take(self, size: int, what: str) -> bytes:
        at = self.at
        if size > self.end - at:
            raise RemoteProtocolError(f"{what} of {size} bytes where {self.end - at} are left")
        self.at = at + size
        return self.data[at : at + size]

    def number(self, struct: Struct, what: str) -> int:
        return int(struct.unpack(self.take(struct.size, what))[0])

    def key(self, size: int, least: int = 1) -> bytes:
        if not least <= size <= KEY_MAX:
            raise RemoteProtocolError(f"a key of {size} bytes, expected {least} to {KEY_MAX}")
        return self.take(size, "a key")

    def value(self) -> bytes:
        size = self.number(U32, "a length")
        if size > VALUE_MAX:
            raise RemoteProtocolError(f"a value of {size} bytes, at most {VALUE_MAX} can be")
        return self.take(size, "a value")


Range = tuple[bytes, bytes]
"""Start and end, half open; an end of b"" is none."""


def check(data: bytes) -> tuple[int, list[bytes], list[Range]]:
    """Check one whole command from outside: its kind, and the keys and the ranges that it names.

    Raises RemoteProtocolError for anything that ``apply`` could not read, or that is beyond the limits.
    """
    if not HEAD.size <= len(data) <= COMMAND_MAX:
        raise RemoteProtocolError(f"a command of {len(data)} bytes, expected {HEAD.size} to {COMMAND_MAX}")
    length, kind, _, _, _ = HEAD.unpack_from(data)
    if length != len(data) - HEAD.size:
        raise RemoteProtocolError(f"a command of {len(data) - HEAD.size} bytes that says it has {length}")
    cursor = _Cursor(data, HEAD.size, len(data))
    keys: list[bytes] = []
    ranges: list[Range] = []
    if kind == COMMIT:
        key = _check_one(data)
        if key:
            return kind, [key], ranges
        _check_commit(cursor, keys, ranges)
    elif kind == SEQUENCE:
        _check_sequence(cursor, keys, ranges)
    elif kind == PREPARE:
        _check_prepare(cursor, keys, ranges)
    elif kind == FINISH:
        size, commit, _ = _FINISH.unpack(cursor.take(_FINISH.size, "a finish"))
        if not 1 <= size <= ID_MAX or commit > 1:
            raise RemoteProtocolError(
                f"a finish of {size} bytes of name that says {commit}, expected 1 to {ID_MAX}, and 0 or 1"
            )
        cursor.take(size, "a name")
    elif kind == TIDY:
        cursor.number(U64, "a time")
        if not 1 <= cursor.end - cursor.at <= ID_MAX:
            raise RemoteProtocolError(f"a prefix of {cursor.end - cursor.at} bytes, expected 1 to {ID_MAX}")
        cursor.at = cursor.end
    elif kind in (OPEN_SESSION, COMPACT):
        cursor.number(U64, "a number")
    elif kind in (CLOSE_SESSIONS, REVOKE_LEASES):
        if length % 8 or not 1 <= length // 8 <= PARTS_MAX:
            raise RemoteProtocolError(f"ids in {length} bytes, expected 1 to {PARTS_MAX} of 8 bytes each")
        cursor.at = cursor.end
    elif kind == GRANT_LEASE:
        head = cursor.take(_GRANT.size, "a lease")
        if _GRANT.unpack(head)[2] > DELETE_LOCKED or cursor.end - cursor.at > META_MAX:
            raise RemoteProtocolError("a lease of unknown behaviour, or with too much to keep")
        cursor.at = cursor.end
    elif kind == END_DELAYS:
        while cursor.at < cursor.end:
            keys.append(cursor.key(cursor.number(_U16, "a length")))
    else:
        raise RemoteProtocolError(f"a command of unknown kind {kind}")
    if cursor.at != cursor.end:
        raise RemoteProtocolError(f"a command with {cursor.end - cursor.at} bytes too many")
    return kind, keys, ranges


def _check_one(data: bytes) -> bytes:
    """The key of a commit that is one put, at most on its own key's version or revision, and within the limits; b"" for any other."""
    at = HEAD.size
    if len(data) < at + _COUNTS.size + KIND_KEY.size:
        return b""
    conditions, writes, reads = _COUNTS.unpack_from(data, at)
    if writes != 1 or conditions > 1 or reads:
        return b""
    at += _COUNTS.size
    end = len(data)
    kind, size = KIND_KEY.unpack_from(data, at)
    at += 3
    key = data[at : at + size]
    at += size
    if not 1 <= size <= KEY_MAX:
        return b""
    if conditions:
        if (kind != VERSION and kind != MODIFIED) or end < at + 8 + 3:
            return b""
        at += 8
        kind, size = KIND_KEY.unpack_from(data, at)
        at += 3
        if data[at : at + size] != key:
            return b""
        at += size
    if kind != PUT or end < at + 4:
        return b""
    (size,) = U32.unpack_from(data, at)
    return key if size <= VALUE_MAX and at + 4 + size + PUT_TAIL.size == end else b""


def _check_sequence(cursor: _Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    count = cursor.number(_U16, "a sequence")
    if count > PARTS_MAX:
        raise RemoteProtocolError(f"a sequence of {count} commits, at most {PARTS_MAX} can be")
    for _ in range(count):
        size = cursor.number(U32, "a length")
        inner = _Cursor(cursor.data, cursor.at, cursor.at + size)
        cursor.take(size, "a commit")
        _check_commit(inner, keys, ranges)
        if inner.at != inner.end:
            raise RemoteProtocolError(f"a commit with {inner.end - inner.at} bytes too many")


def _check_prepare(cursor: _Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    size, decision_size, _, at_once = _PREPARE.unpack(cursor.take(_PREPARE.size, "a prepare"))
    if not 1 <= size <= ID_MAX or decision_size > DECISION_KEY_MAX or at_once > 1:
        raise RemoteProtocolError(
            f"a prepare of {size} bytes of name and {decision_size} of decision key, at most {ID_MAX} and {DECISION_KEY_MAX} can be"
        )
    cursor.take(size + decision_size, "a name")
    commit = cursor.data[cursor.at : cursor.end]
    _check_commit(cursor, keys, ranges)
    if cursor.at != cursor.end:
        raise RemoteProtocolError(f"a prepare with {cursor.end - cursor.at} bytes too many")
    conditions, count, reads, at = commit_counts(commit)
    writes, _ = writes_of(commit, count, conditions_of(commit, conditions, at)[1])
    if reads or not (keys or ranges):
        raise RemoteProtocolError("a prepare that reads, or that does nothing")
    if any(write.kind not in (PUT, DELETE) or write.lease or write.options & KEEP_LEASE for write in writes):
        raise RemoteProtocolError("a prepare with a write that is neither a put without a lease nor a deletion")
    if any(key.startswith(RESERVED) for key in keys) or any(
        start < RESERVED_END and (not end or end > RESERVED) for start, end in ranges
    ):
        raise RemoteProtocolError(f"a prepare of what begins with {RESERVED.decode()}: that is for decisions")


def _check_commit(cursor: _Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    conditions, writes, reads = _COUNTS.unpack(cursor.take(_COUNTS.size, "a commit"))
    if max(conditions, writes, reads) > PARTS_MAX:
        raise RemoteProtocolError(
            f"a commit of {conditions} conditions, {writes} writes and {reads} reads, at most {PARTS_MAX} of each"
        )
    for _ in range(conditions):
        kind, size = KIND_KEY.unpack(cursor.take(3, "a condition"))
        if kind == UNCHANGED:
            ranges.append(_check_range(cursor, size))
            cursor.take(8, "a number")
            continue
        keys.append(cursor.key(size))
        if kind in (VERSION, MODIFIED, HELD_BY, ABSENT_OR_MODIFIED):
            cursor.take(8, "a number")
        elif kind == VALUE:
            cursor.value()
        elif kind not in (EXISTS, ABSENT):
            raise RemoteProtocolError(f"a condition of unknown kind {kind}")
    written: set[bytes] = set()
    deleted: list[Range] = []
    for _ in range(writes):
        kind, size = KIND_KEY.unpack(cursor.take(3, "a write"))
        if kind == DELETE_RANGE:
            deleted.append(_check_range(cursor, size))
            continue
        key = cursor.key(size)
        if key in written:
            raise RemoteProtocolError(f"a commit that writes {key!r} twice")
        written.add(key)
        keys.append(key)
        if kind == PUT:
            cursor.value()
            cursor.take(PUT_TAIL.size, "a put")
        elif kind in (ACQUIRE, RELEASE):
            cursor.value()
            cursor.take(_LOCK_TAIL.size, "a lock")
        elif kind != DELETE:
            raise RemoteProtocolError(f"a write of unknown kind {kind}")
    _check_deleted(deleted, written)
    ranges += deleted
    for _ in range(reads):
        ranged, size = KIND_KEY.unpack(cursor.take(3, "a read"))
        if ranged:
            ranges.append(_check_range(cursor, size))
        else:
            keys.append(cursor.key(size))


def _check_range(cursor: _Cursor, size: int) -> Range:
    """The one whose start has ``size`` bytes."""
    start = cursor.key(size, 0)
    return start, cursor.key(cursor.number(_U16, "a length"), 0)


def _check_deleted(deleted: list[Range], written: set[bytes]) -> None:
    """Every key is written once: no ranges that overlap, and none that has a written key."""
    if len(deleted) > RANGES_MAX:
        raise RemoteProtocolError(f"a commit that deletes {len(deleted)} ranges, at most {RANGES_MAX} can be")
    deleted.sort()
    for (start, end), (later, _) in pairwise(deleted):
        if not end or later < end:
            raise RemoteProtocolError(
                f"a commit that deletes the range from {later!r} and one from {start!r}, which overlap"
            )
    for start, end in deleted:
        for key in written:
            if start <= key and (not end or key < end):
                raise RemoteProtocolError(f"a commit that writes {key!r} and deletes a range that it is in")


# ---- results


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
    cursor = _Cursor(data, at, len(data))
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
        _U16.pack(len(entries)),
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
    cursor = _Cursor(data, 0, len(data))
    status, revision, count = _DONE.unpack(cursor.take(_DONE.size, "a result"))
    result = Result(status, revision)
    if status == OK:
        for _ in range(count):
            result.numbers.append(cursor.number(U64, "a number"))
        for _ in range(cursor.number(_U16, "a count")):
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
