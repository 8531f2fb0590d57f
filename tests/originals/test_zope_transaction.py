"""Zope ``transaction``'s own tests of the data-manager contract against our bridge, and each sentence of that contract (``IDataManager``) against
real PostgreSQL and MariaDB.

The package's tests are subclassed from where it is installed: its sample data managers are replaced by ones that keep their values in our participants.
"""

# ruff: noqa: F811  # fixtures are imported

import contextlib
import importlib
import logging
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest
import sqlalchemy
import transaction
from sqlalchemy.orm import Session
from tests.clients.transactions.conftest import bank, decisions, servers  # noqa: F401  # fixtures
from tests.support.bank import START, Bank, until
from tests.support.kvcluster import KvCluster
from transaction.interfaces import IRetryDataManager, ISavepointDataManager, TransactionFailedError
from transaction.tests import savepointsample, test__manager, test_savepoint
from zope.interface.verify import verifyObject
from zope.sqlalchemy import register

from quorate.errors import UsageError
from quorate.transactions import Aborted, Coordinator, InDoubt
from quorate.transactions import sync as blocking
from quorate.transactions.gtid import parse
from quorate.transactions.records import Decision, Record
from quorate.transactions.zope import DataManager, join

STEPS = ("tpc_begin", "commit", "tpc_vote", "tpc_finish")
BEFORE, AFTER, LAST = "a", "z", "\U0010ffffz"
"""Sort keys: of those that come before ours; of zope.sqlalchemy's kind; of one that is meant to come after ours."""


@pytest.fixture
def coordinator(bank: Bank, decisions: Path) -> Iterator[blocking.Coordinator]:
    with blocking.Coordinator(decisions, bank.participants(), sweep_every=None) as made:
        yield made
    transaction.abort()


def move(dm: DataManager, account: int = 1, amount: int = 7) -> None:
    """From PostgreSQL to MariaDB."""
    dm.enlist("orders").execute("update accounts set balance = balance - %s where id = %s", (amount, account))
    with dm.enlist("stock").cursor() as cursor:
        cursor.execute("update accounts set balance = balance + %s where id = %s", (amount, account))


def prepared(bank: Bank) -> int:
    """Branches. InnoDB has those whose owner left a second time."""
    return len([name for name in bank.prepared() if not name.startswith("trx ")])


def recover(coordinator: blocking.Coordinator, bank: Bank) -> None:
    """Sweep until nothing is prepared any more."""

    def swept() -> bool:
        coordinator.sweep()
        return not bank.prepared()

    until(swept, "recovery")


class Beside:
    """A data manager that tells what it is called for, and fails where it is told to. ``at``: called at each step."""

    def __init__(self, key: str, fails: str = "", error: Exception | None = None) -> None:
        self.transaction_manager = transaction.manager
        self.key = key
        self.fails = fails
        self.error = error or RuntimeError("not this time")
        self.told: list[str] = []
        self.at: Callable[[str], None] = lambda step: None

    def sortKey(self) -> str:  # noqa: N802
        return self.key

    def _step(self, name: str) -> None:
        self.told.append(name)
        self.at(name)
        if name == self.fails:
            raise self.error

    def tpc_begin(self, _: Any) -> None:
        self._step("tpc_begin")

    def commit(self, _: Any) -> None:
        self._step("commit")

    def tpc_vote(self, _: Any) -> None:
        self._step("tpc_vote")

    def tpc_finish(self, _: Any) -> None:
        self._step("tpc_finish")

    def tpc_abort(self, _: Any) -> None:
        self._step("tpc_abort")

    def abort(self, _: Any) -> None:
        self._step("abort")

    @property
    def finished(self) -> bool:
        return "tpc_finish" in self.told and self.fails != "tpc_finish"


# ---- transaction's own tests


