"""A process that carries workers: ``python -m benchmarks.transactions.worker PLACES``. It is told one slice after the other on standard input, a line of
JSON each, and answers on standard output:

    {"mode": …, "workers": …, "first": …, "seconds": …, "transactions": …, "think": …}
                                                                           workers of that mode, whose rows begin there, for so long, or so many each
    ready                                                                  all are connected and have done their first transactions
    go                                                                     begin, and
    {"latencies_us": […], "seconds": …, "cpu": …}                          what came of it; connections are still open
    end                                                                    close them
    ended
"""

import asyncio
import json
import resource
import sys
import threading
import time
from typing import Any

import uvloop

from benchmarks.transactions import aiomodes, modes

ROWS = 64
"""Of each worker: with an early acknowledgement the last one's row may be locked still when the next transaction begins."""
WARM = 8
"""Transactions of each worker before it counts, and as many as it takes until all are accustomed (``sql.habit``)."""
WARM_TOGETHER = 48


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Slice:
    def __init__(self, places: modes.Places, told: dict[str, Any]) -> None:
        self.mode = str(told["mode"])
        self.workers = int(told["workers"])
        self.first = int(told["first"])
        self.seconds = float(told["seconds"])
        self.transactions = int(told["transactions"])
        self.think = float(told["think"])
        """Seconds between a worker's transactions."""
        self.places = places
        self.latencies: list[list[int]] = [[] for _ in range(self.workers)]
        self.over = 0.0

    def rows(self, worker: int) -> list[int]:
        return [self.first + worker * ROWS + index for index in range(ROWS)]

    def warm(self, worker: int) -> list[int]:
        """Rows of the transactions that do not count."""
        count = max(WARM, WARM_TOGETHER // self.workers)
        return self.rows(worker)[:count]

    def more(self, done: int) -> bool:
        return done < self.transactions if self.transactions else time.perf_counter() < self.over

    def result(self, began: float, used: float) -> dict[str, Any]:
        return {
            "latencies_us": [latency for worker in self.latencies for latency in worker],
            "seconds": time.perf_counter() - began,
            "cpu": cpu() - used,
        }

    def begins(self) -> tuple[float, float]:
        began = time.perf_counter()
        self.over = began + self.seconds
        return began, cpu()


def hear(word: str) -> None:
    line = sys.stdin.readline().strip()
    if line != word:
        raise SystemExit(f"heard {line!r} instead of {word!r}")


def say(what: str) -> None:
    print(what, flush=True)


def in_threads(slice_: Slice) -> None:
    mode = modes.MODES[slice_.mode](slice_.places)
    ready = threading.Barrier(slice_.workers + 1)
    go = threading.Event()
    failed: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            once = mode.open()
            rows = slice_.rows(worker)
            for row in slice_.warm(worker):
                once(row)
            ready.wait()
            go.wait()
            latencies = slice_.latencies[worker]
            now = time.perf_counter_ns
            done = 0
            while slice_.more(done):
                began = now()
                once(rows[done % ROWS])
                latencies.append((now() - began) // 1000)
                done += 1
                if slice_.think:
                    time.sleep(slice_.think)
        except BaseException as error:
            failed.append(error)
            ready.abort()
            raise

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(slice_.workers)]
    for thread in threads:
        thread.start()
    ready.wait()
    say("ready")
    hear("go")
    began, used = slice_.begins()
    go.set()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    say(json.dumps(slice_.result(began, used)))
    hear("end")
    mode.close()
    say("ended")


async def on_a_loop(slice_: Slice) -> None:
    mode = aiomodes.MODES[slice_.mode](slice_.places)
    await mode.start()
    ones = [await mode.open() for _ in range(slice_.workers)]

    async def warm(worker: int) -> None:
        for row in slice_.warm(worker):
            await ones[worker](row)

    async def work(worker: int) -> None:
        once, rows, latencies = ones[worker], slice_.rows(worker), slice_.latencies[worker]
        now = time.perf_counter_ns
        done = 0
        while slice_.more(done):
            began = now()
            await once(rows[done % ROWS])
            latencies.append((now() - began) // 1000)
            done += 1
            if slice_.think:
                await asyncio.sleep(slice_.think)

    await asyncio.gather(*[warm(worker) for worker in range(slice_.workers)])
    say("ready")
    hear("go")
    began, used = slice_.begins()
    await asyncio.gather(*[work(worker) for worker in range(slice_.workers)])
    say(json.dumps(slice_.result(began, used)))
    hear("end")
    await mode.close()
    say("ended")


def main() -> None:
    places = modes.unpack(sys.argv[1])
    for line in sys.stdin:
        slice_ = Slice(places, json.loads(line))
        if slice_.mode in modes.MODES:
            in_threads(slice_)
        else:
            uvloop.run(on_a_loop(slice_))


if __name__ == "__main__":
    main()
