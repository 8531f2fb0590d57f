"""The virtual disk: what it promises the process, and what a crash, a fault or the loss of power may and may not do."""

from collections.abc import Callable

import pytest

from quorate.errors import LocalProtocolError, StorageError
from quorate.simulation.disk.device import VirtualDisk
from quorate.simulation.disk.files import VirtualFiles
from quorate.simulation.disk.survival import EXTEND, RESIZE, SECTOR, WRITE, Change, survivors
from quorate.simulation.scheduler import MILLISECOND, Scheduler, Stream
from quorate.storage.disk import Allocate, Disk, Operation, Remove, Rename, Sync, Truncate, Write

SEEDS = range(200)


class Bench:
    """A disk with one folder, ``d``, and a process that hears of every completion at once."""

    def __init__(self, seed: int = 1) -> None:
        self.scheduler = Scheduler()
        self.files = VirtualFiles(Stream(seed, "files"), "data")
        self.disk = VirtualDisk(self.scheduler, Stream(seed, "disk"), self.files, MILLISECOND)
        self.ends: list[StorageError | None] = []
        self.open()
        self.disk.make_folder("d")

    def open(self) -> None:
        self.disk.open(lambda call: call())

    def submit(self, *operations: Operation) -> None:
        self.disk.submit(operations, self.ends.append)

    def run(self) -> None:
        while self.scheduler.step():
            pass

    def do(self, *operations: Operation) -> None:
        self.submit(*operations)
        self.run()
        assert self.ends.pop() is None

    def fail(self, *operations: Operation) -> str:
        self.submit(*operations)
        self.run()
        error = self.ends.pop()
        assert error is not None
        return str(error)


def write(path: str, data: bytes, offset: int = 0) -> Write:
    return Write(path, offset, [data])


def contents(disk: Disk) -> dict[str, bytes]:
    return {name: disk.read(f"d/{name}") for name in disk.list("d")}


