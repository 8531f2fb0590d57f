"""A virtual disk: batches that take their time, and die half done; syncs that fail, space that runs out, bits that flip.

It keeps the promises of ``storage.disk``, in the manner of ``runtime.files`` and not better: a batch is all that was submitted while the one
before it was carried out; its writes are visible at once, its syncs come at its end, or before a rename or removal in it, and in any
order; its completions come together, some time after that. The first failure ends the disk's service for this process.

One disk outlives the processes that open it, one at a time. How they end:

killed (``crash(power=False)``)
    What the system was given stays, unsynced as it was: everything carried out, a beginning of what was queued, and the
    operation under way done, not done or, if it is a write, done up to any byte.
power lost (``crash(power=True)``)
    The same, and then of all that was not synced only what ``survival`` (a file's content) and ``files`` (names)
    let survive. What was synced is never lost, but to :meth:`VirtualDisk.flip_bit` and :meth:`VirtualDisk.wipe`.

A failed sync drops some of the file's unsynced pages and leaves the others as unsynced as they were. Not modelled: a page that
after a failed sync reads as new and counts as clean, but is not on the drive. A process that opens the file afterwards
cannot tell it from a page that is there, so no program that reads through the cache is safe from it.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from quorate.errors import StorageError
from quorate.simulation.disk.files import VirtualFiles
from quorate.simulation.scheduler import MICROSECOND, Scheduler, Stream
from quorate.storage.disk import Allocate, Done, Operation, Remove, Rename, Sync, Truncate, Write

_STEPS: Final[dict[type, tuple[str, str]]] = {
    Write: ("write", "written"),
    Sync: ("sync", "synced"),
    Allocate: ("allocate", "allocated"),
    Truncate: ("truncate", "truncated"),
    Rename: ("rename", "renamed"),
    Remove: ("remove", "removed"),
}


class _Submission:
    __slots__ = ("done", "operations")

    def __init__(self, operations: Sequence[Operation], done: Done) -> None:
        self.operations = operations
        self.done = done


def _nobody(call: Callable[[], None]) -> None:
    """No process has the disk open."""


class VirtualDisk:
    """Implements storage.disk.Disk. ``latency``: typical nanoseconds of a sync; ``slowdown`` multiplies it.

    ``on_step(what)`` is called before and after every single operation that is carried out, never in the midst of a call
    by the process; it may call :meth:`crash`, and if that was before the operation, this is the one under way.

    Disks may share ``files``, as a member's log and data do that are in one folder. They then crash all together: each is
    killed, and after that ``files`` loses power.
    """

    __slots__ = (
        "_batch",
        "_error",
        "_life",
        "_mean",
        "_next",
        "_post",
        "_rest",
        "_scheduler",
        "_stream",
        "_to_sync",
        "_turn",
        "_under_way",
        "_waiting",
        "files",
        "latency",
        "on_step",
        "slowdown",
    )

    def __init__(self, scheduler: Scheduler, stream: Stream, files: VirtualFiles, latency: int) -> None:
        self.files = files
        self.latency = latency
        self.slowdown = 1
        self.on_step: Callable[[str], None] | None = None
        self._scheduler = scheduler
        self._stream = stream
        self._post: Callable[[Callable[[], None]], None] = _nobody
        self._life = 0
        self._turn = 0
        """Of the call that the disk waits for; an older one comes to nothing."""
        self._next: Callable[[], None] | None = None
        self._mean = 0
        self._waiting: list[_Submission] = []
        self._batch: list[_Submission] = []
        """What is being carried out; [] while nothing is."""
        self._rest: deque[Operation] = deque()
        """The batch's operations that are still to be carried out."""
        self._to_sync: dict[str, None] = {}
        self._under_way: Operation | None = None
        self._error: StorageError | None = None

    # ---- lives

    def open(self, post: Callable[[Callable[[], None]], None]) -> None:
        """A new process has the disk from here on; ``post(call)`` lets a completion into it, now, later or never.

        What an earlier one left in the queue is treated as if it had been killed, and it hears nothing more.
        """
        if self._batch or self._waiting:
            self.crash(power=False)
        self._life += 1
        self._post = post
        self._error = None

    def crash(self, power: bool = False) -> None:
        """The process was killed or, with ``power``, the power was lost; see the module's text."""
        self._leave_unfinished()
        self._forget_process()
        if power:
            self.files.lose_power()

    def _forget_process(self) -> None:
        self._life += 1
        self._turn += 1
        self._post = _nobody
        self._next = None
        self._waiting = []
        self._batch = []
        self._rest.clear()
        self._to_sync.clear()
        self._under_way = None

    # ---- storage.disk.Disk

    def list(self, folder: str) -> list[str]:
        return self.files.list(folder)

    def exists(self, path: str) -> bool:
        return self.files.exists(path)

    def size(self, path: str) -> int:
        return self.files.size(path)

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        return self.files.file(path).read(offset, length)

    def make_folder(self, folder: str) -> None:
        self.files.make_folder(folder)

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        self._waiting.append(_Submission(operations, done))
        if not self._batch:
            self._next_batch()

    # ---- a batch: begun, carried out, synced, reported

    def _next_batch(self) -> None:
        self._batch = self._waiting
        self._waiting = []
        if self._error is not None:
            self._wait(self._report, 0)
        else:
            for submission in self._batch:
                self._rest.extend(submission.operations)
            self._wait(self._carry_out_batch, self.latency // 8)

    def _wait(self, then: Callable[[], None], mean: int) -> None:
        self._turn += 1
        self._next = then
        self._mean = mean
        delay = (MICROSECOND + self._stream.around(mean)) * self.slowdown
        self._scheduler.after(delay, self._go_on, self._turn)

    def _go_on(self, turn: int) -> None:
        then = self._next
        if turn == self._turn and then is not None:
            self._next = None
            then()

    def hurry(self) -> None:
        """The disk is well again: what it is at need not take the time it seemed to need."""
        self.slowdown = 1
        if self._next is not None:
            self._wait(self._next, self._mean)

    def _carry_out_batch(self) -> None:
        rest = self._rest
        to_sync = self._to_sync
        try:
            while rest:
                operation = rest[0]
                if to_sync and isinstance(operation, Rename | Remove):
                    # what was to be synced before must not come after
                    self._wait(self._sync_batch, self.latency)
                    return
                rest.popleft()
                if isinstance(operation, Sync):
                    to_sync[operation.path] = None
                elif not self._step(operation):
                    return
        except StorageError as error:
            self._fail(error)
        if to_sync:
            self._wait(self._sync_batch, self.latency)
        else:
            self._wait(self._report, self.latency // 8)

    def _sync_batch(self) -> None:
        try:
            for path in self._paths_to_sync():
                if not self._step(Sync(path)):
                    return
        except StorageError as error:
            self._fail(error)
        self._to_sync.clear()
        if self._rest:
            self._carry_out_batch()
        else:
            self._wait(self._report, self.latency // 8)

    def _paths_to_sync(self) -> Sequence[str]:
        """They are synced side by side, and end in any order."""
        paths = [*self._to_sync]
        return paths if len(paths) < 2 else self._stream.shuffled(paths)

    def _step(self, operation: Operation) -> bool:
        """Carry it out; False if the process ended over it."""
        on_step = self.on_step
        if on_step is None:
            self.files.carry_out(operation)
            return True
        before, after = _STEPS[type(operation)]
        life = self._life
        self._under_way = operation
        on_step(before)
        if life != self._life:
            return False
        self._under_way = None
        self.files.carry_out(operation)
        on_step(after)
        return life == self._life

    def _report(self) -> None:
        self._post(partial(self._tell, self._life))

    def _tell(self, life: int) -> None:
        if life != self._life:
            return
        error = self._error
        for submission in self._batch:
            submission.done(error)
            if life != self._life:
                return
        self._batch = []
        if self._waiting:
            self._next_batch()

    def _fail(self, error: StorageError) -> None:
        self._error = error
        self._rest.clear()
        self._to_sync.clear()

    # ---- the end of a process

    def _leave_unfinished(self) -> None:
        """Carry out what the system may still carry out of what it was given."""
        if self._error is not None or self.files.syncs_to_fail:
            return
        stream = self._stream
        with contextlib.suppress(StorageError):  # nobody is left to be told
            if self._under_way is not None:
                self.files.carry_out_part(self._under_way)
            elif stream.chance(0.5):
                queued = [*self._rest]
                for submission in self._waiting:
                    queued += submission.operations
                whole = stream.between(0, len(queued))
                for operation in queued[:whole]:
                    if isinstance(operation, Sync):
                        self._to_sync[operation.path] = None
                    else:
                        self._sync_before(operation)
                        self.files.carry_out(operation)
                for operation in queued[whole : whole + 1]:
                    self._sync_before(operation)
                    self.files.carry_out_part(operation)
            for path in self._paths_to_sync():
                self.files.carry_out_part(Sync(path))

    def _sync_before(self, operation: Operation) -> None:
        if isinstance(operation, Rename | Remove):
            for path in self._paths_to_sync():
                self.files.carry_out(Sync(path))
            self._to_sync.clear()
