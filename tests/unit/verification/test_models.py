"""What each model takes and refuses, operation by operation, and what it says of a refusal."""

from itertools import count
from typing import Any

import pytest

from quorate.errors import UsageError
from quorate.verification.fifo import Queue
from quorate.verification.history import History, Operation, Outcome
from quorate.verification.linearizability import Verdict, check
from quorate.verification.lock import Lock
from quorate.verification.models import KeyValue, Model, Register
from quorate.verification.values import ANY
from quorate.verification.znode import Znode

Line = tuple[Any, ...]
"""(process, name, value, result), and outcome where it is not ok. One after another in time."""


def judged(model: Model, *lines: Line, key: Any = "k") -> Verdict:
    ticks = count()
    history = History(lambda: next(ticks))
    for process, name, value, result, *rest in lines:
        outcome: Outcome = rest[0] if rest else "ok"
        history.end(history.invoke(process, name, key, value), outcome, result)
    return check(history, model)


def why(verdict: Verdict) -> str:
    assert verdict.outcome == "violation"
    assert verdict.failure is not None
    return "\n".join(reason for _, reason in verdict.failure.open)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([("a", "cas", [None, 1], None), ("a", "cas", [1, 2], True), ("a", "read", None, 2)], ""),
        ([("a", "write", 1, 1), ("a", "cas", {"old": 1, "new": 3}, [1, 3]), ("a", "read", None, 3)], ""),
        ([("a", "write", 1, None), ("a", "cas", [1, 2], False)], "it did not find 1, which the register holds"),
        ([("a", "write", 1, None), ("a", "cas", [2, 3], False), ("a", "read", None, 1)], ""),
        ([("a", "write", 1, None), ("a", "cas", [2, 3], None)], "it found 2, the register holds 1"),
        ([("a", "write", {"x": [1]}, None), ("a", "read", None, {"x": [1]})], ""),
        ([("a", "write", {"x": [1]}, None), ("a", "read", None, {"x": [2]})], "it read {'x': [2]}, the register holds"),
        ([("a", "write", 1, None), ("b", "cas", [1, 2], None, "unknown"), ("a", "read", None, 2)], ""),
        ([("a", "write", 1, None), ("b", "cas", [5, 2], None, "unknown"), ("a", "read", None, 2)], "it read 2"),
        # the write without reply is needed by the refused swap though nobody read its value
        ([("a", "write", 1, None), ("b", "write", 9, None, "unknown"), ("a", "cas", [1, 2], False)], ""),
        # and by a swap without reply whose value was read
        (
            [("b", "write", 9, None, "unknown"), ("c", "cas", [9, 4], None, "unknown"), ("a", "read", None, 4)],
            "",
        ),
    ],
)
def test_cas_register(lines: list[Line], reason: str) -> None:
    verdict = judged(Register(cas=True), *lines)
    assert reason in why(verdict) if reason else verdict.outcome == "ok"


