"""The clients of a run: each on a machine of its own, with the workload that drives them and the history they leave."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from quorate.simulation import trace as kinds
from quorate.simulation.scheduler import MILLISECOND, Stream
from quorate.simulation.zookeeper.client import Client
from quorate.simulation.zookeeper.member import CLIENT_PORT, address_of
from quorate.simulation.zookeeper.workload import Workload
from quorate.verification.history import History, Operation
from quorate.verification.zookeeper.order import WRITES

if TYPE_CHECKING:
    from quorate.simulation.zookeeper.world import World


class Clients:
    def __init__(self, world: "World") -> None:
        options = world.options
        self._world = world
        self.history = History(clock=lambda: world.scheduler.now)
        servers = [(address_of(sid), CLIENT_PORT) for sid in world.members]
        timeout_ms = options["session_ticks"] * options["tick"] // MILLISECOND
        self._clients: list[Client] = []
        for number in range(1, options["clients"] + 1):
            machine = world.client_machine(number)
            env = machine.start(Random(f"{world.seed}/client {number}"))
            stream = Stream(world.seed, f"client {number}")
            anew = stream.chance(0.5)
            self._clients.append(
                Client(env, stream, f"c{number}", servers, timeout_ms, self.history, self._ended, anew)
            )
        self._of = {f"c{number}": client for number, client in enumerate(self._clients, 1)}
        pace = max(options["duration"] // max(options["requests"], 1), 1)
        self._workload = Workload(world.scheduler, Stream(world.seed, "workload"), self._clients, pace)

    def _ended(self, operation: Operation) -> None:
        """Whatever a client heard of as done is done for good."""
        world = self._world
        if operation.outcome == "ok":
            if operation.name in WRITES:
                world.judge.acknowledged(operation.result["zxid"])
            self._workload.seen(self._of[operation.process.partition(".")[0]], operation)
        if world.trace.events is not None:
            who = operation.process.partition(".")[0]
            world.trace.show(world.scheduler.now, kinds.CLIENT, who, "", repr(operation), 0)

    def start(self) -> None:
        for client in self._clients:
            client.start()
        self._workload.start()

    # ---- the end of a run

    def quiet(self) -> None:
        """Nothing new is asked for; what is under way ends."""
        self._workload.quiet()

    def write(self) -> Callable[[], bool]:
        """Ask for one write; whether it has succeeded by now."""
        return self._workload.one_write()

    def idle(self) -> bool:
        return all(client.outstanding == 0 and client.connected for client in self._clients)

    def heard(self) -> list[int]:
        """How often each client has heard from a server."""
        return [client.heard for client in self._clients]

    def sessions(self) -> set[int]:
        """Those that a client holds."""
        return {client.session for client in self._clients}

    @property
    def expiries(self) -> int:
        """How many sessions clients have been told to be gone."""
        return sum(operation.name == "expired" for operation in self.history.operations)

    def state(self) -> str:
        return ", ".join(
            f"{client.name} {'connected' if client.connected else 'away'} {client.outstanding} open"
            for client in self._clients
        )
