"""A member's durable state over the real disk: what it stores, in which order, and what recovery makes of a crash."""

import gzip
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.unit.zookeeper.folders import (
    FOLDER,
    Power,
    Session,
    apply,
    create,
    recover,
    set_data,
    small,
    write_log,
    zxids,
)

from quorate.consensus.zab.messages import Entry
from quorate.errors import CorruptionError, StorageError, UsageError
from quorate.runtime.files import FileDisk
from quorate.storage.disk import Done, Operation, Sync
from quorate.zookeeper.store import Recovered, Store, StoreSettings
from quorate.zookeeper.tree import DataTree

EPOCH = 1 << 32


def entries(first: int, last: int) -> list[Entry]:
    return [create(zxid) for zxid in range(first, last + 1)]


def snapshot(session: Session, tree: DataTree) -> None:
    session.do(partial(session.store.take_snapshot, tree))


def watch_syncs(disk: FileDisk, synced: list[str]) -> None:
    """Note the paths that were synced when the disk reports it."""
    submit = disk.submit

    def watched(operations: Sequence[Operation], done: Done) -> None:
        def finished(error: StorageError | None) -> None:
            synced.extend(operation.path for operation in operations if isinstance(operation, Sync))
            done(error)

        submit(operations, finished)

    disk.submit = watched  # type: ignore[method-assign]  # the real disk goes on working behind it


def names(tree: DataTree) -> list[str]:
    return sorted(path for path in tree.nodes if path.startswith("/n"))


