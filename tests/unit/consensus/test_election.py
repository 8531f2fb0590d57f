"""Fast leader election, rule by rule."""

import pytest
from tests.unit.consensus.harness import Ensemble, Solo, entries, zxid

from quorate.consensus.zab.election import FINALIZE_WAIT, NO_VOTE, RESEND_MIN
from quorate.consensus.zab.messages import Notification, State, Vote
from quorate.runtime.environment import MILLISECOND

SECOND = 1000 * MILLISECOND


def notified(solo: Solo, channel: int) -> list[Notification]:
    return [message for message in solo.take(channel) if isinstance(message, Notification)]


# ---- the order of votes


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (Vote(9, zxid(5, 9), 1), Vote(1, zxid(1, 1), 2)),
        (Vote(9, zxid(1, 1), 2), Vote(1, zxid(1, 2), 2)),
        (Vote(1, zxid(1, 2), 2), Vote(2, zxid(1, 2), 2)),
    ],
    ids=["epoch before zxid", "zxid before sid", "sid last"],
)
def test_votes_are_ordered_by_epoch_zxid_sid(worse: Vote, better: Vote) -> None:
    assert worse.order() < better.order()


def test_a_better_vote_is_adopted_and_told_to_all() -> None:
    solo = Solo(1, voters=(1, 2, 3, 4, 5))
    solo.sent.clear()
    better = Vote(3, zxid(1, 1), 1)
    solo.look(3, better)
    for sid in (2, 3, 4, 5):
        assert [message.vote for message in notified(solo, sid)] == [better]
    solo.look(2, Vote(2, 0, 0))
    assert solo.peer.election.vote == better


def test_the_member_with_the_most_recent_history_is_elected() -> None:
    ensemble = Ensemble()
    for sid, count in ((1, 5), (2, 7), (3, 6)):
        ensemble.stores[sid].log = entries(1, 1, count)
        ensemble.stores[sid].accepted_epoch = ensemble.stores[sid].current_epoch = 1
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    assert ensemble.leader().sid == 2
    assert ensemble.members[1].applied == ensemble.members[3].applied == [zxid(1, n) for n in range(1, 8)]


# ---- rounds


def test_a_newer_round_is_joined_with_the_better_of_its_vote_and_our_own() -> None:
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1, 3}))
    solo.look(3, Vote(3, zxid(1, 1), 1))
    assert solo.peer.election.vote.leader == 3
    solo.sent.clear()
    solo.look(1, Vote(1, 0, 0), round=7)
    # the vote adopted in the old round is forgotten with it
    assert solo.peer.election.round == 7
    assert solo.peer.election.vote == Vote(2, 0, 0)
    assert [(message.round, message.vote.leader) for message in notified(solo, 1)] == [(7, 2)]


def test_an_older_round_is_answered_and_not_counted() -> None:
    solo = Solo(2)
    solo.look(3, Vote(3, 0, 0), round=5)
    solo.sent.clear()
    solo.look(1, Vote(3, 0, 0), round=4)
    assert [message.round for message in notified(solo, 1)] == [5]
    assert notified(solo, 3) == []


def test_a_worse_vote_of_the_round_is_answered() -> None:
    """Its sender followed when we told it ours, and forgot it: it would wait for the next repetition."""
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1, 3}))
    solo.drain()
    solo.sent.clear()
    for _ in range(2):
        solo.look(1, Vote(1, 0, 0))
        assert [message.vote for message in notified(solo, 1)] == [Vote(2, 0, 0)]
    assert notified(solo, 3) == []


def test_the_first_equal_vote_of_the_round_is_answered_once() -> None:
    solo = Solo(2, voters=(1, 2, 3, 4, 5))
    solo.sent.clear()
    solo.look(1, Vote(2, 0, 0))
    assert len(notified(solo, 1)) == 1
    solo.look(1, Vote(2, 0, 0))
    assert notified(solo, 1) == []


def test_a_vote_without_a_history_or_for_a_stranger_is_ignored() -> None:
    solo = Solo(2)
    solo.look(3, Vote(3, -1, 9))
    solo.look(3, Vote(8, zxid(9, 9), 9))
    assert solo.peer.election.vote == Vote(2, 0, 0)


def test_votes_are_repeated_while_nothing_happens() -> None:
    solo = Solo(1)
    solo.sent.clear()
    solo.tick(RESEND_MIN - 1)
    assert notified(solo, 2) == []
    solo.tick(1)
    assert len(notified(solo, 2)) == len(notified(solo, 3)) == 1
    solo.tick(2 * RESEND_MIN - 1)
    assert notified(solo, 2) == []


def test_a_member_that_becomes_reachable_is_told_our_vote() -> None:
    solo = Solo(1)
    solo.sent.clear()
    solo.peer.reachable(0, frozenset({3}))
    solo.drain()
    assert len(notified(solo, 3)) == 1
    assert notified(solo, 2) == []


# ---- the end of an election


def test_it_ends_at_once_when_all_that_are_reachable_voted() -> None:
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1}))
    solo.look(1, Vote(2, 0, 0))
    assert solo.role.state == State.LEADING


