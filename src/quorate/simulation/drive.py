"""A virtual disk: quorate.storage.disk.Disk over a :class:`~quorate.simulation.volume.Volume`, in virtual time, with faults.

Several disks may share a volume, as a member's log and snapshots do. Each carries out one batch of what was submitted after the
other, in order; completions come at the end of a batch. A kill leaves some beginning of what was submitted, torn at any
byte; a loss of power keeps of that what the volume keeps.
"""

from collections import deque
from collections.abc import Callable, Sequence

from quorate.errors import StorageError
from quorate.simulation.scheduler import MICROSECOND, Scheduler, Stream
from quorate.simulation.volume import Volume
from quorate.storage.disk import Done, Operation


class _Submission:
    __slots__ = ("done", "left", "operations")

    def __init__(self, operations: Sequence[Operation], done: Done) -> None:
        self.operations = operations
        self.done = done
        self.left = len(operations)


class VirtualDisk:
    """``latency``: typical nanoseconds for a batch; ``slowdown`` multiplies it. ``on_step`` is called before every operation and
    may crash the process then."""

    def __init__(self, scheduler: Scheduler, stream: Stream, volume: Volume, latency: int) -> None:
        self.volume = volume
        self.latency = latency
        self.slowdown = 1
        self.on_step: Callable[[], None] | None = None
        self._scheduler = scheduler
        self._stream = stream
        self._post: Callable[[Callable[[], None]], None] = _nobody
        self._queue: deque[_Submission] = deque()
        self._batch: deque[_Submission] = deque()
        self._error: StorageError | None = None
        self._turn = 0
        self._busy = False
        self._waiting = False
        self.list = volume.list
        self.exists = volume.exists
        self.size = volume.size
        self.read = volume.read

    def make_folder(self, folder: str) -> None:
        """Folders are there as soon as there is a file in them."""

    def open(self, post: Callable[[Callable[[], None]], None]) -> None:
        """A process starts on this disk; completions reach it through ``post``."""
        self._post = post
        self._error = None

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        self._queue.append(_Submission(operations, done))
        if not self._busy:
            self._start()

    def _start(self) -> None:
        self._busy = self._waiting = True
        self._turn += 1
        delay = (MICROSECOND + self._stream.around(self.latency)) * self.slowdown
        self._scheduler.after(delay, self._carry_out, self._turn)

    def hurry(self) -> None:
        """The disk is well again: the batch under way need not take the time it seemed to need."""
        self.slowdown = 1
        if self._waiting:
            self._start()

    def _carry_out(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._waiting = False
        batch = self._batch
        count = len(self._queue) if self._stream.chance(0.7) else 1
        for _ in range(count):
            batch.append(self._queue.popleft())
        ended: list[tuple[Done, StorageError | None]] = []
        volume, step = self.volume, self.on_step
        while batch:
            submission = batch[0]
            operations = submission.operations
            while submission.left and self._error is None:
                if step is not None:
                    step()
                    if turn != self._turn:
                        return  # it crashed us
                operation = operations[len(operations) - submission.left]
                try:
                    volume.carry_out(operation)
                except StorageError as error:
                    self._error = error
                submission.left -= 1
            batch.popleft()
            ended.append((submission.done, self._error))
        self._busy = False
        if self._queue:
            self._start()
        post = self._post
        post(lambda: _tell(ended))

    # ---- crashes

    def crash(self) -> None:
        """The process is gone. Some beginning of what it had submitted is carried out all the same."""
        stream = self._stream
        self._turn += 1
        self._busy = self._waiting = False
        self._post = _nobody
        rest = [*self._batch, *self._queue]
        self._batch.clear()
        self._queue.clear()
        operations = [
            operation
            for submission in rest
            for operation in submission.operations[len(submission.operations) - submission.left :]
        ]
        if not operations or self._error is not None:
            return
        whole = stream.between(0, len(operations)) if stream.chance(0.7) else 0
        try:
            for operation in operations[:whole]:
                self.volume.carry_out(operation)
            if whole < len(operations) and stream.chance(0.5):
                self.volume.carry_out(operations[whole], torn=True)
        except StorageError:
            return  # nobody is there to be told


def _tell(ended: Sequence[tuple[Done, StorageError | None]]) -> None:
    for done, error in ended:
        done(error)


def _nobody(call: Callable[[], None]) -> None:
    """Completions of a process that is gone."""
