"""Power failures for programs that write real files in this process: what was not fsynced is gone, in the worst way that POSIX allows.

    with PowerFailures(folder) as power:
        ...
        power.strike()

A file comes back as it was at its last fsync, empty if there was none; a folder with the names that it had at its own last fsync. Renames and links that were
not followed by an fsync of their folder are undone.
"""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any


class PowerFailures:
    """Of all below ``root``. While it is open, ``os.fsync`` and ``os.fdatasync`` are listened to. ``failing``: asked after each of them, with what was made
    durable; True makes the call fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing: Callable[[Path], bool] = lambda path: False
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, tuple[int, bool]]] = {}
        self._genuine = (os.fsync, os.fdatasync)
        self._copies = 0

    def __enter__(self) -> "PowerFailures":
        self.all_durable()
        for name, genuine in zip(("fsync", "fdatasync"), self._genuine, strict=True):
            setattr(os, name, self._listening(genuine))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, genuine in zip(("fsync", "fdatasync"), self._genuine, strict=True):
            setattr(os, name, genuine)

    def _listening(self, genuine: Callable[[Any], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not path.is_relative_to(self.root):
                genuine(descriptor)
                return
            # no need to wait for the real disk
            self._durable(path)
            if self.failing(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return sync

    def _durable(self, path: Path) -> None:
        status = path.stat()
        if not path.is_dir():
            self._files[status.st_ino] = path.read_bytes()
            return
        self._folders[status.st_ino] = {
            entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in os.scandir(path)
        }

    def all_durable(self) -> None:
        """As it is now."""
        self._files.clear()
        self._folders.clear()
        for folder, _, names in os.walk(self.root):
            self._durable(Path(folder))
            for name in names:
                self._durable(Path(folder) / name)

    def strike(self) -> None:
        self._copies += 1
        new = self.root.with_name(f"{self.root.name}.{self._copies}")
        self._build(new, self.root.stat().st_ino)
        shutil.rmtree(self.root)
        new.rename(self.root)
        self.all_durable()

    def _build(self, path: Path, inode: int) -> None:
        path.mkdir()
        for name, (of, is_folder) in self._folders.get(inode, {}).items():
            if is_folder:
                self._build(path / name, of)
            else:
                (path / name).write_bytes(self._files.get(of, b""))
