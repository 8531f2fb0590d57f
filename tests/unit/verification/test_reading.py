"""Histories from files: our own format there and back, Jepsen's EDN, and every way in which a file can be wrong."""

import json
from itertools import count
from pathlib import Path

import pytest
from tests.unit.verification.workload import generate

from quorate.errors import UsageError
from quorate.verification.history import NEVER, History
from quorate.verification.linearizability import check
from quorate.verification.models import KeyValue, Register
from quorate.verification.reading import parse_history, read_history

JEPSEN_REGISTER = """\
{:process 0, :type :invoke, :f :write, :value 3, :time 10, :index 0}
{:process 1, :type :invoke, :f :read, :value nil, :time 11, :index 1}
{:process :nemesis, :type :info, :f :start, :value "cut off n1", :time 12, :index 2}
{:process 0, :type :ok, :f :write, :value 3, :time 13, :index 3}
{:process 1, :type :ok, :f :read, :value 3, :time 14, :index 4}
{:process 1, :type :invoke, :f :cas, :value [3 4], :time 15, :index 5}
{:process 2, :type :invoke, :f :cas, :value [0 1], :time 15, :index 6}
{:process 2, :type :fail, :f :cas, :value [0 1], :time 16, :index 7}
{:process 1, :type :info, :f :cas, :value [3 4], :error :timeout, :time 17, :index 8}
{:process 0, :type :invoke, :f :read, :value nil, :time 18}
{:process 0, :type :ok, :f :read, :value 4, :time 19}
"""

JEPSEN_INDEPENDENT = """\
[#jepsen.history.Op{:index 0 :time 1 :type :invoke :process 0 :f :write :value [7 1]}
 {:index 1 :time 2 :type :ok :process 0 :f :write :value [7 1]}
 {:index 2 :time 3 :type :invoke :process 1 :f :read :value [8 nil]}
 {:index 3 :time 4 :type :ok :process 1 :f :read :value [8 nil]}
 {:index 4 :time 5 :type :invoke :process 1 :f :cas :value [7 [1 2]]}
 {:index 5 :time 6 :type :ok :process 1 :f :cas :value [7 [1 2]]}
 {:index 6 :time 7 :type :invoke :process 1 :f :read :value [7 nil]}
 {:index 7 :time 8 :type :ok :process 1 :f :read :value [7 2]}]
"""


def test_what_the_recorder_wrote_comes_back(tmp_path: Path) -> None:
    history = generate("versioned kv", 4, operations=300, clients=5, keys=3, lost=0.1)
    history.invoke("late", "get", "k0")
    file = tmp_path / "history.jsonl"
    history.write(file)
    back = read_history(file)
    assert back.model == "kv"
    assert list(map(repr, back.operations)) == list(map(repr, history.operations))
    assert [(op.invoked, op.ended) for op in back.operations] == [(op.invoked, op.ended) for op in history.operations]


def test_a_history_streamed_while_it_happened_is_the_one_written_at_the_end(tmp_path: Path) -> None:
    ticks = count()
    file, streamed = tmp_path / "history.jsonl", tmp_path / "streamed.jsonl"
    with streamed.open("w") as stream:
        history = History(lambda: next(ticks), model="register", stream=stream)
        one = history.invoke("a", "write", value=1)
        two = history.invoke("b", "read")
        history.end(two, "ok", 1)
        history.end(one, "unknown")
        history.invoke("c", "read")
    history.write(file)
    assert streamed.read_text() == file.read_text()


def test_a_json_array_of_the_same_events() -> None:
    history = generate("register", 1, operations=20, clients=3, keys=1)
    events = []
    for number, op in enumerate(history.operations):
        events.append(
            (op.began, {"type": "invoke", "id": number, "process": op.process, "f": op.name, "value": op.value})
        )
        events.append((op.finished, {"type": "ok", "id": number, "result": op.result}))
    text = json.dumps([event for _, event in sorted(events, key=lambda event: event[0])], indent=1)
    back = parse_history(text, "it.json")
    assert [(op.name, op.result, op.began, op.finished) for op in back.operations] == [
        (op.name, op.result, op.began, op.finished) for op in history.operations
    ]


def test_jepsens_register_one_map_a_line() -> None:
    history = parse_history(JEPSEN_REGISTER, "history.edn")
    assert [(op.process, op.name, op.value, op.outcome, op.result) for op in history.operations] == [
        ("0", "write", 3, "ok", 3),
        ("1", "read", None, "ok", 3),
        ("1", "cas", [3, 4], "unknown", "timeout"),
        ("2", "cas", [0, 1], "fail", None),
        ("0", "read", None, "ok", 4),
    ]
    assert history.lines == [1, 2, 6, 7, 10]
    assert history.operations[0].invoked == 10
    assert history.operations[0].ended == 13
    assert check(history, Register(cas=True)).outcome == "ok"
    wrong = JEPSEN_REGISTER.replace(":f :read, :value 4", ":f :read, :value 5")
    assert check(parse_history(wrong, "history.edn"), Register(cas=True)).outcome == "violation"


