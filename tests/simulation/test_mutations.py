"""The simulation notices deliberate bugs, each within some seeds: a check that finds nothing would prove nothing."""

import pytest
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.options import Options
from tests.simulation.run import Run

SEEDS = 400


def noticed(name: str, at_source: bool = True) -> bool:
    with mutated(*MUTATIONS[name]):
        return any(Run(seed, harsh(seed), at_source).execute().failure for seed in range(1, SEEDS + 1))


def harsh(seed: int) -> Options:
    """Elections that settle on anyone, and hits where they hurt: what most of the bugs need."""
    options = Options(seed)
    options.blind = True
    options.sniper = 0.1
    options.enabled = tuple(sorted({*options.enabled, "sniper", "crash"}))
    return options


@pytest.mark.parametrize("name", MUTATIONS)
def test_is_noticed(name: str) -> None:
    assert noticed(name), f"no seed up to {SEEDS} notices that it {name}"


@pytest.mark.parametrize(
    "name",
    [
        "commits with a minority",
        "counts an ACKEPOCH of -1",
        "drops what it received when it stops following",
        "leads on against a more recent history",
        "skips TRUNC",
    ],
)
def test_what_follows_from_it_is_noticed_as_well(name: str) -> None:
    """Without the checks of promises at their source: the history itself goes wrong."""
    assert noticed(name, at_source=False), f"no seed up to {SEEDS} notices that it {name}"


def test_the_unchanged_cores_pass() -> None:
    for seed in range(1, 61):
        result = Run(seed, harsh(seed)).execute()
        assert not result.failure, f"seed {seed}: {result.failure}"
