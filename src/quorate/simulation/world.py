"""What every simulated world has: its time, its trace, what came about in it and the first promise that was broken."""

from collections import Counter
from typing import Any

from quorate.simulation import trace as kinds
from quorate.simulation.scheduler import Scheduler
from quorate.simulation.trace import Trace


class World:
    """``failure`` is the first broken promise, and ends the run; ``error`` the exception behind it, if there is one. ``probes``: how often something came
    about, by name. ``commits``: what was applied anywhere."""

    def __init__(self, seed: int, options: dict[str, Any], keep_trace: bool) -> None:
        self.seed = seed
        self.options = options
        self.scheduler = Scheduler()
        self.trace = Trace(keep_trace)
        self.failure = ""
        self.error: BaseException | None = None
        self.probes: Counter[str] = Counter()
        self.commits = 0

    def violate(self, text: str) -> None:
        if not self.failure:
            self.failure = text
            self.trace.note(self.scheduler.now, kinds.FAILURE, "", text=text)

    def probe(self, name: str) -> None:
        self.probes[name] += 1
