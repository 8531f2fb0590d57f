"""The example of a participant of one's own (``examples/folder.py``) in one transaction with PostgreSQL: whatever point of the commit the coordinator dies at,
files and row are there together or not at all, and nothing stays prepared."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from examples.folder import Folder
from tests.chaos.folder_worker import coordinator_of, write
from tests.support.bank import until
from tests.support.databases import Postgres, why_no_postgres

from quorate.transactions import Aborted


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if reason := why_no_postgres():
        pytest.skip(reason)
    with Postgres(tmp_path_factory.mktemp("databases") / "postgres") as server:
        yield server


@pytest.fixture
def task(postgres: Postgres, tmp_path: Path) -> dict[str, Any]:
    with psycopg.connect(postgres.conninfo) as connection:
        connection.execute("drop table if exists reports")
        connection.execute("create table reports (key text)")
    Folder.create(tmp_path / "reports")
    return {
        "postgres": postgres.conninfo,
        "folder": str(tmp_path / "reports"),
        "decisions": str(tmp_path / "decisions"),
    }


def points(task: dict[str, Any]) -> list[list[str]]:
    """Of a commit, as its shell calls them."""
    found: list[list[str]] = []
    with coordinator_of(task, lambda when, point: found.append([when, point])) as coordinator:
        write(coordinator, "counted")
    first = next(number for number, (_, point) in enumerate(found) if point.endswith(": prepare"))
    # what is noted afterwards is no part of it
    return [strike for strike in found[first:] if "amend" not in strike[1]]


def there(task: dict[str, Any], key: str) -> set[bool]:
    with psycopg.connect(task["postgres"]) as connection:
        ((rows,),) = connection.execute("select count(*) from reports where key = %s", (key,)).fetchall()
    return {rows == 1, *[(Path(task["folder"]) / key / name).exists() for name in ("one", "other")]}


def nothing_prepared(coordinator: Any) -> bool:
    coordinator.sweep()
    report = coordinator.sweep()
    return not report.in_doubt and not report.unreachable and not report.foreign


def test_both_or_neither_wherever_the_coordinator_dies(task: dict[str, Any]) -> None:
    """All points in one process each, at the same time; then one recovery."""
    strikes = points(task)
    assert len(strikes) > 12
    dying = []
    for number, strike in enumerate(strikes):
        own = task | {"key": f"k{number}", "strike": strike}
        dying.append(subprocess.Popen([sys.executable, "-m", "tests.chaos.folder_worker", json.dumps(own)], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}))  # fmt: skip
    for process in dying:
        assert process.wait(60) == -9
    with coordinator_of(task) as coordinator:
        until(lambda: nothing_prepared(coordinator), "recovery")
    outcomes = [there(task, f"k{number}") for number in range(len(strikes))]
    assert all(len(outcome) == 1 for outcome in outcomes), outcomes
    ends = [outcome == {True} for outcome in outcomes]
    decided = strikes.index(["after", "log: decide"])
    assert ends == [number >= decided for number in range(len(strikes))]


def test_what_one_refuses_is_not_written(task: dict[str, Any]) -> None:
    (Path(task["folder"]) / "no" / "one").mkdir(parents=True)
    with coordinator_of(task) as coordinator:
        with pytest.raises(Aborted, match="no/one cannot be a file"):
            write(coordinator, "no")
        write(coordinator, "yes")
    assert there(task, "yes") == {True}
    assert not (Path(task["folder"]) / "no" / "other").exists()
