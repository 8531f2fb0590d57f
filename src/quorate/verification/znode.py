"""One node of ZooKeeper's tree as a sequential specification: created, set and deleted, with versions.

It reads histories of ZooKeeper clients (create, delete, set, get, exists, multi ...; results are {"zxid", "stat", ...}, failures
{"error": code}) and judges each path by itself. Writes are linearizable, and so is what a refused write shows, for the
leader orders both. Plain reads are not: a client's own member answers them, in the order of that client only ("ZooKeeper:
Wait-free coordination for Internet-scale systems", 2010, section 2.3), so they are left out unless ``reads`` is set, for clients
that sync first or systems that promise more.

What the server does by itself counts as an operation of unknown outcome: an ephemeral node goes when its session expires, a
container or a node with a time to live when the server finds it empty or old. A closed session takes its nodes with it.
"""

from collections.abc import Iterator
from typing import Any, Final

from quorate.errors import UsageError
from quorate.verification.history import History, Operation
from quorate.verification.models import REFUSED, Call, Model
from quorate.verification.values import ANY, freeze, show

NO_NODE: Final = -101
BAD_VERSION: Final = -103
NODE_EXISTS: Final = -110
NOT_EMPTY: Final = -111

_SUFFIX_DIGITS: Final = 10
"""Of a sequential node's name."""

_CREATE, _SET, _DELETE, _CHECK, _GET, _EXISTS, _VANISH, _SEVERAL, _ABSENT, _PRESENT, _OTHER_VERSION = range(11)

_WRITES: Final = {"create": _CREATE, "set": _SET, "delete": _DELETE, "check": _CHECK}
_READS: Final = {"get": _GET, "exists": _EXISTS}
_NOTHING_OF_ONE_NODE: Final = frozenset({"connect", "sync", "children", "close", "event", "expired", "disconnected"})

_ANY_VERSION: Final = -1


