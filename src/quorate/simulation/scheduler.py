"""Virtual time: a queue of calls, the clocks that machines read, and the streams of chance that a run draws from.

Everything is an integer number of nanoseconds. Calls due at the same instant are made in the order in which they were
scheduled, so one seed gives one run.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import TypeVar

Item = TypeVar("Item")

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000

Call = Callable[..., None]

_MILLION = 1_000_000


class Scheduler:
    """``events`` counts the calls made."""

    __slots__ = ("_heap", "_issued", "events", "now")

    def __init__(self) -> None:
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Call, tuple[object, ...]]] = []
        self._issued = 0

    def at(self, when: int, call: Call, *args: object) -> None:
        self._issued += 1
        heappush(self._heap, (when if when > self.now else self.now, self._issued, call, args))

    def after(self, delay: int, call: Call, *args: object) -> None:
        self._issued += 1
        heappush(self._heap, (self.now + delay, self._issued, call, args))

    def step(self) -> bool:
        """Make the next call; False if there is none."""
        if not self._heap:
            return False
        self.now, _, call, args = heappop(self._heap)
        self.events += 1
        call(*args)
        return True


class Clock:
    """A machine's monotonic clock: its own origin, a rate that is off by some parts per million, and jumps forward."""

    __slots__ = ("_base", "_drift", "_since")

    def __init__(self, offset: int = 0, drift_ppm: int = 0) -> None:
        self._base = offset
        self._since = 0
        self._drift = drift_ppm

    def local(self, now: int) -> int:
        past = now - self._since
        return self._base + past + past * self._drift // _MILLION

    def when(self, local: int) -> int:
        """The first instant at which this clock shows at least ``local`` (which may have passed)."""
        now = self._since + (local - self._base) * _MILLION // (_MILLION + self._drift)
        while self.local(now) < local:
            now += 1
        return now

    def change(self, now: int, jump: int, drift_ppm: int) -> None:
        """Go ``jump`` forward at once, and at another rate from here on."""
        assert jump >= 0, "a monotonic clock never goes back"
        self._base = self.local(now) + jump
        self._since = now
        self._drift = drift_ppm


class Stream:
    """One named stream of chance, so that a draw added to one part of a run does not shift the others.

    Built on ``Random.random`` alone, whose values are the same in every version of Python.
    """

    __slots__ = ("_random",)

    def __init__(self, seed: int, name: str) -> None:
        self._random = Random(f"{seed}/{name}").random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def between(self, low: int, high: int) -> int:
        """Uniform, both ends included."""
        return low + int(self._random() * (high - low + 1))

    def around(self, mean: int) -> int:
        """Mostly less than ``mean``, seldom much more (the product of two draws has a long tail)."""
        return int(mean * 4 * self._random() * self._random())

    def spread(self, low: int, high: int) -> int:
        """Uniform in magnitude: as likely between 1 and 10 as between 10 and 100."""
        return int(low * (high / low) ** self._random())

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        rest = list(items)
        result = []
        while rest:
            result.append(rest.pop(int(self._random() * len(rest))))
        return result
