"""A smaller run that still fails: fewer faults, shorter, with less of everything.

First the options are made smaller, for as long as the run fails in the same way. Then the faults that struck become a given
schedule, and parts of it are left out, halves first (delta debugging: Zeller and Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", 2002). Two failures are the same if the texts before their first colons are.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from quorate.simulation.result import Result, Simulation

RUNS_MAX: Final = 2000
PINS_MAX: Final = 20


def kind_of(failure: str) -> str:
    return failure.partition(":")[0]


def shrink(
    simulation: Simulation,
    result: Result,
    given: Mapping[str, object] | None,
    *,
    time_budget: float = 0.0,
    runs_max: int = RUNS_MAX,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Result, dict[str, object]]:
    """The smallest run found that fails as ``result`` does, which came of the options ``given`` (None for the seed's own), maybe
    ``result`` itself; and the options that repeat it. ``time_budget`` in seconds, 0 for none."""
    return _Shrinker(simulation, result, given, time_budget, runs_max, tell).smallest()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What became of the options, one line for each that changed; of a schedule, how many faults it has."""
    lines: list[str] = []
    for name, old in before.items():
        new = after.get(name)
        if name == "schedule":
            lines.append(f"faults that struck: {len(old or ())} -> {len(new or ())}")
        elif new != old:
            lines.append(f"{name}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines


class _Shrinker:
    def __init__(
        self,
        simulation: Simulation,
        result: Result,
        given: Mapping[str, object] | None,
        time_budget: float,
        runs_max: int,
        tell: Callable[[str], None],
    ) -> None:
        self._simulation = simulation
        self._seed = result.seed
        self._kind = kind_of(result.failure)
        self._options: dict[str, Any] = dict(simulation.options(result.seed) if given is None else given)
        """What the smallest run was given: with them it is exactly repeated."""
        self._failing: list[tuple[Result, dict[str, Any]]] = [(result, self._options)]
        """What failed, and the options it was given; the latest is the smallest."""
        self._left = runs_max
        self._deadline = time.monotonic() + time_budget if time_budget else float("inf")
        self._tell = tell

    def smallest(self) -> tuple[Result, dict[str, Any]]:
        self._make_smaller()
        if self._options.get("schedule") is None:
            self._pin()
        schedule = self._options.get("schedule")
        if isinstance(schedule, list):
            self._leave_out(schedule)
            while self._make_smaller():
                self._leave_out(self._options["schedule"])
        return self._failing[-1]

    def _pin(self) -> None:
        """Give the faults that struck instead of drawing them. They may strike a little otherwise then (between other events
        of the same instant), so a run that no longer fails is no reason to give up on those before it."""
        for result, options in reversed(self._failing[-PINS_MAX:]):
            struck = result.options.get("schedule")
            if isinstance(struck, list) and self._fails({**options, "schedule": struck}):
                self._tell(f"still fails: these {len(struck)} faults")
                return

    @property
    def _over(self) -> bool:
        return self._left <= 0 or time.monotonic() >= self._deadline

    def _fails(self, options: Mapping[str, object]) -> bool:
        if self._over:
            return False
        self._left -= 1
        result = self._simulation.run(self._seed, options)
        if not result.failure or kind_of(result.failure) != self._kind:
            return False
        self._options = dict(options)
        self._failing.append((result, self._options))
        return True

    def _make_smaller(self) -> bool:
        """Take the first way that still fails, as long as there is one; False if there was none at all."""
        going, any_taken = True, False
        while going:
            going = False
            for change, options in self._simulation.smaller(self._options):
                if self._fails(options):
                    self._tell(f"still fails: {change}")
                    going = any_taken = True
                    break
        return any_taken

    def _leave_out(self, strikes: list[Any]) -> None:
        size = len(strikes)
        while size:
            place, before = 0, len(strikes)
            while place < len(strikes):
                fewer = strikes[:place] + strikes[place + size :]
                if self._fails({**self._options, "schedule": fewer}):
                    strikes = fewer
                    self._tell(f"still fails: {len(fewer)} faults")
                else:
                    place += size
            # what could not go before may go without what went after it
            if size > 1 or len(strikes) == before:
                size //= 2
