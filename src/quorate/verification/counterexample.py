"""A trace that ends in a state that must not be, drawn: one lane per process, one row per step, time downwards.

``text`` is for a terminal, ``html`` a single page without scripts in which messages are arrows from the row where they were
sent to the row where they arrived.
"""

from html import escape
from textwrap import wrap
from typing import Final

LANE_MIN: Final = 24
LANE_MAX: Final = 44
"""Columns of text that a lane may take."""

_ROW: Final = 17
_LANE: Final = 330
_LEFT: Final = 60
_TOP: Final = 40
_PAD: Final = 9


class Row:
    """One step: per lane, what happened there, the cause first; ``arrows`` are (row, lane) whence what arrived had come."""

    __slots__ = ("arrows", "lines")

    def __init__(self) -> None:
        self.lines: dict[int, list[str]] = {}
        self.arrows: list[tuple[int, int, int]] = []
        """(row and lane of the sender, lane of the receiver)."""

    def say(self, lane: int, text: str) -> None:
        self.lines.setdefault(lane, []).append(text)


class Counterexample:
    """``verdict`` says what is wrong after the last row."""

    __slots__ = ("lanes", "rows", "verdict")

    def __init__(self, verdict: str, lanes: list[str], rows: list[Row]) -> None:
        self.verdict = verdict
        self.lanes = lanes
        self.rows = rows

    def text(self, width: int = 140) -> str:
        """Lanes side by side in at most ``width`` columns, as far as each can have LANE_MIN."""
        lane = max(LANE_MIN, min(LANE_MAX, (width - 6) // len(self.lanes) - 2))
        lines = [self.verdict, f"a shortest trace to it, of {len(self.rows)} steps:", ""]
        lines.append(_columns("step", self.lanes, lane))
        for number, row in enumerate(self.rows, 1):
            cells = [_cell(row.lines.get(index, []), lane) for index in range(len(self.lanes))]
            for height in range(max(map(len, cells), default=0)):
                parts = [cell[height] if height < len(cell) else "" for cell in cells]
                lines.append(_columns(str(number) if height == 0 else "", parts, lane))
        return "\n".join([*lines, "", self.verdict]) + "\n"

    def html(self) -> str:
        """A page of its own."""
        tops: list[int] = []
        bottom = _TOP
        for row in self.rows:
            tops.append(bottom)
            bottom += max((len(_cell(lines, LANE_MAX)) for lines in row.lines.values()), default=1) * _ROW + _PAD
        width = _LEFT + _LANE * len(self.lanes)
        parts = [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"><title>Counter-example</title><style>',
            "body{font:14px sans-serif;margin:1em;color:#222}text{font:12px monospace}.cause{font-weight:bold}",
            ".step{fill:#999}.lane{stroke:#ddd}.arrow{stroke:#c60;fill:none;opacity:.55}.row:hover{fill:#f4f4ff}",
            ".row{fill:transparent}h1{font-size:16px}",
            "</style></head><body>",
            f"<h1>{escape(self.verdict)}</h1><p>A shortest trace to it, of {len(self.rows)} steps.</p>",
            f'<svg width="{width}" height="{bottom + 10}" xmlns="http://www.w3.org/2000/svg">',
            '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
            '<path d="M0,0L8,4L0,8z" fill="#c60"/></marker></defs>',
        ]
        for index, name in enumerate(self.lanes):
            x = _LEFT + index * _LANE
            parts.append(f'<line class="lane" x1="{x - 8}" y1="20" x2="{x - 8}" y2="{bottom}"/>')
            parts.append(f'<text class="cause" x="{x}" y="16">{escape(name)}</text>')
        for number, (row, top) in enumerate(zip(self.rows, tops, strict=True)):
            after = tops[number + 1] if number + 1 < len(tops) else bottom
            parts.append(f'<rect class="row" x="0" y="{top}" width="{width}" height="{after - top}"/>')
            parts.append(f'<text class="step" x="4" y="{top + 12}">{number + 1}</text>')
            for index, lines in sorted(row.lines.items()):
                for height, line in enumerate(_cell(lines, LANE_MAX)):
                    kind = ' class="cause"' if height == 0 else ""
                    x, y = _LEFT + index * _LANE, top + 12 + height * _ROW
                    parts.append(f'<text{kind} x="{x}" y="{y}">{escape(line)}</text>')
            for source, sender, receiver in row.arrows:
                parts.append(_arrow(tops[source] + 8, sender, top + 8, receiver))
        return "\n".join([*parts, "</svg></body></html>"]) + "\n"


def _arrow(from_y: int, sender: int, to_y: int, receiver: int) -> str:
    start = _LEFT + sender * _LANE + (_LANE - 20 if receiver > sender else -12)
    end = _LEFT + receiver * _LANE + (-4 if receiver > sender else _LANE - 24)
    return f'<line class="arrow" x1="{start}" y1="{from_y}" x2="{end}" y2="{to_y}" marker-end="url(#head)"/>'


def _cell(lines: list[str], width: int) -> list[str]:
    """Lines broken to ``width``; those after the cause are set in."""
    cell: list[str] = []
    for index, line in enumerate(lines):
        first = "" if index == 0 else "  "
        cell += wrap(line, width, initial_indent=first, subsequent_indent="    ")
    return cell


def _columns(step: str, cells: list[str], width: int) -> str:
    return f"{step:>4}  " + "  ".join(f"{cell:<{width}}" for cell in cells).rstrip()
