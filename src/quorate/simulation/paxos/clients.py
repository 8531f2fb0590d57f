"""Clients of the store: each has a session and one operation open at a time, and sends again what was not answered.

What they did and saw is a history, judged by the log that was chosen, and key by key as linearizable. Values are unique, so that a second effect of a
write, or a lost one, cannot be explained.
"""

from typing import TYPE_CHECKING

from quorate.kv import commands
from quorate.kv.commands import ABSENT, DELETE, MODIFIED, PUT, VERSION, Condition, Write, commit_body, pack_command
from quorate.kv.entries import Entry
from quorate.kv.results import unpack_result
from quorate.simulation.paxos.judging import Seen
from quorate.simulation.scheduler import Stream
from quorate.verification.history import History, Operation

if TYPE_CHECKING:
    from quorate.simulation.paxos.world import World

SESSION_MS = 3_600_000
_GIVE_UP = 12
"""Attempts, after which an operation ends as unknown."""


class Client:
    def __init__(self, world: "World", history: History, seen: dict[int, Seen], number: int) -> None:
        self._world = world
        self._history = history
        self._stream = Stream(world.seed, f"client {number}")
        self._name = f"c{number}"
        self._group = self._stream.choice(world.groups)
        self._seen = seen[self._group]
        self._keys = [b"k%d" % key for key in range(world.options["keys"])]
        self._session = 0
        self._seq = 0
        self._operation: Operation | None = None
        self._command = b""
        self._attempt = 0
        """Counts everything sent: an answer to an older one comes too late."""
        self._tries = 0
        self._guess = 0
        self._value = 0
        self.active = True
        self.writes = 0
        """Writes that were acknowledged."""

    # ---- operations

    def next(self) -> None:
        """Begin another operation, if none is open."""
        world = self._world
        if self._operation is not None or world.failure:
            return
        pause = world.options["duration"] * world.options["clients"] // max(world.options["requests"], 1)
        if not self.active:
            return
        stream = self._stream
        if not self._session:
            body = commands.open_session_body(SESSION_MS)
            self._begin("open", None, None, pack_command(commands.OPEN_SESSION, body))
        else:
            key = stream.choice(self._keys)
            if stream.chance(0.35):
                self._operation = self._invoke("get", key, None)
                self._command = b""
            else:
                self._write(key)
        self._tries = 0
        self._send(stream.around(pause))

    def _invoke(self, name: str, key: bytes | None, value: object) -> Operation:
        named = None if key is None else f"{self._group}/{key.decode()}"
        return self._history.invoke(self._name, name, named, value)

    def _write(self, key: bytes) -> None:
        stream = self._stream
        self._seq += 1
        self._value += 1
        value = f"{self._name}.{self._value}"
        conditions: list[Condition] = []
        write = Write(PUT, key, value.encode())
        name: str = "put"
        wanted: object = value
        kind = stream.between(0, 9)
        if kind < 4:
            # what it saw last is a good guess, and often wrong
            name, wanted = "cas", {"version": self._guess or None, "value": value}
            conditions = [Condition(VERSION, key, self._guess)]
        elif kind == 4:
            name, wanted = "cas", {"version": None, "value": value}
            conditions = [Condition(ABSENT, key)]
        elif kind == 5:
            name, wanted, write = "delete", None, Write(DELETE, key)
        elif kind == 6:
            conditions = [Condition(MODIFIED, b"never", 0)]
        body = commit_body(conditions, [write])
        # every answer before this is in: one operation at a time
        self._begin(name, key, wanted, pack_command(commands.COMMIT, body, self._session, self._seq, self._seq))
        assert self._operation is not None
        self._seen.writes[self._session, self._seq] = self._operation

    def _begin(self, name: str, key: bytes | None, value: object, command: bytes) -> None:
        self._operation = self._invoke(name, key, value)
        self._command = command

    # ---- sending

    def _send(self, delay: int) -> None:
        self._attempt += 1
        self._world.scheduler.after(max(delay, 1), self._go, self._attempt)

    def _go(self, attempt: int) -> None:
        world = self._world
        if attempt != self._attempt or self._operation is None or world.failure:
            return
        sid = world.leader(self._group) if self._stream.chance(0.7) else 0
        sid = sid or self._stream.choice(sorted(world.started))
        world.scheduler.after(2 * world.options["election_timeout"], self._late, attempt)
        world.enter(sid, self._ask, sid, attempt)

    def _ask(self, sid: int, attempt: int) -> None:
        """In the member's process."""
        service = self._world.service(sid, self._group)
        if service is None:
            return
        if not self._command:
            operation = self._operation
            assert operation is not None
            key = str(operation.key).partition("/")[2].encode()
            # a service that is gone by then answers nobody
            service.read(
                lambda ready: self._read(
                    attempt,
                    service.machine.store.current.get(key) if ready else None,
                    service.replica.applied if ready else -1,
                )
            )
        elif service.leading:
            service.submit(self._command, lambda result: self._written(attempt, result))
        else:
            self._again(attempt)

    def _late(self, attempt: int) -> None:
        if attempt == self._attempt and self._operation is not None:
            self._again(attempt)

    def _again(self, attempt: int) -> None:
        if attempt != self._attempt or self._operation is None:
            return
        self._tries += 1
        if self._tries >= _GIVE_UP and self.active:
            self._end("unknown", None)
            return
        self._send(self._stream.around(self._world.options["heartbeat"]))

    # ---- answers

    def _read(self, attempt: int, entry: Entry | None, index: int) -> None:
        """As of ``index``; -1 if it could not be read."""
        if attempt != self._attempt:
            return
        if index < 0:
            self._again(attempt)
            return
        assert self._operation is not None
        self._seen.reads[self._operation] = index
        if entry is None:
            self._guess = 0
            self._end("ok", None)
        else:
            self._guess = entry.version
            self._end("ok", {"value": entry.value.decode(), "version": entry.version})

    def _written(self, attempt: int, data: bytes | None) -> None:
        if attempt != self._attempt:
            return
        if data is None:
            self._again(attempt)
            return
        operation = self._operation
        assert operation is not None
        result = unpack_result(data)
        if operation.name == "open":
            self._session = result.numbers[0]
            self._end("ok", None)
        elif result.status == commands.CONFLICT:
            self._guess = result.conflicts[0].version
            self._end("ok", False)
        elif result.status == commands.OK:
            self.writes += 1
            if operation.name == "delete":
                self._guess = 0
                self._end("ok", bool(result.numbers[0]))
            else:
                self._guess = result.numbers[0]
                self._end(
                    "ok",
                    {"version": result.numbers[0]}
                    if operation.name == "put"
                    else {"version": result.numbers[0], "swapped": True},
                )
        else:
            self._world.violate(
                f"sessions: {self._name} is told {commands.MESSAGES[result.status]!r} of command {self._seq}"
            )

    def _end(self, outcome: str, result: object) -> None:
        operation, self._operation = self._operation, None
        assert operation is not None
        self._attempt += 1
        if operation.name == "open":
            # sessions are not a key's
            self._history.operations.remove(operation)
        else:
            self._history.end(operation, "ok" if outcome == "ok" else "unknown", result)
        self.next()

    @property
    def idle(self) -> bool:
        return self._operation is None


class Clients:
    def __init__(self, world: "World") -> None:
        self.history = History(lambda: world.scheduler.now, model="kv")
        self.seen = {group: Seen() for group in world.groups}
        self.clients = [
            Client(world, self.history, self.seen, number) for number in range(1, world.options["clients"] + 1)
        ]

    def start(self) -> None:
        for client in self.clients:
            client.next()

    def quiet(self) -> None:
        """No more operations but those that are open."""
        for client in self.clients:
            client.active = False

    def resume(self) -> None:
        for client in self.clients:
            client.active = True
            client.next()

    @property
    def idle(self) -> bool:
        return all(client.idle for client in self.clients)

    @property
    def writes(self) -> int:
        return sum(client.writes for client in self.clients)
