"""SQLAlchemy's sessions, connections and engines in our transactions, and its own two-phase transactions with our decisions, on real servers."""

import asyncio
import gc
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event, exc, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.attributes import instance_state
from tests.support.bank import START, Bank, until

from quorate import transactions
from quorate.errors import UsageError
from quorate.optimistic.retrying import retry
from quorate.transactions import Aborted, HeuristicOutcome, NotYetApplied, Outcome
from quorate.transactions import commit as protocol
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.flow import call
from quorate.transactions.gtid import new, parse
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sync import Coordinator, Transaction

BLOCKING = ["pymysql", *(["mysqldb"] if importlib.util.find_spec("MySQLdb") else [])]
ASYNCHRONOUS = [("psycopg_async", "aiomysql"), ("asyncpg", "asyncmy")]
OUT = "update accounts set balance = balance - 7 where id = 1"
IN = "update accounts set balance = balance + 7 where id = 1"
DIVISION = "select 1 / 0"


class Base(DeclarativeBase):
    pass


class Out(Base):
    """In PostgreSQL."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class OtherBase(DeclarativeBase):
    pass


class In(OtherBase):
    """In MariaDB."""

    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Shop:
    """An engine of each, and a coordinator. ``points``: of the protocol, in their order; ``strike``: called at each, before and after."""

    def __init__(self, bank: Bank, path: Path, mysql: str = "pymysql") -> None:
        self.bank = bank
        self.orders: Engine = sqlalchemy.create_engine(bank.postgres.url)
        self.stock: Engine = sqlalchemy.create_engine(bank.mariadb.url.replace("pymysql", mysql))
        self.points: list[str] = []
        self.strike: Callable[[str, str], None] = lambda when, point: None
        self.coordinator = Coordinator(path, bank.participants(), sweep_every=None, timeout=30, watch=self._watch)

    def _watch(self, when: str, point: str) -> None:
        if when == "before":
            self.points.append(point)
        self.strike(when, point)

    def bind(self) -> None:
        self.coordinator.bind(self.orders)
        self.coordinator.bind(self.stock, "stock")

    def session(self, **options: Any) -> Session:
        return Session(binds={Out: self.orders, In: self.stock}, **options)

    def fails(self, kind: type[BaseException], match: str | None, work: Callable[[Transaction], object]) -> Transaction:
        """``work`` in a transaction, which does not come to a good end."""
        tx = self.coordinator.transaction()
        with pytest.raises(kind, match=match), tx:
            work(tx)
        return tx

    @property
    def records(self) -> list[Any]:
        return list(self.coordinator.engine.log.records())

    def clean(self) -> None:
        """Every connection is in its pool, and works; nobody remembers a branch."""
        for engine in (self.orders, self.stock):
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # QueuePool has it
            with engine.connect() as connection:
                assert connection.scalar(text("select count(*) from accounts")) == 64
                assert "quorate" not in connection.info
        for participant in self.coordinator.engine.participants.values():
            assert participant._sessions == {}

    def close(self) -> None:
        self.coordinator.close()
        self.orders.dispose()
        self.stock.dispose()


@pytest.fixture
def shop(bank: Bank, decisions: Path) -> Iterator[Shop]:
    made = Shop(bank, decisions)
    yield made
    made.close()


def transfer(session: Session) -> tuple[Out, In]:
    source, target = session.get(Out, 1), session.get(In, 1)
    assert source is not None
    assert target is not None
    source.balance -= 7
    target.balance += 7
    return source, target


# ---- in a transaction of the coordinator's


@pytest.mark.parametrize("mysql", BLOCKING)
@pytest.mark.parametrize("twophase", [False, True])
def test_a_session_over_two_databases(bank: Bank, decisions: Path, mysql: str, twophase: bool) -> None:
    shop = Shop(bank, decisions, mysql)
    if twophase or mysql == "mysqldb":
        shop.bind()
    with shop.session(twophase=twophase) as session:
        for number in (1, 2):
            with shop.coordinator.transaction() as tx:
                assert tx.enlist(session) is session
                source, target = transfer(session)
            assert tx.state == "committed"
            assert not session.in_transaction()
            assert instance_state(source).expired
            assert instance_state(target).expired
            assert (source.balance, target.balance) == (START - 7 * number, START + 7 * number)
            session.rollback()
    assert [sorted(branch.participant for branch in record.branches) for record in shop.records] == [
        ["orders", "stock"]
    ] * 2
    shop.clean()
    shop.close()
    bank.check(moved=14)


def test_what_is_raised_inside_rolls_back(shop: Shop) -> None:
    with shop.session() as session:
        added = Out(id=100, balance=1)

        def work(tx: Transaction) -> None:
            tx.enlist(session)
            transfer(session)
            session.add(added)
            session.flush()
            raise ZeroDivisionError

        tx = shop.fails(ZeroDivisionError, None, work)
        assert tx.state == "aborted"
        assert added not in session
        source = session.get(Out, 1)
        assert source is not None
        assert source.balance == START
    shop.clean()
    shop.bank.check(moved=0)


def test_a_flush_that_fails_at_the_commit(shop: Shop) -> None:
    with shop.session() as session:

        def work(tx: Transaction) -> None:
            tx.enlist(session)
            transfer(session)
            session.add(In(id=2, balance=0))

        tx = shop.fails(exc.IntegrityError, "Duplicate", work)
        assert tx.state == "aborted"
        assert not session.in_transaction()
    shop.clean()
    shop.bank.check(moved=0)


def test_engines_connections_and_makers(shop: Shop) -> None:
    maker = sessionmaker(binds={In: shop.stock})
    with shop.orders.connect() as connection:
        with shop.coordinator.transaction() as tx:
            assert tx.enlist(connection) is connection
            assert tx.enlist(connection) is connection
            connection.execute(text(OUT))
            session = tx.enlist(maker)
            session.execute(text(IN), bind_arguments={"mapper": In})
        assert not connection.in_transaction()
        assert connection.scalar(text("select balance from accounts where id = 1")) == START - 7
    with shop.coordinator.transaction() as tx:
        tx.enlist(shop.stock).execute(text(IN))
        raw = tx.enlist("orders")
        raw.execute(OUT)
    shop.clean()
    shop.bank.check(moved=14)


def test_all_have_flushed_before_anything_is_prepared(shop: Shop) -> None:
    """Two Sessions, one of which writes only when it is told of the commit, and a savepoint that is rolled back."""
    seen: list[str] = []
    with shop.session() as one, shop.session() as other, shop.coordinator.transaction() as tx:
        tx.enlist(one)
        tx.enlist(other)
        source = one.get(Out, 1)
        assert source is not None
        source.balance -= 7
        with suppress(ZeroDivisionError), one.begin_nested():
            source.balance -= 1
            one.flush()
            raise ZeroDivisionError
        assert source.balance == START - 7

        @event.listens_for(other, "before_commit")
        def late(session: Session) -> None:
            seen.append(shop.points[-1])
            target = session.get(In, 1)
            assert target is not None
            target.balance += 7

    assert len(seen) == 1
    assert "prepare" not in seen[0]
    shop.clean()
    shop.bank.check(moved=7)


def test_it_is_not_committed_by_itself(shop: Shop) -> None:
    def by_session(session: Session) -> None:
        session.commit()

    def by_connection(session: Session) -> None:
        session.connection(bind_arguments={"mapper": In}).commit()

    for misuse in (by_session, by_connection):
        with shop.session() as session:

            def work(tx: Transaction, session: Session = session, misuse: Callable[[Session], None] = misuse) -> None:
                tx.enlist(session)
                transfer(session)
                session.flush()
                misuse(session)

            assert shop.fails(UsageError, "not by itself", work).state == "aborted"
        shop.clean()
    shop.bank.check(moved=0)


@pytest.mark.parametrize("misuse", [Session.rollback, Session.close])
def test_what_was_rolled_back_by_itself_is_not_committed(shop: Shop, misuse: Callable[[Session], None]) -> None:
    with shop.session() as session:

        def work(tx: Transaction) -> None:
            tx.enlist(session)
            transfer(session)
            session.flush()
            misuse(session)

        assert shop.fails(Aborted, "ended by itself", work).state == "aborted"
    shop.clean()
    shop.bank.check(moved=0)


def test_mistakes_are_told_at_once(shop: Shop, bank: Bank, decisions: Path) -> None:
    coordinator = shop.coordinator
    with shop.session() as session, coordinator.transaction() as tx:
        session.get(Out, 1)
        with pytest.raises(UsageError, match="the Session is in a transaction already"):
            tx.enlist(session)
        session.rollback()
        tx.enlist(session)
        with pytest.raises(UsageError, match="another transaction"):
            coordinator.transaction().enlist(session)
    with shop.orders.connect() as connection, coordinator.transaction() as tx:
        connection.execute(text("select 1"))
        with pytest.raises(UsageError, match="the Connection is in a transaction already"):
            tx.enlist(connection)
    with pytest.raises(UsageError, match="cannot be enlisted"):
        coordinator.transaction().enlist(text("select 1"))
    asynchronous = create_async_engine(bank.postgres.url)
    with pytest.raises(UsageError, match="an asynchronous engine needs"):
        coordinator.bind(asynchronous, "orders")
    with pytest.raises(UsageError, match="an asynchronous engine needs"):
        coordinator.transaction().enlist(asynchronous)
    with pytest.raises(UsageError, match="there is no participant 'nobody'"):
        coordinator.bind(shop.orders, "nobody")
    with pytest.raises(UsageError, match="the engine is of PostgreSQL, and 'stock' is MariaDB"):
        coordinator.bind(shop.orders, "stock")
    with pytest.raises(UsageError, match="sqlite cannot be bound"):
        coordinator.bind(sqlalchemy.create_engine("sqlite://"))
    elsewhere = sqlalchemy.create_engine(bank.postgres.url.removesuffix("/postgres") + "/template1")
    with pytest.raises(UsageError, match="cannot be told; name it"):
        coordinator.bind(elsewhere)
    with Session(elsewhere) as session:

        def works_elsewhere(tx: Transaction) -> None:
            tx.enlist(session)
            session.execute(text("select 1"))

        def goes_on(tx: Transaction) -> None:
            with suppress(UsageError):
                works_elsewhere(tx)

        shop.fails(UsageError, "none of the coordinator's participants", works_elsewhere)
        shop.fails(Aborted, "could not take part", goes_on)
    shop.bind()
    shop.bind()
    with Coordinator(decisions, bank.participants(), sweep_every=None) as other:
        with pytest.raises(UsageError, match="is bound already, as 'orders'"):
            other.bind(shop.orders)
        with pytest.raises(UsageError, match="bound to another coordinator"), other.transaction() as tx:
            tx.enlist(shop.orders)
    elsewhere.dispose()
    shop.clean()


def test_two_connections_of_one_participant_are_refused(shop: Shop) -> None:
    second = sqlalchemy.create_engine(shop.bank.postgres.url)
    shop.bind()
    shop.coordinator.bind(second, "orders")
    with Session(twophase=True, binds={Out: shop.orders, In: second}) as session:
        session.get(Out, 1)
        with pytest.raises(UsageError, match="takes part already, with another connection"):
            session.get(In, 1)
        with pytest.raises(Aborted, match="takes part already, with another connection"):
            session.commit()
    second.dispose()
    shop.clean()


@pytest.mark.parametrize("then", ["another statement", "the commit"])
def test_a_connection_that_was_cut(shop: Shop, then: str) -> None:
    """Both sides see it, and no pool keeps it."""
    for name in ("orders", "stock"):
        with shop.session() as session:

            def work(tx: Transaction, session: Session = session, name: str = name) -> None:
                tx.enlist(session)
                transfer(session)
                session.flush()
                if name == "orders":
                    pid = session.scalar(text("select pg_backend_pid()"), bind_arguments={"mapper": Out})
                    shop.bank.pg_run(f"select pg_terminate_backend({pid}, 5000)")
                else:
                    pid = session.scalar(text("select connection_id()"), bind_arguments={"mapper": In})
                    shop.bank.my_run(f"kill {pid}")
                if then == "another statement":
                    session.execute(text("select 1"), bind_arguments={"mapper": Out if name == "orders" else In})

            tx = shop.fails(exc.DBAPIError if then == "another statement" else Aborted, None, work)
            assert tx.state == "aborted"
            assert not session.in_transaction()
        shop.clean()
    shop.bank.check(moved=0)


@pytest.mark.parametrize("twophase", [False, True])
@pytest.mark.parametrize("name", ["orders", "stock"])
def test_a_server_that_dies_once_it_is_decided(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str, twophase: bool
) -> None:
    """The Session knows that it is committed; the rest is recovery's."""
    # told once is enough, the other one is dead
    monkeypatch.setattr(protocol, "APPLY_SECONDS", -30.0)
    server = shop.bank.postgres if name == "orders" else shop.bank.mariadb

    def dies(when: str, point: str) -> None:
        if (when, point) == ("after", "log: decide"):
            server.kill()

    shop.strike = dies
    objects: list[Any] = []
    with shop.session(twophase=twophase) as session:
        if twophase:
            shop.bind()
            objects += transfer(session)
            with pytest.raises(NotYetApplied, match=name):
                session.commit()
        else:

            def work(tx: Transaction) -> None:
                tx.enlist(session)
                objects.extend(transfer(session))

            tx = shop.fails(NotYetApplied, name, work)
            assert tx.state == "committed"
        assert not session.in_transaction()
        assert all(instance_state(found).expired for found in objects)
        server.start()
        shop.strike = lambda when, point: None
        report = Shell().run(shop.coordinator.engine.sweep_now())
        while not report.committed:
            report = Shell().run(shop.coordinator.engine.sweep_now())
        assert [participant for _, participant in report.committed] == [name]
        for engine in (shop.orders, shop.stock):
            # those of other tests that the dead server had
            engine.dispose()
        assert [found.balance for found in objects] == [START - 7, START + 7]
    shop.clean()
    shop.bank.check(moved=7)


