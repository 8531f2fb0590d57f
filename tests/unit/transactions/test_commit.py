"""What a program is told, and what each participant ends as: every vote, with every failure, at every place."""

import itertools
from typing import Any

import pytest
from tests.unit.transactions.memory import Memory, MemoryLog, OnePhaseMemory, Store, World

from quorate.transactions.commit import Part, commit
from quorate.transactions.errors import (
    Aborted,
    ConnectionBroken,
    HeuristicOutcome,
    InDoubt,
    NotYetApplied,
    ParticipantError,
    VotedNo,
)
from quorate.transactions.participant import Branch, Vote
from quorate.transactions.records import Decision
from quorate.transactions.recovery import sweep

LOST = ConnectionBroken("lost")


class Case:
    """Two participants, ``a`` and ``b``, whose branches are at work."""

    def __init__(self, votes: tuple[Vote, Vote] = (Vote.YES, Vote.YES), timeout: float = 5.0) -> None:
        self.world = World()
        self.log = MemoryLog()
        self.a, self.b = (Memory(Store(name), vote) for name, vote in zip("ab", votes, strict=True))
        self.gtid = self.world.gtid(timeout)
        self.parts = []
        for participant in (self.a, self.b):
            branch = Branch(self.gtid, participant.name)
            participant.begin(branch)
            self.parts.append(Part(branch, participant))

    def commit(self, **more: Any) -> str:
        """What the program is told."""
        try:
            self.world.run(commit(self.gtid, self.parts, self.log, "me", **more))
        except Aborted:
            return "aborted"
        except HeuristicOutcome:
            return "heuristic"
        except NotYetApplied:
            return "committed"
        except InDoubt:
            return "in doubt"
        return "committed"

    def ends(self) -> tuple[str, str]:
        return self.a.store.branches[self.gtid.text], self.b.store.branches[self.gtid.text]

    def recover(self, after: float = 10.0, times: int = 2) -> Any:
        """Sweeps of another process, that comes later."""
        self.world.time += after
        others = {one.name: Memory(one.store) for one in (self.a, self.b)}
        for _ in range(times):
            report = self.world.run(sweep(others, self.log, "unit", "other"))
        return report


@pytest.mark.parametrize("votes", list(itertools.product(Vote, repeat=2)))
def test_votes(votes: tuple[Vote, Vote]) -> None:
    case = Case(votes)
    told = case.commit()
    if Vote.NO in votes:
        assert told == "aborted"
        assert "committed" not in case.ends()
        assert case.log.kept == {}
    else:
        assert told == "committed"
        assert case.ends() == tuple("committed" if vote is Vote.YES else "read only" for vote in votes)
        assert len(case.log.kept) == (Vote.YES in votes)
    assert "prepared" not in case.ends()


FAILING = [
    *itertools.product(["prepare"], ["before", "after"], [LOST, ValueError("odd"), VotedNo("no")]),
    *itertools.product(["commit"], ["before", "after"], [LOST, ValueError("odd")]),
]


@pytest.mark.parametrize(("method", "when", "error"), FAILING)
def test_a_failure_is_all_or_nothing_and_recovery_ends_it(method: str, when: str, error: Exception) -> None:
    """It goes on failing until another process recovers."""
    case = Case()
    (case.a.fails if when == "before" else case.a.after)[method] = error
    told = case.commit()
    assert told == ("aborted" if method == "prepare" else "committed")
    assert not case.recover().heuristic
    assert case.ends() == (("committed",) * 2 if told == "committed" else (case.ends()[0], "rolled back"))
    assert case.ends()[0] in (("active", "rolled back") if told == "aborted" else ("committed",))


@pytest.mark.parametrize("lost", [["before"], ["after"], ["after", "before"], ["before", "after"]])
def test_a_decision_is_asked_for_until_it_is_known(lost: list[str]) -> None:
    case = Case()
    case.log.loses = list(lost)
    assert case.commit() == "committed"
    assert case.ends() == ("committed", "committed")
    (record,) = case.log.kept.values()
    assert record.decision is Decision.COMMIT


@pytest.mark.parametrize("written", ["before", "after"])
def test_whoever_does_not_know_the_decision_tells_nobody_anything(written: str) -> None:
    case = Case()
    case.log.loses = [written, *["before"] * 100]
    assert case.commit() == "in doubt"
    assert case.ends() == ("prepared", "prepared")
    case.log.loses = []
    case.recover()
    assert set(case.ends()) == {"committed" if written == "after" else "rolled back"}


def test_what_is_decided_against_is_rolled_back_whoever_decided() -> None:
    case = Case()
    case.log.hook = lambda method: case.log.kept.update(stands) if method == "decide" else None
    other = Case()
    other.log.loses = ["before"] * 100
    stands: dict[str, Any] = {}
    other.commit()
    other.log.loses = []
    other.recover(times=1)
    stands.update(other.log.kept)
    assert other.gtid == case.gtid
    assert case.commit() == "aborted"
    assert case.ends() == ("rolled back", "rolled back")


def test_the_deadline_is_looked_at_before_the_decision_and_not_after() -> None:
    def late(at: str) -> Case:
        case = Case()

        def pass_time(method: str) -> None:
            if method == at:
                case.world.time += 5.0

        case.a.hook = case.log.hook = pass_time
        return case

    assert late("prepare").commit() == "aborted"
    case = late("decide")
    assert case.commit() == "committed"
    assert case.ends() == ("committed", "committed")


def test_a_condition_that_does_not_hold_is_a_no() -> None:
    def refused() -> None:
        raise VotedNo("changed meanwhile")

    case = Case()
    assert case.commit(riding=refused) == "aborted"
    assert case.ends() == ("rolled back", "rolled back")


