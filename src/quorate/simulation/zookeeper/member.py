"""One life of one ZooKeeper member on a virtual machine: the production store, server and Zab core, watched from outside.

Nothing is replaced: the watchers wrap the calls by which the production driver reports what it does.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from quorate.consensus.zab.election import Election
from quorate.consensus.zab.messages import AckEpoch, Acks, Entry, LeaderInfo, Message, State, first_zxid
from quorate.consensus.zab.peer import Drained, Peer
from quorate.consensus.zab.replica import Append, InstallSnapshot, RoleChange, Truncate, WriteRequest
from quorate.simulation import trace as kinds
from quorate.simulation.machine import Machine, SimulatedEnvironment
from quorate.simulation.scheduler import MILLISECOND, Stream
from quorate.zookeeper.config import Address, MemberConfig, PeerType, ServerSpec
from quorate.zookeeper.fourletter import answer
from quorate.zookeeper.member import Member
from quorate.zookeeper.purge import Purger
from quorate.zookeeper.report import MemberReport
from quorate.zookeeper.store import Store, StoreSettings
from quorate.zookeeper.tree import DataTree

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.world import World

CLIENT_PORT = 2181
QUORUM_PORT = 2888
ELECTION_PORT = 3888


def address_of(sid: int) -> str:
    return f"10.0.0.{sid}"


class Promises:
    """What a member has told others that its disk holds, over all its lives; recovery must find it there."""

    __slots__ = ("accepted_epoch", "current_epoch", "entries", "synced", "zxid")

    def __init__(self) -> None:
        self.zxid = 0
        """The last entry acknowledged, unless the member has since been told to cut its log or to take another state."""
        self.accepted_epoch = 0
        self.current_epoch = 0
        self.entries: list[int] = []
        """The zxids of what was written since the latest snapshot, synced or not."""
        self.synced = 0
        """The last entry that the member knows to be durable."""

    def forget(self) -> None:
        """The disk was damaged or emptied: the operator, not the member, broke these."""
        self.zxid = self.accepted_epoch = self.current_epoch = self.synced = 0
        self.entries.clear()

    def holds(self, zxid: int) -> bool:
        """Whether the entry is on the disk, by what the member knows."""
        entries = self.entries
        place = bisect_right(entries, zxid) - 1
        return self.synced >= zxid and place >= 0 and entries[place] == zxid

    @property
    def written(self) -> int:
        """The last entry written: a leader's own log counts for a quorum without a message."""
        return self.entries[-1] if self.entries else 0

    def append(self, entries: Sequence[Entry]) -> None:
        self.entries += [entry.zxid for entry in entries]

    def cut(self, zxid: int) -> list[int]:
        """Forget what is after ``zxid``, and return it."""
        kept = bisect_right(self.entries, zxid)
        gone = self.entries[kept:]
        del self.entries[kept:]
        self.synced = min(self.synced, zxid)
        return gone


class Life:
    """A process from its start to its end. ``member`` is None until recovery has succeeded."""

    def __init__(self, world: "World", machine: Machine, sid: int, number: int) -> None:
        self.world = world
        self.sid = sid
        self.machine = machine
        self.env: SimulatedEnvironment = machine.start(Random(f"{world.seed}/process {number}"))
        self.member: Member | None = None
        self.purger: Purger | None = None
        self._number = number

    def begin(self) -> None:
        """In the process. Raises what recovery raises."""
        world, env = self.world, self.env
        config = _config(world, self.sid)
        log_disk, data_disk = world.disks[self.sid].handles(env)
        settings = StoreSettings(preallocate=config.preallocate, snap_count=config.snap_count)
        store = Store(log_disk, data_disk, env, settings)
        report = MemberReport(config, "", {})
        member = Member(
            env,
            config,
            store,
            lambda word, argument: answer(word, report, config.four_letter_words, argument),
            self._failed,
        )
        report.attach(member)
        self.member = member
        self._check_recovery(member)
        _Watch(self, member)
        if world.spec is not None:
            world.spec.watch(self.sid, member)
        if world.options["blind"] and member.peer is not None:
            member.peer.election = _BlindElection(world, member.peer, Stream(world.seed, f"blind {self._number}"))
        self.purger = Purger(log_disk, data_disk, env, config.purge_snapshots_kept, config.purge_interval)
        member.start()
        self.purger.start()

    def _failed(self, reason: str) -> None:
        self.world.member_failed(self, reason)

    def _check_recovery(self, member: Member) -> None:
        """Whatever was promised is there."""
        world, sid = self.world, self.sid
        tree = member.server.tree
        promises = world.promises[sid]
        if member.peer is not None and sid not in world.damaged:
            replica = member.peer.replica
            last, accepted, current = replica.history.last, replica.accepted_epoch, replica.current_epoch
            if promises.zxid > last:
                world.violate(f"durability: member {sid} acknowledged {promises.zxid:#x}, but recovers up to {last:#x}")
            if promises.accepted_epoch > accepted:
                world.violate(
                    f"durability: member {sid} accepted epoch {promises.accepted_epoch}, but recovers with {accepted}"
                )
            if promises.current_epoch > current:
                world.violate(
                    f"durability: member {sid} entered epoch {promises.current_epoch}, but recovers with {current}"
                )
        if member.peer is not None:
            history = member.peer.replica.history
            promises.entries[:] = [history.base, *[entry.zxid for entry in history.tail()]]
            promises.synced = min(promises.synced, history.last)
        world.judge.restarted(sid, tree.last_zxid)


