"""Bugs in what a member keeps on disk: log, epochs, snapshots, recovery, purge, and what the driver makes of a failing disk."""

from collections.abc import Callable, Sequence
from typing import Any, Final
from zlib import adler32

from quorate.consensus.zab.messages import Entry
from quorate.errors import StorageError
from quorate.simulation.zookeeper.mutations.mutation import Mutation, Patch
from quorate.storage.disk import Disk, Done, Operation, Remove, Rename, Sync, Truncate, Write
from quorate.zookeeper import purge, recovery, snapshotwriter, store, txnlog
from quorate.zookeeper.installation import Installation, Step
from quorate.zookeeper.member import Member
from quorate.zookeeper.recovery import Recovery
from quorate.zookeeper.store import Store
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txnlog import FOLDER, LogTail, TxnLog

_pack = TxnLog._pack
_cut_after = txnlog.cut_after
_files_from = txnlog.files_from
_read_tail = txnlog.read_tail
_recover = Recovery.__init__
_unneeded = purge.unneeded
_take_snapshot = Store.take_snapshot
_epoch_operations = recovery.epoch_operations
_done = Member._done
_steps = Installation.steps

# ---- the log


def _pack_without_sync(self: TxnLog, entries: Sequence[Entry], start: int) -> tuple[list[Operation], int, int]:
    operations, size, index = _pack(self, entries, start)
    return operations[:-1], size, index


def _pack_without_folder_sync(self: TxnLog, entries: Sequence[Entry], start: int) -> tuple[list[Operation], int, int]:
    operations, size, index = _pack(self, entries, start)
    kept = [operation for operation in operations if not (isinstance(operation, Sync) and operation.path == FOLDER)]
    return kept, size, index


def _cut_the_file_alone(disk: Disk, zxid: int) -> tuple[list[list[Operation]], int]:
    groups, last = _cut_after(disk, zxid)
    return [group for group in groups if not isinstance(group[0], Remove)], last


def _cut_without_sync(disk: Disk, zxid: int) -> tuple[list[list[Operation]], int]:
    groups, last = _cut_after(disk, zxid)
    return [[operation for operation in group if not isinstance(operation, Sync)] for group in groups], last


# ---- epochs


def _epoch_in_place(name: str, epoch: int) -> list[Operation]:
    path = f"{FOLDER}/{name}"
    return [Write(path, 0, []), Truncate(path, 0), Write(path, 0, [str(epoch).encode()]), Sync(path)]


def _epoch_without_sync(name: str, epoch: int) -> list[Operation]:
    return [operation for operation in _epoch_operations(name, epoch) if not isinstance(operation, Sync)]


# ---- snapshots


def _sync_the_folder_instead(path: str) -> Sync:
    return Sync(FOLDER)


def _named_by_the_log(self: Store, tree: DataTree, done: Done) -> None:
    applied, tree.last_zxid = tree.last_zxid, self.last_zxid
    try:
        _take_snapshot(self, tree, done)
    finally:
        tree.last_zxid = applied


def _install_in_memory(self: Store, tree: DataTree, zxid: int, entries: Sequence[Entry], done: Done) -> None:
    self._txn_log.restart(entries[-1].zxid if entries else zxid)
    self._env.call_soon(lambda: done(None))


def _leave_the_log(self: Installation, log_disk: Disk, data_disk: Disk) -> list[Step]:
    return [
        step
        for step in _steps(self, log_disk, data_disk)
        if step[0] is not log_disk or any(isinstance(operation, Rename) for operation in step[1])
    ]


# ---- recovery