class Values:
    """A mapping as the package's samples have it, of rows of PostgreSQL and MariaDB: each value is in both."""

    coordinator: blocking.Coordinator
    number = 0

    def __init__(self) -> None:
        self.transaction_manager = transaction.manager
        Values.number += 1
        self.owner = Values.number

    def __setitem__(self, name: str, value: str) -> None:
        dm = join(self.coordinator)
        row = (self.owner, name, value)
        dm.enlist("orders").execute("insert into bag values (%s, %s, %s)", row)
        with dm.enlist("stock").cursor() as cursor:
            cursor.execute("insert into bag values (%s, %s, %s)", row)

    def __getitem__(self, name: str) -> str:
        dm = join(self.coordinator)
        found = dm.enlist("orders").execute("select v from bag where o = %s and k = %s", (self.owner, name)).fetchall()
        with dm.enlist("stock").cursor() as cursor:
            cursor.execute("select v from bag where o = %s and k = %s", (self.owner, name))
            assert list(cursor.fetchall()) == found
        if not found:
            raise KeyError(name)
        return str(found[0][0])

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except KeyError:
            return False
        return True


@pytest.fixture
def bag(bank: Bank, coordinator: blocking.Coordinator) -> None:
    for run in (bank.pg_run, bank.my_run):
        run("drop table if exists bag")
        run("create table bag (o int, k varchar(20), v varchar(20))")
    Values.coordinator = coordinator


def cases(of: type[unittest.TestCase]) -> list[str]:
    return unittest.defaultTestLoader.getTestCaseNames(of)  # type: ignore[return-value]  # typeshed has it as a Sequence


def run_case(of: type[unittest.TestCase], name: str) -> None:
    result = unittest.TestResult()
    of(name).run(result)
    assert result.testsRun == 1
    assert not result.errors + result.failures, (result.errors + result.failures)[0][1]


@pytest.mark.parametrize("name", cases(test_savepoint.SavepointTests))
def test_their_savepoints(name: str, bag: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savepointsample, "SampleSavepointDataManager", Values)
    run_case(test_savepoint.SavepointTests, name)


FAILURES = [name for name in cases(test__manager.TransactionManagerTests) if "_jar" in name or name.endswith("_normal")]


def jars(coordinator: blocking.Coordinator, ours: int) -> tuple[type, list[Any]]:
    """Their ``BasicJar``, of which the one with the number ``ours`` hands everything on to our data manager, before or after it fails as it is told to."""

    theirs: Any = test__manager.BasicJar
    made: list[Any] = []

    class Jar(theirs):  # type: ignore[misc]  # it has no types
        def __init__(self, errors: Any = (), tracing: int = 0) -> None:
            super().__init__(errors, tracing)
            self.dm = None
            if len(made) == ours:
                self.dm = DataManager(coordinator, None, None, None)
                move(self.dm)
            made.append(self)

        def sortKey(self) -> str:  # noqa: N802
            return str(self.dm.sortKey() if self.dm is not None else super().sortKey())

    def handing_on(step: str) -> Callable[..., None]:
        def method(self: Any, txn: Any) -> None:
            getattr(theirs, step)(self, txn)
            if self.dm is not None:
                getattr(self.dm, step)(txn)

        return method

    for step in (*STEPS, "tpc_abort", "abort"):
        setattr(Jar, step, handing_on(step))
    return Jar, made


IN_THE_ORDER_OF_JOINING = ("test_commit_w_broken_jar_commit", 1)
"""It expects of two with the same key that the one that joined first is told first; ours is told last."""


