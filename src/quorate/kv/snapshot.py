"""A machine's state as bytes: records ``u8 kind`` and what belongs to it, in pieces that hold whole records.

1  u64 revision, compacted, next_id, lease_revision             the first record, once
2  u64 id, ttl_ms, u8 behaviour, u32 lock_delay_ms, u64 created, u32 length, meta       a lease
3  u64 id, ttl_ms, acked                                        a session
4  u64 seq, u32 length, reply                                   of the session before
5  u16 length, key, u32 ms                                      a lock that cannot be taken yet
6  entry                                                        a key's oldest first
7  u64 number of all records before                             the last record
8  u16 length, u16 length, u64 deadline, u32 length, id, decision key, commit      what is prepared
9  u16 length, u8 kind, u64 revision, u64 until, id             what became of it
10 u16 length, u64 before, prefix                               what is forgotten
"""

from collections.abc import Iterator
from struct import Struct
from struct import error as malformed

from quorate.errors import CorruptionError, RemoteProtocolError
from quorate.kv.commands import ABORTED, COMMITTED
from quorate.kv.entries import pack_entry, unpack_entry
from quorate.kv.intents import Intent
from quorate.kv.machine import Lease, Machine, Session

PIECE_BYTES = 64 << 10
_NUMBERS = Struct(">BQQQQ")
_LEASE = Struct(">BQQBIQI")
_SESSION = Struct(">BQQQ")
_REPLY = Struct(">BQI")
_DELAY = Struct(">BHI")
_END = Struct(">BQ")
_INTENT = Struct(">BHHQI")
_OUTCOME = Struct(">BHBQQ")
_TIDIED = Struct(">BHQ")
NUMBERS, LEASE, SESSION, REPLY, DELAY, ENTRY, END, INTENT, OUTCOME, TIDIED = range(1, 11)


def snapshot(machine: Machine) -> Iterator[bytes]:
    """The state as of this call, whatever is applied while the pieces are read."""
    store = machine.store
    records = [_NUMBERS.pack(NUMBERS, store.revision, store.compacted, machine.next_id, machine.lease_revision)]
    for lease in machine.leases.values():
        head = _LEASE.pack(
            LEASE, lease.id, lease.ttl_ms, lease.behaviour, lease.lock_delay_ms, lease.created, len(lease.meta)
        )
        records.append(head + lease.meta)
    for session in machine.sessions.values():
        records.append(_SESSION.pack(SESSION, session.id, session.ttl_ms, session.acked))
        records += [_REPLY.pack(REPLY, seq, len(reply)) + reply for seq, reply in session.replies.items()]
    records += [_DELAY.pack(DELAY, len(key), ms) + key for key, ms in machine.delays.items()]
    for intent in machine.locks.intents.values():
        head = _INTENT.pack(INTENT, len(intent.id), len(intent.decision), intent.deadline_ms, len(intent.body))
        records.append(b"".join((head, intent.id, intent.decision, intent.body)))
    for id_, found in machine.outcomes.of.items():
        records.append(_OUTCOME.pack(OUTCOME, len(id_), found.kind, found.revision, found.until_ms) + id_)
    records += [_TIDIED.pack(TIDIED, len(of), before) + of for of, before in machine.outcomes.tidied.items()]
    return _pieces(records, (b"\6" + pack_entry(entry) for entry in store.pinned()))


