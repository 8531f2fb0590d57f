"""Votes of participants whose branches write anyway are asked less; what is promised stays: a branch that wrote is never taken for one that only read, what is not
the transaction that was begun is never committed, and a participant that was mistaken asks again."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.bank import Bank

from quorate.transactions import Aborted, Outcome, Vote
from quorate.transactions.flow import call
from quorate.transactions.gtid import new
from quorate.transactions.participant import Branch
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sql.habit import ASK_AGAIN, STREAK, Habit
from quorate.transactions.sql.session import Session
from quorate.transactions.sync import Coordinator, Transaction

WRITE = "update accounts set balance = balance + 1 where id = 1"
BACK = "update accounts set balance = balance - 1 where id = 1"
READ = "select balance from accounts where id = 1"
CHANGES_NOTHING = "update accounts set balance = balance where id = 2"


def run(participant: Any, method: str, *arguments: Any) -> Any:
    return Shell().run(call(method, getattr(participant, method), *arguments))


class Bench:
    """One session of a participant, and branches on it one after the other."""

    def __init__(self, participant: Any) -> None:
        self.participant = participant
        self.session: Session = participant.connect()

    def begin(self) -> Branch:
        branch = Branch(new("habits", time.time(), 5.0, int.from_bytes(os.urandom(10))), self.participant.name)
        Shell().run(self.participant.begin(branch, self.session, 5.0))
        return branch

    def do(self, *statements: str) -> None:
        cursor = self.session.connection.cursor()
        for statement in statements:
            cursor.execute(statement)
            if statement.startswith("select"):
                cursor.fetchall()

    def vote(self, *statements: str) -> Vote:
        """Of a branch of these; it is committed, and its outcome has to agree."""
        branch = self.begin()
        self.do(*statements)
        found: Vote = run(self.participant, "prepare", branch)
        if found is Vote.YES:
            assert run(self.participant, "outcome", branch) in (Outcome.PREPARED, Outcome.UNKNOWN)
            run(self.participant, "commit", branch)
            assert run(self.participant, "outcome", branch) is Outcome.COMMITTED
        return found


@pytest.fixture(params=["orders", "stock"])
def bench(bank: Bank, request: pytest.FixtureRequest) -> Any:
    (participant,) = [one for one in bank.participants() if one.name == request.param]
    made = Bench(participant)
    yield made
    made.session.close()
    participant.pool.close()


def steady(participant: Any) -> None:
    participant.habit = Habit()
    for _ in range(STREAK):
        participant.habit.wrote()


def test_a_branch_that_only_read_drops_out_until_the_participant_is_known_to_write(bench: Bench) -> None:
    assert bench.vote(READ) is Vote.READ_ONLY
    for _ in range(STREAK // 2):
        assert bench.vote(WRITE) is Vote.YES
        assert bench.vote(BACK) is Vote.YES
    assert bench.participant.habit.steady
    # not asked: prepared and committed as if it had written
    assert bench.vote(READ) is Vote.YES
    assert not bench.participant.habit.steady
    for _ in range(3):
        assert bench.vote(READ) is Vote.READ_ONLY
        assert bench.vote(WRITE, BACK) is Vote.YES


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("last", [READ, CHANGES_NOTHING])
def test_a_branch_that_wrote_and_ended_otherwise_is_kept(bench: Bench, bank: Bank, counted: bool, last: str) -> None:
    if not counted:
        steady(bench.participant)
    assert bench.vote(WRITE, last) is Vote.YES
    run_on = bank.pg_run if bench.participant.name == "orders" else bank.my_run
    assert run_on(READ) == [(1001,)]
    assert bench.vote(BACK, last) is Vote.YES


def test_branches_that_end_with_a_read_are_counted_for_good(bank: Bank) -> None:
    """Of MariaDB: that they wrote can only be told by the count."""
    (_, stock) = bank.participants()
    bench = Bench(stock)
    for statement in [WRITE, BACK] * STREAK:
        assert bench.vote(statement, READ) is Vote.YES
        assert not stock.habit.steady
    assert bench.vote(READ) is Vote.READ_ONLY
    bench.session.close()
    stock.pool.close()


def test_counts_are_right_again_after_branches_that_were_not_counted(bench: Bench) -> None:
    """What was written while nobody counted is not taken for the next branch's."""
    steady(bench.participant)
    assert bench.vote(WRITE) is Vote.YES
    assert bench.vote(BACK, READ) is Vote.YES
    bench.participant.habit.did_not(asked=False)
    assert bench.vote(READ) is Vote.READ_ONLY
    assert bench.vote(CHANGES_NOTHING, READ) in (Vote.READ_ONLY, Vote.YES)
    assert bench.vote(READ) is Vote.READ_ONLY


