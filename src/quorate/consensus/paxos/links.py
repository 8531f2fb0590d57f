"""One connection to every other member, which all groups share.

Of two members the one with the greater sid dials; the other one does too if nothing came of that for a while, because the greater may
know nothing of it: a newcomer whose file is older than the leader, or one that was away while others were replaced. Should both dial
at once, the connection of the greater stays at both ends. Each end says Hello first: who it is, whom it means and in which cluster.
Frames follow (``wire``); an empty one says only that the sender is there. An end that hears nothing for ``idle`` hangs up, so that a cut
that nobody announces is noticed; so does one whose peer does not take what is sent.
"""

import logging
import struct
from collections.abc import Mapping
from typing import Protocol

from quorate.consensus.paxos import wire
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND, Connection, Environment, Listener, Timer

log = logging.getLogger(__name__)

QUEUE_MAX = 256 << 20
"""Bytes that may wait for a member that does not read, besides one frame."""
_REDIAL_MIN = 20 * MILLISECOND
_REDIAL_MAX = 500 * MILLISECOND


class Receiver(Protocol):
    def link_up(self, sid: int) -> None:
        """Frames can be exchanged with this member; whatever went before is lost or done."""

    def link_down(self, sid: int) -> None: ...

    def received(self, sid: int, frame: bytes) -> None:
        """Raises RemoteProtocolError to have the connection dropped."""


class _Link:
    """One connection, from either side. Implements runtime.environment.Handler."""

    def __init__(self, links: "Links", expected: int) -> None:
        """``expected``: whom we dialled, 0 if we were."""
        self.sid = 0
        """Who it is, once it has said so."""
        self.heard_at = links.env.now()
        self.sent_at = self.heard_at
        self.connection: Connection | None = None
        self.dialled = expected != 0
        self._links = links
        self._expected = expected
        self._greeting = b""
        self._frames = wire.Frames()

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        self._links.opened(self)
        if self._expected:
            connection.write(self._links.hello(self._expected))

    def received(self, data: bytes) -> None:
        links = self._links
        self.heard_at = links.env.now()
        if not self.sid:
            self._greeting += data
            if len(self._greeting) < wire.HELLO.size:
                return
            greeting, data = self._greeting[: wire.HELLO.size], self._greeting[wire.HELLO.size :]
            self.sid = links.greeted(greeting, self._expected)
            if not self._expected:
                assert self.connection is not None
                self.connection.write(links.hello(self.sid))
            links.up(self)
        for frame in self._frames.feed(data):
            if not links.current(self):
                return
            if frame:
                links.receiver.received(self.sid, frame)

    def writing_paused(self) -> None:
        """The link's queue is looked at when something is sent."""

    def writing_resumed(self) -> None:
        """As above."""

    def closed(self, reason: str) -> None:
        self.connection = None
        self._links.down(self, self._expected, reason)


