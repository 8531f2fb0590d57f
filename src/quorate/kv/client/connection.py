"""One connection to a member, on asyncio: requests by id, everything of one turn of the loop in one write.

A member may fall silent without closing its connections: it is stopped, or the network between is cut. So when somebody waits and nothing comes,
the member is greeted once more, which it answers at once whatever else it is busy with; a connection without that answer is given up.
"""

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
GREETING = wire.MAGIC + bytes((wire.VERSION,))
SILENT_SECONDS = 0.5
"""Without anything from a member that owes an answer; it is asked whether it is there."""
LOST_SECONDS = 1.0
"""After that without an answer the connection is given up."""
IDLE_SECONDS = 5.0
"""Instead of SILENT_SECONDS where nothing but watches waits, which may well have nothing to tell."""
_LOOK_SECONDS = 0.02
_LOOK_IDLE_SECONDS = 0.5


class ConnectionLost(Exception):
    """The answer will not come over this connection."""


class Channel(asyncio.Protocol):
    def __init__(self, lost: Callable[[], None]) -> None:
        """``lost()`` is called when there is no connection any more."""
        self.loop = asyncio.get_running_loop()
        self.open = False
        self._lost = lost
        self._frames = wire.Frames(ANSWER_MAX)
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._watches: dict[int, Events] = {}
        self._next = 0
        self._out: list[bytes] = []
        self._deadlines: list[tuple[float, int]] = []
        """A heap of (deadline, id): one timer for all, and not one for each."""
        self._timer: asyncio.TimerHandle | None = None
        self._idle = False
        """The timer looks for silence alone."""
        self._since = 0.0
        """Since when the member is silent: it said something, or was asked for the first time after it had answered all."""
        self._greeted = False
        """It was asked whether it is there."""

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
        self._since = self.loop.time()
        self._greeted = False
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
        self._lost()
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
        if not self._pending and not self._greeted:
            self._since = self.loop.time()
        waiting: asyncio.Future[tuple[int, bytes]] = self.loop.create_future()
        self._pending[id_] = waiting
        heappush(self._deadlines, (deadline, id_))
        if self._timer is None or self._idle:
            self._look_again()
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(wire.request(id_, op, body))
        return waiting

    def watch(self, id_: int, events: Events) -> None:
        """What comes with this id after the first answer goes to ``events``."""
        self._watches[id_] = events
        if self._timer is None:
            self._look_again()

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
        self._timer = None
        if self.open and (pending or self._watches):
            self._listen(now)
            self._look_again()

    def _look_again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._idle = not self._pending
        self._timer = self.loop.call_later(_LOOK_IDLE_SECONDS if self._idle else _LOOK_SECONDS, self._look)

    def _listen(self, now: float) -> None:
        """Notice a member that has fallen silent."""
        silent = now - self._since
        if self._greeted:
            if silent >= LOST_SECONDS:
                self.close()
        elif silent >= (SILENT_SECONDS if self._pending else IDLE_SECONDS):
            self._since = now
            self._greeted = True
            greeted = self.request(wire.HELLO, GREETING, now + 2 * LOST_SECONDS)
            greeted.add_done_callback(lambda done: done.cancelled() or done.exception())

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
