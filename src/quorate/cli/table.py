"""Columns of text for people."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """``rows`` (the first one the heads) as aligned lines, each ended by a newline."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