def test_it_waits_for_a_better_vote_of_a_member_that_is_reachable() -> None:
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1, 3}))
    solo.look(1, Vote(2, 0, 0))
    assert solo.role.state == State.LOOKING
    solo.tick(FINALIZE_WAIT // 2)
    solo.look(3, Vote(3, 0, 0))
    assert (solo.role.state, solo.role.leader) == (State.FOLLOWING, 3)


def test_it_ends_after_the_wait_if_the_reachable_one_stays_silent() -> None:
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1, 3}))
    solo.look(1, Vote(2, 0, 0))
    solo.tick(FINALIZE_WAIT - 1)
    assert solo.role.state == State.LOOKING
    solo.tick(1)
    assert solo.role.state == State.LEADING


def test_it_ends_when_the_silent_one_is_gone() -> None:
    solo = Solo(2)
    solo.peer.reachable(0, frozenset({1, 3}))
    solo.look(1, Vote(2, 0, 0))
    solo.peer.reachable(0, frozenset({1}))
    solo.drain()
    assert solo.role.state == State.LEADING


def test_a_minority_elects_nobody() -> None:
    solo = Solo(5, voters=(1, 2, 3, 4, 5))
    solo.peer.reachable(0, frozenset({1}))
    solo.look(1, Vote(5, 0, 0))
    solo.tick(60 * SECOND)
    assert solo.role.state == State.LOOKING


# ---- settled members


def test_a_settled_member_answers_those_that_look() -> None:
    solo = Solo(3)
    solo.lead()
    solo.sent.clear()
    solo.look(1, Vote(1, 0, 0), round=1)
    (answer,) = notified(solo, 1)
    assert (answer.state, answer.vote.leader) == (State.LEADING, 3)
    solo.receive(1, Notification(State.FOLLOWING, Vote(3, 0, 0), 1))
    assert notified(solo, 1) == []


def test_joins_the_leader_that_it_and_those_behind_it_make_a_quorum_for() -> None:
    solo = Solo(1, voters=(1, 2, 3, 4, 5))
    vote = Vote(5, 0, 4)
    solo.receive(5, Notification(State.LEADING, vote, 9))
    assert solo.role.state == State.LOOKING
    solo.receive(4, Notification(State.FOLLOWING, Vote(5, 77, 4), 8))
    assert (solo.role.state, solo.role.leader) == (State.FOLLOWING, 5)


def test_a_leader_that_lacks_us_alone_is_joined() -> None:
    """It would wait for initLimit, and we for it."""
    solo = Solo(1)
    solo.receive(3, Notification(State.LEADING, Vote(3, 0, 0), 9))
    assert (solo.role.state, solo.role.leader) == (State.FOLLOWING, 3)


def test_a_leader_is_not_joined_on_hearsay() -> None:
    solo = Solo(1, voters=(1, 2, 3, 4, 5))
    for sid in (2, 3, 4):
        solo.receive(sid, Notification(State.FOLLOWING, Vote(5, 0, 4), 9))
    assert solo.role.state == State.LOOKING
    solo.receive(5, Notification(State.LEADING, Vote(5, 0, 4), 9))
    assert (solo.role.state, solo.role.leader) == (State.FOLLOWING, 5)


def test_the_former_leader_does_not_lead_on_the_word_of_an_earlier_round() -> None:
    solo = Solo(3)
    solo.receive(1, Notification(State.FOLLOWING, Vote(3, 0, 4), 9))
    solo.receive(2, Notification(State.FOLLOWING, Vote(3, 0, 4), 9))
    assert solo.role.state == State.LOOKING


def test_established_members_report_one_and_the_same_vote() -> None:
    ensemble = Ensemble()
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    votes = {(m.peer.election.vote.leader, m.peer.election.vote.epoch) for m in ensemble.members.values()}
    assert votes == {(3, 1)}


def test_a_member_joins_an_established_ensemble_without_disturbing_it() -> None:
    ensemble = Ensemble()
    ensemble.start(1, 2)
    ensemble.wait(SECOND)
    assert ensemble.leader().sid == 2
    ensemble.start(3)
    ensemble.wait(SECOND)
    assert ensemble.established(1, 2, 3)
    assert ensemble.leader().sid == 2
    assert ensemble.leader().role.epoch == 1


def test_an_observer_votes_for_nobody_and_finds_the_leader() -> None:
    ensemble = Ensemble(observers=(4,))
    ensemble.start(4)
    ensemble.wait(SECOND)
    assert {m.vote.leader for m in ensemble.members[4].sent if isinstance(m, Notification)} <= {NO_VOTE}
    ensemble.start(1, 2, 3)
    ensemble.wait(SECOND)
    assert ensemble.members[4].role.state == State.OBSERVING
    assert ensemble.established(1, 2, 3, 4)


def test_an_observer_counts_for_no_quorum() -> None:
    ensemble = Ensemble(observers=(4,))
    ensemble.start(1, 4)
    ensemble.wait(10 * SECOND)
    assert ensemble.members[1].role.state == State.LOOKING
    assert ensemble.members[4].role.state == State.LOOKING