def test_a_branch_that_did_nothing_at_all(bench: Bench) -> None:
    """The statement before it, on the same session, wrote: that is not this branch's."""
    bench.do(WRITE)
    bench.do(BACK)
    assert bench.vote() is Vote.READ_ONLY


def test_rolled_back_to_a_savepoint(bench: Bench, bank: Bank) -> None:
    steady(bench.participant)
    assert bench.vote("savepoint s", WRITE, "rollback to savepoint s") is Vote.YES
    run_on = bank.pg_run if bench.participant.name == "orders" else bank.my_run
    assert run_on(READ) == [(1000,)]


@pytest.mark.parametrize("how", ["fails", "ends", "ends and begins again"])
def test_postgres_votes_no_although_it_is_not_asked_before(bank: Bank, tmp_path: Path, how: str) -> None:
    with Coordinator(tmp_path / "decisions", bank.participants(), sweep_every=None) as coordinator:
        orders = coordinator.engine.participants["orders"]
        steady(orders)

        def strike(pgconn: Any) -> None:
            if how == "fails":
                pgconn.exec_(b"select 1 / 0")
                return
            pgconn.exec_(b"rollback")
            if how == "ends and begins again":
                pgconn.exec_(b"begin")
                pgconn.exec_(WRITE.encode())

        def work(tx: Transaction) -> None:
            tx.enlist("orders").execute(WRITE)
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute(WRITE)
            # between our last look at the connection and the message
            session = orders.session_of(tx._work.parts[0].branch)
            genuine = session.execute

            def struck(statement: str) -> Any:
                if "prepare transaction" in statement:
                    assert statement.startswith("select"), "it is one message"
                    strike(session.connection.pgconn)
                return genuine(statement)

            session.execute = struck

        tx = coordinator.transaction()
        with pytest.raises(Aborted), tx:
            work(tx)
    bank.check(moved=0)
    assert bank.pg_run(READ) == [(1000,)]
    assert bank.my_run(READ) == [(1000,)]


def test_the_vote_of_one_phase_learns_too(bank: Bank, tmp_path: Path) -> None:
    with Coordinator(tmp_path / "decisions", bank.participants(), sweep_every=None) as coordinator:
        for statement in [WRITE, BACK] * (STREAK // 2 + 1):
            with coordinator.transaction() as tx, tx.enlist("stock").cursor() as cursor:
                cursor.execute(statement)
        assert coordinator.engine.participants["stock"].habit.steady
    bank.check(moved=0)


def test_a_habit() -> None:
    habit = Habit()

    def steady() -> bool:
        return habit.steady

    for _ in range(STREAK - 1):
        habit.wrote()
    assert not steady()
    habit.wrote()
    assert steady()
    habit.did_not(asked=True)
    assert not steady()
    for _ in range(STREAK):
        habit.wrote()
    assert steady()
    habit.did_not(asked=False)
    for _ in range(ASK_AGAIN + STREAK - 1):
        habit.wrote()
        assert not steady()
    habit.wrote()
    assert steady()
