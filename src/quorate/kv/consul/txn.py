"""``/v1/txn``: several operations on keys, all or none.

They become one commit: what an operation demands are conditions, which are looked at before anything is written; reads show what is there
after. So an operation cannot demand what an earlier one of the same transaction wrote, and a key is written once.
"""

import json
from base64 import b64decode
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv import commands
from quorate.kv.client.records import prefix_end
from quorate.kv.commands import (
    ABSENT,
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
    Result,
    Write,
)
from quorate.kv.consul.backend import Backend
from quorate.kv.consul.parsing import Refusal
from quorate.kv.consul.shapes import answer, entry_shape, lease_of
from quorate.runtime.http import Pending, Request, Response

PATH = "/v1/txn"
OPERATIONS_MAX = 64


class _Operation:
    __slots__ = ("at", "key", "reads", "shows_value", "verb")

    def __init__(self, at: int, verb: str, key: bytes) -> None:
        self.at = at
        self.verb = verb
        self.key = key
        self.reads = False
        self.shows_value = False


class _Transaction:
    def __init__(self) -> None:
        self.conditions: list[Condition] = []
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.operations: list[_Operation] = []
        self.owners: list[int] = []
        """Of each condition, then of each write: the operation it comes from."""
        self.write_owners: list[int] = []

    def demand(self, at: int, condition: Condition) -> None:
        self.conditions.append(condition)
        self.owners.append(at)

    def write(self, at: int, write: Write) -> None:
        self.writes.append(write)
        self.write_owners.append(at)


class TxnFamily:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self, request: Request) -> Response | Pending:
        """Raises Refusal."""
        if request.method != "PUT":
            return Response(405, f"method {request.method} not allowed".encode(), headers=(("Allow", "PUT"),))
        transaction = _parse(request.body)
        if not transaction.operations:
            return answer({"Results": [], "Errors": None})
        body = commands.commit_body(transaction.conditions, transaction.writes, transaction.reads)
        try:
            _, keys, ranges = commands.check(commands.pack_command(commands.COMMIT, body))
        except RemoteProtocolError as error:
            raise Refusal(400, str(error)) from None
        service = self._backend.front.shards.of_keys(keys, ranges)
        if service is None:
            raise Refusal(400, "the keys are in several shards: a transaction over shards needs two-phase commit")
        pending = Pending()

        def told(result: Result | Refusal) -> None:
            if isinstance(result, Refusal):
                pending.respond(result.response())
            elif result.status == commands.NO_LEASE:
                pending.respond(
                    answer({"Results": None, "Errors": [{"OpIndex": 0, "What": "invalid session"}]}, status=409)
                )
            elif result.status == CONFLICT:
                pending.respond(answer({"Results": None, "Errors": _errors(transaction, result)}, status=409))
            else:
                pending.respond(
                    answer({"Results": _results(transaction, result, service.machine.leases), "Errors": None})
                )

        self._backend.command(service, commands.COMMIT, body, told)
        return pending


def _parse(body: bytes) -> _Transaction:
    try:
        operations = json.loads(body)
    except ValueError as error:
        raise Refusal(400, f"Failed to parse body: {error}") from None
    if not isinstance(operations, list):
        raise Refusal(400, "Failed to parse body: expected a list of operations")
    if len(operations) > OPERATIONS_MAX:
        raise Refusal(413, f"Transaction contains too many operations ({len(operations)} > {OPERATIONS_MAX})")
    transaction = _Transaction()
    for at, wrapped in enumerate(operations):
        operation = (
            next((value for name, value in wrapped.items() if name.lower() == "kv"), None)
            if isinstance(wrapped, dict)
            else None
        )
        if not isinstance(operation, dict):
            raise Refusal(400, f"operation {at}: only KV operations are supported")
        # Go reads names of any case
        _add(transaction, at, {str(name).lower(): value for name, value in operation.items()})
    return transaction