class TestOperations:
    def test_a_disk_is_a_disk(self) -> None:
        disk: Disk = Bench().disk
        assert disk.list("d") == []
        view: Disk = Bench().disk.files.durable()
        assert view.list("d") == []

    def test_nothing_is_carried_out_within_submit_and_completions_come_in_order(self) -> None:
        bench = Bench()
        order: list[int] = []
        for number in range(5):
            bench.disk.submit([write("d/f", b"%d" % number, number)], lambda error, number=number: order.append(number))  # type: ignore[misc]  # lambda default
        assert order == []
        assert not bench.disk.exists("d/f")
        bench.run()
        assert order == [0, 1, 2, 3, 4]
        assert contents(bench.disk) == {"f": b"01234"}

    def test_writes_in_pieces_at_offsets_and_over_one_another(self) -> None:
        bench = Bench()
        bench.do(Write("d/f", 3, [b"ab", b"", b"cd"]), write("d/f", b"XY", 4), write("d/f", b"end", 9))
        assert bench.disk.read("d/f") == b"\0\0\0aXYd\0\0end"
        assert bench.disk.read("d/f", 4, 2) == b"XY"
        assert bench.disk.read("d/f", 11, 100) == b"d"
        assert bench.disk.read("d/f", 12, 100) == b""
        assert bench.disk.size("d/f") == 12

    def test_allocated_space_reads_as_zeros_and_is_no_memory(self) -> None:
        bench = Bench()
        bench.do(Allocate("d/f", 64 << 20), write("d/f", b"abc"), Allocate("d/f", 10))
        assert bench.disk.size("d/f") == 64 << 20
        assert bench.disk.read("d/f", 0, 5) == b"abc\0\0"
        assert bench.disk.read("d/f", 5 << 20, 1 << 20) == bytes(1 << 20)
        assert bench.disk.read("d/f", (64 << 20) - 2, 100) == b"\0\0"
        assert len(bench.files.files["d/f"].data) == 3

    def test_truncation_to_less_and_to_more(self) -> None:
        bench = Bench()
        bench.do(write("d/f", b"abcdef"), Truncate("d/f", 2), Truncate("d/f", 4))
        assert bench.disk.read("d/f") == b"ab\0\0"

    def test_renames_and_removals(self) -> None:
        bench = Bench()
        bench.do(write("d/a", b"a"), write("d/b", b"b"), Rename("d/a", "d/b"), Remove("d/c"), write("d/a", b"new"))
        assert contents(bench.disk) == {"a": b"new", "b": b"a"}
        bench.do(Remove("d/b"))
        assert contents(bench.disk) == {"a": b"new"}

    @pytest.mark.parametrize(
        ("operation", "message"),
        [
            (write("nowhere/f", b"x"), "data/nowhere/f: no such file or directory"),
            (write("d", b"x"), "data/d: is a directory"),
            (Sync("d/f"), "data/d/f: no such file or folder to sync"),
            (Truncate("d/f", 1), "data/d/f: no such file or directory"),
            (Rename("d/f", "d/g"), "data/d/f: no such file or directory"),
            (Remove("d"), "data/d: is a directory"),
        ],
    )
    def test_the_first_failure_ends_the_batch_and_all_that_follow(self, operation: Operation, message: str) -> None:
        bench = Bench()
        bench.submit(write("d/before", b"x"))
        bench.submit(operation, write("d/after", b"x"))
        bench.submit(write("d/after", b"x"))
        bench.run()
        bench.submit(write("d/after", b"x"))
        bench.run()
        # the first was a batch of its own; the second failed with the one queued beside it
        assert [str(end) for end in bench.ends] == ["None", message, message, message]
        # a sync fails when its batch is over
        assert bench.disk.list("d") == (["after", "before"] if isinstance(operation, Sync) else ["before"])
        bench.open()
        bench.ends.clear()
        bench.do(write("d/after", b"x"))

    def test_reads_that_fail(self) -> None:
        bench = Bench()
        bench.do(write("d/f", b"x"))
        with pytest.raises(StorageError, match="data/d/g: no such file or directory"):
            bench.disk.read("d/g")
        with pytest.raises(StorageError, match="data/d: is a directory"):
            bench.disk.read("d")
        with pytest.raises(StorageError, match="data/d/f: not a directory"):
            bench.disk.list("d/f")
        with pytest.raises(StorageError, match="it is a file, not a folder"):
            bench.disk.make_folder("d/f/g")
        with pytest.raises(StorageError, match="d/g: no such file"):
            bench.disk.files.durable().size("d/g")
        with pytest.raises(LocalProtocolError):
            bench.disk.files.durable().submit([], bench.ends.append)

    def test_folders(self) -> None:
        bench = Bench()
        bench.disk.make_folder("e/f/g")
        bench.do(write("e/f/x", b"x"))
        assert bench.disk.list("") == ["d", "e"]
        assert bench.disk.list("e/f") == ["g", "x"]
        assert bench.disk.list("none") == []
        bench.disk.crash(power=True)
        assert bench.disk.exists("e/f/g")

    def test_one_batch_after_the_other_in_time(self) -> None:
        bench = Bench()
        synced = bench.disk.files.changes
        bench.submit()
        bench.submit(write("d/f", b"a"), Sync("d/f"))
        bench.submit(write("d/f", b"b", 1), Sync("d/f"))
        bench.run()
        assert bench.ends == [None, None, None]
        assert bench.disk.files.changes == synced + 1, "one sync of the file for both"

    def test_a_slow_disk_can_be_hurried(self) -> None:
        took: list[int] = []
        for slowdown, hurry in ((1, False), (100_000, False), (100_000, True)):
            bench = Bench()
            bench.disk.slowdown = slowdown
            bench.submit(write("d/f", b"abc"), Sync("d/f"))
            if hurry:
                bench.disk.hurry()
            while not bench.ends:
                assert bench.scheduler.step()
            took.append(bench.scheduler.now)
            assert bench.disk.read("d/f") == b"abc"
        well, slow, hurried = took
        assert max(well, hurried) < 100 * MILLISECOND < slow

    def test_a_process_that_hears_later_is_told_once_and_another_not_at_all(self) -> None:
        bench = Bench()
        held: list[Callable[[], None]] = []
        bench.disk.open(held.append)
        bench.submit(write("d/f", b"x"), Sync("d/f"), Sync("d"))
        bench.run()
        assert bench.ends == []
        bench.open()
        held.pop()()
        bench.run()
        assert bench.ends == []
        assert contents(bench.disk) == {"f": b"x"}


