"""The bank transfer, struck at every point of the commit: before and after each message to a participant and each write of the decision log.

The points are those that the coordinator itself tells of in an undisturbed run; none is chosen by hand. At each of them a transfer of its own account
is under way, so that one failure strikes all of them at once. Afterwards every account has its money on one side or the other, as the user was told,
nothing is prepared, and nothing is locked.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.txn_worker import AMOUNT, coordinator_of, move, move_by_zope, warm_up
from tests.support.bank import ACCOUNTS, START, Bank, until
from tests.support.databases import MariaDB, Postgres, why_no_mariadb, why_no_postgres
from tests.support.ensembles import OURS, THEIRS, Ensemble
from tests.support.kvcluster import KvCluster

from quorate.errors import QuorateError
from quorate.transactions.recovery import Report

ROOT = Path(__file__).parents[2]
TIMEOUT = 2.0
AT_ONCE = 6
"""Transactions that are begun; they have little time."""
Point = tuple[str, str]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    if reason := why_no_postgres() or why_no_mariadb():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("databases")
    postgres = Postgres(folder / "postgres", {"max_connections": "300", "max_prepared_transactions": "300"})
    mariadb = MariaDB(folder / "mariadb", {"max-connections": "300"})
    with postgres, mariadb:
        yield Bank(postgres, mariadb)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("store")) as cluster:
        cluster.steady()
        yield cluster


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([OURS] * 3, tmp_path_factory.mktemp(OURS)) as ensemble:
        yield ensemble


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble([THEIRS] * 3, tmp_path_factory.mktemp(THEIRS)) as ensemble:
        yield ensemble


class Stage:
    """Where the decisions lie, and how a coordinator of them is made."""

    def __init__(self, bank: Bank, decisions: str) -> None:
        self.bank = bank
        self.task = {
            "postgres": bank.postgres.conninfo,
            "mariadb": bank.mariadb.parameters,
            "decisions": decisions,
            "timeout": TIMEOUT,
        }
        bank.open()

    def points(self) -> list[Point]:
        """Of one transfer, in order; those of its beginning are left out, for there is nothing to be finished yet."""
        seen: list[Point] = []
        coordinator = coordinator_of(self.task, lambda when, point: seen.append((when, point)))
        # the first one looks at the servers' settings besides
        for _ in range(2):
            seen.clear()
            if "zope" in self.task:
                move_by_zope(coordinator, ACCOUNTS, AMOUNT)
            else:
                assert move(coordinator, ACCOUNTS, AMOUNT) == "committed"
        coordinator.close()
        found = [point for point in dict.fromkeys(seen) if not point[1].endswith((": begin", "amend"))]
        assert ("after", "log: decide") in found
        assert ("before", "stock: xa commit") in found
        assert len(found) < ACCOUNTS
        return found

    def recover(self) -> Report:
        """As somebody else would, until there is nothing left in doubt."""
        coordinator = coordinator_of(self.task)
        reports: list[Report] = []

        def swept() -> bool:
            try:
                reports.append(coordinator.sweep())
            except QuorateError:
                return False
            found = reports[-1]
            return not found.in_doubt and not found.unreachable and not found.unknown

        try:
            until(swept, "recovery", 60.0)
        finally:
            coordinator.close()
        whole = Report()
        for report in reports:
            whole.committed += report.committed
            whole.aborted += report.aborted
            whole.heuristic += report.heuristic
        assert whole.heuristic == []
        return whole

    def judge(self, points: list[Point], told: dict[int, str]) -> None:
        self.bank.check()
        balances = self.bank.balances()
        for number, point in enumerate(points):
            pg, my = balances[number]
            assert (pg, my) in ((START, START), (START - AMOUNT, START + AMOUNT)), f"{point}: {pg} and {my}"
            moved = pg != START
            outcome = told.get(number, "doubt")
            assert outcome == "doubt" or (outcome == "committed") == moved, f"{point}: told {outcome}, {pg} and {my}"


@pytest.fixture(params=["local", "replicated", "ours", "theirs"])
def stage(request: pytest.FixtureRequest, bank: Bank, tmp_path: Path) -> Stage:
    """``ours`` and ``theirs``: in a ZooKeeper ensemble."""
    if request.param == "local":
        return Stage(bank, str(tmp_path / "decisions"))
    if request.param == "replicated":
        cluster: KvCluster = request.getfixturevalue("store")
        return Stage(bank, ",".join(cluster.addresses))
    ensemble: Ensemble = request.getfixturevalue(request.param)
    made = Stage(bank, f"zookeeper://{ensemble.addresses}")
    # each coordinator opens a session, all at once
    made.task["timeout"] = 5.0
    return made


def test_the_coordinator_dies_at_every_point(stage: Stage) -> None:
    dies_everywhere(stage)


def test_the_process_dies_at_every_point_of_a_commit_of_zopes(bank: Bank, tmp_path: Path) -> None:
    """Prepared in its ``commit``, decided in the last vote, carried out in ``tpc_finish``."""
    stage = Stage(bank, str(tmp_path / "decisions"))
    stage.task["zope"] = True
    dies_everywhere(stage)


def dies_everywhere(stage: Stage) -> None:
    points = stage.points()
    running = []
    for number, point in enumerate(points):
        task = stage.task | {"account": number + 1, "strike": list(point)}
        command = [sys.executable, "-m", "tests.chaos.txn_worker", json.dumps(task)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        if number >= AT_ONCE:
            running[number - AT_ONCE].wait(60)
    for number, process in enumerate(running):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, f"{points[number]}: {output}"
    stage.recover()
    stage.judge(points, {})
    # whatever was decided is decided before anybody is told
    decided = [point for point in points if point == ("after", "log: decide")]
    balances = stage.bank.balances()
    assert balances[points.index(decided[0])][0] == START - AMOUNT
    assert balances[points.index(("before", "log: decide"))][0] == START


class Parked:
    """Transfers in this process, each held at its point until it is let go."""

    def __init__(self, stage: Stage, points: list[Point]) -> None:
        self.told: dict[int, str] = {}
        self.arrived = [threading.Event() for _ in points]
        self.go = threading.Event()
        self._threads = [
            threading.Thread(target=self._one, args=(stage, number, point)) for number, point in enumerate(points)
        ]
        for number, thread in enumerate(self._threads):
            thread.start()
            if number >= AT_ONCE:
                self.arrived[number - AT_ONCE].wait(60)
        for number, event in enumerate(self.arrived):
            assert event.wait(60), f"{points[number]} was not reached"

    def _one(self, stage: Stage, number: int, point: Point) -> None:
        armed = False

        def watch(when: str, where: str) -> None:
            if armed and (when, where) == point and not self.arrived[number].is_set():
                self.arrived[number].set()
                self.go.wait()

        coordinator = coordinator_of(stage.task, watch)
        try:
            warm_up(coordinator)
            armed = True
            self.told[number] = move(coordinator, number + 1, AMOUNT)
        finally:
            coordinator.close()

    def end(self) -> None:
        self.go.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


# what a death of the coordinator shows of each log, the death of a database need not show again
FEWER = pytest.mark.parametrize("stage", ["local", "replicated"], indirect=True)


@FEWER
@pytest.mark.parametrize("victim", ["postgres", "mariadb"])
def test_a_database_dies_at_every_point(stage: Stage, victim: str) -> None:
    stage.task["timeout"] = 20.0
    points = stage.points()
    parked = Parked(stage, points)
    server: Postgres | MariaDB = getattr(stage.bank, victim)
    server.kill()
    parked.go.set()
    server.start()
    parked.end()
    stage.recover()
    stage.judge(points, parked.told)
    assert {"committed", "aborted"} <= set(parked.told.values())


def test_the_stores_leader_dies_at_every_point(bank: Bank, store: KvCluster) -> None:
    stage = Stage(bank, ",".join(store.addresses))
    stage.task["timeout"] = 20.0
    points = stage.points()
    parked = Parked(stage, points)
    leader = store.leader()
    store.kill(leader)
    parked.end()
    store.start(leader)
    store.steady()
    stage.recover()
    stage.judge(points, parked.told)
    assert set(parked.told.values()) == {"committed"}


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_the_ensembles_leader_dies_at_every_point(request: pytest.FixtureRequest, bank: Bank, kind: str) -> None:
    ensemble: Ensemble = request.getfixturevalue(kind)
    stage = Stage(bank, f"zookeeper://{ensemble.addresses}")
    stage.task["timeout"] = 20.0
    points = stage.points()
    parked = Parked(stage, points)
    leader = ensemble.leader()
    leader.kill()
    parked.end()
    ensemble.start()
    stage.recover()
    stage.judge(points, parked.told)
    assert set(parked.told.values()) == {"committed"}


@FEWER
def test_a_coordinator_sleeps_at_every_point_until_others_have_recovered(stage: Stage) -> None:
    """It wakes up with a decision to write that has been written otherwise, or with a branch to commit that is committed."""
    points = stage.points()
    parked = Parked(stage, points)
    report = stage.recover()
    assert report.aborted
    parked.end()
    stage.recover()
    stage.judge(points, parked.told)
    assert {"committed", "aborted"} <= set(parked.told.values())
