"""One member of a Paxos group, behind the contract of ``consensus.contract``: roles, elections and time.

Elections. A member that has heard of no leader for a random time between one and two election timeouts asks the others whether they
would promise it a ballot (a probe changes nothing); they would if they have heard of none either. With a phase-1 quorum of
consents it prepares a ballot above all it has heard of. So a member that comes back, or is cut off from some, cannot depose a
leader that works; and two that would lead at once back off for random times. A leader that no phase-2 quorum confirms for an
election timeout steps down.
"""

from collections.abc import Hashable, Sequence
from random import Random

from quorate.consensus.contract import NEVER, Outbox, until
from quorate.consensus.paxos.acceptor import Acceptor
from quorate.consensus.paxos.leader import Leader
from quorate.consensus.paxos.log import Log
from quorate.consensus.paxos.members import Member, Members, pack
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Behind,
    Entry,
    Event,
    Heartbeat,
    HeartbeatReply,
    Kind,
    Lagging,
    Lead,
    Message,
    Nack,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    ReadFailed,
    ReadReady,
    ReadReply,
    ReadRequest,
    Record,
    RoleChange,
    Write,
    ballot_of,
    proposer_of,
    round_of,
)
from quorate.consensus.paxos.settings import Settings
from quorate.errors import LocalProtocolError, QuorateError, UsageError


class _Remote(Record):
    """The key of a read that another member asked for."""

    __slots__ = ("number", "sid")

    def __init__(self, sid: int, number: int) -> None:
        self.sid = sid
        self.number = number


class Drained:
    """What came of the calls since the last drain. ``messages`` by the receiver's sid."""

    __slots__ = ("events", "messages", "writes")

    def __init__(self, writes: list[Write], events: list[Event], messages: dict[int, list[Message]]) -> None:
        self.writes = writes
        self.events = events
        self.messages = messages


