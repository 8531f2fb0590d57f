"""The search: histories from the literature, thousands of tiny ones against trying every order, and large ones."""

from itertools import count
from random import Random
from typing import Any

import pytest
from tests.unit.verification import brute
from tests.unit.verification.workload import KINDS, generate

from quorate.verification import linearizability
from quorate.verification.fifo import Queue
from quorate.verification.history import History, Operation, Outcome
from quorate.verification.linearizability import Verdict, check
from quorate.verification.lock import Lock
from quorate.verification.models import KeyValue, Model, Register
from quorate.verification.values import ANY


class Script:
    """A history written as ``a = begin(...)`` and ``end(a, ...)`` in the order of time."""

    def __init__(self) -> None:
        ticks = count()
        self.history = History(lambda: next(ticks))

    def begin(self, process: str, name: str, value: Any = None, key: Any = None) -> Operation:
        return self.history.invoke(process, name, key, value)

    def end(self, operation: Operation, result: Any = None, outcome: Outcome = "ok") -> None:
        self.history.end(operation, outcome, result)

    def whole(self, process: str, name: str, value: Any = None, result: Any = None, key: Any = None) -> None:
        self.end(self.begin(process, name, value, key), result)

    def verdict(self, model: Model) -> str:
        return check(self.history, model).outcome


class TestHerlihyAndWing:
    """FIFO queues after the examples of section 1 of "Linearizability: a correctness condition for concurrent objects" (1990)."""

    def test_a_later_enqueue_overtakes_while_both_run(self) -> None:
        script = Script()
        x = script.begin("a", "enqueue", "x")
        y = script.begin("b", "enqueue", "y")
        script.end(y)
        script.end(x)
        script.whole("b", "dequeue", result="x")
        script.whole("a", "dequeue", result="y")
        script.whole("a", "enqueue", "z")
        script.begin("b", "dequeue")
        assert script.verdict(Queue()) == "ok"

    def test_the_second_of_two_enqueues_in_turn_comes_out_first(self) -> None:
        script = Script()
        script.whole("a", "enqueue", "x")
        script.whole("b", "enqueue", "y")
        script.whole("a", "dequeue", result="y")
        assert script.verdict(Queue()) == "violation"

    def test_an_enqueue_whose_effect_is_seen_before_it_returns(self) -> None:
        script = Script()
        x = script.begin("a", "enqueue", "x")
        script.whole("b", "dequeue", result="x")
        script.end(x)
        assert script.verdict(Queue()) == "ok"

    def test_one_value_dequeued_by_two(self) -> None:
        script = Script()
        x = script.begin("a", "enqueue", "x")
        y = script.begin("b", "enqueue", "y")
        script.end(x)
        script.end(y)
        first = script.begin("a", "dequeue")
        second = script.begin("c", "dequeue")
        script.end(first, "y")
        script.end(second, "y")
        assert script.verdict(Queue()) == "violation"


class TestRegisters:
    def test_a_read_may_see_a_write_that_runs_and_the_next_must_too(self) -> None:
        for last, verdict in ((1, "ok"), (0, "violation")):
            script = Script()
            script.whole("a", "write", 0)
            write = script.begin("a", "write", 1)
            script.whole("b", "read", result=1)
            script.whole("c", "read", result=last)
            script.end(write)
            assert script.verdict(Register()) == verdict

    def test_a_write_whose_reply_was_lost_may_take_effect_much_later_but_once(self) -> None:
        script = Script()
        script.whole("a", "write", 0)
        script.end(script.begin("b", "write", 1), outcome="unknown")
        script.whole("a", "read", result=0)
        script.whole("a", "write", 2)
        script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "ok"
        script.whole("a", "write", 3)
        assert script.verdict(Register()) == "ok"
        script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "violation"

    def test_of_two_like_writes_without_reply_each_may_take_effect(self) -> None:
        script = Script()
        script.begin("b", "write", 1)
        script.begin("c", "write", 1)
        for other in (5, 6):
            script.whole("a", "write", other)
            script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "ok"
        script.whole("a", "write", 7)
        script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "violation"

    def test_a_failed_write_has_no_effect(self) -> None:
        script = Script()
        script.whole("a", "write", 0)
        script.end(script.begin("b", "write", 1), outcome="fail")
        script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "violation"

    def test_a_write_of_the_value_that_is_there_can_matter_later(self) -> None:
        """Placed at once, as a read would be, it could not explain the second read of 1."""
        script = Script()
        script.whole("a", "write", 1)
        again = script.begin("b", "write", 1)
        script.whole("a", "read", result=1)
        script.whole("a", "write", 2)
        script.whole("a", "read", result=2)
        script.whole("a", "read", result=1)
        script.end(again)
        assert script.verdict(Register()) == "ok"

    def test_keys_are_judged_one_by_one(self) -> None:
        script = Script()
        script.whole("a", "write", 1, key="x")
        script.whole("a", "read", result=None, key="y")
        verdict = check(script.history, Register())
        assert (verdict.outcome, verdict.keys, verdict.operations) == ("ok", 2, 2)
        script.whole("a", "read", result=None, key="x")
        verdict = check(script.history, Register())
        assert verdict.outcome == "violation"
        assert verdict.failure is not None
        assert verdict.failure.key == "x"

    @pytest.mark.parametrize(("seen", "verdict"), [([4, 4], "ok"), ([4, 5], "violation")])
    def test_a_register_that_began_with_anything(self, seen: list[int], verdict: str) -> None:
        script = Script()
        for value in seen:
            script.whole("a", "read", result=value)
        assert script.verdict(Register(initial=ANY)) == verdict

    def test_true_is_not_one(self) -> None:
        script = Script()
        script.whole("a", "write", True)
        script.whole("a", "read", result=1)
        assert script.verdict(Register()) == "violation"


