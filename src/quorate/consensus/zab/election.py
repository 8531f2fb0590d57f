"""Fast leader election (FastLeaderElection.java): members exchange votes until a quorum agrees.

Theory of operation. A member that looks for a leader starts a round (its logical clock plus one), votes for itself and
tells everyone. It adopts a better vote it hears in its round, and tells everyone again; a vote of a newer round moves it to
that round; an older one is answered so that its sender catches up. Votes are ordered by (current epoch, last zxid, sid). When
a quorum of the round's votes equals its own, it waits ``finalize_wait`` for a better one, and settles. Members that are
settled answer with the leader they have; a member that looks joins them when a quorum says so and the leader says it leads.

The wait is a heuristic, not a safety rule (discovery refuses a leader that is behind), so it ends at once when nobody else
can be heard from: every voter that is reachable has voted in this round. Apache always waits.
"""

from collections.abc import Hashable

from quorate.consensus.contract import NEVER, Outbox, until
from quorate.consensus.zab.messages import Message, Notification, State, Vote
from quorate.runtime.environment import MILLISECOND

FINALIZE_WAIT = 200 * MILLISECOND
RESEND_MIN = 200 * MILLISECOND
RESEND_MAX = 2_000 * MILLISECOND
"""Apache goes up to a minute; that is how long a vote that was lost with its connection would be missed."""

NO_VOTE = -(1 << 63)
"""Leader, zxid and epoch of an observer's vote: it proposes nobody."""


class _Ballot:
    """A vote as it was received."""

    __slots__ = ("round", "state", "version", "vote")

    def __init__(self, notification: Notification) -> None:
        self.vote = notification.vote
        self.round = notification.round
        self.state = notification.state
        self.version = notification.version

    def agrees(self, other: "_Ballot") -> bool:
        """Vote.equals: settled members compare only leader and epoch, for their zxids and rounds may differ by timing."""
        mine, theirs = self.vote, other.vote
        if self.state == State.LOOKING or other.state == State.LOOKING:
            return mine == theirs and self.round == other.round
        if (self.version > 0) != (other.version > 0):
            return mine.leader == theirs.leader
        return mine.leader == theirs.leader and mine.epoch == theirs.epoch


