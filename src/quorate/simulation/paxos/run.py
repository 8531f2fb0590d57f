"""One run of Paxos groups and their store from one seed: a phase in which anything may happen, one without faults in which they must recover,
and the judgement of everything that clients saw.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from quorate.simulation import run
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

EVENTS_MAX = 60_000
"""Of the first phase; a run that needs more is cut short, not failed."""
_LOOKS = 20


class Run(run.Run[World]):
    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        super().__init__(World(seed, options, keep_trace), options)
        self.logged = self.world.logged
        self.clients = Clients(self.world)
        self.nemesis = Nemesis(self.world)
        self._core = Stream(seed, "core")

    def execute(self) -> Result:
        world = self.world
        self._faults()
        if not world.failure:
            self._recover()
        if not world.failure:
            self._judge()
        lanes = [world.machines[sid].name for sid in sorted(world.started)]
        return self.result(self.nemesis.schedule, len(self.clients.history.operations), lanes)

    def _faults(self) -> None:
        world, options = self.world, self.options
        for sid in world.first:
            world.start(sid)
        self.clients.start()
        self.nemesis.start()
        self.go_on(options["duration"], EVENTS_MAX)

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
        self.recovery = max(self.recovery, world.scheduler.now - healed)
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
        timeout = self.options["election_timeout"]
        self.wait(
            condition,
            60 * timeout + 5 * SECOND,
            timeout // _LOOKS,
            lambda: f"{failure}: {'; '.join(self._state(sid) for sid in up)}",
        )

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


SIMULATION = run.Runs(Run, swarm, "quorate.simulation.paxos.mutations")
