"""Histories of clients that run at the same time against a real sequential object, with delays drawn from a seed.

An operation takes effect at a moment between its invocation and its ending; of some the reply is lost, before or after they
took effect. So the history is linearizable by construction, unless ``stale`` plants a bug: that many reads answer from the
past.
"""

from heapq import heappop, heappush
from random import Random
from typing import Any

from quorate.verification.history import History, Operation

KINDS = ("register", "cas-register", "kv", "versioned kv", "queue", "lock")

HOLD = 1000
"""The longest of each of the delays, in nanoseconds."""
STALE = 4 * HOLD
"""How long before a stale read was invoked its value was replaced: what replaced it has ended by then."""


class Store:
    """One key. ``act`` returns the outcome and result that a client gets."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.value: Any = None
        self.version = 0
        self.items: list[Any] = []
        self.holder: str | None = None
        self.tokens = 0
        self.past: list[tuple[Any, int]] = []
        """Values that were, and when each was replaced."""

    def long_gone(self, before: int) -> Any:
        """A value that another had replaced by then, None if there is none."""
        return next((value for value, when in reversed(self.past) if when < before and value != self.value), None)

    def act(self, operation: Operation, stale: bool, now: int) -> tuple[bool, Any]:
        name, value = operation.name, operation.value
        if name in ("read", "get"):
            seen, version = self.long_gone(operation.invoked - STALE) if stale else self.value, self.version
            return True, {
                "value": seen,
                "version": version,
            } if self.kind == "versioned kv" and seen is not None else seen
        if name in ("write", "put"):
            return True, self._set(value, now)
        if name == "cas":
            if self.value != value[0]:
                return False, None
            return True, self._set(value[1], now)
        if name == "delete":
            there = self.value is not None
            self._set(None, now)
            return True, there
        if name == "enqueue":
            self.items.append(value)
            return True, None
        if name == "dequeue":
            if stale:
                return True, self.items.pop()
            return True, self.items.pop(0) if self.items else None
        if name == "acquire":
            if self.holder is not None and not stale:
                return True, False
            self.holder = operation.process
            self.tokens += 1
            return True, self.tokens
        assert name == "release"
        if self.holder != operation.process:
            return True, False
        self.holder = None
        return True, None

    def _set(self, value: Any, now: int) -> Any:
        if self.value is not None:
            self.past.append((self.value, now))
        self.value = value
        self.version += 1
        return {"version": self.version} if self.kind == "versioned kv" else None


def generate(
    kind: str, seed: int, *, operations: int, clients: int, keys: int, values: int | None = None, lost: float = 0.0,
    stale: int = 0,
) -> History:  # fmt: skip
    """``values`` bounds how many different ones are written (all differ if None). The ``stale`` bugs come past the middle."""
    chance = Random(seed)
    now = [0]
    history = History(lambda: now[0], model="kv" if kind == "versioned kv" else kind)
    stores = [Store(kind) for _ in range(keys)]
    names = [f"c{number}" for number in range(clients)]
    generation = [0] * clients
    written = 0
    queue: list[tuple[int, int, str, int, Any]] = []
    issued = 0

    def push(when: int, what: str, client: int, data: Any = None) -> None:
        nonlocal issued
        issued += 1
        heappush(queue, (when, issued, what, client, data))

    for client in range(clients):
        push(chance.randrange(HOLD), "invoke", client)
    while queue:
        now[0], _, what, client, data = heappop(queue)
        if what == "invoke":
            if len(history.operations) >= operations:
                continue
            key = chance.randrange(keys)
            name, value = _draw(kind, chance, written, values, stores[key].value)
            written += 1
            operation = history.invoke(names[client], name, f"k{key}", value)
            push(now[0] + chance.randrange(1, HOLD), "act", client, (operation, stores[key]))
        elif what == "act":
            operation, store = data
            fate = chance.random()
            if fate < lost / 2:
                push(now[0] + HOLD, "lose", client, operation)
                continue
            bug = (
                stale > 0
                and fate >= lost
                and len(history.operations) > operations // 2
                and _would_show(operation, store)
            )
            stale -= bug
            done, result = store.act(operation, bug, now[0])
            if fate < lost:
                push(now[0] + HOLD, "lose", client, operation)
            else:
                push(now[0] + chance.randrange(1, HOLD), "end", client, (operation, done, result))
        elif what == "end":
            operation, done, result = data
            history.end(operation, "ok" if done else "fail", result)
            push(now[0] + chance.randrange(1, HOLD), "invoke", client)
        else:
            history.end(data, "unknown")
            generation[client] += 1
            names[client] = f"c{client}.{generation[client]}"
            push(now[0] + 1, "invoke", client)
    return history


def _draw(kind: str, chance: Random, written: int, values: int | None, held: Any) -> tuple[str, Any]:
    def value() -> int:
        return written if values is None else chance.randrange(values)

    roll = chance.random()
    if kind == "queue":
        return ("enqueue", value()) if roll < 0.5 else ("dequeue", None)
    if kind == "lock":
        return ("acquire" if roll < 0.5 else "release"), None
    put, get = ("put", "get") if kind.endswith("kv") else ("write", "read")
    if roll < 0.45:
        return get, None
    if kind in ("cas-register", "kv", "versioned kv") and roll < 0.65:
        return "cas", [chance.choice([held, chance.randrange(values or 5)]), value()]
    if kind.endswith("kv") and roll < 0.75:
        return "delete", None
    return put, value()


def _would_show(operation: Operation, store: Store) -> bool:
    if operation.name in ("read", "get"):
        return store.long_gone(operation.invoked - STALE) is not None
    if operation.name == "dequeue":
        return len(store.items) > 8
    return operation.name == "acquire" and store.holder is not None
