"""What must never be in a Zab ensemble, as predicates of one state.

Names and meanings are those of the protocol specification of Apache ZooKeeper (protocol-spec/Zab.tla: Leadership1 to
PrimaryIntegrity) and of the mixed specification (ProcessConsistency, LeaderLogCompleteness, CommittedLogDurability), whose
"delivered" is here what a member's service applied in this life. Two are stated more strongly: PrefixConsistency also holds
against everything applied by anyone ever, and CommittedLogDurability asks that a quorum has it on disk, not only that no
truncation takes it away. LogOrder is ours: a disk holds an unbroken history.
"""

from collections.abc import Callable, Iterable, Sequence

from quorate.consensus.zab.messages import Entry, epoch_of
from quorate.verification.spaces.zab_node import LEADING, Entries, View


class Record:
    """What the invariants remember of the past."""

    __slots__ = ("agreed", "leaders", "proposed")

    def __init__(
        self,
        agreed: Entries = (),
        leaders: tuple[tuple[int, int], ...] = (),
        proposed: tuple[tuple[int, bytes, int], ...] = (),
    ) -> None:
        self.agreed = agreed
        """The longest history that anyone ever applied."""
        self.leaders = leaders
        """(epoch, sid) of every leader that a quorum acknowledged, sorted."""
        self.proposed = proposed
        """(zxid, payload, sid) of every proposal, in order."""

    def state(self) -> tuple[Entries, tuple[tuple[int, int], ...], tuple[tuple[int, bytes, int], ...]]:
        return self.agreed, self.leaders, self.proposed

    def after(self, sid: int, view: View) -> "Record":
        """The record once member ``sid`` is as ``view`` says."""
        agreed, leaders = self.agreed, self.leaders
        if len(view.applied) > len(agreed):
            agreed = view.applied
        if view.role == LEADING and view.epoch and (view.epoch, sid) not in leaders:
            leaders = tuple(sorted((*leaders, (view.epoch, sid))))
        if agreed is self.agreed and leaders is self.leaders:
            return self
        return Record(agreed, leaders, self.proposed)


Views = Sequence[View]
"""Per member, in the order of their sids, which count from 1."""


def leadership1(views: Views, record: Record) -> str:
    """At most one leader of an epoch."""
    leading: dict[int, int] = {}
    for sid, view in enumerate(views, 1):
        if view.role == LEADING and view.epoch:
            if view.epoch in leading:
                return f"members {leading[view.epoch]} and {sid} both lead epoch {view.epoch}"
            leading[view.epoch] = sid
    return ""


def leadership2(views: Views, record: Record) -> str:
    """Nor was there ever another."""
    for (epoch, sid), (other_epoch, other) in zip(record.leaders, record.leaders[1:], strict=False):
        if epoch == other_epoch:
            return f"members {sid} and {other} both led epoch {epoch}"
    return ""


def prefix_consistency(views: Views, record: Record) -> str:
    """Of any two histories applied, one is the beginning of the other."""
    for sid, view in enumerate(views, 1):
        applied = view.applied
        if applied != record.agreed[: len(applied)]:
            return f"member {sid} applied {text(applied)}, others {text(record.agreed)}"
    return ""


def integrity(views: Views, record: Record) -> str:
    """What is applied was proposed by a leader."""
    proposed = {(zxid, payload) for zxid, payload, _ in record.proposed}
    for sid, view in enumerate(views, 1):
        for entry in view.applied:
            if (entry.zxid, entry.payload) not in proposed:
                return f"member {sid} applied {text((entry,))}, which no leader proposed"
    return ""


def agreement(views: Views, record: Record) -> str:
    """If one member applied a and another b, the one applied b or the other a."""
    for one, first in enumerate(views, 1):
        for other, second in enumerate(views[one:], one + 1):
            only, alone = set(first.applied) - set(second.applied), set(second.applied) - set(first.applied)
            if only and alone:
                return f"member {one} alone applied {text(_sorted(only))}, member {other} alone {text(_sorted(alone))}"
    return ""


def total_order(views: Views, record: Record) -> str:
    """If a member applied a before b, whoever applied b applied a before it."""
    for one, first in enumerate(views, 1):
        for other, second in enumerate(views, 1):
            for index, entry in enumerate(first.applied):
                if entry in second.applied:
                    before = second.applied[: second.applied.index(entry)]
                    missing = [e for e in first.applied[:index] if e not in before]
                    if missing:
                        return (
                            f"member {one} applied {text(missing)} before {text((entry,))}, which member {other} applied"
                            " without"
                        )
    return ""


