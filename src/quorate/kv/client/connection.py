"""One connection to a member, on asyncio: requests by id, everything of one turn of the loop in one write."""

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import cast

from quorate.errors import RemoteProtocolError
from quorate.kv import wire

Events = Callable[[int, bytes], None]
"""Called with the status and body of each answer to a watch; with (LOST, b"") when the connection is gone."""
LOST = -1
ANSWER_MAX = 64 << 20
_LOOK_SECONDS = 0.02


class ConnectionLost(Exception):
    """The answer will not come over this connection."""


class Channel(asyncio.Protocol):
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.open = False
        self.description: dict[str, object] = {}
        """What HELLO told."""
        self._frames = wire.Frames(ANSWER_MAX)
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._watches: dict[int, Events] = {}
        self._next = 0
        self._out: list[bytes] = []
        self._deadlines: list[tuple[float, int]] = []
        """A heap of (deadline, id): one timer for all, and not one for each."""
        self._timer: asyncio.TimerHandle | None = None

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._frames.feed(data)
        except RemoteProtocolError:
            self.close()
            return
        pending = self._pending
        for id_, status, body in frames:
            waiting = pending.pop(id_, None)
            if waiting is not None:
                if not waiting.done():
                    waiting.set_result((status, body))
            elif id_ in self._watches:
                self._watches[id_](status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._transport = None
        pending, self._pending = self._pending, {}
        for waiting in pending.values():
            if not waiting.done():
                waiting.set_exception(ConnectionLost())
                waiting.exception()  # looked at, in case nobody waits any more
        watches, self._watches = self._watches, {}
        for events in watches.values():
            events(LOST, b"")

    # ---- requests

    def new_id(self) -> int:
        while True:
            self._next = (self._next + 1) & 0xFFFFFFFF
            if self._next and self._next not in self._pending and self._next not in self._watches:
                return self._next

    def request(self, op: int, body: bytes, deadline: float, id_: int = 0) -> "asyncio.Future[tuple[int, bytes]]":
        """The answer's status and body; it raises TimeoutError some 20 ms after ``deadline`` (in the loop's time) at the latest.

        Raises ConnectionLost.
        """
        if not self.open:
            raise ConnectionLost
        id_ = id_ or self.new_id()
        waiting: asyncio.Future[tuple[int, bytes]] = self.loop.create_future()
        self._pending[id_] = waiting
        heappush(self._deadlines, (deadline, id_))
        if self._timer is None:
            self._timer = self.loop.call_later(_LOOK_SECONDS, self._look)
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(wire.request(id_, op, body))
        return waiting

    def watch(self, id_: int, events: Events) -> None:
        """What comes with this id after the first answer goes to ``events``."""
        self._watches[id_] = events

    def unwatch(self, id_: int) -> None:
        if self._watches.pop(id_, None) is not None and self.open:
            cancelled = self.request(wire.CANCEL, wire.U32.pack(id_), self.loop.time() + 10)
            cancelled.add_done_callback(lambda done: done.exception())

    def _look(self) -> None:
        """Give up those whose time is over."""
        now = self.loop.time()
        deadlines, pending = self._deadlines, self._pending
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in pending):
            waiting = pending.pop(heappop(deadlines)[1], None)
            if waiting is not None and not waiting.done():
                waiting.set_exception(TimeoutError())
        if len(deadlines) > 2 * len(pending) + 1000:
            self._deadlines = [item for item in deadlines if item[1] in pending]
            heapify(self._deadlines)
        self._timer = self.loop.call_later(_LOOK_SECONDS, self._look) if pending else None

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None:
            self._transport.write(b"".join(out))

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
