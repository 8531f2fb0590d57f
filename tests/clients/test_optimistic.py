"""The retry helper where it is meant to be used: real databases, a real ensemble and our own store, each with several writers on one row.

The isolation levels and options are those under which each of them reports a lost race instead of losing an update.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psycopg
import pymysql
import pytest
from kazoo.client import KazooClient
from sqlalchemy import String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.support.databases import MariaDB, Postgres, why_no_mariadb, why_no_postgres
from tests.support.ensembles import OURS, Ensemble
from tests.support.kvcluster import KvCluster

from quorate.optimistic import GaveUp, Retry, retry

WORKERS = 6
EACH = 25


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if reason := why_no_postgres():
        pytest.skip(reason)
    server = Postgres(tmp_path_factory.mktemp("postgres") / "server")
    with server:
        with psycopg.connect(server.conninfo, autocommit=True) as connection:
            connection.execute("create table counters (name text primary key, value int not null)")
        yield server


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    if reason := why_no_mariadb():
        pytest.skip(reason)
    server = MariaDB(tmp_path_factory.mktemp("mariadb") / "server")
    with server:
        connection = connect(server)
        connection.cursor().execute("create table counters (name varchar(20) primary key, value int not null)")
        connection.close()
        yield server


def connect(server: MariaDB) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    return pymysql.connect(host="127.0.0.1", port=server.port, user="tester", database="test", autocommit=False)


def together(work: Callable[[int], None]) -> None:
    """``work(number)`` in WORKERS threads that begin at the same time; raises what any of them raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(WORKERS)

    def run(number: int) -> None:
        try:
            barrier.wait()
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def lost_and_won(policy: Retry) -> None:
    metrics = policy.metrics
    assert metrics.calls == sum(metrics.successes) == WORKERS * EACH
    assert metrics.conflicts > 0, "nobody lost a race, so nothing is shown"
    assert metrics.given_up == 0


def test_serializable_transactions_of_postgresql(postgres: Postgres) -> None:
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("insert into counters values ('psycopg', 0)")
    policy = Retry(deadline=60)

    def work(number: int) -> None:
        with psycopg.connect(postgres.conninfo) as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE

            @policy
            def increment() -> None:
                with connection.transaction():
                    row = connection.execute("select value from counters where name = 'psycopg'").fetchone()
                    assert row is not None
                    connection.execute("update counters set value = %s where name = 'psycopg'", (row[0] + 1,))

            for _ in range(EACH):
                increment()

    together(work)
    with psycopg.connect(postgres.conninfo) as connection:
        assert connection.execute("select value from counters where name = 'psycopg'").fetchone() == (WORKERS * EACH,)
    lost_and_won(policy)


def test_asyncpg(postgres: Postgres) -> None:
    policy = Retry(deadline=60)

    async def run() -> int:
        pool = await asyncpg.create_pool(
            host="127.0.0.1", port=postgres.port, user="postgres", database="postgres", min_size=1, max_size=WORKERS
        )
        async with pool:
            await pool.execute("insert into counters values ('asyncpg', 0)")

            @policy
            async def increment() -> None:
                async with pool.acquire() as connection, connection.transaction(isolation="serializable"):
                    value = await connection.fetchval("select value from counters where name = 'asyncpg'")
                    await connection.execute("update counters set value = $1 where name = 'asyncpg'", value + 1)

            async def work() -> None:
                for _ in range(EACH):
                    await increment()

            await asyncio.gather(*[work() for _ in range(WORKERS)])
            return int(await pool.fetchval("select value from counters where name = 'asyncpg'"))

    assert asyncio.run(run()) == WORKERS * EACH
    lost_and_won(policy)


