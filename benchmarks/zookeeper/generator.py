"""Builds and runs the load generator (load.c), one process for each measurement, and gives its figures as numbers."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("load.c")
PROGRAM = ROOT / "build" / "zookeeper-load"

LONGEST_SECONDS = 1800.0

Numbers = dict[str, float]


class LoadError(Exception):
    """The load generator could not be built, or met a wrong reply; the text is what it said."""


def build() -> None:
    """Compile load.c unless build/ holds what it compiles to. Raises LoadError."""
    PROGRAM.parent.mkdir(exist_ok=True)
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    _call(["cc", "-O2", "-Wall", "-o", str(PROGRAM), str(SOURCE)])


class Generator:
    """Loads the servers at ``addresses`` (``host:port,...``), whose processes are ``pids``. Every call may raise LoadError."""

    def __init__(self, addresses: str, pids: Sequence[int]) -> None:
        self.addresses = addresses
        self.pids = ",".join(map(str, pids))

    def run(
        self, workload: str, connections: int, in_flight: int, payload: int, warm_up: float, seconds: float
    ) -> Numbers:
        """``get``, ``set``, ``create`` (and delete, two operations), ``exists`` or ``ping``; latencies in microseconds."""
        return self._json("run", workload, connections, in_flight, payload, warm_up, seconds)

    def fill(self, nodes: int, connections: int, in_flight: int, payload: int) -> Numbers:
        """Make nodes below /fill, a thousand for each parent."""
        return self._json("fill", nodes, connections, in_flight, payload)

    def watch(self, watchers: int, rounds: int) -> Numbers:
        """Milliseconds from a set to its reply and to the last of its notifications; medians over the rounds."""
        return self._json("watch", watchers, rounds)

    def idle(self, sessions: int, seconds: float, while_open: Callable[[], float]) -> tuple[Numbers, float]:
        """Open sessions, keep them alive; also what ``while_open`` gives, called at the end while they are still open."""
        command = [str(PROGRAM), "idle", self.addresses, str(sessions), str(seconds), self.pids]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            line = process.stdout.readline()
            measured = while_open() if line else 0.0
            process.stdin.close()
            said = process.stderr.read()
        if process.returncode or not line:
            raise LoadError(said.strip())
        return _numbers(line), measured

    def _json(self, mode: str, *arguments: object) -> Numbers:
        return _numbers(_call([str(PROGRAM), mode, self.addresses, *map(str, arguments), self.pids]))


def _numbers(line: str) -> Numbers:
    return {name: float(value) for name, value in json.loads(line).items()}


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS
        )
    except FileNotFoundError as error:
        raise LoadError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{' '.join(command)}: not done within {LONGEST_SECONDS:g} s") from error
    if done.returncode:
        raise LoadError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
