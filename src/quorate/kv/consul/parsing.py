"""What a request asks for: durations, indices, how consistent, how long to wait."""

import re

from quorate.runtime.http import Request, Response

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
WAIT_DEFAULT = 300 * 10**9
WAIT_MAX = 600 * 10**9
STALE = (1 << 63) - 1
TRUE = frozenset(("", "1", "t", "T", "true", "TRUE", "True"))


class Refusal(Exception):
    """Answered with ``status`` and the text as it is."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def response(self) -> Response:
        return Response(self.status, str(self).encode())


def duration(text: str) -> int:
    """Nanoseconds of a duration in Go's notation, "1m30s". Raises ValueError."""
    if text == "0":
        return 0
    total, at = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != at:
            raise ValueError(text)
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if at == 0 or at != len(text):
        raise ValueError(text)
    return int(total)


def go_duration(ns: int) -> str:
    """As Go prints it: "15s", "1m0s", "24h0m0s"."""
    if ns % 10**9:
        return f"{ns / 10**6:g}ms"
    seconds = ns // 10**9
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def has(request: Request, name: str) -> bool:
    """A flag counts by its presence."""
    return request.argument(name) is not None


def number(request: Request, name: str, what: str, status: int = 400) -> int | None:
    """An unsigned number of the query. Raises Refusal."""
    text = request.argument(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 64:
        raise Refusal(status, what)
    return int(text)


def go_number(request: Request, name: str) -> int | None:
    """The same, where Consul lets Go's own words out. Raises Refusal."""
    text = request.argument(name)
    why = "value out of range" if text is not None and text.isascii() and text.isdigit() else "invalid syntax"
    return number(request, name, f'strconv.ParseUint: parsing "{text}": {why}', 500)


def staleness(request: Request) -> int:
    """Nanoseconds by which an answer may be old. Raises Refusal."""
    if has(request, "stale"):
        if has(request, "consistent"):
            raise Refusal(400, "Cannot specify ?stale with ?consistent, conflicting semantics.")
        return STALE
    return 0


def blocking(request: Request) -> tuple[int, int]:
    """(index to be passed, 0 for no waiting; nanoseconds to wait at most). Raises Refusal."""
    index = number(request, "index", "Invalid index") or 0
    text = request.argument("wait")
    wait = WAIT_DEFAULT
    if text:
        try:
            wait = duration(text)
        except ValueError:
            raise Refusal(400, "Invalid wait time") from None
    return index, min(wait or WAIT_DEFAULT, WAIT_MAX)


def key_of(path: str, prefix: str) -> bytes:
    """The key behind ``prefix`` in a path that is decoded already; bytes that were no text are as they were."""
    return path[len(prefix) :].encode("utf-8", "surrogateescape")
