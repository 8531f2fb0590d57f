"""The clients' connections of one member, and the way from a key to its shard.

A connection's answers are gathered while a batch of events is handled and written once. Flow control: a connection that does not take its
answers is not read from, and is dropped when too many wait for it; neither is one read from that has too many requests under way.
"""

import json
import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv import checks, commands, entries, results, wire
from quorate.kv.checks import Range
from quorate.kv.commands import COMMIT, LOCKED, PREPARE, SEQUENCE
from quorate.kv.entries import Entry
from quorate.kv.intents import Intent
from quorate.kv.service import KvService, is_conditional
from quorate.kv.watches import Watch
from quorate.runtime.environment import Connection, Environment

log = logging.getLogger(__name__)

UNREAD_MAX = 64 << 20
"""Bytes that may wait for a client that does not read; then it is dropped."""
UNDER_WAY_MAX = 4096
"""Requests of one connection that wait for their answers; it is not read from meanwhile."""
WATCHES_MAX = 10_000
_OLD = (
    b"a transaction over shards is about to change what was asked for, which version 1 of the protocol cannot be told: "
    b"try again, or use a newer client"
)
LIST_BYTES = 4 << 20
"""A LIST is ended early beyond so many bytes, as if by its limit."""


class Shards:
    """The services of a member by their keys."""

    def __init__(self, services: Sequence[KvService]) -> None:
        self.services = sorted(services, key=lambda service: service.start)
        self._starts = [service.start for service in self.services]
        self._groups = {service.replica.group: service for service in services}

    def of_key(self, key: bytes) -> KvService:
        return self.services[bisect_right(self._starts, key) - 1]

    def of_group(self, group: int) -> KvService | None:
        return self._groups.get(group)

    def of_keys(self, keys: Sequence[bytes], ranges: Sequence[Range] = ()) -> KvService | None:
        """The one that has all of them, whole ranges among them; None if no single one has."""
        found = self.of_key(keys[0] if keys else ranges[0][0])
        if len(self.services) > 1:
            if any(self.of_key(key) is not found for key in keys):
                return None
            for start, end in ranges:
                if self.of_key(start) is not found or (found.end and (not end or end > found.end)):
                    return None
        return found


class Front:
    """``describe()`` gives what HELLO tells of the members. ``accept`` makes a handler for each connection."""

    def __init__(self, env: Environment, describe: Callable[[], dict[str, Any]]) -> None:
        self.env = env
        self.describe = describe
        self.shards = Shards([])
        self._dirty: dict[ClientConnection, None] = {}
        self._connections: dict[ClientConnection, None] = {}
        self._scheduled = False

    def serve(self, services: Sequence[KvService]) -> None:
        self.shards = Shards(services)

    def accept(self) -> "ClientConnection":
        return ClientConnection(self)

    def opened(self, connection: "ClientConnection") -> None:
        self._connections[connection] = None

    def gone(self, connection: "ClientConnection") -> None:
        self._connections.pop(connection, None)
        self._dirty.pop(connection, None)

    def touch(self, connection: "ClientConnection") -> None:
        """It has something to write."""
        self._dirty[connection] = None
        if not self._scheduled:
            self._scheduled = True
            self.env.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for connection in dirty:
                connection.flush()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def status(self) -> dict[str, Any]:
        shards = [
            {
                "group": service.replica.group,
                "start": service.start.hex(),
                "leader": service.leader,
                "leading": service.leading,
                "applied": service.replica.applied,
                "revision": service.machine.store.revision,
                "compacted": service.machine.store.compacted,
                "keys": len(service.machine.store.current),
                "leases": len(service.machine.leases),
                "sessions": len(service.machine.sessions),
                "watches": len(service.watches),
                "intents": len(service.machine.locks.intents),
            }
            for service in self.shards.services
        ]
        return {**self.describe(), "connections": len(self._connections), "shards": shards}


