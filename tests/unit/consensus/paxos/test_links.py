"""Who dials whom, on a virtual network: whoever knows the other gets a connection, and two that dial at once keep one."""

from collections.abc import Callable
from random import Random

import pytest
from tests.unit.simulation.worlds import TwoMachines

from quorate.consensus.paxos import wire
from quorate.consensus.paxos.links import Links
from quorate.runtime.environment import MILLISECOND
from quorate.simulation.machine import Machine, SimulatedEnvironment

PORT = 7000
IDLE = 200 * MILLISECOND


class End:
    """A member's links, and what they told it. Implements links.Receiver."""

    def __init__(self, machine: Machine, sid: int, seed: int) -> None:
        self.other = 3 - sid
        self.machine = machine
        self.env: SimulatedEnvironment = machine.start(Random(f"{seed} {sid}"))
        self.links = Links(self.env, sid, 7, self, IDLE)
        self.up = False
        self.downs = 0
        self.frames: list[bytes] = []
        self.enter(lambda: self.links.listen("", PORT))

    def enter(self, call: Callable[..., None]) -> None:
        self.machine.enter(self.env, call)

    def begin(self, other: Machine | None = None) -> None:
        """``other``: given if it knows the other's address."""
        self.know({} if other is None else {self.other: (other.address, PORT)})
        self.enter(self.links.begin)

    def know(self, addresses: dict[int, tuple[str, int]]) -> None:
        self.enter(lambda: self.links.set_addresses(addresses))

    def send(self, text: bytes) -> None:
        self.enter(lambda: self.links.send(self.other, wire.frame([text])))

    def link_up(self, sid: int) -> None:
        assert sid == self.other
        assert not self.up
        self.up = True

    def link_down(self, sid: int) -> None:
        assert sid == self.other
        assert self.up
        self.up = False
        self.downs += 1

    def received(self, sid: int, frame: bytes) -> None:
        assert self.up
        self.frames.append(frame)


class Pair:
    def __init__(self, seed: int, delay: int) -> None:
        self.world = TwoMachines(seed, delay)
        self.lesser, self.greater = End(self.world.one, 1, seed), End(self.world.two, 2, seed)

    def run(self, ms: float) -> None:
        self.world.run(ms)
        assert not self.world.failures

    def judge(self) -> None:
        """Both are up, over one connection that carries frames both ways and stays."""
        ends = (self.lesser, self.greater)
        assert [end.up for end in ends] == [True, True]
        downs = [end.downs for end in ends]
        for end in ends:
            end.send(b"hello")
        self.run(5000)
        assert [end.frames for end in ends] == [[b"hello"], [b"hello"]]
        assert [end.downs for end in ends] == downs
        assert len(self.world.network.ends) == 2, "one connection has two ends"


@pytest.mark.parametrize("knows", ["lesser", "greater"])
def test_one_that_knows_the_other_is_enough(knows: str) -> None:
    pair = Pair(1, MILLISECOND)
    one, two = pair.world.one, pair.world.two
    pair.lesser.begin(two if knows == "lesser" else None)
    pair.greater.begin(one if knows == "greater" else None)
    pair.run(3000)
    pair.judge()


def test_the_lesser_leaves_it_to_the_greater_for_a_while() -> None:
    pair = Pair(1, MILLISECOND)
    pair.lesser.begin(pair.world.two)
    pair.greater.begin()
    pair.run(IDLE / MILLISECOND)
    assert not pair.lesser.up
    assert not pair.greater.up
    pair.run(3000)
    pair.judge()


def test_of_two_that_dial_at_once_the_greater_is_heard() -> None:
    """The lesser's connection gives way at most once; the greater's is never dropped."""
    collisions = 0
    for seed in range(300):
        pair = Pair(seed, 8 * MILLISECOND)
        # the lesser dials between one and two idle times after its beginning: the greater begins then
        pair.lesser.begin(pair.world.two)
        pair.run(IDLE / MILLISECOND + Random(seed).randrange(200))
        pair.greater.begin(pair.world.one)
        pair.run(5000)
        downs = pair.lesser.downs, pair.greater.downs
        assert max(downs) <= 1, f"seed {seed}"
        collisions += max(downs)
        pair.judge()
        assert (pair.lesser.machine.address, PORT) in [end.local for end in pair.world.network.ends] or not max(downs)
    assert collisions > 10, f"only {collisions} of them dialled at once"


def test_a_connection_that_broke_is_made_again_by_the_one_that_knows() -> None:
    for seed in range(20):
        pair = Pair(seed, MILLISECOND)
        pair.lesser.begin(pair.world.two)
        pair.greater.begin()
        pair.run(3000)
        for end in list(pair.world.network.ends):
            pair.world.network.reset(end)
        pair.run(3000)
        assert pair.lesser.downs == pair.greater.downs == 1
        pair.judge()


def test_whoever_is_not_named_any_more_is_hung_up_on_and_a_stranger_is_not() -> None:
    pair = Pair(1, MILLISECOND)
    one, two = pair.world.one, pair.world.two
    pair.lesser.begin()
    pair.greater.begin(one)
    pair.run(1000)
    # the lesser learns of a third, then of the greater, and of the third again
    for known in ({3: ("10.0.0.3", PORT)}, {2: (two.address, PORT)}, {2: (two.address, PORT), 3: ("10.0.0.3", PORT)}):
        pair.lesser.know(known)
        pair.run(1000)
    assert pair.lesser.downs == pair.greater.downs == 0
    # the greater forgets the lesser, who does not give up
    pair.greater.know({})
    pair.run(1000)
    assert pair.lesser.downs == pair.greater.downs == 1
    pair.judge()
    pair.lesser.know({})
    pair.run(1000)
    assert not pair.lesser.up
    assert not pair.greater.up
