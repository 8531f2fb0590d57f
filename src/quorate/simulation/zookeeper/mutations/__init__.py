"""The catalogue of deliberate bugs: each must be noticed by the simulation, or what it finds in good code means nothing.

Most are bugs that ZooKeeper or another system really had, or that the protocols' literature warns of. docs/verification.md
has the table of how many runs each takes to be noticed, and as what.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Final

from quorate.errors import UsageError
from quorate.simulation.zookeeper.mutations import server, sessions, store, zab
from quorate.simulation.zookeeper.mutations.mutation import Mutation as Mutation
from quorate.simulation.zookeeper.mutations.mutation import Patch as Patch

_ALL: Final = zab.MUTATIONS + store.MUTATIONS + server.MUTATIONS + sessions.MUTATIONS

MUTATIONS: Final[dict[str, Mutation]] = {mutation.name: mutation for mutation in _ALL}

assert len(MUTATIONS) == len(_ALL), "two mutations have one name"


def named(name: str) -> Mutation:
    """Raises UsageError if there is none."""
    mutation = MUTATIONS.get(name)
    if mutation is None:
        close = get_close_matches(name, MUTATIONS, 3) or list(MUTATIONS)
        raise UsageError(f"unknown mutation {name!r}: expected one of {', '.join(close)}")
    return mutation


@contextmanager
def mutated(name: str) -> Iterator[Mutation]:
    """Run the block with the bug in the production code. Raises UsageError for an unknown name."""
    mutation = named(name)
    with mutation.applied():
        yield mutation
