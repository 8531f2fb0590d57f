"""The checks see what they are there to see: each wrong that is planted is found, and a right history passes."""

from typing import Any

import pytest
from tests.chaos.checks import check_ephemerals, check_register, check_sequence, check_swapped
from tests.chaos.workers import EPHEMERAL, REGISTER, SEQUENCE, SWAPPED
from tests.support.history import History, Operation, Outcome
from tests.support.trees import NodeView, Tree


def view(data: str = "", version: int = 0, owner: int = 0) -> NodeView:
    stat = bytes(32) + version.to_bytes(4, "big") + bytes(8) + owner.to_bytes(8, "big") + bytes(16)
    return NodeView(data.encode(), stat, b"", (), owner)


Told = tuple[str, Any, Outcome, Any, float, float]
"""Name, value, outcome, result, invoked, ended."""


def history(*operations: Told) -> History:
    made = History()
    for name, value, outcome, result, invoked, ended in operations:
        operation = Operation("client", name, value, invoked)
        operation.outcome, operation.result, operation.ended = outcome, result, ended
        made.operations.append(operation)
    return made


SETS: list[Told] = [
    ("set", "a", "ok", 1, 0.0, 1.0),
    ("set", "b", "unknown", None, 1.0, 2.0),
    ("set", "c", "ok", 3, 2.0, 3.0),
]


def test_a_right_register_passes() -> None:
    assert check_register(history(*SETS), {REGISTER: view("c", 3)}) == []


@pytest.mark.parametrize(
    ("operations", "node", "found"),
    [
        (SETS, view("a", 1), "version 3 was acknowledged"),
        (SETS, view("c", 4), "after 2 sets and 1 of unknown"),
        (SETS, view("b", 3), "which nobody set then"),
        ([*SETS, ("set", "d", "ok", 3, 3.0, 4.0)], view("d", 3), "both got 3"),
        ([SETS[0], ("set", "b", "ok", 3, 1.0, 1.5), ("set", "c", "ok", 2, 2.0, 3.0)], view("b", 3), "placed before"),
    ],
)
def test_a_wrong_register_is_found(operations: list[Told], node: NodeView, found: str) -> None:
    wrong = check_register(history(*operations), {REGISTER: node})
    assert any(found in line for line in wrong), wrong


def test_swaps() -> None:
    won: Told = ("swap", 0, "ok", 1, 0.0, 1.0)
    assert check_swapped(history(won), {SWAPPED: view("", 1)}) == []
    twice: Told = ("swap", 0, "ok", 1, 1.0, 2.0)
    assert "both got 1" in check_swapped(history(won, twice), {SWAPPED: view("", 1)})[0]
    wide: Told = ("swap", 1, "ok", 3, 1.0, 2.0)
    assert "one more" in check_swapped(history(won, wide), {SWAPPED: view("", 2)})[0]


APPENDS: list[Told] = [
    ("append", "x", "ok", f"{SEQUENCE}/n-0000000000", 0.0, 1.0),
    ("append", "y", "unknown", None, 1.0, 2.0),
    ("append", "z", "ok", f"{SEQUENCE}/n-0000000002", 2.0, 3.0),
]


@pytest.mark.parametrize(
    ("held", "found"),
    [
        ({0: "x", 2: "z"}, ""),
        ({0: "x", 1: "y", 2: "z"}, ""),
        ({0: "x"}, "lost"),
        ({0: "x", 2: "y"}, "lost"),
        ({0: "x", 1: "x", 2: "z"}, "carried out twice"),
        ({0: "x", 1: "w", 2: "z"}, "nobody asked for"),
    ],
)
def test_sequences(held: dict[int, str], found: str) -> None:
    tree: Tree = {f"{SEQUENCE}/n-{number:010}": view(value) for number, value in held.items()}
    wrong = check_sequence(history(*APPENDS), tree)
    assert any(found in line for line in wrong) if found else wrong == []


def test_ephemerals() -> None:
    assert check_ephemerals({EPHEMERAL: view()}) == []
    assert check_ephemerals({EPHEMERAL: view(), f"{EPHEMERAL}/x": view(owner=7)})
    assert check_ephemerals({"/elsewhere": view(owner=7)})
