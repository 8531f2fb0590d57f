"""What must never happen, looked at whenever a member applies, sends, writes or changes its role.

Names are those of the Zab papers where they have one. ``Violation`` ends a run. The promises checked at their source
(durable before sent, applied only when a quorum has it on disk) can be switched off, to see that what follows from
breaking them is noticed as well.
"""

from tests.simulation.disk import Disk
from tests.simulation.service import Applied

from quorate.consensus.zab.history import follows
from quorate.consensus.zab.messages import AckEpoch, Acks, LeaderInfo, Message, epoch_of, first_zxid
from quorate.consensus.zab.replica import (
    Append,
    InstallSnapshot,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    WriteRequest,
)


class Violation(AssertionError):
    """An invariant does not hold; the text says which, where and how."""


class Checker:
    def __init__(
        self, voters: tuple[int, ...], disks: dict[int, Disk], origin: Applied, at_source: bool = True
    ) -> None:
        self.agreed = [origin]
        """What anyone ever applied, in order: the one history."""
        self.acknowledged = origin
        """The newest entry that its proposer saw committed."""
        self.leaders: dict[int, tuple[int, Applied]] = {}
        """By established epoch: the leader's sid, and the end of its initial history. Not always in the order of the epochs."""
        self.proposed: dict[int, bytes] = {}
        self._newest = 0
        self._depths = {0: 0}
        self._voters = voters
        self._quorum = len(voters) // 2 + 1
        self._disks = disks
        self._epochs = dict.fromkeys(disks, (0, 0))
        self._at_source = at_source

    # ---- histories

    def propose(self, sid: int, zxid: int, payload: bytes) -> None:
        if zxid in self.proposed:
            raise Violation(f"zxids: member {sid} proposes {zxid:#x} a second time")
        self.proposed[zxid] = payload

    def applied(self, sid: int, node: Applied) -> None:
        """Agreement, total order, integrity, primary order; and that a quorum of logs has what is applied first here."""
        agreed = self.agreed
        if node.depth < len(agreed):
            if agreed[node.depth] is not node:
                raise Violation(f"prefix consistency: member {sid} applied {node}, others {agreed[node.depth]}")
            return
        parent = node.parent
        if parent is not agreed[-1]:
            raise Violation(f"prefix consistency: member {sid} applied {node} after {parent}, others {agreed[-1]}")
        if self.proposed.get(node.zxid) != node.payload:
            raise Violation(f"integrity: member {sid} applied {node}, which no leader proposed")
        epoch = epoch_of(node.zxid)
        if not follows(parent.zxid, node.zxid):
            raise Violation(f"zxids: member {sid} applied {node} after {parent}")
        if node.zxid == first_zxid(epoch) + 1 and self.leaders[epoch][1] is not parent:
            raise Violation(f"primary order: {node} follows {parent}, not {self.leaders[epoch][1]}")
        if self._at_source:
            holders = [sid for sid in self._voters if self._disks[sid].holds(node)]
            if len(holders) < self._quorum:
                raise Violation(f"commit: member {sid} applied {node}, which is on the disks of {holders} only")
        self._depths[node.zxid] = len(agreed)
        agreed.append(node)

    def skipped(self, sid: int, zxid: int, payload: bytes) -> None:
        """A member was handed an entry that its state holds already."""
        depth = self._depths.get(zxid)
        if depth is None or self.agreed[depth].payload != payload:
            raise Violation(f"prefix consistency: member {sid} was handed {zxid:#x} {payload!r} a second time")

    def adopted(self, sid: int, zxid: int, node: Applied) -> None:
        if self.agreed[node.depth] is not node or node.zxid < zxid:
            raise Violation(f"member {sid} adopted {node} as of {zxid:#x}")

    def acknowledge(self, node: Applied) -> None:
        """Durability, for leaders that are established already: of later epochs, but maybe before this entry was committed."""
        if node.depth > self.acknowledged.depth:
            self.acknowledged = node
        epoch = epoch_of(node.zxid)
        if epoch < self._newest:
            for other, (sid, initial) in self.leaders.items():
                if other > epoch and not node.within(initial):
                    raise Violation(
                        f"durability: leader {sid} of epoch {other} ends at {initial}, then {node} is acknowledged"
                    )

    # ---- roles

    def established(self, sid: int, epoch: int, node: Applied) -> None:
        """Leadership, and that nothing acknowledged is missing."""
        if epoch in self.leaders:
            raise Violation(f"leadership: members {self.leaders[epoch][0]} and {sid} both lead epoch {epoch}")
        acknowledged = self.acknowledged
        while acknowledged.parent is not None and epoch_of(acknowledged.zxid) >= epoch:
            # a leader may be established when a later one is already: the last acknowledgement it needed came late
            acknowledged = acknowledged.parent
        if not acknowledged.within(node):
            raise Violation(f"durability: leader {sid} of epoch {epoch} ends at {node}, acknowledged: {acknowledged}")
        self.leaders[epoch] = sid, node
        self._newest = max(self._newest, epoch)

    def serving(self, sid: int, leading: int, epoch: int, node: Applied) -> None:
        """A learner serves, and says who leads it."""
        leader = self.leaders.get(epoch)
        if leader is None:
            raise Violation(f"learner {sid} serves in epoch {epoch}, which is not established")
        if leader[0] != leading:
            raise Violation(f"learner {sid} says that {leading} leads epoch {epoch}, but {leader[0]} does")
        if node.depth < leader[1].depth:
            raise Violation(
                f"learner {sid} serves in epoch {epoch} from {node}, before its initial history {leader[1]}"
            )

    # ---- disks

    def carried(self, sid: int, history: int, write: WriteRequest) -> None:
        """``history``: where the initial history of the member's epoch ends."""
        disk = self._disks[sid]
        if self._at_source and isinstance(write, StoreCurrentEpoch) and disk.last < history:
            raise Violation(
                f"history before epoch: member {sid} writes epoch {write.epoch} with {disk.last:#x} of {history:#x} on disk"
            )
        if isinstance(write, Append):
            log = disk.log
            start = len(log) - len(write.entries)
            before = max(log[start - 1].zxid, disk.snapshot_zxid) if start else disk.snapshot_zxid
            for entry in write.entries:
                if not follows(before, entry.zxid) and entry.zxid > disk.snapshot_zxid:
                    raise Violation(f"the log of member {sid} goes from {before:#x} to {entry.zxid:#x}")
                before = max(before, entry.zxid)
        elif isinstance(write, StoreAcceptedEpoch | StoreCurrentEpoch):
            accepted, current = self._epochs[sid]
            if (
                disk.accepted_epoch < accepted
                or disk.current_epoch < current
                or disk.current_epoch > disk.accepted_epoch
            ):
                raise Violation(
                    f"epochs of member {sid} go from {accepted}, {current} to {disk.accepted_epoch}, {disk.current_epoch}"
                )
            self._epochs[sid] = disk.accepted_epoch, disk.current_epoch
        elif isinstance(write, InstallSnapshot) and disk.log and disk.log[-1].zxid > write.zxid:
            raise Violation(
                f"member {sid} installs a snapshot as of {write.zxid:#x} under a log to {disk.log[-1].zxid:#x}"
            )

    def recovered(self, sid: int) -> None:
        disk = self._disks[sid]
        before = disk.snapshot_zxid
        for entry in disk.tail():
            if not follows(before, entry.zxid):
                raise Violation(f"the log of member {sid} goes from {before:#x} to {entry.zxid:#x}")
            before = entry.zxid

    # ---- promises

    def sent(self, sid: int, epoch: int, history: int, message: Message) -> None:
        """``epoch``: the sender's, as learner or leader; ``history``: where its log ended when NEWLEADER came."""
        if not self._at_source:
            return
        disk = self._disks[sid]
        if isinstance(message, Acks):
            if message.last == first_zxid(epoch):
                kept = disk.current_epoch == epoch and disk.last >= history
            else:
                kept = disk.last >= message.last
        elif isinstance(message, AckEpoch):
            kept = disk.accepted_epoch == epoch and disk.last >= message.last_zxid
        elif isinstance(message, LeaderInfo):
            kept = disk.accepted_epoch == message.epoch
        else:
            return
        if not kept:
            raise Violation(
                f"durable before sent: member {sid} sent {message} with {disk.last:#x}, "
                f"accepted epoch {disk.accepted_epoch}, current epoch {disk.current_epoch} on disk"
            )
