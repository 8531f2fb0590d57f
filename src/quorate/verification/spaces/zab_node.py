"""One member of a Zab ensemble as an explorer sees it: the production core, its disk, and what its service applied.

A :class:`Node` is a life of a member: the real :class:`quorate.consensus.zab.peer.Peer` with a disk that carries out one
write at a time, in order. The disk keeps exactly what was carried out; a crash loses the core and every write still waiting,
but for a prefix of an append's entries that may have got there. The service is the list of entries applied.

No time passes in a node by itself: its clock stands still between events and is set on when a timer is to run out. That
abstracts from every duration: whatever the limits are, they may end at any moment that the explorer picks.
"""

from collections.abc import Hashable
from typing import Final

from quorate.consensus.contract import NEVER, Outbox
from quorate.consensus.zab.election import Election
from quorate.consensus.zab.history import follows
from quorate.consensus.zab.learner import Phase
from quorate.consensus.zab.messages import Entry, Message, NewLeader, Notification, Packet, Snap, Vote
from quorate.consensus.zab.peer import Drained, Peer
from quorate.consensus.zab.replica import (
    Adopt,
    Append,
    InstallSnapshot,
    Settings,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
    WriteRequest,
    write_state,
)
from quorate.runtime.environment import MILLISECOND

TICK: Final = 1000 * MILLISECOND
LIMIT: Final = 5
"""initLimit and syncLimit in ticks; since time is abstract any value does."""
LONG: Final = 1000 * LIMIT * TICK
"""Longer than every limit of a core together."""

Entries = tuple[Entry, ...]

DOWN: Final = "down"
LOOKING: Final = "looking"
LEADING: Final = "leading"
FOLLOWING: Final = "following"


class Oracle(Election):
    """An election that sends nothing and lasts until somebody outside says who won."""

    def look(self, now: int, last_zxid: int, current_epoch: int) -> None:
        self.state = 0
        self.decided = None
        self.vote = Vote(self.sid, 0, 0)

    def reachable(self, now: int, sids: frozenset[int]) -> None:
        self._reachable = sids

    def tick(self, now: int) -> None:
        """Nothing happens by itself."""

    def deadline(self) -> int:
        return NEVER

    def receive(self, now: int, sender: int, notification: Notification) -> None:
        raise AssertionError("an oracle's electorate does not talk")

    def elect(self, leader: int) -> None:
        self._settle(Vote(leader, 0, 0))


class Disk:
    """What survives a crash."""

    __slots__ = ("accepted_epoch", "current_epoch", "log", "snapshot", "snapshot_zxid")

    def __init__(self) -> None:
        self.accepted_epoch = 0
        self.current_epoch = 0
        self.log: Entries = ()
        self.snapshot_zxid = 0
        self.snapshot: Entries = ()
        """The entries that the newest snapshot stands for."""

    def carry_out(self, write: WriteRequest) -> None:
        if isinstance(write, Append):
            self.log += tuple(write.entries)
        elif isinstance(write, Truncate):
            self.log = tuple([entry for entry in self.log if entry.zxid <= write.zxid])
        elif isinstance(write, StoreAcceptedEpoch):
            self.accepted_epoch = write.epoch
        elif isinstance(write, StoreCurrentEpoch):
            self.current_epoch = write.epoch
        else:
            assert isinstance(write, InstallSnapshot)
            assert isinstance(write.snapshot, tuple)
            self.snapshot_zxid, self.snapshot = write.zxid, write.snapshot
            self.log = tuple(write.entries)

    @property
    def tail(self) -> Entries:
        """What recovery hands to the core beside the snapshot."""
        return tuple([entry for entry in self.log if entry.zxid > self.snapshot_zxid])

    @property
    def history(self) -> Entries:
        return self.snapshot + self.tail

    def disorder(self) -> str:
        """Where the log is not an unbroken history; empty if it is."""
        before = self.snapshot_zxid
        for entry in self.tail:
            if not follows(before, entry.zxid):
                return f"the log goes from {before:#x} to {entry.zxid:#x}"
            before = entry.zxid
        return ""

    def state(self) -> Hashable:
        return self.accepted_epoch, self.current_epoch, self.log, self.snapshot_zxid, self.snapshot