def _add(transaction: _Transaction, at: int, given: dict[str, Any]) -> None:
    verb, key = str(given.get("verb", "")), str(given.get("key", "")).encode("utf-8", "surrogateescape")
    index = given.get("index") or 0
    session = lease_of(str(given.get("session", "")))
    flags = given.get("flags") or 0
    if not isinstance(index, int) or not isinstance(flags, int) or min(index, flags) < 0:
        raise Refusal(400, f"operation {at}: Index and Flags must be unsigned numbers")
    try:
        value = b64decode(given.get("value") or "", validate=True)
    except (ValueError, TypeError) as error:
        raise Refusal(400, f"Failed to parse body: {error}") from None
    if not key and verb not in ("get-tree", "delete-tree"):
        raise Refusal(400, f"operation {at}: Missing key name")
    operation = _Operation(at, verb, key)
    transaction.operations.append(operation)
    shown = verb in ("set", "cas", "lock", "unlock", "get", "get-or-empty", "check-index", "check-session")
    if verb in ("set", "cas"):
        if verb == "cas":
            transaction.demand(at, Condition(MODIFIED, key, index))
        transaction.write(at, Write(PUT, key, value, flags=flags, options=commands.KEEP_LEASE))
    elif verb in ("lock", "unlock"):
        transaction.write(at, Write(ACQUIRE if verb == "lock" else RELEASE, key, value, lease=session, flags=flags))
    elif verb in ("get", "get-or-empty"):
        operation.shows_value = True
        if verb == "get" and all(write.key != key for write in transaction.writes):
            transaction.demand(at, Condition(EXISTS, key))
    elif verb == "get-tree":
        operation.reads = operation.shows_value = True
        transaction.reads.append((key, prefix_end(key) if key else b""))
    elif verb == "check-index":
        transaction.demand(at, Condition(MODIFIED, key, index))
    elif verb == "check-session":
        transaction.demand(at, Condition(HELD_BY, key, session))
    elif verb == "check-not-exists":
        transaction.demand(at, Condition(ABSENT, key))
    elif verb == "delete":
        transaction.write(at, Write(DELETE, key))
    elif verb == "delete-cas":
        transaction.demand(at, Condition(MODIFIED, key, index))
        transaction.write(at, Write(DELETE, key))
    elif verb == "delete-tree":
        transaction.write(at, Write(DELETE_RANGE, key, prefix_end(key) if key else b""))
    else:
        raise Refusal(400, f'unknown KV verb "{verb}"')
    if shown:
        operation.reads = True
        transaction.reads.append((key, None))


_WHAT = {
    "cas": 'failed to set key "{key}", index is stale',
    "delete-cas": 'failed to delete key "{key}", index is stale',
    "lock": 'failed to lock key "{key}", lock is already held',
    "unlock": 'failed to unlock key "{key}", lock isn\'t held, or is held by another session',
    "get": 'key "{key}" doesn\'t exist',
    "check-index": 'key "{key}" has index {index}, which is not the one that was asked for',
    "check-session": 'current session for key "{key}" is not the one that was asked for',
    "check-not-exists": 'key "{key}" exists',
}


def _errors(transaction: _Transaction, result: Result) -> list[dict[str, Any]]:
    found = []
    for conflict in result.conflicts:
        parts = [*transaction.owners, *transaction.write_owners]
        operation = transaction.operations[parts[conflict.part]]
        what = _WHAT.get(operation.verb, 'operation on key "{key}" failed')
        text = what.format(key=operation.key.decode("utf-8", "replace"), index=conflict.modified)
        found.append({"OpIndex": operation.at, "What": text})
    return found


def _results(transaction: _Transaction, result: Result, leases: Any) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    reads = iter(result.entries)
    for operation in transaction.operations:
        if operation.reads:
            shapes += [{"KV": entry_shape(entry, leases, value=operation.shows_value)} for entry in next(reads)]
    return shapes
