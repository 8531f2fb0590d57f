"""The decision of a transaction, as it stands in the decision log: one record, written once by compare-and-set.

JSON with a version, so that it can be read where it lies (``zkCli.sh get``, ``quorate kv get``). See docs/formats.md.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv.decisions import RECORD_VERSION
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.participant import Branch

VERSION = RECORD_VERSION
_JSON = json.JSONEncoder(separators=(",", ":"))


class Decision(Enum):
    COMMIT = "commit"
    ABORT = "abort"


class Resolution:
    """That an operator has mended by hand what ``heuristic`` tells of. ``at``: seconds since 1970."""

    __slots__ = ("at", "by", "reason")

    def __init__(self, by: str, at: float, reason: str) -> None:
        self.by = by
        self.at = at
        self.reason = reason


class Record:
    """``branches``: of a COMMIT all that voted yes, with their tokens; of an ABORT what was found. ``at``: seconds since 1970. ``by``: who decided.
    ``done``: every branch is known to have followed. ``heuristic``: branches that somebody ended otherwise, and how; ``resolved``: an operator has seen to them."""

    __slots__ = ("at", "branches", "by", "decision", "done", "gtid", "heuristic", "reason", "resolved")

    def __init__(
        self,
        gtid: Gtid,
        decision: Decision,
        branches: Sequence[Branch],
        at: float,
        by: str,
        reason: str = "",
        done: bool = False,
        heuristic: Mapping[str, str] | None = None,
        resolved: Resolution | None = None,
    ) -> None:
        self.gtid = gtid
        self.decision = decision
        self.branches = list(branches)
        self.at = at
        self.by = by
        self.reason = reason
        self.done = done
        self.heuristic = dict(heuristic or {})
        self.resolved = resolved

    @property
    def waits_for_operator(self) -> bool:
        return bool(self.heuristic) and self.resolved is None

    def branch(self, participant: str) -> Branch | None:
        for branch in self.branches:
            if branch.participant == participant:
                return branch
        return None

    def pack(self) -> bytes:
        found: dict[str, object] = {
            "v": VERSION,
            "gtid": self.gtid.text,
            "decision": self.decision.value,
            "branches": {branch.participant: branch.token for branch in self.branches},
            "at": round(self.at, 3),
            "by": self.by,
        }
        if self.reason:
            found["reason"] = self.reason
        if self.done:
            found["done"] = True
        if self.heuristic:
            found["heuristic"] = self.heuristic
        if self.resolved is not None:
            resolved = self.resolved
            found["resolved"] = {"by": resolved.by, "at": round(resolved.at, 3), "reason": resolved.reason}
        return _JSON.encode(found).encode()

    def __repr__(self) -> str:
        return f"Record({self.pack().decode()})"


def amended(
    record: Record,
    *,
    done: bool = False,
    heuristic: Mapping[str, str] | None = None,
    branches: Sequence[Branch] = (),
    resolved: Resolution | None = None,
) -> Record:
    """With what was found out since, besides what it says already. (A decision is never changed.)"""
    found = Record(
        record.gtid,
        record.decision,
        [Branch(branch.gtid, branch.participant, branch.token) for branch in record.branches],
        record.at,
        record.by,
        record.reason,
        record.done or done,
        record.heuristic,
    )
    more = {name: what for name, what in (heuristic or {}).items() if record.heuristic.get(name) != what}
    found.heuristic.update(more)
    # an operator has seen to what he knew of
    found.resolved = resolved if resolved is not None or more else record.resolved
    for branch in branches:
        kept = found.branch(branch.participant)
        if kept is None:
            found.branches.append(branch)
        elif not kept.token:
            kept.token = branch.token
    return found


def merged(stands: Record, change: Record) -> Record:
    """What stands, with what ``change`` knows besides: neither loses what the other one found out."""
    seen = stands.heuristic.items() <= change.heuristic.items()
    return amended(
        stands,
        done=change.done,
        heuristic=change.heuristic,
        branches=change.branches,
        resolved=change.resolved if seen else None,
    )


def unpack(data: bytes) -> Record:
    """Raises RemoteProtocolError: the log holds something that is no record of ours."""
    try:
        found = json.loads(data)
        if found["v"] != VERSION:
            raise RemoteProtocolError(f"a decision record of version {found['v']!r}, expected {VERSION}")
        gtid = parse(found["gtid"])
        if gtid is None:
            raise RemoteProtocolError(f"a decision record of {found['gtid']!r}, which is no name of a transaction")
        return Record(
            gtid,
            Decision(found["decision"]),
            [Branch(gtid, str(name), str(token)) for name, token in found["branches"].items()],
            float(found["at"]),
            str(found["by"]),
            str(found.get("reason", "")),
            bool(found.get("done", False)),
            {str(name): str(what) for name, what in found.get("heuristic", {}).items()},
            _resolution(found.get("resolved")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"no decision record: {error!r} in {data[:200]!r}") from None


def _resolution(found: Any) -> Resolution | None:
    return None if found is None else Resolution(str(found["by"]), float(found["at"]), str(found["reason"]))
