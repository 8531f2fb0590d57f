"""A virtual network: connections that deliver in order or break, between nodes that can be cut off from one another.

What it keeps of TCP: bytes of one direction arrive in order and not twice; a connection that breaks loses the tail of what
was under way, a different one in each direction; each end learns of it at its own time. While a direction is blocked
nothing passes and nothing is lost, as long as the connection lives. What passes are lists of messages, not bytes.
"""

from collections import deque
from typing import Protocol

from tests.simulation.scheduler import MICROSECOND, MILLISECOND, Scheduler, Stream


class Owner(Protocol):
    """The process that holds one end of a connection."""

    def received(self, end: "End", messages: list[object]) -> None: ...

    def closed(self, end: "End") -> None:
        """The connection is gone; not called for an end that its owner closed."""


class Host(Protocol):
    """A node that may answer calls."""

    def answering(self) -> Owner | None:
        """The process that accepts connections now, if any."""

    def accepted(self, end: "End", caller: int, port: int) -> None: ...


class End:
    """One end of a connection; what travels towards it waits in ``inbound`` as (when it arrives, messages or None for the
    end of the stream)."""

    __slots__ = ("inbound", "label", "last", "node", "open", "other", "owner", "port", "pumping")

    def __init__(self, node: int, owner: Owner, port: int) -> None:
        self.node = node
        self.owner = owner
        self.port = port
        self.label = 0
        """Whatever number the owner knows this end by."""
        self.open = True
        self.other: End = self
        self.inbound: deque[tuple[int, list[object] | None]] = deque()
        self.last = 0
        self.pumping = False


class Conditions:
    """How the network behaves now; the nemesis changes it."""

    __slots__ = ("delay", "slowdown", "split")

    def __init__(self, delay: int, split: float) -> None:
        self.delay = delay
        """Typical one-way delay."""
        self.split = split
        """Chance that a batch arrives in pieces."""
        self.slowdown = 1


class Network:
    def __init__(self, scheduler: Scheduler, stream: Stream, conditions: Conditions) -> None:
        self.scheduler = scheduler
        self.conditions = conditions
        self.hosts: dict[int, Host] = {}
        self.ends: list[End] = []
        self._stream = stream
        self._blocked: set[tuple[int, int]] = set()
        self._stalled: list[End] = []

    def delay(self) -> int:
        conditions = self.conditions
        return MICROSECOND + self._stream.around(conditions.delay) * conditions.slowdown

    # ---- partitions

    def block(self, source: int, target: int) -> None:
        self._blocked.add((source, target))

    def unblock(self, source: int, target: int) -> None:
        self._blocked.discard((source, target))
        self._resume()

    def heal(self) -> None:
        self._blocked.clear()
        self._resume()

    def cut(self, source: int, target: int) -> bool:
        return (source, target) in self._blocked

    def _resume(self) -> None:
        stalled, self._stalled = self._stalled, []
        for end in stalled:
            if end.open and not end.pumping:
                end.pumping = True
                self.scheduler.after(self.delay(), self._pump, end)

    # ---- connections

    def dial(self, caller: Owner, source: int, target: int, port: int, dial: "Dial") -> None:
        """Connect to a node; ``dial`` is told how it ended."""
        self.scheduler.after(self.delay(), self._dialled, caller, source, target, port, dial)

    def _dialled(self, caller: Owner, source: int, target: int, port: int, dial: "Dial") -> None:
        if self.cut(source, target) or self.cut(target, source):
            self.scheduler.after(self._stream.spread(20 * MILLISECOND, 1000 * MILLISECOND), dial.failed)
            return
        owner = self.hosts[target].answering()
        if owner is None:
            self.scheduler.after(self.delay(), dial.failed)
            return
        near, far = End(source, caller, port), End(target, owner, port)
        near.other, far.other = far, near
        self.ends = [end for end in self.ends if end.open]
        self.ends += [near, far]
        near.last = self.scheduler.now + self.delay()
        self.scheduler.at(near.last, self._answered, near, dial)
        self.hosts[target].accepted(far, source, port)

    def _answered(self, near: End, dial: "Dial") -> None:
        if near.open:
            dial.connected(near)
        else:
            dial.failed()

    def send(self, end: End, messages: list[object]) -> None:
        other = end.other
        if not end.open or not other.open or (other.inbound and other.inbound[-1][1] is None):
            return
        if len(messages) > 1 and self._stream.chance(self.conditions.split):
            middle = self._stream.between(1, len(messages) - 1)
            self._queue(other, messages[:middle])
            messages = messages[middle:]
        self._queue(other, messages)

    def _queue(self, end: End, item: list[object] | None) -> None:
        end.last = ready = max(end.last, self.scheduler.now + self.delay())
        end.inbound.append((ready, item))
        if not end.pumping:
            end.pumping = True
            self.scheduler.at(ready, self._pump, end)

    def _pump(self, end: End) -> None:
        end.pumping = False
        inbound = end.inbound
        now = self.scheduler.now
        while end.open and inbound and inbound[0][0] <= now:
            if self.cut(end.other.node, end.node):
                self._stalled.append(end)
                return
            item = inbound.popleft()[1]
            if item is None:
                end.open = False
                end.owner.closed(end)
            else:
                end.owner.received(end, item)
        if inbound and end.open and not end.pumping:
            end.pumping = True
            self.scheduler.at(inbound[0][0], self._pump, end)

    def close(self, end: End, lose_tail: bool = False) -> None:
        """The owner closes its end: what it sent still arrives, or only a part of it; what comes later is lost."""
        if not end.open:
            return
        end.open = False
        end.inbound.clear()
        other = end.other
        if other.open:
            if lose_tail:
                self._lose_tail(other)
            self._queue(other, None)

    def reset(self, end: End) -> None:
        """The connection breaks by no one's will; each end learns of it in its own time, whatever is blocked."""
        for side in (end, end.other):
            if side.open:
                self._lose_tail(side)
                self.scheduler.after(self.delay() * self._stream.between(0, 3), self._reset, side)
                side.inbound.append((1 << 62, None))

    def _reset(self, end: End) -> None:
        if end.open:
            end.open = False
            end.owner.closed(end)

    def _lose_tail(self, end: End) -> None:
        """A prefix of what is under way still arrives."""
        keep = self._stream.between(0, len(end.inbound))
        while len(end.inbound) > keep:
            end.inbound.pop()
        end.last = end.inbound[-1][0] if end.inbound else 0


class Dial(Protocol):
    def connected(self, end: End) -> None: ...

    def failed(self) -> None: ...
