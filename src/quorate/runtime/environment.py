"""What protocol and server code may see of the world: time, timers, randomness and connections.

``runtime`` implements these interfaces over asyncio and TCP, ``simulation`` over a virtual clock and network. Everything
is single-threaded: a callback is never entered while another one runs, and no method blocks.

Times are integers: ``now()`` is nanoseconds on a monotonic clock with an arbitrary origin, ``wall_ms()`` milliseconds
since the Unix epoch (only for timestamps that users see, never for timeouts).
"""

from collections.abc import Callable
from random import Random
from typing import Protocol

MILLISECOND = 1_000_000
"""Nanoseconds in a millisecond."""


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None: ...


class Connection(Protocol):
    """One established byte stream."""

    @property
    def peer(self) -> tuple[str, int]:
        """The other end's address (text form of the IP address, port)."""

    @property
    def local(self) -> tuple[str, int]:
        """Our end's address."""

    def write(self, data: bytes) -> None:
        """Queue ``data``; never blocks, never fails (a dead connection reports ``closed`` to its handler)."""

    def close(self) -> None:
        """Send what is queued, then close. ``closed`` is still reported."""

    def abort(self) -> None:
        """Close at once; queued data is lost. ``closed`` is still reported."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def queued(self) -> int:
        """Bytes written but not yet taken by the network."""


class Handler(Protocol):
    """What receives the events of one connection, in order: ``connected`` once, any of the rest, ``closed`` once.

    For a connection that could not be made, ``closed`` alone.
    """

    def connected(self, connection: Connection) -> None: ...

    def received(self, data: bytes) -> None:
        """Whatever bytes have come; frame boundaries mean nothing to the stream."""

    def writing_paused(self) -> None:
        """The peer reads slowly: the connection's queue passed its high-water mark."""

    def writing_resumed(self) -> None: ...

    def closed(self, reason: str) -> None:
        """The connection is gone; ``reason`` is one phrase for the log."""


class Listener(Protocol):
    @property
    def address(self) -> tuple[str, int]: ...

    def close(self) -> None: ...


class Environment(Protocol):
    """The world as one process of the system sees it."""

    random: Random

    def now(self) -> int: ...

    def wall_ms(self) -> int: ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call after the events that are already there have been handled (used to drain cores once per batch)."""

    def call_at(self, when: int, callback: Callable[[], None]) -> Timer:
        """Call when ``now()`` has reached ``when``."""

    def listen(self, host: str, port: int, accept: Callable[[], Handler], backlog: int = 0) -> Listener:
        """Accept connections, each served by a fresh handler. Raises UsageError if the address cannot be had.

        ``backlog``: connections that may wait to be accepted; 0 for as many as the implementation sees fit."""

    def connect(self, host: str, port: int, handler: Handler, timeout_ms: int) -> None:
        """Open a connection; the handler is told ``connected`` or ``closed``."""
