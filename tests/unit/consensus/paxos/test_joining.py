"""Members that are added while others come and go, under load, and again after it came to nothing."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path

from tests.unit.consensus.paxos.hosts import Hosts

from quorate.consensus.paxos.joining import Joining
from quorate.consensus.paxos.members import Member
from quorate.consensus.paxos.peer import Drained
from quorate.consensus.paxos.settings import MILLISECOND
from quorate.errors import QuorateError, UsageError


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


def test_a_newcomer_is_added_while_writes_never_pause(tmp_path: Path) -> None:
    """Whenever one looks, dozens of entries are on their way to it."""

    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            group = (await hosts.leader()).groups[1]
            writing = True

            drain, peer = group.drain, group.peer

            def busy_drain() -> Drained:
                log = peer.acceptor.log
                if writing and group.leading and log.last - log.decided < 5000:
                    for _ in range(50):
                        peer.propose(b"x")
                return drain()

            group.drain = busy_drain  # type: ignore[method-assign]  # clients that ask whenever anything happens
            hosts.start(4)
            error = await hosts.change(4, True)
            writing = False
            assert error is None
        finally:
            hosts.close()

    run(work())


async def add(hosts: Hosts, member: Member, patience: int) -> QuorateError | None:
    told: list[QuorateError | None] = []
    (await hosts.leader()).add_member(1, member, patience * MILLISECOND, told.append)
    await hosts.until(lambda: bool(told))
    return told[0]


def test_what_came_to_nothing_is_told_and_may_be_asked_for_again(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("a")
            error = await add(hosts, hosts.member(4), 300)
            assert str(error) == (
                "member 4 did not catch up in 0.3 s: there is no connection with it; see that it runs, with the same cluster's name, and has "
                f"the addresses peer 127.0.0.1:{hosts.ports[4]}"
            )
            sids = (await hosts.leader()).groups[1].peer.acceptor.log.sids
            assert sids == (1, 2, 3), "the group is as it was"
            hosts.start(4)
            assert await hosts.change(4, True) is None
            assert await hosts.change(4, True) is None, "it is there already"
            elsewhere = Member(4, {"peer": "127.0.0.1:1"})
            error = await add(hosts, elsewhere, 300)
            assert isinstance(error, UsageError)
            assert str(error) == f"member 4 is there already, with the addresses peer 127.0.0.1:{hosts.ports[4]}"
            gone = next(sid for sid in (1, 2, 3) if sid != hosts.leading())
            assert await hosts.change(gone, False) is None
            assert await hosts.change(gone, False) is None, "it is gone already"
        finally:
            hosts.close()

    run(work())


def test_who_asks_for_what_is_under_way_waits_for_it(tmp_path: Path) -> None:
    """One who gave up waiting asks again; somebody else asks for something else."""

    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            leader = await hosts.leader()
            told: dict[str, QuorateError | None] = {}

            def ask(name: str, member: Member) -> None:
                leader.add_member(1, member, 10_000 * MILLISECOND, lambda error: told.update({name: error}))

            ask("first", hosts.member(4))
            ask("again", hosts.member(4))
            ask("elsewhere", Member(4, {"peer": "127.0.0.1:1"}))
            ask("another", hosts.member(5))
            assert {name: str(error) for name, error in told.items()} == {
                "elsewhere": "another change of members is under way",
                "another": "another change of members is under way",
            }
            hosts.start(4)
            await hosts.until(lambda: len(told) == 4)
            assert told["first"] is told["again"] is None
        finally:
            hosts.close()

    run(work())


class Rounds:
    """A newcomer of a group whose election timeout is 100."""

    def __init__(self) -> None:
        self.joining = Joining(Member(4, {}), True, 0, 10_000, lambda error: None)

    def __call__(self, now: int, progress: int, last: int) -> bool:
        return self.joining.caught_up(now, progress, last, 100)


def test_a_round_that_is_short_is_enough() -> None:
    caught_up = Rounds()
    assert not caught_up(0, 0, 1000), "it holds nothing yet"
    assert not caught_up(10, 500, 1100), "the first round begins"
    assert not caught_up(50, 1099, 2000)
    assert caught_up(109, 1100, 2100)


def test_a_round_that_is_long_is_followed_by_another() -> None:
    caught_up = Rounds()
    assert not caught_up(10, 500, 1100)
    assert not caught_up(110, 1100, 2000), "the second begins"
    assert not caught_up(150, 1999, 3000)
    assert not caught_up(250, 2500, 3500), "the third begins"
    assert not caught_up(260, 3499, 4000)
    assert caught_up(260, 3500, 4000)


def test_few_entries_may_be_lacking_however_long_it_took() -> None:
    caught_up = Rounds()
    assert not caught_up(0, 500, 1000)
    assert not caught_up(500, 991, 1000)
    assert caught_up(1000, 992, 1000)
