"""One run of one member: the shell that drives a Peer over the virtual network, disk and clock, as the real one does.

Whatever happens only changes the core's state and asks for a drain, which follows after the events at hand. A pause holds
back every event; a crash ends the process at whatever point it is, and the next one starts from the disk.
"""

import re
from collections import deque

from tests.simulation import service as state
from tests.simulation.checker import Violation
from tests.simulation.network import End
from tests.simulation.scheduler import MILLISECOND, Call, Clock, Stream
from tests.simulation.world import World

from quorate.consensus.contract import NEVER
from quorate.consensus.zab.election import Election
from quorate.consensus.zab.learner import Phase
from quorate.consensus.zab.messages import REQUEST, Entry, Message, NewLeader, Notification, Service, Snap, State
from quorate.consensus.zab.peer import Peer
from quorate.consensus.zab.replica import (
    Adopt,
    LearnerLost,
    Received,
    RoleChange,
    ServiceEvent,
    Settings,
    Synced,
    Touched,
)
from quorate.errors import QuorateError

ELECTION = 1
QUORUM = 2
SPINS_MAX = 50
"""Ticks in a row that leave the core's deadline in the past."""


class Process:
    def __init__(self, world: World, sid: int, settings: Settings, window: int, clock: Clock, stream: Stream) -> None:
        self.world = world
        self.sid = sid
        self.disk = disk = world.disks[sid]
        self.alive = True
        self.service = state.Service(disk.snapshot)
        self.role = RoleChange(State.LOOKING, -1, 0, False)
        self.peer = Peer(settings, disk.snapshot_zxid, disk.tail(), disk.accepted_epoch, disk.current_epoch, window)
        if world.options.blind:
            self.peer.election = _BlindElection(world, self.peer, stream)
        self._stream = stream
        self._clock = clock
        self._members = sorted((*settings.voters, *settings.observers))
        self._election: dict[int, End] = {}
        self._links: dict[int, End] = {}
        self._numbers = 0
        self._draining = False
        self._timer_at = NEVER
        self._spins = 0
        self._paused_until = 0
        self._backlog: deque[tuple[Call, tuple[object, ...]]] = deque()
        self._proposed: deque[int] = deque()
        self._syncs: deque[tuple[int, int]] = deque()
        self.initial_history = 0
        """Where the history of the newest epoch ended when NEWLEADER came (0 on a leader, whose own it is)."""
        self._requests = 0
        self._request_seen: dict[int, int] = {}

    # ---- entering and leaving the core

    def post(self, call: Call, *args: object) -> None:
        """Handle an event now, or when the pause ends."""
        if not self.alive:
            return
        world = self.world
        if self._backlog or world.scheduler.now < self._paused_until:
            self._backlog.append((call, args))
            return
        try:
            self.peer.tick(self._clock.local(world.scheduler.now))
            call(*args)
        except (QuorateError, AssertionError) as error:
            if isinstance(error, Violation):
                raise
            raise Violation(f"member {self.sid}: {type(error).__name__}: {error}") from error
        if not self._draining:
            self._draining = True
            if self._stream.chance(world.options.batching):
                world.scheduler.after(self._stream.around(MILLISECOND // 4), self._drain)
            else:
                self._drain()

    def pause(self, until: int) -> None:
        self._paused_until = until
        self.world.scheduler.at(until, self._resume)

    def _resume(self) -> None:
        """All that waited is handled in one go."""
        if self.world.scheduler.now >= self._paused_until:
            backlog, self._backlog = self._backlog, deque()
            for call, args in backlog:
                self.post(call, *args)

    def local(self) -> int:
        return self._clock.local(self.world.scheduler.now)

    # ---- life

    def start(self) -> None:
        self.disk.open(self._persisted)
        self.post(self._start)

    def _start(self) -> None:
        self.peer.start(self.local())
        for sid in self._members:
            if sid < self.sid:
                self._dial_election(sid)

    def crash(self) -> None:
        self.alive = False
        self.disk.crash()
        lose_tail = self._stream.chance(0.5)
        for end in self.world.network.ends:
            # some of them may still wait in the backlog
            if end.owner is self:
                self.world.network.close(end, lose_tail)

    # ---- the drain

    def _drain(self) -> None:
        self._draining = False
        if not self.alive:
            return
        if self.world.scheduler.now < self._paused_until:
            self._backlog.append((self._nothing, ()))
            return
        world = self.world
        drained = self.peer.drain()
        if drained.writes:
            self.disk.submit(drained.writes)
        for event in drained.events:
            self._handle(event)
        for channel in sorted(drained.messages):
            self._send(channel, drained.messages[channel])
        for link in drained.disconnects:
            end = self._links.get(link)
            if end is not None:
                # the end that we close is reported as well, as a real connection's is
                world.network.close(end, lose_tail=True)
                world.scheduler.after(0, self.closed, end)
        if drained.dial is not None:
            world.network.dial(self, self.sid, drained.dial, QUORUM, _QuorumDial(self))
        self._arm()

    def _nothing(self) -> None:
        """Wakes the drain."""

    def _arm(self) -> None:
        deadline = self.peer.deadline()
        if deadline == NEVER:
            return
        now = self.world.scheduler.now
        when = self._clock.when(deadline)
        if when <= now:
            self._spins += 1
            if self._spins > SPINS_MAX:
                raise Violation(f"member {self.sid} spins: its deadline stays in the past")
        else:
            self._spins = 0
        if self._timer_at == NEVER or when < self._timer_at:
            self._timer_at = max(when, now)
            self.world.scheduler.at(self._timer_at, self._timer, self._timer_at)

    def _timer(self, when: int) -> None:
        if when == self._timer_at and self.alive:
            self._timer_at = NEVER
            self.world.trace("timer", self.sid)
            self.post(self._nothing)

    def _persisted(self, token: int) -> None:
        self.world.trace("durable", self.sid, token)
        self.post(self.peer.persisted, token)

    # ---- messages

    def _send(self, channel: int, messages: list[Message]) -> None:
        world = self.world
        if channel >= 0:
            end = self._election.get(channel)
            if end is not None:
                world.network.send(end, list(messages))
            return
        end = self._links.get(channel)
        if end is None or not end.open:
            return
        peer = self.peer
        epoch = peer.learner.epoch if peer.learner is not None else peer.leader.epoch if peer.leader is not None else -1
        batch: list[object] = []
        for message in messages:
            world.checker.sent(self.sid, epoch, self.initial_history, message)
            if isinstance(message, Snap):
                # the link takes the state when it gets to send it, and may name it by what it holds then
                node = self.service.node
                message = Snap(message.zxid if self._stream.chance(0.5) else max(message.zxid, node.zxid), node)
            world.probe(type(message).__name__)
            batch.append(message)
        world.network.send(end, batch)
        world.sent(self, end, messages)

    def received(self, end: End, messages: list[object]) -> None:
        if end.port == ELECTION:
            self.post(self._notified, end, messages)
        else:
            self.post(self._received, end, messages)

    def _notified(self, end: End, messages: list[object]) -> None:
        for message in messages:
            if self._election.get(end.label) is not end:
                return
            assert isinstance(message, Notification)
            self.world.trace_message(self.sid, end.label, message)
            self.peer.receive(end.label, message)

    def _received(self, end: End, messages: list[object]) -> None:
        for message in messages:
            if self._links.get(end.label) is not end:
                return
            assert isinstance(message, Message)
            if isinstance(message, NewLeader):
                self.initial_history = self.peer.replica.history.last
            self.world.trace_message(self.sid, end.label, message)
            self.peer.receive(end.label, message)  # type: ignore[arg-type]  # a link carries packets alone

    def closed(self, end: End) -> None:
        self.post(self._closed, end)

    def _closed(self, end: End) -> None:
        if not self.alive:
            return
        if end.port == ELECTION:
            if self._election.get(end.label) is end:
                del self._election[end.label]
                self.world.trace("unreachable", self.sid, end.label)
                self._report_reachable()
                if end.label < self.sid:
                    self._redial_later(end.label)
        elif self._links.pop(end.label, None) is not None:
            self.world.trace("closed", self.sid, end.label)
            self.peer.disconnected(self.local(), end.label)

    # ---- the election port: the larger sid calls

    def _dial_election(self, sid: int) -> None:
        self.world.network.dial(self, self.sid, sid, ELECTION, _ElectionDial(self, sid))

    def _redial_later(self, sid: int) -> None:
        self.world.scheduler.after(self._stream.between(1, 50) * MILLISECOND, self._redial, sid)

    def _redial(self, sid: int) -> None:
        if self.alive and sid not in self._election:
            self._dial_election(sid)

    def election_up(self, end: End, sid: int) -> None:
        end.label = sid
        old = self._election.get(sid)
        if old is not None:
            # left behind by an earlier life of the peer: gone, and then there again
            self.world.network.close(old)
            del self._election[sid]
            self._report_reachable()
        self._election[sid] = end
        self.world.trace("reachable", self.sid, sid)
        self._report_reachable()

    def _report_reachable(self) -> None:
        self.peer.reachable(self.local(), frozenset(self._election))

    # ---- the quorum port

    def accept(self, end: End, caller: int, port: int) -> None:
        if port == ELECTION:
            self.post(self.election_up, end, caller)
        else:
            self._number(end)
            self.post(self._accepted, end)

    def _number(self, end: End) -> None:
        self._numbers -= 1
        end.label = self._numbers
        self._links[end.label] = end

    def _accepted(self, end: End) -> None:
        self.world.trace("accepted", self.sid, end.label)
        self.peer.accepted(self.local(), end.label)

    def quorum_up(self, end: End) -> None:
        self._number(end)
        self.world.trace("connected", self.sid, end.label)
        self.peer.connected(self.local(), end.label)

    def dial_failed(self) -> None:
        self.world.trace("dial failed", self.sid)
        self.peer.dial_failed(self.local())

    # ---- the service

    def _handle(self, event: ServiceEvent) -> None:
        world, checker, service = self.world, self.world.checker, self.service
        if type(event) is Entry:
            if service.apply(event):
                checker.applied(self.sid, service.node)
            else:
                checker.skipped(self.sid, event.zxid, event.payload)
            if self._proposed and self._proposed[0] == event.zxid:
                self._proposed.popleft()
                checker.acknowledge(service.node)
                world.committed(service.node)
            world.trace("apply", self.sid, event.zxid)
        elif isinstance(event, RoleChange):
            self._change_role(event)
        elif isinstance(event, Adopt):
            assert isinstance(event.snapshot, state.Applied)
            checker.adopted(self.sid, event.zxid, event.snapshot)
            service.adopt(event.snapshot)
        elif isinstance(event, Synced):
            zxid, key = self._syncs.popleft()
            if event.key != key or service.node.zxid < zxid:
                raise Violation(f"sync barrier: {event} with {service.node}, expected {key} after {zxid:#x}")
        elif isinstance(event, Received):
            self._request(event)
        else:
            assert isinstance(event, LearnerLost | Touched)

    def _change_role(self, role: RoleChange) -> None:
        checker = self.world.checker
        self.role = role
        self.world.trace("role", self.sid, role.state, role.leader, role.epoch, role.serving)
        self._proposed.clear()
        self._syncs.clear()
        self._requests = 0
        if role.state == State.LOOKING:
            self.initial_history = 0
            self.world.probe(f"looking: {re.sub('[0-9]+.*', '', self.peer.reason)}")
        if not role.serving:
            return
        if role.state == State.LEADING:
            checker.established(self.sid, role.epoch, self.service.node)
        else:
            checker.serving(self.sid, role.leader, role.epoch, self.service.node)

    def _request(self, event: Received) -> None:
        """A learner's requests are numbered; links keep their order."""
        data = event.message.data
        assert data is not None
        number = int(data)
        if number != self._request_seen.get(event.link, 0) + 1:
            raise Violation(f"request {number} of link {event.link} after {self._request_seen.get(event.link, 0)}")
        self._request_seen[event.link] = number

    # ---- what clients ask

    def propose(self, count: int) -> None:
        while count and self.role.serving and self.peer.leading:
            count -= 1
            payload = self.world.payload()
            zxid = self.peer.propose(payload)
            self.world.checker.propose(self.sid, zxid, payload)
            self._proposed.append(zxid)

    def sync(self, key: int) -> None:
        leader = self.peer.leader
        if leader is not None and self.peer.leading and self.role.serving:
            last = self._proposed[-1] if self._proposed else self.service.node.zxid
            self._syncs.append((last, key))
            self.peer.sync(-1, key)

    def request(self) -> None:
        learner = self.peer.learner
        if learner is not None and learner.phase == Phase.SERVING and not learner.failed and self.role.serving:
            self._requests += 1
            self.peer.send_to_leader(Service(REQUEST, b"%d" % self._requests))

    def snapshot(self, purge: bool, delay: int) -> None:
        """Take a local snapshot, fuzzy: named now, complete later."""
        service = self.service
        if service.snapshot_of < 0 and service.node.depth:
            service.snapshot_of = service.node.zxid
            self.world.scheduler.after(delay, self._snapshot_done, purge)

    def _snapshot_done(self, purge: bool) -> None:
        service = self.service
        if self.alive and service.snapshot_of >= 0:
            self.disk.keep_snapshot(service.snapshot_of, service.node, purge)
            service.snapshot_of = -1


class _BlindElection(Election):
    """Votes with whatever history it likes while there are faults."""

    def __init__(self, world: World, peer: Peer, stream: Stream) -> None:
        settings = peer.settings
        super().__init__(settings.sid, settings.voters, peer.outbox, settings.config)
        self._world = world
        self._stream = stream

    def look(self, now: int, last_zxid: int, current_epoch: int) -> None:
        if self._world.faulty:
            last_zxid = self._stream.between(0, 1000)
        super().look(now, last_zxid, current_epoch if not self._world.faulty else 0)


class _QuorumDial:
    __slots__ = ("_process",)

    def __init__(self, process: Process) -> None:
        self._process = process

    def connected(self, end: End) -> None:
        if self._process.alive:
            self._process.post(self._process.quorum_up, end)
        else:
            self._process.world.network.close(end)

    def failed(self) -> None:
        self._process.post(self._process.dial_failed)


class _ElectionDial:
    __slots__ = ("_process", "_sid")

    def __init__(self, process: Process, sid: int) -> None:
        self._process = process
        self._sid = sid

    def connected(self, end: End) -> None:
        if self._process.alive:
            self._process.post(self._process.election_up, end, self._sid)
        else:
            self._process.world.network.close(end)

    def failed(self) -> None:
        if self._process.alive:
            self._process._redial_later(self._sid)