class TestWhatIsReported:
    def _stale_read(self) -> linearizability.Failure:
        script = Script()
        script.whole("a", "write", 1)
        script.whole("b", "write", 2)
        late = script.begin("d", "write", 3)
        script.whole("c", "read", result=1)
        script.end(late)
        script.whole("c", "read", result=3)
        failure = check(script.history, Register()).failure
        assert failure is not None
        return failure

    def test_the_operation_without_a_place_and_the_longest_order_before_it(self) -> None:
        failure = self._stale_read()
        assert failure.blocked.operation.name == "read"
        assert failure.blocked.operation.result == 1
        assert [placed.call.operation.value for placed in failure.placed][:2] == [1, 2]
        assert [placed.state for placed in failure.placed][:2] == [1, 2]

    def test_why_each_open_operation_cannot_come_next(self) -> None:
        failure = self._stale_read()
        reasons = {call.operation.process: why for call, why in failure.open}
        assert "it read 1, the register holds" in reasons["c"]

    def test_before_the_blocked_operation_ended_there_is_an_order_and_then_there_is_none(self) -> None:
        """For every failing history of a batch, by cutting it there and by leaving out what was invoked later."""
        failed = 0
        for seed in range(300):
            history = _scrambled("cas-register", seed)
            failure = check(history, Register(cas=True)).failure
            if failure is None:
                continue
            failed += 1
            last = failure.blocked.finished
            assert check(_cut(history, last), Register(cas=True)).outcome == "ok"
            history.operations = [op for op in history.operations if op.began < last]
            assert check(history, Register(cas=True)).outcome == "violation"
        assert failed >= 20


def _cut(history: History, before: int) -> History:
    """What had happened by then."""
    cut = History(lambda: 0)
    for operation in history.operations:
        if operation.began >= before:
            break
        copy = Operation(operation.process, operation.name, operation.key, operation.value, 0, operation.began)
        if operation.finished < before:
            copy.outcome, copy.result, copy.finished = operation.outcome, operation.result, operation.finished
        cut.operations.append(copy)
    return cut


class TestBounds:
    def test_the_time_limit_leaves_the_verdict_unknown_and_names_what_was_left(self) -> None:
        history = _hard(14)
        times = count()
        verdict = check(history, Register(cas=True), time_limit=1.5, clock=lambda: float(next(times)))
        assert verdict.outcome == "unknown"
        assert verdict.undecided == ["hard"]
        assert verdict.reason == "the time is up"

    def test_so_does_the_bound_of_configurations(self) -> None:
        verdict = check(_hard(14), Register(cas=True), configurations=1000)
        assert verdict.outcome == "unknown"
        assert verdict.undecided == ["hard"]
        assert "configurations" in verdict.reason

    def test_a_hard_key_does_not_keep_a_bad_one_from_being_found(self) -> None:
        history = _hard(18)
        for number in range(200):
            write = history.invoke("z", "write", "bad", number)
            history.end(write, "ok")
        history.end(history.invoke("z", "read", "bad"), "ok", 0)
        verdict = check(history, Register(cas=True))
        assert verdict.outcome == "violation"
        assert verdict.failure is not None
        assert verdict.failure.key == "bad"
        assert verdict.steps <= 4 * linearizability.FIRST_BUDGET

    def test_a_search_that_is_interrupted_goes_on_where_it_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history = generate("cas-register", 3, operations=150, clients=8, keys=1, values=3, lost=0.03)
        history.end(history.invoke("z", "read", "k0"), "ok", 99)
        whole = check(history, Register(cas=True))
        monkeypatch.setattr(linearizability, "FIRST_BUDGET", 7)
        monkeypatch.setattr(linearizability, "SLICE", 3)
        pieces = check(history, Register(cas=True))
        assert whole.outcome == pieces.outcome == "violation"
        assert whole.steps == pieces.steps
        assert whole.failure is not None
        assert pieces.failure is not None
        assert [placed.state for placed in whole.failure.placed] == [placed.state for placed in pieces.failure.placed]


