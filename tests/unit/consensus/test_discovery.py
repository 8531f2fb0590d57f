"""Discovery: accepted epochs, and the refusal of what is older."""

import pytest
from tests.unit.consensus.harness import INIT_LIMIT, SYNC_LIMIT, TICK, Solo, entries, settings, zxid

from quorate.consensus.zab.messages import (
    AckEpoch,
    Acks,
    Diff,
    FollowerInfo,
    LeaderInfo,
    NewLeader,
    Notification,
    Proposals,
    State,
    Vote,
    first_zxid,
)
from quorate.consensus.zab.peer import Peer
from quorate.consensus.zab.replica import StoreAcceptedEpoch, StoreCurrentEpoch
from quorate.errors import RemoteProtocolError


def sent_types(solo: Solo, link: int) -> list[type]:
    return [type(message) for message in solo.take(link)]


# ---- the learner


def test_a_learner_introduces_itself_with_its_accepted_epoch() -> None:
    solo = Solo(1, accepted_epoch=4, current_epoch=3)
    solo.follow(3)
    assert solo.take(-1) == [FollowerInfo(1, 4, False)]


def test_the_accepted_epoch_is_durable_before_it_is_acknowledged() -> None:
    solo = Solo(1, tail=entries(3, 1, 2), accepted_epoch=4, current_epoch=3)
    solo.follow(3)
    solo.take(-1)
    solo.receive(-1, LeaderInfo(6))
    assert solo.take(-1) == []
    (write,) = solo.persist()
    assert isinstance(write, StoreAcceptedEpoch)
    assert write.epoch == 6
    assert solo.take(-1) == [AckEpoch(zxid(3, 2), 3)]


def test_an_epoch_accepted_before_is_acknowledged_for_no_quorum() -> None:
    solo = Solo(1, tail=entries(3, 1, 2), accepted_epoch=4, current_epoch=3)
    solo.follow(3)
    solo.take(-1)
    solo.receive(-1, LeaderInfo(4))
    assert solo.writes == []
    assert solo.take(-1) == [AckEpoch(zxid(3, 2), -1)]


def test_nothing_is_acknowledged_before_what_was_recovered_is_durable() -> None:
    """A killed process may have left its last writes in the system's cache alone."""
    peer = Peer(settings(1), 0, entries(3, 1, 2), 4, 3, 500)
    recovered = peer.recovering()
    peer.start(0)
    peer.reachable(0, frozenset({2, 3}))
    peer.receive(3, Notification(State.LOOKING, Vote(3, zxid(9, 1), 9), 1))
    peer.receive(2, Notification(State.LOOKING, Vote(3, zxid(9, 1), 9), 1))
    assert peer.drain().dial == 3
    peer.connected(0, -1)
    peer.receive(-1, LeaderInfo(4))
    assert peer.drain().messages[-1] == [FollowerInfo(1, 4, False)]
    peer.persisted(recovered)
    assert peer.drain().messages[-1] == [AckEpoch(zxid(3, 2), -1)]


def test_an_older_epoch_is_refused() -> None:
    solo = Solo(1, accepted_epoch=4, current_epoch=3)
    solo.follow(3)
    solo.take(-1)
    solo.receive(-1, LeaderInfo(3))
    assert solo.take(-1) == []
    assert solo.disconnects == [-1]
    assert solo.role.state == State.LOOKING
    assert solo.peer.replica.accepted_epoch == 4


def test_what_the_acknowledgement_says_of_the_history_is_on_disk() -> None:
    """The tail of the epoch before is still being written when the next leader asks."""
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.receive(-1, Proposals(entries(1, 1, 2)))
    solo.peer.disconnected(solo.now, -1)
    solo.drain()
    solo.follow(2, link=-2)
    solo.take(-2)
    solo.receive(-2, LeaderInfo(2))
    solo.persist(1)
    assert solo.take(-2) == [], "the entries are durable, the epoch is not"
    solo.persist()
    assert solo.take(-2) == [AckEpoch(zxid(1, 2), 1)]


# ---- the leader


