"""What one run is like: the size of the ensemble, its timing, and which faults there are (a random subset of them in each
run, because some bugs need the absence of a fault as much as the presence of another)."""

from tests.simulation.scheduler import MICROSECOND, MILLISECOND, Stream

FAULTS = ("crash", "reset", "partition", "oneway", "pause", "slow_disk", "slow_network", "sniper", "snapshot")


class Options:
    """Times in nanoseconds; ``sniper`` and ``split`` and ``batching`` are chances, ``faults`` is how many to expect.

    ``blind``: members claim any history they like when they vote, until the faults end. The election is a hint, and no
    promise of Zab may rest on it.
    """

    def __init__(self, seed: int) -> None:
        stream = Stream(seed, "options")
        self.voters = tuple(range(1, 6 if stream.chance(0.35) else 4))
        self.observers = (len(self.voters) + 1,) if stream.chance(0.25) else ()
        self.tick = stream.choice((50, 100, 200, 500, 2000)) * MILLISECOND
        self.init_limit = 10
        self.sync_limit = 5
        self.window = stream.choice((1, 2, 5, 20, 500))
        self.delay = stream.spread(50 * MICROSECOND, 5 * MILLISECOND)
        self.latency = stream.spread(50 * MICROSECOND, 10 * MILLISECOND)
        self.split = stream.choice((0.0, 0.2, 0.8))
        self.batching = stream.choice((0.0, 0.5, 1.0))
        self.duration = self.tick * stream.between(20, 100)
        self.requests = stream.between(50, 400)
        self.faults = stream.between(2, 60)
        self.enabled = tuple(fault for fault in FAULTS if stream.chance(0.6))
        self.sniper = stream.choice((0.005, 0.03, 0.1))
        self.drift_ppm = stream.choice((0, 0, 100, 50_000))
        self.core_only = stream.chance(0.3)
        self.blind = stream.chance(0.4)

    def text(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())
