"""Commands that come from outside are looked at here, once: nothing that follows checks them again."""

from itertools import pairwise

from quorate.errors import RemoteProtocolError
from quorate.kv.commands import (
    ABSENT,
    ABSENT_OR_MODIFIED,
    ACQUIRE,
    CLOSE_SESSIONS,
    COMMAND_MAX,
    COMMIT,
    COMPACT,
    COUNTS,
    DECISION_KEY_MAX,
    DELETE,
    DELETE_LOCKED,
    DELETE_RANGE,
    END_DELAYS,
    EXISTS,
    FINISH,
    FINISH_HEAD,
    GRANT,
    GRANT_LEASE,
    HEAD,
    HELD_BY,
    ID_MAX,
    KEEP_LEASE,
    KEY_MAX,
    KIND_KEY,
    LOCK_TAIL,
    META_MAX,
    MODIFIED,
    OPEN_SESSION,
    PARTS_MAX,
    PREPARE,
    PREPARE_HEAD,
    PUT,
    PUT_TAIL,
    RANGES_MAX,
    RELEASE,
    RESERVED,
    RESERVED_END,
    REVOKE_LEASES,
    SEQUENCE,
    TIDY,
    U16,
    U32,
    U64,
    UNCHANGED,
    VALUE,
    VALUE_MAX,
    VERSION,
    commit_counts,
    conditions_of,
    writes_of,
)
from quorate.kv.cursor import Cursor

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
    cursor = Cursor(data, HEAD.size, len(data))
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
        size, commit, _ = FINISH_HEAD.unpack(cursor.take(FINISH_HEAD.size, "a finish"))
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
        head = cursor.take(GRANT.size, "a lease")
        if GRANT.unpack(head)[2] > DELETE_LOCKED or cursor.end - cursor.at > META_MAX:
            raise RemoteProtocolError("a lease of unknown behaviour, or with too much to keep")
        cursor.at = cursor.end
    elif kind == END_DELAYS:
        while cursor.at < cursor.end:
            keys.append(cursor.key(cursor.number(U16, "a length")))
    else:
        raise RemoteProtocolError(f"a command of unknown kind {kind}")
    if cursor.at != cursor.end:
        raise RemoteProtocolError(f"a command with {cursor.end - cursor.at} bytes too many")
    return kind, keys, ranges


def _check_one(data: bytes) -> bytes:
    """The key of a commit that is one put, at most on its own key's version or revision, and within the limits; b"" for any other."""
    at = HEAD.size
    if len(data) < at + COUNTS.size + KIND_KEY.size:
        return b""
    conditions, writes, reads = COUNTS.unpack_from(data, at)
    if writes != 1 or conditions > 1 or reads:
        return b""
    at += COUNTS.size
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


def _check_sequence(cursor: Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    count = cursor.number(U16, "a sequence")
    if count > PARTS_MAX:
        raise RemoteProtocolError(f"a sequence of {count} commits, at most {PARTS_MAX} can be")
    for _ in range(count):
        size = cursor.number(U32, "a length")
        inner = Cursor(cursor.data, cursor.at, cursor.at + size)
        cursor.take(size, "a commit")
        _check_commit(inner, keys, ranges)
        if inner.at != inner.end:
            raise RemoteProtocolError(f"a commit with {inner.end - inner.at} bytes too many")


def _check_prepare(cursor: Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    size, decision_size, _, at_once = PREPARE_HEAD.unpack(cursor.take(PREPARE_HEAD.size, "a prepare"))
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


def _check_commit(cursor: Cursor, keys: list[bytes], ranges: list[Range]) -> None:
    conditions, writes, reads = COUNTS.unpack(cursor.take(COUNTS.size, "a commit"))
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
            cursor.take(LOCK_TAIL.size, "a lock")
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


def _check_range(cursor: Cursor, size: int) -> Range:
    """The one whose start has ``size`` bytes."""
    start = cursor.key(size, 0)
    return start, cursor.key(cursor.number(U16, "a length"), 0)


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
