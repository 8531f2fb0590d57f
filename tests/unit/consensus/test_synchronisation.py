"""Synchronisation: what a leader sends a learner, and in which order a learner writes, acknowledges and delivers."""

import pytest
from tests.unit.consensus.harness import Solo, entries, zxid

from quorate.consensus.zab.messages import (
    AckEpoch,
    Acks,
    Commits,
    Diff,
    LeaderInfo,
    Message,
    NewLeader,
    Proposals,
    Snap,
    State,
    Trunc,
    UpToDate,
    first_zxid,
)
from quorate.consensus.zab.replica import (
    Adopt,
    Append,
    InstallSnapshot,
    RoleChange,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Truncate,
)
from quorate.errors import RemoteProtocolError

NEWLEADER_ACK = Acks(first_zxid(7), first_zxid(7))


def learner(**state: object) -> Solo:
    """A follower of 3 that has acknowledged epoch 7."""
    solo = Solo(1, **state)  # type: ignore[arg-type]  # passed through to the constructor
    solo.follow(3)
    solo.receive(-1, LeaderInfo(7))
    solo.persist()
    solo.sent.clear()
    solo.events.clear()
    return solo


# ---- the learner: order of writes


def test_history_is_durable_before_the_epoch_and_the_epoch_before_the_acknowledgement() -> None:
    solo = learner()
    solo.receive(
        -1, Diff(zxid(1, 3)), Proposals(entries(1, 1, 3)), Commits(zxid(1, 1), zxid(1, 3)), NewLeader(first_zxid(7))
    )
    assert [type(write) for write in solo.writes] == [Append]
    assert solo.take(-1) == []
    solo.persist(1)
    assert [type(write) for write in solo.writes] == [StoreCurrentEpoch], "only when the history is durable"
    assert solo.take(-1) == []
    solo.persist(1)
    assert solo.take(-1) == [NEWLEADER_ACK]


def test_proposals_after_newleader_wait_for_its_writes() -> None:
    solo = learner()
    solo.receive(-1, Diff(0), NewLeader(first_zxid(7)))
    solo.receive(-1, Proposals(entries(7, 1, 2)))
    assert [type(write) for write in solo.persist()] == [StoreCurrentEpoch, Append]
    assert solo.take(-1) == [NEWLEADER_ACK, Acks(zxid(7, 1), zxid(7, 2))]


def test_proposals_of_the_epoch_that_came_before_newleader_are_acknowledged() -> None:
    solo = learner()
    solo.receive(
        -1, Diff(zxid(7, 1)), Proposals(entries(7, 1, 3)), Commits(zxid(7, 1), zxid(7, 1)), NewLeader(first_zxid(7))
    )
    solo.persist()
    assert solo.take(-1) == [NEWLEADER_ACK, Acks(zxid(7, 2), zxid(7, 3))]


def test_a_snapshot_and_what_follows_it_replace_the_history_as_one() -> None:
    solo = learner(tail=entries(1, 1, 9), accepted_epoch=1, current_epoch=1)
    solo.receive(
        -1,
        Snap(zxid(1, 4), "state"),
        Proposals(entries(6, 1, 2)),
        NewLeader(first_zxid(7)),
        Proposals(entries(7, 1, 1)),
    )
    assert [type(write) for write in solo.writes] == [InstallSnapshot]
    done = solo.persist()
    assert [type(write) for write in done] == [InstallSnapshot, StoreCurrentEpoch, Append]
    assert isinstance(done[0], InstallSnapshot)
    assert (done[0].zxid, done[0].entries) == (zxid(1, 4), entries(6, 1, 2))
    assert solo.take(-1) == [NEWLEADER_ACK, Acks(zxid(7, 1), zxid(7, 1))]


def test_an_observer_acknowledges_newleader_alone() -> None:
    solo = Solo(4, observers=(4,))
    solo.follow(3)
    solo.receive(-1, LeaderInfo(7))
    solo.persist()
    solo.sent.clear()
    solo.receive(-1, Diff(0), NewLeader(first_zxid(7)))
    solo.persist()
    solo.receive(-1, UpToDate(), Proposals(entries(7, 1, 2), inform=True))
    solo.persist()
    assert solo.take(-1) == [NEWLEADER_ACK, NEWLEADER_ACK]
    assert solo.applied() == [zxid(7, 1), zxid(7, 2)]


