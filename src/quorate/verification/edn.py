"""Reads EDN, the notation of Clojure and of Jepsen's histories (https://github.com/edn-format/edn).

nil, booleans, strings and numbers become Python's; ``N`` and ``M`` make no difference. A keyword or symbol is a ``Name``
(a str without the colon), a character a str. Lists and vectors become lists, maps dicts, sets frozensets; what is a key or a
member is frozen (``values.freeze``). Of a tagged value only the value counts (``#jepsen.history.Op{...}`` is its map).
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from quorate.errors import UsageError
from quorate.verification.values import MAX_DEPTH, freeze

_MAX_TOKEN: Final = 4000
"""Characters of a number or name."""

_BLANK: Final = re.compile(r"(?:[\s,]|;[^\n]*)*")
_ATOM: Final = re.compile(r"[^\s,;\"()\[\]{}\\]+")
_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_CHARACTER: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|[a-z]+|.)", re.DOTALL)
_INTEGER: Final = re.compile(r"[+-]?\d+N?\Z")
_DECIMAL: Final = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?M?\Z")

_CONSTANTS: Final = {"nil": None, "true": True, "false": False}
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_CHARACTERS: Final = {
    "newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b",
}  # fmt: skip
_CLOSERS: Final = {"(": ")", "[": "]", "{": "}"}


class Name(str):
    """A keyword or symbol."""

    __slots__ = ()


def values(text: str, source: str) -> Iterator[tuple[Any, int]]:
    """The values that stand in ``text`` one after another, each with its line.

    Raises UsageError with ``source`` and the line.
    """
    parser = Parser(text, source)
    while parser.more():
        line = parser.line
        yield parser.value(), line


def elements(text: str, source: str) -> Iterator[tuple[Any, int]]:
    """As ``values``; but if ``text`` begins with a vector or list, its elements, whatever follows it is refused."""
    parser = Parser(text, source)
    if not parser.more() or not parser.opens():
        while parser.more():
            line = parser.line
            yield parser.value(), line
        return
    closer = parser.open()
    while not parser.closes(closer):
        line = parser.line
        yield parser.value(), line
    if parser.more():
        raise parser.wrong("something follows the history, expected the end of the file")


class Parser:
    """Stands at a place in ``text``; ``line`` is that place's, from 1."""

    __slots__ = ("_at", "_counted", "_depth", "_line", "_source", "_text")

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._at = 0
        self._line = 1
        self._counted = 0
        self._depth = 0

    @property
    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def wrong(self, message: str) -> UsageError:
        return UsageError(f"{self._source}:{self.line}: {message}")

    def more(self) -> bool:
        """Go to the next value, over blanks, comments and discarded values; False at the end."""
        while True:
            self._skip()
            if not self._text.startswith("#_", self._at):
                return self._at < len(self._text)
            self._at += 2
            self._discard()

    def opens(self) -> bool:
        return self._text[self._at] in "[("

    def open(self) -> str:
        bracket = self._text[self._at]
        self._at += 1
        return _CLOSERS[bracket]

    def closes(self, closer: str) -> bool:
        """Step over ``closer`` if it is next. Raises UsageError at the end of the text."""
        if not self.more():
            raise self.wrong(f"the file ends, expected {closer!r}")
        if self._text[self._at] != closer:
            return False
        self._at += 1
        return True

    def value(self) -> Any:
        """The value that comes next."""
        if not self.more():
            raise self.wrong("the file ends, expected a value")
        if self._depth > MAX_DEPTH:
            raise self.wrong(f"values nest deeper than {MAX_DEPTH}")
        self._depth += 1
        found = self._value(self._text[self._at])
        self._depth -= 1
        return found

    def _value(self, first: str) -> Any:
        if first in "([":
            return self._sequence(_CLOSERS[first])
        if first == "{":
            return self._map()
        if first == '"':
            return self._string()
        if first == "\\":
            return self._character()
        if first == "#":
            return self._dispatched()
        if first in ")]}":
            raise self.wrong(f"{first!r} closes nothing, expected a value")
        return self._atom()

    def _skip(self) -> None:
        blank = _BLANK.match(self._text, self._at)
        if blank is not None:
            self._at = blank.end()

    def _discard(self) -> None:
        # several in a row discard as many values, which is a loop here so that a long row cannot overflow the stack
        count = 1
        while True:
            self._skip()
            if not self._text.startswith("#_", self._at):
                break
            self._at += 2
            count += 1
        for _ in range(count):
            self._skip()
            self.value()

    def _sequence(self, closer: str) -> list[Any]:
        self._at += 1
        items = []
        while not self.closes(closer):
            items.append(self.value())
        return items

    def _map(self) -> dict[Any, Any]:
        self._at += 1
        found: dict[Any, Any] = {}
        while not self.closes("}"):
            key = freeze(self.value())
            if key in found:
                raise self.wrong(f"the key {key!r} stands twice in a map")
            if self.closes("}"):
                raise self.wrong(f"the key {key!r} has no value")
            found[key] = self.value()
        return found

    def _string(self) -> str:
        match = _STRING.match(self._text, self._at)
        if match is None:
            raise self.wrong("a string has no end, expected '\"'")

        def escaped(escape: re.Match[str]) -> str:
            code = escape[1]
            if len(code) == 5:
                return chr(int(code[1:], 16))
            if code not in _ESCAPES:
                raise self.wrong(f"a string holds the escape \\{code}, which EDN has not")
            return _ESCAPES[code]

        text = _ESCAPE.sub(escaped, match[1])
        self._at = match.end()
        return text

    def _character(self) -> str:
        match = _CHARACTER.match(self._text, self._at)
        if match is None:
            raise self.wrong("the file ends, expected a character after '\\'")
        name = match[1]
        if len(name) == 5 and name[0] == "u":
            found = chr(int(name[1:], 16))
        elif len(name) == 1 or name in _CHARACTERS:
            found = _CHARACTERS.get(name, name)
        else:
            raise self.wrong(f"\\{name} is no character")
        self._at = match.end()
        return found

    def _dispatched(self) -> Any:
        following = self._text[self._at + 1 : self._at + 2]
        if following == "{":
            self._at += 1
            line = self.line
            items = [freeze(item) for item in self._sequence("}")]
            found = frozenset(items)
            if len(found) != len(items):
                raise UsageError(f"{self._source}:{line}: a set holds a member twice")
            return found
        if following == "#":
            # ##Inf, ##-Inf and ##NaN: none of them is a value that a history can be judged by
            raise self.wrong("infinities and NaN are not supported, expected a value")
        if not following.isalpha():
            raise self.wrong("'#' begins no value here, expected #{...}, #_ or a tag")
        self._token()
        return self.value()

    def _token(self) -> str:
        match = _ATOM.match(self._text, self._at)
        if match is None:
            raise self.wrong(f"{self._text[self._at]!r} begins no value")
        token = match[0]
        if len(token) > _MAX_TOKEN:
            raise self.wrong(f"a number or name is longer than {_MAX_TOKEN} characters")
        self._at = match.end()
        return token

    def _atom(self) -> Any:
        start = self._at
        token = self._token()
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if _INTEGER.match(token):
            return int(token.rstrip("N"))
        if _DECIMAL.match(token):
            return float(token.rstrip("M"))
        if token[0].isdigit() or (token[0] in "+-" and token[1:2].isdigit()):
            self._at = start
            raise self.wrong(f"{token!r} is no number")
        if token[0] == ":":
            if len(token) == 1 or token[1] == ":":
                self._at = start
                raise self.wrong(f"{token!r} is no keyword")
            return Name(token[1:])
        return Name(token)
