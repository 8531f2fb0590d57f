"""A member that leads: discovery, synchronisation of learners, broadcast.

Promises: no entry is reported as committed before a quorum of voters, this one counted only by its own durable log, has it
on disk; entries are committed in order and, once, as part of this epoch (the history of older epochs is committed by the
quorum that acknowledges NEWLEADER). Relies on links that deliver in order or break.

Sources: Zab 1.0; Leader.java and LearnerHandler.java for the choice of DIFF, TRUNC or SNAP.
"""

from collections import deque
from collections.abc import Hashable
from enum import IntEnum

from quorate.consensus.contract import NEVER, until
from quorate.consensus.zab.messages import (
    LAST_COUNTER,
    SYNC,
    AckEpoch,
    Acks,
    Commits,
    Diff,
    Entry,
    FollowerInfo,
    LeaderInfo,
    NewLeader,
    Packet,
    Ping,
    Proposals,
    Service,
    Snap,
    State,
    Trunc,
    UpToDate,
    epoch_of,
    first_zxid,
)
from quorate.consensus.zab.replica import LearnerLost, Received, Replica, RoleChange, Synced, Touched
from quorate.errors import LocalProtocolError, RemoteProtocolError


class Phase(IntEnum):
    """Of a learner, as its leader sees it; and of the leader itself."""

    NEW = 0
    """Connected; no word yet."""
    INFORMED = 1
    """FOLLOWERINFO came."""
    EPOCH_ACKED = 2
    """ACKEPOCH came; waits for a quorum of them."""
    SYNCING = 3
    """Was sent the history and NEWLEADER; gets proposals."""
    SYNCED = 4
    """Acknowledged NEWLEADER."""


class LearnerState:
    """One learner, by the link it called on."""

    __slots__ = ("acked", "early", "heard", "last_zxid", "link", "observer", "phase", "sid")

    def __init__(self, link: int, now: int) -> None:
        self.link = link
        self.sid = -1
        self.observer = False
        self.phase = Phase.NEW
        self.last_zxid = 0
        self.acked = 0
        """It has every proposal of this epoch up to here on disk; 0 before it acknowledged NEWLEADER."""
        self.early = 0
        """What it acknowledged of this epoch before NEWLEADER; counts from then on."""
        self.heard = now

    def state(self, now: int, committed: int, patience: int) -> Hashable:
        """``committed``: an acknowledgement of less tells nothing; ``patience``: nor does a silence beyond it (ns)."""
        phase = self.phase
        return (
            (self.link, self.sid, self.observer, int(phase)),
            self.last_zxid if phase < Phase.SYNCING else 0,
            max(self.acked, committed),
            self.early if phase == Phase.SYNCING else 0,
            min(now - self.heard, patience),
        )


