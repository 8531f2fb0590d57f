"""Members that are added while others come and go, under load, and again after it came to nothing."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path

from tests.unit.consensus.paxos.hosts import Hosts

from quorate.errors import QuorateError


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


async def hand_over(hosts: Hosts, sid: int) -> None:
    leader = await hosts.leader()
    told: list[QuorateError | None] = []
    leader.hand_over(1, sid, told.append)
    await hosts.until(lambda: bool(told) and hosts.leading() == sid)
    assert told == [None]


def test_a_newcomer_is_added_by_a_leader_that_it_was_never_told_of(tmp_path: Path) -> None:
    """Its file names the members that the cluster began with; the leader came later."""

    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3, 4):
                hosts.start(sid)
            assert await hosts.change(4, True) is None
            await hand_over(hosts, 4)
            hosts.start(5)
            assert await hosts.change(5, True) is None
            await hosts.propose("all five")
            await hosts.until(lambda: all(hosts.service(sid).values == ["all five"] for sid in hosts.hosts))
        finally:
            hosts.close()

    run(work())