def test_isolation_levels_are_kept(shop: Shop) -> None:
    serializable = shop.orders.execution_options(isolation_level="SERIALIZABLE")
    with shop.coordinator.transaction() as tx:
        assert tx.enlist(serializable).scalar(text("show transaction_isolation")) == "serializable"


# ---- SQLAlchemy's two-phase transactions


def test_plain_sqlalchemy_splits_on_a_lost_answer(shop: Shop) -> None:
    """The trap: the server committed the first, whichever that is; its answer is lost, and the second is rolled back."""
    lost: list[str] = []
    for engine in (shop.orders, shop.stock):
        genuine = engine.dialect.do_commit_twophase

        def loses(connection: Any, xid: Any, is_prepared: bool = True, genuine: Any = genuine) -> None:
            genuine(connection, xid, is_prepared)
            lost.append(str(xid))
            raise ConnectionResetError("the answer is lost")

        engine.dialect.do_commit_twophase = loses  # type: ignore[assignment,method-assign]  # a fault
    with shop.session(twophase=True) as session:
        transfer(session)
        with pytest.raises(ConnectionResetError):
            session.commit()
        session.rollback()
    assert len(lost) == 1
    assert sum(shop.bank.sums()) in (2 * 64 * START - 7, 2 * 64 * START + 7)


