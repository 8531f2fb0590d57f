"""One run of transactions over shards from one seed: a phase in which anything may happen, one without faults in which everything must be finished, and the
judgement: what was done is strictly serializable, members are equal, and nothing is left prepared.
"""

from typing import TYPE_CHECKING, Any

from quorate.simulation.paxos.run import Run as PaxosRun
from quorate.simulation.run import Runs
from quorate.simulation.scheduler import SECOND
from quorate.simulation.shards import options as swarm
from quorate.simulation.shards.processes import Process
from quorate.transactions.flow import Done, Failed
from quorate.verification import list_append
from quorate.verification.history import History

if TYPE_CHECKING:
    from quorate.simulation.paxos.world import World

_SWEEPS = 20
_REBORN = 300_000_000
"""After a process died another one starts."""


class Processes:
    """Takes the place of ``paxos.clients.Clients``."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._active = False
        self.history = History(lambda: world.scheduler.now, model="list-append")
        self.all: list[Process] = []

    def _new(self) -> Process:
        process = Process(self._world, self.history, len(self.all) + 1)
        self.all.append(process)
        return process

    def start(self) -> None:
        self._active = True
        for _ in range(self._world.options["processes"]):
            process = self._new()
            process.start()
            process.start_sweeping()
        self._world.scheduler.after(_REBORN, self._look)

    def _look(self) -> None:
        """Those that died are followed by others, as long as there is something to be done."""
        living = [process for process in self.all if process.shell.alive]
        enough = len(self.history.operations) > self._world.options["requests"] * self._world.options["processes"]
        if self._active and enough:
            self.quiet()
        elif self._active and len(living) < self._world.options["processes"]:
            process = self._new()
            process.start()
            process.start_sweeping()
        self._world.scheduler.after(_REBORN, self._look)

    def quiet(self) -> None:
        self._active = False
        for process in self.all:
            process.active = False

    def resume(self) -> None:
        """Without more faults of their own: a new one works until it is told to be quiet, and the others end what they are at."""
        self._active = False
        for process in self.all:
            process.armed = None
        self._world.options = {**self._world.options, "die_rate": 0.0, "sleep_rate": 0.0, "late_rate": 0.0}
        process = self._new()
        process.start()

    @property
    def idle(self) -> bool:
        return not any(process.working and process.shell.alive for process in self.all)

    @property
    def writes(self) -> int:
        return sum(process.acknowledged for process in self.all)


class Run(PaxosRun):
    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(seed, {**options, "clients": 1}, keep_trace)
        self.processes = self.clients = Processes(self.world)  # type: ignore[assignment]  # it does what a run asks of its clients
        self._clean = False
        self._looked = False

    def _recover(self) -> None:
        super()._recover()
        world = self.world
        if world.failure:
            return
        everyone = tuple(sorted(world.started))
        last = self.processes._new()
        for _ in range(_SWEEPS):
            last.shell.start(last.sweep(), self._swept)
            self.go_on(world.scheduler.now + 2 * SECOND)
            if self._clean or world.failure:
                break
        if not self._clean:
            told = vars(last.reports[-1]) if last.reports else "no sweep"
            world.violate(f"liveness: recovery does not finish: {', '.join(self._left())}; {told}")
        last.shell.start(last.look(), self._seen)
        self._until(lambda: self._looked, "the end is not seen", everyone)
        self._until(lambda: world.converged(everyone), "the members do not converge", everyone)
        if not world.failure:
            world.compare(everyone)

    def _left(self) -> list[str]:
        """What is prepared."""
        world = self.world
        services = [world.service(world.leader(group), group) for group in world.groups]
        return [repr(id_) for service in services if service is not None for id_ in service.machine.locks.intents]

    def _swept(self, result: Done[Any] | Failed) -> None:
        """One that failed is followed by another."""
        if isinstance(result, Done):
            report = result.value
            self._clean = not (report.in_doubt or report.unreachable or report.unknown or self._left())

    def _seen(self, result: Done[Any] | Failed) -> None:
        if isinstance(result, Failed):
            self.world.violate(f"liveness: the end cannot be read: {result.error}")
        self._looked = True

    def _judge(self) -> None:
        for finding in list_append.check(self.clients.history):
            self.world.violate(f"history: {finding}")


SIMULATION = Runs(Run, swarm, "quorate.simulation.shards.mutations")
