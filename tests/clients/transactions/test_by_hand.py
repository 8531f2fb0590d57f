"""What an operator did by hand to real databases, against the decision: found, told and kept, by whoever comes across it; and participants that come back from a backup."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.bank import Bank

from quorate.transactions import Aborted, HeuristicOutcome, InDoubt, Outcome
from quorate.transactions import commit as protocol
from quorate.transactions.flow import call
from quorate.transactions.gtid import new
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sql.postgres import WHOLE_NUMBER, gid
from quorate.transactions.sync import Coordinator, Transaction

PG_OUT = "update accounts set balance = balance - 7 where id = 1"
MY_IN = "update accounts set balance = balance + 7 where id = 1"


def transfer(tx: Transaction) -> None:
    tx.enlist("orders").execute(PG_OUT)
    with tx.enlist("stock").cursor() as cursor:
        cursor.execute(MY_IN)


def run(participant: Any, method: str, *arguments: Any) -> Any:
    return Shell().run(call(method, getattr(participant, method), *arguments))


def prepared(coordinator: Coordinator) -> Transaction:
    """A transaction whose coordinator died between its votes and its decision."""
    tx = coordinator.transaction(timeout=60.0)
    transfer(tx)
    for part in tx._work.parts:
        run(part.participant, "prepare", part.branch)
        part.participant.let_go(part.branch)
    return tx


def at_point(when: str, point: str, strike: Callable[[], None]) -> Callable[[str, str], None]:
    struck: list[str] = []

    def watch(at: str, reached: str) -> None:
        if (at, reached) == (when, point) and not struck:
            struck.append(point)
            strike()

    return watch


@pytest.mark.parametrize(("statement", "outcome"), [("rollback", "rolled back"), ("commit", None)])
def test_postgres_ended_by_hand_between_the_decision_and_the_commit(
    bank: Bank, decisions: Path, statement: str, outcome: str | None
) -> None:
    tx: Transaction

    def by_hand() -> None:
        (part,) = [part for part in tx._work.parts if part.name == "orders"]
        bank.pg_run(f"{statement} prepared '{gid(part.branch)}'")

    watch = at_point("before", "orders: commit", by_hand)
    with Coordinator(decisions, bank.participants(), sweep_every=None, watch=watch) as coordinator:
        tx = coordinator.transaction()
        transfer(tx)
        if outcome is None:
            tx.commit()
        else:
            with pytest.raises(HeuristicOutcome, match=f"decided to commit, but orders {outcome}") as told:
                tx.commit()
            assert told.value.recorded
            (record,) = coordinator.engine.log.records()
            assert record.heuristic == {"orders": outcome}
        assert tx.state == "committed"
    assert bank.prepared() == []


def test_postgres_committed_by_hand_while_its_coordinator_aborts(bank: Bank, decisions: Path) -> None:
    """The other one votes no."""
    tx: Transaction

    def by_hand() -> None:
        (part,) = [part for part in tx._work.parts if part.name == "orders"]
        bank.pg_run(f"commit prepared '{gid(part.branch)}'")

    watch = at_point("before", "orders: rollback", by_hand)
    with Coordinator(decisions, bank.participants(), sweep_every=None, watch=watch) as coordinator:
        tx = coordinator.transaction()
        transfer(tx)
        (part,) = [part for part in tx._work.parts if part.name == "stock"]
        run(part.participant, "fence", part.branch)
        with pytest.raises(HeuristicOutcome, match="decided to abort, but orders committed"):
            tx.commit()
        assert tx.state == "aborted"
        (record,) = coordinator.engine.log.records()
        assert (record.decision, record.heuristic) == (Decision.ABORT, {"orders": "committed"})
        coordinator.sweep()
        assert coordinator.engine.log.records()[0].heuristic == {"orders": "committed"}


@pytest.mark.parametrize("who", ["orders", "stock"])
def test_committed_by_hand_before_recovery_aborts_the_rest(bank: Bank, decisions: Path, who: str) -> None:
    """MariaDB's witness tells. PostgreSQL could tell by the transaction's number, and nobody has kept that: the record says nothing, as docs say."""
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        tx = prepared(coordinator)
        branches = {part.name: part.branch for part in tx._work.parts}
        if who == "orders":
            bank.pg_run(f"commit prepared '{gid(branches['orders'])}'")
        else:
            run(coordinator.engine.participants["stock"], "commit", branches["stock"])
        gtid = tx._work.gtid
        # its time is up: decided as recovery would have, for nobody waits a minute here
        coordinator.engine.log.decide(Record(gtid, Decision.ABORT, [], time.time(), "recovery", "its time is up"))
        report = coordinator.sweep()
        other = "stock" if who == "orders" else "orders"
        assert report.aborted == [(tx.gtid, other)]
        record = coordinator.engine.log.read(gtid)
        assert record is not None
        assert record.branch(other) is not None
    assert bank.prepared() == []


def test_a_branch_that_postgres_lists_can_be_asked_after(bank: Bank) -> None:
    """What recovery saw of it is enough to tell later what became of it: the number, with its upper half."""
    (orders, stock) = bank.participants()
    branch = Branch(new("facts", time.time(), 5.0, 77), "orders")
    session = orders.connect()
    Shell().run(orders.begin(branch, session, 5.0))
    session.connection.execute(PG_OUT)
    run(orders, "prepare", branch)
    (listed,) = run(orders, "recover")
    assert listed.branch.token == branch.token
    bank.pg_run(f"commit prepared '{gid(branch)}'")
    assert run(orders, "outcome", listed.branch) is Outcome.COMMITTED
    assert run(orders, "outcome", Branch(branch.gtid, "orders")) is Outcome.UNKNOWN
    orders.let_go(branch)
    for one in (orders, stock):
        one.pool.close()


def test_a_witness_that_somebody_holds_does_not_keep_tidying_waiting(bank: Bank) -> None:
    (_, stock) = bank.participants()
    branch = Branch(new("facts", time.time() - 30.0, 5.0, 78), "stock")
    session = stock.connect()
    Shell().run(stock.begin(branch, session, 5.0))
    with session.connection.cursor() as cursor:
        cursor.execute(MY_IN)
    run(stock, "prepare", branch)
    run(stock, "tidy", time.time(), "facts")
    assert run(stock, "outcome", branch) is Outcome.PREPARED
    run(stock, "commit", branch)
    assert run(stock, "outcome", branch) is Outcome.COMMITTED
    run(stock, "tidy", branch.gtid.deadline, "facts")
    assert run(stock, "outcome", branch) is Outcome.COMMITTED, "not before the horizon is above it"
    run(stock, "tidy", branch.gtid.deadline + 0.001, "facts")
    assert run(stock, "outcome", branch) is Outcome.ABORTED, "nobody remembers"
    stock.let_go(branch)
    stock.pool.close()


@pytest.mark.parametrize("isolation", ["repeatable-read", "serializable"])
def test_a_branch_that_nobody_has_ended_keeps_nobody_else_waiting(bank: Bank, decisions: Path, isolation: str) -> None:
    """Its witness is locked, and the first one in the table, or lies among those that are to be tidied away."""
    bank.my_run("drop table if exists quorate_txn")
    bank.my_run("set global innodb_lock_wait_timeout = 1")
    bank.my_run(f"set global tx_isolation = '{isolation}'")
    (_, stock) = bank.participants()
    held = Branch(new("others", time.time() - 3000.0, 5.0, 81), "stock")
    old = [Branch(new("facts", time.time() - 2000.0 + number, 5.0, 81), "stock") for number in range(3)]
    try:
        for branch in [held, *old]:
            session = stock.connect()
            Shell().run(stock.begin(branch, session, 5.0))
            Shell().run(stock.insist(branch))
            run(stock, "prepare", branch)
            if branch is not held:
                run(stock, "commit", branch)
        # a coordinator that was not here before
        with (
            Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator,
            coordinator.transaction() as tx,
        ):
            transfer(tx)
        # somebody looks at one of them
        with bank.my() as connection, connection.cursor() as cursor:
            cursor.execute("begin")
            cursor.execute(
                "select * from quorate_txn where until = %s for update", (round(old[1].gtid.deadline * 1000),)
            )
            run(stock, "tidy", old[2].gtid.deadline + 0.001, "facts")
            outcomes = [run(stock, "outcome", branch) for branch in [held, *old]]
            assert outcomes == [Outcome.PREPARED, Outcome.ABORTED, Outcome.COMMITTED, Outcome.ABORTED]
            cursor.execute("rollback")
        run(stock, "tidy", old[2].gtid.deadline + 0.001, "facts")
        assert run(stock, "outcome", old[1]) is Outcome.ABORTED, "nobody remembers"
        run(stock, "rollback", held)
    finally:
        stock.let_go(held)
        stock.pool.close()
        bank.my_run("set global innodb_lock_wait_timeout = default")
        bank.my_run("set global tx_isolation = default")
    bank.check(moved=7)


def test_tidying_that_fails_leaves_no_snapshot_behind(bank: Bank) -> None:
    """MariaDB does not say with an error that a transaction is open: whoever asks on that connection later would be told of the past."""
    bank.my_run("drop table if exists quorate_txn")
    (_, stock), (_, other) = bank.participants(), bank.participants()
    run(stock, "tidy", time.time(), "facts")
    for random in range(3):
        branch = Branch(new("facts", time.time(), 5.0, random), "stock")
        session = other.connect()
        Shell().run(other.begin(branch, session, 5.0))
        Shell().run(other.insist(branch))
        run(other, "prepare", branch)
        run(other, "commit", branch)
        session.close()
        assert run(stock, "outcome", branch) is Outcome.COMMITTED
    for one in (stock, other):
        one.pool.close()


def test_the_witness_of_a_single_commit_is_kept_by_the_servers_clock(bank: Bank) -> None:
    """A sweeper whose clock is a day ahead does not take it from a coordinator that is just about to ask for it."""
    (_, stock) = bank.participants()
    branch = Branch(new("facts", time.time(), 5.0, 79), "stock")
    session = stock.connect()
    Shell().run(stock.begin(branch, session, 5.0))
    with session.connection.cursor() as cursor:
        cursor.execute(MY_IN)
    run(stock, "commit_one_phase", branch)
    run(stock, "tidy", time.time() + 86400.0, "facts")
    assert run(stock, "outcome", branch) is Outcome.COMMITTED
    stock.pool.close()


def test_counters_that_begin_anew_do_not_make_a_reader_of_a_writer(bank: Bank, decisions: Path) -> None:
    """FLUSH STATUS between two transactions of a connection: whether rows were written is told by counting. Who is taken for a reader commits at its vote, whatever
    the others vote."""
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        connection = bank.my()
        with coordinator.transaction() as tx:
            tx.enlist("orders").execute(PG_OUT)
            with tx.enlist(connection, resource="stock").cursor() as cursor:
                cursor.execute("update accounts set balance = balance + 1")
                cursor.execute("update accounts set balance = balance - 1")
                cursor.execute(MY_IN)
        with connection.cursor() as cursor:
            cursor.execute("flush status")
        tx = coordinator.transaction()
        tx.enlist("orders").execute(PG_OUT)
        with tx.enlist(connection, resource="stock").cursor() as cursor:
            cursor.execute(MY_IN)
        (part,) = [part for part in tx._work.parts if part.name == "orders"]
        run(part.participant, "fence", part.branch)
        with pytest.raises(Aborted):
            tx.commit()
        connection.close()
    bank.check(moved=7)


def test_a_lost_connection_before_a_single_commit_is_an_abort_at_once(bank: Bank, decisions: Path) -> None:
    """Nothing was asked of PostgreSQL yet: there is no doubt."""
    with Coordinator(decisions, bank.participants(), sweep_every=None) as coordinator:
        tx = coordinator.transaction(timeout=60.0)
        tx.enlist("orders").execute(PG_OUT)
        (part,) = tx._work.parts
        part.participant.session_of(part.branch).hang_up()
        started = time.time()
        with pytest.raises(Aborted, match="before it was committed"):
            tx.commit()
        assert tx._work.gtid.deadline > started
    bank.check(moved=0)


@pytest.mark.parametrize(
    ("others", "told", "forgotten"),
    [("commit", InDoubt, False), ("commit", InDoubt, True), ("rollback", Aborted, False), (None, Aborted, False)],
    ids=["commits", "commits, and the server was to be looked at again", "rolls back", "none"],
)
def test_a_number_that_a_crash_gives_again_does_not_tell_another_transactions_outcome(
    bank: Bank,
    decisions: Path,
    monkeypatch: pytest.MonkeyPatch,
    others: str | None,
    told: type[Exception],
    forgotten: bool,
) -> None:
    """PostgreSQL goes down in a commit in one phase, with all of it, and gives its number to somebody else."""
    monkeypatch.setattr(protocol, "DECISION_SECONDS", 0.5)
    # nobody is to flush the transaction in passing
    bank.pg_run("alter system set wal_writer_delay = '10s'")
    bank.pg_run("select pg_reload_conf()")
    seen: list[bool] = []

    def crashes() -> None:
        (part,) = tx._work.parts
        number = int(part.branch.token.split()[0])
        bank.postgres.kill()
        bank.postgres.start()
        with bank.pg() as connection:
            ((following,),) = connection.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            seen.append(following <= number)
            while others is not None and following <= number:
                connection.execute("begin")
                ((following,),) = connection.execute("select pg_current_xact_id()::text::bigint + 1")
                connection.execute(others.encode())

    try:
        # a checkpoint may flush it all the same
        while True not in seen:
            assert len(seen) < 5
            watch = at_point("before", "orders: commit", crashes)
            with Coordinator(decisions, bank.participants(), sweep_every=None, watch=watch) as coordinator:
                tx = coordinator.transaction(timeout=5.0)
                tx.enlist("orders").execute(PG_OUT)
                if forgotten:
                    tx._work.parts[0].participant._setup.forget()
                with pytest.raises((told, Aborted)) as found:
                    tx.commit()
                assert isinstance(found.value, told if seen[-1] else Aborted)
    finally:
        bank.pg_run("alter system reset wal_writer_delay")
        bank.pg_run("select pg_reload_conf()")
    bank.check(moved=0)


@pytest.mark.parametrize(
    ("listed", "near", "whole"),
    [
        (100, 101, 100),
        (105, 101, 105),
        (4294967290, (1 << 32) + 5, 4294967290),
        (2, (1 << 32) - 3, (1 << 32) + 2),
        (7, (5 << 32) + 9, (5 << 32) + 7),
    ],
)
def test_the_whole_number_of_a_prepared_transaction(bank: Bank, listed: int, near: int, whole: int) -> None:
    """Also of one that was prepared after the snapshot was taken, and where the lower half begins anew in between."""
    statement = f"select {WHOLE_NUMBER} from (select {listed}::bigint as transaction, {near}::bigint as x) s"
    assert bank.pg_run(statement) == [(whole,)]
