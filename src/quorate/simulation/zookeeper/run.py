"""One run of a ZooKeeper ensemble from one seed: a phase in which anything may happen, then one without faults in which the
ensemble must recover, then the judgement of everything that clients saw.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from quorate.simulation import trace as kinds
from quorate.simulation.result import Result
from quorate.simulation.scheduler import SECOND, Stream
from quorate.simulation.zookeeper import options as swarm
from quorate.simulation.zookeeper.clients import Clients
from quorate.simulation.zookeeper.faults import Nemesis
from quorate.simulation.zookeeper.requests import unpack_stat
from quorate.simulation.zookeeper.world import World
from quorate.verification import zookeeper as guarantees
from quorate.zookeeper.txns import unpack_txn

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.mutations import Mutation

_LOOKS_A_TICK = 50

EVENTS_MAX = 40_000
"""Of the first phase; a run that needs more is cut short, not failed."""


def patience(options: Mapping[str, Any], everybody: bool) -> int:
    """How long recovery may take: syncLimit if an election left two that would lead and a few attempts, and then what a client
    needs to find a member that serves. No initLimit if everybody is up, for then a member that waits for it waits for
    nothing; but a member that is gone without a word is waited for, and may be elected once more by those who heard it vote."""
    ticks = options["sync_limit"] + 1 + 2 * options["session_ticks"]
    if not everybody:
        ticks += 2 * options["init_limit"]
    return int(ticks * options["tick"] + 3 * SECOND)


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
        if not world.failure and self.options["expiry"]:
            self._expire()
        if not world.failure:
            self._judge()
        return self._result()

    def _result(self) -> Result:
        world = self.world
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
        result.lanes = [machine.name for machine in (*world.machines.values(), *world.client_machines)]
        return result

    # ---- the phases

    def _faults(self) -> None:
        world, options = self.world, self.options
        for sid in world.members:
            world.start(sid)
        self.clients.start()
        self.nemesis.start()
        scheduler = world.scheduler
        # the phase ends at this very instant, whatever happens about then
        scheduler.at(options["duration"], _nothing)
        step = scheduler.step
        while scheduler.now < options["duration"] and scheduler.events < EVENTS_MAX and not world.failure:
            step()

    def _recover(self) -> None:
        world, options = self.world, self.options
        if options["core_only"] and len(world.voters) > 1:
            core = tuple(sorted(self._core.shuffled(world.voters)[: len(world.voters) // 2 + 1]))
            world.trace.note(world.scheduler.now, kinds.PHASE, "", text=f"only {core} stay up")
            self.nemesis.stop(core)
            self._recovered(core)
        if not world.failure:
            world.trace.note(world.scheduler.now, kinds.PHASE, "", text="faults end, all members are up")
            self.nemesis.stop(world.members)
            self._recovered(world.members)

    def _recovered(self, members: tuple[int, ...]) -> None:
        """A client's write succeeds again; then the members are equal."""
        world = self.world
        healed = world.scheduler.now
        self.clients.quiet()
        write = self.clients.write()
        self._until(write, "no write succeeds", members)
        self._recovery = max(self._recovery, world.scheduler.now - healed)
        self._until(lambda: self.clients.idle() and world.converged(members), "the members do not converge", members)
        if not world.failure:
            world.compare_trees(members)

    def _expire(self) -> None:
        """Sessions that no client holds any more expire; the others survive lost connections and the loss of the leader."""
        world = self.world
        world.trace.note(world.scheduler.now, kinds.PHASE, "", text="sessions without a client expire")
        clients, before = self.clients, self.clients.heard()
        # a connection to a process that is gone shows only when the client says something
        self._until(
            lambda: all(now > then for now, then in zip(clients.heard(), before, strict=True)) and clients.idle(),
            "some client hears nothing",
            world.members,
        )
        held, expiries, before = clients.sessions(), clients.expiries, clients.heard()
        for end in [end for end in world.network.ends if end.open and end.machine in world.client_machines]:
            world.network.reset(end)
        self._until(
            lambda: all(now > then for now, then in zip(clients.heard(), before, strict=True)) and clients.idle(),
            "clients do not come back",
            world.members,
        )
        leader = world.leader()
        if leader and len(world.members) > 2:
            world.kill(leader, power=True)
            world.scheduler.after(self.options["tick"], world.start, leader)
        self._until(
            lambda: self._sessions() == held and clients.idle() and world.converged(world.members),
            "sessions without a client do not expire",
            world.members,
        )
        if not world.failure and (clients.expiries != expiries or clients.sessions() != held):
            world.violate("sessions: a client lost its session, though it could have come back in time")

    def _sessions(self) -> set[int]:
        """As the leader knows them."""
        leader = self.world.member(self.world.leader())
        return set() if leader is None else set(leader.server.tree.sessions)

    def _until(self, condition: Callable[[], bool], failure: str, members: tuple[int, ...]) -> None:
        world = self.world
        scheduler = world.scheduler
        limit = scheduler.now + patience(self.options, members == world.members)
        pause = self.options["tick"] // _LOOKS_A_TICK
        while not condition() and not world.failure:
            if scheduler.now > limit:
                states = [
                    f"{sid}: {member.role!r} {member.core.reason}"
                    if (member := world.member(sid)) is not None
                    else f"{sid}: down"
                    for sid in members
                ]
                world.violate(f"liveness: {failure}: {'; '.join(states)}; clients: {self.clients.state()}")
                return
            # at fixed instants, so that a run with the same faults given is the same run
            look = scheduler.now + pause
            scheduler.at(look, _nothing)
            while scheduler.now < look:
                scheduler.step()

    # ---- the judgement

    def _judge(self) -> None:
        world = self.world
        log = [(zxid, unpack_txn(payload)) for zxid, payload in world.judge.log()]
        history = self.clients.history
        replay = guarantees.Replay(history, log)
        violations = [*guarantees.check(history, replay), *guarantees.differences(replay.tree, self._shown())]
        if violations:
            more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
            world.violate(f"{violations[0]}{more}")

    def _shown(self) -> dict[str, tuple[bytes, dict[str, int]]]:
        """A member's tree, as a client would see it."""
        member = self.world.member(self.world.members[0])
        assert member is not None
        nodes = member.server.tree.nodes
        return {path: (node.data or b"", unpack_stat(node.stat())) for path, node in nodes.items()}


def _nothing() -> None:
    """An instant to stop at."""


class _Logged(logging.Handler):
    """Errors that the production code logs in a run are the run's."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.logged(record)


class ZooKeeperSimulation:
    """quorate.simulation.result.Simulation."""

    faults = swarm.FAULTS

    @property
    def mutations(self) -> Mapping[str, "Mutation"]:
        """The deliberate bugs that the simulation must notice, by name."""
        from quorate.simulation.zookeeper.mutations import MUTATIONS  # only when asked for

        return MUTATIONS

    def options(self, seed: int) -> dict[str, object]:
        return swarm.draw(seed)

    def smaller(self, options: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
        return swarm.smaller(options)

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        return carry_out(Run(seed, swarm.complete(seed, options), trace))


def carry_out(run: Run) -> Result:
    """Execute it, with what the production code logs as an error counted as its failure."""
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


SIMULATION = ZooKeeperSimulation()
