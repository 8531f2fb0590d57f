"""A first-in-first-out queue as a sequential specification. Operations and results: see the table in ``models``."""

from collections.abc import Iterator
from typing import Any

from quorate.errors import UsageError
from quorate.verification.history import NEVER, Operation
from quorate.verification.models import REFUSED, Call, Model
from quorate.verification.values import freeze, show

_ENQUEUE, _DEQUEUE, _DRAIN, _EMPTY = range(4)


class Item:
    """One value in a queue, the same object wherever the value occurs.

    ``taken_from`` and ``taken_by`` bound when it is dequeued, in steps of the history; ``claimed`` says that it is by a
    dequeue of known outcome. If only dequeues of unknown outcome can take it, ``takers`` are their invocations.
    """

    __slots__ = ("claimed", "taken_by", "taken_from", "takers", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.taken_from = 0
        self.taken_by = NEVER
        self.claimed = False
        self.takers: list[int] | None = None

    def __repr__(self) -> str:
        return show(self.value)


class Queue(Model):
    """First in, first out. The state is (bound, unclaimed, items): the tuple of what is in it, and what the enqueues so far
    mean for the next: how many put in what no known dequeue takes, and the moment before which nothing that comes behind
    them all can be dequeued.

    Which of two concurrent enqueues came first shows only when they are dequeued, perhaps much later. So that the search
    need not guess, an item is not let in behind one that is surely dequeued after it, and a dequeue of unknown outcome
    does not take what another is known to have taken. That needs values that differ, as queue tests have.
    """

    name = "queue"
    pure = frozenset({_EMPTY})
    initial: Any = (0, 0, ())

    def __init__(self) -> None:
        self.codes = {
            "enqueue": _ENQUEUE, "dequeue": _DEQUEUE, "drain": _DRAIN, "push": _ENQUEUE, "pop": _DEQUEUE,
            "offer": _ENQUEUE, "poll": _DEQUEUE,
        }  # fmt: skip

    def calls(self, operation: Operation, code: int) -> Iterator[Call]:
        if operation.outcome == "fail" or (code == _ENQUEUE and operation.result is False):
            return
        if code == _ENQUEUE:
            if operation.value is None:
                raise UsageError(f"{operation.name} has no value")
            yield Call(operation, code, freeze(operation.value))
        elif code == _DEQUEUE:
            yield _dequeue(operation, operation.result)
        elif operation.outcome == "unknown":
            raise UsageError("a drain of unknown outcome cannot be judged: how much it dequeued is not known")
        elif not isinstance(operation.result, list | tuple):
            raise UsageError(f"the result of drain is {show(operation.result)}, expected a list")
        else:
            for value in operation.result:
                yield _dequeue(operation, value)

    def step(self, state: Any, call: Call) -> Any:
        code = call.code
        bound, unclaimed, items = state
        if code == _ENQUEUE:
            item = call.given
            if item.taken_by < bound:
                return REFUSED
            takers = item.takers
            if takers is None:
                return (max(bound, item.taken_from), unclaimed, (*items, item))
            # the first of such items to go in needs one taker to be gone, the second two, and so on
            begun = takers[unclaimed] if unclaimed < len(takers) else NEVER
            return (max(bound, begun), unclaimed + 1, (*items, item))
        if code == _EMPTY:
            return REFUSED if items else state
        if call.known:
            fits = items and items[0] is call.given
        else:
            fits = items and not items[0].claimed
        return (bound, unclaimed, items[1:]) if fits else REFUSED

    def explain(self, state: Any, call: Call) -> str:
        held = f"the queue is {self.describe(state)}"
        if call.code == _ENQUEUE:
            return f"its value was dequeued before one enqueued earlier could be, {held}"
        if call.code == _EMPTY:
            return f"it found the queue empty, {held}"
        return f"it took {show(call.seen)}, {held}" if call.known else f"what it may have taken another did, {held}"

    def describe(self, state: Any) -> str:
        items = state[2]
        if len(items) > 8:
            return f"[{', '.join(map(str, items[:8]))} and {len(items) - 8} more]"
        return f"[{', '.join(map(str, items))}]" if items else "empty"

    def prepare(self, calls: list[Call]) -> list[Call]:
        # An enqueued value that nobody took stays, or a dequeue of unknown outcome took it: leave out both.
        seen = {call.seen for call in calls if call.code == _DEQUEUE and call.known}
        kept = [call for call in calls if call.known or call.code != _ENQUEUE or call.given in seen]
        items: dict[Any, Item] = {}
        enqueued: dict[Any, int] = {}
        taken: dict[Any, list[Call]] = {}
        takers: list[int] = []
        for call in kept:
            if call.code == _ENQUEUE:
                call.given = items.setdefault(call.given, Item(call.given))
                enqueued[call.given.value] = enqueued.get(call.given.value, 0) + 1
            elif call.code == _DEQUEUE:
                call.given = items.setdefault(call.seen, Item(call.seen))
                if call.known:
                    taken.setdefault(call.seen, []).append(call)
                else:
                    takers.append(call.began)
        takers.sort()
        for value, item in items.items():
            takes = taken.get(value, [])
            if enqueued.get(value, 0) > 1 or len(takes) > 1:
                continue
            if takes:
                item.taken_from, item.taken_by, item.claimed = takes[0].began, takes[0].finished, True
            else:
                item.takers = takers
        return kept


def _dequeue(operation: Operation, value: Any) -> Call:
    empty = value is None and operation.outcome == "ok"
    return Call(operation, _EMPTY if empty else _DEQUEUE, seen=freeze(value))
