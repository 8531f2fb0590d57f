"""Runs one process: a uvloop loop, signals, a clean end, an exit status."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from typing import Any

import uvloop

from quorate.runtime.network import AsyncioEnvironment

_log = logging.getLogger(__name__)

Stopper = Callable[[Callable[[], None]], None]
"""Begins a clean stop and calls back once everything is stopped."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_TIMEOUT_S = 10.0

_COLLECT = (200_000, 50, 1_000_000)
"""The collector's thresholds. What we keep by the million (nodes, sessions) forms no cycles, but a full collection has to walk
it all: a second of silence per million nodes. So young garbage is collected now and then, and old practically never."""


def run(main: Callable[[AsyncioEnvironment], Stopper]) -> int:
    """Call ``main``, serve until SIGTERM, SIGINT or ``environment.end``, stop cleanly and return the exit status.

    ``main`` starts everything and returns how to stop it; what it raises comes out of here, after the loop is closed. A
    second signal, or a stop that takes longer than STOP_TIMEOUT_S, ends at once with status 1.
    """
    gc.set_threshold(*_COLLECT)
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_log_failure)
    asyncio.set_event_loop(loop)
    environment = AsyncioEnvironment(loop)
    status = 0
    stopping = False
    stop: Stopper | None = None

    def end(with_status: int) -> None:
        nonlocal status, stopping
        if with_status:
            status = with_status
        if stopping:
            return
        stopping = True
        if stop is None:  # still inside main
            loop.call_soon(begin)
        else:
            begin()

    def begin() -> None:
        assert stop is not None
        loop.call_later(STOP_TIMEOUT_S, give_up, f"not stopped within {STOP_TIMEOUT_S:g} s")
        try:
            stop(loop.stop)
        except Exception:
            _log.exception("the stop failed")
            give_up("the stop failed")

    def give_up(why: str) -> None:
        nonlocal status
        _log.error("ending at once: %s", why)
        status = status or 1
        loop.stop()

    def signalled(number: signal.Signals) -> None:
        if stopping:
            give_up(f"second signal ({number.name})")
        else:
            _log.info("%s: stopping", number.name)
            end(0)

    def listen() -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, signalled, number)
        for number in early:
            signalled(number)

    # the loop loses what comes before it runs
    early: list[signal.Signals] = []
    before: dict[signal.Signals, Any] = {}
    environment.ended = end
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, lambda number, _: early.append(signal.Signals(number)))
        loop.call_soon(listen)
        gc.disable()  # recovery makes nothing but what stays
        try:
            stop = main(environment)
        finally:
            gc.enable()
        gc.freeze()
        loop.run_forever()
    finally:
        environment.close()
        # one more turn, so that cancelled tasks end and what is queued for closing sockets leaves
        loop.call_soon(loop.stop)
        loop.run_forever()
        asyncio.set_event_loop(None)
        loop.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def _log_failure(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    _log.error(
        "%s", context.get("message", "a callback failed"), exc_info=error if isinstance(error, BaseException) else None
    )
