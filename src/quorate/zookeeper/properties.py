"""Java's properties syntax, the one zoo.cfg is written in (java.util.Properties.load, "Properties File Format").

Promises to split a file into the same keys and values as Java does: ``#`` and ``!`` comments, ``=``, ``:`` or blanks as
separators, backslash continuations and escapes. It differs in one point: a file that is valid UTF-8 is read as UTF-8
(Java reads Latin-1 and makes two letters of an ``é``); anything else is read as Latin-1.
"""

from typing import NamedTuple

from quorate.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
"""No configuration file is longer; what is was named by mistake."""

_BLANKS = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class Property(NamedTuple):
    """One setting; ``line`` counts from 1 and is where its key stands. Key and value are trimmed, as Apache does."""

    key: str
    value: str
    line: int


def decode(data: bytes, file: str) -> str:
    """The text of a properties file. Raises ConfigError if it is too long or binary."""
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"the file is larger than {MAX_FILE_BYTES} bytes, which no configuration is", file)
    if b"\0" in data:
        raise ConfigError("the file holds binary data, not a configuration", file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse(text: str, file: str) -> list[Property]:
    """The settings of ``text`` in the order of the file, repeated keys included. Raises ConfigError."""
    found = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    index = 0
    while index < len(lines):
        start = index
        line = lines[index].lstrip(_BLANKS)
        index += 1
        if not line or line[0] in "#!":
            continue
        while _continues(line):
            line = line[:-1]
            if index == len(lines):
                break
            line += lines[index].lstrip(_BLANKS)
            index += 1
        key, value = _split(line)
        key, value = _unescape(key, file, start + 1), _unescape(value, file, start + 1)
        found.append(Property(key.strip(), value.strip(), start + 1))
    return found


def escape(value: str) -> str:
    """``value`` written so that Java and this module both read it back, whatever its characters."""
    out = []
    for char in value:
        if char == "\\":
            out.append("\\\\")
        elif " " <= char <= "~":
            out.append(char)
        else:
            encoded = char.encode("utf-16-be", "surrogatepass")
            out += [f"\\u{encoded[at : at + 2].hex()}" for at in range(0, len(encoded), 2)]
    return "".join(out)


def _continues(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _split(line: str) -> tuple[str, str]:
    at = 0
    while at < len(line) and line[at] not in "=:" and line[at] not in _BLANKS:
        at += 2 if line[at] == "\\" else 1
    at = min(at, len(line))
    rest = line[at:].lstrip(_BLANKS)
    if rest and rest[0] in "=:":
        rest = rest[1:].lstrip(_BLANKS)
    return line[:at], rest


def _unescape(text: str, file: str, line: int) -> str:
    if "\\" not in text:
        return text
    out = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char != "\\" or at == len(text):
            out.append(char)
            continue
        char = text[at]
        at += 1
        if char == "u":
            digits = text[at : at + 4]
            if len(digits) < 4 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
                raise ConfigError(f"\\u is followed by {digits!r}, expected four hexadecimal digits", file, line)
            out.append(chr(int(digits, 16)))
            at += 4
        else:
            out.append(_ESCAPES.get(char, char))
    # Java strings are UTF-16: two \u escapes may make one character
    return "".join(out).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
