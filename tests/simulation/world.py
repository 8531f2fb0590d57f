"""What the members of one run share: time, network, disks, the checker, the trace; and their lives."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from tests.simulation.checker import Checker
from tests.simulation.disk import Disk
from tests.simulation.network import Conditions, End, Network
from tests.simulation.options import Options
from tests.simulation.scheduler import MILLISECOND, Clock, Scheduler, Stream
from tests.simulation.service import Applied

from quorate.consensus.zab.messages import Acks, Commits, Message, Notification, Proposals, State
from quorate.consensus.zab.replica import Settings, WriteRequest

if TYPE_CHECKING:
    from tests.simulation.process import Process

    Spawn = Callable[["World", int, Settings, int, Clock, Stream], Process]


class World:
    def __init__(
        self, seed: int, options: Options, spawn: "Spawn", at_source: bool = True, keep_trace: bool = False
    ) -> None:
        """``spawn`` makes a process of a member."""
        self.seed = seed
        self._spawn = spawn
        self.options = options
        self.scheduler = Scheduler()
        self.members = (*options.voters, *options.observers)
        origin = Applied(None, 0, b"")
        self.disks = {
            sid: Disk(self.scheduler, Stream(seed, f"disk {sid}"), origin, options.latency) for sid in self.members
        }
        self.checker = Checker(options.voters, self.disks, origin, at_source)
        self.network = Network(self.scheduler, Stream(seed, "network"), Conditions(options.delay, options.split))
        self.processes: dict[int, Process] = {}
        self.probes: dict[str, int] = {}
        """How often something came about, by name."""
        self.commits = 0
        self.committed_at = 0
        self.faulty = True
        self.sniper: Sniper | None = None
        self.digest = 0
        self.lines: list[str] | None = [] if keep_trace else None
        self._lives = Stream(seed, "lives")
        self._payloads = 0
        for sid in self.members:
            self.network.hosts[sid] = _Host(self, sid)
            self.disks[sid].carried = self._carried(sid)

    # ---- lives

    def start(self, sid: int) -> None:
        process = self.processes.get(sid)
        if process is not None and process.alive:
            return
        options, stream = self.options, self._lives
        self.checker.recovered(sid)
        settings = Settings(
            sid, options.voters, options.observers, options.tick, options.init_limit, options.sync_limit
        )
        drift = stream.between(-options.drift_ppm, options.drift_ppm)
        clock = Clock(stream.between(0, 1 << 40), drift)
        lives = self.probes.get("start", 0)
        self.probe("start")
        self.trace("start", sid)
        process = self._spawn(self, sid, settings, options.window, clock, Stream(self.seed, f"process {lives}"))
        self.processes[sid] = process
        process.start()

    def crash(self, sid: int) -> None:
        process = self.processes.get(sid)
        if process is not None and process.alive:
            self.probe("crash")
            self.trace("crash", sid)
            process.crash()

    def alive(self, sid: int) -> bool:
        return sid in self.processes and self.processes[sid].alive

    def _carried(self, sid: int) -> "_Carried":
        return _Carried(self, sid)

    # ---- the workload's side

    def payload(self) -> bytes:
        self._payloads += 1
        return b"%d" % self._payloads

    def committed(self, node: Applied) -> None:
        self.commits += 1
        self.committed_at = self.scheduler.now

    def leader(self) -> "Process | None":
        """The member that leads a live quorum, if there is one: established, and a quorum follows it."""
        for process in self.processes.values():
            if process.alive and process.role.state == State.LEADING and process.role.serving and process.peer.leading:
                followers = sum(
                    other.alive
                    and other.role.serving
                    and other.role.epoch == process.role.epoch
                    and other.sid in self.options.voters
                    for other in self.processes.values()
                )
                if followers > len(self.options.voters) // 2:
                    return process
        return None

    def converged(self, sids: tuple[int, ...]) -> bool:
        """All of these serve in one epoch and hold the same, which is everything that was proposed to them."""
        leader = self.leader()
        if leader is None:
            return False
        last = leader.peer.replica.history.last
        for sid in sids:
            process = self.processes[sid]
            if not process.alive or not process.role.serving or process.role.epoch != leader.role.epoch:
                return False
            if process.service.node is not leader.service.node or process.peer.replica.history.last != last:
                return False
        return leader.service.node.zxid == last

    # ---- what happened

    def probe(self, name: str) -> None:
        self.probes[name] = self.probes.get(name, 0) + 1

    def sent(self, process: "Process", end: End, messages: list[Message]) -> None:
        if self.sniper is not None:
            self.sniper.sent(process.sid, end, messages)

    def trace(self, kind: str, sid: int, *values: int) -> None:
        self._line(f"{self.scheduler.now} {sid} {kind} {values}")

    def trace_message(self, sid: int, label: int, message: Message) -> None:
        if isinstance(message, Acks | Commits):
            text = f"{message.first:x}..{message.last:x}"
        elif isinstance(message, Proposals):
            text = f"{message.entries[0].zxid:x}..{message.entries[-1].zxid:x}"
        elif isinstance(message, Notification):
            vote = message.vote
            text = f"{message.state} round {message.round} vote {vote.leader} {vote.epoch} {vote.zxid:x}"
        else:
            text = "" if self.lines is None else repr(message)
            self.digest = crc32(type(message).__name__.encode(), self.digest)
            if self.lines is not None:
                self.lines.append(f"{self.scheduler.now / MILLISECOND:10.3f} {sid} <- {label} {text}")
            return
        self._line(f"{self.scheduler.now} {sid} <- {label} {type(message).__name__} {text}")

    def _line(self, line: str) -> None:
        self.digest = crc32(line.encode(), self.digest)
        if self.lines is not None:
            when, rest = line.split(" ", 1)
            self.lines.append(f"{int(when) / MILLISECOND:10.3f} {rest}")


class Sniper:
    """Told of everything a member sends on the quorum port or writes; see ``nemesis``."""

    def sent(self, sid: int, end: End, messages: list[Message]) -> None:
        raise NotImplementedError

    def carried(self, sid: int, write: WriteRequest) -> None:
        raise NotImplementedError


class _Carried:
    __slots__ = ("_sid", "_world")

    def __init__(self, world: World, sid: int) -> None:
        self._world = world
        self._sid = sid

    def __call__(self, write: WriteRequest) -> None:
        self._world.trace(type(write).__name__, self._sid, write.token)
        self._world.checker.carried(self._sid, self._world.processes[self._sid].initial_history, write)
        if self._world.sniper is not None:
            self._world.sniper.carried(self._sid, write)


class _Host:
    """network.Host: whoever runs as this member now."""

    __slots__ = ("_sid", "_world")

    def __init__(self, world: World, sid: int) -> None:
        self._world = world
        self._sid = sid

    def answering(self) -> "Process | None":
        process = self._world.processes.get(self._sid)
        return process if process is not None and process.alive else None

    def accepted(self, end: End, caller: int, port: int) -> None:
        self._world.processes[self._sid].accept(end, caller, port)
