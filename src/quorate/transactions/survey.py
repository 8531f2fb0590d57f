"""What there is: every transaction that the decision log or a participant knows of. Nothing is changed by looking.

The participants are asked before the log, so that a branch that is listed and has no decision had none when it was listed.
"""

from collections.abc import Mapping
from typing import Any

from quorate.errors import QuorateError
from quorate.kv.decisions import GRACE_SECONDS
from quorate.transactions.flow import Failed, Flow, ask, now, side_by_side
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.log import DecisionLog
from quorate.transactions.participant import Listed, Prepared
from quorate.transactions.records import Decision, Record

ASK_SECONDS = 15.0
"""For one participant's list."""


class Entry:
    """A transaction. ``record``: its decision, None if there is none; ``prepared``: where it is, by participant."""

    __slots__ = ("gtid", "prepared", "record")

    def __init__(self, gtid: Gtid, record: Record | None) -> None:
        self.gtid = gtid
        self.record = record
        self.prepared: dict[str, Prepared] = {}

    @property
    def unfinished(self) -> bool:
        record = self.record
        return bool(self.prepared) or record is None or not record.done or record.waits_for_operator

    def overdue(self, time: float) -> bool:
        return time > self.gtid.deadline + GRACE_SECONDS

    def state(self, time: float) -> str:
        """In a few words."""
        record = self.record
        if record is None:
            return "undecided, its time is up" if self.overdue(time) else "undecided, in its time"
        if record.waits_for_operator:
            return "heuristic: " + ", ".join(f"{name} {what}" for name, what in sorted(record.heuristic.items()))
        if self.prepared:
            return "to be committed" if record.decision is Decision.COMMIT else "to be rolled back"
        if record.resolved is not None:
            return "acknowledged"
        return "finished" if record.done else "not confirmed everywhere"


class Foreign:
    """A prepared branch that is left alone, and ``why``."""

    __slots__ = ("age", "name", "owner", "participant", "why")

    def __init__(self, participant: str, prepared: Prepared, why: str) -> None:
        self.participant = participant
        self.name = prepared.name
        self.age = prepared.age
        self.owner = prepared.owner
        self.why = why


class Survey:
    """``entries``: oldest first. ``log_error``: why the decision log could not be read, "" if it was; then nothing is known of decisions."""

    def __init__(self, time: float) -> None:
        self.time = time
        self.entries: list[Entry] = []
        self.foreign: list[Foreign] = []
        self.unreachable: dict[str, str] = {}
        self.log_error = ""


def survey(participants: Mapping[str, Any], log: DecisionLog, space: str) -> Flow[Survey]:
    lists = yield from side_by_side(
        [ask(f"{name}: recover", participant, "recover") for name, participant in participants.items()], ASK_SECONDS
    )
    found = Survey((yield from now()))
    entries: dict[Gtid, Entry] = {}
    try:
        for record in (yield from ask("log: records", log, "records")):
            entries[record.gtid] = Entry(record.gtid, record)
    except QuorateError as error:
        found.log_error = str(error)
    for name, listed in zip(participants, lists, strict=True):
        if isinstance(listed, Failed):
            found.unreachable[name] = str(listed.error) or type(listed.error).__name__
            continue
        _take(found, entries, name, listed.value, participants, space)
    found.entries = sorted(entries.values(), key=lambda entry: (entry.gtid.began, entry.gtid.text))
    return found


def _take(
    found: Survey,
    entries: dict[Gtid, Entry],
    name: str,
    listed: Listed,
    participants: Mapping[str, Any],
    space: str,
) -> None:
    for prepared in listed:
        branch = prepared.branch
        if branch is not None and branch.gtid.space == space:
            entry = entries.setdefault(branch.gtid, Entry(branch.gtid, None))
            entry.prepared[name] = prepared
        elif (why := why_foreign(prepared, participants, space)) is not None:
            found.foreign.append(Foreign(name, prepared, why))


def why_foreign(prepared: Prepared, participants: Mapping[str, Any], space: str) -> str | None:
    """None if it belongs to another of the participants, whose database is on the same server: that one lists it too."""
    return why_foreign_name(prepared.name, participants, space)


def why_foreign_name(name: str, participants: Mapping[str, Any], space: str) -> str | None:
    text, _, participant = name.rpartition("/")
    gtid = parse(text)
    if gtid is None:
        return "not ours"
    if gtid.space != space:
        return f"of the space {gtid.space}"
    if participant in participants:
        return None
    return f"of this space, and there is no participant {participant!r}"
