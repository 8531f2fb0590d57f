"""Server processes for tests: started from a zoo.cfg, waited for by condition, ended by id whatever happens."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JAVA_FOLDER = Path("/usr/share/java")
JARS = (
    "zookeeper",
    "zookeeper-jute",
    "slf4j-api",
    "slf4j-simple",
    "netty*",
    "metrics-core",
    "snappy*",
    "commons-*",
    "jackson*",
    "jline*",
    "jetty9-*",
    "servlet-api*",
)


class TimedOut(AssertionError):
    """A condition did not come true in time."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll ``condition`` every few milliseconds; raises TimedOut naming ``what``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that are free now, none given out before, and below those the kernel takes for outgoing connections."""
    found: list[int] = []
    for port in _candidates:
        with socket.socket() as free:
            try:
                free.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} ports are free")


_candidates = iter(random.sample(range(10_000, 32_000), 22_000))


def classpath() -> str:
    found: list[str] = []
    for pattern in JARS:
        found += sorted(str(path) for path in JAVA_FOLDER.glob(f"{pattern}.jar"))
    return ":".join(found)


def why_no_apache() -> str:
    """Why Apache ZooKeeper cannot be run here; empty if it can."""
    if shutil.which("java") is None:
        return "java is not installed (make test-deps)"
    if not (JAVA_FOLDER / "zookeeper.jar").exists():
        return "Apache ZooKeeper is not installed (make test-deps)"
    return ""


def why_no_namespaces() -> str:
    """Why network namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "iproute2 is not installed (make test-deps)"
    return ""


def apache_command(config: Path, properties: dict[str, str] | None = None, heap: str = "-Xmx256m") -> list[str]:
    defines = {"zookeeper.admin.enableServer": "false", **(properties or {})}
    return [
        "java",
        *([heap] if heap else []),
        "-cp",
        classpath(),
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        *[f"-D{key}={value}" for key, value in defines.items()],
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        str(config),
    ]


def quorate_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "quorate", "zookeeper", str(config)]


class ServerProcess:
    """One process; ``prefix`` is put before the command (``ip netns exec NAME``)."""

    def __init__(self, command: list[str], log: Path, prefix: list[str] | None = None) -> None:
        self.command = [*(prefix or []), *command]
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.alive, "it runs already"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=ROOT
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.signal(signal.SIGKILL)
        self._wait(10)

    def stop(self) -> int:
        """SIGTERM, and kill -9 if that takes more than ten seconds; the exit status."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._wait(10)
        self.kill()
        return -9

    def _wait(self, seconds: float) -> int:
        if self._process is None:
            return 0
        return self._process.wait(seconds)

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def four_letter_word(host: str, port: int, word: str, timeout: float = 2.0) -> str:
    """The answer to a four-letter word; empty if nobody answers."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(word.encode())
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts).decode(errors="replace")
    except OSError:
        return ""
