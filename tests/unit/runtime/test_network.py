"""The environment over real sockets: events, flow control, failures that stay where they are, timers, the end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from quorate.errors import RemoteProtocolError, UsageError
from quorate.runtime.environment import MILLISECOND, Connection, Environment, Handler
from quorate.runtime.loop import Stopper, run
from quorate.runtime.network import WRITE_HIGH_WATER, AsyncioEnvironment


class Bench:
    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.real = AsyncioEnvironment(self.loop)
        self.env: Environment = self.real

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.loop.run_until_complete(asyncio.sleep(0.001))

    def pair(self, client: "Recorder", server: "Recorder", host: str = "127.0.0.1") -> None:
        """Connect the two; one of them may be a subclass."""
        listener = self.env.listen(host, 0, lambda: server)
        self.env.connect(host, listener.address[1], client, 5000)
        self.until(lambda: client.events and server.events)
        listener.close()


class Recorder:
    """A handler that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.reason = ""

    connection: Connection

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        self.events.append("connected")

    def received(self, data: bytes) -> None:
        if not self.data:
            self.events.append("received")
        self.data += data

    def writing_paused(self) -> None:
        self.events.append("paused")

    def writing_resumed(self) -> None:
        self.events.append("resumed")

    def closed(self, reason: str) -> None:
        self.reason = reason
        self.events.append("closed")


