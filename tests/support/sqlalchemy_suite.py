"""A pytest plugin for SQLAlchemy's own test suite: its engines are bound to a coordinator of ours, and what it skips of MariaDB's recovery is run.

Loaded with ``-p tests.support.sqlalchemy_suite`` into a pytest of its own. QUORATE_DECISIONS: the file of the decision log; without it the engines are left as they
are, for comparison. Every engine is a participant by itself, for the suite has several of one database.
"""

import os
from pathlib import Path
from typing import Any

import pytest

_DECISIONS = os.environ.get("QUORATE_DECISIONS")
_bound: list[str] = []


def _coordinator(is_async: bool, path: Path) -> Any:
    from quorate import transactions
    from quorate.transactions import sync

    kind = transactions.Coordinator if is_async else sync.Coordinator
    return kind(path, sweep_every=None, timeout=60.0)


def _participant(name: str, engine: Any) -> Any:
    from quorate import transactions

    url = engine.url
    if engine.dialect.name == "postgresql":
        conninfo = f"host={url.host} port={url.port} user={url.username} dbname={url.database}"
        return transactions.Postgres(name, conninfo)
    return transactions.MariaDB(name, host=url.host, port=url.port, user=url.username, database=url.database)


def pytest_configure(config: pytest.Config) -> None:
    if _DECISIONS is None:
        return
    from sqlalchemy.testing import provision

    own = provision.post_configure_testing_engine
    coordinators: dict[bool, Any] = {}

    def bind(url: Any, engine: Any, options: Any, scope: Any) -> None:
        own(url, engine, options, scope)
        blocking = getattr(engine, "sync_engine", engine)
        is_async = blocking.dialect.is_async
        if is_async not in coordinators:
            coordinators[is_async] = _coordinator(is_async, Path(f"{_DECISIONS}.{is_async}"))
        coordinator = coordinators[is_async]
        participant = _participant(f"engine{len(_bound)}", blocking)
        coordinator.engine.register(participant)
        coordinator.bind(blocking, participant)
        _bound.append(participant.name)

    provision.post_configure_testing_engine = bind


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    from sqlalchemy.testing import config

    # it is skipped for MariaDB otherwise
    kind: Any = type(config.requirements)
    kind.two_phase_recovery = property(lambda requirements: requirements.two_phase_transactions)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"bound to a coordinator: {len(_bound)} engines")
