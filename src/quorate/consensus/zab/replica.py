"""What the roles of a member share: its durable state, its history, and what it wants done.

A role never touches the disk or the network. It appends to ``writes`` and ``events`` and to the outbox, and the driver
takes all of that with :meth:`quorate.consensus.zab.peer.Peer.drain`.
"""

from collections.abc import Hashable

from quorate.consensus.contract import Outbox
from quorate.consensus.zab.history import History
from quorate.consensus.zab.messages import Entry, Message, Service


class Settings:
    """An ensemble as one member is configured to see it. Times in nanoseconds."""

    __slots__ = ("config", "connect_limit", "init_limit", "observers", "sid", "sync_limit", "tick", "voters")

    def __init__(
        self,
        sid: int,
        voters: tuple[int, ...],
        observers: tuple[int, ...],
        tick: int,
        init_limit: int,
        sync_limit: int,
        config: bytes = b"",
        connect_limit: int = 0,
    ) -> None:
        """``init_limit``, ``sync_limit`` and ``connect_limit`` (to reach an elected leader; 0: ``init_limit``) in ticks; ``config`` is the membership as text, sent with votes and NEWLEADER."""
        self.sid = sid
        self.voters = tuple(sorted(voters))
        self.observers = tuple(sorted(observers))
        self.tick = tick
        self.init_limit = init_limit * tick
        self.sync_limit = sync_limit * tick
        self.connect_limit = (connect_limit or init_limit) * tick
        self.config = config

    @property
    def quorum(self) -> int:
        return len(self.voters) // 2 + 1


# ---- writes: to be carried out in this order, each reported with persisted(token)


class Append(Message):
    """Append the entries to the log and sync it."""

    __slots__ = ("entries", "token")

    def __init__(self, entries: list[Entry], token: int) -> None:
        self.entries = entries
        self.token = token

    def fields(self) -> tuple[Hashable, ...]:
        return tuple(self.entries), self.token


class Truncate(Message):
    """Cut the log after ``zxid``, durably."""

    __slots__ = ("token", "zxid")

    def __init__(self, zxid: int, token: int) -> None:
        self.zxid = zxid
        self.token = token


class StoreAcceptedEpoch(Message):
    """Make the accepted epoch (f.p of the paper) durable."""

    __slots__ = ("epoch", "token")

    def __init__(self, epoch: int, token: int) -> None:
        self.epoch = epoch
        self.token = token


class StoreCurrentEpoch(Message):
    """Make the current epoch (f.a of the paper) durable."""

    __slots__ = ("epoch", "token")

    def __init__(self, epoch: int, token: int) -> None:
        self.epoch = epoch
        self.token = token


class InstallSnapshot(Message):
    """Make ``snapshot`` (the service's state as of ``zxid``) and ``entries`` after it the whole history, durably.

    All of it or nothing: what it replaces may be committed, and must not be lost before what the leader sent is there.
    """

    __slots__ = ("entries", "snapshot", "token", "zxid")

    def __init__(self, zxid: int, snapshot: object, entries: list[Entry], token: int) -> None:
        self.zxid = zxid
        self.snapshot = snapshot
        self.entries = entries
        self.token = token


WriteRequest = Append | Truncate | StoreAcceptedEpoch | StoreCurrentEpoch | InstallSnapshot


def write_state(write: WriteRequest, outbox: "Outbox[Message]") -> Hashable:
    """A write not yet durable, for explorers; snapshots must be hashable."""
    token = outbox.ahead(write.token)
    if isinstance(write, Append):
        return "append", tuple(write.entries), token
    if isinstance(write, Truncate):
        return "truncate", write.zxid, token
    if isinstance(write, InstallSnapshot):
        return "install", write.zxid, write.snapshot, tuple(write.entries), token
    return "accepted" if isinstance(write, StoreAcceptedEpoch) else "current", write.epoch, token


