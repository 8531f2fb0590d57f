"""A decision log in one file: for one machine, and for tests. Processes that use the same file take turns by a lock on it.

The file is a sequence of entries, ``u32 length, u32 CRC-32 of what follows, u8 kind, u64 flushed, body``: a record, the removal of one, or a cell (the file's
identity, the horizon, the last sweep). Zeros follow, written ahead, for a flush that does not change the file's size takes half the time. What several
threads decide meanwhile is one write and one flush. A file that is mostly of removed records is written anew, and takes the old one's place.

``flushed`` says how much of the file its writer knew to be on disk. A machine that goes down may have written any pages of what was not flushed, and not those before them:
whatever lies behind the first entry that is not whole is overwritten with zeros (or it would be taken for entries when others have filled the gap), unless one of
them says that what is damaged had been flushed. Then it is an error.
"""

import errno
import fcntl
import json
import os
import struct
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from quorate.errors import CorruptionError, StorageError
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import presumed_abort
from quorate.transactions.records import Record, merged, unpack

_HEAD = struct.Struct(">II")
_KIND = struct.Struct(">BQ")
_RECORD, _REMOVE, _HORIZON, _SWEEP, _IDENTITY = range(1, 6)
ENTRY_MAX = 1 << 20
_REWRITE_BYTES = 4 << 20
_AHEAD = 1 << 20
_READ = 1 << 16
_MAGIC = b"quorate transactions 1\n"


_open_logs: "weakref.WeakSet[LocalLog]" = weakref.WeakSet()


