"""The client for asyncio.

    async with Client("127.0.0.1:7002") as kv:
        await kv.put("greeting", b"hello")
        item = await kv.get("greeting")
        await kv.put("greeting", b"hello again", version=item.version)

A write has one effect, though its answer may be lost and it is sent again (a session names it). A read is linearizable unless it is asked to be
less with ``staleness``. Every call has a time limit: ``timeout`` seconds, the client's if not given.

Keys may be in a transaction over shards (``quorate.transactions``) that is not finished. What is decided is in force for every reader at once; a
write waits until it is decided, and raises Locked if that takes too long.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from quorate.errors import UsageError
from quorate.kv import commands, entries, results, wire
from quorate.kv.client.connection import LOST, Channel, ConnectionLost
from quorate.kv.client.errors import Compacted, Conflict, DeadlineExceeded, KvError, Locked, Refused
from quorate.kv.client.records import (
    Committed,
    Event,
    Held,
    Item,
    Key,
    Page,
    expected,
    key_bytes,
    prefix_end,
    value_bytes,
)
from quorate.kv.client.routing import Router, parse_addresses
from quorate.kv.client.sessions import TTL_MS, KeepAlive, Session
from quorate.kv.client.settling import Reading, Settler
from quorate.kv.client.transaction import Transaction
from quorate.kv.commands import Condition, Write, commit_body
from quorate.kv.results import Result

log = logging.getLogger(__name__)
Value = TypeVar("Value")

_STALE = (1 << 63) - 1
_NOW = wire.GET_HEAD.pack(0, 0)
_LOSSES_FOR_A_TURN = 3
_BACK_OFF = 0.002
_BACK_OFF_MAX = 0.25
_EVENTS_MAX = 10_000


class Metrics:
    """Of a client's transactions."""

    __slots__ = ("attempts", "committed", "conflicts", "given_up", "turns")

    def __init__(self) -> None:
        self.attempts = 0
        self.committed = 0
        self.conflicts = 0
        self.turns = 0
        self.given_up = 0


class Lease:
    """Keeps keys for as long as its client lives. ``lost`` is set when it is over."""

    def __init__(self, client: "Client", group: int, id_: int, ttl: float) -> None:
        self.id = id_
        self.group = group
        self.ttl = ttl
        self.lost = asyncio.Event()
        self._client = client

    async def revoke(self, timeout: float | None = None) -> None:
        """End it: its keys are deleted."""
        await self._client.revoke(self, timeout)

    async def __aenter__(self) -> "Lease":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.revoke()