def test_a_plain_register_has_no_cas() -> None:
    with pytest.raises(UsageError, match="operation 0: the model register knows no operation 'cas', only read, write"):
        judged(Register(), ("a", "cas", [1, 2], None))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([("a", "get", None, None), ("a", "put", 1, None), ("a", "read", None, 1)], ""),
        ([("a", "put", 1, None), ("a", "get", None, None)], "it got nothing, the key is 1"),
        ([("a", "put", 1, None), ("a", "delete", None, True), ("a", "delete", None, False)], ""),
        ([("a", "put", 1, None), ("a", "delete", None, False)], "it found the key absent, the key is 1"),
        ([("a", "delete", None, True)], "it found the key present, the key is absent"),
        ([("a", "put", 1, None), ("a", "cas", [1, 2], None), ("a", "get", None, 2)], ""),
        ([("a", "put", 1, None), ("a", "cas", [3, 2], None)], "it found 3, the key is 1"),
        ([("a", "put", 1, None), ("a", "cas", [3, 2], False)], ""),
        ([("a", "put", 1, None), ("a", "cas", [1, 2], False)], "it did not find 1, the key is 1"),
        # versions
        ([("a", "put", 1, {"version": 4}), ("a", "get", None, {"value": 1, "version": 4})], ""),
        (
            [("a", "put", 1, {"version": 4}), ("a", "get", None, {"value": 1, "version": 5})],
            "it got 1 at version 5, the key is 1 at version 4",
        ),
        (
            [("a", "put", 1, {"version": 4}), ("a", "put", 2, {"version": 4})],
            "it made version 4, the key is 1 at version 4",
        ),
        ([("a", "put", 1, {"version": 4}), ("a", "cas", {"version": 4, "value": 2}, {"version": 5})], ""),
        (
            [("a", "put", 1, {"version": 4}), ("a", "cas", {"version": 3, "value": 2}, {"version": 5})],
            "it found version 3, the key is 1 at version 4",
        ),
        (
            [("a", "put", 1, {"version": 4}), ("a", "cas", {"version": 4, "value": 2}, False)],
            "it did not find version 4, the key is 1 at version 4",
        ),
        ([("a", "put", 1, {"version": 4}), ("a", "cas", {"version": 3, "value": 2}, False)], ""),
        ([("a", "cas", {"version": None, "value": 2}, None), ("a", "get", None, 2)], ""),
        (
            [("a", "put", 1, None), ("a", "cas", {"version": None, "value": 2}, None)],
            "it found no key, the key is 1",
        ),
        # a put without reply makes a version that nobody was told
        (
            [
                ("a", "put", 1, {"version": 4}),
                ("b", "put", 2, None, "unknown"),
                ("a", "get", None, {"value": 2, "version": 6}),
                ("a", "cas", {"version": 6, "value": 3}, {"version": 7}),
            ],
            "",
        ),
        (
            [
                ("a", "put", 1, {"version": 4}),
                ("b", "put", 2, None, "unknown"),
                ("a", "get", None, {"value": 2, "version": 4}),
            ],
            "it got 2 at version 4",
        ),
        # versions start anew after a delete, with or without reply
        (
            [
                ("a", "put", 1, {"version": 4}),
                ("b", "delete", None, None, "unknown"),
                ("a", "put", 2, {"version": 0}),
            ],
            "",
        ),
        ([("a", "put", 1, {"version": 4}), ("a", "delete", {"version": 4}, None), ("a", "get", None, None)], ""),
        (
            [("a", "put", 1, {"version": 4}), ("a", "delete", {"version": 3}, True)],
            "it found version 3, the key is 1 at version 4",
        ),
        (
            [("a", "put", 1, {"version": 4}), ("a", "delete", {"version": 4}, False)],
            "it did not find version 4, the key is 1 at version 4",
        ),
        ([("a", "put", 1, {"version": 4}), ("a", "delete", {"version": 3}, False), ("a", "get", None, 1)], ""),
        # an unseen put is needed by what a delete found
        ([("b", "put", 1, None, "unknown"), ("a", "delete", None, True)], ""),
    ],
)
def test_kv(lines: list[Line], reason: str) -> None:
    verdict = judged(KeyValue(), *lines)
    assert reason in why(verdict) if reason else verdict.outcome == "ok"


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        ([("a", "get", None, 3), ("a", "get", None, 3)], "ok"),
        ([("a", "get", None, 3), ("a", "get", None, 4)], "violation"),
        ([("a", "get", None, {"value": 3, "version": 7}), ("a", "cas", {"version": 7, "value": 1}, None)], "ok"),
        ([("a", "cas", {"version": 7, "value": 1}, {"version": 7})], "violation"),
        ([("a", "cas", [5, 6], False), ("a", "get", None, 5)], "ok"),
        ([("a", "delete", None, True), ("a", "get", None, None)], "ok"),
        ([("a", "put", 1, {"version": 9}), ("a", "get", None, 1)], "ok"),
    ],
)
def test_kv_that_began_with_anything(lines: list[Line], verdict: str) -> None:
    assert judged(KeyValue(ANY), *lines).outcome == verdict


