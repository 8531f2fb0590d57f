"""What a transaction reads and writes in a store: what was read has to hold when it commits, and what is written waits until then.

In the shard where the decision lies it rides in the decision itself, so that the store needs no prepare (``logs.kv``); elsewhere it becomes a branch (``kv``).
"""

from collections.abc import Sequence

from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.records import Item, delete, key_bytes, modified_at, put, version_is
from quorate.kv.client.sync import Client
from quorate.kv.commands import Condition, Write


class Rider:
    def __init__(self) -> None:
        self._conditions: dict[tuple[str, bytes], Condition] = {}
        self._writes: dict[bytes, Write] = {}

    def saw(self, key: str | bytes, item: Item | None) -> None:
        """The first read of a key is the one that has to hold."""
        self._conditions.setdefault(("read", key_bytes(key)), modified_at(key, 0 if item is None else item.modified))

    def put(self, key: str | bytes, value: bytes, version: int | None) -> None:
        self._expect(key, version)
        self._writes[key_bytes(key)] = put(key, value)

    def delete(self, key: str | bytes, version: int | None) -> None:
        self._expect(key, version)
        self._writes[key_bytes(key)] = delete(key)

    def _expect(self, key: str | bytes, version: int | None) -> None:
        if version is not None:
            self._conditions["write", key_bytes(key)] = version_is(key, version)

    def conditions(self) -> Sequence[Condition]:
        return list(self._conditions.values())

    def writes(self) -> Sequence[Write]:
        return list(self._writes.values())


class AsyncKv:
    """Reads are linearizable, and hold until the commit: if a key that was read has changed by then, the transaction is aborted. Writes are done
    with the commit."""

    def __init__(self, client: AsyncClient) -> None:
        self.rider = Rider()
        self._client = client

    async def get(self, key: str | bytes) -> bytes | None:
        item = await self._client.get(key)
        self.rider.saw(key, item)
        return None if item is None else item.value

    def put(self, key: str | bytes, value: bytes, *, version: int | None = None) -> None:
        """``version``: only if it has that one; 0: only if it does not exist."""
        self.rider.put(key, value, version)

    def delete(self, key: str | bytes, *, version: int | None = None) -> None:
        self.rider.delete(key, version)


class SyncKv:
    """The same for programs that block."""

    def __init__(self, client: Client) -> None:
        self.rider = Rider()
        self._client = client

    def get(self, key: str | bytes) -> bytes | None:
        item = self._client.get(key)
        self.rider.saw(key, item)
        return None if item is None else item.value

    def put(self, key: str | bytes, value: bytes, *, version: int | None = None) -> None:
        self.rider.put(key, value, version)

    def delete(self, key: str | bytes, *, version: int | None = None) -> None:
        self.rider.delete(key, version)