def test_the_new_epoch_is_greater_than_all_accepted_ones_and_durable_before_it_is_proposed() -> None:
    solo = Solo(3, accepted_epoch=2, current_epoch=2)
    solo.lead()
    solo.inform(-1, 1, accepted_epoch=7)
    assert solo.take(-1) == []
    (write,) = solo.persist()
    assert isinstance(write, StoreAcceptedEpoch)
    assert solo.take(-1) == [LeaderInfo(8)]


def test_no_epoch_is_proposed_without_a_quorum_of_accepted_ones() -> None:
    solo = Solo(5, voters=(1, 2, 3, 4, 5))
    solo.lead()
    solo.inform(-1, 1)
    assert solo.writes == []
    solo.inform(-2, 2)
    assert len(solo.writes) == 1


def test_an_observer_has_no_say_in_discovery() -> None:
    solo = Solo(3, observers=(4, 5))
    solo.lead()
    solo.inform(-1, 4, accepted_epoch=9, observer=True)
    solo.inform(-2, 5, accepted_epoch=9, observer=False)
    assert solo.writes == []
    solo.inform(-3, 1)
    solo.persist()
    solo.take(-3)
    solo.receive(-1, AckEpoch(0, 0))
    solo.receive(-2, AckEpoch(0, 0))
    assert solo.peer.leader is not None
    assert solo.take(-3) == [], "an observer's acknowledgement is no voter's"


def test_the_leader_enters_the_epoch_once_a_quorum_acknowledged_it() -> None:
    solo = Solo(3, tail=entries(1, 1, 2), accepted_epoch=1, current_epoch=1)
    solo.lead()
    solo.inform(-1, 1, accepted_epoch=1)
    solo.persist()
    assert solo.writes == []
    solo.receive(-1, AckEpoch(zxid(1, 2), 1))
    (write,) = solo.persist()
    assert isinstance(write, StoreCurrentEpoch)
    assert write.epoch == 2


@pytest.mark.parametrize(
    ("epoch", "last"), [(2, zxid(2, 1)), (1, zxid(1, 3))], ids=["greater current epoch", "greater zxid"]
)
def test_a_leader_that_meets_a_more_recent_history_gives_up(epoch: int, last: int) -> None:
    solo = Solo(3, tail=entries(1, 1, 2), accepted_epoch=1, current_epoch=1)
    solo.lead()
    solo.inform(-1, 1, accepted_epoch=2)
    solo.persist()
    solo.receive(-1, AckEpoch(last, epoch))
    assert solo.role.state == State.LOOKING
    assert "more recent history" in solo.peer.reason
    assert solo.disconnects == [-1]


def test_a_current_epoch_counts_more_than_a_zxid() -> None:
    solo = Solo(3, tail=entries(1, 1, 2), accepted_epoch=2, current_epoch=2)
    solo.lead()
    solo.inform(-1, 1, accepted_epoch=2)
    solo.persist()
    solo.receive(-1, AckEpoch(zxid(1, 9), 1))
    assert solo.role.state == State.LEADING


def test_an_acknowledgement_of_minus_one_counts_for_no_quorum() -> None:
    solo = Solo(3, voters=(1, 2, 3, 4, 5))
    solo.lead()
    solo.inform(-1, 1)
    solo.inform(-2, 2)
    solo.persist()
    solo.receive(-1, AckEpoch(0, 0))
    solo.receive(-2, AckEpoch(0, -1))
    assert solo.writes == []
    assert NewLeader not in sent_types(solo, -1)


def test_a_leader_that_cannot_be_acknowledged_by_a_quorum_any_more_gives_up_at_once() -> None:
    """A voter accepted the epoch, but its word was lost on the way: it comes back with it, and must not be counted."""
    solo = Solo(3)
    solo.lead()
    solo.inform(-1, 1)
    solo.persist()
    solo.peer.reachable(0, frozenset({1}))
    solo.peer.disconnected(0, -1)
    solo.drain()
    assert solo.role.state == State.LEADING
    solo.inform(-2, 1, accepted_epoch=1)
    assert solo.role.state == State.LOOKING