def test_a_register_and_a_key_that_began_with_a_value() -> None:
    assert judged(Register(initial=0), ("a", "read", None, 0)).outcome == "ok"
    assert judged(KeyValue(0), ("a", "get", None, 0)).outcome == "ok"
    assert judged(KeyValue(0), ("a", "get", None, None)).outcome == "violation"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            [
                ("a", "enqueue", 1, None),
                ("a", "enqueue", 2, None),
                ("b", "drain", None, [1, 2]),
                ("b", "pop", None, None),
            ],
            "",
        ),
        ([("a", "enqueue", 1, None), ("b", "dequeue", None, None)], "it found the queue empty, the queue is [1]"),
        ([("b", "dequeue", None, 1)], "it took 1, the queue is empty"),
        ([("a", "push", 1, None), ("a", "poll", None, 1), ("a", "poll", None, 1)], "it took 1, the queue is empty"),
        ([("a", "enqueue", 1, False), ("b", "dequeue", None, None)], ""),
        ([("a", "enqueue", 1, None, "unknown"), ("b", "dequeue", None, None), ("b", "dequeue", None, 1)], ""),
        (
            [
                ("a", "enqueue", 1, None),
                ("a", "enqueue", 2, None),
                ("b", "dequeue", None, None, "unknown"),
                ("c", "dequeue", None, 2),
            ],
            "",
        ),
        # twice the same value
        (
            [
                ("a", "enqueue", 1, None),
                ("a", "enqueue", 1, None),
                ("b", "dequeue", None, None, "unknown"),
                ("c", "dequeue", None, 1),
                ("c", "dequeue", None, None),
            ],
            "",
        ),
        (
            [
                ("a", "enqueue", 1, None),
                ("a", "enqueue", 2, None),
                ("b", "dequeue", None, 2),
                ("b", "dequeue", None, 1),
            ],
            "its value was dequeued before one enqueued earlier",
        ),
    ],
)
def test_queue(lines: list[Line], reason: str) -> None:
    verdict = judged(Queue(), *lines)
    assert reason in why(verdict) if reason else verdict.outcome == "ok"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([("a", "acquire", None, None), ("a", "release", None, None), ("b", "lock", None, None)], ""),
        ([("a", "acquire", None, None), ("b", "acquire", None, None)], "b acquired the lock, which a holds"),
        ([("a", "acquire", None, None), ("b", "acquire", None, False)], ""),
        ([("b", "acquire", None, False)], "it found the lock held, which is free"),
        ([("a", "acquire", None, None), ("b", "release", None, None)], "b released the lock, which a holds"),
        ([("b", "release", None, None)], "b released the lock, which is free"),
        ([("b", "release", None, False)], ""),
        ([("a", "acquire", None, None), ("a", "unlock", None, False)], "a was told that it did not hold the lock"),
        ([("a", "acquire", None, 1), ("a", "release", None, None), ("b", "acquire", None, {"token": 2})], ""),
        (
            [("a", "acquire", None, 2), ("a", "release", None, None), ("b", "acquire", None, {"fence": 2})],
            "b was given the token 2, the last one was 2",
        ),
        ([("a", "acquire", None, 1), ("a", "lost", None, None), ("b", "acquire", None, 2)], ""),
        ([("a", "acquire", None, 1), ("a", "expire", None, None, "unknown"), ("b", "acquire", None, 2)], ""),
        ([("a", "acquire", {"owner": "x"}, 1), ("b", "release", {"owner": "x"}, None)], ""),
        # whoever was not told may hold it, and then never lets go
        ([("a", "acquire", None, None, "unknown"), ("b", "acquire", None, False)], ""),
        ([("a", "acquire", None, None, "unknown"), ("b", "acquire", None, None)], ""),
        ([("a", "acquire", None, None, "unknown"), ("a", "release", None, None)], ""),
    ],
)
def test_lock(lines: list[Line], reason: str) -> None:
    verdict = judged(Lock(), *lines)
    assert reason in why(verdict) if reason else verdict.outcome == "ok"


@pytest.mark.parametrize(
    ("model", "line", "message"),
    [
        (Register(cas=True), ("a", "cas", 3, None), r"the value of cas is 3, expected \[old, new\]"),
        (
            KeyValue(),
            ("a", "cas", {"version": "x", "value": 1}, None),
            "the expected version is 'x', expected an integer",
        ),
        (KeyValue(), ("a", "put", 1, {"version": "x"}), "the version in the result of put is 'x'"),
        (Queue(), ("a", "enqueue", None, None), "enqueue has no value"),
        (Queue(), ("a", "drain", None, None, "unknown"), "a drain of unknown outcome cannot be judged"),
        (Queue(), ("a", "drain", None, 3), "the result of drain is 3, expected a list"),
        (Znode(), ("a", "set", "data", None), "the value of set is 'data', expected a map"),
        (Znode(), ("a", "set", {"data": "x", "version": "1"}, None), "the version of set is '1', expected an integer"),
        (Znode(), ("a", "swap", {}, None), "the model znode knows no operation 'swap'"),
        (Znode(), ("a", "multi", {}, None), "the ops of multi are nothing, expected a list"),
        (Znode(), ("a", "multi", {"ops": [["get", "/a", {}]]}, None), "an op of multi is"),
        (Znode(), ("a", "multi", {"ops": [["set", 3, {}]]}, None), "an op of multi is on 3, expected the path"),
    ],
)
def test_says_what_is_wrong_with_an_operation(model: Model, line: Line, message: str) -> None:
    with pytest.raises(UsageError, match=f"operation 0: {message}"):
        judged(model, line)


