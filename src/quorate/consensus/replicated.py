"""How a replicated service and the group that carries it see each other.

A *group* is one replicated log with its members; a process may hold many. Its host calls the service's :class:`StateMachine`; the
service calls its :class:`Replica`. Everything is single-threaded, and no call is entered while another one runs.

What comes of one batch of events comes in this order: entries are applied, reads are released, the role changes, and then ``flush`` is
called once: replies are gathered until there, so that a batch costs one write per connection.
"""

from collections.abc import Hashable, Iterator
from typing import Protocol

from quorate.runtime.environment import Environment


class Replica(Protocol):
    """One group on this member, as its service sees it."""

    @property
    def group(self) -> int: ...

    @property
    def leader(self) -> int:
        """The sid of the member that leads as far as this one knows; 0 if it knows of none."""

    @property
    def leading(self) -> bool:
        """Whether this member leads and what it has applied is all that was ever chosen: it may take commands and answer reads."""

    @property
    def applied(self) -> int:
        """The index of the last entry applied here."""

    def propose(self, payload: bytes) -> None:
        """Replicate ``payload``. If it is chosen while this member leads, ``apply`` gets this very object, and such objects in the order
        they were proposed in; if this member stops leading before, it may be chosen all the same, or never.

        Raises LocalProtocolError if this member does not lead.
        """

    def read(self, key: Hashable, staleness: int = 0) -> None:
        """Ask when a read may be answered from what is applied here: ``read_ready(key)`` or ``read_failed(key)`` follows, maybe at once.

        On any member. With ``staleness`` 0 the answer is linearizable: it has all that was acknowledged before this call. With more it may
        lack what was acknowledged in the last ``staleness`` nanoseconds, and then seldom waits.
        """


class Restorer(Protocol):
    """Takes a snapshot in pieces, beside the state that is served."""

    def feed(self, piece: bytes) -> None:
        """Raises CorruptionError if that cannot be a snapshot of this service."""

    def finish(self) -> None:
        """All pieces came. Raises CorruptionError if something is missing."""


class StateMachine(Protocol):
    """A service, as the group that carries it sees it. Equal entries in equal order make equal states: ``apply`` knows no clock."""

    def apply(self, index: int, payload: bytes) -> None:
        """The entry at ``index`` is chosen. Indices grow, with gaps where entries are not the service's."""

    def role_changed(self, leader: int, leading: bool) -> None:
        """As ``Replica.leader`` and ``Replica.leading`` say from now on."""

    def read_ready(self, key: Hashable) -> None: ...

    def read_failed(self, key: Hashable) -> None:
        """Nobody leads, or not for long enough: to be asked for again, here or elsewhere."""

    def flush(self) -> None:
        """The batch is over: send what it made."""

    def snapshot(self) -> Iterator[bytes]:
        """The state as of now, in pieces of some 64 KiB; entries are applied while the iterator is read, and do not show in it. At most one
        at a time is read."""

    def restorer(self) -> Restorer:
        """For a snapshot that came from another member or from disk."""

    def adopt(self, restorer: Restorer) -> None:
        """From now on the state is what the finished ``restorer`` holds."""


class ServiceFactory(Protocol):
    """Makes the service of one group, empty."""

    def __call__(self, env: Environment, replica: Replica) -> StateMachine: ...
