"""What the members of one run share, their lives, and the judge of what they do.

Judged at every step: nobody applies another entry at an index than anybody else did; whatever is applied for the first time is on the disks of
a phase-2 quorum; a ballot has one leader, and nobody begins to lead while another one has a lease; nobody accepts in an older ballot than it promised; a
member that restarts has all it promised, and every chosen entry that it had; what is taken from a snapshot is the state of that index; a read shows
whatever anybody had applied when it was asked for.
"""

import logging
from collections.abc import Callable
from random import Random
from typing import Any

from quorate.consensus.paxos.acceptor import Acceptor
from quorate.consensus.paxos.group import Group, Limits
from quorate.consensus.paxos.host import PEER, Host, HostSettings
from quorate.consensus.paxos.members import Member
from quorate.consensus.paxos.messages import Accepted, Adopt, Promise
from quorate.consensus.paxos.peer import Drained
from quorate.consensus.paxos.transfer import REQUEST
from quorate.consensus.replicated import Replica, Restorer
from quorate.errors import QuorateError
from quorate.kv.service import KvService
from quorate.simulation import trace as kinds
from quorate.simulation import world
from quorate.simulation.disk.device import VirtualDisk
from quorate.simulation.disk.files import VirtualFiles
from quorate.simulation.machine import Machine, SimulatedEnvironment
from quorate.simulation.network import Conditions, Network
from quorate.simulation.result import Violation
from quorate.simulation.scheduler import Stream

PORT = 7000
SPARE = 4
"""Members that may be added in a run."""


class Promises:
    """What a member said of one group, that its disk must know after a restart."""

    __slots__ = ("accepted", "acceptor", "chosen", "durable", "promised")

    def __init__(self) -> None:
        self.promised = 0
        self.accepted = (0, 0)
        """(ballot, index) of the latest Accepted."""
        self.acceptor: Acceptor | None = None
        """Of its process, or of its last one."""
        self.durable = 0
        """How far of that its disk surely has."""
        self.chosen = 0
        """Up to here its disk surely had all entries that were chosen: it must never lose them."""

    def holds(self, index: int, payload: bytes) -> bool:
        acceptor = self.acceptor
        if acceptor is None:
            return False
        log = acceptor.log
        # what is about to be replaced on disk is replaced in memory already
        replaced = [write.first for write in acceptor.writes if isinstance(write, Adopt)]
        if index > min([self.durable, log.last, *[first - 1 for first in replaced]]):
            return False
        return index <= log.base or log.between(index, index)[0].payload == payload


class Service(KvService):
    """The production service, with the judge looking on."""

    world: "World"
    sid: int

    def apply(self, index: int, payload: bytes) -> None:
        self.world.applied(self.sid, self.replica.group, index, payload)
        super().apply(index, payload)

    def role_changed(self, leader: int, leading: bool) -> None:
        self.world.role(self.sid, self.replica.group, leader, leading)
        super().role_changed(leader, leading)

    def adopt(self, restorer: Restorer) -> None:
        super().adopt(restorer)
        self.world.probe("snapshot adopted")


