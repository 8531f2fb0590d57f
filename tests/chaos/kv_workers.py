"""Clients of the key-value store that read and write while members die: tasks on a loop of their own, recording into two histories.

Single keys go into a history of the model ``kv``, transactions over several into one of ``list-append``. Counters and watches are judged by what
they must add up to.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from quorate.kv.client.aio import Client
from quorate.kv.client.errors import Conflict, DeadlineExceeded, KvError, OutcomeUnknown
from quorate.kv.client.records import Event, Item
from quorate.kv.client.transaction import Transaction
from quorate.verification.history import History, Operation

PATIENCE = 4.0
"""Seconds that an operation may take; after that its outcome is not known."""
PACE = 0.003
KEYS = [f"register/{n}" for n in range(6)]
LISTS = 4
LIST_LENGTH = 40
"""Transactions on a list of elements; then another list takes its place, lest everything is about long values."""


class Load:
    """All clients; ``acknowledged`` and ``last`` (when the latest of the acknowledged writes was asked for, in nanoseconds) may be read from any thread."""

    def __init__(self, addresses: Sequence[str], seed: int) -> None:
        self.addresses = list(addresses)
        self.registers = History(model="kv")
        self.transactions = History(model="list-append")
        self.increments = Increments()
        self.watchers: list[Watcher] = []
        self.acknowledged = 0
        self.last = 0
        self.failures: list[BaseException] = []
        self.halted = asyncio.Event()
        self._random = random.Random(seed)
        self._first: dict[int, int] = {}
        self._writing: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load", daemon=True)
        self._thread.start()

    # ---- for the test

    def start(self, workers: Sequence[tuple[Callable[..., Coroutine[Any, Any, None]], int]]) -> None:
        for work, number in workers:
            for index in range(number):
                stream = random.Random(self._random.random())
                self._run(self._begin(work(self, f"{work.__name__}-{index}", stream), work is watching))

    def end(self) -> None:
        """Every client finishes what it is doing. Raises what a client raised."""
        self._loop.call_soon_threadsafe(self.halted.set)
        try:
            self._run(self._finished())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if self.failures:
            raise self.failures[0]

    def first_after(self, moment: int) -> float:
        """Seconds from ``moment`` to the end of the first acknowledged write that was asked for after it."""
        ended = [
            op.ended for history in (self.registers, self.transactions) for op in history.operations if op.invoked > moment and op.outcome == "ok" and op.name != "get"
        ]  # fmt: skip
        return (min(ended) - moment) / 1e9

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _begin(self, work: Coroutine[Any, Any, None], watches: bool) -> None:
        (self._watching if watches else self._writing).append(asyncio.create_task(work))

    async def _finished(self) -> None:
        """Watchers see the last event, which is written when all other clients have ended."""
        await self._ended(self._writing)
        for watcher in self.watchers:
            await watcher.finish()
        await self._ended(self._watching)

    async def _ended(self, tasks: list[asyncio.Task[None]]) -> None:
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        self.failures += [outcome for outcome in outcomes if isinstance(outcome, BaseException)]

    # ---- for workers

    def client(self) -> Client:
        return Client(self.addresses, timeout=PATIENCE)

    def wrote(self, operation: Operation) -> None:
        self.acknowledged += 1
        self.last = max(self.last, operation.invoked)

    def end_by(self, history: History, operation: Operation, error: KvError) -> None:
        """Record that it ended with ``error``."""
        surely_not = isinstance(error, DeadlineExceeded) and not error.maybe_done
        history.end(operation, "fail" if surely_not else "unknown")


async def single_keys(load: Load, name: str, stream: random.Random) -> None:
    """Gets, puts, compare-and-sets and deletes of a few keys."""
    history = load.registers
    known: dict[str, int] = {}
    number = 0
    async with load.client() as client:
        while not load.halted.is_set():
            key = stream.choice(KEYS)
            number += 1
            value = f"{name}.{number}"
            kind = stream.choice(["get", "get", "get", "put", "put", "cas", "cas", "cas", "delete"])
            given: object = {"get": None, "put": value, "delete": None}.get(kind)
            if kind == "cas":
                given = {"version": known.get(key, 0) or None, "value": value}
            operation = history.invoke(name, kind, key, given)
            try:
                result = await _single(client, kind, key, value, known)
            except Conflict as error:
                known[key] = error.conflicts[0].version
                history.end(operation, "ok", False)
            except (DeadlineExceeded, OutcomeUnknown) as error:
                load.end_by(history, operation, error)
            else:
                history.end(operation, "ok", result)
                if kind != "get":
                    load.wrote(operation)
            await asyncio.sleep(PACE * stream.random())


async def _single(client: Client, kind: str, key: str, value: str, known: dict[str, int]) -> object:
    if kind == "get":
        item = await client.get(key)
        known[key] = 0 if item is None else item.version
        return None if item is None else {"value": item.value.decode(), "version": item.version}
    if kind == "delete":
        known[key] = 0
        return await client.delete(key)
    known[key] = await client.put(key, value.encode(), version=known.get(key, 0) if kind == "cas" else None)
    return {"version": known[key]}


async def transactions(load: Load, name: str, stream: random.Random) -> None:
    """One to four reads and appends, on lists that others read and append to as well."""
    history = load.transactions
    number = 0
    async with load.client() as client:
        while not load.halted.is_set():
            steps: list[list[Any]] = []
            for _ in range(stream.randint(1, 4)):
                number += 1
                place = stream.randrange(LISTS)
                age = len(history.operations) // (LISTS * LIST_LENGTH)
                key = f"list/{age}.{place}"
                steps.append(["r", key, None] if stream.random() < 0.5 else ["append", key, f"{name}.{number}"])
            operation = history.invoke(name, "txn", None, steps)
            try:
                result = await client.transact(_on_lists(steps))
            except (DeadlineExceeded, OutcomeUnknown) as error:
                load.end_by(history, operation, error)
            else:
                history.end(operation, "ok", result)
                load.wrote(operation)
            await asyncio.sleep(PACE * stream.random())


def _on_lists(steps: list[list[Any]]) -> Callable[[Transaction], Awaitable[list[list[Any]]]]:
    async def function(transaction: Transaction) -> list[list[Any]]:
        lists: dict[str, list[str]] = {}
        done: list[list[Any]] = []
        for name, key, value in steps:
            if key not in lists:
                item = await transaction.get(key)
                lists[key] = [] if item is None else json.loads(item.value)
            if name == "append":
                lists[key].append(value)
                await transaction.put(key, json.dumps(lists[key]).encode())
                done.append([name, key, value])
            else:
                done.append([name, key, list(lists[key])])
        return done

    return function


# ---- counters


class Increments:
    """``counted``: increments that were acknowledged, by key. ``unknown``: those of which nobody knows."""

    KEYS = ("counter/transact", "counter/swap")

    def __init__(self) -> None:
        self.counted = dict.fromkeys(self.KEYS, 0)
        self.unknown = dict.fromkeys(self.KEYS, 0)

    async def judge(self, client: Client) -> list[str]:
        wrong = []
        for key in self.KEYS:
            item = await client.get(key)
            value = 0 if item is None else int(item.value)
            least = self.counted[key]
            most = least + self.unknown[key]
            if not least <= value <= most or (item is not None and item.version != value):
                wrong.append(f"{key} is {value}, expected {least} to {most}: {item}")
        return wrong


async def incrementing(load: Load, name: str, stream: random.Random) -> None:
    """By a transaction, and by compare-and-set of what was read. Each has a long time: it is to be known what came of it."""
    increments = load.increments
    async with load.client() as client:
        while not load.halted.is_set():
            key = stream.choice(Increments.KEYS)
            try:
                await (client.transact(_increment, timeout=60) if key == Increments.KEYS[0] else _swap(client))
            except (DeadlineExceeded, OutcomeUnknown):
                increments.unknown[key] += 1
            else:
                increments.counted[key] += 1
            await asyncio.sleep(PACE * stream.random())


async def _increment(transaction: Transaction) -> None:
    item = await transaction.get(Increments.KEYS[0])
    await transaction.put(Increments.KEYS[0], _plus_one(item))


async def _swap(client: Client) -> None:
    key = Increments.KEYS[1]
    while True:
        item = await client.get(key, timeout=60)
        with suppress(Conflict):
            await client.put(key, _plus_one(item), version=0 if item is None else item.version, timeout=60)
            return
        await asyncio.sleep(PACE)


def _plus_one(item: Item | None) -> bytes:
    return b"%d" % (1 + (0 if item is None else int(item.value)))


# ---- watches


class Watcher:
    """Every change of the registers since the store was empty, as a watch tells it."""

    END = "register/~end"

    def __init__(self, load: Load, name: str) -> None:
        self.name = name
        self.events: list[Event] = []
        self.done = asyncio.Event()
        self._load = load

    async def run(self) -> None:
        async with self._load.client() as client:
            async for event in client.watch("register/", after=0):
                if event.key == self.END:
                    break
                self.events.append(event)
        self.done.set()

    async def finish(self) -> None:
        """Let it see the last event, which is written when all others are in."""
        deadline = time.monotonic() + 60
        async with self._load.client() as client:
            await client.put(self.END, b"", timeout=60)
        await asyncio.wait_for(self.done.wait(), deadline - time.monotonic())

    def judge(self, written: set[str], maybe: set[str]) -> list[str]:
        """``written``: values that were acknowledged; ``maybe``: others that may be there."""
        wrong = []
        versions: dict[str, int] = {}
        revision = 0
        seen: list[str] = []
        for event in self.events:
            if event.revision <= revision:
                wrong.append(f"{self.name}: {event} comes after revision {revision}")
            revision = event.revision
            if event.item is None:
                if not versions.pop(event.key, 0):
                    wrong.append(f"{self.name}: {event} deletes what was not there")
                continue
            expected = versions.get(event.key, 0) + 1
            if event.item.version != expected:
                wrong.append(f"{self.name}: {event}, expected version {expected}")
            versions[event.key] = event.item.version
            seen.append(event.item.value.decode())
        if len(set(seen)) != len(seen):
            wrong.append(f"{self.name}: {len(seen) - len(set(seen))} events came twice")
        if missing := written - set(seen):
            wrong.append(f"{self.name}: never told of {sorted(missing)[:5]}, {len(missing)} in all")
        if strange := set(seen) - written - maybe:
            wrong.append(f"{self.name}: told of {sorted(strange)[:5]}, which failed")
        return wrong


async def watching(load: Load, name: str, stream: random.Random) -> None:
    watcher = Watcher(load, name)
    load.watchers.append(watcher)
    await watcher.run()


def judge_watches(load: Load) -> list[str]:
    written: set[str] = set()
    maybe: set[str] = set()
    for op in load.registers.operations:
        value = op.value["value"] if op.name == "cas" else op.value
        if value is None or op.result is False:
            continue
        if op.outcome == "ok":
            written.add(value)
        elif op.outcome == "unknown":
            maybe.add(value)
    return [finding for watcher in load.watchers for finding in watcher.judge(written, maybe)]
