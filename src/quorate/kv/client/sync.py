"""The client without asyncio: the same calls, blocking. One thread carries the loop of each client; any thread may use the client.

with Client("127.0.0.1:7002") as kv:
    kv.put("greeting", b"hello")
    print(kv.get("greeting").value)
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from quorate.kv.client import aio
from quorate.kv.client.errors import Refused
from quorate.kv.client.records import Committed, Event, Held, Item, Key
from quorate.kv.client.transaction import Transaction as AsyncTransaction
from quorate.kv.commands import Condition, Write

Value = TypeVar("Value")


class Transaction:
    """As ``client.transaction.Transaction``, for functions that block."""

    def __init__(self, client: "Client", inner: AsyncTransaction) -> None:
        self._client = client
        self._inner = inner

    @property
    def revision(self) -> int:
        return self._inner.revision

    def get(self, key: Key) -> Item | None:
        return self._client.run(self._inner.get(key))

    def list(self, prefix: Key) -> Sequence[Item]:
        return self._client.run(self._inner.list(prefix))

    def put(self, key: Key, value: bytes, *, lease: int = 0) -> None:
        self._client.run(self._inner.put(key, value, lease=lease))

    def delete(self, key: Key) -> None:
        self._client.run(self._inner.delete(key))


class Lease:
    """As ``aio.Lease``."""

    def __init__(self, client: "Client", inner: aio.Lease) -> None:
        self.id = inner.id
        self.ttl = inner.ttl
        self.inner = inner
        self._client = client

    @property
    def lost(self) -> bool:
        return self.inner.lost.is_set()

    def revoke(self, timeout: float | None = None) -> None:
        self._client.run(self.inner.revoke(timeout))

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *exc: object) -> None:
        self.revoke()


class Client:
    """See ``aio.Client`` for what the calls do and raise."""

    def __init__(self, addresses: str | Sequence[str], *, timeout: float = 5.0) -> None:
        self._inner = aio.Client(addresses, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quorate-kv-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def metrics(self) -> aio.Metrics:
        return self._inner.metrics

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Carry out ``work`` on this client's loop. Raises Refused if the client is closed."""
        if self._loop.is_closed():
            work.close()
            raise Refused("this client is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        if not self._loop.is_closed():
            self.run(self._inner.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def get(self, key: Key, *, revision: int = 0, staleness: float = 0.0, timeout: float | None = None) -> Item | None:
        return self.run(self._inner.get(key, revision=revision, staleness=staleness, timeout=timeout))

    def list(self, prefix: Key = b"", **options: Any) -> Sequence[Item]:
        return self.run(self._inner.list(prefix, **options))

    def put(
        self,
        key: Key,
        value: bytes,
        *,
        version: int | None = None,
        revision: int | None = None,
        lease: Lease | int = 0,
        timeout: float | None = None,
    ) -> int:
        of = lease.inner if isinstance(lease, Lease) else lease
        return self.run(self._inner.put(key, value, version=version, revision=revision, lease=of, timeout=timeout))

    def delete(
        self, key: Key, *, version: int | None = None, revision: int | None = None, timeout: float | None = None
    ) -> bool:
        return self.run(self._inner.delete(key, version=version, revision=revision, timeout=timeout))

    def commit(
        self,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        timeout: float | None = None,
        transaction: str = "",
    ) -> Committed:
        return self.run(self._inner.commit(conditions, writes, timeout=timeout, transaction=transaction))

    def groups(self, keys: Sequence[Key] = (), *, timeout: float | None = None) -> Sequence[int]:
        return self.run(self._inner.groups(keys, timeout=timeout))

    def prepare(
        self,
        group: int,
        id_: str,
        decision: str,
        until: float,
        conditions: Sequence[Condition],
        writes: Sequence[Write],
        *,
        at_once: bool = False,
        timeout: float | None = None,
    ) -> tuple[int, int]:
        return self.run(
            self._inner.prepare(group, id_, decision, until, conditions, writes, at_once=at_once, timeout=timeout)
        )

    def finish(
        self, group: int, id_: str, commit: bool, until: float, *, timeout: float | None = None
    ) -> tuple[int, int]:
        return self.run(self._inner.finish(group, id_, commit, until, timeout=timeout))

    def held(self, group: int, *, timeout: float | None = None) -> Sequence[Held]:
        return self.run(self._inner.held(group, timeout=timeout))

    def outcome(self, group: int, id_: str, *, timeout: float | None = None) -> tuple[int, int]:
        return self.run(self._inner.outcome(group, id_, timeout=timeout))

    def tidy(self, group: int, prefix: str, before: float, *, timeout: float | None = None) -> int:
        return self.run(self._inner.tidy(group, prefix, before, timeout=timeout))

    def compact(self, revision: int, *, key: Key = b"\0", timeout: float | None = None) -> int:
        return self.run(self._inner.compact(revision, key=key, timeout=timeout))

    def transact(self, function: Callable[[Transaction], Value], *, timeout: float | None = None) -> Value:
        """``function`` blocks, so it runs on a thread of its own."""

        async def attempt(transaction: AsyncTransaction) -> Value:
            return await asyncio.to_thread(function, Transaction(self, transaction))

        return self.run(self._inner.transact(attempt, timeout=timeout))

    def lease(self, ttl: float, *, key: Key = b"\0", timeout: float | None = None) -> Lease:
        return Lease(self, self.run(self._inner.lease(ttl, key=key, timeout=timeout)))

    def watch(self, prefix: Key = b"", **options: Any) -> Iterator[Event]:
        """Blocks between events; closing the iterator ends the watch."""
        events = self._inner.watch(prefix, **options)
        try:
            while True:
                try:
                    yield self.run(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            self.run(_close(events))

    def status(self, timeout: float | None = None) -> dict[str, Any]:
        return self.run(self._inner.status(timeout))


async def _next(events: Any) -> Event:
    event: Event = await anext(events)
    return event


async def _close(events: Any) -> None:
    await events.aclose()
