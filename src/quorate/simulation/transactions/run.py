"""One run of two-phase commit from one seed: a phase in which anything may happen, one without faults in which recovery must finish everything, and the
judgement: every transaction is done everywhere or nowhere, as its program was told, and nothing is left.
"""

from typing import Any

from quorate.simulation import run
from quorate.simulation import trace as kinds
from quorate.simulation.result import Result
from quorate.simulation.scheduler import MILLISECOND, SECOND, Stream
from quorate.simulation.transactions import options as swarm
from quorate.simulation.transactions.processes import Process
from quorate.simulation.transactions.world import World
from quorate.transactions.flow import Done, Failed

EVENTS_MAX = 150_000
_PATIENCE = 300 * SECOND
_SCHEDULED = ("die", "sleep", "crash", "store_away", "by_hand")


class Run(run.Run[World]):
    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(World(seed, options, keep_trace), options)
        self.processes: list[Process] = []
        self.schedule: list[list[Any]] = options["schedule"] or []
        self._clean = False
        self._healed = False

    def execute(self) -> Result:
        world = self.world
        for _ in range(self.options["processes"]):
            self._start_process()
        self._nemesis()
        self.go_on(self.options["duration"], EVENTS_MAX)
        if not world.failure:
            self._recover()
        if not world.failure:
            world.judge()
        world.commits = sum(world.outcomes.values())
        lanes = [*[process.name for process in self.processes], *[server.name for server in world.servers]]
        return self.result(self.schedule, len(world.wrote), lanes)

    def _start_process(self) -> None:
        process = Process(self.world, len(self.processes))
        self.processes.append(process)
        self.world.trace.note(self.world.scheduler.now, kinds.START, process.name)
        process.start(self.options["strands"], self.options["transactions"], self.options["duration"])

    # ---- faults

    def _nemesis(self) -> None:
        if self.options["schedule"] is None:
            self.schedule = self._draw()
        for when, *strike in self.schedule:
            self.world.scheduler.at(when, self._strike, strike)

    def _draw(self) -> list[list[Any]]:
        stream = Stream(self.world.seed, "nemesis")
        kinds_ = [fault for fault in _SCHEDULED if fault in self.options["enabled"]]
        found: list[list[Any]] = []
        for _ in range(self.options["faults"] if kinds_ else 0):
            when = stream.between(1, self.options["duration"])
            fault = stream.choice(kinds_)
            if fault in ("die", "sleep"):
                found.append(
                    [
                        when,
                        fault,
                        stream.between(0, 1000),
                        stream.between(1, 60),
                        stream.spread(50 * MILLISECOND, 10 * SECOND),
                    ]
                )
            elif fault == "by_hand":
                found.append([when, fault, stream.between(0, 1000), stream.between(0, 1)])
            elif fault == "crash":
                found.append([when, fault, stream.between(0, 1000), stream.spread(MILLISECOND, 5 * SECOND)])
            else:
                found.append([when, fault, stream.spread(10 * MILLISECOND, 5 * SECOND)])
        return sorted(found)

    def _strike(self, strike: list[Any]) -> None:
        # a run that is cut short heals before its time
        if self._healed:
            return
        fault, *rest = strike
        world = self.world
        world.probes[f"fault: {fault}"] += 1
        if fault in ("die", "sleep"):
            number, points, duration = rest
            process = self.processes[number % len(self.processes)]
            if process.shell.alive:
                process.armed = [points, fault, duration]
            elif len(self.processes) < 20:
                self._start_process()
        elif fault == "by_hand":
            number, committed = rest
            world.end_by_hand(world.servers[number % len(world.servers)], number, bool(committed))
        elif fault == "crash":
            number, duration = rest
            server = world.servers[number % len(world.servers)]
            if server.up:
                world.trace.note(world.scheduler.now, kinds.CRASH, server.name)
                server.crash()
                world.scheduler.after(duration, server.restart)
        else:
            (duration,) = rest
            world.store.away = True
            world.scheduler.after(duration, self._store_back)

    def _store_back(self) -> None:
        self.world.store.away = False

    # ---- the end

    def _recover(self) -> None:
        """Faults end; whoever sleeps wakes up and ends what it was at; then somebody new sweeps until there is nothing left."""
        world = self.world
        healed = world.scheduler.now
        self._healed = True
        world.trace.note(healed, kinds.PHASE, "", text="faults end")
        world.store.away = False
        world.store.losses = 0.0
        for server in world.servers:
            server.resets = server.slow = 0.0
            server.up = True
        for process in self.processes:
            process.armed = None
        fresh = Process(world, len(self.processes))
        self.processes.append(fresh)
        limit = healed + _PATIENCE
        while not self._clean and not world.failure:
            if world.scheduler.now > limit:
                left = [f"{server.name}: {', '.join(server.left())}" for server in world.servers if server.left()]
                left += world.undone()
                left += [f"{process.name} works" for process in self.processes if self._works(process)]
                last = fresh.reports[-1].__dict__ if fresh.reports else "no sweep"
                world.violate(f"liveness: recovery does not finish: {'; '.join(left)}; {last}")
                return
            fresh.shell.start(fresh.sweep(), self._swept)
            self.go_on(world.scheduler.now + 2 * SECOND, EVENTS_MAX)
        self.recovery = world.scheduler.now - healed

    def _works(self, process: Process) -> bool:
        return process.shell.alive and process.idle <= self.options["strands"]

    def _swept(self, result: Done[Any] | Failed) -> None:
        if isinstance(result, Failed):
            return
        report = result.value
        world = self.world
        working = any(
            process.shell.alive and process.idle <= self.options["strands"] for process in self.processes[:-1]
        )
        clean = not (report.in_doubt or report.unreachable or report.unknown)
        # what is written late is swept, too
        self._clean = clean and not world.undone() and not working and not world.store.under_way


SIMULATION = run.Runs(Run, swarm, "quorate.simulation.transactions.mutations")
