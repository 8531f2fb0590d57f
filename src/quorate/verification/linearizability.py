"""Is there an order of the operations, one at a time, that respects real time and that the model allows?

Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with Lowe's memory of the pairs of linearized set and
state ("Testing for linearizability", 2017), after the split by key that Horn and Kroening prove sound ("Faster linearizability
checking via P-compositionality", 2015). Deciding it is NP-complete: a search is given steps in turns, so that one hard key
does not keep the others from being looked at, and the whole may be given a time bound.

Three reductions, each of which leaves the verdict as it is:

- A read (``Model.pure``) that fits now and leaves the state as it is is placed now, and no other choice is tried in its
  stead: whatever order exists without it here exists with it here.
- An operation of unknown outcome stays open to the end. It is not placed where it would change nothing, and of several that
  are alike the one invoked first goes first.
- A model may drop operations of unknown outcome whose effect nobody can have seen (``Model.prepare``).

A set of linearized operations is kept as the number of leading operations all of which are in, and a bitset of those after
them; so its size follows the concurrency and not the length of the history.
"""

import time
from collections.abc import Callable
from typing import Any, Final, Literal

from quorate.verification.history import History
from quorate.verification.models import REFUSED, Call, Model

Outcome = Literal["ok", "violation", "unknown"]

FIRST_BUDGET: Final = 20_000
"""Steps that each key is given in the first round."""
GROWTH: Final = 8
"""By how much the budget grows from round to round."""
SLICE: Final = 20_000
"""Steps between two looks at the clock."""
MAX_CONFIGURATIONS: Final = 4_000_000
"""How many pairs of set and state are kept at once, about 150 bytes each; more leaves the verdict unknown."""

_Chain = tuple[Any, ...]
"""One placed operation and the way back: (chain before, entry, state before, leading, window, unknowns, decided, greedy, state after)."""


class Placed:
    """An operation of the partial linearization, and the state after it."""

    __slots__ = ("call", "state")

    def __init__(self, call: Call, state: Any) -> None:
        self.call = call
        self.state = state


class Failure:
    """Why the operations of ``key`` have no order.

    Up to the moment just before ``blocked`` ended there is an order, and ``placed`` is one (the longest); up to that
    moment there is none. ``state`` is what ``placed`` leads to; ``open`` are the operations that could come next by their
    times, each with why it cannot. ``calls`` are all of the key's, by their invocations.
    """

    __slots__ = ("blocked", "calls", "initial", "key", "model", "open", "placed", "state")

    def __init__(
        self,
        model: Model,
        key: Any,
        calls: list[Call],
        placed: list[Placed],
        blocked: Call,
        open_calls: list[tuple[Call, str]],
    ) -> None:
        self.model = model
        self.key = key
        self.calls = calls
        self.placed = placed
        self.initial = model.initial
        self.state = placed[-1].state if placed else model.initial
        self.blocked = blocked
        self.open = open_calls


class Verdict:
    """``ok``, ``violation`` (then ``failure`` is set) or ``unknown`` (then ``undecided`` are keys and ``reason`` says why).

    ``operations`` counts those that were judged, ``keys`` the parts they fell into, ``steps`` the attempts to place one.
    """

    __slots__ = ("failure", "keys", "operations", "outcome", "reason", "steps", "undecided")

    def __init__(self, outcome: Outcome, operations: int, keys: int, steps: int) -> None:
        self.outcome: Outcome = outcome
        self.operations = operations
        self.keys = keys
        self.steps = steps
        self.failure: Failure | None = None
        self.undecided: list[Any] = []
        self.reason = ""


