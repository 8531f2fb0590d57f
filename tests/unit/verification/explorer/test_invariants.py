"""Each invariant of Zab on states made by hand: what breaks it, and what does not."""

from typing import Any

import pytest

from quorate.consensus.zab.messages import Entry
from quorate.verification.spaces.zab_invariants import INVARIANTS, Record, broken
from quorate.verification.spaces.zab_node import FOLLOWING, LEADING, LOOKING, Entries, View


def entries(*names: str) -> Entries:
    """``1.2`` is the second entry of epoch 1; ``1.2x`` another with the same zxid."""
    made = []
    for name in names:
        epoch, counter = name.rstrip("x").split(".")
        made.append(Entry(int(epoch) << 32 | int(counter), name.encode()))
    return tuple(made)


def view(**fields: Any) -> View:
    """A member that looks, applied nothing and has nothing, but for ``fields``."""
    made = View.__new__(View)
    nothing: dict[str, Any] = {
        "role": LOOKING, "following": -1, "established": False, "serving": False, "synced": False, "epoch": 0,
        "applied": (), "durable": (), "kept": "", "history": (),
    }  # fmt: skip
    for name, value in (nothing | fields).items():
        setattr(made, name, value)
    return made


def having(*names: str, **fields: Any) -> View:
    """Applied, in memory and on disk."""
    all_of_it = entries(*names)
    return view(applied=all_of_it, durable=all_of_it, history=all_of_it, **fields)


def record(*agreed: str, proposers: dict[str, int] | None = None, leaders: tuple[tuple[int, int], ...] = ()) -> Record:
    made = [(e.zxid, e.payload, sid) for name, sid in (proposers or {}).items() for e in entries(name)]
    return Record(entries(*agreed), leaders, tuple(made))


def leading(epoch: int, *names: str, established: bool = True) -> View:
    return having(*names, role=LEADING, epoch=epoch, established=established)


def following(leader: int, epoch: int, *names: str) -> View:
    return having(*names, role=FOLLOWING, following=leader, epoch=epoch, serving=True, synced=True)


BROKEN: list[tuple[str, list[View], Record, str]] = [
    ("Leadership1", [leading(3), leading(3), view()], record(), "members 1 and 2 both lead epoch 3"),
    ("Leadership2", [view()] * 3, record(leaders=((1, 3), (2, 1), (2, 2))), "members 1 and 2 both led epoch 2"),
    ("PrefixConsistency", [having("1.1"), having("1.1x")], record("1.1"), "member 2 applied 1.1, others 1.1"),
    ("PrefixConsistency", [view(), having("1.2")], record("1.1", "1.2"), "member 2 applied 1.2, others 1.1, 1.2"),
    ("Integrity", [having("1.1")], record("1.1", proposers={"1.1x": 1}), "member 1 applied 1.1, which no leader"),
    ("Agreement", [having("1.1", "2.1"), having("1.1", "3.1")], record(), "member 1 alone applied 2.1, member 2 alone 3.1"),
    ("TotalOrder", [having("1.1", "1.2"), having("1.2")], record(), "member 1 applied 1.1 before 1.2, which member 2"),
    ("LocalPrimaryOrder", [having("1.2")], record(proposers={"1.1": 2, "1.2": 2}), "not before it 0x100000001"),
    ("GlobalPrimaryOrder", [having("2.1", "1.1")], record(), "member 1 applied 2.1, 1.1"),
    ("PrimaryIntegrity", [leading(2), following(1, 2, "1.1")], record(), "member 2 applied 1.1, its leader 1 of epoch 2 did"),
    ("ProcessConsistency", [leading(2), following(1, 2, "1.1")], record(), "member 2 has 1.1, its leader 1 of epoch 2 has n"),
    ("LeaderLogCompleteness", [leading(2), view()], record("1.1"), "leader 1 of epoch 2 has nothing without 1.1"),
    ("CommittedLogDurability", [having("1.1"), view(), view()], record("1.1"), "1.1 was applied and is on the disk of 1 only"),
    ("LogOrder", [view(), view(kept="the log goes from 0x1 to 0x3")], record(), "on the disk of member 2 the log goes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "views", "past", "words"), BROKEN, ids=[f"{case[0]} {case[3]}" for case in BROKEN])
def test_a_state_that_breaks_it(name: str, views: list[View], past: Record, words: str) -> None:
    assert words in INVARIANTS[name](views, past)
    assert broken(views, past)


def test_every_invariant_has_a_state_that_breaks_it() -> None:
    assert {case[0] for case in BROKEN} == set(INVARIANTS)


SOUND: list[tuple[list[View], Record]] = [
    ([leading(2, "1.1"), following(1, 2, "1.1"), leading(1, "1.1")], record("1.1", proposers={"1.1": 3})),
    ([leading(2, "1.1", "2.1"), following(1, 2, "1.1"), view(durable=entries("1.1", "2.1"))], record("1.1", "2.1", proposers={"1.1": 3, "2.1": 1})),
    # a proposal of an old leader that nobody applied stays in its log
    ([view(durable=entries("1.1")), leading(2, "2.1"), following(2, 2, "2.1")], record("2.1", proposers={"1.1": 1, "2.1": 2})),
    # an old leader that has not yet heard of the new epoch lacks what that applied
    ([leading(1), leading(2, "2.1"), following(2, 2, "2.1")], record("2.1", proposers={"2.1": 2}, leaders=((1, 1), (2, 2)))),
    # a leader not yet acknowledged by a quorum has no epoch
    ([leading(0, established=False), leading(0, established=False)], record()),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SOUND)))
def test_a_state_that_breaks_none(case: int) -> None:
    views, past = SOUND[case]
    assert broken(views, past) == ""


def test_the_record_keeps_the_longest_history_and_every_leader() -> None:
    past = Record().after(1, leading(2, "1.1")).after(3, leading(1, "1.1", "1.2")).after(2, having("1.1"))
    assert past.agreed == entries("1.1", "1.2")
    assert past.leaders == ((1, 3), (2, 1))
    assert past.after(1, leading(2, "1.1")) is past
    assert past.after(2, leading(0)) is past