class Znode(Model):
    """The state is None (absent) or (data, version, owner): owner is the process of an ephemeral, else "".

    Where a history begins with nodes that are there already, ANY as ``initial`` takes the first thing seen of each.
    """

    name = "znode"
    pure = frozenset({_CHECK, _GET, _EXISTS, _ABSENT, _PRESENT, _OTHER_VERSION})

    def __init__(self, initial: Any = None, *, reads: bool = False) -> None:
        if initial is not None and initial is not ANY:
            raise UsageError("a znode is absent or anything at the start")
        self.initial = initial
        self._reads = reads

    def parts(self, history: History) -> list[tuple[Any, list[Call]]]:
        split: dict[str, list[Call]] = {}
        vague: list[Operation] = []
        closes = {op.process: op for op in history.operations if op.name == "close" and op.outcome == "ok"}
        for number, operation in enumerate(history.operations):
            try:
                if (
                    operation.name == "create"
                    and operation.outcome == "unknown"
                    and _value(operation).get("sequential")
                ):
                    vague.append(operation)
                    continue
                for path, call in self._calls(operation):
                    split.setdefault(path, []).append(call)
            except UsageError as error:
                raise UsageError(f"{history.place(number)}: {error}") from None
        for operation in vague:
            for path, calls in split.items():
                if _may_be(operation, path):
                    calls += self._created(operation, operation.process, _value(operation))
        parts = []
        for path, calls in split.items():
            owners = {call.who for call in calls if call.code == _CREATE and call.who}
            calls += [Call(closes[who], _VANISH, who=who) for who in sorted(owners & closes.keys())]
            # a session that was closed did not expire before, so nothing else took its nodes
            calls = [call for call in calls if call.code != _VANISH or call.known or call.who not in closes]
            calls.sort(key=lambda call: call.began)
            parts.append((path, calls))
        return parts

    def _calls(self, operation: Operation) -> Iterator[tuple[str, Call]]:
        name, outcome = operation.name, operation.outcome
        if name in _NOTHING_OF_ONE_NODE:
            return
        if name == "multi":
            yield from self._multi(operation)
            return
        path, value, result = operation.key, _value(operation), operation.result
        if name not in _WRITES and name not in _READS:
            known = ", ".join([*_WRITES, *_READS, "multi", *sorted(_NOTHING_OF_ONE_NODE)])
            raise UsageError(f"the model znode knows no operation {name!r}, only {known}")
        if not isinstance(path, str):
            raise UsageError(f"the key of {name} is {show(path)}, expected the path of a node")
        if outcome == "fail":
            if name in _WRITES or self._reads:
                yield from ((path, call) for call in _shown(operation, _error(result), value))
        elif name in _READS:
            if outcome == "ok" and self._reads:
                yield path, Call(operation, _READS[name], seen=_sight(name, result))
        elif name == "create":
            created = result.get("path", path) if isinstance(result, dict) else path
            yield from ((created, call) for call in self._created(operation, operation.process, value))
        else:
            yield path, _write(operation, name, value, result)

    def _created(self, operation: Operation, process: str, value: dict[str, Any]) -> Iterator[Call]:
        owner = process if value.get("ephemeral") else ""
        yield Call(operation, _CREATE, freeze(value.get("data", "")), who=owner)
        if owner or value.get("container") or value.get("ttl"):
            yield Call(operation, _VANISH, who=owner, known=False)

    def _multi(self, operation: Operation) -> Iterator[tuple[str, Call]]:
        """A refused one shows what stood against it only together with what it had done by then, so it is left out."""
        if operation.outcome == "fail":
            return
        ops = _value(operation).get("ops")
        if not isinstance(ops, list | tuple):
            raise UsageError(f"the ops of multi are {show(ops)}, expected a list")
        results = operation.result.get("results") if isinstance(operation.result, dict) else None
        if not isinstance(results, list | tuple) or len(results) != len(ops):
            results = [None] * len(ops)
        by_path: dict[str, list[Call]] = {}
        for op, result in zip(ops, results, strict=True):
            if not isinstance(op, list | tuple) or len(op) != 3 or op[0] not in _WRITES or not isinstance(op[2], dict):
                raise UsageError(f"an op of multi is {show(op)}, expected [create, set, delete or check, path, value]")
            name, path, value = op
            if not isinstance(path, str):
                raise UsageError(f"an op of multi is on {show(path)}, expected the path of a node")
            if name == "create":
                if value.get("sequential") and operation.outcome == "unknown":
                    continue
                if isinstance(result, dict):
                    path = result.get("path", path)
                created, *rest = self._created(operation, operation.process, value)
                by_path.setdefault(path, []).append(created)
                yield from ((path, call) for call in rest)
            else:
                by_path.setdefault(path, []).append(_write(operation, name, value, result))
        for path, calls in by_path.items():
            if len(calls) == 1:
                yield path, calls[0]
            else:
                steps = tuple(Step(call) for call in calls)
                yield path, Call(operation, _SEVERAL, steps, who=operation.process)

    def step(self, state: Any, call: Call) -> Any:
        code = call.code
        if code == _SEVERAL:
            for one in call.given:
                state = self.step(state, one.call)
                if state is REFUSED:
                    return REFUSED
            return state
        if state is ANY:
            return _from_anything(call)
        if code == _CREATE:
            return (call.given, 0, call.who) if state is None else REFUSED
        if code == _ABSENT:
            return state if state is None else REFUSED
        if code == _EXISTS:
            return state if (None if state is None else state[1]) == call.seen else REFUSED
        if code == _VANISH:
            return None if state is not None and (state[2] == call.who or state[2] is ANY) else state
        if state is None:
            return REFUSED
        data, version, owner = state
        if code == _SET:
            if call.given[1] not in (_ANY_VERSION, version) or call.seen not in (None, version + 1):
                return REFUSED
            return (call.given[0], version + 1, owner)
        if code == _DELETE:
            return None if call.given in (_ANY_VERSION, version) else REFUSED
        if code == _CHECK:
            return state if call.given in (_ANY_VERSION, version) else REFUSED
        if code == _GET:
            return state if call.seen == (data, version) else REFUSED
        if code == _OTHER_VERSION:
            return state if call.given != version else REFUSED
        return state

    def explain(self, state: Any, call: Call) -> str:
        code, held = call.code, "the node is " + self.describe(state)
        if code == _SEVERAL:
            for one in call.given:
                after = self.step(state, one.call)
                if after is REFUSED:
                    return self.explain(state, one.call)
                state = after
        if code == _CREATE:
            return f"it created the node, {held}"
        if code == _ABSENT:
            return f"it was told that there is no such node, {held}"
        if code == _EXISTS:
            return f"it saw {'no node' if call.seen is None else f'version {call.seen}'}, {held}"
        if code == _SET:
            expected = "" if call.given[1] == _ANY_VERSION else f" it expected version {call.given[1]},"
            made = "" if call.seen is None else f" it made version {call.seen},"
            return f"it set the node,{expected}{made} {held}"
        if code in (_DELETE, _CHECK):
            version = "" if call.given == _ANY_VERSION else f" at version {call.given}"
            return f"it {'deleted' if code == _DELETE else 'found'} the node{version}, {held}"
        if code == _GET:
            return f"it got {show(call.seen[0])} at version {call.seen[1]}, {held}"
        if code == _OTHER_VERSION:
            return f"it was told that the version is not {call.given}, {held}"
        return f"it was told that the node is there, {held}"

    def describe(self, state: Any) -> str:
        if state is None or state is ANY:
            return "absent" if state is None else "not known"
        data, version, owner = state
        held = f"{show(data)} at version {version}"
        return held if owner in ("", ANY) else f"{held}, ephemeral of {owner}"


