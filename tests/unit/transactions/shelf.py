"""A participant as a user writes one: values in memory, and a list of what it was asked."""

from quorate.transactions import Branch, Outcome, Prepared, UnknownBranch, Vote, VotedNo


class Shelf:
    """``vote``: what it answers to ``prepare``; an exception is raised."""

    def __init__(self, name: str, vote: Vote | Exception = Vote.YES) -> None:
        self.name = name
        self.vote = vote
        self.asked: list[str] = []
        self.prepared: dict[str, Branch] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.strangers: list[str] = []
        self.lists = 0

    def prepare(self, branch: Branch) -> Vote:
        self.asked.append("prepare")
        if isinstance(self.vote, Exception):
            raise self.vote
        if self.vote is Vote.YES:
            self.prepared[branch.gtid.text] = branch
        return self.vote

    def commit(self, branch: Branch) -> None:
        self._end(branch, Outcome.COMMITTED)

    def rollback(self, branch: Branch) -> None:
        self._end(branch, Outcome.ABORTED)

    def _end(self, branch: Branch, outcome: Outcome) -> None:
        self.asked.append(outcome.value)
        if self.prepared.pop(branch.gtid.text, None) is None:
            raise UnknownBranch("there is no such branch")
        self.outcomes[branch.gtid.text] = outcome

    def recover(self) -> list[Prepared]:
        self.lists += 1
        found = [Prepared(f"{branch.gtid.text}/{self.name}", branch, 1.0) for branch in self.prepared.values()]
        return [*found, *[Prepared(name, None) for name in self.strangers]]

    def fence(self, branch: Branch) -> None:
        self.asked.append("fence")

    def outcome(self, branch: Branch) -> Outcome:
        if branch.gtid.text in self.prepared:
            return Outcome.PREPARED
        return self.outcomes.get(branch.gtid.text, Outcome.ABORTED)

    def measure(self) -> dict[str, float]:
        return {"prepared_slots_used": float(len(self.prepared)), "prepared_slots_max": 5.0}


NO = VotedNo("out of stock")
