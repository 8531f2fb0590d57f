"""A client's session with one shard: names its commands, so that each has one effect however often it is sent.

Sources: the request ids of RIFL (Lee and others, 2015): a number for each command, and the first one not answered with each.
"""

import asyncio
from collections.abc import Callable, Sequence

from quorate.kv import commands, wire
from quorate.kv.client.connection import ConnectionLost
from quorate.kv.client.errors import LeaseExpired, OutcomeUnknown, Refused
from quorate.kv.client.routing import Router
from quorate.kv.commands import pack_command
from quorate.kv.results import Result, unpack_result

TTL_MS = 60_000
_OPEN_SECONDS = 10.0


class Session:
    """``id`` is 0 until it is opened."""

    def __init__(self, router: Router, group: int) -> None:
        self.id = 0
        self.group = group
        self._router = router
        self._next = 1
        self._under_way: dict[int, None] = {}
        self._opening: asyncio.Task[None] | None = None

    async def _opened(self) -> None:
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.create_task(self._open())
        await asyncio.shield(opening)

    async def _open(self) -> None:
        body = wire.TWO_U32.pack(self.group, 0) + pack_command(
            commands.OPEN_SESSION, commands.open_session_body(TTL_MS)
        )
        deadline = asyncio.get_running_loop().time() + _OPEN_SECONDS
        # what is opened twice because an answer was lost expires by itself
        _, answer = await self._router.call("open", self.group, wire.WRITE, body, deadline, _OPEN_SECONDS, write=False)
        self.id = unpack_result(answer).numbers[0]

    def lost(self) -> None:
        """The store does not know it any more: another one is opened for the next command."""
        self.id = 0

    async def write(self, what: str, kind: int, body: bytes, deadline: float, seconds: float, turn: int = 0) -> Result:
        """Carry out a command once. Raises DeadlineExceeded, OutcomeUnknown, LeaseExpired, Refused."""
        return self.result(what, await self.answer(what, kind, body, deadline, seconds, turn))

    async def answer(self, what: str, kind: int, body: bytes, deadline: float, seconds: float, turn: int = 0) -> bytes:
        """The same; the result as bytes, for ``result``."""
        if not self.id:
            await self._opened()
        seq = self._next
        self._next += 1
        under_way = self._under_way
        under_way[seq] = None
        try:
            acked = next(iter(under_way))
            data = wire.TWO_U32.pack(self.group, turn) + pack_command(kind, body, self.id, seq, acked)
            router = self._router
            channel = router.leading(router.current(self.group))
            if channel is not None:
                try:
                    status, answer = await channel.request(wire.WRITE, data, deadline)
                    if status == wire.DONE:
                        return answer
                except (ConnectionLost, TimeoutError):
                    """Asked again below, with the same name."""
            sent = channel is not None
            _, answer = await router.call(what, self.group, wire.WRITE, data, deadline, seconds, write=True, sent=sent)
            return answer
        finally:
            # also when the time is up: nobody will ask for its answer again
            del under_way[seq]

    def result(self, what: str, answer: bytes) -> Result:
        """OK, CONFLICT or LOCKED. Raises OutcomeUnknown, LeaseExpired, Refused."""
        result = unpack_result(answer)
        if result.status in (commands.OK, commands.CONFLICT, commands.LOCKED):
            return result
        if result.status in (commands.NO_SESSION, commands.ANSWERED):
            self.lost()
            raise OutcomeUnknown(f"{what}: the session expired, so whether it was done is not known")
        if result.status == commands.NO_LEASE:
            raise LeaseExpired(f"{what}: {commands.MESSAGES[commands.NO_LEASE]}")
        raise Refused(f"{what}: {commands.MESSAGES[result.status]}")


class KeepAlive:
    """Keeps what a client holds in one group from expiring. ``gone(id)`` is called for what has."""

    def __init__(
        self, router: Router, group: int, ids: Callable[[], Sequence[int]], gone: Callable[[int], None]
    ) -> None:
        self._router = router
        self._group = group
        self._ids = ids
        self._gone = gone

    async def once(self, seconds: float) -> None:
        ids = self._ids()
        if not ids:
            return
        body = wire.U32.pack(self._group) + commands.numbers_body(ids)
        deadline = asyncio.get_running_loop().time() + seconds
        _, answer = await self._router.call(
            "keep-alive", self._group, wire.KEEP_ALIVE, body, deadline, seconds, write=False
        )
        for id_ in commands.numbers_of(answer):
            self._gone(id_)
