"""The state machine beside a naive model: whole copies of the state for every revision."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import CorruptionError, RemoteProtocolError
from quorate.kv import checks, commands, entries
from quorate.kv.commands import (
    ABSENT,
    ACQUIRE,
    COMMIT,
    CONFLICT,
    DELETE,
    DELETE_RANGE,
    EXISTS,
    HELD_BY,
    MODIFIED,
    OK,
    PUT,
    RELEASE,
    SEQUENCE,
    UNCHANGED,
    VALUE,
    VERSION,
    Condition,
    Write,
    pack_command,
)
from quorate.kv.entries import Entry
from quorate.kv.machine import REPLIES_MAX, Machine
from quorate.kv.results import Result, unpack_result
from quorate.kv.snapshot import Restorer, snapshot

KEYS = [b"a", b"b", b"ba", b"c", b"d\xff"]
State = dict[bytes, tuple[bytes, int, int, int]]
"""Value, version, created, modified."""


class Model:
    def __init__(self) -> None:
        self.states: list[State] = [{}]
        self.last: dict[bytes, int] = {}
        """The revision of each key's last change or deletion."""
        self.compacted = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def holds(self, condition: Condition) -> bool:
        state = self.states[-1]
        found = state.get(condition.key)
        if condition.kind == VERSION:
            return (found[1] if found else 0) == condition.number
        if condition.kind == MODIFIED:
            return (found[3] if found else 0) == condition.number
        if condition.kind == EXISTS:
            return found is not None
        if condition.kind == ABSENT:
            return found is None
        if condition.kind == VALUE:
            return found is not None and found[0] == condition.value
        # what was compacted since cannot be told apart from what changed
        return condition.number >= self.compacted and all(
            at <= condition.number
            for key, at in self.last.items()
            if key >= condition.key and (not condition.value or key < condition.value)
        )

    def commit(self, conditions: Sequence[Condition], writes: Sequence[Write]) -> list[int] | None:
        if not all(self.holds(condition) for condition in conditions):
            return None
        state, revision, numbers = dict(self.states[-1]), self.revision + 1, []
        for write in writes:
            if write.kind == PUT:
                _, version, created, _ = state.get(write.key, (b"", 0, revision, 0))
                state[write.key] = (write.value, version + 1, created, revision)
                self.last[write.key] = revision
                numbers.append(version + 1)
                continue
            end = write.value if write.kind == DELETE_RANGE else write.key + b"\0"
            gone = [key for key in state if key >= write.key and (not end or key < end)]
            for key in gone:
                del state[key]
                self.last[key] = revision
            numbers.append(len(gone))
        if revision in self.last.values():
            self.states.append(state)
        return numbers


keys = st.sampled_from(KEYS)
values = st.binary(max_size=6)
conditions = st.one_of(
    st.builds(Condition, st.sampled_from((VERSION, MODIFIED)), keys, st.integers(0, 6)),
    st.builds(Condition, st.sampled_from((EXISTS, ABSENT)), keys),
    st.builds(lambda key, value: Condition(VALUE, key, 0, value), keys, values),
    st.builds(
        lambda key, end, number: Condition(UNCHANGED, key, number, end),
        keys,
        st.sampled_from([b"", *KEYS]),
        st.integers(0, 9),
    ),
)
writes = st.one_of(
    st.builds(lambda key, value: Write(PUT, key, value), keys, values),
    st.builds(lambda key: Write(DELETE, key), keys),
    st.builds(lambda key, end: Write(DELETE_RANGE, key, end), keys, st.sampled_from([b"", *KEYS])),
)
commits = st.tuples(st.lists(conditions, max_size=2), st.lists(writes, max_size=3))


def commit(
    conditions: Sequence[Condition], writes: Sequence[Write], reads: Sequence[commands.Read] = (), **name: int
) -> bytes:
    return pack_command(COMMIT, commands.commit_body(conditions, writes, reads), **name)


def only(machine: Machine, command: bytes) -> Result:
    checks.check(command)
    (result,) = machine.apply(command)
    return unpack_result(result)


def put(
    machine: Machine, key: bytes, value: bytes = b"v", *conditions: Condition, lease: int = 0, **name: int
) -> Result:
    return only(machine, commit(conditions, [Write(PUT, key, value, lease=lease)], (), **name))


def grant(machine: Machine, behaviour: int = commands.DELETE_KEYS, delay: int = 0) -> int:
    body = commands.grant_lease_body(0, 1000, behaviour, delay, b"meta")
    return only(machine, pack_command(commands.GRANT_LEASE, body)).numbers[0]


