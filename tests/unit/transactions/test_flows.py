"""Flows mean the same on an event loop and in a thread: each test is run by both shells."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quorate.errors import UsageError
from quorate.transactions.errors import TimeUp
from quorate.transactions.flow import Done, Failed, Flow, call, now, side_by_side, sleep
from quorate.transactions.shells import aio, blocking

Run = Callable[..., Any]
"""Carries a flow out; ``watch``: as the shells' own."""
PATIENCE = 30.0


def on_a_loop(flow: Flow[Any], watch: Any = aio._nobody) -> Any:
    async def main() -> Any:
        return await aio.Shell(watch).run(flow)

    return asyncio.run(main())


def in_a_thread(flow: Flow[Any], watch: Any = aio._nobody) -> Any:
    with ThreadPoolExecutor(8) as threads:
        return blocking.Shell(watch, threads).run(flow)


@pytest.fixture(params=[on_a_loop, in_a_thread])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


class Request:
    """A request whose answer comes in ``parts`` by a socket."""

    def __init__(self, parts: int = 1, error: Exception | None = None) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.left = parts
        self.error = error
        self.answered = False

    def fileno(self) -> int:
        return self.ours.fileno()

    def advance(self) -> bool:
        self.left -= len(self.ours.recv(1))
        return self.left <= 0

    def answer(self) -> str:
        self.answered = True
        if self.error is not None:
            raise self.error
        return "answer"

    def sends(self) -> None:
        self.theirs.sendall(b"!")

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


# ---- one after the other


def test_what_a_call_gives_is_what_comes_of_it_in_the_end(run: Run) -> None:
    def inner(value: int) -> Flow[int]:
        yield from ()
        return value + 1

    def nested(value: int) -> Flow[int]:
        found: int = yield from call("inner", inner, value)
        return found * 10

    def flow() -> Flow[list[Any]]:
        return [
            (yield from call("at once", lambda: 7)),
            (yield from call("a flow", inner, 1)),
            (yield from call("nested", nested, 1)),
            (yield from call("none", lambda: None)),
            (yield from call("blocks", lambda: threading.current_thread() is not None, blocks=True)),
        ]

    assert run(flow()) == [7, 2, 20, None, True]


def test_what_is_raised_comes_to_whoever_called(run: Run) -> None:
    def fails() -> Flow[None]:
        yield from ()
        raise ValueError("inner")

    def flow() -> Flow[list[str]]:
        told = []
        for function in (fails, lambda: 1 / 0):
            try:
                yield from call("fails", function)
            except (ValueError, ZeroDivisionError) as error:
                told.append(str(error))
        return told

    assert run(flow()) == ["inner", "division by zero"]
    with pytest.raises(ZeroDivisionError):
        run(call("fails", lambda: 1 / 0))


def test_the_watch_sees_each_point_before_and_after_in_order(run: Run) -> None:
    seen: list[str] = []

    def inner() -> Flow[None]:
        yield from call("inner", lambda: seen.append("- done"))

    def fails() -> None:
        raise ValueError

    def flow() -> Flow[None]:
        yield from call("outer", inner)
        try:
            yield from call("fails", fails)
        except ValueError:
            yield from call("blocks", lambda: None, blocks=True)

    run(flow(), lambda when, point: seen.append(f"{when} {point}"))
    assert seen == [
        "before outer", "before inner", "- done", "after inner", "after outer", "before fails", "before blocks", "after blocks",
    ]  # fmt: skip


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("kind", ["at once", "a flow", "blocks"])
def test_what_the_watch_raises_is_raised_by_the_call(run: Run, at: str, kind: str) -> None:
    done: list[int] = []

    def work() -> Any:
        def flow() -> Flow[None]:
            done.append(1)
            yield from ()

        if kind == "a flow":
            return flow()
        done.append(1)
        return None

    def watch(when: str, point: str) -> None:
        if when == at and point == "struck":
            raise RuntimeError("struck")

    def flow() -> Flow[str]:
        try:
            yield from call("struck", work, blocks=kind == "blocks")
        except RuntimeError as error:
            return str(error)
        return ""

    assert run(flow(), watch) == "struck"
    assert len(done) == (at == "after")


def test_the_clock_and_sleep(run: Run) -> None:
    def flow() -> Flow[tuple[float, float]]:
        before = yield from now()
        yield from sleep(0.05)
        return before, (yield from now())

    before, after = run(flow())
    assert abs(before - time.time()) < PATIENCE
    assert after - before >= 0.04


def test_a_request_is_waited_for_by_its_descriptor(run: Run) -> None:
    request = Request(parts=3)
    failing = Request(error=ValueError("no"))

    def flow() -> Flow[list[Any]]:
        for delay in (0.01, 0.02, 0.03):
            threading.Timer(delay, request.sends).start()
        found = [(yield from call("request", lambda: request))]
        failing.sends()
        try:
            yield from call("failing", lambda: failing)
        except ValueError as error:
            found.append(str(error))
        return found

    assert run(flow()) == ["answer", "no"]
    request.close()
    failing.close()


def test_a_coroutine_needs_an_event_loop() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 3

    assert on_a_loop(call("coroutine", answer)) == 3
    with pytest.raises(UsageError, match="needs an event loop"):
        in_a_thread(call("coroutine", answer))


# ---- side by side


