"""What the protocol relies on, rule by rule: the docstring of each says why. Names are those of the tests.

``commit.py`` and ``recovery.py`` are where it is relied on.
"""

import time
from collections.abc import Callable

from quorate.transactions.conformance.checking import NAME, SPACE, TIMEOUT, Asked, Check, Finding, kept, unknown
from quorate.transactions.conformance.harness import Harness, offers
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.gtid import NAME_MAX, SPACE_MAX
from quorate.transactions.participant import Branch, Outcome, Prepared, Vote

METHODS = ("prepare", "commit", "rollback", "recover", "fence", "outcome")
SIDE_BY_SIDE = 6


class Rule:
    """``why``: what goes wrong if it is broken. ``needs``: methods of the harness that can be left out."""

    __slots__ = ("check", "name", "needs", "why")

    def __init__(self, check: Callable[[Check], None], needs: tuple[str, ...]) -> None:
        self.name = check.__name__
        self.why = " ".join((check.__doc__ or "").split())
        self.check = check
        self.needs = needs

    def lacking(self, harness: type[Harness]) -> list[str]:
        return [method for method in self.needs if not offers(harness, method)]


RULES: list[Rule] = []


def rule(*needs: str) -> Callable[[Callable[[Check], None]], None]:
    def add(check: Callable[[Check], None]) -> None:
        RULES.append(Rule(check, needs))

    return add


# ---- the interface


@rule()
def it_has_the_methods_and_its_name(check: Check) -> None:
    """Coordinators refuse what lacks one; recovery finds branches by the name, so it is the same in every process."""
    asked = check.participant()
    for method in METHODS:
        check.expect(callable(getattr(asked.it, method, None)), f"it has no method {method}")
    check.expect(asked.it.name == NAME, f"its name is {asked.it.name!r}, expected the one it was given, {NAME!r}")


@rule()
def the_longest_names_are_told_apart(check: Check) -> None:
    """A name that is cut is another transaction's name: recovery would end the wrong branch, or none."""
    name = "n" * NAME_MAX
    asked = check.participant(name)
    branches = [check.branch(name, "s" * SPACE_MAX, timeout) for timeout in (86_399.0, 86_400.0)]
    for number, branch in enumerate(branches):
        asked.prepared(branch, f"long-{number}")
    for branch in branches:
        check.expect(asked.listed(branch) is not None, f"{branch.gtid.text} of {name} is prepared, and not listed")
    asked.commit(branches[0])
    asked.rollback(branches[1])
    check.expect_seen("long-0", 1, "committed")
    check.expect_seen("long-1", 0, "rolled back")


# ---- votes


@rule()
def work_is_not_seen_before_the_commit(check: Check) -> None:
    """Others may still vote no."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "early")
    check.expect_seen("early", 0, "before prepare")
    asked.ask("prepare", branch)
    check.expect_seen("early", 0, "prepared")
    asked.rollback(branch)
    check.expect_seen("early", 0, "rolled back")


@rule()
def all_of_the_work_is_committed(check: Check) -> None:
    """The least there is to atomicity."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "one")
    asked.work(branch, "other")
    asked.ask("prepare", branch)
    found = asked.commit(branch)
    check.expect(found is Outcome.COMMITTED, f"commit of a prepared branch came to {found}")
    check.expect_seen("one", 1, "committed")
    check.expect_seen("other", 1, "committed")
    check.expect(asked.listed(branch) is None, "it is still listed as prepared after the commit")


@rule()
def a_yes_survives_a_restart(check: Check) -> None:
    """The decision may come at any later time, and finds its branch by recovery's list alone."""
    branch = check.participant().prepared(check.branch(), "kept")
    check.restart()
    other = check.participant()
    listed = other.listed(branch)
    check.expect(listed is not None, "it is not listed as prepared after the restart")
    check.expect_seen("kept", 0, "prepared, and restarted")
    found = other.outcome(branch)
    check.expect(found is Outcome.PREPARED, f"after the restart its outcome is {found}, expected {Outcome.PREPARED}")
    found = other.recovered(branch)
    check.expect(found is Outcome.COMMITTED, f"commit after the restart came to {found}")
    check.expect_seen("kept", 1, "committed after the restart")


