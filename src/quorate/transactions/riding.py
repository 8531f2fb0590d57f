"""What a transaction reads and writes in a store: what was read has to hold when it commits, and what is written waits until then.

In the shard, or the ensemble, where the decision lies it rides in the decision itself, so that the store needs no prepare (``logs``); elsewhere in our store it
becomes a branch (``kv``).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from quorate.errors import UsageError
from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.records import Item, delete, key_bytes, modified_at, put, version_is
from quorate.kv.client.sync import Client
from quorate.kv.commands import Condition, Write
from quorate.transactions.drivers import kazoo as znodes
from quorate.transactions.drivers.kazoo import Operation, check_path
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs import zookeeper
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.logs.zookeeper import ZooKeeperLog

Log = TypeVar("Log", KvLog, ZooKeeperLog)


def log_for(attribute: str, kind: type[Log], decisions: DecisionLog) -> Log:
    """The log, if its store is the one that ``tx.kv`` or ``tx.znodes`` writes to. Raises UsageError."""
    if isinstance(decisions, kind):
        return decisions
    where, instead = "in no store that could be written to with them", ""
    if isinstance(decisions, KvLog):
        where, instead = "in the key-value store", ": use tx.kv"
    elif isinstance(decisions, ZooKeeperLog):
        where, instead = "in ZooKeeper", ": use tx.znodes"
    raise UsageError(f"there is no tx.{attribute}, for the decisions of this coordinator lie {where}{instead}")


class Rider:
    """Of keys."""

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

    def mark(self) -> Callable[[], None]:
        """What takes back all that is written from now on; what was read has to hold all the same."""
        conditions, writes = dict(self._conditions), dict(self._writes)

        def undo() -> None:
            reads = {which: condition for which, condition in self._conditions.items() if which[0] == "read"}
            self._conditions = reads | {which: found for which, found in conditions.items() if which[0] == "write"}
            self._writes = dict(writes)

        return undo

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


class ZnodeRider:
    """Of znodes. Operations are done in the order in which they were asked for, after what was read has been checked."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, int | None], Operation] = {}
        """By path and version; version -1 is any, None that there is no such znode. A znode that was seen in two states has two, and they cannot both hold."""
        self._writes: list[Operation] = []

    def saw(self, path: str, version: int) -> None:
        self._read.setdefault((path, version), znodes.check(path, version))

    def saw_none(self, path: str) -> None:
        """``path``: of the znode that would have to be created first, whose parent there is."""
        self._read.setdefault((path, None), znodes.create(path))

    def check(self, path: str, version: int) -> None:
        self.saw(self._unwritten(path, version), version)

    def create(self, path: str, value: bytes, acl: Any) -> None:
        self._writes.append(znodes.create(check_path(path), _bytes(value), acl or ()))

    def set(self, path: str, value: bytes, version: int | None) -> None:
        path = self._unwritten(path, version)
        self._writes.append(znodes.replace(path, _bytes(value), -1 if version is None else version))

    def delete(self, path: str, version: int | None) -> None:
        self._writes.append(znodes.delete(self._unwritten(path, version), -1 if version is None else version))

    def _unwritten(self, path: str, version: int | None) -> str:
        """The path; a version cannot be asked of what this transaction changes before."""
        if version is not None and not (type(version) is int and version >= -1):
            raise UsageError(f"{version!r} is no version of a znode, expected a number")
        if version is not None and any(write.path == path for write in self._writes):
            raise UsageError(
                f"znode {path} is written by this transaction before, so that it has no version to be checked"
            )
        return check_path(path)

    def riding(self) -> Any:
        """None if nothing was read or written."""
        if not self._read and not self._writes:
            return None
        # a multi can check that a znode exists, not that it does not: creating it succeeds only then
        first: dict[str, str] = {}
        for write in self._writes:
            first.setdefault(write.path, write.kind)
        operations: list[Operation] = []
        for (path, version), condition in self._read.items():
            if version is not None:
                operations.append(condition)
            elif first.get(path) != "create":
                operations += [condition, znodes.delete(path)]
        return zookeeper.Riding([*operations, *self._writes])


def _bytes(value: bytes) -> bytes:
    if not isinstance(value, bytes):
        raise UsageError(f"a znode's value is bytes, not {type(value).__name__}")
    return value
