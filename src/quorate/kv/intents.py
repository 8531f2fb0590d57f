"""What is prepared in a shard for transactions over shards: intents, the locks they hold on keys, and what became of those before.

An intent is a commit whose conditions held when it was prepared. Until it is finished nothing may change what it read (shared locks, of keys and
of whole ranges), and nobody may depend on what it writes (exclusive locks), for that may change any moment or not at all. Who meets a lock is told whose
it is and where that is decided, and can finish the intent itself (``resolving``): so nobody waits for whoever prepared it. Locks are part of
the replicated state; two-phase locking with validation at the prepare (Bernstein, Hadzilacos and Goodman, "Concurrency Control and Recovery in
Database Systems", 1987, chapters 4 and 7).

Outcomes are kept until a TIDY, so that a participant can tell them, and that who prepares after an abort is refused (the fence).
"""

from bisect import bisect_left
from collections.abc import Iterable

from quorate.kv import commands
from quorate.kv.commands import ABORTED, COMMITTED, DELETE_RANGE, UNCHANGED, UNDECIDED, Condition, Read, Write
from quorate.kv.mvcc import KeyIndex
from quorate.kv.results import Locker

INTENTS_MAX = 10_000
INTENT_BYTES_MAX = 64 << 20
LOCKS_MAX = 100_000
"""Locked keys."""
RANGES_MAX = 1_000
"""Locked ranges: each write looks at all of them."""
OUTCOMES_MAX = 1 << 18
SPACES_MAX = 1_000
_MINUTE_MS = 60_000


class Intent(Locker):
    """``body``: of the COMMIT; ``shared``: keys that are read and not written."""

    __slots__ = ("body", "ranges", "shared", "writes")

    def __init__(self, id_: bytes, decision: bytes, deadline_ms: int, body: bytes) -> None:
        super().__init__(id_, decision, deadline_ms)
        self.body = body
        conditions, self.writes, _ = parts_of(body)
        written = {write.key for write in self.writes}
        read = [condition.key for condition in conditions if condition.kind != UNCHANGED]
        self.shared = [key for key in dict.fromkeys(read) if key not in written]
        found = [(condition.key, condition.value) for condition in conditions if condition.kind == UNCHANGED]
        self.ranges = list(dict.fromkeys(found))

    def __repr__(self) -> str:
        return f"Intent({self.id!r})"


def parts_of(body: bytes) -> tuple[list[Condition], list[Write], list[Read]]:
    """Of a COMMIT."""
    condition_count, write_count, read_count, at = commands.commit_counts(body)
    conditions, at = commands.conditions_of(body, condition_count, at)
    writes, at = commands.writes_of(body, write_count, at)
    return conditions, writes, commands.reads_of(body, read_count, at)


