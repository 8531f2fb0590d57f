"""One Paxos group of a process: the core, the service it carries, snapshots, and changes of members. The ``host`` drives it."""

import logging
from collections.abc import Hashable
from typing import Protocol

from quorate.consensus.paxos import snapshots, transfer, wire
from quorate.consensus.paxos.joining import Ended, Joining, shown
from quorate.consensus.paxos.members import Member, Members
from quorate.consensus.paxos.messages import (
    Chosen,
    Event,
    Kind,
    Lagging,
    ReadFailed,
    ReadReady,
    RoleChange,
)
from quorate.consensus.paxos.peer import Drained, Peer
from quorate.consensus.replicated import Restorer, StateMachine
from quorate.errors import (
    CorruptionError,
    LocalProtocolError,
    QuorateError,
    StorageError,
    UsageError,
)
from quorate.runtime.environment import Environment
from quorate.storage.disk import Disk

log = logging.getLogger(__name__)


class Limits:
    """``snapshot_bytes`` and ``snapshot_entries``: so much log makes a snapshot due; ``kept_entries`` stay behind it, for members that lag.
    ``chunk_bytes``: of a snapshot, sent at once; ``held_bytes``: of log that may come while a member fetches one, beyond the size
    of that, 0 for four times ``snapshot_bytes``."""

    __slots__ = ("chunk_bytes", "held_bytes", "kept_entries", "snapshot_bytes", "snapshot_entries")

    def __init__(
        self,
        *,
        snapshot_bytes: int = 64 << 20,
        snapshot_entries: int = 200_000,
        kept_entries: int = 2_000,
        chunk_bytes: int = 1 << 20,
        held_bytes: int = 0,
    ) -> None:
        self.snapshot_bytes = snapshot_bytes
        self.snapshot_entries = snapshot_entries
        self.kept_entries = kept_entries
        self.chunk_bytes = chunk_bytes
        self.held_bytes = held_bytes or 4 * snapshot_bytes


class Owner(Protocol):
    """What a group needs of its host."""

    @property
    def env(self) -> Environment: ...

    @property
    def snapshot_disk(self) -> Disk: ...

    def touch(self, group: "Group") -> None:
        """Something has come of a call: drain this group."""

    def send_item(self, sid: int, group: int, kind: int, body: list[bytes]) -> None: ...

    def failed(self, reason: str) -> None:
        """This member must stop."""


class _Reads:
    """Reads that wait together. ``asked``: when."""

    __slots__ = ("asked", "keys")

    def __init__(self, asked: int, keys: list[Hashable]) -> None:
        self.asked = asked
        self.keys = keys


