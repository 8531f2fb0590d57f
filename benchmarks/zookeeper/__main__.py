"""Runs the benchmarks: both kinds in turn, several rounds, medians; writes JSON, and tables for docs/benchmarks.md."""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.ensembles import OURS, THEIRS

from benchmarks.zookeeper import parts

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
START, END = "<!-- tables: begin -->", "<!-- tables: end -->"

Figures = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="start,load,nodes,sessions,watchers,recovery")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="counted seconds of each load")
    parser.add_argument("--quick", action="store_true", help="one round, one second, fewer loads")
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tables = [_machine()]
    figures: dict[str, Any] = {}
    for part in arguments.parts.split(","):
        rows = _rounds(part, arguments)
        figures[part] = rows
        tables.append(_table(part, rows))
        print(tables[-1], flush=True)
    Path("build").mkdir(exist_ok=True)
    Path("build/zookeeper-benchmarks.json").write_text(json.dumps(figures, indent=1))
    if arguments.write:
        before, _, rest = DOCUMENT.read_text().partition(START)
        DOCUMENT.write_text(f"{before}{START}\n\n" + "\n\n".join(tables) + f"\n\n{END}{rest.partition(END)[2]}")
    return 0


def _machine() -> str:
    model = next(
        (
            line.partition(": ")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    load_average = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}; load average"
        f" {load_average:.1f} when the run began. Medians over the rounds; ours and Apache's in turn."
    )


def _rounds(part: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figure name to {kind: median}."""
    collected: dict[str, dict[str, list[float]]] = {}
    run: Callable[..., Figures] = getattr(parts, part)
    rounds = 1 if part == "nodes" else arguments.rounds
    for number in range(rounds):
        for kind in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                figures = run(kind, Path(folder), arguments)
                print(
                    f"# {part} round {number + 1} {kind}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
                )
                for name, value in figures.items():
                    collected.setdefault(name, {}).setdefault(kind, []).append(value)
    return {
        name: {kind: statistics.median(values) for kind, values in kinds.items()} for name, kinds in collected.items()
    }


def _table(part: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"### {parts.TITLES[part]}",
        "",
        "| figure | ours | Apache 3.8 | ours / Apache |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, kinds in rows.items():
        ours, theirs = kinds.get(OURS), kinds.get(THEIRS)
        ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else ""
        lines.append(f"| {name} | {_number(ours)} | {_number(theirs)} | {ratio} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