class Locks:
    def __init__(self) -> None:
        self.intents: dict[bytes, Intent] = {}
        """By id. Where there are none nothing is locked."""
        self._exclusive: dict[bytes, Intent] = {}
        self._shared: dict[bytes, dict[Intent, None]] = {}
        self._ordered_exclusive = KeyIndex()
        self._ordered_shared = KeyIndex()
        self._ranges: dict[Intent, None] = {}
        """Those that lock ranges."""
        self._range_count = 0
        self._bytes = 0

    def fits(self, intent: Intent) -> bool:
        """Whether there is room for another one like this."""
        keys = len(self._exclusive) + len(self._shared) + len(intent.writes) + len(intent.shared)
        return (
            len(self.intents) < INTENTS_MAX
            and self._bytes + len(intent.body) <= INTENT_BYTES_MAX
            and keys <= LOCKS_MAX
            and self._range_count + len(intent.ranges) <= RANGES_MAX
        )

    def add(self, intent: Intent) -> None:
        self.intents[intent.id] = intent
        self._bytes += len(intent.body)
        for write in intent.writes:
            self._exclusive[write.key] = intent
            self._ordered_exclusive.add(write.key)
        for key in intent.shared:
            holders = self._shared.get(key)
            if holders is None:
                holders = self._shared[key] = {}
                self._ordered_shared.add(key)
            holders[intent] = None
        if intent.ranges:
            self._ranges[intent] = None
            self._range_count += len(intent.ranges)

    def remove(self, intent: Intent) -> None:
        del self.intents[intent.id]
        self._bytes -= len(intent.body)
        for write in intent.writes:
            del self._exclusive[write.key]
            self._ordered_exclusive.discard(write.key)
        for key in intent.shared:
            holders = self._shared[key]
            del holders[intent]
            if not holders:
                del self._shared[key]
                self._ordered_shared.discard(key)
        if intent.ranges:
            del self._ranges[intent]
            self._range_count -= len(intent.ranges)

    # ---- who is in the way

    def changing(self, start: bytes, end: bytes | None) -> list[Intent]:
        """Those that may change a key of the range; an end of None means that key alone."""
        if end is None:
            found = self._exclusive.get(start)
            return [] if found is None else [found]
        held = _between(self._ordered_exclusive.ordered(), start, end)
        return list(dict.fromkeys(self._exclusive[key] for key in held))

    def depending(self, start: bytes, end: bytes | None) -> list[Intent]:
        """Those that have read a key of the range, or that there is none."""
        if end is None:
            found = list(self._shared.get(start, ()))
            end = start + b"\0"
        else:
            held = _between(self._ordered_shared.ordered(), start, end)
            found = [intent for key in held for intent in self._shared[key]]
        for intent in self._ranges:
            if any((not end or first < end) and (not last or start < last) for first, last in intent.ranges):
                found.append(intent)
        return found

    def against(self, bodies: Iterable[bytes]) -> list[Intent]:
        """Those that commits with these bodies have to wait for."""
        found: dict[Intent, None] = {}
        for body in bodies:
            conditions, writes, reads = parts_of(body)
            for condition in conditions:
                end = condition.value if condition.kind == UNCHANGED else None
                found.update(dict.fromkeys(self.changing(condition.key, end)))
            for write in writes:
                end = write.value if write.kind == DELETE_RANGE else None
                found.update(dict.fromkeys(self.changing(write.key, end)))
                found.update(dict.fromkeys(self.depending(write.key, end)))
            for start, end in reads:
                found.update(dict.fromkeys(self.changing(start, end)))
        return list(found)


def _between(keys: list[bytes], start: bytes, end: bytes) -> list[bytes]:
    return keys[bisect_left(keys, start) : bisect_left(keys, end) if end else len(keys)]


class Outcome:
    """``kind``: COMMITTED or ABORTED; ``revision``: that it was committed at, else 0; ``until_ms``: its transaction's deadline."""

    __slots__ = ("kind", "revision", "until_ms")

    def __init__(self, kind: int, revision: int, until_ms: int) -> None:
        self.kind = kind
        self.revision = revision
        self.until_ms = until_ms


NOTHING = Outcome(UNDECIDED, 0, 0)


class Outcomes:
    def __init__(self) -> None:
        self.of: dict[bytes, Outcome] = {}
        self._by_minute: dict[int, dict[bytes, None]] = {}
        """So that a TIDY looks only at what is old."""
        self.tidied: dict[bytes, int] = {}
        """By prefix: before when all is forgotten."""

    @property
    def full(self) -> bool:
        return len(self.of) >= OUTCOMES_MAX

    def add(self, id_: bytes, kind: int, revision: int, until_ms: int) -> Outcome:
        assert kind in (COMMITTED, ABORTED)
        found = self.of[id_] = Outcome(kind, revision, until_ms)
        self._by_minute.setdefault(until_ms // _MINUTE_MS, {})[id_] = None
        return found

    def forgotten(self, id_: bytes, until_ms: int) -> bool:
        """Whether what became of it may have been known, and is not any more."""
        return any(until_ms < before and id_.startswith(prefix) for prefix, before in self.tidied.items())

    def tidy(self, prefix: bytes, before_ms: int) -> int:
        """How many were forgotten; -1 if too many prefixes are known."""
        if prefix not in self.tidied and len(self.tidied) >= SPACES_MAX:
            return -1
        self.tidied[prefix] = max(self.tidied.get(prefix, 0), before_ms)
        count = 0
        for minute in [minute for minute in self._by_minute if (minute + 1) * _MINUTE_MS <= before_ms]:
            ids = self._by_minute[minute]
            for id_ in [id_ for id_ in ids if id_.startswith(prefix)]:
                del ids[id_], self.of[id_]
                count += 1
            if not ids:
                del self._by_minute[minute]
        return count