@pytest.mark.parametrize(
    ("name", "ours"), [(name, ours) for name in FAILURES for ours in (0, 1) if (name, ours) != IN_THE_ORDER_OF_JOINING]
)
def test_their_failures(
    name: str,
    ours: int,
    bank: Bank,
    coordinator: blocking.Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jar, made = jars(coordinator, ours)
    monkeypatch.setattr(test__manager, "BasicJar", jar)
    run_case(test__manager.TransactionManagerTests, name)
    if len(made) <= ours:
        return
    finished = [found.ctpc_finish for found in made]
    assert len(set(finished)) == 1
    if "tpc_abort" in made[ours].errors or "abort" in made[ours].errors:
        # theirs fails where it should undo, and does not hand it on: the connections are still in the transaction
        made[ours].dm.abort(None)
    bank.check(moved=7 * finished[0])


def test_their_failures_are_all_there_are() -> None:
    assert len(FAILURES) == 9


# ---- IDataManager, sentence by sentence


def test_it_provides_what_it_says(coordinator: blocking.Coordinator) -> None:
    dm = join(coordinator)
    assert verifyObject(ISavepointDataManager, dm)
    assert verifyObject(IRetryDataManager, dm)
    assert dm.transaction_manager is transaction.manager
    assert isinstance(dm.sortKey(), str)


def test_commit_commits_in_both(bank: Bank, coordinator: blocking.Coordinator) -> None:
    with transaction.manager:
        move(join(coordinator))
    bank.check(moved=7)


def test_abort_forgets_all_changes_and_leaves_the_transaction(bank: Bank, coordinator: blocking.Coordinator) -> None:
    dm = join(coordinator)
    move(dm)
    transaction.abort()
    assert dm.state == "aborted"
    bank.check(moved=0)
    # "if there are new changes, the data manager must rejoin the transaction"
    again = join(coordinator)
    assert again is not dm
    move(again)
    transaction.commit()
    bank.check(moved=7)


def test_after_an_abort_by_savepoint_it_joins_again(bank: Bank, coordinator: blocking.Coordinator) -> None:
    """ "It may also be called when rolling back a savepoint made before the data manager joined the transaction." """
    before = transaction.savepoint()
    first = join(coordinator)
    move(first)
    before.rollback()
    second = join(coordinator)
    assert second is not first
    move(second, amount=3)
    transaction.commit()
    bank.check(moved=3)


def test_it_is_found_again_in_its_transaction_only(coordinator: blocking.Coordinator) -> None:
    first = join(coordinator)
    assert join(coordinator) is first
    assert join(coordinator, transaction.get()) is first
    mine = transaction.TransactionManager()
    other = join(coordinator, mine)
    assert other is not first
    assert other.transaction_manager is mine
    mine.abort()


def test_every_participant_has_voted_before_anybody_else_votes(bank: Bank, coordinator: blocking.Coordinator) -> None:
    beside = Beside(BEFORE)
    seen: dict[str, int] = {}

    def count(step: str) -> None:
        seen[step] = prepared(bank)

    beside.at = count
    transaction.get().join(beside)
    move(join(coordinator))
    transaction.commit()
    assert seen == {"tpc_begin": 0, "commit": 0, "tpc_vote": 2, "tpc_finish": 2}
    assert beside.finished
    bank.check(moved=7)


def test_the_decision_is_the_last_vote(coordinator: blocking.Coordinator) -> None:
    decided: list[tuple[str, int]] = []
    beside = [Beside(BEFORE), Beside(AFTER), Beside("~sqlalchemy:1")]
    for one in beside:
        one.at = lambda step: decided.append((step, len(list(coordinator.engine.log.records()))))
        transaction.get().join(one)
    move(join(coordinator))
    transaction.commit()
    assert [count for step, count in decided if step == "tpc_vote"] == [0, 0, 0]
    assert [count for step, count in decided if step == "tpc_finish"] == [1, 1, 1]


@pytest.mark.parametrize("key", [BEFORE, AFTER, "~sqlalchemy:1"])
@pytest.mark.parametrize("step", STEPS[:3])
def test_what_another_refuses_is_done_nowhere(
    key: str, step: str, bank: Bank, coordinator: blocking.Coordinator
) -> None:
    beside = Beside(key, step)
    transaction.get().join(beside)
    dm = join(coordinator)
    move(dm)
    with pytest.raises(RuntimeError, match="not this time"):
        transaction.commit()
    assert dm.state == "aborted"
    assert not beside.finished
    transaction.abort()
    bank.check(moved=0)
    assert list(coordinator.engine.log.records()) == []


def test_another_that_fails_to_finish_changes_no_decision(
    bank: Bank,
    coordinator: blocking.Coordinator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It promised; ours is decided, is carried out all the same, in both databases, and said in the log."""
    transaction.get().join(Beside(BEFORE, "tpc_finish"))
    dm = join(coordinator)
    move(dm)
    with caplog.at_level(logging.ERROR, "quorate.transactions"), pytest.raises(RuntimeError, match="not this time"):
        transaction.commit()
    assert dm.state == "committed"
    assert f"{dm.gtid} is committed, and another data manager" in caplog.text
    transaction.abort()
    bank.check(moved=7)


@pytest.mark.parametrize("key", [BEFORE, AFTER, "~sqlalchemy:1"])
def test_what_a_participant_refuses_is_voted_on_by_nobody(
    key: str, bank: Bank, coordinator: blocking.Coordinator
) -> None:
    """Also those that commit when they vote are not there yet."""
    beside = Beside(key)
    transaction.get().join(beside)
    dm = join(coordinator)
    move(dm)
    with contextlib.suppress(psycopg.Error):
        dm.enlist("orders").execute("select 1 / 0")
    with pytest.raises(Aborted, match="a statement failed"):
        transaction.commit()
    assert "tpc_vote" not in beside.told
    transaction.abort()
    bank.check(moved=0)


@pytest.mark.parametrize("key", [BEFORE, AFTER])
def test_a_decision_that_recovery_took_first_is_a_vote_against_it(
    key: str,
    bank: Bank,
    coordinator: blocking.Coordinator,
) -> None:
    def recovery_is_faster(step: str) -> None:
        if step == "tpc_vote":
            gtid = parse(dm.gtid)
            assert gtid is not None
            coordinator.engine.log.decide(Record(gtid, Decision.ABORT, [], time.time(), "recovery", "its time is up"))

    beside = Beside(key)
    beside.at = recovery_is_faster
    transaction.get().join(beside)
    dm = join(coordinator)
    move(dm)
    with pytest.raises(Aborted, match="aborted by recovery"):
        transaction.commit()
    assert "tpc_finish" not in beside.told
    transaction.abort()
    bank.check(moved=0)


def test_a_decision_whose_time_is_up_is_a_vote_against_it(bank: Bank, coordinator: blocking.Coordinator) -> None:
    beside = Beside(BEFORE)
    transaction.get().join(beside)
    dm = join(coordinator, timeout=0.5)
    move(dm)
    gtid = dm._tx._work.gtid
    beside.at = lambda step: until(lambda: step != "tpc_vote" or time.time() > gtid.deadline, "the deadline")
    with pytest.raises(Aborted, match="before it was decided"):
        transaction.commit()
    assert "tpc_finish" not in beside.told
    transaction.abort()
    bank.check(moved=0)


def test_in_doubt_nothing_is_told_to_any_branch(
    bank: Bank,
    coordinator: blocking.Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decision is written, and the log cannot say so: the others are told to abort, our branches are told nothing, and recovery finds the decision."""
    genuine = coordinator.engine.log.decide

    def forgetful(*arguments: Any) -> Any:
        genuine(*arguments)
        raise OSError("no answer")

    monkeypatch.setattr("quorate.transactions.commit.DECISION_SECONDS", 0.0)
    monkeypatch.setattr(coordinator.engine.log, "decide", forgetful)
    dm = join(coordinator, timeout=1.0)
    transaction.get().join(Beside(BEFORE))
    move(dm)
    with pytest.raises(InDoubt):
        transaction.commit()
    transaction.abort()
    assert dm.state == "in doubt"
    assert not dm.should_retry(Aborted(dm.gtid, "anything"))
    assert prepared(bank) == 2
    monkeypatch.setattr(coordinator.engine.log, "decide", genuine)
    recover(coordinator, bank)
    bank.check(moved=7)


def test_finish_does_not_fail_and_recovery_does_the_rest(
    bank: Bank,
    coordinator: blocking.Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MariaDB dies between the decision and ``tpc_finish``."""
    monkeypatch.setattr("quorate.transactions.commit.APPLY_SECONDS", 0.0)
    beside = Beside(BEFORE)
    beside.at = lambda step: bank.mariadb.kill() if step == "tpc_finish" else None
    transaction.get().join(beside)
    dm = join(coordinator, timeout=1.0)
    move(dm)
    try:
        transaction.commit()
    finally:
        bank.mariadb.start()
    assert beside.finished
    assert dm.state == "committed"
    recover(coordinator, bank)
    bank.check(moved=7)


def test_acknowledged_at_the_decision(bank: Bank, decisions: Path) -> None:
    with blocking.Coordinator(decisions, bank.participants(), sweep_every=None, acknowledge="decided") as made:
        with transaction.manager:
            move(join(made))
        until(lambda: not bank.prepared(), "the commits")
        bank.check(moved=7)


def test_one_participant_alone_commits_in_one_phase(bank: Bank, coordinator: blocking.Coordinator) -> None:
    with transaction.manager:
        dm = join(coordinator)
        dm.enlist("orders").execute("update accounts set balance = balance + 1 where id = 1")
    assert dm.state == "committed"
    assert list(coordinator.engine.log.records()) == []
    assert bank.pg_run("select balance from accounts where id = 1") == [(START + 1,)]


def test_one_participant_beside_others_prepares(bank: Bank, coordinator: blocking.Coordinator) -> None:
    beside = Beside(BEFORE, "tpc_vote")
    beside.at = lambda step: seen.append(prepared(bank)) if step == "tpc_vote" else None
    seen: list[int] = []
    transaction.get().join(beside)
    join(coordinator).enlist("orders").execute("update accounts set balance = balance + 1 where id = 1")
    with pytest.raises(RuntimeError):
        transaction.commit()
    transaction.abort()
    assert seen == [1]
    assert bank.pg_run("select balance from accounts where id = 1") == [(START,)]


def test_it_sorts_after_every_other_key() -> None:
    assert max(["~sqlalchemy:99", "zzz", "\U0010fffe", "\uffff"]) < DataManager.sortKey(mock.Mock(gtid="q"))


def test_doomed(bank: Bank, coordinator: blocking.Coordinator) -> None:
    move(join(coordinator))
    transaction.doom()
    with pytest.raises(transaction.interfaces.DoomedTransaction):
        transaction.commit()
    transaction.abort()
    bank.check(moved=0)


# ---- savepoints


def test_savepoints_in_both(bank: Bank, coordinator: blocking.Coordinator) -> None:
    with transaction.manager:
        dm = join(coordinator)
        move(dm, 1, 5)
        first = transaction.savepoint()
        move(dm, 2, 50)
        second = transaction.savepoint()
        move(dm, 3, 500)
        second.rollback()
        move(dm, 3, 1)
        second.rollback()
        first.rollback()
        assert not second.valid
        move(dm, 4, 2)
    bank.check(moved=7)


def test_a_participant_that_came_after_the_savepoint_is_undone(bank: Bank, coordinator: blocking.Coordinator) -> None:
    with transaction.manager:
        dm = join(coordinator)
        dm.enlist("orders").execute("update accounts set balance = balance - 7 where id = 1")
        before = transaction.savepoint()
        with dm.enlist("stock").cursor() as cursor:
            cursor.execute("update accounts set balance = balance + 1000 where id = 1")
        before.rollback()
        with dm.enlist("stock").cursor() as cursor:
            cursor.execute("update accounts set balance = balance + 7 where id = 1")
    bank.check(moved=7)


def test_a_savepoint_makes_a_failed_statement_good(bank: Bank, coordinator: blocking.Coordinator) -> None:
    with transaction.manager:
        dm = join(coordinator)
        move(dm)
        before = transaction.savepoint()
        with pytest.raises(psycopg.Error):
            dm.enlist("orders").execute("select 1 / 0")
        before.rollback()
    bank.check(moved=7)


class Plain:
    """The least that a participant can be."""

    name = "plain"

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, method: str) -> Any:
        if method not in ("prepare", "commit", "rollback", "recover", "fence", "outcome"):
            raise AttributeError(method)
        return lambda *_: self.told.append(method)


def test_savepoints_where_a_participant_has_none(coordinator: blocking.Coordinator) -> None:
    coordinator.engine.register(Plain())
    dm = join(coordinator)
    dm.enlist("plain")
    optimistic = transaction.savepoint(optimistic=True)
    with pytest.raises(TypeError, match="Savepoints unsupported"):
        optimistic.rollback()
    transaction.abort()
    join(coordinator).enlist("plain")
    with pytest.raises(TypeError, match="Savepoints unsupported"):
        transaction.savepoint()
    with pytest.raises(TransactionFailedError):
        transaction.commit()
    transaction.abort()


def test_keys_of_the_store_go_back_to_the_savepoint_too(bank: Bank, tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    with KvCluster(tmp_path / "kv", 1) as cluster:
        address = cluster.addresses[0]
        with blocking.Coordinator(address, bank.participants(), sweep_every=None) as made:
            with transaction.manager:
                dm = join(made)
                move(dm)
                dm.kv.put("a", b"1")
                before = transaction.savepoint()
                dm.kv.put("a", b"2")
                dm.kv.put("b", b"2")
                before.rollback()
            assert dm.kv._client.get("b") is None
            found = dm.kv._client.get("a")
            assert found is not None
            assert found.value == b"1"
            with transaction.manager:
                before = transaction.savepoint()
                dm = join(made)
                before = transaction.savepoint()
                dm.kv.put("b", b"3")
                before.rollback()
            assert dm.kv._client.get("b") is None
    bank.check(moved=7)


# ---- again


def test_a_serialization_failure_is_tried_again(bank: Bank, coordinator: blocking.Coordinator) -> None:
    """It comes when PostgreSQL prepares."""
    tries = 0
    for attempt in transaction.manager.attempts(3):
        with attempt:
            tries += 1
            dm = join(coordinator)
            connection = bank.pg()
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            dm.enlist(connection, "orders")
            ((sum_,),) = connection.execute("select sum(balance)::bigint from accounts where id < 3").fetchall()
            connection.execute("update accounts set balance = balance - 7 where id = 1")
            if tries == 1:
                with bank.pg() as other:
                    other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                    with other.transaction():
                        other.execute("select sum(balance) from accounts where id < 3").fetchall()
                        other.execute("update accounts set balance = balance + 0 where id = 2")
            with dm.enlist("stock").cursor() as cursor:
                cursor.execute("update accounts set balance = balance + 7 where id = 1")
            assert sum_ == 2 * START
    assert tries == 2
    connection.close()
    bank.check(moved=7)


def test_a_lock_that_mariadb_waited_for_in_vain_is_tried_again(bank: Bank, coordinator: blocking.Coordinator) -> None:
    blocker = bank.my()
    blocker.begin()
    with blocker.cursor() as cursor:
        cursor.execute("update accounts set balance = balance + 0 where id = 1")
    tries = 0
    for attempt in transaction.manager.attempts(3):
        with attempt:
            tries += 1
            if tries == 2:
                blocker.rollback()
            move(join(coordinator, timeout=1.4 if tries == 1 else 5.0))
    assert tries == 2
    blocker.close()
    bank.check(moved=7)


def test_what_is_no_conflict_is_not_tried_again(coordinator: blocking.Coordinator) -> None:
    tries = 0

    def work() -> None:
        nonlocal tries
        tries += 1
        join(coordinator).enlist("orders").execute("select 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        transaction.manager.run(work, 3)
    assert tries == 1


def test_what_may_be_committed_is_not_tried_again(bank: Bank, coordinator: blocking.Coordinator) -> None:
    """Another's conflict after our decision must not make ours happen twice."""
    conflict = psycopg.errors.SerializationFailure("too late")
    transaction.get().join(Beside(BEFORE, "tpc_finish", conflict))
    dm = join(coordinator)
    move(dm)
    with pytest.raises(psycopg.errors.SerializationFailure):
        transaction.commit()
    assert not dm.should_retry(conflict)
    transaction.abort()
    bank.check(moved=7)


# ---- mistakes


def test_one_decision_in_a_transaction(bank: Bank, coordinator: blocking.Coordinator, tmp_path: Path) -> None:
    join(coordinator)
    with (
        blocking.Coordinator(tmp_path / "others", bank.participants(), sweep_every=None) as other,
        pytest.raises(UsageError, match="another coordinator's data manager"),
    ):
        join(other)


def test_an_asynchronous_coordinator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a Coordinator of quorate\.transactions\.sync"):
        join(Coordinator(tmp_path / "decisions"))  # type: ignore[arg-type]  # the mistake


def test_nothing_can_be_enlisted_in_what_has_ended(coordinator: blocking.Coordinator) -> None:
    dm = join(coordinator)
    transaction.commit()
    with pytest.raises(UsageError, match="nothing can be done in it any more"):
        dm.enlist("orders")


def test_nobody_needs_zope_to_import_us() -> None:
    program = (
        "import sys\nfor name in ('transaction', 'zope', 'zope.interface'): sys.modules[name] = None\n"
        "import quorate.transactions, quorate.transactions.sync"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_zope_is_still_found_under_its_own_name() -> None:
    assert importlib.import_module("zope.interface").__name__ == "zope.interface"
    assert DataManager.__module__ == "quorate.transactions.zope"


# ---- fact 4: transaction and zope.sqlalchemy split a transaction on one lost answer


class Lost(Exception):
    pass


def their_transfer(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Two databases of PostgreSQL through zope.sqlalchemy with two phases; the first COMMIT PREPARED is done, and its answer lost. The balances afterwards."""
    manager = transaction.TransactionManager()
    engines = [sqlalchemy.create_engine(bank.postgres.url.removesuffix("postgres") + name) for name in ("one", "two")]
    lost = 0
    for engine in engines:
        genuine = engine.dialect.do_commit_twophase

        def losing(*arguments: Any, genuine: Any = genuine, **named: Any) -> None:
            nonlocal lost
            genuine(*arguments, **named)
            lost += 1
            if lost == 1:
                raise Lost

        engine.dialect.do_commit_twophase = losing  # type: ignore[method-assign]  # the network
    sessions = [Session(engine, twophase=True) for engine in engines]
    for session in sessions:
        register(session, transaction_manager=manager)
        session.execute(sqlalchemy.text("update accounts set balance = balance + 7"))
        from zope.sqlalchemy import mark_changed

        mark_changed(session)
    with pytest.raises(Lost):
        manager.commit()
    manager.abort()
    found = []
    for engine in engines:
        with engine.connect() as connection:
            found.append(int(connection.execute(sqlalchemy.text("select balance from accounts")).scalar_one()))
            for gid in connection.execute(
                sqlalchemy.text("select gid from pg_prepared_xacts where database = current_database()")
            ):
                found[-1] = -1
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                    f"rollback prepared '{gid[0]}'"
                )
        engine.dispose()
    return found[0], found[1]


def test_zope_sqlalchemy_splits_on_one_lost_answer_and_ours_does_not(
    bank: Bank,
    coordinator: blocking.Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trap first: one committed, the other rolled back."""
    try:
        for name in ("one", "two"):
            bank.pg_run(f"create database {name}")
            with psycopg.connect(bank.postgres.conninfo.replace("dbname=postgres", f"dbname={name}")) as connection:
                connection.execute("create table accounts (balance int)")
                connection.execute("insert into accounts values (0)")
        assert sorted(their_transfer(bank, monkeypatch)) == [0, 7]
    finally:
        for name in ("one", "two"):
            bank.pg_run(f"drop database if exists {name} with (force)")
    # ours: whichever branch's answer is lost
    for number, lost in enumerate(("orders: commit prepared", "stock: xa commit")):
        times = 0

        def losing(when: str, point: str, lost: str = lost) -> None:
            nonlocal times
            if (when, point) == ("after", lost):
                times += 1
                if times == 1:
                    raise OSError("the answer is lost")

        monkeypatch.setattr(coordinator.shell, "watch", losing)
        with transaction.manager:
            move(join(coordinator))
        assert times >= 1
        bank.check(moved=7 * (number + 1))
