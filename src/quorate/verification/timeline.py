"""A counter-example drawn: what each client did and saw around the point from which no order goes on.

As text, one line an operation with its bar, and as one HTML file that needs nothing else. Bars stand by the order of the
events, not by time, so that short operations next to long ones stay readable.
"""

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from quorate.verification.history import NEVER, Operation
from quorate.verification.linearizability import Failure
from quorate.verification.models import Call
from quorate.verification.values import show

_LAST_STATES: Final = 8
_TEXT_ROWS: Final = 24
_PAGE_ROWS: Final = 600
_EVENT_PX: Final = 26
_LANE_PX: Final = 26
_TITLE: Final = 34


def title(operation: Operation, limit: int = _TITLE) -> str:
    """An operation in a few words: ``write 3``, ``read → 4``, ``put 1 → ? (no reply)``."""
    said = operation.name if operation.value in (None, {}) else f"{operation.name} {show(operation.value, limit)}"
    if operation.outcome == "unknown":
        return f"{said} → ?"
    if operation.outcome == "fail":
        return f"{said} → failed" if operation.result is None else f"{said} → failed {show(operation.result, limit)}"
    quiet = operation.result is None and operation.value is not None
    return said if quiet else f"{said} → {show(operation.result, limit)}"


class _Row:
    """``order`` is the call's place in the partial linearization, 0 if it has none; ``begin`` and ``end`` are columns."""

    __slots__ = ("begin", "call", "end", "note", "order")

    def __init__(self, call: Call, order: int, note: str) -> None:
        self.call = call
        self.order = order
        self.note = note
        self.begin = self.end = 0


def _rows(failure: Failure, most: int) -> tuple[list[_Row], int]:
    """The calls around the failure, at most ``most``, by their invocations, and the column at which there is no way on."""
    order = {id(placed.call): number for number, placed in enumerate(failure.placed, 1)}
    notes = {id(call): why for call, why in failure.open}
    blocked = failure.blocked
    rows = [_Row(blocked, 0, notes.get(id(blocked), ""))]
    rows += [_Row(call, 0, why) for call, why in failure.open if call is not blocked]
    # of those that have a place, the latest tell most
    placed = failure.placed[-max(most - len(rows), 0) :] if len(rows) < most else []
    rows = [*rows[:most], *(_Row(one.call, order[id(one.call)], "") for one in placed)]
    rows.sort(key=lambda row: (row.call.began, row.order))
    last = blocked.finished
    moments = {row.call.began for row in rows} | {row.call.finished for row in rows if row.call.finished <= last}
    column = {moment: number for number, moment in enumerate(sorted(moments))}
    beyond = len(column)
    for row in rows:
        row.begin = column[row.call.began]
        row.end = column.get(row.call.finished, beyond)
    return rows, column[last]


def text_report(failure: Failure) -> str:
    """The counter-example as lines of text, ending with a newline."""
    blocked = failure.blocked.operation
    lines = [
        f"Until {blocked.process}'s {title(blocked)} ended there is an order of the operations; up to that end there is none.",
        "",
    ]
    shown = failure.placed[-_LAST_STATES:]
    left_out = len(failure.placed) - len(shown)
    lines.append("The longest order ends with" if shown else "No operation can be placed before it. At the start:")
    before = failure.placed[left_out - 1].state if left_out else failure.initial
    start = f"{left_out:,} operations before" if left_out else "at the start"
    table = [("", "", start, f"{failure.model.describe(before)}")]
    for number, placed in enumerate(shown, left_out + 1):
        operation = placed.call.operation
        table.append((f"{number}.", operation.process, title(operation), failure.model.describe(placed.state)))
    lines += _aligned(table)
    lines += ["", "and none of these can come next:"]
    lines += _aligned([(call.operation.process, title(call.operation), why) for call, why in failure.open])
    lines += ["", "What ran when (the number is the place in that order; ✗ ended without one):"]
    lines += _bars(failure)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


def _bars(failure: Failure) -> list[str]:
    rows, last = _rows(failure, _TEXT_ROWS)
    lanes: dict[str, list[_Row]] = {}
    for row in rows:
        lanes.setdefault(row.call.operation.process, []).append(row)
    table = []
    for process in sorted(lanes, key=lambda name: (len(name), name)):
        for number, row in enumerate(lanes[process]):
            bar = [" "] * (2 * last + 4)
            begin, end = 2 * row.begin, min(2 * row.end, 2 * last + 2)
            bar[begin:end] = "─" * (end - begin)
            bar[begin] = "├"
            bar[end] = "…" if row.end > last else "✗" if row.call is failure.blocked else "┤"
            table.append(
                (
                    "" if number else process,
                    title(row.call.operation),
                    str(row.order) if row.order else "",
                    "".join(bar),
                )
            )
    return _aligned(table)