def restored(*pieces: bytes) -> Machine:
    restorer = Restorer()
    for piece in pieces:
        restorer.feed(piece)
    restorer.finish()
    return restorer.machine


def copy(machine: Machine) -> Machine:
    return restored(*snapshot(machine))


@settings(max_examples=300, deadline=None)
@given(st.lists(commits, max_size=25), st.data())
def test_commits_and_reads_of_the_past_are_those_of_the_model(
    steps: list[tuple[list[Condition], list[Write]]], data: st.DataObject
) -> None:
    model, machine = Model(), Machine()
    batch: list[bytes] = []
    other = Machine()
    for number, (wanted, todo) in enumerate(steps):
        command = commit(wanted, todo)
        try:
            checks.check(command)
        except RemoteProtocolError:
            continue  # a key twice, or ranges that overlap
        batch.append(command)
        expected = model.commit(wanted, todo)
        result = only(machine, command)
        assert result.revision == model.revision
        if expected is None:
            assert result.status == CONFLICT
            for found in result.conflicts:
                if wanted[found.part].kind != UNCHANGED:
                    _, version, _, modified = model.states[-1].get(found.key, (b"", 0, 0, 0))
                    assert (found.version, found.modified) == (version, modified)
        else:
            assert (result.status, result.numbers) == (OK, expected)
        if number % 7 == 3:
            revision = data.draw(st.integers(0, model.revision), "compacted")
            compact = pack_command(commands.COMPACT, commands.numbers_body([revision]))
            only(machine, compact)
            model.compacted = max(model.compacted, revision)
            batch.append(compact)
        store = machine.store
        for revision in range(store.compacted, model.revision + 1):
            found_entries, more = store.range(b"", b"", revision, 0)
            assert not more
            shown = {entry.key: (entry.value, entry.version, entry.created, entry.modified) for entry in found_entries}
            assert shown == model.states[revision], f"revision {revision}"
    other.apply(b"".join(batch))
    assert other.digest() == machine.digest(), "how commands are batched does not matter"
    assert copy(machine).digest() == machine.digest(), "nor does a snapshot"
    assert list(copy(machine).store.changes_after(machine.store.compacted)) == list(
        machine.store.changes_after(machine.store.compacted)
    )


def test_versions_begin_at_one_and_begin_again_after_a_deletion() -> None:
    machine = Machine()
    assert [put(machine, b"k").numbers for _ in range(3)] == [[1], [2], [3]]
    assert only(machine, commit([], [Write(DELETE, b"k")])).numbers == [1]
    assert only(machine, commit([], [Write(DELETE, b"k")])).numbers == [0]
    assert put(machine, b"k").numbers == [1]
    assert machine.store.revision == 5


def test_lists_have_pages() -> None:
    machine = Machine()
    for number in range(200):
        put(machine, b"k%03d" % number)
    found, more = machine.store.range(b"k010", b"k190", machine.store.revision, 100)
    assert [entry.key for entry in found] == [b"k%03d" % number for number in range(10, 110)]
    assert more == b"k110"
    found, more = machine.store.range(more, b"k190", machine.store.revision, 100)
    assert (len(found), more) == (80, b"")


def test_a_repeated_command_has_one_effect_and_one_answer() -> None:
    machine = Machine()
    session = only(machine, pack_command(commands.OPEN_SESSION, commands.open_session_body(1000))).numbers[0]
    first = commit([Condition(ABSENT, b"k")], [Write(PUT, b"k", b"1")], session=session, seq=1)
    assert machine.apply(first) == machine.apply(first)
    assert machine.store.revision == 1
    assert machine.apply(first + first)[1] == machine.apply(first)[0]
    assert only(machine, commit([], [Write(PUT, b"k", b"2")], session=session, seq=2, acked=2)).status == OK
    assert only(machine, first).status == commands.ANSWERED
    assert only(machine, commit([], [], session=99, seq=1)).status == commands.NO_SESSION
    again = copy(machine)
    assert only(again, commit([], [Write(PUT, b"k", b"2")], session=session, seq=2)).numbers == [2]
    assert again.store.revision == 2, "the answers are in the snapshot"
    for seq in range(3, REPLIES_MAX + 2):
        assert only(machine, commit([], [], session=session, seq=seq)).status == OK
    assert only(machine, commit([], [], session=session, seq=REPLIES_MAX + 2)).status == commands.TOO_MANY
    closed = pack_command(commands.CLOSE_SESSIONS, commands.numbers_body([session, 77]))
    assert only(machine, closed).numbers == [1]


