"""What is prepared for transactions over shards: intents, locks and outcomes, and every other command against them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.errors import CorruptionError, RemoteProtocolError
from quorate.kv import checks, commands, intents
from quorate.kv.commands import (
    ABORTED,
    ABSENT,
    ABSENT_OR_MODIFIED,
    ACQUIRE,
    COMMIT,
    COMMITTED,
    CONFLICT,
    DELETE,
    DELETE_RANGE,
    EXISTS,
    FENCED,
    FINISH,
    FULL,
    HELD_BY,
    LEASED,
    LOCKED,
    MODIFIED,
    OK,
    OTHER_INTENT,
    PREPARE,
    PREPARED,
    PUT,
    RELEASE,
    SEQUENCE,
    TIDY,
    UNCHANGED,
    UNDECIDED,
    VALUE,
    VERSION,
    Condition,
    Read,
    Write,
    commit_body,
    pack_command,
)
from quorate.kv.machine import Machine
from quorate.kv.results import Result, unpack_result
from quorate.kv.snapshot import Restorer, snapshot

T1, T2 = b"q.shop.1/kv", b"q.shop.2/kv"
DECISION = b"quorate/txn/shop/d/q.shop.1"
MINUTE = 60_000


def do(machine: Machine, kind: int, body: bytes, session: int = 0, seq: int = 0, acked: int = 0) -> Result:
    command = pack_command(kind, body, session, seq, acked)
    checks.check(command)
    (result,) = machine.apply(command)
    return unpack_result(result)


def commit(
    machine: Machine, conditions: Sequence[Condition] = (), writes: Sequence[Write] = (), reads: Sequence[Read] = ()
) -> Result:
    return do(machine, COMMIT, commit_body(conditions, writes, reads))


def put(key: bytes, value: bytes = b"new", **more: int) -> Write:
    return Write(PUT, key, value, **more)


def prepare(
    machine: Machine,
    id_: bytes,
    conditions: Sequence[Condition] = (),
    writes: Sequence[Write] = (),
    *,
    deadline: int = MINUTE,
    at_once: bool = False,
) -> Result:
    body = commit_body(conditions, writes)
    return do(machine, PREPARE, commands.prepare_body(id_, DECISION, deadline, body, at_once))


def finish(machine: Machine, id_: bytes, committed: bool, until: int = MINUTE) -> Result:
    return do(machine, FINISH, commands.finish_body(id_, committed, until))


def value(machine: Machine, key: bytes) -> bytes | None:
    entry = machine.store.current.get(key)
    return None if entry is None else entry.value


def restored(machine: Machine) -> Machine:
    restorer = Restorer()
    for piece in snapshot(machine):
        restorer.feed(piece)
    restorer.finish()
    return restorer.machine


@pytest.fixture
def machine() -> Machine:
    """Keys a, b, c with the value ``old``; ``w`` is written, ``r`` was read, the range from s to t was read, by a prepared transaction."""
    machine = Machine()
    for key in (b"a", b"r", b"s1", b"w"):
        commit(machine, writes=[put(key, b"old")])
    conditions = [Condition(VERSION, b"r", 1), Condition(UNCHANGED, b"s", 4, b"t")]
    found = prepare(machine, T1, conditions, [put(b"w")])
    assert (found.status, found.numbers) == (OK, [PREPARED, 0])
    return machine


# ---- prepare and finish


def test_what_is_prepared_is_written_at_its_finish_once_and_at_one_revision(machine: Machine) -> None:
    revision = machine.store.revision
    assert value(machine, b"w") == b"old"
    for _ in range(2):
        assert finish(machine, T1, True).numbers == [COMMITTED, revision + 1]
        assert machine.store.revision == revision + 1
        entry = machine.store.current[b"w"]
        assert (entry.value, entry.version, entry.modified) == (b"new", 2, revision + 1)
    assert machine.outcome(T1) == (COMMITTED, revision + 1)
    assert commit(machine, writes=[put(b"w"), put(b"r"), put(b"s1")]).status == OK


def test_what_is_aborted_leaves_no_trace_but_its_outcome(machine: Machine) -> None:
    revision = machine.store.revision
    assert finish(machine, T1, False).numbers == [ABORTED, 0]
    assert (machine.store.revision, value(machine, b"w")) == (revision, b"old")
    assert machine.outcome(T1) == (ABORTED, 0)
    assert commit(machine, writes=[put(b"w"), put(b"r"), put(b"s1")]).status == OK


def test_outcomes_do_not_change(machine: Machine) -> None:
    finish(machine, T1, True)
    committed = machine.digest()
    assert finish(machine, T1, False).numbers[0] == COMMITTED
    assert machine.digest() == committed
    prepare(machine, T2, writes=[put(b"a")])
    finish(machine, T2, False)
    aborted = machine.digest()
    assert finish(machine, T2, True).numbers[0] == ABORTED
    assert (machine.digest(), value(machine, b"a")) == (aborted, b"old")


def test_a_commit_of_what_was_never_prepared_is_told_and_does_nothing() -> None:
    machine = Machine()
    before = machine.digest()
    assert finish(machine, T1, True).numbers == [UNDECIDED, 0]
    assert machine.digest() == before


def test_an_abort_fences() -> None:
    machine = Machine()
    assert finish(machine, T1, False).numbers == [ABORTED, 0]
    assert prepare(machine, T1, writes=[put(b"a")]).status == FENCED
    assert not machine.locks.intents
    assert prepare(machine, T1, writes=[put(b"a")], at_once=True).status == FENCED
    assert value(machine, b"a") is None


def test_prepared_again_it_answers_the_same_whoever_asks(machine: Machine) -> None:
    conditions = [Condition(VERSION, b"r", 1), Condition(UNCHANGED, b"s", 4, b"t")]
    before = machine.digest()
    assert prepare(machine, T1, conditions, [put(b"w")]).numbers == [PREPARED, 0]
    assert machine.digest() == before
    assert prepare(machine, T1, conditions, [put(b"w", b"another")]).status == OTHER_INTENT
    revision = finish(machine, T1, True).revision
    # its own write makes its conditions wrong: that must not matter
    assert prepare(machine, T1, conditions, [put(b"w")]).numbers == [COMMITTED, revision]
    assert machine.store.current[b"w"].version == 2


def test_conditions_are_looked_at(machine: Machine) -> None:
    found = prepare(machine, T2, [Condition(VERSION, b"a", 7)], [put(b"b")])
    assert (found.status, found.conflicts[0].key) == (CONFLICT, b"a")
    assert T2 not in machine.locks.intents
    assert commit(machine, writes=[put(b"b")]).status == OK


def test_at_once_it_is_committed_and_remembered() -> None:
    machine = Machine()
    for _ in range(2):
        assert prepare(machine, T1, [Condition(ABSENT, b"a")], [put(b"a")], at_once=True).numbers == [COMMITTED, 1]
    assert (value(machine, b"a"), machine.store.revision, machine.outcome(T1)) == (b"new", 1, (COMMITTED, 1))
    assert not machine.locks.intents
    assert finish(machine, T1, False).numbers == [COMMITTED, 1]


def test_one_that_only_reads_holds_what_it_read() -> None:
    machine = Machine()
    prepare(machine, T1, [Condition(ABSENT, b"a")])
    assert commit(machine, writes=[put(b"a")]).status == LOCKED
    assert finish(machine, T1, True).numbers == [COMMITTED, 0]
    assert commit(machine, writes=[put(b"a")]).status == OK


def test_two_may_read_the_same(machine: Machine) -> None:
    assert (
        prepare(machine, T2, [Condition(VERSION, b"r", 1), Condition(UNCHANGED, b"r\0", 4, b"w")], [put(b"x")]).status
        == OK
    )
    finish(machine, T1, True)
    assert commit(machine, writes=[put(b"r")]).lockers[0].id == T2
    finish(machine, T2, True)
    assert commit(machine, writes=[put(b"r")]).status == OK


# ---- everything else against locks

LEASE = 77
IN_THE_WAY: dict[str, tuple[Sequence[Condition], Sequence[Write], Sequence[Read]]] = {
    "put of a written key": ((), [put(b"w")], ()),
    "put of a read key": ((), [put(b"r")], ()),
    "put in a range that was read": ((), [put(b"s2")], ()),
    "delete of a written key": ((), [Write(DELETE, b"w")], ()),
    "delete of a read key": ((), [Write(DELETE, b"r")], ()),
    "delete in a range that was read": ((), [Write(DELETE, b"s1")], ()),
    "delete of a range with a written key": ((), [Write(DELETE_RANGE, b"v", b"x")], ()),
    "delete of a range with a read key": ((), [Write(DELETE_RANGE, b"q", b"ra")], ()),
    "delete of everything from a read range on": ((), [Write(DELETE_RANGE, b"sz", b"")], ()),
    "lock of a written key": ((), [Write(ACQUIRE, b"w", lease=LEASE)], ()),
    "lock of a read key": ((), [Write(ACQUIRE, b"r", lease=LEASE)], ()),
    "unlock of a written key": ((), [Write(RELEASE, b"w", lease=LEASE)], ()),
    "put with a lease of a read key": ((), [put(b"r", lease=LEASE)], ()),
    "on a version": ([Condition(VERSION, b"w", 1)], [put(b"a")], ()),
    "on a version that is wrong already": ([Condition(VERSION, b"w", 9)], [put(b"a")], ()),
    "on a revision": ([Condition(MODIFIED, b"w", 4)], [put(b"a")], ()),
    "on existence": ([Condition(EXISTS, b"w")], [put(b"a")], ()),
    "on absence": ([Condition(ABSENT, b"w")], [put(b"a")], ()),
    "on a value": ([Condition(VALUE, b"w", 0, b"old")], [put(b"a")], ()),
    "on a holder": ([Condition(HELD_BY, b"w", 0)], [put(b"a")], ()),
    "on absence or a revision": ([Condition(ABSENT_OR_MODIFIED, b"w", 4)], [put(b"a")], ()),
    "on a range": ([Condition(UNCHANGED, b"v", 4, b"")], [put(b"a")], ()),
    "and reads a written key": ((), [put(b"a")], [(b"w", None)]),
    "and reads a range with a written key": ((), [put(b"a")], [(b"a", b"")]),
}
NOT_IN_THE_WAY: dict[str, tuple[Sequence[Condition], Sequence[Write], Sequence[Read]]] = {
    "put of another key": ((), [put(b"a")], ()),
    "put right behind a range that was read": ((), [put(b"t")], ()),
    "on a read key": ([Condition(VERSION, b"r", 1), Condition(UNCHANGED, b"s", 4, b"t")], [put(b"a")], ()),
    "and reads what was read": ((), [put(b"a")], [(b"r", None), (b"s", b"t")]),
    "delete of a range between": ((), [Write(DELETE_RANGE, b"t", b"w")], ()),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
@pytest.mark.parametrize("kind", [COMMIT, SEQUENCE, PREPARE])
def test_whoever_needs_a_locked_key_is_told_by_whom_and_nothing_is_done(machine: Machine, name: str, kind: int) -> None:
    do(machine, commands.GRANT_LEASE, commands.grant_lease_body(LEASE, 1000))
    conditions, writes, reads = IN_THE_WAY[name]
    body = commit_body(conditions, writes, reads)
    if kind == SEQUENCE:
        body = commands.sequence_body([commit_body([], [put(b"b")]), body])
    elif kind == PREPARE:
        if reads or any(write.kind not in (PUT, DELETE) or write.lease for write in writes):
            return  # refused before it gets here: see below
        body = commands.prepare_body(T2, b"", MINUTE, body)
    before = machine.digest()
    found = do(machine, kind, body)
    assert found.status == LOCKED
    assert [(told.id, told.decision, told.deadline_ms) for told in found.lockers] == [(T1, DECISION, MINUTE)]
    assert found.lockers[0].transaction == "q.shop.1"
    assert machine.digest() == before
    finish(machine, T1, False)
    assert do(machine, kind, body).status != LOCKED


@pytest.mark.parametrize("name", NOT_IN_THE_WAY)
def test_whoever_needs_none_goes_on(machine: Machine, name: str) -> None:
    assert commit(machine, *NOT_IN_THE_WAY[name]).status == OK


@pytest.mark.parametrize("key", [b"w", b"r", b"s2"])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_quick_way_of_single_puts_sees_locks_too(machine: Machine, key: bytes, conditional: bool) -> None:
    session = do(machine, commands.OPEN_SESSION, commands.open_session_body(1000)).numbers[0]
    version = 0 if key == b"s2" else 1
    body = commit_body([Condition(VERSION, key, version)] if conditional else [], [put(key)])
    assert do(machine, COMMIT, body, session, 1).status == LOCKED
    # what was told is told again, and a new command is looked at anew
    finish(machine, T1, False)
    assert do(machine, COMMIT, body, session, 1).status == LOCKED
    assert do(machine, COMMIT, body, session, 2).status == OK


def test_leases_and_locked_keys_have_nothing_to_do_with_one_another(machine: Machine) -> None:
    do(machine, commands.GRANT_LEASE, commands.grant_lease_body(LEASE, 1000))
    commit(machine, writes=[put(b"a", lease=LEASE), Write(ACQUIRE, b"b", lease=LEASE)])
    for key in (b"a", b"b"):
        assert prepare(machine, T2, writes=[put(key)]).status == LEASED
        assert prepare(machine, T2, [Condition(EXISTS, key)], [put(b"x")]).status == LEASED
        revision = machine.store.revision
        assert prepare(machine, T2, [Condition(UNCHANGED, key, revision, key + b"\0")], [put(b"x")]).status == LEASED
    # nobody waits for it afterwards, so nothing can come between
    assert prepare(machine, T2, writes=[put(b"b")], at_once=True).status == OK
    held = machine.locks.intents[T1]
    do(machine, commands.REVOKE_LEASES, commands.numbers_body([LEASE]))
    assert machine.locks.intents == {T1: held}
    assert value(machine, b"a") is None
    assert finish(machine, T1, True).numbers[0] == COMMITTED


def test_what_touches_no_key_is_not_held_up(machine: Machine) -> None:
    session = do(machine, commands.OPEN_SESSION, commands.open_session_body(1000)).numbers[0]
    assert do(machine, commands.COMPACT, commands.numbers_body([machine.store.revision])).status == OK
    assert do(machine, commands.END_DELAYS, commands.keys_body([b"w"])).status == OK
    assert do(machine, commands.CLOSE_SESSIONS, commands.numbers_body([session])).status == OK
    assert finish(machine, T1, True).numbers[0] == COMMITTED


# ---- what comes from outside


def prepared(id_: bytes, decision: bytes, body: bytes) -> bytes:
    return pack_command(PREPARE, commands.prepare_body(id_, decision, 0, body))


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (prepared(b"", b"", commit_body([], [put(b"a")])), "0 bytes of name"),
        (prepared(b"x" * 129, b"", commit_body([], [put(b"a")])), "129 bytes of name"),
        (prepared(b"x", b"k" * 257, commit_body([], [put(b"a")])), "257 of decision key"),
        (prepared(b"x", b"", commit_body([], [])), "does nothing"),
        (prepared(b"x", b"", commit_body([], [put(b"a")], [(b"a", None)])), "that reads"),
        (prepared(b"x", b"", commit_body([], [put(b"a", lease=7)])), "without a lease"),
        (prepared(b"x", b"", commit_body([], [put(b"a", options=commands.KEEP_LEASE)])), "without a lease"),
        (prepared(b"x", b"", commit_body([], [Write(DELETE_RANGE, b"a", b"b")])), "nor a deletion"),
        (prepared(b"x", b"", commit_body([], [Write(ACQUIRE, b"a", lease=7)])), "nor a deletion"),
        (prepared(b"x", b"", commit_body([], [put(DECISION)])), "that is for decisions"),
        (prepared(b"x", b"", commit_body([Condition(EXISTS, DECISION)], [])), "that is for decisions"),
        (prepared(b"x", b"", commit_body([Condition(UNCHANGED, b"a", 1, b"")], [])), "that is for decisions"),
        (prepared(b"x", b"", commit_body([Condition(UNCHANGED, DECISION, 1, DECISION + b"z")], [])), "for decisions"),
        (prepared(b"x", b"", commit_body([], [put(b"a")]) + b"!"), "1 bytes too many"),
        (prepared(b"x", b"", commit_body([], [put(b"a")])[:-1]), "are left"),
        (pack_command(FINISH, commands.finish_body(b"", True, 0)), "0 bytes of name"),
        (pack_command(FINISH, commands.finish_body(b"x" * 129, True, 0)), "129 bytes of name"),
        (pack_command(FINISH, b"\0\1\2" + bytes(8) + b"x"), "says 2"),
        (pack_command(FINISH, commands.finish_body(b"x", True, 0) + b"!"), "1 bytes too many"),
        (pack_command(TIDY, commands.tidy_body(b"", 0)), "prefix of 0 bytes"),
        (pack_command(TIDY, commands.tidy_body(b"x" * 129, 0)), "prefix of 129 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(command: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        checks.check(command)


def test_a_prepare_names_its_keys_and_ranges_for_whoever_looks_for_its_shard() -> None:
    body = commit_body([Condition(EXISTS, b"a"), Condition(UNCHANGED, b"b", 1, b"c")], [put(b"d")])
    assert checks.check(prepared(b"x", DECISION, body)) == (PREPARE, [b"a", b"d"], [(b"b", b"c")])


WHOLE = [
    pack_command(PREPARE, commands.prepare_body(T1, DECISION, 7, commit_body([Condition(UNCHANGED, b"s", 1, b"t")], [put(b"a"), Write(DELETE, b"b")]))),
    pack_command(PREPARE, commands.prepare_body(T2, b"", 7, commit_body([Condition(VALUE, b"a", 0, b"x")], [put(b"a")]), True)),
    pack_command(FINISH, commands.finish_body(T1, True, 7)),
    pack_command(TIDY, commands.tidy_body(b"q.", 7)),
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(WHOLE), st.integers(0, 1 << 16), st.binary(max_size=9), st.integers(0, 9))
def test_what_passes_the_check_can_be_applied(command: bytes, at: int, data: bytes, cut: int) -> None:
    at %= len(command)
    changed = command[:at] + data + command[at + cut :]
    # of the length that it says, so that more than that is looked at
    changed = (len(changed) - commands.HEAD.size & 0xFFFFFFFF).to_bytes(4, "big") + changed[4:]
    try:
        checks.check(changed)
    except RemoteProtocolError:
        return
    machine = Machine()
    commit(machine, writes=[put(b"a"), put(b"s1")])
    for _ in range(2):
        (result,) = machine.apply(changed)
        unpack_result(result)
    assert restored(machine).digest() == machine.digest()


# ---- bounds


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound, most in (("INTENTS_MAX", 2), ("LOCKS_MAX", 4), ("INTENT_BYTES_MAX", 150), ("RANGES_MAX", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(intents, bound, most)
            machine = Machine()
            results = [
                prepare(
                    machine,
                    b"%d" % at,
                    [Condition(UNCHANGED, b"r%d" % at, 0, b"r%d\0" % at), Condition(ABSENT, b"s%d" % at)],
                    [put(b"k%d" % at)],
                )
                for at in range(3)
            ]
            assert [found.status for found in results] == [OK, OK, FULL], bound
            finish(machine, b"0", True)
            assert prepare(machine, b"9", writes=[put(b"k")]).status == OK
    monkeypatch.setattr(intents, "OUTCOMES_MAX", 3)
    machine = Machine()
    prepare(machine, b"q.a.1", writes=[put(b"a")])
    for id_ in (b"q.a.2", b"q.a.3"):
        assert finish(machine, id_, False).numbers == [ABORTED, 0]
    assert prepare(machine, b"q.a.4", writes=[put(b"b")]).status == FULL
    # what is prepared has its place
    assert finish(machine, b"q.a.1", True).numbers == [COMMITTED, 1]
    assert finish(machine, b"q.a.5", False).status == FULL
    assert do(machine, TIDY, commands.tidy_body(b"q.a.", 10 * MINUTE)).numbers == [3]
    assert finish(machine, b"q.a.5", False, 20 * MINUTE).status == OK
    monkeypatch.setattr(intents, "SPACES_MAX", 2)
    assert do(machine, TIDY, commands.tidy_body(b"q.b.", 1)).status == OK
    assert do(machine, TIDY, commands.tidy_body(b"q.c.", 1)).status == FULL
    assert do(machine, TIDY, commands.tidy_body(b"q.b.", 2)).status == OK


# ---- tidying


def test_outcomes_are_forgotten_by_their_time_and_none_of_that_time_can_be_prepared() -> None:
    machine = Machine()
    for at in range(1, 4):
        prepare(machine, b"q.a.%d" % at, writes=[put(b"k")], deadline=at * MINUTE)
        finish(machine, b"q.a.%d" % at, True)
    prepare(machine, b"q.b.1", writes=[put(b"k")], deadline=MINUTE)
    finish(machine, b"q.b.1", True)
    assert do(machine, TIDY, commands.tidy_body(b"q.a.", 3 * MINUTE)).numbers == [2]
    assert [machine.outcome(b"q.a.%d" % at)[0] for at in (1, 2, 3)] == [UNDECIDED, UNDECIDED, COMMITTED]
    assert machine.outcome(b"q.b.1")[0] == COMMITTED
    # a prepare that was on its way for very long is not taken for a new one
    assert prepare(machine, b"q.a.1", writes=[put(b"k")], deadline=MINUTE).status == FENCED
    assert prepare(machine, b"q.a.9", writes=[put(b"k")], deadline=3 * MINUTE).status == OK
    # and whoever asks for an abort is not told that it was one
    assert finish(machine, b"q.a.1", False, MINUTE).numbers == [UNDECIDED, 0]
    # time does not go back
    do(machine, TIDY, commands.tidy_body(b"q.a.", 1))
    assert prepare(machine, b"q.a.1", writes=[put(b"k")], deadline=MINUTE).status == FENCED


# ---- snapshots


def test_a_snapshot_has_all_of_it(machine: Machine) -> None:
    prepare(machine, T2, writes=[put(b"b")])
    finish(machine, T2, True)
    finish(machine, b"q.shop.3/kv", False)
    do(machine, TIDY, commands.tidy_body(b"q.old.", 7))
    other = restored(machine)
    assert other.digest() == machine.digest()
    for name in IN_THE_WAY:
        conditions, writes, reads = IN_THE_WAY[name]
        if not any(write.lease for write in writes):
            assert commit(other, conditions, writes, reads).status == LOCKED, name
    assert prepare(other, b"q.shop.3/kv", writes=[put(b"a")]).status == FENCED
    assert prepare(other, b"q.old.1/kv", writes=[put(b"a")], deadline=6).status == FENCED
    for each in (machine, other):
        assert finish(each, T1, True).numbers[0] == COMMITTED
        assert finish(each, T2, False).numbers[0] == COMMITTED
    assert other.digest() == machine.digest()


def test_a_digest_tells_of_all_of_it() -> None:
    def made(*steps: int) -> bytes:
        machine = Machine()
        if 1 in steps:
            prepare(machine, T1, writes=[put(b"a")])
        if 2 in steps:
            prepare(machine, T1, writes=[put(b"a")], deadline=MINUTE + 1)
        if 3 in steps:
            finish(machine, T1, False)
        if 4 in steps:
            finish(machine, T1, False, MINUTE + 1)
        if 5 in steps:
            do(machine, TIDY, commands.tidy_body(b"q.", 7))
        return machine.digest()

    ways = [(), (1,), (2,), (3,), (4,), (5,)]
    assert len({made(*steps) for steps in ways}) == len(ways)


def test_a_damaged_snapshot_is_noticed(machine: Machine) -> None:
    finish(machine, T1, False)
    data = b"".join(snapshot(machine))
    at = data.index(b"\x09" + len(T1).to_bytes(2, "big") + bytes((ABORTED,)))
    restorer = Restorer()
    with pytest.raises(CorruptionError, match="an outcome of kind 9"):
        restorer.feed(data[: at + 3] + b"\x09" + data[at + 4 :])


# ---- at random

KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
RANGES = st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"b", b"c", b"d", b"e"])).filter(
    lambda found: found[0] < found[1]
)
CONDITIONS = st.one_of(
    st.builds(lambda key, number: Condition(VERSION, key, number), KEYS, st.integers(0, 2)),
    st.builds(lambda key: Condition(EXISTS, key), KEYS),
    st.builds(lambda key: Condition(ABSENT, key), KEYS),
    st.builds(lambda bounds, back: (bounds, back), RANGES, st.integers(0, 2)),
)
WRITES = st.lists(
    st.one_of(st.builds(put, KEYS, st.binary(min_size=1, max_size=2)), st.builds(lambda key: Write(DELETE, key), KEYS)),
    max_size=2,
    unique_by=lambda write: write.key,
)
READS = st.lists(st.one_of(st.builds(lambda key: (key, None), KEYS), RANGES), max_size=1)
STEPS = st.one_of(
    st.tuples(st.just("commit"), st.lists(CONDITIONS, max_size=2), WRITES, READS),
    st.tuples(st.just("prepare"), st.integers(1, 4), st.lists(CONDITIONS, max_size=2), WRITES),
    st.tuples(st.just("finish"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("delete range"), RANGES),
)


def conditions_at(machine: Machine, drawn: Sequence[Any]) -> list[Condition]:
    """Conditions on ranges are of a revision near the present one, never before a compaction (there is none)."""
    found = []
    for each in drawn:
        if isinstance(each, Condition):
            found.append(each)
        else:
            (start, end), back = each
            found.append(Condition(UNCHANGED, start, max(machine.store.revision - back, 0), end))
    return found


def said(found: Result) -> object:
    """What a commit's author sees, without revisions: these depend on what else is committed."""
    shown = [[(entry.key, entry.value, entry.version) for entry in entries] for entries in found.entries]
    return found.status, found.numbers, shown, [(told.key, told.version) for told in found.conflicts]


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_whoever_is_not_told_of_a_lock_sees_the_same_whatever_becomes_of_what_is_prepared(steps: list[tuple]) -> None:  # type: ignore[type-arg]  # of any of the shapes above
    machine = Machine()
    expected: dict[bytes, list[Condition]] = {}
    for kind, *rest in steps:
        if kind == "finish":
            number, committed = rest
            id_ = b"%d" % number
            intent = machine.locks.intents.get(id_)
            if intent is not None:
                # what held when it was prepared still does
                probe = restored(machine)
                probe.locks = intents.Locks()
                assert commit(probe, expected[id_], []).status == OK
            finish(machine, id_, committed)
            continue
        if kind == "prepare":
            number, drawn, writes = rest
            conditions = conditions_at(machine, drawn)
            if not conditions and not writes:
                continue
            if prepare(machine, b"%d" % number, conditions, writes).numbers[:1] == [PREPARED]:
                expected.setdefault(b"%d" % number, conditions)
            continue
        if kind == "commit":
            drawn, writes, reads = rest
            conditions = conditions_at(machine, drawn)
        else:
            conditions, writes, reads = [], [Write(DELETE_RANGE, *rest[0])], []
        after = [restored(machine) for _ in range(2)]
        for committed, other in zip((True, False), after, strict=True):
            for id_ in list(other.locks.intents):
                finish(other, id_, committed)
        found = commit(machine, conditions, writes, reads)
        if found.status != LOCKED:
            assert [said(commit(other, conditions, writes, reads)) for other in after] == [said(found)] * 2
        assert restored(machine).digest() == machine.digest()
