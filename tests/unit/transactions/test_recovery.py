"""Recovery, over small participants and a log in memory: who is ended how, when, by whose clock, and what is written down of it."""

from typing import Any

import pytest
from tests.unit.transactions.memory import EPOCH, Memory, MemoryLog, Store, World

from quorate.errors import QuorateError, RemoteProtocolError
from quorate.transactions.commit import Part, commit
from quorate.transactions.errors import TransactionError
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.participant import Branch, Vote
from quorate.transactions.records import Decision, Record
from quorate.transactions.recovery import KEEP_SECONDS, Report, sweep


class Scene:
    """Participants ``a`` and ``b``; of each process its own views."""

    def __init__(self, *, tells: bool = True) -> None:
        self.world = World()
        self.log = MemoryLog()
        self.stores = {name: Store(name, tells) for name in "ab"}

    def views(self, names: str = "ab") -> dict[str, Memory]:
        return {name: Memory(self.stores[name]) for name in names}

    def prepared(self, gtid: Gtid, names: str = "ab") -> None:
        for name in names:
            self.stores[name].branches[gtid.text] = "prepared"

    def decided(self, gtid: Gtid, decision: Decision = Decision.COMMIT, names: str = "ab") -> Record:
        record = Record(gtid, decision, [Branch(gtid, name, "7") for name in names], self.world.time, "dead")
        self.log.kept[gtid.text] = record
        return record

    def state(self, gtid: Gtid) -> str:
        return " ".join(store.branches.get(gtid.text, "-") for store in self.stores.values())

    def sweep(self, views: dict[str, Memory] | None = None, skew: float = 0.0) -> Report:
        self.world.time += skew
        try:
            report: Report = self.world.run(sweep(views or self.views(), self.log, "unit", "sweeper"))
        finally:
            self.world.time -= skew
        return report

    def commits(self, gtid: Gtid) -> str:
        """A coordinator that has all prepared comes to its decision now."""
        parts = [Part(Branch(gtid, name, "7"), view) for name, view in self.views().items()]
        for part in parts:
            part.participant.prepare = lambda branch: Vote.YES
        try:
            self.world.run(commit(gtid, parts, self.log, "slow"))
        except TransactionError as error:
            return type(error).__name__
        return "committed"


@pytest.fixture
def scene() -> Scene:
    return Scene()


# ---- what is ended how


def test_the_undecided_are_left_alone_until_their_time_is_up(scene: Scene) -> None:
    gtid = scene.world.gtid(5.0)
    scene.prepared(gtid)
    scene.world.time += 6.0
    report = scene.sweep()
    assert scene.state(gtid) == "prepared prepared"
    assert scene.log.kept == {}
    assert [(of, at) for of, at, _ in report.in_doubt] == [(gtid.text, "a"), (gtid.text, "b")]
    scene.world.time += 2.0
    report = scene.sweep()
    assert scene.state(gtid) == "rolled back rolled back"
    assert scene.log.kept[gtid.text].decision is Decision.ABORT
    assert sorted(report.aborted) == [(gtid.text, "a"), (gtid.text, "b")]


@pytest.mark.parametrize(("decision", "end"), [(Decision.COMMIT, "committed"), (Decision.ABORT, "rolled back")])
def test_the_decided_follow_at_once(scene: Scene, decision: Decision, end: str) -> None:
    gtid = scene.world.gtid(3600.0)
    scene.prepared(gtid)
    scene.decided(gtid, decision)
    scene.sweep()
    assert scene.state(gtid) == f"{end} {end}"


