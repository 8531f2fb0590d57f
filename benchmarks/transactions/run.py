"""Two-phase commit over PostgreSQL and MariaDB: ours beside written by hand, in one run.

A slice is one mode with so many workers for a second or less; a round is every slice once, in an order of its own, so that what else the machine does hits
all alike. Ratios are of slices of the same round, and what is shown is their median. Then all flushes are slowed by some
milliseconds: that shows how many stand one after the other. Ends every process it started, also when interrupted.
"""

import argparse
import random
import signal
import sys
import time

from benchmarks.transactions import tables
from benchmarks.transactions.servers import Numbers, Servers, drive, make_folder, remove_folders
from benchmarks.transactions.slowsync import SlowSync
from benchmarks.transactions.tables import ASYNC, SLOWED, SPREAD, THREADS, Load, Samples
from benchmarks.transactions.worker import WARM_TOGETHER

COUNTED = 40
"""Transactions whose flushes are counted, of each mode."""
SETTLE_SECONDS = 1.2
"""After which PostgreSQL's processes have told what they counted."""


def loads(arguments: argparse.Namespace, workers: list[int], slowed: bool) -> list[Load]:
    found: list[Load] = []
    for count in workers:
        if slowed:
            found += [(mode, count, 1) for mode in SLOWED]
            continue
        found += [(mode, count, 1) for mode in (*THREADS, *ASYNC)]
        if arguments.processes > 1 and count >= arguments.processes:
            found += [(mode, count, arguments.processes) for mode in SPREAD]
    if arguments.modes:
        found = [load for load in found if load[0] in arguments.modes]
    return found


def measure(servers: Servers, wanted: list[Load], rounds: int, seconds: float) -> Samples:
    samples: Samples = {load: [] for load in wanted}
    for number in range(rounds):
        # a row of the table is compared with others of as many workers, so those run close to one another
        groups: dict[tuple[int, int], list[Load]] = {}
        for load in wanted:
            groups.setdefault(load[1:], []).append(load)
        chance = random.Random(number)
        for group in groups.values():
            chance.shuffle(group)
            for mode, workers, processes in group:
                found = drive(servers, mode, workers, processes, seconds)
                samples[mode, workers, processes].append(found)
                shown = " ".join(f"{name} {value:.3g}" for name, value in found.items())
                print(f"# round {number}: {mode} {workers}/{processes}: {shown}", file=sys.stderr, flush=True)
        servers.tidy()
    servers.check()
    return samples


def count(servers: Servers, modes: list[str]) -> dict[str, Numbers]:
    """Flushes for each transaction of one worker."""
    found: dict[str, Numbers] = {}
    for mode in modes:
        before = servers.flushes()
        drive(servers, mode, 1, 1, 0.0, COUNTED)
        time.sleep(SETTLE_SECONDS)
        after = servers.flushes()
        found[mode] = {name: (after[name] - before[name]) / (COUNTED + WARM_TOGETHER) for name in after}
    return found


def _counts(text: str) -> list[int]:
    found = [int(count) for count in text.split(",") if count]
    if any(not 1 <= count <= 256 for count in found):
        raise ValueError(text)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transactions", description=__doc__)
    parser.add_argument(
        "--workers",
        type=_counts,
        default=[1, 8, 32],
        help="counts of workers, 1,8,32 if not said; empty: only the second part",
    )
    parser.add_argument("--seconds", type=float, default=0.7, help="of a slice")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--slow-ms", type=float, default=4.0, help="for each flush, in the second part; 0: no second part"
    )
    parser.add_argument(
        "--slow-workers",
        type=_counts,
        default=[1, 8],
        help="counts of workers in the second part, 1,8 if not said; empty: no second part",
    )
    parser.add_argument("--processes", type=int, default=4, help="that workers are also spread over; 0: they are not")
    parser.add_argument("--think-ms", type=float, default=0.0, help="between a worker's transactions")
    parser.add_argument("--binlog", action="store_true", help="MariaDB writes a binary log, and syncs it")
    parser.add_argument("--modes", default="", help=f"only these of {', '.join((*THREADS, *ASYNC))}")
    parser.add_argument("--markdown", action="store_true", help="tables for docs/benchmarks.md")
    arguments = parser.parse_args()
    arguments.modes = [mode for mode in arguments.modes.split(",") if mode]
    unknown = [mode for mode in arguments.modes if mode not in (*THREADS, *ASYNC)]
    if unknown:
        parser.error(f"there is no mode {unknown[0]!r}")
    workers, slow_workers = arguments.workers, arguments.slow_workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        text = [tables.machine(arguments)]
        if workers:
            with Servers(
                make_folder("fast"), max(workers), None, arguments.binlog, arguments.think_ms / 1000
            ) as servers:
                wanted = loads(arguments, workers, False)
                samples = measure(servers, wanted, arguments.rounds, arguments.seconds)
            text += tables.speed(samples)
        if arguments.slow_ms and slow_workers:
            folder = make_folder("slow")
            slow = SlowSync(make_folder("library"))
            with Servers(folder, max(slow_workers), slow, arguments.binlog, arguments.think_ms / 1000) as servers:
                counted = count(servers, [mode for mode, workers_, _ in loads(arguments, [1], True)])
                slow.slow_down(arguments.slow_ms)
                wanted = loads(arguments, slow_workers, True)
                slowed = measure(servers, wanted, arguments.rounds, max(arguments.seconds, 1.0))
            slow.close()
            text += tables.slowed(slowed, counted, arguments.slow_ms, arguments.binlog)
    finally:
        remove_folders()
    print(f"# {time.monotonic() - began:.0f} s", file=sys.stderr)
    shown = "\n\n".join(text)
    print(shown if arguments.markdown else tables.plain(shown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
