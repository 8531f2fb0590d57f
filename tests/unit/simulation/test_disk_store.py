"""The production store over virtual disks: crashes at any operation, torn anywhere, with and without power.

The store promises that a crash leaves what a beginning of the calls left, with everything in it that was reported. So a run
lists the states that the calls lead through, and after every crash recovery must find one of them, at or after the last one
that was reported. The durable view must be such a state at any moment.
"""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from tests.unit.simulation.worlds import TwoMachines
from tests.unit.zookeeper.folders import apply, create

from quorate.consensus.zab.messages import Entry
from quorate.errors import StorageError
from quorate.simulation.disk.device import VirtualDisk
from quorate.simulation.disk.files import VirtualFiles
from quorate.simulation.machine import SimulatedEnvironment
from quorate.simulation.scheduler import MICROSECOND, MILLISECOND, Stream
from quorate.storage.disk import Done, Write
from quorate.zookeeper.recovery import Recovery
from quorate.zookeeper.store import Store, StoreSettings
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txnlog import HEADER, SECTOR

History = tuple[tuple[int, bytes], ...]
"""(zxid, data) of every node there is; the one with zxid n is /n<zxid>."""
State = tuple[History, int, int]
"""History, accepted epoch, current epoch."""


def history_of(tree: DataTree, tail: Sequence[Entry]) -> History:
    apply(tree, tail)
    found = [(int(path[2:], 16), node.data or b"") for path, node in tree.nodes.items() if path.startswith("/n")]
    return tuple(sorted(found))


def entries_of(history: History) -> list[Entry]:
    return [create(zxid, data) for zxid, data in history]


