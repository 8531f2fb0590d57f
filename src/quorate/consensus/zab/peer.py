"""A whole member of an ensemble as one core, by ``consensus.contract``.

It is LOOKING (``election``), LEADING (``leader``), or FOLLOWING or OBSERVING (``learner``), and moves between them:

    LOOKING --elected itself--> LEADING --no quorum, a newer history or epoch met--> LOOKING
    LOOKING --elected another--> FOLLOWING or OBSERVING --leader lost or silent--> LOOKING

A channel is a peer's sid for the election port, and a negative number, chosen by the driver, for a link on the quorum port.
The driver dials the leader when a drain says so and reports ``connected``; on a leader it reports ``accepted``.
"""

from collections.abc import Hashable

from quorate.consensus.contract import Outbox, until
from quorate.consensus.zab.election import Election
from quorate.consensus.zab.history import History
from quorate.consensus.zab.leader import Leader
from quorate.consensus.zab.learner import Learner, Phase
from quorate.consensus.zab.messages import Entry, Message, Notification, Packet, Service, State
from quorate.consensus.zab.replica import Replica, RoleChange, ServiceEvent, Settings, WriteRequest
from quorate.errors import LocalProtocolError, RemoteProtocolError
from quorate.runtime.environment import MILLISECOND

CONNECT_RETRY = 20 * MILLISECOND
"""First pause before the leader is dialled again; doubles up to CONNECT_RETRY_MAX."""
CONNECT_RETRY_MAX = 500 * MILLISECOND
CONNECT_ATTEMPTS = 5
"""Dials before giving up on a member that does not lead (yet)."""
CONNECT_ATTEMPTS_UNHEARD = 2
"""Dials before giving up on a leader that cannot be heard on the election port either."""


class Drained:
    """Everything to be done: see ``replica`` for writes and events. Carry out in this order: hand the writes to the disk,
    handle the events, send the messages, close and dial links."""

    __slots__ = ("dial", "disconnects", "events", "messages", "writes")

    def __init__(
        self,
        writes: list[WriteRequest],
        events: list[ServiceEvent],
        messages: dict[int, list[Message]],
        disconnects: list[int],
        dial: int | None,
    ) -> None:
        self.writes = writes
        self.events = events
        self.messages = messages
        self.disconnects = disconnects
        self.dial = dial
        """Sid of the leader whose quorum port is to be dialled, if any."""


