"""The lines of the log: one for each transaction's end, with fields that a program can read."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.transactions.shelf import NO, Shelf

from quorate.transactions import Aborted, Branch
from quorate.transactions import gtid as gtids
from quorate.transactions.sync import Coordinator


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "quorate.transactions"):
        yield caplog


def fields(line: logging.LogRecord, *names: str) -> list[Any]:
    return [getattr(line, name) for name in names]


def test_every_end_is_one_line(lines: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    one, other, against = Shelf("one"), Shelf("other"), Shelf("against", NO)
    names: list[str] = []

    def move(*shelves: Shelf, fails: bool = False) -> None:
        with coordinator.transaction() as tx:
            names.append(tx.gtid)
            for shelf in shelves:
                tx.enlist(shelf)
            if fails:
                raise ZeroDivisionError

    with Coordinator(tmp_path / "decisions", [one, other, against], sweep_every=None) as coordinator:
        move(one, other)
        with pytest.raises(Aborted):
            move(one, against)
        with pytest.raises(ZeroDivisionError):
            move(other, fails=True)
    committed, aborted, rolled_back = lines.records
    assert fields(committed, "levelname", "gtid", "outcome", "participants") == [
        "DEBUG",
        names[0],
        "committed",
        ["one", "other"],
    ]
    assert committed.getMessage() == f"transaction {names[0]}: committed"
    assert committed.seconds > 0  # type: ignore[attr-defined]  # a field of ours
    assert fields(aborted, "levelname", "gtid", "outcome", "participants") == [
        "INFO",
        names[1],
        "aborted",
        ["one", "against"],
    ]
    assert aborted.getMessage() == f"transaction {names[1]}: against: out of stock"
    assert fields(rolled_back, "levelname", "gtid", "outcome", "seconds") == ["DEBUG", names[2], "aborted", None]


def test_what_recovery_does_is_told_with_the_same_fields(lines: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    one, gone = Shelf("one"), Shelf("gone")

    def unreachable() -> list[Any]:
        raise OSError("connection refused")

    gone.recover = unreachable  # type: ignore[method-assign]  # it is down
    old = gtids.new("default", time.time() - 100, 1.0, 5)
    one.prepared[old.text] = Branch(old, "one")
    with Coordinator(tmp_path / "decisions", [one, gone], sweep_every=None) as coordinator:
        coordinator.sweep()
    (ended,) = (line for line in lines.records if "rolled" in line.getMessage())
    assert fields(ended, "levelname", "gtid", "participant") == ["WARNING", old.text, "one"]
    told = [line for line in lines.records if "cannot reach" in line.getMessage()]
    assert {(line.levelname, line.participant) for line in told} == {("WARNING", "gone")}  # type: ignore[attr-defined]  # a field of ours
