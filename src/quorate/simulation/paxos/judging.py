"""Judges what clients saw by the log that was chosen: carried out entry by entry on a store of one page, written from the rules and not from the
production code.

Every answer must be the one that follows from the command's place in the log, a command has one effect however often it is there, and places must
keep to real time: what was asked for after something had ended comes after it. A search for an order, as of histories without a log, is not needed
and made all the same where little is unknown, for it believes nothing of what this simulation says about itself.
"""

from collections.abc import Mapping
from typing import Any

from quorate.kv.commands import HEAD
from quorate.verification.history import Operation

SEARCHED = 10
"""Operations of unknown outcome on a key, up to which an order is searched for as well."""
_NONE = (None, 0)


class Seen:
    """What clients did in one group: ``writes`` by (session, seq); ``reads`` with the index as of which they were answered."""

    def __init__(self) -> None:
        self.writes: dict[tuple[int, int], Operation] = {}
        self.reads: dict[Operation, int] = {}


def findings(chosen: Mapping[int, bytes], seen: Seen) -> list[str]:
    """What is wrong, a sentence each. ``chosen``: the commands of every index that has any, from the first on."""
    wrong: list[str] = []
    keys: dict[Any, tuple[Any, int]] = {}
    acked: dict[int, int] = {}
    places: dict[Operation, tuple[int, int]] = {}
    reads: dict[int, list[Operation]] = {}
    for operation, index in seen.reads.items():
        reads.setdefault(index, []).append(operation)
    last = max([*chosen, *reads], default=0)
    for index in range(last + 1):
        for place, (session, seq, first) in enumerate(_commands(chosen.get(index, b""))):
            acked[session] = max(acked.get(session, 0), first)
            op = seen.writes.get((session, seq))
            if op is None or op in places or seq < acked[session]:
                continue
            places[op] = (index, place)
            before = keys.get(op.key, _NONE)
            keys[op.key], expected = _carried_out(op, before)
            if op.outcome == "ok" and op.result != expected:
                wrong.append(f"index {index}: {op}, expected {expected} of {before}")
        for op in reads.get(index, ()):
            places[op] = (index, 1 << 30)
            value, version = keys.get(op.key, _NONE)
            expected = {"value": value, "version": version} if version else None
            if op.outcome == "ok" and op.result != expected:
                wrong.append(f"index {index}: {op}, expected {expected}")
    for op in seen.writes.values():
        if op.outcome == "ok" and op not in places:
            wrong.append(f"acknowledged and not in the log: {op}")
    return wrong + _out_of_order(places)


def _commands(payload: bytes) -> list[tuple[int, int, int]]:
    """(session, seq, first seq that was not answered) of each."""
    found = []
    at = 0
    while at < len(payload):
        length, _, session, seq, acked = HEAD.unpack_from(payload, at)
        at += HEAD.size + length
        found.append((session, seq, acked))
    return found


def _carried_out(op: Operation, before: tuple[Any, int]) -> tuple[tuple[Any, int], Any]:
    """The key afterwards, and what the client must be told."""
    version = before[1]
    if op.name == "delete":
        return _NONE, bool(version)
    if op.name == "put":
        return (op.value, version + 1), {"version": version + 1}
    assert op.name == "cas"
    if version != (op.value["version"] or 0):
        return before, False
    return (op.value["value"], version + 1), {"version": version + 1, "swapped": True}


def _out_of_order(places: Mapping[Operation, tuple[int, int]]) -> list[str]:
    """Operations that took effect before one that had ended when they were asked for."""
    wrong = []
    ended = sorted((op for op in places if op.outcome == "ok"), key=lambda op: op.finished)
    begun = sorted(places, key=lambda op: op.began)
    latest: tuple[tuple[int, int], Operation | None] = ((-1, 0), None)
    at = 0
    for op in begun:
        while at < len(ended) and ended[at].finished < op.began:
            if places[ended[at]] > latest[0]:
                latest = (places[ended[at]], ended[at])
            at += 1
        if places[op] < latest[0]:
            wrong.append(
                f"real time: {op} took effect at {places[op]}, after {latest[1]} had ended, which did at {latest[0]}"
            )
    return wrong
