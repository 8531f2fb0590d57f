"""The journal on virtual disks that tear: what was reported is there after any crash, and nothing but a beginning of what was written."""

from collections.abc import Sequence
from functools import partial

import pytest

from quorate.consensus.paxos.journal import FOLDER, HEADER, RECORD, GroupLog, Journal, path_of
from quorate.consensus.paxos.messages import Adopt, Append, Entry, Install, StorePromise, Write
from quorate.errors import CorruptionError, StorageError, UsageError
from quorate.simulation.disk.device import VirtualDisk
from quorate.simulation.disk.files import VirtualFiles
from quorate.simulation.scheduler import MILLISECOND, Scheduler, Stream
from quorate.storage.disk import Remove

State = tuple[tuple[int, int, int, int, tuple[Entry, ...]], ...]


class Model:
    """What the groups' logs should be."""

    def __init__(self, groups: int) -> None:
        self.promised = [0] * groups
        self.accepted = [0] * groups
        self.base = [0] * groups
        self.entries: list[list[Entry]] = [[] for _ in range(groups)]
        """From index 1 on."""

    def carry_out(self, group: int, write: Write) -> None:
        entries = self.entries[group]
        if isinstance(write, StorePromise):
            self.promised[group] = write.ballot
        elif isinstance(write, Adopt):
            self.promised[group] = self.accepted[group] = write.ballot
            entries[write.first - 1 :] = write.entries
        elif isinstance(write, Append):
            entries += write.entries
        else:
            self.base[group] = write.index
            entries += [Entry(0, b"by a snapshot")] * (write.index - len(entries))

    def state(self) -> State:
        return tuple(
            (promised, accepted, base, len(entries), tuple(entries[base:]))
            for promised, accepted, base, entries in zip(
                self.promised, self.accepted, self.base, self.entries, strict=True
            )
        )


def state_of(found: dict[int, GroupLog], groups: int) -> State:
    logs = [found.get(group, GroupLog()) for group in range(groups)]
    return tuple((log.promised, log.accepted, log.base, log.last, tuple(log.entries)) for log in logs)


class Run:
    def __init__(self, seed: int) -> None:
        self.stream = Stream(seed, "journal")
        self.groups = self.stream.between(1, 3)
        self.scheduler = Scheduler()
        self.files = VirtualFiles(Stream(seed, "files"))
        self.disk = VirtualDisk(self.scheduler, Stream(seed, "disk"), self.files, MILLISECOND)
        self.disk.on_step = self.stepped
        self.model = Model(self.groups)
        self.states = [self.model.state()]
        self.reported = 0
        self.steps_left = -1
        self.alive = False
        self.lost = 0
        self.removed = 0

    def stepped(self, what: str) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.crash()

    def crash(self) -> None:
        self.alive = False
        self.steps_left = -1
        self.disk.crash(power=self.stream.chance(0.6))

    def live(self) -> None:
        stream = self.stream
        self.disk.open(lambda call: call())
        self.alive = True
        self.journal = Journal(
            self.disk, segment=stream.choice((1000, 5000)), preallocate=stream.choice((0, 4096, 64 << 10))
        )
        found, _ = self.journal.recover()
        self.recovered(state_of(found, self.groups))
        self.steps_left = stream.spread(1, 100)
        for _ in range(stream.between(5, 40)):
            if self.alive:
                self.write()
                self.pass_time(stream.around(stream.choice((1, 1000, 5000)) * 1000))
        if self.alive:
            self.crash()

    def pass_time(self, delay: int) -> None:
        until = self.scheduler.now + delay
        self.scheduler.at(until, lambda: None)
        while self.alive and self.scheduler.now < until:
            self.scheduler.step()

    def recovered(self, state: State) -> None:
        assert state in self.states[self.reported :], "a state that was never there, or one before what was reported"
        at = self.reported + self.states[self.reported :].index(state)
        self.lost += len(self.states) - 1 - at
        # until it is settled a loss of power may take some of it back
        self.states = self.states[self.reported : at + 1]
        self.reported = 0
        self.journal.settle(partial(self.done, len(self.states) - 1, self.journal))
        for group, (promised, accepted, base, last, entries) in enumerate(state):
            model = self.model
            model.promised[group], model.accepted[group], model.base[group] = promised, accepted, base
            model.entries[group] = [*[Entry(0, b"snapshot")] * base, *entries]
            assert len(model.entries[group]) == last

    def write(self) -> None:
        """A batch; each write of it leads to a state that a crash may leave."""
        writes: list[tuple[int, Write]] = []
        for _ in range(self.stream.between(1, 4)):
            group = self.stream.between(0, self.groups - 1)
            write = self.any_write(group)
            self.model.carry_out(group, write)
            self.states.append(self.model.state())
            writes.append((group, write))
        self.journal.write(writes, partial(self.done, len(self.states) - 1, self.journal))

    def done(self, count: int, journal: Journal, error: StorageError | None) -> None:
        assert error is None
        if journal is self.journal and self.alive:
            self.reported = max(self.reported, count)
            before = journal.segments
            journal.remove_old(lambda error: None)
            self.removed += before - journal.segments

    def any_write(self, group: int) -> Write:
        stream, model = self.stream, self.model
        kind = stream.between(0, 9)
        last, base = len(model.entries[group]), model.base[group]
        if kind == 0:
            return StorePromise(model.promised[group] + stream.between(1, 9), 1)
        if kind == 1:
            first = stream.between(base + 1, last + 1)
            return Adopt(model.promised[group] + 1, first, self.entries(stream.between(0, 5)), 1)
        if kind == 2:
            return Install(stream.between(base, last + stream.choice((0, 0, 5))), 1)
        return Append(self.entries(stream.between(1, 3)), 1)

    def entries(self, count: int) -> tuple[Entry, ...]:
        stream = self.stream
        sizes = [stream.choice((0, 10, 100, 600, 3000)) for _ in range(count)]
        return tuple(Entry(0, bytes([stream.between(0, 255)]) * size) for size in sizes)


