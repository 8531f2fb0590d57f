"""Somebody who looks after transactions in doubt, whether or not a coordinator runs: a process that sweeps again and again, and shows over HTTP what it
finds (``/metrics`` for Prometheus) and whether it can do its work (``/health``).

It sweeps at its own pace, whoever else has swept, so that its numbers are never older than one round. Several may run: a round that finds nothing to do
changes nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from quorate.errors import QuorateError
from quorate.runtime import loop
from quorate.runtime.environment import Listener
from quorate.runtime.http import HttpServer, Request, Response, json_response, method_not_allowed, not_found
from quorate.runtime.network import AsyncioEnvironment
from quorate.transactions.aio import Coordinator
from quorate.transactions.config import Config

log = logging.getLogger(__name__)
METRICS, HEALTH = "/metrics", "/health"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATE_ROUNDS = 3
"""So many rounds without a success, and this process is not healthy."""


def run(config: Config, http: tuple[str, int] | None) -> int:
    """Until SIGTERM or SIGINT; the exit status. Raises UsageError, StorageError, CorruptionError."""
    return loop.run(lambda env: Watchman(env, config, http).stop)


class Watchman:
    """Started by its construction. ``http``: where to serve, None for nowhere."""

    def __init__(self, env: AsyncioEnvironment, config: Config, http: tuple[str, int] | None) -> None:
        self._env = env
        self._every = config.sweep_every
        self._began = time.monotonic()
        self._succeeded: float | None = None
        """When a round last did, on the monotonic clock."""
        self._error = ""
        self._coordinator = Coordinator(**config.options({"sweep_every": None}))
        self._listener: Listener | None = None
        if http is not None:
            self._listener = env.listen(*http, HttpServer(env, self._route).accept)
        names = ", ".join(self._coordinator.engine.participants)
        log.info("looks after transactions of %s every %g s, at %s", config.space, self._every, names)
        self._task = env.loop.create_task(self._sweep_always())

    def stop(self, stopped: Callable[[], None]) -> None:
        if self._listener is not None:
            self._listener.close()
        self._env.loop.create_task(self._stop(stopped)).add_done_callback(_seen)

    async def _stop(self, stopped: Callable[[], None]) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        try:
            await self._coordinator.close()
        finally:
            stopped()

    async def _sweep_always(self) -> None:
        while True:
            try:
                await self._coordinator.sweep()
            except QuorateError as error:
                self._error = str(error)
                log.warning("no recovery this time: %s", error)
            except Exception as error:
                # a bug of ours: the next round may go well, and the health page tells
                self._error = f"{type(error).__name__}: {error}"
                log.exception("no recovery this time")
            else:
                self._error = ""
                self._succeeded = time.monotonic()
            await asyncio.sleep(self._every)

    # ---- HTTP

    def _route(self, request: Request) -> Response:
        if request.path not in (METRICS, HEALTH):
            return not_found()
        if request.method != "GET":
            return method_not_allowed("GET, HEAD")
        if request.path == METRICS:
            return Response(200, self._coordinator.metrics.exposition(), CONTENT_TYPE)
        return self._health()

    def _health(self) -> Response:
        present = time.monotonic()
        silent = present - (self._began if self._succeeded is None else self._succeeded)
        healthy = self._succeeded is not None and silent <= LATE_ROUNDS * self._every
        report = self._coordinator.metrics.report
        return json_response(
            {
                "healthy": healthy,
                "seconds_since_success": None if self._succeeded is None else round(silent, 3),
                "error": self._error or None,
                "in_doubt": None if report is None else len(report.in_doubt),
                "unresolved": None if report is None else len(report.unresolved),
                "unreachable": None if report is None else report.unreachable,
            },
            200 if healthy else 503,
        )


def _seen(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the end was not clean", exc_info=task.exception())
