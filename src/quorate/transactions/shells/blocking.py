"""Flows in the calling thread: it waits on all sockets at once, so that what runs side by side needs no threads, but for drivers that block."""

import heapq
import os
import select
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from types import GeneratorType
from typing import Any

from quorate.errors import UsageError
from quorate.transactions.errors import TimeUp
from quorate.transactions.flow import All, Call, Done, Failed, Flow, Sleep, Step, Value
from quorate.transactions.shells.aio import Watch, _nobody

_FOREVER = float("inf")
_Result = Done[Any] | Failed


class Shell:
    """``watch`` sees every call before it is made, and after it was answered; what it raises is raised by the call. ``threads``: carry what blocks while something else is under way."""

    def __init__(self, watch: Watch = _nobody, threads: ThreadPoolExecutor | None = None) -> None:
        self.watch = watch
        self.threads = threads

    def run(self, flow: Flow[Value]) -> Value:
        run = _Run(self)
        result = run.whole(flow)
        if isinstance(result, Failed):
            raise result.error
        found: Value = result.value
        return found


class _Strand:
    """A flow on its way. ``stack``: the flows that wait for one another, innermost last; ``told``: takes the result of the outermost."""

    __slots__ = ("point", "request", "stack", "told", "until", "wait")

    def __init__(self, flow: Flow[Any], until: float, told: Callable[[_Result], None]) -> None:
        self.stack: list[tuple[Flow[Any], str]] = [(flow, "")]
        self.until = until
        self.told = told
        self.wait = 0
        """Counts waits: a timer or a thread that comes too late knows by it."""
        self.request: Any = None
        self.point = ""


