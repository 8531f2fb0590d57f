"""One run from one seed: a phase in which anything may happen, then one without faults in which the ensemble must recover.

python -m tests.simulation.run 1..2000        many seeds, one line a failure
python -m tests.simulation.run 1234 --trace   what happened in one
"""

import sys
import time
from collections.abc import Callable

from tests.simulation.checker import Violation
from tests.simulation.nemesis import Nemesis
from tests.simulation.options import Options
from tests.simulation.process import Process
from tests.simulation.scheduler import MILLISECOND, SECOND, Stream
from tests.simulation.world import World

EVENTS_MAX = 40_000
"""Of the first phase; a run that needs more is cut short, not failed."""


class Result:
    """How a run ended."""

    def __init__(self, world: World, failure: str, recovery: int) -> None:
        self.seed = world.seed
        self.options = world.options
        self.failure = failure
        """The violation; empty if there is none."""
        self.recovery = recovery
        """Virtual time from the end of the faults to the next commit."""
        self.events = world.scheduler.events
        self.virtual = world.scheduler.now
        self.digest = world.digest
        self.commits = world.commits
        self.probes = world.probes
        self.lines = world.lines


def patience(options: Options) -> int:
    """How long recovery may take: syncLimit if an election left two that would lead, and a few attempts; but no initLimit,
    because a member that waits for it though everybody can be reached waits for nothing."""
    return (options.sync_limit + 1) * options.tick + 3 * SECOND


class Run:
    def __init__(
        self, seed: int, options: Options | None = None, at_source: bool = True, keep_trace: bool = False
    ) -> None:
        self.options = options or Options(seed)
        self.world = World(seed, self.options, Process, at_source, keep_trace)
        self.nemesis = Nemesis(self.world)
        self._work = Stream(seed, "workload")
        self._working = True
        self._interval_max = self.options.duration
        self._recovery = 0

    def execute(self) -> Result:
        failure = ""
        try:
            self._faults()
            self._recover()
        except Violation as violation:
            failure = str(violation)
        world = self.world
        if world.lines is not None and failure:
            world.lines.append(f"{world.scheduler.now / MILLISECOND:10.3f} {failure}")
        return Result(world, failure, self._recovery)

    # ---- the phases

    def _faults(self) -> None:
        world, options = self.world, self.options
        for sid in world.members:
            world.start(sid)
        self.nemesis.start()
        self._next_request()
        scheduler = world.scheduler
        while scheduler.now < options.duration and scheduler.events < EVENTS_MAX:
            scheduler.step()

    def _recover(self) -> None:
        world, options = self.world, self.options
        voters = options.voters
        self._interval_max = 10 * MILLISECOND
        self._request()
        if options.core_only:
            core = tuple(sorted(self._work.shuffled(voters)[: len(voters) // 2 + 1]))
            world.trace("core", 0, *core)
            self.nemesis.stop(core)
            self._recovered(core)
        self._working = True
        world.trace("healed", 0)
        self.nemesis.stop(world.members)
        self._recovered(world.members)

    def _recovered(self, members: tuple[int, ...]) -> None:
        """The ensemble commits again, and then its members are equal."""
        world = self.world
        healed, commits = world.scheduler.now, world.commits
        self._until(lambda: world.leader() is not None and world.commits > commits, "no proposal is committed", members)
        self._recovery = max(self._recovery, world.scheduler.now - healed)
        self._working = False
        self._until(lambda: world.converged(members), "the members do not converge", members)

    def _until(self, condition: Callable[[], bool], failure: str, members: tuple[int, ...]) -> None:
        world = self.world
        scheduler = world.scheduler
        limit = scheduler.now + patience(self.options)
        while not condition():
            if scheduler.now > limit:
                roles = [(sid, repr(world.processes[sid].role), world.processes[sid].peer.reason) for sid in members]
                raise Violation(f"liveness: {failure}: {roles}")
            for _ in range(5):
                scheduler.step()

    # ---- the workload

    def _next_request(self) -> None:
        interval = self.options.duration // self.options.requests
        self.world.scheduler.after(self._work.around(min(interval, self._interval_max)), self._request)

    def _request(self) -> None:
        """Clients find whoever can serve them."""
        if self._working:
            stream, world = self._work, self.world
            for sid in world.members:
                process = world.processes[sid]
                if process.alive and process.peer.leading:
                    if stream.chance(0.9):
                        process.post(process.propose, stream.between(1, 4))
                    if stream.chance(0.2):
                        process.post(process.sync, stream.between(1, 1 << 30))
            process = world.processes[stream.choice(world.members)]
            if process.alive:
                process.post(process.request)
        self._next_request()


def simulate(seed: int, at_source: bool = True, keep_trace: bool = False) -> Result:
    return Run(seed, None, at_source, keep_trace).execute()


def main(arguments: list[str]) -> int:
    keep_trace = "--trace" in arguments
    seeds = next(argument for argument in arguments if not argument.startswith("--"))
    first, _, last = seeds.partition("..")
    failures = events = 0
    started = time.process_time()
    worst = (0.0, 0)
    probes: dict[str, int] = {}
    for seed in range(int(first), int(last or first) + 1):
        result = simulate(seed, keep_trace=keep_trace)
        events += result.events
        worst = max(worst, (result.recovery / SECOND, seed))
        for name, count in result.probes.items():
            probes[name] = probes.get(name, 0) + count
        if result.lines is not None:
            sys.stdout.write("\n".join(result.lines) + "\n")
        if result.failure:
            failures += 1
            sys.stdout.write(
                f"seed {seed} failed at {result.virtual / SECOND:.3f} s: {result.failure}\n  {result.options.text()}\n"
            )
            sys.stdout.flush()
    spent = time.process_time() - started
    for name in sorted(probes):
        sys.stdout.write(f"  {probes[name]:9d} {name}\n")
    sys.stdout.write(
        f"{failures} failures, {events} events in {spent:.1f} CPU-s ({events / spent:.0f}/s), "
        f"longest recovery {worst[0]:.3f} s (seed {worst[1]})\n"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
