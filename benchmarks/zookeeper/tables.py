"""Medians of samples, and their tables in markdown between two markers of a document."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.ensembles import OURS, THEIRS

from benchmarks.zookeeper.parts import MANY, Sample

START, END = "<!-- tables: begin -->", "<!-- tables: end -->"

TITLES = {
    "start": "Start",
    "load": "Load",
    "memory": "Memory after the load",
    "nodes": "Many nodes (standalone)",
    "sessions": f"{MANY:,} idle sessions (standalone)",
    "watchers": f"{MANY:,} watchers of one node (standalone)",
    "recovery": "kill -9 of the leader (three members)",
}

Medians = dict[str, dict[str, float]]
"""Figure to {kind: median over the rounds}."""


def medians(samples: Iterable[Sample]) -> Medians:
    collected: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for figure, value in sample.figures.items():
            collected.setdefault(figure, {}).setdefault(sample.kind, []).append(value)
    return {
        figure: {kind: statistics.median(values) for kind, values in kinds.items()}
        for figure, kinds in collected.items()
    }


def tables(samples: Sequence[Sample]) -> str:
    """A section for each part, in the order in which the parts ran."""
    sections = []
    for part in dict.fromkeys(sample.part for sample in samples):
        mine = [sample for sample in samples if sample.part == part]
        lines = _load_lines(mine) if part == "load" else _plain_lines(mine)
        sections.append("\n".join([f"### {TITLES[part]}", "", *lines]))
    return "\n\n".join(sections)


def _plain_lines(samples: list[Sample]) -> list[str]:
    lines = ["| figure | ours | Apache 3.8 | ours / Apache |", "| --- | ---: | ---: | ---: |"]
    for figure, kinds in medians(samples).items():
        ours, theirs = kinds.get(OURS), kinds.get(THEIRS)
        lines.append(f"| {figure} | {_number(ours)} | {_number(theirs)} | {_ratio(ours, theirs)} |")
    return lines


def _load_lines(samples: list[Sample]) -> list[str]:
    lines = [
        "Connections × in flight on each. Each cell: ours / Apache's. Latencies in milliseconds. `other`: the share of the"
        " machine that neither the servers nor the generator used (other processes, and the kernel's own work).",
        "",
        "| load | op per server-CPU-s | ratio | op/s | ratio | p50 | p99 | p99.9 | other |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in dict.fromkeys(sample.case for sample in samples):
        found = medians(sample for sample in samples if sample.case == case)

        def cell(figure: str, divisor: float = 1.0, found: Medians = found) -> str:
            return " / ".join(_number(found[figure][kind] / divisor) for kind in (OURS, THEIRS))

        def ratio(figure: str, found: Medians = found) -> str:
            return _ratio(found[figure][OURS], found[figure][THEIRS])

        latencies = " | ".join(cell(name, 1000) for name in ("p50", "p99", "p999"))
        other = " / ".join(f"{found['other_share'][kind]:.0%}" for kind in (OURS, THEIRS))
        lines.append(
            f"| {case} | {cell('per_cpu')} | {ratio('per_cpu')} | {cell('rate')} | {ratio('rate')} | {latencies} | {other} |"
        )
    return lines


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def rewrite(document: Path, text: str) -> None:
    """Put ``text`` between the markers. Raises ValueError if the document lacks them."""
    whole = document.read_text()
    before, begin, rest = whole.partition(START)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document}: expected the markers {START} and {END}")
    document.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")