class TestStart:
    def test_a_new_folder(self, tmp_path: Path) -> None:
        with Session(tmp_path / "made" / "on the way") as session:
            found = session.recover()
            session.append(*entries(1, 3))
            assert session.files() == ["acceptedEpoch", "currentEpoch", "log.1", "snapshot.0"]
        assert (found.tree.last_zxid, found.snapshot_zxid, found.tail) == (0, 0, [])
        assert (found.accepted_epoch, found.current_epoch) == (0, 0)

    def test_what_was_found_is_synced_before_the_store_is_settled(self, tmp_path: Path) -> None:
        """A process that was killed may have left it in the system's cache; the next log file's syncs do not cover it."""
        write_log(tmp_path, *entries(1, 3))
        with Session(tmp_path) as session:
            session.recover()
            session.append(*entries(4, 6))
        with Session(tmp_path) as session:
            synced: list[str] = []
            for disk in session.disks:
                watch_syncs(disk, synced)
            session.recover()
            at_settling: set[str] = set()

            def settle(done: Done) -> None:
                def settled(error: StorageError | None) -> None:
                    at_settling.update(synced)
                    done(error)

                session.store.settle(settled)

            session.do(settle)
        assert {f"{FOLDER}/log.1", f"{FOLDER}/log.4", FOLDER} <= at_settling

    def test_what_was_stored_is_found(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            session.recover()
            store = session.store
            session.do(
                partial(store.store_accepted_epoch, 3),
                partial(store.append, entries(EPOCH + 1, EPOCH + 4)),
                partial(store.append, entries(EPOCH + 5, EPOCH + 5)),
                partial(store.store_current_epoch, 2),
                partial(store.append, entries(2 * EPOCH + 1, 2 * EPOCH + 2)),
            )
            assert store.last_zxid == 2 * EPOCH + 2
        found = recover(tmp_path)
        assert found.tail == entries(EPOCH + 1, EPOCH + 5) + entries(2 * EPOCH + 1, 2 * EPOCH + 2)
        assert (found.accepted_epoch, found.current_epoch) == (3, 2)
        assert (tmp_path / FOLDER / "currentEpoch").read_bytes() == b"2"

    def test_missing_epochs_are_those_of_the_last_zxid(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(7 * EPOCH + 1, 7 * EPOCH + 2))
        for name in ("acceptedEpoch", "currentEpoch"):
            (tmp_path / FOLDER / name).unlink()
        found = recover(tmp_path)
        assert (found.accepted_epoch, found.current_epoch) == (7, 7)
        assert (tmp_path / FOLDER / "acceptedEpoch").read_text() == "7"
        assert (tmp_path / FOLDER / "currentEpoch").read_text() == "7"

    @pytest.mark.parametrize(
        ("accepted", "current", "temporary", "expected"),
        [
            ("4", "5", None, "accepted epoch 4 is less than the current epoch 5"),
            ("four", "4", None, "expected an epoch as a decimal number, found b'four'"),
            ("-4", "4", None, "expected an epoch"),
            ("", "4", None, "expected an epoch"),
            ("9" * 30, "4", None, "expected an epoch"),
            ("6", "6", None, "older than the last zxid 0x700000002"),
            ("7", "6", None, 6),  # the history was stored, the epoch not yet
            ("7", "6", "7", 7),  # its file was written, but not renamed
            ("7", "6", "9", 6),
            ("7", "6", "7x", 6),
            ("12", "10", None, 10),
            ("7\n", "7\n", None, 7),
        ],
    )
    def test_epochs(
        self, tmp_path: Path, accepted: str, current: str, temporary: str | None, expected: str | int
    ) -> None:
        write_log(tmp_path, *entries(7 * EPOCH + 1, 7 * EPOCH + 2))
        folder = tmp_path / FOLDER
        (folder / "acceptedEpoch").write_text(accepted)
        (folder / "currentEpoch").write_text(current)
        if temporary is not None:
            (folder / "currentEpoch.tmp").write_text(temporary)
        if isinstance(expected, str):
            with pytest.raises(CorruptionError, match=expected):
                recover(tmp_path)
        else:
            assert recover(tmp_path).current_epoch == expected
            assert recover(tmp_path).current_epoch == expected

    def test_a_log_without_a_snapshot(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 3))
        (tmp_path / FOLDER / "snapshot.0").unlink()
        with pytest.raises(StorageError, match="no snapshot that they go on from"):
            recover(tmp_path)
        with Session(tmp_path, StoreSettings(trust_empty_snapshot=True)) as session:
            assert zxids(session.recover().tail) == [1, 2, 3]

    def test_a_gap_behind_the_snapshot(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(3, 5))
        with pytest.raises(CorruptionError, match=r"log\.3: offset 16: transactions between 0x0 and 0x3 are missing"):
            recover(tmp_path)

    def test_two_folders(self, tmp_path: Path) -> None:
        with Session(tmp_path / "data") as session:
            log = FileDisk(str(tmp_path / "log"), session.loop)
            session.disks.append(log)
            store = Store(log, session.data_disk, session.env, small())
            store.recover()
            session.do(partial(store.append, entries(1, 4)))
            assert session.files() == ["acceptedEpoch", "currentEpoch", "snapshot.0"]
            again = Store(log, session.data_disk, session.env, small())
            assert again.recover().tail == entries(1, 4)
            assert again.log_size() == 64 << 10
            assert 0 < again.data_size() < 1000
            shutil.copy(tmp_path / "data" / FOLDER / "snapshot.0", tmp_path / "log" / FOLDER)
            with pytest.raises(UsageError, match=r"\(dataLogDir\) holds snapshot\.0, which does not belong there"):
                Store(log, session.data_disk, session.env, small()).recover()
            (tmp_path / "log" / FOLDER / "snapshot.0").unlink()
            shutil.copy(tmp_path / "log" / FOLDER / "log.1", tmp_path / "data" / FOLDER)
            (tmp_path / "data" / FOLDER / "log.2").write_bytes(b"")
            with pytest.raises(UsageError, match=r"\(dataDir\) holds log\.1, which does not belong there"):
                Store(log, session.data_disk, session.env, small()).recover()


