"""Clients that write while servers die: each in its own thread, with its own sessions, recording into one history.

A connection that breaks or says nothing for PATIENCE seconds leaves the outcome of what was asked unknown; the session then
goes on at another member, as a client library's would.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import count, cycle

from tests.support.ensembles import Member
from tests.support.history import History, Operation
from tests.support.raw import (
    NO_PASSWORD,
    Closed,
    Frame,
    RawClient,
    create_body,
    path_watch_body,
    set_body,
)

from quorate.binary import Reader, pack_string
from quorate.zookeeper.constants import Code, Op

PATIENCE = 2.0
HANDSHAKE_PATIENCE = 0.25
"""A member that does not take a client this soon is passed over for the next."""
SESSION_MS = 3000
PACE = 0.005
REFUSALS = (Code.SESSION_EXPIRED, Code.SESSION_MOVED)
"""Errors that say that the operation was not carried out and the connection is of no more use."""

REGISTER = "/register"
SWAPPED = "/swapped"
SEQUENCE = "/sequence"
EPHEMERAL = "/ephemeral"


class Stopped(Exception):
    """The run is over."""


class Lost(Exception):
    """The connection is gone, or the session is."""


class Session:
    """A session that moves between members. ``number`` counts the sessions had: a new one after each expiry."""

    def __init__(self, members: Sequence[Member], first: int, stop: threading.Event) -> None:
        self._addresses = cycle([*members[first % len(members) :], *members[: first % len(members)]])
        self._stop = stop
        self._client: RawClient | None = None
        self._id, self._password = 0, NO_PASSWORD
        self._zxid = 0
        self.number = 0

    def call(self, op: int, body: bytes = b"") -> Frame:
        """Raises Lost (the outcome is unknown), or Stopped before anything was sent."""
        client = self.connected()
        try:
            reply = client.call(op, body)[-1]
        except (Closed, TimeoutError) as error:
            self.hang_up()
            raise Lost(str(error)) from None
        self._zxid = max(self._zxid, reply.zxid)
        if reply.err in REFUSALS:
            self.hang_up()
        return reply

    def connected(self) -> RawClient:
        """Waits for a member that takes the session, or for Stopped."""
        while self._client is None:
            if self._stop.is_set():
                raise Stopped
            member = next(self._addresses)
            try:
                client = RawClient(
                    member.host,
                    member.client_port,
                    timeout_ms=SESSION_MS,
                    session=self._id,
                    password=self._password,
                    last_zxid=self._zxid,
                    patience=HANDSHAKE_PATIENCE,
                )
            except (Closed, OSError):
                self._stop.wait(PACE)
                continue
            shake = client.handshake
            if shake.session == 0:
                client.close()
                self._id, self._password = 0, NO_PASSWORD
                continue
            if shake.session != self._id:
                self.number += 1
            self._id, self._password = shake.session, shake.password
            client.set_patience(PATIENCE)
            self._client = client
        return self._client

    def hang_up(self) -> None:
        """Leave without a word; the session lives on."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def forget(self) -> None:
        """Hang up, and have a new session next time."""
        self.hang_up()
        self._id, self._password = 0, NO_PASSWORD

    def close(self) -> bool:
        """Close the session; whether that was acknowledged."""
        if self._client is None:
            return False
        try:
            return self._client.call(Op.CLOSE_SESSION)[-1].err == 0
        except (Closed, TimeoutError):
            return False
        finally:
            self.forget()