class TestSteps:
    def test_every_operation_is_announced_before_and_after(self) -> None:
        bench = Bench()
        steps: list[str] = []
        bench.disk.on_step = steps.append
        bench.do(
            write("d/t", b"x"), Sync("d/t"), Rename("d/t", "d/f"), Sync("d"), Truncate("d/f", 0), Allocate("d/f", 9)
        )
        assert steps[:6] == ["write", "written", "sync", "synced", "rename", "renamed"]
        assert steps[6:] == ["truncate", "truncated", "allocate", "allocated", "sync", "synced"]

    @pytest.mark.parametrize("power", [False, True])
    def test_a_crash_at_any_step_ends_the_batch_there(self, power: bool) -> None:
        """A file is replaced the usual way, again and again: it is always the old or the new one, whole."""
        seen: set[bytes] = set()
        for seed in range(300):
            bench = Bench(seed)
            bench.do(write("d/f", b"o" * 700), Sync("d/f"), Sync("d"))
            left = [seed % 12]

            def step(what: str, bench: Bench = bench, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    bench.disk.on_step = None
                    bench.disk.crash(power)

            bench.disk.on_step = step
            bench.submit(Remove("d/t"), write("d/t", b"n" * 700), Sync("d/t"), Rename("d/t", "d/f"), Sync("d"))
            bench.run()
            data = bench.disk.read("d/f")
            assert data in (b"o" * 700, b"n" * 700)
            if bench.ends:
                assert bench.ends == [None]
                assert data == b"n" * 700
            seen.add(data)
        assert len(seen) == 2

    def test_a_write_under_way_is_torn_at_any_byte(self) -> None:
        lengths: set[int] = set()
        for seed in SEEDS:
            bench = Bench(seed)
            bench.disk.on_step = lambda what, bench=bench: bench.disk.crash()
            bench.submit(write("d/f", b"0123456789"))
            bench.run()
            data = bench.disk.read("d/f")
            assert b"0123456789".startswith(data)
            lengths.add(len(data))
            assert bench.ends == []
        assert lengths == set(range(11))


class TestKill:
    def test_what_was_carried_out_stays_and_a_beginning_of_the_queue(self) -> None:
        found: set[bytes] = set()
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"kept"))
            for number in range(4):
                bench.submit(write("d/f", b"%d" % number * 3, 4 + 3 * number))
            bench.disk.crash()
            bench.run()
            data = bench.disk.read("d/f")
            assert b"kept000111222333".startswith(data)
            assert len(data) >= 4
            found.add(data)
            assert bench.ends == []
        assert len(found) == 13

    def test_it_is_as_unsynced_as_before(self) -> None:
        lost = 0
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"x"), Sync("d"))
            bench.disk.crash()
            assert contents(bench.disk.files.durable()) == {"f": b""}
            bench.open()
            assert bench.disk.read("d/f") == b"x"
            bench.disk.crash(power=True)
            lost += bench.disk.read("d/f") != b"x"
        assert 0 < lost < len(SEEDS)


