"""Durations as people write them on a command line: a number with s, m or h."""

import re
from typing import Final

from quorate.errors import UsageError

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", re.ASCII)


def seconds(option: str, text: str) -> float:
    """Seconds; 0 for "". Raises UsageError, naming the ``option``, for what is not a time or none at all."""
    if not text:
        return 0.0
    match = _DURATION.fullmatch(text)
    found = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not found:
        raise UsageError(f"{option} {text!r} is not a time, expected a number with s, m or h such as 5m")
    return found
