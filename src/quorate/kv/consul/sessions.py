"""``/v1/session``: sessions that hold locks. Each is a lease of one number in every shard."""

import json
from typing import Any

from quorate.kv import commands
from quorate.kv.consul.backend import Answer, Backend
from quorate.kv.consul.parsing import Refusal, duration, go_duration
from quorate.kv.consul.shapes import (
    BEHAVIOURS,
    answer,
    lease_of,
    new_session_id,
    session_meta,
    session_shape,
    sessions_of,
)
from quorate.kv.machine import Lease
from quorate.kv.results import Result
from quorate.runtime.http import Pending, Request, Response

PREFIX = "/v1/session/"
_TTL_MIN, _TTL_MAX = 10 * 10**9, 24 * 3600 * 10**9
_DELAY_DEFAULT, _DELAY_MAX = 15 * 10**9, 60 * 10**9
_NAME_MAX = 1024


class SessionFamily:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self, request: Request) -> Response | Pending:
        """Raises Refusal."""
        action, _, rest = request.path[len(PREFIX) :].partition("/")
        changes = {"create": self._create, "destroy": self._destroy, "renew": self._renew}
        if action in changes:
            if request.method != "PUT":
                return Response(405, f"method {request.method} not allowed".encode(), headers=(("Allow", "PUT"),))
            return changes[action](request, rest)
        if action in ("info", "node", "list"):
            if request.method != "GET":
                return Response(405, f"method {request.method} not allowed".encode(), headers=(("Allow", "GET"),))
            return self._show(request, action, rest)
        return Response(404, b"")

    # ---- changes

    def _create(self, request: Request, rest: str) -> Pending:
        wanted = _wanted(request.body)
        id_, lease = new_session_id(self._backend.env.random)
        meta = {
            "ID": id_,
            "Name": str(wanted.get("name", ""))[:_NAME_MAX],
            "Node": str(wanted.get("node") or self._backend.node)[:_NAME_MAX],
            "Checks": wanted.get("nodechecks") or wanted.get("checks") or ["serfHealth"],
        }
        behaviour = wanted.get("behavior") or "release"
        if behaviour not in BEHAVIOURS:
            raise Refusal(500, f"Invalid Behavior setting '{behaviour}'")
        ttl = _ttl(wanted.get("ttl"))
        body = commands.grant_lease_body(
            lease,
            ttl // 1_000_000,
            BEHAVIOURS[behaviour],
            _lock_delay(wanted.get("lockdelay")) // 1_000_000,
            json.dumps(meta, separators=(",", ":")).encode(),
        )
        pending = Pending()

        def told(results: list[Result] | Refusal) -> None:
            pending.respond(results.response() if isinstance(results, Refusal) else answer({"ID": id_}))

        self._backend.everywhere(commands.GRANT_LEASE, body, told)
        return pending

    def _destroy(self, request: Request, rest: str) -> Response | Pending:
        lease = lease_of(rest)
        if not lease:
            raise Refusal(400, "Missing session") if not rest else Refusal(500, f'invalid session "{rest}"')
        pending = Pending()

        def told(results: list[Result] | Refusal) -> None:
            pending.respond(results.response() if isinstance(results, Refusal) else answer(True))

        self._backend.everywhere(commands.REVOKE_LEASES, commands.numbers_body([lease]), told)
        return pending

    def _renew(self, request: Request, rest: str) -> Response | Pending:
        if not rest:
            raise Refusal(400, "Missing session")
        missing = Refusal(404, f"Session id '{rest}' not found")
        lease = lease_of(rest)
        if not lease:
            raise missing
        pending = Pending()

        def kept(there: bool | Refusal) -> None:
            if isinstance(there, Refusal):
                pending.respond(there.response())
                return
            found = self._find(lease)
            if not there or found is None:
                pending.respond(missing.response())
            else:
                pending.respond(answer([session_shape(found)]))

        self._backend.keep_alive(lease, kept)
        return pending

    # ---- reads

    def _find(self, lease: int) -> Lease | None:
        return self._backend.front.shards.services[0].machine.leases.get(lease)

    def _show(self, request: Request, action: str, rest: str) -> Pending:
        service = self._backend.front.shards.services[0]

        def look() -> Answer:
            machine = service.machine
            found = sessions_of(machine.leases.values())
            if action == "info":
                found = [lease for lease in found if lease.id == lease_of(rest)]
            elif action == "node":
                found = [lease for lease in found if (session_meta(lease) or {}).get("Node") == rest]
            index = max(machine.lease_revision, 1)
            return index, answer([session_shape(lease) for lease in found], index, led=service.leader != 0)

        if action in ("info", "node") and not rest:
            raise Refusal(400, "Missing session" if action == "info" else "Missing node name")
        # changes of leases are no changes of keys: who waits for them waits for its time
        return self._backend.read(request, service, b"", b"", look, keys=False)


def _wanted(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        found = json.loads(body)
    except ValueError as error:
        raise Refusal(400, f"Request decode failed: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "Request decode failed: expected an object")
    # Go reads names of any case
    return {str(name).lower(): value for name, value in found.items()}


def _ttl(text: object) -> int:
    if not text:
        return 0
    try:
        ttl = duration(str(text))
    except ValueError:
        raise Refusal(500, f"Session TTL '{text}' invalid: time: invalid duration \"{text}\"") from None
    if ttl and not _TTL_MIN <= ttl <= _TTL_MAX:
        raise Refusal(
            500, f"Invalid Session TTL '{ttl}', must be between [{go_duration(_TTL_MIN)}={go_duration(_TTL_MAX)}]"
        )
    return ttl


def _lock_delay(given: object) -> int:
    """A duration, or a number: of seconds if it is small, else of nanoseconds."""
    if given is None:
        return _DELAY_DEFAULT
    try:
        if isinstance(given, str):
            delay = duration(given)
        else:
            count = float(str(given))
            delay = int(count * 10**9 if count < 1000 else count)
    except ValueError:
        raise Refusal(400, f'Request decode failed: time: invalid duration "{given}"') from None
    return min(max(delay, 0), _DELAY_MAX)
