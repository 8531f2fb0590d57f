"""What must hold for the members of a replicated log at every step, whoever tells of the steps.

Names are those of the Zab papers where they have one:

- *agreement, total order*: all members apply one and the same sequence of entries, each from where its state ends.
- *integrity*: what is applied was proposed, with that zxid and that payload, by the leader of its epoch.
- *primary order*: an epoch's entries follow its leader's initial history, in the order in which it proposed them.
- *leadership*: an epoch has at most one established leader.
- *durability*: whatever was acknowledged to a client, or applied by anyone, is in the initial history of every later epoch.

All calls take constant time. A broken promise raises :class:`BrokenPromise`.
"""

from collections.abc import Collection

from quorate.consensus.zab.history import follows
from quorate.consensus.zab.messages import epoch_of, first_zxid


class BrokenPromise(AssertionError):
    """Says which promise, by whom and where."""


class LogAgreement:
    """Members are named by their sids. A zxid of 0 is the empty history."""

    def __init__(self, voters: Collection[int]) -> None:
        self._voters = frozenset(voters)
        self._log: list[tuple[int, bytes]] = [(0, b"")]
        """What anyone ever applied, in order: the one history."""
        self._places = {0: 0}
        """zxid -> index in the log."""
        self._applied: dict[int, int] = {}
        """By member: the index of the last entry in its state."""
        self._proposed: dict[int, bytes] = {}
        self._leaders: dict[int, tuple[int, int]] = {}
        """By established epoch: its leader and the end of its initial history."""
        self._newest = 0
        self._acknowledged = 0
        """The largest zxid that a client heard of as done."""

    def log(self) -> list[tuple[int, bytes]]:
        """(zxid, payload) of everything applied by anyone, in order."""
        return self._log[1:]

    def committed(self, zxid: int) -> bool:
        """Whether anyone has applied this entry."""
        return zxid in self._places

    # ---- entries

    def proposed(self, sid: int, zxid: int, payload: bytes) -> None:
        known = self._proposed.get(zxid)
        if known is not None and not (len(self._voters) == 1 and zxid not in self._places):
            raise BrokenPromise(f"zxids: member {sid} proposes {zxid:#x} a second time")
        self._proposed[zxid] = payload

    def applied(self, sid: int, zxid: int, payload: bytes) -> None:
        """The member applies an entry to its state."""
        log = self._log
        place = self._applied.get(sid, 0) + 1
        if place < len(log):
            if log[place] != (zxid, payload):
                what = "another payload" if log[place][0] == zxid else f"{log[place][0]:#x}"
                raise BrokenPromise(
                    f"agreement: member {sid} applies {zxid:#x} after {log[place - 1][0]:#x}, where others applied {what}"
                )
        else:
            self._extend(sid, zxid, payload)
        self._applied[sid] = place

    def _extend(self, sid: int, zxid: int, payload: bytes) -> None:
        before = self._log[-1][0]
        if not follows(before, zxid):
            raise BrokenPromise(f"total order: member {sid} applies {zxid:#x} after {before:#x}")
        if self._proposed.get(zxid) != payload:
            raise BrokenPromise(f"integrity: member {sid} applies {zxid:#x}, which nobody proposed so")
        epoch = epoch_of(zxid)
        leader = self._leaders.get(epoch)
        if leader is not None and zxid == first_zxid(epoch) + 1 and leader[1] != before:
            raise BrokenPromise(
                f"primary order: member {sid} applies {zxid:#x} after {before:#x}, its leader began after {leader[1]:#x}"
            )
        if epoch < self._newest:
            raise BrokenPromise(
                f"durability: member {sid} applies {zxid:#x} first, when epoch {self._newest} began without it"
            )
        self._places[zxid] = len(self._log)
        self._log.append((zxid, payload))

    def acknowledged(self, zxid: int) -> None:
        """A client was told that this entry's operation is done."""
        if zxid not in self._places:
            raise BrokenPromise(f"durability: {zxid:#x} is acknowledged, but no member has applied it")
        self._acknowledged = max(self._acknowledged, zxid)

    # ---- states

    def restarted(self, sid: int, zxid: int) -> None:
        """The member recovered a state that ends with this entry."""
        self._applied[sid] = self._place(sid, zxid, "recovers")

    def adopted(self, sid: int, zxid: int) -> None:
        """The member takes another's state, that ends with this entry."""
        self._applied[sid] = self._place(sid, zxid, "adopts")

    def _place(self, sid: int, zxid: int, does: str) -> int:
        place = self._places.get(zxid)
        if place is None and not zxid & 0xFFFFFFFF:
            # the zero of an epoch stands for all before that epoch
            place = max((place for other, place in self._places.items() if other < zxid), default=0)
        if place is None:
            raise BrokenPromise(f"agreement: member {sid} {does} a state as of {zxid:#x}, which nobody applied")
        return place

    # ---- roles

    def established(self, sid: int, epoch: int, zxid: int) -> None:
        """The member leads the epoch, whose initial history ends with this entry and is committed by it."""
        if epoch in self._leaders:
            raise BrokenPromise(f"leadership: members {self._leaders[epoch][0]} and {sid} both lead epoch {epoch}")
        missing = [
            other for other, _ in self._log[self._place(sid, zxid, "leads from") + 1 :] if epoch_of(other) < epoch
        ]
        if missing:
            raise BrokenPromise(
                f"durability: leader {sid} of epoch {epoch} begins after {zxid:#x}, without {missing[0]:#x}, which is applied"
            )
        self._leaders[epoch] = sid, zxid
        self._newest = max(self._newest, epoch)

    def serving(self, sid: int, leader: int, epoch: int, zxid: int) -> None:
        """The member serves as a learner, its state ending with this entry."""
        known = self._leaders.get(epoch)
        if known is None:
            raise BrokenPromise(f"leadership: learner {sid} serves in epoch {epoch}, which is not established")
        if known[0] != leader:
            raise BrokenPromise(
                f"leadership: learner {sid} says that {leader} leads epoch {epoch}, but {known[0]} does"
            )
        if self._place(sid, zxid, "serves") < self._place(sid, known[1], "serves"):
            raise BrokenPromise(
                f"durability: learner {sid} serves in epoch {epoch} from {zxid:#x}, before its initial history {known[1]:#x}"
            )