@rule()
def a_commit_survives_a_restart(check: Check) -> None:
    """Once all have answered to the commit, its decision is forgotten."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "durable")
    asked.commit(branch)
    check.restart()
    check.expect_seen("durable", 1, "committed, and restarted")
    found = check.participant().outcome(branch)
    check.expect(found is Outcome.COMMITTED, f"after the restart its outcome is {found}")


@rule()
def a_rollback_does_not_become_a_commit_by_a_restart(check: Check) -> None:
    """A rollback need not be durable: what is found prepared again is aborted again, for there is no decision to commit it. But it has to be possible."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "gone")
    asked.rollback(branch)
    check.restart()
    check.expect_seen("gone", 0, "rolled back, and restarted")
    other = check.participant()
    if other.listed(branch) is not None:
        other.ask("fence", branch)
        other.rollback(branch)
    check.expect(other.listed(branch) is None, "after the restart it cannot be rolled back again")
    found = other.outcome(branch)
    check.expect(found in (Outcome.ABORTED, Outcome.UNKNOWN), f"its outcome is {found}")


@rule()
def a_prepared_branch_can_be_rolled_back_after_a_restart(check: Check) -> None:
    """What nobody decided is aborted by recovery."""
    branch = check.participant().prepared(check.branch(), "undecided")
    check.restart()
    other = check.participant()
    other.ask("fence", branch)
    found = other.rollback(branch)
    check.expect(found is Outcome.ABORTED, f"rollback after the restart came to {found}")
    check.expect_seen("undecided", 0, "rolled back after the restart")
    check.expect(other.listed(branch) is None, "it is still listed as prepared after the rollback")


@rule()
def work_that_is_not_prepared_does_not_survive_a_restart(check: Check) -> None:
    """Nobody would ever end it: it is on no list."""
    branch = check.branch()
    check.participant().work(branch, "unprepared")
    check.restart()
    other = check.participant()
    check.expect_seen("unprepared", 0, "not prepared, and restarted")
    check.expect(other.listed(branch) is None, "it is listed as prepared, and never was")
    found = other.outcome(branch)
    check.expect(
        found not in (Outcome.COMMITTED, Outcome.PREPARED), f"its outcome is {found}, and it was never prepared"
    )


@rule()
def the_vote_is_a_vote(check: Check) -> None:
    """Anything but YES and READ_ONLY counts as no, so that a participant that says "True" aborts all that it takes part in."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "vote")
    vote = asked.ask("prepare", branch)
    check.expect(isinstance(vote, Vote), f"prepare gave {vote!r}, expected a Vote")
    check.expect(vote is Vote.YES, f"prepare gave {vote} where work was done, expected {Vote.YES}")
    asked.rollback(branch)


@rule("look")
def a_branch_that_only_read_leaves_nothing_behind(check: Check) -> None:
    """Of one that voted READ_ONLY no more is heard; one that votes YES is committed like any other."""
    asked = check.participant()
    branch = check.branch()
    check.do("look", asked.it, branch)
    vote = asked.ask("prepare", branch)
    check.expect(vote in (Vote.YES, Vote.READ_ONLY), f"prepare gave {vote!r} where nothing was written")
    if vote is Vote.YES:
        asked.commit(branch)
    asked.let_go(branch)
    check.expect(asked.listed(branch) is None, f"it voted {vote.value}, and is listed as prepared")


@rule("spoil")
def a_branch_that_cannot_commit_votes_no(check: Check) -> None:
    """A yes is a promise. The others would commit."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "spoilt")
    check.do("spoil", asked.it, branch)
    vote: object = None
    refused = None
    try:
        vote = asked.ask("prepare", branch)
    except Exception as error:
        refused = error
    check.expect(refused is not None or vote is Vote.NO, f"prepare gave {vote!r}, and it cannot be committed")
    asked.refused("rollback", branch)
    asked.let_go(branch)
    check.expect_seen("spoilt", 0, "it voted no")
    check.eventually(lambda: asked.listed(branch) is None, "it voted no, was rolled back, and is listed as prepared")


