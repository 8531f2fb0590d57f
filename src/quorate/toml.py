"""Configuration files in TOML, read key by key: every mistake is told with the file and the key, and so is a key that nobody asked for."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quorate.errors import ConfigError


def read(file: str) -> "Table":
    """The whole document. Raises ConfigError, which names the file."""
    try:
        with open(file, "rb") as source:
            document = tomllib.load(source)
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", file) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no TOML: {error}", file) from None
    return Table(document, "", file)


class Table:
    """A table of the document; remembers which keys were asked for."""

    def __init__(self, values: Mapping[str, Any], name: str, file: str) -> None:
        self.file = file
        self._values = values
        self._name = name
        self._asked: set[str] = set()

    def key(self, key: str) -> str:
        """As a message names it."""
        return f"{self._name}.{key}" if self._name else key

    def _get(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            raise ConfigError(f"{self.key(key)} is missing, expected {wanted}", self.file)
        if not fits(value):
            raise ConfigError(f"{self.key(key)}: expected {wanted}, found {value!r}", self.file)
        return value

    def has(self, key: str) -> bool:
        self._asked.add(key)
        return key in self._values

    def table(self, key: str) -> "Table":
        return Table(self._get(key, None, "a table", lambda value: isinstance(value, dict)), self.key(key), self.file)

    def tables(self, key: str) -> list["Table"]:
        found = self._get(
            key,
            None,
            "tables",
            lambda value: isinstance(value, list) and len(value) > 0 and all(isinstance(item, dict) for item in value),
        )
        return [Table(item, f"{self.key(key)}[{index}]", self.file) for index, item in enumerate(found)]

    def number(self, key: str, least: int, most: int, default: int | None = None) -> int:
        wanted = f"a number from {least} to {most}"
        return int(self._get(key, default, wanted, lambda value: type(value) is int and least <= value <= most))

    def truth(self, key: str, default: bool) -> bool:
        return bool(self._get(key, default, "true or false", lambda value: isinstance(value, bool)))

    def seconds(self, key: str, least: float, most: float, default: float) -> float:
        wanted = f"a number of seconds from {least:g} to {most:g}"
        return float(
            self._get(key, default, wanted, lambda value: type(value) in (int, float) and least <= value <= most)
        )

    def one_of(self, key: str, choices: Sequence[str], default: str | None = None) -> str:
        wanted = f"one of {', '.join(choices)}"
        return str(self._get(key, default, wanted, lambda value: value in choices))

    def text(self, key: str, default: str | None = None) -> str:
        return str(self._get(key, default, "a text", lambda value: isinstance(value, str) and value != ""))

    def texts(self, key: str, default: list[str]) -> list[str]:
        return list(
            self._get(
                key,
                default,
                "a list of texts",
                lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
            )
        )

    def address(self, key: str) -> str:
        return str(self._get(key, None, '"host:port"', is_address))

    def nothing_else(self) -> None:
        unknown = sorted(set(self._values) - self._asked)
        if unknown:
            raise ConfigError(
                f"{self.key(unknown[0])} is not known; the keys here are: {', '.join(sorted(self._asked))}", self.file
            )


def is_address(value: object) -> bool:
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    return host != "" and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
