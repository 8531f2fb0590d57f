"""What every simulated run has in common, and how the runs of one protocol are offered to those who run many of them."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

from quorate.simulation.mutation import Mutation
from quorate.simulation.result import Result
from quorate.simulation.world import World

AnyWorld = TypeVar("AnyWorld", bound=World)


class Run(Generic[AnyWorld]):
    """One run of a world: ``execute`` goes through its phases, and tells how it ended."""

    logged: Callable[[logging.LogRecord], None] | None = None
    """Told of what the production code logs as an error meanwhile, if that should not happen."""

    def __init__(self, world: AnyWorld, options: dict[str, Any]) -> None:
        self.world = world
        self.options = options
        self.recovery = 0
        """Nanoseconds, from the end of the faults until the system worked again."""

    def execute(self) -> Result:
        raise NotImplementedError

    def carry_out(self) -> Result:
        """``execute``, with what is logged as an error told to ``logged``."""
        with _heard(self.logged):
            return self.execute()

    def result(self, schedule: object, operations: int, lanes: Sequence[str]) -> Result:
        """How it ended; ``schedule``: the faults that struck, ``operations``: how many clients asked for, ``lanes``: who is drawn."""
        world = self.world
        result = Result(world.seed, {**self.options, "schedule": schedule})
        result.failure = world.failure
        result.events = world.scheduler.events
        result.virtual = world.scheduler.now
        result.recovery = self.recovery
        result.commits = world.commits
        result.operations = operations
        result.digest = world.trace.digest
        result.probes = world.probes
        result.trace = world.trace.events
        result.lanes = lanes
        return result

    def go_on(self, end: int, events: int = 1 << 62) -> None:
        """Until that very instant, or a failure; after so many more ``events`` it is cut short."""
        world, scheduler = self.world, self.world.scheduler
        scheduler.at(end, _nothing)
        most = scheduler.events + events
        step = scheduler.step
        while scheduler.now < end and scheduler.events < most and not world.failure:
            step()

    def wait(self, condition: Callable[[], bool], patience: int, pause: int, late: Callable[[], str]) -> None:
        """Until ``condition`` holds, which is looked at every ``pause``: at fixed instants, so that a run with the same faults given is the same run. It is a
        violation, told by ``late``, if that takes longer than ``patience``."""
        world, scheduler = self.world, self.world.scheduler
        limit = scheduler.now + patience
        while not condition() and not world.failure:
            if scheduler.now > limit:
                world.violate(f"liveness: {late()}")
                return
            look = scheduler.now + pause
            scheduler.at(look, _nothing)
            while scheduler.now < look:
                scheduler.step()


def _nothing() -> None:
    """An instant to stop at."""


class Options(Protocol):
    """What a run is like: the module that draws it from its seed (``swarm`` has what they have in common)."""

    @property
    def FAULTS(self) -> Sequence[str]: ...  # noqa: N802  # a constant of the module

    def draw(self, seed: int) -> dict[str, Any]: ...

    def complete(self, seed: int, changes: Mapping[str, object] | None) -> dict[str, Any]:
        """The seed's options with ``changes``. Raises UsageError for a name or a kind of value that there is not."""

    def smaller(self, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Ways to make a run do less, the most drastic first."""


class Runs:
    """``result.Simulation``. ``mutations``: the module that has MUTATIONS, imported only when asked for."""

    def __init__(self, run: Callable[[int, dict[str, Any], bool], Run[Any]], swarm: Options, mutations: str) -> None:
        self._run = run
        self._complete = swarm.complete
        self._mutations = mutations
        self.faults = swarm.FAULTS
        self.options = swarm.draw
        self.smaller = swarm.smaller

    @property
    def mutations(self) -> Mapping[str, Mutation]:
        """The deliberate bugs that the simulation must notice, by name."""
        found: Mapping[str, Mutation] = import_module(self._mutations).MUTATIONS
        return found

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        return self._run(seed, self._complete(seed, options), trace).carry_out()


@contextmanager
def _heard(logged: Callable[[logging.LogRecord], None] | None) -> Iterator[None]:
    if logged is None:
        yield
        return
    logger = logging.getLogger("quorate")
    level, propagate = logger.level, logger.propagate
    handler = _Handler(logged)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Handler(logging.Handler):
    def __init__(self, logged: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.ERROR)
        self._logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        self._logged(record)
