"""What the options of every simulation have in common: faults that a seed switches on, and a schedule of those that struck."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from quorate.errors import UsageError


def complete(
    draw: Callable[[int], dict[str, Any]], faults: Sequence[str], seed: int, changes: Mapping[str, object] | None
) -> dict[str, Any]:
    """The seed's options with ``changes``. Raises UsageError for a name or a kind of value that there is not."""
    options = draw(seed)
    for name, value in (changes or {}).items():
        if name not in options:
            raise UsageError(f"unknown simulation option {name!r}: expected one of {', '.join(options)}")
        expected = options[name]
        if name == "schedule":
            fits = value is None or isinstance(value, list)
        elif isinstance(expected, bool):
            fits = isinstance(value, bool)
        elif isinstance(expected, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        elif isinstance(expected, list):
            fits = isinstance(value, list) and all(item in faults for item in value)
        else:
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not fits:
            raise UsageError(f"simulation option {name}: {value!r} will not do, an example is {expected!r}")
        options[name] = value
    return options


class Ways:
    """To make a run with ``options`` do less, the most drastic first: begins with those to have fewer faults, as long as it is the seed that draws
    when they strike."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.found: list[tuple[str, dict[str, Any]]] = []
        enabled = list(options["enabled"])
        if options["schedule"] is not None:
            return
        if len(enabled) > 1:
            self.add("first half of the faults", enabled=enabled[: len(enabled) // 2])
            self.add("second half of the faults", enabled=enabled[len(enabled) // 2 :])
        for fault in enabled:
            self.add(f"without {fault}", enabled=[other for other in enabled if other != fault])
        if options["faults"] > 1:
            self.add("half as many faults", faults=options["faults"] // 2)

    def add(self, text: str, **values: Any) -> None:
        """If that changes anything."""
        if any(self._options[name] != value for name, value in values.items()):
            self.found.append((text, {**self._options, **values}))