class LocalLog:
    blocks = True
    """Its calls wait for the disk."""

    def __init__(self, path: Path | str) -> None:
        """Raises StorageError, CorruptionError."""
        self.path = Path(path)
        self._records: dict[str, Record] = {}
        self._horizon = 0.0
        self._swept = (0.0, "")
        self._lock = threading.Lock()
        self._asked: deque[_Asked] = deque()
        self._flushing = threading.Condition(threading.Lock())
        self._written = 0
        self._flushed = 0
        self._in_flush = False
        self._failed: OSError | None = None
        self._at = 0
        self._ahead = 0
        self._durable = 0
        """Up to where others have flushed the file, as their entries say."""
        self._own_flush = (0, 0)
        """Of which file (``_file``), and up to where, we have."""
        self._file = 0
        """Counts the files that were opened, for they take each other's place."""
        self._identity = ""
        self._sizes: dict[str, int] = {}
        self._live_bytes = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open(os.O_CREAT)
            self._sync_folder()
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        with self._turn():
            self._catch_up()
        _open_logs.add(self)

    def _open(self, flags: int = 0) -> int:
        self._file += 1
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    def _forked(self) -> None:
        """In the child of a fork: the lock on a file belongs to what both processes have open, so that it would keep them apart from others, and not from each
        other."""
        self._lock = threading.Lock()
        self._asked.clear()
        self._flushing = threading.Condition(threading.Lock())
        self._in_flush = False
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._forget_all()
            try:
                self._descriptor = self._open()
            except OSError:
                # said by whoever uses it next
                self._descriptor = -1

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    # ---- the interface

    def decide(self, record: Record, riding: object = None) -> Record:
        if riding is not None:
            raise StorageError("a local log has no store that could be written to with a decision")
        asked = _Asked(record)
        self._asked.append(asked)
        with self._lock:
            # whoever had the lock before may have answered us along with himself
            if not asked.answered:
                self._answer_all()
        if asked.error is not None:
            raise asked.error
        # one that is found may have been written by somebody who has not flushed it yet
        self._flush(asked.mark)
        return asked.record

    def _answer_all(self) -> None:
        """What all threads have asked to be decided, in one turn and one write. Under our lock."""
        batch = []
        while self._asked:
            batch.append(self._asked.popleft())
        error: Exception | None = StorageError(f"{self.path}: the writing of a decision was interrupted")
        try:
            self._lock_file()
            try:
                self._catch_up()
                new: dict[str, Record] = {}
                for asked in batch:
                    name = asked.record.gtid.text
                    found = self._records.get(name) or new.get(name)
                    if found is not None:
                        asked.record = found
                    elif asked.record.gtid.deadline < self._horizon:
                        asked.record = presumed_abort(asked.record.gtid, asked.record.at, asked.record.by)
                    else:
                        new[name] = asked.record
                if new:
                    packed = {asked.record.gtid.text: asked.body for asked in batch if asked.record is asked.proposed}
                    self._append([(_RECORD, packed[name], record) for name, record in new.items()])
                error = None
            finally:
                self._unlock_file()
        except OSError as raised:
            error = StorageError(f"{self.path}: {raised.strerror or raised}")
        except Exception as raised:
            error = raised
        finally:
            for asked in batch:
                asked.error, asked.mark, asked.answered = error, self._written, True

    def read(self, gtid: Gtid) -> Record | None:
        with self._turn():
            self._catch_up()
            found = self._records.get(gtid.text)
            mark = self._written
            if found is None:
                return presumed_abort(gtid, self._horizon, "recovery") if gtid.deadline < self._horizon else None
        self._flush(mark)
        return found

    def records(self) -> Sequence[Record]:
        with self._turn():
            self._catch_up()
            found = list(self._records.values())
            mark = self._written
        self._flush(mark)
        return found

    def amend(self, records: Sequence[Record]) -> None:
        with self._turn():
            self._catch_up()
            stands = [(self._records.get(record.gtid.text), record) for record in records]
            changes = [merged(found, record) for found, record in stands if found is not None]
            self._append([(_RECORD, change.pack(), change) for change in changes])

    def forget(self, gtids: Sequence[Gtid], horizon: float) -> None:
        with self._turn():
            self._catch_up()
            entries: list[_Entry] = []
            if horizon > self._horizon:
                entries.append((_HORIZON, repr(horizon).encode(), None))
            entries += [(_REMOVE, gtid.text.encode(), None) for gtid in gtids if gtid.text in self._records]
            self._append(entries)
            if self._at > _REWRITE_BYTES and self._live_bytes < self._at // 4:
                self._rewrite()

    def claim_sweep(self, by: str, now: float, every: float) -> bool:
        with self._turn():
            self._catch_up()
            last, _ = self._swept
            if last <= now < last + every:
                return False
            self._append([(_SWEEP, json.dumps([now, by]).encode(), None)])
            return True

    # ---- the file

    def _turn(self) -> "_Turn":
        return _Turn(self)

    def lock(self) -> None:
        self._lock.acquire()
        try:
            self._lock_file()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise StorageError(f"{self.path}: {error.strerror or error}") from error
            raise

    def unlock(self) -> None:
        try:
            self._unlock_file()
        finally:
            self._lock.release()

    def _lock_file(self) -> None:
        try:
            while True:
                if self._descriptor < 0:
                    raise StorageError(f"{self.path}: the log is closed")
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
                # somebody may have written the file anew and put it in this one's place meanwhile
                if os.fstat(self._descriptor).st_ino == _inode(self.path):
                    return
                # not made if it is not there: whoever took it away took the decisions along
                new = self._open()
                os.close(self._descriptor)
                self._descriptor = new
                self._forget_all()
        except BaseException:
            with suppress(OSError):
                self._unlock_file()
            raise

    def _unlock_file(self) -> None:
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _forget_all(self) -> None:
        self._records.clear()
        self._sizes.clear()
        self._horizon, self._swept = 0.0, (0.0, "")
        self._at = self._ahead = self._durable = self._live_bytes = 0

    def _catch_up(self) -> None:
        """Take what others have written."""
        if not self._at:
            data = os.pread(self._descriptor, len(_MAGIC), 0)
            if data and not data.startswith(_MAGIC) and not _MAGIC.startswith(data.rstrip(b"\0")):
                raise CorruptionError(str(self.path), 0, "this is no decision log")
            if not data.startswith(_MAGIC):
                self._begin_file()
                return
            self._at = len(_MAGIC)
        elif not any(os.pread(self._descriptor, _HEAD.size, self._at)):
            return
        data = self._written_since()
        at = 0
        while True:
            entry = _entry(data, at)
            if entry is None:
                break
            kind, durable, body, at = entry
            self._durable = max(self._durable, durable)
            self._apply(kind, body)
        if at < len(data):
            self._torn(data, at)
        self._at += at
        self._written += 1
        if not self._identity:
            raise CorruptionError(str(self.path), len(_MAGIC), "the decision log does not begin with its identity")

    def _begin_file(self) -> None:
        if self._identity:
            raise StorageError(f"{self.path}: an empty file has taken the place of the decision log")
        os.pwrite(self._descriptor, _MAGIC, 0)
        self._at = len(_MAGIC)
        self._append([(_IDENTITY, os.urandom(8).hex().encode(), None)])

    def _written_since(self) -> bytes:
        """From where we are to the zeros that were written ahead. After a crash there may be zeros where something is missing, with more behind them, so
        what is read for the first time is read to the end of the file; what others append meanwhile goes on without a gap."""
        size = os.fstat(self._descriptor).st_size
        read = size if self._at == len(_MAGIC) else _READ
        while True:
            data = os.pread(self._descriptor, read, self._at)
            found = data.rstrip(b"\0")
            # no entry has as many zeros in it as its head is long
            if len(data) - len(found) >= _HEAD.size or self._at + len(data) >= size:
                return found
            read *= 4

    def _torn(self, data: bytes, at: int) -> None:
        """Make zeros of what a crash left unfinished. Raises CorruptionError if it was not a crash."""
        end = len(data.rstrip(b"\0"))
        for later in range(at, end):
            entry = _entry(data, later)
            if entry is not None and entry[1] > self._at + at:
                raise CorruptionError(
                    str(self.path), self._at + at, "an entry that is not what was written, though it was on disk"
                )
        if self._durable > self._at + at:
            raise CorruptionError(str(self.path), self._at + at, "there is less than what was on disk")
        _write(self._descriptor, bytes(end - at), self._at + at)

    def _apply(self, kind: int, body: bytes, record: Record | None = None) -> None:
        """``record``: what ``body`` is of, if it is at hand."""
        if kind == _RECORD:
            record = record or unpack(body)
            name = record.gtid.text
            self._live_bytes += len(body) - self._sizes.get(name, 0)
            self._sizes[name] = len(body)
            self._records[name] = record
        elif kind == _REMOVE:
            name = body.decode()
            self._records.pop(name, None)
            self._live_bytes -= self._sizes.pop(name, 0)
        elif kind == _IDENTITY:
            if self._identity not in ("", body.decode()):
                raise StorageError(f"{self.path}: another decision log has taken the place of this one")
            self._identity = body.decode()
        elif kind == _HORIZON:
            self._horizon = max(self._horizon, float(body))
        elif kind == _SWEEP:
            time, by = json.loads(body)
            self._swept = (float(time), str(by))

    def _append(self, entries: "Sequence[_Entry]") -> None:
        """Seen by everybody at once, durable after the next flush."""
        if self._failed is not None:
            raise StorageError(
                f"{self.path}: an earlier flush failed ({self._failed.strerror}), so nothing more is written"
            )
        file, up_to = self._own_flush
        if file == self._file:
            self._durable = max(self._durable, up_to)
        written = b"".join([_packed(kind, self._durable, body) for kind, body, _ in entries])
        try:
            end = self._at + len(written)
            if end > self._ahead:
                self._ahead = max(os.fstat(self._descriptor).st_size, self._at)
                while end > self._ahead:
                    _write(self._descriptor, bytes(_AHEAD), self._ahead)
                    self._ahead += _AHEAD
            _write(self._descriptor, written, self._at)
        except OSError as error:
            with suppress(OSError):
                os.pwrite(self._descriptor, bytes(len(written)), self._at)
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        self._at += len(written)
        self._written += 1
        for kind, body, record in entries:
            self._apply(kind, body, record)

    def _flush(self, mark: int) -> None:
        """Until everything up to ``mark`` is on disk. One thread flushes, the others wait for it."""
        with self._flushing:
            while True:
                if self._failed is not None:
                    raise StorageError(f"{self.path}: {self._failed.strerror or self._failed}")
                if self._flushed >= mark:
                    return
                if not self._in_flush:
                    break
                self._flushing.wait()
            self._in_flush = True
        descriptor = -1
        try:
            # of its own, for the file may be written anew meanwhile: that flushes all there was
            with self._lock:
                covered, file, up_to = self._written, self._file, self._at
                descriptor = os.dup(self._descriptor)
            os.fdatasync(descriptor)
            self._own_flush = (file, up_to)
        except BaseException as error:
            if not isinstance(error, OSError):
                with self._flushing:
                    self._in_flush = False
                    self._flushing.notify_all()
                raise
            # what the kernel could not write it may have dropped: nothing that depends on it can be promised any more
            with self._flushing:
                self._failed = error
                self._in_flush = False
                self._flushing.notify_all()
            raise StorageError(f"{self.path}: {error.strerror or error}") from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        with self._flushing:
            self._flushed = max(self._flushed, covered)
            self._in_flush = False
            self._flushing.notify_all()

    def _rewrite(self) -> None:
        """With what is live alone. Under the lock of the old file, whose place it takes."""
        new = self.path.with_name(self.path.name + ".new")
        data = bytearray(_MAGIC)
        for kind, body in [
            (_IDENTITY, self._identity.encode()),
            (_HORIZON, repr(self._horizon).encode()),
            (_SWEEP, json.dumps(self._swept).encode()),
            *[(_RECORD, record.pack()) for record in self._records.values()],
        ]:
            # all of it is flushed before anybody sees it
            data += _packed(kind, len(data), body)
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)
        self._sync_folder()
        # the old descriptor has the lock; the next turn sees that another file is in its place

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_Entry = tuple[int, bytes, Record | None]
"""Kind, body, and of a record what the body was made from."""


