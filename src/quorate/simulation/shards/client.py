"""The store as a process has it: what ``kv.client`` is over TCP, over the services of simulated members. Requests and answers take their time, come late or
not at all, and are sent again; a session names each command. What intents it meets is resolved by the production code.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quorate.kv import checks, commands, resolving
from quorate.kv.client.errors import Conflict, DeadlineExceeded, Locked, OutcomeUnknown, Refused
from quorate.kv.client.records import Committed, Held, Item, key_bytes, prefix_end
from quorate.kv.commands import Condition, Write, commit_body
from quorate.kv.entries import Entry
from quorate.kv.resolving import Look, Pause, Submit, Work
from quorate.kv.results import Locker, Result, unpack_result
from quorate.kv.service import KvService
from quorate.simulation.scheduler import MILLISECOND, SECOND, Stream
from quorate.simulation.transactions.shell import Waiting
from quorate.transactions.flow import Done, Flow, call, now, sleep

if TYPE_CHECKING:
    from quorate.simulation.paxos.world import World

SESSION_MS = 3_600_000
_SECONDS = 5.0
Asked = Callable[[KvService, Callable[[Any], None]], None]
"""Called in a member's process with its service: asks it, and is told."""


class Group:
    """A session in one shard."""

    __slots__ = ("next", "session", "under_way")

    def __init__(self) -> None:
        self.session = 0
        self.next = 1
        self.under_way: dict[int, None] = {}


