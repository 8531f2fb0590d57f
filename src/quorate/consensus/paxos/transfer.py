"""A snapshot on its way from another member: asked for chunk by chunk, gone on with where a lost connection left it.

Request: ``u64 index, u64 offset``; index 0 asks for the newest. Chunk: ``u64 index, u64 size of the file, u64 offset, bytes``; it is of
another index than asked for, and begins at 0, if the one asked for is gone; index 0 says that there is none.
"""

import logging
from collections.abc import Callable
from struct import Struct

from quorate.consensus.paxos import snapshots
from quorate.errors import RemoteProtocolError, StorageError
from quorate.storage import disk as disks
from quorate.storage.disk import Disk, Operation, Remove

log = logging.getLogger(__name__)

REQUEST = Struct(">QQ")
_CHUNK = Struct(">QQQ")
CHUNK_BYTES = 1 << 20
SIZE_MAX = 1 << 40


def serve(disk: Disk, group: int, body: bytes) -> list[bytes]:
    """The chunk that answers a request, in pieces. Raises RemoteProtocolError."""
    if len(body) != REQUEST.size:
        raise RemoteProtocolError(f"a request for a snapshot in {len(body)} bytes, expected {REQUEST.size}")
    index, offset = REQUEST.unpack(body)
    there = snapshots.indices(disk, group)
    if not there:
        return [_CHUNK.pack(0, 0, 0)]
    if index not in there:
        index, offset = there[-1], 0
    path = snapshots.path_of(group, index)
    size = disk.size(path)
    if offset > size:
        raise RemoteProtocolError(f"a request for offset {offset} of a snapshot of {size} bytes")
    return [_CHUNK.pack(index, size, offset), disk.read(path, offset, CHUNK_BYTES)]


class Incoming:
    """``ask(source, body)`` sends a request; ``complete(path)`` is called when the file is whole, ``failed(error)`` if the disk is not."""

    def __init__(
        self,
        disk: Disk,
        group: int,
        source: int,
        ask: Callable[[int, bytes], None],
        complete: Callable[[str], None],
        failed: Callable[[StorageError], None],
    ) -> None:
        self.source = source
        self.whole = False
        """The file is here, and the owner's to read."""
        self.asked_at = 0
        """When the last request was sent; the owner's to keep."""
        self._disk = disk
        self._path = snapshots.coming_path(group)
        self._ask = ask
        self._complete = complete
        self._failed = failed
        self._index = 0
        self._size = 0
        self._offset = 0
        self._writing = False
        self._ended = False

    def request(self) -> None:
        """Ask for what is missing: at first, over a new connection, or because nothing came."""
        if not self._writing and not self._ended:
            self._ask(self.source, REQUEST.pack(self._index, self._offset))

    def end(self) -> None:
        """Nothing more is wanted."""
        self._ended = True

    def chunk(self, sender: int, body: bytes) -> None:
        """Raises RemoteProtocolError."""
        if len(body) < _CHUNK.size:
            raise RemoteProtocolError(f"a chunk of a snapshot in {len(body)} bytes, expected at least {_CHUNK.size}")
        index, size, offset = _CHUNK.unpack_from(body)
        data = body[_CHUNK.size :]
        if self._ended or self._writing or sender != self.source or index == 0:
            return
        before: list[Operation] = []
        if index != self._index:
            if offset:
                return  # of a request before
            self._index, self._size, self._offset = index, size, 0
            before = [Remove(self._path)]
        if offset != self._offset:
            return
        if size != self._size or size > SIZE_MAX or len(data) > size - offset or not data:
            raise RemoteProtocolError(
                f"{len(data)} bytes at {offset} of a snapshot of {size} bytes, known to have {self._size}"
            )
        self._writing = True
        self._disk.submit([*before, disks.Write(self._path, offset, [data])], self._written(len(data)))

    def _written(self, length: int) -> Callable[[StorageError | None], None]:
        def written(error: StorageError | None) -> None:
            self._writing = False
            if self._ended:
                return
            if error is not None:
                self._failed(error)
                return
            self._offset += length
            if self._offset == self._size:
                self._ended = self.whole = True
                self._complete(self._path)
            else:
                self.request()

        return written
