"""The work of ``resolving``, done by a member for those who speak HTTP: it has all shards, and reads the decisions itself."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from quorate.errors import RemoteProtocolError
from quorate.kv import commands, resolving, wire
from quorate.kv.consul.parsing import Refusal
from quorate.kv.forward import Forwarder
from quorate.kv.front import Front
from quorate.kv.intents import Intent
from quorate.kv.resolving import Look, Pause, Submit, Work
from quorate.kv.results import Locker, Result, unpack_result
from quorate.kv.service import KvService
from quorate.runtime.environment import Environment

NO_LEADER = "No cluster leader"
WAIT_SECONDS = 2.0
"""For whatever is in the way."""
Value = TypeVar("Value")
Told = Callable[[Value | Refusal], None]


class Settler:
    def __init__(self, env: Environment, front: Front, forwarder: Forwarder, by: str) -> None:
        self._env = env
        self._front = front
        self._forwarder = forwarder
        self.by = by

    def carry_out(self, service: KvService, kind: int, body: bytes, first: Result, told: Told[Result]) -> None:
        """What comes of the command after what was in its way, which was ``first``."""

        def ended(result: Result | Refusal) -> None:
            if isinstance(result, Result) and result.status == commands.LOCKED:
                result = locked(result.lockers)
            told(result)

        work = resolving.carried_out(kind, body, service.replica.group, WAIT_SECONDS, self.by, first=first)
        self.run(work, ended)

    def settle(self, found: Sequence[tuple[KvService, Intent]], told: Told[bool]) -> None:
        """Whether one of them was finished."""

        def all_of_them() -> Work[bool]:
            finished = False
            for service, intent in found:
                finished = (yield from resolving.settle(intent, service.replica.group, self.by)) or finished
            return finished

        self.run(all_of_them(), told)

    def run(self, work: Work[Value], told: Told[Value], answer: object = None) -> None:
        """What the work returns; the refusal that ended it, if one did."""
        while True:
            try:
                step = work.send(answer)
            except StopIteration as end:
                told(end.value)
                return
            except RemoteProtocolError as error:
                told(Refusal(500, str(error)))
                return
            if not isinstance(step, resolving.Clock):
                break
            answer = self._env.wall_ms() / 1000

        def done(answer: object) -> None:
            if isinstance(answer, Refusal):
                work.close()
                told(answer)
            else:
                self.run(work, told, answer)

        if isinstance(step, Look):
            self._look(step.key, done)
        elif isinstance(step, Submit):
            shards = self._front.shards
            service = shards.of_group(step.group) if step.group else shards.of_key(step.key)
            assert service is not None, f"group {step.group}, which told of an intent"
            command = commands.pack_command(step.kind, step.body)
            self._forwarder.submit(service, command, lambda status, body: done(result_of(status, body)))
        else:
            assert isinstance(step, Pause)
            self._env.call_at(self._env.now() + int(step.seconds * 1e9), lambda: done(None))

    def _look(self, key: bytes, done: Callable[[object], None]) -> None:
        service = self._front.shards.of_key(key)

        def ready(fresh: bool) -> None:
            done(service.machine.store.current.get(key) if fresh else Refusal(500, NO_LEADER))

        service.read(ready)


def locked(lockers: Sequence[Locker]) -> Refusal:
    names = ", ".join(dict.fromkeys(locker.transaction for locker in lockers[:5]))
    return Refusal(500, f"keys are locked by transaction {names}, which is not decided yet")


def result_of(status: int, body: bytes) -> Result | Refusal:
    if status == wire.DONE:
        return unpack_result(body)
    if status == wire.REFUSED:
        return Refusal(400, body.decode("utf-8", "replace"))
    if status == wire.UNKNOWN:
        return Refusal(500, "rpc error making call: the leader changed; the write may be done or not")
    return Refusal(500, NO_LEADER)
