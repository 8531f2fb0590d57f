"""The connections of the quorum port: learners call the leader.

Each has a number, negative, that serves as Zab's channel. A link turns bytes into packets and back, and carries a SNAP: while
the service's stream is being sent, chunk by chunk as the learner takes it, later packets wait behind it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from logging import getLogger
from typing import Protocol

from quorate.consensus.zab.messages import REQUEST, Message, Packet, Service, Snap
from quorate.consensus.zab.wire import SNAPSHOT_SIGNATURE, PacketDecoder, SnapshotParser, encode, packet_count
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND, Connection, Environment, Listener

log = getLogger(__name__)

DIAL_TIMEOUT_MS = 2000
STREAM_AHEAD = 1 << 20
"""Bytes of a snapshot kept in the connection's queue."""
STREAM_TURN = 2 * MILLISECOND
"""Time spent on a snapshot before others have their turn."""
STREAM_PAUSE = 1 * MILLISECOND
FIRST_PACKET_MAX = 4096
"""Bytes of a learner's first packet; FOLLOWERINFO takes 40."""
QUEUE_MAX = 256 << 20
"""Bytes queued for a learner that does not keep up, before its link is dropped; it then comes back and syncs."""


class QuorumEvents(Protocol):
    """What the member is told."""

    def link_accepted(self, link: int, address: tuple[str, int]) -> None: ...

    def link_connected(self, link: int) -> None:
        """The dial succeeded."""

    def dial_failed(self, reason: str) -> None: ...

    def link_received(self, link: int, packets: list[Packet]) -> None: ...

    def link_closed(self, link: int, reason: str) -> None: ...

    def snapshot_stream(self) -> tuple[int, Iterator[bytes]]:
        """The service's state: its zxid and stream (see zookeeper/snapshot.py), to be taken while the service goes on."""


class QuorumLinks:
    def __init__(
        self, env: Environment, events: QuorumEvents, snapshot_parser: Callable[[], SnapshotParser], max_data: int
    ) -> None:
        self.env = env
        self.events = events
        self.snapshot_parser = snapshot_parser
        self.max_data = max_data
        self.links: dict[int, QuorumLink] = {}
        self.dials = 0
        """How many dials there were; the last one counts."""
        self._numbers = 0
        self._listener: Listener | None = None

    def start(self, host: str, port: int) -> None:
        """Raises UsageError if the port cannot be had."""
        self._listener = self.env.listen(host, port, lambda: QuorumLink(self, 0))

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for link in list(self.links.values()):
            link.abort()

    def dial(self, host: str, port: int) -> None:
        """Call a leader; an earlier call that is not through yet is given up."""
        self.dials += 1
        self.env.connect(host, port, QuorumLink(self, self.dials), DIAL_TIMEOUT_MS)

    def number(self, link: "QuorumLink") -> int:
        self._numbers -= 1
        self.links[self._numbers] = link
        return self._numbers

    def send(self, number: int, messages: list[Message]) -> None:
        link = self.links.get(number)
        if link is not None:
            link.send(messages)

    def disconnect(self, number: int) -> None:
        link = self.links.get(number)
        if link is not None:
            link.abort()


class QuorumLink:
    """One connection. A runtime.environment.Handler."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_dial",
        "_known",
        "_links",
        "_stream",
        "_waiting",
        "_waiting_bytes",
        "address",
        "established_ms",
        "number",
        "packets_received",
        "packets_sent",
        "requests",
    )

    def __init__(self, links: QuorumLinks, dial: int) -> None:
        """``dial``: which of our dials it is; 0 if the peer called."""
        self._links = links
        self._dial = dial
        self._decoder = PacketDecoder(links.snapshot_parser if dial else None, links.max_data)
        self._known = dial > 0
        """Whoever we called, or has sent a packet; a stranger's bytes are kept only up to FIRST_PACKET_MAX."""
        self._connection: Connection | None = None
        self._stream: Iterator[bytes] | None = None
        self._waiting: deque[bytes] = deque()
        """Packets behind the snapshot being sent."""
        self._waiting_bytes = 0
        self.number = 0
        self.address = ("", 0)
        self.established_ms = 0
        """Wall time."""
        self.reset_counts()

    def reset_counts(self) -> None:
        self.packets_received = 0
        self.packets_sent = 0
        self.requests = 0

    @property
    def queued_messages(self) -> int:
        return len(self._waiting)

    @property
    def queued_bytes(self) -> int:
        return self._waiting_bytes + (0 if self._connection is None else self._connection.queued())

    def connected(self, connection: Connection) -> None:
        if self._dial and self._dial != self._links.dials:
            connection.abort()
            return
        self._connection = connection
        self.address = connection.peer
        self.established_ms = self._links.env.wall_ms()
        self.number = self._links.number(self)
        if self._dial:
            self._links.events.link_connected(self.number)
        else:
            self._links.events.link_accepted(self.number, connection.peer)

    def received(self, data: bytes) -> None:
        packets = self._decoder.feed(data)
        if packets:
            self._known = True
            self.packets_received += sum(map(packet_count, packets))
            self.requests += sum(type(packet) is Service and packet.type == REQUEST for packet in packets)
            self._links.events.link_received(self.number, packets)
        elif not self._known and self._decoder.buffered > FIRST_PACKET_MAX:
            raise RemoteProtocolError(f"first packet of more than {FIRST_PACKET_MAX} bytes, expected FOLLOWERINFO")

    def send(self, messages: list[Message]) -> None:
        connection = self._connection
        assert connection is not None
        self.packets_sent += sum(map(packet_count, messages))
        if len(messages) == 1 and type(messages[0]) is not Snap:
            self._write(encode(messages[0]))
            return
        parts: list[bytes] = []
        for message in messages:
            if isinstance(message, Snap):
                self._write(b"".join(parts))
                parts = []
                message.zxid, self._stream = self._links.events.snapshot_stream()
                log.info("sending a snapshot as of %#x to %s:%d", message.zxid, *connection.peer)
                connection.write(encode(message))
                self._links.env.call_soon(self._pump)
            else:
                parts.append(encode(message))
        if parts:
            self._write(b"".join(parts))

    def _write(self, data: bytes) -> None:
        connection = self._connection
        assert connection is not None
        if self._stream is not None:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        else:
            connection.write(data)
        if self._waiting_bytes + connection.queued() > QUEUE_MAX:
            log.warning("learner at %s:%d does not keep up; dropping its link", *connection.peer)
            connection.abort()

    def _pump(self) -> None:
        """Send as much of the snapshot as the learner takes and our turn allows."""
        stream, connection, env = self._stream, self._connection, self._links.env
        if stream is None or connection is None:
            return
        turn_ends = env.now() + STREAM_TURN
        while connection.queued() < STREAM_AHEAD and env.now() < turn_ends:
            chunk = next(stream, None)
            if chunk is None:
                self._stream = None
                connection.write(SNAPSHOT_SIGNATURE)
                connection.write(b"".join(self._waiting))
                self._waiting.clear()
                self._waiting_bytes = 0
                return
            connection.write(chunk)
        env.call_at(env.now() + STREAM_PAUSE, self._pump)

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def writing_paused(self) -> None:
        """Queues are bounded in ``_write`` and ``_pump``."""

    def writing_resumed(self) -> None:
        """Queues are bounded in ``_write`` and ``_pump``."""

    def closed(self, reason: str) -> None:
        self._connection = None
        self._stream = None
        self._waiting.clear()
        if self.number:
            self._links.links.pop(self.number, None)
            self._links.events.link_closed(self.number, reason)
        elif self._dial and self._dial == self._links.dials:
            self._links.events.dial_failed(reason)