# ---- the end


@rule()
def rollback_before_prepare(check: Check) -> None:
    """That is how a transaction ends whose program raised an exception."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "never")
    error = asked.refused("rollback", branch)
    check.expect(error is None or unknown(error), f"rollback raised {error!r}")
    check.expect_seen("never", 0, "rolled back")
    check.expect(asked.listed(branch) is None, "it is listed as prepared, and was rolled back before")
    found = asked.outcome(branch)
    check.expect(found in (Outcome.ABORTED, Outcome.UNKNOWN), f"its outcome is {found}")


@rule()
def rollback_of_a_prepared_branch(check: Check) -> None:
    """Somebody else voted no. And its outcome is told, for otherwise an operator's rollback of a committed transaction could not be found out."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "refused")
    found = asked.rollback(branch)
    check.expect(found is Outcome.ABORTED, f"rollback of a prepared branch came to {found}")
    check.expect_seen("refused", 0, "rolled back")
    check.expect(asked.listed(branch) is None, "it is still listed as prepared after the rollback")
    found = check.participant().outcome(branch)
    check.expect(found is Outcome.ABORTED, f"its outcome is {found}, expected {Outcome.ABORTED}")


@rule()
def commit_again_commits_once(check: Check) -> None:
    """Commits are repeated until an answer arrives, by the coordinator and by every recovery."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "again")
    asked.commit(branch)
    for who in (asked, check.participant()):
        found = who.commit(kept(branch))
        check.expect(found is Outcome.COMMITTED, f"a second commit came to {found}")
    check.expect_seen("again", 1, "committed three times")


@rule()
def rollback_again_rolls_back_once(check: Check) -> None:
    """As with commits."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "again")
    asked.rollback(branch)
    error = check.participant().refused("rollback", kept(branch))
    check.expect(error is None or unknown(error), f"a second rollback raised {error!r}, expected UnknownBranch or none")
    check.expect_seen("again", 0, "rolled back twice")
    check.expect(asked.listed(branch) is None, "it is listed as prepared after two rollbacks")


@rule()
def rollback_of_a_committed_branch_is_refused(check: Check) -> None:
    """A rollback that "succeeds" would hide that an operator committed what was decided to abort."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "stays")
    asked.commit(branch)
    error = check.participant().refused("rollback", kept(branch))
    check.expect(unknown(error), f"rollback of a committed branch raised {error!r}, expected UnknownBranch")
    check.expect_seen("stays", 1, "committed, and then told to roll back")
    found = check.participant().outcome(kept(branch))
    check.expect(found is Outcome.COMMITTED, f"its outcome is {found}, and it was committed")


@rule()
def commit_of_a_rolled_back_branch_is_refused(check: Check) -> None:
    """There is no such branch any more is not the same as done: the outcome tells which."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "undone")
    asked.rollback(branch)
    error = check.participant().refused("commit", kept(branch))
    check.expect(unknown(error), f"commit of a rolled back branch raised {error!r}, expected UnknownBranch")
    check.expect_seen("undone", 0, "rolled back, and then told to commit")


@rule()
def commit_of_a_branch_that_never_was_is_refused(check: Check) -> None:
    """What the participant has lost must not count as committed."""
    asked = check.participant()
    branch = check.branch()
    error = asked.refused("commit", branch)
    check.expect(unknown(error), f"commit of a branch that never was raised {error!r}, expected UnknownBranch")
    found = asked.outcome(branch)
    check.expect(found in (Outcome.ABORTED, Outcome.UNKNOWN), f"the outcome of a branch that never was is {found}")


