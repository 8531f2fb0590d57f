"""What TCP promises holds in the virtual network, and what it does not promise happens."""

import pytest
from tests.unit.simulation.worlds import PORT, TwoMachines

from quorate.errors import UsageError
from quorate.simulation.network import HIGH_WATER, KERNEL_BUFFER
from quorate.simulation.scheduler import SECOND


def blob(size: int) -> bytes:
    return bytes(i * 31 % 251 for i in range(size))


@pytest.mark.parametrize("seed", range(5))
def test_data_arrive_whole_in_order_and_in_pieces(seed: int) -> None:
    world = TwoMachines(seed, split=0.7, loss=0.2)
    world.connected()
    data = blob(5000)
    for start in range(0, len(data), 50):
        world.write(data[start : start + 50])
    world.run()
    assert world.server.data == data
    assert world.server.pieces > 100


def test_nobody_listens() -> None:
    world = TwoMachines()
    world.connect()
    world.run()
    assert world.client.events == ["closed: connection refused"]


def test_a_machine_without_power_does_not_answer() -> None:
    world = TwoMachines()
    world.two.powered = False
    world.connect(timeout_ms=2500)
    world.run(2400)
    assert world.client.events == []
    world.run(200)
    assert world.client.events == ["closed: timed out"]


def test_one_address_one_listener() -> None:
    world = TwoMachines()
    env = world.listen()
    with pytest.raises(UsageError, match=f"10.0.0.2:{PORT}: the address is in use"):
        env.listen("", PORT, lambda: world.server)


def test_a_close_comes_behind_the_data() -> None:
    world = TwoMachines()
    world.connected()
    connection = world.client.connection
    assert connection is not None
    world.write(b"last words")
    connection.close()
    connection.write(b"nobody hears this")
    world.run()
    assert world.server.data == b"last words"
    assert world.server.events[-1] == "closed: closed by the peer"
    assert world.client.events[-1] == "closed: closed here"
    assert world.network.ends == []


def test_a_reset_leaves_a_beginning_to_any_byte() -> None:
    lengths = set()
    for seed in range(40):
        world = TwoMachines(seed)
        world.connected()
        world.write(blob(100))
        world.write(blob(100))
        world.network.reset(world.end(world.client))
        world.run()
        assert (blob(100) * 2).startswith(world.server.data)
        lengths.add(len(world.server.data))
        for recorder in (world.client, world.server):
            assert recorder.events == ["connected", "closed: connection reset by peer"]
    assert {0, 100, 200} <= lengths
    assert any(length % 100 for length in lengths)


def test_what_is_written_after_a_break_does_not_arrive_behind_the_hole() -> None:
    for seed in range(20):
        world = TwoMachines(seed)
        world.connected()
        world.write(blob(100))
        world.network.reset(world.end(world.client))
        world.write(blob(300)[100:])
        world.run()
        assert blob(100).startswith(world.server.data)


def test_a_blocked_direction_holds_what_is_sent() -> None:
    world = TwoMachines()
    world.connected()
    world.network.block(world.one, world.two)
    world.write(b"first")
    world.run()
    assert world.server.data == b""
    answer = world.server.connection
    assert answer is not None
    answer.write(b"the other way is open")
    world.run()
    assert world.client.data == b"the other way is open"
    world.write(b" second")
    world.network.unblock(world.one, world.two)
    world.write(b" third")
    world.run()
    assert world.server.data == b"first second third"


def test_blocks_add_up() -> None:
    world = TwoMachines()
    world.network.block(world.one, world.two)
    world.network.block(world.one, world.two)
    world.network.unblock(world.one, world.two)
    assert world.network.is_blocked(world.one, world.two)
    world.network.unblock(world.one, world.two)
    assert not world.network.is_blocked(world.one, world.two)


def test_no_connection_through_a_partition_and_one_after_it() -> None:
    world = TwoMachines()
    world.listen()
    world.network.block(world.two, world.one)
    world.connect(timeout_ms=10_000)
    world.run(3000)
    assert world.client.events == world.server.events == []
    world.network.unblock(world.two, world.one)
    world.run(1500)
    assert world.client.events == world.server.events == ["connected"]


def test_a_killed_process_closes_its_connections() -> None:
    world = TwoMachines()
    world.connected()
    world.two.end(power=True)
    world.run()
    assert world.client.events == ["connected", "closed: closed by the peer"]


def test_lost_power_is_noticed_only_when_the_machine_is_back() -> None:
    world = TwoMachines()
    world.connected()
    world.two.end(power=False)
    world.write(b"into the void")
    world.run()
    assert world.client.events == ["connected"]
    world.listen()
    world.write(b"anybody?")
    world.run()
    assert world.client.events == ["connected", "closed: connection reset by peer"]
    assert world.server.data == b""


def test_a_writer_is_told_to_wait_for_a_reader_that_does_not_read() -> None:
    world = TwoMachines()
    world.connected()
    reader = world.server.connection
    writer = world.client.connection
    assert reader is not None
    assert writer is not None
    reader.pause_reading()
    world.write(bytes(HIGH_WATER + KERNEL_BUFFER + 1))
    world.run()
    assert world.client.events == ["connected", "paused"]
    assert writer.queued() == HIGH_WATER + 1
    reader.resume_reading()
    world.two._call_ready()
    world.run()
    assert world.client.events == ["connected", "paused", "resumed"]
    assert writer.queued() == 0
    assert len(world.server.data) == HIGH_WATER + KERNEL_BUFFER + 1


def test_a_close_is_heard_by_a_reader_that_waited() -> None:
    world = TwoMachines()
    world.connected()
    reader = world.server.connection
    writer = world.client.connection
    assert reader is not None
    assert writer is not None
    world.write(b"data")
    writer.close()
    world.run()
    assert world.server.data == b"data"
    assert world.server.events[-1] == "closed: closed by the peer"


def test_time_between_the_ends_is_drawn_from_the_seed() -> None:
    def run(seed: int) -> tuple[int, list[tuple[int, str]]]:
        world = TwoMachines(seed, split=0.5)
        world.connected()
        for _ in range(20):
            world.write(blob(64))
        world.run()
        events = world.trace.events
        assert events is not None
        return world.trace.digest, [(event.time, event.kind) for event in events]

    assert run(3) == run(3)
    assert run(3)[0] != run(4)[0]
    assert run(3)[1][-1][0] < 60 * SECOND
