"""What to do about an intent that is in the way: learn what was decided about its transaction, and finish it accordingly.

A transaction is decided by one record (``decisions``), and from then on it is in force everywhere, also where nobody has said so yet. So whoever meets
one of its intents looks for the record, finishes the intent, and goes on: nobody sees a part of what was decided and not the other. If nothing is
decided, who reads takes what was there before, for the decision will come after the read. Who writes waits for a while; when the transaction's time
is up, whoever is first writes that it is aborted. Percolator's readers do the same: Peng and Dabek, "Large-scale Incremental Processing Using Distributed Transactions
and Notifications" (2010).

Among transactions that wait for one another the younger one gives way, so that they do not wait in a ring: "wait-die", Rosenkrantz, Stearns and
Lewis, "System Level Concurrency Control for Distributed Database Systems" (1978).

Written as generators that yield what they need done, for whoever drives them: the client, a member, the simulator.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

from quorate.kv import commands, decisions
from quorate.kv.commands import CONFLICT, LOCKED
from quorate.kv.entries import Entry
from quorate.kv.results import Locker, Result

Value = TypeVar("Value")

PAUSE_SECONDS = 0.002
PAUSE_SECONDS_MAX = 0.1
GIVE_WAY_SECONDS = 0.1
"""So long a transaction waits for an older one, which most often is about to be finished."""


class Look:
    """For a key; answered with its Entry or None, which is not older than the question, whatever intent is on it."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key


class Submit:
    """A command, to ``group``, or where that is 0 to the one that has ``key``; answered with its Result. ``own``: the one that all this is for."""

    __slots__ = ("body", "group", "key", "kind", "own")

    def __init__(self, kind: int, body: bytes, group: int, key: bytes = b"", own: bool = False) -> None:
        self.own = own
        self.kind = kind
        self.body = body
        self.group = group
        self.key = key


class Pause:
    """For about so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Clock:
    """Answered with the time in seconds since 1970. It decides only when something is tried, never what comes of it."""

    __slots__ = ()


Step = Look | Submit | Pause | Clock
Work = Generator[Step, object, Value]


def _look(key: bytes) -> Work[Entry | None]:
    found = yield Look(key)
    assert found is None or isinstance(found, Entry)
    return found


def _submit(kind: int, body: bytes, group: int, key: bytes = b"", own: bool = False) -> Work[Result]:
    found = yield Submit(kind, body, group, key, own)
    assert isinstance(found, Result)
    return found


def _clock() -> Work[float]:
    found = yield Clock()
    assert isinstance(found, float)
    return found


def settle(locker: Locker, group: int, by: str) -> Work[bool]:
    """Whether the intent, in this group, is finished now. ``by``: who writes an abort, if one has to be written. Raises RemoteProtocolError for what is no
    decision."""
    place = decisions.place_of(locker)
    if place is None:
        return False
    committed = yield from _decision(place, locker.deadline_ms / 1000, by)
    if committed is None:
        return False
    yield from _submit(commands.FINISH, commands.finish_body(locker.id, committed, locker.deadline_ms), group)
    return True


def _decision(place: decisions.Place, deadline: float, by: str) -> Work[bool | None]:
    """Whether the transaction is committed, None if nothing is decided."""
    while True:
        record = yield from _look(place.key)
        if record is not None:
            return decisions.is_commit(record)
        time = yield from _clock()
        if time <= deadline + decisions.GRACE_SECONDS:
            return None
        revision, horizon = decisions.horizon_of((yield from _look(place.horizon)))
        if deadline < horizon:
            # what there is now is all that there will be
            record = yield from _look(place.key)
            return record is not None and decisions.is_commit(record)
        body = commands.commit_body(decisions.undecided(place, revision), [decisions.abort(place, time, by)])
        result = yield from _submit(commands.COMMIT, body, 0, place.key)
        if result.status != CONFLICT:
            return False


def settle_all(lockers: Sequence[Locker], group: int, by: str) -> Work[list[Locker]]:
    """Those that cannot be finished yet."""
    left = []
    for locker in lockers:
        if not (yield from settle(locker, group, by)):
            left.append(locker)
    return left


def carried_out(
    kind: int, body: bytes, group: int, seconds: float, by: str, mine: bytes = b"", first: Result | None = None
) -> Work[Result]:
    """The command's result, after what is in its way; LOCKED with those that cannot be finished if that took longer than ``seconds``.

    ``mine``: the id of the intent that it is to prepare, or to decide about: it gives way to older ones. ``first``: what came of it the first time.
    """
    began = yield from _clock()
    pause = PAUSE_SECONDS
    result = first
    while True:
        if result is None:
            result = yield from _submit(kind, body, group, own=True)
        if result.status != LOCKED:
            return result
        left = yield from settle_all(result.lockers, group, by)
        if left:
            waited = (yield from _clock()) - began
            young = mine and any(mine > locker.id for locker in left)
            if waited + pause > (min(seconds, GIVE_WAY_SECONDS) if young else seconds):
                result.lockers = left
                return result
            yield Pause(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)
        else:
            pause = PAUSE_SECONDS
        result = None
