"""A proxy that loses the answer to one request: what the request asked for is done by then.

with Losing(("127.0.0.1", 5432)) as proxy:
    connect(proxy.port)
    with proxy.losing(b"commit prepared"):
        ...
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

_CHUNK = 1 << 16


class Losing:
    """``lost`` counts. While it is ``down``, it takes no connections, and has none."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.lost = 0
        self._pattern: bytes | None = None
        self._down = False
        self._guard = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> "Losing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        # an accept that waits is ended by a connection, not by a close
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._accepting.join()
        self._listener.close()
        self._hang_up_all()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def losing(self, pattern: bytes) -> Iterator[None]:
        """Of the first request with ``pattern`` in it, whatever its case."""
        before = self.lost
        self._pattern = pattern.lower()
        try:
            yield
        finally:
            self._pattern = None
        assert self.lost == before + 1, f"nobody asked for {pattern!r}"

    @contextmanager
    def down(self) -> Iterator[None]:
        self._down = True
        self._hang_up_all()
        try:
            yield
        finally:
            self._down = False

    def _hang_up_all(self) -> None:
        with self._guard:
            open_ = list(self._sockets)
        for one in open_:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closed:
                client.close()
                return
            try:
                if self._down:
                    raise OSError
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            pair = _Pair(client, server)
            with self._guard:
                self._sockets |= {client, server}
            for run in (self._ask, self._answer):
                thread = threading.Thread(target=run, args=(pair,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _ask(self, pair: "_Pair") -> None:
        with suppress(OSError):
            while data := pair.client.recv(_CHUNK):
                if self._pattern is not None and self._pattern in data.lower():
                    self._pattern = None
                    pair.losing = True
                pair.server.sendall(data)
        self._hang_up(pair)

    def _answer(self, pair: "_Pair") -> None:
        with suppress(OSError):
            while data := pair.server.recv(_CHUNK):
                if pair.losing:
                    self.lost += 1
                    break
                pair.client.sendall(data)
        self._hang_up(pair)

    def _hang_up(self, pair: "_Pair") -> None:
        for one in (pair.client, pair.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        pair.left -= 1
        if not pair.left:
            for one in (pair.client, pair.server):
                one.close()
            with self._guard:
                self._sockets -= {pair.client, pair.server}


class _Pair:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.losing = False
        self.left = 2
