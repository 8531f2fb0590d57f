"""The key-value store as its client sees it: linearizable, sometimes away, and with answers that are lost. Replication has a simulation of its own (``paxos``)."""

from collections.abc import Sequence
from typing import Any

from quorate.kv import commands
from quorate.kv.client.errors import Conflict, DeadlineExceeded
from quorate.kv.client.records import Item, key_bytes
from quorate.kv.commands import Condition, Write
from quorate.kv.entries import Entry
from quorate.kv.results import Conflicting
from quorate.simulation.scheduler import SECOND, Scheduler, Stream
from quorate.simulation.transactions.shell import Waiting
from quorate.transactions.flow import Done, Failed


class SimStore:
    def __init__(self, scheduler: Scheduler, stream: Stream, delay: int) -> None:
        self._scheduler = scheduler
        self._stream = stream
        self._delay = delay
        self.entries: dict[bytes, Entry] = {}
        self.revision = 0
        self.away = False
        self.losses = 0.0
        self.late = 0.0
        self.under_way = 0
        """Writes that were given up, and will be done yet."""

    # ---- what a client calls

    def get(self, key: str) -> Waiting:
        return self._request(lambda: self._get(key_bytes(key)))

    def list(self, prefix: str) -> Waiting:
        start = key_bytes(prefix)
        return self._request(lambda: [Item(self.entries[key]) for key in sorted(self.entries) if key.startswith(start)])

    def commit(
        self, conditions: Sequence[Condition], writes: Sequence[Write], *, timeout: float = 0.0, transaction: str = ""
    ) -> Waiting:
        return self._request(lambda: self._commit(conditions, writes), write=True)

    # ---- what becomes of it

    def _pause(self) -> int:
        return 1 + self._stream.around(self._delay)

    def _request(self, work: Any, write: bool = False) -> Waiting:
        waiting = Waiting()
        if self.away or (self.losses and self._stream.chance(self.losses)):
            done = write and self._stream.chance(0.5)
            if done:
                # the writer gives up, and it is done all the same, perhaps much later
                self.under_way += 1
                late = 3 * SECOND if self.late and self._stream.chance(self.late) else 0
                self._scheduler.after(self._pause() + self._stream.around(late), self._quietly, work)
            self._scheduler.after(
                self._stream.between(SECOND // 10, SECOND),
                waiting.tell,
                Failed(DeadlineExceeded("commit", 1.0, maybe_done=write)),
            )
            return waiting
        self._scheduler.after(self._pause(), self._do, work, waiting)
        return waiting

    def _quietly(self, work: Any) -> None:
        self.under_way -= 1
        try:
            work()
        except Conflict:
            return

    def _do(self, work: Any, waiting: Waiting) -> None:
        result: Done[Any] | Failed
        try:
            result = Done(work())
        except Conflict as error:
            result = Failed(error)
        self._scheduler.after(self._pause(), waiting.tell, result)

    def _get(self, key: bytes) -> Item | None:
        entry = self.entries.get(key)
        return None if entry is None else Item(entry)

    def _commit(self, conditions: Sequence[Condition], writes: Sequence[Write]) -> None:
        failing = []
        for condition in conditions:
            entry = self.entries.get(condition.key)
            stands = 0 if entry is None else entry.version if condition.kind == commands.VERSION else entry.modified
            if stands != condition.number:
                modified = 0 if entry is None else entry.modified
                failing.append(
                    Conflicting(condition.kind, condition.key, 0 if entry is None else entry.version, modified, 0)
                )
        if failing:
            raise Conflict(failing)
        self.revision += 1
        for write in writes:
            before = self.entries.pop(write.key, None)
            if write.kind == commands.PUT:
                version = 1 if before is None else before.version + 1
                created = self.revision if before is None else before.created
                self.entries[write.key] = Entry(write.key, write.value, version, created, self.revision)
