"""Removes snapshots and logs that nothing needs any more (autopurge; PurgeTxnLog.java, DatadirCleanupManager.java).

The newest ``keep`` snapshots that look whole stay, with all logs from the one that the oldest of them goes on from; of
everything older nothing is needed. An older snapshot that is not whole goes as well, a newer one stays: it is evidence.
"""

import logging
from collections.abc import Callable
from typing import Final

from quorate.errors import StorageError
from quorate.runtime.environment import MILLISECOND, Environment, Timer
from quorate.storage.disk import Disk, Done, Operation, Remove, Sync
from quorate.zookeeper.txnlog import FOLDER, SNAPSHOT_PREFIX, files_from, log_files, zxid_of

_log = logging.getLogger(__name__)

FEWEST_KEPT: Final = 3
_SMALLEST_SNAPSHOT: Final = 10
_SEAL_END: Final = b"\0\0\0\1/"
_GZIP_MAGIC: Final = b"\x1f\x8b"


def looks_whole(disk: Disk, path: str) -> bool:
    """What Apache checks before it counts on a snapshot: that the end of the last seal is there."""
    if path.endswith(".gz"):
        return disk.read(path, 0, 2) == _GZIP_MAGIC
    size = disk.size(path)
    return size >= _SMALLEST_SNAPSHOT and disk.read(path, size - len(_SEAL_END), len(_SEAL_END)) == _SEAL_END


def unneeded(log_disk: Disk, data_disk: Disk, keep: int) -> tuple[list[str], list[str]]:
    """Paths of the logs and of the snapshots that may go, oldest first. Raises StorageError."""
    keep = max(keep, FEWEST_KEPT)
    found = [(zxid_of(name, SNAPSHOT_PREFIX), name) for name in data_disk.list(FOLDER)]
    snapshots = sorted((zxid, f"{FOLDER}/{name}") for zxid, name in found if zxid >= 0)
    kept: list[int] = []
    for zxid, path in reversed(snapshots):
        if len(kept) < keep and looks_whole(data_disk, path):
            kept.append(zxid)
    if not kept:
        return [], []
    oldest = kept[-1]
    logs = log_files(log_disk)
    needed = set(files_from(logs, oldest))
    return (
        [path for zxid, path in logs if (zxid, path) not in needed],
        [path for zxid, path in snapshots if zxid < oldest],
    )


class Purger:
    """Purges at :meth:`start` and then every ``interval_ms``; 0 or less means never, as in Apache."""

    def __init__(self, log_disk: Disk, data_disk: Disk, env: Environment, keep: int, interval_ms: int) -> None:
        self._log_disk = log_disk
        self._data_disk = data_disk
        self._env = env
        self._keep = keep
        self._interval = interval_ms * MILLISECOND
        self._timer: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        if self._interval > 0:
            self._stopped = False
            self._repeat()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _repeat(self) -> None:
        def purged(error: StorageError | None) -> None:
            if error is not None:
                _log.error("purge failed: %s", error)
            if not self._stopped:
                self._timer = self._env.call_at(self._env.now() + self._interval, self._repeat)

        self.purge(purged)

    def purge(self, done: Done) -> None:
        """Remove what is not needed now; the snapshots first, because without their logs they would be of no use."""
        try:
            logs, snapshots = unneeded(self._log_disk, self._data_disk, self._keep)
        except StorageError as error:
            self._end_later(done, error)
            return
        for path in snapshots + logs:
            _log.info("purge: removing %s", path)

        def snapshots_removed(error: StorageError | None) -> None:
            if error is None:
                _remove(self._log_disk, logs, done)
            else:
                done(error)

        _remove(self._data_disk, snapshots, snapshots_removed)

    def _end_later(self, done: Callable[[StorageError | None], None], error: StorageError) -> None:
        self._env.call_soon(lambda: done(error))


def _remove(disk: Disk, paths: list[str], done: Done) -> None:
    operations: list[Operation] = [Remove(path) for path in paths]
    if operations:
        operations.append(Sync(FOLDER))
    disk.submit(operations, done)
