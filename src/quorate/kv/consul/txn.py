"""``/v1/txn``: several operations on keys, one after another, all or none: a SEQUENCE of one commit for each operation.

What was asked for is told as Consul tells it: every operation that failed, with its number.
"""

import json
from base64 import b64decode
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv import checks, commands
from quorate.kv.client.records import prefix_end
from quorate.kv.commands import (
    ABSENT,
    ABSENT_OR_MODIFIED,
    ACQUIRE,
    CONFLICT,
    DELETE,
    DELETE_RANGE,
    EXISTS,
    HELD_BY,
    MODIFIED,
    PUT,
    RELEASE,
    Condition,
    Read,
    Write,
)
from quorate.kv.consul.backend import Backend
from quorate.kv.consul.parsing import Refusal
from quorate.kv.consul.shapes import answer, entry_shape, lease_of, session_id
from quorate.kv.machine import Machine
from quorate.kv.results import Conflicting, Result
from quorate.runtime.http import Pending, Request, Response

PATH = "/v1/txn"
OPERATIONS_MAX = 64
READS = frozenset(("get", "get-tree", "check-index", "check-session", "check-not-exists"))
VERBS = READS | {"set", "cas", "lock", "unlock", "delete", "delete-cas", "delete-tree"}
_READ_ONLY = {"Index": 0, "LastContact": 0, "KnownLeader": True, "ConsistencyLevel": ""}
"""What Consul's answer has besides, if nothing was to be written."""


class _Operation:
    """``body``: of its commit; ``reads``: whether something is read in it; ``session`` as it was given."""

    __slots__ = ("body", "index", "key", "reads", "session", "shows_value", "verb")

    def __init__(self, verb: str, key: bytes, index: int, session: str) -> None:
        self.verb = verb
        self.key = key
        self.index = index
        self.session = session
        self.body = b""
        self.reads = False
        self.shows_value = False


class TxnFamily:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self, request: Request) -> Response | Pending:
        """Raises Refusal."""
        if request.method != "PUT":
            return Response(405, f"method {request.method} not allowed".encode(), headers=(("Allow", "PUT"),))
        operations = _parse(request.body)
        more = _READ_ONLY if all(operation.verb not in VERBS - READS for operation in operations) else {}
        unknown = [
            {"OpIndex": at, "What": f'unknown KV verb "{operation.verb}"'}
            for at, operation in enumerate(operations)
            if operation.verb not in VERBS
        ]
        if unknown:
            return answer({"Results": None, "Errors": unknown, **more}, status=409)
        if not operations:
            return answer({"Results": [], "Errors": None, **more})
        body = commands.sequence_body([operation.body for operation in operations])
        try:
            _, keys, ranges = checks.check(commands.pack_command(commands.SEQUENCE, body))
        except RemoteProtocolError as error:
            raise Refusal(400, str(error)) from None
        service = self._backend.front.shards.of_keys(keys, ranges)
        if service is None:
            raise Refusal(400, "the keys are in several shards, and a transaction of this interface is of one")
        machine = service.machine
        pending = Pending()

        def told(result: Result | Refusal) -> None:
            if isinstance(result, Refusal):
                pending.respond(result.response())
            elif result.status == CONFLICT:
                errors = [
                    {"OpIndex": found.part, "What": _what(operations[found.part], found, machine)}
                    for found in result.conflicts
                ]
                pending.respond(answer({"Results": None, "Errors": errors, **more}, status=409))
            else:
                results = _results(operations, result, machine)
                pending.respond(answer({"Results": results, "Errors": None, **more}))

        self._backend.command(service, commands.SEQUENCE, body, told)
        return pending


def _parse(body: bytes) -> list[_Operation]:
    try:
        operations = json.loads(body)
    except ValueError as error:
        raise Refusal(400, f"Failed to parse body: {error}") from None
    if not isinstance(operations, list):
        raise Refusal(400, "Failed to parse body: expected a list of operations")
    if len(operations) > OPERATIONS_MAX:
        raise Refusal(413, f"Transaction contains too many operations ({len(operations)} > {OPERATIONS_MAX})")
    found = []
    for at, wrapped in enumerate(operations):
        operation = (
            next((value for name, value in wrapped.items() if name.lower() == "kv"), None)
            if isinstance(wrapped, dict)
            else None
        )
        if not isinstance(operation, dict):
            raise Refusal(400, f"operation {at}: only KV operations are supported")
        # Go reads names of any case
        found.append(_operation(at, {str(name).lower(): value for name, value in operation.items()}))
    return found


