"""The simulation notices deliberate bugs, each within some seeds: a check that finds nothing would prove nothing."""

import pytest
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.run import simulate

SEEDS = 150


@pytest.mark.parametrize("name", MUTATIONS)
def test_is_noticed(name: str) -> None:
    with mutated(*MUTATIONS[name]):
        failures = (simulate(seed).failure for seed in range(1, SEEDS + 1))
        assert any(failures), f"no seed up to {SEEDS} notices that it {name}"


def test_what_follows_from_them_is_noticed_as_well() -> None:
    """Without the checks of promises at their source: the history itself goes wrong."""
    for name in (
        "commits with a minority",
        "skips TRUNC",
        "counts an ACKEPOCH of -1",
        "leads on against a more recent history",
    ):
        with mutated(*MUTATIONS[name]):
            failures = (simulate(seed, at_source=False).failure for seed in range(1, SEEDS + 1))
            assert any(failures), f"no seed up to {SEEDS} notices that it {name}"
