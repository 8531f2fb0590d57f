"""A checker that tries every order, over specifications of its own: slow, and too simple to share a mistake with the real one."""

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

from quorate.verification.history import NEVER, History, Operation

Specification = Callable[[Any, Operation, bool], tuple[bool, Any]]
"""Of a state and an operation, and whether its result is known: can it happen, and the state after it."""


def linearizable(history: History, specification: Specification, initial: Any) -> bool:
    keys: dict[Any, list[Operation]] = {}
    for operation in history.operations:
        if operation.outcome != "fail":
            keys.setdefault(operation.key, []).append(operation)
    return all(_has_order(operations, specification, initial) for operations in keys.values())


def _has_order(operations: list[Operation], specification: Specification, initial: Any) -> bool:
    known = [op for op in operations if op.outcome == "ok"]
    unknown = [op for op in operations if op.outcome == "unknown"]
    return any(
        _allowed(order, specification, initial)
        for count in range(len(unknown) + 1)
        for taken in combinations(unknown, count)
        for order in permutations([*known, *taken])
    )


def _allowed(order: tuple[Operation, ...], specification: Specification, state: Any) -> bool:
    for place, operation in enumerate(order):
        known = operation.outcome == "ok"
        if any(_finished(later) < operation.began for later in order[place + 1 :]):
            return False
        possible, state = specification(state, operation, known)
        if not possible:
            return False
    return True


def _finished(operation: Operation) -> int:
    return operation.finished if operation.outcome == "ok" else NEVER


def register(state: Any, op: Operation, known: bool) -> tuple[bool, Any]:
    if op.name in ("read", "get"):
        return not known or op.result == state, state
    if op.name in ("write", "put"):
        return True, op.value
    if op.name == "delete":
        return not known or op.result is None or op.result == (state is not None), None
    old, new = op.value
    if known and op.result is False:
        return state != old, state
    return state == old, new


def versioned(state: Any, op: Operation, known: bool) -> tuple[bool, Any]:
    """Versions are those of ``workload``: one more with each change of the key. The state is (value, version)."""
    value, version = state
    if op.name == "get":
        seen = None if value is None else {"value": value, "version": version}
        return not known or op.result == seen, state
    if op.name == "delete":
        return not known or op.result == (value is not None), (None, version + 1)
    if op.name == "cas" and value != op.value[0]:
        return False, state
    made = op.value if op.name == "put" else op.value[1]
    return not known or op.result == {"version": version + 1}, (made, version + 1)


def queue(state: Any, op: Operation, known: bool) -> tuple[bool, Any]:
    if op.name == "enqueue":
        return True, (*state, op.value)
    if not known:
        return True, state[1:]
    return op.result == (state[0] if state else None), state[1:]


def lock(state: Any, op: Operation, known: bool) -> tuple[bool, Any]:
    holder, last = state
    if op.name == "acquire":
        if op.result is False:
            return holder is not None, state
        if holder is not None or (known and op.result is not None and op.result <= last):
            return False, state
        return True, (op.process, op.result if known and op.result is not None else last)
    if op.result is False:
        return holder != op.process, state
    return holder == op.process, (None, last)
