"""What one run is like, drawn from its seed: the ensemble's size and timing, the machines, the clients, and which faults there are.

A random subset of the faults is on in each run (swarm testing), because some bugs need the absence of a fault as much as the
presence of another. All values are plain, so that they can be printed, changed and handed back. Times are nanoseconds.
"""

from collections.abc import Mapping
from typing import Any, Final

from quorate.errors import UsageError
from quorate.simulation import swarm
from quorate.simulation.scheduler import MICROSECOND, MILLISECOND, Stream

FAULTS: Final = (
    "crash",
    "crash_at_effect",
    "crash_at_disk",
    "power",
    "blackout",
    "reset",
    "partition",
    "oneway",
    "pause",
    "clock",
    "slow_disk",
    "slow_network",
    "loss",
    "full_disk",
    "failing_sync",
    "bit_flip",
    "wipe",
    "sniper",
    "silent_client",
    "cut_client",
    "lagging",
)


def draw(seed: int) -> dict[str, Any]:
    stream = Stream(seed, "options")
    voters = 1 if stream.chance(0.04) else 5 if stream.chance(0.25) else 3
    tick = stream.choice((50, 100, 200, 500, 2000)) * MILLISECOND
    options: dict[str, Any] = {
        "voters": voters,
        "observers": 1 if voters > 1 and stream.chance(0.2) else 0,
        "tick": tick,
        "init_limit": 10,
        "sync_limit": 5,
        "commit_log": stream.choice((1, 2, 5, 20, 500)),
        "snap_count": stream.choice((4, 10, 30, 100, 100_000)),
        "preallocate": stream.choice((0, 4096, 65536)),
        "two_disks": stream.chance(0.5),
        "delay": stream.spread(50 * MICROSECOND, 5 * MILLISECOND),
        "disk_latency": stream.spread(50 * MICROSECOND, 10 * MILLISECOND),
        "split": stream.choice((0.0, 0.0, 0.1, 0.5)),
        "batching": stream.choice((0.0, 0.0, 0.3, 1.0)),
        "drift_ppm": stream.choice((0, 0, 100, 50_000)),
        "duration": tick * stream.between(20, 80),
        "clients": stream.between(1, 5),
        "requests": stream.between(50, 300),
        "session_ticks": stream.choice((4, 4, 8, 20)),
        "faults": stream.between(2, 40),
        "enabled": [fault for fault in FAULTS if stream.chance(0.4)],
        "sniper": stream.choice((0.005, 0.03, 0.1)),
        "core_only": stream.chance(0.3),
        "blind": stream.chance(0.25),
        "expiry": stream.chance(0.3),
        "schedule": None,
    }
    return options


def complete(seed: int, changes: Mapping[str, object] | None) -> dict[str, Any]:
    options = swarm.complete(draw, FAULTS, seed, changes)
    if options["voters"] < 1:
        raise UsageError("simulation option voters: at least one is needed")
    return options


def smaller(options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways = swarm.Ways(options)
    change = ways.add
    if options["voters"] == 5:
        change("three voters", voters=3)
    change("no observers", observers=0)
    if options["duration"] > 5 * options["tick"]:
        change("half as long", duration=options["duration"] // 2)
        change("a tenth shorter", duration=options["duration"] * 9 // 10)
    if options["clients"] > 1:
        change("one client", clients=1)
    if options["requests"] > 4:
        change("half the requests", requests=options["requests"] // 2)
    change("no drift", drift_ppm=0)
    change("no split data", split=0.0)
    change("no batching", batching=0.0)
    change("honest votes", blind=False)
    change("everyone in the end", core_only=False)
    change("no wait for sessions to expire", expiry=False)
    change("one disk", two_disks=False)
    change("no preallocation", preallocate=0)
    change("a long commit log", commit_log=500)
    change("no snapshots", snap_count=100_000)
    return ways.found