@rule()
def a_prepared_branch_ends_only_by_commit_or_rollback(check: Check) -> None:
    """It may wait for its decision for an hour, while recovery looks at it and tidies up, and its coordinator is gone."""
    asked = check.participant()
    branch = asked.prepared(check.branch(timeout=0.001), "patient")
    asked.let_go(branch)
    other = check.participant()
    other.ask("fence", branch)
    if other.has("tidy"):
        other.ask("tidy", time.time() + TIMEOUT, SPACE)
    check.expect(
        other.listed(branch) is not None, "it was let go, fenced and tidied, and is not listed as prepared any more"
    )
    found = other.outcome(branch)
    check.expect(found is Outcome.PREPARED, f"its outcome is {found}, expected {Outcome.PREPARED}")
    check.expect_seen("patient", 0, "prepared")
    found = other.commit(branch)
    check.expect(found is Outcome.COMMITTED, f"commit came to {found}")
    check.expect_seen("patient", 1, "committed")


# ---- other processes


@rule()
def another_process_ends_it_while_its_owner_lives(check: Check) -> None:
    """Recovery cannot know whether a coordinator is dead or slow."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "handed-over")
    other = check.participant()
    check.expect(other.listed(branch) is not None, "another process does not list it as prepared")
    found = other.recovered(branch)
    check.expect(found is Outcome.COMMITTED, f"commit by another process came to {found}")
    check.expect_seen("handed-over", 1, "committed by another process")
    check.eventually(
        lambda: _committed(asked, branch), "the owner's own commit, which came second, does not come to committed"
    )
    check.expect_seen("handed-over", 1, "committed by two")
    asked.let_go(branch)


@rule("leave")
def another_process_ends_it_when_its_owner_has_died(check: Check) -> None:
    """Nobody's death blocks the others. And recovery may come while the system is still noticing it."""
    asked = check.participant()
    branches = [asked.prepared(check.branch(), f"left-{number}") for number in range(2)]
    for branch in branches:
        check.do("leave", asked.it, branch)
    other = check.participant()
    found = other.recovered(branches[0])
    check.expect(found is Outcome.COMMITTED, f"commit came to {found}")
    other.ask("fence", branches[1])
    found = other.rollback(branches[1])
    check.expect(found is Outcome.ABORTED, f"rollback came to {found}")
    check.expect_seen("left-0", 1, "committed by another process")
    check.expect_seen("left-1", 0, "rolled back by another process")


@rule("leave")
def work_of_a_process_that_died_goes_away(check: Check) -> None:
    """It is on no list, so that nobody would end it."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "dead")
    check.do("leave", asked.it, branch)
    other = check.participant()
    other.ask("fence", branch)
    check.expect_seen("dead", 0, "its process died before it was prepared")
    check.expect(other.listed(branch) is None, "it is listed as prepared, and never was")
    check.eventually(
        lambda: other.outcome(branch) in (Outcome.ABORTED, Outcome.UNKNOWN), "it has an outcome, and was never prepared"
    )


@rule()
def a_fenced_branch_cannot_prepare(check: Check) -> None:
    """Recovery decides to abort, and a slow coordinator's prepare, which comes later, would stay for ever."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "fenced")
    other = check.participant()
    other.ask("fence", branch)
    error = None
    vote: object = None
    try:
        vote = asked.ask("prepare", branch)
    except Exception as raised:
        error = raised
    check.expect(error is not None or vote is Vote.NO, f"prepare gave {vote!r} after another process fenced the branch")
    asked.refused("rollback", branch)
    asked.let_go(branch)
    check.expect(other.listed(branch) is None, "it was fenced before it prepared, and is listed as prepared")
    check.expect_seen("fenced", 0, "fenced")
    found = other.outcome(kept(branch))
    check.expect(found in (Outcome.ABORTED, Outcome.UNKNOWN), f"its outcome is {found}, and it was fenced")


@rule()
def a_fenced_branch_cannot_commit_in_one_phase(check: Check) -> None:
    """As with prepare."""
    asked = check.participant()
    asked.needs("commit_one_phase")
    branch = check.branch()
    asked.work(branch, "fenced-too")
    check.participant().ask("fence", branch)
    error = asked.refused("commit_one_phase", branch)
    check.expect(error is not None, "commit_one_phase was done after another process fenced the branch")
    asked.let_go(branch)
    check.expect_seen("fenced-too", 0, "fenced")