class Raising(Recorder):
    """Raises ``error`` in the callback ``where``."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__()
        self.where = where
        self.error = error

    def connected(self, connection: Connection) -> None:
        super().connected(connection)
        if self.where == "connected":
            raise self.error

    def received(self, data: bytes) -> None:
        super().received(data)
        if self.where == "received":
            raise self.error

    def writing_paused(self) -> None:
        super().writing_paused()
        if self.where == "writing_paused":
            raise self.error

    def closed(self, reason: str) -> None:
        super().closed(reason)
        if self.where == "closed":
            raise self.error


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.real.close()
    bench.loop.run_until_complete(asyncio.sleep(0))
    bench.loop.close()


def test_both_ways(bench: Bench) -> None:
    client, server = Recorder(), Recorder()
    bench.pair(client, server)
    assert client.connection.peer == server.connection.local
    assert client.connection.local == server.connection.peer
    assert server.connection.peer[0] == "127.0.0.1"
    client.connection.write(b"ping ")
    client.connection.write(b"and more")
    bench.until(lambda: len(server.data) == 13)
    server.connection.write(b"x" * 3_000_000)
    server.connection.close()
    server.connection.write(b"never sent")
    bench.until(lambda: client.reason and server.reason)
    assert server.data == b"ping and more"
    assert client.data == b"x" * 3_000_000
    assert (client.reason, server.reason) == ("closed by the peer", "closed here")
    assert client.events == ["connected", "received", "closed"]
    for handler in (client, server):  # nothing more may happen, and nothing may fail
        handler.connection.write(b"late")
        handler.connection.close()
        handler.connection.pause_reading()
        handler.connection.resume_reading()
        handler.connection.abort()
        assert handler.connection.queued() == 0
        assert handler.events.count("closed") == 1


def test_no_delay(bench: Bench) -> None:
    client, server = Recorder(), Recorder()
    bench.pair(client, server)
    for handler in (client, server):
        transport = handler.connection._transport  # type: ignore[attr-defined]  # the socket is nobody else's business
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.connection.abort()
    bench.until(lambda: server.reason)


def test_a_slow_reader(bench: Bench) -> None:
    client, server = Recorder(), Recorder()
    bench.pair(client, server)
    client.connection.pause_reading()
    client.connection.pause_reading()
    sent = 0
    while server.connection.queued() <= WRITE_HIGH_WATER:
        server.connection.write(b"z" * 65536)
        sent += 65536
        bench.loop.run_until_complete(asyncio.sleep(0))
    bench.until(lambda: "paused" in server.events)
    assert "resumed" not in server.events
    assert not client.data
    client.connection.resume_reading()
    bench.until(lambda: len(client.data) == sent)
    assert server.events == ["connected", "paused", "resumed"]
    client.connection.abort()
    bench.until(lambda: server.reason)


def test_abort_loses_what_is_queued(bench: Bench) -> None:
    client, server = Recorder(), Recorder()
    bench.pair(client, server)
    client.connection.pause_reading()
    while not server.connection.queued():
        server.connection.write(b"z" * 1_000_000)
        bench.loop.run_until_complete(asyncio.sleep(0))
    server.connection.abort()
    bench.until(lambda: server.reason)
    assert server.reason == "dropped here"
    client.connection.resume_reading()
    bench.until(lambda: client.reason)
    client.connection.write(b"late")


@pytest.mark.parametrize("where", ["connected", "received", "writing_paused"])
def test_a_failing_handler_loses_its_connection_only(
    bench: Bench, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    client, bystander = Recorder(), Recorder()
    handlers: list[Recorder] = [bystander]
    listener = bench.env.listen("127.0.0.1", 0, lambda: handlers.pop())
    other = Recorder()
    bench.env.connect("127.0.0.1", listener.address[1], other, 5000)
    bench.until(lambda: bystander.events and other.events)
    server = Raising(where, ValueError("a bug"))
    handlers.append(server)
    bench.env.connect("127.0.0.1", listener.address[1], client, 5000)
    bench.until(lambda: client.events and server.events)
    if where == "received":
        client.connection.write(b"hello")
    elif where == "writing_paused":
        client.connection.pause_reading()
        while not server.reason:
            server.connection.write(b"z" * 1_000_000)
            bench.loop.run_until_complete(asyncio.sleep(0))
        client.connection.resume_reading()
    bench.until(lambda: server.reason and client.reason)
    assert server.reason == "failed here"
    assert server.events[-1] == "closed"
    record = next(record for record in caplog.records if "its handler failed" in record.getMessage())
    assert record.levelname == "ERROR"
    assert "127.0.0.1:" in record.getMessage()
    assert record.exc_info
    other.connection.write(b"still here")
    bench.until(lambda: bystander.data == b"still here")
    assert not bystander.reason
    listener.close()


def test_a_peer_that_breaks_the_protocol(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    client, server = Recorder(), Raising("received", RemoteProtocolError("frame of -3 bytes"))
    bench.pair(client, server)
    client.connection.write(b"bad")
    bench.until(lambda: client.reason)
    assert server.reason == "broke the protocol: frame of -3 bytes"
    (record,) = [record for record in caplog.records if "frame of -3 bytes" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert not record.exc_info


def test_failures_at_the_edges(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Handler:
        raise ValueError("no handler")

    listener = bench.env.listen("127.0.0.1", 0, refuse)
    client = Recorder()
    bench.env.connect("127.0.0.1", listener.address[1], client, 5000)
    bench.until(lambda: client.reason)
    listener.close()
    assert "no handler" in caplog.text
    last, peer = Raising("closed", ValueError("at the end")), Recorder()
    bench.pair(last, peer)
    peer.connection.close()
    bench.until(lambda: last.reason)
    assert "its handler failed at the end" in caplog.text


def test_connections_that_cannot_be_made(bench: Bench) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        refused, unknown = Recorder(), Recorder()
        bench.env.connect("127.0.0.1", port, refused, 5000)
        bench.env.connect("no.such.host.invalid", 1, unknown, 5000)
        bench.until(lambda: refused.reason and unknown.reason)
    assert refused.reason == "connection refused"
    assert unknown.reason
    assert refused.events == unknown.events == ["closed"]


def test_a_connection_that_nobody_answers(bench: Bench) -> None:
    """A full backlog: the kernel lets the first packets of a connection go by unanswered."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        late = Recorder()
        bench.env.connect("127.0.0.1", deaf.getsockname()[1], late, 50)
        bench.until(lambda: late.reason)
        assert late.reason == "no connection within 50 ms"
        assert late.events == ["closed"]
        for filler in fillers:
            filler.close()


