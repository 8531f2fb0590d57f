"""A virtual machine: one clock, one process at a time, and the environment that its process lives in.

Every event (bytes, a timer, a completion of the disk) enters the process through :meth:`Machine.enter`. A pause holds events
back and lets them in as one burst; a crash ends the process between two events or in the middle of one: then the
effect that it was about to have (a write to a connection, say) raises :class:`Crashed` through the code that asked for it.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

from quorate.runtime.environment import Handler, Listener
from quorate.simulation.scheduler import MICROSECOND, MILLISECOND, Call, Clock, Scheduler, Stream

if TYPE_CHECKING:
    from quorate.simulation.network import Network

WALL_ORIGIN_MS = 1_700_000_000_000
"""The wall clock's time when a run begins."""


class Crashed(BaseException):
    """The process ends here and now. No ``Exception``: nothing that a process does may stop it from dying."""


class Watcher(Protocol):
    """Whoever looks after the machines of a run."""

    def crashed(self, machine: "Machine") -> None:
        """The process died in the middle of an event; the machine is still to be cleaned up."""

    def failed(self, machine: "Machine", error: Exception) -> None:
        """The process's code let an exception out: a bug."""

    def stepped(self, machine: "Machine") -> None:
        """The process has handled an event."""


class Machine:
    """``batching`` is the chance that what a process asked to be called soon comes only after other events."""

    __slots__ = (
        "_backlog",
        "_ready",
        "_ready_due",
        "_timers",
        "address",
        "batching",
        "clock",
        "effects_left",
        "environment",
        "name",
        "network",
        "paused_until",
        "powered",
        "scheduler",
        "stream",
        "wall_offset_ms",
        "watcher",
    )

    def __init__(
        self, name: str, address: str, scheduler: Scheduler, network: "Network", stream: Stream, watcher: Watcher
    ) -> None:
        self.name = name
        self.address = address
        self.scheduler = scheduler
        self.network = network
        self.stream = stream
        self.watcher = watcher
        self.clock = Clock(stream.between(0, 1 << 40))
        self.wall_offset_ms = 0
        self.batching = 0.0
        self.powered = True
        self.environment: SimulatedEnvironment | None = None
        """The running process's; None if none runs."""
        self.paused_until = 0
        self.effects_left = -1
        """Effects that the process still has before it dies; -1: it lives on."""
        self._backlog: deque[tuple[SimulatedEnvironment, Call, tuple[object, ...]]] = deque()
        self._ready: deque[Callable[[], None]] = deque()
        self._ready_due = False
        self._timers: dict[_Timer, None] = {}
        network.attach(self)

    # ---- life

    @property
    def alive(self) -> bool:
        return self.environment is not None

    def start(self, random: Random) -> "SimulatedEnvironment":
        """A new process: its environment. The caller makes the process itself, by :meth:`enter`."""
        assert self.environment is None, f"{self.name} runs already"
        self.powered = True
        self.paused_until = 0
        self.effects_left = -1
        self.environment = environment = SimulatedEnvironment(self, random)
        return environment

    def end(self, power: bool) -> None:
        """The process is gone; without ``power`` the machine as well, and nobody is told."""
        environment = self.environment
        if environment is not None:
            environment.alive = False
            self.environment = None
        self.powered = power
        self._backlog.clear()
        self._ready.clear()
        self._timers.clear()
        self.network.ended(self, power)

    def pause(self, until: int) -> None:
        if until > self.paused_until:
            self.paused_until = until
            self.scheduler.at(until, self._resume)

    def resume(self) -> None:
        """End a pause before its time."""
        self.paused_until = self.scheduler.now
        self._resume()

    def _resume(self) -> None:
        if self.scheduler.now < self.paused_until:
            return
        backlog, self._backlog = self._backlog, deque()
        while backlog:
            environment, call, args = backlog.popleft()
            self.enter(environment, call, *args)
        if self._ready and not self._ready_due:
            self._ready_due = True
            self.scheduler.after(0, self._run_ready)

    # ---- events

    def enter(self, environment: "SimulatedEnvironment", call: Call, *args: object) -> None:
        """Let an event into the process, now or when its pause ends; never if that process is gone."""
        if not environment.alive:
            return
        if self.scheduler.now < self.paused_until:
            self._backlog.append((environment, call, args))
            return
        try:
            call(*args)
            if self._ready and not self._ready_due:
                if self.batching and self.stream.chance(self.batching):
                    self._ready_due = True
                    self.scheduler.after(self.stream.around(MILLISECOND // 4), self._run_ready)
                else:
                    self._call_ready()
        except Crashed:
            self.watcher.crashed(self)
            return
        except Exception as error:
            self.watcher.failed(self, error)
            return
        self.watcher.stepped(self)

    def _run_ready(self) -> None:
        self._ready_due = False
        environment = self.environment
        if environment is None or not self._ready or self.scheduler.now < self.paused_until:
            return
        try:
            self._call_ready()
        except Crashed:
            self.watcher.crashed(self)
            return
        except Exception as error:
            self.watcher.failed(self, error)
            return
        self.watcher.stepped(self)

    def _call_ready(self) -> None:
        """One turn of the loop; what these calls ask for comes in the next."""
        ready, self._ready = self._ready, deque()
        for callback in ready:
            callback()
        if self._ready and not self._ready_due:
            self._ready_due = True
            self.scheduler.after(MICROSECOND, self._run_ready)

    def enter_first(self, environment: "SimulatedEnvironment", call: Call, *args: object) -> None:
        """As ``enter``, but ahead of what waits for the end of a pause: a loop that wakes up may look at its connections before its timers."""
        if environment.alive and self.scheduler.now < self.paused_until:
            self._backlog.appendleft((environment, call, args))
        else:
            self.enter(environment, call, *args)

    def effect(self) -> None:
        """The process is about to have an effect on the world. Raises Crashed if it does not live to."""
        if self.effects_left >= 0:
            if self.effects_left == 0:
                raise Crashed
            self.effects_left -= 1

    # ---- time

    def change_clock(self, jump: int, drift_ppm: int) -> None:
        self.clock.change(self.scheduler.now, jump, drift_ppm)
        for timer in list(self._timers):
            self.scheduler.at(self.clock.when(timer.when), timer.fire)


class _Timer:
    __slots__ = ("_callback", "_environment", "when")

    def __init__(self, environment: "SimulatedEnvironment", when: int, callback: Callable[[], None]) -> None:
        self._environment = environment
        self._callback: Callable[[], None] | None = callback
        self.when = when

    def cancel(self) -> None:
        self._callback = None
        self._environment.machine._timers.pop(self, None)

    def fire(self) -> None:
        callback = self._callback
        environment = self._environment
        if callback is None or not environment.alive:
            return
        machine = environment.machine
        now = machine.scheduler.now
        if machine.clock.local(now) < self.when:
            machine.scheduler.at(machine.clock.when(self.when), self.fire)
            return
        self._callback = None
        machine._timers.pop(self, None)
        machine.enter(environment, callback)


class SimulatedEnvironment:
    """quorate.runtime.environment.Environment for one process of a machine."""

    __slots__ = ("_clock", "_scheduler", "alive", "machine", "random")

    def __init__(self, machine: Machine, random: Random) -> None:
        self.machine = machine
        self.random = random
        self.alive = True
        self._clock = machine.clock
        self._scheduler = machine.scheduler

    def now(self) -> int:
        return self._clock.local(self._scheduler.now)

    def wall_ms(self) -> int:
        return WALL_ORIGIN_MS + self.machine.wall_offset_ms + self._scheduler.now // MILLISECOND

    def call_soon(self, callback: Callable[[], None]) -> None:
        if self.alive:
            self.machine._ready.append(callback)

    def call_at(self, when: int, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(self, when, callback)
        self.machine._timers[timer] = None
        self._scheduler.at(self._clock.when(when), timer.fire)
        return timer

    def listen(self, host: str, port: int, accept: Callable[[], Handler], backlog: int = 0) -> Listener:
        return self.machine.network.listen(self, port, accept)

    def connect(self, host: str, port: int, handler: Handler, timeout_ms: int) -> None:
        self.machine.effect()
        self.machine.network.connect(self, host, port, handler, timeout_ms)
