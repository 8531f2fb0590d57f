"""Peer cores under a test's control.

:class:`Solo` is one core whose peers are the test itself: it says what comes in and sees all that goes out.
:class:`Ensemble` is several cores on links that deliver in order or break, driven in a fixed order; its disks write at once
unless they are held. Faults at random moments are the simulation's business (tests/simulation).
"""

from collections import deque
from collections.abc import Callable, Iterable

from quorate.consensus.contract import NEVER
from quorate.consensus.zab.messages import (
    AckEpoch,
    Acks,
    Diff,
    Entry,
    FollowerInfo,
    LeaderInfo,
    Message,
    NewLeader,
    Notification,
    Packet,
    Snap,
    State,
    UpToDate,
    Vote,
    first_zxid,
)
from quorate.consensus.zab.peer import Drained, Peer
from quorate.consensus.zab.replica import (
    Append,
    InstallSnapshot,
    RoleChange,
    ServiceEvent,
    Settings,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
    WriteRequest,
)
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND

TICK = 2000 * MILLISECOND
INIT_LIMIT = 10
SYNC_LIMIT = 5
WINDOW = 500


def zxid(epoch: int, counter: int) -> int:
    return epoch << 32 | counter


def entry(epoch: int, counter: int) -> Entry:
    return Entry(zxid(epoch, counter), b"%d.%d" % (epoch, counter))


def entries(epoch: int, first: int, last: int) -> list[Entry]:
    return [entry(epoch, counter) for counter in range(first, last + 1)]


def settings(sid: int, voters: Iterable[int] = (1, 2, 3), observers: Iterable[int] = ()) -> Settings:
    return Settings(sid, tuple(voters), tuple(observers), TICK, INIT_LIMIT, SYNC_LIMIT)


class Solo:
    """One Peer. ``drain`` adds what came out to ``writes``, ``events`` and ``sent``; nothing is durable until ``persist``."""

    def __init__(
        self,
        sid: int,
        voters: Iterable[int] = (1, 2, 3),
        observers: Iterable[int] = (),
        base: int = 0,
        tail: Iterable[Entry] = (),
        accepted_epoch: int = 0,
        current_epoch: int = 0,
        window: int = WINDOW,
    ) -> None:
        self.now = 0
        self.peer = Peer(settings(sid, voters, observers), base, list(tail), accepted_epoch, current_epoch, window)
        self.writes: list[WriteRequest] = []
        self.events: list[ServiceEvent] = []
        self.disconnects: list[int] = []
        self.dialled: list[int] = []
        self.sent: dict[int, list[Message]] = {}
        self.drains: list[Drained] = []
        self.peer.start(0)
        self.drain()

    # ---- driving

    def drain(self) -> Drained:
        drained = self.peer.drain()
        self.writes += drained.writes
        self.events += drained.events
        self.disconnects += drained.disconnects
        for channel, messages in drained.messages.items():
            self.sent.setdefault(channel, []).extend(messages)
        if drained.dial is not None:
            self.dialled.append(drained.dial)
        return drained

    def receive(self, channel: int, *messages: Notification | Packet) -> None:
        for message in messages:
            self.peer.receive(channel, message)
        self.drain()

    def tick(self, nanoseconds: int) -> None:
        self.now += nanoseconds
        self.peer.tick(self.now)
        self.drain()

    def persist(self, count: int = -1) -> list[WriteRequest]:
        """Carry out the next ``count`` writes (-1: all, those that follow from them included); what they were."""
        done = []
        while self.writes and count != 0:
            write = self.writes.pop(0)
            done.append(write)
            self.peer.persisted(write.token)
            self.drain()
            count -= 1
        return done

    def take(self, channel: int) -> list[Message]:
        return self.sent.pop(channel, [])

    def take_events(self) -> list[ServiceEvent]:
        events, self.events = self.events, []
        return events

    def applied(self) -> list[int]:
        return [event.zxid for event in self.events if isinstance(event, Entry)]

    @property
    def role(self) -> RoleChange:
        return [event for event in self.events if isinstance(event, RoleChange)][-1]

    def look(self, sender: int, vote: Vote, round: int = 1) -> None:
        self.receive(sender, Notification(State.LOOKING, vote, round))

    # ---- shortcuts to a role

    def follow(self, leader: int, link: int = -1) -> None:
        """Convinced by ``leader``'s vote and connected to it; FOLLOWERINFO is sent."""
        vote = Vote(leader, zxid(1 << 20, 1), 1 << 20)
        self.peer.reachable(self.now, frozenset({leader}))
        for sid in (leader, *self.peer.settings.voters):
            # a voter needs the leader's vote alone, an observer a quorum of them
            if sid != self.peer.settings.sid and self.peer.learner is None:
                self.look(sid, vote, self.peer.election.round)
        assert self.dialled[-1] == leader
        self.peer.connected(self.now, link)
        self.drain()

    def serve(self, leader: int, epoch: int, opening: Packet, *history: Packet, link: int = -1) -> None:
        """Follow through discovery and synchronisation until UPTODATE."""
        self.follow(leader, link)
        self.receive(link, LeaderInfo(epoch))
        self.persist()
        self.receive(link, opening, *history, NewLeader(first_zxid(epoch)))
        self.persist()
        self.receive(link, UpToDate())

    def lead(self) -> None:
        """Elected by all the others, who are reachable."""
        own = self.peer.election.vote
        others = [sid for sid in self.peer.settings.voters if sid != self.peer.settings.sid]
        self.peer.reachable(self.now, frozenset(others))
        for sid in others:
            self.look(sid, own, self.peer.election.round)
        assert self.peer.leader is not None

    def inform(self, link: int, sid: int, accepted_epoch: int = 0, observer: bool = False) -> None:
        """A learner calls and introduces itself."""
        self.peer.accepted(self.now, link)
        self.receive(link, FollowerInfo(sid, accepted_epoch, observer))

    def establish(self, link: int = -1, sid: int = 1) -> int:
        """Lead an established epoch with one follower, whose history is ours; the epoch."""
        self.lead()
        self.inform(link, sid)
        self.persist()
        replica = self.peer.replica
        self.receive(link, AckEpoch(replica.history.last, 0))
        self.persist()
        leader = self.peer.leader
        assert leader is not None
        self.receive(link, Acks(first_zxid(leader.epoch), first_zxid(leader.epoch)))
        assert leader.established
        return leader.epoch