def check(
    history: History,
    model: Model,
    *,
    time_limit: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    configurations: int = MAX_CONFIGURATIONS,
) -> Verdict:
    """Judge ``history`` by ``model``, within ``time_limit`` seconds of ``clock`` if that is given.

    Stops at the first key that has no order. Raises UsageError for an operation that the model does not know.
    """
    deadline = None if time_limit is None else clock() + time_limit
    parts = model.parts(history)
    searches = [Search(model, key, calls) for key, calls in parts]
    searches.sort(key=lambda search: len(search.calls))
    verdict = Verdict("ok", len({id(call.operation) for _, calls in parts for call in calls}), len(parts), 0)
    budget = FIRST_BUDGET
    held = 0
    reason = ""
    while searches and not reason:
        undecided: list[Search] = []
        for number, search in enumerate(searches):
            held -= search.kept()
            found, reason = _turn(search, budget, deadline, clock, configurations - held)
            held += search.kept()
            if found == "violation":
                verdict.outcome = "violation"
                verdict.failure = search.failure()
                verdict.steps += search.steps + sum(other.steps for other in [*undecided, *searches[number + 1 :]])
                return verdict
            if found == "ok":
                verdict.steps += search.steps
            else:
                undecided.append(search)
            if reason:
                undecided += searches[number + 1 :]
                break
        searches = undecided
        budget *= GROWTH
    if searches:
        verdict.outcome = "unknown"
        verdict.undecided = [search.key for search in searches]
        verdict.steps += sum(search.steps for search in searches)
        verdict.reason = reason
    return verdict


def _turn(
    search: "Search", budget: int, deadline: float | None, clock: Callable[[], float], configurations: int
) -> tuple[Outcome, str]:
    """Let ``search`` take up to ``budget`` steps. What it found, and why nothing more may be tried ("" if it may)."""
    while budget > 0:
        found = search.run(min(budget, SLICE))
        if found != "unknown":
            return found, ""
        budget -= SLICE
        if search.kept() > configurations:
            return "unknown", "the search holds too many configurations"
        if deadline is not None and clock() >= deadline:
            return "unknown", "the time is up"
    return "unknown", ""


