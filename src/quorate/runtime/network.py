"""The real world behind :class:`quorate.runtime.environment.Environment`: an asyncio loop, TCP, the system's clocks.

Handlers are plain objects that know no asyncio; a thin ``asyncio.Protocol`` per connection passes events on. Whatever a
handler raises ends its own connection and nothing else: a :class:`RemoteProtocolError` is the peer's fault and one
warning line, anything else is a bug of ours and is logged with its traceback.

``asyncio.BufferedProtocol`` is not used: the loop would fill our buffer instead of making ``bytes``, but handlers take
``bytes``, so the copy stays.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from random import Random
from typing import Protocol, cast

from quorate.errors import RemoteProtocolError, UsageError
from quorate.runtime.environment import MILLISECOND, Handler

_log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn)."""
WRITE_HIGH_WATER = 1 << 20
WRITE_LOW_WATER = 1 << 18
KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""The kernel asks a peer that has been silent for a minute, and gives the connection up after half a minute without an answer."""
_NOWHERE = ("?", 0)


class _Write(Protocol):
    def __call__(self, data: bytes) -> None: ...


def _discard(data: bytes) -> None:
    """What ``write`` is on a connection that is closing."""


class _Stream(asyncio.Protocol):
    """One connection: asyncio's callbacks on one side, ``Connection`` on the other."""

    __slots__ = ("_accept", "_closed", "_handler", "_transport", "local", "peer", "reason", "write")

    def __init__(self, accept: Callable[[], Handler]) -> None:
        self._accept = accept
        self._handler: Handler | None = None
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self.peer = _NOWHERE
        self.local = _NOWHERE
        self.reason = ""
        """Why we closed it, if we did."""
        self.write: _Write = _discard

    # ---- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        self._transport = stream
        self.peer = _address(stream.get_extra_info("peername"))
        self.local = _address(stream.get_extra_info("sockname"))
        sock = stream.get_extra_info("socket")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # whoever is gone without a word, its machine or the network, is noticed in the end, though we have nothing to say to it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:
            self.reason = "closed while it was being accepted"
        stream.set_write_buffer_limits(high=WRITE_HIGH_WATER, low=WRITE_LOW_WATER)
        self.write = stream.write
        try:
            self._handler = handler = self._accept()
            handler.connected(self)
        except Exception as error:
            self._failed(error)

    def data_received(self, data: bytes) -> None:
        handler = self._handler
        if self._closed or handler is None:
            return
        try:
            handler.received(data)
        except Exception as error:
            self._failed(error)

    def pause_writing(self) -> None:
        if self._handler is not None:
            try:
                self._handler.writing_paused()
            except Exception as error:
                self._failed(error)

    def resume_writing(self) -> None:
        if self._handler is not None:
            try:
                self._handler.writing_resumed()
            except Exception as error:
                self._failed(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.write = _discard
        handler = self._handler
        self._handler = None
        if handler is None:
            return
        if not self.reason:
            self.reason = "closed by the peer" if exc is None else _phrase(exc)
        try:
            handler.closed(self.reason)
        except Exception:
            _log.exception("connection %s:%d: its handler failed at the end", *self.peer)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, RemoteProtocolError):
            _log.warning("connection %s:%d is dropped: %s", *self.peer, error)
            self.reason = self.reason or f"broke the protocol: {error}"
        else:
            _log.error("connection %s:%d is dropped: its handler failed", *self.peer, exc_info=error)
            self.reason = self.reason or "failed here"
        self.abort()

    # ---- the handler's side -----------------------------------------------------------------------------------------

    @property
    def made(self) -> bool:
        return self._transport is not None

    def given_up(self, reason: str) -> None:
        """It was made just as its time was up. uvloop closes its transport then and never tells of that; asyncio does, and is not heard."""
        self.reason = self.reason or reason
        self.abort()
        self.connection_lost(None)

    def close(self) -> None:
        if not self._closed and self._transport is not None:
            self._closed = True
            self.write = _discard
            self.reason = self.reason or "closed here"
            self._transport.close()

    def abort(self) -> None:
        self._closed = True
        self.write = _discard
        self.reason = self.reason or "dropped here"
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if not self._closed and self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._closed and self._transport is not None:
            self._transport.resume_reading()

    def queued(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


class _Listener:
    """Sockets that accept on one port, maybe of several addresses."""

    __slots__ = ("_closed", "_servers", "_sockets", "address")

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._closed = False
        self.address = _address(sockets[0].getsockname())

    async def serve(self, loop: asyncio.AbstractEventLoop, accept: Callable[[], Handler], backlog: int) -> None:
        for sock in self._sockets:
            if not self._closed:
                self._servers.append(await loop.create_server(lambda: _Stream(accept), sock=sock, backlog=backlog))
        if self._closed:
            self.close()

    def close(self) -> None:
        self._closed = True
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            sock.close()


class _Timer:
    __slots__ = ("_callback", "_environment", "_handle", "_when")

    def __init__(self, environment: "AsyncioEnvironment", when: int, callback: Callable[[], None]) -> None:
        self._environment = environment
        self._when = when
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        # Loops count in milliseconds from a time they looked up a while ago: aim late, and look again when called.
        delay = self._when - time.monotonic_ns()
        delay_ms = 0 if delay <= 0 else -(-delay // MILLISECOND)
        self._handle = self._environment.loop.call_later(delay_ms / 1000, self._fire)

    def _fire(self) -> None:
        if time.monotonic_ns() < self._when:
            self._arm()
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


class AsyncioEnvironment:
    """The real :class:`Environment`. One per process; everything in it is called on ``loop``'s thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.random = Random(os.urandom(32))
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended: Callable[[int], None] | None = None
        """What ``end`` calls; ``runtime.loop`` sets it."""

    def now(self) -> int:
        return time.monotonic_ns()

    def wall_ms(self) -> int:
        return time.time_ns() // MILLISECOND

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def call_at(self, when: int, callback: Callable[[], None]) -> _Timer:
        return _Timer(self, when, callback)

    def end(self, status: int) -> None:
        """Stop the process cleanly, as a signal would, but with ``status``."""
        if self.ended is None:
            raise RuntimeError("this environment is not run by quorate.runtime.loop")
        self.ended(status)

    def listen(self, host: str, port: int, accept: Callable[[], Handler], backlog: int = 0) -> _Listener:
        """``host`` '' means every address of either family; port 0 a free one."""
        backlog = backlog or BACKLOG
        listener = _Listener(_bind(host, port, backlog))
        self._start(listener.serve(self.loop, accept, backlog))
        return listener

    def connect(self, host: str, port: int, handler: Handler, timeout_ms: int) -> None:
        self._start(self._connect(host, port, handler, timeout_ms))

    async def _connect(self, host: str, port: int, handler: Handler, timeout_ms: int) -> None:
        stream = _Stream(lambda: handler)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self.loop.create_connection(lambda: stream, host, port)
            return
        except TimeoutError:
            reason = f"no connection within {timeout_ms} ms"
        except (OSError, ValueError, UnicodeError) as error:
            reason = _phrase(error)
        if stream.made:
            stream.given_up(reason)
            return
        try:
            handler.closed(reason)
        except Exception:
            _log.exception("connection to %s:%d: its handler failed at the end", host, port)

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up the connections that are still being made."""
        for task in self._tasks:
            task.cancel()


def _address(name: object) -> tuple[str, int]:
    if not isinstance(name, tuple):
        return _NOWHERE  # the socket was gone before it could be asked
    host = str(name[0])
    # an IPv4 peer of a socket that serves both families: ACLs and limits go by its IPv4 address
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return host, int(name[1])


def _phrase(error: Exception) -> str:
    """One phrase for the log. asyncio prefixes and joins messages; the system's own is what people know."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror or error).lower()
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__


def _bind(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address of ``host``, all on one port. Raises UsageError."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
    if not 0 <= port <= 65535:
        raise UsageError(f"cannot listen on {shown}: a port is a number from 0 to 65535")
    sockets: list[socket.socket] = []
    try:
        for family, address in _resolve(host, port):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
            sock.setblocking(False)
            sock.bind((address, port))
            sock.listen(backlog)
            if port == 0:
                port = sock.getsockname()[1]
    except (OSError, UnicodeError) as error:
        for sock in sockets:
            sock.close()
        raise UsageError(f"cannot listen on {shown}: {_phrase(error)}") from None
    return sockets


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses to listen on: (family, address)."""
    if host in ("", "*"):
        if _has_ipv6():
            return [(socket.AF_INET6, "::")]
        return [(socket.AF_INET, "0.0.0.0")]
    found: dict[tuple[socket.AddressFamily, str], None] = {}
    for family, _, _, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    ):
        if family != socket.AF_INET6 or _has_ipv6():
            found[family, str(address[0])] = None
    if not found:
        raise OSError(errno.EADDRNOTAVAIL, "no address")
    return list(found)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