class Node:
    """A member, running or not. What an event makes it do is taken with ``take``."""

    __slots__ = ("applied", "clock", "disk", "entered", "oracle", "peer", "sid", "voters", "window", "writes")

    def __init__(self, sid: int, voters: tuple[int, ...], window: int, oracle: bool) -> None:
        """``window``: committed entries kept for learners. Down until ``start``."""
        self.sid = sid
        self.voters = voters
        self.window = window
        self.oracle = oracle
        self.clock = 0
        self.disk = Disk()
        self.peer: Peer | None = None
        self.writes: list[WriteRequest] = []
        self.applied: Entries = ()
        self.entered = 0
        """The epoch for which a quorum acknowledged this leader, which has told a learner so with NEWLEADER; else 0."""

    # ---- events

    def start(self, reachable: frozenset[int]) -> None:
        disk = self.disk
        settings = Settings(self.sid, self.voters, (), TICK, LIMIT, LIMIT)
        self.peer = peer = Peer(
            settings, disk.snapshot_zxid, list(disk.tail), disk.accepted_epoch, disk.current_epoch, self.window
        )
        if self.oracle:
            peer.election = Oracle(self.sid, self.voters, peer.outbox, b"")
        self.applied = disk.snapshot
        peer.start(self.clock)
        peer.reachable(self.clock, reachable)

    def crash(self, torn: int) -> None:
        """``torn``: how many entries of the append under way got to the disk all the same."""
        if torn:
            write = self.writes[0]
            assert isinstance(write, Append)
            self.disk.carry_out(Append(write.entries[:torn], write.token))
        self.peer = None
        self.writes = []
        self.applied = ()
        self.entered = 0

    def write(self) -> None:
        """The next write is carried out and reported."""
        write = self.writes.pop(0)
        self.disk.carry_out(write)
        self._core.persisted(write.token)

    def receive(self, channel: int, message: Notification | Packet) -> None:
        self._core.receive(channel, message)

    def elect(self, leader: int) -> None:
        election = self._core.election
        assert isinstance(election, Oracle)
        election.elect(leader)
        self._core.tick(self.clock)

    def reachable(self, sids: frozenset[int]) -> None:
        self._core.reachable(self.clock, sids)

    def accepted(self, link: int) -> None:
        self._core.accepted(self.clock, link)

    def connected(self, link: int) -> None:
        """The dial is answered; one that failed before is repeated first."""
        peer = self._core
        if not peer.dialling:
            self.clock = max(self.clock, peer.deadline())
            peer.tick(self.clock)
        peer.connected(self.clock, link)

    def disconnected(self, link: int) -> None:
        self._core.disconnected(self.clock, link)

    def time_out(self) -> None:
        """The role's limits run out."""
        self.clock += LONG
        self._core.tick(self.clock)

    def settle(self) -> None:
        """The election's wait for a better vote ends."""
        self.clock = max(self.clock, self._core.deadline())
        self._core.tick(self.clock)

    def propose(self, payload: bytes) -> None:
        self._core.propose(payload)

    @property
    def _core(self) -> Peer:
        assert self.peer is not None
        return self.peer

    # ---- what came of them

    def take(self) -> tuple[dict[int, list[Message]], list[int]]:
        """Everything the core wants done is done or waits here; the messages it sends, by channel, and the links it closes."""
        if self.peer is None:
            return {}, []
        drained: Drained = self.peer.drain()
        self.writes += drained.writes
        for event in drained.events:
            if isinstance(event, Entry):
                self.applied += (event,)
            elif isinstance(event, Adopt):
                assert isinstance(event.snapshot, tuple)
                self.applied = event.snapshot
        leader = self.peer.leader
        if leader is None:
            self.entered = 0
        for messages in drained.messages.values():
            for message in messages:
                if isinstance(message, NewLeader) and leader is not None:
                    self.entered = leader.epoch
                elif isinstance(message, Snap):
                    # its link asks the service for the state as it sends it
                    message.snapshot = self.applied
        return drained.messages, drained.disconnects

    @property
    def dialling(self) -> int:
        """The sid of the leader it wants to be connected to, -1 if none."""
        learner = None if self.peer is None else self.peer.learner
        return learner.leader if learner is not None and learner.phase == Phase.CONNECTING else -1

    @property
    def torn(self) -> int:
        """How many entries of the append under way, but not all, may get to the disk in a crash."""
        write = self.writes[0] if self.writes else None
        return len(write.entries) - 1 if isinstance(write, Append) else 0

    def state(self) -> Hashable:
        if self.peer is None:
            return self.disk.state()
        outbox: Outbox[Message] = self.peer.outbox
        writes = tuple([write_state(write, outbox) for write in self.writes])
        return self.peer.state(), self.disk.state(), writes, self.applied, self.entered


class View:
    """What the invariants and the choice of actions look at."""

    __slots__ = (
        "applied", "dialling", "durable", "epoch", "established", "following", "history", "kept", "role", "serving",
        "synced", "torn", "waiting", "writes",
    )  # fmt: skip

    def __init__(self, node: Node) -> None:
        peer = node.peer
        leader = None if peer is None else peer.leader
        learner = None if peer is None else peer.learner
        self.role = DOWN if peer is None else LEADING if leader is not None else FOLLOWING if learner else LOOKING
        self.following = -1 if learner is None else learner.leader
        """The sid of the leader followed, -1 if none."""
        self.established = leader is not None and leader.established
        self.serving = learner is not None and learner.phase == Phase.SERVING
        self.synced = learner is not None and learner.phase >= Phase.ENTERING
        """The leader's history has come to its end, NEWLEADER."""
        self.epoch = node.entered if leader is not None else learner.epoch if learner is not None else 0
        """Of a leader, only once a quorum acknowledged it."""
        self.applied = node.applied
        self.durable = node.disk.history
        self.kept = node.disk.disorder()
        self.history: Entries = ()
        """All that it has in memory, committed or not."""
        if peer is not None:
            committed = peer.replica.history.committed
            self.history = node.applied + tuple([e for e in peer.replica.history.tail() if e.zxid > committed])
        self.writes = len(node.writes)
        self.torn = node.torn
        self.dialling = node.dialling
        self.waiting = peer is not None and self.role == LOOKING and peer.election.waiting

    def facts(self) -> Hashable:
        """What the invariants judge by."""
        return (
            self.role, self.following, self.established, self.serving, self.synced, self.epoch, self.applied,
            self.durable, self.history, self.kept,
        )  # fmt: skip
