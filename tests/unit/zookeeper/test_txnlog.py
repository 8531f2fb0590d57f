"""The transaction log: its bytes, its growth, and what is made of every kind of damage."""

import asyncio
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.zookeeper.folders import FOLDER, Session, create, recover, write_log, zxids

from quorate.consensus.zab.messages import Entry
from quorate.errors import CorruptionError, LocalProtocolError, StorageError, UsageError
from quorate.runtime.files import FileDisk
from quorate.storage.disk import Allocate, Done, Operation, Write
from quorate.zookeeper.txnlog import (
    SECTOR,
    UNSYNCED_LIMIT,
    LogReader,
    TxnLog,
    cut_after,
    files_from,
    follows,
    padded_size,
    read_tail,
    zxid_of,
)

EPOCH = 1 << 32


def record(entry: Entry) -> bytes:
    payload = entry.payload
    return struct.pack(">qi", zlib.adler32(payload), len(payload)) + payload + b"B"


def offsets(entries: Sequence[Entry]) -> list[int]:
    """Where each record begins, and where the last one ends."""
    found = [16]
    for entry in entries:
        found.append(found[-1] + len(record(entry)))
    return found


def read(path: Path) -> tuple[list[int], LogReader]:
    loop = asyncio.new_event_loop()
    try:
        reader = LogReader(FileDisk(str(path.parent), loop), path.name)
        return [entry.zxid for entry in reader], reader
    finally:
        loop.close()


