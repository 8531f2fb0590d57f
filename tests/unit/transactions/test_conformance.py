"""The conformance kit: a participant that keeps all rules passes, in whichever form its methods are, and each of many broken ones is found by the name of
the rule that it breaks."""

import asyncio
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import SkipTest, mock

import pytest
from examples.folder import ABORTED, COMMITTED, COMMITTING, PREPARED, Folder
from tests.support.powerfail import PowerFailures

from quorate.errors import UsageError
from quorate.transactions import Branch, Outcome, Prepared, UnknownBranch, Vote, VotedNo
from quorate.transactions.conformance import RULES, Broken, Conformance, Harness, broken, hold
from quorate.transactions.flow import Flow, call
from quorate.transactions.gtid import new, parse

FOREIGN = "somebody-elses"


class FolderHarness(Harness):
    """Files in a folder on a disk that loses what was not flushed."""

    kind: type[Folder] = Folder
    patience = 0.3

    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "root"
        Folder.create(self.root)
        self.power = PowerFailures(self.root)
        self.power.__enter__()

    def close(self) -> None:
        self.power.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def participant(self, name: str) -> Any:
        return self.kind(name, self.root)

    def files(self, participant: Any, branch: Branch) -> Any:
        work = participant._works.get(f"{branch.gtid.text}@{branch.participant}")
        return work or self.kind.begin(participant, branch)

    def work(self, participant: Any, branch: Branch, key: str) -> None:
        self.files(participant, branch).write(f"some/{key}", key.encode())

    def look(self, participant: Any, branch: Branch) -> None:
        assert self.files(participant, branch).read("nothing") is None

    def spoil(self, participant: Any, branch: Branch) -> None:
        (self.root / "folder").mkdir()
        self.files(participant, branch).write("folder", b"")

    def seen(self, key: str) -> int:
        """Copies that say what they should."""
        return len([path for path in self.root.glob(f"some/{key}*") if path.read_bytes() == key.encode()])

    def restart(self) -> None:
        self.power.strike()
        getattr(self.kind("restarted", self.root), "restarted", lambda: None)()

    def leave(self, participant: Any, branch: Branch) -> None:
        """Nothing but the process itself remembers anything."""

    def foreign(self) -> str:
        (self.root / ".quorate" / "states" / FOREIGN).write_text('{"state": "prepared", "changes": []}')
        return FOREIGN

    @contextmanager
    def lose_answer(self, participant: Any, method: str) -> Iterator[None]:
        """The disk makes a state durable, and says that it could not."""
        self.power.failing = lambda path: path.name == "states"
        try:
            yield
        finally:
            self.power.failing = lambda path: False

    @contextmanager
    def down(self) -> Iterator[None]:
        """The disk is not mounted: its place is an empty folder."""
        away = self.folder / "away"
        self.root.rename(away)
        self.root.mkdir()
        try:
            yield
        finally:
            self.root.rmdir()
            away.rename(self.root)


class TestFolder(Conformance):
    harness = FolderHarness


class TestFolderOnAnEventLoop(TestFolder):
    asynchronous = True


# ---- other forms of methods

METHODS = ("prepare", "commit", "rollback", "recover", "fence", "outcome", "commit_one_phase", "tidy")


def with_methods(form: Any) -> type[Folder]:
    return type("Formed", (Folder,), {"blocks": False, **{name: form(getattr(Folder, name)) for name in METHODS}})


