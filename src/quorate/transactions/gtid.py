"""Names of transactions: ``q.<space>.<time><random>.<timeout>``, such as ``q.shop.01JDE0Z3V5ZK6Y7W8X9A0B1C2D.4w8``.

The space says whose it is: recovery touches no others. Time and timeout say when anybody may abort it, by a decision, who finds it prepared and
undecided. The clock decides only when that is tried, never what comes of it.

The time (10 characters) and the random part (16) are a ULID; the timeout is in milliseconds; all are Crockford's base 32. It is at most 64 bytes, the limit
of X/Open XA for a global transaction's name.
"""

import re

from quorate.errors import UsageError

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
SPACE_MAX = 20
_SPACE = re.compile(rf"[a-z0-9_-]{{1,{SPACE_MAX}}}\Z")
NAME_MAX = 40
_NAME = re.compile(rf"[a-z0-9_-]{{1,{NAME_MAX}}}\Z")
_TEXT = re.compile(rf"q\.([a-z0-9_-]{{1,{SPACE_MAX}}})\.([{_DIGITS}]{{10}})([{_DIGITS}]{{16}})\.([{_DIGITS}]{{1,8}})\Z")
TIMEOUT_MAX = 24 * 3600.0
RANDOM_BITS = 80


def _encode(number: int, width: int = 1) -> str:
    text = ""
    while number:
        text = _PAIRS[number & 1023] + text
        number >>= 10
    return text.lstrip("0").rjust(width, "0")


def _decode(text: str) -> int:
    number = 0
    for digit in text:
        number = number << 5 | _VALUES[digit]
    return number


def check_space(space: str) -> str:
    """Raises UsageError."""
    if not _SPACE.match(space):
        raise UsageError(f"{space!r} is no name of a space, expected 1 to {SPACE_MAX} of a-z, 0-9, _ and -")
    return space


def check_name(name: str) -> str:
    """Of a participant. Raises UsageError."""
    if not _NAME.match(name):
        raise UsageError(f"{name!r} is no name of a participant, expected 1 to {NAME_MAX} of a-z, 0-9, _ and -")
    return name


class Gtid:
    """``began`` and ``deadline``: seconds since 1970."""

    __slots__ = ("began", "deadline", "space", "text")

    def __init__(self, text: str, space: str, began: float, deadline: float) -> None:
        self.text = text
        self.space = space
        self.began = began
        self.deadline = deadline

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gtid) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Gtid({self.text!r})"


def new(space: str, now: float, timeout: float, random: int) -> Gtid:
    """``random``: 80 bits of it. Raises UsageError for a timeout that is none."""
    if not 0.001 <= timeout <= TIMEOUT_MAX:
        raise UsageError(f"a timeout of {timeout:g} s, expected 0.001 to {TIMEOUT_MAX:g}")
    began = int(now * 1000)
    lasting = int(timeout * 1000)
    text = f"q.{space}.{_encode(began, 10)}{_encode(random, 16)}.{_encode(lasting)}"
    return Gtid(text, space, began / 1000, (began + lasting) / 1000)


def parse(text: str) -> Gtid | None:
    """None if that is no name of ours."""
    found = _TEXT.match(text)
    if found is None:
        return None
    space, time, _, timeout = found.groups()
    began, lasting = _decode(time), _decode(timeout)
    if not 0 < lasting <= TIMEOUT_MAX * 1000:
        # nobody would ever find that its time is up
        return None
    return Gtid(text, space, began / 1000, (began + lasting) / 1000)
