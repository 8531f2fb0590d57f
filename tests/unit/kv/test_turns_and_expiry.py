"""What a leader does by its clock: turns for those who keep losing, and the ends of leases, sessions and delays."""

from functools import partial

from quorate.kv import commands
from quorate.kv.expiry import Expiry
from quorate.kv.machine import Machine
from quorate.kv.turns import TURN_NS, WAITING_MAX, Turns

_MS = 1_000_000


def test_turns_on_a_key_come_in_the_order_they_were_asked_for() -> None:
    turns = Turns()
    begun: list[int] = []
    one, two, three = object(), object(), object()
    assert turns.ask(0, one, [b"a", b"b"], partial(begun.append, 1))
    assert turns.ask(0, two, [b"b", b"c"], partial(begun.append, 2))
    assert turns.ask(0, three, [b"c"], partial(begun.append, 3))
    assert begun == [1], "the third waits behind the second, which waits for the first"
    first = turns.of(one)
    assert first is not None
    assert turns.of(two) is None
    assert turns.blocking(two, [b"a"]) is first
    assert turns.blocking(one, [b"a"]) is None
    assert turns.blocking(None, [b"c"]) is None, "nobody has that one yet"
    held: list[str] = []
    first.held.append(partial(held.append, "decided"))
    turns.end(1, first)
    assert (begun, held) == ([1, 2], ["decided"])
    turns.end(1, first)
    turns.expire(1 + TURN_NS)
    assert begun == [1, 2, 3]
    turns.forget(2 + TURN_NS, three)
    assert not turns
    assert turns.deadline() == -1


def test_turns_are_bounded_and_forgotten_by_a_leader_that_is_none() -> None:
    turns = Turns()
    held: list[str] = []
    for number in range(WAITING_MAX):
        assert turns.ask(0, number, [b"k"], lambda: None)
    assert not turns.ask(0, "one too many", [b"k"], lambda: None)
    first = turns.of(0)
    assert first is not None
    first.held.append(partial(held.append, "told"))
    for commit in turns.clear():
        commit()
    assert held == ["told"]
    turns.end(0, first)
    assert turns.ask(0, "now", [b"k"], lambda: None)


def machine_with(ttl_ms: int) -> tuple[Machine, int, int]:
    machine = Machine()
    machine.apply(commands.pack_command(commands.GRANT_LEASE, commands.grant_lease_body(0, ttl_ms)))
    machine.apply(commands.pack_command(commands.OPEN_SESSION, commands.open_session_body(2 * ttl_ms)))
    return machine, next(iter(machine.leases)), next(iter(machine.sessions))


def test_what_is_not_kept_alive_ends_after_its_time_and_once() -> None:
    machine, lease, session = machine_with(100)
    expiry = Expiry(machine)
    expiry.begin(0)
    assert expiry.deadline() == 100 * _MS
    assert expiry.due(99 * _MS) == []
    assert expiry.keep_alive(99 * _MS, lease)
    assert expiry.due(150 * _MS) == []
    (revoke,) = expiry.due(199 * _MS)
    assert revoke == commands.pack_command(commands.REVOKE_LEASES, commands.numbers_body([lease]))
    assert expiry.due(199 * _MS) == [], "its end is proposed already"
    assert not expiry.keep_alive(199 * _MS, lease), "too late"
    machine.apply(revoke)
    expiry.look(199 * _MS)
    (close,) = expiry.due(200 * _MS)
    machine.apply(close)
    expiry.look(200 * _MS)
    assert not machine.leases
    assert not machine.sessions
    assert not expiry.keep_alive(200 * _MS, session)
    assert expiry.due(10**12) == []


def test_a_new_leader_gives_everything_its_whole_time() -> None:
    machine, lease, _ = machine_with(100)
    expiry = Expiry(machine)
    expiry.begin(0)
    expiry.due(90 * _MS)
    expiry.end()
    expiry.begin(1000 * _MS)
    assert expiry.due(1099 * _MS) == []
    assert expiry.keep_alive(1099 * _MS, lease)


def test_a_lock_that_was_lost_can_be_taken_after_its_delay() -> None:
    machine = Machine()
    machine.apply(
        commands.pack_command(commands.GRANT_LEASE, commands.grant_lease_body(7, 0, commands.RELEASE_LOCKS, 50))
    )
    write = commands.Write(commands.ACQUIRE, b"lock", lease=7)
    machine.apply(commands.pack_command(commands.COMMIT, commands.commit_body([], [write])))
    expiry = Expiry(machine)
    expiry.begin(0)
    assert expiry.deadline() == -1, "a lease without a time lives until it is revoked"
    machine.apply(commands.pack_command(commands.REVOKE_LEASES, commands.numbers_body([7])))
    expiry.look(10 * _MS)
    assert expiry.due(59 * _MS) == []
    (end,) = expiry.due(60 * _MS)
    machine.apply(end)
    assert machine.delays == {}
