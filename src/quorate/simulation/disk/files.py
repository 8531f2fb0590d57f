"""The files of a virtual disk: what programs see now, and what would surely be there after a loss of power.

Content is in ``content``; folders are one list of names and a journal of the changes to them.

A file that was created, renamed or removed is so for sure only when its folder was synced; a sync of the file itself is no
promise about its name (POSIX). Of what was not synced some beginning is there after a loss of power, for each folder. A
rename is one change: there is no moment without the old or the new file.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from quorate.errors import LocalProtocolError, StorageError
from quorate.simulation.disk.content import VirtualFile, read_content
from quorate.simulation.scheduler import Stream
from quorate.storage.disk import Allocate, Done, Operation, Remove, Rename, Sync, Truncate, Write

NO_SPACE: Final = "no space left on device"
SYNC_FAILED: Final = "input/output error"
_FOLDER_SIZE: Final = 4096
_MOST_ZEROS: Final = 1 << 20

_CREATE: Final = 0
_REMOVE: Final = 1
_RENAME: Final = 2


class _Entry:
    """A change to a folder, or, for some renames, two."""

    __slots__ = ("file", "folders", "kind", "path", "target")

    def __init__(self, kind: int, path: str, target: str, file: VirtualFile) -> None:
        self.kind = kind
        self.path = path
        self.target = target
        self.file = file
        self.folders = (_parent(path), _parent(target)) if target else (_parent(path),)

    def make(self, names: dict[str, VirtualFile]) -> None:
        if self.kind == _CREATE:
            names[self.path] = self.file
        else:
            names.pop(self.path, None)
            if self.kind == _RENAME:
                names[self.target] = self.file

    @property
    def crosses(self) -> bool:
        return self.folders[0] != self.folders[-1]


class Flip(NamedTuple):
    """A bit of a file that has changed by itself."""

    path: str
    file: VirtualFile
    offset: int
    bit: int
    value: int
    """The byte as it has become."""

    def __str__(self) -> str:
        return f"{self.path}: bit {self.bit} of byte {self.offset}"


class VirtualFiles:
    """Paths are relative, with ``/`` between parts; ``root`` is put before them in messages. All methods raise StorageError."""

    def __init__(self, stream: Stream, root: str = "") -> None:
        self.root = root
        self.full = False
        """No write succeeds; some part of each is carried out."""
        self.syncs_to_fail = 0
        """So many syncs from now on fail."""
        self.files: dict[str, VirtualFile] = {}
        self.folders: dict[str, None] = {"": None}
        self.changes = 0
        """How many times what a loss of power leaves may have changed."""
        self._durable: dict[str, VirtualFile] = {}
        self._journal: list[_Entry] = []
        self._stream = stream

    def error(self, path: str, reason: str) -> StorageError:
        return StorageError(f"{self.root}/{path}: {reason}" if self.root else f"{path}: {reason}")

    # ---- operations

    def carry_out(self, operation: Operation) -> None:
        if isinstance(operation, Write):
            pieces = operation.data
            self._write(operation.path, operation.offset, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        elif isinstance(operation, Sync):
            if self.syncs_to_fail > 0:
                self.syncs_to_fail -= 1
                self._sync_failed(operation.path)
                raise self.error(operation.path, SYNC_FAILED)
            self.sync(operation.path)
        elif isinstance(operation, Allocate):
            # without space for it this is a hole, as with a real file
            self.created(operation.path).extend(operation.size)
        elif isinstance(operation, Truncate):
            self.file(operation.path).resize(operation.size)
        elif isinstance(operation, Rename):
            self.rename(operation.source, operation.target)
        elif isinstance(operation, Remove):
            self.remove(operation.path)

    def carry_out_part(self, operation: Operation) -> None:
        """The whole, or nothing, or, of a write, its data up to any byte."""
        if isinstance(operation, Write):
            data = b"".join(operation.data)
            self._write(operation.path, operation.offset, data[: self._stream.between(0, len(data))])
        elif self._stream.chance(0.5):
            self.carry_out(operation)

    def _write(self, path: str, offset: int, data: bytes) -> None:
        file = self.created(path)
        if self.full:
            file.write(offset, data[: self._stream.between(0, max(len(data) - 1, 0))])
            raise self.error(path, NO_SPACE)
        file.write(offset, data)

    # ---- what programs do

    def exists(self, path: str) -> bool:
        return path in self.files or path in self.folders

    def file(self, path: str) -> VirtualFile:
        file = self.files.get(path)
        if file is None:
            raise self.error(path, "is a directory" if path in self.folders else "no such file or directory")
        return file

    def created(self, path: str) -> VirtualFile:
        """The file, created if need be."""
        file = self.files.get(path)
        if file is None:
            if path in self.folders:
                raise self.error(path, "is a directory")
            self._check_parent(path)
            file = self.files[path] = VirtualFile()
            self._journal.append(_Entry(_CREATE, path, "", file))
        return file

    def remove(self, path: str) -> None:
        if path in self.folders:
            raise self.error(path, "is a directory")
        file = self.files.pop(path, None)
        if file is not None:
            self._journal.append(_Entry(_REMOVE, path, "", file))

    def rename(self, source: str, target: str) -> None:
        file = self.file(source)
        if target in self.folders:
            raise self.error(source, f"{target} is a directory")
        self._check_parent(target)
        if source != target:
            entry = _Entry(_RENAME, source, target, file)
            entry.make(self.files)
            self._journal.append(entry)

    def sync(self, path: str) -> None:
        file = self.files.get(path)
        if file is not None:
            file.sync()
        elif path in self.folders:
            self._sync_folder(path)
        else:
            raise self.error(path, "no such file or folder to sync")
        self.changes += 1

    def _sync_folder(self, folder: str) -> None:
        # a rename from one folder to another is in both at once, and so is all that came before it
        whole = 0
        for index, entry in enumerate(self._journal):
            if entry.crosses and folder in entry.folders:
                whole = index + 1
        rest: list[_Entry] = []
        for index, entry in enumerate(self._journal):
            if index < whole or folder in entry.folders:
                entry.make(self._durable)
            else:
                rest.append(entry)
        self._journal = rest

    def make_folder(self, folder: str) -> None:
        """Durable at once."""
        path = ""
        for part in folder.split("/"):
            path = f"{path}/{part}" if path else part
            if path in self.files:
                raise self.error(path, "it is a file, not a folder")
            if path not in self.folders:
                if self.full:
                    raise self.error(path, NO_SPACE)
                self.folders[path] = None
                self.changes += 1

    def list(self, folder: str) -> list[str]:
        if folder in self.files:
            raise self.error(folder, "not a directory")
        return names_in(folder, self.files, self.folders)

    def size(self, path: str) -> int:
        return _FOLDER_SIZE if path in self.folders else self.file(path).size

    def _check_parent(self, path: str) -> None:
        parent = _parent(path)
        if parent not in self.folders:
            raise self.error(path, "not a directory" if parent in self.files else "no such file or directory")

    # ---- what happens to them

    def _sync_failed(self, path: str) -> None:
        """The system has given up on this file's changes: some are gone, and the others as unsure as before."""
        file = self.files.get(path)
        if file is not None:
            file.lose(self._stream, power=False)

    def lose_power(self) -> None:
        """Processes on it must have been ended before."""
        stream = self._stream
        if any(entry.crosses for entry in self._journal):
            groups = [self._journal]
        else:
            by_folder: dict[str, list[_Entry]] = {}
            for entry in self._journal:
                by_folder.setdefault(entry.folders[0], []).append(entry)
            groups = [*by_folder.values()]
        for group in groups:
            how = stream.between(0, 2)
            count = 0 if how == 0 else len(group) if how == 1 else stream.between(0, len(group))
            for entry in group[:count]:
                entry.make(self._durable)
        self._journal = []
        self.files = dict(self._durable)
        for file in self.files.values():
            file.lose(stream, power=True)
        self.changes += 1

    def wipe(self) -> None:
        self.files = {}
        self.folders = {"": None}
        self._durable = {}
        self._journal = []
        self.changes += 1

    def flip_bit(self, stream: Stream, path: str) -> "Flip | None":
        """Flip some bit of the file; None if it has no content."""
        file = self.files[path]
        if file.size == 0:
            return None
        zeros = min(file.size - len(file.data), _MOST_ZEROS)
        if not file.data or (zeros and stream.chance(0.25)):
            # mostly not far behind the data, where the next are going to be written
            offset = len(file.data) + stream.spread(1, zeros) - 1
            file.data += bytes(offset + 1 - len(file.data))
        else:
            offset = stream.between(0, len(file.data) - 1)
        bit = stream.between(0, 7)
        file.data[offset] ^= 1 << bit
        self.changes += 1
        return Flip(path, file, offset, bit, file.data[offset])

    def flip_back(self, flip: "Flip") -> None:
        """Take back a flip, if the file is still there and nothing else has changed the byte since (a loss of power may have)."""
        data = flip.file.data
        if self.files.get(flip.path) is flip.file and flip.offset < len(data) and data[flip.offset] == flip.value:
            data[flip.offset] ^= 1 << flip.bit
            self.changes += 1

    def durable(self) -> "DurableView":
        return DurableView(self, dict(self._durable), dict(self.folders))


