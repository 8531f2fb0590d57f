"""Spans of transactions, as OpenTelemetry's own SDK sees them; and that nobody who does not trace pays for them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.transactions.shelf import NO, Shelf

from quorate import transactions
from quorate.transactions import Aborted, Vote, sync, tracing

EXPORTER = InMemorySpanExporter()


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        # it can be set once in a process
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()


def tree(spans: Sequence[ReadableSpan]) -> list[tuple[str, str, object]]:
    """Of each its name, its parent's, and the outcome; sorted."""
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    return sorted(
        (
            span.name,
            names.get(span.parent.span_id, "?") if span.parent else "",
            (span.attributes or {}).get("quorate.outcome", "-"),
        )
        for span in spans
    )


COMMITTED = [
    ("commit one", "transaction", "-"),
    ("commit other", "transaction", "-"),
    ("decide", "transaction", "-"),
    ("prepare one", "transaction", "yes"),
    ("prepare other", "transaction", "yes"),
    ("transaction", "request", "committed"),
]


def test_a_span_for_each_phase_of_each_participant(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    one, other = Shelf("one"), Shelf("other")
    # its calls are carried by the coordinator's threads
    one.blocks = other.blocks = True  # type: ignore[attr-defined]  # the interface's, where it is needed
    tracer = trace.get_tracer("test")
    with sync.Coordinator(tmp_path / "decisions", [one, other], sweep_every=None) as coordinator:
        with tracer.start_as_current_span("request"), coordinator.transaction() as tx:
            tx.enlist(one)
            tx.enlist(other)
            with tracer.start_as_current_span("work"):
                pass
        assert trace.get_current_span() is trace.INVALID_SPAN
    spans = exporter.get_finished_spans()
    assert tree(spans) == sorted([*COMMITTED, ("request", "", "-"), ("work", "transaction", "-")])
    for span in spans:
        assert span.attributes is not None
        if span.name in ("request", "work"):
            continue
        assert span.attributes["quorate.gtid"] == tx.gtid
        assert span.status.is_unset
        if span.name.startswith(("prepare", "commit")):
            phase, participant = span.name.split()
            assert (span.attributes["quorate.phase"], span.attributes["quorate.participant"]) == (phase, participant)
    by_name = {span.name: span for span in spans}
    decided = by_name["decide"]
    for name in ("prepare one", "prepare other"):
        assert (by_name[name].end_time or 0) <= (decided.start_time or 0)


def test_the_same_on_an_event_loop_side_by_side(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    one, other = Shelf("one"), Shelf("other")

    async def move(coordinator: transactions.Coordinator, name: str, early: bool) -> str:
        with trace.get_tracer("test").start_as_current_span(name):
            async with coordinator.transaction(acknowledge="decided" if early else None) as tx:
                await tx.enlist(one)
                await tx.enlist(other)
                await asyncio.sleep(0)
            return tx.gtid

    async def both() -> list[str]:
        async with transactions.Coordinator(tmp_path / "decisions", [one, other], sweep_every=None) as coordinator:
            return list(await asyncio.gather(move(coordinator, "request", False), move(coordinator, "request", True)))

    gtids = asyncio.run(both())
    spans = exporter.get_finished_spans()
    for gtid in gtids:
        mine = [span for span in spans if (span.attributes or {}).get("quorate.gtid") == gtid]
        (whole,) = (span for span in mine if span.name == "transaction")
        assert whole.parent is not None
        (request,) = (
            span for span in spans if span.context is not None and span.context.span_id == whole.parent.span_id
        )
        # what is done after the decision is below the same span
        assert tree([*mine, request]) == sorted([*COMMITTED, ("request", "", "-")])


def test_errors_are_recorded(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    one, against = Shelf("one"), Shelf("against", NO)
    with sync.Coordinator(tmp_path / "decisions", [one, against], sweep_every=None) as coordinator:
        with pytest.raises(Aborted):
            _move(coordinator, one, against)
        found = {span.name: span for span in exporter.get_finished_spans()}
        assert tree(exporter.get_finished_spans()) == [
            ("prepare against", "transaction", "-"),
            ("prepare one", "transaction", "yes"),
            ("rollback against", "transaction", "-"),
            ("rollback one", "transaction", "-"),
            ("transaction", "", "aborted"),
        ]
        assert not found["prepare against"].status.is_ok
        assert found["prepare against"].status.description == "VotedNo: out of stock"
        (event,) = found["prepare against"].events
        assert (event.attributes or {})["exception.message"] == "out of stock"
        assert "out of stock" in (found["transaction"].status.description or "")
        assert found["prepare one"].status.is_unset
        exporter.clear()
        with pytest.raises(ZeroDivisionError):
            _move(coordinator, one, fails=True)
        found = {span.name: span for span in exporter.get_finished_spans()}
        assert (found["transaction"].attributes or {})["quorate.outcome"] == "aborted"
        assert (found["transaction"].status.description or "").startswith("ZeroDivisionError")
        exporter.clear()
        one.vote = Vote.READ_ONLY
        _move(coordinator, one)
        assert tree(exporter.get_finished_spans()) == [
            ("prepare one", "transaction", "read only"),
            ("transaction", "", "committed"),
        ]


def _move(coordinator: sync.Coordinator, *shelves: Shelf, fails: bool = False) -> None:
    with coordinator.transaction() as tx:
        for shelf in shelves:
            tx.enlist(shelf)
        if fails:
            raise ZeroDivisionError


def test_spans_of_one_who_is_given_up_end(exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    """The loop goes down while a participant is asked."""

    class Slow(Shelf):
        async def prepare(self, branch: transactions.Branch) -> Vote:  # type: ignore[override]  # either is allowed
            asked.set()
            await asyncio.sleep(3600)
            return Vote.YES

    async def given_up() -> None:
        coordinator = transactions.Coordinator(tmp_path / "decisions", [slow], sweep_every=None)
        tx = coordinator.transaction(timeout=600)
        await tx.enlist(slow)
        task = asyncio.create_task(tx.commit())
        await asked.wait()
        task.cancel()

    asked = asyncio.Event()
    slow = Slow("slow")
    asyncio.run(given_up())
    assert tree(exporter.get_finished_spans()) == [
        ("prepare slow", "transaction", "-"),
        ("transaction", "", "in doubt"),
    ]


NOBODY = """
import sys
from pathlib import Path
from tests.unit.transactions.shelf import Shelf
from quorate.transactions import sync
one, other = Shelf("one"), Shelf("other")
with sync.Coordinator(Path(sys.argv[1]), [one, other], sweep_every=None) as coordinator:
    with coordinator.transaction() as tx:
        tx.enlist(one)
        tx.enlist(other)
assert list(one.outcomes) == [tx.gtid]
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "prometheus_client"))))
"""


def test_who_does_not_trace_imports_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, str(tmp_path / "decisions")],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


IMPORTED = """
from opentelemetry import trace
from quorate.transactions import tracing
assert tracing.trace_of("x") is None
trace.set_tracer_provider(trace.NoOpTracerProvider())
assert tracing.trace_of("x") is None
"""


def test_without_a_provider_there_are_no_spans() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED], check=True, timeout=60)


def test_with_one_there_are(exporter: InMemorySpanExporter) -> None:
    found = tracing.trace_of("x")
    assert found is not None
    found.ended("committed", None)
    found.ended("aborted", None)
    assert tree(exporter.get_finished_spans()) == [("transaction", "", "committed")]
