"""Load for our store through its own client; the twin of etcdload/main.go, with the same words and the same answer."""

import argparse
import asyncio
import json
import random
import sys
import time

import uvloop

from quorate.kv.client.aio import Client
from quorate.kv.client.transaction import Transaction


class Tally:
    """What one client did while it counted."""

    def __init__(self) -> None:
        self.done = 0
        self.latencies: list[float] = []


class Load:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.value = b"v" * arguments.value
        self.counting = False
        self.over = False

    async def run(self) -> dict[str, object]:
        arguments = self.arguments
        clients = [
            Client(arguments.endpoints, timeout=30) for _ in range(min(arguments.connections, arguments.clients))
        ]
        await asyncio.gather(*[clients[0].put(name(key), self.value) for key in range(arguments.keys)])
        tallies = [Tally() for _ in range(arguments.clients)]
        workers = [
            asyncio.create_task(self.work(clients[number % len(clients)], tally, random.Random(number)))
            for number, tally in enumerate(tallies)
        ]
        await asyncio.sleep(arguments.warm)
        before = sum(client.metrics.attempts for client in clients)
        print("counting", file=sys.stderr, flush=True)
        began = time.perf_counter()
        self.counting = True
        await asyncio.sleep(arguments.seconds)
        self.counting = False
        seconds = time.perf_counter() - began
        print("counted", file=sys.stderr, flush=True)
        attempts = sum(client.metrics.attempts for client in clients) - before
        self.over = True
        await asyncio.gather(*workers)
        for client in clients:
            await client.close()
        latencies = sorted(latency for tally in tallies for latency in tally.latencies)
        done = sum(tally.done for tally in tallies)
        return {
            "operations": done,
            "attempts": attempts or done,
            "seconds": seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1000 if latencies else 0.0,
            "p99_ms": latencies[len(latencies) * 99 // 100] * 1000 if latencies else 0.0,
            "per_client": [tally.done for tally in tallies],
            "errors": 0,
        }

    async def work(self, client: Client, tally: Tally, chance: random.Random) -> None:
        arguments, value = self.arguments, self.value
        now = time.perf_counter

        async def swap(transaction: Transaction) -> None:
            await transaction.get(key)
            await transaction.put(key, value)

        while not self.over:
            key = name(int(chance.random() * arguments.keys))
            kind = arguments.work
            if kind == "mixed":
                kind = "put" if chance.random() < 0.5 else "get"
            began = now()
            if kind == "put":
                await client.put(key, value)
            elif kind == "get":
                await client.get(key)
            else:
                await client.transact(swap)
            if self.counting:
                tally.done += 1
                tally.latencies.append(now() - began)


def name(key: int) -> str:
    return f"bench/{key:06}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-endpoints", required=True)
    parser.add_argument("-work", choices=("put", "get", "cas", "mixed"), required=True)
    parser.add_argument("-clients", type=int, default=1)
    parser.add_argument("-keys", type=int, default=1000)
    parser.add_argument("-seconds", type=float, default=3)
    parser.add_argument("-warm", type=float, default=1)
    parser.add_argument("-value", type=int, default=100)
    parser.add_argument("-connections", type=int, default=4)
    uvloop.install()
    print(json.dumps(asyncio.run(Load(parser.parse_args()).run())))


if __name__ == "__main__":
    main()
