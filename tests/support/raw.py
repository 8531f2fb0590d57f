"""A small synchronous ZooKeeper client on a raw socket: any request, any bytes, every frame in the order it came."""

import select
import socket
import struct
import time
from typing import NamedTuple

from quorate.binary import Reader, pack_buffer, pack_string
from quorate.zookeeper.constants import NOTIFICATION_XID, PING_XID, Op

NO_PASSWORD = bytes(16)
PING_SECONDS = 1.0
OF_APACHES: set[int] = set()
"""Client ports of Apache's members (``ensembles``). After a second without an answer to a request they get a ping, as every client sends them. Those of 3.8.0 need it:
their CommitProcessor can miss that there is a read to be answered, and sleeps until anything else comes (three of Apache's alone do it once in some 30,000 reads on
two cores). Ours get none: a read that they leave unanswered is to be seen."""


class Frame(NamedTuple):
    """A reply (or notification, xid -1) as it came."""

    xid: int
    zxid: int
    err: int
    body: bytes


class Handshake(NamedTuple):
    timeout: int
    session: int
    password: bytes
    size: int
    """Bytes of the response."""


class Closed(Exception):
    """The server hung up."""


class RawClient:
    """One connection. Raises Closed when the server hangs up, TimeoutError when it says nothing."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout_ms: int = 30_000,
        session: int = 0,
        password: bytes = NO_PASSWORD,
        last_zxid: int = 0,
        read_only: bool | None = False,
        patience: float = 10.0,
    ) -> None:
        self._socket = socket.create_connection((host, port), patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._needs_pings = port in OF_APACHES
        self._pings = 0
        """Of our own, whose answers are nobody's business."""
        # a client that comes back counts on: the numbers of one session do not repeat
        self.xid = 10_000 if session else 0
        body = struct.pack(">iqiq", 0, last_zxid, timeout_ms, session) + pack_buffer(password)
        if read_only is not None:
            body += b"\1" if read_only else b"\0"
        self.send_bytes(pack_buffer(body))
        try:
            answer = self.read_bytes()
        except BaseException:
            self._socket.close()
            raise
        reader = Reader(answer)
        reader.int32()
        self.handshake = Handshake(reader.int32(), reader.int64(), reader.buffer() or b"", len(answer))

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def set_patience(self, seconds: float) -> None:
        """How long to wait for the server from now on."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Hang up without a word."""
        self._socket.close()

    def send_bytes(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Closed(str(error)) from None

    def send(self, op: int, body: bytes = b"", xid: int | None = None) -> int:
        """Send a request; its xid."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.send_bytes(pack_buffer(struct.pack(">ii", xid, op) + body))
        return xid

    def read_bytes(self) -> bytes:
        """The next frame, without its length."""
        size = struct.unpack(">i", self._take(4))[0]
        return self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of stream")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read(self) -> Frame:
        while True:
            frame = self.read_bytes()
            xid, zxid, err = struct.unpack_from(">iqi", frame)
            if xid != PING_XID or not self._pings:
                return Frame(xid, zxid, err, frame[16:])
            self._pings -= 1

    def read_until(self, xid: int) -> list[Frame]:
        """Frames up to and with the reply to ``xid``."""
        frames = []
        patience = self._socket.gettimeout()
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            self._await(deadline)
            frames.append(self.read())
            if frames[-1].xid == xid:
                return frames

    def _await(self, deadline: float | None) -> None:
        """Until there is something to be read, or the patience is at its end."""
        while self._needs_pings and not self._buffer:
            left = PING_SECONDS if deadline is None else min(PING_SECONDS, deadline - time.monotonic())
            if left <= 0 or select.select([self._socket], [], [], left)[0]:
                return
            self._pings += 1
            self.send_bytes(pack_buffer(struct.pack(">ii", PING_XID, Op.PING)))

    def call(self, op: int, body: bytes = b"", xid: int | None = None) -> list[Frame]:
        """Send a request and read up to its reply: notifications first, in their order."""
        return self.read_until(self.send(op, body, xid))

    def ping(self) -> list[Frame]:
        """Everything that came before the answer to a ping, and that answer."""
        return self.call(Op.PING, xid=PING_XID)


def is_event(frame: Frame) -> bool:
    return frame.xid == NOTIFICATION_XID


def pack_acl(entries: list[tuple[int, str, str]]) -> bytes:
    parts = [struct.pack(">i", len(entries))]
    for perms, scheme, id_ in entries:
        parts += (struct.pack(">i", perms), pack_string(scheme), pack_string(id_))
    return b"".join(parts)


OPEN = [(31, "world", "anyone")]


def create_body(
    path: str, data: bytes | None = b"", acl: list[tuple[int, str, str]] | None = None, flags: int = 0
) -> bytes:
    return pack_string(path) + pack_buffer(data) + pack_acl(OPEN if acl is None else acl) + struct.pack(">i", flags)


def path_version_body(path: str, version: int = -1) -> bytes:
    return pack_string(path) + struct.pack(">i", version)


def set_body(path: str, data: bytes | None, version: int = -1) -> bytes:
    return pack_string(path) + pack_buffer(data) + struct.pack(">i", version)


def path_watch_body(path: str, watch: bool = False) -> bytes:
    return pack_string(path) + (b"\1" if watch else b"\0")


def strings_body(strings: list[str]) -> bytes:
    return struct.pack(">i", len(strings)) + b"".join(map(pack_string, strings))


def multi_body(parts: list[tuple[int, bytes]]) -> bytes:
    out = [struct.pack(">i?i", op, False, -1) + body for op, body in parts]
    return b"".join(out) + struct.pack(">i?i", -1, True, -1)