class _Asked:
    """A decision that a thread waits for. ``record``: the one that stands, once ``answered``; ``mark``: what has to be flushed first."""

    __slots__ = ("answered", "body", "error", "mark", "proposed", "record")

    def __init__(self, record: Record) -> None:
        self.record = self.proposed = record
        self.body = record.pack()
        self.mark = 0
        self.error: Exception | None = None
        self.answered = False


class _Turn:
    __slots__ = ("_log",)

    def __init__(self, log: LocalLog) -> None:
        self._log = log

    def __enter__(self) -> None:
        self._log.lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.unlock()
        if isinstance(error, OSError):
            raise StorageError(f"{self._log.path}: {error.strerror or error}") from error


def _write(descriptor: int, data: bytes, at: int) -> None:
    if os.pwrite(descriptor, data, at) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _packed(kind: int, durable: int, body: bytes) -> bytes:
    data = _KIND.pack(kind, durable) + body
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def _entry(data: bytes, at: int) -> tuple[int, int, bytes, int] | None:
    """Kind, what was flushed, body and where it ends; None if there is no whole one."""
    if len(data) - at < _HEAD.size:
        return None
    size, crc = _HEAD.unpack_from(data, at)
    if not _KIND.size <= size <= ENTRY_MAX:
        return None
    found = data[at + _HEAD.size : at + _HEAD.size + size]
    if len(found) != size or zlib.crc32(found) != crc:
        return None
    kind, durable = _KIND.unpack_from(found)
    return kind, durable, found[_KIND.size :], at + _HEAD.size + size


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def _after_fork() -> None:
    for log in list(_open_logs):
        log._forked()


os.register_at_fork(after_in_child=_after_fork)
