"""Turns: the way out for a client that keeps losing races for the same keys.

Who reads, computes and commits on the condition that nothing changed can lose for long to others who are quicker; back-off with jitter makes
it rarer and unfair. A client that lost a few times asks the leader for a turn on its keys. Turns on the same key come in the order they
were asked for, and while one lasts the conditional commits of others that touch its keys are held back; they are decided when it ends,
with its holder's commit or when its time is over. Turns are advice: versions decide, and a new leader knows of none.
"""

from collections import deque
from collections.abc import Callable, Sequence

TURN_NS = 100_000_000
"""A turn lasts so long at most."""
WAITING_MAX = 10_000


class Turn:
    """``begin`` is called when it begins."""

    __slots__ = ("begin", "deadline", "held", "keys", "over", "owner")

    def __init__(self, owner: object, keys: Sequence[bytes], begin: Callable[[], None]) -> None:
        self.owner = owner
        self.keys = keys
        self.begin = begin
        self.deadline = 0
        """0 while it waits."""
        self.over = False
        self.held: list[Callable[[], None]] = []
        """Commits of others, to be decided after it."""


class Turns:
    def __init__(self) -> None:
        self._of_key: dict[bytes, deque[Turn]] = {}
        self._waiting = 0

    def __bool__(self) -> bool:
        return bool(self._of_key)

    def ask(self, now: int, owner: object, keys: Sequence[bytes], begin: Callable[[], None]) -> bool:
        """False if too many wait."""
        if self._waiting >= WAITING_MAX:
            return False
        turn = Turn(owner, list(dict.fromkeys(keys)), begin)
        self._waiting += 1
        for key in turn.keys:
            self._of_key.setdefault(key, deque()).append(turn)
        self._try(now, turn)
        return True

    def _try(self, now: int, turn: Turn) -> None:
        if not turn.deadline and all(self._of_key[key][0] is turn for key in turn.keys):
            turn.deadline = now + TURN_NS
            turn.begin()

    def blocking(self, owner: object, keys: Sequence[bytes]) -> Turn | None:
        """The turn of somebody else that a conditional commit on these keys has to wait for."""
        for key in keys:
            waiting = self._of_key.get(key)
            if waiting and waiting[0].deadline and waiting[0].owner is not owner:
                return waiting[0]
        return None

    def of(self, owner: object) -> Turn | None:
        """The turn that ``owner`` has now; None is nobody."""
        if owner is None:
            return None
        for waiting in self._of_key.values():
            if waiting[0].owner is owner and waiting[0].deadline:
                return waiting[0]
        return None

    def end(self, now: int, turn: Turn) -> None:
        """It is over: what was held back goes on, then the next turns begin."""
        if turn.over:
            return
        turn.over = True
        self._waiting -= 1
        next_turns: list[Turn] = []
        for key in turn.keys:
            waiting = self._of_key[key]
            waiting.remove(turn)
            if waiting:
                next_turns.append(waiting[0])
            else:
                del self._of_key[key]
        for commit in turn.held:
            commit()
        for following in next_turns:
            self._try(now, following)

    def forget(self, now: int, owner: object) -> None:
        """Its connection is gone."""
        mine = [turn for waiting in list(self._of_key.values()) for turn in waiting if turn.owner is owner]
        for turn in dict.fromkeys(mine):
            self.end(now, turn)

    def expire(self, now: int) -> None:
        over = [waiting[0] for waiting in self._of_key.values() if waiting[0].deadline and waiting[0].deadline <= now]
        for turn in dict.fromkeys(over):
            self.end(now, turn)

    def deadline(self) -> int:
        """-1 for never."""
        return min((waiting[0].deadline for waiting in self._of_key.values() if waiting[0].deadline), default=-1)

    def clear(self) -> list[Callable[[], None]]:
        """No turns any more; the commits that were held back."""
        turns = dict.fromkeys(turn for waiting in self._of_key.values() for turn in waiting)
        self._of_key.clear()
        self._waiting = 0
        for turn in turns:
            turn.over = True
        return [commit for turn in turns for commit in turn.held]
