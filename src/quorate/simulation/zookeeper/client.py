"""A ZooKeeper client on a virtual machine, as the original's client library behaves (ClientCnxn.java), with a history.

It keeps one session over connections to one server after the other: pings after a third of the timeout, gives a silent server
up after two thirds, comes back with the last zxid it has seen and sets its watches again before it asks anything else. A
session that the server no longer knows ends the process of the history; a new one begins under another name.

It is as strict as an original client about what comes back: replies in the order of the requests, nothing unasked for but
watch events. It numbers its requests through, or from 1 again on each connection, as kazoo does.
"""

import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import Connection, Environment, Timer
from quorate.simulation.machine import SimulatedEnvironment
from quorate.simulation.result import Violation
from quorate.simulation.scheduler import MILLISECOND, Stream
from quorate.simulation.zookeeper import requests
from quorate.verification.history import History, Operation
from quorate.zookeeper.constants import NOTIFICATION_XID, PING_XID, SET_WATCHES_XID, Code, Op

NO_PASSWORD: Final = bytes(16)
BACK_OFF_MS: Final = 20
"""Typical pause after all servers have been tried."""

_ENDS_SESSION: Final = (Code.SESSION_EXPIRED, Code.SESSION_MOVED)


class Watches:
    """What a session watches; a watch goes with its event (ZKWatchManager.java)."""

    __slots__ = ("children", "data", "exists")

    def __init__(self) -> None:
        # dictionaries as sets, for an order that is always the same
        self.data: dict[str, None] = {}
        self.exists: dict[str, None] = {}
        self.children: dict[str, None] = {}

    def set(self, name: str, path: str, found: bool) -> None:
        if name == "children":
            self.children[path] = None
        elif found:
            self.data[path] = None
        else:
            self.exists[path] = None

    def fired(self, event: str, path: str) -> None:
        if event != "child":
            self.data.pop(path, None)
            self.exists.pop(path, None)
        if event in ("child", "deleted"):
            self.children.pop(path, None)

    def __bool__(self) -> bool:
        return bool(self.data or self.exists or self.children)


