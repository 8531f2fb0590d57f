"""Scripts with their expected traces (``testdata/courses.txt``), after etcd/raft's interaction tests."""

import os
from pathlib import Path

from tests.unit.transactions.memory import EPOCH, Memory, MemoryLog, Store, World

from quorate.errors import QuorateError
from quorate.transactions.commit import Part, commit
from quorate.transactions.errors import ConnectionBroken, TransactionError
from quorate.transactions.participant import Branch, Vote
from quorate.transactions.recovery import sweep

FILE = Path(__file__).parent / "testdata" / "courses.txt"
MARK = "    "
"""Before the expected lines."""


class Course:
    """One verb per method; each gives the lines that it shows."""

    def __init__(self) -> None:
        self.world = World()
        self.log = MemoryLog()
        self.one = {name: Memory(Store(name)) for name in "ab"}
        self.gtid = self.world.gtid()
        self.parts = []
        for name, participant in self.one.items():
            branch = Branch(self.gtid, name)
            participant.begin(branch)
            self.parts.append(Part(branch, participant))

    def run(self, line: str) -> list[str]:
        self.world.points.clear()
        match line.split():
            case ["vote", name, *vote]:
                self.one[name].vote = Vote(" ".join(vote))
            case ["lose", "the", "answer", "to", "decide"]:
                self.log.loses.append("after")
            case ["log", state]:
                self.log.down = state == "down"
            case ["fail", name, method]:
                self.one[name].fails[method] = ConnectionBroken("lost")
            case ["heal", name]:
                self.one[name].fails.clear()
            case ["pass", seconds]:
                self.world.time += float(seconds)
            case ["turn", "back", "the", "clock"]:
                self.world.time = EPOCH
            case ["by", "hand", name, *what, "at", method]:
                self.one[name].hook = lambda called: self._by_hand(name, " ".join(what)) if called == method else None
            case ["prepare"]:
                for part in self.parts:
                    part.participant.prepare(part.branch)
                return [self.ends()]
            case ["commit"]:
                return [*self._commit(), self.ends()]
            case ["sweep"]:
                return [*self._sweep(), self.ends()]
            case _:
                raise AssertionError(f"no such verb: {line}")
        return []

    def _by_hand(self, name: str, what: str) -> None:
        self.one[name].hook = lambda called: None
        self.one[name].store.by_hand(self.gtid, what)

    def _points(self) -> list[str]:
        """Repetitions are shown once."""
        shown: list[str] = []
        for point in self.world.points:
            if not shown or shown[-1].removesuffix(" (again and again)") != point:
                shown.append(point)
            else:
                shown[-1] = f"{point} (again and again)"
        return shown

    def _commit(self) -> list[str]:
        try:
            self.world.run(commit(self.gtid, self.parts, self.log, "me"))
        except TransactionError as error:
            told = f"told {type(error).__name__}: {str(error).partition(': ')[2]}"
        else:
            told = "told: committed"
        return [*self._points(), told]

    def _sweep(self) -> list[str]:
        try:
            report = self.world.run(sweep(self.one, self.log, "unit", "sweeper"))
        except QuorateError as error:
            return [*self._points(), f"no sweep: {error}"]
        found = [f"heuristic: {participant} {what}" for _, participant, what in report.heuristic]
        return [*self._points(), *found]

    def ends(self) -> str:
        states = ", ".join(f"{name} {one.store.branches[self.gtid.text]}" for name, one in self.one.items())
        record = self.log.kept.get(self.gtid.text)
        kept = "no record"
        if record is not None:
            against = f" against {', '.join(f'{name} {what}' for name, what in record.heuristic.items())}"
            kept = f"{record.decision.name}{' done' if record.done else ''}{against if record.heuristic else ''}"
        return f"=> {states}; {kept}"


def played(text: str) -> str:
    course = Course()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith(MARK):
            continue
        out.append(line)
        if line.startswith("=="):
            course = Course()
        elif line and not line.startswith("#"):
            out += [MARK + shown for shown in course.run(line)]
    return "\n".join(out) + "\n"


def test_courses() -> None:
    text = FILE.read_text()
    found = played(text)
    if os.environ.get("QUORATE_REWRITE"):
        FILE.write_text(found)
    assert found == text
