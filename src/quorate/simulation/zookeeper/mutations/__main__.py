"""``python -m quorate.simulation.zookeeper.mutations [NAME ...]``: how many runs it takes to notice each bug, as a table in Markdown.

Seeds 1, 2, 3, … are run with each mutation until one fails, for at most BUDGET seconds of real time each, in one process.
"""

import sys
from typing import Final

from quorate.errors import QuorateError
from quorate.simulation.batch import Batch, Outcome
from quorate.simulation.protocols import location
from quorate.simulation.shrinking import kind_of
from quorate.simulation.zookeeper.mutations import MUTATIONS, Mutation, named

BUDGET: Final = 60.0
_SEEDS: Final = range(1, 1_000_000)
_SECOND: Final = 1_000_000_000


def notice(mutation: Mutation, budget: float = BUDGET, seeds: range = _SEEDS) -> tuple[Outcome | None, int, float]:
    """The first run that notices the bug, None if none did in time; how many runs that took, and how many seconds of CPU."""
    found: list[Outcome] = []
    batch = Batch(location("zab"), seeds, mutation=mutation.name, stop_after=1, time_budget=budget)
    totals = batch.run(found.append)
    return (found[0] if found else None), totals.seeds, totals.cpu / _SECOND


def main(names: list[str]) -> int:
    mutations = [named(name) for name in names] or list(MUTATIONS.values())
    sys.stdout.write("| bug | like | seeds | CPU s | noticed as |\n| --- | --- | --- | --- | --- |\n")
    for mutation in mutations:
        outcome, seeds, seconds = notice(mutation)
        caught = (
            f"{seeds} | {seconds:.1f} | {kind_of(outcome.text)}"
            if outcome
            else f"> {seeds} | > {seconds:.0f} | not noticed"
        )
        sys.stdout.write(f"| {mutation.what} (`{mutation.name}`) | {mutation.issue} | {caught} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except QuorateError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