class ClientConnection:
    """Implements runtime.environment.Handler."""

    __slots__ = (
        "_connection",
        "_frames",
        "_front",
        "_out",
        "_paused",
        "_turns",
        "_under_way",
        "_unread",
        "_version",
        "_watches",
    )

    def __init__(self, front: Front) -> None:
        self._version = wire.VERSIONS[0]
        self._front = front
        self._frames = wire.Frames()
        self._connection: Connection | None = None
        self._out: list[bytes] = []
        self._under_way = 0
        self._paused = False
        """The client does not take what it was sent."""
        self._unread = False
        """We do not read from it."""
        self._watches: dict[int, tuple[KvService, Watch]] = {}
        self._turns: dict[int, object] = {}
        """By the id they were asked for with: who has them, as ``Turns`` knows it."""

    # ---- runtime.environment.Handler

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self._front.opened(self)

    def received(self, data: bytes) -> None:
        for id_, op, body in self._frames.feed(data):
            self._under_way += 1
            if op == wire.WRITE:
                self._write(id_, body)
            elif op == wire.GET:
                self._get(id_, body)
            else:
                self._other(id_, op, body)
        self._pace()

    def writing_paused(self) -> None:
        self._paused = True
        self._pace()

    def writing_resumed(self) -> None:
        self._paused = False
        self._pace()
        for service, watch in list(self._watches.values()):
            service.goes_on(watch)

    def closed(self, reason: str) -> None:
        self._connection = None
        front = self._front
        front.gone(self)
        for service, watch in self._watches.values():
            service.watches.remove(watch)
        self._watches.clear()
        now = front.env.now()
        for service in front.shards.services:
            for owner in self._turns.values():
                service.turns.forget(now, owner)
        self._turns.clear()

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    # ---- answers

    def answer(self, id_: int, status: int, body: bytes = b"") -> None:
        if self._connection is None:
            return
        self._under_way -= 1
        self._out.append(wire.reply(id_, status, body))
        self._front.touch(self)

    def flush(self) -> None:
        connection = self._connection
        if connection is not None and self._out:
            out, self._out = self._out, []
            connection.write(out[0] if len(out) == 1 else b"".join(out))
            if connection.queued() > UNREAD_MAX:
                log.warning("client %s:%d does not read its answers: dropped", *connection.peer)
                connection.abort()
                return
        self._pace()

    def _pace(self) -> None:
        connection = self._connection
        stop = self._paused or self._under_way > UNDER_WAY_MAX
        if connection is not None and stop != self._unread:
            self._unread = stop
            if stop:
                connection.pause_reading()
            else:
                connection.resume_reading()

    # ---- requests

    def _write(self, id_: int, body: bytes) -> None:
        group, turn = wire.TWO_U32.unpack_from(body) if len(body) >= wire.TWO_U32.size else _short(body)
        command = body[wire.TWO_U32.size :]
        kind, keys, ranges = checks.check(command)
        shards = self._front.shards
        service = shards.of_group(group) if group else None
        if kind in (COMMIT, SEQUENCE, PREPARE) and (keys or ranges):
            service = shards.of_keys(keys, ranges)
            if service is None:
                self.answer(
                    id_,
                    wire.REFUSED,
                    b"the keys are in several shards, and a commit is of one: use a transaction (quorate.transactions)",
                )
                return
        if service is None:
            self.answer(id_, wire.REFUSED, f"there is no group {group}".encode())
        elif not service.leading:
            self.answer(id_, wire.NOT_LEADER, wire.U16.pack(service.leader))
        elif service.busy:
            self.answer(id_, wire.BUSY)
        else:
            _, _, session, _, _ = commands.HEAD.unpack_from(command)
            if session:
                service.expiry.keep_alive(self._front.env.now(), session)

            def answer(result: bytes | None) -> None:
                if result is None:
                    self.answer(id_, wire.UNKNOWN)
                elif result[0] == LOCKED and self._version < 2:
                    self.answer(id_, wire.REFUSED, _OLD)
                else:
                    self.answer(id_, wire.DONE, result)

            if service.turns:
                owner = self._turns.pop(turn, None)
                service.submit_in_turn(owner, is_conditional(command), keys, command, answer)
            else:
                service.submit(command, answer)

    def _get(self, id_: int, body: bytes) -> None:
        if len(body) < wire.GET_HEAD.size:
            _short(body)
        staleness, revision = wire.GET_HEAD.unpack_from(body)
        key = body[wire.GET_HEAD.size :]
        if not 1 <= len(key) <= commands.KEY_MAX:
            raise RemoteProtocolError(f"a key of {len(key)} bytes, expected 1 to {commands.KEY_MAX}")
        service = self._front.shards.of_key(key)

        def ready(fresh: bool) -> None:
            if not fresh:
                self.answer(id_, wire.UNAVAILABLE)
                return
            store = service.machine.store
            if revision and not self._readable(id_, service, revision):
                return
            entry = store.at(key, revision) if revision else store.current.get(key)
            head = wire.U64.pack(store.revision)
            locks = service.machine.locks
            if locks.intents:
                concerned = () if revision else locks.changing(key, None)
                self._answer_get(id_, head, entry, concerned)
                return
            self.answer(id_, wire.DONE, head + (b"\0" if entry is None else b"\1" + entries.pack_entry(entry)))

        service.read(ready, staleness)

    def _answer_get(self, id_: int, head: bytes, entry: Entry | None, concerned: Sequence[Intent]) -> None:
        """Where something is prepared in the shard."""
        marks = wire.PREPARING
        pieces = []
        if self._version < 2:
            if concerned:
                self.answer(id_, wire.REFUSED, _OLD)
                return
            marks = 0
        if entry is not None:
            marks |= wire.FOUND
            pieces.append(entries.pack_entry(entry))
        if concerned:
            marks |= wire.CONCERNED
            pieces.append(results.pack_locker(concerned[0]))
        self.answer(id_, wire.DONE, b"".join((head, bytes((marks,)), *pieces)))

    def _readable(self, id_: int, service: KvService, revision: int) -> bool:
        """Whether there is such a revision; if not it is answered."""
        store = service.machine.store
        if revision < store.compacted:
            self.answer(id_, wire.COMPACTED, wire.U64.pack(store.compacted))
        elif revision > store.revision:
            self.answer(id_, wire.REFUSED, f"the store is at revision {store.revision}, before {revision}".encode())
        else:
            return True
        return False

    def _other(self, id_: int, op: int, body: bytes) -> None:
        if op == wire.LIST:
            self._list(id_, body)
        elif op == wire.WATCH:
            self._watch(id_, body)
        elif op == wire.CANCEL:
            if len(body) != 4:
                _short(body)
            found = self._watches.pop(wire.U32.unpack(body)[0], None)
            if found is not None:
                found[0].watches.remove(found[1])
            self.answer(id_, wire.DONE)
        elif op == wire.KEEP_ALIVE:
            self._keep_alive(id_, body)
        elif op == wire.TURN:
            self._turn(id_, body)
        elif op == wire.INTENTS:
            self._intents(id_, body)
        elif op == wire.OUTCOME:
            self._outcome(id_, body)
        elif op == wire.STATUS:
            self.answer(id_, wire.DONE, json.dumps(self._front.status()).encode())
        elif op == wire.HELLO:
            self._hello(id_, body)
        else:
            raise RemoteProtocolError(f"a request of unknown kind {op}")

    def _hello(self, id_: int, body: bytes) -> None:
        if len(body) != 4 or body[:3] != wire.MAGIC:
            raise RemoteProtocolError(f"no client of this store: it greets with {body[:8]!r}")
        if body[3] not in wire.VERSIONS:
            spoken = " and ".join(str(version) for version in wire.VERSIONS)
            self.answer(id_, wire.REFUSED, f"version {body[3]} is not spoken here, {spoken} are".encode())
            return
        self._version = body[3]
        shards = [
            {"start": service.start.hex(), "group": service.replica.group, "leader": service.leader}
            for service in self._front.shards.services
        ]
        self.answer(id_, wire.DONE, json.dumps({**self._front.describe(), "shards": shards}).encode())

    def _list(self, id_: int, body: bytes) -> None:
        if len(body) < wire.LIST_HEAD.size:
            _short(body)
        staleness, revision, limit, flags = wire.LIST_HEAD.unpack_from(body)
        start, end = wire.unpack_range(body, wire.LIST_HEAD.size)
        service = self._front.shards.of_key(start)

        def ready(fresh: bool) -> None:
            if not fresh:
                self.answer(id_, wire.UNAVAILABLE)
            elif not revision or self._readable(id_, service, revision):
                self._answer_list(id_, service, revision, limit, flags, start, end)

        service.read(ready, staleness)

    def _answer_list(
        self, id_: int, service: KvService, revision: int, limit: int, flags: int, start: bytes, end: bytes
    ) -> None:
        store = service.machine.store
        stop = end
        if service.end and (not end or service.end < end):
            stop = service.end
        found, following = store.range(start, stop, revision or store.revision, limit)
        if not following and stop != end:
            following = stop  # the next shard has it
        pieces: list[bytes] = []
        size = 0
        for entry in found:
            if flags & wire.KEYS_ONLY:
                entry = _without_value(entry)
            elif size > LIST_BYTES:
                following = entry.key
                break
            piece = entries.pack_entry(entry)
            size += len(piece)
            pieces.append(piece)
        marks = len(pieces)
        tail = [wire.U16.pack(len(following)), following]
        locks = service.machine.locks
        if locks.intents:
            concerned = () if revision else locks.changing(start, stop)
            if self._version < 2:
                if concerned:
                    self.answer(id_, wire.REFUSED, _OLD)
                    return
            else:
                marks |= wire.LIST_PREPARING
            if concerned:
                marks |= wire.LIST_CONCERNED
                tail += [wire.U32.pack(len(concerned)), *[results.pack_locker(intent) for intent in concerned]]
        self.answer(id_, wire.DONE, b"".join((wire.U64.pack(store.revision), wire.U32.pack(marks), *pieces, *tail)))

    def _intents(self, id_: int, body: bytes) -> None:
        if len(body) != 4:
            _short(body)
        service = self._of_group(id_, wire.U32.unpack(body)[0])
        if service is None:
            return

        def ready(fresh: bool) -> None:
            if not fresh:
                self.answer(id_, wire.UNAVAILABLE)
                return
            found = service.machine.locks.intents.values()
            pieces = [wire.U32.pack(len(found)), *[results.pack_locker(intent) for intent in found]]
            self.answer(id_, wire.DONE, b"".join(pieces))

        service.read(ready)

    def _outcome(self, id_: int, body: bytes) -> None:
        if not 5 <= len(body) <= 4 + commands.ID_MAX:
            _short(body)
        service = self._of_group(id_, wire.U32.unpack_from(body)[0])
        if service is None:
            return

        def ready(fresh: bool) -> None:
            if fresh:
                self.answer(id_, wire.DONE, wire.OUTCOME_ANSWER.pack(*service.machine.outcome(body[4:])))
            else:
                self.answer(id_, wire.UNAVAILABLE)

        service.read(ready)

    def _of_group(self, id_: int, group: int) -> KvService | None:
        """If there is none, that is answered."""
        service = self._front.shards.of_group(group)
        if service is None:
            self.answer(id_, wire.REFUSED, f"there is no group {group}".encode())
        return service

    def _watch(self, id_: int, body: bytes) -> None:
        if len(body) < wire.WATCH_HEAD.size:
            _short(body)
        group, after = wire.WATCH_HEAD.unpack_from(body)
        start, end = wire.unpack_range(body, wire.WATCH_HEAD.size)
        shards = self._front.shards
        service = shards.of_group(group) if group else shards.of_key(start)
        if service is None:
            self.answer(id_, wire.REFUSED, f"there is no group {group}".encode())
            return
        if id_ in self._watches or len(self._watches) >= WATCHES_MAX:
            self.answer(
                id_,
                wire.REFUSED,
                f"a connection has at most {WATCHES_MAX} watches, each with an id of its own".encode(),
            )
            return
        store = service.machine.store
        if after > store.revision:
            # this member lags behind the one that told of that revision
            self.answer(id_, wire.UNAVAILABLE)
            return

        def deliver(revision: int, changes: Sequence[Entry]) -> bool:
            if self._connection is None:
                return False
            pieces = [wire.EVENTS_HEAD.pack(revision, len(changes)), *[entries.pack_entry(entry) for entry in changes]]
            self._out.append(wire.reply(id_, wire.EVENTS, b"".join(pieces)))
            self._front.touch(self)
            return not self._paused

        def ended(compacted: int) -> None:
            self._watches.pop(id_, None)
            self._under_way += 1
            self.answer(id_, wire.COMPACTED, wire.U64.pack(compacted))

        if after < store.compacted:
            self.answer(id_, wire.COMPACTED, wire.U64.pack(store.compacted))
            return
        watch = Watch(start, end, after, deliver, ended)
        self._watches[id_] = (service, watch)
        self.answer(id_, wire.DONE, wire.U64.pack(store.revision))
        service.watch(watch)

    def _keep_alive(self, id_: int, body: bytes) -> None:
        if len(body) < 4 or (len(body) - 4) % 8:
            _short(body)
        (group,) = wire.U32.unpack_from(body)
        service = self._front.shards.of_group(group)
        if service is None:
            self.answer(id_, wire.REFUSED, f"there is no group {group}".encode())
        elif not service.leading:
            self.answer(id_, wire.NOT_LEADER, wire.U16.pack(service.leader))
        else:
            now = self._front.env.now()
            gone = [number for number in commands.numbers_of(body[4:]) if not service.expiry.keep_alive(now, number)]
            self.answer(id_, wire.DONE, commands.numbers_body(gone))

    def _turn(self, id_: int, body: bytes) -> None:
        if len(body) < 4:
            _short(body)
        keys = wire.unpack_keys(body, 4)
        if not 1 <= len(keys) <= commands.PARTS_MAX:
            raise RemoteProtocolError(f"a turn for {len(keys)} keys, expected 1 to {commands.PARTS_MAX}")
        service = self._front.shards.of_keys(keys)
        if service is None:
            self.answer(id_, wire.REFUSED, b"the keys are in several shards")
        elif not service.leading:
            self.answer(id_, wire.NOT_LEADER, wire.U16.pack(service.leader))
        elif id_ in self._turns or len(self._turns) >= UNDER_WAY_MAX:
            self.answer(id_, wire.REFUSED, b"a connection's turns have ids of their own")
        else:
            owner = self._turns[id_] = object()
            if service.turns.ask(self._front.env.now(), owner, keys, lambda: self.answer(id_, wire.DONE)):
                service.arm()
            else:
                del self._turns[id_]
                self.answer(id_, wire.BUSY)


def _without_value(entry: Entry) -> Entry:
    return Entry(
        entry.key,
        b"",
        entry.version,
        entry.created,
        entry.modified,
        entry.lease,
        entry.flags,
        entry.lock_index,
        entry.holder,
    )


def _short(body: bytes) -> tuple[int, int]:
    raise RemoteProtocolError(f"a request of {len(body)} bytes, which is none of its kind")