class Search:
    """The search for an order of one key's calls; ``run`` goes on where it stopped.

    Entries are the invocations and the endings of the calls, by time, 1 to m, in a doubly linked list from which placed
    operations are lifted; 0 is its head. A call of unknown outcome has no ending. The order is found once all calls of
    known outcome are placed.
    """

    __slots__ = (
        "_after", "_before", "_bit", "_chain", "_decided", "_entry", "_entry_call", "_fewest", "_furthest", "_furthest_chain",
        "_leading", "_memory", "_number", "_partner", "_state", "_to_decide", "_twin", "_unknowns", "_window", "calls",
        "key", "model", "steps",
    )  # fmt: skip

    def __init__(self, model: Model, key: Any, calls: list[Call]) -> None:
        self.model = model
        self.key = key
        self.calls = calls
        self.steps = 0
        searched = model.prepare(calls)
        events: list[tuple[int, int, int]] = []
        for index, call in enumerate(searched):
            events.append((call.began, 0, index))
            if call.known:
                events.append((call.finished, 1, index))
        events.sort()
        size = len(events) + 1
        self._after = [*range(1, size), 0]
        self._before = [size - 1, *range(size - 1)]
        self._entry_call: list[Call | None] = [None] * size
        self._partner = [0] * size
        """Of an invocation: the entry of its ending, 0 if it has none. Of an ending: its invocation."""
        self._number = [0] * size
        """Of a known call's invocation: how many known calls were invoked before it."""
        self._bit = [0] * size
        """Of an unknown call's invocation: its bit."""
        self._twin = [0] * size
        """The bit of the unknown call that is like this one and was invoked last before it."""
        self._index_entries(searched, events)
        self._to_decide = sum(call.known for call in searched)
        self._memory: set[tuple[int, int, int, Any]] = set()
        self._chain: _Chain | None = None
        self._entry = self._after[0]
        self._state = model.initial
        self._leading = self._window = self._unknowns = self._decided = 0
        self._furthest = self._fewest = 0
        self._furthest_chain: _Chain | None = None

    def _index_entries(self, calls: list[Call], events: list[tuple[int, int, int]]) -> None:
        invoked: dict[int, int] = {}
        alike: dict[Any, int] = {}
        known = unknown = 0
        for entry, (_, ending, index) in enumerate(events, 1):
            call = calls[index]
            if ending:
                self._partner[entry] = invoked[index]
                self._partner[invoked[index]] = entry
                continue
            invoked[index] = entry
            self._entry_call[entry] = call
            if call.known:
                self._number[entry] = known
                known += 1
            else:
                self._bit[entry] = 1 << unknown
                likeness = call.likeness()
                self._twin[entry] = alike.get(likeness, 0)
                alike[likeness] = 1 << unknown
                unknown += 1

    def kept(self) -> int:
        return len(self._memory)

    def run(self, budget: int) -> Outcome:
        """Take up to ``budget`` steps; ``unknown`` if that was not enough."""
        after, before, partner = self._after, self._before, self._partner
        calls, number, bits, twins = self._entry_call, self._number, self._bit, self._twin
        memory, remember = self._memory, self._memory.add
        to_decide, step, pure = self._to_decide, self.model.step, self.model.pure
        chain, entry, state, decided = self._chain, self._entry, self._state, self._decided
        leading, window, unknowns = self._leading, self._window, self._unknowns
        furthest, fewest = self._furthest, self._fewest
        outcome: Outcome = "unknown"
        left = budget
        while True:
            if decided == to_decide:
                outcome = "ok"
                break
            if not left:
                break
            left -= 1
            call = calls[entry]
            if call is not None:
                ending = partner[entry]
                if ending:
                    new = step(state, call)
                    if new is REFUSED:
                        entry = after[entry]
                        continue
                    greedy = new is state and call.code in pure
                    offset = number[entry] - leading
                    if offset:
                        ahead, inside, maybe = leading, window | 1 << offset, unknowns
                    else:
                        # the lowest run of ones moves from the window to the leading calls
                        inside = window >> 1
                        run = (~inside & (inside + 1)).bit_length() - 1
                        ahead, inside, maybe = leading + 1 + run, inside >> run, unknowns
                    gained = 1
                else:
                    if twins[entry] and not unknowns & twins[entry]:
                        entry = after[entry]
                        continue
                    new = step(state, call)
                    if new is REFUSED or new == state:
                        entry = after[entry]
                        continue
                    greedy = False
                    ahead, inside, maybe = leading, window, unknowns | bits[entry]
                    gained = 0
                size = len(memory)
                remember((ahead, inside, maybe, new))
                if len(memory) == size:
                    if not greedy:
                        entry = after[entry]
                        continue
                    # what a read leads to has been tried, and so has all that could be tried in its stead
                else:
                    chain = (chain, entry, state, leading, window, unknowns, decided, greedy, new)
                    state, leading, window, unknowns = new, ahead, inside, maybe
                    decided += gained
                    previous, following = before[entry], after[entry]
                    after[previous] = following
                    before[following] = previous
                    if ending:
                        previous, following = before[ending], after[ending]
                        after[previous] = following
                        before[following] = previous
                    entry = after[0]
                    continue
            elif entry > furthest or (entry == furthest and unknowns.bit_count() < fewest):
                # of the orders that get as far, the one that presumes least of what nobody was told
                self._furthest = furthest = entry
                self._fewest = fewest = unknowns.bit_count()
                self._furthest_chain = chain
            while True:
                if chain is None:
                    outcome = "violation"
                    break
                chain, entry, state, leading, window, unknowns, decided, greedy, _ = chain
                ending = partner[entry]
                if ending:
                    after[before[ending]] = ending
                    before[after[ending]] = ending
                after[before[entry]] = entry
                before[after[entry]] = entry
                if not greedy:
                    break
            if outcome == "violation":
                break
            entry = after[entry]
        self.steps += budget - left
        self._chain, self._entry, self._state, self._decided = chain, entry, state, decided
        self._leading, self._window, self._unknowns = leading, window, unknowns
        if outcome != "unknown":
            memory.clear()
            self._chain = None
        return outcome

    def failure(self) -> Failure:
        """After ``run`` returned ``violation``."""
        placed: list[Placed] = []
        chain = self._furthest_chain
        taken = set()
        while chain is not None:
            call = self._entry_call[chain[1]]
            assert call is not None
            placed.append(Placed(call, chain[-1]))
            taken.add(chain[1])
            chain = chain[0]
        placed.reverse()
        blocked = self._entry_call[self._partner[self._furthest]]
        assert blocked is not None
        state = placed[-1].state if placed else self.model.initial
        open_calls = []
        for entry in range(1, self._furthest):
            call = self._entry_call[entry]
            if call is None or entry in taken:
                continue
            new = self.model.step(state, call)
            if new is REFUSED:
                why = self.model.explain(state, call)
            elif call is blocked:
                why = "fits here, but then nothing that must follow does"
            elif new == state:
                why = "changes nothing"
            else:
                why = f"leads to {self.model.describe(new)}, from where no order goes on"
            open_calls.append((call, why))
        return Failure(self.model, self.key, self.calls, placed, blocked, open_calls)