def test_a_key_value_operation_and_a_znodes_need_their_key() -> None:
    with pytest.raises(UsageError, match="get has no key"):
        judged(KeyValue(), ("a", "get", None, 1), key=None)
    with pytest.raises(UsageError, match="the key of set is nothing, expected the path of a node"):
        judged(Znode(), ("a", "set", {"data": ""}, None), key=None)


class Tree:
    """Writes a history of ZooKeeper clients; each operation ends before the next begins unless ``open`` is used."""

    def __init__(self) -> None:
        ticks = count()
        self.history = History(lambda: next(ticks))

    def op(
        self,
        process: str,
        name: str,
        path: str | None = "/n",
        value: Any = None,
        result: Any = None,
        outcome: Outcome = "ok",
    ) -> Operation:
        operation = self.history.invoke(process, name, path, {} if value is None else value)
        self.history.end(operation, outcome, {"zxid": 1} if result is None else result)
        return operation

    def set(self, process: str, data: str, made: int | None, expected: int = -1) -> None:
        result = None if made is None else {"zxid": 1, "stat": {"version": made}}
        self.op(process, "set", "/n", {"data": data, "version": expected}, result, "unknown" if made is None else "ok")

    def refused(self, process: str, name: str, error: int, value: Any = None) -> None:
        self.op(process, name, "/n", value, {"zxid": 1, "error": error}, "fail")

    def outcome(self, **options: Any) -> str:
        return check(self.history, Znode(**options)).outcome


