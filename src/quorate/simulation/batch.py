"""Many seeds of one simulation, run by worker processes.

Seeds are handed out in chunks that take a fraction of a second, to whoever is free. A run that brings its worker down (an
exception in the simulator, a process that dies, one that says nothing for too long) is an outcome like any other; another
worker goes on with what was left. However a batch ends, no worker outlives it.
"""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from typing import IO, Any, Final, Protocol

from quorate.errors import QuorateError, UsageError
from quorate.simulation.result import Simulation

CHUNK_SECONDS: Final = 0.25
CHUNK_MAX: Final = 256
PATIENCE: Final = 600.0
"""Seconds of real time within which a run must end."""
_TICK: Final = 0.2
_SECOND: Final = 1_000_000_000


class Mutation(Protocol):
    """A deliberate bug. A simulation that has some offers them by name in its attribute ``mutations``."""

    def draw(self, seed: int) -> dict[str, Any]:
        """The options of a run of this seed in which the bug may show."""

    def applied(self) -> AbstractContextManager[Any]:
        """The bug is in the production code of this process while the context lasts."""


def find_mutation(simulation: Simulation, name: str) -> Mutation:
    """Raises UsageError if the simulation has no such mutation."""
    known: Mapping[str, Mutation] = getattr(simulation, "mutations", {})
    mutation = known.get(name)
    if mutation is None:
        close = get_close_matches(name, known, 3) or sorted(known)
        expected = f"expected one of {', '.join(close)}" if known else "this simulation has none"
        raise UsageError(f"unknown mutation {name!r}: {expected}")
    return mutation


def options_of(
    simulation: Simulation, mutation: Mutation | None, seed: int, changes: Mapping[str, object]
) -> dict[str, object] | None:
    """What to run a seed with; None for just what it draws. Raises UsageError for an option that there is not."""
    if mutation is None and not changes:
        return None
    options = simulation.options(seed) if mutation is None else mutation.draw(seed)
    for name, value in changes.items():
        if name not in options:
            close = get_close_matches(name, options, 3) or list(options)
            raise UsageError(f"unknown simulation option {name!r}: expected one of {', '.join(close)}")
        options[name] = value
    schedule = options.get("schedule")
    if isinstance(schedule, list):
        _check(schedule, getattr(simulation, "faults", ()))
    return options


def _check(schedule: list[Any], faults: Collection[str]) -> None:
    """That each strike is [time, kind, ...], of a kind that there is if the simulation names its ``faults``."""
    for place, strike in enumerate(schedule):
        match strike:
            case [int() as when, str() as kind, *_] if when >= 0 and not isinstance(when, bool):
                if faults and kind not in faults:
                    close = get_close_matches(kind, faults, 3) or list(faults)
                    raise UsageError(
                        f"simulation option schedule: fault {place + 1}: unknown kind {kind!r}, expected {', '.join(close)}"
                    )
            case _:
                raise UsageError(
                    f"simulation option schedule: fault {place + 1}: expected [nanoseconds, kind, ...], not {strike!r:.80}"
                )


def breakdown(crash: str) -> str:
    """One line for an exception's traceback, or for what became of a worker."""
    lines = crash.strip().splitlines()
    return f"the simulator broke down: {lines[-1] if lines else 'no reason given'}"


class Outcome:
    """One run. ``failure`` is the violation, ``crash`` what went wrong with the simulator instead; both empty if all was well.

    ``options`` are there if the run failed. ``cpu``, ``virtual`` and ``recovery`` are nanoseconds.
    """

    __slots__ = (
        "commits",
        "cpu",
        "crash",
        "digest",
        "events",
        "failure",
        "operations",
        "options",
        "probes",
        "recovery",
        "seed",
        "virtual",
    )

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.seed: int = answer["seed"]
        self.failure: str = answer.get("failure", "")
        self.crash: str = answer.get("crash", "")
        self.cpu: int = answer.get("cpu", 0)
        self.events: int = answer.get("events", 0)
        self.virtual: int = answer.get("virtual", 0)
        self.recovery: int = answer.get("recovery", 0)
        self.commits: int = answer.get("commits", 0)
        self.operations: int = answer.get("operations", 0)
        self.digest: int = answer.get("digest", 0)
        self.probes: Mapping[str, int] = answer.get("probes", {})
        self.options: Mapping[str, object] = answer.get("options", {})

    @property
    def text(self) -> str:
        """What went wrong, in one line."""
        return breakdown(self.crash) if self.crash else self.failure


class Totals:
    """Of a batch so far. ``failures`` counts crashes of the simulator too."""

    def __init__(self) -> None:
        self.seeds = 0
        self.failures = 0
        self.events = 0
        self.cpu = 0
        self.virtual = 0
        self.commits = 0
        self.operations = 0
        self.recovery = 0
        self.slowest_recovery = 0
        """The seed of the longest recovery."""
        self.probes: dict[str, list[int]] = {}
        """By name: in how many runs it came about, and how often in all."""

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.failures += bool(outcome.failure or outcome.crash)
        self.events += outcome.events
        self.cpu += outcome.cpu
        self.virtual += outcome.virtual
        self.commits += outcome.commits
        self.operations += outcome.operations
        if outcome.recovery > self.recovery:
            self.recovery = outcome.recovery
            self.slowest_recovery = outcome.seed
        for name, count in outcome.probes.items():
            counts = self.probes.setdefault(name, [0, 0])
            counts[0] += count > 0
            counts[1] += count


