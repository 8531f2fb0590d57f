"""The connections of the election port (QuorumCnxManager.java): one per pair of members, dialled by the larger sid.

Either side may dial; the greeting tells who calls. A member that is called by a smaller sid hangs up and calls back, one that
has dialled a larger sid greets and hangs up, so exactly the larger sid's connection stays. Links are kept up all the time:
who is connected is what the election calls reachable.
"""

from collections.abc import Callable
from logging import getLogger

from quorate.binary import INT
from quorate.consensus.zab.messages import Message, Notification
from quorate.consensus.zab.wire import (
    NOTIFICATION_MAX,
    UNKNOWN_OBSERVER,
    decode_notification,
    encode_notification,
    greeting,
    read_greeting,
)
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND, Connection, Environment, Listener, Timer

log = getLogger(__name__)

DIAL_TIMEOUT_MS = 5000
GREETING_TIMEOUT = 5000 * MILLISECOND
RETRY_MIN = 20 * MILLISECOND
RETRY_MAX = 1000 * MILLISECOND
CROSSED = 2000 * MILLISECOND
"""Two members that dial one another at once cross; a link younger than this is not given up for the other's call."""
QUEUE_MAX = 8 << 20
"""Bytes queued for a peer that does not read, before its link is dropped."""
FIRST_GUEST = 1 << 62
"""Numbers given to observers that are not in the configuration."""


class ElectionLinks:
    def __init__(
        self,
        env: Environment,
        sid: int,
        addresses: dict[int, tuple[str, int]],
        received: Callable[[int, Notification], None],
        reachable: Callable[[frozenset[int]], None],
    ) -> None:
        """``addresses``: host and election port of every member, by sid. ``received(sid, notification)`` and
        ``reachable(sids)`` are called as things happen."""
        self.env = env
        self.sid = sid
        self.addresses = addresses
        self.received = received
        self._report = reachable
        self._links: dict[int, _ElectionLink] = {}
        self._dialling: set[int] = set()
        self._pauses: dict[int, int] = {}
        """Pause before the next dial, by sid."""
        self._timers: dict[int, Timer] = {}
        self._guests = FIRST_GUEST
        self._listener: Listener | None = None
        self._open: dict[_ElectionLink, None] = {}
        self._closed = False

    def start(self, host: str) -> None:
        """Listen and call everyone. Raises UsageError if the port cannot be had."""
        self._listener = self.env.listen(host, self.addresses[self.sid][1], lambda: _ElectionLink(self, None))
        for sid in sorted(self.addresses):
            self.dial(sid)

    def close(self) -> None:
        self._closed = True
        if self._listener is not None:
            self._listener.close()
        for timer in self._timers.values():
            timer.cancel()
        for link in list(self._open):
            link.abort()

    def send(self, sid: int, messages: list[Message]) -> None:
        link = self._links.get(sid)
        if link is not None:
            link.send(b"".join([encode_notification(m) for m in messages if isinstance(m, Notification)]))

    def dial(self, sid: int) -> None:
        if sid == self.sid or sid in self._links or sid in self._dialling or self._closed:
            return
        timer = self._timers.pop(sid, None)
        if timer is not None:
            timer.cancel()
        self._dialling.add(sid)
        host, port = self.addresses[sid]
        self.env.connect(host, port, _ElectionLink(self, sid), DIAL_TIMEOUT_MS)

    # ---- told by the links

    def guest(self) -> int:
        """A number for an observer outside the configuration."""
        self._guests += 1
        return self._guests

    def opened(self, link: "_ElectionLink") -> None:
        self._open[link] = None

    def established(self, sid: int, link: "_ElectionLink") -> None:
        """The link of that peer from now on; an older one is what an earlier life of that peer left behind."""
        old = self._links.pop(sid, None)
        if old is not None:
            old.abort()
            self._report(frozenset(self._links))  # so that the peer appears anew, and is told our vote again
        self._links[sid] = link
        self._pauses.pop(sid, None)
        timer = self._timers.pop(sid, None)
        if timer is not None:
            timer.cancel()
        self._report(frozenset(self._links))

    def called_by_smaller(self, sid: int) -> None:
        old = self._links.get(sid)
        if old is not None:
            if self.env.now() - old.since < CROSSED:
                return
            del self._links[sid]
            old.abort()
            self._report(frozenset(self._links))
        if sid in self.addresses:
            self.dial(sid)

    def ended(self, link: "_ElectionLink") -> None:
        self._open.pop(link, None)
        if link.dialled is not None:
            self._dialling.discard(link.dialled)
        sid = link.peer
        if self._links.get(sid) is link:
            del self._links[sid]
            self._report(frozenset(self._links))
        if sid in self.addresses and sid not in self._links and sid not in self._timers and not self._closed:
            pause = self._pauses.get(sid, RETRY_MIN)
            self._pauses[sid] = min(pause * 2, RETRY_MAX)
            self._timers[sid] = self.env.call_at(self.env.now() + pause, lambda: self._redial(sid))

    def _redial(self, sid: int) -> None:
        self._timers.pop(sid, None)
        self.dial(sid)


