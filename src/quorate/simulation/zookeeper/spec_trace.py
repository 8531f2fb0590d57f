"""Records what the members of a simulated ensemble do, in the terms of the specification (see verification.zab_trace).

Like the watchers of ``member``, it wraps the calls by which the production driver reports what it does, and changes nothing:
a run with a recorder is the same run. Without one there is nothing to pay.

Its only judgement is which moment of a member's life a step of the specification stands for:

- What a member holds on disk counts from the moment the store reports it. A crash may leave writes on the disk that were never
  reported; they count from when the restarted member has synced what it recovered, for it promises nothing earlier.
- Applying entries is one step as long as nothing else happens.

Members without a vote are not part of the specification and are not recorded.
"""

from collections import deque
from collections.abc import Collection
from typing import Any

from quorate.consensus.zab.messages import Entry, NewLeader, State, epoch_of
from quorate.consensus.zab.peer import Drained, Peer
from quorate.consensus.zab.replica import (
    Append,
    InstallSnapshot,
    RoleChange,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
    WriteRequest,
)
from quorate.simulation.result import Result
from quorate.simulation.zookeeper.run import Run
from quorate.verification.zab_trace import Step
from quorate.zookeeper.member import Member


class _Disk:
    """What a member's disk surely holds."""

    __slots__ = ("accepted_epoch", "current_epoch", "last", "proposers")

    def __init__(self, last: int, accepted_epoch: int, current_epoch: int) -> None:
        self.last = last
        self.accepted_epoch = accepted_epoch
        self.current_epoch = current_epoch
        self.proposers: dict[int, int] = {}
        """Who proposed an epoch whose acceptance was handed to the disk, 0 if that member is given up by now."""


class SpecTrace:
    """``steps`` so far; ``finish`` before they are read."""

    def __init__(self, voters: Collection[int]) -> None:
        self.voters = voters
        self.steps: list[Step] = []
        self._disks = {sid: _Disk(0, 0, 0) for sid in voters}
        self._applied: tuple[int, int] | None = None
        """(member, zxid) of entries applied, not yet among the steps."""

    def watch(self, sid: int, member: Member) -> None:
        """A process of the member begins; ``member`` has recovered, and has not been started."""
        if member.peer is not None and sid in self.voters:
            _Recorder(self, sid, member, member.peer, self._disks[sid])

    def step(self, event: str, sid: int, epoch: int = 0, counter: int = 0) -> None:
        self.finish()
        self.steps.append((event, sid, epoch, counter))

    def zxid_step(self, event: str, sid: int, zxid: int) -> None:
        self.step(event, sid, epoch_of(zxid), zxid & 0xFFFFFFFF)

    def applied(self, sid: int, zxid: int) -> None:
        if self._applied is not None and self._applied[0] != sid:
            self.finish()
        self._applied = sid, zxid

    def established(self, sid: int, epoch: int) -> None:
        """The leader reports its initial history as committed just before it reports that it is established."""
        applied = self._applied
        if applied is not None and applied[0] == sid:
            self._applied = None
        self.step("established", sid, epoch)
        if applied is not None and applied[0] == sid:
            self._applied = applied

    def finish(self) -> None:
        applied = self._applied
        if applied is not None:
            self._applied = None
            sid, zxid = applied
            self.steps.append(("applied", sid, epoch_of(zxid), zxid & 0xFFFFFFFF))


