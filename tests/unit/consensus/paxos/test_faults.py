"""Paxos groups under faults, from seeds: nothing chosen is ever lost or changed, reads are fresh, and work goes on when faults end."""

import pytest
from tests.unit.consensus.paxos.group import Group

from quorate.simulation.scheduler import MILLISECOND, SECOND, Stream

SEEDS = 60


def strike(group: Group, stream: Stream) -> None:
    """One fault, or the end of one."""
    kind = stream.choice(
        (
            "crash",
            "crash leader",
            "reset",
            "cut",
            "heal",
            "start",
            "start",
            "pause",
            "pause leader",
            "slow",
            "slow",
            "bounce",
            "bounce",
        )
    )
    sid = stream.choice(group.sids)
    other = stream.choice(group.sids)
    leader = group.leader()
    if kind == "crash":
        group.crash(sid)
    elif kind == "crash leader" and leader is not None:
        group.crash(leader.sid)
    elif kind == "start":
        group.start(sid)
    elif kind == "reset" and sid != other:
        group.disconnect(sid, other)
        group.connect(sid, other)
    elif kind == "cut":
        for each in group.sids:
            if each != sid and stream.chance(0.6):
                group.cut.add((min(sid, each), max(sid, each)))
                group.disconnect(sid, each)
    elif kind == "pause" and sid in group.members:
        group.members[sid].paused_until = group.scheduler.now + stream.spread(MILLISECOND, 400 * MILLISECOND)
    elif kind == "pause leader" and leader is not None:
        leader.paused_until = group.scheduler.now + stream.spread(10 * MILLISECOND, 400 * MILLISECOND)
    elif kind == "bounce":
        for each in group.sids:
            if (leader is None or each != leader.sid) and stream.chance(0.7):
                group.crash(each)
                group.start(each)
    elif kind == "slow":
        group.delay = stream.choice((1, 2, 20, 40)) * MILLISECOND
    elif kind == "heal":
        heal(group)


def heal(group: Group) -> None:
    group.delay = 2 * MILLISECOND
    group.cut.clear()
    for one in group.sids:
        for other in group.sids:
            if one < other:
                group.connect(one, other)


def load(group: Group, stream: Stream, number: int) -> None:
    for member in list(group.members.values()):
        if member.peer.leading and group.scheduler.now >= member.paused_until:
            for each in range(stream.between(1, 3)):
                member.peer.propose(f"{number}.{each}".encode())
            if stream.chance(0.8):
                group.read(member, f"read {number} of {member.sid}")
            member.leave()


def exercise(group: Group, strikes: int) -> None:
    stream = Stream(group.seed, "nemesis")
    number = 0
    for _ in range(strikes):
        for _ in range(stream.between(1, 8)):
            number += 1
            load(group, stream, number)
            group.run(stream.around(8 * MILLISECOND))
        strike(group, stream)
    heal(group)
    for sid in group.sids:
        group.start(sid)
    heal(group)
    healed = group.scheduler.now
    done = len(group.chosen_log)
    while len(group.chosen_log) < done + 5:
        assert group.scheduler.now < healed + 3 * SECOND, "no progress when all is well again"
        number += 1
        load(group, stream, number)
        group.run(5 * MILLISECOND)
    group.run(SECOND)
    assert {member.applied for member in group.members.values()} == {len(group.chosen_log)}


@pytest.mark.parametrize(
    ("size", "accept_quorum", "lease", "drift_ppm"),
    [
        (1, 0, 0, 0),
        (2, 0, 0, 400_000),
        (3, 0, 0, 400_000),
        (3, 0, 50, 9_000),
        (5, 0, 0, 400_000),
        (5, 2, 50, 9_000),
        (4, 2, 0, 0),
    ],
)
def test_what_is_chosen_stays_and_reads_are_fresh(size: int, accept_quorum: int, lease: int, drift_ppm: int) -> None:
    answered = chosen = ballots = 0
    for seed in range(SEEDS):
        group = Group(seed, size, accept_quorum=accept_quorum, lease=lease * MILLISECOND, drift_ppm=drift_ppm)
        try:
            exercise(group, 40)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        answered += group.answered
        chosen += len(group.chosen_log)
        ballots += len(group.leaders)
    assert answered > SEEDS * 5
    assert chosen > SEEDS * 50
    assert ballots > SEEDS * 2