class Group:
    """Implements consensus.replicated.Replica. The host sets ``service`` and ``peer`` before anything else."""

    service: StateMachine
    peer: Peer

    def __init__(self, owner: Owner, number: int, limits: Limits, folder: str) -> None:
        self.group = number
        self.applied = 0
        self.leader = 0
        self._owner = owner
        self._limits = limits
        self._folder = folder
        self._leading = False
        self._asking: list[Hashable] = []
        self._waiting: list[tuple[int, _Reads]] = []
        self._fresh_at = -1
        """What is applied has all that was acknowledged before this time; -1 if that is not known of any."""
        self._log_bytes = 0
        """Since the last snapshot was begun."""
        self._logged = 0
        """Bytes, ever."""
        self._holds = transfer.Holds(limits.held_bytes)
        self._snapshot = 0
        """The index of the newest snapshot."""
        self._writer: snapshots.Writer | None = None
        self._incoming: transfer.Incoming | None = None
        self._joining: Joining | None = None
        self._handing: tuple[int, Ended] | None = None

    # ---- the service's side

    @property
    def leading(self) -> bool:
        return self._leading and self.peer.leading

    def propose(self, payload: bytes) -> None:
        self.peer.propose(payload)
        self._owner.touch(self)

    def read(self, key: Hashable, staleness: int = 0) -> None:
        if staleness and 0 <= self._owner.env.now() - staleness <= self._fresh_at:
            self.service.read_ready(key)
            return
        self._asking.append(key)
        self._owner.touch(self)

    # ---- the host's side

    def restored(self, index: int, log_bytes: int) -> None:
        """At start: the service has the snapshot of ``index`` (0 for none), and the log so many bytes."""
        self.applied = self._snapshot = index
        self._log_bytes = log_bytes

    def drain(self) -> Drained:
        if self._asking:
            now = self._owner.env.now()
            # a lease is judged by the time that it is, not by that of the last event: the process may have slept since
            self.peer.tick(now)
            keys, self._asking = self._asking, []
            self.peer.read(_Reads(now, keys))
        return self.peer.drain()

    def handle(self, events: list[Event]) -> None:
        """After what was drained with them is written and sent."""
        for event in events:
            if isinstance(event, Chosen):
                self._apply(event)
            elif isinstance(event, ReadReady):
                assert isinstance(event.key, _Reads)
                self._waiting.append((event.index, event.key))
                self._release()
            elif isinstance(event, ReadFailed):
                assert isinstance(event.key, _Reads)
                for key in event.key.keys:
                    self.service.read_failed(key)
            elif isinstance(event, RoleChange):
                self._change_role(event)
            else:
                self._lagging(event)
        if self._joining is not None:
            self._join()
        self.service.flush()
        self._maybe_snapshot()

    def _apply(self, chosen: Chosen) -> None:
        apply = self.service.apply
        size = 0
        for index, entry in enumerate(chosen.entries, chosen.first):
            if entry.kind == Kind.COMMAND:
                apply(index, entry.payload)
            size += len(entry.payload)
            self.applied = index
        self._log_bytes += size
        self._logged += size
        if self._waiting:
            self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for index, reads in waiting:
            if index > self.applied:
                self._waiting.append((index, reads))
                continue
            self._fresh_at = max(self._fresh_at, reads.asked)
            for key in reads.keys:
                self.service.read_ready(key)

    def _change_role(self, role: RoleChange) -> None:
        self.leader = role.leader
        self._leading = role.ready
        if role.ready:
            log.info("group %d: leading, ballot %#x", self.group, role.ballot)
        elif role.leader:
            log.info("group %d: member %d leads, ballot %#x", self.group, role.leader, role.ballot)
        else:
            log.info("group %d: nobody leads", self.group)
        if not role.ready and self._joining is not None:
            self._join()  # a leader that was removed steps down when that is chosen
            self._end_joining(
                LocalProtocolError("this member does not lead any more; whether the change is made is not known")
            )
        handing = self._handing
        if handing is not None and (role.ready or role.leader not in (0, self.peer.settings.sid)):
            self._handing = None
            sid, ended = handing
            ended(QuorateError(f"member {sid} did not take over") if role.ready else None)
        self.service.role_changed(role.leader, self.leading)

    # ---- snapshots

    def make_room(self) -> None:
        """The journal is long because of this group: keep nothing that a snapshot stands for, or make one."""
        if self._snapshot > self.peer.acceptor.log.base:
            self._trim(self._snapshot)
        else:
            self._maybe_snapshot(asked=True)

    def _maybe_snapshot(self, asked: bool = False) -> None:
        """``asked``: whatever the limits say, if anything was applied since the last one."""
        limits = self._limits
        due = self._log_bytes >= limits.snapshot_bytes or self.applied - self._snapshot >= limits.snapshot_entries
        if self._writer is not None or self.applied == self._snapshot or not (due or asked):
            return
        owner = self._owner
        self._log_bytes = 0
        index = self.applied
        members = self.peer.acceptor.log.members_of(index)
        self._writer = snapshots.Writer(
            owner.env,
            owner.snapshot_disk,
            self.group,
            index,
            members,
            self.service.snapshot(),
            self._held,
            self._snapshot_done,
        )

    def _snapshot_done(self, error: StorageError | None) -> None:
        assert self._writer is not None
        index = self._writer.index
        self._writer = None
        if error is not None:
            self._owner.failed(f"the disk failed: {error}")
            return
        self._snapshot = max(self._snapshot, index)
        self._trim(index - self._limits.kept_entries)

    def serve(self, sid: int, body: bytes) -> list[bytes]:
        """A chunk of a snapshot, which ``sid`` asks for. Raises RemoteProtocolError."""
        disk, base = self._owner.snapshot_disk, self.peer.acceptor.log.base
        try:
            index, size, chunk = transfer.serve(disk, self.group, body, self._limits.chunk_bytes, base)
        except StorageError as error:
            self._owner.failed(f"the disk failed: {error}")
            return []
        if index:
            self._holds.ask(sid, index, size, self._owner.env.now(), self._logged)
        return chunk

    def _held(self) -> set[int]:
        return self._holds.indices(self._logged)

    def _trim(self, base: int) -> None:
        base = min([base, *self._held()])
        if base > self.peer.acceptor.log.base:
            self.peer.trim(base)
            self._owner.touch(self)

    def _lagging(self, event: Lagging) -> None:
        incoming = self._incoming
        # what is here is read and installed first: another one would come into the same file
        if incoming is not None and (incoming.source == event.source or incoming.whole):
            return
        if incoming is not None:
            incoming.end()
        log.info("group %d: fetching a snapshot from member %d", self.group, event.source)
        owner = self._owner
        self._incoming = transfer.Incoming(
            owner.snapshot_disk,
            self.group,
            event.source,
            self._request,
            self._came,
            lambda error: owner.failed(f"the disk failed: {error}"),
        )
        self._incoming.request()

    def _request(self, source: int, body: bytes) -> None:
        assert self._incoming is not None
        self._incoming.asked_at = self._owner.env.now()
        self._owner.send_item(source, self.group, wire.SNAPSHOT_REQUEST, [body])

    def chunk(self, sender: int, body: bytes) -> None:
        """Raises RemoteProtocolError."""
        if self._incoming is not None:
            self._incoming.chunk(sender, body)

    def reconnected(self, sid: int) -> None:
        if self._incoming is not None and self._incoming.source == sid:
            self._incoming.request()

    def _came(self, path: str) -> None:
        """A snapshot is here, as a file: give it to the service piece by piece, and the file its name; then take it up."""
        env, disk = self._owner.env, self._owner.snapshot_disk
        restorer = self.service.restorer()
        try:
            reader = snapshots.Reader(disk, path, self.group, self._folder)
            steps = reader.feed(restorer)
        except (CorruptionError, UsageError) as error:
            self._rejected(error)
            return

        def step() -> None:
            try:
                next(steps)
            except StopIteration:
                snapshots.install(disk, self.group, reader.index, path, self._held(), named)
            except CorruptionError as error:
                self._rejected(error)
            else:
                env.call_soon(step)

        def named(error: StorageError | None) -> None:
            if error is not None:
                self._owner.failed(f"the disk failed: {error}")
            else:
                self._take_up(reader.index, reader.members, restorer)

        env.call_soon(step)

    def _rejected(self, error: QuorateError) -> None:
        log.error("group %d: a snapshot that came cannot be used: %s", self.group, error)
        self._incoming = None
        self.peer.resync()
        self._owner.touch(self)

    def _take_up(self, index: int, members: Members, restorer: Restorer) -> None:
        self._incoming = None
        self._snapshot = max(self._snapshot, index)
        if index <= self.peer.acceptor.log.decided:
            # it caught up by itself meanwhile, but may have been told of more since
            self.peer.resync()
            self._owner.touch(self)
            return
        log.info("group %d: caught up to %d by a snapshot", self.group, index)
        self.service.adopt(restorer)
        self.applied = index
        self._log_bytes = 0
        self.peer.installed(index, members)
        self._release()
        self._owner.touch(self)

    # ---- members

    def change(self, member: Member, wanted: bool, patience: int, ended: Ended) -> None:
        """Add a member, or remove it if it is not ``wanted``; ``patience`` in nanoseconds.

        May be asked for again, whatever came of it before: what is done stays as it is, and what is under way is waited for.
        """
        log_, now = self.peer.acceptor.log, self._owner.env.now()
        there = next((found for found in log_.members if found.sid == member.sid), None)
        if not self.leading:
            ended(LocalProtocolError(f"this member does not lead group {self.group}; {self.leader or 'nobody'} does"))
        elif self._joining is not None:
            if self._joining.same(member, wanted):
                self._joining.ask_again(now, patience, ended)
            else:
                ended(QuorateError("another change of members is under way"))
        elif there is not None and wanted and there.addresses != member.addresses:
            ended(UsageError(f"member {member.sid} is there already, with the addresses {shown(there)}"))
        elif (there is not None) == wanted:
            ended(None)
        else:
            self._joining = Joining(member, wanted, now, patience, ended)
            if wanted:
                self.peer.add_learner(member.sid)
            self._owner.touch(self)

    def membership(self) -> tuple[int, bool]:
        """Changes whenever members do, or become chosen."""
        entries = self.peer.acceptor.log
        return entries.members_at, entries.members_at <= entries.decided

    def learner(self) -> Member | None:
        """One that is being added."""
        return self._joining.member if self._joining is not None and self._joining.wanted else None

    def _join(self) -> None:
        joining, peer = self._joining, self.peer
        assert joining is not None
        log_ = peer.acceptor.log
        sid = joining.member.sid
        if joining.proposed:
            if (sid in log_.sids) == joining.wanted and log_.members_at <= log_.decided:
                self._end_joining(None)
            return
        if not peer.leading:
            return
        now = self._owner.env.now()
        if joining.wanted:
            progress = 0 if peer.leader is None else peer.leader.progress(sid)
            if not joining.caught_up(now, progress, log_.last, peer.settings.election_timeout):
                if now >= joining.deadline:
                    self._end_joining(joining.late(peer.reaches(sid), progress, log_.last))
                return
            members = (*peer.members, joining.member)
        else:
            members = tuple(member for member in peer.members if member.sid != sid)
        try:
            peer.change_members(members)
        except QuorateError as error:
            self._end_joining(error)
            return
        joining.proposed = True
        self._owner.touch(self)

    def _end_joining(self, error: QuorateError | None) -> None:
        joining, self._joining = self._joining, None
        if joining is not None:
            self.peer.remove_learner(joining.member.sid)
            for ended in joining.ended:
                ended(error)

    def hand_over(self, sid: int, ended: Ended) -> None:
        try:
            self.peer.hand_over(sid)
        except QuorateError as error:
            ended(error)
            return
        self._handing = (sid, ended)
        self._owner.touch(self)

    # ---- time

    def tick(self, now: int, patience: int) -> None:
        """``patience``: how long to wait for a chunk before it is asked for again."""
        self.peer.tick(now)
        if self._holds.expire(now, patience):
            self._trim(self._snapshot - self._limits.kept_entries)
        incoming = self._incoming
        if incoming is not None and now - incoming.asked_at >= patience:
            incoming.request()
        if self._joining is not None:
            self._owner.touch(self)
