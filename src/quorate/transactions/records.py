"""The decision of a transaction, as it stands in the decision log: one record, written once by compare-and-set.

JSON with a version, so that it can be read where it lies (``zkCli.sh get``, ``quorate kv get``). See docs/formats.md.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum

from quorate.errors import RemoteProtocolError
from quorate.kv.decisions import RECORD_VERSION
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.participant import Branch

VERSION = RECORD_VERSION


class Decision(Enum):
    COMMIT = "commit"
    ABORT = "abort"


class Record:
    """``branches``: of a COMMIT all that voted yes, with their tokens; of an ABORT what was found. ``at``: seconds since 1970. ``by``: who decided.
    ``done``: every branch is known to have followed. ``heuristic``: branches that somebody ended otherwise, and how."""

    __slots__ = ("at", "branches", "by", "decision", "done", "gtid", "heuristic", "reason")

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
    ) -> None:
        self.gtid = gtid
        self.decision = decision
        self.branches = list(branches)
        self.at = at
        self.by = by
        self.reason = reason
        self.done = done
        self.heuristic = dict(heuristic or {})

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
        return json.dumps(found, separators=(",", ":")).encode()

    def __repr__(self) -> str:
        return f"Record({self.pack().decode()})"


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
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(f"no decision record: {error!r} in {data[:200]!r}") from None
