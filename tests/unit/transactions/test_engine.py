"""Both coordinators over participants in memory: what a transaction's course leaves behind, several at once, and their end."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.unit.transactions.memory import Memory, MemoryLog, Store

from quorate.errors import QuorateError, UsageError
from quorate.transactions import Branch, Vote
from quorate.transactions.aio import Coordinator as AsyncCoordinator
from quorate.transactions.errors import Aborted, ConnectionBroken
from quorate.transactions.flow import Flow, call
from quorate.transactions.gtid import parse
from quorate.transactions.sync import Coordinator

PATIENCE = 30.0


class Pair:
    """A coordinator over two participants in memory, of either kind, driven from a thread."""

    def __init__(self, **more: Any) -> None:
        self.stores = {name: Store(name) for name in "ab"}
        self.a, self.b = (Memory(store) for store in self.stores.values())
        self.log = MemoryLog()
        self.more = {"sweep_every": None, **more}

    def transact(self, work: Callable[["Pair"], None] = lambda pair: None) -> str:
        """One transaction over both. Its state."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    metrics: Any


class Sync(Pair):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.coordinator = Coordinator(self.log, [self.a, self.b], **self.more)
        self.metrics = self.coordinator.metrics

    def transact(self, work: Callable[[Pair], None] = lambda pair: None) -> str:
        tx = self.coordinator.transaction()
        try:
            with tx:
                tx.enlist("a")
                tx.enlist(self.b)
                work(self)
        except (QuorateError, ZeroDivisionError):
            """Its state tells."""
        return tx.state

    def close(self) -> None:
        self.coordinator.close()


class Async(Pair):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.loop = asyncio.new_event_loop()
        self.coordinator = AsyncCoordinator(self.log, [self.a, self.b], **self.more)
        self.metrics = self.coordinator.metrics

    def transact(self, work: Callable[[Pair], None] = lambda pair: None) -> str:
        return self.loop.run_until_complete(self._transact(work))

    async def _transact(self, work: Callable[[Pair], None]) -> str:
        tx = self.coordinator.transaction()
        try:
            async with tx:
                await tx.enlist("a")
                await tx.enlist(self.b)
                work(self)
        except (QuorateError, ZeroDivisionError):
            """Its state tells."""
        return tx.state

    def close(self) -> None:
        self.loop.run_until_complete(self.coordinator.close())
        self.loop.close()


@pytest.fixture(params=[Sync, Async])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = request.param()
    yield made
    made.close()


def counts(pair: Pair) -> tuple[int, int, int, int, int]:
    """Transactions begun, committed, aborted, left in doubt or to be applied, and branches ended against their decision."""
    found = pair.metrics
    ended = found.ended_total
    doubt = ended["in doubt"] + ended["not yet applied"]
    return found.begun_total, ended["committed"], ended["aborted"], doubt, sum(found.heuristic_total.values())


def test_committed(pair: Pair) -> None:
    assert pair.transact() == "committed"
    assert counts(pair) == (1, 1, 0, 0, 0)
    assert [list(store.branches.values()) for store in pair.stores.values()] == [["committed"], ["committed"]]


def divides(pair: Pair) -> None:
    Fraction(1, 0)


def test_an_exception_of_the_programs_rolls_back(pair: Pair) -> None:
    assert pair.transact(divides) == "aborted"
    assert counts(pair) == (1, 0, 1, 0, 0)
    assert [list(store.branches.values()) for store in pair.stores.values()] == [["rolled back"], ["rolled back"]]
    assert pair.log.calls == []


def test_a_no_aborts(pair: Pair) -> None:
    pair.b.vote = Vote.NO
    assert pair.transact() == "aborted"
    assert counts(pair) == (1, 0, 1, 0, 0)


def test_not_applied_yet_is_committed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.transactions.commit.APPLY_SECONDS", -60.0)
    pair.b.fails["commit"] = ConnectionBroken("lost")
    assert pair.transact() == "committed"
    assert counts(pair) == (1, 0, 0, 1, 0)


def test_a_heuristic_abort_is_aborted_and_a_heuristic_commit_committed(pair: Pair) -> None:
    def by_hand(what: str, at: str) -> Callable[[str], None]:
        def strike(method: str) -> None:
            if method == at:
                pair.a.hook = lambda method: None
                pair.a.store.by_hand(next(parse(text) for text in reversed(pair.a.store.branches)), what)  # type: ignore[arg-type]  # names of ours

        return strike

    pair.a.hook = by_hand("rolled back", "commit")
    assert pair.transact() == "committed"
    pair.b.vote = Vote.NO
    pair.a.hook = by_hand("committed", "rollback")
    assert pair.transact() == "aborted"
    assert counts(pair) == (2, 0, 0, 0, 2)
    assert [record.heuristic for record in pair.log.kept.values()] == [{"a": "rolled back"}, {"a": "committed"}]


