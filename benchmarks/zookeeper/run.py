"""Quorate beside Apache ZooKeeper, in one run: medians over rounds, as JSON in build/ and as tables.

``--write`` puts the tables into docs/benchmarks.md. Ends every process it started, also when interrupted.
"""

import argparse
import json
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

from benchmarks.zookeeper import generator, parts, tables

DOCUMENT = generator.ROOT / "docs" / "benchmarks.md"
RESULTS = generator.ROOT / "build" / "zookeeper-benchmarks.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zookeeper.run", description=__doc__)
    parser.add_argument("--parts", default=",".join(parts.PARTS), help="any of %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="counted seconds of each load")
    parser.add_argument("--warm-up", type=float, default=3.0, help="seconds of load before the first counted one")
    parser.add_argument("--nodes", default="100000", help="numbers of nodes, with commas between")
    parser.add_argument("--quick", action="store_true", help="one round, one second, fewer loads")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.warm_up = 1, 1.0, 1.0
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores SIGINT unless told otherwise
        signal.signal(number, signal.default_int_handler)
    wanted = arguments.parts.split(",")
    if unknown := [name for name in wanted if name not in parts.PARTS]:
        parser.error(f"unknown part {unknown[0]}: expected any of {', '.join(parts.PARTS)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the servers inherit it
    cores = os.cpu_count() or 1
    machine = _machine(arguments)
    samples: list[parts.Sample] = []
    status = 0
    try:
        generator.build()
        for name in wanted:
            began = time.monotonic()
            for sample in parts.PARTS[name](arguments):
                if "other_cpu" in sample.figures:
                    sample.figures["other_share"] = sample.figures["other_cpu"] / sample.figures["seconds"] / cores
                samples.append(sample)
                print(f"# {sample.part} {sample.case} {sample.kind} {sample.figures}", file=sys.stderr, flush=True)
            print(f"# {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    except generator.LoadError as error:
        print(f"benchmarks: {error}; what was measured before is kept", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted; what was measured before is kept", file=sys.stderr)
        status = 130
    RESULTS.write_text(json.dumps({"machine": machine, "samples": [sample._asdict() for sample in samples]}, indent=1))
    text = f"{machine}\n\n{tables.tables(samples)}"
    print(text)
    if arguments.write and status == 0:
        tables.rewrite(DOCUMENT, text)
    return status


def _machine(arguments: argparse.Namespace) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2].strip() for line in cpuinfo if "model name" in line), "unknown")
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}; load average"
        f" {os.getloadavg()[0]:.1f} when the run began; {arguments.rounds} rounds of {arguments.seconds:g} s."
        f" Java's heap: {parts.JAVA_HEAP or 'its default'}."
    )


if __name__ == "__main__":
    sys.exit(main())