def local_primary_order(views: Views, record: Record) -> str:
    """What one primary proposed is applied in that order, without gaps."""
    for number, (zxid, payload, leader) in enumerate(record.proposed):
        for sid, view in enumerate(views, 1):
            applied = [(entry.zxid, entry.payload) for entry in view.applied]
            if (zxid, payload) not in applied:
                continue
            before = applied[: applied.index((zxid, payload))]
            for early, content, proposer in record.proposed[:number]:
                if proposer == leader and epoch_of(early) == epoch_of(zxid) and (early, content) not in before:
                    return f"member {sid} applied {zxid:#x}, but not before it {early:#x}, proposed by {leader} earlier"
    return ""


def global_primary_order(views: Views, record: Record) -> str:
    """Entries are applied in the order of their epochs."""
    for sid, view in enumerate(views, 1):
        epochs = [epoch_of(entry.zxid) for entry in view.applied]
        if epochs != sorted(epochs):
            return f"member {sid} applied {text(view.applied)}"
    return ""


def primary_integrity(views: Views, record: Record) -> str:
    """A leader that broadcasts has applied everything of older epochs that its followers have."""
    for leader, primary in enumerate(views, 1):
        if not primary.established:
            continue
        for sid, view in enumerate(views, 1):
            if view.serving and view.following == leader and view.epoch == primary.epoch:
                missing = [e for e in view.applied if epoch_of(e.zxid) < primary.epoch and e not in primary.applied]
                if missing:
                    return f"member {sid} applied {text(missing)}, its leader {leader} of epoch {primary.epoch} did not"
    return ""


def process_consistency(views: Views, record: Record) -> str:
    """From NEWLEADER on, a follower's history is a beginning of its leader's."""
    for sid, view in enumerate(views, 1):
        if not view.synced or not view.following > 0:
            continue
        leader = views[view.following - 1]
        if leader.role == LEADING and leader.epoch == view.epoch:
            history = view.history
            if history != leader.history[: len(history)]:
                return (
                    f"member {sid} has {text(history)}, its leader {view.following} of epoch {view.epoch}"
                    f" has {text(leader.history)}"
                )
    return ""


def leader_log_completeness(views: Views, record: Record) -> str:
    """An established leader has everything of older epochs that anyone ever applied."""
    for sid, view in enumerate(views, 1):
        if view.established:
            missing = [e for e in record.agreed if epoch_of(e.zxid) < view.epoch and e not in view.history]
            if missing:
                return f"leader {sid} of epoch {view.epoch} has {text(view.history)} without {text(missing)}, applied before"
    return ""


def committed_log_durability(views: Views, record: Record) -> str:
    """A quorum has on disk what anyone ever applied."""
    agreed = record.agreed
    holders = [sid for sid, view in enumerate(views, 1) if view.durable[: len(agreed)] == agreed]
    if len(holders) * 2 <= len(views):
        where = f"on the disk of {', '.join(map(str, holders))} only" if holders else "on no disk"
        return f"{text(agreed)} was applied and is {where}"
    return ""


def log_order(views: Views, record: Record) -> str:
    for sid, view in enumerate(views, 1):
        if view.kept:
            return f"on the disk of member {sid} {view.kept}"
    return ""


INVARIANTS: dict[str, Callable[[Views, Record], str]] = {
    "Leadership1": leadership1,
    "Leadership2": leadership2,
    "PrefixConsistency": prefix_consistency,
    "Integrity": integrity,
    "Agreement": agreement,
    "TotalOrder": total_order,
    "LocalPrimaryOrder": local_primary_order,
    "GlobalPrimaryOrder": global_primary_order,
    "PrimaryIntegrity": primary_integrity,
    "ProcessConsistency": process_consistency,
    "LeaderLogCompleteness": leader_log_completeness,
    "CommittedLogDurability": committed_log_durability,
    "LogOrder": log_order,
}


def broken(views: Views, record: Record) -> str:
    """The first invariant that does not hold, and how; empty if all hold."""
    for name, holds in INVARIANTS.items():
        if wrong := holds(views, record):
            return f"{name}: {wrong}"
    return ""


def text(entries: Iterable[Entry]) -> str:
    """Entries as ``epoch.counter``."""
    return ", ".join([f"{epoch_of(e.zxid)}.{e.zxid & 0xFFFFFFFF}" for e in entries]) or "nothing"


def _sorted(entries: set[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.zxid)
