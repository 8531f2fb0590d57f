"""Our key-value store beside Debian's etcd: three members each, on this machine, in one run, every write synced.

Both are driven by one program in Go (goload/): etcd through its own client, ours in its own protocol; one process, one operation open for each client.
Compare-and-set of ours, with its queued turns, and a few loads more go through our Python client (load.py). ``--write`` puts the table into docs/benchmarks.md. Ends every process it started, also when interrupted.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tests.support.kvcluster import KvCluster
from tests.support.processes import free_ports

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "build" / "kv-benchmarks.json"
GO_LOAD = ROOT / "build" / "goload"
START, END = "<!-- kv: begin -->", "<!-- kv: end -->"
OURS, THEIRS = "ours", "etcd"
PATIENCE = 30.0

Load = tuple[str, int, int]
"""Work, clients, keys."""
LOADS: list[Load] = [
    *[("put", clients, 1000) for clients in (1, 8, 64, 128)],
    *[("get", clients, 1000) for clients in (1, 8, 64, 128)],
    *[("mixed", clients, 1000) for clients in (1, 64)],
    *[("cas", 8, keys) for keys in (1, 10, 1000)],
    ("cas", 64, 1000),
]
THROUGH_PYTHON: list[Load] = [
    ("put", 1, 1000),
    ("put", 64, 1000),
    ("put", 128, 1000),
    ("get", 1, 1000),
    ("get", 64, 1000),
]
QUICK: list[Load] = [("put", 1, 1000), ("put", 64, 1000), ("get", 1, 1000), ("get", 64, 1000), ("cas", 8, 1)]


class Etcd:
    """Three members."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self.addresses = [f"127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        self.processes = []
        for number, (address, peer) in enumerate(zip(self.addresses, peers, strict=True)):
            with open(folder / f"{number}.log", "wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [
                            "etcd", "--name", f"m{number}", "--data-dir", str(folder / str(number)),
                            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                            "--listen-client-urls", f"http://{address}", "--advertise-client-urls", f"http://{address}",
                            "--initial-cluster", cluster, "--initial-cluster-state", "new",
                        ],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )
                )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._healthy():
            if time.monotonic() > deadline:
                self.close()
                raise SystemExit("etcd does not start")
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.addresses[0]}/health", timeout=2) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError):
            return False

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self.processes]

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def cpu_seconds(pids: list[int]) -> float:
    """Used by these processes so far, user and system."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def drive(command: list[str], addresses: list[str], pids: list[int], load: Load, seconds: float) -> dict[str, Any]:
    work, clients, keys = load
    words = ["-endpoints", ",".join(addresses), "-work", work, "-clients", str(clients), "-keys", str(keys)]
    process = subprocess.Popen(
        [*command, *words, "-seconds", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stderr is not None
        assert process.stdout is not None
        marks = []
        for line in process.stderr:
            if line.strip() in ("counting", "counted"):
                marks.append(cpu_seconds(pids))
        out = process.stdout.read()
        if process.wait() != 0 or len(marks) != 2:
            raise SystemExit(f"{' '.join(command)}: the load failed: {line}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    found: dict[str, Any] = json.loads(out)
    done = max(found["operations"], 1)
    counts = found.pop("per_client")
    return {
        "per_second": found["operations"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "cpu_us": (marks[1] - marks[0]) / done * 1e6,
        "attempts": found["attempts"] / done,
        "jain": sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts) or 1),
        "slowest": min(counts) * len(counts) / done,
        "errors": found["errors"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="one round, fewer loads")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    loads = QUICK if arguments.quick else LOADS
    rounds = 1 if arguments.quick else arguments.rounds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    RESULTS.parent.mkdir(exist_ok=True)
    if not arguments.ours_only and shutil.which("etcd") is None:
        raise SystemExit("etcd is not installed (Debian's etcd-server)")
    subprocess.run(["go", "build", "-o", str(GO_LOAD), "."], cwd=Path(__file__).with_name("goload"), check=True)
    samples: dict[Load, dict[str, list[dict[str, Any]]]] = {load: {} for load in loads}
    through_python: dict[Load, dict[str, list[dict[str, Any]]]] = {load: {} for load in THROUGH_PYTHON}
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        for round_ in range(rounds):
            for kind in [OURS] if arguments.ours_only else [OURS, THEIRS]:
                where = Path(folder) / f"{kind}{round_}"
                where.mkdir()
                _round(kind, where, arguments.seconds, samples, {} if arguments.quick else through_python)
    text = f"{_machine(rounds, arguments.seconds)}\n\n{_EXPLAINED}\n\n{_table(samples)}"
    if not arguments.quick:
        text += (
            f"\n\nOurs through its Python client, which takes its share of the two cores:\n\n{_table(through_python)}"
        )
    RESULTS.write_text(json.dumps([[*load, kinds] for load, kinds in samples.items()], indent=1))
    print(text)
    if arguments.write:
        document = DOCUMENT.read_text()
        before, after = document.index(START) + len(START), document.index(END)
        DOCUMENT.write_text(f"{document[:before]}\n{text}\n{document[after:]}")
    return 0


Samples = dict[Load, dict[str, list[dict[str, Any]]]]


def _round(kind: str, folder: Path, seconds: float, samples: Samples, through_python: Samples) -> None:
    python = [sys.executable, "-m", "benchmarks.kv.load"]
    close: Callable[[], None]
    if kind == OURS:
        cluster = KvCluster(folder)
        addresses, close = cluster.addresses, cluster.close
        pids = [process.pid for process in cluster.processes.values()]
    else:
        etcd = Etcd(folder)
        addresses, pids, close = etcd.addresses, etcd.pids, etcd.close
    work = [(samples, load, python if kind == OURS and load[0] == "cas" else _go(kind)) for load in samples]
    if kind == OURS:
        work += [(through_python, load, python) for load in through_python]
    try:
        for into, load, command in work:
            found = drive(command, addresses, pids, load, seconds)
            into[load].setdefault(kind, []).append(found)
            shown = {name: round(value, 3) for name, value in found.items()}
            print(f"# {kind} {load} {shown}", file=sys.stderr, flush=True)
    finally:
        close()


def _go(kind: str) -> list[str]:
    return [str(GO_LOAD), "-store", "quorate" if kind == OURS else "etcd"]


_EXPLAINED = (
    "Each cell: ours / etcd's. CPU is that of all three members for one operation. For `cas`, attempts for each success, and Jain's index of fairness"
    " over the clients with the slowest client's share of an equal one."
)


def _table(samples: Samples) -> str:
    lines = [
        "| load | clients | keys | per second | ratio | median ms | 99th ms | CPU µs | attempts | fairness |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (work, clients, keys), kinds in samples.items():
        figures = {
            kind: {name: statistics.median(found[name] for found in runs) for name in runs[0]}
            for kind, runs in kinds.items()
        }

        def cell(show: Callable[[dict[str, float]], str], figures: dict[str, dict[str, float]] = figures) -> str:
            return " / ".join(show(figures[kind]) for kind in (OURS, THEIRS) if kind in figures)

        ratio = f"{figures[OURS]['per_second'] / figures[THEIRS]['per_second']:.2f}" if THEIRS in figures else "-"
        contended = work == "cas"
        columns = [
            work,
            str(clients),
            str(keys),
            cell(lambda found: f"{found['per_second']:,.0f}"),
            ratio,
            cell(lambda found: f"{found['p50_ms']:.2f}"),
            cell(lambda found: f"{found['p99_ms']:.2f}"),
            cell(lambda found: f"{found['cpu_us']:.0f}"),
            cell(lambda found: f"{found['attempts']:.2f}") if contended else "",
            cell(lambda found: f"{found['jain']:.2f} ({found['slowest']:.2f})") if contended else "",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _machine(rounds: int, seconds: float) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2].strip() for line in cpuinfo if "model name" in line), "unknown")
    version = "not run"
    if shutil.which("etcd"):
        version = (
            subprocess.run(["etcd", "--version"], capture_output=True, text=True).stdout.split("\n")[0].split()[-1]
        )
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, etcd {version}; load average"
        f" {os.getloadavg()[0]:.1f} when the table was made; medians of {rounds} rounds of {seconds:g} s."
    )


if __name__ == "__main__":
    sys.exit(main())
