"""The disk as storage code sees it: ordered writes whose completions come back, and reads for recovery.

``runtime.files`` gives it real files and a thread that syncs; ``simulation`` gives it a disk that tears, loses what was
not synced, and fails. Paths are relative to the disk's root folder, with ``/`` between parts.

Mutations are queued with :meth:`Disk.submit` and carried out in the order of submission. ``done(None)`` is called, on the
loop and in order, when all operations of that submission have been carried out; a submission that holds a ``Sync`` is
durable then. An implementation may carry out several queued submissions together and sync each file once for all of them
(group commit). After the first failure the disk is dead: that and every later submission ends with ``done(error)`` and
nothing more is written, because a page whose fsync failed must not be trusted again.

Reads are immediate and see only what was carried out; storage code reads at recovery, not on hot paths.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from quorate.errors import StorageError


class Write:
    """Write ``data`` at ``offset``, creating the file if need be. ``data`` is a list of pieces, joined when written."""

    __slots__ = ("data", "offset", "path")

    def __init__(self, path: str, offset: int, data: list[bytes]) -> None:
        self.path = path
        self.offset = offset
        self.data = data


class Sync:
    """Make the file's data (and size) durable; ``path`` may name a folder, whose entries become durable."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


class Allocate:
    """Extend the file to ``size`` bytes of zeros without syncing, creating it if need be (pre-allocation)."""

    __slots__ = ("path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size


class Truncate:
    """Cut the file to ``size`` bytes."""

    __slots__ = ("path", "size")

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size


class Rename:
    """Rename atomically, replacing ``target``."""

    __slots__ = ("source", "target")

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target


class Remove:
    """Remove the file; a missing file is not an error."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


Operation = Write | Sync | Allocate | Truncate | Rename | Remove
Done = Callable[[StorageError | None], None]


class Disk(Protocol):
    def list(self, folder: str) -> list[str]:
        """Names in a folder, sorted; [] if there is none. Raises StorageError."""

    def exists(self, path: str) -> bool: ...

    def size(self, path: str) -> int:
        """Bytes in the file. Raises StorageError if there is none."""

    def read(self, path: str, offset: int = 0, length: int = -1) -> bytes:
        """Up to ``length`` bytes from ``offset`` (-1: to the end). Raises StorageError."""

    def make_folder(self, folder: str) -> None:
        """Create a folder and its parents, durably, if missing. Raises StorageError."""

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        """Queue operations; see the module's text."""