def test_deadlocks_of_mariadb(mariadb: MariaDB) -> None:
    """Two rows that are locked in either order: InnoDB ends one of the transactions."""
    connection = connect(mariadb)
    connection.cursor().execute("insert into counters values ('one', 0), ('other', 0)")
    connection.commit()
    policy = Retry(deadline=60)

    def work(number: int) -> None:
        connection = connect(mariadb)
        names = ["one", "other"] if number % 2 else ["other", "one"]

        @policy
        def increment() -> None:
            try:
                with connection.cursor() as cursor:
                    for name in names:
                        cursor.execute("select value from counters where name = %s for update", (name,))
                        row = cursor.fetchone()
                        assert row is not None
                        cursor.execute("update counters set value = %s where name = %s", (row[0] + 1, name))
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

        for _ in range(EACH):
            increment()
        connection.close()

    together(work)
    with connection.cursor() as cursor:
        cursor.execute("select distinct value from counters where name in ('one', 'other')")
        assert cursor.fetchall() == ((WORKERS * EACH,),)
    connection.close()
    lost_and_won(policy)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    value: Mapped[int]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy is told so)


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_version_counters_of_sqlalchemy(kind: str, request: pytest.FixtureRequest) -> None:
    """StaleDataError, and what the database itself reports, wrapped in SQLAlchemy's own exceptions."""
    server: Postgres | MariaDB = request.getfixturevalue(kind)
    engine = create_engine(server.url, pool_size=WORKERS)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Account(name="shared", value=0))
    policy = Retry(deadline=60)

    @policy
    def increment() -> None:
        with Session(engine) as session, session.begin():
            account = session.get_one(Account, "shared")
            account.value += 1

    def work(number: int) -> None:
        for _ in range(EACH):
            increment()

    together(work)
    with Session(engine) as session:
        account = session.get_one(Account, "shared")
        assert (account.value, account.version) == (WORKERS * EACH, WORKERS * EACH + 1)
    engine.dispose()
    lost_and_won(policy)


def test_what_is_no_conflict_is_not_tried_again(postgres: Postgres) -> None:
    calls = []

    @retry
    def insert() -> None:
        calls.append(1)
        with psycopg.connect(postgres.conninfo) as connection:
            connection.execute("insert into counters values ('unique', 0), ('unique', 0)")

    with pytest.raises(psycopg.errors.UniqueViolation):
        insert()
    assert len(calls) == 1


def test_a_transaction_that_always_loses_gives_up(postgres: Postgres) -> None:
    """Each attempt is overtaken by another writer; the last conflict is told as the cause."""
    with psycopg.connect(postgres.conninfo, autocommit=True) as other:
        other.execute("insert into counters values ('lost', 0)")

        @retry(attempts=3, first_pause=0.0, longest_pause=0.0)
        def increment() -> None:
            with psycopg.connect(postgres.conninfo) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.execute("select value from counters where name = 'lost'")
                other.execute("update counters set value = value + 1 where name = 'lost'")
                connection.execute("update counters set value = 100 where name = 'lost'")

        with pytest.raises(GaveUp) as caught:
            increment()
        assert caught.value.attempts == 3
        assert isinstance(caught.value.__cause__, psycopg.errors.SerializationFailure)
        assert other.execute("select value from counters where name = 'lost'").fetchone() == (3,)


def test_versions_of_zookeeper(tmp_path: Path) -> None:
    policy = Retry(deadline=60)
    with Ensemble([OURS], tmp_path) as ensemble:
        hosts = f"{ensemble.members[0].host}:{ensemble.members[0].client_port}"
        first = KazooClient(hosts=hosts)
        first.start()
        first.create("/counter", b"0")

        def work(number: int) -> None:
            client = KazooClient(hosts=hosts)
            client.start()

            @policy
            def increment() -> None:
                data, stat = client.get("/counter")
                client.set("/counter", b"%d" % (int(data) + 1), version=stat.version)

            for _ in range(EACH):
                increment()
            client.stop()
            client.close()

        together(work)
        assert first.get("/counter")[0] == b"%d" % (WORKERS * EACH)
        first.stop()
        first.close()
    lost_and_won(policy)


def test_our_own_store(tmp_path: Path) -> None:
    policy = Retry(deadline=60)
    with KvCluster(tmp_path, 1) as cluster:

        def work(number: int) -> None:
            with cluster.client() as client:

                @policy
                def increment() -> None:
                    item = client.get("counter")
                    client.put(
                        "counter", b"%d" % (1 + int(item.value if item else 0)), version=item.version if item else 0
                    )

                for _ in range(EACH):
                    increment()

        together(work)
        with cluster.client() as client:
            item = client.get("counter")
            assert item is not None
            assert (int(item.value), item.version) == (WORKERS * EACH, WORKERS * EACH)
    lost_and_won(policy)
