"""A member's virtual disk, at the level of the writes that Zab asks for, and what recovery makes of it.

Writes are carried out later, in order, one at a time; what was carried out is reported later still. A crash loses what was
not carried out, but for a prefix that happened to get there: a log that ends within an Append included. Like the
real store it has a log of entries, snapshots named by a zxid (the newest counts; the log goes on after it), and two epochs.
"""

from collections import deque
from collections.abc import Callable

from tests.simulation.scheduler import MICROSECOND, Scheduler, Stream
from tests.simulation.service import Applied

from quorate.consensus.zab.messages import Entry
from quorate.consensus.zab.replica import (
    Append,
    InstallSnapshot,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
    WriteRequest,
)


class Disk:
    def __init__(self, scheduler: Scheduler, stream: Stream, origin: Applied, latency: int) -> None:
        self.log: list[Entry] = []
        self.snapshot_zxid = 0
        self.snapshot = origin
        self.accepted_epoch = 0
        self.current_epoch = 0
        self.latency = latency
        """Typical time of one write."""
        self.slowdown = 1
        self.carried: Callable[[WriteRequest], None] = lambda write: None
        """Called when a write has been carried out, for the checker."""
        self._scheduler = scheduler
        self._stream = stream
        self._queue: deque[WriteRequest] = deque()
        self._done: Callable[[int], None] = lambda token: None
        self._life = 0
        self._turn = 0
        self._busy = False
        self._carrying = False

    # ---- the running process

    def open(self, done: Callable[[int], None]) -> None:
        """A process starts on this disk; ``done(token)`` reports its writes."""
        self._done = done

    def submit(self, writes: list[WriteRequest]) -> None:
        self._queue.extend(writes)
        if not self._busy:
            self._start()

    def _start(self) -> None:
        if self._queue:
            self._busy = self._carrying = True
            delay = (MICROSECOND + self._stream.around(self.latency)) * self.slowdown
            self._turn += 1
            self._scheduler.after(delay, self._carry, self._turn)

    def hurry(self) -> None:
        """The disk is well again: the write under way need not take the time it seemed to need."""
        self.slowdown = 1
        if self._carrying:
            self._start()

    def _carry(self, turn: int) -> None:
        """One sync: a run of the queue, one write after the other."""
        if turn != self._turn:
            return
        self._carrying = False
        count = len(self._queue) if self._stream.chance(0.5) else 1
        token = 0
        for _ in range(count):
            write = self._queue.popleft()
            self._apply(write)
            token = write.token
        self._scheduler.after(self._stream.around(self.latency // 8) + MICROSECOND, self._report, self._life, token)

    def _report(self, life: int, token: int) -> None:
        if life != self._life:
            return
        self._busy = False
        self._start()
        self._done(token)

    def _apply(self, write: WriteRequest) -> None:
        if isinstance(write, Append):
            self.log += write.entries
        elif isinstance(write, Truncate):
            log = self.log
            while log and log[-1].zxid > write.zxid:
                log.pop()
        elif isinstance(write, StoreAcceptedEpoch):
            self.accepted_epoch = write.epoch
        elif isinstance(write, StoreCurrentEpoch):
            self.current_epoch = write.epoch
        elif isinstance(write, InstallSnapshot):
            assert isinstance(write.snapshot, Applied)
            self.snapshot_zxid, self.snapshot = write.zxid, write.snapshot
        self.carried(write)

    # ---- local snapshots: no part of the order of writes

    def keep_snapshot(self, zxid: int, snapshot: Applied, purge: bool) -> None:
        """A local snapshot is complete; older files may go."""
        if zxid > self.snapshot_zxid:
            self.snapshot_zxid, self.snapshot = zxid, snapshot
        if purge:
            self.log = [entry for entry in self.log if entry.zxid > self.snapshot_zxid]

    # ---- crash and recovery

    def crash(self) -> None:
        """Some prefix of what was queued is there all the same."""
        self._life += 1
        self._turn += 1
        self._busy = self._carrying = False
        survive = self._stream.between(0, len(self._queue)) if self._stream.chance(0.5) else 0
        for _ in range(survive):
            self._apply(self._queue.popleft())
        if self._queue:
            torn = self._queue[0]
            if isinstance(torn, Append) and self._stream.chance(0.5):
                self.log += torn.entries[: self._stream.between(0, len(torn.entries) - 1)]
        self._queue.clear()

    def tail(self) -> list[Entry]:
        """What recovery hands to the core beside the snapshot."""
        return [Entry(entry.zxid, entry.payload) for entry in self.log if entry.zxid > self.snapshot_zxid]

    @property
    def last(self) -> int:
        return max(self.log[-1].zxid, self.snapshot_zxid) if self.log else self.snapshot_zxid

    def holds(self, node: Applied) -> bool:
        """Whether recovery would bring back this entry."""
        if node.zxid <= self.snapshot_zxid:
            return node.within(self.snapshot)
        for entry in reversed(self.log):
            if entry.zxid <= node.zxid:
                return entry.zxid == node.zxid and entry.payload == node.payload
        return False
