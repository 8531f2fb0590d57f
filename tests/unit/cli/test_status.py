"""`quorate status` and the four-letter client under it, against servers that answer in every way a server may."""

import argparse
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from quorate.cli import status
from quorate.cli.fourletter import MAX_REPLY_BYTES, fields

SRVR = """Zookeeper version: 3.8.0, built on 2022-02-25 08:49 UTC
Latency min/avg/max: 0/1.5/12
Received: 44
Sent: 43
Connections: 1
Outstanding: 0
Zxid: 0x300000007
Mode: follower
Node count: 9
"""
MNTR = "zk_version\t3.8.0\nzk_server_state\tfollower\nzk_watch_count\t5\nzk_global_sessions\t3\nzk_local_sessions\t1\n"
REFUSED = "mntr is not executed because it is not in the whitelist.\n"
NOT_SERVING = "This ZooKeeper instance is not currently serving requests\n"


@contextmanager
def server(answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """A server whose reply to a command is ``answer(command)``; None keeps the connection open without one."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = ExitStack()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            reply = answer(connection.recv(4))
            if reply is None:
                kept.enter_context(connection)
                continue
            with connection:
                try:
                    connection.sendall(reply)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # close alone would leave the thread in accept
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        kept.close()


def show(capsys: pytest.CaptureFixture[str], *members: str, timeout: float = 10.0) -> tuple[int, list[list[str]]]:
    result = status.run(argparse.Namespace(members=list(members), timeout=timeout))
    rows = [line.split(None, 6) for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:6] == ["member", "role", "epoch", "zxid", "sessions", "watches"]
    return result, rows[1:]


def test_everything_that_a_member_tells(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda word: (MNTR if word == b"mntr" else SRVR).encode()) as address:
        assert show(capsys, address) == (
            0,
            [[address, "follower", "3", "0x300000007", "4", "5", "0/1.5/12"]],
        )


def test_a_member_that_allows_srvr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda word: (REFUSED if word == b"mntr" else SRVR).encode()) as address:
        assert show(capsys, address) == (0, [[address, "follower", "3", "0x300000007", "-", "-", "0/1.5/12"]])


def test_members_that_do_not_serve_or_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        server(lambda word: (MNTR if word == b"mntr" else SRVR).encode()) as good,
        server(lambda word: NOT_SERVING.encode()) as electing,
        server(lambda word: b"") as closing,
        server(lambda word: b"x" * (MAX_REPLY_BYTES + 1)) as flooding,
        socket.create_server(("127.0.0.1", 0)) as unused,
    ):
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        result = status.run(argparse.Namespace(members=[f"{good},{electing}", closing, flooding, dead], timeout=10.0))
        lines = capsys.readouterr().out.splitlines()[1:]
    assert result == 1
    assert lines[0].split()[:2] == [good, "follower"]
    assert lines[1].startswith(electing)
    assert "not serving" in lines[1]
    assert "unreachable (the connection was closed without an answer)" in lines[2]
    assert "unreachable (the answer is too long)" in lines[3]
    assert "unreachable (Connection refused)" in lines[4]


def test_a_silent_member_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda word: None) as address:
        assert status.run(argparse.Namespace(members=[address], timeout=0.05)) == 1
    assert "unreachable (no answer in time)" in capsys.readouterr().out


def test_ipv6_and_unknown_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.run(argparse.Namespace(members=["[::1]:1", "host.invalid:2181"], timeout=10.0)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("[::1]:1 ")
    assert lines[2].startswith("host.invalid:2181  unreachable (")


def test_fields_of_both_forms() -> None:
    assert fields(MNTR)["zk_watch_count"] == "5"
    assert fields(SRVR)["Latency min/avg/max"] == "0/1.5/12"
    assert fields(NOT_SERVING) == {}
