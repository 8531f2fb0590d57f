"""How the decisions of transactions lie in the store: the one place that knows, for the decision log (``transactions.logs.kv``) and for whoever meets
an intent and has to learn what was decided (``resolving``).

    quorate/txn/<space>/d/<gtid>    the decision's record, JSON (docs/formats.md)
    quorate/txn/<space>/horizon     seconds since 1970: nothing is decided any more for transactions whose deadline is before it
    quorate/txn/<space>/sweep       who swept last, and when

A record is written once, on the conditions that there is none and that the horizon is the one that was compared with: whoever is first decides.
What has no record and lies before the horizon is aborted. That there is no record must be seen *after* the horizon was: what was seen before
may have been written, and the horizon raised past it, meanwhile.
"""

import json

from quorate.errors import RemoteProtocolError
from quorate.kv import commands
from quorate.kv.commands import Condition, Write
from quorate.kv.entries import Entry
from quorate.kv.results import Locker

ROOT = commands.RESERVED.decode()
RECORD_VERSION = 1
GRACE_SECONDS = 2.0
"""How long after its deadline an undecided transaction is left alone, for clocks differ."""


def prefix_of(space: str) -> str:
    """Of all keys of a space."""
    return f"{ROOT}{space}/"


def key_of(prefix: str, gtid: str) -> str:
    return f"{prefix}d/{gtid}"


class Place:
    """Where a transaction's decision lies, and the horizon that goes with it."""

    __slots__ = ("gtid", "horizon", "key")

    def __init__(self, prefix: str, gtid: str) -> None:
        self.gtid = gtid
        self.key = key_of(prefix, gtid).encode()
        self.horizon = f"{prefix}horizon".encode()


def place_of(locker: Locker) -> Place | None:
    """None if it lies in no store of ours; nor does anybody write where a decision cannot be."""
    try:
        decision, gtid = locker.decision.decode(), locker.transaction
    except UnicodeDecodeError:
        return None
    space, between, name = decision.removeprefix(ROOT).partition("/d/")
    if not decision.startswith(ROOT) or not between or not space or "/" in space or name != gtid:
        return None
    return Place(prefix_of(space), gtid)


def horizon_of(entry: Entry | None) -> tuple[int, float]:
    """The revision of its last change, and the horizon. Raises RemoteProtocolError."""
    try:
        return (0, 0.0) if entry is None else (entry.modified, float(entry.value))
    except ValueError:
        raise RemoteProtocolError(f"{entry and entry.key!r}: {entry and entry.value[:40]!r} is no horizon") from None


def undecided(place: Place, horizon_revision: int) -> list[Condition]:
    """On which a decision may be written."""
    return [
        Condition(commands.VERSION, place.key, 0),
        Condition(commands.MODIFIED, place.horizon, horizon_revision),
    ]


def is_commit(entry: Entry) -> bool:
    """Of a record. Raises RemoteProtocolError."""
    try:
        found = json.loads(entry.value)
        if found["v"] != RECORD_VERSION or found["decision"] not in ("commit", "abort"):
            raise ValueError
        return bool(found["decision"] == "commit")
    except (ValueError, KeyError, TypeError):
        raise RemoteProtocolError(f"{entry.key!r} holds no decision of version {RECORD_VERSION}") from None


def abort(place: Place, at: float, by: str) -> Write:
    """The record of an abort by somebody who was kept waiting."""
    found = {
        "v": RECORD_VERSION,
        "gtid": place.gtid,
        "decision": "abort",
        "branches": {},
        "at": round(at, 3),
        "by": by,
        "reason": "undecided, and its time is up",
    }
    return Write(
        commands.PUT, place.key, json.dumps(found, separators=(",", ":")).encode(), options=commands.KEEP_FLAGS
    )