class TestSnapshots:
    def test_recovery_starts_from_the_newest(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = session.recover().tree
            session.append(*entries(1, 10))
            apply(tree, entries(1, 10))
            snapshot(session, tree)
            session.append(*entries(11, 12))
            assert session.files() == ["acceptedEpoch", "currentEpoch", "log.1", "log.b", "snapshot.0", "snapshot.a"]
            assert session.store.snapshot_zxid == 10
            assert session.store.snapshots_taken == 1
        found = recover(tmp_path)
        assert found.snapshot_zxid == found.tree.last_zxid == 10
        assert names(found.tree) == names(tree)
        assert found.tail == entries(11, 12)

    def test_serving_goes_on(self, tmp_path: Path) -> None:
        """Transactions are logged and applied while the snapshot is written; replay makes the tree exact."""
        with Session(tmp_path) as session:
            tree = session.recover().tree
            first = [create(zxid, b"v" * 2000) for zxid in range(1, 1501)]
            session.append(*first)
            apply(tree, first)
            ends: list[StorageError | None] = []
            session.store.take_snapshot(tree, ends.append)
            zxid = 1501
            during: list[Entry] = []
            while not ends:
                entry = set_data(zxid, f"/n{zxid * 7 % 1500 + 1:x}", b"new %d" % zxid, 1)
                session.append(entry)
                apply(tree, [entry])
                during.append(entry)
                zxid += 1
            assert ends == [None]
            assert len(during) > 5
        found = recover(tmp_path)
        assert found.snapshot_zxid == 1500
        assert found.tail == during
        apply(found.tree, found.tail)
        assert found.tree.digest == tree.digest
        assert {path: node.data for path, node in found.tree.nodes.items()} == {
            path: node.data for path, node in tree.nodes.items()
        }

    def test_a_compressed_one(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 10))
            session.append(*entries(1, 10))
            snapshot(session, tree)
        plain = tmp_path / FOLDER / "snapshot.a"
        plain.with_suffix(".a.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        assert recover(tmp_path).snapshot_zxid == 10

    def test_an_unreadable_one_is_passed_over_if_the_log_makes_up_for_it(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 10))
            session.append(*entries(1, 10))
            snapshot(session, tree)
            session.append(*entries(11, 12))
        newest = tmp_path / FOLDER / "snapshot.a"
        newest.write_bytes(newest.read_bytes()[:-3])
        found = recover(tmp_path)
        assert found.snapshot_zxid == 0
        assert found.tail == entries(1, 12)
        assert "snapshot skipped" in caplog.text
        assert "snapshot.a" in caplog.text
        # without the older log nothing makes up for it
        (tmp_path / FOLDER / "log.1").unlink()
        with pytest.raises(CorruptionError, match="transactions between 0x0 and 0xb are missing"):
            recover(tmp_path)

    def test_an_unreadable_one_beyond_the_log(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            session.recover()
            session.append(*entries(1, 5))
            session.do(partial(session.store.install, apply(DataTree(), entries(1, 9)), 9, []))
        newest = tmp_path / FOLDER / "snapshot.9"
        newest.write_bytes(newest.read_bytes()[:-3])
        with pytest.raises(CorruptionError, match=r"snapshot\.9: offset 0: .* the log ends at 0x5 before it"):
            recover(tmp_path)

    def test_an_unreadable_one_that_a_leader_sent(self, tmp_path: Path) -> None:
        """The log goes on in a new epoch, which looks as if it followed any older snapshot as well."""
        with Session(tmp_path) as session:
            session.recover()
            session.do(partial(session.store.install, apply(DataTree(), entries(EPOCH + 1, EPOCH + 9)), EPOCH + 9, []))
            session.append(*entries(2 * EPOCH + 1, 2 * EPOCH + 3))
        newest = tmp_path / FOLDER / "snapshot.100000009"
        newest.write_bytes(newest.read_bytes()[:-3])
        with pytest.raises(
            CorruptionError, match="lacks the transaction it was made after; transactions would be lost"
        ):
            recover(tmp_path)

    def test_none_is_readable(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 3))
        (tmp_path / FOLDER / "snapshot.0").write_bytes(b"ZKSN")
        with pytest.raises(CorruptionError, match="neither this nor any older snapshot"):
            recover(tmp_path)

    def test_what_a_crash_left_half_written_goes(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 3))
        left = tmp_path / FOLDER / "tmp.snapshot.3"
        left.write_bytes(b"ZKSN")
        assert zxids(recover(tmp_path).tail) == [1, 2, 3]
        assert not left.exists()

    def test_when_one_is_due(self, tmp_path: Path) -> None:
        due: list[int] = []
        for seed in range(12):
            with Session(tmp_path / str(seed), small(snap_count=100)) as session:
                session.env.random.seed(seed)
                tree = session.recover().tree
                zxid = 0
                while not session.store.should_snapshot():
                    zxid += 1
                    session.append(create(zxid))
                    apply(tree, [create(zxid)])
                assert 50 < zxid <= 100
                due.append(zxid)
                end: list[StorageError | None] = []
                session.store.take_snapshot(tree, end.append)
                assert session.store.snapshotting
                assert not session.store.should_snapshot()
                session.settle()
                assert end == [None]
                assert not session.store.should_snapshot()
        assert len(set(due)) > 3

    def test_what_is_found_in_the_log_counts(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 101))
        with Session(tmp_path, small(snap_count=100)) as session:
            session.recover()
            session.do(session.store.settle)
            assert session.store.should_snapshot()

    def test_due_by_size(self, tmp_path: Path) -> None:
        settings = StoreSettings(preallocate=0, snap_count=100_000, snap_size=100_000)
        with Session(tmp_path, settings) as session:
            session.recover()
            zxid = 0
            while not session.store.should_snapshot():
                zxid += 1
                session.append(create(zxid, b"d" * 9_900))
            assert 5 <= zxid <= 10

    def test_one_at_a_time(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 500))
            session.append(*entries(1, 500))
            session.do(partial(session.store.take_snapshot, tree), partial(session.store.take_snapshot, tree))
            assert session.store.snapshots_taken == 1
            snapshot(session, tree)  # nothing new
            assert session.store.snapshots_taken == 1


