"""What one run is like, drawn from its seed. A random subset of the faults is on in each. All values are plain; times are nanoseconds."""

from collections.abc import Mapping
from typing import Any, Final

from quorate.simulation import swarm
from quorate.simulation.scheduler import MICROSECOND, MILLISECOND, SECOND, Stream

FAULTS: Final = (
    "die",
    "sleep",
    "crash",
    "store_away",
    "reset",
    "slow",
    "lost_answers",
    "late_writes",
    "votes_no",
    "skew",
    "by_hand",
)


def draw(seed: int) -> dict[str, Any]:
    stream = Stream(seed, "options")
    return {
        "processes": stream.between(1, 4),
        "strands": stream.between(1, 3),
        "postgres": stream.between(0, 2),
        "mariadb": stream.between(1, 2),
        "transactions": stream.between(20, 120),
        "timeout": stream.choice((500, 1000, 3000)) * MILLISECOND,
        "keep": stream.choice((1, 5, 60)) * SECOND,
        "sweep_every": stream.choice((500, 1000, 5000)) * MILLISECOND,
        "delay": stream.spread(50 * MICROSECOND, 5 * MILLISECOND),
        "think": stream.choice((1, 20, 200)) * MILLISECOND,
        "early": stream.choice((0.0, 0.3, 1.0)),
        "read_only": stream.choice((0.0, 0.2)),
        "riding": stream.choice((0.0, 0.3)),
        "reset_rate": stream.choice((0.005, 0.02, 0.1)),
        "slow_rate": stream.choice((0.005, 0.05)),
        "loss_rate": stream.choice((0.01, 0.1)),
        "late_rate": stream.choice((0.2, 1.0)),
        "no_rate": 0.05,
        "skew": stream.choice((100, 1000, 5000)) * MILLISECOND,
        "duration": stream.between(5, 40) * SECOND,
        "faults": stream.between(2, 30),
        "enabled": [fault for fault in FAULTS if stream.chance(0.4)],
        "schedule": None,
    }


def complete(seed: int, changes: Mapping[str, object] | None) -> dict[str, Any]:
    return swarm.complete(draw, FAULTS, seed, changes)


def smaller(options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways = swarm.Ways(options)
    change = ways.add
    if options["transactions"] > 1:
        change("half the transactions", transactions=options["transactions"] // 2)
    change("one process", processes=1)
    change("one strand", strands=1)
    change("one of each database", postgres=min(1, options["postgres"]), mariadb=1)
    if options["duration"] > 2 * SECOND:
        change("half as long", duration=options["duration"] // 2)
    change("none acknowledged early", early=0.0)
    change("no readers", read_only=0.0)
    change("nothing rides", riding=0.0)
    change("kept for a minute", keep=60 * SECOND)
    return ways.found
