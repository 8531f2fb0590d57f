"""Spans of OpenTelemetry, if the program uses it: one for each transaction, in the context of whoever makes it, and below it one for each phase of each
participant.

Nothing of OpenTelemetry is imported here: a program that traces has imported it. One that does not pays for a look into a dictionary for each
transaction.

Attributes, as OpenTelemetry's conventions have them where they have any: ``quorate.gtid``, ``quorate.participant``, ``quorate.phase``,
``quorate.outcome`` (of a transaction: committed, aborted, in doubt, not yet applied, heuristic; of a prepare: yes, read only, no).
"""

import sys
from enum import Enum
from typing import Any

_API = "opentelemetry.trace"
_SCOPE = "quorate.transactions"


class Trace:
    """Of one transaction: its span, which is the current one between ``enter`` and ``leave``."""

    __slots__ = ("_api", "_context", "_gtid", "_span", "_token", "_tracer")

    def __init__(self, api: Any, tracer: Any, gtid: str) -> None:
        self._api = api
        self._tracer = tracer
        self._gtid = gtid
        self._token: Any = None
        self._span = tracer.start_span("transaction", attributes={"quorate.gtid": gtid})
        # given to every child, for they may begin in other threads and tasks
        self._context = api.set_span_in_context(self._span)

    def enter(self) -> None:
        """What the program does in the transaction is below its span."""
        self._token = _contexts().attach(self._context)

    def leave(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            _contexts().detach(token)

    def phase(self, phase: str, participant: str) -> "Span":
        attributes = {"quorate.gtid": self._gtid, "quorate.phase": phase}
        name = phase
        if participant:
            attributes["quorate.participant"] = participant
            name = f"{phase} {participant}"
        kind = self._api.SpanKind.CLIENT
        return Span(self._api, self._tracer.start_span(name, context=self._context, kind=kind, attributes=attributes))

    def ended(self, outcome: str, error: BaseException | None) -> None:
        """Nothing happens the second time."""
        if self._span is None:
            return
        self._span.set_attribute("quorate.outcome", outcome)
        _end(self._api, self._span, error)
        self._span = None


class Span:
    __slots__ = ("_api", "_span")

    def __init__(self, api: Any, span: Any) -> None:
        self._api = api
        self._span = span

    def ended(self, result: Any, error: BaseException | None) -> None:
        if isinstance(result, Enum):
            self._span.set_attribute("quorate.outcome", str(result.value))
        _end(self._api, self._span, error)


def trace_of(gtid: str) -> Trace | None:
    """None if nobody traces."""
    api: Any = sys.modules.get(_API)
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        # it is imported, by a library perhaps, and spans would go nowhere
        return None
    return Trace(api, provider.get_tracer(_SCOPE), gtid)


def _contexts() -> Any:
    # it comes with the API
    return sys.modules["opentelemetry.context"]


def _end(api: Any, span: Any, error: BaseException | None) -> None:
    if error is not None:
        span.record_exception(error)
        span.set_status(api.Status(api.StatusCode.ERROR, f"{type(error).__name__}: {error}"))
    span.end()
