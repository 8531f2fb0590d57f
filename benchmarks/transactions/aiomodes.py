"""What is measured, for programs with an event loop: as ``modes``, with psycopg's asynchronous connections and aiomysql's."""

import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any

import aiomysql  # type: ignore[import-untyped]  # it has no types
import psycopg

from benchmarks.transactions.modes import MY_UPDATE, PG_UPDATE, Places
from quorate.transactions import Coordinator, MariaDB, Postgres

Once = Callable[[int], Awaitable[None]]


class Mode:
    def __init__(self, places: Places) -> None:
        self.places = places

    async def start(self) -> None:
        return

    async def open(self) -> Once:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class ByHand(Mode):
    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._pg: list[Any] = []
        self._my: list[Any] = []
        self._numbers = itertools.count()
        self._names = f"hand.aio.{os.getpid()}"

    async def open(self) -> Once:
        pg = await psycopg.AsyncConnection.connect(self.places.conninfo, autocommit=True)
        parameters = dict(self.places.mariadb)
        parameters["db"] = parameters.pop("database")
        connection = await aiomysql.connect(autocommit=True, **parameters)
        my = await connection.cursor()
        self._pg.append(pg)
        self._my.append(connection)

        async def once(row: int) -> None:
            name = f"{self._names}.{next(self._numbers)}"
            await pg.execute("begin")
            await pg.execute(PG_UPDATE, (row,))
            await my.execute(f"xa start '{name}'")
            await my.execute(MY_UPDATE, (row,))
            await my.execute(f"xa end '{name}'")
            await pg.execute(f"prepare transaction '{name}'".encode())
            await my.execute(f"xa prepare '{name}'")
            await pg.execute(f"commit prepared '{name}'".encode())
            await my.execute(f"xa commit '{name}'")

        return once

    async def close(self) -> None:
        for pg in self._pg:
            await pg.close()
        for connection in self._my:
            connection.close()


class Ours(Mode):
    replicated = False
    acknowledge = "applied"

    async def start(self) -> None:
        decisions: Any = ",".join(self.places.kv) if self.replicated else self.places.folder / "decisions"
        self._pg = Postgres("orders", self.places.conninfo)
        self._my = MariaDB("stock", **self.places.mariadb)
        self._coordinator = Coordinator(
            decisions, [self._pg, self._my], space="bench", timeout=30, acknowledge=self.acknowledge
        )
        self._coordinator.start()

    async def open(self) -> Once:
        coordinator, orders, stock = self._coordinator, self._pg, self._my

        async def once(row: int) -> None:
            async with coordinator.transaction() as tx:
                connection = await tx.enlist(orders)
                await connection.execute(PG_UPDATE, (row,))
                connection = await tx.enlist(stock)
                async with connection.cursor() as cursor:
                    await cursor.execute(MY_UPDATE, (row,))

        return once

    async def close(self) -> None:
        await self._coordinator.close()


class OursReplicated(Ours):
    replicated = True


class OursEarly(Ours):
    acknowledge = "decided"


MODES: dict[str, type[Mode]] = {
    "aio-hand": ByHand,
    "aio-local": Ours,
    "aio-early": OursEarly,
    "aio-replicated": OursReplicated,
}
