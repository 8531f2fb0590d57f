"""Snapshots on disk: files ``groups/<group>/snapshot-<index in hex>``, written beside the log and sent to other members as they are.

    "QUORSNAP", u32 version, u32 group, u64 index, u32 length of the members, members, u32 CRC-32 of all before
    pieces: u32 length, u32 CRC-32, the service's bytes
    end: u32 0, u32 CRC-32 of the pieces' checksums, in their order

A file under its final name is whole: it is written under another name, synced and renamed. What is under another name when a
process starts is left from a crash, and removed.
"""

import struct
from collections.abc import Callable, Collection, Iterator
from struct import Struct
from zlib import crc32

from quorate.consensus.paxos import members
from quorate.consensus.paxos.members import Members
from quorate.consensus.replicated import Restorer
from quorate.errors import CorruptionError, RemoteProtocolError, StorageError, UsageError
from quorate.runtime.environment import Environment
from quorate.storage import disk as disks
from quorate.storage.disk import Disk, Done, Operation, Remove, Rename, Sync

MAGIC = b"QUORSNAP"
VERSION = 1
_HEAD = Struct(">8sIIQI")
_U32 = Struct(">I")
_PIECE = Struct(">II")
PIECE_MAX = 16 << 20
_STEP_BYTES = 256 << 10
_REST = 1
"""Writing rests this many times as long as it works, so that it takes at most half of the process."""

Held = Callable[[], Collection[int]]
"""The indices of those that others are fetching."""

_PREFIX = "snapshot-"
_WRITING = "writing"
_COMING = "coming"


def folder_of(group: int) -> str:
    return f"groups/{group}"


def path_of(group: int, index: int) -> str:
    return f"{folder_of(group)}/{_PREFIX}{index:016x}"


def coming_path(group: int) -> str:
    """Of the snapshot that is being received."""
    return f"{folder_of(group)}/{_COMING}"


def indices(disk: Disk, group: int) -> list[int]:
    """Of the snapshots that are there, oldest first."""
    names = disk.list(folder_of(group))
    return sorted(int(name[len(_PREFIX) :], 16) for name in names if name.startswith(_PREFIX))


def clean(disk: Disk, group: int, done: Done) -> None:
    """Make the group's folder, and remove what a crash left half done and all but the newest snapshot."""
    folder = folder_of(group)
    disk.make_folder(folder)
    there = indices(disk, group)
    rest = [f"{folder}/{name}" for name in disk.list(folder) if not name.startswith(_PREFIX)]
    rest += [path_of(group, index) for index in there[:-1]]
    # the newest one's name, and what is in it, may be in the cache alone: the others go when that is durable
    newest = [Sync(path_of(group, there[-1]))] if there else []
    disk.submit([*newest, Sync(folder), *[Remove(path) for path in rest], Sync(folder)], done)


class Writer:
    """Writes a snapshot while the service goes on; ``done(error)`` when it is there under its name, and older ones are gone, but those ``held``."""

    def __init__(
        self,
        env: Environment,
        disk: Disk,
        group: int,
        index: int,
        who: Members,
        pieces: Iterator[bytes],
        held: Held,
        done: Done,
    ) -> None:
        self.index = index
        self._env = env
        self._disk = disk
        self._group = group
        self._pieces = pieces
        self._held = held
        self._done = done
        self._offset = 0
        self._checksum = 0
        self._path = f"{folder_of(group)}/{_WRITING}"
        packed = members.pack(who)
        head = _HEAD.pack(MAGIC, VERSION, group, index, len(packed)) + packed
        self._submit([Remove(self._path)], [head, _U32.pack(crc32(head))], self._next)

    def _submit(self, before: list[Operation], data: list[bytes], then: Callable[[int], None]) -> None:
        began = self._env.now()
        write = disks.Write(self._path, self._offset, data)
        self._offset += sum(map(len, data))

        def written(error: StorageError | None) -> None:
            if error is not None:
                self._done(error)
            else:
                then(began)

        self._disk.submit([*before, write], written)

    def _next(self, began: int) -> None:
        now = self._env.now()
        self._env.call_at(now + (now - began) * _REST, self._step)

    def _step(self) -> None:
        data: list[bytes] = []
        size = 0
        for piece in self._pieces:
            checksum = crc32(piece)
            self._checksum = crc32(_U32.pack(checksum), self._checksum)
            data += (_PIECE.pack(len(piece), checksum), piece)
            size += len(piece)
            if size >= _STEP_BYTES:
                self._submit([], data, self._next)
                return
        data.append(_PIECE.pack(0, self._checksum))
        self._submit([], data, self._end)

    def _end(self, began: int) -> None:
        install(self._disk, self._group, self.index, self._path, self._held(), self._done)


def install(disk: Disk, group: int, index: int, path: str, held: Collection[int], done: Done) -> None:
    """Give the file at ``path`` its name, durably, and remove older snapshots but those ``held``."""
    folder = folder_of(group)
    older = [Remove(path_of(group, other)) for other in indices(disk, group) if other < index and other not in held]
    target = path_of(group, index)
    disk.submit([Sync(path), Rename(path, target), Sync(folder), *older], done)


class Reader:
    """Reads a snapshot and feeds it to ``restorer``, in steps. Raises CorruptionError, UsageError, StorageError.

    ``index`` and ``members`` are what its head says, once constructed.
    """

    def __init__(self, disk: Disk, path: str, group: int, folder: str = "") -> None:
        self._disk = disk
        self._path = path
        self._shown = folder + path
        self._offset = 0
        self._size = disk.size(path)
        head = self._read(_HEAD.size)
        magic, version, of_group, self.index, length = _HEAD.unpack(head)
        if magic != MAGIC:
            raise UsageError(f"{self._shown} is no snapshot: it begins with {magic!r}")
        if version != VERSION:
            raise UsageError(f"{self._shown} is a snapshot of format {version}; format {VERSION} is known")
        packed = self._read(length)
        if _U32.unpack(self._read(_U32.size))[0] != crc32(head + packed):
            raise CorruptionError(self._shown, 0, "a head that does not check out")
        if of_group != group:
            raise CorruptionError(self._shown, 0, f"a snapshot of group {of_group}, expected one of {group}")
        try:
            self.members = members.unpack(packed)
        except (RemoteProtocolError, struct.error) as error:
            raise CorruptionError(self._shown, 0, str(error)) from None

    def _read(self, length: int) -> bytes:
        if length > self._size - self._offset:
            raise CorruptionError(self._shown, self._offset, f"it ends, expected {length} bytes more")
        data = self._disk.read(self._path, self._offset, length)
        self._offset += length
        return data

    def feed(self, restorer: Restorer) -> Iterator[None]:
        """Each step feeds one piece."""
        checksums = 0
        while True:
            at = self._offset
            length, checksum = _PIECE.unpack(self._read(_PIECE.size))
            if length == 0:
                if checksum != checksums or self._offset != self._size:
                    raise CorruptionError(self._shown, at, "an end that does not check out")
                restorer.finish()
                return
            if length > PIECE_MAX:
                raise CorruptionError(self._shown, at, f"a piece of {length} bytes, at most {PIECE_MAX} can be")
            piece = self._read(length)
            if crc32(piece) != checksum:
                raise CorruptionError(self._shown, at, "a piece that does not check out")
            checksums = crc32(_U32.pack(checksum), checksums)
            restorer.feed(piece)
            yield
