"""``/v1/kv``: a key, or the keys with a prefix."""

from quorate.kv import commands
from quorate.kv.client.records import prefix_end
from quorate.kv.commands import (
    ABSENT_OR_MODIFIED,
    ACQUIRE,
    CONFLICT,
    DELETE,
    DELETE_RANGE,
    MODIFIED,
    PUT,
    RELEASE,
    Condition,
    Write,
)
from quorate.kv.consul.backend import Answer, Backend
from quorate.kv.consul.parsing import Refusal, go_number, has, key_of
from quorate.kv.consul.shapes import answer, entry_shape, headers, lease_of
from quorate.kv.entries import Entry
from quorate.kv.results import Result
from quorate.kv.service import KvService
from quorate.runtime.http import Pending, Request, Response

PREFIX = "/v1/kv/"
VALUE_MAX = 512 << 10


class KvFamily:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self, request: Request) -> Response | Pending:
        """Raises Refusal."""
        key = key_of(request.path, PREFIX)
        if len(key) > commands.KEY_MAX:
            raise Refusal(400, f"Key is too long: {len(key)} bytes, at most {commands.KEY_MAX} can be")
        if request.method == "GET":
            return self._get(request, key)
        if request.method == "PUT":
            return self._put(request, key)
        if request.method == "DELETE":
            return self._delete(request, key)
        return Response(405, f"method {request.method} not allowed".encode(), headers=(("Allow", "GET,PUT,DELETE"),))

    # ---- reads

    def _get(self, request: Request, key: bytes) -> Pending:
        shards = self._backend.front.shards
        if has(request, "recurse") or has(request, "keys"):
            end = prefix_end(key) if key else b""
            service = shards.of_key(key)
            keys_only = has(request, "keys")
            separator = (request.argument("separator") or "").encode()
            return self._backend.read(request, service, key, end, lambda: self._prefix(key, end, keys_only, separator))
        if not key:
            raise Refusal(400, "Missing key name")
        service = shards.of_key(key)
        raw = has(request, "raw")
        return self._backend.read(request, service, key, key + b"\0", lambda: self._key(service, key, raw))

    def _key(self, service: KvService, key: bytes, raw: bool) -> Answer:
        machine = service.machine
        entry = machine.store.current.get(key)
        if entry is None:
            index = max(machine.store.revision, 1)
            return index, Response(404, b"", headers=headers(index, service.leader != 0))
        index = entry.modified
        if raw:
            content = "application/octet-stream"
            return index, Response(200, entry.value, content, headers(index, service.leader != 0))
        return index, answer([entry_shape(entry, machine.leases)], index, led=service.leader != 0)

    def _prefix(self, start: bytes, end: bytes, keys_only: bool, separator: bytes) -> Answer:
        """Over all shards that the prefix lies in; the index is the greatest of theirs."""
        index = 0
        led = True
        found: list[tuple[Entry, KvService]] = []
        for service in self._backend.front.shards.services:
            if (end and service.start >= end) or (service.end and service.end <= start):
                continue
            store = service.machine.store
            entries, _ = store.range(start, end, store.revision, 0)
            found += [(entry, service) for entry in entries]
            newest = max((entry.modified for entry in entries), default=0)
            changed = store.changed_after(start, end, newest)
            index = max(index, newest if changed is None else changed.modified)
            led = led and service.leader != 0
            if not entries:
                index = max(index, store.revision if changed is None else changed.modified)
        index = max(index, 1)
        # of all keys there are no keys, where of a prefix there is nothing
        if not found and not (keys_only and not start):
            return index, Response(404, b"", headers=headers(index, led))
        if keys_only:
            return index, answer(_keys([entry.key for entry, _ in found], start, separator), index, led=led)
        shapes = [entry_shape(entry, service.machine.leases) for entry, service in found]
        return index, answer(shapes, index, led=led)

    # ---- writes

    def _put(self, request: Request, key: bytes) -> Pending:
        if not key:
            raise Refusal(400, "Missing key name")
        if len(request.body) > VALUE_MAX:
            raise Refusal(413, f"Request body({len(request.body)} bytes) too large, max size: {VALUE_MAX} bytes.")
        flags, cas = go_number(request, "flags") or 0, go_number(request, "cas")
        acquire, release = request.argument("acquire"), request.argument("release")
        if sum(asked is not None for asked in (cas, acquire, release)) > 1:
            raise Refusal(400, "Conflicting flags: only one of cas, acquire and release can be given")
        session = acquire if acquire is not None else release
        if session is not None:
            lease = lease_of(session)
            if not session:
                raise Refusal(500, "missing session")
            if not lease:
                raise Refusal(500, f'invalid session "{session}"')
            kind = ACQUIRE if acquire is not None else RELEASE
            return self._write(key, [], Write(kind, key, request.body, lease=lease, flags=flags), session)
        conditions = [] if cas is None else [Condition(MODIFIED, key, cas)]
        write = Write(PUT, key, request.body, flags=flags, options=commands.KEEP_LEASE)
        return self._write(key, conditions, write)

    def _delete(self, request: Request, key: bytes) -> Pending:
        cas = go_number(request, "cas")
        if has(request, "recurse"):
            if cas is not None:
                raise Refusal(400, "Conflicting flags: cas cannot be given with recurse")
            return self._delete_tree(key)
        if not key:
            raise Refusal(400, "Missing key name")
        if cas is None:
            return self._write(key, [], Write(DELETE, key))
        return self._write(key, [Condition(ABSENT_OR_MODIFIED, key, cas)], Write(DELETE, key))

    def _delete_tree(self, key: bytes) -> Pending:
        end = prefix_end(key) if key else b""
        body = commands.commit_body([], [Write(DELETE_RANGE, key, end)])
        pending = Pending()

        def told(results: list[Result] | Refusal) -> None:
            pending.respond(results.response() if isinstance(results, Refusal) else answer(True))

        self._backend.everywhere(commands.COMMIT, body, told)
        return pending

    def _write(self, key: bytes, conditions: list[Condition], write: Write, session: str = "") -> Pending:
        pending = Pending()

        def told(result: Result | Refusal) -> None:
            if isinstance(result, Refusal):
                pending.respond(result.response())
            elif result.status == commands.NO_LEASE:
                pending.respond(Refusal(500, f'invalid session "{session}"').response())
            else:
                pending.respond(answer(result.status != CONFLICT))

        body = commands.commit_body(conditions, [write])
        self._backend.command(self._backend.front.shards.of_key(key), commands.COMMIT, body, told)
        return pending


def _keys(keys: list[bytes], prefix: bytes, separator: bytes) -> list[str]:
    """The keys, each up to and with the first ``separator`` behind the prefix; those that become equal once."""
    if separator:
        cut: list[bytes] = []
        for key in keys:
            at = key.find(separator, len(prefix))
            cut.append(key if at < 0 else key[: at + len(separator)])
        keys = list(dict.fromkeys(cut))
    return [key.decode("utf-8", "replace") for key in keys]
