"""A session that goes on over another connection while requests of the one before are still on their way."""

import random
from collections.abc import Callable

from quorate.simulation.scheduler import MILLISECOND, SECOND, Stream
from quorate.simulation.zookeeper import options as swarm
from quorate.simulation.zookeeper.client import Client
from quorate.simulation.zookeeper.member import CLIENT_PORT, address_of
from quorate.simulation.zookeeper.world import World
from quorate.verification.history import History, Operation


def quiet_world(seed: int, **changes: object) -> World:
    options = swarm.complete(seed, {"enabled": [], "drift_ppm": 0, "blind": False, "batching": 0.0, **changes})
    return World(seed, options, keep_trace=False)


def step_until(world: World, condition: Callable[[], bool]) -> None:
    limit = world.scheduler.now + 60 * SECOND
    while not condition():
        assert world.scheduler.now < limit
        assert world.scheduler.step()
    assert not world.failure, world.failure


def test_a_client_that_counts_from_one_again_gets_no_other_requests_answers() -> None:
    """kazoo numbers the requests of every connection from 1; a late transaction of the old connection has the number of a
    request on the new one."""
    world = quiet_world(1, voters=1, observers=0, disk_latency=20 * MILLISECOND, delay=MILLISECOND // 10)
    history = History(clock=lambda: world.scheduler.now)
    ended: list[Operation] = []
    machine = world.client_machine(1)
    env = machine.start(random.Random(1))
    world.start(1)
    servers = [(address_of(1), CLIENT_PORT)]
    client = Client(env, Stream(1, "client"), "c1", servers, 10_000, history, ended.append, counts_anew=True)
    client.start()
    step_until(world, lambda: client.connected)
    asked: list[Operation] = []

    def create() -> None:
        asked.append(client.submit("create", "/a", {"data": "first"}))

    def get_and_set() -> None:
        asked.append(client.submit("set", "/", {"data": "second", "version": -1}))
        asked.append(client.submit("create", "/a", {"data": "third"}))

    client.act(create)
    member = world.member(1)
    assert member is not None
    step_until(world, lambda: member.server.outstanding == 1)
    world.network.reset(next(end for end in world.network.ends if end.machine is machine and end.open))
    step_until(world, lambda: not client.connected)
    step_until(world, lambda: client.connected)
    client.act(get_and_set)
    step_until(world, lambda: len(asked) == 3 and client.outstanding == 0)
    first, second, third = asked
    assert first.outcome == "unknown"
    assert second.outcome == "ok", second
    assert second.result["stat"]["dataLength"] == len("second")
    assert third.outcome == "fail", third
    assert third.result["error"] == -110
