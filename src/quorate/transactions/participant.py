"""What takes part in a transaction: the interface that databases are adapted to, and that a user implements for a system of their own.

Each method may be plain, a coroutine function (for coordinators on an event loop), or a generator function that yields steps (``flow``). Plain methods that wait for something
belong to a class with ``blocks = True``: then they are called in threads where they would hold others up, several at a time. ``conformance`` is the kit that tests one, and
``examples/folder.py`` a whole one.

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


class Waiter:
    """Somebody's session that waits for a lock of a branch. ``seconds``: how long already, None if that is not told; ``statement``: what it
    is at, "" if the user may not see it."""

    __slots__ = ("lock", "seconds", "session", "statement")

    def __init__(self, session: str, seconds: float | None, lock: str, statement: str) -> None:
        self.session = session
        self.seconds = seconds
        self.lock = lock
        self.statement = statement


class Blocking:
    """What a prepared branch keeps from others: ``locks``, as people read them; ``waiters``; ``note``: what has to be known about the answer."""

    __slots__ = ("locks", "note", "waiters")

    def __init__(self, locks: Sequence[str], waiters: Sequence[Waiter], note: str = "") -> None:
        self.locks = list(locks)
        self.waiters = list(waiters)
        self.note = note


class Participant(Protocol):
    """``name``: 1 to 40 of a-z, 0-9, _ and -, the same in every process, for recovery finds branches by it. A branch is told apart by its transaction *and*
    its participant, and has to be found by these two alone: other processes end it, at the same time as its own or after that has died.

    Any error but those named here says: not now, ask again.
    """

    name: str

    def prepare(self, branch: Branch) -> Any:
        """A Vote; every exception is a NO. After YES the branch survives anything that happens to the participant, and ends only by ``commit`` or ``rollback``."""

    def commit(self, branch: Branch) -> Any:
        """Commit a prepared branch, durably. It is asked for again and again until it returns. Raises UnknownBranch if there is none; then ``outcome`` has to tell why."""

    def rollback(self, branch: Branch) -> Any:
        """Roll the branch back, prepared or not, also while its ``prepare`` is still under way. Raises UnknownBranch if there is none, or if it is committed."""

    def recover(self) -> Any:
        """A sequence of Prepared: all that is prepared here, other people's too. Raises if it cannot be known now: an empty list is a promise."""

    def fence(self, branch: Branch) -> Any:
        """Make sure that whoever still works for this branch can neither prepare it nor commit it in one phase any more. One that is prepared stays so. May be asked for
        more than once, and for a branch that never was."""

    def outcome(self, branch: Branch) -> Any:
        """An Outcome. COMMITTED for as long as ``tidy`` was not told that nobody will ask; UNKNOWN while somebody is at work for the branch, for he may yet commit it."""


# ---- what a participant may have besides


class Begins(Protocol):
    def begin(self, branch: Branch) -> Any:
        """Start the branch. What it gives back is what ``enlist`` gives the program. Without it a branch begins with whatever is done first."""


class OnePhase(Protocol):
    """A participant that can do without ``prepare`` where it is the only one. One that cannot always do so says it for each branch:
    ``can_decide(branch) -> bool``."""

    def commit_one_phase(self, branch: Branch) -> Any:
        """Commit a branch that was not prepared. Every exception says that it is rolled back, but for ConnectionBroken: then ``outcome`` has to tell."""


class Tidies(Protocol):
    def tidy(self, before: float, space: str) -> Any:
        """Nobody will ask for outcomes of the space's transactions whose deadline was before that (seconds since 1970). What is prepared stays."""


class LetsGo(Protocol):
    def let_go(self, branch: Branch) -> None:
        """The transaction is over in this process, however it ended. What is still open is broken off, so that others can end it; what is prepared stays so."""


class Observable(Protocol):
    """A participant that can tell operators more."""

    def blocking(self, branch: Branch) -> Any:
        """Blocking: what the prepared branch keeps from others. Raises ParticipantError if the user may not ask."""

    def measure(self) -> Any:
        """A mapping of gauges for the metrics, such as ``prepared_slots_used``."""


Listed = Sequence[Prepared]
