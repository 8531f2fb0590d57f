"""The recorder, from one thread and from several."""

import threading
import time
from itertools import count
from pathlib import Path

import pytest

from quorate.verification.history import NEVER, History


class NotLeader(Exception):
    pass


def ticking() -> History:
    ticks = count(0, 10)
    return History(lambda: next(ticks))


def test_an_operation_from_its_invocation_to_its_end() -> None:
    history = ticking()
    operation = history.invoke("a", "write", "x", 3)
    assert (operation.outcome, operation.ended, operation.finished) == ("unknown", NEVER, NEVER)
    other = history.invoke("b", "read", "x")
    history.end(operation, "ok", 7)
    assert (operation.outcome, operation.result) == ("ok", 7)
    assert (operation.invoked, operation.ended) == (0, 20)
    assert (operation.began, other.began, operation.finished) == (0, 1, 2)
    with pytest.raises(ValueError, match="ended twice: a write 'x' 3"):
        history.end(operation, "fail")


def test_what_ended_how() -> None:
    history = ticking()
    operations = [history.invoke("a", name) for name in ("set", "set", "set", "get")]
    history.end(operations[0], "ok")
    history.end(operations[1], "fail")
    history.end(operations[3], "ok")
    assert history.acknowledged() == 2
    assert history.ended("set", "ok") == operations[:1]
    assert history.ended("set", "fail", "unknown") == operations[1:3]


class TestCall:
    def test_a_block_that_returns_succeeded(self) -> None:
        history = ticking()
        with history.call("a", "get", "x") as operation:
            operation.result = 5
        assert (operation.outcome, operation.result, operation.finished) == ("ok", 5, 1)

    def test_a_refusal_has_no_effect_and_goes_on_to_the_caller(self) -> None:
        history = ticking()
        with pytest.raises(NotLeader), history.call("a", "put", "x", 1, refused=(NotLeader,)) as operation:
            raise NotLeader("ask b")
        assert (operation.outcome, operation.result) == ("fail", "ask b")

    def test_any_other_exception_leaves_the_outcome_unknown(self) -> None:
        history = ticking()
        with pytest.raises(KeyboardInterrupt), history.call("a", "put", refused=(NotLeader,)) as operation:
            raise KeyboardInterrupt
        assert operation.outcome == "unknown"
        assert operation.finished == 1

    def test_a_block_may_end_the_operation_itself(self) -> None:
        history = ticking()
        with history.call("a", "put") as operation:
            history.end(operation, "fail", "no")
        assert (operation.outcome, operation.result) == ("fail", "no")


class TestWaitOkAfter:
    def test_waits_for_an_operation_that_was_invoked_later(self) -> None:
        history = History()
        early = history.invoke("a", "set")
        moment = time.monotonic_ns()
        history.end(early, "ok")
        late = history.invoke("a", "set")

        waiting = threading.Thread(target=lambda: seconds.append(history.wait_ok_after(moment, 60)))
        seconds: list[float] = []
        waiting.start()
        history.end(late, "ok")
        waiting.join()
        assert seconds == [(late.ended - moment) / 1e9]

    def test_an_operation_invoked_before_does_not_count_nor_one_that_failed(self) -> None:
        history = History()
        early = history.invoke("a", "set")
        moment = time.monotonic_ns()
        history.end(early, "ok")
        history.end(history.invoke("a", "set"), "fail")
        with pytest.raises(TimeoutError, match=r"no operation succeeded for 0\.01 s"):
            history.wait_ok_after(moment, 0.01)


def test_several_threads_record_into_one_history(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    with file.open("w") as stream:
        history = History(stream=stream)

        def work(process: str) -> None:
            for number in range(200):
                with history.call(process, "put", "x", number):
                    continue

        threads = [threading.Thread(target=work, args=(f"c{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    steps = sorted(step for op in history.operations for step in (op.began, op.finished))
    assert steps == list(range(1600))
    assert len(file.read_text().splitlines()) == 1601


def test_what_json_cannot_hold_is_written_as_its_representation(tmp_path: Path) -> None:
    history = ticking()
    history.invoke("a", "put", value={"x": b"\x00"})
    file = tmp_path / "history.jsonl"
    history.write(file)
    assert file.read_text().splitlines() == [
        '{"quorate-history": 1}',
        '{"type": "invoke", "id": 0, "process": "a", "name": "put", "value": {"x": "b\'\\\\x00\'"}, "time": 0}',
    ]
