"""A participant and a decision log in memory that implement the real interface, with faults at any call; and a shell that keeps a trace and a clock.

store = Store("a")              what survives
participant = Memory(store)     one process's view of it
world = World()                 the clock; runs flows to their end, and keeps what they came across
"""

from collections.abc import Callable, Sequence
from typing import Any

from quorate.transactions.errors import ParticipantError, TimeUp, UnknownBranch, VotedNo
from quorate.transactions.flow import All, Call, Done, Failed, Flow, Sleep
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.log import presumed_abort
from quorate.transactions.participant import Branch, Outcome, Prepared, Vote
from quorate.transactions.records import Record, amended

EPOCH = 1_700_000_000.0


class Store:
    """What a participant has on its disk: branch → "active", "prepared", "committed" or "rolled back"."""

    def __init__(self, name: str, tells: bool = True) -> None:
        self.name = name
        self.tells = tells
        """Whether it can tell outcomes without a token."""
        self.branches: dict[str, str] = {}
        self.tidied: list[float] = []

    def by_hand(self, gtid: Gtid, what: str) -> None:
        """An operator ends a prepared branch."""
        assert self.branches[gtid.text] == "prepared", self.branches
        self.branches[gtid.text] = what


class Memory:
    """``fails``: method → the error that it raises; ``after``: it is raised when the work is done."""

    def __init__(self, store: Store, vote: Vote = Vote.YES) -> None:
        self.store = store
        self.name = store.name
        self.vote = vote
        self.fails: dict[str, Exception] = {}
        self.after: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.down = False
        self.hook: Callable[[str], None] = lambda method: None

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self.hook(method)
        if self.down:
            raise ParticipantError(f"{self.name} is down")
        if method in self.fails:
            raise self.fails[method]

    def _done(self, method: str) -> None:
        if method in self.after:
            raise self.after[method]

    def begin(self, branch: Branch) -> str:
        self.store.branches[branch.gtid.text] = "active"
        return f"handle of {self.name}"

    def prepare(self, branch: Branch) -> Vote:
        self._called("prepare")
        branch.token = "7"
        self.store.branches[branch.gtid.text] = {
            Vote.YES: "prepared",
            Vote.READ_ONLY: "read only",
            Vote.NO: "rolled back",
        }[self.vote]
        self._done("prepare")
        return self.vote

    def commit(self, branch: Branch) -> None:
        self._called("commit")
        if self.store.branches.get(branch.gtid.text) != "prepared":
            raise UnknownBranch("no such branch")
        self.store.branches[branch.gtid.text] = "committed"
        self._done("commit")

    def rollback(self, branch: Branch) -> None:
        self._called("rollback")
        if self.store.branches.get(branch.gtid.text) not in ("prepared", "active"):
            raise UnknownBranch("no such branch")
        self.store.branches[branch.gtid.text] = "rolled back"
        self._done("rollback")

    def recover(self) -> list[Prepared]:
        self._called("recover")
        from quorate.transactions.gtid import parse

        found = []
        for text, state in self.store.branches.items():
            gtid = parse(text)
            if state == "prepared":
                found.append(Prepared(text, None if gtid is None else Branch(gtid, self.name, "7")))
        return found

    def fence(self, branch: Branch) -> None:
        self._called("fence")
        if self.store.branches.get(branch.gtid.text) == "active":
            self.store.branches[branch.gtid.text] = "rolled back"

    def outcome(self, branch: Branch) -> Outcome:
        self._called("outcome")
        state = self.store.branches.get(branch.gtid.text)
        if state == "prepared":
            return Outcome.PREPARED
        if state == "active" or not (self.store.tells or branch.token):
            return Outcome.UNKNOWN
        return Outcome.COMMITTED if state == "committed" else Outcome.ABORTED

    def tidy(self, before: float, space: str) -> None:
        self.store.tidied.append(before)


class OnePhaseMemory(Memory):
    def commit_one_phase(self, branch: Branch) -> None:
        self._called("one phase")
        if self.vote is Vote.NO:
            self.store.branches[branch.gtid.text] = "rolled back"
            raise VotedNo("no")
        self.store.branches[branch.gtid.text] = "committed"
        self._done("one phase")


class MemoryLog:
    """``loses``: how many answers of ``decide`` are lost, after it was written ("after") or before."""

    def __init__(self) -> None:
        self.kept: dict[str, Record] = {}
        self.horizon = 0.0
        self.loses: list[str] = []
        self.calls: list[str] = []
        self.unreadable: list[str] = []
        self.down = False
        self.hook: Callable[[str], None] = lambda method: None

    def _called(self, method: str) -> None:
        self.calls.append(method)
        self.hook(method)
        if self.down:
            raise ParticipantError("the log is down")

    def decide(self, record: Record, riding: Any = None) -> Record:
        self._called("decide")
        lost = self.loses.pop(0) if self.loses else ""
        if lost == "before":
            raise ParticipantError("no answer")
        if riding is not None and record.gtid.text not in self.kept:
            riding()
        if record.gtid.text not in self.kept and record.gtid.deadline < self.horizon:
            return presumed_abort(record.gtid, record.at, record.by)
        stands = self.kept.setdefault(record.gtid.text, amended(record))
        if lost == "after":
            raise ParticipantError("no answer")
        return amended(stands)

    def read(self, gtid: Gtid) -> Record | None:
        self._called("read")
        found = self.kept.get(gtid.text)
        if found is None and gtid.deadline < self.horizon:
            return presumed_abort(gtid, 0.0, "recovery")
        return None if found is None else amended(found)

    def records(self) -> list[Record]:
        self._called("records")
        return [amended(record) for record in self.kept.values()]

    def amend(self, records: Sequence[Record]) -> None:
        self._called("amend")
        for record in records:
            stands = self.kept.get(record.gtid.text)
            if stands is not None:
                self.kept[record.gtid.text] = amended(
                    stands, done=record.done, heuristic=record.heuristic, branches=record.branches
                )

    def forget(self, gtids: Sequence[Gtid], horizon: float) -> None:
        self._called("forget")
        self.horizon = max(self.horizon, horizon)
        for gtid in gtids:
            self.kept.pop(gtid.text, None)

    def claim_sweep(self, by: str, now: float, every: float) -> bool:
        return True

    def close(self) -> None:
        return


class World:
    """Flows in virtual time, one step after the other. ``points``: what was called, in order."""

    def __init__(self) -> None:
        self.time = EPOCH
        self.points: list[str] = []

    def gtid(self, timeout: float = 5.0, space: str = "unit", random: int = 1) -> Gtid:
        return new(space, self.time, timeout, random)

    def run(self, flow: Flow[Any]) -> Any:
        value: Any = None
        error: Exception | None = None
        while True:
            try:
                step = flow.send(value) if error is None else flow.throw(error)
            except StopIteration as end:
                return end.value
            value, error = None, None
            try:
                value = self._do(step)
            except Exception as raised:
                error = raised

    def _do(self, step: Any) -> Any:
        if isinstance(step, Call):
            self.points.append(step.point)
            found = step.function()
            return self.run(found) if hasattr(found, "send") else found
        if isinstance(step, All):
            started = self.time
            results: list[Done[Any] | Failed] = []
            for flow in step.flows:
                try:
                    results.append(Done(self.run(flow)))
                except Exception as raised:
                    results.append(Failed(raised))
                if step.seconds is not None and self.time - started > step.seconds:
                    results[-1] = Failed(TimeUp("no answer in time"))
            return results
        if isinstance(step, Sleep):
            self.time += step.seconds
            return None
        return self.time
