"""Clients that read and write while servers die: each in its own thread, with its own sessions, recording into one history.

The history is in the words of ``quorate.verification.zookeeper``: one process a session, every request and every change of the
connection. A connection that breaks or says nothing for PATIENCE seconds leaves the outcome of what was asked unknown; the
session then goes on at another member, as a client library's would.
"""

import threading
from collections.abc import Mapping, Sequence
from itertools import count, cycle
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    OperationTimeoutError,
    SessionExpiredError,
)
from kazoo.handlers.threading import KazooTimeoutError
from tests.support.ensembles import Member
from tests.support.raw import NO_PASSWORD, Closed, Frame, RawClient

from quorate.simulation.zookeeper import requests
from quorate.simulation.zookeeper.client import Watches
from quorate.verification.history import History, Operation
from quorate.zookeeper.constants import SET_WATCHES_XID, Code, Op

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


class Record:
    """The history of all clients, and how many writes were acknowledged."""

    def __init__(self) -> None:
        self.history = History(model="zookeeper")
        self.acknowledged = 0
        self.judged_by = "nothing"
        self.last = 0
        """When the latest of the writes that were acknowledged was asked for, in the history's nanoseconds."""
        self._guard = threading.Lock()

    def end(self, operation: Operation, outcome: Any, result: object = None) -> None:
        self.history.end(operation, outcome, result)
        if outcome == "ok" and operation.name in ("set", "create", "multi"):
            with self._guard:
                self.acknowledged += 1
                self.last = max(self.last, operation.invoked)

    def note(self, process: str, name: str, key: str | None, value: object, result: object = None) -> None:
        """Something that happened to a session at once."""
        self.history.end(self.history.invoke(process, name, key, value), "ok", result)

    def first_after(self, moment: int) -> float:
        """Seconds from ``moment`` to the end of the first acknowledged write that was asked for after it."""
        ended = [
            op.ended
            for op in reversed(self.history.operations)
            if op.invoked > moment and op.outcome == "ok" and op.name in ("set", "create", "multi")
        ]
        return (min(ended) - moment) / 1e9


