"""The disk over real files: order, group commit, failure, the lock, and that a busy loop does not starve it."""

import asyncio
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from quorate.errors import StorageError, UsageError
from quorate.runtime.files import LOCK_FILE, FileDisk
from quorate.runtime.kernelsync import KernelSync
from quorate.storage.disk import Allocate, Disk, Operation, Remove, Rename, Sync, Truncate, Write


class Bench:
    def __init__(self, path: Path, asynchronous: bool = True) -> None:
        self.loop = asyncio.new_event_loop()
        self.disk = FileDisk(str(path), self.loop, asynchronous=asynchronous)
        self.path = path

    def run(self, *submissions: Sequence[Operation]) -> list[StorageError | None]:
        """Submit all at once; what each ended with."""
        ends: list[StorageError | None] = []
        finished = self.loop.create_future()

        def done(error: StorageError | None) -> None:
            ends.append(error)
            if len(ends) == len(submissions):
                finished.set_result(None)

        for operations in submissions:
            self.disk.submit(operations, done)
        self.loop.run_until_complete(asyncio.wait_for(finished, 30))
        return ends

    def close(self) -> None:
        self.disk.close()
        self.loop.close()


@pytest.fixture(params=[True, False], ids=["kernel", "thread"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Syncs by the kernel where it can, and by the thread."""
    bench = Bench(tmp_path, request.param)
    yield bench
    bench.close()


@pytest.fixture
def thread_bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, False)
    yield bench
    bench.close()


def test_operations_in_order(bench: Bench) -> None:
    disk: Disk = bench.disk
    disk.make_folder("a/b")
    assert (
        bench.run(
            [Write("a/b/f", 0, [b"hello ", b"", b"world"]), Write("a/b/f", 11, [b"!"]), Sync("a/b/f"), Sync("a/b")],
            [Write("a/b/f", 0, [b"J"])],
            [Rename("a/b/f", "a/b/g"), Write("a/b/f", 3, [b"x"]), Sync("a/b/f")],
            [Write("a/b/g", 12, [b"?"]), Truncate("a/b/f", 1), Remove("a/b/none")],
            [],
        )
        == [None] * 5
    )
    assert disk.list("a/b") == ["f", "g"]
    assert disk.read("a/b/g") == b"Jello world!?"
    assert disk.read("a/b/g", 6, 5) == b"world"
    assert disk.read("a/b/g", 12) == b"?"
    assert disk.read("a/b/g", 99, 5) == b""
    assert disk.read("a/b/f") == b"\0"
    assert disk.size("a/b/g") == 13
    assert disk.exists("a/b/g")
    assert not disk.exists("a/b/h")
    assert disk.list("nowhere") == []
    assert bench.run([Remove("a/b/g"), Sync("a/b")]) == [None]
    assert disk.list("a/b") == ["f"]


def test_a_file_removed_and_made_anew_is_a_new_file(bench: Bench) -> None:
    bench.run([Write("f", 0, [b"long content"])])
    bench.run([Remove("f"), Write("f", 0, [b"new"])])
    assert bench.disk.read("f") == b"new"
    bench.run([Write("g", 0, [b"other"]), Rename("g", "f"), Write("f", 5, [b"!"])])
    assert bench.disk.read("f") == b"other!"
    assert bench.disk.list("") == ["f"]


def test_allocated_bytes_are_zeros(bench: Bench) -> None:
    assert bench.run([Write("f", 0, [b"abc"]), Allocate("f", 100_000), Allocate("f", 10)]) == [None]
    assert bench.disk.read("f") == b"abc" + bytes(99_997)


def test_more_pieces_than_one_call_takes(bench: Bench) -> None:
    writes = [Write("f", index * 3, [b"%03d" % (index % 1000)]) for index in range(5000)]
    assert bench.run(*[[write] for write in writes[:2500]], writes[2500:]) == [None] * 2501
    assert bench.disk.read("f") == b"".join(b"%03d" % (index % 1000) for index in range(5000))


def written(path: str, index: int, data: bytes) -> list[Operation]:
    return [Write(path, index, [data]), Sync(path)]


def test_one_sync_covers_all_that_is_queued(bench: Bench) -> None:
    bench.run([Write("f", 0, [b"x"]), Sync("f")])
    before = bench.disk.syncs.count
    count = 200
    bench.run(*[written("f", index, b"y") for index in range(count)])
    syncs = bench.disk.syncs
    assert 1 <= syncs.count - before < count // 4
    assert 0 < syncs.last_ms <= syncs.max_ms <= syncs.total_ms
    syncs.reset()
    assert (syncs.count, syncs.total_ms, syncs.max_ms, syncs.slow) == (0, 0.0, 0.0, 0)


def test_a_sync_comes_before_the_rename_that_follows_it(thread_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_sync, real_rename = os.fdatasync, os.rename

    def sync(fd: int) -> None:
        calls.append("sync")
        real_sync(fd)

    def rename(source: str, target: str) -> None:
        calls.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "rename", rename)
    thread_bench.run([Write("t", 0, [b"1"]), Sync("t"), Rename("t", "f")], [Write("f", 1, [b"2"]), Sync("f")])
    assert calls == ["sync", "rename", "sync"]


def test_folders_are_synced_whole(thread_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """fdatasync leaves out what only fsync writes of a folder on some file systems."""
    synced: list[str] = []
    real = os.fsync

    def sync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", sync)
    thread_bench.run([Write("f", 0, [b"1"]), Sync("f"), Sync("")])
    assert synced == [str(thread_bench.path)]


def test_without_syncs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.disk = FileDisk(str(tmp_path), bench.loop, sync=False)
    bench.run([Write("f", 0, [b"x"]), Sync("f")])
    assert bench.disk.syncs.count == 0
    assert bench.disk.read("f") == b"x"
    bench.close()


def test_few_descriptors_stay_open(bench: Bench) -> None:
    bench.run(*[written(f"f{index}", 0, b"x") for index in range(100)])
    here = [name for name in os.listdir("/proc/self/fd") if _target(name).startswith(f"{bench.path}/f")]
    assert 0 < len(here) <= 16
    assert all(bench.disk.read(f"f{index}") == b"x" for index in range(100))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Write("no/f", 0, [b"x"]), "no/f: no such file or directory"),
        (Sync("none"), "none: no such file or folder to sync"),
        (Truncate("none", 0), "none: no such file"),
        (Rename("none", "f"), "none: no such file or directory"),
    ],
)
def test_after_the_first_failure_the_disk_is_dead(bench: Bench, operation: Operation, says: str) -> None:
    assert bench.run([Write("before", 0, [b"x"]), Sync("before")]) == [None]
    (error,) = bench.run([operation])
    assert isinstance(error, StorageError)
    assert says in str(error)
    assert str(error).startswith(str(bench.path))
    assert bench.run([Write("after", 0, [b"x"])], [Sync("before")]) == [error, error]
    assert bench.disk.list("") == ["before"]


def test_a_failed_sync_fails_all_that_it_covers(thread_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    thread_bench.run([Write("f", 0, [b"x"]), Sync("f")])

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    errors = thread_bench.run(*[written("f", index, b"y") for index in range(5)])
    assert all("f: input/output error" in str(error) for error in errors)
    monkeypatch.undo()
    # it would succeed now, without the data
    assert all(isinstance(error, StorageError) for error in thread_bench.run([Sync("f")]))


def test_a_sync_that_fails_in_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.run(written("f", 0, b"x"))
    real = KernelSync.ended

    def broken(kernel: KernelSync, at_least: int = 0) -> list[tuple[int, int]]:
        return [(tag, errno.EIO) for tag, _ in real(kernel, at_least)]

    monkeypatch.setattr(KernelSync, "ended", broken)
    errors = bench.run(*[written("f", index, b"y") for index in range(5)])
    assert ["f: input/output error" in str(error) for error in errors] == [True] * 5
    monkeypatch.undo()
    assert all(isinstance(error, StorageError) for error in bench.run([Sync("f")], written("f", 9, b"z")))
    assert (tmp_path / "f").read_bytes() == b"y"
    bench.close()


def test_what_the_kernel_does_not_take_the_thread_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pipe has no fsync: the kernel refuses it at once, as an old kernel refuses every file."""
    bench = Bench(tmp_path)
    bench.run(written("f", 0, b"x"))
    os.mkfifo(tmp_path / "pipe")
    (error,) = bench.run([Sync("pipe")])
    assert "pipe: invalid argument" in str(error)
    assert "a thread does them from now on" in caplog.text
    bench.close()


def test_many_files_in_one_batch(bench: Bench) -> None:
    """More syncs than the kernel is given at once."""
    for _ in range(3):
        assert bench.run([], [op for index in range(40) for op in written(f"f{index}", 0, b"x")]) == [None, None]
    assert bench.disk.syncs.count == 120


def test_small_and_large_batches_keep_their_order(bench: Bench) -> None:
    """Some are carried out on the loop's thread, some by the worker."""
    ends: list[int] = []
    finished = bench.loop.create_future()
    size = 0
    for index in range(60):
        data = bytes([index]) * (3_000_000 if index % 10 == 5 else 100)

        def done(error: StorageError | None, index: int = index) -> None:
            assert error is None, error
            ends.append(index)
            if index == 59:
                finished.set_result(None)

        extra: list[Operation] = [Remove("none")] if index % 7 == 3 else []
        bench.disk.submit([Write("f", size, [data, b""]), Sync("f"), *extra], done)
        size += len(data)
        if index % 4 == 0:
            bench.loop.run_until_complete(asyncio.sleep(0))
    bench.loop.run_until_complete(asyncio.wait_for(finished, 60))
    assert ends == list(range(60))
    content = bench.disk.read("f")
    assert len(content) == size
    assert bytes(sorted(content)) == content


def test_a_slow_sync_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path)
    slow: list[tuple[str, float]] = []
    bench.disk = FileDisk(
        str(tmp_path), bench.loop, slow_sync_ms=0.0, on_slow_sync=lambda path, ms: slow.append((path, ms))
    )
    bench.run([Write("f", 0, [b"x"]), Sync("f")])
    assert bench.disk.syncs.slow == 1
    assert slow == [("f", bench.disk.syncs.last_ms)]
    assert f"sync of {tmp_path}/f took" in caplog.text
    bench.close()


def test_reads_that_cannot_be(bench: Bench) -> None:
    for read in (lambda: bench.disk.read("none"), lambda: bench.disk.size("none")):
        with pytest.raises(StorageError, match="none: no such file"):
            read()
    bench.run([Write("f", 0, [b"x"])])
    with pytest.raises(StorageError, match="not a directory"):
        bench.disk.list("f")
    with pytest.raises(StorageError, match="/f: it is a file, not a folder"):
        bench.disk.make_folder("f/g")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_close_carries_out_what_is_queued(tmp_path: Path, asynchronous: bool) -> None:
    bench = Bench(tmp_path, asynchronous)
    ends: list[StorageError | None] = []
    for index in range(100):
        bench.disk.submit([Write("f", index, [b"x"]), Sync("f")], ends.append)
    bench.disk.close()
    assert (tmp_path / "f").read_bytes() == b"x" * 100
    bench.disk.close()
    bench.disk.submit([Write("f", 0, [b"y"])], ends.append)
    bench.loop.run_until_complete(asyncio.sleep(0))
    bench.loop.run_until_complete(asyncio.sleep(0))
    assert ends[:100] == [None] * 100
    assert "the disk is closed" in str(ends[100])
    bench.close()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_close_after_a_failure(tmp_path: Path, asynchronous: bool) -> None:
    """What waits behind a batch that fails while the disk is being closed fails too."""
    bench = Bench(tmp_path, asynchronous)
    ends: list[StorageError | None] = []
    bench.disk.submit([Rename("none", "f")], ends.append)
    bench.disk.submit([Write("g", 0, [b"x"])], ends.append)
    bench.disk.close()
    for _ in range(3):
        bench.loop.run_until_complete(asyncio.sleep(0))
    assert len(ends) == 2
    assert all(isinstance(error, StorageError) for error in ends)
    assert os.listdir(tmp_path) == []
    bench.close()


def test_a_completion_that_fails_does_not_keep_the_others(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fails(error: StorageError | None) -> None:
        raise ValueError("from the completion")

    bench.disk.submit([Write("f", 0, [b"x"])], fails)
    assert bench.run([Write("f", 1, [b"y"])]) == [None]
    assert "from the completion" in caplog.text


def test_a_busy_loop_does_not_starve_the_disk(bench: Bench) -> None:
    """Turns of a tenth of a millisecond without a pause held the worker up for seconds until it was hurried."""
    interval = sys.getswitchinterval()
    ends: list[StorageError | None] = []
    turns = 0

    def next_write() -> None:
        at = len(ends)
        bench.disk.submit([Write("f", at, [b"x"]), Sync("f")], done)

    def done(error: StorageError | None) -> None:
        ends.append(error)
        if len(ends) < 30:
            next_write()

    def burn() -> None:
        nonlocal turns
        turns += 1
        end = time.perf_counter() + 1e-4
        while time.perf_counter() < end:
            len(ends)
        if len(ends) < 30 and turns < 100_000:
            bench.loop.call_soon(burn)
        else:
            bench.loop.stop()

    next_write()
    bench.loop.call_soon(burn)
    bench.loop.run_forever()
    assert ends == [None] * 30
    while sys.getswitchinterval() != pytest.approx(interval):  # it goes back when the disk is idle
        bench.loop.run_until_complete(asyncio.sleep(0.001))


def test_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    bench = Bench(folder)
    bench.disk.lock()
    assert (folder / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    other = FileDisk(str(folder), bench.loop)
    with pytest.raises(UsageError, match=f"data folder {folder} is in use by process {os.getpid()}"):
        other.lock()
    program = (
        "import asyncio, sys\nfrom quorate.errors import UsageError\nfrom quorate.runtime.files import FileDisk\n"
        "try:\n    FileDisk(sys.argv[1], asyncio.new_event_loop()).lock()\n"
        "except UsageError as error:\n    sys.exit(str(error))\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "is in use by process" in refused.stderr
    bench.close()
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    # that process is gone, and its lock with it
    other.lock()
    other.close()


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match=f"data folder {file}/data cannot be made: {file}: it is a file"):
        FileDisk(f"{file}/data", loop).lock()
    with pytest.raises(UsageError, match=f"data folder {file} cannot be made: {file}: it is a file"):
        FileDisk(str(file), loop).lock()
    loop.close()