class TestTruncate:
    @pytest.mark.parametrize("zxid", [1, 4, 5, 6, 9])
    def test_what_follows_is_gone_for_good(self, tmp_path: Path, zxid: int) -> None:
        write_log(tmp_path, *entries(1, 5))
        with Session(tmp_path) as session:
            session.recover()
            store = session.store
            session.do(
                partial(store.append, entries(6, 9)),
                partial(store.truncate, zxid),
                partial(store.append, [create(zxid + 1, b"another")]),
            )
        found = recover(tmp_path)
        assert found.tail == [*entries(1, zxid), create(zxid + 1, b"another")]

    def test_back_to_the_snapshot(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 5))
        with Session(tmp_path) as session:
            session.recover()
            session.do(partial(session.store.truncate, 0), partial(session.store.append, [create(1, b"another")]))
        assert recover(tmp_path).tail == [create(1, b"another")]

    def test_to_what_is_not_there(self, tmp_path: Path) -> None:
        write_log(tmp_path, *entries(1, 5), create(EPOCH + 1))
        for name in ("acceptedEpoch", "currentEpoch"):
            (tmp_path / FOLDER / name).write_text("1")
        with Session(tmp_path) as session:
            session.recover()
            first, second = session.wait(
                partial(session.store.truncate, 7), partial(session.store.append, [create(EPOCH + 2)])
            )
            assert "cannot be cut after 0x7, which it does not hold; before that it has 0x5" in str(first)
            assert second is first  # whoever could not cut must not go on
        assert zxids(recover(tmp_path).tail) == [1, 2, 3, 4, 5, EPOCH + 1]

    def test_below_a_snapshot(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 8))
            session.append(*entries(1, 8))
            snapshot(session, tree)
            (error,) = session.wait(partial(session.store.truncate, 6))
            assert "cannot be cut back to 0x6, because snapshot.8 already holds what came after" in str(error)

    def test_a_snapshot_under_way_is_given_up(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 900))
            session.append(*entries(1, 905))
            ends: list[StorageError | None] = []
            session.store.take_snapshot(tree, ends.append)
            session.do(partial(session.store.truncate, 902))
            session.settle()
            assert ends == [None]
            assert session.files() == ["acceptedEpoch", "currentEpoch", "log.1", "snapshot.0"]


