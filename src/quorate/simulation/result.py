"""How a run ended, and what every simulated protocol offers to those who run many seeds, draw one or shrink one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from quorate.simulation.trace import Event


class Violation(AssertionError):
    """A promise is broken; the text says which, where and how."""


class Result:
    """``failure``: the violation, empty if there is none. ``virtual`` is nanoseconds, ``recovery`` too: from the end of the
    faults until the system worked again."""

    __slots__ = (
        "commits",
        "digest",
        "events",
        "failure",
        "lanes",
        "operations",
        "options",
        "probes",
        "recovery",
        "seed",
        "trace",
        "virtual",
    )

    def __init__(self, seed: int, options: Mapping[str, object]) -> None:
        self.seed = seed
        self.options = options
        self.failure = ""
        self.events = 0
        """Calls made by the scheduler."""
        self.virtual = 0
        self.recovery = 0
        self.commits = 0
        self.operations = 0
        """What clients asked for, whatever came of it."""
        self.digest = 0
        self.probes: Mapping[str, int] = {}
        """How often something came about, by name."""
        self.trace: Sequence[Event] | None = None
        self.lanes: Sequence[str] = ()
        """Names of the machines, in the order in which they are to be drawn."""


class Simulation(Protocol):
    """One protocol under simulation."""

    def options(self, seed: int) -> dict[str, object]:
        """The faults and sizes that the seed draws: plain values (numbers, strings, booleans, lists of them), so that they can
        be printed, changed by a shrinker, and handed back."""

    def smaller(self, options: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
        """Ways to make these options do less, most drastic first: (what was changed, the options then)."""

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        """Run the seed, with its own options or with these. Never raises for a violation: it is in the result."""
