"""What is shown of a run."""

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.databases import MariaDB, Postgres

from benchmarks.transactions.servers import Numbers

Load = tuple[str, int, int]
"""Mode, workers, the processes that carry them."""
Samples = dict[Load, list[Numbers]]
"""One for each round."""

THREADS = ("alone", "dual", "hand", "hand-log", "local", "early", "replicated", "replicated-early")
ASYNC = ("aio-hand", "aio-local", "aio-early", "aio-replicated")
SPREAD = ("hand", "hand-log", "local", "early", "replicated")
SLOWED = (*THREADS, "aio-hand", "aio-local")

NAMES = {
    "alone": "PostgreSQL alone",
    "dual": "both, not atomic",
    "hand": "by hand, unsafe",
    "hand-log": "by hand, with a log",
    "local": "**ours**, local log",
    "early": "**ours**, local log, early",
    "replicated": "**ours**, replicated log",
    "replicated-early": "**ours**, replicated log, early",
    "aio-hand": "asyncio: by hand, unsafe",
    "aio-local": "asyncio: **ours**, local log",
    "aio-early": "asyncio: **ours**, local log, early",
    "aio-replicated": "asyncio: **ours**, replicated log",
}
_SEQUENCES = {
    "alone": ["commit"],
    "dual": ["PG commit", "MariaDB commit"],
    "hand": ["PG prepare", "MariaDB prepare", "PG commit", "MariaDB commit"],
    "hand-log": ["PG prepare", "MariaDB prepare", "log", "PG commit", "MariaDB commit"],
    "local": ["both prepare", "log", "both commit"],
    "early": ["both prepare", "log"],
    "replicated": ["both prepare", "majority of the log", "both commit"],
    "replicated-early": ["both prepare", "majority of the log"],
}
"""What waits for what, as the flow of ``transactions.commit`` and the functions in ``modes`` have it: each step is one flush, of MariaDB with a binary log two."""


def baseline(mode: str) -> str:
    return "aio-hand" if mode.startswith("aio-") else "hand"


def _median(found: Sequence[Numbers], name: str) -> float:
    return statistics.median(numbers[name] for numbers in found)


def ratio(samples: Samples, load: Load, name: str, other: str) -> float | None:
    """The median of the rounds' ratios."""
    base = samples.get((other, *load[1:]))
    if not base:
        return None
    return statistics.median(
        mine[name] / theirs[name] for mine, theirs in zip(samples[load], base, strict=True) if theirs[name]
    )


def _shown(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *[f"| {' | '.join(row)} |" for row in rows]])


def speed(samples: Samples) -> list[str]:
    found: list[str] = []
    for workers, processes in dict.fromkeys(load[1:] for load in samples):
        where = "one process" if processes == 1 else f"{processes} processes"
        found.append(f"**{workers} worker{'s' if workers > 1 else ''}, {where}**")
        group = {load: numbers for load, numbers in samples.items() if load[1:] == (workers, processes)}
        found.append(_speed(group))
    return [*found, aims(samples)]


def _speed(samples: Samples) -> str:
    rows = []
    for load, numbers in samples.items():
        base = baseline(load[0])
        rows.append(
            [
                NAMES[load[0]],
                _shown(_median(numbers, "p50_ms")),
                _shown(_median(numbers, "p99_ms"), 1),
                _shown(ratio(samples, load, "p50_ms", base)),
                f"{_median(numbers, 'per_second'):,.0f}",
                _shown(ratio(samples, load, "per_second", base)),
                _shown(_median(numbers, "client_cpu_ms")),
                _shown(_median(numbers, "server_cpu_ms")),
            ]
        )
    head = ["", "p50 ms", "p99 ms", "p50 ÷ by hand", "per second", "÷ by hand", "client CPU ms", "servers' CPU ms"]
    return table(head, rows)


def aims(samples: Samples) -> str:
    """Whether the issue's are reached."""
    told = []
    for load in samples:
        mode, workers, processes = load
        if mode not in ("local", "replicated", "aio-local", "aio-replicated"):
            continue
        name, most = ("p50_ms", True) if workers == 1 else ("per_second", False)
        found = ratio(samples, load, name, baseline(mode))
        if found is None or 1 < workers < 8:
            continue
        reached = found <= 1.2 if most else found > 1
        what = f"latency {found:.2f} ×, aim at most 1.2" if most else f"throughput {found:.2f} ×, aim more than 1"
        where = f"{workers} workers, {processes} processes" if workers > 1 else "1 worker"
        told.append(f"- {'reached' if reached else '**missed**'}: {NAMES[mode].replace('*', '')}, {where}: {what}")
    return "\n".join(["Aims, against the same by hand:", "", *told])


