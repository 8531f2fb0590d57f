"""A simulation whose breakdown is a failure like any other, so that it can be told, repeated and shrunk."""

import traceback
from collections.abc import Mapping

from quorate.errors import UsageError
from quorate.simulation.batch import breakdown
from quorate.simulation.result import Result, Simulation


class Guarded:
    """``simulation`` with its exceptions turned into results without a trace; a UsageError is the caller's and stays one.

    ``crash`` is the traceback of the latest run, empty if it came to its end.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.crash = ""

    def options(self, seed: int) -> dict[str, object]:
        return self._simulation.options(seed)

    def smaller(self, options: Mapping[str, object]) -> list[tuple[str, dict[str, object]]]:
        return self._simulation.smaller(options)

    def run(self, seed: int, options: Mapping[str, object] | None = None, trace: bool = False) -> Result:
        self.crash = ""
        try:
            return self._simulation.run(seed, options, trace)
        except UsageError:
            raise
        except Exception:
            self.crash = traceback.format_exc()
            result = Result(seed, {**self._simulation.options(seed), **(options or {})})
            result.failure = breakdown(self.crash)
            return result