@pytest.mark.parametrize(
    "lost", ["orders: commit prepared", "stock: xa commit", "orders: prepare transaction", "stock: prepare"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_ours_does_not(shop: Shop, lost: str, when: str) -> None:
    """The connection breaks just before the server gets the statement, or just after it carried it out."""
    broken: list[str] = []

    def breaks(at: str, point: str) -> None:
        if point == lost and at == when and not broken:
            broken.append(point)
            (held,) = shop.coordinator.engine.participants[lost.partition(":")[0]]._sessions.values()
            held.hang_up()
            if when == "after":
                raise ConnectionBroken("the answer is lost")

    shop.bind()
    shop.strike = breaks
    with shop.session(twophase=True) as session:
        transfer(session)
        if "commit" in lost:
            session.commit()
        else:
            with pytest.raises(Aborted):
                session.commit()
        assert broken
        assert not session.in_transaction()
        source = session.get(Out, 1)
        assert source is not None
        assert source.balance == (START - 7 if "commit" in lost else START)
    shop.coordinator.sweep()
    shop.clean()
    shop.bank.check(moved=7 if "commit" in lost else 0)


def test_one_decision_for_all_of_a_session(shop: Shop) -> None:
    shop.bind()
    with shop.session(twophase=True) as session:
        with session.begin():
            transfer(session)
        (record,) = shop.records
        assert sorted(branch.participant for branch in record.branches) == ["orders", "stock"]
        # and another for its next
        with session.begin():
            transfer(session)
        with session.begin():
            assert session.scalars(select(Out.balance).where(Out.id == 1)).one() == START - 14
        # prepared side by side: both were asked before one was decided
        decided = shop.points.index("log: decide")
        assert {"orders: prepare transaction", "stock: prepare"} <= set(shop.points[:decided])
    assert len(shop.records) == 2
    shop.clean()
    shop.bank.check(moved=14)


def test_what_needs_no_decision(shop: Shop) -> None:
    """One connection alone commits in one phase; what only read drops out."""
    shop.bind()
    with shop.session(twophase=True) as session:
        target = session.get(In, 1)
        assert target is not None
        target.balance += 7
        session.commit()
        assert "stock: one phase" in shop.points
        session.scalars(select(Out)).all()
        session.scalars(select(In)).all()
        session.commit()
        with shop.orders.connect() as connection, connection.begin_twophase():
            connection.execute(text(OUT))
    assert shop.records == []
    shop.clean()
    shop.bank.check(moved=7)


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_session_that_is_told_to_prepare_is_prepared(shop: Shop, end: str, alone: bool) -> None:
    shop.bind()
    with shop.session(twophase=True) as session:
        if alone:
            session.execute(text(OUT), bind_arguments={"mapper": Out})
        else:
            transfer(session)
        session.prepare()
        assert len(shop.bank.prepared()) >= (1 if alone else 2)
        getattr(session, end)()
    assert len(shop.records) == (1 if end == "commit" else 0)
    shop.clean()
    if alone and end == "commit":
        shop.bank.pg_run("update accounts set balance = balance + 7 where id = 1")
    shop.bank.check(moved=7 if end == "commit" and not alone else 0)


def test_who_votes_no_is_heard(shop: Shop) -> None:
    """PostgreSQL says yes to a prepare of a failed transaction, and rolls back; SQLAlchemy goes on."""
    shop.bind()
    with shop.session(twophase=True) as session:
        transfer(session)
        session.flush()
        with pytest.raises(exc.DBAPIError):
            session.execute(text(DIVISION), bind_arguments={"mapper": Out})
        with pytest.raises(Aborted, match="orders: a statement failed"):
            session.commit()
        assert not session.in_transaction()
    shop.clean()
    shop.bank.check(moved=0)


def test_a_fenced_branch_cannot_be_prepared(shop: Shop) -> None:
    shop.bind()
    others = {participant.name: participant for participant in shop.bank.participants()}
    for name in ("orders", "stock"):
        with shop.session(twophase=True) as session:
            transfer(session)
            session.flush()
            gtid = parse(next(iter(session.get_transaction().connections)).get_transaction().xid.partition("/")[0])  # type: ignore[union-attr]  # it is in one
            assert gtid is not None
            Shell().run(call("fence", others[name].fence, Branch(gtid, name)))
            with pytest.raises(Aborted, match=name):
                session.commit()
        shop.clean()
    for participant in others.values():
        participant.pool.close()
    shop.bank.check(moved=0)


@pytest.mark.parametrize("name", ["orders", "stock"])
def test_connections_of_core(shop: Shop, name: str) -> None:
    shop.bind()
    engine = shop.orders if name == "orders" else shop.stock
    with engine.connect() as connection:
        begun = connection.begin_twophase()
        connection.execute(text(OUT if name == "orders" else IN))
        begun.prepare()
        assert connection.recover_twophase() == [begun.xid]
        begun.commit()
        assert connection.recover_twophase() == []
        connection.rollback()
        begun = connection.begin_twophase()
        connection.execute(text(OUT if name == "orders" else IN))
        begun.rollback()
        assert connection.scalar(text("select balance from accounts where id = 1")) in (START - 7, START + 7)
        connection.rollback()
        # nothing was done in it
        connection.begin_twophase().rollback()
        connection.begin_twophase().commit()
        begun = connection.begin_twophase()
        begun.prepare()
        assert connection.recover_twophase() == [begun.xid]
        begun.rollback()
    (record,) = shop.records
    assert f"{record.gtid}/{name}" != begun.xid
    shop.clean()


def test_an_xid_of_the_users_own_is_left_alone(shop: Shop) -> None:
    shop.bind()
    with shop.orders.connect() as connection:
        begun = connection.begin_twophase("mine")
        connection.execute(text(OUT))
        begun.prepare()
        with shop.orders.connect() as other:
            assert other.recover_twophase() == ["mine"]
        begun.rollback()
    assert "orders: begin" not in shop.points
    shop.clean()


@pytest.mark.parametrize("name", ["orders", "stock"])
def test_a_cursor_of_the_drivers_before_the_branch_is_begun(shop: Shop, name: str) -> None:
    """What it does would be no part of the branch."""
    shop.bind()
    engine = shop.orders if name == "orders" else shop.stock
    with engine.connect() as connection:
        begun = connection.begin_twophase()
        cursor = connection.connection.cursor()
        cursor.execute(OUT)
        cursor.close()
        with pytest.raises(UsageError, match="in a transaction already"):
            begun.prepare()
    shop.clean()
    shop.bank.check(moved=0)


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_by_hand_all_branches_follow(shop: Shop, decision: str) -> None:
    """Whoever prepared is gone: what is said of one branch holds for all, and stands."""
    shop.bind()
    session = shop.session(twophase=True)
    transfer(session)
    session.prepare()
    connections = session.get_transaction().connections  # type: ignore[union-attr]  # it is in one
    xids = {connection.get_transaction().xid for connection in connections}  # type: ignore[union-attr]  # as above
    session.invalidate()
    with shop.orders.connect() as one, shop.stock.connect() as other:
        assert {*one.recover_twophase(), *other.recover_twophase()} == xids
        ends = one.commit_prepared if decision == "commit" else one.rollback_prepared
        for xid in one.recover_twophase():
            ends(xid, recover=True)
        assert other.recover_twophase() == []
        (mine,) = [xid for xid in xids if xid.endswith("/stock")]
        contrary = other.rollback_prepared if decision == "commit" else other.commit_prepared
        with pytest.raises(UsageError, match="which nobody can change"):
            contrary(mine, recover=True)
        for end in (other.commit_prepared, other.rollback_prepared):
            with pytest.raises(UsageError, match="nobody knows of transaction"):
                end(f"{shop.coordinator.engine.new_gtid(None)}/stock", recover=True)
            with pytest.raises(UsageError, match="is of the space 'another'"):
                end(f"{new('another', time.time(), 5.0, 1)}/stock", recover=True)
    (record,) = shop.records
    assert record.done
    assert len(record.branches) == 2
    shop.clean()
    shop.bank.check(moved=7 if decision == "commit" else 0)


def test_what_was_ended_otherwise_before_it_is_ended_by_hand_is_on_record(shop: Shop) -> None:
    shop.bind()
    session = shop.session(twophase=True)
    transfer(session)
    session.prepare()
    connections = session.get_transaction().connections  # type: ignore[union-attr]  # it is in one
    gtid = next(iter(connections)).get_transaction().xid.partition("/")[0]  # type: ignore[union-attr]  # as above
    session.invalidate()
    with shop.orders.connect() as one, shop.stock.connect() as other:

        def by_hand(when: str, point: str) -> None:
            if (when, point) == ("after", "log: decide"):
                shop.bank.pg_run(f"rollback prepared '{gtid}/orders'")

        shop.strike = by_hand
        with pytest.raises(HeuristicOutcome, match="decided to commit, but orders rolled back"):
            other.commit_prepared(f"{gtid}/stock", recover=True)
        assert one.recover_twophase() == other.recover_twophase() == []
    (record,) = shop.records
    assert record.heuristic == {"orders": "rolled back"}
    # mended by hand
    shop.bank.pg_run(OUT)
    shop.clean()
    shop.bank.check(moved=7)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", ["orders", "stock"])
def test_a_connection_that_nobody_closed(shop: Shop, name: str, prepared: bool) -> None:
    """The garbage collector gives it back: no later user is in its transaction, and recovery finds what was prepared."""
    shop.bind()
    engine = shop.orders if name == "orders" else shop.stock
    connection = engine.connect()
    begun = connection.begin_twophase()
    connection.execute(text("update accounts set balance = balance - 7 where id = 3"))
    if prepared:
        begun.prepare()
    xid = begun.xid
    del connection, begun
    gc.collect()
    with engine.connect() as next_one:
        found = next_one.recover_twophase()
        assert found == ([xid] if prepared else [])
        for one in found:
            next_one.rollback_prepared(one, recover=True)
    shop.clean()
    shop.bank.check(moved=0)


def test_many_threads(shop: Shop) -> None:
    """Each has a Session; half of them use each way; every connection comes back."""
    shop.bind()
    failed: list[BaseException] = []

    def works(number: int) -> None:
        try:
            for _ in range(5):
                with shop.session(twophase=True) as session:

                    def move() -> None:
                        source, target = session.get(Out, number), session.get(In, number)
                        assert source is not None
                        assert target is not None
                        source.balance -= 1
                        target.balance += 1

                    if number % 2:
                        move()
                        session.commit()
                    else:
                        with shop.coordinator.transaction() as tx:
                            tx.enlist(session)
                            move()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=works, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(shop.records) == 30
    shop.clean()
    shop.bank.check(moved=30)


# ---- conflicts


@pytest.mark.parametrize("way", ["enlisted", "two-phase"])
def test_a_conflict_is_retried(shop: Shop, way: str) -> None:
    """Two that read what the other writes: PostgreSQL tells one of them so when it is to prepare."""
    shop.bind()
    engine = shop.orders.execution_options(isolation_level="SERIALIZABLE")
    attempts: list[int] = []

    @retry(first_pause=0.001)
    def works() -> None:
        attempts.append(1)
        with Session(twophase=way == "two-phase", binds={Out: engine, In: shop.stock}) as session:

            def body() -> None:
                total = session.scalar(
                    text("select sum(balance) from accounts where id in (1, 2)"), bind_arguments={"mapper": Out}
                )
                assert total
                if len(attempts) == 1:
                    disturbs()
                session.execute(text(OUT), bind_arguments={"mapper": Out})
                session.execute(text(IN), bind_arguments={"mapper": In})
                session.flush()

            if way == "two-phase":
                body()
                session.commit()
            else:
                with shop.coordinator.transaction() as tx:
                    tx.enlist(session)
                    body()

    def disturbs() -> None:
        with shop.bank.pg() as other:
            other.execute("begin isolation level serializable")
            other.execute("select sum(balance) from accounts where id in (1, 2)")
            other.execute("update accounts set balance = balance + 0 where id = 2")
            other.execute("commit")

    works()
    assert len(attempts) == 2
    shop.clean()
    shop.bank.check(moved=7)


# ---- with an event loop


class AsyncShop:
    def __init__(self, bank: Bank, path: Path, drivers: tuple[str, str]) -> None:
        postgres, mysql = drivers
        self.bank = bank
        self.orders: AsyncEngine = create_async_engine(bank.postgres.url.replace("psycopg", postgres))
        self.stock: AsyncEngine = create_async_engine(bank.mariadb.url.replace("pymysql", mysql))
        self.strike: Callable[[str, str], None] = lambda when, point: None
        self.coordinator = transactions.Coordinator(
            path, bank.participants(), sweep_every=None, timeout=30, watch=lambda when, point: self.strike(when, point)
        )

    def session(self, **options: Any) -> AsyncSession:
        return AsyncSession(binds={Out: self.orders, In: self.stock}, expire_on_commit=False, **options)

    async def clean(self) -> None:
        for engine in (self.orders, self.stock):
            assert engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # QueuePool has it
            async with engine.connect() as connection:
                assert await connection.scalar(text("select count(*) from accounts")) == 64
        for participant in self.coordinator.engine.participants.values():
            assert participant._sessions == {}

    async def close(self) -> None:
        await self.coordinator.close()
        await self.orders.dispose()
        await self.stock.dispose()


async def async_transfer(session: AsyncSession) -> None:
    source, target = await session.get(Out, 1), await session.get(In, 1)
    assert source is not None
    assert target is not None
    source.balance -= 7
    target.balance += 7


@pytest.fixture(params=ASYNCHRONOUS, ids="-".join)
def drivers(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


def test_asynchronous_sessions(bank: Bank, decisions: Path, drivers: tuple[str, str]) -> None:
    async def main() -> None:
        shop = AsyncShop(bank, decisions, drivers)
        async with shop.session() as session:
            async with shop.coordinator.transaction() as tx:
                assert await tx.enlist(session) is session
                await async_transfer(session)
            assert tx.state == "committed"
            assert not session.in_transaction()

            async def works(tx: transactions.Transaction, then: Callable[[], Any]) -> None:
                async with tx:
                    await tx.enlist(session)
                    await async_transfer(session)
                    await session.flush()
                    await then()

            async def fails() -> None:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await works(tx := shop.coordinator.transaction(), fails)
            assert tx.state == "aborted"
            with pytest.raises(Aborted, match="ended by itself"):
                await works(tx := shop.coordinator.transaction(), session.rollback)
            assert tx.state == "aborted"
        await shop.clean()
        async with shop.coordinator.transaction() as tx:
            made = await tx.enlist(async_sessionmaker(binds={Out: shop.orders}))
            await made.execute(text(OUT), bind_arguments={"mapper": Out})
            connection = await tx.enlist(shop.stock)
            await connection.execute(text(IN))
        async with shop.orders.connect() as connection:
            serializable = await connection.execution_options(isolation_level="SERIALIZABLE")
            async with shop.coordinator.transaction() as tx:
                assert await tx.enlist(serializable) is serializable
                assert await connection.scalar(text("show transaction_isolation")) == "serializable"
            assert not connection.in_transaction()
        async with shop.coordinator.transaction() as tx:
            assert await (await tx.enlist(shop.orders)).scalar(text("show transaction_isolation")) == "read committed"
        await shop.clean()
        await shop.close()

    asyncio.run(main())
    bank.check(moved=14)


def test_asynchronous_two_phase(bank: Bank, decisions: Path, drivers: tuple[str, str]) -> None:
    async def main() -> None:
        shop = AsyncShop(bank, decisions, drivers)
        assert shop.coordinator.bind(shop.orders, "orders") is shop.orders
        shop.coordinator.bind(shop.stock)
        async with shop.session(twophase=True) as session:
            await async_transfer(session)
            await session.commit()
            await async_transfer(session)
            await session.rollback()
            await session.execute(text(IN), bind_arguments={"mapper": In})
            await session.execute(text(OUT), bind_arguments={"mapper": Out})
            with pytest.raises(exc.DBAPIError):
                await session.execute(text(DIVISION), bind_arguments={"mapper": Out})
            # asyncpg does not tell a failed transaction before it is asked
            with pytest.raises(Aborted, match=r"orders: (a statement failed|current transaction is aborted)"):
                await session.commit()
        await shop.coordinator._note()
        records = shop.coordinator.engine.log.records()
        assert [len(record.branches) for record in records] == [2]
        await shop.clean()
        await shop.close()

    asyncio.run(main())
    bank.check(moved=7)


@pytest.mark.parametrize("point", ["orders: prepare transaction", "log: decide", "stock: xa commit"])
@pytest.mark.parametrize("twophase", [False, True])
def test_a_commit_that_is_cancelled_is_left_to_its_end(
    bank: Bank, decisions: Path, drivers: tuple[str, str], twophase: bool, point: str
) -> None:
    """Nothing is split, and no connection that is still at work goes back to its pool."""

    async def main() -> str:
        shop = AsyncShop(bank, decisions, drivers)
        shop.coordinator.bind(shop.orders)
        shop.coordinator.bind(shop.stock)

        async def works() -> None:
            async with shop.session(twophase=twophase) as session:
                if twophase:
                    await async_transfer(session)
                    await session.commit()
                else:
                    async with shop.coordinator.transaction() as tx:
                        await tx.enlist(session)
                        await async_transfer(session)

        task = asyncio.create_task(works())

        def cancels(when: str, at: str) -> None:
            if (when, at) == ("before", point):
                # once: what follows is to go on
                shop.strike = lambda when, at: None
                task.cancel()

        shop.strike = cancels
        with suppress(asyncio.CancelledError):
            await task
        shop.strike = lambda when, at: None
        while shop.coordinator._tasks:
            await asyncio.wait(shop.coordinator._tasks)
        await asyncio.to_thread(until, lambda: not bank.at_work(), "nobody can prepare any more")
        await shop.coordinator.sweep()
        await shop.clean()
        # an abort is on record where a branch was left to recovery; without a token where recovery did not find it
        ends = {
            (
                record.decision,
                await shop.coordinator.shell.run(
                    call("outcome", shop.coordinator.engine.participants[branch.participant].outcome, branch)
                ),
            )
            for record in shop.coordinator.engine.log.records()
            for branch in record.branches
            if record.decision is Decision.COMMIT or branch.token or branch.participant == "stock"
        }
        await shop.close()
        assert ends <= {(Decision.COMMIT, Outcome.COMMITTED)} or ends <= {(Decision.ABORT, Outcome.ABORTED)}
        return "committed" if (Decision.COMMIT, Outcome.COMMITTED) in ends else "aborted"

    found = asyncio.run(main())
    bank.check(moved=7 if found == "committed" else 0)
