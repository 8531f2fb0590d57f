"""One run of Paxos groups and their store from one seed: a phase in which anything may happen, one without faults in which they must recover,
and the judgement of everything that clients saw.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from quorate.simulation import trace as kinds
from quorate.simulation.paxos import judging
from quorate.simulation.paxos import options as swarm
from quorate.simulation.paxos.clients import Clients
from quorate.simulation.paxos.faults import Nemesis
from quorate.simulation.paxos.growth import Growth
from quorate.simulation.paxos.world import World
from quorate.simulation.result import Result
from quorate.simulation.scheduler import SECOND, Stream
from quorate.verification import checkers
from quorate.verification.history import History

if TYPE_CHECKING:
    from quorate.simulation.paxos.mutations import Mutation

EVENTS_MAX = 60_000
"""Of the first phase; a run that needs more is cut short, not failed."""
_LOOKS = 20


class Run:
    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        self.options = options
        self.world = World(seed, options, keep_trace)
        self.clients = Clients(self.world)
        self.nemesis = Nemesis(self.world)
        self._core = Stream(seed, "core")
        self._recovery = 0

    def execute(self) -> Result:
        world = self.world
        self._faults()
        if not world.failure:
            self._recover()
        if not world.failure:
            self._judge()
        result = Result(world.seed, {**self.options, "schedule": self.nemesis.schedule})
        result.failure = world.failure
        result.events = world.scheduler.events
        result.virtual = world.scheduler.now
        result.recovery = self._recovery
        result.commits = world.commits
        result.operations = len(self.clients.history.operations)
        result.digest = world.trace.digest
        result.probes = world.probes
        result.trace = world.trace.events
        result.lanes = [world.machines[sid].name for sid in sorted(world.started)]
        return result

    def _faults(self) -> None:
        world, options = self.world, self.options
        for sid in world.first:
            world.start(sid)
        self.clients.start()
        self.nemesis.start()
        scheduler = world.scheduler
        scheduler.at(options["duration"], _nothing)
        step = scheduler.step
        while scheduler.now < options["duration"] and scheduler.events < EVENTS_MAX and not world.failure:
            step()

    def _recover(self) -> None:
        world = self.world
        if self.options["core_only"]:
            core = self._quorum()
            if core:
                world.trace.note(world.scheduler.now, kinds.PHASE, "", text=f"only {core} stay up")
                self.nemesis.stop(core)
                self._recovered(core)
        if not world.failure:
            everyone = tuple(sorted(world.started))
            world.trace.note(world.scheduler.now, kinds.PHASE, "", text="faults end, all members are up")
            self.nemesis.stop(everyone)
            self._recovered(everyone)
        if not world.failure:
            self._grow()

    def _quorum(self) -> tuple[int, ...]:
        """As few members as must be enough to go on in every group; () if members change just now, so that nobody can tell."""
        world = self.world
        if any(len(world.started) != len(world.first) for _ in world.groups) or world.probes.get("fault: members"):
            return ()
        size = len(world.first)
        accept = self.options["accept_quorum"] or size // 2 + 1
        needed = max(accept, size - accept + 1 if self.options["accept_quorum"] else accept)
        return tuple(sorted(self._core.shuffled(world.first)[:needed]))

    def _recovered(self, up: tuple[int, ...]) -> None:
        """Clients' writes succeed again; then the members are equal."""
        world, clients = self.world, self.clients
        healed = world.scheduler.now
        before = clients.writes
        clients.resume()
        self._until(lambda: clients.writes > before + 2, "no write succeeds", up)
        self._recovery = max(self._recovery, world.scheduler.now - healed)
        clients.quiet()
        self._until(lambda: clients.idle and world.converged(up), "the members do not converge", up)
        if not world.failure:
            world.compare(up)

    def _grow(self) -> None:
        """A member that there never was is added to every group, and holds what the others do."""
        world = self.world
        fresh = [sid for sid in world.sids if sid not in world.started]
        if not fresh or self.options["accept_quorum"]:
            return  # fixed quorums do not allow every size
        growth = Growth(world, fresh[0])
        growth.begin()
        up = tuple(sorted(world.started))
        world.trace.note(world.scheduler.now, kinds.PHASE, "", text=f"member {growth.sid} is to be added")
        self._until(growth.done, f"member {growth.sid} is not added", up)
        if not world.failure:
            self._until(lambda: world.converged(up), "the members do not converge", up)
        if not world.failure:
            world.compare(up)

    def _until(self, condition: Callable[[], bool], failure: str, up: tuple[int, ...]) -> None:
        world = self.world
        scheduler = world.scheduler
        timeout = self.options["election_timeout"]
        limit = scheduler.now + 60 * timeout + 5 * SECOND
        while not condition() and not world.failure:
            if scheduler.now > limit:
                world.violate(f"liveness: {failure}: {'; '.join(self._state(sid) for sid in up)}")
                return
            look = scheduler.now + timeout // _LOOKS
            scheduler.at(look, _nothing)
            while scheduler.now < look:
                scheduler.step()

    def _state(self, sid: int) -> str:
        host = self.world.host(sid)
        if host is None:
            return f"{sid}: down"
        groups = [
            f"{number} leader {group.leader} applied {group.applied} of {group.peer.acceptor.log.last}"
            for number, group in host.groups.items()
        ]
        return f"{sid}: {', '.join(groups)}"

    def _judge(self) -> None:
        for group, seen in self.clients.seen.items():
            for finding in judging.findings(self.world.chosen[group], seen):
                self.world.violate(f"history: group {group}: {finding}")
        operations = self.clients.history.operations
        unknown = Counter(op.key for op in operations if op.outcome == "unknown" and op.name != "get")
        decidable = History(model="kv")
        decidable.operations = [op for op in operations if unknown[op.key] <= judging.SEARCHED]
        report = checkers.judge(decidable)
        if report.outcome == "violation":
            self.world.violate(f"history: {report.summary}")
            self.world.trace.note(self.world.scheduler.now, kinds.FAILURE, "", text=report.details)


def _nothing() -> None:
    """An instant to stop at."""


class _Logged(logging.Handler):
    """Errors that the production code logs in a run are the run's."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.logged(record)


class PaxosSimulation:
    """quorate.simulation.result.Simulation."""

    faults = swarm.FAULTS

    @property
    def mutations(self) -> Mapping[str, "Mutation"]:
        """The deliberate bugs that the simulation must notice, by name."""
        from quorate.simulation.paxos.mutations import MUTATIONS  # only when asked for

        return MUTATIONS

    def options(self, seed: int) -> dict[str, object]:
        return swarm.draw(seed)

    def smaller(self, options: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
        return swarm.smaller(options)

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        run = Run(seed, swarm.complete(seed, options), trace)
        logger = logging.getLogger("quorate")
        level, propagate = logger.level, logger.propagate
        handler = _Logged(run.world)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        logger.addHandler(handler)
        try:
            return run.execute()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


SIMULATION = PaxosSimulation()