def _config(world: "World", sid: int) -> MemberConfig:
    options = world.options
    tick_ms = options["tick"] // MILLISECOND
    servers = tuple(
        ServerSpec(
            other,
            Address(address_of(other), QUORUM_PORT),
            Address(address_of(other), ELECTION_PORT),
            PeerType.PARTICIPANT if other in world.voters else PeerType.OBSERVER,
        )
        for other in world.members
    )
    return MemberConfig(
        "zoo.cfg",
        my_id=sid,
        tick_time=tick_ms,
        init_limit_ticks=options["init_limit"],
        sync_limit_ticks=options["sync_limit"],
        servers=servers if len(servers) > 1 else (),
        peer_type=PeerType.PARTICIPANT if sid in world.voters else PeerType.OBSERVER,
        client_address=Address(address_of(sid), CLIENT_PORT),
        min_session_timeout=2 * tick_ms,
        max_session_timeout=40 * tick_ms,
        snap_count=options["snap_count"],
        preallocate=options["preallocate"],
        commit_log_count=options["commit_log"],
        purge_interval=10 * tick_ms,
        admin_enabled=False,
    )


class _Watch:
    """Tells the judge what the member does, at the moment it does it."""

    def __init__(self, life: Life, member: Member) -> None:
        self._world = life.world
        self._sid = life.sid
        self._life = life
        self._member = member
        server, core = member.server, member.core
        self._apply = server.apply
        self._adopt = server.adopt
        self._propose = core.propose
        self._change_role = member._change_role
        self._send = member._send
        self._write = member._write
        self._persisted = core.persisted
        self._unsynced: deque[tuple[int, int]] = deque()
        """(token, last entry) of writes that the member does not know to be durable."""
        if member.peer is not None:
            # what recovery found is durable once the first token is
            self._unsynced.append((member.peer.outbox.issued, member.peer.replica.history.last))
        for owner, name in (
            (server, "apply"),
            (server, "adopt"),
            (core, "propose"),
            (core, "persisted"),
            (member, "_change_role"),
            (member, "_send"),
            (member, "_write"),
        ):
            setattr(owner, name, getattr(self, name.lstrip("_")))

    def apply(self, entry: Entry) -> None:
        world, sid = self._world, self._sid
        server = self._member.server
        if self._member.peer is not None and not world.judge.committed(entry.zxid):
            world.commits_first(sid, entry.zxid)
        world.judge.applied(sid, entry.zxid, entry.payload)
        self._apply(entry)
        world.applied(sid, entry.zxid, server.tree)

    def persisted(self, token: int) -> None:
        unsynced = self._unsynced
        promises = self._world.promises[self._sid]
        while unsynced and unsynced[0][0] <= token:
            promises.synced = max(promises.synced, unsynced.popleft()[1])
        self._persisted(token)

    def adopt(self, tree: DataTree) -> None:
        self._world.judge.adopted(self._sid, tree.last_zxid)
        self._adopt(tree)

    def propose(self, payload: bytes, decoded: object = None) -> int:
        zxid = self._propose(payload, decoded)
        self._world.judge.proposed(self._sid, zxid, payload)
        return zxid

    def change_role(self, role: RoleChange) -> None:
        world, sid, member = self._world, self._sid, self._member
        tree = member.server.tree
        serving = ", serving" if role.serving else ""
        world.note(kinds.ROLE, sid, f"{_NAMES[role.state]} epoch {role.epoch} leader {role.leader}{serving}")
        if role.state == State.LOOKING:
            world.looking(member.core.reason)
        self._change_role(role)
        if role.serving and member.peer is not None:
            if role.state == State.LEADING:
                world.judge.established(sid, role.epoch, tree.last_zxid)
            else:
                world.judge.serving(sid, role.leader, role.epoch, tree.last_zxid)
            world.served(self._life)

    def send(self, drained: Drained) -> None:
        world, peer = self._world, self._member.peer
        if peer is not None:
            promises = world.promises[self._sid]
            for channel, messages in drained.messages.items():
                if channel < 0:
                    for message in messages:
                        self._promised(promises, peer, message)
                    if world.sniper is not None:
                        world.sniper.sent(self._sid, channel, messages)
        self._send(drained)

    def _promised(self, promises: Promises, peer: Peer, message: Message) -> None:
        kind = type(message)
        if kind is Acks:
            assert isinstance(message, Acks)
            learner = peer.learner
            if learner is not None and message.last == first_zxid(learner.epoch):
                promises.current_epoch = max(promises.current_epoch, learner.epoch)
            else:
                promises.zxid = max(promises.zxid, message.last)
        elif kind is AckEpoch:
            if peer.learner is not None:
                promises.accepted_epoch = max(promises.accepted_epoch, peer.learner.epoch)
        elif kind is LeaderInfo:
            assert isinstance(message, LeaderInfo)
            promises.accepted_epoch = max(promises.accepted_epoch, message.epoch)

    def _gives_up(self, promises: Promises, write: Truncate | InstallSnapshot) -> None:
        """The member's disk is about to lose the end of its history. What is committed must not be in it: it may be one of
        the few that hold it."""
        world, sid = self._world, self._sid
        kept = set() if isinstance(write, Truncate) else {entry.zxid for entry in write.entries}
        for zxid in promises.cut(write.zxid):
            if sid in world.voters and sid not in world.damaged and world.judge.committed(zxid) and zxid not in kept:
                world.violate(
                    f"durability: member {sid} is to give up {zxid:#x}, which is committed, with all after {write.zxid:#x}"
                )
                break
        promises.zxid = 0
        # what is under way and not cut is still to become durable, the rest is not
        self._unsynced = deque((token, min(last, write.zxid)) for token, last in self._unsynced)
        if isinstance(write, InstallSnapshot):
            promises.entries[:] = [write.zxid]
            promises.append(write.entries)
            self._unsynced.append((write.token, write.entries[-1].zxid if write.entries else write.zxid))

    def write(self, write: WriteRequest) -> None:
        world = self._world
        promises = world.promises[self._sid]
        if isinstance(write, Append):
            promises.append(write.entries)
            self._unsynced.append((write.token, write.entries[-1].zxid))
        elif isinstance(write, Truncate | InstallSnapshot):
            self._gives_up(promises, write)
        if world.sniper is not None:
            world.sniper.written(self._sid, write)
        world.probe(type(write).__name__)
        self._write(write)


_NAMES = {
    State.LOOKING: "LOOKING",
    State.FOLLOWING: "FOLLOWING",
    State.LEADING: "LEADING",
    State.OBSERVING: "OBSERVING",
}


class _BlindElection(Election):
    """Votes with whatever history it likes while there are faults: the election is a hint, and no promise of Zab may rest on it."""

    def __init__(self, world: "World", peer: Peer, stream: Stream) -> None:
        settings = peer.settings
        super().__init__(settings.sid, settings.voters, peer.outbox, settings.config)
        self._world = world
        self._stream = stream

    def look(self, now: int, last_zxid: int, current_epoch: int) -> None:
        if self._world.faulty:
            last_zxid = self._stream.between(0, 1000)
            current_epoch = 0
        super().look(now, last_zxid, current_epoch)