class StoreRun:
    """One member's store over many lives. ``folders``: 2 for a log and data folder each, 1 for both in one."""

    def __init__(self, seed: int, folders: int) -> None:
        self.stream = Stream(seed, "run")
        self.world = TwoMachines(seed)
        self.scheduler = self.world.scheduler
        self.machine = self.world.one
        self.files = [VirtualFiles(Stream(seed, f"files {number}")) for number in range(folders)]
        self.disks = [
            VirtualDisk(self.scheduler, Stream(seed, f"disk {number}"), self.files[number % folders], MILLISECOND)
            for number in range(2)
        ]
        for disk in self.disks:
            disk.on_step = self.stepped
        self.settings = StoreSettings(
            preallocate=self.stream.choice((0, 4096, 64 << 10)), log_size=self.stream.choice((0, 6000))
        )
        self.states: list[State] = [((), 0, 0)]
        """What the calls so far lead through, of which recovery may find any from ``reported`` on."""
        self.reported = 0
        self.steps_left = -1
        self.crashes = 0
        self.lost = 0
        """States that a crash took back, none of them reported."""
        self.checked_views = 0
        self.written = 0

    # ---- lives

    def stepped(self, what: str) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.crash()

    def crash(self, power_lost: bool | None = None) -> None:
        """The machine's, or only its process's."""
        if power_lost is None:
            power_lost = self.stream.chance(0.6)
        self.steps_left = -1
        self.crashes += 1
        self.machine.end(power=not power_lost)
        for disk in self.disks:
            disk.crash()
        if power_lost:
            for files in self.files:
                files.lose_power()

    def live(self) -> None:
        """From recovery to a crash."""
        env = self.machine.start(Random(self.stream.between(0, 1 << 30)))
        self.steps_left = self.stream.spread(1, 120)
        for disk in self.disks:
            disk.open(lambda call: self.machine.enter(env, call))
        self.store = Store(self.disks[0], self.disks[1], env, self.settings)
        self.machine.enter(env, self.recover)
        assert self.world.failures == []
        for _ in range(self.stream.between(5, 40)):
            if not self.machine.alive:
                break
            self.machine.enter(env, self.call)
            self.pass_time(env, self.stream.around(self.stream.choice((1, 1000, 5000)) * MICROSECOND))
        if self.machine.alive:
            self.crash()
        assert self.world.failures == []

    def pass_time(self, env: SimulatedEnvironment, delay: int) -> None:
        until = self.scheduler.now + delay
        self.scheduler.at(until, lambda: None)
        while env.alive and self.scheduler.now < until:
            self.scheduler.step()

    # ---- what is called, and the states it leads through

    def recover(self) -> None:
        found = self.store.recover()
        self.tree = found.tree
        state = (history_of(found.tree, found.tail), found.accepted_epoch, found.current_epoch)
        self.floor = found.snapshot_zxid
        index = self.find(state)
        self.lost += len(self.states) - 1 - index
        del self.states[index + 1 :]
        self.store.settle(self.reports(index))

    def find(self, state: State) -> int:
        """The last place where the calls led through ``state``, none before the last one that was reported."""
        for index in range(len(self.states) - 1, self.reported - 1, -1):
            if self.states[index] == state:
                return index
        zxids = [zxid for zxid, _ in state[0]]
        wanted = [([f"{zxid:x}" for zxid, _ in history], *rest) for history, *rest in self.states[self.reported :]]
        raise AssertionError(f"found {[f'{zxid:x}' for zxid in zxids]} {state[1:]}, expected one of {wanted}")

    def reports(self, index: int) -> Done:
        """A completion that says that the state of this index is durable."""

        def done(error: StorageError | None) -> None:
            assert error is None, error
            assert index >= self.reported, "reports come in the order of the calls"
            self.reported = index
            if self.stream.chance(0.1):
                self.check_durable()

        return done

    def check_durable(self) -> None:
        views = [self.files[0].durable(), self.files[-1].durable()]
        found = Recovery(views[0], views[1], "", "", False)
        self.find((history_of(found.tree, found.tail), found.accepted_epoch, found.current_epoch))
        self.checked_views += 1

    def led_to(self, *states: State) -> Done:
        self.states += states
        return self.reports(len(self.states) - 1)

    def call(self) -> None:
        kind = self.stream.between(0, 19)
        if kind < 15:
            self.append(self.stream.spread(1, 12))
        elif kind < 17:
            self.floor = max(self.floor, self.tree.last_zxid)
            self.store.take_snapshot(self.tree, self.snapshot_taken)
        else:
            self.new_epoch()

    def snapshot_taken(self, error: StorageError | None) -> None:
        assert error is None, error

    def data(self) -> bytes:
        self.written += 1
        return (b"%d " % self.written) * self.stream.spread(1, 600)

    def append(self, count: int) -> None:
        history, accepted, current = self.states[-1]
        last = history[-1][0] if history else 0
        if current == 0 or current < last >> 32:
            # a synchronisation that a crash ended: another must come before anything is logged
            self.new_epoch()
            return
        zxid = last + 1 if last >> 32 == current else (current << 32) + 1
        new = tuple((zxid + index, self.data()) for index in range(count))
        entries = entries_of(new)
        states: list[State] = [(history + new[: index + 1], accepted, current) for index in range(count)]
        self.store.append(entries, self.led_to(*states))
        apply(self.tree, entries)

    def new_epoch(self) -> None:
        """As in Zab: promise the epoch, take over the leader's history, begin the epoch."""
        history, accepted, current = self.states[-1]
        epoch = accepted + self.stream.between(1, 2)
        self.store.store_accepted_epoch(epoch, self.led_to((history, epoch, current)))
        how = self.stream.between(0, 2)
        if how == 0:
            kept = [zxid for zxid, _ in history if zxid >= max(self.floor, 1)]
            if kept:
                self.truncate(self.stream.choice(kept), epoch)
        elif how == 1:
            self.install(epoch)
        history = self.states[-1][0]
        self.store.store_current_epoch(epoch, self.led_to((history, epoch, epoch)))

    def truncate(self, zxid: int, epoch: int) -> None:
        history, _, current = self.states[-1]
        keep = sum(known <= zxid for known, _ in history)
        states = [(history[:count], epoch, current) for count in range(len(history) - 1, keep - 1, -1)]
        self.store.truncate(zxid, self.led_to(*states, (history[:keep], epoch, current)))
        self.tree = apply(DataTree(), entries_of(history[:keep]))

    def install(self, epoch: int) -> None:
        """Another history, as a snapshot and maybe a log after it: some of ours, then some of an epoch that may be new to us."""
        history, _, current = self.states[-1]
        keep = self.stream.between(0, len(history))
        base = history[keep - 1][0] if keep else 0
        theirs = max(base >> 32, self.stream.between(current, epoch - 1), 1)
        first = base + 1 if base >> 32 == theirs else (theirs << 32) + 1
        new = history[:keep] + tuple((first + index, self.data()) for index in range(self.stream.between(1, 9)))
        split = len(new) if self.stream.chance(0.5) else self.stream.between(1, len(new))
        tree = apply(DataTree(), entries_of(new[:split]))
        self.store.install(tree, new[split - 1][0], entries_of(new[split:]), self.led_to((new, epoch, current)))
        self.tree = apply(DataTree(), entries_of(new))
        self.floor = new[split - 1][0]


