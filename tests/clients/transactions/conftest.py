"""Real PostgreSQL and MariaDB with a bank in them, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.bank import Bank
from tests.support.databases import MariaDB, Postgres, why_no_mariadb, why_no_postgres


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, MariaDB]]:
    if reason := why_no_postgres() or why_no_mariadb():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("databases")
    postgres, mariadb = Postgres(folder / "postgres"), MariaDB(folder / "mariadb")
    with postgres, mariadb:
        yield postgres, mariadb


@pytest.fixture
def bank(servers: tuple[Postgres, MariaDB]) -> Iterator[Bank]:
    """Opened anew. At the end nothing may be prepared in it."""
    made = Bank(*servers)
    made.open()
    yield made
    left = made.prepared()
    made.roll_back_all()
    assert left == []


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    return tmp_path / "decisions"
