"""A virtual network of TCP connections: bytes in order, late, in pieces; cut off by partitions and resets.

What TCP promises, holds: within one connection nothing is lost, doubled or reordered, and a connection that breaks keeps some
beginning of what was sent, to any byte. A lost packet is a late one (it is sent again), and everything behind it waits. A
blocked direction holds what is sent until it opens; both ends believe in the connection meanwhile. A process that dies
closes its connections; a machine that loses power does not, and the other end learns of it only when the machine is back.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from quorate.errors import RemoteProtocolError, UsageError
from quorate.runtime.environment import Handler
from quorate.simulation import trace as kinds
from quorate.simulation.machine import Machine, SimulatedEnvironment
from quorate.simulation.scheduler import MICROSECOND, MILLISECOND, SECOND, Scheduler, Stream
from quorate.simulation.trace import Trace

HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18
KERNEL_BUFFER = 1 << 17
"""Bytes that the network takes before they count as queued."""
_SYN_RETRY = SECOND


class Describer(Protocol):
    def feed(self, data: bytes) -> str: ...


class Conditions:
    """``delay``: typical nanoseconds one way; ``slowdown`` multiplies it. ``split``: the chance that data come in two pieces.
    ``loss``: the chance that a packet is lost and sent again after about ``retransmission`` ns."""

    __slots__ = ("delay", "loss", "retransmission", "slowdown", "split")

    def __init__(self, delay: int, split: float, loss: float, retransmission: int = 200 * MILLISECOND) -> None:
        self.delay = delay
        self.slowdown = 1
        self.split = split
        self.loss = loss
        self.retransmission = retransmission


class Network:
    def __init__(self, scheduler: Scheduler, stream: Stream, conditions: Conditions, trace: Trace) -> None:
        self.scheduler = scheduler
        self.conditions = conditions
        self.trace = trace
        self.ends: list[End] = []
        """Every end of a connection that is not over, in the order in which they were made."""
        self.describe: Callable[[int, bool], Describer] | None = None
        """Makes what puts the bytes of a connection in words, from (the listener's port, whether toward the listener)."""
        self._stream = stream
        self._machines: dict[str, Machine] = {}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._blocked: dict[tuple[Machine, Machine], int] = {}
        self._ports = 40_000
        self._links = 0

    def attach(self, machine: Machine) -> None:
        self._machines[machine.address] = machine

    # ---- what processes ask for

    def listen(self, environment: SimulatedEnvironment, port: int, accept: Callable[[], Handler]) -> "_Listener":
        key = (environment.machine.address, port)
        if key in self._listeners:
            raise UsageError(f"cannot listen at {key[0]}:{port}: the address is in use")
        listener = self._listeners[key] = _Listener(self, environment, port, accept)
        return listener

    def connect(
        self, environment: SimulatedEnvironment, host: str, port: int, handler: Handler, timeout_ms: int
    ) -> None:
        attempt = _Attempt(self, environment, host, port, handler)
        self.scheduler.after(self.delay(), attempt.arrive)
        self.scheduler.after(timeout_ms * MILLISECOND, attempt.fail, "timed out")

    # ---- what the world does to it

    def delay(self) -> int:
        conditions = self.conditions
        delay = (MICROSECOND + self._stream.around(conditions.delay)) * conditions.slowdown
        if conditions.loss and self._stream.chance(conditions.loss):
            delay += self._stream.around(conditions.retransmission)
        return delay

    def block(self, source: Machine, target: Machine) -> None:
        """Nothing gets from ``source`` to ``target`` any more. Blocks add up."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: Machine, target: Machine) -> None:
        count = self._blocked.get((source, target), 0)
        if count > 1:
            self._blocked[source, target] = count - 1
        elif count:
            del self._blocked[source, target]
            self._release(source, target)

    def heal(self) -> None:
        """Every direction is open and fast again."""
        blocked = list(self._blocked)
        self._blocked.clear()
        self.conditions.slowdown = 1
        self.conditions.loss = 0.0
        for source, target in blocked:
            self._release(source, target)

    def is_blocked(self, source: Machine, target: Machine) -> bool:
        return bool(self._blocked) and (source, target) in self._blocked

    def _release(self, source: Machine, target: Machine) -> None:
        for end in self.ends:
            if end.machine is target and end.other.machine is source and end.stuck:
                self.scheduler.after(self.delay(), end.unstick)

    def reset(self, end: "End") -> None:
        """Break a connection in the middle of whatever is on its way."""
        end.sever("connection reset by peer")
        end.other.sever("connection reset by peer")

    def ended(self, machine: Machine, power: bool) -> None:
        """The machine's process is gone."""
        for key in [key for key, listener in self._listeners.items() if listener.environment.machine is machine]:
            del self._listeners[key]
        for end in [end for end in self.ends if end.machine is machine and end.connected]:
            end.open = False
            end.gone = True
            if power:
                end.other.sever("closed by the peer", whole=self._stream.chance(0.5))

    def pair(self, attempt: "_Attempt", listener: "_Listener") -> "tuple[End, End]":
        self._ports += 1
        here = (attempt.environment.machine.address, self._ports)
        there = (listener.environment.machine.address, listener.port)
        client = End(self, attempt.environment, attempt.handler, here, there)
        server = End(self, listener.environment, None, there, here)
        client.other, server.other = server, client
        if self.describe is not None:
            client.describer = self.describe(listener.port, True)
            server.describer = self.describe(listener.port, False)
        self.ends += (client, server)
        return client, server

    def forget(self, end: "End") -> None:
        if end.over and end.other.over:
            self.ends = [other for other in self.ends if other is not end and other is not end.other]

    def next_link(self) -> int:
        self._links += 1
        return self._links


class _Listener:
    __slots__ = ("_network", "accept", "environment", "port")

    def __init__(
        self, network: Network, environment: SimulatedEnvironment, port: int, accept: Callable[[], Handler]
    ) -> None:
        self._network = network
        self.environment = environment
        self.port = port
        self.accept = accept

    @property
    def address(self) -> tuple[str, int]:
        return self.environment.machine.address, self.port

    def close(self) -> None:
        if self._network._listeners.get(self.address) is self:
            del self._network._listeners[self.address]


class _Attempt:
    """A connection being made."""

    __slots__ = ("_network", "_over", "environment", "handler", "host", "port")

    def __init__(
        self, network: Network, environment: SimulatedEnvironment, host: str, port: int, handler: Handler
    ) -> None:
        self._network = network
        self._over = False
        self.environment = environment
        self.host = host
        self.port = port
        self.handler = handler

    def arrive(self) -> None:
        if self._over or not self.environment.alive:
            return
        network = self._network
        source = self.environment.machine
        target = network._machines.get(self.host)
        if (
            target is None
            or not target.powered
            or network.is_blocked(source, target)
            or network.is_blocked(target, source)
        ):
            network.scheduler.after(_SYN_RETRY, self.arrive)
            return
        listener = network._listeners.get((self.host, self.port))
        if listener is None:
            network.scheduler.after(network.delay(), self.fail, "connection refused")
            return
        self._over = True
        _, server = network.pair(self, listener)
        network.trace.note(network.scheduler.now, kinds.CONNECT, source.name, target.name, str(self.port))
        server.transmit(_CONNECTED)
        target.enter(listener.environment, server.accepted, listener.accept)

    def fail(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self.environment.machine.enter(self.environment, self.handler.closed, reason)


_CONNECTED = b"connected"
"""Comes first toward the end that asked for the connection; known by its identity."""
_FIN = b"fin"


class End:
    """One end of a connection: quorate.runtime.environment.Connection for the process at it."""

    __slots__ = (
        "_arrived",
        "_broken_off",
        "_flying",
        "_handler",
        "_inbox",
        "_network",
        "_outstanding",
        "_reading",
        "_writing",
        "connected",
        "describer",
        "environment",
        "gone",
        "local",
        "machine",
        "open",
        "other",
        "over",
        "peer",
        "stuck",
    )

    other: "End"

    def __init__(
        self,
        network: Network,
        environment: SimulatedEnvironment,
        handler: Handler | None,
        local: tuple[str, int],
        peer: tuple[str, int],
    ) -> None:
        self.environment = environment
        self.machine = environment.machine
        self.local = local
        self.peer = peer
        self.open = True
        """Not closed by this end, nor known by it to be closed."""
        self.connected = handler is None
        """Whether this end knows that the connection is there; the one that asked for it learns later."""
        self.gone = False
        """The process is dead."""
        self.over = False
        self.stuck: deque[bytes] = deque()
        """What would have arrived but for a blocked direction, in order."""
        self.describer: Describer | None = None
        self._network = network
        self._handler = handler
        self._flying: deque[tuple[bytes, int]] = deque()
        """(data, its number in the trace) on their way to this end."""
        self._arrived = 0
        """No later data arrive before this time."""
        self._outstanding = 0
        """Bytes written here and not taken by the other end's process."""
        self._broken_off = False
        """Nothing more gets to this end."""
        self._reading = True
        self._writing = True
        self._inbox: deque[bytes] = deque()

    # ---- Connection

    def write(self, data: bytes) -> None:
        if not self.open:
            return
        self.machine.effect()
        self._outstanding += len(data)
        if self._writing and self._outstanding > HIGH_WATER + KERNEL_BUFFER:
            self._writing = False
            assert self._handler is not None
            self._network.scheduler.after(
                0, self.machine.enter, self.environment, self._guarded, self._handler.writing_paused
            )
        network = self._network
        if network.conditions.split and len(data) > 1 and network._stream.chance(network.conditions.split):
            cut = network._stream.between(1, len(data) - 1)
            self.transmit(data[:cut])
            self.transmit(data[cut:])
        else:
            self.transmit(data)

    def close(self) -> None:
        if self.open:
            self.machine.effect()
            self.open = False
            self.transmit(_FIN)
            self.environment.call_soon(self._closed_here)

    def abort(self) -> None:
        if self.open:
            self.machine.effect()
            self.open = False
            self.other.sever("connection reset by peer")
            self.environment.call_soon(self._closed_here)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._inbox:
                self.environment.call_soon(self._read_inbox)

    def queued(self) -> int:
        return max(self._outstanding - KERNEL_BUFFER, 0)

    # ---- the way over

    def transmit(self, data: bytes) -> None:
        """Send to the other end."""
        network = self._network
        other = self.other
        if other._broken_off:
            return
        arrival = network.scheduler.now + network.delay()
        if arrival < other._arrived:
            arrival = other._arrived
        other._arrived = arrival
        link = 0
        if self.describer is not None and data is not _CONNECTED and data is not _FIN:
            link = network.next_link()
            network.trace.show(
                network.scheduler.now,
                kinds.SEND,
                self.machine.name,
                other.machine.name,
                self.describer.feed(data),
                link,
            )
        other._flying.append((data, link))
        network.scheduler.at(arrival, other._arrive)

    def _arrive(self) -> None:
        if not self._flying:
            return  # lost when the connection broke
        data, link = self._flying.popleft()
        network = self._network
        if self.stuck or network.is_blocked(self.other.machine, self.machine):
            self.stuck.append(data)
            return
        if link:
            network.trace.show(
                network.scheduler.now, kinds.DELIVER, self.machine.name, self.other.machine.name, "", link
            )
        self._deliver(data)

    def unstick(self) -> None:
        if self._network.is_blocked(self.other.machine, self.machine):
            return
        while self.stuck:
            self._deliver(self.stuck.popleft())

    def _deliver(self, data: bytes) -> None:
        if self.gone or not self.environment.alive:
            # nobody knows of this connection here: the sender is told, if there is a kernel to tell it
            if self.machine.powered and data is not _FIN:
                self.other.sever("connection reset by peer")
            self.over = True
            self._network.forget(self)
            return
        self.machine.enter(self.environment, self._taken, data)

    def _taken(self, data: bytes) -> None:
        """In the process."""
        if data is _CONNECTED:
            self.connected = True
            if self._handler is not None:
                self._guarded(self._handler.connected, self)
            return
        if not self.open:
            if data is _FIN:
                self._finish()
            return
        if not self._reading and data is not _FIN:
            self._inbox.append(data)
            return
        if data is _FIN:
            self._read_inbox()
            self._lost("closed by the peer")
            return
        self._received(data)

    def _received(self, data: bytes) -> None:
        network = self._network
        network.trace.fold(data, network.scheduler.now)
        self.other._passed(len(data))
        assert self._handler is not None
        self._guarded(self._handler.received, data)

    def _read_inbox(self) -> None:
        while self._inbox and self._reading and self.open:
            self._received(self._inbox.popleft())

    def _passed(self, count: int) -> None:
        """The other end's process has taken this many bytes."""
        self._outstanding -= count
        if not self._writing and self._outstanding <= LOW_WATER + KERNEL_BUFFER:
            self._writing = True
            if self.open and self._handler is not None:
                self._network.scheduler.after(
                    0, self.machine.enter, self.environment, self._guarded, self._handler.writing_resumed
                )

    # ---- the end

    def accepted(self, accept: Callable[[], Handler]) -> None:
        """In the listening process."""
        self._handler = handler = accept()
        self._guarded(handler.connected, self)

    def sever(self, reason: str, whole: bool = False) -> None:
        """The connection breaks toward this end: some beginning of what is on its way arrives, all of it if ``whole``, to any
        byte; then this end is told."""
        network = self._network
        if self.gone or self.over:
            self.over = True
            network.forget(self)
            return
        if self._broken_off:
            return
        self._broken_off = True
        flying = self._flying
        if not whole:
            self.stuck.clear()
            stream = network._stream
            keep = stream.between(0, len(flying))
            while len(flying) > keep + 1:
                flying.pop()
            if len(flying) > keep:
                data, link = flying.pop()
                if len(data) > 1 and data is not _FIN and data is not _CONNECTED and stream.chance(0.5):
                    flying.append((data[: stream.between(1, len(data) - 1)], link))
        self._arrived = max(self._arrived, network.scheduler.now + network.delay())
        network.scheduler.at(self._arrived, self._severed, reason)

    def _severed(self, reason: str) -> None:
        if self.stuck and self.open:
            # behind what a blocked direction holds; that is told by heartbeats, or when the direction opens
            self._network.scheduler.after(_SYN_RETRY, self._severed, reason)
            return
        self.machine.enter(self.environment, self._broken, reason)

    def _broken(self, reason: str) -> None:
        if self.open:
            self._lost(reason)

    def _lost(self, reason: str) -> None:
        """The other end is gone."""
        self.open = False
        network = self._network
        network.trace.note(network.scheduler.now, kinds.CLOSE, self.machine.name, self.other.machine.name, reason)
        self._finish()
        if self._handler is not None:
            handler = self._handler
            self._handler = None
            handler.closed(reason)
        if not self.other.over and not self.other.gone:
            # we do not keep half a connection: whatever the other end still believes, it is told
            self.other.sever("closed by the peer", whole=True)

    def _closed_here(self) -> None:
        handler = self._handler
        if handler is not None:
            self._handler = None
            handler.closed("closed here")
        self._finish()

    def _finish(self) -> None:
        self.over = True
        self._network.forget(self)

    def _guarded(self, call: Callable[..., None], *args: object) -> None:
        """What a handler raises as the peer's fault ends its connection and nothing else."""
        try:
            call(*args)
        except RemoteProtocolError as error:
            self._network.trace.note(
                self._network.scheduler.now,
                kinds.CLOSE,
                self.machine.name,
                self.other.machine.name,
                f"broke the protocol: {error}",
            )
            self.abort()