class _Run:
    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._poll = select.poll()
        self._requests: dict[int, _Strand] = {}
        self._timers: list[tuple[float, int, int, _Strand, bool]] = []
        self._order = 0
        self._live = 0
        self._answer: Any = None
        self._results: SimpleQueue[tuple[_Strand, int, Future[Any]]] = SimpleQueue()
        self._bell: tuple[int, int] | None = None
        self._strands: dict[_Strand, None] = {}
        """Those under way, in the order in which they began."""

    def whole(self, flow: Flow[Any]) -> _Result:
        ended: list[_Result] = []
        try:
            self._start(flow, _FOREVER, ended.append)
            while not ended:
                self._turn()
        except BaseException:
            # what came (Ctrl-C, say) comes to the flows as their end, so that they let go of what they hold
            for strand in reversed(list(self._strands)):
                while strand.stack:
                    strand.stack.pop()[0].close()
            raise
        finally:
            if self._bell is not None:
                os.close(self._bell[0])
                os.close(self._bell[1])
        return ended[0]

    # ---- strands

    def _start(self, flow: Flow[Any], until: float, told: Callable[[_Result], None]) -> None:
        self._live += 1
        self._go_on(_Strand(flow, until, told), None, None)

    def _go_on(self, strand: _Strand, value: Any, error: Exception | None) -> None:
        """Until it waits, or is at its end."""
        self._strands[strand] = None
        while True:
            flow, point = strand.stack[-1]
            try:
                step = flow.send(value) if error is None else flow.throw(error)
            except StopIteration as end:
                value, error = end.value, None
            except Exception as raised:
                value, error = None, raised
            else:
                value, error = None, None
                try:
                    if self._waits(strand, step):
                        return
                    value = self._answer
                except Exception as raised:
                    error = raised
                continue
            strand.stack.pop()
            if point and error is None:
                try:
                    self._shell.watch("after", point)
                except Exception as raised:
                    value, error = None, raised
            if not strand.stack:
                del self._strands[strand]
                self._live -= 1
                strand.told(Done(value) if error is None else Failed(error))
                return

    def _waits(self, strand: _Strand, step: Step) -> bool:
        """Whether the strand has to wait; if not, ``_answer`` is what came of the step."""
        if type(step) is Call:
            self._shell.watch("before", step.point)
            strand.point = step.point
            if step.blocks and self._live > 1 and self._shell.threads is not None:
                self._in_a_thread(strand, step)
                return True
            return self._result(strand, step.function())
        if type(step) is All:
            return self._side_by_side(strand, step)
        if type(step) is Sleep:
            self._timer(time.monotonic() + step.seconds, strand, False)
            return True
        self._answer = time.time()
        return False

    def _result(self, strand: _Strand, found: Any) -> bool:
        if isinstance(found, GeneratorType):
            strand.stack.append((found, strand.point))
            self._answer = None
            return False
        if hasattr(found, "advance"):
            descriptor = found.fileno()
            strand.request = found
            self._requests[descriptor] = strand
            self._poll.register(descriptor, select.POLLIN | select.POLLHUP)
            self._timer(strand.until, strand, True)
            return True
        if hasattr(found, "__await__"):
            if hasattr(found, "close"):
                found.close()
            raise UsageError(
                f"{strand.point}: this needs an event loop: use quorate.transactions.Coordinator for asynchronous connections"
            )
        self._shell.watch("after", strand.point)
        self._answer = found
        return False

    def _side_by_side(self, strand: _Strand, step: All) -> bool:
        until = strand.until
        if step.seconds is not None:
            until = min(until, time.monotonic() + step.seconds)
        found: list[Any] = [None] * len(step.flows)
        left = len(step.flows)
        started = False
        self._live -= 1

        def tell(index: int, result: _Result) -> None:
            nonlocal left
            found[index] = result
            left -= 1
            if started and not left:
                self._live += 1
                self._go_on(strand, found, None)

        # all are counted before the first one goes, so that it knows whether it is alone
        strands = [_Strand(flow, until, partial(tell, index)) for index, flow in enumerate(step.flows)]
        self._live += left
        for child in strands:
            self._go_on(child, None, None)
        started = True
        if left:
            return True
        self._live += 1
        self._answer = found
        return False

    # ---- waiting

    def _timer(self, at: float, strand: _Strand, is_limit: bool) -> None:
        if at == _FOREVER:
            return
        self._order += 1
        heapq.heappush(self._timers, (at, self._order, strand.wait, strand, is_limit))

    def _in_a_thread(self, strand: _Strand, step: Call) -> None:
        assert self._shell.threads is not None
        if self._bell is None:
            self._bell = os.pipe()
            os.set_blocking(self._bell[1], False)
            self._poll.register(self._bell[0], select.POLLIN)
        bell = self._bell[1]
        wait = strand.wait

        def over(future: "Future[Any]") -> None:
            self._results.put((strand, wait, future))
            try:
                os.write(bell, b"!")
            except OSError:
                """Nobody waits any more."""

        self._shell.threads.submit(step.function).add_done_callback(over)
        self._timer(strand.until, strand, True)

    def _turn(self) -> None:
        timeout = None
        while self._timers and self._timers[0][2] != self._timers[0][3].wait:
            heapq.heappop(self._timers)
        if self._timers:
            timeout = max(0.0, (self._timers[0][0] - time.monotonic()) * 1000)
        for descriptor, _ in self._poll.poll(timeout):
            if self._bell is not None and descriptor == self._bell[0]:
                os.read(descriptor, 4096)
                while not self._results.empty():
                    self._thread_over(*self._results.get())
            elif descriptor in self._requests:
                self._readable(descriptor)
        present = time.monotonic()
        while self._timers and self._timers[0][0] <= present:
            _, _, wait, strand, is_limit = heapq.heappop(self._timers)
            if wait != strand.wait:
                continue
            strand.wait += 1
            if not is_limit:
                self._go_on(strand, None, None)
                continue
            if strand.request is not None:
                self._forget_request(strand)
            self._go_on(strand, None, TimeUp("no answer in time"))

    def _readable(self, descriptor: int) -> None:
        strand = self._requests[descriptor]
        request = strand.request
        try:
            if not request.advance():
                return
            value, error = request.answer(), None
            self._shell.watch("after", strand.point)
        except Exception as raised:
            value, error = None, raised
        self._forget_request(strand)
        strand.wait += 1
        self._go_on(strand, value, error)

    def _forget_request(self, strand: _Strand) -> None:
        descriptor = strand.request.fileno()
        del self._requests[descriptor]
        self._poll.unregister(descriptor)
        strand.request = None

    def _thread_over(self, strand: _Strand, wait: int, future: "Future[Any]") -> None:
        if wait != strand.wait:
            return
        strand.wait += 1
        error = future.exception()
        if error is not None:
            self._go_on(strand, None, error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        try:
            if self._result(strand, future.result()):
                return
            value, failed = self._answer, None
        except Exception as raised:
            value, failed = None, raised
        self._go_on(strand, value, failed)
