"""Bugs in the Zab core: promises, quorums, epochs, synchronisation, changes of role.

The numbers ZK-n are issues of Apache ZooKeeper.
"""

from typing import Any, Final

from quorate.consensus.contract import Outbox
from quorate.consensus.zab.history import History
from quorate.consensus.zab.leader import Leader, LearnerState, Phase
from quorate.consensus.zab.learner import Learner
from quorate.consensus.zab.learner import Phase as LearnerPhase
from quorate.consensus.zab.messages import (
    AckEpoch,
    Acks,
    Diff,
    Entry,
    FollowerInfo,
    LeaderInfo,
    NewLeader,
    Proposals,
    Trunc,
    first_zxid,
)
from quorate.consensus.zab.peer import Peer
from quorate.consensus.zab.replica import Replica, Settings, StoreAcceptedEpoch, StoreCurrentEpoch
from quorate.simulation.zookeeper.mutations.mutation import Mutation, Patch

_peer = Peer.__init__
_flush = Leader._flush
_leader_resign = Leader.resign
_consider_commit = Leader._consider_commit
_consider_epoch = Leader._consider_epoch
_consider_established = Leader._consider_established
_receive_info = Leader._receive_info
_receive_epoch_ack = Leader._receive_epoch_ack
_synchronise = Leader._synchronise
_open = Learner._open
_receive_commit = Learner._receive_commit
_receive_up_to_date = Learner._receive_up_to_date

# ---- promises


def _send_at_once(self: Outbox[Any], token: int, channel: int, message: Any) -> None:
    self.send(channel, message)


def _enter_at_once(self: Learner) -> None:
    replica = self._replica
    if self.phase == LearnerPhase.ENTERING and self._install_token <= replica.outbox.durable:
        self.phase = LearnerPhase.SYNCED
        _enter_epoch(replica, self.epoch)
        newleader = first_zxid(self.epoch)
        replica.outbox.send(self.link, Acks(newleader, newleader))


def _enter_epoch(self: Replica, epoch: int) -> int:
    """As the original, without its look at what is durable."""
    self.current_epoch = epoch
    token = self.outbox.token()
    self.writes.append(StoreCurrentEpoch(epoch, token))
    return token


def _epoch_before_history(self: Learner, packet: NewLeader) -> None:
    self.phase = LearnerPhase.ENTERING
    self._synced_last = self._replica.history.last
    _enter_epoch(self._replica, self.epoch)
    self._write()


def _flush_and_count(self: Leader) -> None:
    _flush(self)
    if self.established:
        self._durable_zxid = self.last_proposed


# ---- quorums


def _commit_with_one(self: Leader) -> None:
    settings = self._settings
    self._settings = Settings(settings.sid, settings.voters[:1], settings.observers, 1, 1, 1)
    try:
        _consider_commit(self)
    finally:
        self._settings = settings