class DurableView:
    """The files as a loss of power would surely leave them; a ``Disk`` to read from, until the disk itself goes on."""

    def __init__(self, files: VirtualFiles, names: dict[str, VirtualFile], folders: dict[str, None]) -> None:
        self._error = files.error
        self._files = names
        self._folders = folders
        self._read: dict[str, tuple[bytearray, int]] = {}

    def list(self, folder: str) -> list[str]:
        return names_in(folder, self._files, self._folders)

    def exists(self, path: str) -> bool:
        return path in self._files or path in self._folders

    def size(self, path: str) -> int:
        return _FOLDER_SIZE if path in self._folders else self._content(path)[1]

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        data, size = self._content(path)
        return read_content(data, size, offset, length)

    def _content(self, path: str) -> tuple[bytearray, int]:
        content = self._read.get(path)
        if content is None:
            file = self._files.get(path)
            if file is None:
                raise self._error(path, "is a directory" if path in self._folders else "no such file or directory")
            content = self._read[path] = file.durable()
        return content

    def make_folder(self, folder: str) -> None:
        """Only here; the disk does not get it."""
        path = ""
        for part in folder.split("/"):
            path = f"{path}/{part}" if path else part
            self._folders[path] = None

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        raise LocalProtocolError("a view of what is durable cannot be written to")


def names_in(folder: str, files: dict[str, VirtualFile], folders: dict[str, None]) -> list[str]:
    prefix = f"{folder}/" if folder else ""
    start = len(prefix)
    paths = [path for path in (*files, *folders) if path and path.startswith(prefix)]
    return sorted([path[start:] for path in paths if "/" not in path[start:]])


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