# ---- events: for the service, in this order; a plain Entry among them is a committed entry to be applied


class RoleChange(Message):
    """The member's role. ``serving`` is True from the moment its epoch is established and its history committed.

    ``leader`` is the leader's sid, -1 while looking; ``state`` one of messages.State.
    """

    __slots__ = ("epoch", "leader", "serving", "state")

    def __init__(self, state: int, leader: int, epoch: int, serving: bool) -> None:
        self.state = state
        self.leader = leader
        self.epoch = epoch
        self.serving = serving


class Adopt(Message):
    """The leader sent its whole state: the service's state becomes ``snapshot``, as of ``zxid``."""

    __slots__ = ("snapshot", "zxid")

    def __init__(self, zxid: int, snapshot: object) -> None:
        self.zxid = zxid
        self.snapshot = snapshot


class Received(Message):
    """A service message came: on a leader from a learner's ``link``, on a learner from its leader."""

    __slots__ = ("link", "message")

    def __init__(self, link: int, message: Service) -> None:
        self.link = link
        self.message = message


class Touched(Message):
    """A learner's answer to a ping: the sessions its clients touched, as the service packed them."""

    __slots__ = ("data", "link")

    def __init__(self, link: int, data: bytes) -> None:
        self.link = link
        self.data = data


class LearnerLost(Message):
    """The leader's link to a learner is gone."""

    __slots__ = ("link",)

    def __init__(self, link: int) -> None:
        self.link = link


class Synced(Message):
    """On the leader: everything proposed before the call of ``sync`` with this key is committed and applied, and nothing after it. ``link``: 0."""

    __slots__ = ("key", "link")

    def __init__(self, link: int, key: Hashable) -> None:
        self.link = link
        self.key = key


ServiceEvent = Entry | RoleChange | Adopt | Received | Touched | LearnerLost | Synced


class Replica:
    """One member's Zab state, and the outputs that its roles fill."""

    __slots__ = (
        "accepted_epoch",
        "current_epoch",
        "disconnects",
        "events",
        "history",
        "outbox",
        "settings",
        "writes",
    )

    def __init__(
        self, settings: Settings, history: History, accepted_epoch: int, current_epoch: int, outbox: "Outbox[Message]"
    ) -> None:
        self.settings = settings
        self.history = history
        self.accepted_epoch = accepted_epoch
        """f.p: no leader of an older epoch is followed. Durable when the token of its write is."""
        self.current_epoch = current_epoch
        """f.a: the epoch whose leader's history this member's log starts with."""
        self.outbox = outbox
        self.writes: list[WriteRequest] = []
        self.events: list[ServiceEvent] = []
        self.disconnects: list[int] = []

    def accept_epoch(self, epoch: int) -> int:
        """Accept an epoch; the token of its write."""
        assert epoch > self.accepted_epoch
        self.accepted_epoch = epoch
        token = self.outbox.token()
        self.writes.append(StoreAcceptedEpoch(epoch, token))
        return token

    def enter_epoch(self, epoch: int) -> int:
        """Record that the log starts with this epoch's initial history, which must be durable; the token of the write."""
        assert self.outbox.durable == self.outbox.issued, (
            "the history must be durable before the epoch that vouches for it"
        )
        assert epoch <= self.accepted_epoch
        if epoch == self.current_epoch:
            return self.outbox.durable
        self.current_epoch = epoch
        token = self.outbox.token()
        self.writes.append(StoreCurrentEpoch(epoch, token))
        return token

    def append(self, entries: list[Entry]) -> int:
        token = self.outbox.token()
        self.writes.append(Append(entries, token))
        return token

    def state(self) -> Hashable:
        outbox = self.outbox
        return (
            self.history.state(),
            self.accepted_epoch,
            self.current_epoch,
            outbox.state(),
            tuple([write_state(write, outbox) for write in self.writes]),
            tuple(self.events),
            tuple(self.disconnects),
        )
