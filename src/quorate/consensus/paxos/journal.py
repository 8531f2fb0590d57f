"""The log on disk: one for all groups of a process, so that one sync covers them all.

Files ``journal/<number>`` ("segments", numbered in hex from 1) begin with a 16-byte header and hold records:

    u32 length of the body, u32 group, u8 kind, u32 durable, u32 CRC-32 of the body, u32 CRC-32 of the head before it; body; u8 255

``durable`` is how much of the segment was known to be on disk when the record was written. Kinds:

    PROMISE  ballot
    ADOPT    ballot, first, parted, entries: the log from ``first`` on becomes the ``parted`` entries of the PARTs before and
             these; all or nothing
    PART     first of the adoption, first, entries: nothing without the ADOPT that follows
    APPEND   first, entries
    INSTALL  index: a snapshot stands for all up to it
    STATE    promised, accepted, base, last: what the segments before come to; at the head of each segment, for every group

A segment is begun when all before it is durable. One can go once it is not the newest and each group's snapshot stands for all that the
group had in it (the ``last`` of the next segment's STATE).

What a crash explains
    A write may end at any byte, and of what waits for its sync any sector may be lost, and then reads as zeros. So a bad record is a
    torn tail, and is cut with all behind it, if it is not there to its end and nothing is behind it, or if a sector that it lies in reads as
    zeros from the record's beginning on and no record behind it says that this place was durable. Anything else is corruption, and is
    refused: cutting it could lose what was acknowledged.
"""

import re
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from struct import Struct
from zlib import crc32

from quorate.consensus.paxos.messages import Adopt, Append, Entry, Install, StorePromise, Write
from quorate.consensus.paxos.wire import pack_entries, unpack_entries
from quorate.errors import CorruptionError, RemoteProtocolError, StorageError, UsageError
from quorate.storage import disk as disks
from quorate.storage.disk import Allocate, Disk, Done, Operation, Remove, Sync, Truncate

FOLDER = "journal"
MAGIC = b"QUORJRNL"
VERSION = 1
HEADER = Struct(">8sII")
"""Magic, version, the segment's number."""
RECORD = Struct(">IIBIII")
_HEAD = Struct(">IIBII")
_Q = Struct(">Q")
_QQ = Struct(">QQ")
_END = b"\xff"
_KIND_AT = 8
_KINDS = re.compile(rb"[\x01-\x06]")
_QQI = Struct(">QQI")
_STATE = Struct(">QQQQ")

PROMISE, ADOPT, PART, APPEND, INSTALL, STATE = range(1, 7)

UNSYNCED_LIMIT = 16 << 20
PART_BYTES = 4 << 20
SECTOR = 512
_MARGIN = 4096


class GroupLog:
    """What the journal holds of one group: entries after ``start``, the first ``base - start`` of which a snapshot stands for."""

    __slots__ = ("accepted", "base", "entries", "parts", "promised", "start")

    def __init__(self) -> None:
        self.promised = 0
        self.accepted = 0
        self.base = 0
        self.start = 0
        self.entries: list[Entry] = []
        self.parts: list[Entry] = []

    @property
    def last(self) -> int:
        return self.start + len(self.entries)

    def install(self, index: int) -> None:
        self.base = max(self.base, index)
        del self.entries[: max(self.base - self.start, 0)]
        self.start = max(self.start, self.base)

    def replace(self, first: int, entries: Iterable[Entry]) -> None:
        if first <= self.start:
            self.start, self.entries = first - 1, []
        del self.entries[first - self.start - 1 :]
        self.entries += entries


class _Segment:
    """``ends``: the last index of each group when the next segment was begun; None while there is none."""

    __slots__ = ("ends", "number")

    def __init__(self, number: int, ends: dict[int, int] | None = None) -> None:
        self.number = number
        self.ends = ends