def test_jepsens_independent_keys() -> None:
    history = parse_history(JEPSEN_INDEPENDENT, "history.edn")
    assert [(op.key, op.value, op.result) for op in history.operations] == [
        (7, 1, 1),
        (8, None, None),
        (7, [1, 2], [1, 2]),
        (7, None, 2),
    ]
    assert check(history, KeyValue()).outcome == "ok"
    plain = parse_history(JEPSEN_INDEPENDENT, "history.edn", independent=False)
    assert [op.key for op in plain.operations] == [None] * 4


def test_plain_swaps_are_no_independent_keys() -> None:
    text = "{:process 0 :type :invoke :f :cas :value [0 1]}\n{:process 0 :type :ok :f :cas :value [0 1]}\n"
    assert parse_history(text, "h.edn").operations[0].value == [0, 1]
    with pytest.raises(UsageError, match=r"h.edn:3: the value is 3, expected \[key value\]"):
        parse_history(text + "{:process 0 :type :invoke :f :write :value 3}", "h.edn", independent=True)


def test_an_operation_without_an_end_is_open() -> None:
    history = parse_history('{"type": "invoke", "process": 1, "f": "write", "value": 2}', "it")
    (operation,) = history.operations
    assert (operation.process, operation.outcome, operation.finished) == ("1", "unknown", NEVER)


def test_the_notation_is_found_out_where_the_suffix_does_not_tell(tmp_path: Path) -> None:
    file = tmp_path / "history.txt"
    for text in (JEPSEN_REGISTER, JEPSEN_INDEPENDENT):
        file.write_text(text)
        assert len(read_history(file).operations) in (4, 5)
    generate("register", 1, operations=6, clients=2, keys=1).write(file)
    assert len(read_history(file).operations) == 6


INVOKE = '{"type": "invoke", "process": "a", "name": "read"}\n'


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", "it", "no operation in it"),
        ("[]", "it", "no operation in it"),
        ('{"type": "invoke"', "it:1", "not JSON"),
        (INVOKE + "\n{nope}", "it:3", "not JSON"),
        ("3", "it:1", "3 is no event"),
        ('{"type": "done"}', "it:1", "the type is 'done', expected invoke, ok, fail, unknown or info"),
        ('{"type": ["ok"]}', "it:1", "the type is ['ok']"),
        ('{"type": "invoke", "process": "a"}', "it:1", "the name is nothing"),
        ('{"type": "invoke", "name": "read"}', "it:1", "the process is nothing"),
        ('{"type": "invoke", "name": "read", "process": 1.5}', "it:1", "the process is 1.5"),
        ('{"type": "invoke", "name": "read", "process": 1, "time": "now"}', "it:1", "the time is 'now'"),
        ('{"type": "invoke", "name": "read", "process": 1, "id": [1]}', "it:1", "the id is [1]"),
        (INVOKE + INVOKE, "it:2", "before its last operation has ended"),
        (INVOKE + '{"type": "ok", "process": "b"}', "it:2", "process 'b' has no operation open"),
        (INVOKE + '{"type": "ok", "id": 4}', "it:2", "the id 4 is of no open operation"),
        (INVOKE.replace("}", ', "id": 1}') * 2, "it:2", "the id 1 is of an operation that has not ended"),
        ('{"quorate-history": 2}', "it:1", "a history of format 2, expected 1"),
        ('{"quorate-history": 1, "model": 7}', "it:1", "the model is 7, expected a name"),
        (INVOKE + '{"quorate-history": 1}', "it:2", "a second header"),
        (f"[{INVOKE}", "it:2", "the file ends, expected ']'"),
        (f"[{INVOKE}{INVOKE}]", "it:2", "expected ',' or ']'"),
        (f"[{INVOKE}] 1", "it:2", "something follows the array"),
        (INVOKE.replace("}", ', "value": NaN}'), "it:1", "NaN is no value"),
        ("[" * 100_000, "it:1", "nests too deep"),
        ('{"type": "invoke", "process": "a", "name": "read", "value": ' + "9" * 5000 + "}", "it:1", "not JSON"),
    ],
)
def test_says_where_and_what_was_expected(text: str, place: str, expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_history(text, "it")
    assert str(raised.value).startswith(f"{place}: ")
    assert expected in str(raised.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"type": "\xff"}')
    with pytest.raises(UsageError, match="offset 10: not UTF-8 text"):
        read_history(file)


def test_a_value_that_nests_too_deep_is_refused_by_the_model() -> None:
    text = '{"type": "invoke", "process": "a", "name": "write", "value": ' + "[" * 200 + "]" * 200 + "}"
    with pytest.raises(UsageError, match="it:1: a value nests deeper"):
        check(parse_history(text, "it"), Register())
