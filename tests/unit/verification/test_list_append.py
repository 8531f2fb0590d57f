import itertools
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from quorate.errors import UsageError
from quorate.verification import checkers
from quorate.verification.history import History
from quorate.verification.list_append import check
from quorate.verification.reading import parse_history

Step = tuple[str, str, Any]


class Script:
    """Transactions that begin and end where a test says."""

    def __init__(self) -> None:
        self.history = History(itertools.count().__next__, model="list-append")

    def did(self, *steps: Step, outcome: str = "ok") -> None:
        """One that has begun after all before it ended."""
        self.together([(steps, outcome)])

    def together(self, transactions: Sequence[tuple[Sequence[Step], str]]) -> None:
        """Some that were open at the same time."""
        opened = [
            self.history.invoke(f"c{i}", "txn", None, [[f, k, None if f == "r" else v] for f, k, v in steps])
            for i, (steps, _) in enumerate(transactions)
        ]
        for operation, (steps, outcome) in zip(opened, transactions, strict=True):
            result = [list(step) for step in steps]
            if outcome == "ok":
                self.history.end(operation, "ok", result)
            elif outcome == "fail":
                self.history.end(operation, "fail")
            else:
                self.history.end(operation, "unknown")

    @property
    def wrong(self) -> str:
        return "\n".join(check(self.history))


def test_what_was_done_one_after_another_is_serializable() -> None:
    script = Script()
    script.did(("r", "x", None), ("append", "x", 1), ("r", "x", [1]))
    script.did(("r", "x", [1]), ("append", "y", 2))
    script.did(("append", "x", 3), ("append", "x", 4), ("r", "x", [1, 3, 4]))
    script.did(("r", "x", [1, 3, 4]), ("r", "y", [2]))
    assert script.wrong == ""


def test_of_what_was_done_together_any_order_will_do() -> None:
    script = Script()
    script.together([((("append", "x", 1),), "ok"), ((("r", "x", []),), "ok"), ((("r", "x", [1]),), "ok")])
    script.together([((("append", "x", 2),), "unknown"), ((("append", "x", 3),), "unknown")])
    script.did(("r", "x", [1, 3]))
    assert script.wrong == ""


def test_write_skew() -> None:
    """Each read what the other was about to write: no order explains both (G2)."""
    script = Script()
    one: Sequence[Step] = (("r", "x", []), ("append", "y", 1))
    other: Sequence[Step] = (("r", "y", []), ("append", "x", 2))
    script.together([(one, "ok"), (other, "ok")])
    script.did(("r", "x", [2]), ("r", "y", [1]))
    assert "not serializable (G2)" in script.wrong
    assert "transaction 0 (c0) read 'x' without 2, which transaction 1 (c1) appended [rw]" in script.wrong


def test_a_lost_update() -> None:
    """Both read the list before either wrote it; one of the appends went over the other."""
    script = Script()
    both: list[tuple[Sequence[Step], str]] = [
        ((("r", "x", []), ("append", "x", 1)), "ok"),
        ((("r", "x", []), ("append", "x", 2)), "ok"),
    ]
    script.together(both)
    script.did(("r", "x", [2]))
    assert "not serializable" in script.wrong


def test_a_read_in_the_middle() -> None:
    script = Script()
    script.together([((("append", "x", 1), ("append", "y", 1)), "ok"), ((("r", "x", [1]), ("r", "y", [])), "ok")])
    script.did(("r", "y", [1]))
    assert "(G-single)" in script.wrong


def test_what_wrote_each_other_s_reads() -> None:
    script = Script()
    one = (("append", "x", 1), ("r", "y", [2]))
    other = (("append", "y", 2), ("r", "x", [1]))
    script.together([(one, "ok"), (other, "ok")])
    assert "(G1c)" in script.wrong


def test_lists_that_grew_in_different_orders() -> None:
    script = Script()
    script.together(
        [((("append", "x", 1), ("append", "y", 1)), "ok"), ((("append", "x", 2), ("append", "y", 2)), "ok")]
    )
    script.did(("r", "x", [1, 2]), ("r", "y", [2, 1]))
    assert "(G0)" in script.wrong


def test_a_stale_read_is_serializable_and_not_strictly() -> None:
    script = Script()
    script.did(("append", "x", 1))
    script.did(("r", "x", []))
    script.did(("r", "x", [1]))
    assert "not strictly serializable (G-single in real time)" in script.wrong
    assert "transaction 0 (c0) ended before transaction 1 (c0) began" in script.wrong


def test_an_acknowledged_append_that_nobody_finds() -> None:
    script = Script()
    script.did(("append", "x", 1))
    script.did(("r", "x", []))
    assert "not strictly serializable" in script.wrong


def test_what_failed_must_not_be_seen() -> None:
    script = Script()
    script.did(("append", "x", 1), outcome="fail")
    script.did(("r", "x", [1]))
    assert "aborted read (G1a): 1 was read of 'x'" in script.wrong


def test_what_may_have_failed_may_be_seen_but_as_a_whole() -> None:
    script = Script()
    script.did(("append", "x", 1), ("append", "y", 1), outcome="unknown")
    script.did(("r", "x", [1]))
    assert script.wrong == ""
    script.did(("r", "y", []))
    assert "not" in script.wrong