class _AnyChecksum(int):
    """Equal to every other, and packed as what it is."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _unchecked(data: bytes) -> int:
    return _AnyChecksum(adler32(data))


def _first_file_only(files: list[tuple[int, str]], zxid: int) -> list[tuple[int, str]]:
    return _files_from(files, zxid)[:1]


def _all_but_the_last(disk: Disk, after: int, folder: str = "") -> LogTail:
    tail = _read_tail(disk, after, folder)
    del tail.entries[-1:]
    tail.last_zxid = tail.entries[-1].zxid if tail.entries else after
    return tail


def _recover_without_sync(
    self: Recovery, log_disk: Disk, data_disk: Disk, log_folder: str, data_folder: str, trust_empty_snapshot: bool
) -> None:
    _recover(self, log_disk, data_disk, log_folder, data_folder, trust_empty_snapshot)
    self.steps = [
        (disk, [operation for operation in operations if not isinstance(operation, Sync)])
        for disk, operations in self.steps
    ]


# ---- purge


def _purge_by_name(log_disk: Disk, data_disk: Disk, keep: int) -> tuple[list[str], list[str]]:
    _, snapshots = _unneeded(log_disk, data_disk, keep)
    newest = max([txnlog.zxid_of(name, txnlog.SNAPSHOT_PREFIX) for name in data_disk.list(FOLDER)], default=-1)
    return [path for first, path in txnlog.log_files(log_disk) if first <= newest], snapshots


# ---- the driver


def _ignore_failures(self: Member, token: int) -> Callable[[StorageError | None], None]:
    done = _done(self, token)
    return lambda _: done(None)


def _epochs(operations: Any) -> tuple[Patch, Patch]:
    return Patch(recovery, "epoch_operations", operations), Patch(store, "epoch_operations", operations)


MUTATIONS: Final = (
    Mutation(
        "append-without-sync",
        "The store reports an append as durable when it is written but not synced.",
        Patch(TxnLog, "_pack", _pack_without_sync),
        issue="forceSync=no",
        faults=("power",),
    ),
    Mutation(
        "log-folder-not-synced",
        "A new log file's name is not made durable: the folder is not synced.",
        Patch(TxnLog, "_pack", _pack_without_folder_sync),
        faults=("power",),
    ),
    Mutation(
        "later-logs-not-cut",
        "A truncation cuts the file that holds the zxid and leaves the later files.",
        Patch(store, "cut_after", _cut_the_file_alone),
    ),
    Mutation(
        "trunc-not-synced",
        "A truncation of the log is reported as durable before it is.",
        Patch(store, "cut_after", _cut_without_sync),
        issue="ZK-5094",
        faults=("power",),
    ),
    Mutation(
        "epoch-in-place",
        "An epoch's file is emptied and written anew in place of being replaced.",
        *_epochs(_epoch_in_place),
        issue="ZK-1653",
    ),
    Mutation(
        "epoch-not-synced",
        "An epoch's file is renamed into place without a sync of its contents.",
        *_epochs(_epoch_without_sync),
        faults=("power",),
    ),
    Mutation(
        "snapshot-not-synced",
        "A snapshot's file is renamed into place without a sync of its contents.",
        Patch(snapshotwriter, "Sync", _sync_the_folder_instead),
        faults=("power", "wipe"),
        options={"commit_log": 1, "snap_count": 4},
    ),
    Mutation(
        "snapshot-named-by-log",
        "A snapshot is named after the last transaction logged, not the last applied.",
        Patch(Store, "take_snapshot", _named_by_the_log),
    ),
    Mutation(
        "install-in-memory",
        "The leader's snapshot replaces the tree, but not what is on disk, when NEWLEADER is acknowledged.",
        Patch(Store, "install", _install_in_memory),
        issue="ZK-3642",
        options={"commit_log": 1},
    ),
    Mutation(
        "install-keeps-log",
        "The log that the leader's snapshot replaces is not removed.",
        Patch(Installation, "steps", _leave_the_log),
        issue="ZK-1549",
        options={"commit_log": 1},
    ),
    Mutation(
        "checksum-ignored",
        "Recovery accepts log records whose checksum is wrong.",
        Patch(txnlog, "adler32", _unchecked),
        faults=("bit_flip", "crash"),
    ),
    Mutation(
        "one-log-read",
        "Recovery reads only the log file that begins before the snapshot, not those after it.",
        Patch(txnlog, "files_from", _first_file_only),
    ),
    Mutation(
        "last-record-dropped",
        "Recovery takes the last record of the log for a torn one.",
        Patch(recovery, "read_tail", _all_but_the_last),
    ),
    Mutation(
        "recovered-not-synced",
        "What recovery read from the system's cache is taken to be on disk.",
        Patch(Recovery, "__init__", _recover_without_sync),
        faults=("crash_at_disk", "power"),
    ),
    Mutation(
        "purge-by-name",
        "Purge removes every log file named before the newest snapshot, also one whose end comes after it.",
        Patch(purge, "unneeded", _purge_by_name),
        issue="ZK-2420",
    ),
    Mutation(
        "failed-sync-ignored",
        "A sync that failed counts as done.",
        Patch(Member, "_done", _ignore_failures),
        issue="PostgreSQL's fsyncgate",
        faults=("failing_sync", "full_disk"),
    ),
)