class Links:
    def __init__(self, env: Environment, sid: int, cluster: int, receiver: Receiver, idle: int) -> None:
        """``idle``: nanoseconds of silence after which a member counts as gone, and at least so many before the lesser dials."""
        self.env = env
        self.receiver = receiver
        self._sid = sid
        self._cluster = cluster
        self._idle = idle
        self._addresses: dict[int, tuple[str, int]] = {}
        self._links: dict[int, _Link] = {}
        self._open: dict[_Link, None] = {}
        self._dialling: set[int] = set()
        """Whom an attempt to reach is under way."""
        self._pauses: dict[int, int] = {}
        self._redials: dict[int, Timer] = {}
        self._listener: Listener | None = None
        self._timer: Timer | None = None
        self._closed = True
        """Not begun yet, or over."""

    # ---- life

    def listen(self, host: str, port: int) -> None:
        """Take the address; whoever calls before ``begin`` is hung up on. Raises UsageError if it cannot be had."""
        self._listener = self.env.listen(host, port, lambda: _Link(self, 0))

    def begin(self) -> None:
        self._closed = False
        for sid in self._addresses:
            self._seek(sid)
        self._look()

    @property
    def address(self) -> tuple[str, int]:
        assert self._listener is not None
        return self._listener.address

    def close(self) -> None:
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._redials.values():
            timer.cancel()
        self._redials.clear()
        for link in list(self._open):
            if link.connection is not None:
                link.connection.abort()

    def set_addresses(self, addresses: Mapping[int, tuple[str, int]]) -> None:
        """Who the others are, and where; those that are not named any more are hung up on. Who was never named may stay: it knows us."""
        before, self._addresses = self._addresses, {sid: at for sid, at in addresses.items() if sid != self._sid}
        for sid in before:
            link = self._links.get(sid)
            if sid not in self._addresses and link is not None and link.connection is not None:
                link.connection.close()
        for sid in self._addresses:
            self._seek(sid)

    # ---- dialling

    def _seek(self, sid: int) -> None:
        if sid < self._sid:
            self._dial(sid)
        else:
            self._redial(sid)

    def _dial(self, sid: int) -> None:
        if sid in self._links or sid in self._dialling or self._closed:
            return
        address = self._addresses.get(sid)
        if address is not None:
            self._dialling.add(sid)
            self.env.connect(*address, _Link(self, sid), self._idle // MILLISECOND)

    def _redial(self, sid: int) -> None:
        """Sooner at first, later and later while it does not answer; the lesser of two gives the greater its time."""
        if sid in self._links or sid in self._redials or sid not in self._addresses or self._closed:
            return
        if sid > self._sid:
            pause = self._idle + self.env.random.randrange(self._idle)
        else:
            usual = self._pauses.get(sid, _REDIAL_MIN)
            self._pauses[sid] = min(usual * 2, _REDIAL_MAX)
            pause = usual // 2 + self.env.random.randrange(usual)

        def again() -> None:
            self._redials.pop(sid, None)
            self._dial(sid)

        self._redials[sid] = self.env.call_at(self.env.now() + pause, again)

    # ---- what links tell

    def hello(self, to: int) -> bytes:
        return wire.HELLO.pack(wire.MAGIC, wire.VERSION, self._cluster, self._sid, to)

    def greeted(self, greeting: bytes, expected: int) -> int:
        """The sid of who said this Hello. Raises RemoteProtocolError."""
        try:
            magic, version, cluster, sid, to = wire.HELLO.unpack(greeting)
        except struct.error as error:
            raise RemoteProtocolError(f"a greeting that cannot be read: {error}") from None
        if magic != wire.MAGIC:
            raise RemoteProtocolError(f"no member of a cluster: it greets with {greeting[:4]!r}")
        if version != wire.VERSION:
            raise RemoteProtocolError(f"member {sid} speaks version {version}; this one speaks {wire.VERSION}")
        if cluster != self._cluster:
            raise RemoteProtocolError(f"member {sid} belongs to cluster {cluster:#x}, this one to {self._cluster:#x}")
        if to != self._sid or sid in (0, self._sid) or (expected and sid != expected):
            raise RemoteProtocolError(f"member {sid} looks for member {to}; this is {self._sid}")
        return int(sid)

    def opened(self, link: _Link) -> None:
        self._open[link] = None
        if self._closed and link.connection is not None:
            link.connection.abort()

    def current(self, link: _Link) -> bool:
        """Whether this is the connection with its member; it is not if there is a newer one."""
        return self._links.get(link.sid) is link

    def up(self, link: _Link) -> None:
        sid = link.sid
        if link.dialled:
            self._dialling.discard(sid)
        before = self._links.get(sid)
        if before is not None and before.dialled != link.dialled and link.dialled != (self._sid > sid):
            # both dialled; if the other connection is dead, its silence will tell
            if link.connection is not None:
                link.connection.abort()
            return
        self._pauses.pop(sid, None)
        timer = self._redials.pop(sid, None)
        if timer is not None:
            timer.cancel()
        if before is not None:
            del self._links[sid]
            self.receiver.link_down(sid)
            if before.connection is not None:
                before.connection.abort()
        self._links[sid] = link
        self.receiver.link_up(sid)

    def down(self, link: _Link, dialled: int, reason: str) -> None:
        self._open.pop(link, None)
        if dialled:
            self._dialling.discard(dialled)
        if self.current(link):
            del self._links[link.sid]
            log.info("lost member %d: %s", link.sid, reason)
            self.receiver.link_down(link.sid)
        if dialled or link.sid:
            self._redial(dialled or link.sid)

    # ---- sending

    def send(self, sid: int, frame: bytes) -> None:
        """To a member that is up; nothing happens if it is not."""
        link = self._links.get(sid)
        if link is None or link.connection is None:
            return
        if link.connection.queued() > QUEUE_MAX:
            log.warning("member %d does not read: hanging up", sid)
            link.connection.abort()
            return
        link.sent_at = self.env.now()
        link.connection.write(frame)

    def _look(self) -> None:
        """Say that we are there, and find out who is not."""
        now = self.env.now()
        for link in list(self._open):
            connection = link.connection
            if connection is None:
                continue
            if now - link.heard_at >= self._idle:
                log.info("member %d is silent: hanging up", link.sid)
                connection.abort()
            elif link.sid and now - link.sent_at >= self._idle // 4:
                self.send(link.sid, wire.frame([]))
        self._timer = self.env.call_at(now + self._idle // 4, self._look)
