"""The durable state of one member, in the folder layout of Apache ZooKeeper (FileTxnSnapLog.java, QuorumPeer.java).

Under ``version-2/``: ``log.<zxid>`` on the log's disk; ``snapshot.<zxid>``, ``acceptedEpoch`` and ``currentEpoch`` on the
data's. Both may be the same folder; two disks all the same, so that a snapshot never delays the log's syncs.

Promises:

- Appends, truncations, epochs and installed snapshots become durable in the order of the calls: a crash leaves what a
  prefix of them left. Everything but an append therefore waits for what came before it and holds back what comes after.
- Recovery finds the newest valid snapshot and every transaction after it, or raises. What it drops is a torn tail, which
  nobody was told is durable (see ``txnlog``).
- A snapshot file under its final name is whole. It becomes visible only when the log that it covers is durable.
- After the first error every later call ends with that error: the member must stop and recover.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from quorate.consensus.zab.messages import Entry
from quorate.errors import QuorateError, StorageError
from quorate.runtime.environment import MILLISECOND, Environment
from quorate.storage.disk import Disk, Done, Operation, Remove, Rename, Sync
from quorate.zookeeper.installation import PREFIX, Installation
from quorate.zookeeper.recovery import ACCEPTED_EPOCH, CURRENT_EPOCH, Recovery, epoch_operations, snapshot_paths
from quorate.zookeeper.snapshot import snapshot_file
from quorate.zookeeper.snapshotwriter import CHUNK_BYTES, SnapshotWriter
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txnlog import FOLDER, SNAPSHOT_PREFIX, TxnLog, cut_after

_log = logging.getLogger(__name__)

_REST: Final = 2
"""A snapshot of what is being served rests this many times as long as it works."""


class StoreSettings:
    """Sizes are bytes.

    ``preallocate`` is the step by which log files grow (0: as they are written); a snapshot is due after between half
    of and the whole ``snap_count`` transactions, or ``snap_size`` bytes of log (<= 0: by count alone); ``log_size``
    bytes begin a new log file (0: only a snapshot does). ``trust_empty_snapshot`` lets a log without any snapshot be
    replayed, as upgrades from ZooKeeper 3.4 need. ``log_folder`` and ``data_folder`` are put before file names in
    messages.
    """

    __slots__ = (
        "data_folder",
        "log_folder",
        "log_size",
        "preallocate",
        "snap_count",
        "snap_size",
        "trust_empty_snapshot",
    )

    def __init__(
        self,
        *,
        preallocate: int = 64 << 20,
        snap_count: int = 100_000,
        snap_size: int = 4 << 30,
        log_size: int = 0,
        trust_empty_snapshot: bool = False,
        log_folder: str = "",
        data_folder: str = "",
    ) -> None:
        self.preallocate = preallocate
        self.snap_count = max(snap_count, 2)
        self.snap_size = snap_size
        self.log_size = log_size
        self.trust_empty_snapshot = trust_empty_snapshot
        self.log_folder = log_folder and log_folder.rstrip("/") + "/"
        self.data_folder = data_folder and data_folder.rstrip("/") + "/"


class Recovered:
    """What was on disk. ``tail`` are the logged transactions after ``snapshot_zxid``: not applied, maybe not committed."""

    __slots__ = ("accepted_epoch", "current_epoch", "snapshot_zxid", "tail", "tree")

    def __init__(
        self, tree: DataTree, snapshot_zxid: int, tail: list[Entry], accepted_epoch: int, current_epoch: int
    ) -> None:
        self.tree = tree
        self.snapshot_zxid = snapshot_zxid
        self.tail = tail
        self.accepted_epoch = accepted_epoch
        self.current_epoch = current_epoch


class _Job:
    """A call that waits for its turn. An ``exclusive`` one holds back what comes after it until it is done."""

    __slots__ = ("done", "exclusive", "start")

    def __init__(self, start: Callable[[Done], None], done: Done, exclusive: bool) -> None:
        self.start = start
        self.done = done
        self.exclusive = exclusive


class Store:
    """See the module's text. ``recover`` comes first."""

    def __init__(self, log_disk: Disk, data_disk: Disk, env: Environment, settings: StoreSettings) -> None:
        self._log_disk = log_disk
        self._data_disk = data_disk
        self._env = env
        self._settings = settings
        self._txn_log = TxnLog(log_disk, 0)
        self._jobs: deque[_Job] = deque()
        self._exclusive = False
        self._error: StorageError | None = None
        self._writer: SnapshotWriter | None = None
        self.snapshot_zxid = -1
        """The newest durable snapshot's."""
        self.snapshots_taken = 0
        self.snapshot_ms = 0.0
        """How long the last one took."""
        self._txns_at = 0
        self._bytes_at = 0
        self._txns_due = 0
        self._bytes_due = 0

    def recover(self) -> Recovered:
        """Read everything; repairs are queued before whatever is stored next.

        Raises CorruptionError, UsageError or StorageError, each of which means: do not start.
        """
        settings = self._settings
        found = Recovery(
            self._log_disk, self._data_disk, settings.log_folder, settings.data_folder, settings.trust_empty_snapshot
        )
        self.snapshot_zxid = found.snapshot_zxid
        self._txn_log = TxnLog(self._log_disk, found.last_zxid, settings.preallocate, settings.log_size)
        self._reset_due()
        self._txns_at -= len(found.tail)
        self._run(lambda finished: self._steps(found.steps, finished), _logged)
        zxid = max(found.snapshot_zxid, 0)
        return Recovered(found.tree, zxid, found.tail, found.accepted_epoch, found.current_epoch)

    def settle(self, done: Done) -> None:
        """Report when everything that was recovered, and whatever had to be repaired, is durable."""
        self._run(lambda finished: finished(None), done)

    def stop(self) -> None:
        """Give up a snapshot that is being written; what was submitted before is still carried out."""
        self._cancel_snapshot()

    # ---- what the member must not forget

    def append(self, entries: Sequence[Entry], done: Done) -> None:
        """Log ``entries``, which follow all before them."""
        if self._exclusive or self._jobs or self._error is not None:
            self._run(lambda finished: self._txn_log.append(entries, finished), done, exclusive=False)
        else:
            self._txn_log.append(entries, done)

    def truncate(self, zxid: int, done: Done) -> None:
        """Forget every transaction after ``zxid``. StorageError if the log has no ``zxid`` or a snapshot is past it."""

        def start(finished: Done) -> None:
            self._cancel_snapshot()
            if zxid < self.snapshot_zxid:
                raise StorageError(
                    f"{self._settings.log_folder}{FOLDER}: the log cannot be cut back to {zxid:#x}, because"
                    f" {SNAPSHOT_PREFIX}.{self.snapshot_zxid:x} already holds what came after; empty the data folder to"
                    " have the member rebuilt from its peers"
                )
            self._after_flush(lambda: self._cut(zxid, finished), finished)

        self._run(start, done)

    def _cut(self, zxid: int, finished: Done) -> None:
        """Remove the log after ``zxid``, which it must hold."""
        groups, last = cut_after(self._log_disk, zxid)
        last = max(last, self.snapshot_zxid, 0)  # zxid 0, before the first transaction, is held by every log
        if last != zxid:
            raise StorageError(
                f"{self._settings.log_folder}{FOLDER}: the log cannot be cut after {zxid:#x}, which it does not hold; before"
                f" that it has {last:#x}"
            )
        self._txn_log.restart(zxid)
        self._steps([(self._log_disk, group) for group in groups], finished)

    def store_accepted_epoch(self, epoch: int, done: Done) -> None:
        self._store_epoch(ACCEPTED_EPOCH, epoch, done)

    def store_current_epoch(self, epoch: int, done: Done) -> None:
        self._store_epoch(CURRENT_EPOCH, epoch, done)

    def _store_epoch(self, name: str, epoch: int, done: Done) -> None:
        operations = [*epoch_operations(name, epoch), Sync(FOLDER)]

        def start(finished: Done) -> None:
            self._after_flush(lambda: self._data_disk.submit(operations, finished), finished)

        self._run(start, done)

    def install(self, tree: DataTree, zxid: int, entries: Sequence[Entry], done: Done) -> None:
        """Make ``tree``, the leader's state as of ``zxid``, and ``entries`` after it the whole history, in place of the present
        one: a crash leaves all of either (installation.py)."""
        last = entries[-1].zxid if entries else zxid
        installation = Installation(zxid, entries[0].zxid if entries else 0)

        def start(finished: Done) -> None:
            self._cancel_snapshot()
            began = self._env.now()
            temporary, _ = snapshot_paths(zxid, PREFIX)

            def written(error: StorageError | None) -> None:
                if error is None and entries:
                    TxnLog(self._log_disk, zxid, 0, 0, PREFIX).append(entries, logged)
                else:
                    logged(error)

            def logged(error: StorageError | None) -> None:
                if error is None:
                    # nothing of the old log may come to the disk after the new history counts
                    self._after_flush(
                        lambda: self._steps([installation.commit(self._data_disk, temporary)], committed), finished
                    )
                else:
                    finished(error)

            def committed(error: StorageError | None) -> None:
                if error is not None:
                    finished(error)
                    return
                self._txn_log.restart(last)
                try:
                    steps = installation.steps(self._log_disk, self._data_disk)
                except QuorateError as problem:
                    finished(_as_storage_error(problem))
                else:
                    self._steps(steps, installed)

            def installed(error: StorageError | None) -> None:
                if error is None:
                    self._snapshot_done(zxid, began)
                    self._reset_due()
                finished(error)

            SnapshotWriter(self._data_disk, self._env, temporary, snapshot_file(tree, CHUNK_BYTES), 0, written).start()

        self._run(start, done)

    # ---- snapshots of what is being served

    def should_snapshot(self) -> bool:
        """Whether a snapshot is due; never while one is being written."""
        log = self._txn_log
        if log.appended_txns - self._txns_at <= self._txns_due and (
            self._settings.snap_size <= 0 or log.appended_bytes - self._bytes_at <= self._bytes_due
        ):
            return False
        return self._writer is None and not self._exclusive

    @property
    def snapshotting(self) -> bool:
        return self._writer is not None

    def take_snapshot(self, tree: DataTree, done: Done) -> None:
        """Write ``tree`` while it goes on changing; in small pieces, so that serving goes on too.

        One at a time: while one is being written another is not begun. ``done(None)`` is also called if there was
        nothing to do or what came meanwhile made it pointless.
        """
        zxid = tree.last_zxid
        if self._writer is not None or self._exclusive or self._error is not None or zxid <= self.snapshot_zxid:
            error = self._error
            self._env.call_soon(lambda: done(error))
            return
        self._reset_due()
        self._txn_log.roll()
        began = self._env.now()
        temporary, final = snapshot_paths(zxid)

        def written(error: StorageError | None) -> None:
            if error is not None or writer.cancelled:
                ended(error)
            else:
                self._run(self._txn_log.flush, covered, exclusive=False)

        def covered(error: StorageError | None) -> None:
            if error is not None or writer.cancelled:
                ended(error)
            else:
                # it can't be cancelled any more: whoever comes now comes after it on the data's disk
                self._data_disk.submit([Rename(temporary, final), Sync(FOLDER)], visible)

        def visible(error: StorageError | None) -> None:
            if error is None:
                self._snapshot_done(zxid, began)
            if self._writer is writer:
                self._writer = None
            done(error)

        def ended(error: StorageError | None) -> None:
            if self._writer is writer:
                self._writer = None
            self._data_disk.submit([Remove(temporary)], lambda _: done(error))

        writer = SnapshotWriter(self._data_disk, self._env, temporary, snapshot_file(tree, CHUNK_BYTES), _REST, written)
        self._writer = writer
        writer.start()

    def _snapshot_done(self, zxid: int, began: int) -> None:
        self.snapshot_zxid = zxid
        self.snapshots_taken += 1
        self.snapshot_ms = (self._env.now() - began) / MILLISECOND
        _log.info("snapshot %#x is on disk, after %.0f ms", zxid, self.snapshot_ms)

    def _cancel_snapshot(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None

    def _reset_due(self) -> None:
        log = self._txn_log
        half = self._settings.snap_count // 2
        self._txns_at = log.appended_txns
        self._bytes_at = log.appended_bytes
        # at random, lest all members of an ensemble take theirs at the same time
        self._txns_due = half + self._env.random.randrange(half)
        half = max(self._settings.snap_size // 2, 1)
        self._bytes_due = half + self._env.random.randrange(half)

    # ---- sizes, for those who watch

    @property
    def last_zxid(self) -> int:
        """The newest zxid that was given to ``append``, found, or installed."""
        return self._txn_log.last_zxid

    def log_size(self) -> int:
        """Bytes in the log's folder, zeros written ahead included."""
        return _folder_size(self._log_disk)

    def data_size(self) -> int:
        """Bytes in the data's folder (the same, if it is the same)."""
        return _folder_size(self._data_disk)

    # ---- one thing after the other

    def _run(self, start: Callable[[Done], None], done: Done, exclusive: bool = True) -> None:
        self._jobs.append(_Job(start, done, exclusive))
        self._next_jobs()

    def _next_jobs(self) -> None:
        while self._jobs and not self._exclusive:
            job = self._jobs.popleft()
            if self._error is not None:
                self._end_later(job.done, self._error)
            else:
                self._begin(job)

    def _begin(self, job: _Job) -> None:
        exclusive = self._exclusive = job.exclusive

        def finished(error: StorageError | None) -> None:
            if error is not None and self._error is None:
                self._error = error
            try:
                job.done(error)
            finally:
                if exclusive:
                    self._exclusive = False
                    self._next_jobs()

        try:
            job.start(finished)
        except QuorateError as problem:
            self._end_later(finished, _as_storage_error(problem))

    def _end_later(self, done: Done, error: StorageError) -> None:
        self._env.call_soon(lambda: done(error))

    def _after_flush(self, then: Callable[[], None], finished: Done) -> None:
        """Call ``then`` when all that was appended is durable and visible to reads."""

        def flushed(error: StorageError | None) -> None:
            if error is None:
                try:
                    then()
                except QuorateError as problem:
                    finished(_as_storage_error(problem))
            else:
                finished(error)

        self._txn_log.flush(flushed)

    def _steps(self, steps: Sequence[tuple[Disk, list[Operation]]], finished: Done, at: int = 0) -> None:
        """Make each step durable before the next is begun."""
        if at == len(steps):
            finished(None)
            return
        disk, operations = steps[at]

        def stepped(error: StorageError | None) -> None:
            if error is None:
                self._steps(steps, finished, at + 1)
            else:
                finished(error)

        disk.submit(operations, stepped)


def _folder_size(disk: Disk) -> int:
    return sum(disk.size(f"{FOLDER}/{name}") for name in disk.list(FOLDER))


def _as_storage_error(problem: QuorateError) -> StorageError:
    return problem if isinstance(problem, StorageError) else StorageError(str(problem))


def _logged(error: StorageError | None) -> None:
    if error is not None:
        _log.error("the data folder could not be put in order: %s", error)
