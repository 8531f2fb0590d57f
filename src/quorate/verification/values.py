"""Values of a history as states hold them: hashable, comparable, and shown in one short form.

JSON's and EDN's lists, maps and sets cannot be members of a set of states; ``freeze`` gives each an equal that can. ``true``
and ``1`` stay different, which Python's own comparison would not keep.
"""

from typing import Any, Final

from quorate.errors import UsageError

MAX_DEPTH: Final = 64
"""How deep values may nest."""
_SHOWN = 60


class Word:
    """A value equal to itself alone."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


TRUE: Final = Word("true")
FALSE: Final = Word("false")
ANY: Final = Word("anything")
"""A state of which nothing is known yet."""


_MAP: Final = Word("map")
"""The first item of a frozen map; its entries follow, ordered by how their keys are shown."""


def freeze(value: Any, depth: int = 0) -> Any:
    """Raises UsageError if ``value`` nests too deep."""
    if value is None or value.__class__ is int or value.__class__ is str:
        return value
    if depth > MAX_DEPTH:
        raise UsageError(f"a value nests deeper than {MAX_DEPTH}")
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, list | tuple):
        return tuple(freeze(item, depth + 1) for item in value)
    if isinstance(value, dict):
        entries = ((freeze(key, depth + 1), freeze(item, depth + 1)) for key, item in value.items())
        return (_MAP, *sorted(entries, key=lambda entry: repr(entry[0])))
    if isinstance(value, set | frozenset):
        return frozenset(freeze(item, depth + 1) for item in value)
    return value


def show(value: Any, limit: int = _SHOWN) -> str:
    """One line of at most ``limit`` characters, the same in every run."""
    text = _show(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple) and value and value[0] is _MAP:
        return "{" + ", ".join(f"{_show(key)}: {_show(item)}" for key, item in value[1:]) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_show(key)}: {_show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    if isinstance(value, set | frozenset):
        return "#{" + ", ".join(sorted(map(_show, value))) + "}"
    return repr(value)
