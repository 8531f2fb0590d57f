"""Virtual files: what the system has in its cache, what is surely on disk, and what a crash makes of the difference.

The model is what POSIX promises, and no more. A write is in the cache at once and on disk when its file is synced; a new, renamed
or removed name is on disk when its folder is. Until then a loss of power may keep or lose it: of a file's unsynced data any
sectors survive, in any combination, and the file may have any size between the old and the new one, with zeros
where nothing was written; of a folder's unsynced changes a beginning survives, for file systems keep their order. A rename is
whole or not there. Pre-allocated space reads as zeros and costs nothing.

After a sync that failed, what it was to write is either still unsynced or gone from the cache as well. (That a system may keep it
in the cache and call it synced from then on is not modelled; no program on it could tell.)
"""

from collections.abc import Callable, Iterator

from quorate.errors import StorageError
from quorate.simulation.scheduler import Stream
from quorate.storage.disk import Allocate, Operation, Rename, Sync, Truncate, Write

SECTOR = 512


class _Content:
    """Bytes from the start; what is between their end and ``size`` is zeros."""

    __slots__ = ("data", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0

    def write(self, offset: int, data: bytes) -> None:
        own = self.data
        if len(own) < offset:
            own.extend(bytes(offset - len(own)))
        own[offset : offset + len(data)] = data
        self.size = max(self.size, len(own))

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        end = self.size if length < 0 else min(offset + length, self.size)
        if offset >= end:
            return b""
        piece = bytes(self.data[offset:end])
        return piece + bytes(end - offset - len(piece))

    def copy(self) -> "_Content":
        other = _Content()
        other.data = self.data[:]
        other.size = self.size
        return other


class _File:
    __slots__ = ("cached", "durable", "unsynced")

    def __init__(self) -> None:
        self.cached = _Content()
        self.durable = _Content()
        self.unsynced: list[tuple[int, bytes] | int] = []
        """Since the last sync, in order: (offset, data) written, or the size it was cut or extended to."""

    def sync(self) -> None:
        durable = self.durable
        for change in self.unsynced:
            if isinstance(change, int):
                if change < durable.size:
                    durable.cut(change)
                durable.size = change
            else:
                durable.write(*change)
        self.unsynced.clear()

    def flip(self, offset: int, bit: int) -> None:
        for content in (self.cached, self.durable):
            if offset < len(content.data):
                content.data[offset] ^= 1 << bit

    def lose_power(self, stream: Stream) -> None:
        """Nothing of what was unsynced, all of it, or some sectors of it."""
        if self.unsynced:
            fate = stream.between(0, 3)
            if fate == 1:
                self.sync()
            elif fate:
                self._keep_some(stream)
        self.unsynced.clear()
        self.cached = self.durable.copy()

    def _keep_some(self, stream: Stream) -> None:
        durable, cached = self.durable, self.cached
        touched: dict[int, None] = {}
        for change in self.unsynced:
            if not isinstance(change, int):
                offset, data = change
                for sector in range(offset // SECTOR, (offset + len(data) + SECTOR - 1) // SECTOR):
                    touched[sector] = None
        low, high = sorted((durable.size, cached.size))
        size = stream.choice((low, high, stream.between(low, high)))
        if size < durable.size:
            durable.cut(size)
        durable.size = size
        kept = stream.choice((0.2, 0.5, 0.9))
        for sector in touched:
            start = sector * SECTOR
            if start < size and stream.chance(kept):
                durable.write(start, cached.read(start, min(SECTOR, size - start)))
        durable.size = size


class Volume:
    """One file system. Paths are relative to its root."""

    def __init__(self, stream: Stream) -> None:
        self.full = False
        """No space is left: what needs some fails."""
        self.syncs_to_fail = 0
        self._stream = stream
        self._files: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._unsynced: list[tuple[str, str, _File | None]] = []
        """Changes of names, in order: (name, the name it had before or "", the file or None for a removal)."""

    # ---- reads

    def list(self, folder: str) -> list[str]:
        return _names(self._files, folder)

    def exists(self, path: str) -> bool:
        return path in self._files

    def size(self, path: str) -> int:
        return self._file(path).cached.size

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        return self._file(path).cached.read(offset, length)

    def _file(self, path: str) -> _File:
        file = self._files.get(path)
        if file is None:
            raise StorageError(f"{path}: no such file")
        return file

    # ---- operations

    def carry_out(self, operation: Operation, torn: bool = False) -> None:
        """``torn``: the process dies in the midst of it. Raises StorageError."""
        if isinstance(operation, Write):
            self._write(operation, torn)
        elif torn:
            return
        elif isinstance(operation, Sync):
            self._sync(operation.path)
        elif isinstance(operation, Allocate):
            self._need_space(operation.path)
            file = self._made(operation.path)
            if operation.size > file.cached.size:
                file.cached.size = operation.size
                file.unsynced.append(operation.size)
        elif isinstance(operation, Truncate):
            file = self._file(operation.path)
            file.cached.cut(operation.size)
            file.unsynced.append(operation.size)
        elif isinstance(operation, Rename):
            file = self._file(operation.source)
            del self._files[operation.source]
            self._files[operation.target] = file
            self._unsynced.append((operation.target, operation.source, file))
        elif operation.path in self._files:
            del self._files[operation.path]
            self._unsynced.append((operation.path, "", None))

    def _write(self, write: Write, torn: bool) -> None:
        data = b"".join(write.data)
        if torn or self.full:
            data = data[: self._stream.between(0, max(len(data) - 1, 0))]
        if data or not self.full:
            file = self._made(write.path)
            file.cached.write(write.offset, data)
            file.unsynced.append((write.offset, data))
        if not torn:
            self._need_space(write.path)

    def _need_space(self, path: str) -> None:
        if self.full:
            raise StorageError(f"{path}: no space left on device")

    def _made(self, path: str) -> _File:
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _File()
            self._unsynced.append((path, "", file))
        return file

    def _sync(self, path: str) -> None:
        if self.syncs_to_fail:
            self.syncs_to_fail -= 1
            file = self._files.get(path)
            if file is not None and self._stream.chance(0.5):
                file.unsynced.clear()
                file.cached = file.durable.copy()
            raise StorageError(f"{path}: input/output error")
        file = self._files.get(path)
        if file is not None:
            file.sync()
            return
        rest = []
        for change in self._unsynced:
            if change[0].rpartition("/")[0] == path:
                _apply(self._durable, change)
            else:
                rest.append(change)
        self._unsynced = rest

    # ---- faults

    def lose_power(self) -> None:
        stream = self._stream
        for change in self._unsynced[: stream.between(0, len(self._unsynced))]:
            _apply(self._durable, change)
        self._unsynced.clear()
        self._files = dict(self._durable)
        for file in self._files.values():
            file.lose_power(stream)

    def wipe(self) -> None:
        self._files.clear()
        self._durable.clear()
        self._unsynced.clear()

    def flip_bit(self, path: str, stream: Stream) -> tuple[int, int]:
        """Flip a bit of the file, in the cache and on disk; (offset, bit)."""
        file = self._file(path)
        offset = stream.between(0, max(len(file.cached.data), 1) - 1)
        bit = stream.between(0, 7)
        file.flip(offset, bit)
        return offset, bit

    def flip_back(self, path: str, offset: int, bit: int) -> None:
        file = self._files.get(path)
        if file is not None:
            file.flip(offset, bit)

    def durable(self) -> "DurableView":
        return DurableView(self._durable)


class DurableView:
    """What a loss of power would surely leave; a quorate.storage.disk.Disk to be read."""

    def __init__(self, files: dict[str, _File]) -> None:
        self._files = files

    def list(self, folder: str) -> list[str]:
        return _names(self._files, folder)

    def exists(self, path: str) -> bool:
        return path in self._files

    def size(self, path: str) -> int:
        return self._files[path].durable.size

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        return self._files[path].durable.read(offset, length)

    def make_folder(self, folder: str) -> None:
        """Folders are there as soon as there is a file in them."""

    def submit(self, operations: object, done: Callable[[StorageError | None], None]) -> None:
        raise StorageError("this view is for reading")


def _names(files: dict[str, _File], folder: str) -> list[str]:
    start = folder + "/"
    return sorted(_within(files, start))


def _within(files: dict[str, _File], start: str) -> Iterator[str]:
    for path in files:
        if path.startswith(start) and "/" not in path[len(start) :]:
            yield path[len(start) :]


def _apply(names: dict[str, _File], change: tuple[str, str, _File | None]) -> None:
    name, before, file = change
    if before:
        names.pop(before, None)
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