@rule()
def a_fence_is_for_one_branch(check: Check) -> None:
    """Others are at work at the same time."""
    asked = check.participant()
    one, other = check.branch(), check.branch()
    asked.work(one, "fenced-alone")
    asked.work(other, "untouched")
    check.participant().ask("fence", one)
    vote = asked.ask("prepare", other)
    check.expect(vote is Vote.YES, f"prepare gave {vote!r} after another branch was fenced")
    asked.commit(other)
    check.expect_seen("untouched", 1, "committed")
    asked.refused("rollback", one)
    asked.let_go(one)


@rule()
def a_fence_can_be_set_again_and_for_what_never_was(check: Check) -> None:
    """Recovery fences whatever it ends, in every process that recovers."""
    branch = check.branch()
    for _ in range(2):
        error = check.participant().refused("fence", branch)
        check.expect(error is None, f"fence raised {error!r}")


# ---- recovery's list


@rule()
def recover_lists_what_is_prepared_and_nothing_else(check: Check) -> None:
    """What it does not list is never ended; what it lists is ended."""
    asked = check.participant()
    prepared = [asked.prepared(check.branch(), f"listed-{number}") for number in range(3)]
    working, committed, aborted = check.branch(), check.branch(), check.branch()
    asked.work(working, "working")
    asked.commit(asked.prepared(committed, "committed"))
    asked.rollback(asked.prepared(aborted, "aborted"))
    other = check.participant()
    found = list(other.ask("recover"))
    check.expect(all(isinstance(one, Prepared) for one in found), f"recover gave {found!r}, expected Prepared")
    names = sorted(one.branch.gtid.text for one in found if one.branch is not None)
    expected = sorted(branch.gtid.text for branch in prepared)
    check.expect(names == expected, f"another process lists {names}, expected {expected}")
    for one in found:
        check.expect(one.branch is None or one.branch.participant == NAME, f"it lists {one.branch!r} as its own")
        check.expect(one.age is None or one.age >= 0, f"it lists a branch of an age of {one.age} s")
    for branch in prepared:
        other.recovered(branch)
    asked.refused("rollback", working)
    for branch in prepared:
        asked.let_go(branch)


@rule()
def recover_leaves_other_participants_branches_alone(check: Check) -> None:
    """Two participants can share a system. Each has its own branch of the same transaction."""
    one, other = check.participant(), check.participant("neighbour")
    mine = check.branch()
    theirs = kept(mine)
    theirs.participant = "neighbour"
    mine = one.prepared(mine, "mine")
    theirs = other.prepared(theirs, "theirs")
    for asked, own in ((one, mine), (other, theirs)):
        ours = [found.branch for found in asked.ask("recover") if found.branch is not None]
        check.expect(
            [branch.participant for branch in ours] == [own.participant],
            f"{asked.it.name} lists {ours!r} as its own, expected its own branch alone",
        )
    one.rollback(mine)
    check.expect(other.listed(theirs) is not None, "a neighbour's branch of the same transaction was ended, too")
    other.commit(theirs)
    check.expect_seen("mine", 0, "rolled back")
    check.expect_seen("theirs", 1, "committed")


@rule("foreign")
def recover_lists_what_is_none_of_ours_as_foreign(check: Check) -> None:
    """It is reported, and left to whoever it belongs to."""
    name = check.do("foreign")
    found = [one for one in check.participant().ask("recover") if one.name == name]
    check.expect(len(found) == 1, f"{name!r} is prepared by others, and listed {len(found)} times")
    check.expect(found[0].branch is None, f"{name!r} is listed as a branch of ours, {found[0].branch!r}")


