"""The administration of a cluster over HTTP, under ``/quorate/v1/``; what ``quorate member`` talks to.

    GET    status                        this member, its groups, who leads them, who their members are
    PUT    groups/G/members/N            add member N; the body gives its addresses: {"peer": "host:port", …}
    DELETE groups/G/members/N            remove member N
    PUT    groups/G/leader/N             let member N lead

``timeout_ms`` in the query of a change of members says how long the new one may take to catch up (30 s if not given). Only the leader of a group changes it: any other member answers 421 with the leader's number.
"""

import json
from collections.abc import Callable

from quorate.consensus.paxos.host import PEER, Host
from quorate.consensus.paxos.members import Member
from quorate.errors import LocalProtocolError, QuorateError, UsageError
from quorate.kv.config import ADDRESSES
from quorate.runtime.environment import MILLISECOND
from quorate.runtime.http import (
    Pending,
    Request,
    Response,
    error_response,
    json_response,
    method_not_allowed,
    not_found,
)

PREFIX = "/quorate/v1/"
_PATIENCE = 30_000 * MILLISECOND
_MISDIRECTED = 421


class Administration:
    """A router for requests whose path begins with PREFIX."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __call__(self, request: Request) -> Response | Pending:
        words = request.path[len(PREFIX) :].strip("/").split("/")
        if words == ["status"]:
            return json_response(self.status()) if request.method == "GET" else method_not_allowed("GET")
        if len(words) != 4 or words[0] != "groups" or not (words[1].isdigit() and words[3].isdigit()):
            return not_found()
        group, sid = int(words[1]), int(words[3])
        if group not in self._host.groups:
            return error_response(404, f"there is no group {group}")
        if words[2] == "members":
            return self._members(request, group, sid)
        if words[2] == "leader":
            if request.method != "PUT":
                return method_not_allowed("PUT")
            return self._change(group, lambda ended: self._host.hand_over(group, sid, ended))
        return not_found()

    def status(self) -> dict[str, object]:
        host = self._host
        groups = []
        for number, group in host.groups.items():
            log = group.peer.acceptor.log
            groups.append(
                {
                    "group": number,
                    "leader": group.leader,
                    "leading": group.leading,
                    "applied": group.applied,
                    "last": log.last,
                    "ballot": group.peer.acceptor.promised,
                    "members": [{"id": member.sid, **member.addresses} for member in log.members],
                }
            )
        return {"id": host.settings.sid, "groups": groups}

    def _members(self, request: Request, group: int, sid: int) -> Response | Pending:
        host = self._host
        text = request.argument("timeout_ms") or ""
        patience = int(text) * MILLISECOND if text.isascii() and text.isdigit() else _PATIENCE
        if request.method == "DELETE":
            return self._change(group, lambda ended: host.remove_member(group, sid, patience, ended))
        if request.method != "PUT":
            return method_not_allowed("DELETE, PUT")
        try:
            addresses = json.loads(request.body)
            fits = isinstance(addresses, dict) and PEER in addresses and set(addresses) <= set(ADDRESSES)
        except ValueError:
            fits = False
        if not fits or not all(isinstance(value, str) and ":" in value for value in addresses.values()):
            return error_response(400, f'expected an object of addresses: {{"{PEER}": "host:port", …}}')
        if not 1 <= sid <= 0xFFFF:
            return error_response(400, f"member {sid}: expected a number from 1 to 65535")
        return self._change(group, lambda ended: host.add_member(group, Member(sid, addresses), patience, ended))

    def _change(self, group: int, begin: Callable[[Callable[[QuorateError | None], None]], None]) -> Response | Pending:
        pending = Pending()

        def ended(error: QuorateError | None) -> None:
            if error is None:
                pending.respond(json_response({}))
            elif isinstance(error, LocalProtocolError):
                leader = self._host.groups[group].leader
                pending.respond(json_response({"error": str(error), "leader": leader}, _MISDIRECTED))
            else:
                status = 400 if isinstance(error, UsageError) else 409
                pending.respond(json_response({"error": str(error)}, status))

        begin(ended)
        return pending