def lives(seed: int, folders: int, count: int = 8) -> StoreRun:
    run = StoreRun(seed, folders)
    for _ in range(count):
        run.live()
    return run


@pytest.mark.parametrize("folders", [1, 2])
def test_recovery_finds_a_beginning_with_all_that_was_reported(folders: int) -> None:
    crashes = lost = views = reported = 0
    for seed in range(60):
        try:
            run = lives(seed, folders)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        crashes += run.crashes
        lost += run.lost
        views += run.checked_views
        reported += run.reported
    # it has been tried: things were lost that nobody had been told of, and more were kept
    assert crashes == 60 * 8
    assert lost > 100
    assert views > 50
    assert reported > 1000


def test_the_same_seed_gives_the_same_run() -> None:
    def digest(run: StoreRun) -> tuple[object, ...]:
        return (run.scheduler.now, run.scheduler.events, run.states, run.reported, run.lost)

    for seed in range(5):
        assert digest(lives(seed, 1)) == digest(lives(seed, 1))


class Replacement:
    """A history is replaced: a process is killed during that, and the machine loses power under the one that goes on."""

    old: History = tuple(((1 << 32) + index, b"old") for index in range(1, 6))

    def __init__(self, seed: int, folders: int, logged: bool) -> None:
        self.run = run = StoreRun(seed, folders)
        self.power_lost = False
        for disk in run.disks:
            disk.on_step = self.stepped
        self.base = self.old[:2]
        self.rest = tuple(((1 << 32) + index, b"new") for index in range(3, 5)) if logged else ()
        self.live(0, False, self.first_history)

    def stepped(self, what: str) -> None:
        self.run.steps_left -= 1
        if self.run.steps_left == 0:
            self.run.crash(self.power_lost)

    def live(self, steps: int, power_lost: bool, calls: Callable[[Store, Done], None]) -> tuple[History, bool]:
        """What a process finds, which crashes at the disk's step ``steps`` if it comes that far, and whether it ended well."""
        run = self.run
        env = run.machine.start(Random(1))
        run.steps_left = steps
        self.power_lost = power_lost
        for disk in run.disks:
            disk.open(lambda call: run.machine.enter(env, call))
        store = Store(run.disks[0], run.disks[1], env, run.settings)
        found = store.recover()
        ends: list[StorageError | None] = []
        calls(store, ends.append)
        while env.alive and not ends:
            assert run.scheduler.step()
        assert ends in ([], [None])
        if env.alive:
            run.crash(True)
        return history_of(found.tree, found.tail), bool(ends)

    def first_history(self, store: Store, done: Done) -> None:
        store.store_accepted_epoch(1, ignored)
        store.store_current_epoch(1, ignored)
        store.append(entries_of(self.old), done)

    def replace(self, store: Store, done: Done) -> None:
        tree = apply(DataTree(), entries_of(self.base))
        store.install(tree, self.base[-1][0], entries_of(self.rest), done)

    def settle(self, store: Store, done: Done) -> None:
        store.settle(done)


def ignored(error: StorageError | None) -> None:
    assert error is None, error


@pytest.mark.parametrize("folders", [1, 2])
@pytest.mark.parametrize("logged", [False, True])
def test_a_history_is_replaced_in_one_step_by_processes_that_crash(folders: int, logged: bool) -> None:
    """Seeds 303, 975 and 1117 of the runs above: what a process did that was killed was taken to be on disk by the next one."""
    kills = losses = 0
    found: set[History] = set()
    for seed in range(400):
        history = Replacement(seed, folders, logged)
        new = history.base + history.rest
        _, replaced = history.live(history.run.stream.between(1, 70), False, history.replace)
        kills += not replaced
        read, settled = history.live(history.run.stream.between(0, 25), True, history.settle)
        losses += not settled
        last, _ = history.live(0, False, history.settle)
        assert read == new if replaced else read in (history.old, new), f"seed {seed}"
        assert last in ((read,) if settled or replaced else (read, history.old)), f"seed {seed}"
        found.add(last)
    assert kills > 50
    assert losses > 50
    assert found == {history.old, new}