@pytest.mark.parametrize("block", range(4))
def test_a_crash_leaves_a_beginning_of_what_was_written_with_all_that_was_reported(block: int) -> None:
    lost = removed = 0
    for seed in range(block * 100, block * 100 + 60):
        run = Run(seed)
        try:
            for _ in range(6):
                run.live()
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        lost += run.lost
        removed += run.removed
    assert lost > 100, "crashes must take something back"
    assert removed > 20, "segments must be removed"


class Files:
    """A disk without faults, in memory."""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.files = VirtualFiles(Stream(1, "files"))
        self.disk = VirtualDisk(self.scheduler, Stream(1, "disk"), self.files, MILLISECOND)

    def journal(self, writes: Sequence[Sequence[tuple[int, Write]]] = (), **settings: int) -> Journal:
        self.disk.open(lambda call: call())
        journal = Journal(self.disk, preallocate=0, folder="data", **settings)
        journal.recover()
        for batch in writes:
            told: list[StorageError | None] = []
            journal.write(batch, told.append)
            while not told:
                self.scheduler.step()
            assert told == [None]
        return journal

    def recover(self) -> tuple[dict[int, GroupLog], list[str]]:
        self.disk.open(lambda call: call())
        return Journal(self.disk, folder="data").recover()

    def change(self, offset: int, data: bytes, number: int = 1) -> None:
        content = self.files.file(path_of(number))
        content.write(offset, data)


def append(*payloads: bytes) -> Append:
    return Append(tuple(Entry(0, payload) for payload in payloads), 1)


def test_a_bit_that_flips_in_an_acknowledged_record_is_corruption_and_named() -> None:
    files = Files()
    files.journal([[(1, append(b"first"))], [(1, append(b"second"))], [(1, append(b"third"))]])
    size = files.disk.size(path_of(1))
    for offset in range(HEADER.size, size):
        byte = files.disk.read(path_of(1), offset, 1)[0]
        files.change(offset, bytes([byte ^ 0x10]))
        with pytest.raises(
            CorruptionError, match=r"^data/journal/00000001: offset \d+: a record that does not check out"
        ):
            files.recover()
        files.change(offset, bytes([byte]))
    assert [entry.payload for entry in files.recover()[0][1].entries] == [b"first", b"second", b"third"]