class _Position:
    """What is remembered of a group while running."""

    __slots__ = ("accepted", "base", "last", "promised")

    def __init__(self, log: GroupLog) -> None:
        self.promised = log.promised
        self.accepted = log.accepted
        self.base = log.base
        self.last = log.last


def path_of(number: int) -> str:
    return f"{FOLDER}/{number:08x}"


class Journal:
    """Sizes are bytes: a segment is ended when it has grown beyond ``segment``, files grow by ``preallocate`` (0: as they are written).

    ``recover`` comes first. After an error every later write ends with that error, and the member must stop.
    """

    def __init__(self, disk: Disk, *, segment: int = 64 << 20, preallocate: int = 16 << 20, folder: str = "") -> None:
        self._disk = disk
        self._segment_size = segment
        self._preallocate = preallocate
        self._folder = folder and folder.rstrip("/") + "/"
        self._segments: deque[_Segment] = deque()
        self._groups: dict[int, _Position] = {}
        self._offset = 0
        self._allocated = 0
        self._durable = 0
        """Of the segment that is written now."""
        self._unsynced = 0
        self._unready = False
        """What recovery repaired is not durable yet."""
        self._waiting: deque[tuple[list[tuple[int, Write]], int, Done]] = deque()

    # ---- writing

    def write(self, writes: Iterable[tuple[int, Write]], done: Done) -> None:
        """(group, write) of any groups, in order; ``done`` when all of them are on disk."""
        work = list(writes)
        size = sum(
            len(entry.payload) for _, write in work if isinstance(write, Append | Adopt) for entry in write.entries
        )
        if self._waiting or self._must_wait(size):
            self._waiting.append((work, size, done))
        else:
            self._start(work, done)

    def _must_wait(self, size: int) -> bool:
        if self._unready:
            return True
        return self._unsynced > 0 and (self._unsynced + size > UNSYNCED_LIMIT or self._offset > self._segment_size)

    def _start_waiting(self) -> None:
        waiting = self._waiting
        while waiting and not self._must_wait(waiting[0][1]):
            writes, _, done = waiting.popleft()
            self._start(writes, done)

    def _pack(self, group: int, write: Write, pieces: list[bytes]) -> None:
        position = self._groups.setdefault(group, _Position(GroupLog()))
        if isinstance(write, Append):
            self._record(group, APPEND, [_Q.pack(position.last + 1), *pack_entries(write.entries)], pieces)
            position.last += len(write.entries)
        elif isinstance(write, StorePromise):
            position.promised = write.ballot
            self._record(group, PROMISE, [_Q.pack(write.ballot)], pieces)
        elif isinstance(write, Adopt):
            position.promised = position.accepted = write.ballot
            position.last = write.first + len(write.entries) - 1
            first = write.first
            part: list[Entry] = []
            size = 0
            for entry in write.entries:
                part.append(entry)
                size += len(entry.payload)
                if size >= PART_BYTES:
                    self._record(group, PART, [_QQ.pack(write.first, first), *pack_entries(part)], pieces)
                    first, part, size = first + len(part), [], 0
            head = _QQI.pack(write.ballot, write.first, first - write.first)
            self._record(group, ADOPT, [head, *pack_entries(part)], pieces)
        else:
            assert isinstance(write, Install)
            position.base = max(position.base, write.index)
            position.last = max(position.last, write.index)
            self._record(group, INSTALL, [_Q.pack(write.index)], pieces)

    def _record(self, group: int, kind: int, body: list[bytes], pieces: list[bytes]) -> None:
        data = body[0] if len(body) == 1 else b"".join(body)
        # what is durable is filled in when it is written
        pieces += (_HEAD.pack(len(data), group, kind, 0, crc32(data)), data, _END)

    def _start(self, writes: list[tuple[int, Write]], done: Done) -> None:
        operations: list[Operation] = []
        pieces: list[bytes] = []
        if not writes:
            self._disk.submit(operations, done)
            return
        if not self._offset or self._offset > self._segment_size:
            operations += self._begin(pieces)
        for group, write in writes:
            self._pack(group, write, pieces)
        self._seal(pieces)
        size = sum(map(len, pieces))
        path = path_of(self._segments[-1].number)
        end = self._offset + size
        if self._preallocate and end + _MARGIN >= self._allocated:
            self._allocated = (end + _MARGIN) // self._preallocate * self._preallocate + self._preallocate
            operations.append(Allocate(path, self._allocated))
        operations += (disks.Write(path, self._offset, pieces), Sync(path))
        self._offset = end
        self._unsynced += size
        number = self._segments[-1].number

        def written(error: StorageError | None) -> None:
            self._unsynced -= size
            if error is None and number == self._segments[-1].number:
                self._durable = end
            done(error)
            self._start_waiting()

        self._disk.submit(operations, written)

    def _seal(self, pieces: list[bytes]) -> None:
        """Heads get what is durable by now, and their own checksum."""
        durable = self._durable
        for at in range(0, len(pieces), 3):
            length, group, kind, _, checksum = _HEAD.unpack(pieces[at])
            head = _HEAD.pack(length, group, kind, durable, checksum)
            pieces[at] = head + crc32(head).to_bytes(4)

    def _begin(self, pieces: list[bytes]) -> list[Operation]:
        """A new segment, which begins with the state of every group."""
        number = 1
        if self._segments:
            self._segments[-1].ends = {group: position.last for group, position in self._groups.items()}
            number = self._segments[-1].number + 1
        self._segments.append(_Segment(number))
        header = HEADER.pack(MAGIC, VERSION, number)
        for group, position in self._groups.items():
            body = _STATE.pack(position.promised, position.accepted, position.base, position.last)
            self._record(group, STATE, [body], pieces)
        self._offset = len(header)
        self._allocated = self._durable = 0
        path = path_of(number)
        return [Remove(path), disks.Write(path, 0, [header]), Sync(FOLDER)]

    # ---- old segments

    def remove_old(self, done: Done) -> None:
        """Remove the segments of which nothing is needed any more. To be called when an INSTALL is durable."""
        operations: list[Operation] = []
        while len(self._segments) > 1:
            ends = self._segments[0].ends
            assert ends is not None
            if any(self._groups[group].base < last for group, last in ends.items()):
                break
            operations.append(Remove(path_of(self._segments.popleft().number)))
        if operations:
            self._disk.submit([*operations, Sync(FOLDER)], done)

    def oldest_needed_by(self) -> list[int]:
        """The groups that keep the oldest of several segments from being removed: a snapshot of theirs would help."""
        if len(self._segments) < 2:
            return []
        ends = self._segments[0].ends
        assert ends is not None
        return [group for group, last in ends.items() if self._groups[group].base < last]

    @property
    def segments(self) -> int:
        return len(self._segments)

    # ---- recovery

    def recover(self) -> tuple[dict[int, GroupLog], list[str]]:
        """What each group has, and what is worth a line in the program's log. Raises CorruptionError, UsageError, StorageError.

        The torn tail that a crash left is cut; nothing is written before that is durable.
        """
        disk = self._disk
        disk.make_folder(FOLDER)
        numbers = sorted(int(name, 16) for name in disk.list(FOLDER) if _is_segment(name))
        groups: dict[int, GroupLog] = {}
        notes: list[str] = []
        repairs: list[Operation] = []
        for position, number in enumerate(numbers):
            if position and number != numbers[position - 1] + 1:
                raise CorruptionError(self._folder + path_of(number), 0, f"segment {number - 1:x} before it is missing")
            newest = position + 1 == len(numbers)
            reader = _Reader(disk, path_of(number), self._folder + path_of(number), number)
            if self._segments:
                self._segments[-1].ends = {group: log.last for group, log in groups.items()}
            # a segment counts once the states at its head are whole: those before it can go then
            unstated = set(groups)
            seen = False
            for offset, group, kind, body in reader:
                if kind == STATE:
                    unstated.discard(group)
                elif unstated:
                    raise CorruptionError(
                        reader.shown, offset, f"the state of group {min(unstated)} is missing before it"
                    )
                seen = True
                fresh = group not in groups
                if fresh:
                    groups[group] = GroupLog()
                _replay(groups[group], kind, body, reader.shown, offset, fresh and position == 0)
            seen = seen and not unstated
            if not newest and (reader.torn or not seen):
                what = reader.torn or "no record in it"
                raise CorruptionError(reader.shown, reader.end, f"{what}, and there is a later segment")
            if reader.torn:
                notes.append(f"{reader.shown}: {reader.torn}, cut")
            if not seen:
                # it was begun, and nothing that counts became durable
                repairs += (Remove(path_of(number)), Sync(FOLDER))
                if self._segments:
                    self._segments[-1].ends = None
                continue
            self._segments.append(_Segment(number))
            self._offset = self._durable = reader.end
            self._allocated = reader.size
            if reader.torn:
                repairs.append(Truncate(path_of(number), reader.end))
                self._allocated = reader.end
            # what was found may be in the cache alone
            repairs += (Sync(path_of(number)), Sync(FOLDER))
        for group, log in groups.items():
            log.parts = []
            if log.start > log.base:
                raise CorruptionError(
                    self._folder + path_of(numbers[0]),
                    0,
                    f"group {group}: entries {log.base + 1} to {log.start} are missing",
                )
            log.install(log.base)
            self._groups[group] = _Position(log)
        if self._segments and self._segments[-1].number != numbers[-1]:
            # its number is used again, for the first write
            self._offset = 0
        if repairs:
            self._unready = True
            disk.submit(repairs, self._ready)
        return groups, notes

    def settle(self, done: Done) -> None:
        """``done`` when what recovery found is durable: it may be in the cache alone, and nothing may be said on the strength of it before."""
        self.write((), done)

    def _ready(self, error: StorageError | None) -> None:
        """If that failed the disk is dead, and so fails the first write."""
        self._unready = False
        self._start_waiting()


