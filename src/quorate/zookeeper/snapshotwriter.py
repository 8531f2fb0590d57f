"""Writes a snapshot to disk a little at a time, so that the member goes on serving meanwhile.

Apache does this in a thread; one loop does it in turns of about a millisecond with rests between them. Memory is bounded
by what the disk has not taken yet.
"""

import logging
from collections.abc import Iterator
from typing import Final

from quorate.errors import StorageError
from quorate.runtime.environment import MILLISECOND, Environment
from quorate.storage.disk import Disk, Done, Operation, Remove, Sync, Write

_log = logging.getLogger(__name__)

CHUNK_BYTES: Final = 64 << 10
_TURN_BYTES: Final = 256 << 10
_TURN_TIME: Final = MILLISECOND
_SYNC_BYTES: Final = 8 << 20
"""It is synced piecewise, lest an epoch that is to be stored wait for one sync of all of it; no more than this is unwritten."""


class SnapshotWriter:
    """Writes ``chunks`` to ``path``, synced; ``done`` when all is durable, or has failed, or was cancelled.

    After each turn it rests ``pause`` times as long as that took; 0 only lets other events through.
    """

    __slots__ = (
        "_chunks",
        "_disk",
        "_done",
        "_ended",
        "_env",
        "_offset",
        "_pause",
        "_scheduled",
        "_synced",
        "_unwritten",
        "cancelled",
        "path",
    )

    def __init__(
        self, disk: Disk, env: Environment, path: str, chunks: Iterator[bytes], pause: int, done: Done
    ) -> None:
        self.path = path
        self.cancelled = False
        self._disk = disk
        self._env = env
        self._chunks = chunks
        self._pause = pause
        self._done = done
        self._offset = 0
        self._synced = 0
        self._unwritten = 0
        self._scheduled = False
        """A turn is coming; otherwise the disk is behind, and its next completion brings one."""
        self._ended = False

    def start(self) -> None:
        self._disk.submit([Remove(self.path)], _ignored)
        self._turn()

    def cancel(self) -> None:
        """Write no more. ``done`` is still called; then the file may be removed."""
        self.cancelled = True
        if not self._ended:
            self._ended = True
            self._disk.submit([], self._done)

    def _turn(self) -> None:
        self._scheduled = False
        if self._ended:
            return
        env = self._env
        began = env.now()
        pieces: list[bytes] = []
        size = 0
        last = False
        try:
            while size < _TURN_BYTES and (not pieces or env.now() - began < _TURN_TIME):
                pieces.append(next(self._chunks))
                size += len(pieces[-1])
        except StopIteration:
            last = True
        except Exception as error:
            _log.exception("the tree can not be written")
            self._fail(StorageError(f"{self.path}: the tree can not be written: {error!r}"))
            return
        operations: list[Operation] = [Write(self.path, self._offset, pieces)] if pieces else []
        self._offset += size
        if last or self._offset - self._synced >= _SYNC_BYTES:
            operations.append(Sync(self.path))
            self._synced = self._offset
        if last:
            self._ended = True
            self._disk.submit(operations, self._done)
            return
        self._unwritten += size

        def written(error: StorageError | None) -> None:
            self._unwritten -= size
            if error is not None:
                self._fail(error)
            elif not self._scheduled and not self._ended:
                self._schedule(0)

        self._disk.submit(operations, written)
        if self._unwritten < _SYNC_BYTES:
            self._schedule((env.now() - began) * self._pause)

    def _schedule(self, rest: int) -> None:
        self._scheduled = True
        if rest > 0:
            self._env.call_at(self._env.now() + rest, self._turn)
        else:
            self._env.call_soon(self._turn)

    def _fail(self, error: StorageError) -> None:
        if not self._ended:
            self._ended = True
            self._done(error)


def _ignored(error: StorageError | None) -> None:
    """A failed disk says so again to the next who writes."""
