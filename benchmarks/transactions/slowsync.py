"""Flushes that are counted, and slower by as much as one likes, in processes that are started with this in their environment (slowsync.c)."""

import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("slowsync.c")
_BOTH = struct.Struct("=QQ")


class SlowSync:
    """Builds the library in ``folder``, which every account can enter; each name has a count of its own."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.library = folder / "slowsync.so"
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(self.library), str(SOURCE), "-ldl"], check=True
        )
        self._shared: dict[str, mmap.mmap] = {}

    def environment(self, name: str) -> dict[str, str]:
        path = self.folder / f"{name}.flushes"
        if name not in self._shared:
            path.write_bytes(bytes(_BOTH.size))
            path.chmod(0o666)
            with open(path, "r+b") as file:
                self._shared[name] = mmap.mmap(file.fileno(), _BOTH.size)
        return {"LD_PRELOAD": str(self.library), "SLOWSYNC": str(path)}

    @contextmanager
    def inherited(self, name: str) -> Iterator[None]:
        """Processes that are started meanwhile have it."""
        added = self.environment(name)
        before = {key: os.environ.get(key) for key in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value

    def count(self, name: str) -> int:
        return int(_BOTH.unpack_from(self._shared[name])[0])

    def slow_down(self, ms: float) -> None:
        for shared in self._shared.values():
            shared[8:16] = struct.pack("=Q", int(ms * 1000))

    def close(self) -> None:
        for shared in self._shared.values():
            shared.close()
        self._shared.clear()
