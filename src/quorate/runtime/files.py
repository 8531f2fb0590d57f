"""Real files behind the :class:`quorate.storage.disk.Disk` interface, with group commit.

A batch is everything that was queued while the batch before it was carried out: its operations are done in order, each
file is synced once for all of it, and all its completions are reported together. Under load one sync covers hundreds of
submissions; with a single write in flight nothing is waited for.

Promises, beyond those of ``Disk``:

- A ``Sync`` is put off to the end of its batch, but never past a later ``Rename`` or ``Remove``: the usual "write, sync,
  rename" can not expose a file whose bytes are not durable. Between two ``Write``s a ``Sync`` is no barrier; who needs
  one waits for ``done`` before submitting the second.
- If anything fails the disk is dead at once; every submission of that batch fails, even those whose writes had worked,
  because their sync has not happened. A sync is never retried: after a failed fsync Linux marks the pages clean, and a
  second one would succeed without the data (the "fsyncgate" of 2018).

Who does the work
    A batch of small writes and syncs, as the log's are, is written to the page cache on the loop's own thread and synced
    by the kernel in the background (``kernelsync``). Nothing is written while a sync is under way, so the writes do not
    wait for the disk. Everything else (renames, much data, or a system without asynchronous syncs) is done by a worker
    thread. There is one batch at a time, so it does not matter to the order who has it.

    The worker shares the interpreter with a busy loop. CPython hands its lock to a waiting thread only when that thread
    has waited a whole switch interval without the holder letting go in between, and a loop lets go for an instant at every
    poll: measured, a loop with turns of 0.1 ms starved a thread for up to two seconds. So when the worker has had a batch
    for more than a millisecond the switch interval is made as short as it gets, and the worker's timers are exact: its
    request for the lock is then always made and always honoured. While the loop has time the interval stays long, because
    a short one has the two threads snatch the lock from one another.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from quorate.errors import StorageError, UsageError
from quorate.runtime.fileops import FileOperations, failure, reason
from quorate.runtime.kernelsync import MOST, KernelSync, open_kernel_sync
from quorate.storage.disk import Allocate, Done, Operation, Sync, Write

_log = logging.getLogger(__name__)

LOCK_FILE = "quorate.lock"
_INLINE_BYTES = 1 << 20
"""More than this is not written on the loop's thread."""
_WATCH_S = 0.001
_SHORT_INTERVAL_S = 1e-6
_LONG_INTERVAL_S = sys.getswitchinterval()


class SyncStatistics:
    """How long syncs took, in milliseconds; written by the disk's thread, read by anyone."""

    __slots__ = ("count", "last_ms", "max_ms", "slow", "total_ms")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self.last_ms = 0.0
        self.slow = 0
        """Syncs that took longer than the disk's threshold."""

    def add(self, ms: float) -> None:
        self.count += 1
        self.total_ms += ms
        self.last_ms = ms
        if ms > self.max_ms:
            self.max_ms = ms


class _Submission:
    __slots__ = ("done", "operations", "size")

    def __init__(self, operations: Sequence[Operation], done: Done) -> None:
        self.operations = operations
        self.done = done
        self.size = _size_inline(operations)


def _size_inline(operations: Sequence[Operation]) -> int:
    """Bytes to be written, or more than _INLINE_BYTES if the worker should have these operations in any case.

    Joins the pieces of writes: whoever writes them needs them so.
    """
    size = 0
    for operation in operations:
        kind = type(operation)
        if kind is Write:
            assert isinstance(operation, Write)
            pieces = operation.data
            if len(pieces) != 1:
                operation.data = pieces = [b"".join(pieces)]
            size += len(pieces[0])
        elif kind is not Sync and kind is not Allocate:
            return _INLINE_BYTES + 1
    return size