class SimKv:
    """One process's. ``alive()``: whether there is anybody who could send."""

    def __init__(self, world: "World", stream: Stream, by: str, alive: Callable[[], bool]) -> None:
        self.by = by
        self._world = world
        self._stream = stream
        self._alive = alive
        self._groups = {group: Group() for group in world.groups}

    def group_of(self, key: bytes) -> int:
        """The decisions and what begins with ``r`` are in the first; ``k2/…`` is in the second, and so on."""
        return int(key[1:].partition(b"/")[0]) if key.startswith(b"k") else 1

    # ---- sending

    def _attempt(self, group: int, asked: Asked) -> Waiting:
        """One request to some member. What was sent arrives, though whoever sent it has given up, or died."""
        world, stream = self._world, self._stream
        waiting = Waiting()
        answered = False

        def answer(result: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                world.scheduler.after(1 + stream.around(world.options["delay"]), waiting.tell, Done(result))

        def arrive() -> None:
            sid = world.leader(group) if stream.chance(0.8) else 0
            world.enter(sid or stream.choice(sorted(world.started)), ask, sid)

        def ask(sid: int) -> None:
            service = world.service(sid, group) if sid else None
            if service is None:
                answer(None)
            else:
                asked(service, answer)

        late = stream.spread(10 * MILLISECOND, 8 * SECOND) if stream.chance(world.options["late_rate"]) else 0
        world.scheduler.after(1 + late + stream.around(world.options["delay"]), arrive)
        world.scheduler.after(2 * world.options["election_timeout"], answer, None)
        return waiting

    def _ask(self, what: str, group: int, asked: Asked, until: float, *, write: bool = False) -> Flow[Any]:
        pause = self._world.options["heartbeat"] / SECOND
        while True:
            found = yield from call(f"{what}: {group}", self._attempt, group, asked)
            if found is not None:
                return found
            if (yield from now()) + pause > until:
                raise DeadlineExceeded(what, 0.0, write)
            yield from sleep(pause * (0.5 + self._stream.between(0, 100) / 100))

    def _submit(self, what: str, kind: int, body: bytes, group: int, until: float) -> Flow[Result]:
        of = self._groups[group]
        if not of.session:
            opening = commands.pack_command(commands.OPEN_SESSION, commands.open_session_body(SESSION_MS))
            answer = yield from self._ask("open", group, _write(opening), until)
            # if somebody else of this process was quicker: one session is as good as the other, and none is used before
            of.session = unpack_result(answer).numbers[0]
        seq, of.next = of.next, of.next + 1
        of.under_way[seq] = None
        try:
            command = commands.pack_command(kind, body, of.session, seq, next(iter(of.under_way)))
            checks.check(command)
            answer = yield from self._ask(what, group, _write(command), until, write=True)
        finally:
            of.under_way.pop(seq, None)
        result = unpack_result(answer)
        if result.status in (commands.OK, commands.CONFLICT, commands.LOCKED):
            return result
        if result.status in (commands.NO_SESSION, commands.ANSWERED):
            raise OutcomeUnknown(what)
        raise Refused(commands.MESSAGES[result.status])

    # ---- resolving

    def _resolve(self, work: Work[Any], until: float, lockers: Sequence[Locker]) -> Flow[Any]:
        value: object = None
        error: Exception | None = None
        while True:
            try:
                step = work.send(value) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value
            value, error = None, None
            try:
                value = yield from self._step(step, until)
            except DeadlineExceeded as raised:
                own = isinstance(step, Submit) and step.own
                error = raised if own else Locked("resolve", 0.0, lockers)
            except Exception as raised:
                error = raised

    def _step(self, step: resolving.Step, until: float) -> Flow[object]:
        if isinstance(step, Look):
            return (yield from self._read(step.key, until))[0]
        if isinstance(step, Submit):
            group = step.group or self.group_of(step.key)
            return (yield from self._submit("resolve", step.kind, step.body, group, until))
        if isinstance(step, Pause):
            yield from sleep(step.seconds * (0.5 + self._stream.between(0, 50) / 100))
            return None
        return (yield from now())

    def _done(self, what: str, kind: int, body: bytes, group: int, until: float, mine: bytes = b"") -> Flow[Result]:
        result: Result = yield from self._submit(what, kind, body, group, until)
        if result.status == commands.LOCKED:
            self._world.probe("a writer meets an intent")
            left = until - (yield from now())
            work = resolving.carried_out(kind, body, group, left, self.by, mine, result)
            result = yield from self._resolve(work, until, result.lockers)
        if result.status == commands.LOCKED:
            self._world.probe("a writer waits in vain")
            raise Locked(what, 0.0, result.lockers)
        if result.status == commands.CONFLICT:
            raise Conflict(result.conflicts)
        return result

    # ---- what a client does

    def get(self, key: str, *, timeout: float = _SECONDS) -> Flow[Item | None]:
        data = key_bytes(key)
        until = (yield from now()) + timeout
        while True:
            entry, lockers = yield from self._read(data, until)
            if not (yield from self._settled(self.group_of(data), lockers, until)):
                return None if entry is None else Item(entry)

    def _read(self, key: bytes, until: float) -> Flow[tuple[Entry | None, list[Locker]]]:
        def look(service: KvService) -> Any:
            return service.machine.store.current.get(key), list(service.machine.locks.changing(key, None))

        found: tuple[Entry | None, list[Locker]] = yield from self._ask("get", self.group_of(key), _read(look), until)
        return found

    def _settled(self, group: int, lockers: Sequence[Locker], until: float) -> Flow[bool]:
        """Whether one was finished, so that it has to be read again."""
        if not lockers:
            return False
        self._world.probe("a reader meets an intent")
        left = yield from self._resolve(resolving.settle_all(lockers, group, self.by), until, lockers)
        if len(left) < len(lockers):
            self._world.probe("a reader finishes an intent")
        return len(left) < len(lockers)

    def list(self, prefix: str, *, timeout: float = _SECONDS) -> Flow[Sequence[Item]]:
        start = key_bytes(prefix)
        end = prefix_end(start)
        until = (yield from now()) + timeout

        def look(service: KvService) -> Any:
            store = service.machine.store
            return store.range(start, end, store.revision, 0)[0], list(service.machine.locks.changing(start, end))

        while True:
            entries, lockers = yield from self._ask("list", self.group_of(start), _read(look), until)
            if not (yield from self._settled(self.group_of(start), lockers, until)):
                return [Item(entry) for entry in entries]

    def commit(
        self,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        timeout: float = _SECONDS,
        transaction: str = "",
    ) -> Flow[Committed]:
        keys = [*[condition.key for condition in conditions], *[write.key for write in writes]]
        (group,) = {self.group_of(key) for key in keys}
        until = (yield from now()) + timeout
        body = commit_body(conditions, writes)
        result = yield from self._done("commit", commands.COMMIT, body, group, until, transaction.encode())
        return Committed(result.revision, result.numbers)

    def groups(self, keys: Sequence[str | bytes] = (), *, timeout: float = _SECONDS) -> Sequence[int]:
        return [self.group_of(key_bytes(key)) for key in keys] if keys else list(self._world.groups)

    def prepare(
        self,
        group: int,
        id_: str,
        decision: str,
        until: float,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        at_once: bool = False,
        timeout: float = _SECONDS,
    ) -> Flow[tuple[int, int]]:
        limit = (yield from now()) + timeout
        commit = commit_body(conditions, writes)
        body = commands.prepare_body(id_.encode(), decision.encode(), int(until * 1000), commit, at_once)
        result = yield from self._done("prepare", commands.PREPARE, body, group, limit, id_.encode())
        self._world.probe("committed at once" if at_once else "prepared")
        return result.numbers[0], result.numbers[1]

    def finish(
        self, group: int, id_: str, commit: bool, until: float, *, timeout: float = _SECONDS
    ) -> Flow[tuple[int, int]]:
        limit = (yield from now()) + timeout
        body = commands.finish_body(id_.encode(), commit, int(until * 1000))
        result = yield from self._submit("finish", commands.FINISH, body, group, limit)
        return result.numbers[0], result.numbers[1]

    def held(self, group: int, *, timeout: float = _SECONDS) -> Flow[Sequence[Held]]:
        until = (yield from now()) + timeout
        look = _read(lambda service: list(service.machine.locks.intents.values()))
        found = yield from self._ask("held", group, look, until)
        return [Held(group, intent) for intent in found]

    def outcome(self, group: int, id_: str, *, timeout: float = _SECONDS) -> Flow[tuple[int, int]]:
        until = (yield from now()) + timeout
        look = _read(lambda service: service.machine.outcome(id_.encode()))
        found: tuple[int, int] = yield from self._ask("outcome", group, look, until)
        return found

    def tidy(self, group: int, prefix: str, before: float, *, timeout: float = _SECONDS) -> Flow[int]:
        until = (yield from now()) + timeout
        body = commands.tidy_body(prefix.encode(), int(before * 1000))
        result = yield from self._submit("tidy", commands.TIDY, body, group, until)
        return result.numbers[0]


def _write(command: bytes) -> Asked:
    def ask(service: KvService, answer: Callable[[Any], None]) -> None:
        if service.leading:
            service.submit(command, answer)
        else:
            answer(None)

    return ask


def _read(look: Callable[[KvService], Any]) -> Asked:
    def ask(service: KvService, answer: Callable[[Any], None]) -> None:
        service.read(lambda fresh: answer(look(service)) if fresh else answer(None))

    return ask
