"""A proxy that loses answers: it hands on everything that clients send, and now and then hangs up instead of handing on what comes back.

    with Cutter("127.0.0.1:7002", chance=0.05) as cutter:
        connect(cutter.address)

The server has done what it was asked to by then; the client cannot know. Connections are reset, as they are when a machine between fails.
"""

import random
import socket
import threading
from contextlib import suppress
from types import TracebackType

from tests.support.processes import free_ports

_CHUNK = 1 << 16


class Cutter:
    """``chance``: of each piece of an answer; it may be changed at any time. ``due``: so many pieces, the next ones, are lost in any case. ``cuts`` counts."""

    def __init__(self, chance: float, seed: int = 0) -> None:
        self.chance = chance
        self.due = 0
        self.cuts = 0
        self.target = ""
        (self._port,) = free_ports(1)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._closed = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> "Cutter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        # an accept that waits is ended by a connection, not by a close
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
            pass
        self._listener.close()
        with self._guard:
            for open_ in self._sockets:
                with suppress(OSError):
                    open_.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closed:
            client, _ = self._listener.accept()
            host, _, port = self.target.rpartition(":")
            try:
                server = socket.create_connection((host, int(port)), timeout=1.0)
                server.settimeout(None)
            except (OSError, ValueError):
                client.close()
                continue
            with self._guard:
                self._sockets |= {client, server}
            pair = (client, server)
            for run in (self._ask, self._answer):
                thread = threading.Thread(target=run, args=pair, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_CHUNK):
                server.sendall(data)
        self._hang_up(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(_CHUNK):
                if self.due or self._random.random() < self.chance:
                    self.due = max(0, self.due - 1)
                    self.cuts += 1
                    break
                client.sendall(data)
        self._hang_up(client, server)

    def _hang_up(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self._guard:
                known = one in self._sockets
                self._sockets.discard(one)
            if known:
                one.close()
