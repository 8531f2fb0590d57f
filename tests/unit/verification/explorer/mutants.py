"""Deliberate bugs of the cores, patched in at run time, that the explorer must find; numbers are those of Apache's issues.

``MUTANTS`` says within which bounds each is reached, and by which invariant, at the end of a shortest trace.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from quorate.consensus.contract import Outbox
from quorate.consensus.zab.history import History
from quorate.consensus.zab.leader import Leader, LearnerState
from quorate.consensus.zab.learner import Learner
from quorate.consensus.zab.learner import Phase as LearnerPhase
from quorate.consensus.zab.messages import AckEpoch, Acks, Diff, Entry, FollowerInfo, LeaderInfo, Trunc, first_zxid
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


def _send_at_once(self: Outbox[Any], token: int, channel: int, message: Any) -> None:
    self.send(channel, message)


def _enter_with_a_history_under_way(self: Learner) -> None:
    """ZOOKEEPER-3911, 4646."""
    replica = self._replica
    if self.phase == LearnerPhase.ENTERING and self._install_token <= replica.outbox.durable:
        self.phase = LearnerPhase.SYNCED
        _enter_epoch(replica, self.epoch)
        newleader = first_zxid(self.epoch)
        replica.outbox.send(self.link, Acks(newleader, newleader))


def _enter_epoch(replica: Replica, epoch: int) -> None:
    replica.current_epoch = epoch
    replica.writes.append(StoreCurrentEpoch(epoch, replica.outbox.token()))


_flush = Leader._flush


def _flush_and_count(self: Leader) -> None:
    _flush(self)
    if self.established:
        self._durable_zxid = self.last_proposed


_consider_commit = Leader._consider_commit


def _commit_with_a_minority(self: Leader) -> None:
    settings = self._settings
    self._settings = Settings(settings.sid, settings.voters[:1], settings.observers, 1, 1, 1)
    try:
        _consider_commit(self)
    finally:
        self._settings = settings


_receive_epoch_ack = Leader._receive_epoch_ack


def _never_abdicate(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    _receive_epoch_ack(self, learner, ack)
    if "more recent history" in self.failed:
        self.failed = ""
        self._epoch_acks.add(learner.sid)
        self._consider_epoch_acks()


_receive_info = Leader._receive_info


def _count_any_epoch_ack(self: Leader, learner: LearnerState, ack: AckEpoch) -> None:
    """An epoch that was accepted once before counts for a second leader."""
    _receive_epoch_ack(self, learner, AckEpoch(ack.last_zxid, max(ack.current_epoch, 0)))


def _spend_nobody(self: Leader, learner: LearnerState, info: FollowerInfo) -> None:
    _receive_info(self, learner, info)
    self.spent.clear()


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


_peer = Peer.__init__


def _forget_the_accepted_epoch(
    self: Peer, settings: Settings, base: int, tail: list[Entry], accepted: int, current: int, window: int
) -> None:
    _peer(self, settings, base, tail, current, current, window)


def _forget_the_current_epoch(
    self: Peer, settings: Settings, base: int, tail: list[Entry], accepted: int, current: int, window: int
) -> None:
    _peer(self, settings, base, tail, accepted, 0, window)


def _accept_without_writing(self: Learner, info: LeaderInfo) -> None:
    replica = self._replica
    if info.epoch < replica.accepted_epoch:
        self.failed = "older"
        return
    current = replica.current_epoch if info.epoch > replica.accepted_epoch else -1
    self.epoch = replica.accepted_epoch = info.epoch
    self.phase = LearnerPhase.SYNC_START
    replica.outbox.send_after(replica.outbox.issued, self.link, AckEpoch(replica.history.last, current))


_open = Learner._open


def _skip_trunc(self: Learner, packet: Any) -> None:
    _open(self, Diff(packet.zxid) if isinstance(packet, Trunc) else packet)


def _commit_the_tail(self: Learner, packet: Any) -> None:
    """ZOOKEEPER-4394."""
    _open(self, packet)
    self._committed = self._replica.history.last


_receive_commit = Learner._receive_commit


def _deliver_before_up_to_date(self: Learner, zxid: int) -> None:
    _receive_commit(self, zxid)
    self._replica.events.extend(self._replica.history.commit(zxid))


_synchronise = Leader._synchronise


def _history_without_its_tail(self: Leader, learner: LearnerState) -> None:
    """Issue 1 of the protocol specification's list: who joins late gets no proposals under way."""
    after = History.after
    committed = self._replica.history.committed if self.established else self._initial_last

    def committed_only(history: History, zxid: int) -> list[Entry]:
        return [entry for entry in after(history, zxid) if entry.zxid <= committed]

    with mutated((History, "after", committed_only)):
        _synchronise(self, learner)


Bounds = dict[str, Any]
QUIET: Bounds = {"transactions": 1, "crashes": 0, "epochs": 1}
CRASH: Bounds = {"transactions": 1, "crashes": 1, "epochs": 2}
RIVALS: Bounds = {"transactions": 0, "crashes": 2, "epochs": 2}

MUTANTS: dict[str, tuple[tuple[Patch, ...], Bounds, str]] = {
    "acknowledges before it is durable": (((Outbox, "send_after", _send_at_once),), QUIET, "CommittedLogDurability"),
    "acknowledges NEWLEADER before its history is durable": (
        ((Learner, "_enter", _enter_with_a_history_under_way),),
        CRASH,
        "CommittedLogDurability",
    ),
    "leader counts itself before its own sync": (
        ((Leader, "_flush", _flush_and_count),),
        QUIET,
        "CommittedLogDurability",
    ),
    "commits with a minority": (
        ((Leader, "_consider_commit", _commit_with_a_minority),),
        QUIET,
        "CommittedLogDurability",
    ),
    "leads on against a more recent history": (((Leader, "_receive_epoch_ack", _never_abdicate),), CRASH, "NoError"),
    "counts an ACKEPOCH of -1": (
        ((Leader, "_receive_epoch_ack", _count_any_epoch_ack), (Leader, "_receive_info", _spend_nobody)),
        RIVALS,
        "Leadership1",
    ),
    "accepts an older epoch": (
        ((Learner, "_receive_leader_info", _accept_older_epochs), (Leader, "_receive_info", _lead_newer_members)),
        RIVALS,
        "Leadership1",
    ),
    "forgets the accepted epoch over a restart": (
        ((Peer, "__init__", _forget_the_accepted_epoch),),
        CRASH,
        "Leadership1",
    ),
    "forgets the current epoch over a restart": (
        ((Peer, "__init__", _forget_the_current_epoch),),
        CRASH,
        "CommittedLogDurability",
    ),
    "keeps the accepted epoch in memory": (
        ((Learner, "_receive_leader_info", _accept_without_writing),),
        CRASH,
        "Leadership1",
    ),
    "skips TRUNC": (((Learner, "_open", _skip_trunc),), CRASH, "ProcessConsistency"),
    "commits its own tail": (((Learner, "_open", _commit_the_tail),), CRASH, "CommittedLogDurability"),
    "delivers before UPTODATE": (
        ((Learner, "_receive_commit", _deliver_before_up_to_date),),
        CRASH,
        "CommittedLogDurability",
    ),
    "sends late learners committed entries alone": (
        ((Leader, "_synchronise", _history_without_its_tail),),
        QUIET,
        "NoError",
    ),
}
