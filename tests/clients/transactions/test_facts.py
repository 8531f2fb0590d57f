"""The traps that PostgreSQL, MariaDB and their drivers set for whoever commits to several of them (the facts of the reference), and that we do not step into.

Each test first shows the trap itself, with the driver alone, so that a test of ours that passes says something.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from tests.support.bank import ACCOUNTS, START, Bank, until

from quorate.transactions import Aborted, Outcome
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.flow import call, sleep
from quorate.transactions.gtid import new
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sql.mariadb import xid
from quorate.transactions.sync import Coordinator, Transaction

PG_OUT = "update accounts set balance = balance - 7 where id = 1"
MY_IN = "update accounts set balance = balance + 7 where id = 1"


def run(participant: Any, method: str, *arguments: Any) -> Any:
    return Shell().run(call(method, getattr(participant, method), *arguments))


def aborted(coordinator: Coordinator, work: Callable[[Transaction], object]) -> str:
    """What the user is told when ``work`` is to be committed."""
    tx = coordinator.transaction()
    with pytest.raises(Aborted) as told, tx:
        work(tx)
    assert tx.state == "aborted"
    return str(told.value)


def transfer(tx: Transaction) -> tuple[Any, Any]:
    """The two connections, both at work in the transaction."""
    pg = tx.enlist("orders")
    pg.execute(PG_OUT)
    my = tx.enlist("stock")
    with my.cursor() as cursor:
        cursor.execute(MY_IN)
    return pg, my


# ---- 1: PostgreSQL votes yes when it means no


def test_postgres_says_yes_to_a_prepare_that_it_rolled_back(bank: Bank) -> None:
    """The trap: psycopg's own two-phase commit goes on after it."""
    with contextlib.closing(bank.pg()) as connection:
        connection.autocommit = False
        connection.tpc_begin("trap")
        connection.execute(PG_OUT.encode())
        with contextlib.suppress(psycopg.Error):
            connection.execute("select 1 / 0")
        connection.tpc_prepare()
        assert bank.prepared() == []
        with pytest.raises(psycopg.errors.UndefinedObject):
            connection.tpc_commit()


def test_a_failed_transaction_votes_no(bank: Bank, decisions: Path) -> None:
    def fails(tx: Transaction) -> None:
        pg, _ = transfer(tx)
        with contextlib.suppress(psycopg.Error):
            pg.execute("select 1 / 0")

    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        assert "orders: a statement failed" in aborted(coordinator, fails)
    bank.check(moved=0)


def test_the_vote_is_read_from_the_answer_and_not_from_the_drivers_state(bank: Bank, decisions: Path) -> None:
    """The transaction fails between our last look at it and the prepare: the server says so in the tag alone."""

    def fails_late(tx: Transaction) -> None:
        transfer(tx)
        session = coordinator.engine.participants["orders"].session_of(tx._work.parts[0].branch)
        genuine = session.execute

        def fails_first(statement: str) -> Any:
            if statement.startswith("prepare"):
                session.connection.pgconn.exec_(b"select 1 / 0")
            return genuine(statement)

        session.execute = fails_first

    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        assert "answered 'ROLLBACK' where 'PREPARE TRANSACTION' was expected" in aborted(coordinator, fails_late)
    bank.check(moved=0)


@pytest.mark.parametrize("begins_again", [False, True])
def test_a_transaction_that_was_ended_on_its_connection_is_not_committed(
    bank: Bank, decisions: Path, begins_again: bool
) -> None:
    def ends(tx: Transaction) -> None:
        pg, _ = transfer(tx)
        pg.rollback()
        if begins_again:
            pg.execute("begin")
            pg.execute(PG_OUT)

    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        assert "ended on the connection itself" in aborted(coordinator, ends)
    bank.check(moved=0)


# ---- 2 and 3: MariaDB acknowledges a commit and loses it; XAER_NOTA


