"""The transaction log, in the format of Apache ZooKeeper (FileTxnLog.java, FilePadding.java).

A file ``log.<zxid of its first transaction, hex>`` is a 16-byte header ("ZKLG", int 2, long database id) and records:
Adler-32 of the payload as a long, the payload as a buffer, and the byte 'B'. Files are extended ahead with zeros; a record
of length zero is the end. A transaction's zxid is at byte 12 of its payload (TxnHeader).

What a crash explains
    Writes are synced in order, and at most UNSYNCED_LIMIT bytes of log are ever waiting for their sync. Of these, any
    sector may be lost while others, even later ones, are there; a lost sector of a new or pre-allocated file reads as
    zeros from the end of what was synced to the end of the sector. So a bad record is a *torn tail*, and is cut, if

    - nothing is behind it: no data beyond the length it claims, or no whole record where that length is impossible; or
    - a sector it lies in reads as zeros from the record's beginning on, and all data behind it is within UNSYNCED_LIMIT:
      the whole of that may have been waiting for its sync.

    Any other bad record is corruption: what is behind it was acknowledged, and cutting it would lose it silently. So is a
    last record that is there to its end mark, no sector of it lost, and yet does not check out: no crash makes that.

What is found at the end of a file that is not the newest was either cut by a crash between two runs, or rotted. The next
file decides: it must go on with the very next zxid, or with a new epoch if the last record is incomplete, for a member
that lost its unacknowledged tail may rejoin under a new leader.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final
from zlib import adler32

from quorate.consensus.zab.messages import Entry, epoch_of
from quorate.errors import CorruptionError, LocalProtocolError, StorageError, UsageError
from quorate.storage.disk import Allocate, Disk, Done, Operation, Remove, Sync, Truncate, Write

FOLDER: Final = "version-2"
LOG_PREFIX: Final = "log"
SNAPSHOT_PREFIX: Final = "snapshot"

HEADER: Final = Struct(">4siq")
MAGIC: Final = b"ZKLG"
FORMAT_VERSION: Final = 2
_FILE_HEADER: Final = HEADER.pack(MAGIC, FORMAT_VERSION, 0)

RECORD: Final = Struct(">qi")
"""Adler-32 and length; the payload and END follow."""
END: Final = b"B"
_END_AND_RECORD: Final = Struct(">cqi")
_OVERHEAD: Final = RECORD.size + 1
_ZXID: Final = Struct(">q")
ZXID_OFFSET: Final = 12
_SMALLEST_TXN: Final = 32

UNSYNCED_LIMIT: Final = 16 << 20
SECTOR: Final = 512
_PADDING_MARGIN: Final = 4096
_WINDOW: Final = 1 << 20
_ZEROS: Final = bytes(_WINDOW)


def log_name(zxid: int) -> str:
    return f"{LOG_PREFIX}.{zxid:x}"


def zxid_of(name: str, prefix: str) -> int:
    """The zxid in a file's name, -1 if it is no such file. An extension (``.gz``) may follow."""
    parts = name.split(".")
    if len(parts) < 2 or parts[0] != prefix or not 1 <= len(parts[1]) <= 16:
        return -1
    if not all(digit in "0123456789abcdefABCDEF" for digit in parts[1]):
        return -1
    zxid = int(parts[1], 16)
    return zxid if zxid < 1 << 63 else -1


def log_files(disk: Disk) -> list[tuple[int, str]]:
    """(zxid, path) of every log file, oldest first."""
    found = [(zxid_of(name, LOG_PREFIX), name) for name in disk.list(FOLDER)]
    return sorted((zxid, f"{FOLDER}/{name}") for zxid, name in found if zxid >= 0)


def files_from(files: list[tuple[int, str]], zxid: int) -> list[tuple[int, str]]:
    """Those of ``files`` that may hold a transaction at or after ``zxid``: from the last one named no later."""
    start = 0
    for index, (first, _) in enumerate(files):
        if first <= zxid:
            start = index
    return files[start:]


def padded_size(end: int, allocated: int, step: int) -> int:
    """How long a file should be allocated whose data end at ``end``; it grows once less than 4 KiB are left."""
    if step <= 0 or end + _PADDING_MARGIN < allocated:
        return allocated
    return (end + _PADDING_MARGIN) // step * step + step