def test_a_part_of_what_a_transaction_wrote() -> None:
    script = Script()
    script.together([((("append", "x", 1), ("append", "x", 2)), "ok"), ((("r", "x", [1]),), "ok")])
    script.did(("r", "x", [1, 2]))
    assert "intermediate read (G1b)" in script.wrong


def test_an_element_twice() -> None:
    script = Script()
    script.did(("append", "x", 1))
    script.did(("r", "x", [1, 1]))
    assert "1 was appended once to 'x' and is there twice" in script.wrong


def test_an_element_of_nobody() -> None:
    script = Script()
    script.did(("r", "x", [7]))
    assert "nobody appended it" in script.wrong


def test_reads_that_do_not_fit_together() -> None:
    script = Script()
    script.together([((("append", "x", 1),), "ok"), ((("append", "x", 2),), "ok")])
    script.did(("r", "x", [1, 2]))
    script.did(("r", "x", [2]))
    assert "incompatible order" in script.wrong


def test_its_own_appends_must_be_seen() -> None:
    script = Script()
    script.did(("append", "x", 1), ("r", "x", []))
    assert "internal: transaction 0 (c0) read [] of 'x', expected [1]" in script.wrong


def test_jepsen_s_histories_are_read() -> None:
    text = """
    {:type :invoke, :process 0, :f :txn, :value [[:append 5 1] [:r 6 nil]], :time 1, :index 0}
    {:type :ok, :process 0, :f :txn, :value [[:append 5 1] [:r 6 []]], :time 2, :index 1}
    {:type :invoke, :process 1, :f :txn, :value [[:r 5 nil] [:r 6 nil]], :time 3, :index 2}
    {:type :ok, :process 1, :f :txn, :value [[:r 5 nil] [:r 6 nil]], :time 4, :index 3}
    """
    report = checkers.judge(parse_history(text, "history.edn"), "list-append")
    assert report.outcome == "violation"
    assert "transaction 0 (0) ended before transaction 1 (1) began" in report.details


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["w", "x", 1]], "a step ['w', 'x', 1], expected"),
        (7, "a transaction of 7"),
        ([["append", "x", 1], ["append", "x", 1]], "operation 0: 1 is appended to 'x' a second time"),
    ],
)
def test_what_is_no_such_history(value: object, message: str) -> None:
    history = History(itertools.count().__next__)
    history.end(history.invoke("c", "txn", None, value), "ok", value)
    with pytest.raises(UsageError, match=re.escape(message)):
        check(history)


def test_against_every_order() -> None:
    """Small random histories: nothing wrong exactly if some order of the transactions explains all reads and keeps to real time."""
    stream = random.Random(7)
    outcomes = [0, 0]
    for _ in range(1500):
        history = drawn(stream)
        expected = explained(history)
        outcomes[expected] += 1
        assert (check(history) == []) is expected, [repr(op) for op in history.operations]
    assert min(outcomes) > 200


def drawn(stream: random.Random) -> History:
    """Transactions that read a state from a little ago now and then; every append is seen by a last read, so that all is known."""
    history = History(itertools.count().__next__)
    states: list[dict[str, list[int]]] = [{"x": [], "y": []}]
    element = 0
    opened: list[Any] = []
    for number in range(stream.randint(2, 5)):
        steps: list[list[Any]] = []
        seen = states[stream.choice([-1, -1, -1, 0])]
        state = {key: list(value) for key, value in states[-1].items()}
        for key in stream.sample(["x", "y"], 2):
            if stream.random() < 0.6:
                steps.append(["r", key, list(seen[key])])
            if stream.random() < 0.6:
                element += 1
                steps.append(["append", key, element])
                state[key].append(element)
        operation = history.invoke(f"c{number}", "txn", None, [[f, k, None if f == "r" else v] for f, k, v in steps])
        opened.append((operation, steps))
        states.append(state)
        while opened and stream.random() < 0.6:
            ended, result = opened.pop(0)
            history.end(ended, "ok", result)
    for operation, steps in opened:
        history.end(operation, "ok", steps)
    last = [["r", key, value] for key, value in states[-1].items()]
    history.end(history.invoke("last", "txn", None, last), "ok", last)
    return history


def explained(history: History) -> bool:
    operations = history.operations
    for order in itertools.permutations(range(len(operations))):
        ranked = [operations[i] for i in order]
        if any(later.finished < earlier.began for i, earlier in enumerate(ranked) for later in ranked[i + 1 :]):
            continue
        if replays(ranked):
            return True
    return False


def replays(operations: Sequence[Any]) -> bool:
    state: dict[str, list[int]] = {}
    for operation in operations:
        for name, key, value in operation.result:
            if name == "append":
                state.setdefault(key, []).append(value)
            elif state.get(key, []) != value:
                return False
    return True


def test_ten_thousand_transactions_take_seconds() -> None:
    """And none of the steps is quadratic in their number."""
    history = History(itertools.count().__next__)
    lists: dict[str, list[int]] = {}
    stream = random.Random(1)
    for number in range(10_000):
        key = f"k{number // 100}.{stream.randrange(10)}"
        steps = [["r", key, list(lists.get(key, []))], ["append", key, number]]
        lists.setdefault(key, []).append(number)
        operation = history.invoke("c", "txn", None, steps)
        history.end(operation, "ok", steps)
    assert check(history) == []