def test_a_lease_takes_its_keys_along() -> None:
    machine = Machine()
    lease = grant(machine)
    put(machine, b"mine", lease=lease)
    put(machine, b"was mine", lease=lease)
    put(machine, b"was mine")
    put(machine, b"other")
    assert put(machine, b"k", lease=77).status == commands.NO_LEASE
    machine = copy(machine)
    assert only(machine, pack_command(commands.REVOKE_LEASES, commands.numbers_body([lease, 78]))).numbers == [1]
    assert sorted(machine.store.current) == [b"other", b"was mine"]
    assert put(machine, b"mine", lease=lease).status == commands.NO_LEASE


@pytest.mark.parametrize("behaviour", [commands.RELEASE_LOCKS, commands.DELETE_LOCKED])
def test_locks_are_held_by_leases(behaviour: int) -> None:
    machine = Machine()
    one, two = grant(machine, behaviour, 15_000), grant(machine)

    def lock(kind: int, lease: int) -> Result:
        return only(machine, commit([], [Write(kind, b"lock", b"by %d" % lease, lease=lease)]))

    assert lock(ACQUIRE, one).numbers == [1]
    assert lock(ACQUIRE, one).numbers == [2], "again, by who holds it"
    assert lock(ACQUIRE, two).status == CONFLICT
    assert lock(RELEASE, two).status == CONFLICT
    assert only(machine, commit([Condition(HELD_BY, b"lock", one)], [])).status == OK
    assert machine.store.current[b"lock"].lock_index == 1
    put(machine, b"lock", b"written by anyone")
    assert machine.store.current[b"lock"].holder == one
    assert machine.store.current[b"lock"].lock_index == 0, "as Consul has it"
    assert lock(RELEASE, one).status == OK
    assert lock(ACQUIRE, two).status == OK
    assert machine.store.current[b"lock"].lock_index == 1
    assert lock(RELEASE, two).status == OK
    assert lock(ACQUIRE, one).status == OK
    machine = copy(machine)
    only(machine, pack_command(commands.REVOKE_LEASES, commands.numbers_body([one])))
    assert (b"lock" in machine.store.current) == (behaviour == commands.RELEASE_LOCKS)
    assert lock(ACQUIRE, two).status == CONFLICT, "not before the delay is over"
    only(machine, pack_command(commands.END_DELAYS, commands.keys_body([b"lock"])))
    assert lock(ACQUIRE, two).status == OK


def test_a_snapshot_shows_the_state_of_its_beginning_whatever_happens_meanwhile() -> None:
    machine = Machine()
    for number in range(3000):
        put(machine, b"k%04d" % (number % 1000), b"x" * 100)
    only(machine, pack_command(commands.COMPACT, commands.numbers_body([2500])))
    digest = machine.digest()
    pieces = []
    for number, piece in enumerate(snapshot(machine)):
        pieces.append(piece)
        put(machine, b"k%04d" % number, b"later")
        only(machine, commit([], [Write(DELETE, b"k%04d" % (999 - number)), Write(PUT, b"new%d" % number, b"")]))
        only(machine, pack_command(commands.COMPACT, commands.numbers_body([machine.store.revision])))
    assert len(pieces) > 3
    assert restored(*pieces).digest() == digest
    assert len(list(machine.store.changes_after(machine.store.compacted))) == 0


def test_what_is_no_snapshot_is_refused() -> None:
    machine = Machine()
    lease = grant(machine)
    put(machine, b"k", b"value", lease=lease)
    (whole,) = snapshot(machine)
    for end in range(len(whole)):
        with pytest.raises(CorruptionError, match="a snapshot of the key-value store: offset"):
            restored(whole[:end])
    restorer = Restorer()
    with pytest.raises(CorruptionError, match="something behind its end"):
        restorer.feed(whole + whole)


@given(st.binary(max_size=120), st.integers(0, 9))
def test_other_bytes_are_no_command(body: bytes, kind: int) -> None:
    try:
        checks.check(pack_command(kind, body))
    except RemoteProtocolError:
        return
    machine = Machine()
    machine.apply(pack_command(kind, body))