def follows(previous: int, zxid: int) -> bool:
    """Whether a history may go on from ``previous`` with ``zxid``: by one, or with the first of a later epoch."""
    return zxid == previous + 1 or (epoch_of(zxid) > epoch_of(previous) and zxid & 0xFFFFFFFF == 1)


# ---- writing


class _Waiting:
    """Operations that wait until less of the log is unsynced."""

    __slots__ = ("done", "operations", "size")

    def __init__(self, operations: list[Operation], size: int, done: Done) -> None:
        self.operations = operations
        self.size = size
        self.done = done


class TxnLog:
    """Appends to the log on ``disk``. Sizes are bytes; ``preallocate`` 0 turns that off, ``roll_at`` 0 never rolls.

    A new file is begun for the first append, after :meth:`roll`, and when a file has grown beyond ``roll_at``. ``prefix`` is
    put before the files' names.
    """

    __slots__ = (
        "_allocated",
        "_disk",
        "_offset",
        "_path",
        "_preallocate",
        "_prefix",
        "_roll_at",
        "_unsynced",
        "_waiting",
        "appended_bytes",
        "appended_txns",
        "last_zxid",
    )

    def __init__(
        self, disk: Disk, last_zxid: int, preallocate: int = 64 << 20, roll_at: int = 0, prefix: str = ""
    ) -> None:
        self._disk = disk
        self._prefix = prefix
        self._preallocate = preallocate
        self._roll_at = roll_at
        self._path = ""
        self._offset = 0
        self._allocated = 0
        self._unsynced = 0
        self._waiting: deque[_Waiting] = deque()
        self.last_zxid = last_zxid
        self.appended_txns = 0
        self.appended_bytes = 0

    def append(self, entries: Sequence[Entry], done: Done) -> None:
        """Log ``entries``, in the order of their zxids; ``done`` when they are durable."""
        start = 0
        total = len(entries)
        if total == 0:
            self.flush(done)
            return
        while True:
            operations, size, start = self._pack(entries, start)
            if start >= total:
                self._submit(operations, size, done)
                return
            self._submit(operations, size, _fails_later)

    def _pack(self, entries: Sequence[Entry], start: int) -> tuple[list[Operation], int, int]:
        """Operations that log the entries from ``start``, their bytes, and where to go on (the limit bounds them)."""
        first = entries[start].zxid
        if first <= self.last_zxid:
            raise LocalProtocolError(f"zxid {first:#x} cannot be logged after {self.last_zxid:#x}")
        pieces: list[bytes] = []
        add = pieces.append
        pack = _END_AND_RECORD.pack
        size = 0
        index = start
        for index in range(start, len(entries)):
            payload = entries[index].payload
            length = len(payload)
            add(pack(END, adler32(payload), length))
            add(payload)
            size += length
            if size >= UNSYNCED_LIMIT:
                break
        count = index + 1 - start
        # every head carries the end of the record before it: the first has none, the last needs its own
        pieces[0] = pieces[0][1:]
        add(END)
        size += count * _OVERHEAD
        self.last_zxid = entries[index].zxid
        self.appended_txns += count
        self.appended_bytes += size
        operations: list[Operation] = []
        path = self._path
        if not path:
            path = self._path = f"{FOLDER}/{self._prefix}{log_name(first)}"
            self._offset = self._allocated = len(_FILE_HEADER)
            # a file of this name can only be one without a transaction
            operations += (Remove(path), Write(path, 0, [_FILE_HEADER]), Sync(FOLDER))
        offset = self._offset
        end = offset + size
        if end + _PADDING_MARGIN >= self._allocated and self._preallocate > 0:
            self._allocated = padded_size(end, self._allocated, self._preallocate)
            operations.append(Allocate(path, self._allocated))
        operations += (Write(path, offset, pieces), Sync(path))
        self._offset = end
        if 0 < self._roll_at < end:
            self.roll()
        return operations, size, index + 1

    def flush(self, done: Done) -> None:
        """``done`` when everything appended so far is durable."""
        self._submit([], 0, done)

    def roll(self) -> None:
        """The next append begins a new file."""
        self._path = ""

    def restart(self, last_zxid: int) -> None:
        """The log was cut or overtaken by a snapshot: go on after ``last_zxid``, in a new file."""
        self.roll()
        self.last_zxid = last_zxid

    def _submit(self, operations: list[Operation], size: int, done: Done) -> None:
        if self._waiting or self._full(size):
            self._waiting.append(_Waiting(operations, size, done))
        else:
            self._start(operations, size, done)

    def _full(self, size: int) -> bool:
        return self._unsynced > 0 and self._unsynced + size > UNSYNCED_LIMIT

    def _start(self, operations: list[Operation], size: int, done: Done) -> None:
        self._unsynced += size

        def synced(error: StorageError | None) -> None:
            self._unsynced -= size
            done(error)
            waiting = self._waiting
            while waiting and not self._full(waiting[0].size):
                item = waiting.popleft()
                self._start(item.operations, item.size, item.done)

        self._disk.submit(operations, synced)