def _is_segment(name: str) -> bool:
    return len(name) == 8 and all(digit in "0123456789abcdef" for digit in name)


def _replay(log: GroupLog, kind: int, body: bytes, shown: str, offset: int, begins: bool) -> None:
    """``begins``: the first that is left of this group."""
    try:
        if kind == PROMISE:
            (log.promised,) = _Q.unpack(body)
        elif kind == APPEND:
            (first,) = _Q.unpack_from(body)
            if first != log.last + 1:
                raise CorruptionError(shown, offset, f"entries from {first} on do not follow {log.last}")
            log.entries += unpack_entries(body, _Q.size)
        elif kind == PART:
            adopted, first = _QQ.unpack_from(body)
            if first == adopted:
                log.parts = []  # what is left of one that a crash cut short
            if first != adopted + len(log.parts):
                raise CorruptionError(shown, offset, f"entries from {first} on do not follow those of the part before")
            log.parts += unpack_entries(body, _QQ.size)
        elif kind == ADOPT:
            ballot, first, parted = _QQI.unpack_from(body)
            if first > log.last + 1 or (parted and parted != len(log.parts)):
                raise CorruptionError(
                    shown,
                    offset,
                    f"{parted} entries of {len(log.parts)} parted ones from {first} on do not follow {log.last}",
                )
            entries = [*(log.parts if parted else ()), *unpack_entries(body, _QQI.size)]
            log.parts = []
            log.replace(first, entries)
            log.promised = log.accepted = ballot
        elif kind == INSTALL:
            (index,) = _Q.unpack(body)
            log.install(index)
        elif kind == STATE:
            promised, accepted, base, last = _STATE.unpack(body)
            if begins:
                log.promised, log.accepted, log.base, log.start = promised, accepted, base, last
            elif (promised, accepted, base, last) != (log.promised, log.accepted, log.base, log.last):
                raise CorruptionError(shown, offset, "the segments before come to something else")
        else:
            raise CorruptionError(shown, offset, f"a record of unknown kind {kind}")
    except (RemoteProtocolError, struct.error) as error:
        raise CorruptionError(shown, offset, str(error)) from None


