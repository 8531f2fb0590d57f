"""The state of one shard: the store, leases and sessions. Equal commands in equal order make equal states; it knows no clock.

``apply`` takes a batch and returns a result for each command in it, as bytes. What depends on time (a lease's or a session's end, the delay before
a lock that was lost can be taken) is a command too, proposed by the leader when its clock says so (``expiry``).
"""

from collections.abc import Iterable
from hashlib import blake2b

from quorate.kv import commands, intents
from quorate.kv.commands import (
    ABSENT,
    ABSENT_OR_MODIFIED,
    ACQUIRE,
    ANSWERED,
    CLOSE_SESSIONS,
    COMMIT,
    COMPACT,
    CONDITIONAL,
    DELETE,
    DELETE_RANGE,
    END_DELAYS,
    EXISTS,
    FINISH,
    GRANT_LEASE,
    HEAD,
    HELD_BY,
    KEEP_FLAGS,
    KEEP_LEASE,
    KIND_KEY,
    LEASE_EXISTS,
    MODIFIED,
    NO_LEASE,
    NO_SESSION,
    NO_SUCH_REVISION,
    OPEN_SESSION,
    PLAIN,
    PREPARE,
    PUT,
    PUT_TAIL,
    RELEASE,
    REVOKE_LEASES,
    SEQUENCE,
    TIDY,
    TOO_MANY,
    U32,
    U64,
    UNCHANGED,
    VALUE,
    VERSION,
    Condition,
    Write,
)
from quorate.kv.entries import Entry
from quorate.kv.intents import NOTHING, Intent, Locks, Outcomes
from quorate.kv.mvcc import Store
from quorate.kv.results import Conflicting, pack_conflicts, pack_done, pack_done_one, pack_error, pack_locked

CHOSEN_ELSEWHERE = 1 << 63
"""From here on lease ids are not given by the store: they are chosen by who grants, at random."""
REPLIES_MAX = 4096
"""Replies kept for one session: more commands than so many are not under way."""


class Session:
    """A client's, for exactly one effect of each command. ``replies`` by seq, for all that may be asked for again."""

    __slots__ = ("acked", "id", "replies", "ttl_ms")

    def __init__(self, id_: int, ttl_ms: int) -> None:
        self.id = id_
        self.ttl_ms = ttl_ms
        self.acked = 0
        self.replies: dict[int, bytes] = {}


class Lease:
    """``keys`` were put with it, ``locks`` are held by it. ``meta`` is its owner's."""

    __slots__ = ("behaviour", "created", "id", "keys", "lock_delay_ms", "locks", "meta", "ttl_ms")

    def __init__(self, id_: int, ttl_ms: int, behaviour: int, lock_delay_ms: int, meta: bytes, created: int) -> None:
        self.id = id_
        self.ttl_ms = ttl_ms
        self.behaviour = behaviour
        self.lock_delay_ms = lock_delay_ms
        self.meta = meta
        self.created = created
        """The revision at which it was granted."""
        self.keys: dict[bytes, None] = {}
        self.locks: dict[bytes, None] = {}


class _View:
    """The store as a commit finds it, and over it what it has changed so far (version 0: deleted)."""

    __slots__ = ("_store", "changed")

    def __init__(self, store: Store) -> None:
        self._store = store
        self.changed: dict[bytes, Entry] = {}

    def get(self, key: bytes) -> Entry | None:
        entry = self.changed.get(key) if self.changed else None
        if entry is None:
            return self._store.current.get(key)
        return entry if entry.version else None

    def range(self, start: bytes, end: bytes) -> list[Entry]:
        store, changed = self._store, self.changed
        found = store.range(start, end, store.revision, 0)[0]
        if changed:
            inside = {key: entry for key, entry in changed.items() if start <= key and (not end or key < end)}
            merged = {entry.key: entry for entry in found} | inside
            found = [entry for _, entry in sorted(merged.items()) if entry.version]
        return found

    def read(self, start: bytes, end: bytes | None) -> list[Entry]:
        """A range, or without an end one key."""
        if end is not None:
            return self.range(start, end)
        entry = self.get(start)
        return [] if entry is None else [entry]