class Store:
    """What a member of an Ensemble has on disk."""

    def __init__(self) -> None:
        self.base = 0
        self.log: list[Entry] = []
        self.accepted_epoch = 0
        self.current_epoch = 0

    def carry_out(self, write: WriteRequest) -> None:
        if isinstance(write, Append):
            self.log += write.entries
        elif isinstance(write, Truncate):
            self.log = [entry for entry in self.log if entry.zxid <= write.zxid]
        elif isinstance(write, StoreAcceptedEpoch):
            self.accepted_epoch = write.epoch
        elif isinstance(write, StoreCurrentEpoch):
            self.current_epoch = write.epoch
        else:
            assert isinstance(write, InstallSnapshot)
            self.base = write.zxid
            self.log = list(write.entries)


class Member:
    """A running core of an Ensemble, and its disk."""

    def __init__(self, ensemble: "Ensemble", sid: int, store: Store) -> None:
        self.sid = sid
        self.store = store
        self.peer = Peer(
            settings(sid, ensemble.voters, ensemble.observers),
            store.base,
            list(store.log),
            store.accepted_epoch,
            store.current_epoch,
            ensemble.window,
        )
        self.queue: list[WriteRequest] = []
        self.held = False
        self.events: list[ServiceEvent] = []
        self.sent: list[Message] = []
        self.links: dict[int, tuple[int, int]] = {}
        """The other end of each link: sid and link there."""
        self.numbers = 0

    def number(self, other: tuple[int, int]) -> int:
        self.numbers -= 1
        self.links[self.numbers] = other
        return self.numbers

    @property
    def role(self) -> RoleChange:
        return [event for event in self.events if isinstance(event, RoleChange)][-1]

    @property
    def applied(self) -> list[int]:
        return [event.zxid for event in self.events if isinstance(event, Entry)]