def slowed(samples: Samples, counted: dict[str, Numbers], ms: float, binlog: bool) -> list[str]:
    rows = []
    for mode, numbers in counted.items():
        steps = _SEQUENCES.get(mode.removeprefix("aio-"), [])
        alone = samples.get((mode, 1, 1))
        rows.append(
            [
                NAMES[mode],
                _shown(numbers["postgres"], 1),
                _shown(numbers["wal_sync"], 1),
                _shown(numbers["mariadb"], 1),
                _shown(numbers["log"], 1),
                _shown(numbers["store"], 1),
                f"{_depth(steps, binlog)}",
                "" if alone is None else _shown(_median(alone, "p50_ms") / ms, 1),
                " → ".join(steps),
            ]
        )
    found = [
        "**Flushes of one transaction, counted, one worker** (as the preloaded library saw them, so with some of the background; `wal_sync`: PostgreSQL's own"
        f" count), and how many stand one after the other: by the flow, and as the latency divided by {ms:g} ms shows when each takes so much longer",
        table(
            [
                "",
                "PostgreSQL",
                "`wal_sync`",
                "MariaDB",
                "local log",
                "three members",
                "in sequence",
                f"p50 ÷ {ms:g} ms",
                "",
            ],
            rows,
        ),
    ]
    for workers, processes in dict.fromkeys(load[1:] for load in samples):
        found.append(f"**Every flush {ms:g} ms slower, {workers} worker{'s' if workers > 1 else ''}**")
        group = {load: numbers for load, numbers in samples.items() if load[1:] == (workers, processes)}
        head = ["", "p50 ms", "p99 ms", "p50 ÷ unsafe", "p50 ÷ with a log", "per second", "÷ unsafe", "÷ with a log"]
        found.append(table(head, [_slow_row(group, load) for load in group]))
    return found


def _depth(steps: Sequence[str], binlog: bool) -> int:
    return sum(2 if binlog and ("MariaDB" in step or "both" in step) else 1 for step in steps)


def _slow_row(samples: Samples, load: Load) -> list[str]:
    numbers = samples[load]
    return [
        NAMES[load[0]],
        _shown(_median(numbers, "p50_ms")),
        _shown(_median(numbers, "p99_ms"), 1),
        _shown(ratio(samples, load, "p50_ms", "hand")),
        _shown(ratio(samples, load, "p50_ms", "hand-log")),
        f"{_median(numbers, 'per_second'):,.0f}",
        _shown(ratio(samples, load, "per_second", "hand")),
        _shown(ratio(samples, load, "per_second", "hand-log")),
    ]


def machine(arguments: argparse.Namespace) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2].strip() for line in cpuinfo if "model name" in line), "unknown")

    def version(find: Callable[[str], str], program: str) -> str:
        said = subprocess.run([find(program), "--version"], capture_output=True, text=True).stdout.split()
        return next((word for word in said if word[0].isdigit()), "unknown")

    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()},"
        f" PostgreSQL {version(Postgres.program, 'postgres')}, MariaDB {version(MariaDB.program, 'mariadbd')}"
        f" (binary log {'on, synced' if arguments.binlog else 'off'});"
        f" load average {os.getloadavg()[0]:.1f} when the run began; {arguments.rounds} rounds of slices of {arguments.seconds:g} s."
    )


def plain(text: str) -> str:
    """For a terminal: columns below one another."""
    found: list[str] = []
    block: list[list[str]] = []
    for line in [*text.replace("**", "").split("\n"), ""]:
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not cells[0].startswith("---"):
                block.append(cells)
            continue
        if block:
            widths = [max(len(row[column]) for row in block) for column in range(len(block[0]))]
            for row in block:
                found.append(
                    "  ".join(
                        cell.ljust(width) if not column else cell.rjust(width)
                        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
                    ).rstrip()
                )
            block = []
        found.append(line)
    return "\n".join(found)
