"""A cluster of the key-value store: one process for each member, as a user runs it."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.support.processes import free_ports

from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.errors import KvError
from quorate.kv.client.sync import Client

PATIENCE = 30.0


class KvCluster:
    """``members``: how many it begins with; ports are kept for ``spare`` more. ``settings``: lines for the ``[kv]`` table."""

    def __init__(
        self, folder: Path, members: int = 3, *, spare: int = 0, settings: str = "", started: bool = True
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.size = members
        ports = free_ports(3 * (members + spare))
        self.ports = {sid: ports[3 * sid - 3 : 3 * sid] for sid in range(1, members + spare + 1)}
        """Of each member: for the others, for clients, for HTTP."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        if started:
            for sid in range(1, members + 1):
                self.start(sid)
            self.wait()

    def __enter__(self) -> "KvCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- where

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{self.ports[sid][1]}" for sid in range(1, self.size + 1)]

    def http(self, sid: int) -> str:
        return f"127.0.0.1:{self.ports[sid][2]}"

    def options(self, sid: int) -> list[str]:
        """As `quorate member add` takes them."""
        names = ("peer", "client", "http")
        return [
            word
            for name, port in zip(names, self.ports[sid], strict=True)
            for word in (f"--{name}", f"127.0.0.1:{port}")
        ]

    # ---- processes

    def configuration(self, sid: int, join: bool) -> str:
        lines = ["[node]", f"id = {sid}", f'data_dir = "{sid}"', "[kv]", 'cluster = "test"', self.settings]
        if join:
            lines.append("join = true")
        for other in sorted({*range(1, self.size + 1), sid}):
            names = zip(("peer", "client", "http"), self.ports[other], strict=True)
            lines += ["[[kv.members]]", f"id = {other}", *[f'{name} = "127.0.0.1:{port}"' for name, port in names]]
        return "\n".join(lines) + "\n"

    def start(self, sid: int, *, join: bool = False) -> None:
        file = self.folder / f"{sid}.toml"
        file.write_text(self.configuration(sid, join))
        with open(self.folder / f"{sid}.log", "ab") as log:
            self.processes[sid] = subprocess.Popen(
                [sys.executable, "-m", "quorate", "serve", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, sid: int, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(sid)
        process.send_signal(number)
        process.wait(PATIENCE)

    def signal(self, sid: int, number: signal.Signals) -> None:
        self.processes[sid].send_signal(number)

    def log(self, sid: int) -> str:
        return (self.folder / f"{sid}.log").read_text()

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    # ---- clients

    def client(self, timeout: float = PATIENCE) -> Client:
        return Client(self.addresses, timeout=timeout)

    def async_client(self, timeout: float = PATIENCE) -> AsyncClient:
        return AsyncClient(self.addresses, timeout=timeout)

    def wait(self) -> None:
        """Until it serves."""
        with self.client() as client:
            client.get("nothing")

    def leader(self) -> int:
        """Of the first shard."""
        deadline = time.monotonic() + PATIENCE
        with self.client() as client:
            while time.monotonic() < deadline:
                try:
                    leader = int(client.status()["shards"][0]["leader"])
                except KvError:
                    continue
                if leader in self.processes:
                    return leader
        raise AssertionError("nobody leads")
