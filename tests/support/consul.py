"""Real Consul 1.8.7, the last that Debian carried: one server in a folder of the test's, ended by id."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.support.processes import ROOT, free_ports

PROGRAM = ROOT / ".deps" / "consul" / "usr" / "bin" / "consul"
PATIENCE = 60.0


def program() -> str:
    return str(PROGRAM) if os.access(PROGRAM, os.X_OK) else shutil.which("consul") or ""


def why_no_consul() -> str:
    return "" if program() else "Consul is not installed"


class Consul:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        http, dns, lan, server, grpc = free_ports(5)
        self.http = f"127.0.0.1:{http}"
        configuration = {
            "server": True,
            "bootstrap": True,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "disable_update_check": True,
            "data_dir": str(folder / "data"),
            "node_name": "node-1",
            "ports": {"http": http, "dns": dns, "serf_lan": lan, "serf_wan": -1, "server": server, "grpc": grpc},
            "performance": {"raft_multiplier": 1},
            "log_level": "warn",
        }
        file = folder / "consul.json"
        file.write_text(json.dumps(configuration))
        self._log = folder / "log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [program(), "agent", f"-config-file={file}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self) -> "Consul":
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                # it can write once there is a leader, and sessions once its node is known
                with urllib.request.urlopen(f"http://{self.http}/v1/catalog/nodes", timeout=5) as answer:
                    if json.loads(answer.read()):
                        return self
            except (OSError, urllib.error.HTTPError):
                if self._process.poll() is not None:
                    break
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.close()
        raise AssertionError(f"Consul does not serve: {self._log.read_text()[-2000:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