# ---- the learner: delivery


def test_nothing_is_delivered_before_uptodate() -> None:
    solo = learner()
    solo.receive(
        -1, Diff(zxid(1, 2)), Proposals(entries(1, 1, 2)), Commits(zxid(1, 1), zxid(1, 2)), NewLeader(first_zxid(7))
    )
    solo.persist()
    solo.receive(-1, Proposals(entries(7, 1, 1)), Commits(zxid(7, 1), zxid(7, 1)))
    solo.persist()
    assert solo.events == []
    solo.receive(-1, UpToDate())
    assert solo.applied() == [zxid(1, 1), zxid(1, 2), zxid(7, 1)]
    assert solo.events[-1] == RoleChange(State.FOLLOWING, 3, 7, True)


def test_a_tail_shared_with_the_leader_is_committed_as_far_as_the_leader_says() -> None:
    solo = learner(tail=entries(1, 1, 5), accepted_epoch=1, current_epoch=1)
    solo.receive(-1, Diff(zxid(1, 3)), NewLeader(first_zxid(7)))
    solo.persist()
    solo.receive(-1, UpToDate())
    assert solo.applied() == [zxid(1, 1), zxid(1, 2), zxid(1, 3)]
    solo.receive(-1, Commits(zxid(1, 4), zxid(1, 5)))
    assert solo.applied()[-2:] == [zxid(1, 4), zxid(1, 5)]


def test_a_leader_may_commit_what_the_learner_shares_with_it() -> None:
    solo = learner(tail=entries(1, 1, 2), accepted_epoch=1, current_epoch=1)
    solo.receive(-1, Diff(zxid(1, 9)), NewLeader(first_zxid(7)))
    solo.persist()
    solo.receive(-1, UpToDate())
    assert solo.applied() == [zxid(1, 1), zxid(1, 2)]


def test_trunc_forgets_what_the_leader_lacks() -> None:
    solo = learner(tail=entries(1, 1, 5), accepted_epoch=1, current_epoch=1)
    solo.receive(-1, Trunc(zxid(1, 3)), Proposals(entries(6, 1, 1)), NewLeader(first_zxid(7)))
    done = solo.persist()
    assert [type(write) for write in done] == [Truncate, Append, StoreCurrentEpoch]
    assert isinstance(done[0], Truncate)
    assert done[0].zxid == zxid(1, 3)
    solo.receive(-1, UpToDate())
    assert solo.applied() == [zxid(1, n) for n in (1, 2, 3)]


def test_trunc_to_a_point_that_it_lacks_starts_over_from_where_it_ends() -> None:
    solo = learner(tail=[*entries(1, 1, 2), *entries(5, 1, 1)], accepted_epoch=5, current_epoch=5)
    solo.receive(-1, Trunc(zxid(4, 6)))
    assert solo.role.state == State.LOOKING
    assert solo.peer.replica.history.last == zxid(1, 2)
    (write,) = solo.persist()
    assert isinstance(write, Truncate)
    assert write.zxid == zxid(1, 2)


def test_trunc_below_what_is_committed_is_refused() -> None:
    solo = learner(base=zxid(1, 4), accepted_epoch=1, current_epoch=1)
    with pytest.raises(RemoteProtocolError, match="cannot forget committed"):
        solo.peer.receive(-1, Trunc(zxid(1, 2)))


def test_a_snapshot_replaces_the_state() -> None:
    solo = learner(tail=entries(1, 1, 3), accepted_epoch=1, current_epoch=1)
    solo.receive(-1, Snap(zxid(6, 8), "state"), NewLeader(first_zxid(7)))
    assert solo.events == [Adopt(zxid(6, 8), "state")]
    done = solo.persist()
    assert [type(write) for write in done] == [InstallSnapshot, StoreCurrentEpoch]
    solo.receive(-1, UpToDate())
    assert solo.applied() == []


def test_proposals_that_a_snapshot_or_the_log_holds_already_are_skipped() -> None:
    solo = learner()
    solo.receive(-1, Snap(zxid(6, 8), "state"), Proposals(entries(6, 7, 9)), NewLeader(first_zxid(7)))
    done = solo.persist()
    assert isinstance(done[0], InstallSnapshot)
    assert done[0].entries == entries(6, 9, 9)