class Life:
    """A process from its start to its end. ``host`` is None until recovery has succeeded."""

    def __init__(self, world: "World", sid: int, env: SimulatedEnvironment) -> None:
        self.world = world
        self.sid = sid
        self.env = env
        self.host: Host | None = None

    def begin(self) -> None:
        """In the process. Raises what recovery raises."""
        world = self.world
        options = world.options
        settings = HostSettings(
            self.sid,
            [world.member(sid) for sid in world.first],
            (world.machines[self.sid].address, PORT),
            groups=world.groups,
            accept_quorum=options["accept_quorum"],
            heartbeat=options["heartbeat"],
            election_timeout=options["election_timeout"],
            lease=options["lease"],
            clock_error=options["clock_error"],
            limits=Limits(
                snapshot_bytes=1 << 30,
                snapshot_entries=options["snapshot_entries"],
                kept_entries=options["kept_entries"],
                chunk_bytes=options["chunk"],
            ),
            segment=options["segment"],
            preallocate=options["preallocate"],
        )
        disks = world.disks[self.sid]
        host = Host(self.env, disks[0], disks[1], settings, self._service, lambda reason: world.stopped(self, reason))
        for group in host.groups.values():
            self._check(group)
            _Watch(self, group)
        self.host = host
        host.start()

    def _service(self, env: Any, replica: Replica) -> KvService:
        service = Service(env, replica, b"", b"", self.world.options["history"], _nothing)
        service.world, service.sid = self.world, self.sid
        return service

    def _check(self, group: Group) -> None:
        """Whatever was promised is there."""
        world, acceptor = self.world, group.peer.acceptor
        promises = world.promises[self.sid][group.group]
        if acceptor.promised < promises.promised:
            world.violate(
                f"durability: member {self.sid} promised {promises.promised:#x}, but recovers with {acceptor.promised:#x}"
            )
        if (acceptor.accepted, acceptor.log.last) < promises.accepted:
            ballot, index = promises.accepted
            world.violate(
                f"durability: member {self.sid} accepted up to {index} in {ballot:#x}, but recovers with"
                f" {acceptor.log.last} in {acceptor.accepted:#x}"
            )
        if acceptor.log.last < promises.chosen:
            world.violate(
                f"durability: member {self.sid} had chosen entries up to {promises.chosen}, but recovers with {acceptor.log.last}"
            )
        for index in range(max(acceptor.log.base, promises.chosen - 20) + 1, promises.chosen + 1):
            known = world.chosen[group.group].get(index)
            if known is not None and acceptor.log.between(index, index)[0].payload != known:
                world.violate(f"durability: member {self.sid} recovers with another entry at {index} than was chosen")
        promises.acceptor = acceptor
        # what was durable still is; what is found beyond that may be in the cache alone
        promises.durable = min(promises.durable, acceptor.log.last)


class _Watch:
    """Tells the judge what a group's core says and knows to be durable."""

    def __init__(self, life: Life, group: Group) -> None:
        self._life = life
        self._promises = life.world.promises[life.sid][group.group]
        self._group = group
        self._drain, self._persisted, self._serve = group.drain, group.peer.persisted, group.serve
        self._unsynced: list[tuple[int, int]] = [(0, group.peer.acceptor.log.last)]
        group.drain = self.drain  # type: ignore[method-assign]  # that is what a watch does
        group.peer.persisted = self.persisted  # type: ignore[method-assign]  # the same
        group.serve = self.serve  # type: ignore[method-assign]  # the same

    def drain(self) -> Drained:
        drained = self._drain()
        sniper = self._life.world.snipers.get(self._life.sid)
        if sniper is not None:
            sniper(drained, self._promises)
        promises = self._promises
        promised = promises.promised
        if drained.writes:
            for write in drained.writes:
                if isinstance(write, Adopt):
                    # what the disk has from there on is about to be replaced
                    kept = write.first - 1
                    self._unsynced = [(token, min(last, kept)) for token, last in self._unsynced]
                    promises.durable = min(promises.durable, kept)
            self._unsynced.append((drained.writes[-1].token, self._group.peer.acceptor.log.last))
        for messages in drained.messages.values():
            for message in messages:
                if isinstance(message, Promise):
                    promises.promised = max(promises.promised, message.ballot)
                elif isinstance(message, Accepted):
                    if message.ballot < promised:
                        self._life.world.violate(
                            f"acceptors: member {self._life.sid} accepts in {message.ballot:#x} after it promised {promised:#x}"
                        )
                    promises.promised = max(promises.promised, message.ballot)
                    promises.accepted = max(promises.accepted, (message.ballot, message.last))
        return drained

    def persisted(self, token: int) -> None:
        while self._unsynced and self._unsynced[0][0] <= token:
            self._promises.durable = self._unsynced.pop(0)[1]
        promises = self._promises
        promises.chosen = max(promises.chosen, min(promises.durable, self._group.peer.acceptor.log.decided))
        self._persisted(token)

    def serve(self, sid: int, body: bytes) -> list[bytes]:
        _, offset = REQUEST.unpack(body)
        if offset:
            self._life.world.probe("snapshot sent in pieces")
        return self._serve(sid, body)