class Peer:
    def __init__(
        self, settings: Settings, base: int, tail: list[Entry], accepted_epoch: int, current_epoch: int, window: int
    ) -> None:
        """``base``: zxid of the service's recovered state; ``tail``: logged entries after it; ``window``: committed entries
        to keep for learners."""
        self.outbox: Outbox[Message] = Outbox()
        self.replica = Replica(settings, History(base, tail, window), accepted_epoch, current_epoch, self.outbox)
        # the election's messages and the links' share the outbox, each on channels of its own
        self.election = Election(settings.sid, settings.voters, self.outbox, settings.config)
        self.settings = settings
        self.leader: Leader | None = None
        self.learner: Learner | None = None
        self.reason = ""
        """Why the member last went looking, for the log."""
        self._now = 0
        self._dial: int | None = None
        self._dial_at = 0
        self._dial_wait = CONNECT_RETRY
        self._dials = 0
        self._dialling = False
        self._reachable: frozenset[int] = frozenset()
        self._left: set[int] = set()

    # ---- the contract

    def recovering(self) -> int:
        """The token of a first write, before ``start``: the one that makes what was recovered durable.

        A process that was killed may have left in the system's cache alone what recovery found; nothing is promised on it
        before it is on disk.
        """
        return self.outbox.token()

    def start(self, now: int) -> None:
        self._now = now
        self._look("started")

    def tick(self, now: int) -> None:
        self._now = now
        if self.leader is not None:
            self.leader.tick(now)
        elif self.learner is not None:
            learner = self.learner
            learner.tick(now)
            if learner.phase == Phase.CONNECTING and not self._dialling and now >= self._dial_at:
                self._start_dial()
        else:
            self.election.tick(now)
        self._settle()

    def deadline(self) -> int:
        if self.leader is not None:
            return self.leader.deadline()
        if self.learner is not None:
            if self.learner.phase == Phase.CONNECTING and not self._dialling:
                return min(self.learner.deadline(), self._dial_at)
            return self.learner.deadline()
        return self.election.deadline()

    def receive(self, sender: int, message: Notification | Packet) -> None:
        """A message on a channel. Raises RemoteProtocolError if the sender broke the protocol; its link must be closed."""
        if isinstance(message, Notification):
            self._receive_notification(sender, message)
        elif self.leader is not None:
            self.leader.receive(self._now, sender, message)
            if not self.leader.established:
                self._consider_support()
        elif self.learner is not None:
            try:
                self.learner.receive(self._now, sender, message)
            except LocalProtocolError as error:
                raise RemoteProtocolError(str(error)) from error
        self._settle()

    def persisted(self, token: int) -> None:
        self.outbox.persisted(token)
        if self.leader is not None:
            self.leader.persisted()
        elif self.learner is not None:
            self.learner.persisted()
        self._settle()

    def propose(self, payload: bytes, decoded: object = None) -> int:
        """Replicate a payload under ``next_zxid``, which is returned. Raises LocalProtocolError unless this member leads."""
        if self.leader is None:
            raise LocalProtocolError("proposal by a member that does not lead")
        return self.leader.propose(payload, decoded)

    def drain(self) -> Drained:
        if self.leader is not None:
            self.leader.before_drain()
        elif self.learner is not None:
            self.learner.before_drain()
        replica = self.replica
        drained = Drained(replica.writes, replica.events, self.outbox.take(), replica.disconnects, self._dial)
        # empty lists are given away as well: what comes of carrying them out belongs to the next drain
        replica.writes, replica.events, replica.disconnects = [], [], []
        self._dial = None
        return drained

    # ---- what the service asks

    @property
    def next_zxid(self) -> int:
        assert self.leader is not None
        return self.leader.next_zxid

    @property
    def leading(self) -> bool:
        """May propose."""
        return self.leader is not None and self.leader.established and not self.leader.failed

    @property
    def following(self) -> bool:
        """Requests can be sent to the leader."""
        return self.learner is not None and self.learner.phase == Phase.SERVING and not self.learner.failed

    def sync(self, link: int, key: Hashable) -> None:
        """On a leader: when all proposed so far is committed, SYNC to the learner that has this link; Synced(0, key) is reported if ``link`` is 0."""
        if self.leader is None:
            raise LocalProtocolError("sync at a member that does not lead")
        self.leader.sync(link, key)

    def send_to_leader(self, message: Service) -> None:
        if self.learner is None:
            raise LocalProtocolError("a request for a leader that is not there")
        self.learner.send(message)

    def send_to_learner(self, link: int, message: Service) -> None:
        if self.leader is not None and link in self.leader.learners:
            self.outbox.send(link, message)

    @property
    def epoch(self) -> int:
        return self.replica.current_epoch

    @property
    def dialling(self) -> bool:
        """The leader is being dialled, or is to be as soon as the driver drains."""
        return self._dialling

    # ---- channels

    def reachable(self, now: int, sids: frozenset[int]) -> None:
        """Which members are connected on the election port now."""
        self._now = now
        self._reachable = sids
        self.election.reachable(now, sids)
        self._consider_support()
        self._settle()

    def accepted(self, now: int, link: int) -> None:
        """A connection came in on the quorum port."""
        self._now = now
        if self.leader is not None:
            self.leader.accept(now, link)
        else:
            self.replica.disconnects.append(link)

    def connected(self, now: int, link: int) -> None:
        """The leader's quorum port answered the dial."""
        self._now = now
        self._dialling = False
        if self.learner is not None and self.learner.phase == Phase.CONNECTING:
            self.learner.connected(now, link)
        else:
            self.replica.disconnects.append(link)

    def dial_failed(self, now: int) -> None:
        self._now = now
        self._dialling = False
        self._dial_at = now + self._dial_wait
        self._dial_wait = min(self._dial_wait * 2, CONNECT_RETRY_MAX)
        learner = self.learner
        if learner is not None and self._dials >= CONNECT_ATTEMPTS_UNHEARD and learner.leader not in self._reachable:
            learner.failed = "the leader cannot be reached"
        self._settle()

    def disconnected(self, now: int, link: int) -> None:
        self._now = now
        self.outbox.forget(link)
        if self.leader is not None:
            self.leader.lost(link)
            self._consider_support()
        elif self.learner is not None:
            learner = self.learner
            if learner.link == link and learner.phase == Phase.DISCOVERY:
                # it does not lead yet: it closes links until its own election has ended
                learner.link = 0
                learner.phase = Phase.CONNECTING
                if self._dials >= CONNECT_ATTEMPTS:
                    learner.failed = "the member elected does not lead"
                self.dial_failed(now)
            else:
                learner.lost(link)
        self._settle()

    # ---- changes of role

    def _receive_notification(self, sender: int, notification: Notification) -> None:
        election = self.election
        election.receive(self._now, sender, notification)
        learner = self.learner
        if (
            learner is not None
            and sender == learner.leader
            and learner.phase <= Phase.DISCOVERY
            and notification.state == State.LOOKING
            and notification.round > election.round
        ):
            learner.failed = "the member elected is looking for a leader again"
        if self.leader is None:
            return
        if notification.state != State.LOOKING or (notification.round, notification.vote) == (
            election.round,
            election.vote,
        ):
            self._left.discard(sender)
        else:
            # it is in another round (or in ours once more, restarted), or votes for somebody else
            self._left.add(sender)
            self._consider_support()

    def _consider_support(self) -> None:
        """Without a quorum left that may come to us, waiting for initLimit would help nobody."""
        leader = self.leader
        if leader is None or leader.established:
            return
        voters = self.settings.voters
        supporters = (
            {learner.sid for learner in leader.learners.values()} | (self._reachable - self._left) | {self.settings.sid}
        )
        supporters -= leader.spent
        if sum(sid in supporters for sid in voters) < self.settings.quorum and not leader.failed:
            leader.failed = "too few of its supporters are left"

    def _settle(self) -> None:
        """Act on what the last event decided."""
        leader, learner = self.leader, self.learner
        if leader is not None and leader.failed:
            leader.resign()
            self._look(leader.failed)
        elif learner is not None and learner.failed:
            learner.resign()
            self._look(learner.failed)
        elif leader is None and learner is None and self.election.decided is not None:
            self._take_role()
        elif leader is not None and leader.established and self.election.vote.epoch != leader.epoch:
            self.election.established(leader.epoch)
        elif learner is not None and learner.phase == Phase.SERVING and self.election.vote.epoch != learner.epoch:
            self.election.established(learner.epoch)

    def _look(self, reason: str) -> None:
        self.reason = reason
        self.leader = None
        self.learner = None
        self._dial = None
        self._dialling = False
        replica = self.replica
        replica.events.append(RoleChange(State.LOOKING, -1, replica.current_epoch, False))
        self.election.look(self._now, replica.history.last, replica.current_epoch)
        if self.election.decided is not None:
            self._take_role()

    def _take_role(self) -> None:
        vote = self.election.decided
        assert vote is not None
        self.election.decided = None
        self._left.clear()
        state = self.election.state
        self.replica.events.append(RoleChange(state, vote.leader, self.replica.current_epoch, False))
        if state == State.LEADING:
            self.leader = Leader(self.replica, self._now)
            self.leader.persisted()
        else:
            self.learner = Learner(self.replica, self._now, vote.leader, state == State.OBSERVING)
            self._dial_wait = CONNECT_RETRY
            self._dials = 0
            self._start_dial()
        self._settle()

    def _start_dial(self) -> None:
        assert self.learner is not None
        self._dials += 1
        self._dialling = True
        self._dial = self.learner.leader

    def state(self) -> Hashable:
        now, leader, learner = self._now, self.leader, self.learner
        dialling = None
        if learner is not None and learner.phase <= Phase.DISCOVERY:
            dialling = self._dial, until(self._dial_at, now), self._dial_wait, self._dials, self._dialling
        return (
            self.replica.state(),
            self.election.state_summary(now),
            None if leader is None else leader.state(now),
            None if learner is None else learner.state(now),
            dialling,
            tuple(sorted(self._reachable)),
            () if leader is None or leader.established else tuple(sorted(self._left)),
        )
