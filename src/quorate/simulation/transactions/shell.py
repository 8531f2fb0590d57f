"""Flows in virtual time. A process that dies drops its flows where they are."""

from collections.abc import Callable, Generator
from typing import Any

from quorate.simulation.scheduler import SECOND, Scheduler
from quorate.transactions.errors import TimeUp
from quorate.transactions.flow import All, Call, Done, Failed, Flow, Sleep, Step

Told = Callable[[Done[Any] | Failed], None]


class Waiting:
    """What is answered later: ``tell`` is called once, by whoever knows the answer."""

    __slots__ = ("_listener", "_result")

    def __init__(self) -> None:
        self._listener: Told | None = None
        self._result: Done[Any] | Failed | None = None

    def listen(self, listener: Told) -> None:
        self._listener = listener
        if self._result is not None:
            listener(self._result)

    def tell(self, result: Done[Any] | Failed) -> None:
        if self._result is None:
            self._result = result
            if self._listener is not None:
                self._listener(result)


class Strand:
    """A flow on its way; see ``transactions.shells.blocking``."""

    __slots__ = ("stack", "told", "until", "wait")

    def __init__(self, flow: Flow[Any], until: int | None, told: Told) -> None:
        self.stack: list[Flow[Any]] = [flow]
        self.until = until
        self.told = told
        self.wait = 0


class Shell:
    """One process's. ``at_point`` is called before every call, and says for how long to hold it up (nanoseconds), or None if the process is dead by then.
    ``clock``: what the process takes for the time, in seconds since 1970."""

    def __init__(
        self, scheduler: Scheduler, clock: Callable[[], float], at_point: Callable[[str, str], int | None]
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._at_point = at_point
        self.alive = True
        self.asleep_until = 0

    def start(self, flow: Flow[Any], told: Told) -> None:
        self._go_on(Strand(flow, None, told), None, None)

    def _later(self, delay: int, call: Callable[..., None], *args: object) -> None:
        self._scheduler.after(delay, call, *args)

    def _go_on(self, strand: Strand, value: Any, error: Exception | None) -> None:
        while self.alive:
            asleep = self.asleep_until - self._scheduler.now
            if asleep > 0:
                self._later(asleep, self._go_on, strand, value, error)
                return
            try:
                step = strand.stack[-1].send(value) if error is None else strand.stack[-1].throw(error)
            except StopIteration as end:
                value, error = end.value, None
            except Exception as raised:
                value, error = None, raised
            else:
                if isinstance(step, Call):
                    self._reach(strand, step)
                    return
                if not self._other(strand, step):
                    return
                value, error = self._clock(), None
                continue
            strand.stack.pop()
            if not strand.stack:
                strand.told(Done(value) if error is None else Failed(error))
                return

    def _reach(self, strand: Strand, step: Call) -> None:
        delay = self._at_point("before", step.point)
        if delay is not None:
            self._later(delay, self._make, strand, step)

    def _make(self, strand: Strand, step: Call) -> None:
        if not self.alive:
            return
        try:
            found = step.function()
        except Exception as error:
            self._go_on(strand, None, error)
            return
        if isinstance(found, Generator):
            strand.stack.append(found)
            self._go_on(strand, None, None)
        elif isinstance(found, Waiting):
            strand.wait += 1
            wait = strand.wait
            if strand.until is not None:
                self._scheduler.at(strand.until, self._time_up, strand, wait)
            found.listen(lambda result: self._answered(strand, wait, result, step.point))
        else:
            self._go_on(strand, found, None)

    def _answered(self, strand: Strand, wait: int, result: Done[Any] | Failed, point: str) -> None:
        if not self.alive or strand.wait != wait:
            return
        delay = self._at_point("after", point)
        if delay is None:
            return
        if delay:
            # whoever was held up sees the answer, however late
            self._later(delay, self._answered_late, strand, wait, result)
            return
        self._answered_late(strand, wait, result)

    def _answered_late(self, strand: Strand, wait: int, result: Done[Any] | Failed) -> None:
        if not self.alive or strand.wait != wait:
            return
        strand.wait += 1
        if isinstance(result, Failed):
            self._go_on(strand, None, result.error)
        else:
            self._go_on(strand, result.value, None)

    def _time_up(self, strand: Strand, wait: int) -> None:
        if self.alive and strand.wait == wait:
            strand.wait += 1
            self._go_on(strand, None, TimeUp("no answer in time"))

    def _other(self, strand: Strand, step: Step) -> bool:
        """Whether it is answered at once (with the time)."""
        if isinstance(step, Sleep):
            self._later(int(step.seconds * SECOND), self._go_on, strand, None, None)
            return False
        if isinstance(step, All):
            self._side_by_side(strand, step)
            return False
        return True

    def _side_by_side(self, strand: Strand, step: All) -> None:
        until = strand.until
        if step.seconds is not None:
            own = self._scheduler.now + int(step.seconds * SECOND)
            until = own if until is None else min(own, until)
        found: list[Any] = [None] * len(step.flows)
        left = len(step.flows)
        if not left:
            self._later(0, self._go_on, strand, [], None)

        def told(index: int) -> Told:
            def tell(result: Done[Any] | Failed) -> None:
                nonlocal left
                found[index] = result
                left -= 1
                if not left:
                    self._later(0, self._go_on, strand, found, None)

            return tell

        for index, flow in enumerate(step.flows):
            self._go_on(Strand(flow, until, told(index)), None, None)
