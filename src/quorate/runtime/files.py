"""Real files behind the :class:`quorate.storage.disk.Disk` interface, with group commit.

One worker thread per disk takes everything that is queued, carries it out in order, syncs each file once for all of it
and reports all completions with one call on the loop. While a sync runs, the next batch collects: under load one sync
covers hundreds of submissions, with a single write in flight nothing is waited for.

Promises, beyond those of ``Disk``:

- A ``Sync`` is put off to the end of its batch, but never past a later ``Rename`` or ``Remove``: the usual "write, sync,
  rename" can not expose a file whose bytes are not durable. Between two ``Write``s a ``Sync`` is no barrier; who needs
  one waits for ``done`` before submitting the second.
- If anything fails the disk is dead at once; every submission of that batch fails, even those whose writes had worked,
  because their sync has not happened. A sync is never retried: after a failed fsync Linux marks the pages clean, and a
  second one would succeed without the data (the "fsyncgate" of 2018).

The worker shares the interpreter with a busy loop. CPython hands its lock to a waiting thread only when that thread has
waited a whole switch interval without the holder letting go in between, and a loop lets go for an instant at every poll:
measured, a loop with turns of 0.1 ms starved this thread for up to two seconds. So when a batch has been under way for
more than a millisecond the switch interval is made as short as it gets, and the worker's timers are exact: its request
for the lock is then always made and always honoured. While the loop has time the interval stays long, because a short one
has the two threads snatch the lock from one another. System calls are few: adjacent writes are one ``pwritev``.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from quorate.errors import StorageError, UsageError
from quorate.storage.disk import Allocate, Done, Operation, Remove, Rename, Sync, Truncate, Write

_log = logging.getLogger(__name__)

LOCK_FILE = "quorate.lock"
_MAX_OPEN_FILES = 16
_MAX_PIECES = 1024
"""IOV_MAX of Linux."""
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
    __slots__ = ("done", "operations")

    def __init__(self, operations: Sequence[Operation], done: Done) -> None:
        self.operations = operations
        self.done = done


class FileDisk:
    """The folder ``root`` as a ``Disk``; completions are called on ``loop``.

    ``sync=False`` (ZooKeeper's ``forceSync=no``) skips every sync: fast, and not safe. A sync that takes longer than
    ``slow_sync_ms`` is logged and told to ``on_slow_sync(path, milliseconds)``, which is called on the disk's thread.
    """

    def __init__(
        self,
        root: str,
        loop: asyncio.AbstractEventLoop,
        *,
        sync: bool = True,
        slow_sync_ms: float = 1000.0,
        on_slow_sync: Callable[[str, float], None] | None = None,
    ) -> None:
        self.root = os.path.abspath(root)
        self.syncs = SyncStatistics()
        self._loop = loop
        self._sync = sync
        self._slow_sync_ms = slow_sync_ms
        self._on_slow_sync = on_slow_sync
        self._queue: SimpleQueue[_Submission | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock_fd = -1
        self._submitted = 0
        self._reported = 0
        self._watched = -1
        """``_reported`` at the last look, -1 while nobody looks."""
        # Below: the worker's own; nobody else touches them while it lives.
        self._error: StorageError | None = None
        self._open: OrderedDict[str, int] = OrderedDict()
        self._folders: set[str] = set()
        self._to_sync: dict[str, None] = {}
        self._run_path = ""
        self._run_offset = 0
        self._run_end = 0
        self._run: list[bytes] = []
        """Adjacent writes to one file, not yet carried out."""

    # ---- reading, at once -------------------------------------------------------------------------------------------

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def list(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._full(folder)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failure(self._full(folder), error) from None

    def exists(self, path: str) -> bool:
        return os.path.exists(self._full(path))

    def size(self, path: str) -> int:
        try:
            return os.stat(self._full(path)).st_size
        except OSError as error:
            raise _failure(self._full(path), error) from None

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        try:
            with open(self._full(path), "rb", buffering=0) as file:
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
            raise _failure(self._full(path), error) from None

    def make_folder(self, folder: str) -> None:
        full = self._full(folder)
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
                raise _failure(name, error) from None

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
            raise UsageError(f"data folder {self.root} cannot be used: {_reason(error)}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if isinstance(error, BlockingIOError):
                by = f"process {owner}" if owner.isdigit() else "another process"
                raise UsageError(f"data folder {self.root} is in use by {by}") from None
            raise UsageError(f"data folder {self.root} cannot be locked: {_reason(error)}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    # ---- submitting -------------------------------------------------------------------------------------------------

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        if self._closed:
            error = StorageError(f"{self.root}: the disk is closed")
            self._loop.call_soon(lambda: done(error))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"disk {self.root}", daemon=True)
            self._thread.start()
        self._submitted += 1
        self._queue.put(_Submission(operations, done))
        if self._watched < 0:
            self._watched = self._reported
            self._loop.call_later(_WATCH_S, self._watch)

    def _watch(self) -> None:
        """Hurry the worker if it has reported nothing since the last look."""
        if self._reported == self._submitted:
            self._watched = -1
            _hurry(self, False)
            return
        _hurry(self, self._watched == self._reported)
        self._watched = self._reported
        self._loop.call_later(_WATCH_S, self._watch)

    def close(self) -> None:
        """Carry out what is queued, end the thread, give up the lock. Completions still come, on the loop."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _report(self, batch: Sequence[_Submission], error: StorageError | None) -> None:
        self._reported += len(batch)
        for submission in batch:
            try:
                submission.done(error)
            except Exception:
                _log.exception("a completion of %s failed", self.root)

    # ---- the worker's thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        _exact_timers()
        queue = self._queue
        ending = False
        while not ending:
            batch: list[_Submission] = []
            item = queue.get()
            waiting = queue.qsize()
            while True:
                if item is None:
                    ending = True
                    break
                batch.append(item)
                if waiting == 0:
                    break
                waiting -= 1
                item = queue.get()
            if not batch:
                break
            if self._error is None:
                try:
                    for submission in batch:
                        for operation in submission.operations:
                            self._carry_out(operation)
                    self._flush()
                except Exception as error:  # a bug of ours must not leave the submitters waiting for ever either
                    self._error = error if isinstance(error, StorageError) else StorageError(f"{self.root}: {error!r}")
                    _log.error("disk failed, nothing more is written: %s", error)
            # the loop may be closed already when a process ends in a hurry; then nobody waits for the completions
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report, batch, self._error)

    def _carry_out(self, operation: Operation) -> None:
        kind = type(operation)
        if kind is Write:
            assert isinstance(operation, Write)
            pieces = operation.data
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if operation.offset != self._run_end or operation.path != self._run_path or not self._run:
                self._write_run()
                self._run_path = operation.path
                self._run_offset = self._run_end = operation.offset
            self._run.append(data)
            self._run_end += len(data)
        elif kind is Sync:
            assert isinstance(operation, Sync)
            self._to_sync[operation.path] = None
        else:
            self._carry_out_rare(operation)

    def _carry_out_rare(self, operation: Operation) -> None:
        if isinstance(operation, Rename | Remove):
            self._flush()
        else:
            self._write_run()
        try:
            if isinstance(operation, Allocate):
                path = operation.path
                fd = self._descriptor(path)
                size = os.fstat(fd).st_size
                if size < operation.size:
                    try:
                        os.posix_fallocate(fd, size, operation.size - size)
                    except (AttributeError, OSError):
                        # no fallocate here, or no space to promise: a hole reads as zeros just the same
                        os.ftruncate(fd, operation.size)
            elif isinstance(operation, Truncate):
                path = operation.path
                if not os.path.exists(self._full(path)):
                    raise FileNotFoundError(2, "no such file")
                os.ftruncate(self._descriptor(path), operation.size)
            elif isinstance(operation, Rename):
                path = operation.source
                self._forget(operation.target)
                os.rename(self._full(path), self._full(operation.target))
                fd_or_none = self._open.pop(path, None)
                if fd_or_none is not None:
                    self._open[operation.target] = fd_or_none
            elif isinstance(operation, Remove):
                path = operation.path
                self._forget(path)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._full(path))
        except OSError as error:
            raise _failure(self._full(path), error) from None

    def _forget(self, path: str) -> None:
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)

    def _descriptor(self, path: str) -> int:
        """An open descriptor of the file (created if need be) or folder, from a bounded cache."""
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        full = self._full(path)
        if os.path.isdir(full):
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folders.add(path)
        else:
            fd = os.open(full, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._open[path] = fd
        if len(self._open) > _MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _write_run(self) -> None:
        pieces = self._run
        if not pieces:
            return
        path = self._run_path
        offset = self._run_offset
        self._run = []
        try:
            fd = self._descriptor(path)
            while pieces:
                some = pieces[:_MAX_PIECES]
                size = sum(map(len, some))
                written = os.pwritev(fd, some, offset)
                while written < size:
                    rest = b"".join(some)[written:]
                    if (more := os.pwritev(fd, [rest], offset + written)) == 0:
                        raise OSError(5, "nothing was written")
                    written += more
                offset += size
                pieces = pieces[_MAX_PIECES:]
        except OSError as error:
            raise _failure(self._full(path), error) from None

    def _flush(self) -> None:
        """Carry out every write and every sync asked for so far."""
        paths = self._to_sync
        if self._run:
            self._write_run()
        if not paths:
            return
        self._to_sync = {}
        for path in paths:
            if not self._sync:
                continue
            full = self._full(path)
            try:
                if path not in self._open and not os.path.exists(full):
                    raise FileNotFoundError(2, "no such file or folder to sync")
                fd = self._descriptor(path)
                start = time.perf_counter_ns()
                if path in self._folders:
                    os.fsync(fd)
                else:
                    os.fdatasync(fd)
            except OSError as error:
                raise _failure(full, error) from None
            self._measured(path, start)

    def _measured(self, path: str, start: int) -> None:
        ms = (time.perf_counter_ns() - start) / 1e6
        self.syncs.add(ms)
        if ms > self._slow_sync_ms:
            self.syncs.slow += 1
            _log.warning(
                "sync of %s took %.0f ms: the disk is slow, and every write waits for it", self._full(path), ms
            )
            if self._on_slow_sync is not None:
                self._on_slow_sync(path, ms)


_hurried: set[int] = set()


def _hurry(disk: FileDisk, wanted: bool) -> None:
    """Shorten the switch interval while any disk wants it."""
    if wanted != (id(disk) in _hurried):
        (_hurried.add if wanted else _hurried.discard)(id(disk))
        sys.setswitchinterval(_SHORT_INTERVAL_S if _hurried else _LONG_INTERVAL_S)


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


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _failure(path: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: {_reason(error)}")
