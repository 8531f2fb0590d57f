"""A commit that is acknowledged at the decision leaves the rest for later, but no more than so much: then whoever commits waits, and connections do not pile up."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from quorate.transactions import Branch, Outcome, Prepared, Vote
from quorate.transactions.aio import Coordinator as AsyncCoordinator
from quorate.transactions.engine import APPLYING_MAX
from quorate.transactions.sync import Coordinator


class Base:
    name = "slow"

    def __init__(self) -> None:
        self.committed = 0

    def begin(self, branch: Branch) -> None:
        return

    def prepare(self, branch: Branch) -> Vote:
        return Vote.YES

    def rollback(self, branch: Branch) -> None:
        return

    def recover(self) -> Sequence[Prepared]:
        return []

    def fence(self, branch: Branch) -> None:
        return

    def outcome(self, branch: Branch) -> Outcome:
        return Outcome.UNKNOWN


class Slow(Base):
    """Commits when it is let."""

    blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()
        self.lock = threading.Lock()

    def commit(self, branch: Branch) -> None:
        self.let.wait()
        with self.lock:
            self.committed += 1


class SlowAsync(Base):
    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def commit(self, branch: Branch) -> None:
        await self.let.wait()
        self.committed += 1


def test_threads(tmp_path: Path) -> None:
    slow = Slow()
    with Coordinator(tmp_path / "log", [slow], acknowledge="decided", sweep_every=None) as coordinator:

        def transact() -> None:
            with coordinator.transaction() as tx:
                tx.enlist("slow")

        for _ in range(APPLYING_MAX):
            transact()
        assert slow.committed == 0
        one_more = threading.Thread(target=transact)
        one_more.start()
        # it is decided, and waits with the others
        one_more.join(0.3)
        assert one_more.is_alive()
        slow.let.set()
        one_more.join()
        transact()
    assert slow.committed == APPLYING_MAX + 2


def test_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        slow = SlowAsync()
        async with AsyncCoordinator(tmp_path / "log", [slow], acknowledge="decided", sweep_every=None) as coordinator:

            async def transact() -> None:
                async with coordinator.transaction() as tx:
                    await tx.enlist("slow")

            for _ in range(APPLYING_MAX):
                await transact()
            assert slow.committed == 0
            one_more = asyncio.create_task(transact())
            await asyncio.wait([one_more], timeout=0.3)
            assert not one_more.done()
            slow.let.set()
            await one_more
            await transact()
        assert slow.committed == APPLYING_MAX + 2

    asyncio.run(main())
