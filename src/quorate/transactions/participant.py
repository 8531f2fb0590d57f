"""What takes part in a transaction: the interface that databases are adapted to, and that a user implements for a system of their own.

Each method may be plain, a coroutine function, or a generator function that yields steps (``flow``). ``conformance`` is the kit that tests one.

    prepare ──yes──▶ prepared ──commit──▶ committed
       │                 └──rollback──▶ rolled back
       ├──read only──▶ (no more is heard of it)
       └──no──▶ rolled back

Whatever ends a branch is judged by ``outcome``, never by "there is no such branch": that is also what a participant says that committed it
before, that lost it, or that has not let go of a broken connection yet.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from quorate.transactions.gtid import Gtid


class Vote(Enum):
    """To prepare. NO may also be said by raising an exception, which then is the cause that the user sees."""

    YES = "yes"
    READ_ONLY = "read only"
    NO = "no"


class Outcome(Enum):
    """What became of a branch. UNKNOWN: the participant cannot tell, or not now."""

    COMMITTED = "committed"
    ABORTED = "rolled back"
    PREPARED = "prepared"
    UNKNOWN = "unknown"


class Branch:
    """One participant's part of a transaction. ``token``: what ``prepare`` learnt that ``outcome`` needs later, kept in the decision record."""

    __slots__ = ("gtid", "participant", "token")

    def __init__(self, gtid: Gtid, participant: str, token: str = "") -> None:
        self.gtid = gtid
        self.participant = participant
        self.token = token

    def __repr__(self) -> str:
        return f"Branch({self.gtid.text!r}, {self.participant!r}, {self.token!r})"


class Prepared:
    """A branch that a participant lists as prepared. ``name``: as the participant spells it; ``branch``: None if it is none of ours;
    ``age``: seconds, None if the participant does not tell; ``live``: somebody's connection still holds it."""

    __slots__ = ("age", "branch", "live", "name", "owner")

    def __init__(
        self, name: str, branch: Branch | None, age: float | None = None, owner: str = "", live: bool = False
    ) -> None:
        self.name = name
        self.branch = branch
        self.age = age
        self.owner = owner
        self.live = live


class Participant(Protocol):
    """``name``: 1 to 40 of a-z, 0-9, _ and -, the same in every process, for recovery finds branches by it."""

    name: str

    def prepare(self, branch: Branch) -> Any:
        """Vote. After YES the branch survives anything that happens to the participant, and ends only by ``commit`` or ``rollback``."""

    def commit(self, branch: Branch) -> Any:
        """Commit a prepared branch. Raises UnknownBranch if there is none; any other error says that it has to be tried again."""

    def rollback(self, branch: Branch) -> Any:
        """Roll the branch back, prepared or not. Raises as ``commit`` does."""

    def recover(self) -> Any:
        """A sequence of Prepared: all that is prepared here, other people's too."""

    def fence(self, branch: Branch) -> Any:
        """Make sure that whoever still works for this branch can prepare or end it no more."""

    def outcome(self, branch: Branch) -> Any:
        """An Outcome."""


class OnePhase(Protocol):
    """A participant that can do without ``prepare`` where it is the only one. One that cannot always do so says it for each branch:
    ``can_decide(branch) -> bool``."""

    def commit_one_phase(self, branch: Branch) -> Any:
        """Commit a branch that was not prepared. Raises VotedNo if it is rolled back, ConnectionBroken if ``outcome`` has to tell."""


Listed = Sequence[Prepared]
