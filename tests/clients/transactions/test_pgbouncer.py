"""PgBouncer between us and PostgreSQL: for the program's connections, and for recovery's."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.bank import Bank
from tests.support.databases import PgBouncer, why_no_pgbouncer

from quorate import transactions
from quorate.transactions import Aborted
from quorate.transactions.errors import ParticipantError
from quorate.transactions.flow import call
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sync import Coordinator

WORKERS = 4
EACH = 8


@pytest.fixture(params=["session", "transaction"])
def pooled(request: pytest.FixtureRequest, bank: Bank, tmp_path: Path) -> Iterator[list[Any]]:
    """Makes the bank's participants, its PostgreSQL behind PgBouncer."""
    if reason := why_no_pgbouncer():
        pytest.skip(reason)
    with PgBouncer(tmp_path / "pgbouncer", bank.postgres, request.param) as bouncer:
        yield behind(bouncer, bank)


def behind(bouncer: PgBouncer, bank: Bank) -> list[Any]:
    _, stock = bank.participants()
    # prepared statements are a session's, and a session is anybody's
    return [transactions.Postgres("orders", bouncer.conninfo, prepare_threshold=None), stock]


def run(participant: Any, method: str, *arguments: Any) -> Any:
    return Shell().run(call(method, getattr(participant, method), *arguments))


def test_transfers_of_many_threads(pooled: list[Any], bank: Bank, decisions: Path) -> None:
    with Coordinator(decisions, pooled, sweep_every=None) as coordinator:

        def work(number: int) -> None:
            for _ in range(EACH):
                with coordinator.transaction() as tx:
                    tx.enlist("orders").execute(f"update accounts set balance = balance - 1 where id = {number}")
                    with tx.enlist("stock").cursor() as cursor:
                        cursor.execute(f"update accounts set balance = balance + 1 where id = {number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, WORKERS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with coordinator.transaction() as tx:
            # one participant alone, and one that reads
            tx.enlist("orders").execute("update accounts set balance = balance where id = 1")
        with coordinator.transaction() as tx:
            tx.enlist("orders").execute("select 1")
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute("update accounts set balance = balance where id = 1")
    bank.check(moved=WORKERS * EACH)


def test_recovery_ends_what_is_prepared_and_fences_what_is_at_work(
    pooled: list[Any], bank: Bank, decisions: Path
) -> None:
    orders, _ = pooled
    with Coordinator(decisions, pooled, sweep_every=None) as coordinator:
        tx = coordinator.transaction(timeout=60.0)
        tx.enlist("orders").execute("update accounts set balance = balance - 7 where id = 1")
        (part,) = tx._work.parts
        run(orders, "prepare", part.branch)
        (listed,) = run(orders, "recover")
        assert listed.branch.token == part.branch.token
        run(orders, "fence", part.branch)
        run(orders, "rollback", part.branch)
        assert run(orders, "outcome", part.branch) is transactions.Outcome.ABORTED
        orders.let_go(part.branch)

        tx = coordinator.transaction(timeout=60.0)
        tx.enlist("orders").execute("update accounts set balance = balance - 7 where id = 1")
        with tx.enlist("stock").cursor() as cursor:
            cursor.execute("update accounts set balance = balance + 7 where id = 1")
        (part,) = [part for part in tx._work.parts if part.name == "orders"]
        run(orders, "fence", part.branch)
        with pytest.raises(Aborted):
            tx.commit()
    bank.check(moved=0)


def test_a_statement_at_a_time_is_refused(bank: Bank, decisions: Path, tmp_path: Path) -> None:
    """By PgBouncer itself, before any work is done."""
    if reason := why_no_pgbouncer():
        pytest.skip(reason)
    with (
        PgBouncer(tmp_path / "pgbouncer", bank.postgres, "statement") as bouncer,
        Coordinator(decisions, behind(bouncer, bank), sweep_every=None) as coordinator,
    ):
        tx = coordinator.transaction()
        with pytest.raises((ParticipantError, psycopg.Error), match="transaction blocks not allowed"):
            tx.enlist("orders")
        tx.rollback()
    bank.check(moved=0)
