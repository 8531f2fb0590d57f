"""The simulation notices deliberate bugs, or what it finds in good code would mean nothing.

docs/verification.md has the table of all of them, with what each takes; here are those that are noticed soon. The same seeds pass
without the bug.
"""

from collections.abc import Iterator

import pytest
from tests.support.deliberate import Search

from quorate.simulation.zookeeper.mutations import MUTATIONS, mutated

RUNS = 120
"""At most so many may be needed."""
FIRST = {"reply-to-whoever-waits": 200}
"""Where the search begins, for what is noticed later."""

SLOW = frozenset(
    (
        "install-keeps-log",
        "later-logs-not-cut",
        "leader-drops-proposed",
        "older-epoch-accepted",
        "proposals-to-synced-only",
        "second-epoch-ack",
        "seen-zxid-ignored",
        "session-before-commit",
        "session-judged-by-follower",
        "session-moves-ignored",
        "sync-at-follower",
        "tail-committed",
        "tail-not-sent",
        "trunc-in-memory",
    )
)
"""Noticed only after hundreds of runs, or not yet: see the table."""


@pytest.fixture(scope="module")
def search(request: pytest.FixtureRequest) -> Iterator[Search]:
    with Search("zab", RUNS, FIRST).of(request) as begun:
        yield begun


@pytest.mark.parametrize("name", [name for name in MUTATIONS if name not in SLOW])
def test_a_deliberate_bug_is_noticed(search: Search, name: str) -> None:
    search.judge(name)


def test_there_are_enough_and_the_slow_ones_exist() -> None:
    assert MUTATIONS.keys() >= SLOW
    assert len(MUTATIONS.keys() - SLOW) >= 40


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_code_is_as_before_when_a_mutation_ends(name: str) -> None:
    mutation = MUTATIONS[name]
    before = [vars(patch.owner)[patch.attribute] for patch in mutation.patches]
    with mutated(name):
        during = [vars(patch.owner)[patch.attribute] for patch in mutation.patches]
        assert all(was is not now for was, now in zip(before, during, strict=True))
    assert [vars(patch.owner)[patch.attribute] for patch in mutation.patches] == before
