"""What the families share: the shards, the way to their leaders, and reads that may wait for a change."""

from collections.abc import Callable

from quorate.kv import commands, wire
from quorate.kv.commands import LOCKED
from quorate.kv.consul.parsing import Refusal, blocking, staleness
from quorate.kv.consul.settling import NO_LEADER, Settler, locked, result_of
from quorate.kv.forward import Forwarder
from quorate.kv.front import Front
from quorate.kv.intents import Intent
from quorate.kv.results import Result
from quorate.kv.service import KvService
from quorate.kv.watches import Watch
from quorate.runtime.environment import Environment
from quorate.runtime.http import Pending, Request, Response

_ROUNDS = 50
"""Of reading again what was decided about meanwhile."""
Answer = tuple[int, Response]
"""(index, response)."""


class Backend:
    """``node``: this member's name."""

    def __init__(self, env: Environment, front: Front, forwarder: Forwarder, node: str) -> None:
        self.env = env
        self.front = front
        self.node = node
        self._forwarder = forwarder
        self.settler = Settler(env, front, forwarder, node)

    # ---- writes

    def command(self, service: KvService, kind: int, body: bytes, told: Callable[[Result | Refusal], None]) -> None:
        """Have it carried out, by whoever leads the shard."""

        def answered(status: int, answer: bytes) -> None:
            result = result_of(status, answer)
            if isinstance(result, Result) and result.status == LOCKED:
                self.settler.carry_out(service, kind, body, result, told)
            else:
                told(result)

        self._forwarder.submit(service, commands.pack_command(kind, body), answered)

    def everywhere(self, kind: int, body: bytes, told: Callable[[list[Result] | Refusal], None]) -> None:
        """In every shard; the first refusal is what is told."""
        services = self.front.shards.services
        results: list[Result | Refusal] = []

        def one(result: Result | Refusal) -> None:
            results.append(result)
            if len(results) == len(services):
                refused = next((found for found in results if isinstance(found, Refusal)), None)
                told(refused if refused is not None else [found for found in results if isinstance(found, Result)])

        for service in services:
            self.command(service, kind, body, one)

    def keep_alive(self, lease: int, told: Callable[[bool | Refusal], None]) -> None:
        """In every shard: whether there is such a lease in all of them."""
        services = self.front.shards.services
        answers: list[tuple[int, bytes]] = []

        def one(status: int, body: bytes) -> None:
            answers.append((status, body))
            if len(answers) == len(services):
                if any(status != wire.DONE for status, _ in answers):
                    told(Refusal(500, NO_LEADER))
                else:
                    told(not any(body for _, body in answers))

        for service in services:
            self._forwarder.keep_alive(service, lease, one)

    # ---- reads

    def concerning(self, start: bytes, end: bytes) -> list[tuple[KvService, Intent]]:
        """The intents that may be about to change keys of the range."""
        return [
            (service, intent)
            for service in self.front.shards.services
            if service.machine.locks.intents and (not end or service.start < end)
            for intent in service.machine.locks.changing(start, end)
        ]

    def read(
        self,
        request: Request,
        service: KvService,
        start: bytes,
        end: bytes,
        look: Callable[[], Answer],
        *,
        keys: bool = True,
    ) -> Pending:
        """Answer with what ``look`` finds once the shard is as fresh as the request wants it; and if the request gives an index, once
        ``look``'s is beyond that, or when the time is up. ``keys``: it finds keys of the range, so that what was decided about them comes first.
        Raises Refusal."""
        index, wait = blocking(request)
        fresh = staleness(request)
        waiting = _Waiting(self, service, start, end, look, index, wait, keys)
        service.read(waiting.ready, fresh)
        return waiting.pending


class _Waiting:
    """A read that may block (Consul's blocking queries)."""

    def __init__(
        self,
        backend: Backend,
        service: KvService,
        start: bytes,
        end: bytes,
        look: Callable[[], Answer],
        index: int,
        wait: int,
        keys: bool,
    ) -> None:
        self.pending = Pending(self._end)
        env = self._env = backend.env
        self._backend = backend
        self._keys = keys
        self._rounds = 0
        self._looked = 0
        """The revision at which it was looked up last."""
        self._service = service
        self._look = look
        self._index = index
        self._timer = (
            None if not index else env.call_at(env.now() + wait + env.random.randrange(wait // 16 + 1), self._late)
        )
        self._watch: Watch | None = None
        self._range = start, end
        self._over = False

    def ready(self, fresh: bool) -> None:
        if self._over:
            return
        if not fresh:
            self._respond(Refusal(500, NO_LEADER).response())
            return
        index, response = self._look()
        self._looked = self._service.machine.store.revision
        concerning = self._backend.concerning(*self._range) if self._keys else []
        if not concerning:
            self._found(index, response)
            return

        def settled(finished: bool | Refusal) -> None:
            if self._over:
                return
            if isinstance(finished, Refusal):
                self._respond(finished.response())
            elif not finished:
                # decided after this, if at all: what was there before is right
                self._found(index, response)
            elif self._rounds < _ROUNDS:
                self._rounds += 1
                self._read_again([service for service, _ in concerning])
            else:
                self._respond(locked([intent for _, intent in concerning]).response())

        self._backend.settler.settle(concerning, settled)

    def _read_again(self, services: list[KvService]) -> None:
        """Once this member knows what became of it in all of these shards."""
        waiting = list(dict.fromkeys([self._service, *services]))
        left = len(waiting)
        all_fresh = True

        def fresh_one(fresh: bool) -> None:
            nonlocal left, all_fresh
            left -= 1
            all_fresh = all_fresh and fresh
            if not left:
                self.ready(all_fresh)

        for service in waiting:
            service.read(fresh_one)

    def _found(self, index: int, response: Response) -> None:
        if not self._index or index > self._index:
            self._respond(response)
            return
        if self._watch is None:
            # what changed since it was looked up is told at once
            watch = self._watch = Watch(*self._range, self._looked, self._changed, self._compacted)
            self._service.watch(watch)

    def _changed(self, revision: int, changes: object) -> bool:
        """After the batch that changed it: the answer is looked up once."""
        if changes and not self._over:
            self._env.call_soon(self._look_again)
        return True

    def _compacted(self, revision: int) -> None:
        self._env.call_soon(self._look_again)

    def _look_again(self) -> None:
        if not self._over:
            if self._keys and self._backend.concerning(*self._range):
                self._service.read(self.ready)
                return
            index, response = self._look()
            if index > self._index:
                self._respond(response)

    def _late(self) -> None:
        if not self._over:
            self._index = 0
            if self._keys and self._backend.concerning(*self._range):
                self._service.read(self.ready)
            else:
                self._respond(self._look()[1])

    def _respond(self, response: Response) -> None:
        self._end()
        self.pending.respond(response)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._service.watches.remove(self._watch)