@rule("down")
def a_system_that_is_down_says_so(check: Check) -> None:
    """An empty list, an unknown branch or an outcome that is made up would count as an answer: decisions would be forgotten that somebody still needs."""
    branch = check.participant().prepared(check.branch(), "asleep")
    other = check.participant()
    with check.harness.down():
        for method, arguments in (("recover", ()), ("commit", (branch,)), ("fence", (branch,))):
            error = other.refused(method, *arguments)
            check.expect(
                error is not None and not unknown(error), f"{method} of a system that is down raised {error!r}"
            )
        try:
            found = other.ask("outcome", branch)
        except Exception:
            found = Outcome.UNKNOWN
        check.expect(found is Outcome.UNKNOWN, f"the outcome at a system that is down is {found}")
    check.eventually(lambda: _can_be_reached(check), "it cannot be reached after it came back")
    again = check.participant()
    check.expect(again.listed(branch) is not None, "it is not listed as prepared after the system came back")
    again.recovered(branch)
    check.expect_seen("asleep", 1, "committed")


def _committed(asked: Asked, branch: Branch) -> bool:
    """Any error says that it has to be tried again."""
    try:
        return asked.commit(branch) is Outcome.COMMITTED
    except Exception:
        return False


def _can_be_reached(check: Check) -> bool:
    return check.participant().refused("recover") is None


# ---- outcomes


