"""Watches: each change of a range after a revision once and in order, whoever is slow and whatever is compacted."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.kv.entries import Entry
from quorate.kv.mvcc import Store
from quorate.kv.watches import PROGRESS, Watch, Watches

KEYS = [b"a", b"b", b"c", b"d"]


class Reader:
    """Takes ``room`` deliveries at a time."""

    def __init__(self, start: bytes, end: bytes, after: int) -> None:
        self.seen: list[Entry] = []
        self.revision = after
        self.room = 1 << 30
        self.compacted = -1
        self.watch = Watch(start, end, after, self.deliver, self.ended)

    def deliver(self, revision: int, changes: Sequence[Entry]) -> bool:
        assert revision >= self.revision, "it goes forward only"
        assert all(self.revision < entry.modified <= revision for entry in changes)
        self.seen += changes
        self.revision = revision
        self.room -= 1
        return self.room > 0

    def ended(self, compacted: int) -> None:
        self.compacted = compacted


def put(store: Store, key: bytes) -> Entry:
    before = store.current.get(key)
    store.revision += 1
    entry = Entry(key, b"", 1 if before is None else before.version + 1, 0, store.revision)
    store.set(entry)
    return entry


def wanted(changes: list[Entry], reader: Reader, after: int) -> list[Entry]:
    watch = reader.watch
    return [
        entry
        for entry in changes
        if entry.modified > after and watch.start <= entry.key and (not watch.end or entry.key < watch.end)
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 9)), min_size=1, max_size=40),
    st.sampled_from(KEYS),
    st.sampled_from([b"", *KEYS]),
    st.integers(0, 10),
)
def test_every_change_is_told_once(steps: list[tuple[bytes, int]], start: bytes, end: bytes, begins: int) -> None:
    store, watches = Store(), Watches()
    changes: list[Entry] = []
    readers: list[tuple[Reader, int]] = []
    for number, (key, what) in enumerate(steps):
        if number == begins or what == 7:
            after = store.revision // 2
            reader = Reader(start, start + b"\0" if what % 2 else end, after)
            readers.append((reader, after))
            watches.add(store, reader.watch)
        entry = put(store, key)
        changes.append(entry)
        watches.tell(store.revision, [entry])
        for reader, _ in readers:
            if what == 8:
                reader.room = 1  # it takes one more, and then nothing
            elif what == 9:
                reader.room = 1 << 30
                if reader.watch.behind:
                    watches.catch_up(store, reader.watch)
    for reader, after in readers:
        reader.room = 1 << 30
        if reader.watch.behind:
            watches.catch_up(store, reader.watch)
        assert reader.seen == wanted(changes, reader, after)


def test_who_lags_behind_a_compaction_is_told_so_and_watches_no_more() -> None:
    store, watches = Store(), Watches()
    reader = Reader(b"a", b"", 0)
    reader.room = 1
    watches.add(store, reader.watch)
    for _ in range(5):
        entry = put(store, b"a")
        watches.tell(store.revision, [entry])
    assert (len(reader.seen), reader.watch.behind) == (1, True)
    store.compact(3)
    watches.catch_up(store, reader.watch)
    assert reader.compacted == 3
    assert len(watches) == 0
    late = Reader(b"a", b"", 2)
    watches.add(store, late.watch)
    assert late.compacted == 3


def test_who_hears_of_nothing_is_told_how_far_the_store_is() -> None:
    store, watches = Store(), Watches()
    reader = Reader(b"quiet", b"quiet\0", 0)
    watches.add(store, reader.watch)
    for _ in range(2 * PROGRESS):
        entry = put(store, b"a")
        watches.tell(store.revision, [entry])
        watches.progress(store.revision)
    assert reader.seen == []
    assert reader.revision == 2 * PROGRESS
