"""What must hold of a history and the tree it left, whatever failed meanwhile. Each returns what is wrong, as text."""

from itertools import pairwise

from tests.chaos.workers import EPHEMERAL, REGISTER, SEQUENCE, SWAPPED
from tests.support.history import History, Operation
from tests.support.trees import Tree


def order_violations(operations: list[tuple[int, Operation]]) -> list[str]:
    """``operations`` with their place in the order the system gave them: no place twice, and none before that of an
    operation that had ended when it was invoked."""
    wrong = []
    ordered = sorted(operations, key=lambda item: item[0])
    for (place, one), (next_place, two) in pairwise(ordered):
        if place == next_place:
            wrong.append(f"both got {place}: {one} and {two}")
    earliest_end, earliest = float("inf"), None
    for _, operation in reversed(ordered):
        if earliest is not None and earliest_end < operation.invoked:
            wrong.append(f"placed before what ended before it began: {operation} and {earliest}")
        if operation.ended < earliest_end:
            earliest_end, earliest = operation.ended, operation
    return wrong


def check_register(history: History, tree: Tree) -> list[str]:
    done = history.ended("set", "ok")
    maybe = history.ended("set", "unknown")
    wrong = order_violations([(op.result, op) for op in done])
    node = tree[REGISTER]
    version = int.from_bytes(node.stat[32:36], "big", signed=True)
    last = max((op.result for op in done), default=0)
    if version < last:
        wrong.append(f"version {last} was acknowledged, the register is at {version}")
    if not len(done) <= version <= len(done) + len(maybe):
        wrong.append(f"the register is at {version} after {len(done)} sets and {len(maybe)} of unknown outcome")
    values = {op.value for op in done if op.result == version} or {op.value for op in maybe}
    if (node.data or b"").decode() not in values:
        wrong.append(f"the register holds {node.data!r} at version {version}, which nobody set then")
    return wrong


def check_swapped(history: History, tree: Tree) -> list[str]:
    done = history.ended("swap", "ok")
    wrong = order_violations([(op.result, op) for op in done])
    wrong += [f"version is not one more than expected: {op}" for op in done if op.result != op.value + 1]
    version = int.from_bytes(tree[SWAPPED].stat[32:36], "big", signed=True)
    maybe = len(history.ended("swap", "unknown"))
    if not len(done) <= version <= len(done) + maybe:
        wrong.append(f"the node is at {version} after {len(done)} swaps and {maybe} of unknown outcome")
    return wrong


def check_sequence(history: History, tree: Tree) -> list[str]:
    done = history.ended("append", "ok")
    wrong = order_violations([(int(op.result[-10:]), op) for op in done])
    held = {path: (node.data or b"").decode() for path, node in tree.items() if path.startswith(f"{SEQUENCE}/")}
    wrong += [f"lost: {op}" for op in done if held.get(op.result) != op.value]
    values = list(held.values())
    if len(set(values)) != len(values):
        wrong.append("a create has been carried out twice")
    asked = {op.value for op in done} | {op.value for op in history.ended("append", "unknown")}
    wrong += [
        f"nobody asked for, or it was refused: {path} {value}" for path, value in held.items() if value not in asked
    ]
    return wrong


def check_ephemerals(tree: Tree) -> list[str]:
    wrong = [f"left behind: {path}" for path, node in tree.items() if node.owner]
    return wrong + [f"left behind: {path}" for path in tree if path.startswith(f"{EPHEMERAL}/")]