class Client:
    def __init__(self, addresses: str | Sequence[str], *, timeout: float = 5.0) -> None:
        """``addresses``: of one member or more, ``host:port``; the others are found. Raises UsageError."""
        self.timeout = timeout
        self.metrics = Metrics()
        self._router = Router(parse_addresses(addresses))
        self._sessions: dict[int, Session] = {}
        self._leases: dict[tuple[int, int], Lease] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._settler = Settler(self)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close sessions, as far as that can be done at once, and connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        for session in self._sessions.values():
            channel = self._router.leading(self._router.current(session.group)) if session.id else None
            if channel is not None:
                body = commands.pack_command(commands.CLOSE_SESSIONS, commands.numbers_body([session.id]))
                with contextlib.suppress(ConnectionLost, TimeoutError):
                    deadline = asyncio.get_running_loop().time() + 0.5
                    await channel.request(wire.WRITE, wire.TWO_U32.pack(session.group, 0) + body, deadline)
        await self._router.close()

    def _deadline(self, timeout: float | None) -> tuple[float, float]:
        """In the loop's time, and in seconds from now."""
        seconds = self.timeout if timeout is None else timeout
        return asyncio.get_running_loop().time() + seconds, seconds

    async def group_of(self, key: bytes, deadline: float) -> int:
        if not self._router.shards:
            await self._router.ready(deadline)
        return self._router.shard_of(key).group

    # ---- reads

    async def get(
        self, key: Key, *, revision: int = 0, staleness: float = 0.0, timeout: float | None = None
    ) -> Item | None:
        """The key now, or as it was at ``revision``; None if it does not exist. ``staleness``: seconds by which the answer may be old.

        Raises DeadlineExceeded, Compacted, Refused, UsageError.
        """
        deadline, seconds = self._deadline(timeout)
        data = key_bytes(key)
        router = self._router
        if not revision and not staleness and router.shards:
            channel = router.leading(router.shard_of(data))
            if channel is not None:
                try:
                    status, answer = await channel.request(wire.GET, _NOW + data, deadline)
                    if status == wire.DONE and not answer[8] & wire.CONCERNED:
                        return Item(entries.unpack_entry(answer, 9)[0]) if answer[8] & wire.FOUND else None
                except (ConnectionLost, TimeoutError):
                    """Asked again below."""
        entry = (await self.read(data, revision, deadline, seconds, staleness)).entry
        return None if entry is None else Item(entry)

    async def read(
        self,
        key: bytes,
        revision: int,
        deadline: float,
        seconds: float,
        staleness: float = 0.0,
        leader: bool = False,
    ) -> Reading:
        """The key, after what was decided about it. ``leader``: ask the leader even if any member would do."""
        group = await self.group_of(key, deadline)
        while True:
            found = await self.read_once("get", group, key, revision, deadline, seconds, staleness, leader)
            if not found.lockers or not await self._settler.settle("get", group, found.lockers, deadline, seconds):
                return found
            # a member that lags behind may not know yet
            staleness = 0.0

    async def read_once(
        self,
        what: str,
        group: int,
        key: bytes,
        revision: int,
        deadline: float,
        seconds: float,
        staleness: float = 0.0,
        leader: bool = False,
    ) -> Reading:
        """What there is, whatever may have been decided about it."""
        # what was at a revision that somebody has seen stays so: there is nobody to ask
        stale = _STALE if revision else int(staleness * 1e9)
        body = wire.GET_HEAD.pack(stale, revision) + key
        _, answer = await self._router.call(
            what,
            group,
            wire.GET,
            body,
            deadline,
            seconds,
            write=False,
            leader=leader or not staleness or revision != 0,
        )
        return Reading(answer)

    async def page(
        self,
        start: bytes,
        end: bytes,
        limit: int,
        revision: int,
        deadline: float,
        seconds: float,
        staleness: float = 0.0,
        keys_only: bool = False,
        leader: bool = False,
    ) -> Page:
        """Up to ``limit`` keys from ``start`` on (0: as many as the store likes), after what was decided about any of the range within the shard."""
        group = await self.group_of(start, deadline)
        while True:
            stale = _STALE if revision else int(staleness * 1e9)
            body = wire.LIST_HEAD.pack(stale, revision, limit, wire.KEYS_ONLY if keys_only else 0) + wire.pack_range(
                start, end
            )
            _, answer = await self._router.call(
                "list", group, wire.LIST, body, deadline, seconds, write=False, leader=leader or not staleness
            )
            (now,) = wire.U64.unpack_from(answer)
            (marks,) = wire.U32.unpack_from(answer, 8)
            count = marks & (wire.LIST_PREPARING - 1)
            entries, at = wire.unpack_entries(answer, 12, count)
            following, at = wire.unpack_key(answer, at, 0)
            if marks & wire.LIST_CONCERNED:
                (count,) = wire.U32.unpack_from(answer, at)
                lockers, _ = results.unpack_lockers(answer, at + 4, count)
                if await self._settler.settle("list", group, lockers, deadline, seconds):
                    staleness = 0.0
                    continue
            return Page([Item(entry) for entry in entries], following, now, bool(marks & wire.LIST_PREPARING))

    async def list(
        self,
        prefix: Key = b"",
        *,
        start: Key = b"",
        end: Key = b"",
        revision: int = 0,
        limit: int = 0,
        staleness: float = 0.0,
        keys_only: bool = False,
        timeout: float | None = None,
    ) -> Sequence[Item]:
        """The keys that begin with ``prefix``, or those from ``start`` to before ``end``, in order; at most ``limit`` (0: all).

        Within a shard it is one state of the store; read at a ``revision`` for the same over several calls.
        """
        deadline, seconds = self._deadline(timeout)
        first, last = _range(prefix, start, end)
        found: list[Item] = []
        group = pinned = 0
        while True:
            of = await self.group_of(first, deadline)
            if of != group:
                group, pinned = of, revision
            left = limit - len(found) if limit else 0
            page = await self.page(first, last, left, pinned, deadline, seconds, staleness, keys_only)
            found += page.items
            if not page.next or (limit and len(found) >= limit):
                return found
            first, pinned = page.next, pinned or page.revision

    # ---- writes

    async def put(
        self,
        key: Key,
        value: bytes,
        *,
        version: int | None = None,
        revision: int | None = None,
        lease: "Lease | int" = 0,
        timeout: float | None = None,
    ) -> int:
        """Set the key; its new version. With ``version`` (0: it must not exist) or ``revision`` (of its last change) only if it has that.

        Raises Conflict, Locked, DeadlineExceeded, OutcomeUnknown, LeaseExpired, Refused, UsageError.
        """
        data = key_bytes(key)
        id_ = lease.id if isinstance(lease, Lease) else lease
        conditions = () if version is None and revision is None else tuple(expected(data, version, revision))
        body = commit_body(
            conditions, (Write(commands.PUT, data, value_bytes(value), lease=id_, options=commands.KEEP_FLAGS),)
        )
        deadline, seconds = self._deadline(timeout)
        router = self._router
        group = router.shard_of(data).group if router.shards else await self.group_of(data, deadline)
        session = self._sessions.get(group) or self._session(group)
        answer = await session.answer("put", commands.COMMIT, body, deadline, seconds)
        done = results.unpack_done_one(answer)
        if done is not None:
            return done[1]
        result = session.result("put", answer)
        return (await self._done("put", group, commands.COMMIT, body, result, deadline, seconds)).numbers[0]

    async def delete(
        self, key: Key, *, version: int | None = None, revision: int | None = None, timeout: float | None = None
    ) -> bool:
        """Whether there was such a key. Raises as ``put`` does."""
        data = key_bytes(key)
        write = Write(commands.DELETE, data)
        return bool(
            (await self._commit("delete", data, expected(data, version, revision), [write], timeout)).versions[0]
        )

    async def commit(
        self,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        timeout: float | None = None,
        transaction: str = "",
    ) -> Committed:
        """Do all writes if all conditions hold, else none and raise Conflict. All keys are of one shard. ``transaction``: the one that this decides about:
        it does not wait long for older ones that are not decided.

        Raises as ``put`` does.
        """
        if not conditions and not writes:
            raise Refused("a commit without conditions and writes")
        key = conditions[0].key if conditions else writes[0].key
        return await self._commit("commit", key, conditions, writes, timeout, transaction.encode())

    async def _commit(
        self,
        what: str,
        key: bytes,
        conditions: Iterable[Condition],
        writes: Sequence[Write],
        timeout: float | None,
        mine: bytes = b"",
    ) -> Committed:
        deadline, seconds = self._deadline(timeout)
        group = await self.group_of(key, deadline)
        return await self._commit_in(what, group, tuple(conditions), writes, deadline, seconds, 0, mine)

    async def _commit_in(
        self,
        what: str,
        group: int,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        deadline: float,
        seconds: float,
        turn: int,
        mine: bytes = b"",
    ) -> Committed:
        if len(self._router.shards) > 1:
            for key in [*[condition.key for condition in conditions], *[write.key for write in writes]]:
                if self._router.shard_of(key).group != group:
                    raise Refused(
                        f"{what}: the keys are in several shards: that takes a transaction (quorate.transactions)"
                    )
        body = commit_body(conditions, writes)
        result = await self._session(group).write(what, commands.COMMIT, body, deadline, seconds, turn)
        result = await self._done(what, group, commands.COMMIT, body, result, deadline, seconds, mine)
        return Committed(result.revision, result.numbers)

    async def _done(
        self,
        what: str,
        group: int,
        kind: int,
        body: bytes,
        result: Result,
        deadline: float,
        seconds: float,
        mine: bytes = b"",
    ) -> Result:
        """The command's result once nothing is in its way any more; ``result``: of the first time. Raises Conflict, Locked."""
        if result.status == commands.LOCKED:
            result = await self._settler.carry_out(what, group, kind, body, deadline, seconds, mine=mine, first=result)
        if result.status == commands.LOCKED:
            raise Locked(what, seconds, result.lockers)
        if result.status == commands.CONFLICT:
            raise Conflict(result.conflicts)
        return result

    async def submit(self, what: str, group: int, kind: int, body: bytes, deadline: float, seconds: float) -> Result:
        """A command's result: OK, CONFLICT or LOCKED. Raises DeadlineExceeded, OutcomeUnknown, LeaseExpired, Refused."""
        return await self._session(group).write(what, kind, body, deadline, seconds)

    def _session(self, group: int) -> Session:
        session = self._sessions.get(group)
        if session is None:
            session = self._sessions[group] = Session(self._router, group)
            self._keep()
        return session

    async def compact(self, revision: int, *, key: Key = b"\0", timeout: float | None = None) -> int:
        """Forget, in the shard of ``key``, what only reads of revisions before this one need; the oldest revision that can be read.

        Raises Refused for a revision that there is not yet, DeadlineExceeded, OutcomeUnknown.
        """
        if not 0 <= revision < 1 << 63:
            raise UsageError(f"a compaction at revision {revision}, expected a number of 63 bits")
        deadline, seconds = self._deadline(timeout)
        group = await self.group_of(key_bytes(key), deadline)
        body = commands.numbers_body([revision])
        return (await self._session(group).write("compact", commands.COMPACT, body, deadline, seconds)).numbers[0]

    # ---- transactions over shards, for quorate.transactions

    async def groups(self, keys: Sequence[Key] = (), *, timeout: float | None = None) -> Sequence[int]:
        """The shard of each of the keys; without keys all shards."""
        deadline, _ = self._deadline(timeout)
        await self._router.ready(deadline)
        if not keys:
            return [shard.group for shard in self._router.shards]
        return [self._router.shard_of(key_bytes(key)).group for key in keys]

    async def prepare(
        self,
        group: int,
        id_: str,
        decision: str,
        until: float,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        at_once: bool = False,
        timeout: float | None = None,
    ) -> tuple[int, int]:
        """Keep a commit in this shard for ``finish``, if its conditions hold; ``at_once``: commit it, and remember that. What became of it
        (``commands.PREPARED`` or COMMITTED), and the revision. ``decision``: the key of the decision, "" if that lies elsewhere; ``until``: its deadline
        in seconds since 1970. Raises Conflict, Locked, and as ``put`` does; Refused also if it was aborted before.
        """
        deadline, seconds = self._deadline(timeout)
        name = id_.encode()
        commit = commit_body(conditions, writes)
        body = commands.prepare_body(name, decision.encode(), int(until * 1000), commit, at_once)
        result = await self.submit("prepare", group, commands.PREPARE, body, deadline, seconds)
        result = await self._done("prepare", group, commands.PREPARE, body, result, deadline, seconds, name)
        return result.numbers[0], result.numbers[1]

    async def finish(
        self, group: int, id_: str, commit: bool, until: float, *, timeout: float | None = None
    ) -> tuple[int, int]:
        """What became of it: ``commands.COMMITTED`` and the revision, ABORTED, or UNDECIDED if nothing is known of it. An abort of what is not prepared yet
        keeps it from being prepared."""
        deadline, seconds = self._deadline(timeout)
        body = commands.finish_body(id_.encode(), commit, int(until * 1000))
        result = await self.submit("finish", group, commands.FINISH, body, deadline, seconds)
        return result.numbers[0], result.numbers[1]

    async def held(self, group: int, *, timeout: float | None = None) -> Sequence[Held]:
        """All that is prepared in this shard."""
        deadline, seconds = self._deadline(timeout)
        await self._router.ready(deadline)
        body = wire.U32.pack(group)
        _, answer = await self._router.call("intents", group, wire.INTENTS, body, deadline, seconds, write=False)
        (count,) = wire.U32.unpack_from(answer)
        lockers, _ = results.unpack_lockers(answer, 4, count)
        return [Held(group, locker) for locker in lockers]

    async def outcome(self, group: int, id_: str, *, timeout: float | None = None) -> tuple[int, int]:
        """As ``finish``, or ``commands.PREPARED``."""
        deadline, seconds = self._deadline(timeout)
        await self._router.ready(deadline)
        body = wire.U32.pack(group) + id_.encode()
        _, answer = await self._router.call("outcome", group, wire.OUTCOME, body, deadline, seconds, write=False)
        kind, revision = wire.OUTCOME_ANSWER.unpack(answer)
        return kind, revision

    async def tidy(self, group: int, prefix: str, before: float, *, timeout: float | None = None) -> int:
        """Forget outcomes of ids with this prefix whose deadline was before then; how many."""
        deadline, seconds = self._deadline(timeout)
        body = commands.tidy_body(prefix.encode(), int(before * 1000))
        return (await self.submit("tidy", group, commands.TIDY, body, deadline, seconds)).numbers[0]

    # ---- transactions

    async def transact(
        self, function: Callable[[Transaction], Awaitable[Value]], *, timeout: float | None = None
    ) -> Value:
        """Call ``function`` with a transaction and commit what it wrote, again and again until nothing that it read was changed
        meanwhile; what it returned then. It may run several times, so it must not do anything but through the transaction.

        Raises DeadlineExceeded, and whatever the function raises.
        """
        deadline, seconds = self._deadline(timeout)
        metrics = self.metrics
        losses = 0
        turn = 0
        while True:
            metrics.attempts += 1
            # after a loss it is known to write, and so to be checked: its reads need not ask a quorum
            transaction = Transaction(self, deadline, seconds, local=losses > 0)
            try:
                value = await function(transaction)
                # what is prepared in the shard may be decided, and may be finished between two reads: then they are checked as well
                if transaction.writes or (transaction.revision and (transaction.local or transaction.preparing)):
                    await self._commit_in(
                        "transaction",
                        transaction.group,
                        transaction.conditions(),
                        transaction.writes,
                        deadline,
                        seconds,
                        turn,
                    )
                metrics.committed += 1
                return value
            except Compacted:
                """What it reads was compacted under it: it begins anew, at the present."""
            except Conflict:
                metrics.conflicts += 1
            losses += 1
            loop = asyncio.get_running_loop()
            if loop.time() >= deadline:
                metrics.given_up += 1
                raise DeadlineExceeded("transaction", seconds, False, f"it lost {losses} times") from None
            turn = 0
            if losses >= _LOSSES_FOR_A_TURN:
                turn = await self._turn(transaction, deadline, seconds)
            if not turn:
                # full jitter: those that collided are spread over the whole of the pause
                pause = random.random() * min(_BACK_OFF * 2**losses, _BACK_OFF_MAX)
                await asyncio.sleep(min(pause, max(deadline - loop.time(), 0)))

    async def _turn(self, transaction: Transaction, deadline: float, seconds: float) -> int:
        """Wait for a turn on the transaction's keys; what to name it by, 0 if there is none to be had."""
        keys = transaction.keys()[: commands.PARTS_MAX]
        channel = self._router.leading(self._router.current(transaction.group)) if keys else None
        if channel is None:
            return 0
        id_ = channel.new_id()
        body = wire.U32.pack(transaction.group) + wire.pack_keys(keys)
        try:
            status, _ = await channel.request(wire.TURN, body, deadline, id_)
        except (ConnectionLost, TimeoutError):
            return 0
        if status != wire.DONE:
            return 0
        self.metrics.turns += 1
        return id_

    # ---- leases

    async def lease(self, ttl: float, *, key: Key = b"\0", timeout: float | None = None) -> Lease:
        """A lease of ``ttl`` seconds in the shard of ``key``, kept alive as long as this client is open and its loop runs."""
        deadline, seconds = self._deadline(timeout)
        group = await self.group_of(key_bytes(key), deadline)
        body = commands.grant_lease_body(0, int(ttl * 1000))
        result = await self._session(group).write("lease", commands.GRANT_LEASE, body, deadline, seconds)
        lease = Lease(self, group, result.numbers[0], ttl)
        self._leases[group, lease.id] = lease
        self._keep()
        return lease

    async def revoke(self, lease: Lease, timeout: float | None = None) -> None:
        deadline, seconds = self._deadline(timeout)
        self._leases.pop((lease.group, lease.id), None)
        body = commands.numbers_body([lease.id])
        await self._session(lease.group).write("revoke", commands.REVOKE_LEASES, body, deadline, seconds)
        lease.lost.set()

    def _keep(self) -> None:
        """(Re)start what keeps sessions and leases alive, as often as the shortest needs it."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._keeper = asyncio.create_task(self._keep_alive())

    async def _keep_alive(self) -> None:
        while True:
            shortest = min([TTL_MS / 1000, *[lease.ttl for lease in self._leases.values()]])
            await asyncio.sleep(shortest / 3)
            for group, session in list(self._sessions.items()):
                keep = KeepAlive(self._router, group, partial(self._held, group), partial(self._gone, group))
                try:
                    await keep.once(shortest / 3)
                except KvError as error:
                    log.info("keep-alive of group %d, session %d: %s", group, session.id, error)

    def _held(self, group: int) -> Sequence[int]:
        session = self._sessions[group]
        return [*([session.id] if session.id else []), *[id_ for of, id_ in self._leases if of == group]]

    def _gone(self, group: int, id_: int) -> None:
        lease = self._leases.pop((group, id_), None)
        if lease is not None:
            lease.lost.set()
        elif self._sessions[group].id == id_:
            self._sessions[group].lost()

    # ---- watches

    async def watch(
        self, prefix: Key = b"", *, key: Key = b"", start: Key = b"", end: Key = b"", after: int | None = None
    ) -> AsyncIterator[Event]:
        """The changes of a key, of the keys with a prefix, or of a range, after the revision ``after`` (now if not given), in order, each once,
        whatever happens to connections and members meanwhile. All within one shard.

        Raises Compacted if what follows ``after`` is not kept any more, Refused.
        """
        if key:
            first = key_bytes(key)
            last = first + b"\0"
        else:
            first, last = _range(prefix, start, end)
        deadline, _ = self._deadline(None)
        await self._router.ready(deadline)
        shard = self._router.shard_of(first)
        stop = self._router.shard_end(shard)
        if stop and (not last or last > stop):
            raise Refused("a watch is of one shard, and this range is in several")
        if after is None:
            deadline, seconds = self._deadline(None)
            after = (await self.page(first, first + b"\0", 1, 0, deadline, seconds)).revision
        while True:
            events: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
            opened = await self._open_watch(shard.group, after, first, last, events)
            if opened is None:
                continue
            channel, id_ = opened
            try:
                async for revision, event in _events(channel, events):
                    if event is not None:
                        yield event
                    after = max(after, revision)
            except ConnectionLost:
                """Go on after what was told."""
            finally:
                channel.unwatch(id_)

    async def _open_watch(
        self, group: int, after: int, first: bytes, last: bytes, events: "asyncio.Queue[tuple[int, bytes]]"
    ) -> tuple[Channel, int] | None:
        """None if it has to be tried again."""
        body = wire.WATCH_HEAD.pack(group, after) + wire.pack_range(first, last)
        try:
            channel = await self._router.leader(self._router.current(group))
            id_ = channel.new_id()
            channel.watch(id_, lambda status, body: events.put_nowait((status, body)))
            status, answer = await channel.request(
                wire.WATCH, body, asyncio.get_running_loop().time() + self.timeout, id_
            )
        except (ConnectionLost, TimeoutError):
            await asyncio.sleep(0.05)
            return None
        if status == wire.COMPACTED:
            raise Compacted(wire.U64.unpack(answer)[0])
        if status == wire.REFUSED:
            raise Refused(answer.decode("utf-8", "replace"))
        if status != wire.DONE:
            channel.unwatch(id_)
            await asyncio.sleep(0.05)
            return None
        return channel, id_

    async def status(self, timeout: float | None = None) -> dict[str, Any]:
        """Of the member that this client happens to be connected to."""
        deadline, seconds = self._deadline(timeout)
        await self._router.ready(deadline)
        group = self._router.shards[0].group
        _, answer = await self._router.call(
            "status", group, wire.STATUS, b"", deadline, seconds, write=False, leader=False
        )
        found: dict[str, Any] = json.loads(answer)
        return found


async def _events(
    channel: Channel, events: "asyncio.Queue[tuple[int, bytes]]"
) -> AsyncIterator[tuple[int, Event | None]]:
    """(revision up to which all was told, event); raises ConnectionLost, Compacted."""
    while True:
        if events.qsize() > _EVENTS_MAX:
            channel.pause_reading()
            while not events.empty():
                for told in _unpack(*events.get_nowait()):
                    yield told
            channel.resume_reading()
        for told in _unpack(*await events.get()):
            yield told


def _unpack(status: int, body: bytes) -> list[tuple[int, Event | None]]:
    if status == LOST:
        raise ConnectionLost
    if status == wire.COMPACTED:
        raise Compacted(wire.U64.unpack(body)[0])
    revision, count = wire.EVENTS_HEAD.unpack_from(body)
    entries, _ = wire.unpack_entries(body, wire.EVENTS_HEAD.size, count)
    # only the last event of a revision says that all of it was told: what is cut off within one is told again whole
    found: list[tuple[int, Event | None]] = [(entry.modified - 1, Event(entry)) for entry in entries]
    found.append((revision, None))
    return found


def _range(prefix: Key, start: Key, end: Key) -> tuple[bytes, bytes]:
    if prefix:
        first = key_bytes(prefix)
        return first, prefix_end(first)
    return (key_bytes(start) if start else b"", key_bytes(end) if end else b"")