@rule()
def the_outcome_is_not_known_while_it_is_at_work(check: Check) -> None:
    """Who lost the answer to a commit in one phase asks for the outcome; "rolled back" would be a lie while the commit is still on its way."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "underway")
    found = check.participant().outcome(kept(branch))
    check.expect(found is Outcome.UNKNOWN, f"the outcome of a branch at work is {found}, expected {Outcome.UNKNOWN}")
    asked.refused("rollback", branch)


@rule()
def the_outcome_is_told_to_every_process(check: Check) -> None:
    """Recovery asks in another process than the one that committed."""
    asked = check.participant()
    prepared = asked.prepared(check.branch(), "told-prepared")
    committed = asked.prepared(check.branch(), "told-committed")
    aborted = asked.prepared(check.branch(), "told-aborted")
    asked.commit(committed)
    asked.rollback(aborted)
    other = check.participant()
    for branch, expected in (
        (prepared, Outcome.PREPARED),
        (committed, Outcome.COMMITTED),
        (aborted, Outcome.ABORTED),
    ):
        found = other.outcome(branch)
        check.expect(found is expected, f"the outcome of a branch that is {expected.value} is {found}")
    other.recovered(prepared)
    asked.let_go(prepared)


@rule()
def tidy_keeps_what_may_be_asked_for(check: Check) -> None:
    """Outcomes are asked for until the decision is forgotten; and other spaces have decisions of their own."""
    asked = check.participant()
    asked.needs("tidy")
    committed = asked.prepared(check.branch(), "tidy")
    others = asked.prepared(check.branch(space="elsewhere", timeout=0.001), "tidy-elsewhere")
    asked.commit(committed)
    asked.commit(others)
    asked.ask("tidy", time.time(), SPACE)
    found = asked.outcome(committed)
    check.expect(found is Outcome.COMMITTED, f"after tidy its outcome is {found}, and its time is not up yet")
    found = asked.outcome(others)
    check.expect(found is Outcome.COMMITTED, f"after tidy the outcome of another space's branch is {found}")
    asked.ask("tidy", time.time() + 2 * TIMEOUT, SPACE)
    check.expect_seen("tidy", 1, "tidied")
    check.expect_seen("tidy-elsewhere", 1, "tidied")


# ---- side by side


@rule()
def branches_are_told_apart_side_by_side(check: Check) -> None:
    """Coordinators have many transactions under way, and ask without waiting for one another."""
    asked = check.participant()
    branches = [check.branch() for _ in range(SIDE_BY_SIDE)]
    for number, branch in enumerate(branches):
        asked.work(branch, f"side-{number}")
    votes = check.side_by_side([asked.flow("prepare", branch) for branch in branches])
    check.expect(votes == [Vote.YES] * SIDE_BY_SIDE, f"side by side they voted {votes}")
    ends = ["commit", "rollback"] * (SIDE_BY_SIDE // 2)
    check.side_by_side([asked.flow(end, branch) for end, branch in zip(ends, branches, strict=True)])
    for number, end in enumerate(ends):
        check.expect_seen(f"side-{number}", 1 if end == "commit" else 0, f"branch {number} was told to {end}")


# ---- one phase


@rule()
def one_phase_commits(check: Check) -> None:
    """A participant that is alone decides by itself, and its outcome is all there is to know of it."""
    asked = check.participant()
    asked.needs("commit_one_phase")
    branch = check.branch()
    asked.work(branch, "alone")
    asked.ask("commit_one_phase", branch)
    check.expect_seen("alone", 1, "committed in one phase")
    check.expect(asked.listed(branch) is None, "it is listed as prepared after it was committed in one phase")
    found = check.participant().outcome(kept(branch))
    check.expect(found is Outcome.COMMITTED, f"committed in one phase, its outcome is {found}")
    check.restart()
    check.expect_seen("alone", 1, "committed in one phase, and restarted")


@rule("spoil")
def one_phase_of_a_branch_that_cannot_commit_is_refused(check: Check) -> None:
    """The user is told that it is committed when it returns."""
    asked = check.participant()
    asked.needs("commit_one_phase")
    branch = check.branch()
    asked.work(branch, "spoilt-alone")
    check.do("spoil", asked.it, branch)
    error = asked.refused("commit_one_phase", branch)
    check.expect(error is not None, "commit_one_phase was done, and it cannot be committed")
    asked.refused("rollback", branch)
    asked.let_go(branch)
    check.expect_seen("spoilt-alone", 0, "it was refused")


# ---- lost answers


@rule("lose_answer")
def prepare_whose_answer_was_lost_can_be_rolled_back(check: Check) -> None:
    """No answer is no yes; what was prepared all the same is found by recovery."""
    asked = check.participant()
    branch = check.branch()
    asked.work(branch, "lost-prepare")
    with check.harness.lose_answer(asked.it, "prepare"):
        error = asked.refused("prepare", branch)
    check.expect(error is not None, "prepare gave an answer, and the answer was lost")
    asked.refused("rollback", branch)
    asked.let_go(branch)
    other = check.participant()

    def ended() -> bool:
        if other.listed(branch) is None:
            return True
        other.ask("fence", branch)
        other.rollback(branch)
        return False

    check.eventually(ended, "it is listed as prepared, whatever is done about it")
    check.expect_seen("lost-prepare", 0, "rolled back")


@rule("lose_answer")
def commit_whose_answer_was_lost_is_repeated(check: Check) -> None:
    """Did it or did it not: to repeat it, and to ask for the outcome, must come to the truth."""
    asked = check.participant()
    branch = asked.prepared(check.branch(), "lost-commit")
    with check.harness.lose_answer(asked.it, "commit"):
        error = asked.refused("commit", branch)
    check.expect(not unknown(error), "commit whose answer was lost raised UnknownBranch, and the branch was there")
    check.eventually(
        lambda: _committed(asked, branch),
        "commit was done and its answer lost, and repeating it does not come to committed",
    )
    check.expect_seen("lost-commit", 1, "committed")
    found = check.participant().outcome(kept(branch))
    check.expect(found is Outcome.COMMITTED, f"its outcome is {found}")


@rule("lose_answer")
def one_phase_whose_answer_was_lost_is_no_no(check: Check) -> None:
    """Whatever commit_one_phase raises means rolled back, except ConnectionBroken, upon which the outcome is asked for."""
    asked = check.participant()
    asked.needs("commit_one_phase")
    branch = check.branch()
    asked.work(branch, "lost-alone")
    with check.harness.lose_answer(asked.it, "commit_one_phase"):
        error = asked.refused("commit_one_phase", branch)
    if error is not None and not isinstance(error, ConnectionBroken):
        raise Finding(f"it raised {error!r}, expected ConnectionBroken")
    asked.let_go(branch)
    other = check.participant()
    check.eventually(
        lambda: other.outcome(kept(branch)) is Outcome.COMMITTED, "it was committed, and its outcome does not say so"
    )
    check.expect_seen("lost-alone", 1, "committed")