def test_a_hole_in_the_proposals_is_the_leaders_fault() -> None:
    solo = learner()
    solo.receive(-1, Diff(0))
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        solo.peer.receive(-1, Proposals(entries(6, 2, 2)))


def test_a_commit_of_something_unknown_is_the_leaders_fault() -> None:
    solo = learner()
    solo.receive(-1, Diff(0), Proposals(entries(6, 1, 1)))
    with pytest.raises(RemoteProtocolError, match="COMMIT"):
        solo.peer.receive(-1, Commits(zxid(6, 2), zxid(6, 2)))


def test_newleader_is_of_the_epoch_that_was_accepted() -> None:
    solo = learner()
    solo.receive(-1, Diff(0))
    with pytest.raises(RemoteProtocolError, match="NEWLEADER of epoch 6"):
        solo.peer.receive(-1, NewLeader(first_zxid(6)))


# ---- leaving in the middle of it


def test_what_was_received_gets_to_the_log_when_it_stops_following() -> None:
    solo = learner()
    solo.receive(-1, Diff(0), NewLeader(first_zxid(7)))
    solo.receive(-1, Proposals(entries(7, 1, 2)))
    solo.peer.disconnected(0, -1)
    solo.drain()
    assert solo.peer.replica.history.last == zxid(7, 2)
    done = solo.persist()
    assert [type(write) for write in done][-1] == Append
    assert solo.take(-1) == []


def test_nothing_is_given_up_for_a_snapshot_before_newleader() -> None:
    """What this member holds may be committed, and what the leader has sent so far need not hold it yet."""
    solo = learner(tail=entries(1, 1, 9), accepted_epoch=1, current_epoch=1)
    solo.receive(-1, Snap(zxid(1, 4), "state"), Proposals(entries(6, 1, 2)))
    assert solo.writes == []
    assert solo.events == []
    solo.peer.disconnected(0, -1)
    solo.drain()
    assert solo.peer.replica.history.last == zxid(1, 9)
    assert solo.persist() == []


def test_what_waits_for_a_snapshot_leaves_the_history_when_it_stops_following() -> None:
    solo = learner()
    solo.receive(-1, Snap(zxid(6, 8), "state"), Proposals(entries(6, 9, 10)), NewLeader(first_zxid(7)))
    solo.receive(-1, Proposals(entries(7, 1, 2)))
    solo.peer.disconnected(0, -1)
    solo.drain()
    assert solo.peer.replica.history.last == zxid(6, 10)
    assert [type(write) for write in solo.persist()] == [InstallSnapshot]


def test_the_epoch_is_not_entered_without_its_leader() -> None:
    solo = learner()
    solo.receive(-1, Diff(0), Proposals(entries(6, 1, 1)), NewLeader(first_zxid(7)))
    solo.peer.disconnected(0, -1)
    solo.drain()
    assert [type(write) for write in solo.persist()] == [Append]
    assert solo.peer.replica.current_epoch == 0


# ---- the leader: DIFF, TRUNC or SNAP


def opening(last: int, **state: object) -> list[Message]:
    """What a leader of these recovered entries sends a follower whose log ends at ``last``."""
    solo = Solo(3, **state)  # type: ignore[arg-type]  # passed through to the constructor
    solo.lead()
    solo.inform(-1, 1)
    solo.persist()
    solo.take(-1)
    # counted as of epoch 0, so that its zxid does not make the leader give up
    solo.receive(-1, AckEpoch(last, 0))
    return solo.take(-1)


LOG = [*entries(1, 1, 4), *entries(3, 1, 2)]


def test_diff_when_nothing_is_missing() -> None:
    sent = opening(zxid(3, 2), tail=LOG, accepted_epoch=3, current_epoch=3)
    assert sent == [Diff(zxid(3, 2)), NewLeader(first_zxid(4))]


