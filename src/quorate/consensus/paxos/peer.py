"""One member of a Paxos group, behind the contract of ``consensus.contract``: roles, elections and time.

Elections. A member that has heard of no leader for a random time between one and two election timeouts asks the others whether they
would promise it a ballot (a probe changes nothing); they would if they have heard of none either. With a phase-1 quorum of
consents it prepares a ballot above all it has heard of. So a member that comes back, or is cut off from some, cannot depose a
leader that works; and two that would lead at once back off for random times. A leader that no phase-2 quorum confirms for an
election timeout steps down.
"""

from collections.abc import Hashable, Sequence
from random import Random

from quorate.consensus.contract import Outbox, until
from quorate.consensus.paxos.acceptor import Acceptor
from quorate.consensus.paxos.leader import Leader
from quorate.consensus.paxos.log import Log
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Entry,
    Event,
    Heartbeat,
    HeartbeatReply,
    Kind,
    Message,
    Nack,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    RoleChange,
    Write,
    ballot_of,
    proposer_of,
    round_of,
)
from quorate.consensus.paxos.settings import Settings
from quorate.errors import LocalProtocolError, RemoteProtocolError


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
    ) -> None:
        self.settings = settings
        self.outbox: Outbox[Message] = Outbox()
        self.acceptor = Acceptor(Log(entries, decided), promised, accepted, self.outbox)
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
        if settings.lease and promised:
            # to whom we were bound is not known: to nobody
            self.acceptor.bound_until = now + settings.lease
        self._wait(now)

    # ---- the contract

    @property
    def leading(self) -> bool:
        """Whether commands may be proposed."""
        return self.leader is not None and self.leader.ready

    def propose(self, payload: bytes) -> None:
        """Raises LocalProtocolError if this member does not lead."""
        if self.leader is None or not self.leader.ready:
            raise LocalProtocolError("a command for a member that does not lead")
        self.leader.propose(Entry(Kind.COMMAND, payload))

    def read(self, key: Hashable) -> None:
        """Ask when a read may be answered from the applied state. Raises LocalProtocolError if this member does not lead."""
        if self.leader is None:
            raise LocalProtocolError("a read for a member that does not lead")
        self.leader.read(self._now, key)

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
            self._beat(leader)

    def drain(self) -> Drained:
        leader, acceptor = self.leader, self.acceptor
        if leader is not None and leader.established:
            leader.flush()
            if leader.wants_heartbeat:
                self._beat(leader)
        writes, acceptor.writes = acceptor.writes, []
        events, acceptor.events = acceptor.events, []
        return Drained(writes, events, self.outbox.take())

    # ---- connections

    def connected(self, sid: int) -> None:
        self._reachable.add(sid)
        if self.leader is not None:
            self.leader.prepare(sid)

    def disconnected(self, sid: int) -> None:
        self._reachable.discard(sid)
        self._consents.discard(sid)
        self.outbox.forget(sid)
        if self.leader is not None:
            self.leader.disconnected(sid)

    # ---- elections

    def _wait(self, since: int) -> None:
        timeout = self.settings.election_timeout
        self._deadline = since + timeout + self._random.randrange(timeout)

    def _ask(self) -> None:
        """Nobody leads, as far as we know: would a quorum have us?"""
        if self.following:
            self.following = 0
            self.acceptor.events.append(RoleChange(0, self.acceptor.promised, False))
        self._probe = ballot_of(self._round + 1, self.settings.sid)
        self._consents = set()
        for sid in self.settings.members:
            if sid != self.settings.sid:
                self.outbox.send(sid, Probe(self._probe))
        self._wait(self._now)
        self._count_consents()

    def _count_consents(self) -> None:
        acceptor = self.acceptor
        if self._probe and len(self._consents) + 1 >= self.settings.prepare_quorum:
            if not acceptor.may_promise(self._now, self._probe):
                return
            self._prepare(self._probe)

    def _prepare(self, ballot: int) -> None:
        self._probe = 0
        self._round = round_of(ballot)
        token = self.acceptor.promise(ballot)
        self.leader = Leader(self.settings, self.acceptor, self.outbox, self._now, ballot, token)
        self.leader.consider(self._now)
        self._deadline = self._now + self.settings.heartbeat

    def _step_down(self) -> None:
        leader = self.leader
        assert leader is not None
        self.leader = None
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
                acceptor.bound_until, acceptor.bound_to = self._now + settings.lease, settings.sid
        self._deadline = self._now + self.settings.heartbeat

    # ---- messages

    def receive(self, sender: int, message: Message) -> None:
        """Raises RemoteProtocolError for a message that breaks the protocol: the connection must end."""
        acceptor, now = self.acceptor, self._now
        if sender not in self.settings.members:
            raise RemoteProtocolError(f"a message of {sender}, which is no member")
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
            acceptor.bound_until, acceptor.bound_to = self._now + settings.lease, sender
        self.outbox.send(sender, HeartbeatReply(message.ballot, message.number))

    def _probed(self, sender: int, probe: Probe) -> None:
        quiet = self.leader is None and self._now - self._heard_at >= self.settings.election_timeout
        granted = quiet and self.acceptor.may_promise(self._now, probe.ballot)
        self.outbox.send(sender, ProbeReply(probe.ballot, granted, self.acceptor.promised))

    def _refused(self, sender: int, nack: Nack) -> None:
        self._round = max(self._round, round_of(nack.promised))
        leader = self.leader
        if leader is None or nack.ballot != leader.ballot:
            return
        if nack.promised <= leader.ballot:
            leader.refused(sender)
        elif leader.ready and self._now - leader.confirmed_at < self.settings.election_timeout:
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
            self._probe,
            tuple(sorted(self._consents)),
            until(self._deadline, now),
            min(now - self._heard_at, self.settings.election_timeout),
        )
