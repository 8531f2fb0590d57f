"""A snapshot on its way from another member: asked for chunk by chunk, gone on with where a lost connection left it.

Request: ``u64 index, u64 offset``; index 0 asks for the newest. Chunk: ``u64 index, u64 size of the file, u64 offset, bytes``; it is of
another index than asked for, and begins at 0, if the one asked for is gone; index 0 says that there is none.

While a member asks, the snapshot and the log after it are held for it (``Holds``): under load newer snapshots come faster than a large one is fetched, and a
member that had to begin anew with each of them would never catch up. It asks until it has taken the snapshot up.
"""

import logging
from collections.abc import Callable
from struct import Struct

from quorate.consensus.paxos import snapshots
from quorate.consensus.paxos.wire import FRAME_MAX
from quorate.errors import RemoteProtocolError, StorageError
from quorate.storage import disk as disks
from quorate.storage.disk import Disk, Operation, Remove

log = logging.getLogger(__name__)

REQUEST = Struct(">QQ")
_CHUNK = Struct(">QQQ")
HELD_MAX = FRAME_MAX // 2
"""Bytes of log: it goes to the member that has caught up by the snapshot as one message."""
_HOLD_PATIENCES = 5
"""Who has not asked for so many times as long as an answer is waited for is not waited for any more."""
SIZE_MAX = 1 << 40


def serve(disk: Disk, group: int, body: bytes, chunk_bytes: int, base: int) -> tuple[int, int, list[bytes]]:
    """The chunk that answers a request: of which snapshot (0 if there is none), the size of that, and in pieces. A snapshot is gone that is not followed by the log, which begins after
    ``base``. Raises RemoteProtocolError, StorageError."""
    if len(body) != REQUEST.size:
        raise RemoteProtocolError(f"a request for a snapshot in {len(body)} bytes, expected {REQUEST.size}")
    index, offset = REQUEST.unpack(body)
    while True:
        there = snapshots.indices(disk, group)
        if not there:
            return 0, 0, [_CHUNK.pack(0, 0, 0)]
        if index not in there or index < base:
            index, offset = there[-1], 0
        path = snapshots.path_of(group, index)
        try:
            size = disk.size(path)
            data = disk.read(path, offset, chunk_bytes) if offset <= size else b""
        except StorageError:
            if index in snapshots.indices(disk, group):
                raise
            continue  # a newer one has just taken its place
        if offset > size:
            raise RemoteProtocolError(f"a request for offset {offset} of a snapshot of {size} bytes")
        return index, size, [_CHUNK.pack(index, size, offset), data]


class Holds:
    """Which snapshots others are fetching. ``spare``: bytes of log that may come meanwhile, beyond as many as the snapshot has; whoever is too slow for
    that, because it gets less than is written, begins anew."""

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._found: dict[int, tuple[int, int, int]] = {}
        """By member: the snapshot's index, when it was asked for last, how much may have been logged."""

    def ask(self, sid: int, index: int, size: int, now: int, logged: int) -> None:
        """``size``: of the snapshot; ``logged``: bytes of log, ever."""
        held = self._found.get(sid)
        if held is not None and held[0] == index:
            # its bound stands, however often it is asked for
            self._found[sid] = index, now, held[2]
            return
        if held is not None and logged > held[2]:
            log.warning("member %d fetches a snapshot more slowly than the log grows; it has begun anew", sid)
        self._found[sid] = index, now, logged + min(size + self._spare, HELD_MAX)

    def expire(self, now: int, patience: int) -> bool:
        """Whether anybody is not waited for any more. ``patience``: how long an answer is waited for before it is asked for again."""
        gone = [sid for sid, (_, asked, _) in self._found.items() if now - asked > _HOLD_PATIENCES * patience]
        for sid in gone:
            del self._found[sid]
        return bool(gone)

    def indices(self, logged: int) -> set[int]:
        return {index for index, _, until in self._found.values() if logged <= until}


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
        """Ask for what is missing: at first, over a new connection, or because nothing came; and, so that it is held, for nothing more while the file is read."""
        if self.whole or not (self._writing or self._ended):
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
