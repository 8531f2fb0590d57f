"""One run of a ZooKeeper ensemble from one seed: a phase in which anything may happen, then one without faults in which the
ensemble must recover, then the judgement of everything that clients saw.
"""

from collections.abc import Callable, Mapping
from typing import Any

from quorate.simulation import run
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
        if not world.failure and self.options["expiry"]:
            self._expire()
        if not world.failure:
            self._judge()
        machines = [*world.machines.values(), *world.client_machines]
        lanes = [machine.name for machine in machines]
        return self.result(self.nemesis.schedule, len(self.clients.history.operations), lanes)

    # ---- the phases

    def _faults(self) -> None:
        world, options = self.world, self.options
        for sid in world.members:
            world.start(sid)
        self.clients.start()
        self.nemesis.start()
        self.go_on(options["duration"], EVENTS_MAX)

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
        self.recovery = max(self.recovery, world.scheduler.now - healed)
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
        def late() -> str:
            states = [
                f"{sid}: {member.role!r} {member.core.reason}"
                if (member := self.world.member(sid)) is not None
                else f"{sid}: down"
                for sid in members
            ]
            return f"{failure}: {'; '.join(states)}; clients: {self.clients.state()}"

        everybody = members == self.world.members
        self.wait(condition, patience(self.options, everybody), self.options["tick"] // _LOOKS_A_TICK, late)

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


SIMULATION = run.Runs(Run, swarm, "quorate.simulation.zookeeper.mutations")