class TestPower:
    def test_names_survive_as_a_beginning_of_their_changes(self) -> None:
        steps = [
            {"a": b"a", "b": b"b"},
            {"a": b"a", "b": b"b", "new": b""},
            {"b": b"a", "new": b""},
            {"b": b"a"},
            {"b": b"a", "new": b""},
        ]
        seen = []
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/a", b"a"), Sync("d/a"), write("d/b", b"b"), Sync("d/b"), Sync("d"))
            bench.do(Allocate("d/new", 0), Rename("d/a", "d/b"), Remove("d/new"), Allocate("d/new", 0))
            assert contents(bench.disk.files.durable()) == steps[0]
            bench.disk.crash(power=True)
            found = contents(bench.disk)
            assert found in steps
            assert contents(bench.disk.files.durable()) == found
            seen.append(found)
        assert all(step in seen for step in steps)

    def test_a_rename_to_another_folder_never_loses_the_file(self) -> None:
        for seed in SEEDS:
            bench = Bench(seed)
            bench.disk.make_folder("e")
            bench.do(write("d/f", b"f"), Sync("d/f"), Sync("d"), Rename("d/f", "e/f"), write("e/g", b""))
            if seed % 2:
                bench.do(Sync("e"))
            bench.disk.crash(power=True)
            assert (bench.disk.list("d"), bench.disk.list("e")) in (
                [([], ["f", "g"])] if seed % 2 else [(["f"], []), ([], ["f"]), ([], ["f", "g"])]
            )

    def test_a_file_that_replaced_another_has_a_content_of_its_own(self) -> None:
        """Who renames without a sync may find an empty file."""
        found = set()
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"old"), Sync("d/f"), Sync("d"), write("d/t", b"new"), Rename("d/t", "d/f"))
            bench.disk.crash(power=True)
            found.add(bench.disk.read("d/f"))
        assert {b"old", b"new", b""} <= found
        assert all(data == b"old" or b"new".startswith(data.rstrip(b"\0")) for data in found)

    def test_unsynced_data_survive_in_any_combination_of_sectors(self) -> None:
        """Over a synced beginning that stays; a lost sector that was followed by one that is there, and torn ends."""
        reordered = torn = whole = nothing = short = 0
        new = b"".join(bytes([65 + index]) * SECTOR for index in range(8))
        for seed in range(400):
            bench = Bench(seed)
            bench.do(write("d/f", b"s" * 100), Sync("d/f"), Sync("d"))
            bench.do(write("d/f", new[:1000], 100), write("d/f", new[1000:], 1100))
            bench.disk.crash(power=True)
            data = bench.disk.read("d/f")
            assert data[:100] == b"s" * 100
            assert 100 <= len(data) <= 100 + len(new)
            kept = data[100:]
            assert all(ours in (0, theirs) for ours, theirs in zip(kept, new, strict=False))
            end = len(kept.rstrip(b"\0"))
            reordered += 0 in kept[:end]
            torn += (100 + end) % SECTOR != 0 and 0 < end < len(new)
            whole += kept == new
            nothing += kept == b""
            short += len(kept) < len(new)
        assert min(reordered, torn, whole, nothing, short) > 10

    def test_a_later_write_to_a_sector_is_never_there_without_an_earlier_one(self) -> None:
        for seed in range(400):
            bench = Bench(seed)
            bench.do(Allocate("d/f", 4096), Sync("d/f"), Sync("d"))
            for number in range(10):
                bench.do(write("d/f", b"%d" % number, number))
            bench.disk.crash(power=True)
            assert b"0123456789".startswith(bench.disk.read("d/f").rstrip(b"\0"))

    def test_overwritten_data_are_the_old_or_the_new(self) -> None:
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"o" * 3000), Sync("d/f"), Sync("d"))
            bench.do(write("d/f", b"n" * 2000, 500), Truncate("d/f", 1500), write("d/f", b"m" * 500, 1500))
            view = bench.disk.files.durable()
            assert (view.read("d/f"), view.size("d/f")) == (b"o" * 3000, 3000)
            bench.disk.crash(power=True)
            data = bench.disk.read("d/f")
            if len(data) == 3000:
                assert set(data) <= set(b"on")
            else:
                assert 1500 <= len(data) <= 2000
                assert set(data[:1500]) <= set(b"on")
                assert set(data[1500:]) <= set(b"m\0")

    def test_survivors_of_no_use_change_nothing(self) -> None:
        for seed in SEEDS:
            changes: list[Change] = [(EXTEND, 900, b""), (WRITE, 10, b"x" * 600), (RESIZE, 300, b"")]
            for kind, at, data in survivors(list(changes), 5, Stream(seed, "s")):
                assert kind in (WRITE, EXTEND, RESIZE)
                assert at + len(data) <= 900


def random_operations(stream: Stream) -> list[Operation]:
    path = f"d/{stream.between(0, 2)}"
    kind = stream.between(0, 9)
    size = stream.spread(1, 3000)
    if kind == 0:
        return [Remove(path)]
    if kind == 1:
        return [write("d/t", bytes([stream.between(1, 255)]) * size), Rename("d/t", path)]
    if kind == 2:
        return [Allocate(path, size)]
    if kind == 3:
        return [Allocate(path, 0), Truncate(path, size)]
    data = bytes([stream.between(1, 255)]) * size
    return [write(path, data, stream.between(0, 2000))]


def random_life(seed: int) -> tuple[dict[str, bytes], dict[str, bytes], int]:
    """Anything, then a sync of everything, then anything unsynced on other files, and a loss of power."""
    bench = Bench(seed)
    stream = Stream(seed, "test")
    for _ in range(stream.between(1, 30)):
        bench.submit(*random_operations(stream))
        if stream.chance(0.2):
            bench.run()
        if stream.chance(0.1):
            bench.disk.crash(power=stream.chance(0.5))
            bench.open()
    bench.run()
    bench.do(*[Sync(f"d/{name}") for name in bench.disk.list("d")], Sync("d"))
    synced = contents(bench.disk)
    assert contents(bench.disk.files.durable()) == synced
    for number in range(stream.between(0, 5)):
        bench.submit(Allocate(f"d/u{number}", 3000), write(f"d/u{number}", b"u" * 2000, 700))
        if stream.chance(0.5):
            bench.run()
    bench.disk.crash(power=True)
    return synced, contents(bench.disk), bench.scheduler.now


def test_what_was_synced_survives_every_loss_of_power() -> None:
    more = 0
    for seed in range(500):
        synced, found, _ = random_life(seed)
        assert {name: found.get(name) for name in synced} == synced
        more += len(found) > len(synced)
    assert more > 50


