"""A checker that tries every order: slow, and too simple to share a mistake with the real one."""

from itertools import combinations, permutations
from typing import Any

from quorate.verification.history import History
from quorate.verification.models import REFUSED, Call, Model


def linearizable(history: History, model: Model) -> bool:
    return all(_has_order(model, model.prepare(calls)) for _, calls in model.parts(history))


def _has_order(model: Model, calls: list[Call]) -> bool:
    known = [call for call in calls if call.known]
    unknown = [call for call in calls if not call.known]
    return any(
        _allowed(model, order)
        for count in range(len(unknown) + 1)
        for taken in combinations(unknown, count)
        for order in permutations([*known, *taken])
    )


def _allowed(model: Model, order: tuple[Call, ...]) -> bool:
    state: Any = model.initial
    for place, call in enumerate(order):
        if any(later.finished < call.began for later in order[place + 1 :]):
            return False
        state = model.step(state, call)
        if state is REFUSED:
            return False
    return True