class Ensemble:
    """Cores that talk. ``run`` delivers everything that is under way, one message after the other, and lets no time pass."""

    def __init__(self, voters: Iterable[int] = (1, 2, 3), observers: Iterable[int] = (), window: int = WINDOW) -> None:
        self.voters = tuple(voters)
        self.observers = tuple(observers)
        self.window = window
        self.now = 0
        self.stores = {sid: Store() for sid in (*self.voters, *self.observers)}
        self.members: dict[int, Member] = {}
        self.cuts: set[frozenset[int]] = set()
        self.flight: deque[tuple[int, int, int, Notification | Packet]] = deque()
        """(from, to, channel at the receiver, message)."""
        self.errors: list[RemoteProtocolError] = []

    # ---- lives and links

    def start(self, *sids: int) -> None:
        for sid in sids:
            self.members[sid] = Member(self, sid, self.stores[sid])
        for sid in sids:
            self.members[sid].peer.start(self.now)
        self._report_reachable()

    def crash(self, sid: int) -> None:
        """It loses what it has not written; the others see their connections end."""
        member = self.members.pop(sid)
        self.flight = deque(item for item in self.flight if sid not in item[:2])
        for link, (other, far) in list(member.links.items()):
            self._unlink(sid, link, other, far)
        self._report_reachable()

    def cut(self, one: int, other: int) -> None:
        """No connection between the two, of either port."""
        self.cuts.add(frozenset((one, other)))
        self.flight = deque(item for item in self.flight if {*item[:2]} != {one, other})
        self.drop_links(one, other)
        self._report_reachable()

    def join(self, one: int, other: int) -> None:
        self.cuts.discard(frozenset((one, other)))
        self._report_reachable()

    def drop_links(self, one: int, other: int) -> None:
        """Break what connects them on the quorum port; what was under way on it is lost."""
        for link, (peer, far) in list(self.members[one].links.items()):
            if peer == other:
                self._unlink(one, link, other, far)

    def _unlink(self, sid: int, link: int, other: int, far: int) -> None:
        self.flight = deque(item for item in self.flight if (item[1], item[2]) not in ((sid, link), (other, far)))
        for owner, number in ((sid, link), (other, far)):
            member = self.members.get(owner)
            if member is not None and member.links.pop(number, None) is not None:
                member.peer.disconnected(self.now, number)

    def connected(self, one: int, other: int) -> bool:
        return one in self.members and other in self.members and frozenset((one, other)) not in self.cuts

    def _report_reachable(self) -> None:
        for sid in sorted(self.members):
            peer = self.members[sid].peer
            peer.reachable(
                self.now, frozenset(other for other in self.members if other != sid and self.connected(sid, other))
            )

    # ---- driving

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Until the condition holds or nothing is under way."""
        for _ in range(100_000):
            if until():
                return
            moved = False
            for sid in sorted(self.members):
                moved |= self._drain(self.members[sid])
            if self.flight:
                self._deliver(*self.flight.popleft())
                moved = True
            if not moved:
                return
        raise AssertionError("the ensemble does not come to rest")

    def wait(self, nanoseconds: int, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now + nanoseconds
        while True:
            self.run(until)
            deadlines = [member.peer.deadline() for member in self.members.values()]
            next_one = min((deadline for deadline in deadlines if deadline != NEVER), default=end)
            if until() or next_one >= end:
                break
            self.now = max(self.now, next_one)
            for sid in sorted(self.members):
                self.members[sid].peer.tick(self.now)
        self.now = max(self.now, end) if not until() else self.now
        for sid in sorted(self.members):
            self.members[sid].peer.tick(self.now)
        self.run(until)

    def _drain(self, member: Member) -> bool:
        drained = member.peer.drain()
        member.queue += drained.writes
        member.events += drained.events
        for channel in sorted(drained.messages):
            for message in drained.messages[channel]:
                assert isinstance(message, Notification) or channel < 0
                member.sent.append(message)
                self._post(member, channel, message)
        for link in drained.disconnects:
            if link in member.links:
                self._unlink(member.sid, link, *member.links[link])
        if drained.dial is not None:
            self._dial(member, drained.dial)
        moved = (
            bool(drained.writes or drained.events or drained.messages or drained.disconnects)
            or drained.dial is not None
        )
        if not member.held:
            moved |= self.write(member.sid)
        return moved

    def write(self, sid: int, count: int = -1) -> bool:
        """Carry out the next writes of a member (-1: all that it has asked for)."""
        member = self.members[sid]
        queue = member.queue[:] if count < 0 else member.queue[:count]
        del member.queue[: len(queue)]
        for write in queue:
            member.store.carry_out(write)
            member.peer.persisted(write.token)
        return bool(queue)

    def _post(self, member: Member, channel: int, message: Message) -> None:
        if isinstance(message, Snap) and message.snapshot is None:
            message = Snap(message.zxid, ("state of", member.sid))
        if channel >= 0:
            if self.connected(member.sid, channel):
                self.flight.append((member.sid, channel, member.sid, message))  # type: ignore[arg-type]
        elif channel in member.links:
            other, far = member.links[channel]
            self.flight.append((member.sid, other, far, message))  # type: ignore[arg-type]

    def _dial(self, member: Member, leader: int) -> None:
        if not self.connected(member.sid, leader):
            member.peer.dial_failed(self.now)
            return
        other = self.members[leader]
        near = member.number((leader, other.numbers - 1))
        far = other.number((member.sid, near))
        other.peer.accepted(self.now, far)
        member.peer.connected(self.now, near)

    def _deliver(self, source: int, target: int, channel: int, message: Notification | Packet) -> None:
        member = self.members.get(target)
        if member is None or (channel < 0 and channel not in member.links):
            return
        try:
            member.peer.receive(channel, message)
        except RemoteProtocolError as error:
            self.errors.append(error)
            self._unlink(target, channel, *member.links[channel])

    # ---- looking on

    def leader(self) -> Member:
        leaders = [member for member in self.members.values() if member.peer.leading]
        assert len(leaders) == 1, [member.role for member in self.members.values()]
        return leaders[0]

    def established(self, *sids: int) -> bool:
        """Whether these serve in one epoch, under one of them."""
        roles = [self.members[sid].role for sid in sids if sid in self.members and self.members[sid].events]
        return len(roles) == len(sids) and all(
            role.serving and role.epoch == roles[0].epoch and role.leader in self.members for role in roles
        )

    def propose(self, count: int = 1) -> list[int]:
        leader = self.leader()
        return [leader.peer.propose(b"%d" % number) for number in range(count)]


__all__ = ["Diff", "Ensemble", "Solo", "entries", "entry", "settings", "zxid"]