def test_mariadb_loses_commits_that_come_right_after_the_owner_left(bank: Bank, decisions: Path) -> None:
    """Recovery ends the branches of a connection that is just breaking, as fast as it can: every one is committed, and none is left behind.

    The trap (6 of 1,200 lost when XA COMMIT is simply repeated) is too rare to be shown here; ``test_recovery_waits_for_the_owner`` shows that we wait.
    """
    (_, stock) = bank.participants()
    for _ in range(150):
        branch = Branch(new("facts", time.time(), 5.0, int.from_bytes(os.urandom(10))), "stock")
        session = stock.connect()
        Shell().run(stock.begin(branch, session, 5.0))
        with session.connection.cursor() as cursor:
            cursor.execute(MY_IN)
        run(stock, "prepare", branch)
        closing = threading.Thread(target=session.connection._force_close)
        closing.start()
        stock.let_go(branch)
        run(stock, "commit", branch)
        closing.join()
        assert run(stock, "outcome", branch) is Outcome.COMMITTED
    ((found,),) = bank.my_run("select balance from accounts where id = 1")
    assert found == START + 150 * 7
    assert bank.prepared() == []
    stock.pool.close()


def test_unknown_xid_does_not_mean_done(bank: Bank) -> None:
    """The trap: while its owner is connected, a prepared branch is listed, and unknown to everybody else."""
    (_, stock) = bank.participants()
    (_, elsewhere) = bank.participants()
    branch = Branch(new("facts", time.time(), 5.0, 1), "stock")
    session = stock.connect()
    Shell().run(stock.begin(branch, session, 5.0))
    with session.connection.cursor() as cursor:
        cursor.execute(MY_IN)
    run(stock, "prepare", branch)
    with pytest.raises(pymysql.err.OperationalError, match="1397"):
        bank.my_run(f"xa commit {xid(branch)}")
    assert run(elsewhere, "outcome", branch) is Outcome.PREPARED
    (listed,) = run(elsewhere, "recover")
    assert listed.live
    run(elsewhere, "commit", branch)
    assert run(elsewhere, "outcome", branch) is Outcome.COMMITTED
    assert not session.connection.open or not _alive(session.connection)
    bank_total = bank.my_run("select balance from accounts where id = 1")
    assert bank_total == [(START + 7,)]
    stock.let_go(branch)
    stock.pool.close()
    elsewhere.pool.close()


def _alive(connection: Any) -> bool:
    try:
        connection.ping(reconnect=False)
    except (pymysql.Error, OSError):
        return False
    return True


def test_recovery_waits_for_the_owner(bank: Bank) -> None:
    """The order of its statements: nobody's XA COMMIT is sent before the owner is killed and gone."""
    (_, stock) = bank.participants()
    (_, elsewhere) = bank.participants()
    branch = Branch(new("facts", time.time(), 5.0, 2), "stock")
    session = stock.connect()
    Shell().run(stock.begin(branch, session, 5.0))
    with session.connection.cursor() as cursor:
        cursor.execute(MY_IN)
    run(stock, "prepare", branch)
    points: list[str] = []
    Shell(lambda when, point: points.append(point) if when == "after" else None).run(elsewhere.commit(branch))
    asked = [point.removeprefix("stock: ") for point in points if "connect" not in point]
    assert asked[:2] == ["owner", "kill the owner"]
    assert asked[2] == "owner"
    assert asked[-2:] == ["xa commit elsewhere", "witness"]
    stock.let_go(branch)
    for participant in (stock, elsewhere):
        participant.pool.close()


# ---- 4: one lost answer splits a transaction