class TestInstall:
    def test_recovery_starts_from_it(self, tmp_path: Path) -> None:
        theirs = apply(DataTree(), entries(1, 40))
        write_log(tmp_path, *entries(1, 5))
        with Session(tmp_path) as session:
            session.recover()
            store = session.store
            session.do(
                partial(store.install, theirs, 40, []),
                partial(store.append, entries(41, 42)),
                partial(store.store_current_epoch, 0),
            )
            assert session.files() == ["acceptedEpoch", "currentEpoch", "log.1", "log.29", "snapshot.0", "snapshot.28"]
        found = recover(tmp_path)
        assert found.snapshot_zxid == 40
        assert names(found.tree) == names(theirs)
        assert found.tail == entries(41, 42)

    def test_a_log_that_went_another_way_goes(self, tmp_path: Path) -> None:
        """Ours: five of epoch 0, then two of epoch 1, which nobody else has. Theirs: thirty of epoch 0."""
        write_log(tmp_path, *entries(1, 5), create(EPOCH + 1), create(EPOCH + 2))
        for name in ("acceptedEpoch", "currentEpoch"):
            (tmp_path / FOLDER / name).write_text("1")
        theirs = apply(DataTree(), entries(1, 30))
        with Session(tmp_path) as session:
            session.recover()
            session.do(partial(session.store.install, theirs, 30, []))
            assert session.store.last_zxid == 30
        found = recover(tmp_path)
        assert (found.snapshot_zxid, found.tail) == (30, [])

    def test_newer_snapshots_go(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            tree = apply(session.recover().tree, entries(1, 8))
            session.append(*entries(1, 8))
            snapshot(session, tree)
            session.do(partial(session.store.install, apply(DataTree(), entries(1, 6)), 6, []))
            assert [name for name in session.files() if name.startswith("snapshot")] == ["snapshot.0", "snapshot.6"]
        found = recover(tmp_path)
        assert (found.snapshot_zxid, found.tail) == (6, [])


class TestFailure:
    def test_after_the_first_error_nothing_goes_on(self, tmp_path: Path) -> None:
        with Session(tmp_path) as session:
            session.recover()
            session.append(*entries(1, 2))
            shutil.rmtree(tmp_path / FOLDER)
            store = session.store
            errors = session.wait(
                partial(store.store_current_epoch, 1),
                partial(store.append, entries(3, 4)),
                partial(store.truncate, 1),
                partial(store.store_accepted_epoch, 1),
            )
            assert all(isinstance(error, StorageError) for error in errors), errors
            assert not (tmp_path / FOLDER).exists()


State = tuple[int, tuple[Entry, ...], int, int]
"""Snapshot's zxid, tail, accepted and current epoch."""


def state(found: Recovered) -> State:
    return found.snapshot_zxid, tuple(found.tail), found.accepted_epoch, found.current_epoch


class TestPowerCuts:
    """The power goes after every single operation. What is found is always what a prefix of the calls left."""

    def cut_everywhere(
        self,
        tmp_path: Path,
        prepare: Callable[[Session], None],
        work: Callable[[Store, Callable[[str], Done]], None],
    ) -> dict[int, tuple[State, list[str]]]:
        """For each number of operations: the state recovered, and which calls had been reported done."""
        one_each = StoreSettings(preallocate=0, log_size=1)
        with Session(tmp_path / "start", one_each) as session:
            session.recover()
            prepare(session)
        found: dict[int, tuple[State, list[str]]] = {}
        operations = 0
        while True:
            path = tmp_path / str(operations)
            shutil.copytree(tmp_path / "start", path)
            power = Power()
            told: list[str] = []
            with Session(path, power=power) as session:
                session.recover()
                session.settle()
                power.left = operations

                def done(what: str, told: list[str] = told) -> Done:
                    def end(error: StorageError | None) -> None:
                        assert error is None, error
                        told.append(what)

                    return end

                work(session.store, done)
                session.settle()
                left = power.left
            found[operations] = state(recover(path)), told
            if left > 0:
                return found
            operations += 1

    def test_a_synchronisation(self, tmp_path: Path) -> None:
        def prepare(session: Session) -> None:
            for entry in entries(1, 6):
                session.append(entry)

        ours = tuple(entries(1, 6))
        theirs = (*ours[:4], create(5, b"theirs"), create(6, b"theirs"))
        later = create(EPOCH + 1)

        def work(store: Store, done: Callable[[str], Done]) -> None:
            store.store_accepted_epoch(1, done("accepted"))
            store.truncate(4, done("truncated"))
            store.append(theirs[4:], done("appended"))
            store.store_current_epoch(1, done("current"))
            store.append([later], done("new epoch"))

        prefixes: list[tuple[str, set[State]]] = [
            ("", {(0, ours, 0, 0)}),
            ("accepted", {(0, ours, 1, 0)}),
            ("truncated", {(0, ours[:5], 1, 0), (0, ours[:4], 1, 0)}),
            ("appended", {(0, theirs, 1, 0)}),
            ("current", {(0, theirs, 1, 1)}),
            ("new epoch", {(0, (*theirs, later), 1, 1)}),
        ]
        self.check(self.cut_everywhere(tmp_path, prepare, work), prefixes)

    def test_a_snapshot_from_the_leader_over_another_history(self, tmp_path: Path) -> None:
        def prepare(session: Session) -> None:
            tree = apply(session.store.recover().tree, entries(1, 3))
            session.append(*entries(1, 3))
            snapshot(session, tree)
            session.append(create(4), create(5))
            session.store.stop()
            session.do(partial(session.store.store_accepted_epoch, 2), partial(session.store.store_current_epoch, 1))
            session.append(create(EPOCH + 1))

        theirs = apply(DataTree(), entries(1, 30))

        def work(store: Store, done: Callable[[str], Done]) -> None:
            store.install(theirs, 30, [], done("installed"))
            store.append([create(31)], done("appended"))
            store.store_current_epoch(2, done("current"))

        prefixes: list[tuple[str, set[State]]] = [
            # all of the old history, which may be committed, or all of the new one
            ("", {(3, (create(4), create(5), create(EPOCH + 1)), 2, 1)}),
            ("installed", {(30, (), 2, 1)}),
            ("appended", {(30, (create(31),), 2, 1)}),
            ("current", {(30, (create(31),), 2, 2)}),
        ]
        self.check(self.cut_everywhere(tmp_path, prepare, work), prefixes)

    def test_a_snapshot_and_a_log_from_the_leader_over_another_history(self, tmp_path: Path) -> None:
        """A leader that is still being established sends an old state and the log after it."""

        def prepare(session: Session) -> None:
            tree = apply(session.store.recover().tree, entries(1, 3))
            session.append(*entries(1, 3))
            snapshot(session, tree)
            session.append(create(4), create(5))
            session.store.stop()
            session.do(partial(session.store.store_accepted_epoch, 2), partial(session.store.store_current_epoch, 1))
            session.append(create(EPOCH + 1))

        theirs = apply(DataTree(), entries(1, 2))
        log = [create(3), create(4), create(2 * EPOCH + 1)]

        def work(store: Store, done: Callable[[str], Done]) -> None:
            store.install(theirs, 2, log, done("installed"))
            store.append([create(2 * EPOCH + 2)], done("appended"))

        prefixes: list[tuple[str, set[State]]] = [
            ("", {(3, (create(4), create(5), create(EPOCH + 1)), 2, 1)}),
            ("installed", {(2, tuple(log), 2, 1)}),
            ("appended", {(2, (*log, create(2 * EPOCH + 2)), 2, 1)}),
        ]
        self.check(self.cut_everywhere(tmp_path, prepare, work), prefixes)

    def test_a_snapshot_of_our_own(self, tmp_path: Path) -> None:
        tree = apply(DataTree(), entries(1, 5))

        def prepare(session: Session) -> None:
            session.append(*entries(1, 6))

        def work(store: Store, done: Callable[[str], Done]) -> None:
            store.take_snapshot(tree, done("snapshot"))
            store.append([create(7)], done("appended"))

        found = self.cut_everywhere(tmp_path, prepare, work)
        for operations, (seen, told) in found.items():
            assert seen[0] in ((5,) if "snapshot" in told else (0, 5)), operations
            expected = tuple(entries(seen[0] + 1, 6))
            assert seen[1] in ((*expected, create(7)), expected), operations
            assert seen[1][-1].zxid == 7 or "appended" not in told, operations
        assert found[max(found)][0][0] == 5

    def check(self, found: dict[int, tuple[State, list[str]]], prefixes: list[tuple[str, set[State]]]) -> None:
        order = [name for name, _ in prefixes]
        reached = 0
        for operations, (seen, told) in found.items():
            assert told == order[1 : len(told) + 1], operations
            # no less than what was promised, and never less than with fewer operations
            reached = max(reached, len(told))
            possible = [index for index in range(reached, len(prefixes)) if seen in prefixes[index][1]]
            assert possible, (operations, told, seen)
            reached = possible[0]
        assert reached == len(prefixes) - 1