def test_an_acknowledgement_stays_when_the_link_goes() -> None:
    solo = Solo(5, voters=(1, 2, 3, 4, 5))
    solo.lead()
    solo.inform(-1, 1)
    solo.inform(-2, 2)
    solo.persist()
    solo.receive(-1, AckEpoch(0, 0))
    solo.peer.disconnected(0, -1)
    solo.inform(-3, 1, accepted_epoch=1)
    solo.receive(-3, AckEpoch(0, -1))
    solo.receive(-2, AckEpoch(0, 0))
    assert NewLeader in sent_types(solo, -3)


def test_a_learner_of_a_newer_epoch_ends_the_leader() -> None:
    solo = Solo(3)
    solo.establish()
    solo.inform(-2, 2, accepted_epoch=5)
    assert solo.role.state == State.LOOKING
    assert "accepted epoch 5" in solo.peer.reason


def test_a_voter_that_calls_again_replaces_its_older_link() -> None:
    solo = Solo(3)
    solo.establish(link=-1, sid=1)
    solo.inform(-2, 1, accepted_epoch=1)
    assert -1 in solo.disconnects
    assert solo.role.serving


# ---- leaders that wait for nothing


def test_a_leader_that_no_quorum_calls_gives_up_after_sync_limit() -> None:
    solo = Solo(3)
    solo.lead()
    solo.tick(SYNC_LIMIT * TICK - 1)
    assert solo.role.state == State.LEADING
    solo.tick(1)
    assert solo.role.state == State.LOOKING


def test_a_leader_that_no_quorum_acknowledges_gives_up_after_init_limit() -> None:
    solo = Solo(3)
    solo.lead()
    solo.inform(-1, 1)
    solo.tick(INIT_LIMIT * TICK - 1)
    assert solo.role.state == State.LEADING
    solo.tick(1)
    assert solo.role.state == State.LOOKING


def test_a_leader_whose_supporters_look_again_gives_up_at_once() -> None:
    solo = Solo(3)
    solo.lead()
    vote = solo.peer.election.vote
    solo.look(1, Vote(1, 0, 0), round=2)
    assert solo.role.state == State.LEADING, "2 may still come"
    solo.look(2, vote, round=2)
    assert solo.role.state == State.LOOKING


def test_a_supporter_that_was_restarted_is_one_that_left() -> None:
    solo = Solo(3)
    solo.look(1, Vote(1, 0, 0), round=4)
    solo.lead()
    solo.peer.reachable(0, frozenset({1}))
    assert solo.role.state == State.LEADING
    solo.look(1, Vote(1, 0, 0), round=1)
    assert solo.role.state == State.LOOKING


def test_a_leader_that_is_left_alone_gives_up_at_once() -> None:
    solo = Solo(3)
    solo.lead()
    solo.peer.reachable(0, frozenset())
    solo.drain()
    assert solo.role.state == State.LOOKING


# ---- order of packets


def test_packets_out_of_turn_are_the_peers_fault() -> None:
    solo = Solo(3)
    solo.lead()
    solo.peer.accepted(0, -1)
    with pytest.raises(RemoteProtocolError, match="ACKEPOCH"):
        solo.peer.receive(-1, AckEpoch(0, 0))
    with pytest.raises(RemoteProtocolError, match="ACK"):
        solo.peer.receive(-1, Acks(first_zxid(1), first_zxid(1)))
    solo.receive(-1, FollowerInfo(1, 0, False))
    with pytest.raises(RemoteProtocolError, match="second FOLLOWERINFO"):
        solo.peer.receive(-1, FollowerInfo(1, 0, False))
    with pytest.raises(RemoteProtocolError):
        solo.peer.receive(-1, NewLeader(0))
    follower = Solo(1)
    follower.follow(3)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        follower.peer.receive(-1, NewLeader(first_zxid(1)))


def test_nobody_may_call_itself_by_the_leaders_own_sid() -> None:
    solo = Solo(3)
    solo.lead()
    solo.peer.accepted(0, -1)
    with pytest.raises(RemoteProtocolError, match="our own sid"):
        solo.peer.receive(-1, FollowerInfo(3, 0, False))
