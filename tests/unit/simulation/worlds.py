"""Two virtual machines and what their connections were told, for tests of the simulation's parts."""

from random import Random

from quorate.runtime.environment import Connection
from quorate.simulation.machine import Machine, SimulatedEnvironment
from quorate.simulation.network import Conditions, End, Network
from quorate.simulation.scheduler import MILLISECOND, Scheduler, Stream
from quorate.simulation.trace import Trace

PORT = 7000


class Recorder:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.data = b""
        self.pieces = 0
        self.events: list[str] = []

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        self.events.append("connected")

    def received(self, data: bytes) -> None:
        assert self.events[-1] != "closed"
        self.data += data
        self.pieces += 1

    def writing_paused(self) -> None:
        self.events.append("paused")

    def writing_resumed(self) -> None:
        self.events.append("resumed")

    def closed(self, reason: str) -> None:
        assert not any(event.startswith("closed") for event in self.events)
        self.events.append(f"closed: {reason}")


class TwoMachines:
    """Implements machine.Watcher: what processes fail with is kept."""

    def __init__(self, seed: int = 1, delay: int = MILLISECOND, split: float = 0.0, loss: float = 0.0) -> None:
        self.scheduler = Scheduler()
        self.trace = Trace(keep=True)
        self.network = Network(self.scheduler, Stream(seed, "network"), Conditions(delay, split, loss), self.trace)
        self.failures: list[Exception] = []
        self.deaths = 0
        self.one = self._machine("one", "10.0.0.1")
        self.two = self._machine("two", "10.0.0.2")
        self.server = Recorder()
        self.client = Recorder()

    def _machine(self, name: str, address: str) -> Machine:
        return Machine(name, address, self.scheduler, self.network, Stream(1, name), self)

    def crashed(self, machine: Machine) -> None:
        self.deaths += 1
        machine.end(power=True)

    def failed(self, machine: Machine, error: Exception) -> None:
        self.failures.append(error)

    def stepped(self, machine: Machine) -> None:
        """Nothing is looked at."""

    def listen(self) -> SimulatedEnvironment:
        env = self.two.environment or self.two.start(Random(2))
        env.listen("", PORT, lambda: self.server)
        return env

    def connect(self, timeout_ms: int = 5000) -> SimulatedEnvironment:
        env = self.one.environment or self.one.start(Random(1))
        self.one.enter(env, env.connect, self.two.address, PORT, self.client, timeout_ms)
        return env

    def connected(self) -> None:
        """Make one connection and wait until both ends know."""
        self.listen()
        self.connect()
        self.run()
        assert self.client.events == self.server.events == ["connected"]

    def run(self, ms: float = 60_000) -> None:
        until = self.scheduler.now + int(ms * MILLISECOND)
        self.scheduler.at(until, lambda: None)
        while self.scheduler.now < until:
            assert self.scheduler.step()

    def write(self, data: bytes) -> None:
        connection = self.client.connection
        assert connection is not None
        env = self.one.environment
        assert env is not None
        self.one.enter(env, connection.write, data)

    def end(self, recorder: Recorder) -> End:
        assert isinstance(recorder.connection, End)
        return recorder.connection
