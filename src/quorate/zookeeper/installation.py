"""Replacing a member's whole history by its leader's, in one step that no crash divides.

What is given up may be committed, and this member one of the few that hold it, so that until everything the leader sent is
durable nothing may be lost. The leader's snapshot alone is not everything: a leader that is still being established
sends the state that it recovered and its log after that. So the new history is written beside the old one:

1. ``installed.log.<first zxid>``: the transactions after the snapshot, in the log's format; no such file if there are none;
2. ``tmp.installed.snapshot.<zxid>``: the snapshot;
3. renamed to ``installed.<first zxid, or 0>.snapshot.<zxid>``: from here on, this is the history, whatever else is in the folders;
4. the log after the snapshot's zxid is cut, and the new log gets its name;
5. newer snapshots are removed, and the snapshot gets its name.

Recovery finishes what is after step 3 and removes what is before it. Apache's servers and tools ignore all these names.
"""

import re
from collections.abc import Sequence
from typing import Final

from quorate.errors import CorruptionError
from quorate.storage.disk import Disk, Operation, Remove, Rename, Sync
from quorate.zookeeper.txnlog import (
    FOLDER,
    SNAPSHOT_PREFIX,
    LogReader,
    LogTail,
    cut_after,
    follows,
    log_name,
    zxid_of,
)

PREFIX: Final = "installed."
_LOG_PREFIX: Final = f"{PREFIX}log."
_COMMITTED: Final = re.compile(r"installed\.([0-9a-f]{1,16})\.snapshot\.([0-9a-f]{1,16})")

Step = tuple[Disk, list[Operation]]
"""To be made durable before the next one is begun."""


class Installation:
    """The history that goes on from a snapshot at ``zxid``; ``first`` is the first transaction after it, 0 if there is none."""

    __slots__ = ("first", "zxid")

    def __init__(self, zxid: int, first: int) -> None:
        self.zxid = zxid
        self.first = first

    @property
    def path(self) -> str:
        return f"{FOLDER}/{PREFIX}{self.first:x}.{SNAPSHOT_PREFIX}.{self.zxid:x}"

    @property
    def log_path(self) -> str:
        return f"{FOLDER}/{PREFIX}{log_name(self.first)}"

    def commit(self, data_disk: Disk, temporary: str) -> Step:
        """From then on the snapshot ``temporary`` and the log beside it are the history."""
        return data_disk, [Rename(temporary, self.path), Sync(FOLDER)]

    def steps(self, log_disk: Disk, data_disk: Disk) -> list[Step]:
        """What is left to do after ``commit``, by the process that began or by the next one."""
        steps: list[Step] = []
        if self.first == 0 or log_disk.exists(self.log_path):
            groups, _ = cut_after(log_disk, self.zxid)
            steps += [(log_disk, group) for group in groups]
            if self.first:
                steps.append((log_disk, [Rename(self.log_path, f"{FOLDER}/{log_name(self.first)}"), Sync(FOLDER)]))
        newer = [name for name in data_disk.list(FOLDER) if zxid_of(name, SNAPSHOT_PREFIX) > self.zxid]
        if newer:
            steps.append((data_disk, [*[Remove(f"{FOLDER}/{name}") for name in newer], Sync(FOLDER)]))
        steps.append((data_disk, [Rename(self.path, f"{FOLDER}/{SNAPSHOT_PREFIX}.{self.zxid:x}"), Sync(FOLDER)]))
        return steps

    def read_log(self, log_disk: Disk, folder: str) -> LogTail | None:
        """The transactions after the snapshot; None if they have got their place in the log already.

        Raises CorruptionError: all of the file was durable before it counted.
        """
        tail = LogTail()
        if not self.first:
            return tail
        if not log_disk.exists(self.log_path):
            return None
        reader = LogReader(log_disk, self.log_path, folder + self.log_path)
        previous = self.zxid
        for entry in reader:
            if not follows(previous, entry.zxid):
                raise CorruptionError(reader.shown, reader.end, f"zxid {entry.zxid:#x} comes after {previous:#x}")
            previous = tail.last_zxid = entry.zxid
            tail.entries.append(entry)
        if reader.torn or not tail.entries:
            raise CorruptionError(reader.shown, reader.end, reader.torn or "no transaction in it")
        return tail


def pending(names: Sequence[str]) -> Installation | None:
    """The installation that a crash interrupted after its commit, by the names in the data's folder."""
    for name in names:
        match = _COMMITTED.fullmatch(name)
        if match is not None:
            return Installation(int(match[2], 16), int(match[1], 16))
    return None


def leftovers(log_disk: Disk) -> list[Operation]:
    """What removes the log of an installation that was never committed."""
    return [Remove(f"{FOLDER}/{name}") for name in log_disk.list(FOLDER) if name.startswith(_LOG_PREFIX)]
