"""A program that appends to lists and reads them, in transactions over the shards of a store, in transactions of one shard and without any; until standard
input ends. What it does and sees goes into a file, a line for each beginning and each end, with the machine's monotonic time.

    python -m tests.chaos.shard_worker '{"store": "127.0.0.1:7002,…", "name": "w1", "seed": 7, "file": "…", "tasks": 3}'
"""

import asyncio
import json
import random
import sys
import threading
import time
from typing import Any, TextIO

from quorate.kv.client.aio import Client
from quorate.kv.client.errors import DeadlineExceeded, KvError, OutcomeUnknown
from quorate.kv.client.transaction import Transaction as OneShard
from quorate.transactions import Aborted, Coordinator, InDoubt, NotYetApplied

SHARDS = ("a", "n", "quorate", "z")
"""What the keys of each shard begin with; the decisions are in the third."""
KEYS = [f"{shard}/{number}" for shard in SHARDS for number in range(2)]
TIMEOUT = 1.5
PACE = 0.01
Steps = list[list[Any]]


class Lists:
    """What a transaction has read so far, and what it makes of it."""

    def __init__(self) -> None:
        self.of: dict[str, list[str]] = {}
        self.seen: Steps = []

    def read(self, key: str, value: bytes | None) -> None:
        self.of.setdefault(key, [] if value is None else json.loads(value))

    def step(self, kind: str, key: str, element: str | None) -> bytes | None:
        """The list to be written, if one is."""
        if kind == "r" or element is None:
            self.seen.append([kind, key, list(self.of[key])])
            return None
        self.of[key].append(element)
        self.seen.append([kind, key, element])
        return json.dumps(self.of[key]).encode()


async def over_shards(coordinator: Coordinator, steps: Steps) -> Steps:
    lists = Lists()
    try:
        async with coordinator.transaction(acknowledge=random.choice(("decided", "applied"))) as tx:
            for kind, key, element in steps:
                lists.read(key, await tx.kv.get(key))
                written = lists.step(kind, key, element)
                if written is not None:
                    tx.kv.put(key, written)
    except NotYetApplied:
        """Committed for good."""
    return lists.seen


async def in_one_shard(client: Client, steps: Steps) -> Steps:
    async def function(tx: OneShard) -> Steps:
        lists = Lists()
        for kind, key, element in steps:
            if key not in lists.of:
                item = await tx.get(key)
                lists.read(key, None if item is None else item.value)
            written = lists.step(kind, key, element)
            if written is not None:
                await tx.put(key, written)
        return lists.seen

    return await client.transact(function, timeout=TIMEOUT)


async def lists_of(client: Client, steps: Steps) -> Steps:
    """All keys of a shard at once."""
    prefix = steps[0][1].partition("/")[0] + "/"
    found = {item.key: json.loads(item.value) for item in await client.list(prefix, timeout=TIMEOUT)}
    return [[kind, key, found.get(key, [])] for kind, key, _ in steps]


async def work(task: dict[str, Any], number: int, coordinator: Coordinator, client: Client, file: TextIO, ended: threading.Event) -> None:  # fmt: skip
    name = f"{task['name']}.{number}"
    stream = random.Random(f"{task['seed']} {number}")
    count = 0
    while not ended.is_set():
        way = stream.choice(("over", "over", "over", "one", "list"))
        shard = stream.choice(SHARDS)
        mine = [key for key in KEYS if key.startswith(f"{shard}/")]
        steps: Steps = [["r", key, None] for key in mine]
        if way != "list":
            steps = []
            reads_only = stream.random() < 0.3
            for _ in range(stream.randint(1, 4)):
                count += 1
                key = stream.choice(KEYS if way == "over" else mine)
                reads = reads_only or stream.random() < 0.5
                steps.append(["r", key, None] if reads else ["append", key, f"{name}.{count}"])
        _tell(file, "invoke", name, steps)
        try:
            if way == "over":
                seen = await over_shards(coordinator, steps)
            elif way == "one":
                seen = await in_one_shard(client, steps)
            else:
                seen = await lists_of(client, steps)
            _tell(file, "ok", name, seen)
        except Aborted:
            _tell(file, "fail", name, None)
        except (InDoubt, OutcomeUnknown):
            _tell(file, "unknown", name, None)
        except DeadlineExceeded as error:
            _tell(file, "unknown" if error.maybe_done else "fail", name, None)
        except KvError:
            # of a read before the commit
            _tell(file, "fail", name, None)
        await asyncio.sleep(PACE * stream.random())


def _tell(file: TextIO, what: str, name: str, steps: Steps | None) -> None:
    file.write(json.dumps([time.monotonic_ns(), what, name, steps]) + "\n")
    file.flush()


async def main(task: dict[str, Any], file: TextIO) -> None:
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    async with (
        Coordinator(task["store"], space="chaos", timeout=TIMEOUT, sweep_every=1.0) as coordinator,
        Client(task["store"]) as client,
    ):
        await asyncio.gather(*[work(task, number, coordinator, client, file, ended) for number in range(task["tasks"])])


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with open(given["file"], "w", encoding="utf-8") as written:
        asyncio.run(main(given, written))
