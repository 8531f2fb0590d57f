"""Consul's API as one router for ``runtime.http``."""

from html import escape
from urllib.parse import quote, urlencode

from quorate import __version__
from quorate.kv.consul import kv, sessions, txn
from quorate.kv.consul.backend import Backend
from quorate.kv.consul.parsing import Refusal
from quorate.kv.consul.shapes import DATACENTER, answer
from quorate.runtime.http import Pending, Request, Response


def _cleaned(path: str) -> str:
    """Without empty and relative parts, as Go's servers want their paths."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts) + ("/" if path.endswith("/") and parts else "")


def _moved(request: Request, path: str) -> Response:
    query = urlencode(request.query)
    target = quote(path) + (f"?{query}" if query else "")
    body = f'<a href="{escape(target)}">Moved Permanently</a>.\n\n' if request.method == "GET" else ""
    return Response(301, body.encode(), "text/html; charset=utf-8", (("Location", target),))


class ConsulRouter:
    """For requests whose path begins with ``/v1/``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._kv = kv.KvFamily(backend)
        self._sessions = sessions.SessionFamily(backend)
        self._txn = txn.TxnFamily(backend)

    def __call__(self, request: Request) -> Response | Pending:
        try:
            return self._route(request)
        except Refusal as error:
            return error.response()

    def _route(self, request: Request) -> Response | Pending:
        path = request.path
        cleaned = _cleaned(path)
        if cleaned != path:
            return _moved(request, cleaned)
        datacenter = request.argument("dc")
        if datacenter not in (None, "", DATACENTER):
            raise Refusal(500, "No path to datacenter")
        if path.startswith(kv.PREFIX):
            return self._kv(request)
        if path == kv.PREFIX[:-1]:
            raise Refusal(400, "Missing key name")
        if path.startswith(sessions.PREFIX):
            return self._sessions(request)
        if path == txn.PATH:
            return self._txn(request)
        if request.method == "GET":
            if path == "/v1/status/leader":
                return answer(self._leader())
            if path == "/v1/status/peers":
                return answer(sorted(member.get("peer", "") for member in self._members()))
            if path == "/v1/agent/self":
                return answer(self._self())
        return Response(404, b"")

    def _members(self) -> list[dict[str, str]]:
        members: list[dict[str, str]] = self._backend.front.describe()["members"]
        return members

    def _leader(self) -> str:
        """The address of who leads the first shard, "" if nobody does."""
        leader = self._backend.front.shards.services[0].leader
        return next((member.get("peer", "") for member in self._members() if str(member["id"]) == str(leader)), "")

    def _self(self) -> dict[str, object]:
        node = self._backend.node
        return {
            "Config": {
                "Datacenter": DATACENTER,
                "NodeName": node,
                "NodeID": "00000000-0000-0000-0000-000000000000",
                "Server": True,
                "Revision": "",
                "Version": f"1.8.7+quorate{__version__}",
            },
            "Member": {"Name": node, "Addr": "127.0.0.1", "Status": 1, "Tags": {"role": "consul", "dc": DATACENTER}},
            "Meta": {},
        }
