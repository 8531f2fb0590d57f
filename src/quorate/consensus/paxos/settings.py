"""What a Paxos group is like."""

from quorate.errors import UsageError

MILLISECOND = 1_000_000


class Settings:
    """Times are nanoseconds, ``clock_error`` millionths by which a clock's rate may be wrong; ``lease`` 0 for none.

    Any phase-1 quorum must meet any phase-2 quorum; by default both are majorities.
    """

    __slots__ = (
        "accept_quorum",
        "clock_error",
        "election_timeout",
        "heartbeat",
        "lease",
        "members",
        "prepare_quorum",
        "sid",
    )

    def __init__(
        self,
        sid: int,
        members: tuple[int, ...],
        *,
        prepare_quorum: int = 0,
        accept_quorum: int = 0,
        heartbeat: int = 50 * MILLISECOND,
        election_timeout: int = 300 * MILLISECOND,
        lease: int = 0,
        clock_error: int = 1000,
    ) -> None:
        """Raises UsageError for quorums that need not meet, or a lease that outlives the patience of an election."""
        size = len(members)
        majority = size // 2 + 1
        self.sid = sid
        self.members = members
        self.prepare_quorum = prepare_quorum or (size - accept_quorum + 1 if accept_quorum else majority)
        self.accept_quorum = accept_quorum or size - self.prepare_quorum + 1
        self.heartbeat = heartbeat
        self.election_timeout = election_timeout
        self.lease = lease
        self.clock_error = clock_error
        if sid not in members or len(set(members)) != size or not all(0 < member < 1 << 16 for member in members):
            raise UsageError(
                f"member {sid} of {members}: expected different numbers from 1 to 65535, its own among them"
            )
        if not (0 < self.prepare_quorum <= size and 0 < self.accept_quorum <= size):
            raise UsageError(f"quorums of {self.prepare_quorum} and {self.accept_quorum} among {size} members")
        if self.prepare_quorum + self.accept_quorum <= size:
            raise UsageError(
                f"quorums of {self.prepare_quorum} and {self.accept_quorum} among {size} members need not meet: their sum must be"
                f" more than {size}"
            )
        if lease > election_timeout:
            raise UsageError(f"a lease of {lease} ns is longer than the election timeout of {election_timeout} ns")
