"""What a member finds in its data folders when it starts (FileTxnSnapLog.restore, QuorumPeer.loadDataBase).

The newest snapshot that is whole, every transaction logged after it, and the two epochs; or an error, if any of that is
missing in a way that no crash explains. As in Apache an unreadable snapshot is passed over, but only if the log makes up
for it. Nothing is changed here: the caller carries out ``steps``.
"""

import logging
from collections.abc import Collection, Iterator
from typing import Final

from quorate.consensus.zab.messages import LAST_COUNTER, epoch_of
from quorate.errors import CorruptionError, StorageError, UsageError
from quorate.storage.disk import Disk, Operation, Remove, Rename, Sync, Write
from quorate.zookeeper.installation import Installation, Step, leftovers, pending
from quorate.zookeeper.snapshot import load_snapshot_file, snapshot_file
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txnlog import (
    FOLDER,
    LOG_PREFIX,
    SNAPSHOT_PREFIX,
    files_from,
    log_files,
    read_tail,
    zxid_of,
)

_log = logging.getLogger(__name__)

ACCEPTED_EPOCH: Final = "acceptedEpoch"
CURRENT_EPOCH: Final = "currentEpoch"
TEMPORARY_PREFIX: Final = "tmp."
"""Of snapshots being written; not a suffix, because Apache takes ``snapshot.5.tmp`` for a snapshot."""

_READ_BYTES: Final = 1 << 20
_LONGEST_EPOCH: Final = 20


