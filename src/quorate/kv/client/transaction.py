"""Optimistic transactions: what is read is remembered with its revision, what is written is kept back, and all is committed if nothing that was
read has changed.

Everything a transaction reads is as of one revision, that of its first read: it sees one state of the store, and a transaction that only reads
needs no commit. Kung and Robinson, "On Optimistic Methods for Concurrency Control" (1981).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quorate.errors import UsageError
from quorate.kv import commands
from quorate.kv.client.records import Item, Key, delete, key_bytes, prefix_end, put
from quorate.kv.commands import Condition, Write

UNBOUNDED = 1e9
"""Seconds of staleness that are as good as any."""

if TYPE_CHECKING:
    from quorate.kv.client.aio import Client


class Transaction:
    """Given to the function of ``transact``; nothing is written until that returns."""

    def __init__(self, client: "Client", deadline: float, seconds: float, local: bool = False) -> None:
        """``local``: the first read need not be linearizable, for the commit will check all reads, even if nothing is written."""
        self.revision = 0
        """As of which it reads; 0 before the first read."""
        self.group = 0
        """The shard that it is in; 0 before the first key."""
        self.local = local
        self.preparing = False
        """Something was prepared in the shard while it read: what was decided before it began may be missing from its state."""
        self._client = client
        self._deadline = deadline
        self._seconds = seconds
        self._reads: dict[bytes, int] = {}
        self._ranges: dict[tuple[bytes, bytes], None] = {}
        self._writes: dict[bytes, Write] = {}

    async def _enter(self, key: bytes) -> None:
        group = await self._client.group_of(key, self._deadline)
        if self.group not in (0, group):
            raise UsageError(
                f"the key {key!r} is in another shard than the keys before it: a transaction over shards takes quorate.transactions"
            )
        self.group = group

    async def get(self, key: Key) -> Item | None:
        """The key as of the transaction's revision, None if it did not exist. Keys that were put here are not read back: they have no
        version yet (UsageError)."""
        data = key_bytes(key)
        if data in self._writes:
            raise UsageError(f"the key {key!r} was written by this transaction: it has no version before the commit")
        await self._enter(data)
        staleness = UNBOUNDED if self.local else 0.0
        found = await self._client.read(data, self.revision, self._deadline, self._seconds, staleness, leader=True)
        entry = found.entry
        self.revision = self.revision or found.revision
        self.preparing = self.preparing or found.preparing
        self._reads[data] = 0 if entry is None else entry.modified
        return None if entry is None else Item(entry)

    async def list(self, prefix: Key) -> Sequence[Item]:
        """All keys that begin with ``prefix``, as of the transaction's revision. Keys that others add to them are a conflict, too."""
        start = key_bytes(prefix)
        end = prefix_end(start)
        await self._enter(start)
        found: list[Item] = []
        at = start
        while True:
            staleness = UNBOUNDED if self.local else 0.0
            page = await self._client.page(
                at, end, 0, self.revision, self._deadline, self._seconds, staleness, leader=True
            )
            self.revision = self.revision or page.revision
            self.preparing = self.preparing or page.preparing
            found += page.items
            if not page.next:
                break
            at = page.next
            await self._enter(at)
        self._ranges[start, end] = None
        return found

    async def put(self, key: Key, value: bytes, *, lease: int = 0) -> None:
        write = put(key, value, lease=lease)
        await self._enter(write.key)
        self._writes[write.key] = write

    async def delete(self, key: Key) -> None:
        write = delete(key)
        await self._enter(write.key)
        self._writes[write.key] = write

    # ---- for the client

    @property
    def writes(self) -> Sequence[Write]:
        return tuple(self._writes.values())

    def conditions(self) -> Sequence[Condition]:
        """That nothing which was read has changed."""
        found = [Condition(commands.MODIFIED, key, modified) for key, modified in self._reads.items()]
        found += [Condition(commands.UNCHANGED, start, self.revision, end) for start, end in self._ranges]
        return found

    def keys(self) -> Sequence[bytes]:
        """Those that it may conflict on."""
        return tuple(dict.fromkeys([*self._reads, *self._writes]))
