"""Broadcast: proposals, acknowledgements, commits, and the leader's and learners' ways out of it."""

import pytest
from tests.unit.consensus.harness import SYNC_LIMIT, TICK, Ensemble, Solo, entries, zxid

from quorate.consensus.zab.messages import (
    LAST_COUNTER,
    REQUEST,
    SYNC,
    AckEpoch,
    Acks,
    Commits,
    Diff,
    Entry,
    FollowerInfo,
    NewLeader,
    Ping,
    Proposals,
    Service,
    State,
    UpToDate,
    Vote,
    first_zxid,
)
from quorate.consensus.zab.peer import CONNECT_ATTEMPTS, CONNECT_ATTEMPTS_UNHEARD, CONNECT_RETRY_MAX
from quorate.consensus.zab.replica import Append, LearnerLost, Received, Synced, Touched
from quorate.errors import LocalProtocolError, RemoteProtocolError
from quorate.runtime.environment import MILLISECOND

SECOND = 1000 * MILLISECOND


def leader(voters: int = 3, observers: int = 0) -> Solo:
    """Sid 9 leads epoch 1; followers 1, 2, ... are on links -1, -2, ..., as many as a quorum needs."""
    sids = range(1, voters)
    solo = Solo(9, voters=(*sids, 9), observers=range(20, 20 + observers))
    solo.lead()
    followers = range(1, voters // 2 + 1)
    for sid in followers:
        solo.inform(-sid, sid)
    solo.persist()
    for sid in followers:
        solo.receive(-sid, AckEpoch(0, 0))
    solo.persist()
    for sid in followers:
        solo.receive(-sid, Acks(first_zxid(1), first_zxid(1)))
    assert solo.role.serving
    solo.sent.clear()
    return solo


def join(solo: Solo, link: int, sid: int, observer: bool = False) -> None:
    """A further learner, up to its acknowledgement of NEWLEADER."""
    solo.inform(link, sid, observer=observer)
    solo.receive(link, AckEpoch(0, 0))
    solo.receive(link, Acks(first_zxid(1), first_zxid(1)))


def first_vote(sid: int) -> Vote:
    return Vote(sid, 0, 0)


def test_one_write_and_one_message_carry_all_proposals_of_a_drain() -> None:
    solo = leader()
    assert [solo.peer.propose(b"%d" % n) for n in range(3)] == [zxid(1, 1), zxid(1, 2), zxid(1, 3)]
    assert solo.peer.next_zxid == zxid(1, 4)
    solo.drain()
    (write,) = solo.writes
    assert isinstance(write, Append)
    assert [entry.payload for entry in write.entries] == [b"0", b"1", b"2"]
    assert solo.take(-1) == [Proposals(write.entries)]


def test_a_proposal_leaves_before_it_is_durable_here_but_is_not_counted() -> None:
    solo = leader()
    solo.peer.propose(b"a")
    solo.drain()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == []
    solo.persist()
    assert solo.applied() == [zxid(1, 1)]
    assert solo.take(-1)[-1] == Commits(zxid(1, 1), zxid(1, 1))


def test_nothing_is_committed_without_a_quorum() -> None:
    solo = leader(5)
    solo.peer.propose(b"a")
    solo.drain()
    solo.persist()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == []
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == [], "the same follower twice"
    solo.receive(-2, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == [zxid(1, 1)]


def test_a_quorum_commits_as_far_as_it_has_all_of_it() -> None:
    solo = leader(5)
    for _ in range(5):
        solo.peer.propose(b"a")
    solo.drain()
    solo.persist()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 5)))
    solo.receive(-2, Acks(zxid(1, 1), zxid(1, 2)))
    assert solo.applied() == [zxid(1, 1), zxid(1, 2)]


