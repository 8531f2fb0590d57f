"""The work of ``resolving``, done by a client on its event loop."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quorate.kv import entries, resolving, results, wire
from quorate.kv.client.errors import DeadlineExceeded, Locked
from quorate.kv.entries import Entry
from quorate.kv.resolving import Look, Pause, Submit, Value, Work
from quorate.kv.results import Locker, Result

if TYPE_CHECKING:
    from quorate.kv.client.aio import Client


class Settler:
    def __init__(self, client: "Client") -> None:
        self._client = client
        self.by = f"{socket.gethostname()}:{os.getpid()}"

    async def settle(self, what: str, group: int, lockers: Sequence[Locker], deadline: float, seconds: float) -> bool:
        """Whether one of them was finished, so that what was read may not be what there is now."""
        work = resolving.settle_all(lockers, group, self.by)
        left = await self.run(what, work, lockers, deadline, seconds)
        return len(left) < len(lockers)

    async def carry_out(
        self,
        what: str,
        group: int,
        kind: int,
        body: bytes,
        deadline: float,
        seconds: float,
        *,
        mine: bytes = b"",
        first: Result | None = None,
    ) -> Result:
        """LOCKED if the time was up before all that was in the way was finished."""
        left = max(deadline - asyncio.get_running_loop().time(), 0.0)
        work = resolving.carried_out(kind, body, group, left, self.by, mine, first)
        return await self.run(what, work, [] if first is None else first.lockers, deadline, seconds)

    async def run(
        self, what: str, work: Work[Value], lockers: Sequence[Locker], deadline: float, seconds: float
    ) -> Value:
        """``deadline``: in the loop's time; ``lockers``: those that are in the way. Raises Locked if it cannot be learned in time what became of them."""
        value: object = None
        error: Exception | None = None
        while True:
            try:
                step = work.send(value) if error is None else work.throw(error)
            except StopIteration as end:
                found: Value = end.value
                return found
            value, error = None, None
            try:
                if isinstance(step, Look):
                    value = await self._look(what, step.key, deadline, seconds)
                elif isinstance(step, Submit):
                    group = step.group or await self._client.group_of(step.key, deadline)
                    value = await self._client.submit(what, group, step.kind, step.body, deadline, seconds)
                elif isinstance(step, Pause):
                    # full jitter, but not so short that it is none
                    await asyncio.sleep(step.seconds * (0.5 + random.random() / 2))
                else:
                    value = time.time()
            except DeadlineExceeded as raised:
                # what the caller wants done may be; what is done about others is not his concern
                own = isinstance(step, Submit) and step.own
                error = raised if own else Locked(what, seconds, lockers)
            except Exception as raised:
                error = raised

    async def _look(self, what: str, key: bytes, deadline: float, seconds: float) -> Entry | None:
        group = await self._client.group_of(key, deadline)
        return (await self._client.read_once(what, group, key, 0, deadline, seconds)).entry


class Reading:
    """What a GET told. ``preparing``: something is prepared in the shard; ``lockers``: what concerns the key."""

    __slots__ = ("entry", "lockers", "preparing", "revision")

    def __init__(self, answer: bytes) -> None:
        (self.revision,) = wire.U64.unpack_from(answer)
        marks = answer[8]
        at = 9
        self.entry: Entry | None = None
        if marks & wire.FOUND:
            self.entry, at = entries.unpack_entry(answer, at)
        self.preparing = bool(marks & wire.PREPARING)
        self.lockers: list[Locker] = []
        if marks & wire.CONCERNED:
            self.lockers, _ = results.unpack_lockers(answer, at, 1)