class World(world.World):
    """Implements machine.Watcher."""

    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(seed, options, keep_trace)
        conditions = Conditions(options["delay"], options["split"], 0.0)
        self.network = Network(self.scheduler, Stream(seed, "network"), conditions, self.trace)
        self.groups = tuple(range(1, options["groups"] + 1))
        self.first = tuple(range(1, options["members"] + 1))
        self.sids = tuple(range(1, options["members"] + SPARE + 1))
        self.started = set(self.first)
        """Members that there are, running or not."""
        self.failing: set[int] = set()
        """Members whose disk fails, through no fault of theirs."""
        self.chosen: dict[int, dict[int, bytes]] = {group: {} for group in self.groups}
        self.newest = dict.fromkeys(self.groups, 0)
        """Of each group the greatest index that anybody has applied."""
        self.leaders: dict[tuple[int, int], int] = {}
        self.promises = {sid: {group: Promises() for group in self.groups} for sid in self.sids}
        self.lives: dict[int, Life] = {}
        self.machines: dict[int, Machine] = {}
        self.files: dict[int, VirtualFiles] = {}
        self.disks: dict[int, tuple[VirtualDisk, VirtualDisk]] = {}
        self.snipers: dict[int, Callable[[Drained, Promises], None]] = {}
        """By member: told of what it is about to write and say, to strike just then."""
        self.awaited: dict[int, Callable[[], None]] = {}
        """By member: called when it starts the next time."""
        self._names: dict[Machine, int] = {}
        self._lives = 0
        self._crash_at: dict[int, tuple[int, Callable[[], None]]] = {}
        drift = Stream(seed, "drift")
        for sid in self.sids:
            machine = Machine(
                f"m{sid}", f"10.0.0.{sid}", self.scheduler, self.network, Stream(seed, f"machine {sid}"), self
            )
            machine.batching = options["batching"]
            machine.change_clock(0, drift.between(-options["drift_ppm"], options["drift_ppm"]))
            self.machines[sid] = machine
            self._names[machine] = sid
            self.files[sid] = VirtualFiles(Stream(seed, f"files {sid}"))
            self.disks[sid] = (self._disk(sid, "journal"), self._disk(sid, "snapshots"))

    def _disk(self, sid: int, name: str) -> VirtualDisk:
        stream = Stream(self.seed, f"disk {sid} {name}")
        disk = VirtualDisk(self.scheduler, stream, self.files[sid], self.options["disk_latency"])
        disk.on_step = lambda what: self._stepped(sid)
        return disk

    def member(self, sid: int) -> Member:
        return Member(sid, {PEER: f"10.0.0.{sid}:{PORT}"})

    # ---- lives

    def start(self, sid: int) -> None:
        """Start the member if it does not run."""
        if sid in self.lives or sid not in self.started or self.failure:
            return
        self.note(kinds.START, sid)
        self.awaited.pop(sid, _nothing)()
        self.probe("start")
        self._lives += 1
        machine = self.machines[sid]
        env = machine.start(Random(f"{self.seed}/process {self._lives}"))
        for disk in self.disks[sid]:
            disk.open(lambda call: machine.enter(env, call))
        life = self.lives[sid] = Life(self, sid, env)
        machine.enter(env, self._begin, life)

    def _begin(self, life: Life) -> None:
        try:
            life.begin()
        except QuorateError as error:
            self.violate(f"recovery: member {life.sid} does not start: {error}")

    def kill(self, sid: int, power: bool, why: str = "killed") -> None:
        """End the process; with it the machine, unless ``power``."""
        if self.lives.pop(sid, None) is None:
            return
        self.note(kinds.CRASH, sid, why if power else "power lost")
        self._crash_at.pop(sid, None)
        self.snipers.pop(sid, None)
        self.machines[sid].end(power)
        for disk in self.disks[sid]:
            disk.crash()
        if not power:
            self.files[sid].lose_power()

    def stopped(self, life: Life, reason: str) -> None:
        """The member stops by itself: right only because of its disk."""
        if life.sid not in self.failing:
            self.violate(f"member {life.sid} stops: {reason}")
            return
        self.probe("stopped by its disk")
        self.scheduler.after(0, self._stop, life, reason)

    def _stop(self, life: Life, reason: str) -> None:
        if self.lives.get(life.sid) is life:
            self.kill(life.sid, power=True, why=reason)
            self.scheduler.after(self.options["election_timeout"], self.start, life.sid)

    def crash_at_disk(self, sid: int, operations: int, crash: Callable[[], None]) -> None:
        """Call ``crash`` in the midst of the disks' next operation but ``operations``."""
        self._crash_at[sid] = (operations, crash)

    def _stepped(self, sid: int) -> None:
        waiting = self._crash_at.get(sid)
        if waiting is None:
            return
        left, crash = waiting
        if left > 0:
            self._crash_at[sid] = (left - 1, crash)
        else:
            del self._crash_at[sid]
            crash()

    def host(self, sid: int) -> Host | None:
        life = self.lives.get(sid)
        return None if life is None else life.host

    def service(self, sid: int, group: int) -> KvService | None:
        host = self.host(sid)
        if host is None:
            return None
        service = host.groups[group].service
        assert isinstance(service, KvService)
        return service

    def enter(self, sid: int, call: Callable[..., None], *args: object) -> None:
        """Have it done in the member's process, if there is one."""
        life = self.lives.get(sid)
        if life is not None:
            self.machines[sid].enter(life.env, call, *args)

    def leader(self, group: int = 1) -> int:
        """The member that leads in the greatest ballot; 0 if none does."""
        leading = [
            (host.groups[group].peer.acceptor.promised, sid)
            for sid, life in self.lives.items()
            if (host := life.host) is not None and host.groups[group].leading
        ]
        return max(leading, default=(0, 0))[1]

    # ---- machine.Watcher

    def crashed(self, machine: Machine) -> None:
        self.kill(self._names[machine], power=True, why="killed in the middle of an event")

    def failed(self, machine: Machine, error: Exception) -> None:
        self.violate(str(error) if isinstance(error, Violation) else f"{machine.name}: {told(error)}")
        self.error = error

    def stepped(self, machine: Machine) -> None:
        """What is judged is judged when it happens."""

    # ---- the judge

    def applied(self, sid: int, group: int, index: int, payload: bytes) -> None:
        chosen = self.chosen[group]
        known = chosen.get(index)
        if known is None:
            chosen[index] = payload
            self.newest[group] = max(self.newest[group], index)
            self.commits += 1
            self._chosen_first(sid, group, index, payload)
        elif known != payload:
            raise Violation(
                f"agreement: member {sid} applies another entry at {index} of group {group} than others did"
            )
        self.note(kinds.COMMIT, sid, f"{group}:{index}")

    def _chosen_first(self, sid: int, group: int, index: int, payload: bytes) -> None:
        host = self.host(sid)
        if host is None:
            return
        chosen = self.chosen[group]
        sids = host.groups[group].peer.acceptor.log.sids
        needed = host.groups[group].peer.settings.quorums(len(sids))[1]
        holders = 0
        for other in sids:
            promises = self.promises[other][group]
            if promises.holds(index, payload):
                holders += 1
                if all(promises.holds(at, chosen[at]) for at in range(promises.chosen + 1, index) if at in chosen):
                    promises.chosen = max(promises.chosen, index)
        # while members change, the quorum of those before may have been the one
        if holders < needed and "fault: members" not in self.probes:
            raise Violation(
                f"durability: member {sid} applies {index} of group {group}, which {holders} of {len(sids)} have on disk"
            )

    def role(self, sid: int, group: int, leader: int, leading: bool) -> None:
        host = self.host(sid)
        self.note(
            kinds.ROLE, sid, f"group {group}: {'leads' if leading else f'follows {leader}' if leader else 'looks'}"
        )
        if leading and host is not None:
            self.probe("leads")
            ballot = host.groups[group].peer.acceptor.promised
            other = self.leaders.setdefault((group, ballot), sid)
            if other != sid:
                raise Violation(f"leadership: members {other} and {sid} lead group {group} in ballot {ballot:#x}")
            self._no_other_lease(sid, group, ballot)

    def _no_other_lease(self, sid: int, group: int, ballot: int) -> None:
        for other, life in self.lives.items():
            leader = life.host.groups[group].peer.leader if life.host is not None and other != sid else None
            if (
                self.options["lease"]
                and leader is not None
                and leader.ballot < ballot
                and leader.leased(life.env.now())
            ):
                raise Violation(f"leases: member {sid} leads group {group} while member {other} still has a lease")

    # ---- reads of the judge's own

    def spy(self, sid: int, group: int, first: bool = False) -> None:
        """Read at this member. ``first``: before anything else that it finds when it wakes up."""
        life = self.lives.get(sid)
        if life is not None:
            machine = self.machines[sid]
            enter = machine.enter_first if first else machine.enter
            enter(life.env, self._spy, life, group, self.newest[group])

    def _spy(self, life: Life, group: int, newest: int) -> None:
        if life.host is not None:
            service = life.host.groups[group].service
            assert isinstance(service, KvService)
            service.read(lambda ready: self._spied(life, group, newest, ready))

    def _spied(self, life: Life, group: int, newest: int, ready: bool) -> None:
        assert life.host is not None
        self.probe(f"spied: {ready}")
        applied = life.host.groups[group].applied
        if ready and applied < newest:
            raise Violation(
                f"reads: member {life.sid} answers a read of group {group} as of {applied}, while {newest} was applied before it was asked"
            )

    def note(self, kind: str, sid: int, text: str = "") -> None:
        self.trace.note(self.scheduler.now, kind, self.machines[sid].name, "", text)

    def logged(self, record: logging.LogRecord) -> None:
        """The production code says that something is wrong with itself."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, Violation):
            self.violate(str(error))
        elif error is not None:
            self.violate(f"{record.getMessage()}: {told(error)}")
            self.error = error

    # ---- the state of the groups

    def converged(self, sids: tuple[int, ...]) -> bool:
        """Every group has a leader among these, and those of them that are its members have applied the same, which is all of it."""
        for group in self.groups:
            leader = self.host(self.leader(group))
            if leader is None:
                return False
            log = leader.groups[group].peer.acceptor.log
            for sid in log.sids:
                if sid not in sids:
                    continue
                host = self.host(sid)
                if (
                    host is None
                    or host.groups[group].applied != leader.groups[group].applied
                    or log.last != log.decided
                ):
                    return False
        return True

    def compare(self, sids: tuple[int, ...]) -> None:
        """Members that applied the same hold the same state."""
        for group in self.groups:
            leader = self.service(self.leader(group), group)
            assert leader is not None
            for sid in sids:
                service = self.service(sid, group)
                if service is None or service.replica.applied != leader.replica.applied:
                    continue
                if service.machine.digest() != leader.machine.digest():
                    self.violate(f"state agreement: members {sid} and {self.leader(group)} differ in group {group}")


def _nothing() -> None:
    """There is nothing to do."""


def told(error: BaseException) -> str:
    """An exception as the failure of a run: what, and where in our code."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = "" if frame is None else f" ({frame.tb_frame.f_code.co_qualname})"
    return f"{type(error).__name__}: {error}{where}"