class Election:
    """The election core of one member; ``peer`` drives it. Messages go to the outbox under the receivers' sids."""

    def __init__(self, sid: int, voters: tuple[int, ...], outbox: "Outbox[Message]", config: bytes) -> None:
        """``voters``: sids of the voting members, this one included if it votes."""
        self.sid = sid
        self.voters = voters
        self.round = 0
        """The logical clock."""
        self.state = State.LOOKING
        self.vote = Vote(NO_VOTE, NO_VOTE, NO_VOTE)
        """While looking, the vote proposed; afterwards the one settled on."""
        self.decided: Vote | None = None
        """Set when the election ended; ``peer`` takes it and acts."""
        self._outbox = outbox
        self._config = config
        self._own = self.vote
        self._received: dict[int, _Ballot] = {}
        self._settled: dict[int, _Ballot] = {}
        self._reachable: frozenset[int] = frozenset()
        self._finalize_at = NEVER
        self._resend_at = NEVER
        self._resend_wait = RESEND_MIN

    @property
    def votes(self) -> bool:
        return self.sid in self.voters

    @property
    def waiting(self) -> bool:
        """A quorum agrees with us; it may still be told of a better vote."""
        return self._finalize_at != NEVER

    def _quorum(self, sids: int) -> bool:
        return sids > len(self.voters) // 2

    # ---- entering and leaving an election

    def look(self, now: int, last_zxid: int, current_epoch: int) -> None:
        """Start a round with a vote for ourselves."""
        self.state = State.LOOKING
        self.decided = None
        self.round += 1
        self._own = Vote(self.sid, last_zxid, current_epoch) if self.votes else Vote(NO_VOTE, NO_VOTE, NO_VOTE)
        self.vote = self._own
        self._received = {}
        self._settled = {}
        self._resend_wait = RESEND_MIN
        self._resend_at = now + self._resend_wait
        self._finalize_at = NEVER
        self._broadcast()
        self._consider(now)

    def established(self, epoch: int) -> None:
        """The epoch is established: every member reports the same vote from now on (ZOOKEEPER-1732)."""
        self.vote = Vote(self.vote.leader, self.vote.zxid, epoch)

    def _settle(self, vote: Vote) -> None:
        if vote.leader == self.sid:
            self.state = State.LEADING
        else:
            self.state = State.FOLLOWING if self.votes else State.OBSERVING
        self.vote = vote
        self.decided = vote
        self._finalize_at = self._resend_at = NEVER

    # ---- events

    def reachable(self, now: int, sids: frozenset[int]) -> None:
        """Which members have a live election connection to us, whenever that changes."""
        appeared = sids - self._reachable
        self._reachable = sids
        if self.state == State.LOOKING:
            for sid in sorted(appeared):
                self._tell(sid)
            self._consider(now)

    def tick(self, now: int) -> None:
        if self.state != State.LOOKING:
            return
        if self._finalize_at != NEVER and now >= self._finalize_at:
            self._settle(self.vote)
        elif now >= self._resend_at:
            self._resend_wait = min(self._resend_wait * 2, RESEND_MAX)
            self._resend_at = now + self._resend_wait
            self._broadcast()

    def deadline(self) -> int:
        if self._finalize_at == NEVER:
            return self._resend_at
        return min(self._finalize_at, self._resend_at)

    def receive(self, now: int, sender: int, notification: Notification) -> None:
        if sender not in self.voters:
            self._tell(sender)
            return
        if self.state != State.LOOKING:
            if notification.state == State.LOOKING:
                self._tell(sender)
            return
        if notification.vote.leader not in self.voters:
            return
        if notification.state == State.LOOKING:
            self._receive_looking(now, sender, notification)
        elif notification.state in (State.FOLLOWING, State.LEADING):
            self._receive_settled(sender, notification)

    def _receive_looking(self, now: int, sender: int, notification: Notification) -> None:
        if notification.vote.zxid == -1:
            return
        if notification.round < self.round:
            self._tell(sender)
            return
        if notification.round > self.round:
            self.round = notification.round
            self._received = {}
            self._propose(now, max(notification.vote, self._own, key=Vote.order))
        elif notification.vote.order() > self.vote.order():
            self._propose(now, notification.vote)
        elif notification.vote.order() < self.vote.order() or sender not in self._received:
            # what we told it may have reached it before it looked, and a settled member forgets what it is told
            self._tell(sender)
        self._received[sender] = _Ballot(notification)
        self._consider(now)

    def _receive_settled(self, sender: int, notification: Notification) -> None:
        ballot = _Ballot(notification)
        vote = notification.vote
        if notification.round == self.round:
            self._received[sender] = ballot
            if self._joins(self._received, ballot):
                self._settle(vote)
                return
        self._settled[sender] = ballot
        if self._joins(self._settled, ballot):
            self.round = notification.round
            self._settle(vote)

    def _joins(self, ballots: dict[int, _Ballot], ballot: _Ballot) -> bool:
        """With us a quorum stands behind this ballot, and its leader itself says that it leads.

        Apache counts itself only where it voted so already; a leader that lacks just us would then wait for initLimit.
        """
        supporters = sum(ballot.agrees(other) for sid, other in ballots.items() if sid != self.sid)
        if not self._quorum(supporters + (1 if self.votes else 0)):
            return False
        leader = ballot.vote.leader
        if leader == self.sid:
            return self.round == ballot.round
        own_word = ballots.get(leader)
        return own_word is not None and own_word.state == State.LEADING

    # ---- our own vote

    def _propose(self, now: int, vote: Vote) -> None:
        self.vote = vote
        self._finalize_at = NEVER
        self._resend_wait = RESEND_MIN
        self._resend_at = now + self._resend_wait
        self._broadcast()

    def _consider(self, now: int) -> None:
        """End the election if a quorum of the round agrees with us, at once or after the wait."""
        if self.vote.leader == NO_VOTE:
            self._finalize_at = NEVER
            return
        supporters = sum(
            ballot.vote == self.vote
            for sid, ballot in self._received.items()
            if sid != self.sid and ballot.round == self.round
        )
        if not self._quorum(supporters + (1 if self.votes else 0)):
            self._finalize_at = NEVER
            return
        heard = self._received.keys() | {self.sid}
        if all(sid in heard for sid in self.voters if sid in self._reachable):
            self._settle(self.vote)
        elif self._finalize_at == NEVER:
            self._finalize_at = now + FINALIZE_WAIT

    def _broadcast(self) -> None:
        for sid in self.voters:
            if sid != self.sid:
                self._tell(sid)

    def _tell(self, sid: int) -> None:
        self._outbox.send(sid, Notification(self.state, self.vote, self.round, config=self._config))

    def state_summary(self, now: int) -> Hashable:
        settled = self.round, self.state, self.vote, self.decided, tuple(sorted(self._reachable))
        if self.state != State.LOOKING:
            return settled  # the next round starts with nothing heard
        ballots = [
            tuple([(sid, b.vote, b.round, b.state, b.version) for sid, b in sorted(known.items())])
            for known in (self._received, self._settled)
        ]
        times = until(self._finalize_at, now), until(self._resend_at, now), self._resend_wait
        return settled, self._own, *ballots, times
