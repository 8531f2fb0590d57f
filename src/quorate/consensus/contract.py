"""The contract every replication core answers, so that any of them can carry any replicated state machine.

A core does no I/O and knows no clock. Its driver calls

- ``tick(now)`` at or after ``deadline()``, with ``now`` in nanoseconds;
- ``receive(sender, message)`` for a message that came over the channel the driver calls ``sender``, after a ``tick`` with
  the time it came;
- ``propose(...)`` on a leader, for each payload to be replicated;
- ``persisted(token)`` when the write of that token, and every write before it, is durable;

and after any number of such calls takes everything that came of them with ``drain()``: what to write, what to send, what
is committed. One drain may carry hundreds of proposals: one sync covers them, one socket write carries their replies.

The durability rule is kept here and not left to drivers: a message that promises something (a vote, an acknowledgement,
an accepted epoch) is queued with the token of the write it depends on and stays inside the core until ``persisted`` says
that the write is durable (:class:`Outbox`). A driver cannot send it too early, because it does not have it.
"""

from collections import deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

Message = TypeVar("Message")
MessageIn = TypeVar("MessageIn", contravariant=True)
Drained = TypeVar("Drained", covariant=True)

NEVER = -1
"""A deadline that never comes."""


def until(deadline: int, now: int) -> int:
    """The time left, 0 once it is due, NEVER for one that never comes: what explorers know of a deadline."""
    return NEVER if deadline == NEVER else max(deadline - now, 0)


class Outbox(Generic[Message]):
    """Messages to send, by channel, in order; those that depend on a write are held until it is durable."""

    __slots__ = ("_durable", "_held", "_issued", "_ready")

    def __init__(self) -> None:
        self._ready: dict[int, list[Message]] = {}
        self._held: deque[tuple[int, int, Message]] = deque()
        self._issued = 0
        self._durable = 0

    def token(self) -> int:
        """A token for a write about to be handed to the driver; tokens grow in the order of the writes."""
        self._issued += 1
        return self._issued

    @property
    def issued(self) -> int:
        """The newest token handed out; a message held on it waits for every write so far."""
        return self._issued

    @property
    def durable(self) -> int:
        return self._durable

    def send(self, channel: int, message: Message) -> None:
        """Send a message that promises nothing about this member's disk."""
        queue = self._ready.get(channel)
        if queue is None:
            self._ready[channel] = [message]
        else:
            queue.append(message)

    def send_after(self, token: int, channel: int, message: Message) -> None:
        """Send once the write of ``token`` is durable."""
        if token <= self._durable:
            self.send(channel, message)
        else:
            assert not self._held or self._held[-1][0] <= token, "promises are held in the order of their writes"
            self._held.append((token, channel, message))

    def persisted(self, token: int) -> None:
        assert self._durable <= token <= self._issued, f"token {token} outside {self._durable}..{self._issued}"
        self._durable = token
        held = self._held
        while held and held[0][0] <= token:
            _, channel, message = held.popleft()
            self.send(channel, message)

    def forget(self, channel: int) -> None:
        """The channel is gone: nothing is sent there any more."""
        self._ready.pop(channel, None)
        if self._held:
            self._held = deque(item for item in self._held if item[1] != channel)

    def take(self) -> dict[int, list[Message]]:
        # an empty one is given away as well: what its taker sends meanwhile must not be in it
        ready, self._ready = self._ready, {}
        return ready

    def state(self) -> Hashable:
        """What is in the box, for explorers: channels in the order of their numbers, tokens counted from the durable one.

        Messages must be hashable.
        """
        durable = self._durable
        ready = tuple([(channel, tuple(self._ready[channel])) for channel in sorted(self._ready)])
        held = tuple([(token - durable, channel, message) for token, channel, message in self._held])
        return ready, held, self._issued - durable

    def ahead(self, token: int) -> int:
        """By how many tokens a write is ahead of the durable one; 0 if it is durable itself. What explorers know of a token."""
        return max(token - self._durable, 0)


class Core(Protocol[MessageIn, Drained]):
    """The calls a driver makes; see the module's text."""

    def tick(self, now: int) -> None: ...

    def deadline(self) -> int:
        """When ``tick`` must next be called, in the clock of ``tick``; NEVER if it need not."""

    def receive(self, sender: int, message: MessageIn) -> None: ...

    def persisted(self, token: int) -> None: ...

    def drain(self) -> Drained:
        """Everything to be done since the last drain."""

    def state(self) -> Hashable:
        """The core's whole state, hashable: equal states behave equally from here on.

        Canonical: times count from the last event, tokens from the durable one, and what can no longer matter is left out.
        """