def _pieces(records: list[bytes], entries: Iterator[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = count = 0
    for some in (iter(records), entries):
        for record in some:
            piece.append(record)
            size += len(record)
            count += 1
            if size >= PIECE_BYTES:
                yield b"".join(piece)
                piece, size = [], 0
    piece.append(_END.pack(END, count))
    yield b"".join(piece)


class Restorer:
    """Implements consensus.replicated.Restorer."""

    def __init__(self) -> None:
        self.machine = Machine()
        self._count = 0
        self._fed = 0
        self._ended = False
        self._session: Session | None = None

    def feed(self, piece: bytes) -> None:
        at = 0
        try:
            while at < len(piece):
                if self._ended:
                    raise self._bad(at, "something behind its end")
                at = self._record(piece, at)
        except (malformed, RemoteProtocolError, IndexError) as error:
            raise self._bad(at, str(error)) from None
        self._fed += len(piece)

    def finish(self) -> None:
        if not self._ended:
            raise self._bad(0, "it ends early")
        machine = self.machine
        machine.store.restored()
        for entry in machine.store.current.values():
            for id_ in (entry.lease, entry.holder):
                if id_ and id_ not in machine.leases:
                    raise self._bad(0, f"the key {entry.key!r} belongs to lease {id_}, which is missing")
            if entry.lease:
                machine.leases[entry.lease].keys[entry.key] = None
            if entry.holder:
                machine.leases[entry.holder].locks[entry.key] = None

    def _bad(self, at: int, what: str) -> CorruptionError:
        return CorruptionError("a snapshot of the key-value store", self._fed + at, what)

    def _record(self, piece: bytes, at: int) -> int:
        """Take one record; where it ends."""
        kind = piece[at]
        machine = self.machine
        if kind == ENTRY:
            entry, at = unpack_entry(piece, at + 1)
            machine.store.restore(entry)
        elif kind == END:
            _, count = _END.unpack_from(piece, at)
            if count != self._count:
                raise self._bad(at, f"{self._count} records, expected {count}")
            self._ended = True
            return at + _END.size
        elif kind == NUMBERS:
            _, revision, compacted, machine.next_id, machine.lease_revision = _NUMBERS.unpack_from(piece, at)
            machine.store.revision, machine.store.compacted = revision, compacted
            at += _NUMBERS.size
        elif kind == LEASE:
            _, id_, ttl_ms, behaviour, lock_delay_ms, created, size = _LEASE.unpack_from(piece, at)
            at += _LEASE.size
            machine.leases[id_] = Lease(id_, ttl_ms, behaviour, lock_delay_ms, self._take(piece, at, size), created)
            at += size
        elif kind == SESSION:
            _, id_, ttl_ms, acked = _SESSION.unpack_from(piece, at)
            self._session = machine.sessions[id_] = Session(id_, ttl_ms)
            self._session.acked = acked
            at += _SESSION.size
        elif kind == REPLY and self._session is not None:
            _, seq, size = _REPLY.unpack_from(piece, at)
            at += _REPLY.size
            self._session.replies[seq] = self._take(piece, at, size)
            at += size
        elif kind == DELAY:
            _, size, ms = _DELAY.unpack_from(piece, at)
            at += _DELAY.size
            machine.delays[self._take(piece, at, size)] = ms
            at += size
        elif kind == INTENT:
            _, size, decision_size, deadline_ms, body_size = _INTENT.unpack_from(piece, at)
            at += _INTENT.size
            id_, at = self._take(piece, at, size), at + size
            decision, at = self._take(piece, at, decision_size), at + decision_size
            machine.locks.add(Intent(id_, decision, deadline_ms, self._take(piece, at, body_size)))
            at += body_size
        elif kind == OUTCOME:
            _, size, outcome, revision, until_ms = _OUTCOME.unpack_from(piece, at)
            at += _OUTCOME.size
            if outcome not in (COMMITTED, ABORTED):
                raise self._bad(at, f"an outcome of kind {outcome}")
            machine.outcomes.add(self._take(piece, at, size), outcome, revision, until_ms)
            at += size
        elif kind == TIDIED:
            _, size, before = _TIDIED.unpack_from(piece, at)
            at += _TIDIED.size
            machine.outcomes.tidied[self._take(piece, at, size)] = before
            at += size
        else:
            raise self._bad(at, f"a record of kind {kind} where none can be")
        self._count += 1
        return at

    def _take(self, piece: bytes, at: int, size: int) -> bytes:
        if size > len(piece) - at:
            raise self._bad(at, f"{size} bytes where {len(piece) - at} are left")
        return piece[at : at + size]