class TestFound:
    """What the runs above have found, each made by hand."""

    def start(self, run: StoreRun) -> tuple[int, int]:
        """A process recovers and settles; the epochs that it found."""
        env = run.machine.start(Random(1))
        for disk in run.disks:
            disk.open(lambda call: run.machine.enter(env, call))
        run.store = Store(run.disks[0], run.disks[1], env, run.settings)
        found = run.store.recover()
        self.wait(run, run.store.settle)
        run.machine.end(power=True)
        return found.accepted_epoch, found.current_epoch

    def wait(self, run: StoreRun, call: Callable[[Done], None]) -> None:
        ends: list[StorageError | None] = []
        call(ends.append)
        while not ends:
            assert run.scheduler.step()
        assert ends == [None]

    def test_an_epoch_that_was_given_up_is_not_taken_up_with_a_later_history(self) -> None:
        """Run 94: the file of an epoch, never renamed, stayed; a history that another leader sent made it current."""
        run = StoreRun(1, 1)
        self.start(run)
        disk = run.disks[1]
        # promised epoch 5; a crash kept the file of the current epoch from being renamed
        operations = [Write("version-2/acceptedEpoch", 0, [b"5"]), Write("version-2/currentEpoch.tmp", 0, [b"5"])]
        disk.open(lambda call: call())
        self.wait(run, lambda done: disk.submit(operations, done))
        assert self.start(run) == (5, 0)
        # epoch 6's leader sends a snapshot that ends in epoch 3, and a crash comes before the rest
        env = run.machine.start(Random(1))
        for each in run.disks:
            each.open(lambda call: run.machine.enter(env, call))
        run.store = Store(run.disks[0], run.disks[1], env, run.settings)
        run.store.recover()
        zxid = (3 << 32) + 1
        tree = apply(DataTree(), [create(zxid)])
        self.wait(run, lambda done: run.store.store_accepted_epoch(6, done))
        self.wait(run, lambda done: run.store.install(tree, zxid, [], done))
        run.machine.end(power=True)
        assert self.start(run) == (6, 0), "epoch 5 was never begun with this history"

    @pytest.mark.parametrize("kept", range(1, 16))
    def test_a_log_whose_header_was_torn_has_nothing_in_it(self, kept: int) -> None:
        """Run 37: with zeros behind it, as in a file that was extended, it was taken for a file of another format."""
        run = StoreRun(1, 1)
        self.start(run)
        disk = run.disks[0]
        header = b"ZKLG\0\0\0\2" + bytes(8)
        torn = Write("version-2/log.100000001", 0, [header[:kept] + bytes(4096)])
        disk.open(lambda call: call())
        self.wait(run, lambda done: disk.submit([torn], done))
        assert self.start(run) == (0, 0)
        assert not disk.exists("version-2/log.100000001")

    def test_the_first_append_after_an_installation_is_torn(self) -> None:
        """Runs 2633 and 3206: the log ended before the snapshot, so the torn file after it was taken to lie before it."""
        history = Replacement(1, 2, False)
        zxid = (3 << 32) + 4
        installed = apply(DataTree(), [create(zxid)])

        def replace(store: Store, done: Done) -> None:
            store.store_accepted_epoch(4, ignored)
            store.install(installed, zxid, [], ignored)
            store.store_current_epoch(4, ignored)
            store.append([create((4 << 32) + index, bytes(600)) for index in range(1, 4)], done)

        assert history.live(0, False, replace) == (history.old, True)
        # as if the power had been lost before the sync, and of the first sector only the header was there
        disk = history.run.disks[0]
        lost = Write("version-2/log.400000001", HEADER.size, [bytes(SECTOR - HEADER.size)])
        disk.open(lambda call: call())
        self.wait(history.run, lambda done: disk.submit([lost], done))
        assert history.live(0, False, history.settle) == (((zxid, b"data"),), True)
        assert not disk.exists("version-2/log.400000001")