@pytest.mark.parametrize(
    "lost", ["orders: commit prepared", "stock: xa commit", "orders: prepare transaction", "stock: prepare"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_splits_nothing(bank: Bank, decisions: Path, lost: str, when: str) -> None:
    """The connection breaks just before the server gets the statement, or just after it carried it out."""
    broken: list[str] = []
    tx: Transaction

    def watch(at: str, point: str) -> None:
        if point == lost and at == when and not broken:
            broken.append(point)
            participant = coordinator.engine.participants[lost.partition(":")[0]]
            (branch,) = [part.branch for part in tx._work.parts if part.participant is participant]
            participant.session_of(branch).hang_up()
            if when == "after":
                raise ConnectionBroken("the answer is lost")

    with Coordinator(decisions, bank.participants(), sweep_every=None, watch=watch) as coordinator:
        committed = True
        try:
            with coordinator.transaction() as tx:
                transfer(tx)
        except Aborted:
            committed = False
        assert broken
        assert committed == ("commit" in lost)
        coordinator.sweep()
    bank.check(moved=7 if committed else 0)


# ---- 7: what need not be prepared


def test_what_only_reads_drops_out(bank: Bank, decisions: Path) -> None:
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        for _ in range(2):
            with coordinator.transaction() as tx:
                tx.enlist("orders").execute("select * from accounts")
                with tx.enlist("stock").cursor() as cursor:
                    cursor.execute("select * from accounts")
            assert coordinator.engine.log.records() == []
        with coordinator.transaction() as tx:
            tx.enlist("orders").execute("select * from accounts")
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute(MY_IN)
                cursor.execute(MY_IN.replace("+", "-"))
        (record,) = coordinator.engine.log.records()
        assert [branch.participant for branch in record.branches] == ["stock"]
    bank.check(moved=0)


def test_locks_are_a_write_to_postgres(bank: Bank, decisions: Path) -> None:
    """SELECT FOR UPDATE takes a number, so it is prepared, and its locks are held until the end."""
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        with coordinator.transaction() as tx:
            tx.enlist("orders").execute("select * from accounts for update")
            with tx.enlist("stock").cursor() as cursor:
                cursor.execute(MY_IN)
                cursor.execute(MY_IN.replace("+", "-"))
        (record,) = coordinator.engine.log.records()
        assert {branch.participant for branch in record.branches} == {"orders", "stock"}
    bank.check(moved=0)


def test_a_single_writer_needs_no_decision(bank: Bank, decisions: Path) -> None:
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        with coordinator.transaction() as tx:
            tx.enlist("orders").execute(PG_OUT)
        with coordinator.transaction() as tx, tx.enlist("stock").cursor() as cursor:
            cursor.execute(MY_IN)
        assert coordinator.engine.log.records() == []
    bank.check(moved=7)


# ---- 8: outcomes can be asked for


def test_outcomes_stay_known(bank: Bank, decisions: Path) -> None:
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        with coordinator.transaction() as tx:
            transfer(tx)
        (record,) = coordinator.engine.log.records()
        for branch in record.branches:
            assert run(coordinator.engine.participants[branch.participant], "outcome", branch) is Outcome.COMMITTED
        tx = coordinator.transaction()
        tx.__enter__()
        transfer(tx)
        branches = [part.branch for part in tx._work.parts]
        for part in tx._work.parts:
            run(part.participant, "prepare", part.branch)
            assert run(part.participant, "outcome", part.branch) is Outcome.PREPARED
        tx.rollback()
        for branch in branches:
            assert run(coordinator.engine.participants[branch.participant], "outcome", branch) is Outcome.ABORTED
    bank.check(moved=7)


def test_a_fenced_branch_can_not_be_prepared_any_more(bank: Bank, decisions: Path) -> None:
    """A slow prepare lands after recovery has looked."""
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        others = {participant.name: participant for participant in bank.participants()}

        def fenced(name: str) -> Callable[[Transaction], None]:
            def work(tx: Transaction) -> None:
                transfer(tx)
                (branch,) = [part.branch for part in tx._work.parts if part.name == name]
                run(others[name], "fence", branch)

            return work

        def fenced_before_it_was_there(tx: Transaction) -> None:
            """Recovery finds no session to end, and takes the witness row."""
            transfer(tx)
            (branch,) = [part.branch for part in tx._work.parts if part.name == "stock"]
            deadline = int(branch.gtid.deadline * 1000)
            bank.my_run(
                f"insert into quorate_txn values ({deadline}, X'{branch.gtid.text.encode().hex()}', 'stock', 1)"
            )

        for name in ("orders", "stock"):
            aborted(coordinator, fenced(name))
            assert bank.prepared() == []
        assert "recovery has fenced" in aborted(coordinator, fenced_before_it_was_there)
        for participant in others.values():
            participant.pool.close()
    bank.check(moved=0)


def test_a_branch_that_its_session_has_not_let_go_of_yet_is_waited_for(bank: Bank, decisions: Path) -> None:
    """It is listed as prepared, and "is busy": for a moment, or for as long as a synchronous standby is waited for, as here."""
    refused: list[str] = []

    def watch(when: str, point: str) -> None:
        if (when, point) == ("before", "orders: rollback prepared"):
            refused.append(point)
            if len(refused) == 2:
                setting("reset synchronous_standby_names", "")

    def setting(how: str, value: str) -> None:
        bank.pg_run(f"alter system {how}")
        bank.pg_run("select pg_reload_conf()")
        until(lambda: bank.pg_run("show synchronous_standby_names") == [(value,)], "the setting is known")

    with Coordinator(decisions, bank.participants(), sweep_every=None, watch=watch) as coordinator:
        gtid = coordinator.engine.new_gtid(30)
        coordinator.engine.log.decide(Record(gtid, Decision.ABORT, [], time.time(), "the test", "it says so"))
        setting("set synchronous_standby_names = 'nobody'", "nobody")
        statements = ["begin", PG_OUT, f"prepare transaction '{gtid.text}/orders'"]
        with bank.pg() as preparing:
            thread = threading.Thread(target=lambda: [preparing.execute(one.encode()) for one in statements])
            thread.start()
            try:
                until(lambda: bank.prepared() == [f"{gtid.text}/orders"], "it is prepared, and waits")
                report = coordinator.sweep()
            finally:
                setting("reset synchronous_standby_names", "")
                thread.join()
    assert report.aborted == [(gtid.text, "orders")]
    assert report.unreachable == {}
    assert len(refused) >= 2
    bank.check(moved=0)


# ---- 9: atomic, not isolated


def test_readers_may_see_half_unless_they_lock(bank: Bank, decisions: Path) -> None:
    """Between the two commits a plain reader sees one; one that locks the rows waits for both."""
    seen: list[tuple[int, int]] = []
    blocked: list[bool] = []

    def watch(when: str, point: str) -> None:
        if when == "after" and point == "orders: commit" and not seen:
            seen.append(bank.sums())
            with bank.my() as connection, connection.cursor() as cursor:
                cursor.execute("begin")
                try:
                    cursor.execute("select * from accounts where id = 1 lock in share mode nowait")
                    blocked.append(False)
                except pymysql.err.OperationalError:
                    blocked.append(True)

    participants = bank.participants()
    # one after the other, so that there is a moment between them
    with Coordinator(decisions, participants, sweep_every=None, watch=watch) as coordinator:
        genuine = participants[1].commit

        def second(branch: Branch) -> Any:
            while not seen:
                yield from sleep(0.005)
            return (yield from genuine(branch))

        participants[1].commit = second
        with coordinator.transaction() as tx:
            transfer(tx)
    ((pg, my),) = seen
    assert pg + my == 2 * ACCOUNTS * START - 7
    assert blocked == [True]
    bank.check(moved=7)


def test_dead_sessions_are_found_by_their_own_lock(bank: Bank) -> None:
    """A fence ends the session of that branch alone."""
    (orders, _) = bank.participants()
    (elsewhere, _) = bank.participants()
    sessions = []
    branches = []
    for number in range(2):
        branch = Branch(new("facts", time.time(), 5.0, 10 + number), "orders")
        session = orders.connect()
        Shell().run(orders.begin(branch, session, 5.0))
        sessions.append(session)
        branches.append(branch)
    run(elsewhere, "fence", branches[0])
    with pytest.raises(psycopg.OperationalError):
        sessions[0].connection.execute("select 1")
    assert sessions[1].connection.execute("select 1").fetchall() == [(1,)]
    run(orders, "rollback", branches[1])
    orders.let_go(branches[0])
    for participant in (orders, elsewhere):
        participant.pool.close()
