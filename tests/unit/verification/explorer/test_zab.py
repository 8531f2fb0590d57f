"""The Zab ensemble as a space: no state of ours is wrong, the mutants' are, and what the explorer relies on holds."""

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from tests.unit.verification.explorer.mutants import CRASH, MUTANTS, QUIET, mutated

from quorate.consensus.zab.messages import Diff, Snap, Trunc
from quorate.errors import UsageError
from quorate.verification.explorer import Exploration, Explorer
from quorate.verification.spaces.zab import Action, Bounds, Event, Outcome, World, ZabSpace, freeze
from quorate.verification.spaces.zab_node import Node
from quorate.verification.spaces.zab_story import tell


def explore(space: ZabSpace, max_states: int = 0) -> Exploration[World, Action]:
    return Explorer(space, max_states=max_states).run()


# ---- the cores as they are


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(3, transactions=2, epochs=1),
        Bounds(3, transactions=1, crashes=1, epochs=1),
        Bounds(2, transactions=1, crashes=1, disconnects=1, epochs=3),
        Bounds(3, transactions=1, disconnects=1, epochs=1, window=0),
        Bounds(2, transactions=1, crashes=1, epochs=2, elections=True),
    ],
    ids=["quiet", "crash", "two members", "snapshots", "elections"],
)
def test_no_invariant_is_broken_in_any_state_within_the_bounds(bounds: Bounds) -> None:
    found = explore(ZabSpace(bounds))
    assert (found.end, found.violation) == ("complete", "")


def test_the_space_reaches_what_it_is_to_reach() -> None:
    """A space without recoveries would be without violations as well."""
    space = ZabSpace(Bounds(3, transactions=1, crashes=1, epochs=2))
    assert explore(space).end == "complete"
    assert {Diff, Trunc} <= {type(message) for message in space.messages}
    assert any(view.established and view.epoch == 2 and view.applied for view in space.views)
    assert any(view.serving and view.epoch == 2 and view.applied for view in space.views)
    # an entry of the first epoch that nobody applied, and that the second cut off
    assert any(view.serving and view.epoch == 2 and not view.history for view in space.views)


def test_a_leader_that_keeps_no_entries_sends_snapshots() -> None:
    space = ZabSpace(Bounds(3, transactions=2, epochs=1, window=0))
    assert explore(space).end == "complete"
    assert any(isinstance(message, Snap) and message.snapshot for message in space.messages)
    assert any(view.serving and len(view.applied) == 2 for view in space.views)


def test_counts_do_not_depend_on_hash_seeds() -> None:
    program = (
        "from quorate.verification.explorer import Explorer\n"
        "from quorate.verification.spaces.zab import Bounds, ZabSpace\n"
        "space = ZabSpace(Bounds(3, transactions=1, crashes=1, epochs=1))\n"
        "found = Explorer(space).run()\n"
        "print(found.generated, found.levels, space.local_steps, len(space.nets))\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0]
    assert outputs[0] == outputs[1]


FORMS_MAX = 5


class Doubting(ZabSpace):
    """Runs every event from every form in which a member's state is met, not only from the first."""

    def __init__(self, bounds: Bounds) -> None:
        self.forms: dict[int, list[bytes]] = {}
        self.compared: set[tuple[int, Event, int]] = set()
        super().__init__(bounds)

    def _outcome(self, number: int, event: Event) -> Outcome:
        first = super()._outcome(number, event)
        for index, form in enumerate(self.forms[number]):
            if (number, event, index) in self.compared:
                continue
            self.compared.add((number, event, index))
            other = self.run(form, event)
            assert (other.node, other.sends, other.closes, other.error) == (
                first.node,
                first.sends,
                first.closes,
                first.error,
            ), f"members in equal states differ in what {event} does"
        return first

    def intern(self, node: Node) -> int:
        number = super().intern(node)
        forms = self.forms.setdefault(number, [])
        if len(forms) < FORMS_MAX:
            form = freeze(node)
            if form not in forms:
                forms.append(form)
        return number


@pytest.mark.parametrize("elections", [False, True])
def test_members_in_equal_states_behave_equally(elections: bool) -> None:
    """What a core's ``state`` promises: here tokens, clocks and dead fields differ, and nothing that comes of them."""
    space = Doubting(Bounds(2, transactions=1, crashes=1, disconnects=1, epochs=3, elections=elections))
    assert explore(space, max_states=10_000).violation == ""
    assert len(space.compared) > 5_000


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"members": 0}, "members must be from 1 to 7, not 0"),
        ({"epochs": 0}, "epochs must be from 1"),
        ({"crashes": -1}, "crashes must be from 0"),
        ({"transactions": 256}, "transactions must be from 0 to 255"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Bounds(**limits)


# ---- the mutants


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found_by_a_shortest_trace(name: str) -> None:
    patches, limits, invariant = MUTANTS[name]
    with mutated(*patches):
        space = ZabSpace(Bounds(**limits))
        found = explore(space)
        assert found.violation.partition(":")[0] == invariant
        assert found.trace is not None
        if limits is QUIET:
            shorter = Explorer(ZabSpace(Bounds(**limits)), max_depth=len(found.trace.steps)).run()
            assert (shorter.end, shorter.violation) == ("depth", "")
        state = found.trace.initial
        for step in found.trace.steps:
            assert step in space.successors(state)
            state = step[1]
        story = tell(space, found.trace, found.violation)
    causes = Counter(lines[0].split()[0] for row in story.rows for lines in row.lines.values())
    assert causes["<-"] == sum(len(row.arrows) for row in story.rows) > 5
    assert len(story.rows) == len(found.trace.steps)


def test_the_same_bounds_find_nothing_in_the_cores_themselves() -> None:
    for limits in (QUIET, CRASH):
        assert explore(ZabSpace(Bounds(**limits))).violation == ""