class Peer:
    """``promised``, ``accepted``, ``entries`` and ``decided`` are what the disk has; ``decided`` may be less than the truth.

    Channels are sids. The driver keeps one connection to every other member and says when one is there (``connected``) and when it
    is gone (``disconnected``); messages of one connection come in order.
    """

    def __init__(
        self,
        settings: Settings,
        now: int,
        random: Random,
        *,
        promised: int = 0,
        accepted: int = 0,
        entries: Sequence[Entry] = (),
        decided: int = 0,
        base: int = 0,
        members: Members = (),
    ) -> None:
        """``entries`` are those after ``base``; ``members`` who they are at ``base``, those of the settings without addresses if not given."""
        self.settings = settings
        self.outbox: Outbox[Message] = Outbox()
        members = members or tuple([Member(sid, {}) for sid in settings.members])
        log = Log(entries, decided, base=base, base_members=members)
        self.acceptor = Acceptor(log, promised, accepted, self.outbox)
        self.learners: dict[int, None] = {}
        """Those that are sent the log without being members yet, while this one leads."""
        self.leader: Leader | None = None
        self.following = 0
        """The ballot of the leader that this member has heard from; 0 if of none for too long."""
        self._random = random
        self._now = now
        self._reachable: set[int] = set()
        self._round = round_of(promised)
        """The greatest heard of."""
        self._probe = 0
        """The ballot that we ask about; 0 if we don't."""
        self._consents: set[int] = set()
        self._deadline = 0
        self._heard_at = now - settings.election_timeout
        """When a leader was last heard from."""
        self._reads: dict[int, Hashable] = {}
        """Asked for at the leader, by our number."""
        # an answer to what the process before this one asked may come yet: it must be nobody's
        self._asked_reads = random.getrandbits(62)
        self._handing_until = NEVER
        if settings.lease and promised:
            # to whom we were bound is not known: to nobody
            self.acceptor.bound_until = now + settings.lease
        self._wait(now)

    # ---- the contract

    @property
    def leading(self) -> bool:
        """Whether commands may be proposed."""
        return self.leader is not None and self.leader.ready and not self.leader.handing_to

    def propose(self, payload: bytes) -> None:
        """Raises LocalProtocolError if this member does not lead."""
        if self.leader is None or not self.leading:
            raise LocalProtocolError("a command for a member that does not lead")
        self.leader.propose(Entry(Kind.COMMAND, payload))

    def read(self, key: Hashable) -> None:
        """Ask when a read may be answered from the applied state; on any member: ReadReady or ReadFailed follows."""
        if self.leader is not None:
            self.leader.read(self._now, key)
            return
        leader = proposer_of(self.following)
        if leader not in self._reachable:
            self.acceptor.events.append(ReadFailed(key))
            return
        self._asked_reads += 1
        self._reads[self._asked_reads] = key
        self.outbox.send(leader, ReadRequest(self._asked_reads))

    # ---- snapshots

    def trim(self, base: int) -> None:
        """A snapshot on disk stands for all entries up to ``base``, which are applied."""
        self.acceptor.trim(base)

    def installed(self, base: int, members: Members) -> None:
        """The service now has the state as of ``base`` from another member, and it is on disk here. ``base`` must be after what is decided
        here."""
        acceptor = self.acceptor
        acceptor.install(base, members)
        self.resync()

    def resync(self) -> None:
        """Have the leader ask again how far our log goes, and send what follows: a snapshot was fetched, or came to nothing."""
        ballot = self.acceptor.promised
        if self.leader is None and proposer_of(ballot) in self._reachable:
            self.outbox.send_after(self.outbox.issued, proposer_of(ballot), Nack(ballot, ballot))

    # ---- members

    @property
    def members(self) -> Members:
        return self.acceptor.log.members

    def add_learner(self, sid: int) -> None:
        """Send the log to one that may become a member, as long as this member leads."""
        self.learners[sid] = None
        if self.leader is not None and sid in self._reachable:
            self.leader.prepare(sid)

    def remove_learner(self, sid: int) -> None:
        self.learners.pop(sid, None)

    def reaches(self, sid: int) -> bool:
        """Whether there is a connection with it."""
        return sid in self._reachable

    def change_members(self, members: Members) -> None:
        """Propose that these are the members, one more or one less than now.

        Raises LocalProtocolError if this member does not lead, QuorateError if another change is under way, UsageError if it cannot be.
        """
        leader, log = self.leader, self.acceptor.log
        if leader is None or not self.leading:
            raise LocalProtocolError("a change of members for a member that does not lead")
        if log.members_at > log.decided or leader.changing:
            raise QuorateError("another change of members is under way")
        before, after = {member.sid for member in log.members}, {member.sid for member in members}
        if len(before ^ after) != 1 or len(after) != len(members):
            raise UsageError(
                f"members {sorted(before)} cannot become {sorted(after)}: one is added or removed at a time"
            )
        if not after:
            raise UsageError("the last member cannot be removed")
        if not self.settings.may_change(len(before), len(after)):
            raise UsageError(
                f"with phase-2 quorums of {self.settings.accept_quorum} a group of {len(before)} cannot become one of {len(after)} safely"
            )
        leader.propose(Entry(Kind.MEMBERS, pack(members)))

    def hand_over(self, sid: int) -> None:
        """Let another member lead. Raises LocalProtocolError if this one does not, UsageError if that is no member."""
        if self.leader is None or not self.leading:
            raise LocalProtocolError("a hand-over by a member that does not lead")
        if sid not in self.acceptor.log.sids or sid == self.settings.sid:
            raise UsageError(
                f"member {sid} cannot take over from {self.settings.sid}: the members are {self.acceptor.log.sids}"
            )
        self.leader.hand_over(sid)
        self._handing_until = self._now + self.settings.election_timeout
        self.acceptor.events.append(RoleChange(self.settings.sid, self.leader.ballot, False))

    def persisted(self, token: int) -> None:
        self.outbox.persisted(token)
        if self.leader is not None:
            self.leader.persisted(self._now)

    def deadline(self) -> int:
        return self._deadline

    def tick(self, now: int) -> None:
        self._now = now
        if now < self._deadline:
            return
        leader = self.leader
        if leader is None:
            if self.following and now - self._heard_at < self.settings.election_timeout:
                self._wait(self._heard_at)
            else:
                self._ask()
        elif now - leader.confirmed_at >= self.settings.election_timeout:
            self._step_down()
        else:
            if leader.handing_to and now >= self._handing_until:
                leader.keep()
                self.acceptor.events.append(RoleChange(self.settings.sid, leader.ballot, True))
            self._beat(leader)

    def drain(self) -> Drained:
        leader, acceptor = self.leader, self.acceptor
        if leader is not None and leader.established:
            leader.flush()
            if leader.wants_heartbeat:
                self._beat(leader)
            if leader.ready and self._removed():
                self._step_down()
        writes, acceptor.writes = acceptor.writes, []
        events, acceptor.events = acceptor.events, []
        if events:
            events = self._answer_remote(events)
        return Drained(writes, events, self.outbox.take())

    # ---- connections

    def connected(self, sid: int) -> None:
        self._reachable.add(sid)
        leader = self.leader
        if leader is not None and (sid in self.acceptor.log.sids or sid in self.learners or sid in leader.asked):
            leader.prepare(sid)

    def disconnected(self, sid: int) -> None:
        self._reachable.discard(sid)
        self._consents.discard(sid)
        self.outbox.forget(sid)
        if self.leader is not None:
            self.leader.disconnected(sid)
        elif sid == proposer_of(self.following):
            self._fail_reads()

    # ---- elections

    def _wait(self, since: int) -> None:
        timeout = self.settings.election_timeout
        self._deadline = since + timeout + self._random.randrange(timeout)

    def _ask(self) -> None:
        """Nobody leads, as far as we know: would a quorum have us?"""
        if self.following:
            self.following = 0
            self._fail_reads()
            self.acceptor.events.append(RoleChange(0, self.acceptor.promised, False))
        if self.settings.sid not in self.acceptor.log.sids:
            self._wait(self._now)
            return
        self._probe = ballot_of(self._round + 1, self.settings.sid)
        self._consents = set()
        for sid in self.acceptor.log.sids:
            if sid != self.settings.sid:
                self.outbox.send(sid, Probe(self._probe))
        self._wait(self._now)
        self._count_consents()

    def _count_consents(self) -> None:
        acceptor = self.acceptor
        sids = self.acceptor.log.sids
        consents = 1 + sum(sid in sids for sid in self._consents)
        if self._probe and consents >= self.settings.quorums(len(sids))[0]:
            if not acceptor.may_promise(self._now, self._probe):
                return
            self._prepare(self._probe)

    def _prepare(self, ballot: int, released: int = 0) -> None:
        self._probe = 0
        self.following = 0
        self._fail_reads()
        self._round = round_of(ballot)
        token = self.acceptor.promise(ballot)
        self.leader = Leader(
            self.settings, self.acceptor, self.outbox, self._now, ballot, token, self.learners, released
        )
        self.leader.consider(self._now)
        self._deadline = self._beat_at()
        self._check_outranked()

    def _beat_at(self) -> int:
        """At the same instants in all groups of a process, so that their heartbeats go out together."""
        heartbeat = self.settings.heartbeat
        return (self._now // heartbeat + 1) * heartbeat

    def _check_outranked(self) -> None:
        leader = self.leader
        if leader is not None and leader.outranked:
            if leader.lagging:
                self.acceptor.events.append(Lagging(leader.lagging))
            self._step_down()

    def _removed(self) -> bool:
        """This member leads, and it is chosen that it is no member any more."""
        log = self.acceptor.log
        return self.settings.sid not in log.sids and log.members_at <= log.decided

    def _fail_reads(self) -> None:
        self.acceptor.events.extend(ReadFailed(key) for key in self._reads.values())
        self._reads.clear()

    def _step_down(self) -> None:
        leader = self.leader
        assert leader is not None
        self.leader = None
        self.learners.clear()
        leader.fail_reads()
        self.acceptor.events.append(RoleChange(0, self.acceptor.promised, False))
        self._wait(self._now)

    def _follow(self, ballot: int) -> None:
        """Its proposer leads, or is about to."""
        self._probe = 0
        self._round = max(self._round, round_of(ballot))
        if self.leader is not None:
            self._step_down()
        if self.following != ballot:
            self._fail_reads()
            self.following = ballot
            self.acceptor.events.append(RoleChange(proposer_of(ballot), ballot, False))
            self._wait(self._now)
        self._heard_at = self._now

    def _beat(self, leader: Leader) -> None:
        leader.ask_again()
        if leader.established:
            leader.heartbeat(self._now)
            acceptor, settings = self.acceptor, self.settings
            if settings.lease:
                acceptor.bound_until, acceptor.bound_to = self._now + settings.lease, leader.ballot
        self._deadline = self._beat_at()

    # ---- messages

    def receive(self, sender: int, message: Message) -> None:
        """Raises RemoteProtocolError for a message that breaks the protocol: the connection must end."""
        acceptor, now = self.acceptor, self._now
        if isinstance(message, Accept):
            acceptor.accept(sender, message)
            self._heard(sender, message.ballot)
        elif isinstance(message, Accepted):
            if self.leader is not None:
                self.leader.accepted(sender, message)
        elif isinstance(message, Heartbeat):
            self._heartbeat(sender, message)
        elif isinstance(message, HeartbeatReply):
            if self.leader is not None:
                self.leader.heard(now, sender, message)
        elif isinstance(message, AcceptSync):
            acceptor.accept_sync(sender, message)
            self._heard(sender, message.ballot)
        elif isinstance(message, Prepare):
            if acceptor.prepare(now, sender, message):
                self._follow(message.ballot)
        elif isinstance(message, Promise):
            if self.leader is not None:
                self.leader.promised(now, sender, message)
                self._check_outranked()
        elif isinstance(message, ReadRequest):
            self._read_requested(sender, message)
        elif isinstance(message, ReadReply):
            self._read_replied(message)
        elif isinstance(message, Behind):
            if message.ballot == acceptor.promised and message.base > acceptor.log.decided:
                acceptor.events.append(Lagging(sender))
        elif isinstance(message, Lead):
            if message.ballot == self.following and self.leader is None:
                self._prepare(ballot_of(self._round + 1, self.settings.sid), released=message.ballot)
        elif isinstance(message, Probe):
            self._probed(sender, message)
        elif isinstance(message, ProbeReply):
            self._round = max(self._round, round_of(message.promised))
            if message.granted and message.ballot == self._probe:
                self._consents.add(sender)
                self._count_consents()
        else:
            self._refused(sender, message)

    def _heard(self, sender: int, ballot: int) -> None:
        if ballot == self.acceptor.promised and proposer_of(ballot) == sender:
            self._follow(ballot)

    def _heartbeat(self, sender: int, message: Heartbeat) -> None:
        acceptor, settings = self.acceptor, self.settings
        if message.ballot != acceptor.promised:
            self.outbox.send(sender, Nack(message.ballot, acceptor.promised))
            return
        self._follow(message.ballot)
        if message.ballot == acceptor.accepted:
            acceptor.learn(message.decided)
        if settings.lease:
            acceptor.bound_until, acceptor.bound_to = self._now + settings.lease, message.ballot
        self.outbox.send(sender, HeartbeatReply(message.ballot, message.number))

    def _probed(self, sender: int, probe: Probe) -> None:
        quiet = self.leader is None and self._now - self._heard_at >= self.settings.election_timeout
        granted = quiet and self.acceptor.may_promise(self._now, probe.ballot)
        self.outbox.send(sender, ProbeReply(probe.ballot, granted, self.acceptor.promised))

    def _read_requested(self, sender: int, request: ReadRequest) -> None:
        if self.leader is None:
            self.outbox.send(sender, ReadReply(request.number, -1))
        else:
            self.leader.read(self._now, _Remote(sender, request.number))

    def _read_replied(self, reply: ReadReply) -> None:
        key = self._reads.pop(reply.number, None)
        if key is not None:
            self.acceptor.events.append(ReadFailed(key) if reply.index < 0 else ReadReady(key, reply.index))

    def _answer_remote(self, events: list[Event]) -> list[Event]:
        """Reads that other members asked for are answered to them."""
        own: list[Event] = []
        for event in events:
            if isinstance(event, ReadReady | ReadFailed) and isinstance(event.key, _Remote):
                index = event.index if isinstance(event, ReadReady) else -1
                if event.key.sid in self._reachable:
                    self.outbox.send(event.key.sid, ReadReply(event.key.number, index))
            else:
                own.append(event)
        return own

    def _refused(self, sender: int, nack: Nack) -> None:
        self._round = max(self._round, round_of(nack.promised))
        leader = self.leader
        if leader is None or nack.ballot != leader.ballot:
            return
        if nack.promised <= leader.ballot:
            leader.refused(sender)
        elif (
            leader.ready and not leader.handing_to and self._now - leader.confirmed_at < self.settings.election_timeout
        ):
            # one that was away has promised a ballot that came to nothing: it must promise again, and a quorum is with us
            leader.fail_reads()
            self.acceptor.events.append(RoleChange(0, self.acceptor.promised, False))
            self._prepare(ballot_of(self._round + 1, self.settings.sid))
        else:
            self._step_down()

    # ---- for explorers

    def state(self) -> Hashable:
        now = self._now
        return (
            self.acceptor.state(now),
            self.outbox.state(),
            None if self.leader is None else self.leader.state(now),
            self.following,
            self._round,
            (tuple(self._reads.items()), tuple(self.learners), until(self._handing_until, now)),
            self._probe,
            tuple(sorted(self._consents)),
            until(self._deadline, now),
            min(now - self._heard_at, self.settings.election_timeout),
        )
