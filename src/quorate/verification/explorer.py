"""Exhaustive exploration of a state space, breadth first.

A :class:`Space` says where a system starts, what may happen in each of its states, and which states must never be. The
explorer visits every reachable state once, in the order of its distance from the start, so the first state found that must
not be is reached by a shortest trace. Nothing of it depends on chance, hash seeds or time: the same space gives the same
counts in the same order on every machine (unless the time budget ends it).

States are kept by their ``key``, in full and not by a fingerprint: two different states are never taken for one. Of the way
to a state only the number of its parent and the ordinal of the step are kept; the trace is found again by replaying.

Counts are those of TLC, to be compared with it: ``generated`` counts the initial states and every successor, ``distinct``
the different ones, and ``depth`` the states on a longest of the shortest traces, the initial one included.
"""

import time
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, Generic, Literal, Protocol, TypeVar

State = TypeVar("State")
Action = TypeVar("Action")
ActionOut = TypeVar("ActionOut", covariant=True)

_NO_PARENT: Final = -1
_ORDINALS_MAX: Final = 0xFFFF
_CLOCK_EVERY: Final = 256
"""States expanded between two looks at the clock."""

End = Literal["complete", "violation", "states", "depth", "time"]
"""Why an exploration ended: all was visited, a state that must not be was found, or which bound was reached."""


class Space(Protocol[State, ActionOut]):
    """A system to explore. All answers depend on the arguments alone, and so does their order."""

    def initial(self) -> Iterable[State]:
        """The states it may start in."""

    def successors(self, state: State) -> Sequence[tuple[ActionOut, State]]:
        """Everything that may happen in a state, and the state that comes of it; at most 65,536 of them."""

    def key(self, state: State) -> Hashable:
        """Equal for two states exactly if they are the same state."""

    def violation(self, state: State) -> str:
        """Which invariant does not hold in a state, and how; empty if all hold."""


class Trace(Generic[State, Action]):
    """A way from an initial state: ``steps[i]`` is what happened and the state it led to."""

    __slots__ = ("initial", "steps")

    def __init__(self, initial: State, steps: list[tuple[Action, State]]) -> None:
        self.initial = initial
        self.steps = steps

    @property
    def last(self) -> State:
        return self.steps[-1][1] if self.steps else self.initial


class Exploration(Generic[State, Action]):
    """What an exploration found."""

    __slots__ = ("depth", "distinct", "end", "generated", "levels", "seconds", "trace", "violation")

    def __init__(
        self,
        end: End,
        generated: int,
        levels: list[int],
        seconds: float,
        violation: str,
        trace: Trace[State, Action] | None,
    ) -> None:
        self.end: End = end
        self.generated = generated
        self.levels = levels
        """New states at each distance from the start."""
        self.distinct = sum(levels)
        self.depth = len(levels)
        self.seconds = seconds
        self.violation = violation
        """Empty unless ``end`` is "violation"."""
        self.trace = trace
        """A shortest way to the violation, if there is one."""


class Explorer(Generic[State, Action]):
    def __init__(
        self,
        space: Space[State, Action],
        *,
        max_states: int = 0,
        max_depth: int = 0,
        time_budget: float = 0.0,
        progress: Callable[[int, int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bounds of 0 do not bind; ``time_budget`` in seconds. ``progress(depth, distinct, frontier)`` after each level."""
        self._space = space
        self._max_states = max_states
        self._max_depth = max_depth
        self._budget = time_budget
        self._progress = progress
        self._clock = clock
        self._parents = array("q")
        self._ordinals = array("H")
        self._generated = 0
        self._levels: list[int] = []
        self._began = 0.0

    def run(self) -> Exploration[State, Action]:
        """Explore from the start; may be called once. Raises what the space raises."""
        self._began = self._clock()
        space = self._space
        key, violation = space.key, space.violation
        parents, ordinals = self._parents, self._ordinals
        seen: set[Hashable] = set()
        frontier: list[State] = []
        for state in space.initial():
            self._generated += 1
            name = key(state)
            if name in seen:
                continue
            seen.add(name)
            parents.append(_NO_PARENT)
            ordinals.append(self._generated - 1)
            frontier.append(state)
            if wrong := violation(state):
                self._levels.append(len(frontier))
                return self._found(wrong)
        first = 0
        max_states, max_depth = self._max_states, self._max_depth
        while frontier:
            self._levels.append(len(frontier))
            if self._progress is not None:
                self._progress(len(self._levels), len(parents), len(frontier))
            if max_depth and len(self._levels) >= max_depth:
                return self._end("depth")
            found: list[State] = []
            for offset, state in enumerate(frontier):
                if not offset % _CLOCK_EVERY and self._late():
                    self._levels.append(len(found))
                    return self._end("time")
                successors = space.successors(state)
                assert len(successors) <= _ORDINALS_MAX + 1
                self._generated += len(successors)
                for ordinal, (_, successor) in enumerate(successors):
                    name = key(successor)
                    if name in seen:
                        continue
                    seen.add(name)
                    parents.append(first + offset)
                    ordinals.append(ordinal)
                    found.append(successor)
                    if wrong := violation(successor):
                        self._levels.append(len(found))
                        return self._found(wrong)
                if max_states and len(parents) >= max_states:
                    self._levels.append(len(found))
                    return self._end("states")
            first += len(frontier)
            frontier = found
        return self._end("complete")

    def _late(self) -> bool:
        return bool(self._budget) and self._clock() - self._began >= self._budget

    def _end(self, end: End) -> Exploration[State, Action]:
        levels = [count for count in self._levels if count]
        return Exploration(end, self._generated, levels, self._clock() - self._began, "", None)

    def _found(self, wrong: str) -> Exploration[State, Action]:
        """The state visited last must not be."""
        trace = self._trace(len(self._parents) - 1)
        return Exploration("violation", self._generated, self._levels, self._clock() - self._began, wrong, trace)

    def _trace(self, number: int) -> Trace[State, Action]:
        ordinals: list[int] = []
        while number != _NO_PARENT:
            ordinals.append(self._ordinals[number])
            number = self._parents[number]
        ordinals.reverse()
        initial = state = list(self._space.initial())[ordinals[0]]
        steps: list[tuple[Action, State]] = []
        for ordinal in ordinals[1:]:
            action, state = self._space.successors(state)[ordinal]
            steps.append((action, state))
        return Trace(initial, steps)