class TestFormat:
    def test_bytes_are_apaches(self, tmp_path: Path) -> None:
        entries = [create(1), create(2, b""), create(3, b"z" * 5000)]
        log = write_log(tmp_path, *entries)
        data = log.read_bytes()
        expected = b"ZKLG\0\0\0\2\0\0\0\0\0\0\0\0" + b"".join(map(record, entries))
        assert data[: len(expected)] == expected
        assert len(data) == 64 << 10
        assert not data[len(expected) :].strip(b"\0")

    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        entries = [create(zxid, bytes([zxid % 251]) * (zxid * 37)) for zxid in range(1, 400)]
        log = write_log(tmp_path, *entries[:7])
        assert recover(tmp_path).tail == entries[:7]
        with Session(tmp_path) as session:
            session.recover()
            for start in range(7, 399, 14):
                session.append(*entries[start : start + 14])
        assert recover(tmp_path).tail == entries
        assert read(log)[0] == zxids(entries[:7])

    def test_a_record_longer_than_any_window(self, tmp_path: Path) -> None:
        entries = [create(1), create(2, b"y" * (3 << 20)), create(3)]
        write_log(tmp_path, *entries)
        assert recover(tmp_path).tail == entries

    def test_zxids_may_not_go_back(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            session.recover()
            session.append(create(1), create(2))
            with pytest.raises(LocalProtocolError, match="0x2 cannot be logged after 0x2"):
                session.store.append([create(2)], lambda error: None)

    @pytest.mark.parametrize(
        ("end", "allocated", "step", "size"),
        [
            (200, 16, 0, 16),  # off
            (200, 16, 65536, 65536),
            (61000, 65536, 65536, 65536),
            (61440, 65536, 65536, 131072),  # 4 KiB before the end
            (65000, 65536, 65536, 131072),
            (400_000, 65536, 65536, 458_752),
        ],
    )
    def test_padding(self, end: int, allocated: int, step: int, size: int) -> None:
        assert padded_size(end, allocated, step) == size
        assert step == 0 or size - end >= 4096

    def test_names(self) -> None:
        assert zxid_of("log.1f00000002", "log") == 0x1F00000002
        assert zxid_of("snapshot.0.gz", "snapshot") == 0
        for name in (
            "log",
            "log.",
            "log.x",
            "logs.1",
            "log.-1",
            "log.1_0",
            "log.10000000000000000",
            "log.ffffffffffffffff",
        ):
            assert zxid_of(name, "log") == -1, name

    def test_histories(self) -> None:
        assert follows(5, 6)
        assert follows(0, 1)
        assert follows(EPOCH + 7, 2 * EPOCH + 1)
        assert follows(EPOCH + 7, 5 * EPOCH + 1)
        assert not follows(5, 7)
        assert not follows(5, 5)
        assert not follows(EPOCH + 7, 2 * EPOCH + 2)
        assert not follows(2 * EPOCH + 7, EPOCH + 1)

    def test_files_that_may_hold_a_zxid(self) -> None:
        files = [(1, "a"), (5, "b"), (9, "c")]
        assert files_from(files, 0) == files
        assert files_from(files, 4) == files
        assert files_from(files, 5) == files[1:]
        assert files_from(files, 100) == files[2:]


class _Recorder(FileDisk):
    """The real disk, and what was asked of it."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(str(path), loop)
        self.under_way = 0
        self.most = 0
        self.operations: list[Operation] = []

    def submit(self, operations: Sequence[Operation], done: Done) -> None:
        size = sum(sum(map(len, op.data)) for op in operations if isinstance(op, Write))
        self.under_way += size
        self.most = max(self.most, self.under_way)
        self.operations += operations

        def reported(error: StorageError | None) -> None:
            self.under_way -= size
            done(error)

        super().submit(operations, reported)


class TestGrowth:
    def test_no_more_than_the_limit_is_ever_unsynced(self, tmp_path: Path) -> None:
        loop = asyncio.new_event_loop()
        disk = _Recorder(tmp_path, loop)
        disk.make_folder(FOLDER)
        log = TxnLog(disk, 0)
        entries = [create(zxid, b"q" * (1 << 20)) for zxid in range(1, 61)]
        order: list[str] = []
        log.append(entries[:50], lambda error: order.append(f"fifty {error}"))
        for entry in entries[50:]:
            log.append([entry], lambda error: order.append(f"one {error}"))
        end = loop.create_future()
        log.flush(end.set_result)
        loop.run_until_complete(asyncio.wait_for(end, 60))
        assert order == ["fifty None"] + ["one None"] * 10
        assert UNSYNCED_LIMIT // 2 < disk.most <= UNSYNCED_LIMIT + (2 << 20)
        assert zxids(read_tail(disk, 0).entries) == zxids(entries)
        disk.close()
        loop.close()

    def test_files_grow_ahead_and_roll(self, tmp_path: Path) -> None:
        loop = asyncio.new_event_loop()
        disk = _Recorder(tmp_path, loop)
        disk.make_folder(FOLDER)
        log = TxnLog(disk, 0, 64 << 10, 150 << 10)
        for zxid in range(1, 31):
            log.append([create(zxid, b"q" * 10_000)], lambda error: None)
        end = loop.create_future()
        log.flush(end.set_result)
        assert loop.run_until_complete(asyncio.wait_for(end, 60)) is None
        allocated = [(op.path, op.size >> 10) for op in disk.operations if isinstance(op, Allocate)]
        first, second = f"{FOLDER}/log.1", f"{FOLDER}/log.11"
        assert allocated == [(first, 64), (first, 128), (first, 192), (second, 64), (second, 128), (second, 192)]
        assert zxids(read_tail(disk, 0).entries) == list(range(1, 31))
        disk.close()
        loop.close()


class TestCrash:
    """Damage that a crash explains: recovery goes on with the last whole record."""

    @pytest.mark.parametrize("filled", [True, False], ids=["zeros behind", "file ends"])
    def test_cut_at_every_byte(self, tmp_path: Path, filled: bool) -> None:
        entries = [create(zxid) for zxid in range(1, 7)]
        log = write_log(tmp_path / "whole", *entries)
        data = log.read_bytes()
        starts = offsets(entries)
        for cut in range(starts[3], starts[-1] + 1):
            kept = data[:cut] + (bytes(len(data) - cut) if filled else b"")
            log.write_bytes(kept)
            whole = sum(1 for end in starts[1:] if end <= cut)
            seen, reader = read(log)
            assert seen == list(range(1, whole + 1)), cut
            assert reader.end == starts[whole], cut
            # the checksum's upper half is zero: nothing of a record is there before its fifth byte
            assert bool(reader.torn) == bool(kept[starts[whole] :].strip(b"\0")) or not filled, cut

    def test_a_torn_tail_is_cut_for_good(self, tmp_path: Path) -> None:
        entries = [create(zxid) for zxid in range(1, 7)]
        log = write_log(tmp_path, *entries)
        end = offsets(entries)[5]
        data = bytearray(log.read_bytes())
        data[end + 40 :] = bytes(len(data) - end - 40)
        log.write_bytes(data)
        assert zxids(recover(tmp_path).tail) == [1, 2, 3, 4, 5]
        assert log.stat().st_size == end
        with Session(tmp_path) as session:
            session.recover()
            session.append(create(6, b"other"), create(7))
            assert [name for name in session.files() if name.startswith("log")] == ["log.1", "log.6"]
        tail = recover(tmp_path).tail
        assert zxids(tail) == [1, 2, 3, 4, 5, 6, 7]
        assert tail[5] == create(6, b"other")

    @pytest.mark.parametrize("bit", range(8))
    def test_any_flip_in_the_last_record_is_no_tear(self, tmp_path: Path, bit: int) -> None:
        """It was written to its end and acknowledged; to cut it would be to lose it silently."""
        entries = [create(zxid) for zxid in range(1, 5)]
        log = write_log(tmp_path, *entries)
        good = log.read_bytes()
        starts = offsets(entries)
        for at in range(starts[3], starts[4]):
            data = bytearray(good)
            data[at] ^= 1 << bit
            log.write_bytes(data)
            with pytest.raises(CorruptionError, match=f"offset {starts[3]}: "):
                read(log)

    @pytest.mark.parametrize("lost", range(1, 8))
    def test_a_lost_sector_among_unsynced_ones(self, tmp_path: Path, lost: int) -> None:
        """Sectors of one unsynced write may be lost in any order; data behind the hole proves nothing."""
        entries = [create(zxid, bytes([97 + zxid % 20]) * 300) for zxid in range(1, 12)]
        log = write_log(tmp_path, *entries)
        data = bytearray(log.read_bytes())
        data[lost * SECTOR : (lost + 1) * SECTOR] = bytes(SECTOR)
        log.write_bytes(data)
        starts = offsets(entries)
        whole = sum(1 for end in starts[1:] if end <= lost * SECTOR)
        seen, reader = read(log)
        assert seen == list(range(1, whole + 1))
        assert reader.torn
        assert zxids(recover(tmp_path).tail) == seen
        assert log.stat().st_size == starts[whole]

    def test_a_file_without_its_header(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1))
        for content in (b"", b"ZK", b"ZKLG\0\0\0\2", bytes(16), bytes(4096), b"ZKLG\0\0\0\2" + bytes(8)):
            log.write_bytes(content)
            assert recover(tmp_path).tail == [], content
            assert not log.exists(), content

    def test_a_tear_in_an_older_file_that_the_next_goes_on_from(self, tmp_path: Path) -> None:
        """Apache cuts nothing: it begins a new file behind a torn one."""
        entries = [create(1), create(2), create(3)]
        log = write_log(tmp_path, *entries)
        end = offsets(entries)[2]
        torn = log.read_bytes()[: end + 30] + bytes(5000)
        write_log(tmp_path / "other", create(3, b"new"), create(4))
        log.write_bytes(torn)
        shutil.copy(tmp_path / "other" / FOLDER / "log.3", log.parent)
        found = recover(tmp_path)
        assert zxids(found.tail) == [1, 2, 3, 4]
        assert found.tail[2] == create(3, b"new")
        assert log.read_bytes() == torn


class TestCorruption:
    """Damage that no crash explains."""

    def test_any_flip_before_the_tail(self, tmp_path: Path) -> None:
        entries = [create(zxid) for zxid in range(1, 5)]
        log = write_log(tmp_path, *entries)
        good = log.read_bytes()
        starts = offsets(entries)
        for at in range(starts[1], starts[2]):
            for bit in (0x01, 0x80):
                data = bytearray(good)
                data[at] ^= bit
                log.write_bytes(data)
                with pytest.raises(CorruptionError) as caught:
                    read(log)
                assert caught.value.offset == starts[1], at
                assert caught.value.file == "log.1"

    def test_recovery_names_file_and_offset_and_changes_nothing(self, tmp_path: Path) -> None:
        entries = [create(zxid) for zxid in range(1, 5)]
        log = write_log(tmp_path, *entries)
        data = bytearray(log.read_bytes())
        data[60] ^= 4
        log.write_bytes(data)
        with pytest.raises(CorruptionError, match=r"version-2/log\.1: offset 16: record with a wrong checksum"):
            recover(tmp_path)
        assert log.read_bytes() == data

    def test_zeros_that_are_no_sector(self, tmp_path: Path) -> None:
        entries = [create(zxid, b"k" * 300) for zxid in range(1, 9)]
        log = write_log(tmp_path, *entries)
        data = bytearray(log.read_bytes())
        data[700:1100] = bytes(400)
        log.write_bytes(data)
        with pytest.raises(CorruptionError):
            read(log)

    def test_a_hole_further_from_the_end_than_anything_unsynced(self, tmp_path: Path) -> None:
        entries = [create(zxid, b"k" * (1 << 20)) for zxid in range(1, 19)]
        log = write_log(tmp_path, *entries)
        data = bytearray(log.read_bytes())
        data[4 * SECTOR : 5 * SECTOR] = bytes(SECTOR)
        log.write_bytes(data)
        with pytest.raises(CorruptionError, match="offset 16: "):
            read(log)

    def test_a_tear_that_the_next_file_does_not_go_on_from(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1), create(2), create(3))
        write_log(tmp_path / "other", create(4))
        shutil.copy(tmp_path / "other" / FOLDER / "log.4", log.parent)
        assert zxids(recover(tmp_path).tail) == [1, 2, 3, 4]
        data = bytearray(log.read_bytes())
        cut = offsets([create(1), create(2)])[2] + 20
        data[cut:] = bytes(len(data) - cut)
        log.write_bytes(data)
        with pytest.raises(CorruptionError, match="transactions between 0x2 and 0x4 are missing"):
            recover(tmp_path)

    def test_a_rotten_last_record_before_a_new_epoch(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1), create(2), create(3))
        write_log(tmp_path / "other", create(EPOCH + 1))
        shutil.copy(tmp_path / "other" / FOLDER / f"log.{EPOCH + 1:x}", log.parent)
        for name in ("acceptedEpoch", "currentEpoch"):
            (log.parent / name).write_text("1")
        good = log.read_bytes()
        last = offsets([create(1), create(2)])[2]
        # whole but wrong: it was acknowledged once
        log.write_bytes(good[: last + 20] + b"\xff" + good[last + 21 :])
        with pytest.raises(CorruptionError, match="wrong checksum"):
            recover(tmp_path)
        # not whole: a crash
        log.write_bytes(good[: last + 20] + bytes(5000))
        assert zxids(recover(tmp_path).tail) == [1, 2, EPOCH + 1]

    @pytest.mark.parametrize("size", range(8))
    @pytest.mark.parametrize("zeros", [0, 1, 16, 5000])
    def test_a_header_that_is_torn_anywhere(self, tmp_path: Path, size: int, zeros: int) -> None:
        """The first write to a new file, torn, in a file that is as long as it would have been, or longer."""
        write_log(tmp_path, create(1), create(2))
        (tmp_path / FOLDER / "log.3").write_bytes(b"ZKLG\0\0\0\2"[:size] + bytes(zeros))
        assert zxids(recover(tmp_path).tail) == [1, 2]
        assert not (tmp_path / FOLDER / "log.3").exists()

    @pytest.mark.parametrize("content", [b"hello, world, this is no log", b"ZKSN\0\0\0\2" + bytes(8), b"X"])
    def test_foreign_files(self, tmp_path: Path, content: bytes) -> None:
        log = write_log(tmp_path, create(1))
        log.write_bytes(content)
        with pytest.raises(UsageError, match=r"log\.1 is not a ZooKeeper transaction log"):
            recover(tmp_path)

    def test_another_format(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1))
        log.write_bytes(b"ZKLG\0\0\0\3" + bytes(8))
        with pytest.raises(UsageError, match="format 3"):
            recover(tmp_path)

    def test_zxids_out_of_order(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1), create(2))
        data = log.read_bytes()[:16] + record(create(2)) + record(create(1))
        log.write_bytes(data)
        with pytest.raises(CorruptionError, match="zxid 0x1 comes after 0x2"):
            read(log)


class TestSeveralFiles:
    def test_repeated_transactions_are_taken_once(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1), create(2), create(3))
        write_log(tmp_path / "other", create(2), create(3), create(4))
        shutil.copy(tmp_path / "other" / FOLDER / "log.2", log.parent)
        assert zxids(recover(tmp_path).tail) == [1, 2, 3, 4]

    def test_repeated_zxids_of_other_transactions_are_not(self, tmp_path: Path) -> None:
        log = write_log(tmp_path, create(1), create(2), create(3))
        write_log(tmp_path / "other", create(2), create(3, b"different"))
        shutil.copy(tmp_path / "other" / FOLDER / "log.2", log.parent)
        with pytest.raises(CorruptionError, match="zxid 0x3 comes after 0x3"):
            recover(tmp_path)

    @pytest.mark.parametrize("zxid", range(10))
    def test_cutting(self, tmp_path: Path, zxid: int) -> None:
        with Session(tmp_path) as session:
            session.recover()
            session.append(create(1), create(2), create(3))
        with Session(tmp_path) as session:
            session.recover()
            session.append(create(4))
        with Session(tmp_path) as session:
            session.recover()
            session.append(create(5), create(6), create(7))
            groups, last = cut_after(session.log_disk, zxid)
            assert last == (min(zxid, 7) if zxid else -1)
            for group in groups:
                session.do(lambda done, group=group: session.log_disk.submit(group, done))  # type: ignore[misc]  # default
        assert zxids(recover(tmp_path).tail) == list(range(1, min(zxid, 7) + 1))
        if 0 < zxid < 7:  # the zeros written ahead went with the cut, and nothing behind it can come back
            newest = max((tmp_path / FOLDER).glob("log.*"))
            assert newest.read_bytes().endswith(create(zxid).payload + b"B")
