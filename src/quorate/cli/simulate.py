"""``quorate simulate zab``: many runs of a protocol under faults in virtual time, each from its seed; or one of them, drawn.

Standard output has one line a failure and a summary; progress goes to standard error when that is a terminal.
"""

import argparse
import json
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from quorate.cli.duration import seconds
from quorate.errors import UsageError
from quorate.simulation import drawing, protocols, shrinking, tracefile
from quorate.simulation.batch import Batch, Outcome, Totals, find_mutation, options_of
from quorate.simulation.guarded import Guarded
from quorate.simulation.result import Result, Simulation

SEEDS_DEFAULT: Final = "1..1000"
_SECOND: Final = 1_000_000_000
_RANGE: Final = re.compile(r"(\d{1,15})(?:\.\.(\d{1,15}))?", re.ASCII)
_RANDOM: Final = re.compile(r"random(?::([1-9]\d{0,8}))?", re.ASCII)
_FRESH: Final = 1000
_FRESH_SPAN: Final = 10**12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", help=f"what to run: {', '.join(protocols.PROTOCOLS)}")
    parser.add_argument(
        "--seeds", metavar="A..B", help=f"seeds, as 1..2000, 7, 1..9,20 or random:500 (default: {SEEDS_DEFAULT})"
    )
    parser.add_argument("--workers", metavar="N", type=int, default=0, help="processes (default: one for each CPU)")
    parser.add_argument("--time-budget", metavar="TIME", default="", help="begin no run after this long, such as 10m")
    parser.add_argument("--stop-after", metavar="N", type=int, default=0, help="end after this many failures")
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="what to use instead of what a seed draws; values are JSON",
    )
    parser.add_argument("--options", metavar="FILE", type=Path, help="a file of such options, as --shrink writes it")
    parser.add_argument("--mutation", metavar="NAME", help="run with a deliberate bug, which must be noticed")
    parser.add_argument("--list-mutations", action="store_true", help="list the deliberate bugs and end")
    parser.add_argument("--verbose", action="store_true", help="list how often everything came about")
    one = parser.add_argument_group("one run")
    one.add_argument("--seed", metavar="N", type=int, help="run this seed alone")
    one.add_argument("--trace", metavar="FILE", type=Path, help="draw the run into this HTML file")
    one.add_argument(
        "--trace-json", metavar="FILE", type=Path, help="write the run's events into this file, as JSON lines"
    )
    one.add_argument("--shrink", action="store_true", help="find a smaller run that fails in the same way")


def run(arguments: argparse.Namespace) -> int:
    """Status 0 if nothing failed, 1 if a run did."""
    place = protocols.location(arguments.protocol)
    simulation = protocols.import_location(place)
    if arguments.list_mutations:
        return _list_mutations(simulation)
    for name in ("workers", "stop_after"):
        if getattr(arguments, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} must not be negative")
    changes = _changes(arguments)
    if arguments.seed is not None:
        if arguments.seed < 0:
            raise UsageError("--seed must not be negative")
        if arguments.seeds is not None:
            raise UsageError("--seed is one run and --seeds many: expected one of them")
        return _one(arguments, simulation, changes)
    for name in ("trace", "trace_json", "shrink"):
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is for one run: name it with --seed")
    return _many(arguments, place, changes)


def _changes(arguments: argparse.Namespace) -> dict[str, object]:
    changes: dict[str, object] = {}
    if arguments.options is not None:
        try:
            read = json.loads(arguments.options.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{arguments.options}: {error}") from None
        if not isinstance(read, dict):
            raise UsageError(f"{arguments.options}: expected an object of options, as --shrink writes it")
        changes.update(read)
    for text in arguments.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text!r}: expected NAME=VALUE")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            raise UsageError(f"--option {text!r}: the value is not JSON") from None
    return changes


def _list_mutations(simulation: Simulation) -> int:
    known: Mapping[str, Any] = getattr(simulation, "mutations", {})
    for name, mutation in known.items():
        sys.stdout.write(f"{name}: {mutation.what}{f' ({mutation.issue})' if mutation.issue else ''}\n")
    return 0


# ---- many runs


def parse_seeds(text: str) -> tuple[Iterable[int], int]:
    """The seeds and how many there are. Raises UsageError."""
    match = _RANDOM.fullmatch(text)
    if match is not None:
        count = int(match[1] or _FRESH)
        first = secrets.randbelow(_FRESH_SPAN)
        sys.stdout.write(f"seeds {first}..{first + count - 1}\n")
        return range(first, first + count), count
    ranges: list[range] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"--seeds {text!r}: expected ranges such as 1..2000, single seeds, or random:500")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"--seeds {text!r}: {part} ends before it begins")
        ranges.append(range(first, last + 1))
    return (seed for each in ranges for seed in each), sum(map(len, ranges))


