"""Machines: clocks, timers, pauses, and deaths at any point."""

from random import Random

from tests.unit.simulation.worlds import TwoMachines

from quorate.simulation.scheduler import MILLISECOND, SECOND, Clock


def test_a_clock_drifts_and_jumps_but_never_goes_back() -> None:
    clock = Clock(500, 50_000)
    assert clock.local(0) == 500
    assert clock.local(SECOND) == 500 + SECOND + SECOND // 20
    clock.change(SECOND, 7, -50_000)
    assert clock.local(SECOND) == 507 + SECOND + SECOND // 20
    assert clock.local(2 * SECOND) == 507 + 2 * SECOND
    for local in (clock.local(SECOND) + 1, clock.local(SECOND) + 12345, clock.local(9 * SECOND)):
        when = clock.when(local)
        assert clock.local(when) >= local
        assert clock.local(when - 1) < local


def test_timers_follow_the_machines_own_clock() -> None:
    world = TwoMachines()
    env = world.one.start(Random(1))
    world.one.change_clock(0, 100_000)
    fired: list[int] = []
    origin = env.now()
    for ms in (10, 20, 30):
        env.call_at(origin + ms * MILLISECOND, lambda: fired.append(world.scheduler.now))
    env.call_at(origin + 15 * MILLISECOND, lambda: fired.append(-1)).cancel()
    world.run(10)
    assert len(fired) == 1
    assert 9 * MILLISECOND < fired[0] <= 10 * MILLISECOND
    world.one.change_clock(15 * MILLISECOND, 0)
    world.run(1)
    assert len(fired) == 2
    world.run(100)
    assert len(fired) == 3


def test_a_pause_holds_events_back_and_lets_them_in_at_once() -> None:
    world = TwoMachines()
    world.connected()
    world.two.pause(world.scheduler.now + SECOND)
    for _ in range(3):
        world.write(b"x")
        world.run(100)
    assert world.server.data == b""
    world.run(1000)
    assert world.server.data == b"xxx"


def test_what_is_called_soon_comes_after_the_event_and_never_in_a_pause() -> None:
    world = TwoMachines()
    env = world.one.start(Random(1))
    order: list[str] = []

    def event() -> None:
        env.call_soon(lambda: order.append("soon"))
        order.append("event")

    world.one.enter(env, event)
    assert order == ["event", "soon"]
    world.one.batching = 1.0
    world.one.enter(env, event)
    assert order == ["event", "soon", "event"]
    world.one.pause(world.scheduler.now + SECOND)
    world.run(500)
    assert len(order) == 3
    world.run(1000)
    assert order[3:] == ["soon"]


def test_a_process_dies_at_the_effect_it_was_to_have() -> None:
    world = TwoMachines()
    world.connected()
    world.one.effects_left = 1
    world.write(b"a")
    assert world.deaths == 0
    world.write(b"b")
    assert world.deaths == 1
    world.run()
    assert world.server.data in (b"", b"a")
    assert world.server.events == ["connected", "closed: closed by the peer"]


def test_events_of_a_dead_process_do_not_reach_the_next() -> None:
    world = TwoMachines()
    env = world.one.start(Random(1))
    fired: list[str] = []
    env.call_at(env.now() + MILLISECOND, lambda: fired.append("old"))
    env.call_soon(lambda: fired.append("old"))
    world.one.end(power=True)
    new = world.one.start(Random(2))
    new.call_at(new.now() + 2 * MILLISECOND, lambda: fired.append("new"))
    world.one.enter(env, fired.append, "old")
    world.run(10)
    assert fired == ["new"]


def test_an_exception_of_the_process_is_reported() -> None:
    world = TwoMachines()
    env = world.one.start(Random(1))

    def bug() -> None:
        raise KeyError("bug")

    world.one.enter(env, bug)
    assert [repr(error) for error in world.failures] == ["KeyError('bug')"]
