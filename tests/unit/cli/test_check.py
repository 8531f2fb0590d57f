"""`quorate check`: exit statuses and what is said."""

import json
from itertools import count
from pathlib import Path

import pytest
from tests.unit.verification.workload import generate

from quorate.cli.main import main
from quorate.verification.checkers import CHECKERS, Options, findings, judge
from quorate.verification.history import History

EDN = """\
{:process 0, :type :invoke, :f :write, :value 3}
{:process 0, :type :ok, :f :write, :value 3}
{:process 0, :type :invoke, :f :read, :value nil}
{:process 0, :type :ok, :f :read, :value 4}
"""


def written(tmp_path: Path, history: History) -> str:
    file = tmp_path / "history.jsonl"
    history.write(file)
    return str(file)


def test_one_line_if_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, generate("kv", 1, operations=1000, clients=5, keys=4))
    page = tmp_path / "out.html"
    assert main(["check", file, "--model", "kv", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{file}: linearizable: 1,000 operations on 4 keys, checked in ")
    assert out.count("\n") == 1
    assert err == ""
    assert not page.exists()


def test_the_model_may_come_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written(tmp_path, generate("queue", 1, operations=100, clients=3, keys=1))]) == 0
    assert "linearizable: 100 operations on 1 key," in capsys.readouterr().out


def test_a_violation_is_shown_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.edn"
    file.write_text(EDN)
    page = tmp_path / "out.html"
    assert main(["check", str(file), "--model", "register", "--html", str(page)]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{file}: not linearizable, checked in ")
    assert "it read 4, the register holds 3" in out
    assert out.endswith(f"drawn in {page}\n")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_independent_keys_may_be_said(tmp_path: Path) -> None:
    file = tmp_path / "history.edn"
    file.write_text("{:process 0 :type :invoke :f :write :value [1 2]}\n{:process 0 :type :ok :f :write :value [1 2]}")
    assert main(["check", str(file), "--model", "kv"]) == 0
    assert main(["check", str(file), "--model", "kv", "--no-independent"]) == 2


def test_undecided_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History(lambda: 0, model="register")
    running = [history.invoke(f"w{number}", "write", "x", number) for number in range(16)]
    history.end(history.invoke("r", "read", "x"), "ok", -1)
    for operation in running:
        history.end(operation, "ok")
    assert main(["check", written(tmp_path, history), "--time-limit", "0.000001"]) == 1
    out = capsys.readouterr().out
    assert "undecided: the time is up, with 1 of 1 key ('x') still open" in out
    looks = count()
    report = judge(history, options=Options(time_limit=0.5, clock=lambda: float(next(looks))))
    assert report.outcome == "unknown"


def test_the_initial_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History(lambda: 0)
    history.end(history.invoke("a", "read"), "ok", 4)
    file = written(tmp_path, history)
    for initial, status in ((None, 1), ("4", 0), ("5", 1), ("any", 0), ("four", 2)):
        options = [] if initial is None else ["--initial", initial]
        assert main(["check", file, "--model", "cas-register", *options]) == status
    assert "the initial state 'four' is not JSON" in capsys.readouterr().err
    assert main(["check", file, "--model", "queue", "--initial", "4"]) == 2


def test_reads_of_znodes_are_judged_if_asked_for(tmp_path: Path) -> None:
    history = History(lambda: 0, model="znode")
    history.end(history.invoke("a", "get", "/n", {}), "ok", {"zxid": 1, "data": "x", "stat": {"version": 0}})
    file = written(tmp_path, history)
    assert main(["check", file]) == 0
    assert main(["check", file, "--reads"]) == 1
    assert main(["check", file, "--reads", "--model", "register"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.json", "--model", "kv"], "nowhere.json: No such file or directory"),
        (["HISTORY", "--model", "set"], "no model 'set', expected one of register, cas-register, kv"),
        (["HISTORY"], "the history names no model, so one must be given"),
        (["HISTORY", "--model", "queue"], ":1: the model queue knows no operation 'read'"),
        (["HISTORY", "--model", "register", "--time-limit", "0"], "the time limit must be a positive number"),
        (["BROKEN", "--model", "register"], ":2: 7 is no event, expected a map with a type"),
        (["FOLDER", "--model", "register"], ": Is a directory"),
    ],
)
def test_a_mistake_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    line = json.dumps({"type": "invoke", "process": "a", "name": "read"})
    (tmp_path / "history.json").write_text(line)
    (tmp_path / "broken.json").write_text(f"{line}\n7")
    places = {"HISTORY": tmp_path / "history.json", "BROKEN": tmp_path / "broken.json", "FOLDER": tmp_path}
    assert main(["check", *(str(places.get(option, option)) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_checker_of_another_kind() -> None:
    history = History(lambda: 0)
    checker = findings(lambda judged: [f"{len(judged.operations)} operations", "and more"])
    report = checker(history, Options())
    assert (report.outcome, report.summary, report.details) == ("violation", "2 findings", "0 operations\nand more\n")
    assert findings(lambda _: [])(history, Options()).outcome == "ok"


def test_every_model_says_what_it_is() -> None:
    assert all(purpose for purpose, _ in CHECKERS.values())
