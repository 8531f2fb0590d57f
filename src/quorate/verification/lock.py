"""A lock as a sequential specification. Operations and results: see the table in ``models``."""

from collections.abc import Iterator
from typing import Any

from quorate.verification.history import Operation
from quorate.verification.models import REFUSED, Call, Model

_ACQUIRE, _HELD, _RELEASE, _NOT_HELD, _LOST = range(5)


class Lock(Model):
    """Held by one at a time; fencing tokens, if there are any, grow. The state is (holder or None, the last token or None)."""

    name = "lock"
    pure = frozenset({_HELD, _NOT_HELD})
    initial: Any = (None, None)

    def __init__(self) -> None:
        self.codes = {
            "acquire": _ACQUIRE, "release": _RELEASE, "lost": _LOST, "lock": _ACQUIRE, "unlock": _RELEASE,
            "expire": _LOST,
        }  # fmt: skip

    def calls(self, operation: Operation, code: int) -> Iterator[Call]:
        if operation.outcome == "fail":
            return
        value, result = operation.value, operation.result
        who = operation.process
        if isinstance(value, dict) and "owner" in value:
            who = str(value["owner"])
        if result is False and code != _LOST:
            yield Call(operation, _HELD if code == _ACQUIRE else _NOT_HELD, who=who)
            return
        token = None
        if code == _ACQUIRE:
            token = result.get("token", result.get("fence")) if isinstance(result, dict) else result
            token = token if type(token) is int else None
        yield Call(operation, code, seen=token, who=who)

    def step(self, state: Any, call: Call) -> Any:
        holder, last = state
        code = call.code
        if code == _ACQUIRE:
            token = call.seen
            if holder is not None or (token is not None and last is not None and token <= last):
                return REFUSED
            return (call.who, last if token is None else token)
        if code == _RELEASE:
            return (None, last) if holder == call.who else REFUSED
        if code == _HELD:
            return REFUSED if holder is None else state
        if code == _NOT_HELD:
            return REFUSED if holder == call.who else state
        return (None, last) if holder == call.who else state

    def explain(self, state: Any, call: Call) -> str:
        holder, last = state
        if call.code == _ACQUIRE:
            if holder is not None:
                return f"{call.who} acquired the lock, which {holder} holds"
            return f"{call.who} was given the token {call.seen}, the last one was {last}"
        if call.code == _HELD:
            return "it found the lock held, which is free"
        if call.code == _NOT_HELD:
            return f"{call.who} was told that it did not hold the lock, which it does"
        return f"{call.who} released the lock, which {'is free' if holder is None else f'{holder} holds'}"

    def describe(self, state: Any) -> str:
        holder, last = state
        held = "free" if holder is None else f"held by {holder}"
        return held if last is None else f"{held}, last token {last}"

    def prepare(self, calls: list[Call]) -> list[Call]:
        # If one who never lets go holds the lock, nobody after it does; without it everybody may. Only one who was told
        # that the lock is held needs it.
        if any(call.code == _HELD for call in calls):
            return calls
        leaves = {call.who for call in calls if call.code in (_RELEASE, _LOST)}
        return [call for call in calls if call.known or call.code != _ACQUIRE or call.who in leaves]