_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px; color: #1b1f24; background: #fff }
h1 { font-size: 20px } h2 { font-size: 16px; margin-top: 28px }
table { border-collapse: collapse } td, th { text-align: left; padding: 2px 14px 2px 0; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #ccc } code { font-family: ui-monospace, monospace; font-size: 13px }
#lanes { overflow-x: auto; border: 1px solid #ddd; margin: 8px 0 }
svg { display: block; font: 11px ui-monospace, monospace }
.ok { fill: #b7dfc1; stroke: #3a7d4d } .fail { fill: #f3d19c; stroke: #96661a } .unknown { fill: #d5d8dd; stroke: #6b7280 }
.blocked { fill: #f5a3a3; stroke: #b11f1f; stroke-width: 2 } .lane { fill: #f6f7f9 } .cut { stroke: #b11f1f; stroke-dasharray: 4 3 }
.swatch { display: inline-block; width: 12px; height: 12px; border: 1px solid #555; margin: 0 4px 0 14px }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c } .lane { fill: #1f2329 } svg text { fill: #e6e6e6 }
  svg .on { fill: #111 } #lanes { border-color: #444 } }
"""
_SCRIPT: Final = "const b=document.getElementById('lanes');b.scrollLeft=b.scrollWidth;"
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html_page(failure: Failure) -> str:
    """The counter-example as a page that loads nothing from anywhere."""
    blocked = failure.blocked.operation
    on = "" if failure.key is None else f" on {show(failure.key)}"
    head = f"No order of the operations{on}"
    steps = [
        (
            str(number),
            placed.call.operation.process,
            title(placed.call.operation, 200),
            failure.model.describe(placed.state),
        )
        for number, placed in enumerate(failure.placed, 1)
    ][-_PAGE_ROWS:]
    steps.insert(
        0, ("", "", f"{len(failure.placed) - len(steps):,} before" if len(failure.placed) > len(steps) else "start", "")
    )
    if len(failure.placed) < _PAGE_ROWS:
        steps[0] = ("", "", "start", failure.model.describe(failure.initial))
    candidates = [(call.operation.process, title(call.operation, 200), why) for call, why in failure.open]
    legend = "".join(
        f'<span class="swatch" style="background:{colour}"></span>{name}'
        for name, colour in (("ok", "#b7dfc1"), ("failed", "#f3d19c"), ("unknown", "#d5d8dd"), ("no place", "#f5a3a3"))
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(head)}</title><style>{_STYLE}</style></head><body>\n",
            f"<h1>{escape(head)}</h1>\n<p>Model {escape(failure.model.name)}, {len(failure.calls):,} operations. Until ",
            f"{escape(blocked.process)}'s <code>{escape(title(blocked, 200))}</code> ended there is an order of the operations; ",
            "up to that end there is none.</p>\n<h2>What ran when</h2>\n<p>Numbers are places in the longest order. Hover for ",
            f'details.{legend}</p>\n<div id="lanes">{_svg(failure)}</div>\n<h2>None of these can come next</h2>\n',
            _table(("process", "operation", "why not"), candidates),
            "<h2>The longest order</h2>\n",
            _table(("", "process", "operation", "state after it"), steps),
            f"<script>{_SCRIPT}</script></body></html>\n",
        )
    )


def _table(heads: tuple[str, ...], rows: list[Any]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>\n"


def _svg(failure: Failure) -> str:
    rows, last = _rows(failure, _PAGE_ROWS)
    by_process: dict[str, list[_Row]] = {}
    for row in rows:
        by_process.setdefault(row.call.operation.process, []).append(row)
    left = 12 + 7 * max(len(process) for process in by_process)
    width = left + _EVENT_PX * (last + 3)
    parts: list[str] = []
    top = 4
    for process in sorted(by_process, key=lambda name: (len(name), name)):
        # operations of one process that overlap (pipelined ones) get lanes of their own
        ends: list[int] = []
        drawn: list[str] = []
        for row in by_process[process]:
            lane = next((number for number, end in enumerate(ends) if end < row.begin), len(ends))
            ends[lane : lane + 1] = [row.end]
            drawn.append(_bar(failure, row, left, top + lane * _LANE_PX, last))
        height = len(ends) * _LANE_PX
        parts.append(f'<rect class="lane" x="0" y="{top}" width="{width}" height="{height}"/>')
        parts.append(f'<text x="6" y="{top + 17}">{escape(process)}</text>\n')
        parts += drawn
        top += height + 4
    cut = left + _EVENT_PX * last + _EVENT_PX // 2
    parts.append(f'<line class="cut" x1="{cut}" y1="0" x2="{cut}" y2="{top}"/>')
    return f'<svg width="{width}" height="{top}" role="img">{"".join(parts)}</svg>'


def _bar(failure: Failure, row: _Row, left: int, top: int, last: int) -> str:
    operation = row.call.operation
    x = left + _EVENT_PX * row.begin
    width = _EVENT_PX * (min(row.end, last + 1) - row.begin) + _EVENT_PX // 2
    kind = "blocked" if row.call is failure.blocked else operation.outcome
    ended = "never ended" if operation.ended == NEVER else f"ended {operation.ended:,} ns"
    hover = "\n".join(
        part
        for part in (
            f"{operation.process}: {title(operation, 200)}",
            f"invoked {operation.invoked:,} ns, {ended}, {operation.outcome}",
            f"place {row.order}" if row.order else "no place",
            row.note,
        )
        if part
    )
    label = title(operation) if not row.order else f"{row.order}  {title(operation)}"
    room = max(width // 7, 1)
    return (
        f'<g><title>{escape(hover)}</title><rect class="{kind}" x="{x}" y="{top + 3}" width="{width}" height="20" rx="3"/>'
        f'<text class="on" x="{x + 4}" y="{top + 17}">{escape(label[:room])}</text></g>\n'
    )
