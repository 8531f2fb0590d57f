"""SQLAlchemy's own tests of two-phase transactions, from its source distribution, with its engines bound to a coordinator of ours.

They run in a pytest of their own, with SQLAlchemy's plugins and ours (``tests.support.sqlalchemy_suite``), against real servers. Without us all of those for
PostgreSQL pass, and those for MariaDB but the two of recovery, which SQLAlchemy skips ("still can't get recover to work w/ MariaDB / MySQL"): when they
are run all the same, they fail. With us all pass, those two included.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest
from tests.support.databases import MariaDB, Postgres, why_no_mariadb, why_no_postgres
from tests.support.processes import ROOT

SUITE = ROOT / ".deps" / "sqlalchemy"
FILES = (
    "test/engine/test_transaction.py",
    "test/orm/test_transaction.py",
    "test/engine/test_reconnect.py",
    "test/engine/test_execute.py",
    "test/dialect/postgresql/test_dialect.py",
)
TWO_PHASE = "two_phase or twophase or TwoPhase or transactional_advanced or no_sql_during_prepare"
SCHEMAS = ("test_schema", "test_schema_2")
PATIENCE = 240.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, MariaDB]]:
    if reason := why_no_postgres() or why_no_mariadb():
        pytest.skip(reason)
    if not (SUITE / "test" / "conftest.py").exists():
        pytest.skip("SQLAlchemy's source distribution, which has its tests, is not unpacked")
    folder = tmp_path_factory.mktemp("databases")
    # what a lost branch locks is to fail soon, and no server is killed here, so that none needs to flush
    settings = {"innodb-lock-wait-timeout": "1", "lock-wait-timeout": "2", "innodb-flush-log-at-trx-commit": "0"}
    postgres, mariadb = Postgres(folder / "postgres", {"fsync": "off"}), MariaDB(folder / "mariadb", settings)
    with postgres, mariadb:
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            for schema in SCHEMAS:
                connection.execute(f"create schema {schema}".encode())
        for schema in (*SCHEMAS, "plain"):
            run(mariadb, f"create database {schema}")
        yield postgres, mariadb


def run(mariadb: MariaDB, statement: str) -> list[tuple[object, ...]]:
    connection = pymysql.connect(host="127.0.0.1", port=mariadb.port, user="tester", autocommit=True)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


def suite(url: str, folder: Path, decisions: Path | None, only: str = TWO_PHASE) -> tuple[dict[str, int], int, str]:
    """How many tests came out how, how many engines were bound, and what was printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment["PYTHONPATH"] = str(ROOT)
    environment.pop("QUORATE_DECISIONS", None)
    if decisions is not None:
        environment["QUORATE_DECISIONS"] = str(decisions)
    # -s: the installed SQLAlchemy and not that beside the tests
    command = [
        sys.executable, "-s", "-m", "pytest", "-p", "tests.support.sqlalchemy_suite", "-p", "no:cacheprovider", "-c", "pyproject.toml",
        "--dburi", url, "--basetemp", str(folder / "suite"), "-k", only, *FILES,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=SUITE, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    printed = done.stdout + done.stderr
    counts = {
        what: int(number)
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", done.stdout.splitlines()[-1])
    }
    (bound,) = re.findall(r"bound to a coordinator: (\d+) engines", done.stdout) or ["0"]
    return counts, int(bound), printed


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_on_postgres(servers: tuple[Postgres, MariaDB], tmp_path: Path, driver: str) -> None:
    """asyncpg's has none of the eight tests that are psycopg's alone."""
    postgres, _ = servers
    url = postgres.url.replace("psycopg", driver)
    counts, bound, printed = suite(url, tmp_path, tmp_path / "decisions")
    assert counts == {"passed": 23 if driver == "psycopg" else 15}, printed[-4000:]
    assert bound
    with psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("select gid from pg_prepared_xacts").fetchall() == []


@pytest.mark.parametrize("driver", ["pymysql", "aiomysql"])
def test_on_mariadb_with_recovery(servers: tuple[Postgres, MariaDB], tmp_path: Path, driver: str) -> None:
    _, mariadb = servers
    url = mariadb.url.replace("pymysql", driver)
    counts, bound, printed = suite(url, tmp_path, tmp_path / "decisions")
    assert counts == {"passed": 15}, printed[-4000:]
    assert bound
    assert len(re.findall(r"test_two_phase_recover\[\w+\] PASSED", printed)) == 2
    assert run(mariadb, "xa recover") == []


def test_recovery_on_mariadb_fails_without_us(servers: tuple[Postgres, MariaDB], tmp_path: Path) -> None:
    """The trap: XA RECOVER tells a name that XA COMMIT does not know, for nobody waited until its owner had left."""
    _, mariadb = servers
    url = mariadb.url.removesuffix("/test") + "/plain"
    try:
        counts, bound, printed = suite(url, tmp_path, None, "test_two_phase_recover and not not_commit")
        assert counts.get("failed") == 1, printed[-4000:]
        assert bound == 0
    finally:
        for _, _, _, data in run(mariadb, "xa recover"):
            assert isinstance(data, bytes)
            run(mariadb, f"xa rollback X'{data.hex()}'")
