"""A cluster of the key-value store: one process for each member, as a user runs it."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.namespaces import Network
from tests.support.processes import free_ports, wait_until

from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.errors import KvError
from quorate.kv.client.sync import Client

PATIENCE = 30.0


class KvCluster:
    """``members``: how many it begins with; ports are kept for ``spare`` more. ``settings``: lines for the ``[kv]`` table. ``network``: the
    namespaces that the members live in, one each. ``fronts``: of each member the address that clients are told, if something stands before it."""

    def __init__(
        self,
        folder: Path,
        members: int = 3,
        *,
        spare: int = 0,
        settings: str = "",
        started: bool = True,
        network: Network | None = None,
        fronts: Mapping[int, str] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.size = members
        self.network = network
        self.fronts = dict(fronts or {})
        ports = free_ports(3 * (members + spare))
        self.ports = {sid: ports[3 * sid - 3 : 3 * sid] for sid in range(1, members + spare + 1)}
        """Of each member: for the others, for clients, for HTTP."""
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._leader = 0
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

    def host(self, sid: int) -> str:
        return "127.0.0.1" if self.network is None else self.network.host(sid - 1)

    def client_address(self, sid: int) -> str:
        """Where the member listens for clients."""
        return f"{self.host(sid)}:{self.ports[sid][1]}"

    @property
    def addresses(self) -> list[str]:
        return [self.fronts.get(sid) or self.client_address(sid) for sid in range(1, self.size + 1)]

    def http(self, sid: int) -> str:
        return f"{self.host(sid)}:{self.ports[sid][2]}"

    def _addresses(self, sid: int) -> dict[str, str]:
        names = zip(("peer", "client", "http"), self.ports[sid], strict=True)
        found = {name: f"{self.host(sid)}:{port}" for name, port in names}
        return {**found, "client": self.fronts.get(sid) or found["client"]}

    def options(self, sid: int) -> list[str]:
        """As `quorate member add` takes them."""
        return [word for name, address in self._addresses(sid).items() for word in (f"--{name}", address)]

    # ---- processes

    def configuration(self, sid: int, join: bool) -> str:
        lines = ["[node]", f"id = {sid}", f'data_dir = "{sid}"', "[kv]", 'cluster = "test"', self.settings]
        if join:
            lines.append("join = true")
        if sid in self.fronts:
            lines.append(f'listen.client = "{self.client_address(sid)}"')
        for other in sorted({*range(1, self.size + 1), sid}):
            addresses = [f'{name} = "{address}"' for name, address in self._addresses(other).items()]
            lines += ["[[kv.members]]", f"id = {other}", *addresses]
        return "\n".join(lines) + "\n"

    def start(self, sid: int, *, join: bool = False) -> None:
        file = self.folder / f"{sid}.toml"
        file.write_text(self.configuration(sid, join))
        prefix = [] if self.network is None else self.network.prefix(sid - 1)
        command = [*prefix, sys.executable, "-m", "quorate", "serve", str(file)]
        with open(self.folder / f"{sid}.log", "ab") as log:
            self.processes[sid] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

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

    def status(self, sid: int) -> dict[str, Any] | None:
        """What the member says of its first group, None if it does not answer."""
        connection = http.client.HTTPConnection(self.http(sid), timeout=2.0)
        try:
            connection.request("GET", "/quorate/v1/status")
            found: dict[str, Any] = json.loads(connection.getresponse().read())["groups"][0]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return found

    def steady(self) -> int:
        """Wait until all members agree who leads, and have applied what it has; that one."""

        def look() -> bool:
            found = [self.status(sid) for sid in self.processes]
            states = [status for status in found if status is not None]
            leaders = {status["leader"] for status in states}
            if len(states) < len(self.processes) or len(leaders) != 1 or not leaders <= self.processes.keys():
                return False
            (self._leader,) = leaders
            return [status["leading"] for status in states].count(True) == 1

        wait_until(look, PATIENCE, "all members agree who leads")
        return self._leader

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