def test_the_limits_of_a_command() -> None:
    for command, message in (
        (commit([], [Write(PUT, b"", b"")]), "a key of 0 bytes, expected 1 to 4096"),
        (commit([], [Write(PUT, b"k" * 4097, b"")]), "a key of 4097 bytes"),
        (commit([], [Write(PUT, b"k", b"v" * ((1 << 20) + 1))]), "a value of 1048577 bytes, at most 1048576"),
        (commit([], [Write(PUT, b"k"), Write(DELETE, b"k")]), "writes b'k' twice"),
        (commit([], [Write(DELETE_RANGE, b"a", b"z"), Write(PUT, b"k")]), "a range that it is in"),
        (commit([], [Write(DELETE_RANGE, b"a", b"m"), Write(DELETE_RANGE, b"l", b"")]), "which overlap"),
        (commit([], [])[:-1], "that says it has"),
        (pack_command(99, b""), "unknown kind 99"),
    ):
        with pytest.raises(RemoteProtocolError, match=message):
            checks.check(command)


def test_an_entry_is_what_it_was() -> None:
    entry = Entry(b"key", b"value", 1, 2, 3, 4, 5, 6, 7)
    packed = entries.pack_entry(entry)
    assert entries.unpack_entry(packed, 0) == (entry, len(packed))


def sequence(*commits: tuple[Sequence[Condition], Sequence[Write], Sequence[commands.Read]]) -> bytes:
    body = commands.sequence_body([commands.commit_body(*commit) for commit in commits])
    command = pack_command(SEQUENCE, body)
    checks.check(command)
    return command


def test_commits_of_a_sequence_see_those_before_and_are_done_all_or_none() -> None:
    machine = Machine()
    put(machine, b"a", b"1")
    before = machine.digest()
    failing = sequence(
        ([], [Write(PUT, b"b", b"1")], []),
        ([Condition(VALUE, b"b", 0, b"1")], [Write(DELETE, b"a")], []),
        ([Condition(EXISTS, b"a")], [], []),
        ([Condition(ABSENT, b"b")], [Write(PUT, b"c", b"not seen by the next")], []),
        ([Condition(ABSENT, b"c")], [], []),
    )
    result = only(machine, failing)
    assert result.status == CONFLICT
    assert [(found.part, found.key) for found in result.conflicts] == [(2, b"a"), (3, b"b")]
    assert machine.digest() == before
    revision = machine.store.revision
    done = sequence(
        ([], [Write(PUT, b"b", b"1")], [(b"b", None)]),
        ([Condition(VERSION, b"b", 1)], [Write(PUT, b"b", b"2")], [(b"a", b"z")]),
        ([], [Write(DELETE, b"a")], [(b"a", None)]),
        ([], [Write(PUT, b"a", b"new"), Write(PUT, b"gone", b"")], []),
        ([], [Write(DELETE_RANGE, b"g", b"h")], [(b"", b"")]),
    )
    result = only(machine, done)
    assert (result.status, result.revision, result.numbers) == (OK, revision + 1, [1, 2, 1, 1, 1, 1])
    assert [[entry.key for entry in entries] for entries in result.entries] == [[b"b"], [b"a", b"b"], [], [b"a", b"b"]]
    a, b = machine.store.current[b"a"], machine.store.current[b"b"]
    assert (a.value, a.version, a.created, a.modified) == (b"new", 1, revision + 1, revision + 1)
    assert (b.value, b.version) == (b"2", 2)
    assert b"gone" not in machine.store.current
    assert [entry.key for entry in machine.store.changes_after(revision)] == [b"a", b"b"]


def test_a_revision_that_was_told_is_not_used_again() -> None:
    machine = Machine()
    result = only(machine, sequence(([], [Write(PUT, b"k", b"")], [(b"k", None)]), ([], [Write(DELETE, b"k")], [])))
    assert result.entries[0][0].modified == machine.store.revision == 1
    put(machine, b"k", b"again")
    assert machine.store.current[b"k"].modified == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "a sequence of 2 bytes where 0 are left"),
        (b"\0\1", "a length of 4 bytes where 0 are left"),
        (b"\0\1\0\0\0\7", "a commit of 7 bytes where 0 are left"),
        (b"\0\1\0\0\0\7\0\0\0\0\0\0\0", "a commit with 1 bytes too many"),
        (b"\0\0\0", "a command with 1 bytes too many"),
        (b"\xff\xff", "a sequence of 65535 commits"),
    ],
)
def test_sequences_that_cannot_be_read_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        checks.check(pack_command(SEQUENCE, body))