def _operation(at: int, given: dict[str, Any]) -> _Operation:
    verb, key = str(given.get("verb", "")), str(given.get("key", "")).encode("utf-8", "surrogateescape")
    index = given.get("index") or 0
    session = str(given.get("session") or "")
    lease = lease_of(session)
    flags = given.get("flags") or 0
    if not all(type(number) is int and 0 <= number < 1 << 64 for number in (index, flags)):
        raise Refusal(400, f"Failed to parse body: operation {at}: Index and Flags must be unsigned numbers of 64 bits")
    try:
        value = b64decode(given.get("value") or "", validate=True)
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"Failed to parse body: {error}") from None
    if not key and verb in VERBS and verb not in ("get-tree", "delete-tree"):
        raise Refusal(400, f"operation {at}: Missing key name")
    operation = _Operation(verb, key, index, session)
    conditions: list[Condition] = []
    writes: list[Write] = []
    reads: list[Read] = [(key, None)]
    if verb in ("set", "cas"):
        conditions = [Condition(MODIFIED, key, index)] if verb == "cas" else []
        writes = [Write(PUT, key, value, flags=flags, options=commands.KEEP_LEASE)]
    elif verb in ("lock", "unlock"):
        writes = [Write(ACQUIRE if verb == "lock" else RELEASE, key, value, lease=lease, flags=flags)]
    elif verb == "get":
        conditions = [Condition(EXISTS, key)]
        operation.shows_value = True
    elif verb == "get-tree":
        operation.shows_value = True
        reads = [(key, prefix_end(key) if key else b"")]
    elif verb == "check-index":
        conditions = [Condition(EXISTS, key), Condition(MODIFIED, key, index)]
    elif verb == "check-session":
        conditions = [Condition(EXISTS, key), Condition(HELD_BY, key, lease)]
    else:
        reads = []
        if verb == "check-not-exists":
            conditions = [Condition(ABSENT, key)]
        elif verb == "delete-tree":
            writes = [Write(DELETE_RANGE, key, prefix_end(key) if key else b"")]
        else:
            conditions = [Condition(ABSENT_OR_MODIFIED, key, index)] if verb == "delete-cas" else []
            writes = [Write(DELETE, key)]
    operation.reads = bool(reads)
    operation.body = commands.commit_body(conditions, writes, reads)
    return operation


_MISSING = {
    "get": 'key "{key}" doesn\'t exist',
    "check-index": 'failed to check index, key "{key}" doesn\'t exist',
    "check-session": 'failed to check session, key "{key}" doesn\'t exist',
}
_WHAT = {
    "cas": 'failed to set key "{key}", index is stale',
    "delete-cas": 'failed to delete key "{key}", index is stale',
    "lock": 'failed to lock key "{key}", lock is already held',
    "unlock": 'failed to unlock key "{key}", lock isn\'t held, or is held by another session',
    "check-index": 'failed index check for key "{key}", current modify index {modified} != {index}',
    "check-session": 'failed session check for key "{key}", current session "{holder}" != "{session}"',
    "check-not-exists": 'key "{key}" exists',
}


def _what(operation: _Operation, found: Conflicting, machine: Machine) -> str:
    key = operation.key.decode("utf-8", "replace")
    if operation.verb in _MISSING and not found.version:
        return _MISSING[operation.verb].format(key=key)
    if operation.verb == "lock" and lease_of(operation.session) not in machine.leases:
        return f'invalid session "{operation.session}"'
    lease = machine.leases.get(found.holder)
    return _WHAT[operation.verb].format(
        key=key,
        modified=found.modified,
        index=operation.index,
        session=operation.session,
        holder="" if lease is None else session_id(lease),
    )


def _results(operations: list[_Operation], result: Result, machine: Machine) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    reads = iter(result.entries)
    for operation in operations:
        if operation.reads:
            shapes += [{"KV": entry_shape(entry, machine.leases, value=operation.shows_value)} for entry in next(reads)]
    return shapes