class Worker(threading.Thread):
    """Runs ``step`` until stopped. What it saw that must never be is in ``violations``."""

    def __init__(self, name: str, members: Sequence[Member], index: int, history: History) -> None:
        super().__init__(name=name, daemon=True)
        self.members = members
        self.history = history
        self.halt = threading.Event()
        self.index = index
        self.session = Session(members, index, self.halt)
        self.violations: list[str] = []
        self.numbers = count()

    def run(self) -> None:
        try:
            while not self.halt.wait(PACE):
                try:
                    self.step()
                except Lost:
                    continue
        except Stopped:
            return
        except BaseException as error:
            self.violations.append(f"{self.name}: {type(error).__name__}: {error}")
            raise

    def step(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.halt.set()
        self.join()
        self.session.close()

    def write(
        self, name: str, value: str | int, op: int, body: bytes, result: Callable[[Frame], object], *failures: int
    ) -> Operation:
        """One recorded operation, invoked once there is a connection to send it on. ``failures`` are the errors it may
        have; raises Lost if the connection is gone."""
        self.session.connected()
        operation = self.history.invoke(self.name, name, value)
        try:
            reply = self.session.call(op, body)
        except Lost:
            self.history.end(operation, "unknown")
            raise
        if reply.err == 0:
            self.history.end(operation, "ok", result(reply))
        else:
            self.history.end(operation, "fail", reply.err)
            if reply.err not in failures and reply.err not in REFUSALS:
                self.violations.append(f"{operation}: error {reply.err}")
        return operation


def version_of(reply: Frame) -> int:
    """The version in a reply that ends with a Stat."""
    return int.from_bytes(reply.body[-36:-32], "big", signed=True)


class RegisterWriter(Worker):
    """Sets the one register, whatever its version."""

    def step(self) -> None:
        value = f"{self.name}:{next(self.numbers)}"
        self.write("set", value, Op.SET_DATA, set_body(REGISTER, value.encode()), version_of)


class Swapper(Worker):
    """Sets a node on the condition of the version it read: of all that try the same version one may win."""

    def step(self) -> None:
        read = self.session.call(Op.GET_DATA, path_watch_body(SWAPPED))
        if read.err:
            return
        version = version_of(read)
        body = set_body(SWAPPED, f"{self.name}:{next(self.numbers)}".encode(), version)
        self.write("swap", version, Op.SET_DATA, body, version_of, Code.BAD_VERSION)


class Sequencer(Worker):
    """Makes sequential nodes, each with data of its own."""

    def step(self) -> None:
        value = f"{self.name}:{next(self.numbers)}"
        body = create_body(f"{SEQUENCE}/n-", value.encode(), None, 2)
        self.write("append", value, Op.CREATE, body, lambda reply: Reader(reply.body).text())
        self.halt.wait(4 * PACE)


class Mortal(Worker):
    """Has short sessions with an ephemeral each. An acknowledged close takes the ephemeral along, for everybody."""

    def __init__(self, name: str, members: Sequence[Member], index: int, history: History) -> None:
        super().__init__(name, members, index, history)
        self.observer = Session(members, index + 1, self.halt)

    def step(self) -> None:
        number = next(self.numbers)
        path = f"{EPHEMERAL}/{self.name}-{number}"
        try:
            self.write("ephemeral", path, Op.CREATE, create_body(path, b"", None, 1), lambda reply: None)
        except Lost:
            self.session.forget()
            raise
        if number % 3 == 0:
            self.session.forget()
        elif self.session.close():
            self.observer.call(Op.SYNC, pack_string(path))
            if self.observer.call(Op.EXISTS, path_watch_body(path)).err == 0:
                self.violations.append(f"{path} outlives its session, whose end was acknowledged")
        self.halt.wait(4 * PACE)

    def end(self) -> None:
        super().end()
        self.observer.close()


class Keeper(Worker):
    """Keeps one session and its ephemeral: as long as the session is re-attached, the node is there."""

    def __init__(self, name: str, members: Sequence[Member], index: int, history: History) -> None:
        super().__init__(name, members, index, history)
        self._made_in = 0
        self._path = ""

    def step(self) -> None:
        if not self._path:
            path = f"{EPHEMERAL}/{self.name}-{next(self.numbers)}"
            made = self.write("ephemeral", path, Op.CREATE, create_body(path, b"", None, 1), lambda reply: None)
            if made.outcome == "ok":
                self._path, self._made_in = path, self.session.number
            return
        reply = self.session.call(Op.EXISTS, path_watch_body(self._path))
        if self.session.number != self._made_in:
            self._path = ""
        elif reply.err == Code.NO_NODE:
            self.violations.append(f"{self._path} is gone though its session lives")
            self._path = ""


class Observer(Worker):
    """Reads the register: within a session, wherever it moves, time never goes back."""

    def __init__(self, name: str, members: Sequence[Member], index: int, history: History) -> None:
        super().__init__(name, members, index, history)
        self._seen = (0, -1)

    def step(self) -> None:
        reply = self.session.call(Op.GET_DATA, path_watch_body(REGISTER))
        if reply.err:
            return
        version = version_of(reply)
        number, seen = self._seen
        if number == self.session.number and version < seen:
            self.violations.append(f"{self.name} reads version {version} after version {seen}")
        self._seen = (self.session.number, version)