def _fails_later(error: StorageError | None) -> None:
    """For the first parts of an append in several: if one fails the disk is dead, and so fails the last one."""


# ---- reading


class LogReader:
    """Iterates over the transactions of one file, reading it window by window.

    When the iteration has ended, ``end`` is the offset behind the last whole record, 0 if even the header is torn, and
    ``torn`` says what is wrong with what follows, '' if nothing is. Raises CorruptionError for damage that no crash
    explains and UsageError for a file that is no transaction log; both name ``shown``.
    """

    def __init__(self, disk: Disk, path: str, shown: str = "") -> None:
        self.path = path
        self.shown = shown or path
        self.size = disk.size(path)
        self.end = 0
        self.torn = ""
        self.incomplete = False
        """The torn record is not there as a whole, as opposed to one that is whole and wrong."""
        self.more = False
        """There is data behind the torn record."""
        self._disk = disk
        self._window = b""
        self._start = 0

    def _have(self, offset: int, length: int) -> int:
        """The index in ``_window`` of ``offset``, with ``length`` bytes there (the caller knows the file has them)."""
        index = offset - self._start
        if index < 0 or index + length > len(self._window):
            self._window = self._disk.read(self.path, offset, max(length, _WINDOW))
            self._start = offset
            index = 0
            if len(self._window) < length:
                raise StorageError(f"{self.shown}: offset {offset}: the file ends while it is being read")
        return index

    def __iter__(self) -> Iterator[Entry]:
        if not self._header():
            return
        size = self.size
        offset = self.end = HEADER.size
        last = -1
        while True:
            if size - offset < _OVERHEAD:
                self._ended(offset, 0, "incomplete record")
                return
            index = self._have(offset, RECORD.size)
            checksum, length = RECORD.unpack_from(self._window, index)
            if length == 0:
                self._ended(offset, 0, "record without a length")
                return
            if length < 0 or length > size - offset - _OVERHEAD:
                self._ended(offset, 0, f"record of {length} bytes where the file has {size - offset - _OVERHEAD}")
                return
            index = self._have(offset, length + _OVERHEAD) + RECORD.size
            window = self._window
            payload = window[index : index + length]
            if window[index + length] != END[0]:
                self._ended(offset, length, "record without its end mark")
                return
            if adler32(payload) != checksum:
                self._ended(offset, length, "record with a wrong checksum", whole=True)
                return
            if length < _SMALLEST_TXN:
                raise CorruptionError(self.shown, offset, f"a transaction of {length} bytes is shorter than its header")
            zxid: int = _ZXID.unpack_from(payload, ZXID_OFFSET)[0]
            if zxid <= last:
                raise CorruptionError(self.shown, offset, f"zxid {zxid:#x} comes after {last:#x}")
            last = zxid
            offset += length + _OVERHEAD
            # ``end`` moves before the entry is handed out, so that a caller who stops there knows where it ends
            self.end = offset
            yield Entry(zxid, payload)

    def _header(self) -> bool:
        """Check the file's header; False if it never became durable."""
        if self.size == 0:
            return False
        head = self._disk.read(self.path, 0, HEADER.size)
        begun = head.rstrip(b"\0")
        short = len(head) < HEADER.size
        if (short or len(begun) < len(_FILE_HEADER.rstrip(b"\0"))) and _FILE_HEADER.startswith(begun):
            self._ended(0, 0, "no header")
            return False
        if short:
            raise UsageError(f"{self.shown} is not a ZooKeeper transaction log")
        magic, version, _ = HEADER.unpack(head)
        if magic != MAGIC:
            raise UsageError(f"{self.shown} is not a ZooKeeper transaction log: it begins with {magic!r}")
        if version != FORMAT_VERSION:
            raise UsageError(f"{self.shown} is a transaction log of format {version}; format {FORMAT_VERSION} is known")
        return True

    # ---- damage (see the module's text)

    def _ended(self, offset: int, length: int, what: str, whole: bool = False) -> None:
        """No good record at ``offset``: the end, a torn tail, or corruption. ``length`` is 0 if it can't be trusted."""
        data_end = self._data_end(offset)
        if data_end <= offset:
            return
        record_end = offset + (length + _OVERHEAD if length else RECORD.size)
        more = data_end > record_end if length else False
        if not more and self._whole_record_behind(offset, data_end):
            more = True
            record_end = offset + RECORD.size  # whatever length it claims, it does not end there
        if more and not (data_end - offset <= UNSYNCED_LIMIT and self._lost_sector(offset, record_end)):
            raise CorruptionError(
                self.shown, offset, f"{what}, and {data_end - min(record_end, data_end)} bytes of data behind it"
            )
        if not more and self._rotten(offset, record_end if length else 0, data_end):
            raise CorruptionError(self.shown, offset, f"{what}, though the record was written to its end")
        self.torn = f"{what} at offset {offset}"
        self.incomplete = not whole
        self.more = more

    def _rotten(self, offset: int, record_end: int, data_end: int) -> bool:
        """Whether the last record, though bad, is there to its last byte: then a bit of it changed later.

        ``record_end`` is 0 if its length can't be trusted; then it is the length that changed if the rest checks out.
        """
        if data_end == record_end:
            return not self._lost_sector(offset, record_end)
        if data_end - offset < _OVERHEAD + _SMALLEST_TXN or data_end - offset > UNSYNCED_LIMIT:
            return False
        data = self._disk.read(self.path, offset, data_end - offset)
        checksum: int = RECORD.unpack_from(data)[0]
        return data[-1] == END[0] and adler32(data[RECORD.size : -1]) == checksum

    def _data_end(self, offset: int) -> int:
        """The offset behind the last byte from ``offset`` on that is not zero; ``offset`` if all are."""
        end = offset
        while offset < self.size:
            window = self._disk.read(self.path, offset, _WINDOW)
            if not window:
                break
            if window != _ZEROS:
                kept = len(window.rstrip(b"\0"))
                if kept:
                    end = offset + kept
            offset += len(window)
        return end

    def _lost_sector(self, offset: int, record_end: int) -> bool:
        """Whether a sector that the record lies in reads as zeros, from the record's beginning on."""
        start = offset
        while start < record_end:
            stop = min(start // SECTOR * SECTOR + SECTOR, self.size)
            # a checksum's upper half is zero anyway: to lose no more than that is to lose nothing
            if stop - offset > 4 and not self._disk.read(self.path, start, stop - start).strip(b"\0"):
                return True
            start = stop
        return False

    def _whole_record_behind(self, offset: int, data_end: int) -> bool:
        """Whether anything behind the bad record's head is a whole record: what follows an end mark and checks out."""
        data = self._disk.read(self.path, offset, min(data_end - offset, UNSYNCED_LIMIT))
        at = data.find(END)
        limit = len(data) - _OVERHEAD - _SMALLEST_TXN
        while 0 <= at < limit:
            checksum, length = RECORD.unpack_from(data, at + 1)
            start = at + _OVERHEAD
            stop = start + length
            if (
                0 < checksum <= 0xFFFFFFFF
                and _SMALLEST_TXN <= length < len(data) - start
                and data[stop] == END[0]
                and adler32(data[start:stop]) == checksum
            ):
                return True
            at = data.find(END, at + 1)
        return False


class LogTail:
    """What the log holds after a snapshot, and how its end has to be put in order."""

    __slots__ = ("entries", "last_zxid", "notes", "repairs")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.last_zxid = -1
        """The newest zxid in any file that was read, -1 if there is none."""
        self.repairs: list[list[Operation]] = []
        """To be made durable one after the other before anything is appended."""
        self.notes: list[str] = []
        """What is worth a line in the program's log."""


def read_tail(disk: Disk, after: int, folder: str = "") -> LogTail:
    """All transactions after ``after``, the zxid of a snapshot, checked to follow it and one another without a gap.

    ``folder`` is put before file names in messages. Raises CorruptionError, UsageError, StorageError.
    """
    tail = LogTail()
    files = files_from(log_files(disk), after + 1)
    previous = after
    torn: LogReader | None = None
    for index, (first, path) in enumerate(files):
        reader = LogReader(disk, path, folder + path)
        start = HEADER.size
        empty = True
        repeated = 0
        for entry in reader:
            zxid = entry.zxid
            empty = False
            tail.last_zxid = max(tail.last_zxid, zxid)
            if zxid > after:
                if not follows(previous, zxid):
                    _check_repeated(tail, entry, previous, reader.shown, start)
                    repeated += 1
                    start = reader.end
                    continue
                if torn is not None:
                    _check_tear(torn, previous, zxid)
                tail.entries.append(entry)
                previous = zxid
                torn = None
            start = reader.end
        if repeated:
            tail.notes.append(f"{reader.shown}: {repeated} transactions are there a second time, ignored")
        if reader.torn:
            torn = reader
        if index + 1 < len(files):
            if reader.torn:
                tail.notes.append(f"{reader.shown}: {reader.torn}, left from a crash; the next file goes on")
        elif reader.torn and reader.more and first <= after and -1 < tail.last_zxid < after:
            # what a snapshot covers was durable before it: no crash can have torn it
            raise CorruptionError(reader.shown, reader.end, f"{reader.torn}, before the snapshot at {after:#x}")
        elif empty:
            tail.notes.append(f"{reader.shown}: no transaction in it, removed")
            tail.repairs.append([Remove(path), Sync(FOLDER)])
        elif reader.torn:
            tail.notes.append(f"{reader.shown}: torn tail ({reader.torn}), cut")
            tail.repairs.append([Truncate(path, reader.end), Sync(path)])
    return tail


def _check_repeated(tail: LogTail, entry: Entry, previous: int, shown: str, offset: int) -> None:
    """A transaction that does not follow: harmless if it is one we have (a learner may be sent some twice)."""
    if entry.zxid > previous:
        raise CorruptionError(shown, offset, f"transactions between {previous:#x} and {entry.zxid:#x} are missing")
    index = bisect_left(tail.entries, entry.zxid, key=lambda known: known.zxid)
    if index == len(tail.entries) or tail.entries[index] != entry:
        raise CorruptionError(shown, offset, f"zxid {entry.zxid:#x} comes after {previous:#x}")


def _check_tear(torn: LogReader, previous: int, zxid: int) -> None:
    if zxid != previous + 1 and not torn.incomplete:
        raise CorruptionError(torn.shown, torn.end, f"{torn.torn}, and the log goes on with {zxid:#x} in the next file")


def cut_after(disk: Disk, zxid: int) -> tuple[list[list[Operation]], int]:
    """What to do to be rid of every transaction after ``zxid``, and the newest zxid that stays (-1 for none).

    The groups must be made durable one after the other: whatever a crash leaves is then a log without a gap.
    """
    groups: list[list[Operation]] = []
    files = log_files(disk)
    while files and files[-1][0] > zxid:
        groups.append([Remove(files.pop()[1]), Sync(FOLDER)])
    while files:
        path = files.pop()[1]
        reader = LogReader(disk, path)
        last = -1
        end = 0
        for entry in reader:
            if entry.zxid > zxid:
                break
            last = entry.zxid
            end = reader.end
        if last >= 0:
            if reader.size > end:
                groups.append([Truncate(path, end), Sync(path)])
            return groups, last
        groups.append([Remove(path), Sync(FOLDER)])
    return groups, -1
