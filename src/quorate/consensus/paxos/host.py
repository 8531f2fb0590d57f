"""A process's member of all groups: their cores, one journal, one connection to each other member, one timer.

Whatever happens (bytes, timers, completed writes, calls by services) only changes state and asks for a drain, which then runs once for all
that happened in all groups: one write and one sync of the journal, one frame to each member, one flush of each service.
"""

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random

from quorate.consensus.contract import NEVER
from quorate.consensus.paxos import snapshots, wire
from quorate.consensus.paxos.group import Group, Limits
from quorate.consensus.paxos.joining import Ended
from quorate.consensus.paxos.journal import GroupLog, Journal
from quorate.consensus.paxos.links import Links
from quorate.consensus.paxos.members import Member, Members
from quorate.consensus.paxos.messages import Heartbeat, HeartbeatReply, Install, Message, Write
from quorate.consensus.paxos.peer import Drained, Peer
from quorate.consensus.paxos.settings import MILLISECOND, Settings
from quorate.consensus.replicated import ServiceFactory
from quorate.errors import CorruptionError, LocalProtocolError, RemoteProtocolError, StorageError
from quorate.runtime.environment import Environment, Timer
from quorate.storage.disk import Disk

log = logging.getLogger(__name__)

PEER = "peer"
"""The name of the address at which a member listens for the others."""
_SEGMENTS = 3
"""With more of the journal than so many segments, groups that keep the oldest make a snapshot."""


class HostSettings:
    """Times are nanoseconds. ``members``: those that every group begins with; this one is not among them if it is to be added later, and
    then they are whom it dials. ``groups``: their numbers. ``listen``: (host, port) for other members."""

    __slots__ = (
        "accept_quorum",
        "clock_error",
        "cluster",
        "election_timeout",
        "folder",
        "groups",
        "heartbeat",
        "lease",
        "limits",
        "listen",
        "members",
        "preallocate",
        "segment",
        "sid",
    )

    def __init__(
        self,
        sid: int,
        members: Sequence[Member],
        listen: tuple[str, int],
        *,
        cluster: str = "quorate",
        groups: Sequence[int] = (1,),
        accept_quorum: int = 0,
        heartbeat: int = 50 * MILLISECOND,
        election_timeout: int = 500 * MILLISECOND,
        lease: int = 0,
        clock_error: int = 1000,
        limits: Limits | None = None,
        segment: int = 64 << 20,
        preallocate: int = 16 << 20,
        folder: str = "",
    ) -> None:
        """``folder`` is put before file names in messages."""
        self.sid = sid
        self.members = tuple(members)
        self.listen = listen
        self.cluster = int.from_bytes(blake2b(cluster.encode(), digest_size=8).digest())
        self.groups = tuple(groups)
        self.accept_quorum = accept_quorum
        self.heartbeat = heartbeat
        self.election_timeout = election_timeout
        self.lease = lease
        self.clock_error = clock_error
        self.limits = limits or Limits()
        self.segment = segment
        self.preallocate = preallocate
        self.folder = folder and folder.rstrip("/") + "/"

    def of_core(self) -> Settings:
        sids = tuple(member.sid for member in self.members)
        return Settings(
            self.sid,
            sids if self.sid in sids else (),
            accept_quorum=self.accept_quorum if self.sid in sids else 0,
            heartbeat=self.heartbeat,
            election_timeout=self.election_timeout,
            lease=self.lease,
            clock_error=self.clock_error,
        )