class _ElectionLink:
    """One connection: greeting, then notifications both ways. A runtime.environment.Handler."""

    __slots__ = ("_buffer", "_connection", "_links", "_timer", "dialled", "peer", "since")

    def __init__(self, links: ElectionLinks, dialled: int | None) -> None:
        self._links = links
        self._connection: Connection | None = None
        self._buffer = b""
        self._timer: Timer | None = None
        self.dialled = dialled
        """The sid we called; None if the peer called."""
        self.peer = -1 if dialled is None else dialled
        """The peer's sid; -1 until its greeting came."""
        self.since = 0

    def connected(self, connection: Connection) -> None:
        links = self._links
        self._connection = connection
        self.since = links.env.now()
        links.opened(self)
        if self.dialled is None:
            self._timer = links.env.call_at(self.since + GREETING_TIMEOUT, connection.abort)
            return
        host, port = links.addresses[links.sid]
        connection.write(greeting(links.sid, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        if self.dialled > links.sid:
            connection.close()
        else:
            links.established(self.dialled, self)

    def send(self, data: bytes) -> None:
        assert self._connection is not None
        if self._connection.queued() > QUEUE_MAX:
            log.warning("member %d does not read its election link; dropping it", self.peer)
            self._connection.abort()
        else:
            self._connection.write(data)

    def abort(self) -> None:
        assert self._connection is not None
        self._connection.abort()

    def received(self, data: bytes) -> None:
        self._buffer += data
        if self.peer < 0 and not self._greet():
            return
        while len(self._buffer) >= 4:
            size: int = INT.unpack_from(self._buffer)[0]
            if not 0 < size <= NOTIFICATION_MAX:
                raise RemoteProtocolError(f"notification of {size} bytes from member {self.peer}")
            if len(self._buffer) < 4 + size:
                return
            body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            self._links.received(self.peer, decode_notification(body))

    def _greet(self) -> bool:
        greeted = read_greeting(self._buffer)
        if greeted is None:
            return False
        sid, used = greeted
        links = self._links
        self._buffer = self._buffer[used:]
        if self._timer is not None:
            self._timer.cancel()
        if sid == UNKNOWN_OBSERVER:
            sid = links.guest()
        elif sid == links.sid:
            raise RemoteProtocolError(f"a peer greets with our own sid {sid}; is myid unique?")
        elif sid < 0:
            raise RemoteProtocolError(f"election greeting with sid {sid}")
        if sid < links.sid:
            assert self._connection is not None
            self._connection.close()
            links.called_by_smaller(sid)
            return False
        self.peer = sid
        links.established(sid, self)
        return True

    def writing_paused(self) -> None:
        """Queues are bounded in ``send``."""

    def writing_resumed(self) -> None:
        """Queues are bounded in ``send``."""

    def closed(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._links.ended(self)