# ---- heuristics


def test_a_branch_that_was_committed_by_hand_while_it_was_aborted_is_told_and_written_down() -> None:
    """The vote of ``b`` is no; an operator was faster with ``a``."""
    case = Case((Vote.YES, Vote.NO))
    case.a.hook = lambda method: case.a.store.by_hand(case.gtid, "committed") if method == "rollback" else None
    with pytest.raises(HeuristicOutcome, match="decided to abort, but a committed") as told:
        case.world.run(commit(case.gtid, case.parts, case.log, "me"))
    assert told.value.recorded
    (record,) = case.log.kept.values()
    assert (record.decision, record.heuristic) == (Decision.ABORT, {"a": "committed"})
    case.recover(after=1000.0)
    assert [record.heuristic for record in case.log.kept.values()] == [{"a": "committed"}]


def test_a_branch_that_was_rolled_back_by_hand_is_told_and_written_down_at_once() -> None:
    case = Case()
    case.a.hook = lambda method: case.a.store.by_hand(case.gtid, "rolled back") if method == "commit" else None
    with pytest.raises(HeuristicOutcome, match="decided to commit, but a rolled back"):
        case.world.run(commit(case.gtid, case.parts, case.log, "me"))
    (record,) = case.log.kept.values()
    assert (record.decision, record.heuristic) == (Decision.COMMIT, {"a": "rolled back"})


def test_what_cannot_be_written_down_is_told_all_the_same() -> None:
    case = Case((Vote.YES, Vote.NO))

    def strike(method: str) -> None:
        if method == "rollback":
            case.a.store.by_hand(case.gtid, "committed")
            case.log.down = True

    case.a.hook = strike
    with pytest.raises(HeuristicOutcome, match="the decision log could not be told") as told:
        case.world.run(commit(case.gtid, case.parts, case.log, "me"))
    assert not told.value.recorded


def test_an_abort_that_did_not_get_through_is_written_down_so_that_recovery_need_not_wait() -> None:
    """An hour's transaction: its branch would stay prepared for an hour."""
    case = Case((Vote.YES, Vote.NO), timeout=3600.0)
    case.a.fails["rollback"] = LOST
    assert case.commit() == "aborted"
    assert case.ends()[0] == "prepared"
    case.recover(after=1.0, times=1)
    assert case.ends()[0] == "rolled back"


def test_nothing_is_written_of_an_abort_that_got_through() -> None:
    case = Case((Vote.YES, Vote.NO))
    assert case.commit() == "aborted"
    assert case.log.calls == []


def test_whoever_slept_until_all_was_over_sees_no_heuristic_outcome_in_what_is_forgotten() -> None:
    """Recovery commits, closes and forgets it, and the participant tidies up, while its coordinator sleeps before its first commit."""
    case = Case()

    def sleeps(method: str) -> None:
        if method == "commit" and case.log.kept:
            case.a.hook = lambda method: None
            case.recover(after=100.0)
            assert case.log.kept == {}
            for one in (case.a, case.b):
                one.store.branches[case.gtid.text] = "forgotten"

    case.a.hook = sleeps
    assert case.commit() == "committed"


# ---- one phase


class Single:
    def __init__(self, vote: Vote = Vote.YES) -> None:
        self.world = World()
        self.log = MemoryLog()
        self.one = OnePhaseMemory(Store("a"), vote)
        self.gtid = self.world.gtid()
        self.branch = Branch(self.gtid, "a")
        self.one.begin(self.branch)

    def commit(self) -> None:
        self.world.run(commit(self.gtid, [Part(self.branch, self.one)], self.log, "me"))


def test_one_participant_commits_in_one_phase() -> None:
    single = Single()
    single.commit()
    assert single.one.calls == ["one phase"]
    assert single.log.calls == []


@pytest.mark.parametrize("error", [LOST, ValueError("odd"), ParticipantError("of a statement after the commit")])
def test_an_error_after_a_commit_in_one_phase_is_not_taken_for_an_abort(error: Exception) -> None:
    single = Single()
    single.one.after["one phase"] = error
    single.commit()
    assert single.one.store.branches[single.gtid.text] == "committed"


@pytest.mark.parametrize("error", [ValueError("odd"), ParticipantError("refused"), VotedNo("no")])
def test_an_error_before_it_rolls_back(error: Exception) -> None:
    single = Single()
    single.one.fails["one phase"] = error
    with pytest.raises(Aborted):
        single.commit()
    assert single.one.store.branches[single.gtid.text] == "rolled back"
    assert single.world.time < single.gtid.deadline


def test_a_lost_answer_in_one_phase_is_asked_for() -> None:
    single = Single()
    single.one.fails["one phase"] = LOST
    single.one.hook = lambda method: single.one.store.branches.update({single.gtid.text: "rolled back"})
    with pytest.raises(Aborted):
        single.commit()


def test_an_outcome_that_cannot_be_told_is_in_doubt() -> None:
    single = Single()
    single.one.fails["one phase"] = LOST
    with pytest.raises(InDoubt):
        single.commit()


def test_who_asks_for_an_outcome_after_a_long_sleep_does_not_believe_an_abort() -> None:
    """What became of it is not remembered for ever: there is no record of it."""
    single = Single()
    single.one.after["one phase"] = LOST

    def sleeps(method: str) -> None:
        if method == "outcome":
            single.world.time += 3600.0
            single.one.store.branches[single.gtid.text] = "forgotten"

    single.one.hook = sleeps
    with pytest.raises(InDoubt):
        single.commit()
