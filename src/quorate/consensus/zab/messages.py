"""What members of a Zab ensemble say to one another, and the entries they replicate.

Two channels, as in Apache ZooKeeper: the election port carries :class:`Notification`, the quorum port the packets of
discovery, synchronisation and broadcast. Field names are those of the Zab papers where they have one; ``wire`` turns
them into Apache's bytes.

A zxid is ``epoch << 32 | counter``.
"""

from collections.abc import Hashable
from typing import Final

LAST_COUNTER: Final = 0xFFFFFFFF
"""The last counter of an epoch, and the bits of a zxid that count."""


def epoch_of(zxid: int) -> int:
    return zxid >> 32


def first_zxid(epoch: int) -> int:
    """The zxid of an epoch before its first proposal; what NEWLEADER carries."""
    return epoch << 32


class Entry:
    """One replicated entry. ``payload`` is opaque to Zab; ``decoded`` is whatever the service keeps with it."""

    __slots__ = ("decoded", "payload", "zxid")

    def __init__(self, zxid: int, payload: bytes, decoded: object = None) -> None:
        self.zxid = zxid
        self.payload = payload
        self.decoded = decoded

    def __repr__(self) -> str:
        return f"Entry({self.zxid:#x}, {self.payload!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.zxid == self.zxid and other.payload == self.payload

    def __hash__(self) -> int:
        return hash((self.zxid, self.payload))


class Message:
    """Base of all messages: equality, hash and text by fields (used by explorers and tests, not on hot paths)."""

    __slots__: tuple[str, ...] = ()

    def fields(self) -> tuple[Hashable, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and type(other) is type(self) and other.fields() == self.fields()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.fields()))

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{name}={value:#x}" if name.endswith("zxid") and isinstance(value, int) else f"{name}={value!r}"
            for name, value in zip(self.__slots__, self.fields(), strict=True)
        )
        return f"{type(self).__name__}({inner})"


class Vote(Message):
    """Whom a member wants to lead, and how recent that member's history is."""

    __slots__ = ("epoch", "leader", "zxid")

    def __init__(self, leader: int, zxid: int, epoch: int) -> None:
        self.leader = leader
        self.zxid = zxid
        self.epoch = epoch

    def order(self) -> tuple[int, int, int]:
        """Votes are compared by current epoch, then last zxid, then sid."""
        return self.epoch, self.zxid, self.leader


class State:
    """States of a member on the election port (ServerState)."""

    LOOKING: Final = 0
    FOLLOWING: Final = 1
    LEADING: Final = 2
    OBSERVING: Final = 3


class Notification(Message):
    """Election port: the sender's state and vote. ``round`` is its logical clock (electionEpoch)."""

    __slots__ = ("config", "round", "state", "version", "vote")

    def __init__(self, state: int, vote: Vote, round: int, version: int = 2, config: bytes = b"") -> None:
        self.state = state
        self.vote = vote
        self.round = round
        self.version = version
        self.config = config


class FollowerInfo(Message):
    """FOLLOWERINFO or OBSERVERINFO, the first packet of a learner."""

    __slots__ = ("accepted_epoch", "config_version", "observer", "sid")

    def __init__(self, sid: int, accepted_epoch: int, observer: bool, config_version: int = 0) -> None:
        self.sid = sid
        self.accepted_epoch = accepted_epoch
        self.observer = observer
        self.config_version = config_version


class LeaderInfo(Message):
    """LEADERINFO: the epoch that the leader proposes."""

    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


class AckEpoch(Message):
    """ACKEPOCH. ``current_epoch`` is -1 if the learner had accepted this epoch before: then it counts for no quorum."""

    __slots__ = ("current_epoch", "last_zxid")

    def __init__(self, last_zxid: int, current_epoch: int) -> None:
        self.last_zxid = last_zxid
        self.current_epoch = current_epoch


class Diff(Message):
    """DIFF: proposals the learner lacks follow."""

    __slots__ = ("zxid",)

    def __init__(self, zxid: int) -> None:
        self.zxid = zxid


class Trunc(Message):
    """TRUNC: forget everything after ``zxid``; proposals may follow."""

    __slots__ = ("zxid",)

    def __init__(self, zxid: int) -> None:
        self.zxid = zxid


class Snap(Message):
    """SNAP: the service's whole state as of ``zxid`` or a little later. ``snapshot`` is what the learner's link made of the
    stream; the leader leaves it None, its link asks the service for the stream when it gets to send it."""

    __slots__ = ("snapshot", "zxid")

    def __init__(self, zxid: int, snapshot: object = None) -> None:
        self.zxid = zxid
        self.snapshot = snapshot


class NewLeader(Message):
    """NEWLEADER: the learner has now been sent the leader's history."""

    __slots__ = ("config", "zxid")

    def __init__(self, zxid: int, config: bytes = b"") -> None:
        self.zxid = zxid
        self.config = config


class UpToDate(Message):
    """UPTODATE: the epoch is established, the learner may serve."""

    __slots__ = ()


class Proposals(Message):
    """A run of PROPOSAL packets (INFORM for observers), in order. ``encoded`` caches the bytes for all receivers."""

    __slots__ = ("encoded", "entries", "inform")

    def __init__(self, entries: list[Entry], inform: bool = False) -> None:
        self.entries = entries
        self.inform = inform
        self.encoded: bytes | None = None

    def fields(self) -> tuple[Hashable, ...]:
        return (None, tuple(self.entries), self.inform)


class Acks(Message):
    """ACK packets for every zxid from ``first`` to ``last``, which are of one epoch."""

    __slots__ = ("first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last


class Commits(Message):
    """COMMIT packets for every zxid from ``first`` to ``last``, which are of one epoch."""

    __slots__ = ("first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last


class Ping(Message):
    """PING. ``data`` of a learner's answer is the service's (sessions touched since the last one)."""

    __slots__ = ("data", "zxid")

    def __init__(self, zxid: int, data: bytes | None = None) -> None:
        self.zxid = zxid
        self.data = data


class Service(Message):
    """REQUEST, REVALIDATE or SYNC by ``type``: the service's own business, carried on Zab's links in their order."""

    __slots__ = ("authinfo", "data", "type", "zxid")

    def __init__(
        self, type: int, data: bytes | None, authinfo: tuple[tuple[str, str], ...] | None = None, zxid: int = -1
    ) -> None:
        self.type = type
        self.data = data
        self.authinfo = authinfo
        self.zxid = zxid


REQUEST = 1
REVALIDATE = 6
SYNC = 7

Packet = (
    FollowerInfo
    | LeaderInfo
    | AckEpoch
    | Diff
    | Trunc
    | Snap
    | NewLeader
    | UpToDate
    | Proposals
    | Acks
    | Commits
    | Ping
    | Service
)
