"""A member that is about to be added to a group, or removed: what its leader knows of that until it is done.

A newcomer becomes a member when it has caught up, so that it is no burden on the quorum. What it lacks at a moment says little: with hundreds
of commands on their way it never lacks only a few. Therefore rounds (Ongaro, "Consensus", 2014, 4.2.1): in each one it is sent what the
log had when the round began, while more is written. One that gets there in less than an election timeout lacks no more than
clients can do without for so long.
"""

from collections.abc import Callable

from quorate.consensus.paxos.members import Member
from quorate.errors import QuorateError

Ended = Callable[[QuorateError | None], None]
"""Called once, with what kept it from being done."""

_FEW = 8
"""Whoever lacks at most so many entries has caught up, however long that took."""
_SECOND = 1_000_000_000


class Joining:
    """``wanted``: it is to be added; removed otherwise. ``patience``: nanoseconds that it may take to catch up."""

    __slots__ = ("_began", "_goal", "_patience", "deadline", "ended", "member", "proposed", "wanted")

    def __init__(self, member: Member, wanted: bool, now: int, patience: int, ended: Ended) -> None:
        self.member = member
        self.wanted = wanted
        self.ended: list[Ended] = []
        """To be told."""
        self.proposed = False
        """The change is in the log."""
        self._goal = 0
        """The last index of the log when the round began; 0 before the first."""
        self._began = 0
        """When the round did."""
        self.ask_again(now, patience, ended)

    def ask_again(self, now: int, patience: int, ended: Ended) -> None:
        """The same is asked for; it has all its time from now on."""
        self.ended.append(ended)
        self._patience = patience
        self.deadline = now + patience

    def same(self, member: Member, wanted: bool) -> bool:
        return wanted == self.wanted and (member == self.member if wanted else member.sid == self.member.sid)

    def caught_up(self, now: int, progress: int, last: int, timeout: int) -> bool:
        """``progress``: the index up to which it holds the log, of ``last``; 0 if that is not known. ``timeout``: a round must be shorter."""
        if not progress:
            return False
        if progress + _FEW >= last or (self._goal and progress >= self._goal and now - self._began < timeout):
            return True
        if progress >= self._goal:
            self._goal, self._began = last, now
        return False

    def late(self, reachable: bool, progress: int, last: int) -> QuorateError:
        """What kept it from catching up in its time."""
        member = self.member
        if not reachable:
            why = f"there is no connection with it; see that it runs, with the same cluster's name, and has the addresses {shown(member)}"
        elif not progress:
            why = f"it is connected, but a snapshot and the log up to {last} are still on their way; give it more time"
        else:
            why = f"it holds the log up to {progress} of {last}; give it more time"
        return QuorateError(f"member {member.sid} did not catch up in {self._patience / _SECOND:g} s: {why}")


def shown(member: Member) -> str:
    """Its addresses, for people."""
    return ", ".join(f"{name} {address}" for name, address in member.addresses.items()) or "none"