class FileDisk:
    """The folder ``root`` as a ``Disk``; completions are called on ``loop``.

    ``sync=False`` (ZooKeeper's ``forceSync=no``) skips every sync: fast, and not safe. A sync that takes longer than
    ``slow_sync_ms`` is logged and told to ``on_slow_sync(path, milliseconds)``, on the disk's thread if it has the batch.
    ``asynchronous=False`` leaves everything to the thread.
    """

    def __init__(
        self,
        root: str,
        loop: asyncio.AbstractEventLoop,
        *,
        sync: bool = True,
        slow_sync_ms: float = 1000.0,
        on_slow_sync: Callable[[str, float], None] | None = None,
        asynchronous: bool = True,
    ) -> None:
        self.root = os.path.abspath(root)
        self.syncs = SyncStatistics()
        self._loop = loop
        self._sync = sync
        self._slow_sync_ms = slow_sync_ms
        self._on_slow_sync = on_slow_sync
        self._closed = False
        self._lock_fd = -1
        self._waiting: list[_Submission] = []
        self._batch: list[_Submission] = []
        """What is being carried out; [] while nothing is."""
        self._error: StorageError | None = None
        self._files = FileOperations(self.root, self._sync_now)
        """For whoever has the batch, the loop's thread or the worker."""
        self._asynchronous = asynchronous
        """Whether a batch may be carried out on the loop's thread."""
        self._kernel: KernelSync | None = None
        self._started: dict[int, tuple[str, int]] = {}
        """Syncs the kernel has: descriptor -> path and when it began."""
        self._thread: threading.Thread | None = None
        self._queue: SimpleQueue[Sequence[_Submission] | None] = SimpleQueue()
        self._worker_error: StorageError | None = None
        self._handed_over = 0
        self._handed_back = 0
        self._watched = -1
        """``_handed_back`` at the last look, -1 while nobody looks."""

    # ---- reading, at once -------------------------------------------------------------------------------------------

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._files.full(folder)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure(self._files.full(folder), error) from None

    def exists(self, path: str) -> bool:
        return os.path.exists(self._files.full(path))

    def size(self, path: str) -> int:
        try:
            return os.stat(self._files.full(path)).st_size
        except OSError as error:
            raise failure(self._files.full(path), error) from None

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        try:
            with open(self._files.full(path), "rb", buffering=0) as file:
                if offset:
                    file.seek(offset)
                if length < 0:
                    return file.read()
                pieces: list[bytes] = []
                while length > 0 and (piece := file.read(length)):
                    pieces.append(piece)
                    length -= len(piece)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except OSError as error:
            raise failure(self._files.full(path), error) from None

    def make_folder(self, folder: str) -> None:
        full = self._files.full(folder)
        missing: list[str] = []
        while not os.path.isdir(full):
            missing.append(full)
            full = os.path.dirname(full)
        for name in reversed(missing):
            try:
                os.mkdir(name)
                _sync_folder(os.path.dirname(name))
            except FileExistsError:
                if not os.path.isdir(name):
                    raise StorageError(f"{name}: it is a file, not a folder") from None
            except OSError as error:
                raise failure(name, error) from None

    # ---- the lock ---------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Make the folder this process's own until ``close``, creating it if need be.

        The lock is the operating system's and ends with the process, however it ends. Two disks over one folder (the
        log's and the data's) take it once. Raises UsageError if the folder cannot be had.
        """
        path = f"{self.root}/{LOCK_FILE}"
        try:
            self.make_folder("")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except StorageError as error:
            raise UsageError(f"data folder {self.root} cannot be made: {error}") from None
        except OSError as error:
            raise UsageError(f"data folder {self.root} cannot be used: {reason(error)}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if isinstance(error, BlockingIOError):
                by = f"process {owner}" if owner.isdigit() else "another process"
                raise UsageError(f"data folder {self.root} is in use by {by}") from None
            raise UsageError(f"data folder {self.root} cannot be locked: {reason(error)}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    # ---- batches, on the loop's thread ------------------------------------------------------------------------------

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        if self._closed:
            error = StorageError(f"{self.root}: the disk is closed")
            self._loop.call_soon(lambda: done(error))
            return
        self._waiting.append(_Submission(operations, done))
        if not self._batch:
            self._next_batch()

    def _next_batch(self) -> None:
        batch = self._batch = self._waiting
        self._waiting = []
        if self._error is not None:
            self._loop.call_soon(self._finished, self._error)
        elif self._asynchronous and sum([submission.size for submission in batch]) <= _INLINE_BYTES and self._ready():
            error = self._carry_out(batch, self._begin_sync)
            if not self._started:
                self._loop.call_soon(self._finished, error)
            else:
                self._fail(error)  # told when the syncs that did begin have ended
        else:
            self._hand_over(batch)

    def _finished(self, error: StorageError | None) -> None:
        """The batch has been carried out, or has failed: tell, and go on."""
        self._fail(error)
        _tell(self._batch, self._error)
        self._batch = []
        if self._waiting:
            self._next_batch()

    def _fail(self, error: StorageError | None) -> None:
        if error is not None and self._error is None:
            self._error = error
            _log.error("disk failed, nothing more is written: %s", error)

    def _ready(self) -> bool:
        """Whether the kernel syncs for us, or need not."""
        if self._sync and self._kernel is None:
            self._kernel = open_kernel_sync()
            if self._kernel is None:
                self._asynchronous = False
                return False
            self._loop.add_reader(self._kernel.eventfd, self._syncs_ended)
        return True

    def _begin_sync(self, path: str, fd: int, folder: bool) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        if len(self._started) < MOST:
            now = time.perf_counter_ns()
            try:
                kernel.submit(fd, fd, folder)
            except OSError as error:
                _log.warning("asynchronous syncs do not work here (%s): a thread does them from now on", reason(error))
                self._asynchronous = False
            else:
                self._started[fd] = (path, now)
                return
        self._sync_now(path, fd, folder)

    def _syncs_ended(self) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(kernel.eventfd)
        # a signal may come for what was taken with the one before: then there is nothing, and nothing to tell
        if self._take_ended(kernel, 0) and not self._started:
            self._finished(None)

    def _take_ended(self, kernel: KernelSync, at_least: int) -> bool:
        ended = kernel.ended(at_least)
        for fd, code in ended:
            path, began = self._started.pop(fd)
            self._measured(path, began)
            if code:
                self._fail(failure(self._files.full(path), OSError(code, os.strerror(code))))
        return bool(ended)

    def close(self) -> None:
        """Carry out what is queued, end the thread, give up the lock. Completions still come, on the loop."""
        if self._closed:
            return
        self._closed = True
        kernel = self._kernel
        if kernel is not None:
            self._loop.remove_reader(kernel.eventfd)
            if self._started:
                self._take_ended(kernel, len(self._started))
                self._loop.call_soon(_tell, self._batch, self._error)
                self._batch = []
            kernel.close()
            self._kernel = None
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._fail(self._worker_error)
        if self._waiting:
            if self._error is None:
                self._fail(self._carry_out(self._waiting, self._sync_now))
            self._loop.call_soon(_tell, self._waiting, self._error)
            self._waiting = []
        self._files.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # ---- by whoever has the batch -----------------------------------------------------------------------------------

    def _carry_out(self, batch: Sequence[_Submission], sync: Callable[[str, int, bool], None]) -> StorageError | None:
        """Carry out the batch's operations and sync by ``sync``; the first error."""
        try:
            carry_out = self._files.carry_out
            for submission in batch:
                for operation in submission.operations:
                    carry_out(operation)
            self._files.flush(sync)
        except StorageError as error:
            return error
        except Exception as error:  # a bug of ours must not leave the submitters waiting for ever either
            return StorageError(f"{self.root}: {error!r}")
        return None

    def _sync_now(self, path: str, fd: int, folder: bool) -> None:
        if self._sync:
            start = time.perf_counter_ns()
            if folder:
                os.fsync(fd)
            else:
                os.fdatasync(fd)
            self._measured(path, start)

    def _measured(self, path: str, start: int) -> None:
        ms = (time.perf_counter_ns() - start) / 1e6
        self.syncs.add(ms)
        if ms > self._slow_sync_ms:
            self.syncs.slow += 1
            full = self._files.full(path)
            _log.warning("sync of %s took %.0f ms: the disk is slow, and every write waits for it", full, ms)
            if self._on_slow_sync is not None:
                self._on_slow_sync(path, ms)

    # ---- the worker's thread ----------------------------------------------------------------------------------------

    def _hand_over(self, batch: Sequence[_Submission]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"disk {self.root}", daemon=True)
            self._thread.start()
        self._handed_over += 1
        self._queue.put(batch)
        if self._watched < 0:
            self._watched = self._handed_back
            self._loop.call_later(_WATCH_S, self._watch)

    def _watch(self) -> None:
        """Hurry the worker if it has handed nothing back since the last look."""
        if self._handed_back == self._handed_over:
            self._watched = -1
            _hurry(self, False)
            return
        _hurry(self, self._watched == self._handed_back)
        self._watched = self._handed_back
        self._loop.call_later(_WATCH_S, self._watch)

    def _work(self) -> None:
        _exact_timers()
        while (batch := self._queue.get()) is not None:
            error = self._worker_error = self._carry_out(batch, self._sync_now)
            # the loop may be closed already when a process ends in a hurry; then nobody waits for the completions
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._take_back, error)

    def _take_back(self, error: StorageError | None) -> None:
        self._handed_back += 1
        self._finished(error)


_hurried: set[int] = set()


def _hurry(disk: FileDisk, wanted: bool) -> None:
    """Shorten the switch interval while any disk wants it."""
    if wanted != (id(disk) in _hurried):
        (_hurried.add if wanted else _hurried.discard)(id(disk))
        sys.setswitchinterval(_SHORT_INTERVAL_S if _hurried else _LONG_INTERVAL_S)


def _tell(batch: Sequence[_Submission], error: StorageError | None) -> None:
    for submission in batch:
        try:
            submission.done(error)
        except Exception:
            _log.exception("a completion of the disk failed")


def _exact_timers() -> None:
    """Ask the kernel to end this thread's timed waits on time instead of up to 50 us late (see the module's text)."""
    with contextlib.suppress(OSError), open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w") as file:
        file.write("1")


def _sync_folder(full: str) -> None:
    fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
