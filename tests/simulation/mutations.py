"""Deliberate bugs, each a patch of the cores at run time, that the simulation must notice.

Most are bugs that Apache ZooKeeper or a paper's reader really had; the number names the issue where there is one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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

Patch = tuple[type, str, Callable[..., Any]]


@contextmanager
def mutated(*patches: Patch) -> Iterator[None]:
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


# ---- promises


def _send_after(self: Outbox[Any], token: int, channel: int, message: Any) -> None:
    self.send(channel, message)


def _enter_at_once(self: Learner) -> None:
    """ZOOKEEPER-3911, 4646: the history of NEWLEADER is still being written when the epoch is entered and acknowledged."""
    replica = self._replica
    if self.phase == LearnerPhase.ENTERING and self._install_token <= replica.outbox.durable:
        self.phase = LearnerPhase.SYNCED
        _enter_epoch(replica, self.epoch)
        newleader = first_zxid(self.epoch)
        self._replica.outbox.send(self.link, Acks(newleader, newleader))


def _enter_epoch(self: Replica, epoch: int) -> int:
    self.current_epoch = epoch
    token = self.outbox.token()
    self.writes.append(StoreCurrentEpoch(epoch, token))
    return token


def _epoch_before_history(self: Learner, packet: NewLeader) -> None:
    """ZOOKEEPER-4643: the current epoch is written first."""
    self.phase = LearnerPhase.ENTERING
    self._synced_last = self._replica.history.last
    _enter_epoch(self._replica, self.epoch)
    self._write()


_flush = Leader._flush


def _flush_and_count(self: Leader) -> None:
    """The leader counts itself before its own log is durable."""
    _flush(self)
    if self.established:
        self._durable_zxid = self.last_proposed


# ---- quorums

_consider_commit = Leader._consider_commit


def _commit_with_a_minority(self: Leader) -> None:
    settings = self._settings
    self._settings = Settings(settings.sid, settings.voters[:1], settings.observers, 1, 1, 1)
    try:
        _consider_commit(self)
    finally:
        self._settings = settings


_receive_info = Leader._receive_info
_receive_epoch_ack = Leader._receive_epoch_ack


def _count_any_epoch_ack(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    """An epoch accepted before counts for a second leader."""
    _receive_epoch_ack(self, learner, AckEpoch(ack.last_zxid, max(ack.current_epoch, 0)))


def _spend_nobody(self: Leader, learner: LearnerState, info: FollowerInfo) -> None:
    _receive_info(self, learner, info)
    self.spent.clear()


def _never_abdicate(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    """A leader that meets a more recent history leads on."""
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


_peer = Peer.__init__


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
    """The accepted epoch stays in memory."""
    replica = self._replica
    if info.epoch < replica.accepted_epoch:
        self.failed = "older"
        return
    current = replica.current_epoch if info.epoch > replica.accepted_epoch else -1
    self.epoch = replica.accepted_epoch = info.epoch
    self.phase = LearnerPhase.SYNC_START
    replica.outbox.send_after(replica.outbox.issued, self.link, AckEpoch(replica.history.last, current))


# ---- synchronisation

_open = Learner._open


def _skip_trunc(self: Learner, packet: Any) -> None:
    """What the leader lacks stays in the log."""
    _open(self, Diff(packet.zxid) if isinstance(packet, Trunc) else packet)


def _trunc_in_memory(self: Learner, packet: Any) -> None:
    """ZOOKEEPER-5094: the truncation does not reach the disk."""
    before = len(self._replica.writes)
    _open(self, packet)
    if isinstance(packet, Trunc):
        del self._replica.writes[before:]


def _commit_the_tail(self: Learner, packet: Any) -> None:
    """ZOOKEEPER-4394: what is logged counts as committed, whatever the leader says."""
    _open(self, packet)
    self._committed = self._replica.history.last


_receive_commit = Learner._receive_commit


def _deliver_before_up_to_date(self: Learner, zxid: int) -> None:
    _receive_commit(self, zxid)
    self._replica.events.extend(self._replica.history.commit(zxid))


def _propose_to_the_synced_only(self: Leader) -> None:
    """A learner between NEWLEADER and its acknowledgement gets no proposals (issue 1 of Apache's specification)."""
    syncing = [learner for learner in self.learners.values() if learner.phase == Phase.SYNCING]
    for learner in syncing:
        learner.phase = Phase.EPOCH_ACKED
    _flush(self)
    for learner in syncing:
        learner.phase = Phase.SYNCING


_synchronise = Leader._synchronise


def _history_without_its_tail(self: Leader, learner: LearnerState) -> None:
    """The uncommitted part of the leader's history is not sent to those who join late."""
    after = History.after
    committed = self._replica.history.committed if self.established else self._initial_last

    def committed_only(history: History, zxid: int) -> list[Entry]:
        return [entry for entry in after(history, zxid) if entry.zxid <= committed]

    with mutated((History, "after", committed_only)):
        _synchronise(self, learner)


# ---- leaving a role


def _resign_without_writing(self: Learner) -> None:
    """ZOOKEEPER-2845: what was received stays in memory across an election, and never gets to the log."""
    self._received = []
    if self.link:
        self._replica.disconnects.append(self.link)
        self._replica.outbox.forget(self.link)


def _leader_resigns_without_writing(self: Leader) -> None:
    self._proposed = []
    for link in list(self.learners):
        self._replica.disconnects.append(link)
        self.lost(link)


_consider_epoch = Leader._consider_epoch


def _reuse_the_epoch(self: Leader) -> None:
    """The new epoch is the greatest accepted one, not one more."""
    known = {sid: max(accepted - 1, 0) for sid, accepted in self._accepted.items()}
    accepted, self._accepted = self._accepted, known
    replica = self._replica
    before = replica.accepted_epoch
    replica.accepted_epoch = max(before - 1, 0)
    _consider_epoch(self)
    if self.epoch < 0:
        replica.accepted_epoch = before
    self._accepted = accepted


def _inform_before_commit(self: Leader) -> None:
    """Observers are told of proposals as if they were committed."""
    proposed = self._proposed
    _flush(self)
    if proposed:
        for learner in self.learners.values():
            if learner.phase >= Phase.SYNCING and learner.observer:
                self._replica.outbox.send(learner.link, Proposals(proposed, inform=True))


MUTATIONS: dict[str, tuple[Patch, ...]] = {
    "acknowledges before it is durable": ((Outbox, "send_after", _send_after),),
    "acknowledges NEWLEADER before its history is durable": ((Learner, "_enter", _enter_at_once),),
    "writes the current epoch before the history": ((Learner, "_receive_new_leader", _epoch_before_history),),
    "leader counts itself before its own fsync": ((Leader, "_flush", _flush_and_count),),
    "commits with a minority": ((Leader, "_consider_commit", _commit_with_a_minority),),
    "counts an ACKEPOCH of -1": (
        (Leader, "_receive_epoch_ack", _count_any_epoch_ack),
        (Leader, "_receive_info", _spend_nobody),
    ),
    "leads on against a more recent history": ((Leader, "_receive_epoch_ack", _never_abdicate),),
    "forgets the accepted epoch over a restart": ((Peer, "__init__", _forget_accepted_epoch),),
    "forgets the current epoch over a restart": ((Peer, "__init__", _forget_current_epoch),),
    "accepts an older epoch": (
        (Learner, "_receive_leader_info", _accept_older_epochs),
        (Leader, "_receive_info", _lead_newer_members),
    ),
    "keeps the accepted epoch in memory": ((Learner, "_receive_leader_info", _accept_without_writing),),
    "proposes an epoch that is in use": ((Leader, "_consider_epoch", _reuse_the_epoch),),
    "skips TRUNC": ((Learner, "_open", _skip_trunc),),
    "truncates in memory alone": ((Learner, "_open", _trunc_in_memory),),
    "commits its own tail": ((Learner, "_open", _commit_the_tail),),
    "delivers before UPTODATE": ((Learner, "_receive_commit", _deliver_before_up_to_date),),
    "proposes to synchronised learners alone": ((Leader, "_flush", _propose_to_the_synced_only),),
    "sends late learners committed entries alone": ((Leader, "_synchronise", _history_without_its_tail),),
    "drops what it received when it stops following": ((Learner, "resign", _resign_without_writing),),
    "drops what it proposed when it stops leading": ((Leader, "resign", _leader_resigns_without_writing),),
    "informs observers before the commit": ((Leader, "_flush", _inform_before_commit),),
}
