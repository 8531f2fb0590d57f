"""Commands for the leader, from whichever member they came to: carried out here if this member leads, else sent to the one that does.

For those who speak to us over HTTP and cannot be told to go elsewhere. A command is sent once: if the connection is lost before its answer comes,
it may be done or not, and who asked is told so.
"""

from collections.abc import Callable

from quorate.kv import wire
from quorate.kv.config import split
from quorate.kv.service import KvService
from quorate.runtime.environment import MILLISECOND, Connection, Environment

TIMEOUT_MS = 10_000
_CONNECT_MS = 2_000

Told = Callable[[int, bytes], None]
"""Called once with a status of ``wire`` and the answer's body; UNAVAILABLE: nobody leads, and nothing is done; UNKNOWN: it may be done or not."""


class Forwarder:
    """``addresses()``: the members' client addresses by their numbers."""

    def __init__(self, env: Environment, addresses: Callable[[], dict[int, str]]) -> None:
        self._env = env
        self._addresses = addresses
        self._channels: dict[str, _Channel] = {}

    def submit(self, service: KvService, command: bytes, told: Told) -> None:
        """A command that was checked."""
        if service.leading:
            service.submit(
                command, lambda result: told(wire.UNKNOWN, b"") if result is None else told(wire.DONE, result)
            )
        else:
            self._send(service, wire.WRITE, wire.TWO_U32.pack(service.replica.group, 0) + command, told)

    def keep_alive(self, service: KvService, lease: int, told: Told) -> None:
        """DONE with no ids in the body if there is such a lease."""
        ids = wire.U64.pack(lease)
        if service.leading:
            told(wire.DONE, b"" if service.expiry.keep_alive(self._env.now(), lease) else ids)
        else:
            self._send(service, wire.KEEP_ALIVE, wire.U32.pack(service.replica.group) + ids, told)

    def _send(self, service: KvService, op: int, body: bytes, told: Told) -> None:
        address = self._addresses().get(service.leader)
        if address is None:
            told(wire.UNAVAILABLE, b"")
            return
        channel = self._channels.get(address)
        if channel is None or channel.over:
            channel = self._channels[address] = _Channel(self._env)
            self._env.connect(*split(address), channel, _CONNECT_MS)
        channel.request(op, body, told)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()


class _Channel:
    """Implements runtime.environment.Handler."""

    def __init__(self, env: Environment) -> None:
        self.over = False
        self._env = env
        self._connection: Connection | None = None
        self._frames = wire.Frames(64 << 20)
        self._next = 0
        self._waiting: dict[int, Told] = {}
        self._unsent: list[bytes] = []

    def request(self, op: int, body: bytes, told: Told) -> None:
        self._next += 1
        id_ = self._next
        self._waiting[id_] = told
        self._env.call_at(self._env.now() + TIMEOUT_MS * MILLISECOND, lambda: self._late(id_))
        data = wire.request(id_ & 0xFFFFFFFF, op, body)
        if self._connection is None:
            self._unsent.append(data)
        else:
            self._connection.write(data)

    def _late(self, id_: int) -> None:
        told = self._waiting.pop(id_, None)
        if told is not None:
            told(wire.UNKNOWN, b"")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        # nobody waits for the answer: it says nothing new
        connection.write(wire.request(0, wire.HELLO, wire.MAGIC + bytes((wire.VERSION,))))
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            connection.write(data)

    def received(self, data: bytes) -> None:
        for id_, status, body in self._frames.feed(data):
            told = self._waiting.pop(id_, None)
            if told is not None:
                told(wire.UNAVAILABLE if status in (wire.NOT_LEADER, wire.BUSY) else status, body)

    def writing_paused(self) -> None:
        """What waits is bounded by the requests that wait for their answers."""

    def writing_resumed(self) -> None:
        """As above."""

    def closed(self, reason: str) -> None:
        self.over = True
        never = self._connection is None
        self._connection = None
        waiting, self._waiting = self._waiting, {}
        for told in waiting.values():
            told(wire.UNAVAILABLE if never else wire.UNKNOWN, b"")
