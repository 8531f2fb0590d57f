"""A member that follows or observes: it accepts the leader's epoch, takes its history, and logs what it proposes.

The order of writes that Apache broke for years is kept by construction: the history is durable before the current epoch is
written, the current epoch is durable before NEWLEADER is acknowledged, and nothing is handed to the service before UPTODATE
(ZOOKEEPER-3911, 4394, 4643, 4646, 4785).

Sources: Zab 1.0; Learner.java for what a leader may send when.
"""

from collections.abc import Hashable
from enum import IntEnum

from quorate.consensus.contract import until
from quorate.consensus.zab.history import History, follows
from quorate.consensus.zab.messages import (
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
from quorate.consensus.zab.replica import Adopt, InstallSnapshot, Received, Replica, RoleChange, Truncate
from quorate.errors import LocalProtocolError, RemoteProtocolError


class Phase(IntEnum):
    CONNECTING = 0
    DISCOVERY = 1
    """FOLLOWERINFO sent; waits for LEADERINFO."""
    SYNC_START = 2
    """ACKEPOCH sent or about to be; waits for DIFF, TRUNC or SNAP."""
    SYNCING = 3
    """Takes proposals until NEWLEADER."""
    ENTERING = 4
    """NEWLEADER came; history and epoch are being made durable."""
    SYNCED = 5
    """NEWLEADER acknowledged (the acknowledgement leaves when the epoch is durable); waits for UPTODATE."""
    SERVING = 6


class Learner:
    def __init__(self, replica: Replica, now: int, leader: int, observer: bool) -> None:
        self.leader = leader
        self.observer = observer
        self.link = 0
        """The link to the leader; 0 while there is none."""
        self.phase = Phase.CONNECTING
        self.failed = ""
        """Why this member must look for a leader again; empty while it may follow."""
        self.epoch = -1
        self._replica = replica
        self._settings = replica.settings
        self._received: list[Entry] = []
        """In the history but not yet handed to the disk."""
        self._snap: Snap | None = None
        """The state that our history is to be replaced by, at NEWLEADER, together with what came after it."""
        self._incoming: History | None = None
        """That history."""
        self._committed = 0
        """What the leader committed; delivered only once serving."""
        self._install_token = 0
        """Token of a snapshot on its way to the disk; the log goes on after it."""
        self._synced_last = 0
        self._deadline = now + self._settings.connect_limit

    # ---- the link

    def connected(self, now: int, link: int) -> None:
        self.link = link
        self.phase = Phase.DISCOVERY
        self._replica.outbox.send(link, FollowerInfo(self._settings.sid, self._replica.accepted_epoch, self.observer))

    def lost(self, link: int) -> None:
        if link == self.link:
            self._replica.outbox.forget(link)
            self.link = 0
            self.failed = "the link to the leader is gone"

    def receive(self, now: int, link: int, packet: Packet) -> None:
        if link != self.link or self.failed:
            return
        self._deadline = now + (self._settings.sync_limit if self.phase == Phase.SERVING else self._settings.init_limit)
        if isinstance(packet, Proposals):
            self._receive_proposals(packet)
        elif isinstance(packet, Commits):
            self._receive_commit(packet.last)
        elif isinstance(packet, Ping):
            self._replica.outbox.send(link, Ping(packet.zxid, b""))
        elif isinstance(packet, Service):
            self._replica.events.append(Received(link, packet))
        elif isinstance(packet, LeaderInfo):
            self._receive_leader_info(packet)
        elif isinstance(packet, Diff | Trunc | Snap):
            self._open(packet)
        elif isinstance(packet, NewLeader):
            self._receive_new_leader(packet)
        elif isinstance(packet, UpToDate):
            self._receive_up_to_date()
        else:
            raise RemoteProtocolError(f"the leader sent {packet!r}")

    def _expect(self, packet: Packet, *phases: Phase) -> None:
        if self.phase not in phases:
            raise RemoteProtocolError(f"the leader sent {packet!r} out of turn ({self.phase.name})")

    # ---- discovery

    def _receive_leader_info(self, info: LeaderInfo) -> None:
        self._expect(info, Phase.DISCOVERY)
        replica = self._replica
        if info.epoch < replica.accepted_epoch:
            self.failed = f"the leader's epoch {info.epoch} is older than the accepted epoch {replica.accepted_epoch}"
            return
        self.epoch = info.epoch
        self.phase = Phase.SYNC_START
        if info.epoch == replica.accepted_epoch:
            # accepted once before: this answer must not count for a second leader's quorum
            ack = AckEpoch(replica.history.last, -1)
            token = replica.outbox.issued
        else:
            ack = AckEpoch(replica.history.last, replica.current_epoch)
            token = replica.accept_epoch(info.epoch)
        replica.outbox.send_after(token, self.link, ack)

    # ---- synchronisation

    def _open(self, packet: Diff | Trunc | Snap) -> None:
        self._expect(packet, Phase.SYNC_START)
        self.phase = Phase.SYNCING
        replica = self._replica
        history = replica.history
        if isinstance(packet, Diff):
            # what we share with the leader needs no COMMIT of its own, as far as the leader says it is committed
            self._committed = min(history.last, packet.zxid)
        elif isinstance(packet, Trunc):
            last = self._committed = history.truncate(packet.zxid)
            replica.writes.append(Truncate(last, replica.outbox.token()))
            if last != packet.zxid:
                # the leader guessed a common point that we lack; it finds the true one from where we end now
                self.failed = f"TRUNC to {packet.zxid:#x}, but the history goes from {last:#x} on"
        else:
            # ours may be one of the few copies of what is committed, and a leader that is not yet established sends its
            # latest entries after the snapshot: nothing is given up before all of it is here
            self._committed = packet.zxid
            self._snap = packet
            self._incoming = history.replacement(packet.zxid)

    def _receive_proposals(self, packet: Proposals) -> None:
        if self.phase < Phase.SYNCING:
            self._expect(packet, Phase.SYNCING)
        history = self._incoming or self._replica.history
        for entry in packet.entries:
            if not follows(history.last, entry.zxid):
                if entry.zxid <= history.last and self.phase < Phase.SERVING:
                    continue  # a leader may repeat what its snapshot or our log already held
                raise RemoteProtocolError(f"proposal {entry.zxid:#x} does not follow {history.last:#x}")
            history.append(entry)
            self._received.append(entry)
        if packet.inform:
            self._receive_commit(packet.entries[-1].zxid)

    def _receive_commit(self, zxid: int) -> None:
        if self.phase < Phase.SYNCING:
            raise RemoteProtocolError(f"COMMIT of {zxid:#x} before synchronisation")
        last = (self._incoming or self._replica.history).last
        if zxid > last:
            raise RemoteProtocolError(f"COMMIT of {zxid:#x}, but the last proposal is {last:#x}")
        self._committed = max(self._committed, zxid)
        if self.phase == Phase.SERVING:
            self._replica.events.extend(self._replica.history.commit(zxid))

    def _receive_new_leader(self, packet: NewLeader) -> None:
        self._expect(packet, Phase.SYNCING)
        if packet.zxid != first_zxid(self.epoch):
            raise RemoteProtocolError(f"NEWLEADER of epoch {epoch_of(packet.zxid)}, but LEADERINFO said {self.epoch}")
        self.phase = Phase.ENTERING
        if self._incoming is not None:
            self._replace_history(self._incoming)
        self._synced_last = self._replica.history.last
        self._write()
        self._enter()

    def _replace_history(self, incoming: History) -> None:
        replica, snap = self._replica, self._snap
        assert snap is not None
        entries, self._received = self._received, []
        self._snap = self._incoming = None
        replica.history = incoming
        self._install_token = replica.outbox.token()
        replica.writes.append(InstallSnapshot(snap.zxid, snap.snapshot, entries, self._install_token))
        replica.events.append(Adopt(snap.zxid, snap.snapshot))

    def _enter(self) -> None:
        """Once the history is durable, write the epoch; once that is durable, the acknowledgement leaves."""
        replica = self._replica
        outbox = replica.outbox
        if self.phase != Phase.ENTERING or self._install_token > outbox.durable or outbox.durable != outbox.issued:
            return
        token = replica.enter_epoch(self.epoch)
        self.phase = Phase.SYNCED
        newleader = first_zxid(self.epoch)
        outbox.send_after(token, self.link, Acks(newleader, newleader))
        # proposals of this epoch that came before NEWLEADER are durable now, and their leader waits for each
        first = max(newleader, self._committed) + 1
        if not self.observer and first <= self._synced_last:
            outbox.send_after(token, self.link, Acks(first, self._synced_last))

    def _receive_up_to_date(self) -> None:
        if self.phase != Phase.SYNCED:
            raise RemoteProtocolError(f"UPTODATE out of turn ({self.phase.name})")
        replica = self._replica
        self.phase = Phase.SERVING
        # before NEWLEADER a leader sends its committed history, and commits what follows
        replica.events.extend(replica.history.commit(self._committed))
        state = State.OBSERVING if self.observer else State.FOLLOWING
        replica.events.append(RoleChange(state, self.leader, self.epoch, True))
        newleader = first_zxid(self.epoch)
        replica.outbox.send(self.link, Acks(newleader, newleader))

    # ---- the log

    def _write(self) -> None:
        """Hand what was received to the disk, and acknowledge it when it is there.

        While NEWLEADER's writes are under way, later proposals wait: the current epoch vouches for what is durable by then.
        """
        received = self._received
        if not received or self._incoming is not None or self._install_token > self._replica.outbox.durable:
            return
        self._received = []
        token = self._replica.append(received)
        if self.phase >= Phase.SYNCED and not self.observer:
            self._replica.outbox.send_after(token, self.link, Acks(received[0].zxid, received[-1].zxid))

    def before_drain(self) -> None:
        if self.phase != Phase.ENTERING and not self.failed:
            self._write()

    def persisted(self) -> None:
        if self.phase == Phase.ENTERING:
            self._enter()

    def resign(self) -> None:
        """Stop following: what is in the history must reach the log, or leave the history."""
        received = self._received
        if self._incoming is not None:
            received.clear()  # of a history that does not become ours
            self._snap = self._incoming = None
        elif self._install_token <= self._replica.outbox.durable:
            self.phase = Phase.ENTERING  # nothing is acknowledged any more
            self._write()
        elif received:
            self._replica.history.truncate(received[0].zxid - 1)
        if self.link:
            self._replica.disconnects.append(self.link)
            self._replica.outbox.forget(self.link)

    # ---- the service's messages

    def send(self, message: Service) -> None:
        if self.phase != Phase.SERVING:
            raise LocalProtocolError("a request for a leader that is not there")
        self._replica.outbox.send(self.link, message)

    # ---- time

    def tick(self, now: int) -> None:
        if now >= self._deadline and not self.failed:
            limit = "syncLimit" if self.phase == Phase.SERVING else "initLimit"
            self.failed = f"no word from the leader in {limit} ({self.phase.name.lower()})"

    def deadline(self) -> int:
        return self._deadline

    def state(self, now: int) -> Hashable:
        phase = self.phase
        return (
            (self.leader, self.observer, self.link, int(phase), bool(self.failed), self.epoch),
            tuple(self._received),
            None if self._incoming is None or self._snap is None else (self._incoming.state(), self._snap.snapshot),
            # once serving, the history itself knows what is committed
            0 if phase == Phase.SERVING else self._committed,
            self._synced_last if phase == Phase.ENTERING else 0,
            self._replica.outbox.ahead(self._install_token),
            until(self._deadline, now),
        )