class _Recorder:
    """One life of one member."""

    def __init__(self, trace: SpecTrace, sid: int, member: Member, peer: Peer, disk: _Disk) -> None:
        self._trace = trace
        self._sid = sid
        self._disk = disk
        replica = peer.replica
        recovered = _Disk(replica.history.last, replica.accepted_epoch, replica.current_epoch)
        self._writing: deque[tuple[int, WriteRequest | _Disk]] = deque([(peer.outbox.issued, recovered)])
        """(token, write) not yet reported as durable; first what recovery found."""
        self._leads = False
        self._begun = 0
        """The newest epoch that it began as its leader."""
        self._peer = peer
        self._apply = member.server.apply
        self._change_role = member._change_role
        self._send = member._send
        self._write = member._write
        self._persisted = peer.persisted
        for owner, name in (
            (member.server, "apply"),
            (member, "_change_role"),
            (member, "_send"),
            (member, "_write"),
            (peer, "persisted"),
        ):
            setattr(owner, name, getattr(self, name.lstrip("_")))

    def apply(self, entry: Entry) -> None:
        self._trace.applied(self._sid, entry.zxid)
        self._apply(entry)

    def change_role(self, role: RoleChange) -> None:
        if role.state == State.LOOKING:
            self._trace.step("looking", self._sid)
        elif role.serving and role.state == State.LEADING:
            self._trace.established(self._sid, role.epoch)
        elif role.serving:
            self._trace.step("serving", self._sid, role.epoch)
        self._leads = role.state == State.LEADING
        self._change_role(role)

    def send(self, drained: Drained) -> None:
        if self._leads:
            for messages in drained.messages.values():
                for message in messages:
                    if type(message) is NewLeader:
                        self._begin(epoch_of(message.zxid))
        self._send(drained)

    def _begin(self, epoch: int) -> None:
        if epoch > self._begun:
            self._begun = epoch
            self._trace.step("begun", self._sid, epoch)

    def write(self, write: WriteRequest) -> None:
        self._writing.append((write.token, write))
        if isinstance(write, StoreAcceptedEpoch):
            self._disk.proposers[write.epoch] = self._proposer(write.epoch)
        elif self._leads:
            if isinstance(write, Append):
                self._trace.zxid_step("proposed", self._sid, write.entries[-1].zxid)
            elif isinstance(write, StoreCurrentEpoch):
                self._begin(write.epoch)
        self._write(write)

    def _proposer(self, epoch: int) -> int:
        leader, learner = self._peer.leader, self._peer.learner
        if leader is not None:
            return self._sid if leader.epoch == epoch else 0
        return learner.leader if learner is not None and learner.epoch == epoch else 0

    def persisted(self, token: int) -> None:
        writing = self._writing
        while writing and writing[0][0] <= token:
            self._durable(writing.popleft()[1])
        self._persisted(token)

    def _durable(self, write: WriteRequest | _Disk) -> None:
        if isinstance(write, _Disk):
            # in an order in which any writes that were not reported can have come about
            if write.last != self._disk.last:
                self._ends(write.last)
            if write.accepted_epoch != self._disk.accepted_epoch:
                self._accepts(write.accepted_epoch)
            if write.current_epoch != self._disk.current_epoch:
                self._enters(write.current_epoch)
        elif isinstance(write, StoreAcceptedEpoch):
            self._accepts(write.epoch)
        elif isinstance(write, StoreCurrentEpoch):
            self._enters(write.epoch)
        elif isinstance(write, Truncate):
            self._ends(write.zxid)
        else:
            assert isinstance(write, Append | InstallSnapshot)
            self._ends(write.entries[-1].zxid if isinstance(write, Append) or write.entries else write.zxid)

    def _ends(self, zxid: int) -> None:
        self._disk.last = zxid
        self._trace.zxid_step("history", self._sid, zxid)

    def _accepts(self, epoch: int) -> None:
        self._disk.accepted_epoch = epoch
        self._trace.step("accepted", self._sid, epoch, self._disk.proposers[epoch])

    def _enters(self, epoch: int) -> None:
        self._disk.current_epoch = epoch
        self._trace.step("entered", self._sid, epoch)


def record(seed: int, options: dict[str, Any]) -> tuple[Result, SpecTrace]:
    """One simulated run with complete ``options``, recorded.

    Faults that take from a disk what it held (``wipe``, ``bit_flip``) are outside the specification: a trace with them may
    be refused.
    """
    run = Run(seed, options, False)
    trace = run.world.spec = SpecTrace(run.world.voters)
    result = run.carry_out()
    trace.finish()
    return result, trace
