"""What Paxos members say, write and tell. A ballot is ``round << 16 | sid``: totally ordered, and no two members share one.

An index counts the entries of the log from 1; ``decided`` is the index up to which a log is chosen.
"""

from collections.abc import Hashable
from enum import IntEnum

_SID_BITS = 16
SID_MAX = (1 << _SID_BITS) - 1


def ballot_of(round_: int, sid: int) -> int:
    return round_ << _SID_BITS | sid


def round_of(ballot: int) -> int:
    return ballot >> _SID_BITS


def proposer_of(ballot: int) -> int:
    """The sid of the member whose ballot this is; 0 for the ballot 0, which nobody's is."""
    return ballot & SID_MAX


class Record:
    """Equal by type and fields; hashable, for explorers."""

    __slots__: tuple[str, ...] = ()

    def fields(self) -> tuple[Hashable, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and type(other) is type(self) and other.fields() == self.fields()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.fields()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


class Kind(IntEnum):
    COMMAND = 0
    """The service's."""
    NOTHING = 1
    """What a new leader proposes first: once it is chosen, all before it is known to be."""
    MEMBERS = 2
    """Who the members are from here on (``members``)."""


class Entry(Record):
    __slots__ = ("kind", "payload")

    def __init__(self, kind: int, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload


Entries = tuple[Entry, ...]


# ---- between members


class Probe(Record):
    """Would you promise this ballot? Nothing changes by the answer: a member that comes back disturbs nobody."""

    __slots__ = ("ballot",)

    def __init__(self, ballot: int) -> None:
        self.ballot = ballot


class ProbeReply(Record):
    """``promised``: the greatest ballot that the sender has promised."""

    __slots__ = ("ballot", "granted", "promised")

    def __init__(self, ballot: int, granted: bool, promised: int) -> None:
        self.ballot = ballot
        self.granted = granted
        self.promised = promised


class Prepare(Record):
    """Phase 1 for all that is not decided at the sender, whose log is described so that only what it lacks comes back.

    ``released``: the ballot of a leader that handed over to the sender and so gave up its lease; 0 if none did.
    """

    __slots__ = ("accepted", "ballot", "decided", "last", "released")

    def __init__(self, ballot: int, accepted: int, last: int, decided: int, released: int = 0) -> None:
        self.ballot = ballot
        self.accepted = accepted
        self.last = last
        self.decided = decided
        self.released = released


class Promise(Record):
    """The sender's log was accepted in ``accepted`` and ends at ``last``. ``entries``, from ``first`` on, are what the proposer lacks
    of it, if it is the better log; a ``first`` beyond that shows that the sender has only a snapshot of what is between."""

    __slots__ = ("accepted", "ballot", "decided", "entries", "first", "last")

    def __init__(self, ballot: int, accepted: int, last: int, decided: int, first: int, entries: Entries) -> None:
        self.ballot = ballot
        self.accepted = accepted
        self.last = last
        self.decided = decided
        self.first = first
        self.entries = entries


class AcceptSync(Record):
    """The log from ``first`` on becomes ``entries``, and is accepted in this ballot."""

    __slots__ = ("ballot", "decided", "entries", "first")

    def __init__(self, ballot: int, first: int, entries: Entries, decided: int) -> None:
        self.ballot = ballot
        self.first = first
        self.entries = entries
        self.decided = decided


class Accept(Record):
    """Phase 2 of ``entries``, from ``first`` on; and ``decided``, for learners."""

    __slots__ = ("ballot", "decided", "entries", "first")

    def __init__(self, ballot: int, first: int, entries: Entries, decided: int) -> None:
        self.ballot = ballot
        self.first = first
        self.entries = entries
        self.decided = decided


class Accepted(Record):
    """Durable up to ``last`` in this ballot."""

    __slots__ = ("ballot", "last")

    def __init__(self, ballot: int, last: int) -> None:
        self.ballot = ballot
        self.last = last


class Heartbeat(Record):
    """The proposer leads still; ``number`` counts its heartbeats."""

    __slots__ = ("ballot", "decided", "number")

    def __init__(self, ballot: int, number: int, decided: int) -> None:
        self.ballot = ballot
        self.number = number
        self.decided = decided


class HeartbeatReply(Record):
    """The sender has promised nothing newer than ``ballot``."""

    __slots__ = ("ballot", "number")

    def __init__(self, ballot: int, number: int) -> None:
        self.ballot = ballot
        self.number = number


class Behind(Record):
    """The receiver lacks entries up to ``base``, of which the proposer has only a snapshot: it has to fetch that first."""

    __slots__ = ("ballot", "base")

    def __init__(self, ballot: int, base: int) -> None:
        self.ballot = ballot
        self.base = base


class Lead(Record):
    """The proposer of ``ballot`` hands over: it answers no reads and takes no commands any more, and the receiver has its whole log."""

    __slots__ = ("ballot",)

    def __init__(self, ballot: int) -> None:
        self.ballot = ballot


class ReadRequest(Record):
    """From what index on may a read be answered that came before this? ``number`` is the sender's."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class ReadReply(Record):
    """``index`` is -1 if the sender does not lead."""

    __slots__ = ("index", "number")

    def __init__(self, number: int, index: int) -> None:
        self.number = number
        self.index = index


class Nack(Record):
    """``ballot`` is refused, because of ``promised``. If that is not greater, the sender will promise ``ballot`` if asked again later."""

    __slots__ = ("ballot", "promised")

    def __init__(self, ballot: int, promised: int) -> None:
        self.ballot = ballot
        self.promised = promised


Message = (
    Probe
    | ProbeReply
    | Prepare
    | Promise
    | AcceptSync
    | Accept
    | Accepted
    | Heartbeat
    | HeartbeatReply
    | Behind
    | Lead
    | ReadRequest
    | ReadReply
    | Nack
)


# ---- for the disk, in order; the token is durable when the write and all before it are


class StorePromise(Record):
    __slots__ = ("ballot", "token")

    def __init__(self, ballot: int, token: int) -> None:
        self.ballot = ballot
        self.token = token


class Adopt(Record):
    """The log from ``first`` on becomes ``entries``, accepted (and promised) in ``ballot``: all of it or nothing, for what it replaces may
    be chosen by this member's vote."""

    __slots__ = ("ballot", "entries", "first", "token")

    def __init__(self, ballot: int, first: int, entries: Entries, token: int) -> None:
        self.ballot = ballot
        self.first = first
        self.entries = entries
        self.token = token


class Append(Record):
    """``entries`` follow the log, accepted in the ballot that it was adopted in; a crash may leave a beginning of them."""

    __slots__ = ("entries", "token")

    def __init__(self, entries: Entries, token: int) -> None:
        self.entries = entries
        self.token = token


class Install(Record):
    """A snapshot, which is on disk, stands for all entries up to ``index``; entries after it stay."""

    __slots__ = ("index", "token")

    def __init__(self, index: int, token: int) -> None:
        self.index = index
        self.token = token


Write = StorePromise | Adopt | Append | Install


# ---- for the service, in order


class Chosen(Record):
    """``entries``, from ``first`` on, are chosen and may be applied."""

    __slots__ = ("entries", "first")

    def __init__(self, first: int, entries: Entries) -> None:
        self.first = first
        self.entries = entries


class RoleChange(Record):
    """``leader``: the sid of who leads as far as this member knows, 0 if nobody. ``ready``: this member leads, and what it has applied
    up to here is all that was ever chosen: it may take commands and reads."""

    __slots__ = ("ballot", "leader", "ready")

    def __init__(self, leader: int, ballot: int, ready: bool) -> None:
        self.leader = leader
        self.ballot = ballot
        self.ready = ready


class ReadReady(Record):
    """The read of this key may be answered once everything up to ``index`` is applied."""

    __slots__ = ("index", "key")

    def __init__(self, key: Hashable, index: int) -> None:
        self.key = key
        self.index = index


class ReadFailed(Record):
    """The member does not lead any more; the read is to be asked for elsewhere."""

    __slots__ = ("key",)

    def __init__(self, key: Hashable) -> None:
        self.key = key


class Lagging(Record):
    """Entries that this member lacks exist at ``source`` only as a snapshot: it is to be fetched, then ``Peer.installed``."""

    __slots__ = ("source",)

    def __init__(self, source: int) -> None:
        self.source = source


Event = Chosen | RoleChange | ReadReady | ReadFailed | Lagging