class Step:
    """One write of a multi on the same path; equal to another that does the same."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.call.likeness() == other.call.likeness()

    def __hash__(self) -> int:
        return hash(self.call.likeness())


def _write(operation: Operation, name: str, value: dict[str, Any], result: Any) -> Call:
    version = _integer(value.get("version", _ANY_VERSION), f"the version of {name}")
    if name == "set":
        stat = result.get("stat") if isinstance(result, dict) else None
        made = stat.get("version") if isinstance(stat, dict) else None
        return Call(operation, _SET, (freeze(value.get("data", "")), version), made)
    return Call(operation, _WRITES[name], version)


def _shown(operation: Operation, error: int, value: dict[str, Any]) -> Iterator[Call]:
    """What an error tells of the node itself. That a create found no node tells of its parent."""
    name = operation.name
    if error == NODE_EXISTS and name == "create" and not value.get("sequential"):
        yield Call(operation, _PRESENT)
    elif error == NO_NODE and name != "create":
        yield Call(operation, _ABSENT)
    elif error == BAD_VERSION and name in ("set", "delete"):
        yield Call(operation, _OTHER_VERSION, _integer(value.get("version", _ANY_VERSION), f"the version of {name}"))
    elif error == NOT_EMPTY and name == "delete":
        yield Call(operation, _PRESENT)


def _sight(name: str, result: Any) -> Any:
    stat = result.get("stat") if isinstance(result, dict) else None
    if name == "exists" and stat is None:
        return None
    if not isinstance(stat, dict):
        raise UsageError(f'the result of {name} is {show(result)}, expected {{"stat": ...}}')
    version = _integer(stat.get("version"), f"the version in the stat of {name}")
    return version if name == "exists" else (freeze(result.get("data")), version)


def _from_anything(call: Call) -> Any:
    """The state after ``call`` on a node of which nothing is known; what stays unknown goes on as ANY."""
    code = call.code
    if code == _CREATE:
        return (call.given, 0, call.who)
    if code in (_DELETE, _ABSENT) or (code == _EXISTS and call.seen is None):
        return None
    if code == _SET:
        data, version = call.given
        if call.seen is not None:
            return (data, call.seen, ANY) if version in (_ANY_VERSION, call.seen - 1) else REFUSED
        return ANY if version == _ANY_VERSION else (data, version + 1, ANY)
    if code == _GET:
        return (*call.seen, ANY)
    return ANY


def _value(operation: Operation) -> dict[str, Any]:
    value = {} if operation.value is None else operation.value
    if not isinstance(value, dict):
        raise UsageError(f"the value of {operation.name} is {show(value)}, expected a map")
    return value


def _error(result: Any) -> int:
    if not isinstance(result, dict):
        return 0
    return _integer(result.get("error", 0), "the error")


def _integer(value: Any, what: str) -> int:
    if type(value) is not int:
        raise UsageError(f"{what} is {show(value)}, expected an integer")
    return value


def _may_be(operation: Operation, path: str) -> bool:
    """Whether a sequential create may have made ``path``."""
    prefix = operation.key
    digits = path[len(prefix) :] if isinstance(prefix, str) and path.startswith(prefix) else ""
    return len(digits) == _SUFFIX_DIGITS and digits.isdigit()
