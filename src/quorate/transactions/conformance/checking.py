"""How a rule asks: a participant through a shell, so that plain methods, coroutine functions and flows look alike, and each finding told with its rule."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import SkipTest

from quorate.transactions import gtid as gtids
from quorate.transactions.commit import Part, finish_once
from quorate.transactions.conformance.harness import Harness
from quorate.transactions.errors import UnknownBranch
from quorate.transactions.flow import Done, Failed, Flow, ask, side_by_side
from quorate.transactions.participant import Branch, Outcome, Prepared, Vote
from quorate.transactions.records import Decision
from quorate.transactions.shells.aio import Shell as AsyncShell
from quorate.transactions.shells.blocking import Shell

NAME = "tested"
SPACE = "conformance"
TIMEOUT = 60.0
_POLL_SECONDS = 0.02


class Broken(AssertionError):
    """A rule that a participant does not keep."""

    def __init__(self, rule: str, found: str, why: str) -> None:
        self.rule = rule
        super().__init__(f"{rule}: {found}\n\nThe rule: {why}")


class Finding(Exception):
    """What a rule found, told on as Broken."""


class Check:
    """What a rule is handed. ``asynchronous``: by the shell of event loops."""

    def __init__(self, harness: Harness, asynchronous: bool) -> None:
        self.harness = harness
        harness.asynchronous = asynchronous
        self._loop = asyncio.Runner() if asynchronous else None

    def run(self, flow: Flow[Any]) -> Any:
        if self._loop is not None:
            return self._loop.run(AsyncShell().run(flow))
        return Shell().run(flow)

    def close(self) -> None:
        try:
            self.do("close")
        finally:
            if self._loop is not None:
                self._loop.close()

    def do(self, method: str, *arguments: Any) -> Any:
        """A method of the harness."""
        return self.run(ask(f"harness: {method}", self.harness, method, *arguments))

    # ---- for rules

    def participant(self, name: str = NAME) -> "Asked":
        return Asked(self, self.do("participant", name))

    def branch(self, name: str = NAME, space: str = SPACE, timeout: float = TIMEOUT) -> Branch:
        return Branch(gtids.new(space, time.time(), timeout, secrets.randbits(gtids.RANDOM_BITS)), name)

    def seen(self, key: str) -> int:
        return int(self.do("seen", key))

    def restart(self) -> None:
        self.do("restart")

    def expect(self, holds: bool, found: str) -> None:
        if not holds:
            raise Finding(found)

    def expect_seen(self, key: str, times: int, when: str) -> None:
        found = self.seen(key)
        self.expect(found == times, f"{when}, the work is seen {found} times, expected {times}")

    def eventually(self, holds: Callable[[], bool], found: str) -> None:
        until = time.monotonic() + self.harness.patience
        while not holds():
            if time.monotonic() > until:
                raise Finding(f"{found} (within {self.harness.patience:g} s)")
            time.sleep(_POLL_SECONDS)

    def side_by_side(self, flows: Sequence[Flow[Any]]) -> list[Any]:
        found: list[Any] = []
        for result in self.run(side_by_side(flows)):
            if isinstance(result, Failed):
                raise result.error
            assert isinstance(result, Done)
            found.append(result.value)
        return found


class Asked:
    """A participant, and what a coordinator asks of it."""

    def __init__(self, check: Check, participant: Any) -> None:
        self.check = check
        self.it = participant

    def has(self, method: str) -> bool:
        return hasattr(self.it, method)

    def needs(self, method: str) -> None:
        if not self.has(method):
            raise SkipTest(f"the participant has no {method}")

    def flow(self, method: str, *arguments: Any) -> Flow[Any]:
        return ask(f"{self.it.name}: {method}", self.it, method, *arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        return self.check.run(self.flow(method, *arguments))

    def refused(self, method: str, *arguments: Any) -> Exception | None:
        """The error with which it refuses; None if it does not."""
        try:
            self.ask(method, *arguments)
        except Exception as error:
            return error
        return None

    def work(self, branch: Branch, key: str) -> None:
        self.check.do("work", self.it, branch, key)

    def prepared(self, branch: Branch, key: str) -> Branch:
        """Work, and a yes. The branch, as the decision's record would give it to another process."""
        self.work(branch, key)
        vote = self.ask("prepare", branch)
        self.check.expect(vote is Vote.YES, f"prepare gave {vote!r} where work was done, expected {Vote.YES}")
        return kept(branch)

    def commit(self, branch: Branch) -> Outcome:
        return self.finish(Decision.COMMIT, branch)

    def rollback(self, branch: Branch) -> Outcome:
        return self.finish(Decision.ABORT, branch)

    def finish(self, decision: Decision, branch: Branch) -> Outcome:
        """As commit and recovery do: an UnknownBranch is judged by the outcome."""
        found: Outcome = self.check.run(finish_once(decision, Part(branch, self.it)))
        return found

    def recovered(self, branch: Branch) -> Outcome:
        """Committed as recovery does it."""
        self.ask("fence", branch)
        return self.commit(branch)

    def outcome(self, branch: Branch) -> Outcome:
        found = self.ask("outcome", branch)
        self.check.expect(isinstance(found, Outcome), f"outcome gave {found!r}, expected an Outcome")
        assert isinstance(found, Outcome)
        return found

    def listed(self, branch: Branch) -> Prepared | None:
        """The branch among what is prepared, as one of ours."""
        found = [
            prepared
            for prepared in self.ask("recover")
            if prepared.branch is not None
            and prepared.branch.gtid == branch.gtid
            and prepared.branch.participant == branch.participant
        ]
        self.check.expect(len(found) < 2, f"recover lists a branch {len(found)} times")
        return found[0] if found else None

    def let_go(self, branch: Branch) -> None:
        if self.has("let_go"):
            self.it.let_go(branch)


def kept(branch: Branch) -> Branch:
    """The same branch, from its record."""
    return Branch(branch.gtid, branch.participant, branch.token)


def unknown(error: Exception | None) -> bool:
    return isinstance(error, UnknownBranch)
