"""A decorator that does a function again when it lost an optimistic race: exponential back-off with full jitter, a deadline, counters.

The *whole* function is done again: it must read, compute, write and commit, in a transaction of its own, so that nothing of a lost attempt is
left. What is no conflict passes through at once, and so does a cancellation.

Source of the pauses: Brooker, "Exponential Backoff And Jitter" (2015): each pause is a random part of a bound that doubles.
"""

import asyncio
import functools
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload

from quorate.errors import QuorateError, UsageError
from quorate.optimistic.conflicts import is_conflict

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")

ATTEMPTS_SHOWN = 32
"""Successes that took so many attempts or more are counted together."""


_DOUBLINGS = 30


class GaveUp(QuorateError):
    """It lost until the deadline, or as often as was allowed; the last conflict is the ``__cause__``."""

    def __init__(self, what: str, attempts: int, elapsed: float) -> None:
        self.attempts = attempts
        self.elapsed = elapsed
        super().__init__(f"{what}: gave up after {attempts} attempts in {elapsed:.3g} s, each of which met a conflict")


class Metrics:
    """What a ``Retry`` has seen. ``successes[n]``: calls that succeeded at the n-th attempt."""

    __slots__ = ("calls", "conflicts", "given_up", "successes")

    def __init__(self) -> None:
        self.calls = 0
        self.conflicts = 0
        self.given_up = 0
        self.successes = [0] * (ATTEMPTS_SHOWN + 1)

    def succeeded(self, attempts: int) -> None:
        self.successes[min(attempts, ATTEMPTS_SHOWN)] += 1

    def retries_per_success(self) -> float:
        done = sum(self.successes)
        return sum((attempts - 1) * count for attempts, count in enumerate(self.successes)) / done if done else 0.0


class Retry:
    """How to retry, and what came of it; one may serve many functions. Times are seconds.

    ``deadline``: from the beginning of a call, None for none; ``attempts``: at most, None for any number. ``first_pause`` bounds the first pause, and
    each bound is twice the one before, up to ``longest_pause``. ``on_conflict(attempt, error, pause)`` is called before each pause.
    ``classify`` says what is a conflict, besides cancellations, which never are. Raises UsageError for settings that cannot be.
    """

    def __init__(
        self,
        *,
        deadline: float | None = 10.0,
        attempts: int | None = None,
        first_pause: float = 0.005,
        longest_pause: float = 1.0,
        classify: Callable[[BaseException], bool] = is_conflict,
        on_conflict: Callable[[int, BaseException, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if (deadline is not None and deadline < 0) or (attempts is not None and attempts < 1):
            raise UsageError(f"a deadline of {deadline} and {attempts} attempts: expected at least 0 and 1")
        if not 0 <= first_pause <= longest_pause:
            raise UsageError(
                f"pauses from {first_pause} to {longest_pause} s: expected at least 0, and no less than the first"
            )
        self.metrics = Metrics()
        self._deadline = deadline
        self._attempts = attempts
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._classify = classify
        self._on_conflict = on_conflict
        self._clock = clock
        self._sleep = sleep
        self._async_sleep = async_sleep
        self._chance = chance

    def call(
        self, function: Callable[Parameters, Value], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Value:
        """Call it until it meets no conflict. Raises GaveUp, and whatever it raises that is none."""
        self.metrics.calls += 1
        began = self._clock()
        attempt = 1
        while True:
            try:
                value = function(*arguments, **named)
            except Exception as error:
                self._sleep(self._pause(function, attempt, began, error))
            else:
                self.metrics.succeeded(attempt)
                return value
            attempt += 1

    async def acall(
        self, function: Callable[Parameters, Awaitable[Value]], *arguments: Parameters.args, **named: Parameters.kwargs
    ) -> Value:
        """The same for what has to be awaited."""
        self.metrics.calls += 1
        began = self._clock()
        attempt = 1
        while True:
            try:
                value = await function(*arguments, **named)
            except Exception as error:
                await self._async_sleep(self._pause(function, attempt, began, error))
            else:
                self.metrics.succeeded(attempt)
                return value
            attempt += 1

    def _pause(self, function: Callable[..., object], attempt: int, began: float, error: Exception) -> float:
        """How long to wait before the next attempt. Raises ``error`` if it is no conflict, GaveUp if there is no next attempt."""
        if not self._classify(error):
            raise error
        self.metrics.conflicts += 1
        elapsed = self._clock() - began
        late = self._deadline is not None and elapsed >= self._deadline
        if late or (self._attempts is not None and attempt >= self._attempts):
            self.metrics.given_up += 1
            raise GaveUp(getattr(function, "__qualname__", repr(function)), attempt, elapsed) from error
        pause = self._chance() * min(self._first_pause * (1 << min(attempt - 1, _DOUBLINGS)), self._longest_pause)
        if self._deadline is not None:
            pause = min(pause, self._deadline - elapsed)
        if self._on_conflict is not None:
            self._on_conflict(attempt, error, pause)
        return pause

    def __call__(self, function: Callable[Parameters, Value]) -> Callable[Parameters, Value]:
        """As a decorator. Raises TypeError for a generator, of which a part would have been done before it is known to have lost."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator, which cannot be done again as a whole")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*arguments: Parameters.args, **named: Parameters.kwargs) -> Any:
                return await self.acall(function, *arguments, **named)

            return awaited  # type: ignore[return-value]  # Value is the awaitable here, and stays one

        @functools.wraps(function)
        def called(*arguments: Parameters.args, **named: Parameters.kwargs) -> Value:
            return self.call(function, *arguments, **named)

        return called


@overload
def retry(function: Callable[Parameters, Value], /) -> Callable[Parameters, Value]: ...


@overload
def retry(**settings: Any) -> Retry: ...


def retry(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """``@retry`` with the usual settings, or ``@retry(deadline=…, attempts=…, …)`` with those of ``Retry``."""
    return Retry(**settings) if function is None else Retry()(function)
