"""What the families share: the shards, the way to their leaders, and reads that may wait for a change."""

from collections.abc import Callable

from quorate.kv import commands, wire
from quorate.kv.commands import Result, unpack_result
from quorate.kv.consul.parsing import Refusal, blocking, staleness
from quorate.kv.forward import Forwarder
from quorate.kv.front import Front
from quorate.kv.service import KvService
from quorate.kv.watches import Watch
from quorate.runtime.environment import Environment
from quorate.runtime.http import Pending, Request, Response

NO_LEADER = "No cluster leader"
Answer = tuple[int, Response]
"""(index, response)."""


class Backend:
    """``node``: this member's name."""

    def __init__(self, env: Environment, front: Front, forwarder: Forwarder, node: str) -> None:
        self.env = env
        self.front = front
        self.node = node
        self._forwarder = forwarder

    # ---- writes

    def command(self, service: KvService, kind: int, body: bytes, told: Callable[[Result | Refusal], None]) -> None:
        """Have it carried out, by whoever leads the shard."""

        def answered(status: int, body: bytes) -> None:
            told(_result(status, body))

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

    def read(
        self, request: Request, service: KvService, start: bytes, end: bytes, look: Callable[[], Answer]
    ) -> Pending:
        """Answer with what ``look`` finds once the shard is as fresh as the request wants it; and if the request gives an index, once
        ``look``'s is beyond that, or when the time is up. Raises Refusal."""
        index, wait = blocking(request)
        fresh = staleness(request)
        waiting = _Waiting(self.env, service, start, end, look, index, wait)
        service.read(waiting.ready, fresh)
        return waiting.pending


class _Waiting:
    """A read that may block (Consul's blocking queries)."""

    def __init__(
        self,
        env: Environment,
        service: KvService,
        start: bytes,
        end: bytes,
        look: Callable[[], Answer],
        index: int,
        wait: int,
    ) -> None:
        self.pending = Pending(self._end)
        self._env = env
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
        if not self._index or index > self._index:
            self._respond(response)
            return
        watch = self._watch = Watch(*self._range, self._service.machine.store.revision, self._changed, self._compacted)
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
            index, response = self._look()
            if index > self._index:
                self._respond(response)

    def _late(self) -> None:
        if not self._over:
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


def _result(status: int, body: bytes) -> Result | Refusal:
    if status == wire.DONE:
        return unpack_result(body)
    if status == wire.REFUSED:
        return Refusal(400, body.decode("utf-8", "replace"))
    if status == wire.UNKNOWN:
        return Refusal(500, "rpc error making call: the leader changed; the write may be done or not")
    return Refusal(500, NO_LEADER)