class _Worker:
    def __init__(self, task: bytes) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        # a process group of its own: Ctrl-C is for us, and we end the workers
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quorate.simulation.batchworker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        self.seeds: deque[int] = deque()
        """Handed out and not answered yet, in the order in which they are run."""
        self.ready = False
        self.buffer = b""
        self.heard = time.monotonic()
        self.say(task)

    def say(self, line: bytes) -> None:
        try:
            self.input.write(line + b"\n")
            self.input.flush()
        except BrokenPipeError:
            return  # it is dead, which its output tells

    def hand(self, seeds: list[int]) -> None:
        self.seeds.extend(seeds)
        self.heard = time.monotonic()
        self.say(json.dumps(seeds).encode())

    def end(self) -> int:
        """Its exit status."""
        self.process.kill()
        status = self.process.wait()
        self.output.close()
        try:
            self.input.close()
        except BrokenPipeError:
            return status  # what was not sent any more
        return status


class Batch:
    """``location`` is where the simulation is (``module:attribute``), ``options`` replace what each seed draws.

    ``stop_after``: failures after which the batch ends, 0 for never; ``time_budget``: seconds after which no more seeds are
    begun, 0 for no limit; ``patience``: seconds after which a run counts as hanging.
    """

    def __init__(
        self,
        location: str,
        seeds: Iterable[int],
        *,
        workers: int = 1,
        mutation: str | None = None,
        options: Mapping[str, object] | None = None,
        stop_after: int = 0,
        time_budget: float = 0.0,
        patience: float = PATIENCE,
    ) -> None:
        self.totals = Totals()
        self._task = json.dumps({"location": location, "mutation": mutation, "options": dict(options or {})}).encode()
        self._seeds: Iterator[int] = iter(seeds)
        self._again: deque[int] = deque()
        """Seeds that a worker left behind when it died."""
        self._wanted = workers
        self._stop_after = stop_after
        self._time_budget = time_budget
        self._patience = patience
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._handing = True

    def run(self, report: Callable[[Outcome], None], progress: Callable[[Totals], None] | None = None) -> Totals:
        """Run the seeds; ``report`` hears of every failure and crash at once, ``progress`` of the totals now and then.

        Raises UsageError for options or a mutation that the simulation refuses, QuorateError if workers cannot start.
        """
        deadline = time.monotonic() + self._time_budget if self._time_budget else float("inf")
        try:
            for _ in range(self._wanted):
                self._start()
            while self._workers:
                if time.monotonic() >= deadline:
                    self._handing = False
                for key, _ in self._selector.select(_TICK):
                    self._hear(key.data, report)
                    if self._stop_after and self.totals.failures >= self._stop_after:
                        return self.totals
                self._look_for_hanging(report)
                for worker in list(self._workers):
                    if worker.ready and not worker.seeds:
                        self._hand(worker)
                if progress is not None:
                    progress(self.totals)
        finally:
            for worker in self._workers:
                worker.end()
            self._selector.close()
        return self.totals

    def _start(self) -> None:
        worker = _Worker(self._task)
        self._workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _drop(self, worker: _Worker) -> int:
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        return worker.end()

    def _hand(self, worker: _Worker) -> None:
        """Give it the next chunk, or let it go if there is none."""
        totals = self.totals
        each = totals.cpu / totals.seeds / _SECOND if totals.seeds else CHUNK_SECONDS
        size = max(1, min(CHUNK_MAX, int(CHUNK_SECONDS / max(each, 1e-9))))
        chunk: list[int] = []
        while self._handing and len(chunk) < size:
            seed = self._again.popleft() if self._again else next(self._seeds, None)
            if seed is None:
                break
            chunk.append(seed)
        if chunk:
            worker.hand(chunk)
        else:
            self._drop(worker)

    def _hear(self, worker: _Worker, report: Callable[[Outcome], None]) -> None:
        data = os.read(worker.output.fileno(), 1 << 16)
        if not data:
            self._died(worker, report)
            return
        worker.heard = time.monotonic()
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if "broken" in answer:
                raise QuorateError(f"a worker cannot load the simulation: {answer['broken']}")
            if "usage" in answer:
                raise UsageError(answer["usage"])
            if "ready" in answer:
                worker.ready = True
                continue
            worker.seeds.popleft()
            self._count(Outcome(answer), report)

    def _count(self, outcome: Outcome, report: Callable[[Outcome], None]) -> None:
        self.totals.add(outcome)
        if outcome.failure or outcome.crash:
            report(outcome)

    def _died(self, worker: _Worker, report: Callable[[Outcome], None]) -> None:
        status = self._drop(worker)
        if not worker.seeds:
            raise QuorateError(f"a worker ended with status {status} before it ran anything")
        self._lost(worker, f"the worker ended with status {status} during this run", report)

    def _look_for_hanging(self, report: Callable[[Outcome], None]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.seeds and now - worker.heard > self._patience:
                self._drop(worker)
                self._lost(worker, f"the run has not ended after {self._patience:g} s of real time", report)

    def _lost(self, worker: _Worker, why: str, report: Callable[[Outcome], None]) -> None:
        """The first seed it had not answered is to blame; the others are run by somebody else."""
        seed = worker.seeds.popleft()
        self._again.extend(worker.seeds)
        self._count(Outcome({"seed": seed, "crash": why}), report)
        self._start()
