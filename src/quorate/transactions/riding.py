"""What a transaction reads and writes in the store where the decisions lie: it rides in the decision itself, so that the store needs no prepare."""

from collections.abc import Callable
from typing import Any

from quorate.kv.client.records import Item, delete, key_bytes, modified_at, put, version_is
from quorate.kv.commands import Condition, Write
from quorate.transactions.logs.kv import Riding


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

    def mark(self) -> Callable[[], None]:
        """What takes back all that is written from now on; what was read has to hold all the same."""
        conditions, writes = dict(self._conditions), dict(self._writes)

        def undo() -> None:
            reads = {which: condition for which, condition in self._conditions.items() if which[0] == "read"}
            self._conditions = reads | {which: found for which, found in conditions.items() if which[0] == "write"}
            self._writes = dict(writes)

        return undo

    def riding(self) -> Any:
        """None if nothing was read or written."""
        if not self._writes and not self._conditions:
            return None
        return Riding(list(self._conditions.values()), list(self._writes.values()))