def as_coroutine(method: Any) -> Any:
    async def asked(self: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(method, self, *arguments)

    return asked


def as_flow(method: Any) -> Any:
    def asked(self: Any, *arguments: Any) -> Flow[Any]:
        return (yield from call("folder", method, self, *arguments, blocks=True))

    return asked


class CoroutineHarness(FolderHarness):
    kind = with_methods(as_coroutine)


class FlowHarness(FolderHarness):
    kind = with_methods(as_flow)


class TestCoroutines(Conformance):
    harness = CoroutineHarness
    asynchronous = True


class TestFlows(Conformance):
    harness = FlowHarness


class TestFlowsOnAnEventLoop(TestFlows):
    asynchronous = True


# ---- broken ones


class ForgetsPreparedOnRestart(Folder):
    """As MariaDB did before 10.5."""

    def restarted(self) -> None:
        for name in self._names():
            os.unlink(self.states / name)


@contextmanager
def no_flushes(of: Callable[[Path], bool] = lambda path: True) -> Iterator[None]:
    genuine = os.fsync

    def fsync(descriptor: Any) -> None:
        if not of(Path(os.readlink(f"/proc/self/fd/{descriptor}"))):
            genuine(descriptor)

    with mock.patch.object(os, "fsync", fsync):
        yield


class SaysYesWithoutFlushingFiles(Folder):
    def _publish(self, branch: Branch, work: Any, state: str) -> None:
        with no_flushes(Path.is_file):
            super()._publish(branch, work, state)


class SaysYesWithoutFlushingTheName(Folder):
    def _publish(self, branch: Branch, work: Any, state: str) -> None:
        with no_flushes(lambda path: path == self.states):
            super()._publish(branch, work, state)


class TakesUnknownForDone(Folder):
    def commit(self, branch: Branch) -> None:
        try:
            super().commit(branch)
        except UnknownBranch:
            return


class TakesUnknownForAborted(Folder):
    def rollback(self, branch: Branch) -> None:
        try:
            super().rollback(branch)
        except UnknownBranch:
            return


class FencesNothing(Folder):
    def fence(self, branch: Branch) -> None:
        return


class FencesEverybody(Folder):
    def fence(self, branch: Branch) -> None:
        super().fence(branch)
        for name in os.listdir(self.staged):
            gtid = parse(name.rpartition("@")[0])
            assert gtid is not None
            super().fence(Branch(gtid, name.rpartition("@")[2]))


class FencesByRollingBack(Folder):
    """It ends also what is prepared."""

    def fence(self, branch: Branch) -> None:
        if super().outcome(branch) is not Outcome.COMMITTED:
            super().rollback(branch)


class GuessesThatWorkIsAborted(Folder):
    def outcome(self, branch: Branch) -> Outcome:
        found = super().outcome(branch)
        return Outcome.ABORTED if found is Outcome.UNKNOWN else found


class GuessesThatWhatIsGoneIsCommitted(Folder):
    def outcome(self, branch: Branch) -> Outcome:
        found = super().outcome(branch)
        return Outcome.COMMITTED if found is Outcome.ABORTED else found


class TellsOutcomesToItsOwnProcess(Folder):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self._mine: set[str] = set()

    def commit(self, branch: Branch) -> None:
        super().commit(branch)
        self._mine.add(branch.gtid.text)

    def outcome(self, branch: Branch) -> Outcome:
        found = super().outcome(branch)
        return Outcome.UNKNOWN if found is Outcome.COMMITTED and branch.gtid.text not in self._mine else found


class CommitsTwice(Folder):
    """It does its work whenever it is asked to."""

    def commit(self, branch: Branch) -> None:
        done = self.path / ".quorate" / f"done-{branch.gtid.text}"
        super().commit(branch)
        if done.exists():
            for path in self.path.glob("some/*"):
                shutil.copy(path, f"{path}~")
        done.touch()


class CommitsOnlyOnce(Folder):
    """Asked again, it finds nothing to do, and says that there never was anything."""

    def outcome(self, branch: Branch) -> Outcome:
        name = f"{branch.gtid.text}@{branch.participant}"
        found = self._read(name)
        return Outcome.ABORTED if found is not None and found[0] == COMMITTED else super().outcome(branch)


class ListsItsOwnProcess(Folder):
    def recover(self) -> Sequence[Prepared]:
        return [found for found in super().recover() if found.name in self._works]


class ListsOthersAsItsOwn(Folder):
    def recover(self) -> Sequence[Prepared]:
        found = []
        for prepared in super().recover():
            gtid = parse(prepared.name.rpartition("@")[0])
            found.append(Prepared(prepared.name, None if gtid is None else Branch(gtid, self.name), prepared.age))
        return found


class HidesWhatIsForeign(Folder):
    def recover(self) -> Sequence[Prepared]:
        return [found for found in super().recover() if found.branch is not None]


class ListsWhatIsCommitted(Folder):
    def recover(self) -> Sequence[Prepared]:
        genuine = self._read

        def read(name: str) -> tuple[str, list[Any]] | None:
            found = genuine(name)
            return found and (PREPARED if found[0] == COMMITTED else found[0], found[1])

        self._read = read  # type: ignore[method-assign]  # the defect
        try:
            return super().recover()
        finally:
            self._read = genuine  # type: ignore[method-assign]


class ListsNothingWhenItIsDown(Folder):
    def _names(self) -> list[str]:
        try:
            return os.listdir(self.states)
        except FileNotFoundError:
            return []

    def recover(self) -> Sequence[Prepared]:
        return super().recover() if self.states.exists() else []


class HasNoBranchesWhenItIsDown(Folder):
    def commit(self, branch: Branch) -> None:
        if not self.states.exists():
            raise UnknownBranch("there is no such branch")
        super().commit(branch)


class WritesAtOnce(Folder):
    def begin(self, branch: Branch) -> Any:
        work = super().begin(branch)
        genuine = work.write

        def write(path: str, data: bytes) -> None:
            genuine(path, data)
            (self.path / path).parent.mkdir(exist_ok=True)
            (self.path / path).write_bytes(data)
            for written in (path, ".", "some"):
                descriptor = os.open(self.path / written, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

        work.write = write  # type: ignore[method-assign]  # the defect
        return work


class CommitsWhenItPrepares(Folder):
    def prepare(self, branch: Branch) -> Vote:
        vote = super().prepare(branch)
        if vote is Vote.YES:
            super().commit(branch)
        return vote


class CutsNames(Folder):
    def prepare(self, branch: Branch) -> Vote:
        vote = super().prepare(branch)
        name = f"{branch.gtid.text}@{branch.participant}"
        if vote is Vote.YES and len(name) > 80:
            os.rename(self.states / name, self.states / name[:80])
        return vote


class VotesTrue(Folder):
    def prepare(self, branch: Branch) -> Any:
        return super().prepare(branch) is Vote.YES


class ForgetsToReadTheVote(Folder):
    """It says yes to what it cannot do: fact 1 of PostgreSQL."""

    def prepare(self, branch: Branch) -> Vote:
        try:
            return super().prepare(branch)
        except VotedNo:
            return Vote.YES


class VotesReadOnlyForAll(Folder):
    def prepare(self, branch: Branch) -> Vote:
        super().prepare(branch)
        return Vote.READ_ONLY


class KeepsReadOnlyBranches(Folder):
    def prepare(self, branch: Branch) -> Vote:
        work = self._work(branch)
        if work.changes:
            return super().prepare(branch)
        self._publish(branch, work, PREPARED)
        return Vote.READ_ONLY


class RollsBackNothing(Folder):
    def rollback(self, branch: Branch) -> None:
        self.let_go(branch)


class RollsBackForGood(Folder):
    """It undoes a commit, too."""

    def rollback(self, branch: Branch) -> None:
        found = self._read(f"{branch.gtid.text}@{branch.participant}")
        if found is not None and found[0] == COMMITTED:
            for path in self.path.glob("some/*"):
                path.unlink()
        super().rollback(branch)


class RollsBackWhatIsLetGo(Folder):
    def let_go(self, branch: Branch) -> None:
        super().let_go(branch)
        found = self._read(f"{branch.gtid.text}@{branch.participant}")
        if found is not None and found[0] == PREPARED:
            self._replace(f"{branch.gtid.text}@{branch.participant}", ABORTED, [])


class EndsOnlyWhatIsItsOwn(Folder):
    def commit(self, branch: Branch) -> None:
        if f"{branch.gtid.text}@{branch.participant}" not in self._works:
            raise OSError("the branch is another session's")
        super().commit(branch)


class TidiesAll(Folder):
    def tidy(self, before: float, space: str) -> None:
        for name in os.listdir(self.states):
            os.unlink(self.states / name)


class TidiesOtherSpaces(Folder):
    def tidy(self, before: float, space: str) -> None:
        for other in ("elsewhere", space):
            super().tidy(before, other)


class TidiesTooEarly(Folder):
    def tidy(self, before: float, space: str) -> None:
        super().tidy(before + 3600, space)


class SaysNoWhenItDoesNotKnow(Folder):
    """The answer to a commit in one phase was lost."""

    def commit_one_phase(self, branch: Branch) -> None:
        try:
            super().commit_one_phase(branch)
        except Exception as error:
            raise VotedNo(str(error)) from error


class OnePhaseIsNotDurable(Folder):
    def commit_one_phase(self, branch: Branch) -> None:
        with no_flushes():
            super().commit_one_phase(branch)


class OnePhaseDoesNotLook(Folder):
    def commit_one_phase(self, branch: Branch) -> None:
        work = self._work(branch)
        for path, name in work.changes.items():
            if name is not None and not (self.path / path).is_dir():
                (self.path / path).parent.mkdir(exist_ok=True)
                (self.path / path).write_bytes((work.staged / name).read_bytes())


class CommitsHalf(Folder):
    def _carry_out(self, name: str, changes: list[Any]) -> None:
        super()._carry_out(name, changes[:1])


class OneTransactionAtATime(Folder):
    """Two participants that share it get in each other's way."""

    def rollback(self, branch: Branch) -> None:
        super().rollback(branch)
        for name in self._names():
            found = self._read(name)
            if name.startswith(branch.gtid.text) and found is not None and found[0] == PREPARED:
                self._replace(name, ABORTED, [])


class MixesUpBranches(Folder):
    def prepare(self, branch: Branch) -> Vote:
        self._works = dict.fromkeys(self._works, self._works[max(self._works)])
        return super().prepare(branch)


class HasAnotherNameInEachProcess(Folder):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        self.name = f"{name[:30]}-{id(self) % 1000}"


class CommitsWithoutFlushing(Folder):
    def commit(self, branch: Branch) -> None:
        with no_flushes():
            super().commit(branch)


DEFECTS: list[tuple[type[Folder], str]] = [
    (ForgetsPreparedOnRestart, "a_yes_survives_a_restart"),
    (SaysYesWithoutFlushingFiles, "a_yes_survives_a_restart"),
    (SaysYesWithoutFlushingTheName, "a_yes_survives_a_restart"),
    (CommitsWithoutFlushing, "a_commit_survives_a_restart"),
    (TakesUnknownForDone, "commit_of_a_branch_that_never_was_is_refused"),
    (TakesUnknownForDone, "commit_of_a_rolled_back_branch_is_refused"),
    (TakesUnknownForAborted, "rollback_of_a_committed_branch_is_refused"),
    (FencesNothing, "a_fenced_branch_cannot_prepare"),
    (FencesNothing, "a_fenced_branch_cannot_commit_in_one_phase"),
    (FencesEverybody, "a_fence_is_for_one_branch"),
    (FencesByRollingBack, "a_prepared_branch_ends_only_by_commit_or_rollback"),
    (GuessesThatWorkIsAborted, "the_outcome_is_not_known_while_it_is_at_work"),
    (GuessesThatWhatIsGoneIsCommitted, "commit_of_a_branch_that_never_was_is_refused"),
    (TellsOutcomesToItsOwnProcess, "the_outcome_is_told_to_every_process"),
    (CommitsTwice, "commit_again_commits_once"),
    (CommitsOnlyOnce, "the_outcome_is_told_to_every_process"),
    (ListsItsOwnProcess, "recover_lists_what_is_prepared_and_nothing_else"),
    (ListsItsOwnProcess, "another_process_ends_it_while_its_owner_lives"),
    (ListsOthersAsItsOwn, "recover_leaves_other_participants_branches_alone"),
    (HidesWhatIsForeign, "recover_lists_what_is_none_of_ours_as_foreign"),
    (ListsWhatIsCommitted, "recover_lists_what_is_prepared_and_nothing_else"),
    (ListsNothingWhenItIsDown, "a_system_that_is_down_says_so"),
    (HasNoBranchesWhenItIsDown, "a_system_that_is_down_says_so"),
    (WritesAtOnce, "work_is_not_seen_before_the_commit"),
    (WritesAtOnce, "work_that_is_not_prepared_does_not_survive_a_restart"),
    (WritesAtOnce, "work_of_a_process_that_died_goes_away"),
    (WritesAtOnce, "rollback_before_prepare"),
    (CommitsWhenItPrepares, "work_is_not_seen_before_the_commit"),
    (CommitsWhenItPrepares, "rollback_of_a_prepared_branch"),
    (CutsNames, "the_longest_names_are_told_apart"),
    (VotesTrue, "the_vote_is_a_vote"),
    (ForgetsToReadTheVote, "a_branch_that_cannot_commit_votes_no"),
    (VotesReadOnlyForAll, "the_vote_is_a_vote"),
    (KeepsReadOnlyBranches, "a_branch_that_only_read_leaves_nothing_behind"),
    (RollsBackNothing, "rollback_of_a_prepared_branch"),
    (RollsBackNothing, "a_rollback_does_not_become_a_commit_by_a_restart"),
    (RollsBackNothing, "rollback_again_rolls_back_once"),
    (RollsBackNothing, "a_prepared_branch_can_be_rolled_back_after_a_restart"),
    (RollsBackNothing, "prepare_whose_answer_was_lost_can_be_rolled_back"),
    (RollsBackForGood, "rollback_of_a_committed_branch_is_refused"),
    (RollsBackWhatIsLetGo, "a_prepared_branch_ends_only_by_commit_or_rollback"),
    (EndsOnlyWhatIsItsOwn, "another_process_ends_it_when_its_owner_has_died"),
    (TidiesAll, "a_prepared_branch_ends_only_by_commit_or_rollback"),
    (TidiesAll, "tidy_keeps_what_may_be_asked_for"),
    (TidiesOtherSpaces, "tidy_keeps_what_may_be_asked_for"),
    (TidiesTooEarly, "tidy_keeps_what_may_be_asked_for"),
    (SaysNoWhenItDoesNotKnow, "one_phase_whose_answer_was_lost_is_no_no"),
    (OnePhaseIsNotDurable, "one_phase_commits"),
    (OnePhaseDoesNotLook, "one_phase_of_a_branch_that_cannot_commit_is_refused"),
    (CommitsHalf, "all_of_the_work_is_committed"),
    (CommitsOnlyOnce, "commit_whose_answer_was_lost_is_repeated"),
    (OneTransactionAtATime, "recover_leaves_other_participants_branches_alone"),
    (MixesUpBranches, "branches_are_told_apart_side_by_side"),
    (HasAnotherNameInEachProcess, "it_has_the_methods_and_its_name"),
]
UNBROKEN = {"a_fence_can_be_set_again_and_for_what_never_was"}
"""Rules for which there is a defect of another form below."""


def harness_of(kind: type[Folder]) -> type[FolderHarness]:
    return type(f"{kind.__name__}Harness", (FolderHarness,), {"kind": kind})


@pytest.mark.parametrize(("kind", "rule"), DEFECTS, ids=lambda value: getattr(value, "__name__", value))
def test_it_finds_the_defect(kind: type[Folder], rule: str) -> None:
    (found,) = [one for one in RULES if one.name == rule]
    with pytest.raises(Broken) as told:
        hold(found, harness_of(kind))
    assert told.value.rule == rule
    assert str(told.value).startswith(f"{rule}: ")
    assert found.why in str(told.value)
    if isinstance(told.value.__cause__, AttributeError | TypeError | NameError):
        raise told.value.__cause__


def test_it_finds_fences_that_can_be_set_once() -> None:
    class FencesOnce(Folder):
        def fence(self, branch: Branch) -> None:
            tombstone = self.staged / f"fence-{branch.gtid.text}"
            tombstone.mkdir()
            super().fence(branch)

    assert "a_fence_can_be_set_again_and_for_what_never_was" in broken(harness_of(FencesOnce))


def test_every_rule_has_a_defect_that_breaks_it() -> None:
    assert {rule for _, rule in DEFECTS} | UNBROKEN == {rule.name for rule in RULES}


# ---- the kit itself


def test_every_rule_is_a_test_and_says_why() -> None:
    tests = {name.removeprefix("test_") for name, _ in inspect.getmembers(Conformance) if name.startswith("test_")}
    assert tests == {rule.name for rule in RULES}
    assert all(len(rule.why) > 10 for rule in RULES)


class Least(Harness):
    """What has to be there, and no more."""

    def __init__(self) -> None:
        self.folder = FolderHarness()

    def open(self) -> None:
        self.folder.open()

    def close(self) -> None:
        self.folder.close()

    def participant(self, name: str) -> Any:
        return self.folder.participant(name)

    def work(self, participant: Any, branch: Branch, key: str) -> None:
        self.folder.work(participant, branch, key)

    def seen(self, key: str) -> int:
        return self.folder.seen(key)

    def restart(self) -> None:
        self.folder.restart()


def test_what_the_harness_does_not_offer_is_skipped() -> None:
    skipped = []
    for rule in RULES:
        try:
            hold(rule, Least)
        except SkipTest as reason:
            skipped.append((rule.name, str(reason).partition(" no ")[0]))
    assert skipped == [(rule.name, "the harness has") for rule in RULES if rule.needs]
    assert 0 < len(skipped) < len(RULES) / 2


def test_rules_that_are_not_to_be_tried_have_no_test() -> None:
    class TestFew(TestFolder):
        without = ["rollback_before_prepare"]  # noqa: RUF012  # never changed

    assert not callable(TestFew.test_rollback_before_prepare)  # type: ignore[attr-defined]  # made from the rules
    assert callable(TestFolder.test_rollback_before_prepare)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no rule 'rollback'"):
        type("TestMistaken", (TestFolder,), {"without": ["rollback"]})


def test_nobody_needs_pytest_for_it() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None; from quorate.transactions.conformance import broken, Harness\n"
        "found = broken(Harness); assert len(found) > 10, found"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_committing_is_the_point_of_no_return(tmp_path: Path) -> None:
    """Of the example: a crash between two renames is carried on by whoever comes next."""
    Folder.create(tmp_path)
    branch = Branch(new("space", 0.0, 1.0, 0), "folder")
    folder = Folder("folder", tmp_path)
    work = folder.begin(branch)
    work.write("a", b"a")
    work.write("b", b"b")
    folder.prepare(branch)
    name = f"{branch.gtid.text}@folder"
    found = folder._read(name)
    assert found is not None
    folder._replace(name, COMMITTING, found[1])
    os.replace(work.staged / "1", tmp_path / "a")
    other = Folder("folder", tmp_path)
    assert other.outcome(branch) is Outcome.COMMITTED
    assert other.recover() == []
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"ab"