def test_what_is_acknowledged_at_the_decision_is_applied_and_counted_afterwards() -> None:
    for kind in (Sync, Async):
        pair = kind(acknowledge="decided")
        pair.a.hook = lambda method, pair=pair: (  # type: ignore[misc]  # a default binds it
            pair.a.store.branches.update(dict.fromkeys(pair.a.store.branches, "rolled back"))
            if method == "commit"
            else None
        )
        assert pair.transact() == "committed"
        pair.close()
        assert counts(pair) == (1, 1, 0, 0, 1), kind
        assert [record.heuristic for record in pair.log.kept.values()] == [{"a": "rolled back"}], kind


# ---- several at once


def test_one_coordinator_in_many_threads() -> None:
    pair = Sync()
    with ThreadPoolExecutor(32) as threads:
        states = [future.result() for future in [threads.submit(pair.transact) for _ in range(320)]]
    pair.close()
    assert set(states) == {"committed"}
    assert counts(pair) == (320, 320, 0, 0, 0)
    assert len(pair.log.kept) == 320
    assert all(record.done for record in pair.log.kept.values())


class Blocks(Memory):
    """Its commit keeps its thread waiting, until as many as there are threads have come to it."""

    blocks = True
    gate = threading.Barrier(16)

    def commit(self, branch: Branch) -> None:
        self.gate.wait(PATIENCE)
        super().commit(branch)