class Client:
    """``ended`` hears of every operation that has come to its end. ``name`` is that of the present session, ``xid`` the number of
    its latest request; ``counts_anew``: these begin at 1 on every connection."""

    def __init__(
        self,
        env: SimulatedEnvironment,
        stream: Stream,
        name: str,
        servers: Sequence[tuple[str, int]],
        timeout_ms: int,
        history: History,
        ended: Callable[[Operation], None],
        counts_anew: bool = False,
    ) -> None:
        self.history = history
        self.session = 0
        self.sessions = 0
        """How many it has had."""
        self.timeout_ms = timeout_ms
        """What the server granted."""
        self.last_zxid = 0
        self.heard = 0
        """Chunks of bytes received."""
        self.xid = 0
        self._counts_anew = counts_anew
        self._env = env
        self._stream = stream
        self._name = name
        self._servers = stream.shuffled(servers)
        self._next_server = 0
        self._wanted_timeout_ms = timeout_ms
        self._ended = ended
        self._password = NO_PASSWORD
        self._link: _Link | None = None
        self._watches = Watches()
        self._closing = False

    @property
    def name(self) -> str:
        return f"{self._name}.{self.sessions}"

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.established and self.session != 0 and not self._closing

    @property
    def outstanding(self) -> int:
        return 0 if self._link is None else len(self._link.requests)

    def start(self) -> None:
        self.act(self._connect)

    def submit(self, name: str, key: str | None, value: Mapping[str, Any]) -> Operation:
        """Ask for something; only while connected."""
        link = self._link
        assert link is not None
        assert self.connected
        operation = self.history.invoke(self.name, name, key, value)
        self._closing = name == "close"
        link.send(operation, *requests.encode(name, key, value))
        return operation

    def act(self, call: Callable[[], None]) -> None:
        """Make the call in this client's process, as soon as that runs."""
        self._env.machine.enter(self._env, call)

    # ---- connections

    def _connect(self) -> None:
        host, port = self._servers[self._next_server]
        self._next_server = (self._next_server + 1) % len(self._servers)
        if self._counts_anew:
            self.xid = 0
        self._link = _Link(self, self._env)
        timeout_ms = max(self.timeout_ms // len(self._servers), 1)
        self._env.connect(host, port, self._link, timeout_ms)

    def lost(self, link: "_Link", established: bool) -> None:
        """The connection is gone; what was asked for on it may or may not have happened."""
        if link is not self._link:
            return
        self._link = None
        for operation in link.requests:
            self.end(operation, "unknown", None)
        link.requests.clear()
        if established:
            self._note("disconnected", None, {})
        if self._closing:
            # whether the session is closed is not known; its client wants no more of it
            self._forget_session()
        delay = self._stream.around(BACK_OFF_MS * MILLISECOND) if self._next_server == 0 else MILLISECOND
        self._env.call_at(self._env.now() + delay, self._connect)

    def _forget_session(self) -> None:
        self.session = 0
        self._password = NO_PASSWORD
        self._watches = Watches()
        self._closing = False
        self.timeout_ms = self._wanted_timeout_ms
        self.last_zxid = 0

    # ---- what the link hears

    def hello(self) -> bytes:
        return requests.connect(self.last_zxid, self._wanted_timeout_ms, self.session, self._password)

    def welcomed(self, link: "_Link", timeout_ms: int, session: int, password: bytes) -> None:
        if timeout_ms <= 0:
            self._note("expired", None, {"session": self.session})
            self._forget_session()
            link.give_up()
            return
        if self.session and session != self.session:
            raise Violation(f"sessions: client {self.name} came back with session {self.session:#x}, got {session:#x}")
        if not self.session:
            self.sessions += 1
        self.session, self._password, self.timeout_ms = session, password, timeout_ms
        link.established = True
        self._note("connect", {"timeout": timeout_ms}, {"session": session, "zxid": self.last_zxid})
        watches = self._watches
        if watches:
            body = requests.set_watches(self.last_zxid, [*watches.data], [*watches.exists], [*watches.children])
            link.write(SET_WATCHES_XID, Op.SET_WATCHES, body)

    def event(self, kind: int, path: str) -> None:
        name = requests.EVENTS[kind]
        self._watches.fired(name, path)
        operation = self.history.invoke(self.name, "event", path, {"type": name, "zxid": self.last_zxid})
        self.end(operation, "ok", None)

    def _note(self, name: str, value: object, result: object) -> None:
        """Something that happened to the session at once."""
        operation = self.history.invoke(self.name, name, None, value)
        self.end(operation, "ok", result)

    def answered(self, link: "_Link", operation: Operation, frame: bytes) -> None:
        _, zxid, code = requests.REPLY.unpack_from(frame)
        if zxid > 0:
            self.last_zxid = zxid
        name, path = operation.name, operation.key
        if code == 0:
            result = requests.decode(name, frame)
            if name in ("get", "exists", "children") and operation.value["watch"]:
                self._watches.set(name, path, True)
            failed = name == "multi" and result["results"] and isinstance(result["results"][0], int)
            self.end(operation, "fail" if failed else "ok", result)
            if name == "close":
                self._forget_session()
                link.give_up()
            return
        if name == "exists" and code == Code.NO_NODE:
            if operation.value["watch"]:
                self._watches.set(name, path, False)
            self.end(operation, "ok", {"zxid": zxid, "stat": None})
            return
        self.end(operation, "fail", {"zxid": zxid, "error": code})
        if code in _ENDS_SESSION:
            link.give_up()

    def end(self, operation: Operation, outcome: Any, result: object) -> None:
        self.history.end(operation, outcome, result)
        self._ended(operation)


class _Link:
    """One connection; a Handler of quorate.runtime."""

    def __init__(self, client: Client, env: Environment) -> None:
        self.established = False
        self.requests: deque[Operation] = deque()
        self._client = client
        self._env = env
        self._connection: Connection | None = None
        self._buffer = b""
        self._answered = client.xid
        self._heard = 0
        self._sent = 0
        self._timer: Timer | None = None
        self._asked_watches = False

    # ---- out

    def send(self, operation: Operation, op: int, body: bytes) -> None:
        client = self._client
        client.xid += 1
        self.requests.append(operation)
        self.write(client.xid, op, body)

    def write(self, xid: int, op: int, body: bytes) -> None:
        assert self._connection is not None
        self._sent = self._env.now()
        self._asked_watches |= xid == SET_WATCHES_XID
        self._connection.write(requests.request(xid, op, body))

    def give_up(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    # ---- time

    def _tick(self) -> None:
        """Ping in time; give a silent server up."""
        now = self._env.now()
        timeout = self._client.timeout_ms * MILLISECOND
        patience = timeout * 2 // 3 if self.established else max(timeout // 3, 1)
        if now - self._heard >= patience:
            self._timer = None
            self.give_up()
            return
        due = self._heard + patience
        if self.established:
            if now - self._sent >= timeout // 3:
                self.write(PING_XID, Op.PING, b"")
            due = min(due, self._sent + timeout // 3)
        self._timer = self._env.call_at(max(due, now + 1), self._tick)

    # ---- quorate.runtime.environment.Handler

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self._heard = self._env.now()
        connection.write(self._client.hello())
        self._tick()

    def received(self, data: bytes) -> None:
        self._heard = self._env.now()
        self._client.heard += 1
        buffer = self._buffer + data
        offset = 0
        while len(buffer) - offset >= 4:
            end = offset + 4 + int.from_bytes(buffer[offset : offset + 4], "big")
            if end > len(buffer):
                break
            try:
                self._frame(buffer[offset + 4 : end])
            except (RemoteProtocolError, struct.error) as error:
                raise Violation(f"wire: client {self._client.name} cannot read a frame: {error}") from error
            offset = end
        self._buffer = buffer[offset:]

    def _frame(self, frame: bytes) -> None:
        client = self._client
        if not self.established:
            client.welcomed(self, *requests.welcome(frame))
            return
        xid, _, code = requests.REPLY.unpack_from(frame)
        if xid == NOTIFICATION_XID:
            client.event(*requests.event(frame))
        elif xid == SET_WATCHES_XID and self._asked_watches:
            self._asked_watches = False
            if code:
                raise Violation(f"watches: client {client.name} cannot set its watches again: error {code}")
        elif xid != PING_XID:
            if not self.requests or xid != self._answered + 1:
                raise Violation(
                    f"order: client {client.name} gets the reply to request {xid} and waits for {self._answered + 1}"
                )
            self._answered = xid
            client.answered(self, self.requests.popleft(), frame)

    def writing_paused(self) -> None:
        """The workload asks for little at a time."""

    def writing_resumed(self) -> None:
        """Nothing waits."""

    def closed(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.established, established = False, self.established
        self._connection = None
        self._client.lost(self, established)
