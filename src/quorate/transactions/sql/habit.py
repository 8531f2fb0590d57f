"""Whether the branches of a participant write. To find out costs a round trip or a slow question at each vote, and where all of them do it is not worth
asking: a branch that is prepared without having been asked is prepared as any other, and if it wrote nothing it costs two flushes that it could
have done without. Then they are asked again for long."""

STREAK = 32
"""So many branches in a row that wrote, and they are asked no more."""
ASK_AGAIN = 1000
"""Branches that are asked after one that wrote nothing was not."""


class Habit:
    """``steady``: the next one will write, as far as one can tell. Any thread may use it: what is lost by a race is a question too many or too few."""

    __slots__ = ("_streak",)

    def __init__(self) -> None:
        self._streak = 0

    @property
    def steady(self) -> bool:
        return self._streak >= STREAK

    def wrote(self) -> None:
        self._streak += 1

    def did_not(self, asked: bool) -> None:
        """Or it may not have: it cannot be told."""
        self._streak = min(self._streak, 0) if asked else -ASK_AGAIN
