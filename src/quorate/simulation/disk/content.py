"""One file of a virtual disk: its visible content and how to take back every change since its last sync.

So a sync costs nothing but the forgetting of a list, and nothing is kept twice. Zeros ahead of the data are only a number.
"""

from collections.abc import Sequence
from typing import Final

from quorate.simulation.disk.survival import EXTEND, RESIZE, WRITE, Change, survivors
from quorate.simulation.scheduler import Stream

_ZEROS: Final = bytes(1 << 20)

_Undo = tuple[int, int, int, bytes, int, int]
"""Kind, offset (or size), end of what was written, what was there before, length of ``data`` and size before."""


class VirtualFile:
    """``data`` is the beginning of the content; zeros follow up to ``size``."""

    __slots__ = ("data", "size", "unsynced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.unsynced: list[_Undo] = []
        """Oldest first."""

    def write(self, offset: int, new: bytes) -> None:
        if not new:
            return
        data = self.data
        length = len(data)
        end = offset + len(new)
        if offset == length:
            self.unsynced.append((WRITE, offset, end, b"", length, self.size))
            data += new
        else:
            old = bytes(data[offset:end]) if offset < length else b""
            self.unsynced.append((WRITE, offset, end, old, length, self.size))
            if offset > length:
                data += bytes(offset - length)
            data[offset:end] = new
        if end > self.size:
            self.size = end

    def extend(self, size: int) -> None:
        if size > self.size:
            self.unsynced.append((EXTEND, size, size, b"", len(self.data), self.size))
            self.size = size

    def resize(self, size: int) -> None:
        data = self.data
        if size != self.size:
            self.unsynced.append((RESIZE, size, size, bytes(data[size:]), len(data), self.size))
            del data[size:]
            self.size = size

    def sync(self) -> None:
        if self.unsynced:
            self.unsynced = []

    def read(self, offset: int, length: int) -> bytes:
        return read_content(self.data, self.size, offset, length)

    def durable(self) -> tuple[bytearray, int]:
        """Content and size as of the last sync; not a copy if nothing has changed since."""
        if not self.unsynced:
            return self.data, self.size
        data = bytearray(self.data)
        return data, _take_back(data, self.size, self.unsynced, [])

    def lose(self, stream: Stream, power: bool) -> None:
        """Changes that were not synced are lost, some of them; with the ``power`` gone the others are there to stay."""
        if not self.unsynced:
            return
        changes: list[Change] = []
        self.size = _take_back(self.data, self.size, self.unsynced, changes)
        self.unsynced = []
        for kind, at, data in survivors(changes, self.size, stream):
            if kind == WRITE:
                self.write(at, data)
            elif kind == EXTEND:
                self.extend(at)
            else:
                self.resize(at)
        if power:
            self.unsynced = []


def _take_back(data: bytearray, size: int, unsynced: Sequence[_Undo], changes: list[Change]) -> int:
    """Undo all that is ``unsynced`` in ``data`` and list it in ``changes``, oldest first; the size then."""
    for kind, offset, end, old, length, size_before in reversed(unsynced):
        changes.append((kind, offset, bytes(data[offset:end]) if kind == WRITE else b""))
        del data[length:]
        if old:
            data[offset : offset + len(old)] = old
        size = size_before
    changes.reverse()
    return size


def read_content(data: bytearray, size: int, offset: int, length: int) -> bytes:
    end = size if length < 0 else min(offset + length, size)
    if offset >= end:
        return b""
    written = len(data)
    if end <= written:
        return bytes(data[offset:end])
    if offset < written:
        return bytes(data[offset:]) + bytes(end - written)
    # a reader that looks for the end of the data need not wait for zeros to be made
    return _ZEROS if end - offset == len(_ZEROS) else bytes(end - offset)
