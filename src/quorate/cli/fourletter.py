"""Asks ZooKeeper servers four-letter commands, many at once, over one selector and without threads.

The command goes out as four bytes, the reply is text up to the end of the stream (FourLetterCommands.java). Works with
Apache's servers as with ours.
"""

import os
import selectors
import socket
import time
from collections.abc import Callable

MAX_REPLY_BYTES = 1 << 20

Answered = Callable[[str | None, str], None]
"""Called once with the reply's text, or with None and the reason why there is none."""


class _Question:
    """One command on its way: connecting, then sent, then reading until the server closes."""

    __slots__ = ("addresses", "answered", "chunks", "deadline", "reason", "size", "sock", "word")

    def __init__(self, addresses: list[tuple[int, str, int]], word: str, deadline: float, answered: Answered) -> None:
        self.addresses = addresses
        self.word = word
        self.deadline = deadline
        self.answered = answered
        self.sock: socket.socket | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self.reason = "no address"


class Asker:
    """Carries questions over ``selector``, whose owner calls :meth:`handle` for their events and :meth:`expire` at times.

    An event's ``data`` is a callable that takes the event mask; :meth:`turn` does all of it for owners without other events.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._pending: list[_Question] = []

    @property
    def pending(self) -> int:
        return len(self._pending)

    def ask(self, host: str, port: int, word: str, timeout: float, answered: Answered) -> None:
        """Ask the server at ``host:port``; ``answered`` may be called before this returns."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            answered(None, error.strerror or str(error))
            return
        addresses = [(int(family), str(where[0]), port) for family, _, _, _, where in found]
        question = _Question(addresses, word, time.monotonic() + timeout, answered)
        self._pending.append(question)
        self._connect(question)

    def next_deadline(self) -> float | None:
        return min((question.deadline for question in self._pending), default=None)

    def expire(self) -> None:
        """Give up the questions whose time is over."""
        now = time.monotonic()
        for question in [late for late in self._pending if late.deadline <= now]:
            self._finish(question, None, "no answer in time")

    def turn(self) -> None:
        """Wait for the next event or deadline and handle it."""
        deadline = self.next_deadline()
        for key, events in self._selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
            key.data(events)
        self.expire()

    def close(self) -> None:
        """Drop every question without an answer."""
        for question in self._pending:
            self._drop_socket(question)
        self._pending.clear()

    def _connect(self, question: _Question) -> None:
        while question.addresses:
            family, host, port = question.addresses.pop(0)
            sock = question.sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            try:
                sock.connect((host, port))
            except BlockingIOError:
                self._watch(question, sock, selectors.EVENT_WRITE)
                return
            except OSError as error:
                question.reason = error.strerror or str(error)
                sock.close()
                question.sock = None
                continue
            self._send(question, sock)
            return
        self._finish(question, None, question.reason)

    def _watch(self, question: _Question, sock: socket.socket, events: int) -> None:
        def handle(_: int) -> None:
            if question.sock is sock:
                self._step(question, sock, events)

        self._selector.register(sock, events, handle)

    def _step(self, question: _Question, sock: socket.socket, events: int) -> None:
        if events & selectors.EVENT_READ:
            self._receive(question, sock)
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._selector.unregister(sock)
        if error:
            question.reason = os.strerror(error)
            sock.close()
            question.sock = None
            self._connect(question)
            return
        self._send(question, sock)

    def _send(self, question: _Question, sock: socket.socket) -> None:
        try:
            # four bytes always fit into the buffer of a new connection
            sock.send(question.word.encode())
        except OSError as error:
            self._finish(question, None, error.strerror or str(error))
            return
        self._watch(question, sock, selectors.EVENT_READ)

    def _receive(self, question: _Question, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(question, None, error.strerror or str(error))
            return
        question.chunks.append(data)
        question.size += len(data)
        if not data:
            text = b"".join(question.chunks).decode("utf-8", "replace")
            self._finish(question, text or None, "the connection was closed without an answer")
        elif question.size > MAX_REPLY_BYTES:
            self._finish(question, None, "the answer is too long")

    def _drop_socket(self, question: _Question) -> None:
        sock, question.sock = question.sock, None
        if sock is not None:
            if sock in self._selector.get_map():
                self._selector.unregister(sock)
            sock.close()

    def _finish(self, question: _Question, text: str | None, reason: str) -> None:
        self._drop_socket(question)
        self._pending.remove(question)
        question.answered(text, reason)


def fields(text: str) -> dict[str, str]:
    """The ``name: value`` lines of a ``srvr`` reply or the ``name<tab>value`` lines of a ``mntr`` reply."""
    found = {}
    for line in text.splitlines():
        name, separator, value = line.partition("\t") if "\t" in line else line.partition(": ")
        if separator:
            found[name.strip()] = value.strip()
    return found
