"""A Paxos group on virtual disks and links, in virtual time, from a seed: members crash and pause, links break, clocks
drift, and a judge watches.

Links are first in, first out while they last, and keep some beginning of what was on its way when they break. A disk carries
out writes in order and later; a crash keeps some beginning of them, an append in part, an adoption whole or not at all.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from quorate.consensus.paxos.messages import (
    Adopt,
    Append,
    Chosen,
    Entry,
    Message,
    ReadFailed,
    ReadReady,
    RoleChange,
    StorePromise,
    Write,
)
from quorate.consensus.paxos.peer import Peer
from quorate.consensus.paxos.settings import Settings
from quorate.simulation.scheduler import MILLISECOND, Clock, Scheduler, Stream


class Store:
    """What a member has on disk."""

    def __init__(self) -> None:
        self.promised = 0
        self.accepted = 0
        self.entries: list[Entry] = []

    def carry_out(self, write: Write) -> None:
        if isinstance(write, StorePromise):
            self.promised = write.ballot
        elif isinstance(write, Adopt):
            self.promised = self.accepted = write.ballot
            self.entries[write.first - 1 :] = write.entries
        elif isinstance(write, Append):
            self.entries += write.entries


class Member:
    def __init__(self, group: "Group", sid: int, store: Store) -> None:
        self.sid = sid
        self.store = store
        self.group = group
        self.waiting: deque[Write] = deque()
        self.applied = 0
        self.alive = True
        self.writing = False
        self.draining = False
        self.timer = -1
        self.paused_until = 0
        self.backlog: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self.waking = False
        self.clock = group.clocks[sid]
        self.peer = Peer(
            group.settings(sid),
            self.now(),
            Random(f"{group.seed} {sid} {group.scheduler.now}"),
            promised=store.promised,
            accepted=store.accepted,
            entries=store.entries,
        )
        self.arm()

    def now(self) -> int:
        return self.clock.local(self.group.scheduler.now)

    # ---- events

    def enter(self) -> None:
        self.peer.tick(self.now())

    def leave(self) -> None:
        if not self.draining:
            self.draining = True
            self.group.scheduler.after(1000, self.drain)

    def late(self, call: Callable[..., None], *args: object) -> bool:
        """Whether the process is paused; then the call comes when it wakes up, in its turn."""
        if not self.waking and (self.backlog or self.group.scheduler.now < self.paused_until):
            if not self.backlog:
                self.group.scheduler.at(self.paused_until, self.wake)
            self.backlog.append((call, args))
            return True
        return False

    def wake(self) -> None:
        if self.group.scheduler.now < self.paused_until:
            self.group.scheduler.at(self.paused_until, self.wake)
            return
        self.waking = True
        backlog, self.backlog = self.backlog, []
        for call, args in backlog:
            call(*args)
        self.waking = False

    def drain(self) -> None:
        if self.late(self.drain):
            return
        self.draining = False
        if not self.alive:
            return
        drained = self.peer.drain()
        self.waiting.extend(drained.writes)
        if self.waiting and not self.writing:
            self.writing = True
            self.group.scheduler.after(self.group.stream.around(MILLISECOND), self.write)
        for sid, messages in drained.messages.items():
            for message in messages:
                self.group.send(self.sid, sid, message)
        for event in drained.events:
            if isinstance(event, Chosen):
                assert event.first == self.applied + 1
                self.group.chosen(self, event.first, event.entries)
                self.applied += len(event.entries)
            elif isinstance(event, RoleChange):
                self.group.role(self, event)
            elif isinstance(event, ReadReady | ReadFailed):
                self.group.read_ended(self, event)
        self.arm()

    def arm(self) -> None:
        deadline = self.peer.deadline()
        if deadline != self.timer:
            self.timer = deadline
            self.group.scheduler.at(self.clock.when(deadline), self.tick, deadline)

    def tick(self, deadline: int) -> None:
        if self.late(self.tick, deadline):
            return
        if self.alive and deadline == self.timer:
            self.timer = -1
            self.enter()
            self.leave()

    def write(self) -> None:
        if self.late(self.write):
            return
        self.writing = False
        if not self.alive or not self.waiting:
            return
        count = self.group.stream.between(1, len(self.waiting))
        token = 0
        for _ in range(count):
            write = self.waiting.popleft()
            self.store.carry_out(write)
            token = write.token
        self.enter()
        self.peer.persisted(token)
        if self.waiting:
            self.writing = True
            self.group.scheduler.after(self.group.stream.around(MILLISECOND), self.write)
        self.leave()

    def crash(self) -> None:
        self.alive = False
        stream = self.group.stream
        for _ in range(stream.between(0, len(self.waiting))):
            self.store.carry_out(self.waiting.popleft())
        if self.waiting and isinstance(self.waiting[0], Append) and stream.chance(0.5):
            entries = self.waiting[0].entries
            self.store.entries += entries[: stream.between(0, len(entries))]


class Group:
    """``chosen_log`` is what anyone has applied; a contradiction raises AssertionError."""

    def __init__(self, seed: int, size: int, *, accept_quorum: int = 0, lease: int = 0, drift_ppm: int = 0) -> None:
        self.seed = seed
        self.scheduler = Scheduler()
        self.stream = Stream(seed, "group")
        self.sids = tuple(range(1, size + 1))
        self._accept_quorum = accept_quorum
        self._lease = lease
        self.clocks = {
            sid: Clock(self.stream.between(0, 1 << 40), self.stream.between(-drift_ppm, drift_ppm)) for sid in self.sids
        }
        self.stores = {sid: Store() for sid in self.sids}
        self.members: dict[int, Member] = {}
        self.links: dict[tuple[int, int], int] = {}
        """The number of the connection from one to the other; both directions have the same."""
        self._arrived: dict[tuple[int, int], int] = {}
        self._connections = 0
        self.cut: set[tuple[int, int]] = set()
        self.delay = 2 * MILLISECOND
        self.chosen_log: list[Entry] = []
        self.leaders: dict[int, int] = {}
        self.reads: dict[object, int] = {}
        self.answered = 0
        self.failed = 0
        for sid in self.sids:
            self.start(sid)

    def settings(self, sid: int) -> Settings:
        return Settings(
            sid,
            self.sids,
            accept_quorum=self._accept_quorum,
            heartbeat=10 * MILLISECOND,
            election_timeout=60 * MILLISECOND,
            lease=self._lease,
            clock_error=20_000,
        )

    # ---- lives and links

    def start(self, sid: int) -> None:
        if sid in self.members:
            return
        self.members[sid] = Member(self, sid, self.stores[sid])
        for other in self.sids:
            if other != sid and other in self.members:
                self.connect(sid, other)

    def crash(self, sid: int) -> None:
        member = self.members.pop(sid, None)
        if member is not None:
            member.crash()
            for other in self.sids:
                self.disconnect(sid, other)

    def connect(self, one: int, other: int) -> None:
        pair = (min(one, other), max(one, other))
        if pair in self.links or pair in self.cut or not {one, other} <= self.members.keys():
            return
        self._connections += 1
        self.links[pair] = self._connections
        for sid, peer in ((one, other), (other, one)):
            member = self.members[sid]
            member.enter()
            member.peer.connected(peer)
            member.leave()

    def disconnect(self, one: int, other: int) -> None:
        pair = (min(one, other), max(one, other))
        if self.links.pop(pair, 0):
            for sid, peer in ((one, other), (other, one)):
                member = self.members.get(sid)
                if member is not None:
                    member.enter()
                    member.peer.disconnected(peer)
                    member.leave()

    def send(self, source: int, target: int, message: Message) -> None:
        link = self.links.get((min(source, target), max(source, target)), 0)
        if link:
            arrival = self.scheduler.now + self.stream.around(self.delay)
            arrival = max(arrival, self._arrived.get((source, target), 0))
            self._arrived[source, target] = arrival
            self.scheduler.at(arrival, self.deliver, source, target, link, message)

    def deliver(self, source: int, target: int, link: int, message: Message) -> None:
        if self.links.get((min(source, target), max(source, target))) == link:
            member = self.members[target]
            if member.late(self.deliver, source, target, link, message):
                return
            member.enter()
            member.peer.receive(source, message)
            member.leave()

    # ---- the judge

    def chosen(self, member: Member, first: int, entries: Sequence[Entry]) -> None:
        log = self.chosen_log
        for index, entry in enumerate(entries, first):
            if index <= len(log):
                assert log[index - 1] == entry, f"member {member.sid} has {entry} at {index}, others {log[index - 1]}"
            else:
                assert index == len(log) + 1
                log.append(entry)
                holders = sum(store.entries[index - 1 : index] == [entry] for store in self.stores.values())
                quorum = self.settings(1).quorums(len(self.sids))[1]
                assert holders >= quorum, f"{entry} is chosen at {index} with {holders} of {quorum} disks"

    def role(self, member: Member, change: RoleChange) -> None:
        if change.ready:
            assert self.leaders.setdefault(change.ballot, member.sid) == member.sid
            assert member.applied >= 1

    def read(self, member: Member, key: object) -> None:
        """The state must be at least what anyone has applied by now."""
        self.reads[key] = len(self.chosen_log)
        member.enter()
        if member.peer.leader is None:
            self.reads.pop(key)
            return
        member.peer.read(key)
        member.leave()

    def read_ended(self, member: Member, event: ReadReady | ReadFailed) -> None:
        asked = self.reads.pop(event.key)
        if isinstance(event, ReadReady):
            self.answered += 1
            assert event.index >= asked, (
                f"a read of {event.index} by member {member.sid}, but {asked} was applied before"
            )
        else:
            self.failed += 1

    # ---- driving

    def leader(self) -> Member | None:
        """The one of the greatest ballot."""
        leaders = [member for member in self.members.values() if member.peer.leading]
        return max(leaders, key=lambda member: member.peer.acceptor.promised, default=None)

    def run(self, duration: int) -> None:
        until = self.scheduler.now + duration
        self.scheduler.at(until, lambda: None)
        while self.scheduler.now < until:
            self.scheduler.step()