class Slow(Recorder):
    """When it is told of its connection, the time that making it may take goes by."""

    def connected(self, connection: Connection) -> None:
        super().connected(connection)
        time.sleep(0.06)


def test_a_connection_that_is_made_just_as_its_time_is_up(bench: Bench) -> None:
    """Whoever was told of the connection is told of its end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        late = Recorder()
        while "connected" not in late.events:
            # the process may be kept from running for all this time before it is made, too
            late = Slow()
            bench.env.connect("127.0.0.1", server.getsockname()[1], late, 50)
            bench.until(lambda late=late: late.reason)  # type: ignore[misc]  # lambdas with defaults
        assert late.events == ["connected", "closed"]
        assert late.reason == "no connection within 50 ms"


def test_addresses_that_cannot_be_had(bench: Bench) -> None:
    first = bench.env.listen("127.0.0.1", 0, Recorder)
    port = first.address[1]
    with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
        bench.env.listen("127.0.0.1", port, Recorder)
    with pytest.raises(UsageError, match=r"cannot listen on 203\.0\.113\.7:0: cannot assign requested address"):
        bench.env.listen("203.0.113.7", 0, Recorder)
    with pytest.raises(UsageError, match=r"cannot listen on no\.such\.host\.invalid:80: "):
        bench.env.listen("no.such.host.invalid", 80, Recorder)
    with pytest.raises(UsageError, match="a port is a number from 0 to 65535"):
        bench.env.listen("127.0.0.1", 65536, Recorder)
    first.close()
    # given back at once
    bench.env.listen("127.0.0.1", port, Recorder).close()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "localhost"])
def test_wildcards_serve_ipv4(bench: Bench, host: str) -> None:
    server, client = Recorder(), Recorder()
    listener = bench.env.listen(host, 0, lambda: server)
    bench.env.connect("127.0.0.1", listener.address[1], client, 5000)
    bench.until(lambda: client.events and server.events)
    assert client.events == ["connected"]
    assert server.connection.peer[0] == "127.0.0.1"
    client.connection.close()
    bench.until(lambda: server.reason)
    listener.close()


def test_a_closed_listener_accepts_nobody(bench: Bench) -> None:
    listener = bench.env.listen("127.0.0.1", 0, Recorder)
    listener.close()
    bench.loop.run_until_complete(asyncio.sleep(0))
    client = Recorder()
    bench.env.connect("127.0.0.1", listener.address[1], client, 5000)
    bench.until(lambda: client.reason)
    assert client.events == ["closed"]


def test_timers_are_never_early(bench: Bench) -> None:
    fired: list[int] = []
    start = bench.env.now()
    wanted = [start + after * 137_000 for after in range(0, 200, 3)]
    for when in wanted:
        bench.env.call_at(when, lambda when=when: fired.append(bench.env.now() - when))  # type: ignore[misc]  # default
    cancelled = bench.env.call_at(start + MILLISECOND, lambda: fired.append(-(10**12)))
    cancelled.cancel()
    bench.until(lambda: len(fired) == len(wanted))
    assert min(fired) >= 0


def test_calls_come_after_the_events_at_hand(bench: Bench) -> None:
    order: list[str] = []

    def first() -> None:
        order.append("first")
        bench.env.call_soon(lambda: order.append("drain"))

    bench.env.call_soon(first)
    bench.env.call_soon(lambda: order.append("second"))
    bench.until(lambda: len(order) == 3)
    assert order == ["first", "second", "drain"]


class TestRun:
    def test_an_end_from_within(self) -> None:
        steps: list[str] = []

        def main(env: AsyncioEnvironment) -> Stopper:
            env.call_soon(lambda: env.end(7))

            def stop(stopped: Callable[[], None]) -> None:
                steps.append("stop")
                env.call_soon(stopped)

            return stop

        assert run(main) == 7
        assert steps == ["stop"]

    def test_an_end_before_the_beginning(self) -> None:
        def main(env: AsyncioEnvironment) -> Stopper:
            env.end(4)
            return lambda stopped: stopped()

        assert run(main) == 4

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signals(self, number: signal.Signals) -> None:
        stops: list[int] = []

        def main(env: AsyncioEnvironment) -> Stopper:
            env.call_soon(lambda: os.kill(os.getpid(), number))

            def stop(stopped: Callable[[], None]) -> None:
                stops.append(1)
                stopped()

            return stop

        assert run(main) == 0
        assert stops == [1]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_while_everything_starts(self, number: signal.Signals) -> None:
        """A server under load takes seconds to start, and whoever changes his mind then is not to be ignored."""
        handler = signal.getsignal(number)
        stops: list[int] = []

        def main(env: AsyncioEnvironment) -> Stopper:
            os.kill(os.getpid(), number)

            def stop(stopped: Callable[[], None]) -> None:
                stops.append(1)
                stopped()

            return stop

        assert run(main) == 0
        assert stops == [1]
        assert signal.getsignal(number) is handler

    def test_a_second_signal_ends_at_once(self) -> None:
        def main(env: AsyncioEnvironment) -> Stopper:
            env.call_soon(lambda: os.kill(os.getpid(), signal.SIGTERM))
            return lambda stopped: os.kill(os.getpid(), signal.SIGTERM)

        assert run(main) == 1

    def test_a_stop_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        def main(env: AsyncioEnvironment) -> Stopper:
            env.call_soon(lambda: env.end(0))

            def stop(stopped: Callable[[], None]) -> None:
                raise ValueError("not today")

            return stop

        assert run(main) == 1
        assert "not today" in caplog.text

    def test_a_failing_timer_is_logged_and_the_process_lives(self, caplog: pytest.LogCaptureFixture) -> None:
        def main(env: AsyncioEnvironment) -> Stopper:
            def fail() -> None:
                env.call_soon(lambda: env.end(0))
                raise ValueError("in a timer")

            env.call_at(env.now(), fail)
            return lambda stopped: stopped()

        assert run(main) == 0
        assert "in a timer" in caplog.text

    def test_what_main_raises_comes_out(self) -> None:
        def main(env: AsyncioEnvironment) -> Stopper:
            raise UsageError("wrong")

        with pytest.raises(UsageError, match="wrong"):
            run(main)

    def test_what_is_queued_leaves_before_the_end(self) -> None:
        """A process that answers and stops: its last bytes arrive."""
        program = (
            "from quorate.runtime.loop import run\n"
            "class Echo:\n"
            "    def __init__(self, env): self.env = env\n"
            "    def connected(self, connection): self.connection = connection\n"
            "    def received(self, data):\n"
            "        self.connection.write(data)\n"
            "        self.connection.close()\n"
            "        self.env.end(0)\n"
            "    def closed(self, reason): pass\n"
            "def main(env):\n"
            "    print(env.listen('127.0.0.1', 0, lambda: Echo(env)).address[1], flush=True)\n"
            "    return lambda stopped: stopped()\n"
            "raise SystemExit(run(main))\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(b"last words")
                assert client.recv(100) == b"last words"
            assert process.wait(20) == 0


def test_the_kernel_looks_after_silent_connections(bench: Bench) -> None:
    """On both sides, as /proc has it: a timer of kind 2 runs for as long as nothing is said."""
    client, server = Recorder(), Recorder()
    bench.pair(client, server)
    ports = {f"{port:04X}" for _, port in (client.connection.peer, server.connection.peer)}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [row[5].partition(":")[0] for row in rows if {end.partition(":")[2] for end in row[1:3]} == ports]
    assert timers == ["02", "02"]
