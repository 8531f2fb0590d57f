"""Scripts of requests, run against a server and told as text that is the same for equal servers.

A script is a list of steps over named connections. A step's telling has the events and the reply in the order they came, then
the events that other connections got. Zxids are told relative to the script's start, session ids by the connection's name;
times are left out. Children are sorted, for Apache keeps them in no order.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.support.raw import (
    NO_PASSWORD,
    Closed,
    Frame,
    RawClient,
    is_event,
)

from quorate.binary import Reader
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.constants import Event, KeeperState, Op


class Step(NamedTuple):
    """``connection`` sends ``op``; a special op is a word (see ``Run.special``)."""

    connection: str
    op: int | str
    body: bytes = b""
    xid: int | None = None


Script = list[Step]

SESSIONS = "abcdefgh"


class Run:
    """One script on one server."""

    def __init__(self, host: str, port: int, script: Script) -> None:
        self.host, self.port = host, port
        self.script = script
        self.clients: dict[str, RawClient] = {}
        self.sessions: dict[int, str] = {}
        self.passwords: dict[str, tuple[int, bytes]] = {}
        self.told: list[str] = []
        self.base = 0

    def run(self) -> list[str]:
        try:
            for name in sorted({step.connection for step in self.script}):
                self.connect(name)
            first = next(iter(self.clients.values()))
            self.base = first.ping()[-1].zxid
            for step in self.script:
                self.step(step)
        finally:
            for client in self.clients.values():
                with contextlib.suppress(Closed, OSError):
                    client.call(Op.CLOSE_SESSION)
                client.close()
            for name in sorted(self.passwords.keys() - self.clients.keys()):
                self.end(name)
        return self.told

    def connect(self, name: str) -> None:
        client = RawClient(self.host, self.port)
        self.clients[name] = client
        self.sessions[client.handshake.session] = name
        self.passwords[name] = (client.handshake.session, client.handshake.password)

    def end(self, name: str) -> None:
        """Close the session of a connection that was hung up on: left to expire, it would take a zxid in a later script."""
        session, password = self.passwords[name]
        with (
            contextlib.suppress(Closed, OSError),
            RawClient(self.host, self.port, session=session, password=password) as again,
        ):
            if again.handshake.session:
                again.call(Op.CLOSE_SESSION)

    def step(self, step: Step) -> None:
        label = step.op if isinstance(step.op, str) else Op(step.op).name if step.op in set(Op) else str(step.op)
        if isinstance(step.op, str):
            self.told.append(f"{step.connection}: {label} -> {self.special(step)}")
        else:
            told = []
            try:
                for frame in self.clients[step.connection].call(step.op, step.body, step.xid):
                    told.append(self.event(frame) if is_event(frame) else self.reply(step, frame))
            except Closed:
                told.append("closed")
                del self.clients[step.connection]
            self.told.append(f"{step.connection}: {label} {step.body[:60]!r} -> " + "; ".join(told))
        for name, client in list(self.clients.items()):
            if name != step.connection or isinstance(step.op, str):
                self.others(name, client)

    def others(self, name: str, client: RawClient) -> None:
        try:
            events = [self.event(frame) for frame in client.ping()[:-1]]
        except Closed:
            del self.clients[name]
            events = ["closed"]
        if events:
            self.told.append(f"    {name} was told: " + "; ".join(events))

    def special(self, step: Step) -> str:
        """Words: ``reconnect`` (same session, new connection), ``drop`` (hang up), ``raw`` (bytes as they are)."""
        client = self.clients[step.connection]
        if step.op == "drop":
            client.close()
            del self.clients[step.connection]
            return "done"
        if step.op == "reconnect":
            client.close()
            session, password = self.passwords[step.connection]
            client = self.clients[step.connection] = RawClient(self.host, self.port, session=session, password=password)
            same = client.handshake.session == session and client.handshake.password == password
            return f"timeout {client.handshake.timeout}, {'same' if same else 'another'} session"
        assert step.op == "raw", step.op
        try:
            client.send_bytes(step.body)
            return "; ".join(f"xid {frame.xid} err {frame.err}" for frame in client.ping())
        except Closed:
            del self.clients[step.connection]
            return "closed"

    # ---- telling

    def zxid(self, zxid: int) -> str:
        return str(zxid) if zxid <= 0 else f"z{zxid - self.base:+d}"

    def event(self, frame: Frame) -> str:
        reader = Reader(frame.body)
        type_, state, path = reader.int32(), reader.int32(), reader.text()
        return f"{Event(type_).name} {path} ({KeeperState(state).name})"

    def reply(self, step: Step, frame: Frame) -> str:
        head = f"xid {frame.xid} {self.zxid(frame.zxid)} err {frame.err}"
        if frame.err and not frame.body:
            return head
        decode = DECODERS.get(step.op) if isinstance(step.op, int) else None
        try:
            body = decode(self, Reader(frame.body)) if decode else frame.body.hex()
        except RemoteProtocolError as error:
            body = f"undecodable ({error}): {frame.body.hex()}"
        return f"{head} {body}".rstrip()

    def stat(self, reader: Reader) -> str:
        czxid, mzxid = reader.int64(), reader.int64()
        ctime, mtime = reader.int64(), reader.int64()
        version, cversion, aversion = reader.int32(), reader.int32(), reader.int32()
        owner = reader.int64()
        length, children, pzxid = reader.int32(), reader.int32(), reader.int64()
        times = "set" if ctime and mtime else f"{bool(ctime)} {bool(mtime)}"
        return (
            f"[c{self.zxid(czxid)} m{self.zxid(mzxid)} p{self.zxid(pzxid)} v{version} cv{cversion} av{aversion}"
            f" owner={self.sessions.get(owner, owner)} len={length} n={children} t={times}]"
        )

    def acl(self, reader: Reader) -> str:
        entries = [(reader.int32(), reader.string(), reader.string()) for _ in range(reader.count(12))]
        return str(entries)

    def children(self, reader: Reader) -> str:
        return str(sorted(reader.text() for _ in range(reader.count(4))))

    def results(self, reader: Reader) -> str:
        out: list[str] = []
        while True:
            op, done, err = reader.int32(), reader.boolean(), reader.int32()
            if done:
                return "{" + " | ".join(out) + f" | end {op} {err}}}"
            if op == Op.ERROR:
                out.append(f"error {err} {reader.int32()}")
            elif op == Op.CREATE:
                out.append(f"create {err} {reader.text()}")
            elif op in (Op.CREATE2, Op.CREATE_CONTAINER, Op.CREATE_TTL):
                out.append(f"create2 {err} {reader.text()} {self.stat(reader)}")
            elif op == Op.SET_DATA:
                out.append(f"set {err} {self.stat(reader)}")
            elif op == Op.GET_DATA:
                out.append(f"get {err} {reader.buffer()!r} {self.stat(reader)}")
            elif op == Op.GET_CHILDREN:
                out.append(f"children {err} {self.children(reader)}")
            else:
                out.append(f"{Op(op).name} {err}")


Decoder = Callable[[Run, Reader], str]


DECODERS: dict[int, Decoder] = {
    Op.CREATE: lambda run, reader: reader.text(),
    Op.CREATE2: lambda run, reader: f"{reader.text()} {run.stat(reader)}",
    Op.CREATE_CONTAINER: lambda run, reader: f"{reader.text()} {run.stat(reader)}",
    Op.CREATE_TTL: lambda run, reader: f"{reader.text()} {run.stat(reader)}",
    Op.EXISTS: lambda run, reader: run.stat(reader),
    Op.SET_DATA: lambda run, reader: run.stat(reader),
    Op.SET_ACL: lambda run, reader: run.stat(reader),
    Op.GET_DATA: lambda run, reader: f"{reader.buffer()!r} {run.stat(reader)}",
    Op.GET_ACL: lambda run, reader: f"{run.acl(reader)} {run.stat(reader)}",
    Op.GET_CHILDREN: lambda run, reader: run.children(reader),
    Op.GET_CHILDREN2: lambda run, reader: f"{run.children(reader)} {run.stat(reader)}",
    Op.GET_EPHEMERALS: lambda run, reader: run.children(reader),
    Op.GET_ALL_CHILDREN_NUMBER: lambda run, reader: str(reader.int32()),
    Op.SYNC: lambda run, reader: reader.text(),
    Op.MULTI: lambda run, reader: run.results(reader),
    Op.MULTI_READ: lambda run, reader: run.results(reader),
    Op.ADD_WATCH: lambda run, reader: str(reader.int32()),
    Op.WHO_AM_I: lambda run, reader: str(sorted((reader.text(), reader.text()) for _ in range(reader.count(8)))),
}


def handshake(host: str, port: int, **options: Any) -> str:
    """What a server says to a handshake: negotiated timeout, whether a session was given, the response's size."""
    try:
        client = RawClient(host, port, patience=5.0, **options)
    except Closed:
        return "closed"
    with client:
        shake = client.handshake
        if shake.session:
            client.call(Op.CLOSE_SESSION)
        zero = shake.password == NO_PASSWORD
        return f"timeout {shake.timeout} session {'given' if shake.session else 'refused'} password {'zero' if zero else 'set'} size {shake.size}"