def test_a_lost_sector_of_what_was_durable_is_corruption_and_of_the_last_write_a_torn_tail() -> None:
    files = Files()
    writes = [[(1, append(bytes([number]) * 2000))] for number in range(1, 5)]
    files.journal(writes)
    size = files.disk.size(path_of(1))
    last = HEADER.size + 3 * (RECORD.size + 8 + 5 + 2000 + 1)
    for sector in range(0, size, 512):
        offset = max(sector, HEADER.size)
        kept = files.disk.read(path_of(1), offset, 512 - offset % 512)
        files.change(offset, bytes(len(kept)))
        if sector + 512 <= last:
            with pytest.raises(CorruptionError, match="though it was durable"):
                files.recover()
        elif sector >= last:
            found, notes = files.recover()
            assert found[1].last == 3
            assert notes == [f"data/journal/00000001: torn record at offset {last}, cut"]
            return
        files.change(offset, kept)
    raise AssertionError("no sector lies in the last record alone")


def test_what_is_no_journal_and_what_is_missing_is_told() -> None:
    files = Files()
    files.journal([[(1, append(bytes(900)))] for _ in range(6)], segment=1000)
    assert len(files.disk.list(FOLDER)) == 5
    files.files.file(path_of(1)).write(0, b"something")
    with pytest.raises(UsageError, match="data/journal/00000001 is no journal"):
        files.recover()
    files = Files()
    files.journal([[(1, append(bytes(900)))] for _ in range(6)], segment=1000)
    told: list[StorageError | None] = []
    files.disk.submit([Remove(path_of(2))], told.append)
    while not told:
        files.scheduler.step()
    with pytest.raises(CorruptionError, match=r"data/journal/00000003: offset 0: segment 2 before it is missing"):
        files.recover()


def test_an_adoption_in_parts_counts_as_a_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.consensus.paxos.journal.PART_BYTES", 1000)
    files = Files()
    files.journal([[(1, append(b"old", b"chosen"))]])
    before = files.disk.size(path_of(1))
    entries = tuple(Entry(0, bytes([number]) * 600) for number in range(1, 8))
    journal = files.journal([[(1, Adopt(7 << 16 | 1, 2, entries, 1))]])
    found, _ = files.recover()
    assert found[1].entries == [Entry(0, b"old"), *entries]
    assert found[1].accepted == 7 << 16 | 1
    # its end is lost: nothing of it is there, and what is left of it does no harm to the next one
    size = files.disk.size(path_of(1))
    cut = size - 512
    files.change(cut, bytes(size - cut))
    found, notes = files.recover()
    assert len(notes) == 1
    assert found[1].entries == [Entry(0, b"old"), Entry(0, b"chosen")]
    assert before < size
    del journal
    files.journal([[(1, Adopt(9 << 16 | 1, 2, entries[:1], 1))]])
    assert files.recover()[0][1].entries == [Entry(0, b"old"), entries[0]]


@pytest.mark.parametrize("kept", [0, 1, 40, 53, 54, 60, 107])
def test_a_segment_counts_once_the_states_at_its_head_are_whole(kept: int) -> None:
    """A crash leaves a part of two groups' states in a new segment; what is written after that must not lose any of them. Found by the simulation
    (seed 309635)."""
    files = Files()
    files.journal([[(1, append(bytes(600))), (2, append(b"of the second"))]])
    files.journal([[(1, append(b"next"))]], segment=500)
    assert files.disk.list(FOLDER) == ["00000001", "00000002"]
    assert 2 * (RECORD.size + 32 + 1) == 108
    cut = HEADER.size + kept
    files.change(cut, bytes(files.disk.size(path_of(2)) - cut), 2)
    files.journal([[(1, append(b"again"))], [(1, Install(2, 3))]], segment=500)
    found, _ = files.recover()
    assert (found[1].base, found[1].last, found[2].last) == (2, 2, 1)
    journal = files.journal([[(2, append(b"more")), (2, Install(2, 4))]], segment=500)
    told: list[StorageError | None] = []
    journal.remove_old(told.append)
    while not told:
        files.scheduler.step()
    assert files.disk.list(FOLDER) == ["00000002"]
    found, _ = files.recover()
    assert (found[1].base, found[1].last, found[2].base, found[2].last) == (2, 2, 2, 2)
