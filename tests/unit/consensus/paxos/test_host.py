"""The host over TCP and files: groups that elect, replicate, restart, catch up by snapshots, and change their members."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest
from tests.unit.consensus.paxos.hosts import Hosts

from quorate.consensus.paxos import snapshots
from quorate.consensus.paxos.group import Limits
from quorate.errors import QuorateError


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


def test_three_members_elect_a_leader_and_replicate_over_restarts(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("a", "b")
            await hosts.until(lambda: all(hosts.service(sid).values == ["a", "b"] for sid in (1, 2, 3)))
            for sid in (1, 2, 3):
                hosts.stop(sid)
            for sid in (1, 2):
                hosts.start(sid)
            await hosts.propose("c")
            await hosts.until(lambda: all(hosts.service(sid).values == ["a", "b", "c"] for sid in (1, 2)))
            hosts.start(3)
            await hosts.until(lambda: hosts.service(3).values == ["a", "b", "c"])
        finally:
            hosts.close()

    run(work())


def test_the_loss_of_the_leader_and_reads_everywhere(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("a")
            hosts.stop(hosts.leading())
            await hosts.propose("b")
            for sid, host in hosts.hosts.items():
                service = hosts.service(sid)
                while service.reads.get("now") != "ready":
                    service.reads.clear()
                    host.groups[1].read("now")
                    await hosts.until(lambda service=service: "now" in service.reads)  # type: ignore[misc]  # lambdas with defaults
                assert service.values == ["a", "b"]
                host.groups[1].read("lately", staleness=60 * 10**9)
                assert service.reads["lately"] == "ready", "no need to ask the leader again"
        finally:
            hosts.close()

    run(work())


def test_many_groups_share_a_journal_and_connections(tmp_path: Path) -> None:
    async def work() -> None:
        groups = tuple(range(1, 21))
        hosts = Hosts(tmp_path, 3, groups=groups)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await asyncio.gather(*[hosts.propose(f"{group}", group=group) for group in groups])
            await hosts.until(
                lambda: all(hosts.service(sid, group).values == [str(group)] for sid in (1, 2, 3) for group in groups)
            )
        finally:
            hosts.close()

    run(work())


def test_a_member_that_was_away_for_long_gets_a_snapshot(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3, limits=Limits(snapshot_entries=50, kept_entries=10))
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("first")
            away = next(sid for sid in (1, 2, 3) if sid != hosts.leading())
            hosts.stop(away)
            values = [f"{number:04d}" + "x" * 500 for number in range(600)]
            for at in range(0, 600, 20):
                await hosts.propose(*values[at : at + 20])
            hosts.start(away)
            await hosts.until(lambda: hosts.service(away).values == ["first", *values])
            await hosts.propose("last")
            await hosts.until(lambda: hosts.service(away).values[-1] == "last")
            assert hosts.hosts[away].groups[1].peer.acceptor.log.base > 500
            leader = await hosts.leader()
            await hosts.until(lambda: leader.journal.segments <= 3)
            for sid in (1, 2, 3):
                hosts.stop(sid)
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("again")
            await hosts.until(
                lambda: all(hosts.service(sid).values == ["first", *values, "last", "again"] for sid in (1, 2, 3))
            )
        finally:
            hosts.close()

    run(work())


def test_a_snapshot_that_is_being_fetched_is_held_though_newer_ones_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With each chunk the leader writes more than is a snapshot's: whoever began anew with each would never be done."""

    async def work() -> None:
        hosts = Hosts(tmp_path, 3, limits=Limits(snapshot_entries=50, kept_entries=10, chunk_bytes=500))
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("first")
            away = next(sid for sid in (1, 2, 3) if sid != hosts.leading())
            hosts.stop(away)
            for at in range(0, 300, 20):
                await hosts.propose(*[f"{number:04d}" + "x" * 50 for number in range(at, at + 20)])
            leader = await hosts.leader()
            group = leader.groups[1]
            made: set[int] = set()
            asked = 0
            serve = group.serve

            def serving(sid: int, body: bytes) -> list[bytes]:
                nonlocal asked
                asked += 1
                for number in range(20):
                    group.propose(f"more {asked} {number}".encode())
                made.update(snapshots.indices(leader.snapshot_disk, 1))
                return serve(sid, body)

            group.serve = serving  # type: ignore[method-assign]  # of this one
            hosts.start(away)
            await hosts.until(lambda: len(hosts.service(away).values) > 300)
            await hosts.propose("last")
            await hosts.until(lambda: hosts.service(away).values[-1] == "last")
            assert hosts.service(away).values == hosts.service(leader.settings.sid).values
            assert len(made) > 3
            # nobody asks any more
            await hosts.until(lambda: group.peer.acceptor.log.base >= max(made) - 10)
            for number in range(60):
                await hosts.propose(f"later {number}")
            await hosts.until(lambda: len(snapshots.indices(leader.snapshot_disk, 1)) == 1)
        finally:
            hosts.close()

    with caplog.at_level("INFO", "quorate"):
        run(work())
    assert len([record for record in caplog.records if "fetching a snapshot" in record.getMessage()]) == 1


def test_members_are_added_replaced_and_removed(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3, limits=Limits(snapshot_entries=50, kept_entries=10))
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            for number in range(10):
                await hosts.propose(*[f"{number}-{other}" for other in range(20)])
            hosts.stop(next(sid for sid in (1, 2, 3) if sid != hosts.leading()))
            gone = next(sid for sid in (1, 2, 3) if sid not in hosts.hosts)
            hosts.start(4)
            assert await hosts.change(4, True) is None
            assert await hosts.change(gone, False) is None
            await hosts.propose("with four")
            await hosts.until(lambda: hosts.service(4).values[-1] == "with four")
            leader = hosts.leading()
            assert await hosts.change(leader, False) is None
            await hosts.until(lambda: hosts.leading() not in (0, leader))
            hosts.stop(leader)
            await hosts.propose("without it")
            for sid in list(hosts.hosts):
                hosts.stop(sid)
            rest = [sid for sid in (1, 2, 3, 4) if sid not in (gone, leader)]
            for sid in rest:
                hosts.start(sid)
            await hosts.propose("after a restart")
            await hosts.until(
                lambda: all(hosts.service(sid).values[-2:] == ["without it", "after a restart"] for sid in rest)
            )
            assert [member.sid for member in hosts.hosts[rest[0]].groups[1].peer.members] == rest
        finally:
            hosts.close()

    run(work())


def test_a_leader_hands_over(tmp_path: Path) -> None:
    async def work() -> None:
        hosts = Hosts(tmp_path, 3)
        try:
            for sid in (1, 2, 3):
                hosts.start(sid)
            await hosts.propose("a")
            leader = await hosts.leader()
            target = next(sid for sid in (1, 2, 3) if sid != leader.settings.sid)
            told: list[QuorateError | None] = []
            leader.hand_over(1, target, told.append)
            await hosts.until(lambda: hosts.leading() == target and bool(told))
            assert told == [None]
            await hosts.propose("b")
        finally:
            hosts.close()

    run(work())
