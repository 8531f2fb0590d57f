"""Flows on an event loop."""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from types import GeneratorType
from typing import Any

from quorate.transactions.errors import ConnectionBroken, TimeUp
from quorate.transactions.flow import All, Call, Done, Failed, Flow, Sleep, Step, Value

Watch = Callable[[str, str], None]
"""Called with "before" or "after" and the name of each point."""


def _nobody(when: str, point: str) -> None:
    return


class Shell:
    """``watch`` sees every call before it is made, and after it was answered; what it raises is raised by the call."""

    def __init__(self, watch: Watch = _nobody) -> None:
        self.watch = watch

    async def run(self, flow: Flow[Value], until: float | None = None) -> Value:
        """``until``: in the loop's time; what waits longer fails with TimeUp where it waits."""
        value: Any = None
        error: Exception | None = None
        try:
            while True:
                step = flow.send(value) if error is None else flow.throw(error)
                value, error = None, None
                try:
                    value = await self._do(step, until)
                except Exception as raised:
                    error = raised
        except StopIteration as end:
            found: Value = end.value
            return found
        finally:
            flow.close()

    async def _do(self, step: Step, until: float | None) -> Any:
        if isinstance(step, Call):
            self.watch("before", step.point)
            found = step.function() if not step.blocks else await _waited(asyncio.to_thread(step.function), until)
            if hasattr(found, "advance"):
                found = await _answered(found, until)
            elif found is not None:
                found = await self._finished(found, until)
            self.watch("after", step.point)
            return found
        if isinstance(step, All):
            return await self._all(step, until)
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return None
        return time.time()

    async def _finished(self, found: Any, until: float | None) -> Any:
        if isinstance(found, GeneratorType):
            return await self.run(found, until)
        if isawaitable(found):
            return await self._finished(await _waited(found, until), until)
        if hasattr(found, "advance"):
            return await _answered(found, until)
        return found

    async def _all(self, step: All, until: float | None) -> list[Done[Any] | Failed]:
        if step.seconds is not None:
            own = asyncio.get_running_loop().time() + step.seconds
            until = own if until is None else min(own, until)
        if len(step.flows) == 1:
            return [await self._one(step.flows[0], until)]
        tasks = [asyncio.ensure_future(self._one(flow, until)) for flow in step.flows]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            # what ends the one who waits ends them all, and they let go of what they hold before he goes on
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def _one(self, flow: Flow[Any], until: float | None) -> Done[Any] | Failed:
        try:
            return Done(await self.run(flow, until))
        except Exception as error:
            return Failed(error)


async def _waited(awaitable: Any, until: float | None) -> Any:
    if until is None:
        return await awaitable
    task = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        # it is not waited for: a driver may insist on ending its statement first
        task.cancel()
        task.add_done_callback(_seen)
        raise TimeUp("no answer in time")
    return task.result()


def _seen(task: "asyncio.Future[Any]") -> None:
    """Whatever came of it is of no interest any more."""
    if not task.cancelled():
        task.exception()


async def _answered(request: Any, until: float | None) -> Any:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    descriptor = request.fileno()

    def readable() -> None:
        if waiter.done():
            return
        try:
            if request.advance():
                waiter.set_result(None)
        except Exception as error:
            waiter.set_exception(error)

    def time_up() -> None:
        if not waiter.done():
            waiter.set_exception(TimeUp("no answer in time"))

    was_cut = False

    def cut() -> None:
        nonlocal was_cut
        if not waiter.done():
            # the descriptor may be somebody else's by the time that this is seen
            was_cut = True
            loop.remove_reader(descriptor)
            waiter.set_exception(ConnectionBroken("the connection is lost"))

    loop.add_reader(descriptor, readable)
    if hasattr(request, "on_cut"):
        request.on_cut = cut
    timer = None if until is None else loop.call_at(until, time_up)
    try:
        await waiter
    finally:
        if hasattr(request, "on_cut"):
            request.on_cut = None
        if not was_cut:
            loop.remove_reader(descriptor)
        if timer is not None:
            timer.cancel()
    return request.answer()