def test_an_observer_is_informed_of_what_is_committed_and_counts_for_nothing() -> None:
    solo = leader(observers=1)
    join(solo, -5, 20, observer=True)
    solo.sent.clear()
    solo.peer.propose(b"a")
    solo.drain()
    solo.persist()
    assert solo.take(-5) == []
    solo.receive(-5, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == []
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    (inform,) = solo.take(-5)
    assert isinstance(inform, Proposals)
    assert inform.inform


def test_a_late_learner_gets_what_is_uncommitted_and_then_the_broadcast() -> None:
    solo = leader()
    solo.peer.propose(b"a")
    solo.drain()
    solo.persist()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    solo.peer.propose(b"b")
    solo.drain()
    solo.inform(-2, 2)
    solo.take(-2)
    solo.receive(-2, AckEpoch(0, 0))
    sent = solo.take(-2)
    assert [type(message) for message in sent] == [Diff, Proposals, Commits, NewLeader]
    assert sent[2] == Commits(zxid(1, 1), zxid(1, 1))
    solo.peer.propose(b"c")
    solo.drain()
    (proposals,) = solo.take(-2)
    assert isinstance(proposals, Proposals)
    assert [entry.zxid for entry in proposals.entries] == [zxid(1, 3)]
    solo.receive(-2, Acks(first_zxid(1), first_zxid(1)))
    assert solo.take(-2) == [UpToDate()]


@pytest.mark.parametrize("acks", [Acks(zxid(1, 1), zxid(1, 9)), Acks(zxid(2, 1), zxid(2, 1))])
def test_an_acknowledgement_of_what_was_never_proposed_is_the_learners_fault(acks: Acks) -> None:
    solo = leader()
    with pytest.raises(RemoteProtocolError, match="never proposed"):
        solo.peer.receive(-1, acks)


# ---- the follower


def test_a_follower_acknowledges_when_its_log_is_durable() -> None:
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.sent.clear()
    solo.receive(-1, Proposals(entries(1, 1, 2)))
    solo.receive(-1, Proposals(entries(1, 3, 3)))
    assert len(solo.writes) == 2
    assert solo.take(-1) == []
    solo.persist(1)
    assert solo.take(-1) == [Acks(zxid(1, 1), zxid(1, 2))]
    solo.persist()
    assert solo.take(-1) == [Acks(zxid(1, 3), zxid(1, 3))]


def test_a_follower_delivers_what_is_committed_and_no_more() -> None:
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.receive(-1, Proposals(entries(1, 1, 3)), Commits(zxid(1, 1), zxid(1, 2)))
    assert solo.applied() == [zxid(1, 1), zxid(1, 2)]


def test_a_repeated_proposal_in_broadcast_is_the_leaders_fault() -> None:
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.receive(-1, Proposals(entries(1, 1, 3)))
    with pytest.raises(RemoteProtocolError):
        solo.peer.receive(-1, Proposals(entries(1, 3, 3)))


def test_a_follower_without_word_from_its_leader_looks_for_another() -> None:
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.tick(SYNC_LIMIT * TICK - 1)
    solo.receive(-1, Ping(0))
    solo.tick(SYNC_LIMIT * TICK - 1)
    assert solo.role.serving
    solo.tick(1)
    assert solo.role.state == State.LOOKING
    assert solo.disconnects == [-1]


def test_a_ping_is_answered() -> None:
    solo = Solo(1)
    solo.serve(3, 1, Diff(0))
    solo.sent.clear()
    solo.receive(-1, Ping(zxid(1, 7)))
    assert solo.take(-1) == [Ping(zxid(1, 7), b"")]


# ---- the leader's learners


def test_learners_are_pinged_twice_a_tick_and_silent_ones_dropped() -> None:
    solo = leader()
    join(solo, -2, 2)
    solo.sent.clear()
    for _ in range(2 * SYNC_LIMIT):
        solo.tick(TICK // 2)
        assert Ping(first_zxid(1)) in solo.take(-1)
        solo.receive(-1, Ping(0, b"x"))
    solo.tick(TICK // 2)
    assert solo.disconnects == [-2]
    assert LearnerLost(-2) in solo.events
    assert Touched(-1, b"x") in solo.events
    assert solo.role.serving


def test_a_leader_steps_down_when_its_followers_fall_silent() -> None:
    solo = leader()
    solo.peer.propose(b"a")
    for _ in range(2 * SYNC_LIMIT + 1):
        solo.tick(TICK // 2)
    assert solo.role.state == State.LOOKING
    assert not solo.peer.leading
    with pytest.raises(LocalProtocolError):
        solo.peer.propose(b"b")


def test_a_leader_steps_down_as_soon_as_too_few_are_connected() -> None:
    solo = leader(5)
    join(solo, -3, 3)
    solo.peer.disconnected(solo.now, -1)
    solo.drain()
    assert solo.role.serving
    solo.peer.disconnected(solo.now, -2)
    solo.drain()
    assert solo.role.state == State.LOOKING


def test_what_a_leader_proposed_gets_to_its_log_when_it_steps_down() -> None:
    solo = leader()
    solo.peer.propose(b"a")
    solo.peer.disconnected(solo.now, -1)
    solo.drain()
    assert solo.role.state == State.LOOKING
    assert solo.peer.replica.history.last == zxid(1, 1)
    assert [type(write) for write in solo.persist()] == [Append]
    assert solo.applied() == []


def test_the_last_zxid_of_an_epoch_ends_it() -> None:
    solo = leader()
    assert solo.peer.leader is not None
    # as if 2**32 - 2 proposals had been made
    solo.peer.replica.history = solo.peer.replica.history.replacement(zxid(1, LAST_COUNTER - 1))
    solo.peer.leader.last_proposed = zxid(1, LAST_COUNTER - 1)
    assert solo.peer.propose(b"last") == zxid(1, LAST_COUNTER)
    assert not solo.peer.leading
    with pytest.raises(LocalProtocolError):
        solo.peer.propose(b"one more")
    solo.tick(1)
    assert solo.role.state == State.LOOKING
    assert [type(write) for write in solo.persist()] == [Append]


# ---- the service's messages


def test_a_sync_waits_for_what_was_proposed_before_it() -> None:
    solo = leader()
    solo.peer.sync(0, "early")
    solo.drain()
    assert solo.events[-1] == Synced(0, "early")
    solo.peer.propose(b"a")
    solo.peer.sync(0, "late")
    solo.peer.propose(b"b")
    solo.drain()
    solo.persist()
    assert Synced(0, "late") not in solo.events
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    assert solo.applied() == [zxid(1, 1)]
    assert solo.events[-1] == Synced(0, "late")


def test_a_sync_has_its_place_among_what_is_committed_at_once() -> None:
    """A client hears of what it asked for in that order, so nothing that was asked after the sync may be applied before it."""
    solo = leader()
    join(solo, -2, 2)
    solo.drain()
    solo.sent.clear()
    before = len(solo.events)
    solo.peer.propose(b"a")
    solo.peer.sync(0, "here")
    solo.peer.sync(-1, "there")
    solo.peer.propose(b"b")
    solo.drain()
    solo.persist()
    solo.sent.clear()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 2)))
    solo.drain()
    told = [event.zxid if isinstance(event, Entry) else event for event in solo.events[before:]]
    assert told == [zxid(1, 1), Synced(0, "here"), zxid(1, 2)]
    one, two = Commits(zxid(1, 1), zxid(1, 1)), Commits(zxid(1, 2), zxid(1, 2))
    assert solo.take(-1) == [one, Service(SYNC, None, zxid=0), two]
    assert solo.take(-2) == [one, two]


def test_the_sync_of_a_learner_that_is_gone_is_nobodys() -> None:
    solo = leader()
    solo.peer.propose(b"a")
    solo.peer.sync(-2, "there")
    solo.drain()
    solo.persist()
    solo.sent.clear()
    solo.receive(-1, Acks(zxid(1, 1), zxid(1, 1)))
    solo.drain()
    assert not any(isinstance(event, Synced) for event in solo.events)
    assert solo.take(-1) == [Commits(zxid(1, 1), zxid(1, 1))]


def test_requests_travel_between_a_learner_in_sync_and_its_leader() -> None:
    request, answer = Service(REQUEST, b"r"), Service(SYNC, b"a")
    solo = leader()
    solo.receive(-1, request)
    assert solo.events[-1] == Received(-1, request)
    solo.peer.send_to_learner(-1, answer)
    solo.peer.send_to_learner(-77, answer)
    solo.drain()
    assert solo.take(-1) == [answer]
    solo.inform(-2, 2)
    with pytest.raises(RemoteProtocolError, match="before it is in sync"):
        solo.peer.receive(-2, request)


def test_a_request_needs_a_leader() -> None:
    solo = Solo(1)
    with pytest.raises(LocalProtocolError):
        solo.peer.send_to_leader(Service(REQUEST, b""))
    solo.follow(3)
    with pytest.raises(LocalProtocolError):
        solo.peer.send_to_leader(Service(REQUEST, b""))
    with pytest.raises(LocalProtocolError):
        solo.peer.sync(-1, "key")
    with pytest.raises(LocalProtocolError):
        solo.peer.propose(b"")


# ---- dials


def test_a_leader_that_is_dead_is_given_up_soon() -> None:
    solo = Solo(1)
    solo.peer.reachable(0, frozenset({2, 3}))
    for sid in (2, 3):
        solo.look(sid, first_vote(3))
    solo.peer.reachable(0, frozenset({2}))
    for _ in range(CONNECT_ATTEMPTS_UNHEARD):
        assert solo.role.state == State.FOLLOWING
        solo.peer.dial_failed(solo.now)
        solo.drain()
        if solo.role.state == State.FOLLOWING:
            solo.tick(CONNECT_RETRY_MAX)
    assert solo.role.state == State.LOOKING


def test_a_leader_that_does_not_lead_yet_is_called_again() -> None:
    solo = Solo(1)
    solo.follow(3)
    for attempt in range(2, CONNECT_ATTEMPTS + 1):
        solo.peer.disconnected(solo.now, -attempt + 1)
        solo.drain()
        solo.tick(CONNECT_RETRY_MAX)
        assert len(solo.dialled) == attempt
        solo.peer.connected(solo.now, -attempt)
        solo.drain()
        assert FollowerInfo(1, 0, False) in solo.take(-attempt)
    solo.peer.disconnected(solo.now, -CONNECT_ATTEMPTS)
    solo.drain()
    assert solo.role.state == State.LOOKING


def test_a_leader_that_looks_again_is_not_waited_for() -> None:
    solo = Solo(1)
    solo.follow(3)
    solo.look(3, first_vote(3), round=solo.peer.election.round)
    assert solo.role.state == State.FOLLOWING, "it may not have settled yet"
    solo.look(3, first_vote(3), round=solo.peer.election.round + 1)
    assert solo.role.state == State.LOOKING


def test_nobody_is_let_in_by_a_member_that_does_not_lead() -> None:
    solo = Solo(1)
    solo.peer.accepted(0, -1)
    solo.drain()
    assert solo.disconnects == [-1]


# ---- whole ensembles


def test_a_follower_with_a_longer_tail_than_the_new_leader_is_truncated() -> None:
    ensemble = Ensemble()
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    ensemble.propose(2)
    ensemble.run()
    # the leader logs two more that nobody else gets
    for other in (1, 2):
        ensemble.drop_links(3, other)
    ensemble.members[3].store.log += entries(1, 3, 4)
    ensemble.crash(3)
    ensemble.wait(SECOND, lambda: ensemble.established(1, 2))
    ensemble.propose(1)
    ensemble.run()
    ensemble.start(3)
    ensemble.wait(SECOND, lambda: ensemble.established(1, 2, 3))
    assert [entry.zxid for entry in ensemble.stores[3].log] == [zxid(1, 1), zxid(1, 2), zxid(2, 1)]
    assert ensemble.members[3].applied == [zxid(1, 1), zxid(1, 2), zxid(2, 1)]
    assert ensemble.errors == []


def test_what_a_quorum_logged_survives_its_leader_uncommitted_as_it_was() -> None:
    ensemble = Ensemble()
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    ensemble.members[3].held = True
    ensemble.members[1].held = True
    (proposed,) = ensemble.propose(1)
    ensemble.run()
    assert ensemble.members[2].applied == []
    ensemble.crash(3)
    ensemble.members[1].held = False
    ensemble.wait(SECOND, lambda: ensemble.established(1, 2))
    assert ensemble.members[1].applied == ensemble.members[2].applied == [proposed]


def test_a_follower_that_fell_behind_the_window_gets_a_snapshot() -> None:
    ensemble = Ensemble(window=2)
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    ensemble.crash(1)
    ensemble.propose(9)
    ensemble.run()
    ensemble.start(1)
    ensemble.wait(SECOND, lambda: ensemble.established(1, 2, 3))
    assert ensemble.stores[1].base == zxid(1, 9)
    assert ensemble.errors == []


def test_a_leader_cut_from_its_followers_commits_nothing_and_follows_later() -> None:
    ensemble = Ensemble()
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    for other in (1, 2):
        ensemble.cut(3, other)
    ensemble.wait(SECOND)
    assert not ensemble.members[3].peer.leading
    assert ensemble.established(1, 2)
    for other in (1, 2):
        ensemble.join(3, other)
    ensemble.wait(3 * SECOND)
    assert ensemble.established(1, 2, 3)
    assert ensemble.leader().sid == 2


def test_acknowledgements_of_synced_proposals_may_come_before_newleaders() -> None:
    """Apache's followers acknowledge what they get during synchronisation too; it counts once they are in sync."""
    solo = leader()
    solo.peer.propose(b"a")
    solo.drain()
    solo.persist()
    solo.inform(-2, 2)
    solo.receive(-2, AckEpoch(0, 0))
    solo.receive(-2, Acks(zxid(0, 7), zxid(0, 7)))
    solo.receive(-2, Acks(zxid(1, 1), zxid(1, 1)))
    assert zxid(1, 1) not in solo.applied()
    solo.receive(-2, Acks(first_zxid(1), first_zxid(1)))
    assert UpToDate() in solo.take(-2)
    assert zxid(1, 1) in solo.applied()