class Session:
    """A session that moves between members. ``number`` counts the sessions had: a new one after each expiry."""

    def __init__(self, name: str, members: Sequence[Member], first: int, stop: threading.Event, record: Record) -> None:
        self._name = name
        self._addresses = cycle([*members[first % len(members) :], *members[: first % len(members)]])
        self._stop = stop
        self._record = record
        self._client: RawClient | None = None
        self._id, self._password = 0, NO_PASSWORD
        self._zxid = 0
        self._watches = Watches()
        self.number = 0

    @property
    def process(self) -> str:
        return f"{self._name}.{self.number}"

    def call(self, name: str, key: str | None, value: Mapping[str, Any]) -> Operation:
        """One recorded operation. Raises Lost (the outcome is unknown), or Stopped before anything was sent."""
        client = self.connected()
        record = self._record
        operation = record.history.invoke(self.process, name, key, value)
        try:
            *before, reply = client.call(*requests.encode(name, key, value))
        except (Closed, TimeoutError) as error:
            record.end(operation, "unknown")
            self.hang_up()
            raise Lost(str(error)) from None
        self._events(before)
        self._zxid = max(self._zxid, reply.zxid)
        if reply.err == 0:
            record.end(operation, "ok", requests.decode(name, _whole(reply)))
        elif name == "exists" and reply.err == Code.NO_NODE:
            record.end(operation, "ok", {"zxid": reply.zxid, "stat": None})
        else:
            record.end(operation, "fail", {"zxid": reply.zxid, "error": reply.err})
        if key is not None and operation.outcome == "ok" and value.get("watch"):
            self._watches.set(name, key, reply.err == 0)
        if reply.err in REFUSALS:
            self.hang_up()
        return operation

    def _events(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            kind, path = requests.event(_whole(frame))
            self._watches.fired(requests.EVENTS[kind], path)
            self._record.note(self.process, "event", path, {"type": requests.EVENTS[kind], "zxid": self._zxid})

    def _watch_again(self, client: RawClient) -> bool:
        """Set the session's watches anew, as client libraries do when they come back."""
        watches = self._watches
        if not watches:
            return True
        body = requests.set_watches(self._zxid, [*watches.data], [*watches.exists], [*watches.children])
        try:
            self._events(client.call(Op.SET_WATCHES, body, SET_WATCHES_XID)[:-1])
        except (Closed, TimeoutError):
            return False
        return True

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
                self._record.note(self.process, "expired", None, {"session": self._id})
                self.forget()
                continue
            if shake.session != self._id:
                self.number += 1
            self._id, self._password = shake.session, shake.password
            self._record.note(
                self.process, "connect", None, {"timeout": shake.timeout}, {"session": self._id, "zxid": self._zxid}
            )
            client.set_patience(PATIENCE)
            self._client = client
            if not self._watch_again(client):
                self.hang_up()
        return self._client

    def hang_up(self) -> None:
        """Leave without a word; the session lives on."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._record.note(self.process, "disconnected", None, {})

    def forget(self) -> None:
        """Hang up, and have a new session next time."""
        self.hang_up()
        self._id, self._password = 0, NO_PASSWORD
        self._zxid = 0
        self._watches = Watches()

    def close(self) -> bool:
        """Close the session; whether that was acknowledged."""
        if self._client is None:
            return False
        try:
            return self.call("close", None, {}).outcome == "ok"
        except Lost:
            return False
        finally:
            self.forget()


def _whole(frame: Frame) -> bytes:
    """The bytes of a frame, header included."""
    return requests.REPLY.pack(frame.xid, frame.zxid, frame.err) + bytes(frame.body)


class Worker(threading.Thread):
    """Runs ``step`` until stopped. What it saw that must never be is in ``violations``."""

    def __init__(self, name: str, members: Sequence[Member], index: int, record: Record) -> None:
        super().__init__(name=name, daemon=True)
        self.members = members
        self.record = record
        self.halt = threading.Event()
        self.index = index
        self.session = Session(name, members, index, self.halt, record)
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

    def data(self) -> str:
        """No two are alike."""
        return f"{self.name}:{next(self.numbers)}"


class RegisterWriter(Worker):
    """Sets the one register, whatever its version."""

    def step(self) -> None:
        self.session.call("set", REGISTER, {"data": self.data(), "version": -1})


class Swapper(Worker):
    """Sets a node on the condition of the version it read: of all that try the same version one may win."""

    def step(self) -> None:
        read = self.session.call("get", SWAPPED, {"watch": False})
        if read.outcome == "ok":
            version = read.result["stat"]["version"]
            self.session.call("set", SWAPPED, {"data": self.data(), "version": version})


class Sequencer(Worker):
    """Makes sequential nodes, each with data of its own."""

    def step(self) -> None:
        self.session.call("create", f"{SEQUENCE}/n-", {"data": self.data(), "sequential": True})
        self.halt.wait(4 * PACE)


class Mortal(Worker):
    """Has short sessions with an ephemeral each; closes some, and leaves others to expire."""

    def __init__(self, name: str, members: Sequence[Member], index: int, record: Record) -> None:
        super().__init__(name, members, index, record)
        self.observer = Session(f"{name}-observer", members, index + 1, self.halt, record)

    def step(self) -> None:
        number = next(self.numbers)
        path = f"{EPHEMERAL}/{self.name}-{number}"
        try:
            self.session.call("create", path, {"data": "", "ephemeral": True})
        except Lost:
            self.session.forget()
            raise
        if number % 3 == 0:
            self.session.forget()
        elif self.session.close():
            # whoever asks after a sync must see that it is gone
            self.observer.call("sync", path, {})
            seen = self.observer.call("exists", path, {"watch": False})
            if seen.outcome == "ok" and seen.result["stat"] is not None:
                self.violations.append(f"{path} outlives its session, whose end was acknowledged")
        self.halt.wait(4 * PACE)

    def end(self) -> None:
        super().end()
        self.observer.close()


class Keeper(Worker):
    """Keeps one session and its ephemeral, and asks for it wherever the session goes."""

    def __init__(self, name: str, members: Sequence[Member], index: int, record: Record) -> None:
        super().__init__(name, members, index, record)
        self._path = ""
        self._made_in = 0

    def step(self) -> None:
        if not self._path or self.session.number != self._made_in:
            path = f"{EPHEMERAL}/{self.name}-{next(self.numbers)}"
            made = self.session.call("create", path, {"data": "", "ephemeral": True})
            if made.outcome == "ok":
                self._path, self._made_in = path, self.session.number
            return
        self.session.call("exists", self._path, {"watch": False})


class Observer(Worker):
    """Reads the register and watches it."""

    def step(self) -> None:
        self.session.call("get", REGISTER, {"watch": next(self.numbers) % 3 == 0})


class KazooWriter(Worker):
    """The same with the client that most Python programs use; it numbers the requests of each connection from 1."""

    def __init__(self, name: str, members: Sequence[Member], index: int, record: Record) -> None:
        super().__init__(name, members, index, record)
        self._client: Any = None
        self._session = 0
        self._number = 0

    def step(self) -> None:
        client = self._connected()
        if next(self.numbers) % 2:
            data = self.data()
            value = {"data": data, "version": -1}
            self._call("set", REGISTER, value, lambda: client.set(REGISTER, data.encode()))
        else:
            self._call("get", REGISTER, {"watch": False}, lambda: client.get(REGISTER))

    def _call(self, name: str, path: str, value: dict[str, Any], call: Any) -> None:
        operation = self.record.history.invoke(f"{self.name}.{self._number}", name, path, value)
        try:
            answer = call()
        except BadVersionError:
            self.record.end(operation, "fail", {"error": Code.BAD_VERSION})
            return
        except (ConnectionLoss, ConnectionClosedError, OperationTimeoutError, SessionExpiredError, KazooTimeoutError):
            self.record.end(operation, "unknown")
            self._client.stop()
            self._client.close()
            self._client = None
            return
        if name == "set":
            # a set's own zxid is in its Stat; what the reply's header said kazoo does not tell
            self.record.end(operation, "ok", {"zxid": answer.mzxid, "stat": _stat(answer)})
        else:
            self.record.end(operation, "ok", {"data": answer[0].decode(), "stat": _stat(answer[1])})

    def _connected(self) -> Any:
        while self._client is None:
            if self.halt.is_set():
                raise Stopped
            hosts = ",".join(member.address for member in self.members)
            client = KazooClient(hosts, timeout=SESSION_MS / 1000, connection_retry={"max_tries": 0, "delay": 0.05})
            try:
                client.start(timeout=PATIENCE)
            except KazooTimeoutError:
                client.stop()
                client.close()
                continue
            self._client = client
            self._number += 1
            self._session = client.client_id[0]
            process = f"{self.name}.{self._number}"
            self.record.note(process, "connect", None, {"timeout": SESSION_MS}, {"session": self._session, "zxid": 0})
        return self._client

    def end(self) -> None:
        self.halt.set()
        self.join()
        if self._client is not None:
            self._client.stop()
            self._client.close()


def _stat(stat: Any) -> dict[str, int]:
    return {
        "czxid": stat.czxid,
        "mzxid": stat.mzxid,
        "pzxid": stat.pzxid,
        "version": stat.version,
        "cversion": stat.cversion,
        "aversion": stat.aversion,
        "ephemeralOwner": stat.ephemeralOwner,
        "dataLength": stat.dataLength,
        "numChildren": stat.numChildren,
    }