def _count_any_epoch_ack(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    _receive_epoch_ack(self, learner, AckEpoch(ack.last_zxid, max(ack.current_epoch, 0)))


def _spend_nobody(self: Leader, learner: LearnerState, info: FollowerInfo) -> None:
    _receive_info(self, learner, info)
    self.spent.clear()


def _never_abdicate(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    _receive_epoch_ack(self, learner, ack)
    if "more recent history" in self.failed:
        self.failed = ""
        self._epoch_acks.add(learner.sid)
        self._consider_epoch_acks()


# ---- epochs


def _forget_accepted_epoch(
    self: Peer, settings: Settings, base: int, tail: list[Entry], accepted: int, current: int, window: int
) -> None:
    _peer(self, settings, base, tail, current, current, window)


def _forget_current_epoch(
    self: Peer, settings: Settings, base: int, tail: list[Entry], accepted: int, current: int, window: int
) -> None:
    _peer(self, settings, base, tail, accepted, 0, window)


def _accept_older_epochs(self: Learner, info: LeaderInfo) -> None:
    replica = self._replica
    self.epoch = info.epoch
    self.phase = LearnerPhase.SYNC_START
    replica.accepted_epoch = info.epoch
    token = replica.outbox.token()
    replica.writes.append(StoreAcceptedEpoch(info.epoch, token))
    replica.outbox.send_after(token, self.link, AckEpoch(replica.history.last, replica.current_epoch))


def _lead_newer_members(self: Leader, learner: LearnerState, info: FollowerInfo) -> None:
    accepted = min(info.accepted_epoch, self.epoch) if self.epoch >= 0 else info.accepted_epoch
    _receive_info(self, learner, FollowerInfo(info.sid, accepted, info.observer))


def _accept_without_writing(self: Learner, info: LeaderInfo) -> None:
    replica = self._replica
    if info.epoch < replica.accepted_epoch:
        self.failed = "older"
        return
    current = replica.current_epoch if info.epoch > replica.accepted_epoch else -1
    self.epoch = replica.accepted_epoch = info.epoch
    self.phase = LearnerPhase.SYNC_START
    replica.outbox.send_after(replica.outbox.issued, self.link, AckEpoch(replica.history.last, current))


def _reuse_the_epoch(self: Leader) -> None:
    accepted, self._accepted = self._accepted, {sid: max(epoch - 1, 0) for sid, epoch in self._accepted.items()}
    replica = self._replica
    before = replica.accepted_epoch
    replica.accepted_epoch = max(before - 1, 0)
    _consider_epoch(self)
    if self.epoch < 0:
        replica.accepted_epoch = before
    self._accepted = accepted


# ---- synchronisation


def _skip_trunc(self: Learner, packet: Any) -> None:
    _open(self, Diff(packet.zxid) if isinstance(packet, Trunc) else packet)


def _trunc_in_memory(self: Learner, packet: Any) -> None:
    before = len(self._replica.writes)
    _open(self, packet)
    if isinstance(packet, Trunc):
        del self._replica.writes[before:]


def _commit_the_tail(self: Learner, packet: Any) -> None:
    _open(self, packet)
    self._committed = self._replica.history.last


def _deliver_before_up_to_date(self: Learner, zxid: int) -> None:
    _receive_commit(self, zxid)
    self._replica.events.extend(self._replica.history.commit(zxid))


def _serve_before_the_history(self: Learner) -> None:
    events = self._replica.events
    before = len(events)
    _receive_up_to_date(self)
    new = events[before:]
    events[before:] = new[-1:] + new[:-1]


def _lead_before_the_history(self: Leader) -> None:
    events = self._replica.events
    before = len(events)
    _consider_established(self)
    new = events[before:]
    events[before:] = new[-1:] + new[:-1]


def _propose_to_the_synced_only(self: Leader) -> None:
    syncing = [learner for learner in self.learners.values() if learner.phase == Phase.SYNCING]
    for learner in syncing:
        learner.phase = Phase.EPOCH_ACKED
    _flush(self)
    for learner in syncing:
        learner.phase = Phase.SYNCING


def _history_without_its_tail(self: Leader, learner: LearnerState) -> None:
    after = History.after
    committed = self._replica.history.committed if self.established else self._initial_last

    def committed_only(history: History, zxid: int) -> list[Entry]:
        return [entry for entry in after(history, zxid) if entry.zxid <= committed]

    with Mutation("", "", Patch(History, "after", committed_only)).applied():
        _synchronise(self, learner)


# ---- leaving a role


def _resign_without_writing(self: Learner) -> None:
    self._received = []
    if self.link:
        self._replica.disconnects.append(self.link)
        self._replica.outbox.forget(self.link)


def _leader_resigns_without_writing(self: Leader) -> None:
    self._proposed = []
    _leader_resign(self)


def _inform_before_commit(self: Leader) -> None:
    proposed = self._proposed
    _flush(self)
    if proposed:
        for learner in self.learners.values():
            if learner.phase >= Phase.SYNCING and learner.observer:
                self._replica.outbox.send(learner.link, Proposals(proposed, inform=True))


MUTATIONS: Final = (
    Mutation(
        "acknowledge-before-durable",
        "What promises something leaves before the write it depends on is durable.",
        Patch(Outbox, "send_after", _send_at_once),
    ),
    Mutation(
        "newleader-before-history",
        "NEWLEADER is acknowledged while the history that came with it is still being written.",
        Patch(Learner, "_enter", _enter_at_once),
        issue="ZK-3911, ZK-4646, ZK-4785",
    ),
    Mutation(
        "epoch-before-history",
        "A learner writes the current epoch before the history that the epoch vouches for.",
        Patch(Learner, "_receive_new_leader", _epoch_before_history),
        issue="ZK-4643",
    ),
    Mutation(
        "leader-counts-itself",
        "The leader counts its own vote for a proposal before its own log is durable.",
        Patch(Leader, "_flush", _flush_and_count),
        issue="Multi-Paxos, rule 2",
    ),
    Mutation(
        "minority-commits",
        "One acknowledgement commits a proposal.",
        Patch(Leader, "_consider_commit", _commit_with_one),
    ),
    Mutation(
        "second-epoch-ack",
        "A voter that accepted the epoch before, perhaps from another leader, counts towards the quorum of ACKEPOCH.",
        Patch(Leader, "_receive_epoch_ack", _count_any_epoch_ack),
        Patch(Leader, "_receive_info", _spend_nobody),
        faults=("crash", "sniper"),
        options={"blind": True, "sniper": 0.1},
    ),
    Mutation(
        "never-abdicate",
        "A leader that meets a voter with a more recent history leads on.",
        Patch(Leader, "_receive_epoch_ack", _never_abdicate),
        issue="ZK-1154",
        options={"blind": True},
    ),
    Mutation(
        "accepted-epoch-forgotten",
        "After a restart the accepted epoch is taken to be the current one.",
        Patch(Peer, "__init__", _forget_accepted_epoch),
    ),
    Mutation(
        "current-epoch-forgotten",
        "After a restart the current epoch is taken to be 0.",
        Patch(Peer, "__init__", _forget_current_epoch),
    ),
    Mutation(
        "older-epoch-accepted",
        "A learner follows a leader of an older epoch than it accepted, and the leader does not mind.",
        Patch(Learner, "_receive_leader_info", _accept_older_epochs),
        Patch(Leader, "_receive_info", _lead_newer_members),
    ),
    Mutation(
        "accepted-epoch-in-memory",
        "A learner acknowledges an epoch that it only keeps in memory.",
        Patch(Learner, "_receive_leader_info", _accept_without_writing),
    ),
    Mutation(
        "epoch-reused",
        "The new epoch is the greatest that was accepted, not one more.",
        Patch(Leader, "_consider_epoch", _reuse_the_epoch),
        faults=("crash", "sniper"),
        options={"blind": True, "sniper": 0.1},
    ),
    Mutation(
        "trunc-skipped",
        "A learner keeps what the leader tells it to cut off.",
        Patch(Learner, "_open", _skip_trunc),
    ),
    Mutation(
        "trunc-in-memory",
        "The truncation of the history does not reach the disk.",
        Patch(Learner, "_open", _trunc_in_memory),
        issue="ZK-5094",
    ),
    Mutation(
        "tail-committed",
        "Everything in a learner's log counts as committed when synchronisation begins.",
        Patch(Learner, "_open", _commit_the_tail),
        issue="ZK-4394",
    ),
    Mutation(
        "delivered-before-uptodate",
        "Commits that come during synchronisation are applied at once.",
        Patch(Learner, "_receive_commit", _deliver_before_up_to_date),
        issue="ZK-4394",
    ),
    Mutation(
        "learner-serves-early",
        "A learner serves clients before the history it was brought is applied.",
        Patch(Learner, "_receive_up_to_date", _serve_before_the_history),
        issue="ZK-2807",
    ),
    Mutation(
        "leader-serves-early",
        "A new leader serves clients before the history of its epoch is applied.",
        Patch(Leader, "_consider_established", _lead_before_the_history),
    ),
    Mutation(
        "proposals-to-synced-only",
        "A learner between NEWLEADER and its acknowledgement is sent no proposals.",
        Patch(Leader, "_flush", _propose_to_the_synced_only),
        issue="issue 1 of Apache's specification of Zab",
    ),
    Mutation(
        "tail-not-sent",
        "A learner that joins late is sent the committed part of the history alone.",
        Patch(Leader, "_synchronise", _history_without_its_tail),
        issue="ZK-4925",
    ),
    Mutation(
        "learner-drops-received",
        "What a learner received and did not write yet stays in memory when it stops following, and never gets to the log.",
        Patch(Learner, "resign", _resign_without_writing),
        issue="ZK-2845",
    ),
    Mutation(
        "leader-drops-proposed",
        "What a leader proposed and did not write yet stays in memory when it stops leading.",
        Patch(Leader, "resign", _leader_resigns_without_writing),
        issue="ZK-2845",
    ),
    Mutation(
        "observers-informed-early",
        "Observers are told of proposals as if these were committed.",
        Patch(Leader, "_flush", _inform_before_commit),
        options={"voters": 3, "observers": 1},
    ),
)
