"""Snapshots that others fetch: which are held, and what is served."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

import pytest

from quorate.consensus.paxos import snapshots, transfer
from quorate.errors import RemoteProtocolError, StorageError
from quorate.runtime.files import FileDisk


def with_files(tmp_path: Path, indices: list[int], work: Callable[[FileDisk], None]) -> None:
    """On a disk with snapshots of group 1 of these indices, each of which is its index as text, ten times."""

    async def main() -> None:
        disk = FileDisk(str(tmp_path), asyncio.get_running_loop())
        disk.make_folder(snapshots.folder_of(1))
        for index in indices:
            (tmp_path / snapshots.path_of(1, index)).write_bytes(b"%04d" % index * 10)
        try:
            work(disk)
        finally:
            disk.close()

    asyncio.run(main())


def served(disk: FileDisk, index: int, offset: int, base: int = 0) -> tuple[int, int, int, bytes]:
    """Index, size and offset of the chunk, and what is in it."""
    told, size, pieces = transfer.serve(disk, 1, transfer.REQUEST.pack(index, offset), 8, base)
    chunk = b"".join(pieces)
    found: tuple[int, int, int] = unpack_from(">QQQ", chunk)
    assert (told, size) == found[:2]
    return *found, chunk[24:]


def test_the_newest_or_the_one_asked_for(tmp_path: Path) -> None:
    def work(disk: FileDisk) -> None:
        assert served(disk, 0, 0) == (9, 40, 0, b"00090009")
        assert served(disk, 9, 36) == (9, 40, 36, b"0009")
        assert served(disk, 5, 4) == (5, 40, 4, b"00050005")
        assert served(disk, 5, 40) == (5, 40, 40, b"")
        # it is gone, or the log does not go on from there
        assert served(disk, 4, 16) == (9, 40, 0, b"00090009")
        assert served(disk, 5, 4, base=6) == (9, 40, 0, b"00090009")
        with pytest.raises(RemoteProtocolError, match="offset 41 of a snapshot of 40 bytes"):
            served(disk, 5, 41)
        with pytest.raises(RemoteProtocolError, match="3 bytes"):
            transfer.serve(disk, 1, b"abc", 8, 0)

    with_files(tmp_path, [5, 9], work)
    with_files(tmp_path / "empty", [], _nothing)


def _nothing(disk: FileDisk) -> None:
    assert served(disk, 7, 3) == (0, 0, 0, b"")


def test_one_that_is_removed_just_now_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk's thread removes it after it was listed."""

    def work(disk: FileDisk) -> None:
        listing = disk.list

        def last_look(folder: str) -> list[str]:
            found = listing(folder)
            (tmp_path / snapshots.path_of(1, 9)).write_bytes(b"0009" * 10)
            (tmp_path / snapshots.path_of(1, 5)).unlink(missing_ok=True)
            return found

        monkeypatch.setattr(disk, "list", last_look)
        assert served(disk, 5, 8) == (9, 40, 0, b"00090009")

    with_files(tmp_path, [5], work)


def test_one_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    def work(disk: FileDisk) -> None:
        (tmp_path / snapshots.path_of(1, 7)).mkdir()
        with pytest.raises(StorageError, match="snapshot-0000000000000007"):
            served(disk, 7, 0)

    with_files(tmp_path, [5], work)


def test_what_is_held_and_how_long() -> None:
    holds = transfer.Holds(800)
    assert holds.indices(0) == set()
    holds.ask(2, 50, 200, now=0, logged=0)
    holds.ask(3, 70, 200, now=0, logged=500)
    assert holds.indices(900) == {50, 70}
    assert not holds.expire(now=50, patience=10)
    holds.ask(2, 50, 200, now=45, logged=900)
    assert holds.expire(now=51, patience=10)
    assert holds.indices(900) == {50}
    # who begins anew may take as long again
    holds.ask(2, 80, 200, now=60, logged=900)
    assert holds.indices(1900) == {80}


def test_whoever_is_slower_than_the_log_grows_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    holds = transfer.Holds(800)
    holds.ask(2, 50, 200, now=0, logged=0)
    holds.ask(2, 50, 200, now=1, logged=900)
    assert holds.indices(1000) == {50}
    assert holds.indices(1001) == set()
    # though it goes on asking: the file may be there for a moment yet
    holds.ask(2, 50, 200, now=2, logged=1001)
    assert holds.indices(1001) == set()
    assert not caplog.text
    holds.ask(2, 80, 200, now=3, logged=1001)
    assert holds.indices(2001) == {80}
    assert "member 2 fetches a snapshot more slowly than the log grows" in caplog.text


def test_however_large_a_snapshot_is_the_log_after_it_has_to_go_into_a_message() -> None:
    holds = transfer.Holds(800)
    holds.ask(2, 80, 1 << 40, now=0, logged=0)
    assert holds.indices(transfer.HELD_MAX) == {80}
    assert holds.indices(transfer.HELD_MAX + 1) == set()


def test_whoever_reads_what_came_goes_on_asking_so_that_it_is_held(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FileDisk(str(tmp_path), asyncio.get_running_loop())
        disk.make_folder(snapshots.folder_of(1))
        asked: list[tuple[int, ...]] = []
        came = asyncio.Event()

        def ask(source: int, body: bytes) -> None:
            asked.append((source, *transfer.REQUEST.unpack(body)))

        def failed(error: StorageError) -> None:
            raise error

        incoming = transfer.Incoming(disk, 1, 3, ask, lambda path: came.set(), failed)
        incoming.request()
        incoming.chunk(3, pack(">QQQ", 9, 4, 0) + b"0009")
        await came.wait()
        incoming.request()
        # there is nothing more to come
        incoming.chunk(3, pack(">QQQ", 9, 4, 4))
        assert asked == [(3, 0, 0), (3, 9, 4)]
        incoming.end()
        disk.close()

    asyncio.run(main())