def test_the_same_seed_gives_the_same() -> None:
    for seed in range(50):
        assert random_life(seed) == random_life(seed)


def test_the_durable_view_is_what_a_loss_of_power_leaves_at_least() -> None:
    """Model: the content when each file was last synced, and the names when the folder was."""
    for seed in range(300):
        bench = Bench(seed)
        stream = Stream(seed, "test")
        model: dict[str, bytes] = {}
        for _ in range(30):
            bench.do(*random_operations(stream))
            names = bench.disk.list("d")
            before = bench.disk.files.changes
            if names and stream.chance(0.3):
                bench.do(*[Sync(f"d/{name}") for name in names], Sync("d"))
                model = contents(bench.disk)
                assert bench.disk.files.changes > before
            assert contents(bench.disk.files.durable()) == model


class TestFaults:
    def test_a_failed_sync_keeps_what_was_synced_and_drops_any_of_the_rest(self) -> None:
        dropped = 0
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"s" * 100), Sync("d/f"), Sync("d"))
            bench.disk.files.syncs_to_fail = 1
            assert bench.fail(write("d/f", b"n" * 9000, 100), Sync("d/f")) == "data/d/f: input/output error"
            assert bench.fail(write("d/f", b"x")) == "data/d/f: input/output error"
            data = bench.disk.read("d/f")
            assert data[:100] == b"s" * 100
            assert set(data[100:]) <= set(b"n\0")
            dropped += data[100:] != b"n" * 9000
            assert contents(bench.disk.files.durable()) == {"f": b"s" * 100}
            bench.open()
            bench.do(Sync("d/f"))
            assert contents(bench.disk.files.durable()) == {"f": data}
        assert 0 < dropped < len(SEEDS)

    def test_a_full_disk_takes_a_part_of_the_first_write_and_no_other_until_it_is_drained(self) -> None:
        for seed in SEEDS:
            bench = Bench(seed)
            bench.do(write("d/f", b"kept"), Sync("d/f"), Sync("d"))
            bench.disk.files.full = True
            assert bench.fail(write("d/f", b"0123456789", 4)) == "data/d/f: no space left on device"
            data = bench.disk.read("d/f")
            assert b"kept012345678".startswith(data)
            assert len(data) >= 4
            bench.open()
            assert bench.fail(write("d/f", b"x", 20)) == "data/d/f: no space left on device"
            with pytest.raises(StorageError, match="no space left"):
                bench.disk.make_folder("new")
            bench.disk.files.full = False
            bench.open()
            bench.do(write("d/f", b"again", 4), Sync("d/f"))
            assert bench.disk.read("d/f").startswith(b"keptagain")

    def test_a_flipped_bit_is_one_bit_and_stays(self) -> None:
        in_zeros = 0
        for seed in SEEDS:
            bench = Bench(seed)
            data = b"abc" * 100
            bench.do(write("d/f", data), Allocate("d/f", 64 << 20), Sync("d/f"), write("g", b"x"), Sync("d"))
            flip = bench.disk.files.flip_bit(Stream(seed, "flip"), "d/f")
            assert flip is not None
            if seed % 2:
                bench.disk.crash(power=True)
            offset = flip.offset
            assert offset < 64 << 20
            before = data[offset] if offset < len(data) else 0
            after = bench.disk.read("d/f", offset, 1)[0]
            assert (before ^ after).bit_count() == 1
            assert str(flip) == f"d/f: bit {(before ^ after).bit_length() - 1} of byte {offset}"
            rest = bytearray(bench.disk.read("d/f", 0, len(data)))
            if offset < len(data):
                rest[offset] = before
            assert rest == data
            in_zeros += offset >= len(data)
            bench.disk.files.flip_back(flip)
            assert bench.disk.read("d/f", offset, 1)[0] == before
        assert 0 < in_zeros < len(SEEDS) // 2

    def test_a_wiped_disk_is_empty_and_can_be_used(self) -> None:
        bench = Bench()
        bench.do(write("d/f", b"x"), Sync("d/f"), Sync("d"))
        bench.submit(write("d/g", b"x"))
        bench.disk.crash()
        bench.disk.files.wipe()
        bench.run()
        assert bench.ends == []
        assert bench.disk.list("") == bench.disk.files.durable().list("") == []
        bench.open()
        bench.disk.make_folder("d")
        bench.do(write("d/f", b"y"))
        assert contents(bench.disk) == {"f": b"y"}