def test_a_participant_that_was_down_for_an_hour_is_finished_when_it_returns(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.decided(gtid)
    for _ in range(60):
        views = scene.views()
        views["b"].down = True
        report = scene.sweep(views)
        assert "b" in report.unreachable
        scene.world.time += 60.0
    assert scene.state(gtid) == "committed prepared"
    assert not scene.log.kept[gtid.text].done
    report = scene.sweep()
    assert report.committed == [(gtid.text, "b")]
    scene.sweep()
    assert scene.state(gtid) == "committed committed"
    assert scene.log.kept == {}


def test_others_are_left_alone_and_reported(scene: Scene) -> None:
    gtid = scene.world.gtid(space="other")
    scene.prepared(gtid)
    scene.stores["a"].branches["by hand"] = "prepared"
    scene.world.time += 1000.0
    report = scene.sweep()
    assert scene.state(gtid) == "prepared prepared"
    assert sorted(report.foreign) == [("a", "by hand"), ("a", gtid.text), ("b", gtid.text)]


def test_a_commit_at_a_participant_that_nobody_here_knows_is_told_and_kept(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.decided(gtid)
    scene.world.time += 1000.0
    report = scene.sweep(scene.views("a"))
    assert report.unknown == [(gtid.text, "b")]
    scene.sweep(scene.views("a"))
    assert scene.state(gtid) == "committed prepared"
    assert gtid.text in scene.log.kept
    scene.sweep()
    assert scene.state(gtid) == "committed committed"


def test_a_sweep_that_dies_anywhere_is_taken_up_by_the_next() -> None:
    """At each call to a participant or to the log."""
    for decision in (None, Decision.COMMIT, Decision.ABORT):
        at = 0
        while True:
            scene = Scene()
            gtid = scene.world.gtid()
            scene.prepared(gtid)
            if decision is not None:
                scene.decided(gtid, decision)
            scene.world.time += 100.0
            if not _dies(scene, at):
                break
            at += 1
            for _ in range(3):
                scene.sweep()
            end = "committed" if decision is Decision.COMMIT else "rolled back"
            assert scene.state(gtid) == f"{end} {end}", at
            assert scene.log.kept == {}, at
        assert at > 8


class _Dies(BaseException):
    pass


def _dies(scene: Scene, at: int) -> bool:
    left = at

    def strike(method: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Dies

    views = scene.views()
    scene.log.hook = strike
    for view in views.values():
        view.hook = strike
    try:
        scene.sweep(views)
    except _Dies:
        return True
    finally:
        scene.log.hook = lambda method: None
    return False


def test_two_sweeps_at_once_end_the_same() -> None:
    """The second makes a whole round at each call of the first."""
    for decision in (None, Decision.COMMIT, Decision.ABORT):
        for at in range(40):
            scene = Scene()
            gtid = scene.world.gtid()
            scene.prepared(gtid)
            if decision is not None:
                scene.decided(gtid, decision)
            scene.world.time += 10.0
            report = _interrupted(scene, at)
            assert not report.heuristic, at
            scene.sweep()
            end = "committed" if decision is Decision.COMMIT else "rolled back"
            assert scene.state(gtid) == f"{end} {end}", at


def _interrupted(scene: Scene, at: int) -> Report:
    left = at

    def other(method: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            assert not scene.sweep(scene.views()).heuristic

    views = scene.views()
    for one in views.values():
        one.hook = other
    return scene.sweep(views)


# ---- coordinators that sleep, records that are forgotten, clocks


def test_a_coordinator_that_slept_loses_against_recovery(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.world.time += 10.0
    scene.sweep()
    scene.world.time = EPOCH
    assert scene.commits(gtid) == "Aborted"
    assert scene.state(gtid) == "rolled back rolled back"


def test_and_so_it_does_when_all_of_it_is_forgotten(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.world.time += 10.0
    scene.sweep()
    scene.world.time += KEEP_SECONDS
    scene.sweep()
    assert scene.log.kept == {}
    scene.world.time = EPOCH
    assert scene.commits(gtid) == "Aborted"
    assert scene.log.kept == {}


def test_what_is_not_finished_or_has_to_be_seen_is_not_forgotten(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.decided(gtid)
    scene.stores["a"].branches[gtid.text] = "rolled back"
    scene.stores["b"].branches[gtid.text] = "committed"
    scene.world.time += 10 * KEEP_SECONDS
    first = scene.sweep()
    assert first.heuristic == [(gtid.text, "a", "rolled back")]
    for _ in range(3):
        scene.world.time += KEEP_SECONDS
        scene.sweep()
    assert scene.log.kept[gtid.text].heuristic == {"a": "rolled back"}


def test_a_clock_that_is_a_day_ahead_does_not_stop_those_that_are_right(scene: Scene) -> None:
    """It forgets what is finished before its time; the horizon rises no higher than that."""
    gtid = scene.world.gtid()
    scene.decided(gtid)
    for store in scene.stores.values():
        store.branches[gtid.text] = "committed"
    for _ in range(2):
        scene.sweep(skew=86400.0)
    assert scene.log.kept == {}
    later = new("unit", scene.world.time + 1.0, 5.0, 2)
    scene.prepared(later)
    assert scene.commits(later) == "committed"


def test_a_transaction_of_a_clock_that_was_years_ahead_does_not_stay_prepared_for_years(scene: Scene) -> None:
    gtid = new("unit", scene.world.time + 5e7, 5.0, 3)
    scene.prepared(gtid)
    scene.sweep()
    assert scene.state(gtid) == "rolled back rolled back"


def test_what_has_been_prepared_for_longer_than_it_was_to_last_is_late_whatever_the_clock_says(scene: Scene) -> None:
    gtid = new("unit", scene.world.time + 30.0, 5.0, 4)
    scene.prepared(gtid)
    views = scene.views()
    for view in views.values():
        listed = view.recover

        def aged(listed: Any = listed) -> Any:
            found = listed()
            for prepared in found:
                prepared.age = 8.0
            return found

        view.recover = aged  # type: ignore[method-assign]  # of this one
    scene.sweep(views)
    assert scene.state(gtid) == "rolled back rolled back"


def test_participants_tidy_only_below_what_nobody_can_decide_any_more(scene: Scene) -> None:
    """A coordinator whose clock is slow decides between the sweep's look at the decisions and its end: its witnesses are asked for yet."""
    old, slow = scene.world.gtid(random=5), new("unit", scene.world.time - 1.0, 5.0, 6)
    scene.decided(old).done = True
    views = scene.views()

    def decides(method: str) -> None:
        if method == "recover":
            scene.decided(slow)

    views["a"].hook = decides
    scene.world.time += 1000.0
    scene.sweep(views)
    assert scene.stores["a"].tidied == [slow.deadline]


def test_nobody_tidies_by_the_clock_alone(scene: Scene) -> None:
    scene.sweep(skew=1e6)
    assert scene.stores["a"].tidied == [0.0]


def test_a_participant_that_cannot_tidy_is_told_of(scene: Scene) -> None:
    views = scene.views()

    def tidy(before: float, space: str) -> None:
        raise QuorateError("no room")

    views["a"].tidy = tidy  # type: ignore[method-assign]  # of this one
    report = scene.sweep(views)
    assert report.unreachable == {"a": "what it kept of old transactions cannot be deleted: no room"}
    assert scene.stores["b"].tidied == [0.0]


def test_nobody_tidies_while_a_decision_cannot_be_read(scene: Scene) -> None:
    """It may be of a commit that is not finished."""
    scene.log.unreadable = ["one: no decision record"]
    report = scene.sweep()
    assert report.unreadable == scene.log.unreadable
    assert scene.stores["a"].tidied == []


# ---- what somebody did by hand


@pytest.mark.parametrize("when", ["recover", "rollback", "fence"])
def test_a_branch_that_is_committed_by_hand_while_recovery_aborts_is_written_down(when: str) -> None:
    scene = Scene(tells=False)
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.world.time += 10.0
    views = scene.views()

    def by_hand(method: str) -> None:
        if method == when:
            views["a"].hook = lambda method: None
            views["a"].store.by_hand(gtid, "committed")

    views["a"].hook = by_hand if when != "recover" else lambda method: None
    if when == "recover":
        # after it was listed, before its turn comes
        listed = views["a"].recover

        def lists() -> Any:
            found = listed()
            if scene.stores["a"].branches[gtid.text] == "prepared":
                scene.stores["a"].by_hand(gtid, "committed")
            return found

        views["a"].recover = lists  # type: ignore[method-assign]  # of this one
    report = scene.sweep(views)
    assert report.heuristic == [(gtid.text, "a", "committed")]
    assert scene.log.kept[gtid.text].heuristic == {"a": "committed"}


def test_before_an_abort_is_closed_everybody_who_can_tell_is_asked(scene: Scene) -> None:
    """A branch was committed by hand before anybody looked; another's branch shows that it was to be aborted."""
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.stores["a"].by_hand(gtid, "committed")
    scene.world.time += 10.0
    for _ in range(2):
        report = scene.sweep()
    assert scene.state(gtid) == "committed rolled back"
    assert report.heuristic == []
    assert scene.log.kept[gtid.text].heuristic == {"a": "committed"}
    scene.world.time += 10 * KEEP_SECONDS
    scene.sweep()
    assert gtid.text in scene.log.kept


@pytest.mark.parametrize("named", ["b", "ab"])
def test_a_branch_that_could_not_be_ended_is_asked_after_by_what_its_list_told(named: str) -> None:
    """Its participant broke off in the middle of recovery, and somebody committed it by hand before the next. Its coordinator has not named it, or did not know its
    token."""
    scene = Scene(tells=False)
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    for branch in scene.decided(gtid, Decision.ABORT, named).branches:
        branch.token = ""
    scene.world.time += 10.0
    views = scene.views()
    views["a"].fails["rollback"] = QuorateError("broken off")
    scene.sweep(views)
    assert not scene.log.kept[gtid.text].done
    scene.stores["a"].by_hand(gtid, "committed")
    scene.sweep()
    assert scene.log.kept[gtid.text].heuristic == {"a": "committed"}


def test_a_heuristic_that_could_not_be_written_down_is_written_down_by_the_next_sweep(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.decided(gtid)
    scene.stores["a"].branches[gtid.text] = "rolled back"
    scene.stores["b"].branches[gtid.text] = "committed"
    scene.world.time += 10.0

    def full(method: str) -> None:
        if method == "amend":
            raise QuorateError("disk full")

    scene.log.hook = full
    with pytest.raises(QuorateError):
        scene.sweep()
    scene.log.hook = lambda method: None
    scene.sweep()
    assert scene.log.kept[gtid.text].heuristic == {"a": "rolled back"}


def test_a_prepared_branch_that_its_commit_does_not_name_is_written_down_and_left_alone(scene: Scene) -> None:
    gtid = scene.world.gtid()
    scene.prepared(gtid)
    scene.decided(gtid, names="a")
    scene.world.time += 10.0
    scene.sweep()
    assert scene.state(gtid) == "committed prepared"
    assert scene.log.kept[gtid.text].heuristic == {"b": "prepared, though the decision does not name it"}


# ---- damage


def test_a_record_that_cannot_be_read_stops_nobody_elses_recovery(scene: Scene) -> None:
    bad, good = scene.world.gtid(random=8), scene.world.gtid(random=9)
    scene.prepared(bad)
    scene.prepared(good)
    scene.world.time += 10.0
    genuine = scene.log.read

    def read(gtid: Gtid) -> Record | None:
        if gtid == bad:
            raise RemoteProtocolError("no decision record: b'hello'")
        return genuine(gtid)

    scene.log.read = read  # type: ignore[method-assign]  # of this one
    report = scene.sweep()
    assert scene.state(good) == "rolled back rolled back"
    assert scene.state(bad) == "prepared prepared"
    assert "no decision record" in report.unreachable["a"]