class Recovery:
    """Reads both folders at once. Raises CorruptionError, UsageError or StorageError, all of which mean: do not start.

    ``log_folder`` and ``data_folder`` are put before file names in messages. ``trust_empty_snapshot`` lets a log without
    any snapshot be replayed.
    """

    def __init__(
        self, log_disk: Disk, data_disk: Disk, log_folder: str, data_folder: str, trust_empty_snapshot: bool
    ) -> None:
        self._log_folder = log_folder
        self._data_folder = data_folder
        self._data_disk = data_disk
        log_disk.make_folder(FOLDER)
        data_disk.make_folder(FOLDER)
        self._names = names = data_disk.list(FOLDER)
        self._check_folders(log_disk.list(FOLDER))
        installation = pending(names)
        tree, unreadable = self._newest_snapshot() if installation is None else self._installed(installation)
        self.snapshot_zxid = -1 if tree is None else tree.last_zxid
        """-1 if there is none."""
        base = max(self.snapshot_zxid, 0)
        installed = None if installation is None else installation.read_log(log_disk, log_folder)
        tail = read_tail(log_disk, base, log_folder) if installed is None else installed
        self.tail = tail.entries
        self.last_zxid = last = max(base, tail.last_zxid)
        self._check_made_up_for(unreadable, last)
        if tree is None and tail.entries and not trust_empty_snapshot:
            raise StorageError(
                f"{log_folder}{FOLDER}: the log has transactions, but there is no snapshot that they go on from"
            )
        for note in tail.notes:
            _log.warning("%s", note)
        self._repairs: list[Operation] = [
            Remove(f"{FOLDER}/{name}") for name in names if name.startswith(TEMPORARY_PREFIX)
        ]
        self._read_epochs()
        if tree is None:
            tree = DataTree()
            if not tail.entries:
                self._first_snapshot(tree)
        self.tree = tree
        self.steps: list[Step] = []
        """To be made durable, one after the other, before anything is stored or promised.

        What was read may be in the system's cache alone: a process that was killed may have written it and not lived to
        sync it. The log goes on in a new file, whose syncs would not cover it.
        """
        if installation is not None:
            # the one who began it may have been killed before the sync of a truncation or of the new log's name; what
            # comes next must not become durable without these
            self.steps.append((data_disk, [Sync(FOLDER)]))
            self.steps.append((log_disk, [*_syncs(log_disk, base, ()), Sync(FOLDER)]))
            self.steps += installation.steps(log_disk, data_disk)
        self.steps += [(log_disk, group) for group in tail.repairs]
        read: list[Operation] = []
        if installed is None:
            removed = {step.path for group in tail.repairs for step in group if isinstance(step, Remove)}
            read += _syncs(log_disk, base, removed)
        self.steps.append((log_disk, [*read, *leftovers(log_disk), Sync(FOLDER)]))
        self.steps.append((data_disk, [*self._repairs, Sync(FOLDER)]))

    def _check_folders(self, log_names: list[str]) -> None:
        """Two folders must not hold one another's files: a setting changed, or two members share one (ZOOKEEPER-2967)."""
        if self._names == log_names:
            return  # one folder
        for names, prefix, key, folder in (
            (log_names, SNAPSHOT_PREFIX, "dataLogDir", self._log_folder),
            (self._names, LOG_PREFIX, "dataDir", self._data_folder),
        ):
            wrong = [name for name in names if zxid_of(name, prefix) >= 0]
            if wrong:
                raise UsageError(
                    f"{folder}{FOLDER} ({key}) holds {wrong[0]}, which does not belong there: have dataDir and dataLogDir"
                    " changed?"
                )

    # ---- snapshots

    def _check_made_up_for(self, unreadable: list[int], last: int) -> None:
        """Whether the log from an older snapshot on holds all that the unreadable ones did.

        It need not: a member that was sent a snapshot by its leader never logged what is in it, and its log, which goes on in
        a new epoch, looks complete from any older snapshot.
        """
        logged = {entry.zxid for entry in self.tail}
        for zxid in unreadable:
            if zxid > last:
                problem = f"the log ends at {last:#x} before it"
            elif zxid & LAST_COUNTER and zxid not in logged:
                problem = f"the log, up to {last:#x}, lacks the transaction it was made after"
            else:
                continue
            raise CorruptionError(
                f"{self._data_folder}{FOLDER}/{SNAPSHOT_PREFIX}.{zxid:x}",
                0,
                f"the snapshot is not readable, and {problem}; transactions would be lost",
            )

    def _newest_snapshot(self) -> tuple[DataTree | None, list[int]]:
        """The newest readable snapshot, and the zxids of the unreadable newer ones, newest first."""
        found = [(zxid_of(name, SNAPSHOT_PREFIX), name) for name in self._names]
        snapshots = sorted([item for item in found if item[0] >= 0], reverse=True)
        unreadable: list[int] = []
        for zxid, name in snapshots:
            path = f"{FOLDER}/{name}"
            try:
                return load_snapshot_file(self._pieces(path), self._data_folder + path), unreadable
            except CorruptionError as error:
                _log.warning("snapshot skipped: %s", error)
                unreadable.append(zxid)
        if snapshots:
            raise CorruptionError(
                f"{self._data_folder}{FOLDER}/{snapshots[0][1]}", 0, "neither this nor any older snapshot is readable"
            )
        return None, []

    def _installed(self, installation: Installation) -> tuple[DataTree, list[int]]:
        """The snapshot of a history that a crash kept from getting its name."""
        _log.warning(
            "a crash interrupted the installation of the leader's state as of %#x; going on", installation.zxid
        )
        path = installation.path
        return load_snapshot_file(self._pieces(path), self._data_folder + path), []

    def _pieces(self, path: str) -> Iterator[bytes]:
        offset = 0
        while piece := self._data_disk.read(path, offset, _READ_BYTES):
            offset += len(piece)
            yield piece

    def _first_snapshot(self, tree: DataTree) -> None:
        """Apache does not start on a log without a snapshot, and neither do we: a new folder gets one of nothing."""
        self.snapshot_zxid = 0
        temporary, final = snapshot_paths(0)
        self._repairs += (
            Remove(temporary),
            Write(temporary, 0, list(snapshot_file(tree))),
            Sync(temporary),
            Rename(temporary, final),
        )

    # ---- epochs

    def _read_epochs(self) -> None:
        """Set ``accepted_epoch`` and ``current_epoch``; a file that is not there is derived from the last zxid."""
        epoch = epoch_of(self.last_zxid)
        # one that is not taken up now was given up: it must not be found beside a later history
        begun = (ACCEPTED_EPOCH + ".tmp", CURRENT_EPOCH + ".tmp")
        self._repairs += [Remove(f"{FOLDER}/{name}") for name in begun if name in self._names]
        current = self._read_epoch(CURRENT_EPOCH)
        accepted = self._read_epoch(ACCEPTED_EPOCH)
        if current is None:
            current = epoch
            self._repairs += epoch_operations(CURRENT_EPOCH, current)
        if accepted is None:
            accepted = max(epoch, current)
            self._repairs += epoch_operations(ACCEPTED_EPOCH, accepted)
        if accepted < current:
            raise CorruptionError(
                f"{self._data_folder}{FOLDER}/{ACCEPTED_EPOCH}",
                0,
                f"the accepted epoch {accepted} is less than the current epoch {current}",
            )
        if epoch > current:
            current = self._later_epoch(epoch, accepted, current)
        self.accepted_epoch = accepted
        self.current_epoch = current

    def _later_epoch(self, epoch: int, accepted: int, current: int) -> int:
        """The current epoch, where the history reaches into a later one.

        A learner stores the history before the epoch (see contract of StoreCurrentEpoch in Zab), so a crash between the
        two leaves this. The old epoch is then still the right one to vote with; Apache takes over the new one if its
        file was written and only the rename is missing, and refuses otherwise (ZOOKEEPER-1653).
        """
        begun = self._read_epoch(CURRENT_EPOCH + ".tmp")
        if begun is not None and epoch <= begun <= accepted:
            _log.warning("the current epoch is %d: a crash kept its file from being renamed", begun)
            self._repairs += epoch_operations(CURRENT_EPOCH, begun)
            return begun
        if epoch > accepted:
            raise CorruptionError(
                f"{self._data_folder}{FOLDER}/{CURRENT_EPOCH}",
                0,
                f"the epochs, current {current} and accepted {accepted}, are older than the last zxid {self.last_zxid:#x}",
            )
        _log.warning(
            "the last zxid %#x is newer than the current epoch %d: a crash ended the last synchronisation",
            self.last_zxid,
            current,
        )
        return current

    def _read_epoch(self, name: str) -> int | None:
        if name not in self._names:
            return None
        text = self._data_disk.read(f"{FOLDER}/{name}", 0, _LONGEST_EPOCH + 1)
        digits = text.split(b"\n", 1)[0].strip()
        if len(text) <= _LONGEST_EPOCH and digits.isdigit():
            return int(digits)
        if name.endswith(".tmp"):
            return None  # a crash while it was being written
        raise CorruptionError(
            f"{self._data_folder}{FOLDER}/{name}", 0, f"expected an epoch as a decimal number, found {text!r}"
        )


def _syncs(log_disk: Disk, zxid: int, but: Collection[str]) -> list[Operation]:
    """Syncs of the log files that may hold something at or after ``zxid``."""
    return [Sync(path) for _, path in files_from(log_files(log_disk), zxid) if path not in but]


def snapshot_paths(zxid: int, mark: str = "") -> tuple[str, str]:
    """The paths of a snapshot while it is written and when it is whole."""
    name = f"{SNAPSHOT_PREFIX}.{zxid:x}"
    return f"{FOLDER}/{TEMPORARY_PREFIX}{mark}{name}", f"{FOLDER}/{name}"


def epoch_operations(name: str, epoch: int) -> list[Operation]:
    """Replace an epoch's file whole or not at all; the folder is still to be synced."""
    path = f"{FOLDER}/{name}"
    temporary = path + ".tmp"
    return [
        Remove(temporary),
        Write(temporary, 0, [str(epoch).encode()]),
        Sync(temporary),
        Rename(temporary, path),
    ]
