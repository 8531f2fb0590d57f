"""Money moves from PostgreSQL to a znode, and the coordinator dies at every point of it; another one ends what it began.

The znode's part is done by the decision itself, so once there is one, only PostgreSQL has to follow.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from tests.chaos.txn_worker import AMOUNT, coordinator_of, move_to_znode
from tests.support.bank import START, until
from tests.support.databases import Postgres, why_no_postgres
from tests.support.ensembles import OURS, THEIRS, Ensemble

ROOT = Path(__file__).parents[2]
ACCOUNTS = 64
TIMEOUT = 5.0
BANK = "/bank"
AT_ONCE = 6
"""Transactions that are begun; they have little time."""
Point = tuple[str, str]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if reason := why_no_postgres():
        pytest.skip(reason)
    server = Postgres(tmp_path_factory.mktemp("databases") / "postgres")
    with server:
        yield server


@pytest.fixture(params=[OURS, THEIRS], ids=["ours", "theirs"])
def ensemble(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ensemble]:
    with Ensemble([request.param], tmp_path / "ensemble") as made:
        yield made


@pytest.fixture
def client(ensemble: Ensemble) -> Iterator[KazooClient]:
    made = KazooClient(ensemble.addresses)
    made.start()
    yield made
    made.stop()
    made.close()


def run(postgres: Postgres, statement: str) -> list[tuple[Any, ...]]:
    import psycopg

    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_the_coordinator_dies_at_every_point(postgres: Postgres, ensemble: Ensemble, client: KazooClient) -> None:
    run(postgres, "drop table if exists accounts")
    run(
        postgres,
        f"create table accounts as select n as id, {START}::bigint as balance from generate_series(1, {ACCOUNTS}) n",
    )
    client.create(BANK)
    for account in range(1, ACCOUNTS + 1):
        client.create(f"{BANK}/{account}", b"%d" % START)
    task = {
        "postgres": postgres.conninfo,
        "decisions": f"zookeeper://{ensemble.addresses}",
        "timeout": TIMEOUT,
        "znodes": BANK,
    }
    seen: list[Point] = []
    with closing(coordinator_of(task, lambda when, point: seen.append((when, point)))) as coordinator:
        # the first one looks at the server's settings besides
        for _ in range(2):
            seen.clear()
            move_to_znode(coordinator, BANK, ACCOUNTS, AMOUNT)
        points = [point for point in dict.fromkeys(seen) if not point[1].endswith((": begin", "amend"))]
    for point in (("after", "log: commit"), ("before", "orders: commit"), ("before", "znodes: get")):
        assert point in points
    assert len(points) < ACCOUNTS

    running = []
    for number, point in enumerate(points):
        given = task | {"account": number + 1, "strike": list(point)}
        command = [sys.executable, "-m", "tests.chaos.txn_worker", json.dumps(given)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        if number >= AT_ONCE:
            running[number - AT_ONCE].wait(60)
    for number, process in enumerate(running):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, f"{points[number]}: {output}"

    with closing(coordinator_of(task)) as other:
        heuristic: list[tuple[str, str, str]] = []

        def swept() -> bool:
            report = other.sweep()
            heuristic.extend(report.heuristic)
            return not report.in_doubt and not report.unreachable and not report.unknown

        until(swept, "recovery", 60.0)
        assert heuristic == []
    assert run(postgres, "select gid from pg_prepared_xacts") == []
    balances = {int(account): int(balance) for account, balance in run(postgres, "select id, balance from accounts")}
    moved = {}
    for number, point in enumerate(points):
        there = int(client.get(f"{BANK}/{number + 1}")[0])
        here = balances[number + 1]
        assert (here, there) in ((START, START), (START - AMOUNT, START + AMOUNT)), f"{point}: {here} and {there}"
        moved[point] = here != START
    assert not moved["before", "log: commit"]
    assert moved["after", "log: commit"]
    assert moved["before", "orders: commit"]
