"""Purging: what goes, what stays, and that recovery never needs what went."""

from functools import partial
from pathlib import Path

from tests.unit.zookeeper.folders import FOLDER, Session, apply, create, recover, zxids

from quorate.errors import StorageError
from quorate.zookeeper.purge import Purger, looks_whole


def fill(path: Path) -> None:
    """Snapshots at 0, 10, 20, 30, 40, 50, with a log from behind each, and five transactions more."""
    with Session(path) as session:
        tree = session.recover().tree
        for zxid in range(1, 56):
            session.append(create(zxid))
            apply(tree, [create(zxid)])
            if zxid % 10 == 0:
                session.do(partial(session.store.take_snapshot, tree))


def purge(path: Path, keep: int) -> list[str]:
    with Session(path) as session:
        purger = Purger(session.log_disk, session.data_disk, session.env, keep, 0)
        session.do(purger.purge)
        return [name for name in session.files() if "Epoch" not in name]


def test_what_the_kept_snapshots_need_stays(tmp_path: Path) -> None:
    fill(tmp_path)
    # snapshot.1e goes on from log.15, which ends with it, or from log.1f; like Apache we keep both
    assert purge(tmp_path, 3) == ["log.15", "log.1f", "log.29", "log.33", "snapshot.1e", "snapshot.28", "snapshot.32"]
    found = recover(tmp_path)
    assert (found.snapshot_zxid, zxids(found.tail)) == (50, [51, 52, 53, 54, 55])
    for name in ("snapshot.32", "snapshot.28"):
        (tmp_path / FOLDER / name).write_bytes(b"")
    found = recover(tmp_path)
    assert (found.snapshot_zxid, zxids(found.tail)) == (30, list(range(31, 56)))


def test_never_fewer_than_three(tmp_path: Path) -> None:
    fill(tmp_path)
    assert len([name for name in purge(tmp_path, 1) if name.startswith("snapshot")]) == 3


def test_few_snapshots(tmp_path: Path) -> None:
    fill(tmp_path)
    before = purge(tmp_path, 6)
    assert len([name for name in before if name.startswith("snapshot")]) == 6
    assert purge(tmp_path, 100) == before


def test_one_that_is_not_whole_does_not_count(tmp_path: Path) -> None:
    fill(tmp_path)
    broken = tmp_path / FOLDER / "snapshot.28"
    broken.write_bytes(broken.read_bytes()[:-1])
    kept = purge(tmp_path, 3)
    assert [name for name in kept if name.startswith("snapshot")] == [
        "snapshot.14",
        "snapshot.1e",
        "snapshot.28",
        "snapshot.32",
    ]
    assert "log.b" in kept


def test_nothing_whole_means_nothing_goes(tmp_path: Path) -> None:
    fill(tmp_path)
    for file in (tmp_path / FOLDER).glob("snapshot.*"):
        file.write_bytes(b"12345")
    assert len(purge(tmp_path, 3)) == 12


def test_foreign_files_stay(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    (tmp_path / FOLDER / "snapshot.old").write_text("mine")
    assert {"notes.txt", "snapshot.old"} < set(purge(tmp_path, 3))


def test_by_the_clock(tmp_path: Path) -> None:
    fill(tmp_path)
    with Session(tmp_path) as session:
        purger = Purger(session.log_disk, session.data_disk, session.env, 3, 1)
        purger.start()
        session.settle()
        assert "snapshot.0" not in session.files()
        later = tmp_path / FOLDER / "snapshot.1"
        later.write_bytes(b"")
        while later.exists():
            session.settle()
        purger.stop()
    with Session(tmp_path) as session:
        never = Purger(session.log_disk, session.data_disk, session.env, 3, 0)
        never.start()
        session.settle()
        assert session.power.used == 0


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    fill(tmp_path)
    with Session(tmp_path) as session:
        session.data_disk.make_folder(f"{FOLDER}/snapshot.99")
        (error,) = session.wait(Purger(session.log_disk, session.data_disk, session.env, 3, 0).purge)
        assert isinstance(error, StorageError)


def test_compressed_snapshots_are_told_by_their_beginning(tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        session.recover()
        session.settle()
        (tmp_path / FOLDER / "snapshot.1.gz").write_bytes(b"\x1f\x8b\x08")
        (tmp_path / FOLDER / "snapshot.2.gz").write_bytes(b"ZKSN")
        assert looks_whole(session.data_disk, f"{FOLDER}/snapshot.1.gz")
        assert not looks_whole(session.data_disk, f"{FOLDER}/snapshot.2.gz")
        assert looks_whole(session.data_disk, f"{FOLDER}/snapshot.0")