class Leader:
    def __init__(self, replica: Replica, now: int) -> None:
        self.learners: dict[int, LearnerState] = {}
        self.epoch = -1
        """The epoch proposed; -1 until a quorum told its accepted epochs."""
        self.established = False
        self.failed = ""
        """Why this member must stop leading; empty while it may lead."""
        self.last_proposed = 0
        self._replica = replica
        self._settings = replica.settings
        self._initial_epoch = replica.current_epoch
        self._initial_last = replica.history.last
        self._accepted = {self._settings.sid: replica.accepted_epoch}
        self._epoch_token = 0
        self._epoch_acks = {self._settings.sid}
        self.spent: set[int] = set()
        """Voters that accepted this epoch without our counting it: they cannot help to get a quorum of acknowledgements."""
        self._epoch_acked = False
        self._entered_token = -1
        """Token of the write of the current epoch; -1 until it is issued. Once durable, this voter acknowledged itself."""
        self._proposed: list[Entry] = []
        self._logged: deque[tuple[int, int]] = deque()
        """(token, last zxid) of appends not yet durable."""
        self._durable_zxid = 0
        self._syncs: deque[tuple[int, Synced]] = deque()
        self._init_deadline = now + self._settings.init_limit
        self._gather_deadline = now + self._settings.sync_limit
        self._ping_at = now + self._settings.tick // 2
        self._check_at = now + self._settings.sync_limit
        self._consider_epoch()

    # ---- links

    def accept(self, now: int, link: int) -> None:
        self.learners[link] = LearnerState(link, now)

    def lost(self, link: int) -> None:
        learner = self.learners.pop(link, None)
        if learner is None:
            return
        self._replica.outbox.forget(link)
        if learner.phase != Phase.NEW:
            self._replica.events.append(LearnerLost(link))
        if not self.established:
            # it may come back with another accepted epoch; what it acknowledged it has acknowledged for good
            self._accepted.pop(learner.sid, None)
        elif not self.failed and self._connected() < self._settings.quorum:
            # those who left cannot come back: they, too, find no quorum behind us
            self.failed = "too few voters are connected"

    def _connected(self) -> int:
        return 1 + sum(not learner.observer and learner.phase > Phase.NEW for learner in self.learners.values())

    def _drop(self, learner: LearnerState) -> None:
        self._replica.disconnects.append(learner.link)
        self.lost(learner.link)

    def receive(self, now: int, link: int, packet: Packet) -> None:
        learner = self.learners.get(link)
        if learner is None:
            return
        learner.heard = now
        if isinstance(packet, Acks):
            self._receive_acks(learner, packet)
        elif isinstance(packet, Service):
            if learner.phase != Phase.SYNCED or not self.established:
                raise RemoteProtocolError(f"request of learner {learner.sid} before it is in sync")
            self._replica.events.append(Received(link, packet))
        elif isinstance(packet, Ping):
            if packet.data:
                self._replica.events.append(Touched(link, packet.data))
        elif isinstance(packet, FollowerInfo):
            self._receive_info(learner, packet)
        elif isinstance(packet, AckEpoch):
            self._receive_epoch_ack(learner, packet)
        else:
            raise RemoteProtocolError(f"a learner sent {packet!r}")

    # ---- discovery

    def _receive_info(self, learner: LearnerState, info: FollowerInfo) -> None:
        if learner.phase != Phase.NEW:
            raise RemoteProtocolError(f"second FOLLOWERINFO of learner {info.sid}")
        if info.sid == self._settings.sid:
            raise RemoteProtocolError(f"a learner calls itself by our own sid {info.sid}; is myid unique?")
        learner.sid = info.sid
        learner.observer = info.observer or info.sid not in self._settings.voters
        learner.phase = Phase.INFORMED
        for other in list(self.learners.values()):
            if other.sid == info.sid and other.link != learner.link:
                self._drop(other)
        if self.epoch < 0:
            if not learner.observer:
                self._accepted[info.sid] = info.accepted_epoch
            self._consider_epoch()
        elif info.accepted_epoch > self.epoch and not learner.observer:
            # it can follow nobody of this epoch; a new election gives an epoch that all can accept
            self.failed = (
                f"member {info.sid} accepted epoch {info.accepted_epoch}, newer than this leader's {self.epoch}"
            )
        else:
            if info.accepted_epoch == self.epoch and info.sid not in self._epoch_acks and not self._epoch_acked:
                self.spent.add(info.sid)
            self._replica.outbox.send_after(self._epoch_token, learner.link, LeaderInfo(self.epoch))

    def _consider_epoch(self) -> None:
        if self.epoch >= 0 or len(self._accepted) < self._settings.quorum:
            return
        self.epoch = max(self._accepted.values()) + 1
        self._epoch_token = self._replica.accept_epoch(self.epoch)
        for learner in self.learners.values():
            if learner.phase == Phase.INFORMED:
                self._replica.outbox.send_after(self._epoch_token, learner.link, LeaderInfo(self.epoch))
        self._consider_epoch_acks()

    def _receive_epoch_ack(self, learner: LearnerState, ack: AckEpoch) -> None:
        if learner.phase != Phase.INFORMED or self.epoch < 0:
            raise RemoteProtocolError(f"ACKEPOCH of learner {learner.sid} out of turn")
        learner.phase = Phase.EPOCH_ACKED
        learner.last_zxid = ack.last_zxid
        if self._epoch_acked:
            self._synchronise(learner)
            return
        if ack.current_epoch >= 0 and not learner.observer:
            if (ack.current_epoch, ack.last_zxid) > (self._initial_epoch, self._initial_last):
                self.failed = f"member {learner.sid} has a more recent history: epoch {ack.current_epoch}, zxid {ack.last_zxid:#x}"
                return
            self._epoch_acks.add(learner.sid)
        self._consider_epoch_acks()

    def _consider_epoch_acks(self) -> None:
        if self._epoch_acked or self.epoch < 0 or len(self._epoch_acks) < self._settings.quorum:
            return
        self._epoch_acked = True
        self.spent.clear()
        self._enter_epoch()
        for learner in list(self.learners.values()):
            if learner.phase == Phase.EPOCH_ACKED:
                self._synchronise(learner)

    def _enter_epoch(self) -> None:
        """Store the current epoch as soon as all that was written before is durable."""
        outbox = self._replica.outbox
        if self._epoch_acked and self._entered_token < 0 and outbox.durable == outbox.issued:
            self._entered_token = self._replica.enter_epoch(self.epoch)
            self._consider_established()

    # ---- synchronisation

    def _synchronise(self, learner: LearnerState) -> None:
        """Bring the learner to our history and let it follow the broadcast."""
        self._flush()
        history = self._replica.history
        # before the epoch is established the whole initial history is about to be committed by it
        committed = history.committed if self.established else self._initial_last
        start = self._opening(learner, committed)
        entries = history.after(start)
        if learner.observer:
            entries = [entry for entry in entries if entry.zxid <= committed]
        send = self._replica.outbox.send
        if entries:
            send(learner.link, Proposals(entries))
            for first, last in _runs([entry.zxid for entry in entries if entry.zxid <= committed]):
                send(learner.link, Commits(first, last))
        send(learner.link, NewLeader(first_zxid(self.epoch), self._settings.config))
        learner.phase = Phase.SYNCING

    def _opening(self, learner: LearnerState, committed: int) -> int:
        """Send DIFF, TRUNC or SNAP; where the proposals that the learner lacks start.

        DIFF if the learner's last zxid is one of ours (or an epoch's zero, which stands for all before that epoch, if that epoch
        began with a history that is ours as well: Apache's learners name the state they begin an epoch with so). TRUNC if
        it has entries that we lack after one we share: in one epoch only, for in another the shared entry is a guess; but
        always if all our entries are older. Else, and if we no longer keep what it lacks, SNAP.
        """
        history = self._replica.history
        send = self._replica.outbox.send
        theirs = learner.last_zxid
        if theirs >= history.base:
            shared = history.before(theirs + 1)
            if shared == theirs or self._begins(theirs):
                send(learner.link, Diff(committed))
                return theirs
            if theirs & LAST_COUNTER and (epoch_of(shared) == epoch_of(theirs) or shared == history.last):
                send(learner.link, Trunc(shared))
                return shared
        send(learner.link, Snap(history.committed))
        return history.committed

    def _begins(self, zxid: int) -> bool:
        """Whether ``zxid`` is the zero of an epoch whose initial history ours starts with."""
        epoch = epoch_of(zxid)
        if zxid & LAST_COUNTER:
            return False
        if epoch in (0, self._initial_epoch, self.epoch):
            return True
        return epoch_of(self._replica.history.before(zxid + LAST_COUNTER)) == epoch

    def _receive_acks(self, learner: LearnerState, acks: Acks) -> None:
        if learner.phase < Phase.SYNCING:
            raise RemoteProtocolError(f"ACK of learner {learner.sid} out of turn")
        if epoch_of(acks.last) < self.epoch:
            return  # Apache's followers acknowledge each proposal of the synchronisation, old epochs' too
        if epoch_of(acks.last) > self.epoch or (acks.last > self.last_proposed and acks.last & LAST_COUNTER):
            raise RemoteProtocolError(f"learner {learner.sid} acknowledged {acks.last:#x}, never proposed")
        if learner.phase == Phase.SYNCING:
            if acks.first != first_zxid(self.epoch):
                learner.early = max(learner.early, acks.last)
                return
            learner.phase = Phase.SYNCED
            learner.acked = learner.early
            if self.established:
                self._replica.outbox.send(learner.link, UpToDate())
        learner.acked = max(learner.acked, acks.last)
        if self.established:
            self._consider_commit()
        else:
            self._consider_established()

    def _consider_established(self) -> None:
        if self.established or self._entered_token < 0 or self._entered_token > self._replica.outbox.durable:
            return
        synced = [learner for learner in self.learners.values() if learner.phase == Phase.SYNCED]
        if 1 + sum(not learner.observer for learner in synced) < self._settings.quorum:
            return
        replica = self._replica
        self.established = True
        self.last_proposed = self._durable_zxid = first_zxid(self.epoch)
        replica.events.extend(replica.history.commit(self._initial_last))
        replica.events.append(RoleChange(State.LEADING, self._settings.sid, self.epoch, True))
        for learner in synced:
            replica.outbox.send(learner.link, UpToDate())

    # ---- broadcast

    @property
    def next_zxid(self) -> int:
        return self.last_proposed + 1

    def propose(self, payload: bytes, decoded: object) -> int:
        if not self.established or self.failed:
            raise LocalProtocolError("proposal by a member that does not lead an established epoch")
        zxid = self.last_proposed + 1
        if zxid & LAST_COUNTER == LAST_COUNTER:
            self.failed = "the epoch's zxids are used up"
        entry = Entry(zxid, payload, decoded)
        self._replica.history.append(entry)
        self._proposed.append(entry)
        self.last_proposed = zxid
        return zxid

    def sync(self, link: int, key: Hashable) -> None:
        """When everything proposed so far is committed, and before more is: SYNC to the learner that has this link, Synced if it is no link (0)."""
        event = Synced(link, key)
        if self.last_proposed <= max(self._replica.history.committed, first_zxid(self.epoch)):
            self._synced(event)
        else:
            self._syncs.append((self.last_proposed, event))

    def _synced(self, event: Synced) -> None:
        if event.link == 0:
            self._replica.events.append(event)
        elif event.link in self.learners:
            self._replica.outbox.send(event.link, Service(SYNC, None, zxid=0))

    @property
    def pending_syncs(self) -> int:
        return len(self._syncs)

    def _flush(self) -> None:
        """Log and send what was proposed since the last flush: one write, one message for all followers."""
        proposed = self._proposed
        if not proposed:
            return
        self._proposed = []
        self._logged.append((self._replica.append(proposed), proposed[-1].zxid))
        message = Proposals(proposed)
        for learner in self.learners.values():
            if learner.phase >= Phase.SYNCING and not learner.observer:
                self._replica.outbox.send(learner.link, message)

    def before_drain(self) -> None:
        self._flush()

    def resign(self) -> None:
        """Stop leading: what was proposed stays in the history, so it must reach the log; the links are given up."""
        self._flush()
        for link in list(self.learners):
            self._replica.disconnects.append(link)
            self.lost(link)

    def persisted(self) -> None:
        durable = self._replica.outbox.durable
        logged = self._logged
        while logged and logged[0][0] <= durable:
            self._durable_zxid = logged.popleft()[1]
        if self.established:
            self._consider_commit()
        else:
            self._enter_epoch()
            self._consider_established()

    def _consider_commit(self) -> None:
        acked = [self._durable_zxid]
        acked += [learner.acked for learner in self.learners.values() if not learner.observer and learner.acked]
        quorum = self._settings.quorum
        if len(acked) < quorum:
            return
        acked.sort(reverse=True)
        zxid = acked[quorum - 1]
        if zxid <= self._replica.history.committed or zxid <= first_zxid(self.epoch):
            return
        # each sync in its place: its session may have written since, and is answered in order
        syncs = self._syncs
        while syncs and syncs[0][0] <= zxid:
            self._commit(syncs[0][0])
            self._synced(syncs.popleft()[1])
        self._commit(zxid)

    def _commit(self, zxid: int) -> None:
        replica = self._replica
        entries = replica.history.commit(zxid)
        if not entries:
            return
        replica.events.extend(entries)
        commits = Commits(entries[0].zxid, entries[-1].zxid)
        informs = Proposals(entries, inform=True)
        for learner in self.learners.values():
            if learner.phase >= Phase.SYNCING:
                replica.outbox.send(learner.link, informs if learner.observer else commits)

    # ---- time

    def tick(self, now: int) -> None:
        settings = self._settings
        if not self.established and now >= self._init_deadline:
            self.failed = "no quorum of learners in initLimit"
            return
        if self.epoch < 0 and now >= self._gather_deadline:
            # to call takes no disk and no state: who has not by now follows somebody else
            self.failed = "no quorum of learners called in syncLimit"
            return
        if now >= self._ping_at:
            self._ping_at = now + settings.tick // 2
            for learner in list(self.learners.values()):
                limit = settings.sync_limit if learner.phase == Phase.SYNCED else settings.init_limit
                if now - learner.heard > limit:
                    self._drop(learner)
                elif learner.phase == Phase.SYNCED and self.established:
                    self._replica.outbox.send(learner.link, Ping(self.last_proposed))
        if self.established and now >= self._check_at:
            self._check_at = now + settings.tick
            alive = 1 + sum(
                not learner.observer and learner.phase == Phase.SYNCED and now - learner.heard <= settings.sync_limit
                for learner in self.learners.values()
            )
            if alive < settings.quorum:
                self.failed = f"only {alive} of {settings.quorum} voters needed are in sync"

    def deadline(self) -> int:
        if self.established:
            return min(self._ping_at, self._check_at)
        return min(self._ping_at, self._gather_deadline if self.epoch < 0 else self._init_deadline)

    def state(self, now: int) -> Hashable:
        settings, outbox = self._settings, self._replica.outbox
        committed = self._replica.history.committed
        patience = max(settings.init_limit, settings.sync_limit) + 1
        gathering, acking = self.epoch < 0, not self._epoch_acked
        return (
            tuple([self.learners[link].state(now, committed, patience) for link in sorted(self.learners)]),
            (self.epoch, self.established, bool(self.failed), self.last_proposed, self._epoch_acked),
            (self._initial_epoch, 0 if self.established else self._initial_last),
            tuple(sorted(self._accepted.items())) if gathering else (),
            tuple(sorted(self._epoch_acks)) if acking else (),
            tuple(sorted(self.spent)) if acking else (),
            outbox.ahead(self._epoch_token),
            -1 if self._entered_token < 0 else outbox.ahead(self._entered_token),
            max(self._durable_zxid, committed),
            tuple(self._proposed),
            tuple([(outbox.ahead(token), zxid) for token, zxid in self._logged]),
            tuple(self._syncs),
            until(self._gather_deadline, now) if gathering else NEVER,
            NEVER if self.established else until(self._init_deadline, now),
            until(self._check_at, now),
            until(self._ping_at, now),
        )


def _runs(zxids: list[int]) -> list[tuple[int, int]]:
    """Consecutive zxids as (first, last), split where an epoch ends."""
    runs: list[tuple[int, int]] = []
    for zxid in zxids:
        if runs and runs[-1][1] + 1 == zxid:
            runs[-1] = (runs[-1][0], zxid)
        else:
            runs.append((zxid, zxid))
    return runs