def test_diff_with_what_is_missing_and_its_commits_by_epoch() -> None:
    sent = opening(zxid(1, 2), tail=LOG, accepted_epoch=3, current_epoch=3)
    assert sent == [
        Diff(zxid(3, 2)),
        Proposals([*entries(1, 3, 4), *entries(3, 1, 2)]),
        Commits(zxid(1, 3), zxid(1, 4)),
        Commits(zxid(3, 1), zxid(3, 2)),
        NewLeader(first_zxid(4)),
    ]


def test_trunc_to_the_last_common_entry_of_the_epoch() -> None:
    sent = opening(zxid(1, 9), tail=LOG, accepted_epoch=3, current_epoch=3)
    assert sent[0] == Trunc(zxid(1, 4))
    assert sent[1] == Proposals(entries(3, 1, 2))


def test_trunc_when_all_of_the_leaders_entries_are_older() -> None:
    sent = opening(zxid(9, 1), tail=LOG, accepted_epoch=9, current_epoch=9)
    assert sent == [Trunc(zxid(3, 2)), NewLeader(first_zxid(10))]


def test_snap_when_the_common_entry_is_a_guess() -> None:
    sent = opening(zxid(2, 5), tail=LOG, accepted_epoch=3, current_epoch=3)
    assert sent == [
        Snap(0),
        Proposals(LOG),
        Commits(zxid(1, 1), zxid(1, 4)),
        Commits(zxid(3, 1), zxid(3, 2)),
        NewLeader(first_zxid(4)),
    ]


def test_snap_when_what_is_missing_is_in_the_state_alone() -> None:
    sent = opening(zxid(1, 2), base=zxid(1, 4), tail=entries(3, 1, 2), accepted_epoch=3, current_epoch=3)
    assert sent[0] == Snap(zxid(1, 4))
    assert sent[1] == Proposals(entries(3, 1, 2))


def test_an_epochs_zero_stands_for_the_initial_history_of_that_epoch() -> None:
    """A learner (Apache's) that took the state of epoch 3 before its first proposal."""
    sent = opening(zxid(3, 0), tail=LOG, accepted_epoch=3, current_epoch=3)
    assert sent[:2] == [Diff(zxid(3, 2)), Proposals(entries(3, 1, 2))]
    sent = opening(zxid(5, 0), tail=LOG, accepted_epoch=5, current_epoch=5)
    assert sent[0] == Diff(zxid(3, 2))
    assert opening(0, tail=LOG, accepted_epoch=5, current_epoch=5)[0] == Diff(zxid(3, 2))


@pytest.mark.parametrize("last", [zxid(2, 0), zxid(4, 0)])
def test_snap_when_the_initial_history_of_that_epoch_may_not_be_ours(last: int) -> None:
    sent = opening(last, tail=LOG, accepted_epoch=5, current_epoch=3)
    assert sent[0] == Snap(0)


def test_the_leader_commits_its_history_with_the_quorum_that_acknowledged_newleader() -> None:
    solo = Solo(3, tail=LOG, accepted_epoch=3, current_epoch=3)
    solo.lead()
    solo.inform(-1, 1, accepted_epoch=3)
    solo.persist()
    solo.receive(-1, AckEpoch(zxid(3, 2), 3))
    solo.receive(-1, Acks(first_zxid(4), first_zxid(4)))
    assert solo.applied() == [], "its own current epoch is not durable yet"
    assert [type(write) for write in solo.persist()] == [StoreCurrentEpoch]
    assert solo.applied() == [entry.zxid for entry in LOG]
    assert solo.role == RoleChange(State.LEADING, 3, 4, True)
    assert solo.take(-1)[-1] == UpToDate()


def test_the_leaders_own_recovered_log_is_durable_before_it_enters_the_epoch() -> None:
    """What it received as a follower may still be under way when it is elected."""
    solo = Solo(3)
    solo.serve(2, 1, Diff(0))
    solo.receive(-1, Proposals(entries(1, 1, 2)))
    solo.peer.disconnected(0, -1)
    solo.drain()
    solo.lead()
    solo.inform(-2, 1, accepted_epoch=1)
    assert [type(write) for write in solo.persist(1)] == [Append]
    assert [type(write) for write in solo.persist()] == [StoreAcceptedEpoch]
    solo.receive(-2, AckEpoch(zxid(1, 2), 1))
    assert [type(write) for write in solo.persist()] == [StoreCurrentEpoch]