def _hard(width: int) -> History:
    """Writes that all run at once and a read of what none wrote: about 2 to the ``width`` configurations."""
    history = History(lambda: 0)
    running = [history.invoke(f"w{number}", "write", "hard", number) for number in range(width)]
    history.end(history.invoke("r", "read", "hard"), "ok", -1)
    for operation in running:
        history.end(operation, "ok")
    return history


def _model(kind: str) -> Model:
    if kind.endswith("kv"):
        return KeyValue()
    if kind.endswith("register"):
        return Register(cas=kind.startswith("cas"))
    return Queue() if kind == "queue" else Lock()


_BRUTE: dict[str, tuple[brute.Specification, Any]] = {
    "register": (brute.register, None),
    "cas-register": (brute.register, None),
    "kv": (brute.register, None),
    "versioned kv": (brute.versioned, (None, 0)),
    "queue": (brute.queue, ()),
    "lock": (brute.lock, (None, -1)),
}


def _scrambled(kind: str, seed: int) -> History:
    """A tiny history, most often with one result changed for another that occurs."""
    chance = Random(f"{kind} {seed}")
    history = generate(
        kind,
        seed,
        operations=chance.randrange(4, 8),
        clients=4,
        keys=1,
        values=chance.choice([2, 3, None]),
        lost=chance.choice([0.0, 0.4, 0.7]),
    )
    done = [op for op in history.operations if op.outcome == "ok"]
    if done and chance.random() < 0.7:
        changed = chance.choice(done)
        alike = [op.result for op in done if op.name == changed.name and op.result != changed.result]
        other: list[Any] = [False] if changed.name in ("cas", "release", "acquire") else [1, None]
        if changed.name == "delete":
            other = [True, False, None]
        elif kind == "versioned kv":
            other = []
        if alike or other:
            changed.result = chance.choice([*alike, *other])
    return history


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_trying_every_order(kind: str) -> None:
    specification, initial = _BRUTE[kind]
    found = {True: 0, False: 0}
    for seed in range(400):
        history = _scrambled(kind, seed)
        expected = brute.linearizable(history, specification, initial)
        verdict = check(history, _model(kind)).outcome
        if kind == "versioned kv" and not expected:
            # the model takes any growing versions, the workload's grow by one
            assert verdict in ("ok", "violation")
        else:
            assert verdict == ("ok" if expected else "violation"), f"seed {seed}: {history.operations}"
        found[expected] += 1
    assert min(found.values()) >= 20


@pytest.mark.parametrize("lost", [0.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_operations(kind: str, lost: float) -> None:
    """In steps, which tell more of the search than seconds do: a few for each operation."""
    history = generate(kind, 1, operations=10_000, clients=20, keys=10, lost=lost)
    verdict = _bounded(history, kind)
    assert verdict.outcome == "ok"
    assert verdict.keys == 10


@pytest.mark.parametrize("lost", [0.0, 0.02])
@pytest.mark.parametrize("kind", KINDS)
def test_one_planted_bug_in_ten_thousand_operations(kind: str, lost: float) -> None:
    history = generate(kind, 2, operations=10_000, clients=20, keys=10, lost=lost, stale=1)
    verdict = _bounded(history, kind)
    assert verdict.outcome == "violation"
    assert verdict.failure is not None


def _bounded(history: History, kind: str) -> Verdict:
    """Undecided past about three million steps, without a look at the clock."""
    looks = count()
    return check(history, _model(kind), time_limit=150, clock=lambda: float(next(looks)))
