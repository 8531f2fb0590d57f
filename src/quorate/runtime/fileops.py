"""Carries out the operations of ``storage.disk`` on the files under one folder, without a thought for who waits for them.

Syncs are collected and files stay open, up to a bound; adjacent writes are one ``pwritev``. Used by one thread at a time.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from quorate.errors import StorageError
from quorate.storage.disk import Allocate, Operation, Remove, Rename, Sync, Truncate, Write

MOST_OPEN: Final = 16
_MOST_PIECES: Final = 1024
"""IOV_MAX of Linux."""


class FileOperations:
    """``sync(path, descriptor, folder)`` is called to make a file or folder durable; it may raise OSError."""

    def __init__(self, root: str, sync: Callable[[str, int, bool], None]) -> None:
        self._root = root
        self._sync = sync
        self._open: OrderedDict[str, int] = OrderedDict()
        self._folders: set[str] = set()
        self._to_sync: dict[str, None] = {}
        self._run_path = ""
        self._run_offset = 0
        self._run_end = 0
        self._run: list[bytes] = []
        """Adjacent writes to one file, not yet carried out."""

    def full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def carry_out(self, operation: Operation) -> None:
        """Do it, but for writes and syncs, which may wait for :meth:`flush`. Raises StorageError."""
        kind = type(operation)
        if kind is Write:
            assert isinstance(operation, Write)
            pieces = operation.data
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if operation.offset != self._run_end or operation.path != self._run_path or not self._run:
                self.write_run()
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
            # what was to be synced before must not come after
            self.flush(self._sync)
        else:
            self.write_run()
        path = operation.source if isinstance(operation, Rename) else operation.path
        try:
            if isinstance(operation, Allocate):
                self._allocate(self._descriptor(path), operation.size)
            elif isinstance(operation, Truncate):
                if not os.path.exists(self.full(path)):
                    raise FileNotFoundError(2, "no such file")
                os.ftruncate(self._descriptor(path), operation.size)
            elif isinstance(operation, Rename):
                self._forget(operation.target)
                os.rename(self.full(path), self.full(operation.target))
                fd = self._open.pop(path, None)
                if fd is not None:
                    self._open[operation.target] = fd
            elif isinstance(operation, Remove):
                self._forget(path)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.full(path))
        except OSError as error:
            raise failure(self.full(path), error) from None

    def _allocate(self, fd: int, wanted: int) -> None:
        size = os.fstat(fd).st_size
        if size < wanted:
            try:
                os.posix_fallocate(fd, size, wanted - size)
            except (AttributeError, OSError):
                # no fallocate here, or no space to promise: a hole reads as zeros just the same
                os.ftruncate(fd, wanted)

    def write_run(self) -> None:
        """Write what has been put together."""
        pieces = self._run
        if not pieces:
            return
        path = self._run_path
        offset = self._run_offset
        self._run = []
        try:
            fd = self._descriptor(path)
            while pieces:
                some = pieces[:_MOST_PIECES]
                size = sum(map(len, some))
                written = os.pwritev(fd, some, offset)
                while written < size:
                    more = os.pwrite(fd, b"".join(some)[written:], offset + written)
                    if more == 0:
                        raise OSError(5, "nothing was written")
                    written += more
                offset += size
                pieces = pieces[_MOST_PIECES:]
        except OSError as error:
            raise failure(self.full(path), error) from None

    def flush(self, sync: Callable[[str, int, bool], None]) -> None:
        """Carry out every write and, by ``sync``, every sync asked for so far. Raises StorageError."""
        self.write_run()
        paths = self._to_sync
        if not paths:
            return
        self._to_sync = {}
        for path in paths:
            try:
                if path not in self._open and not os.path.exists(self.full(path)):
                    raise FileNotFoundError(2, "no such file or folder to sync")
                sync(path, self._descriptor(path), path in self._folders)
            except OSError as error:
                raise failure(self.full(path), error) from None

    def _descriptor(self, path: str) -> int:
        """An open descriptor of the file (created if need be) or folder."""
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        full = self.full(path)
        if os.path.isdir(full):
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folders.add(path)
        else:
            fd = os.open(full, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._open[path] = fd
        if len(self._open) > MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _forget(self, path: str) -> None:
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def failure(path: str, error: OSError) -> StorageError:
    return StorageError(f"{path}: {reason(error)}")
