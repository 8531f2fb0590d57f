"""What is seen of a transaction on its way: how long each participant took for each phase, and spans of OpenTelemetry if its user traces.

A flow is wrapped so that what it asks of participants and of the log is seen (``orders: prepare``, ``log: decide``), and what it asks of several
side by side too. How they do it (their own statements) is not: those are the participants' flows.
"""

import time
from functools import lru_cache
from typing import Any

from quorate.transactions.flow import All, Call, Flow, Value
from quorate.transactions.metrics import Metrics
from quorate.transactions.tracing import Trace

PHASES = ("prepare", "decide", "commit", "rollback", "one phase")
LOG = "log"


class Observer:
    """Of one transaction. ``trace``: None if nobody traces."""

    __slots__ = ("_metrics", "trace")

    def __init__(self, metrics: Metrics, trace: Trace | None) -> None:
        self._metrics = metrics
        self.trace = trace

    def phase(self, phase: str, participant: str) -> "Phase":
        span = None if self.trace is None else self.trace.phase(phase, participant)
        return Phase(self._metrics, phase, participant, span)


class Phase:
    """One participant's, under way."""

    __slots__ = ("_metrics", "_name", "_participant", "_span", "_started")

    def __init__(self, metrics: Metrics, name: str, participant: str, span: Any) -> None:
        self._metrics = metrics
        self._name = name
        self._participant = participant
        self._span = span
        self._started = time.perf_counter()

    def ended(self, result: Any, error: BaseException | None) -> None:
        self._metrics.phase(self._name, self._participant, time.perf_counter() - self._started)
        if self._span is not None:
            self._span.ended(result, error)


@lru_cache
def _seen(point: str) -> tuple[str, str] | None:
    """Which phase that is, and whose; None if it is none."""
    owner, _, what = point.rpartition(": ")
    if what not in PHASES:
        return None
    return what, "" if what == "decide" and owner == LOG else owner


def observed(flow: Flow[Value], observer: Observer) -> Flow[Value]:
    """The same flow; its phases are seen."""
    try:
        step = next(flow)
        while True:
            phase = None
            if type(step) is All:
                step = All([observed(one, observer) for one in step.flows], step.seconds)
            elif type(step) is Call:
                seen = _seen(step.point)
                if seen is not None:
                    phase = observer.phase(*seen)
            try:
                value = yield step
            except BaseException as error:
                if phase is not None:
                    phase.ended(None, error)
                if not isinstance(error, Exception):
                    # it is given up
                    raise
                step = flow.throw(error)
            else:
                if phase is not None:
                    phase.ended(value, None)
                step = flow.send(value)
    except StopIteration as end:
        found: Value = end.value
        return found
    finally:
        flow.close()