class _Reader:
    """Iterates over (offset, group, kind, body) of one segment. Afterwards ``end`` is the offset behind the last whole record, 0 if not
    even the header became durable, and ``torn`` says what follows, '' if nothing does."""

    def __init__(self, disk: Disk, path: str, shown: str, number: int) -> None:
        self.shown = shown
        self.size = disk.size(path)
        self.end = 0
        self.torn = ""
        self._data = disk.read(path)
        self._number = number

    def __iter__(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._data
        if not self._header():
            return
        offset = self.end = HEADER.size
        while True:
            head = self._head(offset)
            if head is None:
                self._bad(offset, 0)
                return
            length, group, kind, _, checksum = head
            start = offset + RECORD.size
            body = data[start : start + length]
            if data[start + length : start + length + 1] != _END or crc32(body) != checksum:
                self._bad(offset, length)
                return
            yield offset, group, kind, body
            offset = self.end = start + length + len(_END)

    def _header(self) -> bool:
        """Check the file's header; False if it never became durable."""
        head = self._data[: HEADER.size]
        expected = HEADER.pack(MAGIC, VERSION, self._number)
        if head != expected and expected.startswith(head.rstrip(b"\0")):
            self.torn = "no header" if self._data.strip(b"\0") else ""
            return False
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise UsageError(f"{self.shown} is no journal: it begins with {head[:8]!r}")
        _, version, number = HEADER.unpack(head)
        if version != VERSION:
            raise UsageError(f"{self.shown} is a journal of format {version}; format {VERSION} is known")
        if number != self._number:
            raise CorruptionError(self.shown, 0, f"it says that it is segment {number:x}")
        return True

    def _head(self, offset: int) -> tuple[int, int, int, int, int] | None:
        """The fields of a record's head; None if it is none."""
        head = self._data[offset : offset + RECORD.size]
        if len(head) < RECORD.size or crc32(head[: _HEAD.size]).to_bytes(4) != head[_HEAD.size :]:
            return None
        length, group, kind, durable, checksum = _HEAD.unpack_from(head)
        return length, group, kind, durable, checksum

    def _bad(self, offset: int, length: int) -> None:
        """No good record at ``offset``: the end, a torn tail, or corruption. ``length`` of the body is 0 if it cannot be trusted."""
        data_end = len(self._data.rstrip(b"\0"))
        if data_end <= offset:
            return
        record_end = offset + RECORD.size + (length + len(_END) if length else 0)
        if data_end < record_end:
            self.torn = f"incomplete record at offset {offset}"
            return
        if not self._lost_sector(offset, record_end):
            raise CorruptionError(self.shown, offset, "a record that does not check out, though all of it was written")
        if any(durable > offset for durable in self._durable_behind(record_end if length else offset)):
            raise CorruptionError(self.shown, offset, "a record that does not check out, though it was durable")
        self.torn = f"torn record at offset {offset}"

    def _lost_sector(self, offset: int, record_end: int) -> bool:
        start = offset
        while start < record_end:
            stop = start // SECTOR * SECTOR + SECTOR
            if not self._data[start:stop].strip(b"\0"):
                return True
            start = stop
        return False

    def _durable_behind(self, offset: int) -> Iterator[int]:
        """What the records behind ``offset`` say was durable when they were written."""
        for found in _KINDS.finditer(self._data, offset):
            head = self._head(found.start() - _KIND_AT)
            if head is not None:
                yield head[3]
