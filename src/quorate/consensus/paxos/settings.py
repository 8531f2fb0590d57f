"""What a Paxos group is like."""

from quorate.errors import UsageError

MILLISECOND = 1_000_000
SID_MAX = 0xFFFF


class Settings:
    """Times are nanoseconds, ``clock_error`` millionths by which a clock's rate may be wrong; ``lease`` 0 for none.

    ``members``: the sids that the group begins with; none for a member that is to be added. Any phase-1 quorum must meet any phase-2
    quorum; by default both are majorities.
    """

    __slots__ = ("accept_quorum", "clock_error", "election_timeout", "heartbeat", "lease", "members", "sid")

    def __init__(
        self,
        sid: int,
        members: tuple[int, ...],
        *,
        accept_quorum: int = 0,
        heartbeat: int = 50 * MILLISECOND,
        election_timeout: int = 300 * MILLISECOND,
        lease: int = 0,
        clock_error: int = 1000,
    ) -> None:
        """``accept_quorum``: the size of phase-2 quorums, 0 for majorities; phase-1 quorums are as large as it takes to meet them.

        Raises UsageError for a quorum that cannot be, or a lease that outlives the patience of an election.
        """
        size = len(members)
        self.sid = sid
        self.members = members
        self.accept_quorum = accept_quorum
        self.heartbeat = heartbeat
        self.election_timeout = election_timeout
        self.lease = lease
        self.clock_error = clock_error
        if len(set(members)) != size or not all(0 < member <= SID_MAX for member in (sid, *members)):
            raise UsageError(f"member {sid} of {members}: expected different numbers from 1 to {SID_MAX}")
        if accept_quorum and not 0 < accept_quorum <= size:
            raise UsageError(f"a phase-2 quorum of {accept_quorum} among {size} members")
        if lease > election_timeout:
            raise UsageError(f"a lease of {lease} ns is longer than the election timeout of {election_timeout} ns")

    def quorums(self, size: int) -> tuple[int, int]:
        """How many of ``size`` members make a phase-1 and a phase-2 quorum."""
        accept = self.accept_quorum
        if accept and accept <= size:
            return size - accept + 1, accept
        majority = size // 2 + 1
        return majority, majority

    def may_change(self, before: int, after: int) -> bool:
        """Whether the quorums of so many members meet those of one more or less, so that the change is safe in one step."""
        union = max(before, after)
        prepare_before, accept_before = self.quorums(before)
        prepare_after, accept_after = self.quorums(after)
        return prepare_before + accept_after > union and prepare_after + accept_before > union
