"""The supervisor's promises, with real processes: start, notice, restart, end."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.processes import free_ports

PATIENCE = 30.0
"""Seconds after which a condition that does not come fails the test; nothing waits so long when all is well."""


class Platform:
    """A running platform.py; reads its standard error as it comes."""

    def __init__(self, folder: Path, behaviours: list[str], stop_seconds: float = 10.0) -> None:
        ports = free_ports(len(behaviours))
        wanted = [f"{port}={behaviour}" for port, behaviour in zip(ports, behaviours, strict=True)]
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("platform.py")), str(folder), str(stop_seconds), *wanted],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.said = ""

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def wait_said(self, pattern: str, times: int = 1) -> list[str]:
        """Read on until standard error matches ``pattern`` so often; the matches."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE
        while len(found := re.findall(pattern, self.said)) < times:
            assert select.select([self.process.stderr], [], [], deadline - time.monotonic())[0], self.said
            data = os.read(self.process.stderr.fileno(), 65536)
            assert data, f"ended without {pattern!r}: {self.said}"
            self.said += data.decode()
        return found

    def members(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Signal it and wait; its exit status and all that it said."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, self.said + err.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Platform]]:
    started: list[Platform] = []

    def starter(*behaviours: str, stop_seconds: float = 10.0) -> Platform:
        platform = Platform(tmp_path, list(behaviours), stop_seconds)
        started.append(platform)
        return platform

    yield starter
    for platform in started:
        if platform.process.poll() is None:
            platform.process.kill()
        platform.process.communicate()


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert alive == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_all_serve_then_all_end(start: Callable[..., Platform], number: signal.Signals) -> None:
    platform = start("serving", "serving", "serving")
    platform.wait_ready()
    members = platform.members()
    assert len(members) == 3
    status, said = platform.end(number)
    assert status == 0
    assert "a test: 3 of 3 serve" in said
    assert said.count(" leader ") == 3
    assert all(re.search(rf"member/{n} +{member.pid} ", said) for n, member in enumerate(members, 1))
    wait_gone(members)


def test_a_member_that_dies_is_reported_and_started_again(start: Callable[..., Platform]) -> None:
    platform = start("serving", "serving")
    platform.wait_ready()
    first = platform.members()[1]
    first.kill()
    platform.wait_said(r"member/2 was killed by SIGKILL and starts again in 0.1 s; its log ends with: serving\n")
    platform.wait_said(r"a test: 2 of 2 serve", times=2)
    again = [member for member in platform.members() if member.pid != first.pid]
    assert len(again) == 2
    assert platform.end()[0] == 0
    wait_gone(again)


def test_a_mistake_in_the_start_ends_everything(start: Callable[..., Platform]) -> None:
    platform = start("serving", "mistaken")
    status, said = platform.ended()
    assert status == 1
    log = platform.folder / "2.log"
    assert said.endswith(
        f"error: member/2 does not start; its log {log} ends with: member: the configuration is wrong\n"
    )


def test_a_member_that_never_starts_is_given_up(start: Callable[..., Platform]) -> None:
    platform = start("crashing", "serving")
    status, said = platform.ended()
    assert status == 1
    delays = re.findall(
        r"member/1 ended with status 1 and starts again in (\S+) s; its log ends with: member: it broke", said
    )
    assert delays == ["0.1", "0.2", "0.4", "0.8"]
    assert "error: member/1 does not start" in said


def test_a_member_that_does_not_end_is_killed(start: Callable[..., Platform]) -> None:
    platform = start("stubborn", "serving", stop_seconds=0.2)
    platform.wait_ready()
    members = platform.members()
    status, said = platform.end()
    assert status == 0
    assert said.endswith("member/1 did not end within 0.2 s and is killed\n")
    wait_gone(members)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")
def test_members_end_with_a_killed_supervisor(start: Callable[..., Platform]) -> None:
    platform = start("serving", "stubborn")
    platform.wait_ready()
    members = platform.members()
    assert len(members) == 2
    members[0].suspend()
    platform.process.kill()
    wait_gone(members)


def test_a_member_that_stops_answering_is_shown(start: Callable[..., Platform]) -> None:
    platform = start("serving", "serving")
    platform.wait_ready()
    stopped = platform.members()[0]
    stopped.suspend()
    platform.wait_said(r"member/1 .* not answering ")
    stopped.resume()
    platform.wait_said(r"a test: 2 of 2 serve", times=2)
    assert platform.end()[0] == 0


def test_a_start_that_waits_for_somebody_shows_for_whom(start: Callable[..., Platform]) -> None:
    platform = start("serving", "electing")
    platform.wait_said(r"a test: 1 of 2 serve\n")
    platform.wait_said(r"member/1 .* leader ")
    platform.wait_said(r"member/2 .* electing ")
    platform.process.terminate()
    out, _ = platform.process.communicate(timeout=PATIENCE)
    assert (platform.process.returncode, out) == (0, b"")