class TestZnode:
    def test_versions_count_the_sets(self) -> None:
        tree = Tree()
        tree.op("a", "create", value={"data": "0"}, result={"zxid": 1, "path": "/n"})
        tree.set("a", "1", 1)
        tree.set("b", "2", 2, expected=1)
        assert tree.outcome() == "ok"
        tree.set("b", "3", 2)
        assert tree.outcome() == "violation"

    def test_a_set_without_reply_may_explain_a_gap_in_the_versions(self) -> None:
        tree = Tree()
        tree.op("a", "create")
        tree.set("a", "1", None)
        tree.set("b", "2", 2)
        assert tree.outcome() == "ok"
        tree.set("b", "3", 4)
        assert tree.outcome() == "violation"

    def test_refusals_show_what_is_there(self) -> None:
        for name, error, value, verdict in (
            ("create", -110, {"data": ""}, "ok"),
            ("delete", -101, {"version": -1}, "violation"),
            ("set", -101, {"version": -1}, "violation"),
            ("set", -103, {"version": 1}, "ok"),
            ("set", -103, {"version": 0}, "violation"),
            ("delete", -111, {"version": -1}, "ok"),
            ("set", -112, {"version": 0}, "ok"),
            ("create", -101, {"data": ""}, "ok"),
        ):
            tree = Tree()
            tree.op("a", "create")
            tree.refused("b", name, error, value)
            assert tree.outcome() == verdict, (name, error)

    def test_what_was_deleted_can_be_created_anew(self) -> None:
        tree = Tree()
        tree.op("a", "create")
        tree.op("a", "delete", value={"version": 0})
        tree.op("b", "create")
        tree.set("b", "1", 1)
        assert tree.outcome() == "ok"
        tree.op("c", "create")
        assert tree.outcome() == "violation"

    def test_reads_count_only_where_asked_for(self) -> None:
        tree = Tree()
        tree.op("a", "create", value={"data": "0"})
        tree.set("a", "1", 1)
        tree.op("b", "get", result={"zxid": 1, "data": "0", "stat": {"version": 0}})
        assert tree.outcome() == "ok"
        assert tree.outcome(reads=True) == "violation"

    def test_fresh_reads_are_explained(self) -> None:
        tree = Tree()
        tree.op("b", "exists", result={"zxid": 1, "stat": None})
        tree.op("a", "create", value={"data": "0"})
        tree.op("b", "exists", result={"zxid": 1, "stat": {"version": 0}})
        tree.op("b", "get", result={"zxid": 1, "data": "0", "stat": {"version": 0}})
        assert tree.outcome(reads=True) == "ok"

    def test_an_ephemeral_goes_when_its_session_expires_which_nobody_reports(self) -> None:
        for ephemeral, verdict in ((True, "ok"), (False, "violation")):
            tree = Tree()
            tree.op("a", "create", value={"data": "", "ephemeral": ephemeral})
            tree.op("b", "create", value={"data": "", "ephemeral": ephemeral})
            assert tree.outcome() == verdict

    def test_an_ephemeral_of_a_session_that_was_closed_goes_then_and_not_before(self) -> None:
        tree = Tree()
        tree.op("a", "create", value={"data": "", "ephemeral": True})
        tree.op("a", "close", None)
        tree.op("b", "create")
        assert tree.outcome() == "ok"
        tree = Tree()
        tree.op("a", "create", value={"data": "", "ephemeral": True})
        tree.op("b", "create")
        tree.op("a", "close", None)
        assert tree.outcome() == "violation"

    def test_a_session_that_was_closed_leaves_nothing_behind(self) -> None:
        tree = Tree()
        tree.op("a", "create", value={"data": "", "ephemeral": True})
        tree.op("a", "close", None)
        tree.set("b", "1", 1)
        assert tree.outcome() == "violation"

    def test_a_multi_is_one_step(self) -> None:
        ops = [["check", "/n", {"version": 0}], ["set", "/n", {"data": "1"}], ["delete", "/n", {"version": 1}]]
        tree = Tree()
        tree.op("a", "create")
        tree.op("a", "multi", None, {"ops": ops}, {"zxid": 2, "results": [{}, {"stat": {"version": 1}}, {}]})
        tree.op("a", "create")
        assert tree.outcome() == "ok"
        tree.op("a", "multi", None, {"ops": ops[1:2]}, {"zxid": 2, "results": [{"stat": {"version": 3}}]})
        assert tree.outcome() == "violation"

    def test_a_multi_without_reply_may_have_taken_effect_on_each_of_its_nodes(self) -> None:
        tree = Tree()
        ops = [["create", "/n", {"data": ""}], ["create", "/m", {"data": ""}]]
        tree.op("a", "multi", None, {"ops": ops}, outcome="unknown")
        tree.set("b", "1", 1)
        tree.op("b", "delete", "/m")
        assert tree.outcome() == "ok"

    def test_a_sequential_node_is_the_one_it_was_created_as(self) -> None:
        tree = Tree()
        value = {"data": "", "sequential": True}
        tree.op("a", "create", "/s-", value, {"zxid": 1, "path": "/s-0000000000"})
        tree.op("a", "create", "/s-", value, {"zxid": 2, "path": "/s-0000000001"})
        tree.op("b", "delete", "/s-0000000001", {"version": 0})
        assert tree.outcome() == "ok"
        tree.op("b", "delete", "/s-0000000002", {"version": 0})
        assert tree.outcome() == "violation"

    def test_a_sequential_create_without_reply_may_have_made_what_was_deleted(self) -> None:
        tree = Tree()
        tree.op("a", "create", "/s-", {"data": "", "sequential": True}, outcome="unknown")
        tree.op("b", "delete", "/s-0000000002", {"version": 0})
        assert tree.outcome() == "ok"

    def test_nodes_that_were_there_before_the_history_began(self) -> None:
        tree = Tree()
        tree.set("a", "7", 7)
        tree.set("a", "8", 8)
        assert tree.outcome() == "violation"
        assert tree.outcome(initial=ANY) == "ok"
        tree.set("a", "9", 8)
        assert tree.outcome(initial=ANY) == "violation"

    def test_reasons_name_the_node(self) -> None:
        tree = Tree()
        tree.op("a", "create", value={"data": "x"})
        tree.set("b", "y", 5)
        assert "it set the node, it made version 5, the node is 'x' at version 0" in why(check(tree.history, Znode()))