class Machine:
    def __init__(self) -> None:
        self.store = Store()
        self.sessions: dict[int, Session] = {}
        self.leases: dict[int, Lease] = {}
        self.delays: dict[bytes, int] = {}
        """Keys whose lock was lost with its lease, and for how many milliseconds nobody can take it."""
        self.locks = Locks()
        """What is prepared for transactions over shards."""
        self.outcomes = Outcomes()
        self.next_id = 1
        """Of sessions and leases alike."""
        self.lease_revision = 0
        """Of the last change of leases; watched by those who list them."""
        self.timed = 0
        """Grows whenever something began or ended that lasts for a time; no part of the state."""

    # ---- batches

    def apply(self, payload: bytes) -> list[bytes]:
        results: list[bytes] = []
        at, end = 0, len(payload)
        unpack, size = HEAD.unpack_from, HEAD.size
        once = self._once
        while at < end:
            length, kind, session, seq, acked = unpack(payload, at)
            at += size
            body = payload[at : at + length]
            at += length
            results.append(once(kind, body, session, seq, acked) if session else self._carry_out(kind, body))
        return results

    def _once(self, kind: int, body: bytes, id_: int, seq: int, acked: int) -> bytes:
        session = self.sessions.get(id_)
        if session is None:
            return pack_error(NO_SESSION, self.store.revision)
        replies = session.replies
        if acked > session.acked:
            session.acked = acked
            # they are in the order they came in, which is nearly that of their numbers
            while replies and (first := next(iter(replies))) < acked:
                del replies[first]
        if seq < session.acked:
            return pack_error(ANSWERED, self.store.revision)
        reply = replies.get(seq)
        if reply is None:
            if len(replies) >= REPLIES_MAX:
                return pack_error(TOO_MANY, self.store.revision)
            reply = self._commit_one(body) if kind == COMMIT else b""
            reply = replies[seq] = reply or self._carry_out(kind, body)
        return reply

    def _carry_out(self, kind: int, body: bytes) -> bytes:
        store = self.store
        if kind == COMMIT:
            return self._commit(body)
        if kind == SEQUENCE:
            return self._sequence(body)
        if kind == PREPARE:
            return self._prepare(body)
        if kind == FINISH:
            return self._finish(body)
        if kind == TIDY:
            count = self.outcomes.tidy(*commands.tidy_of(body))
            return pack_error(commands.FULL, store.revision) if count < 0 else pack_done(store.revision, [count])
        self.timed += 1
        if kind == OPEN_SESSION:
            (ttl_ms,) = commands.numbers_of(body)
            id_ = self._new_id()
            self.sessions[id_] = Session(id_, ttl_ms)
            return pack_done(store.revision, [id_])
        if kind == CLOSE_SESSIONS:
            closed = [id_ for id_ in commands.numbers_of(body) if self.sessions.pop(id_, None) is not None]
            return pack_done(store.revision, [len(closed)])
        if kind == GRANT_LEASE:
            return self._grant(body)
        if kind == REVOKE_LEASES:
            return self._revoke(commands.numbers_of(body))
        if kind == END_DELAYS:
            for key in commands.keys_of(body):
                self.delays.pop(key, None)
            return pack_done(store.revision, [0])
        assert kind == COMPACT, f"a command of kind {kind}, which nobody checked"
        (revision,) = commands.numbers_of(body)
        if revision > store.revision:
            return pack_error(NO_SUCH_REVISION, store.revision)
        store.compact(revision)
        return pack_done(store.revision, [store.compacted])

    def _new_id(self) -> int:
        id_ = self.next_id
        self.next_id += 1
        return id_

    # ---- commits

    def _commit(self, body: bytes) -> bytes:
        store = self.store
        if self.locks.intents and (blocking := self.locks.against((body,))):
            return pack_locked(store.revision, blocking)
        _, _, read_count, _ = commands.commit_counts(body)
        view = _View(store)
        conflicts, writes, at = self._demanded(body, view)
        if any(self._without_lease(write) for write in writes):
            return pack_error(NO_LEASE, store.revision)
        if conflicts:
            return pack_conflicts(store.revision, conflicts)
        numbers = self._write(writes, view)
        self._take_over(view)
        reads = commands.reads_of(body, read_count, at) if read_count else ()
        return pack_done(store.revision, numbers, [view.read(start, end) for start, end in reads])

    def _demanded(self, body: bytes, view: "_View") -> tuple[list[Conflicting], list[Write], int]:
        """What keeps a commit from being done, what it would write, and where its reads begin."""
        condition_count, write_count, _, at = commands.commit_counts(body)
        conflicts: list[Conflicting] = []
        if condition_count:
            conditions, at = commands.conditions_of(body, condition_count, at)
            for part, condition in enumerate(conditions):
                found = self._conflict(part, condition, view)
                if found is not None:
                    conflicts.append(found)
        writes, at = commands.writes_of(body, write_count, at)
        for part, write in enumerate(writes, condition_count):
            if write.kind in (ACQUIRE, RELEASE):
                entry = view.get(write.key)
                holder = entry.holder if entry is not None else 0
                # who releases need not be there any more: then it does not hold the lock
                fits = holder == write.lease if write.kind == RELEASE else self._free(write, holder)
                if not fits:
                    conflicts.append(_conflicting(part, write.key, entry))
        return conflicts, writes, at

    def _without_lease(self, write: Write) -> bool:
        """It names a lease that there is not."""
        kind, lease = write.kind, write.lease
        return (kind == ACQUIRE or (kind == PUT and lease != 0)) and lease not in self.leases

    def _sequence(self, body: bytes) -> bytes:
        """Commits one after another. What one of them lacks is told, and the rest looked at all the same, as if that one were not there."""
        store = self.store
        commits = commands.sequence_of(body)
        if self.locks.intents and (blocking := self.locks.against(commits)):
            return pack_locked(store.revision, blocking)
        view = _View(store)
        conflicts: list[Conflicting] = []
        numbers: list[int] = []
        entries: list[list[Entry]] = []
        for part, commit in enumerate(commits):
            found, writes, at = self._demanded(commit, view)
            missing = next((write for write in writes if self._without_lease(write)), None)
            if missing is not None or found:
                key = found[0].key if missing is None else missing.key
                conflicts.append(_conflicting(part, key, view.get(key)))
                continue
            numbers += self._write(writes, view)
            read_count = commands.commit_counts(commit)[2]
            entries += [view.read(start, end) for start, end in commands.reads_of(commit, read_count, at)]
        if conflicts:
            return pack_conflicts(store.revision, conflicts)
        self._take_over(view)
        return pack_done(store.revision, numbers, entries)

    def _commit_one(self, body: bytes) -> bytes:
        """The same for what most commits are: one put, on the condition of a version or revision at most; b"" for any other."""
        if self.locks.intents:
            return b""
        store = self.store
        at = len(PLAIN)
        if not body.startswith(PLAIN):
            if not body.startswith(CONDITIONAL):
                return b""
            kind, size = KIND_KEY.unpack_from(body, at)
            if kind != VERSION and kind != MODIFIED:
                return b""
            at += 3
            key = body[at : at + size]
            at += size
            (number,) = U64.unpack_from(body, at)
            at += 8
            entry = store.current.get(key)
            if (0 if entry is None else entry.version if kind == VERSION else entry.modified) != number:
                return b""  # told in the other way
        kind, size = KIND_KEY.unpack_from(body, at)
        if kind != PUT:
            return b""
        at += 3
        key = body[at : at + size]
        at += size
        (size,) = U32.unpack_from(body, at)
        at += 4
        value = body[at : at + size]
        lease, flags, options = PUT_TAIL.unpack_from(body, at + size)
        if lease:
            return b""
        entry = store.current.get(key)
        revision = store.revision + 1
        if entry is None:
            entry = Entry(key, value, 1, revision, revision, 0, flags)
        elif entry.lease or entry.holder:
            return b""
        else:
            if options & KEEP_FLAGS:
                flags = entry.flags
            entry = Entry(key, value, entry.version + 1, entry.created, revision, 0, flags)
        store.revision = revision
        store.set(entry)
        return pack_done_one(revision, entry.version)

    # ---- transactions over shards

    def _prepare(self, body: bytes) -> bytes:
        """Asked again, it answers the same, whoever asks."""
        store, locks, outcomes = self.store, self.locks, self.outcomes
        id_, decision, deadline_ms, at_once, commit = commands.prepare_of(body)
        outcome = outcomes.of.get(id_)
        if outcome is not None and outcome.kind == commands.COMMITTED:
            return pack_done(store.revision, [outcome.kind, outcome.revision])
        if outcome is not None or outcomes.forgotten(id_, deadline_ms):
            return pack_error(commands.FENCED, store.revision)
        known = locks.intents.get(id_)
        if known is not None:
            if known.body != commit or at_once:
                return pack_error(commands.OTHER_INTENT, store.revision)
            return pack_done(store.revision, [commands.PREPARED, 0])
        intent = Intent(id_, decision, deadline_ms, commit)
        # each of those that are prepared will have an outcome
        if len(outcomes.of) + len(locks.intents) >= intents.OUTCOMES_MAX or not locks.fits(intent):
            return pack_error(commands.FULL, store.revision)
        if locks.intents and (blocking := locks.against((commit,))):
            return pack_locked(store.revision, blocking)
        conflicts, writes, _ = self._demanded(commit, _View(store))
        if conflicts:
            return pack_conflicts(store.revision, conflicts)
        if at_once:
            return self._finished(id_, writes, deadline_ms)
        if self._leased(intent):
            return pack_error(commands.LEASED, store.revision)
        locks.add(intent)
        return pack_done(store.revision, [commands.PREPARED, 0])

    def _finish(self, body: bytes) -> bytes:
        id_, commit, until_ms = commands.finish_of(body)
        store, outcomes = self.store, self.outcomes
        outcome = outcomes.of.get(id_)
        if outcome is not None:
            return pack_done(store.revision, [outcome.kind, outcome.revision])
        intent = self.locks.intents.get(id_)
        if intent is not None:
            self.locks.remove(intent)
            until_ms = max(until_ms, intent.deadline_ms)
            if commit:
                return self._finished(id_, intent.writes, until_ms)
        elif commit or outcomes.forgotten(id_, until_ms):
            return pack_done(store.revision, [NOTHING.kind, 0])
        elif outcomes.full:
            return pack_error(commands.FULL, store.revision)
        # also where nothing is prepared: what comes late is refused
        outcomes.add(id_, commands.ABORTED, 0, until_ms)
        return pack_done(store.revision, [commands.ABORTED, 0])

    def _finished(self, id_: bytes, writes: list[Write], until_ms: int) -> bytes:
        """Carry it out."""
        view = _View(self.store)
        self._write(writes, view)
        self._take_over(view)
        revision = self.store.revision
        self.outcomes.add(id_, commands.COMMITTED, revision, until_ms)
        return pack_done(revision, [commands.COMMITTED, revision])

    def _leased(self, intent: Intent) -> bool:
        """Whether a lease may change one of its keys: it can end at any time, and asks nobody."""
        current = self.store.current
        for key in [*intent.shared, *[write.key for write in intent.writes]]:
            entry = current.get(key)
            if entry is not None and (entry.lease or entry.holder):
                return True
        return any(
            start <= key and (not end or key < end)
            for start, end in intent.ranges
            for lease in self.leases.values()
            for keys in (lease.keys, lease.locks)
            for key in keys
        )

    def outcome(self, id_: bytes) -> tuple[int, int]:
        """What became of an intent, and the revision at which it was committed."""
        if id_ in self.locks.intents:
            return commands.PREPARED, 0
        found = self.outcomes.of.get(id_, NOTHING)
        return found.kind, found.revision

    def _free(self, write: Write, holder: int) -> bool:
        return holder == write.lease or (holder == 0 and write.key not in self.delays)

    def _conflict(self, part: int, condition: Condition, view: "_View") -> Conflicting | None:
        kind = condition.kind
        if kind == UNCHANGED:
            changed = self.store.changed_after(condition.key, condition.value, condition.number)
            # what was compacted meanwhile cannot be told apart from what changed
            if changed is None and condition.number >= self.store.compacted:
                return None
            return (
                Conflicting(part, condition.key, 0, 0) if changed is None else _conflicting(part, changed.key, changed)
            )
        entry = view.get(condition.key)
        if kind == VERSION:
            holds = (entry.version if entry is not None else 0) == condition.number
        elif kind == MODIFIED:
            holds = (entry.modified if entry is not None else 0) == condition.number
        elif kind == ABSENT_OR_MODIFIED:
            holds = entry is None or entry.modified == condition.number
        elif kind == EXISTS:
            holds = entry is not None
        elif kind == ABSENT:
            holds = entry is None
        elif kind == VALUE:
            holds = entry is not None and entry.value == condition.value
        else:
            assert kind == HELD_BY
            holds = (entry.holder if entry is not None else 0) == condition.number
        return None if holds else _conflicting(part, condition.key, entry)

    def _write(self, writes: list[Write], view: "_View") -> list[int]:
        """Carry all of them out in the view, as of the next revision; the results in the writes' order."""
        revision = self.store.revision + 1
        numbers: list[int] = []
        for write in writes:
            if write.kind in (DELETE, DELETE_RANGE):
                if write.kind == DELETE:
                    keys = [write.key] if view.get(write.key) is not None else []
                else:
                    keys = [entry.key for entry in view.range(write.key, write.value)]
                for key in keys:
                    view.changed[key] = Entry(key, b"", 0, 0, revision)
                numbers.append(len(keys))
            else:
                entry = view.changed[write.key] = self._put(write, revision, view.get(write.key))
                numbers.append(entry.version)
        return numbers

    def _take_over(self, view: "_View") -> None:
        """What was changed in the view becomes the store's next revision, if there is anything."""
        store = self.store
        if not view.changed:
            return
        # also where all that came went again: its revision was told
        store.revision += 1
        # in the order of the keys, as everything within one revision
        for key, entry in sorted(view.changed.items()):
            if entry.version or key in store.current:
                self._set(entry)

    def _put(self, write: Write, revision: int, before: Entry | None) -> Entry:
        """The key's next entry. A put keeps its lock, though not how often it was taken, and nothing else but what its options say."""
        kind, lease, flags = write.kind, write.lease, write.flags
        if before is None:
            version, created, lock_index, holder = 0, revision, 0, 0
        else:
            version, created, lock_index, holder = before.version, before.created, before.lock_index, before.holder
            if write.options & KEEP_LEASE:
                lease = before.lease
            if write.options & KEEP_FLAGS:
                flags = before.flags
        if kind == PUT:
            lock_index = 0
        else:
            lease = before.lease if before is not None else 0
            if kind == RELEASE:
                holder = 0
            elif holder == 0:
                holder, lock_index = write.lease, lock_index + 1
        return Entry(write.key, write.value, version + 1, created, revision, lease, flags, lock_index, holder)

    def _set(self, entry: Entry) -> None:
        """Replace a key's entry, and keep leases informed of their keys and locks."""
        key = entry.key
        before = self.store.current.get(key)
        if before is not None and (before.lease or before.holder):
            if before.lease and before.lease != entry.lease:
                self.leases[before.lease].keys.pop(key, None)
            if before.holder and before.holder != entry.holder:
                self.leases[before.holder].locks.pop(key, None)
        self.store.set(entry)
        if entry.lease:
            self.leases[entry.lease].keys[key] = None
        if entry.holder:
            self.leases[entry.holder].locks[key] = None

    # ---- leases

    def _grant(self, body: bytes) -> bytes:
        id_, ttl_ms, behaviour, lock_delay_ms, meta = commands.grant_of(body)
        if id_ in self.leases:
            return pack_error(LEASE_EXISTS, self.store.revision)
        if not id_:
            id_ = self._new_id()
        if id_ < CHOSEN_ELSEWHERE:
            self.next_id = max(self.next_id, id_ + 1)
        self.store.revision += 1
        self.lease_revision = self.store.revision
        self.leases[id_] = Lease(id_, ttl_ms, behaviour, lock_delay_ms, meta, self.store.revision)
        return pack_done(self.store.revision, [id_])

    def _revoke(self, ids: Iterable[int]) -> bytes:
        """Those that are there; what happens to their keys happens at one revision."""
        store = self.store
        revision = store.revision + 1
        changed: dict[bytes, Entry] = {}
        gone = 0
        for id_ in ids:
            lease = self.leases.get(id_)
            if lease is None:
                continue
            gone += 1
            for key in lease.locks:
                before = changed.get(key) or store.current[key]
                if not before.version:
                    continue
                if lease.behaviour == commands.DELETE_LOCKED:
                    changed[key] = Entry(key, b"", 0, 0, revision)
                else:
                    changed[key] = Entry(
                        key,
                        before.value,
                        before.version + 1,
                        before.created,
                        revision,
                        before.lease,
                        before.flags,
                        before.lock_index,
                    )
                if lease.lock_delay_ms:
                    self.delays[key] = lease.lock_delay_ms
            for key in lease.keys:
                changed[key] = Entry(key, b"", 0, 0, revision)
        if gone:
            store.revision = self.lease_revision = revision
            for key in sorted(changed):
                self._set(changed[key])
            for id_ in ids:
                self.leases.pop(id_, None)
        return pack_done(store.revision, [gone])

    # ---- for tests and the judge

    def digest(self) -> bytes:
        """Equal for equal states, however they came about."""
        hashed = blake2b(digest_size=16)
        store = self.store
        hashed.update(repr((store.revision, store.compacted, self.next_id, self.lease_revision)).encode())
        for key in sorted(store.keys(b"", b"")):
            hashed.update(repr([entry.fields() for entry in store.readable(key)]).encode())
        for id_, session in sorted(self.sessions.items()):
            hashed.update(repr((id_, session.ttl_ms, session.acked, sorted(session.replies.items()))).encode())
        for id_, lease in sorted(self.leases.items()):
            state = (id_, lease.ttl_ms, lease.behaviour, lease.lock_delay_ms, lease.meta, lease.created)
            hashed.update(repr((state, sorted(lease.keys), sorted(lease.locks))).encode())
        hashed.update(repr(sorted(self.delays.items())).encode())
        for name, intent in sorted(self.locks.intents.items()):
            hashed.update(repr((name, intent.decision, intent.deadline_ms, intent.body)).encode())
        for name, outcome in sorted(self.outcomes.of.items()):
            hashed.update(repr((name, outcome.kind, outcome.revision, outcome.until_ms)).encode())
        hashed.update(repr(sorted(self.outcomes.tidied.items())).encode())
        return hashed.digest()


def _conflicting(part: int, key: bytes, entry: Entry | None) -> Conflicting:
    if entry is None:
        return Conflicting(part, key, 0, 0)
    # a deletion was changed at its revision, and has no version
    return Conflicting(part, key, entry.version, entry.modified if entry.version else 0, entry.holder)