class Host:
    """Implements links.Receiver and group.Owner.

    Construction recovers from disk: raises CorruptionError, StorageError, UsageError. ``failed(reason)`` is called when this member must
    stop. ``snapshot_disk`` may be the journal's; another one on the same folder keeps snapshots from delaying the log.
    """

    def __init__(
        self,
        env: Environment,
        journal_disk: Disk,
        snapshot_disk: Disk,
        settings: HostSettings,
        factory: ServiceFactory,
        failed: Callable[[str], None],
    ) -> None:
        self.env = env
        self.snapshot_disk = snapshot_disk
        self.settings = settings
        self._failed = failed
        self._stopped = False
        self._scheduled = False
        self._dirty: dict[int, Group] = {}
        self._timer: Timer | None = None
        self._timer_at = NEVER
        self._connected: dict[int, None] = {}
        self._addresses: dict[int, tuple[str, int]] = {}
        self._memberships: dict[int, tuple[int, bool]] = {}
        """Of each group, when the addresses were last looked at."""
        self.journal = Journal(
            journal_disk, segment=settings.segment, preallocate=settings.preallocate, folder=settings.folder
        )
        self.links = Links(env, settings.sid, settings.cluster, self, settings.election_timeout)
        logs, notes = self.journal.recover()
        for note in notes:
            log.warning("%s", note)
        self.groups: dict[int, Group] = {}
        for number in settings.groups:
            self.groups[number] = self._recover(number, logs.get(number, GroupLog()), factory)

    def _recover(self, number: int, found: GroupLog, factory: ServiceFactory) -> Group:
        settings, disk = self.settings, self.snapshot_disk
        snapshots.clean(disk, number, self._cleaned)
        group = Group(self, number, settings.limits, settings.folder)
        group.service = factory(self.env, group)
        index, members = self._restore(group)
        if index < found.base:
            raise CorruptionError(
                settings.folder + snapshots.folder_of(number),
                0,
                f"no snapshot of what the log lacks up to {found.base}",
            )
        base, entries = found.base, found.entries
        if index > found.last:
            # it came from another member, and the crash came before the log was told
            base, entries = index, []
            self.journal.write([(number, Install(index, 0))], self._cleaned)
        group.peer = Peer(
            settings.of_core(),
            self.env.now(),
            Random(self.env.random.getrandbits(64)),
            promised=found.promised,
            accepted=found.accepted,
            entries=entries,
            decided=index,
            base=base,
            members=members or (settings.members if settings.of_core().members else ()),
        )
        group.restored(index, sum(len(entry.payload) for entry in entries))
        return group

    def _restore(self, group: Group) -> tuple[int, Members]:
        """Load the newest snapshot, if there is one: its index and members."""
        there = snapshots.indices(self.snapshot_disk, group.group)
        if not there:
            return 0, ()
        path = snapshots.path_of(group.group, there[-1])
        reader = snapshots.Reader(self.snapshot_disk, path, group.group, self.settings.folder)
        restorer = group.service.restorer()
        for _ in reader.feed(restorer):
            """All at once: nothing else goes on yet."""
        group.service.adopt(restorer)
        return reader.index, reader.members

    def _cleaned(self, error: StorageError | None) -> None:
        if error is not None:
            self.failed(f"the disk failed: {error}")

    # ---- life

    def start(self) -> None:
        """Listen and begin, once what recovery found is durable. Raises UsageError if the port cannot be had."""
        self.links.listen(*self.settings.listen)
        self.journal.settle(self._begin)

    def _begin(self, error: StorageError | None) -> None:
        if error is not None:
            self.failed(f"the disk failed: {error}")
        if self._stopped:
            return
        self.links.begin()
        self._refresh_addresses()
        for group in self.groups.values():
            self.touch(group)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self.links.close()

    def failed(self, reason: str) -> None:
        if not self._stopped:
            self._stopped = True
            self._failed(reason)

    # ---- the drain

    def touch(self, group: Group) -> None:
        self._dirty[group.group] = group
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self.env.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._carry_out()
        except Exception:
            # entries may be half applied: this state must never be served or built upon
            log.exception("a bug of ours; this member stops")
            self.failed("an internal error")

    def _carry_out(self) -> None:
        dirty, self._dirty = self._dirty, {}
        drained = [(group, group.drain()) for group in dirty.values()]
        writes = [(group.group, write) for group, found in drained for write in found.writes]
        if writes:
            self._write(writes, [(group, found.writes[-1].token) for group, found in drained if found.writes])
        self._send(drained)
        moved = False
        for group, found in drained:
            group.handle(found.events)
            moved = moved or group.membership() != self._memberships.get(group.group)
        if moved:
            self._refresh_addresses()
        self._arm()

    def _write(self, writes: list[tuple[int, Write]], tokens: list[tuple[Group, int]]) -> None:
        installs = any(isinstance(write, Install) for _, write in writes)

        def done(error: StorageError | None) -> None:
            if self._stopped:
                return
            if error is not None:
                self.failed(f"the disk failed, nothing is acknowledged any more: {error}")
                return
            now = self.env.now()
            for group, token in tokens:
                group.peer.tick(now)
                group.peer.persisted(token)
                self.touch(group)
            if installs:
                self.journal.remove_old(self._cleaned)
            if self.journal.segments > _SEGMENTS:
                for number in self.journal.oldest_needed_by():
                    if number in self.groups:
                        self.groups[number].make_room()

        self.journal.write(writes, done)

    def _send(self, drained: list[tuple[Group, Drained]]) -> None:
        frames: dict[int, list[bytes]] = {}
        beats: dict[int, list[tuple[int, Heartbeat]]] = {}
        replies: dict[int, list[tuple[int, HeartbeatReply]]] = {}
        packed: dict[int, list[bytes]] = {}
        for group, found in drained:
            for sid, messages in found.messages.items():
                for message in messages:
                    if isinstance(message, Heartbeat):
                        beats.setdefault(sid, []).append((group.group, message))
                        continue
                    if isinstance(message, HeartbeatReply):
                        replies.setdefault(sid, []).append((group.group, message))
                        continue
                    # what goes to several members is packed once
                    pieces = packed.get(id(message))
                    if pieces is None:
                        pieces = packed[id(message)] = wire.pack(group.group, message)
                    frames.setdefault(sid, []).extend(pieces)
        for sid, rows in beats.items():
            frames.setdefault(sid, []).extend(wire.pack_heartbeats(rows))
        for sid, answers in replies.items():
            frames.setdefault(sid, []).extend(wire.pack_heartbeat_replies(answers))
        for sid, pieces in frames.items():
            self.links.send(sid, wire.frame(pieces))

    def send_item(self, sid: int, group: int, kind: int, body: list[bytes]) -> None:
        self.links.send(sid, wire.frame(wire.pack_item(group, kind, body)))

    # ---- time

    def _arm(self) -> None:
        """One timer for the earliest deadline of all groups. A later one than armed needs nothing: the timer looks again."""
        deadline = min((group.peer.deadline() for group in self.groups.values()), default=NEVER)
        if deadline == NEVER or self._stopped:
            return
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self.env.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.env.now()
        for group in self.groups.values():
            group.tick(now, 4 * self.settings.election_timeout)
            self.touch(group)

    # ---- links

    def link_up(self, sid: int) -> None:
        self._connected[sid] = None
        now = self.env.now()
        for group in self.groups.values():
            group.peer.tick(now)
            group.peer.connected(sid)
            group.reconnected(sid)
            self.touch(group)

    def link_down(self, sid: int) -> None:
        self._connected.pop(sid, None)
        now = self.env.now()
        for group in self.groups.values():
            group.peer.tick(now)
            group.peer.disconnected(sid)
            self.touch(group)

    def received(self, sid: int, frame: bytes) -> None:
        if self._stopped:
            return
        try:
            self._received(sid, frame)
        except RemoteProtocolError:
            raise
        except Exception:
            log.exception("a bug of ours; this member stops")
            self.failed("an internal error")

    def _received(self, sid: int, frame: bytes) -> None:
        now = self.env.now()
        for number, kind, body in wire.items(frame):
            if kind == wire.HEARTBEATS:
                for of, beat in wire.unpack_heartbeats(body):
                    self._deliver(now, sid, of, beat)
            elif kind == wire.HEARTBEAT_REPLIES:
                for of, reply in wire.unpack_heartbeat_replies(body):
                    self._deliver(now, sid, of, reply)
            elif kind == wire.SNAPSHOT_REQUEST:
                if number in self.groups and (chunk := self.groups[number].serve(sid, body)):
                    self.send_item(sid, number, wire.SNAPSHOT_CHUNK, chunk)
            elif kind == wire.SNAPSHOT_CHUNK:
                if number in self.groups:
                    self.groups[number].chunk(sid, body)
            else:
                self._deliver(now, sid, number, wire.unpack(kind, body))

    def _deliver(self, now: int, sid: int, number: int, message: Message) -> None:
        group = self.groups.get(number)
        if group is not None:  # else it is a group that this member does not have yet
            group.peer.tick(now)
            group.peer.receive(sid, message)
            self.touch(group)

    # ---- members

    def _refresh_addresses(self) -> None:
        known: dict[int, Member] = {}
        if self.settings.sid not in [member.sid for member in self.settings.members]:
            known.update((member.sid, member) for member in self.settings.members)
        for group in self.groups.values():
            self._memberships[group.group] = group.membership()
            entries = group.peer.acceptor.log
            for member in (*entries.members_of(entries.decided), *group.peer.members):
                known[member.sid] = member
            learner = group.learner()
            if learner is not None:
                known[learner.sid] = learner
        addresses: dict[int, tuple[str, int]] = {}
        for sid, member in known.items():
            host, _, port = member.addresses.get(PEER, "").rpartition(":")
            if port.isdigit():
                addresses[sid] = (host.strip("[]"), int(port))
        if addresses != self._addresses:
            self._addresses = addresses
            self.links.set_addresses(addresses)

    def add_member(self, group: int, member: Member, patience: int, ended: Ended) -> None:
        """Add a member to a group that this one leads: it is sent the log first, for at most ``patience`` nanoseconds."""
        if group not in self.groups:
            ended(LocalProtocolError(f"there is no group {group} here"))
            return
        self.groups[group].change(member, True, patience, ended)
        self._refresh_addresses()

    def remove_member(self, group: int, sid: int, patience: int, ended: Ended) -> None:
        if group not in self.groups:
            ended(LocalProtocolError(f"there is no group {group} here"))
            return
        self.groups[group].change(Member(sid, {}), False, patience, ended)

    def hand_over(self, group: int, sid: int, ended: Ended) -> None:
        """Let another member lead a group that this one leads."""
        if group not in self.groups:
            ended(LocalProtocolError(f"there is no group {group} here"))
            return
        self.groups[group].hand_over(sid, ended)