def test_work_for_after_the_decision_does_not_wait_for_its_own_threads() -> None:
    """As many at once as there are threads, each of which needs more of them."""
    stores = [Store("a"), Store("b")]
    log = MemoryLog()
    coordinator = Coordinator(log, [Blocks(store) for store in stores], sweep_every=None, acknowledge="decided")
    for _ in range(16):
        with coordinator.transaction() as tx:
            tx.enlist("a")
            tx.enlist("b")
    closing = threading.Thread(target=coordinator.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert all(set(store.branches.values()) == {"committed"} for store in stores)


def test_of_a_commit_and_a_rollback_at_once_one_wins() -> None:
    """They must not both be at work on the branches: one would roll back what the other has had voted on."""

    async def main() -> None:
        pair = Async()
        for first, second in (("commit", "rollback"), ("rollback", "commit"), ("commit", "commit")):
            tx = pair.coordinator.transaction()
            await tx.enlist("a")
            await tx.enlist("b")
            results = await asyncio.gather(getattr(tx, first)(), getattr(tx, second)(), return_exceptions=True)
            assert [type(result) for result in results].count(UsageError) == 1
            ends = {store.branches[tx.gtid] for store in pair.stores.values()}
            assert ends == {"committed" if tx.state == "committed" else "rolled back"}
        await pair.coordinator.close()

    asyncio.run(main())


# ---- being interrupted


def test_who_is_cancelled_while_it_commits_leaves_it_to_its_end() -> None:
    async def main() -> None:
        pair = Async()
        gate = asyncio.Event()
        genuine = pair.a.prepare

        preparing = asyncio.Event()

        async def prepare(branch: Branch) -> Vote:
            preparing.set()
            await gate.wait()
            return genuine(branch)

        pair.a.prepare = prepare  # type: ignore[method-assign,assignment]  # of this one
        tx = pair.coordinator.transaction()
        await tx.enlist("a")
        await tx.enlist("b")
        task = asyncio.create_task(tx.commit())
        await preparing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await pair.coordinator.close()
        assert tx.state == "committed"
        assert {store.branches[tx.gtid] for store in pair.stores.values()} == {"committed"}

    asyncio.run(main())


@pytest.mark.parametrize("in_time", [True, False])
def test_who_is_cancelled_while_it_prepares_leaves_nothing_prepared(in_time: bool) -> None:
    """``in_time``: before the last vote; otherwise all were counted, and its program was not told yet."""

    async def main() -> None:
        pair = Async()
        gate, preparing = asyncio.Event(), asyncio.Event()
        genuine = pair.b.prepare

        async def prepare(branch: Branch) -> Vote:
            preparing.set()
            await gate.wait()
            return genuine(branch)

        pair.b.prepare = prepare  # type: ignore[method-assign,assignment]  # of this one
        tx = pair.coordinator.transaction()

        async def works() -> None:
            async with tx:
                await tx.enlist("a")
                await tx.enlist("b")
                await tx.prepare()

        task = asyncio.create_task(works())
        await preparing.wait()
        if not in_time:
            gate.set()
            for _ in range(100):
                if tx.state != "prepared":
                    await asyncio.sleep(0)
            assert (tx.state, task.done()) == ("prepared", False)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await pair.coordinator.close()
        assert tx.state == "aborted"
        assert {store.branches[tx.gtid] for store in pair.stores.values()} == {"rolled back"}
        assert pair.log.kept == {}

    asyncio.run(main())


class Interrupted(BaseException):
    """As KeyboardInterrupt is."""


@pytest.mark.parametrize("at", ["prepare", "decide", "commit"])
def test_ctrl_c_in_a_commit_is_in_doubt_and_recovery_ends_it(at: str) -> None:
    pair = Sync()

    def strike(method: str) -> None:
        if method == at:
            pair.a.hook = pair.log.hook = lambda method: None
            raise Interrupted

    pair.a.hook = pair.log.hook = strike
    tx = pair.coordinator.transaction(timeout=0.001)
    tx._work.gtid.deadline += 5.0
    tx.enlist("a")
    tx.enlist("b")
    with pytest.raises(Interrupted):
        tx.commit()
    assert tx.state == "in doubt"
    pair.close()


# ---- forks, and the end


@pytest.mark.parametrize("kind", [Coordinator, AsyncCoordinator])
def test_a_coordinator_is_of_no_use_in_a_child_of_a_fork(kind: Any, tmp_path: Path) -> None:
    coordinator = kind(MemoryLog(), [], sweep_every=None)
    child = os.fork()
    if not child:
        code = 1
        try:
            coordinator.transaction()
        except UsageError as error:
            code = 0 if "make one in each process" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0
    coordinator.transaction()


def test_a_sweeper_survives_what_no_one_expected() -> None:
    async def main() -> None:
        pair = Async(sweep_every=0.01)
        swept = asyncio.Event()
        calls = 0

        def records() -> list[Any]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("odd")
            swept.set()
            return []

        pair.log.records = records  # type: ignore[method-assign]  # of this one
        async with pair.coordinator:
            await asyncio.wait_for(swept.wait(), PATIENCE)

    asyncio.run(main())


def test_closing_waits_for_what_is_under_way() -> None:
    pair = Sync(acknowledge="decided")
    assert pair.transact() == "committed"
    pair.close()
    assert [list(store.branches.values()) for store in pair.stores.values()] == [["committed"], ["committed"]]


# ---- connections of the caller's


class Session:
    def __init__(self, connection: object) -> None:
        self.connection = connection


class Bound(Memory):
    """Its branches are bound to connections, as MariaDB's are, or not, as PostgreSQL's."""

    def __init__(self, store: Store, bound: bool) -> None:
        super().__init__(store)
        self.bound_to_session = bound
        self.held: dict[str, Session] = {}

    def begin(self, branch: Branch, session: Session, seconds: float) -> Flow[None]:  # type: ignore[override]  # as participants with connections
        yield from call("begin", lambda: None)
        self.store.branches[branch.gtid.text] = "active"
        self.held[branch.gtid.text] = session

    def let_go(self, branch: Branch) -> None:
        self.held.pop(branch.gtid.text, None)


@pytest.mark.parametrize("bound", [False, True])
def test_a_connection_of_the_callers_is_his_when_the_commit_returns(bound: bool) -> None:
    """Also where a commit is acknowledged at the decision: nobody else uses it any more."""
    gate = threading.Event()
    store = Store("a")
    participant = Bound(store, bound)
    at_commit: list[bool] = []

    def commits(method: str) -> None:
        if method == "commit":
            if not bound:
                assert gate.wait(PATIENCE)
            at_commit.append(bool(participant.held))

    participant.hook = commits
    other = Memory(Store("b"))
    log = MemoryLog()
    coordinator = Coordinator(log, [participant, other], sweep_every=None, acknowledge="decided")
    tx = coordinator.transaction()
    coordinator.shell.run(tx._work.begin(participant, Session("mine")))  # type: ignore[arg-type]  # as small as it can be
    tx.enlist("b")
    tx.commit()
    assert participant.held == {}
    assert store.branches[tx.gtid] == ("committed" if bound else "prepared")
    gate.set()
    coordinator.close()
    assert store.branches[tx.gtid] == "committed"
    assert at_commit == [bound]


def test_of_a_transaction_that_never_ended_nothing_is_kept() -> None:
    """It is rolled back when its block is left, and its sessions are given back."""
    store = Store("a")
    participant = Bound(store, True)
    coordinator = Coordinator(MemoryLog(), [participant], sweep_every=None)
    for _ in range(10):
        tx = coordinator.transaction()
        coordinator.shell.run(tx._work.begin(participant, Session("mine")))  # type: ignore[arg-type]  # as small as it can be
        tx.rollback()
    assert participant.held == {}
    coordinator.close()


class Numbered(Memory):
    """It learns a number, and nobody hears how its prepare and its rollback ended."""

    def prepare(self, branch: Branch) -> Vote:
        branch.token = "7"
        raise ConnectionBroken("lost")

    def rollback(self, branch: Branch) -> None:
        raise ConnectionBroken("lost")


def test_a_number_that_may_be_given_again_is_not_kept() -> None:
    """Its prepare may not have reached the disk: after a crash the number is another transaction's, which may commit."""
    participant, log = Numbered(Store("a")), MemoryLog()
    with Coordinator(log, [participant, Memory(Store("b"))], sweep_every=None) as coordinator:
        tx = coordinator.transaction()
        tx.enlist("a")
        tx.enlist("b")
        with pytest.raises(Aborted):
            tx.commit()
    (record,) = log.kept.values()
    assert [(branch.participant, branch.token) for branch in record.branches] == [("a", "")]
