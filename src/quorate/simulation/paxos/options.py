"""What one run is like, drawn from its seed. A random subset of the faults is on in each. All values are plain; times are nanoseconds."""

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
    "members",
    "hand_over",
    "crash_at_adoption",
    "word_lost",
    "deaf_leader",
    "late_words",
    "sleeping_leader",
    "forgetful_voter",
)


def draw(seed: int) -> dict[str, Any]:
    stream = Stream(seed, "options")
    members = 1 if stream.chance(0.03) else stream.choice((3, 3, 3, 4, 5))
    heartbeat = stream.choice((5, 20, 50)) * MILLISECOND
    timeout = heartbeat * stream.choice((4, 8))
    return {
        "members": members,
        "groups": 2 if stream.chance(0.25) else 1,
        # flexible quorums, where a majority is not the only choice
        "accept_quorum": stream.choice((0, 0, 2)) if members in (4, 5) else 0,
        "heartbeat": heartbeat,
        "election_timeout": timeout,
        "lease": timeout * stream.choice((0, 0, 1, 2)) // 2,
        "clock_error": 10_000,
        "drift_ppm": stream.choice((0, 0, 100, 4_000)),
        "snapshot_entries": stream.choice((5, 20, 100, 100_000)),
        "kept_entries": stream.choice((0, 2, 10, 100)),
        "chunk": Stream(seed, "chunk").choice((100, 1_000, 1 << 20)),
        "segment": stream.choice((500, 3_000, 100_000)),
        "preallocate": stream.choice((0, 4096)),
        "history": stream.choice((5, 50, 10_000)),
        "delay": stream.spread(50 * MICROSECOND, 3 * MILLISECOND),
        "disk_latency": stream.spread(50 * MICROSECOND, 5 * MILLISECOND),
        "split": stream.choice((0.0, 0.0, 0.1, 0.5)),
        "batching": stream.choice((0.0, 0.0, 0.3, 1.0)),
        "duration": timeout * stream.between(10, 60),
        "clients": stream.between(1, 6),
        "keys": stream.between(1, 4),
        "requests": stream.between(50, 400),
        "faults": stream.between(2, 40),
        "enabled": [fault for fault in FAULTS if stream.chance(0.4)],
        "core_only": stream.chance(0.4),
        "schedule": None,
    }


def complete(seed: int, changes: Mapping[str, object] | None) -> dict[str, Any]:
    options = swarm.complete(draw, FAULTS, seed, changes)
    if not 1 <= options["members"] <= 9 or not 1 <= options["groups"] <= 9:
        raise UsageError("simulation options members and groups: expected 1 to 9")
    return options


def smaller(options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways = swarm.Ways(options)
    change = ways.add
    if options["members"] > 3:
        change("three members", members=3, accept_quorum=0)
    change("one group", groups=1)
    if options["duration"] > 5 * options["election_timeout"]:
        change("half as long", duration=options["duration"] // 2)
        change("a tenth shorter", duration=options["duration"] * 9 // 10)
    if options["clients"] > 1:
        change("one client", clients=1)
    if options["requests"] > 4:
        change("half the requests", requests=options["requests"] // 2)
    change("one key", keys=1)
    change("no lease", lease=0)
    change("no drift", drift_ppm=0)
    change("no split data", split=0.0)
    change("no batching", batching=0.0)
    change("everyone in the end", core_only=False)
    change("no preallocation", preallocate=0)
    change("snapshots in one piece", chunk=1 << 20)
    change("no snapshots", snapshot_entries=100_000)
    return ways.found
