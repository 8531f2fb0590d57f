"""What changes the store, and what comes of it, as bytes. Integers are big-endian and unsigned.

A log entry holds a batch: commands one after the other, each ``u32 length of the body, u8 kind, u64 session, u64 seq, u64 acked, body``. ``session``
and ``seq`` name the command for good: repeated, it has no second effect and gets the first one's result (``session`` 0: it has no name). Every
seq below ``acked`` is known to be answered.

A COMMIT holds conditions and writes: if all conditions hold, all writes are done, else none. A SEQUENCE holds commits, each of which sees what
those before it did: all of them are done, at one revision, or none. Nothing on the way to a member's state checks a command
again, so whoever takes commands from outside calls ``checks.check`` first.

A PREPARE keeps a commit as an *intent* and locks its keys (``intents``), until a FINISH with the same id carries it out or drops it. A TIDY forgets
what became of those whose time is long up.
"""

from collections.abc import Sequence
from struct import Struct

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

COUNTS = Struct(">HHH")
PLAIN, CONDITIONAL = COUNTS.pack(0, 1, 0), COUNTS.pack(1, 1, 0)
"""How commits begin that have one write, and at most one condition."""
KIND_KEY = Struct(">BH")
U16 = Struct(">H")
U32 = Struct(">I")
U64 = Struct(">Q")
PUT_TAIL = Struct(">QQB")
LOCK_TAIL = Struct(">QQ")
GRANT = Struct(">QQBI")
PREPARE_HEAD = Struct(">HHQB")
FINISH_HEAD = Struct(">HBQ")


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
    pieces = [COUNTS.pack(len(conditions), len(writes), len(reads))]
    for condition in conditions:
        kind = condition.kind
        pieces += (KIND_KEY.pack(kind, len(condition.key)), condition.key)
        if kind in (VERSION, MODIFIED, HELD_BY, ABSENT_OR_MODIFIED):
            pieces.append(U64.pack(condition.number))
        elif kind == VALUE:
            pieces += (U32.pack(len(condition.value)), condition.value)
        elif kind == UNCHANGED:
            pieces += (U16.pack(len(condition.value)), condition.value, U64.pack(condition.number))
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
            pieces += (U16.pack(len(write.value)), write.value)
        elif kind in (ACQUIRE, RELEASE):
            pieces += (U32.pack(len(write.value)), write.value, LOCK_TAIL.pack(write.lease, write.flags))
    for start, end in reads:
        if end is None:
            pieces += (KIND_KEY.pack(0, len(start)), start)
        else:
            pieces += (KIND_KEY.pack(1, len(start)), start, U16.pack(len(end)), end)
    return b"".join(pieces)


def sequence_body(commits: Sequence[bytes]) -> bytes:
    """Of a SEQUENCE; ``commits``: the bodies of COMMITs."""
    return b"".join([U16.pack(len(commits)), *[piece for body in commits for piece in (U32.pack(len(body)), body)]])


def sequence_of(body: bytes) -> list[bytes]:
    (count,) = U16.unpack_from(body)
    at = U16.size
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
    return GRANT.pack(lease, ttl_ms, behaviour, lock_delay_ms) + meta


def grant_of(body: bytes) -> tuple[int, int, int, int, bytes]:
    lease, ttl_ms, behaviour, lock_delay_ms = GRANT.unpack_from(body)
    return lease, ttl_ms, behaviour, lock_delay_ms, body[GRANT.size :]


def keys_body(keys: Sequence[bytes]) -> bytes:
    """Of END_DELAYS."""
    return b"".join(U16.pack(len(key)) + key for key in keys)


def keys_of(body: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(body):
        (size,) = U16.unpack_from(body, at)
        at += 2
        found.append(body[at : at + size])
        at += size
    return found


def prepare_body(id_: bytes, decision: bytes, deadline_ms: int, commit: bytes, at_once: bool = False) -> bytes:
    """``decision``: the key that the decision lies at, b"" if it lies in no store of ours; ``commit``: the body of a COMMIT; ``at_once``: commit it, and
    remember that, instead of keeping it: where nobody else takes part."""
    return b"".join((PREPARE_HEAD.pack(len(id_), len(decision), deadline_ms, at_once), id_, decision, commit))


def prepare_of(body: bytes) -> tuple[bytes, bytes, int, bool, bytes]:
    """As they were given to ``prepare_body``, the last two the other way round."""
    size, decision_size, deadline_ms, at_once = PREPARE_HEAD.unpack_from(body)
    at = PREPARE_HEAD.size + size
    end = at + decision_size
    return body[PREPARE_HEAD.size : at], body[at:end], deadline_ms, bool(at_once), body[end:]


def finish_body(id_: bytes, commit: bool, until_ms: int) -> bytes:
    """``until_ms``: the transaction's deadline: before it, what became of it is not forgotten."""
    return FINISH_HEAD.pack(len(id_), commit, until_ms) + id_


def finish_of(body: bytes) -> tuple[bytes, bool, int]:
    _, commit, until_ms = FINISH_HEAD.unpack_from(body)
    return body[FINISH_HEAD.size :], bool(commit), until_ms


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
            (size,) = U16.unpack_from(body, at)
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
            (size,) = U16.unpack_from(body, at)
            at += 2
            found.append(Write(kind, key, body[at : at + size]))
            at += size
        else:
            (size,) = U32.unpack_from(body, at)
            at += 4
            value = body[at : at + size]
            at += size
            lease, flags = LOCK_TAIL.unpack_from(body, at)
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
            (size,) = U16.unpack_from(body, at)
            at += 2
            end = body[at : at + size]
            at += size
        found.append((start, end))
    return found


def commit_counts(body: bytes) -> tuple[int, int, int, int]:
    """Conditions, writes, reads, and where the first of them begins."""
    conditions, writes, reads = COUNTS.unpack_from(body)
    return conditions, writes, reads, COUNTS.size
