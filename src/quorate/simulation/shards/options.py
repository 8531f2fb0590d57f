"""What one run is like, drawn from its seed: the members as in ``simulation.paxos``, and what is done with them. Times are nanoseconds."""

from collections.abc import Mapping
from typing import Any, Final

from quorate.simulation import swarm
from quorate.simulation.paxos import options as paxos
from quorate.simulation.scheduler import MILLISECOND, SECOND, Stream

FAULTS: Final = paxos.FAULTS


def draw(seed: int) -> dict[str, Any]:
    stream = Stream(seed, "shards")
    members = paxos.draw(seed)
    heartbeat = 50 * MILLISECOND
    timeout = heartbeat * 4
    return {
        **members,
        "groups": stream.choice((2, 3, 3)),
        "heartbeat": heartbeat,
        "election_timeout": timeout,
        "lease": timeout * stream.choice((0, 0, 1)),
        "history": 10_000,
        "duration": stream.between(1, 6) * SECOND,
        "faults": stream.between(0, 20),
        "processes": stream.between(2, 5),
        "keys": stream.between(1, 3),
        "requests": stream.between(10, 40),
        "think": stream.choice((1, 20, 100)) * MILLISECOND,
        "timeout": stream.choice((300, 1000, 3000)) * MILLISECOND,
        "keep": stream.choice((1, 5, 60)) * SECOND,
        "sweep_every": stream.choice((500, 2000, 10_000)) * MILLISECOND,
        "early": stream.choice((0.0, 0.3, 1.0)),
        "single": stream.choice((0.0, 0.2, 0.5)),
        "read_only": stream.choice((0.2, 0.5)),
        "die_rate": stream.choice((0.0, 0.05, 0.2)),
        "sleep_rate": stream.choice((0.0, 0.05, 0.2)),
        "late_rate": stream.choice((0.0, 0.05, 0.2)),
        "skew": stream.choice((0, 200, 2000)) * MILLISECOND,
    }


def complete(seed: int, changes: Mapping[str, object] | None) -> dict[str, Any]:
    return swarm.complete(draw, FAULTS, seed, changes)


def smaller(options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways = swarm.Ways(options)
    change = ways.add
    change("three members", members=3, accept_quorum=0)
    change("two groups", groups=2)
    if options["duration"] > SECOND:
        change("half as long", duration=options["duration"] // 2)
        change("a tenth shorter", duration=options["duration"] * 9 // 10)
    if options["requests"] > 4:
        change("half the requests", requests=options["requests"] // 2)
    if options["processes"] > 2:
        change("two processes", processes=2)
    change("one key", keys=1)
    change("nobody dies", die_rate=0.0)
    change("nobody sleeps", sleep_rate=0.0)
    change("nothing comes late", late_rate=0.0)
    change("one time for all", skew=0)
    change("none acknowledged early", early=0.0)
    change("no drift", drift_ppm=0)
    change("no lease", lease=0)
    change("snapshots in one piece", chunk=1 << 20)
    change("no snapshots", snapshot_entries=100_000)
    return ways.found