def _many(arguments: argparse.Namespace, place: str, changes: dict[str, object]) -> int:
    budget = seconds("--time-budget", arguments.time_budget)
    seeds, count = parse_seeds(arguments.seeds or SEEDS_DEFAULT)
    workers = min(arguments.workers or len(os.sched_getaffinity(0)), count)
    progress = _Progress(count) if sys.stderr.isatty() else None
    batch = Batch(
        place,
        seeds,
        workers=workers,
        mutation=arguments.mutation,
        options=changes,
        stop_after=arguments.stop_after,
        time_budget=budget,
    )

    def report(outcome: Outcome) -> None:
        if progress is not None:
            progress.clear()
        sys.stdout.write(f"seed {outcome.seed} failed: {outcome.text}\n")
        sys.stdout.flush()

    began = time.monotonic()
    try:
        batch.run(report, progress)
    finally:
        # also when Ctrl-C ends it: hours of runs were not for nothing
        if progress is not None:
            progress.clear()
        totals = batch.totals
        if totals.seeds:
            _summarise(totals, time.monotonic() - began, workers)
    if arguments.verbose:
        for name, (runs, times) in sorted(totals.probes.items(), key=lambda item: -item[1][1]):
            sys.stdout.write(f"{times:12,} times in {runs:8,} runs  {name}\n")
    return 1 if totals.failures else 0


def _summarise(totals: Totals, elapsed: float, workers: int) -> None:
    cpu = max(totals.cpu / _SECOND, 1e-9)
    virtual = totals.virtual / _SECOND
    lines = [
        f"{totals.seeds:,} seeds, {totals.failures:,} failed, in {elapsed:.1f} s with {_count(workers, 'worker')}",
        f"{totals.events:,} events, {totals.events / cpu:,.0f} per second and core;"
        f" {virtual:,.0f} virtual seconds, {virtual / cpu:,.0f} per second and core",
        f"{totals.operations:,} operations, {totals.commits:,} commits",
    ]
    if totals.recovery:
        lines.append(
            f"longest recovery {totals.recovery / _SECOND:.1f} virtual seconds, seed {totals.slowest_recovery}"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


class _Progress:
    """A bar on the last line of the terminal."""

    _WIDTH: Final = 30

    def __init__(self, count: int) -> None:
        self._count = max(count, 1)
        self._began = time.monotonic()
        self._shown = 0.0

    def __call__(self, totals: Totals) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1:
            return
        self._shown = now
        full = self._WIDTH * totals.seeds // self._count
        rate = totals.seeds / max(now - self._began, 1e-9)
        left = (self._count - totals.seeds) / rate if rate else 0.0
        sys.stderr.write(
            f"\r\x1b[K[{'#' * full}{'.' * (self._WIDTH - full)}] {totals.seeds:,}/{self._count:,} seeds,"
            f" {totals.failures:,} failed, {rate:.0f} a second, {left:.0f} s left"
        )
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


# ---- one run


def _one(arguments: argparse.Namespace, simulation: Simulation, changes: dict[str, object]) -> int:
    seed: int = arguments.seed
    guarded = Guarded(simulation)
    mutation = None if arguments.mutation is None else find_mutation(simulation, arguments.mutation)
    with nullcontext() if mutation is None else mutation.applied():
        options = options_of(simulation, mutation, seed, changes)
        result = guarded.run(seed, options)
        if guarded.crash:
            sys.stderr.write(guarded.crash)
        if arguments.shrink and not result.failure:
            sys.stdout.write(f"seed {seed} did not fail: there is nothing to shrink\n")
        elif arguments.shrink:
            options = _shrink(arguments, guarded, result, options)
            result = guarded.run(seed, options)
        if arguments.trace is not None or arguments.trace_json is not None:
            result = guarded.run(seed, options, trace=True)
    _tell(result)
    if result.trace is None:
        return 1 if result.failure else 0
    if arguments.trace is not None:
        arguments.trace.write_text(drawing.page(result), encoding="utf-8")
        sys.stdout.write(f"drawn in {arguments.trace}\n")
    if arguments.trace_json is not None:
        with arguments.trace_json.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(tracefile.lines(result))
        sys.stdout.write(f"written to {arguments.trace_json}\n")
    return 1 if result.failure else 0


def _shrink(
    arguments: argparse.Namespace, simulation: Simulation, result: Result, given: Mapping[str, object] | None
) -> dict[str, object]:
    """The options of the smallest run found; they are written to a file."""

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    budget = seconds("--time-budget", arguments.time_budget)
    smallest, options = shrinking.shrink(simulation, result, given, time_budget=budget, tell=say)
    name = f"{arguments.protocol}-{arguments.seed}.json"
    file = Path(name) if arguments.trace is None else arguments.trace.with_name(name)
    file.write_text(json.dumps(options, indent=1) + "\n", encoding="utf-8")
    for line in shrinking.differences(result.options, smallest.options):
        sys.stdout.write(f"{line}\n")
    words = ["quorate", "simulate", arguments.protocol, "--seed", str(arguments.seed)]
    if arguments.mutation:
        words += ["--mutation", arguments.mutation]
    sys.stdout.write(f"repeat: {shlex.join([*words, '--options', str(file)])}\n")
    return options


def _tell(result: Result) -> None:
    if result.failure:
        sys.stdout.write(f"seed {result.seed} failed: {result.failure}\n")
    sys.stdout.write(
        f"seed {result.seed}: {result.events:,} events in {result.virtual / _SECOND:.3f} virtual seconds,"
        f" {result.operations:,} operations, {result.commits:,} commits, digest {result.digest:08x}\n"
    )