def test_results_come_in_the_order_of_the_flows(run: Run) -> None:
    def one(number: int) -> Flow[int]:
        yield from sleep(0.01 * (5 - number))
        if number == 2:
            raise ValueError("two")
        return number

    def flow() -> Flow[list[Any]]:
        return (yield from side_by_side([one(number) for number in range(5)], 60.0))

    found = run(flow())
    assert [result.value if isinstance(result, Done) else str(result.error) for result in found] == [0, 1, "two", 3, 4]
    assert run(side_by_side([])) == []


def test_what_blocks_runs_side_by_side_too(run: Run) -> None:
    """Each waits until the other is there."""
    meet = threading.Barrier(4)

    def flow() -> Flow[list[Any]]:
        return (yield from side_by_side([call("meet", meet.wait, PATIENCE, blocks=True) for _ in range(4)]))

    found = run(flow())
    assert sorted(result.value for result in found) == [0, 1, 2, 3]


def test_whoever_takes_too_long_fails_with_time_up_and_can_go_on(run: Run) -> None:
    """A request, a flow within a flow, what blocks: each notices where it waits, and may clean up."""
    request = Request()
    gate = threading.Event()
    cleaned: list[str] = []

    def cleans(name: str, function: Any, blocks: bool = False) -> Flow[str]:
        try:
            yield from call(name, function, blocks=blocks)
        except TimeUp:
            cleaned.append((yield from call("clean up", lambda: name)))
            raise
        return "in time"

    def flow() -> Flow[list[Any]]:
        found = yield from side_by_side(
            [
                cleans("request", lambda: request),
                cleans("blocks", lambda: gate.wait(PATIENCE), blocks=True),
                cleans("nested", lambda: cleans("inner", lambda: request.__class__())),
                call("quick", lambda: "quick"),
            ],
            0.1,
        )
        gate.set()
        return found

    found = run(flow())
    assert [type(result.error).__name__ if isinstance(result, Failed) else result.value for result in found] == [
        "TimeUp", "TimeUp", "TimeUp", "quick",
    ]  # fmt: skip
    assert sorted(cleaned) == ["blocks", "inner", "nested", "request"]
    assert not request.answered


def test_an_answer_that_comes_after_the_time_was_up_disturbs_nobody(run: Run) -> None:
    """What blocked goes on and ends; the request's descriptor is used again by the next one."""
    gate = threading.Event()
    request = Request()

    def late() -> str:
        gate.wait(PATIENCE)
        return "too late"

    def flow() -> Flow[list[Any]]:
        (blocked, asked) = yield from side_by_side(
            [call("late", late, blocks=True), call("asked", lambda: request)], 0.05
        )
        assert isinstance(blocked, Failed)
        assert isinstance(asked, Failed)
        gate.set()
        request.sends()
        yield from sleep(0.05)
        return [(yield from call("again", lambda: request)), (yield from call("next", lambda: "next", blocks=True))]

    assert run(flow()) == ["answer", "next"]


def test_the_outer_limit_holds_within(run: Run) -> None:
    request = Request()

    def inner() -> Flow[list[Any]]:
        return (yield from side_by_side([call("request", lambda: request), call("other", lambda: 1)], PATIENCE))

    def flow() -> Flow[list[Any]]:
        return (yield from side_by_side([inner(), call("other", lambda: 2)], 0.05))

    (within, _) = run(flow())
    (asked, other) = within.value
    assert isinstance(asked, Failed)
    assert other.value == 1
    request.close()


class Struck(BaseException):
    """As KeyboardInterrupt is."""


def test_what_ends_the_program_ends_the_flows_and_they_let_go(run: Run) -> None:
    """Ctrl-C, wherever it strikes: the ``finally`` of every flow is carried out before it goes on."""
    let_go: list[str] = []
    request = Request()

    def holds(name: str, function: Any) -> Flow[None]:
        try:
            yield from call(name, function)
        finally:
            let_go.append(name)

    def strikes() -> None:
        raise Struck

    def flow() -> Flow[None]:
        try:
            yield from side_by_side(
                [holds("waits", lambda: request), holds("outer", lambda: holds("strikes", strikes))], PATIENCE
            )
        finally:
            let_go.append("all")

    with pytest.raises(Struck):
        run(flow())
    assert sorted(let_go) == ["all", "outer", "strikes", "waits"]
    assert let_go[-1] == "all"
    request.close()


def test_a_task_that_is_cancelled_ends_its_flows() -> None:
    """In every wait there is."""
    request = Request()
    gate = threading.Event()
    waits: dict[str, Any] = {
        "request": lambda: call("request", lambda: request),
        "sleep": lambda: sleep(PATIENCE),
        "coroutine": lambda: call("coroutine", asyncio.sleep, PATIENCE),
        "blocks": lambda: call("blocks", gate.wait, PATIENCE, blocks=True),
        "side by side": lambda: side_by_side([sleep(PATIENCE), call("request", lambda: request)]),
        "limited": lambda: side_by_side([call("coroutine", asyncio.sleep, PATIENCE)], PATIENCE),
    }

    async def cancelled(name: str) -> bool:
        let_go = False

        def flow() -> Flow[None]:
            nonlocal let_go
            try:
                yield from waits[name]()
            finally:
                let_go = True

        task = asyncio.create_task(aio.Shell().run(flow()))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return let_go

    async def all_of_them() -> None:
        for name in waits:
            assert await cancelled(name), name
        gate.set()

    asyncio.run(all_of_them())
    request.close()
