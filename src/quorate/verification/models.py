"""Sequential specifications: what a register, a map, a queue or a lock answers when it is asked one thing at a time.

A model reads operations into calls, one list of calls for each part that can be judged by itself (its key), and says what a
call makes of a state. States are small, hashable and never changed in place. Names of operations are ours or Jepsen's:

======== ========================================= ================= =====================================================
model    operation                                 value             result
======== ========================================= ================= =====================================================
register read                                                        the value
         write                                     the value
cas-     the above, and cas                        [old, new]        false: the value was another
kv       get (read)                                                  the value or null, or {"value": v, "version": n}
         put (write, set)                          the value         {"version": n} if it has one
         cas                                       [old, new], or    false: not as expected; {"version": n} if it has one
                                                   {"version": n or
                                                   null, "value": v}
         delete                                    {"version": n}    whether it was deleted
                                                   to expect one
queue    enqueue (push, offer)                     the value
         dequeue (pop, poll)                                         the value, or null: the queue was empty
         drain                                                       the list of values dequeued
lock     acquire (lock)                            {"owner": name},  a fencing token or {"token": n} if there are any;
                                                   else the process  false: it was held
         release (unlock)                          the same          false: the process did not hold it
         lost (expire): the holder's lease ended   the same
======== ========================================= ================= =====================================================

Other results of operations that succeeded are not looked at. An operation that failed had no effect and shows nothing.
``queue``, ``lock`` and ``znode`` have modules of their own. Versions grow while a key exists and start anew after a delete.
"""

from collections.abc import Iterator
from typing import Any, Final

from quorate.errors import UsageError
from quorate.verification.history import NEVER, History, Operation
from quorate.verification.values import ANY, Word, freeze, show

REFUSED: Final = Word("refused")
"""What ``Model.step`` returns for a call that cannot happen in a state."""


class Call:
    """An operation as a model takes it. ``code``, ``given``, ``seen`` and ``who`` are the model's, all hashable.

    ``known`` says that it took effect between ``began`` and ``finished``; otherwise it may have, once, after ``began``.
    """

    __slots__ = ("began", "code", "finished", "given", "known", "operation", "seen", "who")

    def __init__(
        self,
        operation: Operation,
        code: int,
        given: Any = None,
        seen: Any = None,
        who: str = "",
        known: bool | None = None,
    ) -> None:
        self.operation = operation
        self.code = code
        self.given = given
        self.seen = seen
        self.who = who
        self.known = operation.outcome != "unknown" if known is None else known
        self.began = operation.began
        self.finished = operation.finished if self.known else NEVER

    def likeness(self) -> tuple[Any, ...]:
        """Calls of unknown outcome with equal likeness can stand for each other."""
        return (self.code, self.given, self.seen, self.who)


class Model:
    """``initial`` is the state that each part starts from; ANY, where a model takes it, is one that is not known."""

    name: str = ""
    initial: Any = None
    codes: dict[str, int]
    pure: frozenset[int] = frozenset()
    """Codes of calls that never change anything, whatever the state."""

    def step(self, state: Any, call: Call) -> Any:
        """The state after ``call``, or REFUSED. Returns ``state`` itself where it stays as it is."""
        raise NotImplementedError

    def explain(self, state: Any, call: Call) -> str:
        """Why ``step`` refuses ``call`` in ``state``."""
        raise NotImplementedError

    def calls(self, operation: Operation, code: int) -> Iterator[Call]:
        """What an operation of one of ``codes`` amounts to; nothing if it neither changed nor showed anything."""
        raise NotImplementedError

    def prepare(self, calls: list[Call]) -> list[Call]:
        """One key's calls as the search takes them: without those of unknown outcome whose effect nobody can have seen,
        where leaving them out is sound. What calls are given may be made ready here, knowing the others."""
        return calls

    def describe(self, state: Any) -> str:
        return show(state)

    def key(self, operation: Operation) -> Any:
        return freeze(operation.key)

    def parts(self, history: History) -> list[tuple[Any, list[Call]]]:
        """The calls by key, in the order of their invocations. Raises UsageError for what the model does not know."""
        split: dict[Any, list[Call]] = {}
        for number, operation in enumerate(history.operations):
            try:
                code = self.codes.get(operation.name)
                if code is None:
                    known = ", ".join(self.codes)
                    raise UsageError(f"the model {self.name} knows no operation {operation.name!r}, only {known}")
                for call in self.calls(operation, code):
                    split.setdefault(self.key(operation), []).append(call)
            except UsageError as error:
                raise UsageError(f"{history.place(number)}: {error}") from None
        return list(split.items())


_READ, _WRITE, _CAS, _DIFFERS = range(4)


def _pair(operation: Operation) -> tuple[Any, Any]:
    value = operation.value
    if isinstance(value, dict) and value.keys() == {"old", "new"}:
        value = (value["old"], value["new"])
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise UsageError(f"the value of {operation.name} is {show(value)}, expected [old, new]")
    return freeze(value[0]), freeze(value[1])


class Register(Model):
    """One value that is read and written, and with ``cas`` compared and set."""

    pure = frozenset({_READ, _DIFFERS})

    def __init__(self, cas: bool = False, initial: Any = None) -> None:
        self.name = "cas-register" if cas else "register"
        self.initial = initial if initial is ANY else freeze(initial)
        self.codes = {"read": _READ, "write": _WRITE, "get": _READ, "put": _WRITE, "set": _WRITE}
        if cas:
            self.codes |= {"cas": _CAS, "compare-and-set": _CAS}

    def calls(self, operation: Operation, code: int) -> Iterator[Call]:
        outcome = operation.outcome
        if outcome == "fail" or (code == _READ and outcome == "unknown"):
            return
        if code == _READ:
            yield Call(operation, code, seen=freeze(operation.result))
        elif code == _WRITE:
            yield Call(operation, code, freeze(operation.value))
        else:
            yield Call(operation, _DIFFERS if operation.result is False else _CAS, _pair(operation))

    def step(self, state: Any, call: Call) -> Any:
        code = call.code
        if code == _READ:
            if state == call.seen:
                return state
            return call.seen if state is ANY else REFUSED
        if code == _WRITE:
            return call.given
        old, new = call.given
        if code == _CAS:
            return new if state == old or state is ANY else REFUSED
        return REFUSED if state == old else state

    def explain(self, state: Any, call: Call) -> str:
        if call.code == _READ:
            return f"it read {show(call.seen)}, the register holds {show(state)}"
        if call.code == _CAS:
            return f"it found {show(call.given[0])}, the register holds {show(state)}"
        return f"it did not find {show(call.given[0])}, which the register holds"

    def prepare(self, calls: list[Call]) -> list[Call]:
        # A write whose value no read returned and no swap expects can be left out of any order that has it; unless a
        # swap was refused, which needs a value other than the expected, whichever.
        if any(call.code == _DIFFERS for call in calls):
            return calls
        seen = {call.seen for call in calls if call.code == _READ} | {c.given[0] for c in calls if c.code == _CAS}
        return [call for call in calls if call.known or call.code != _WRITE or call.given in seen]


_GET, _PUT, _KV_CAS, _NOT_SWAPPED, _DELETE = range(5)


class KeyValue(Model):
    """A map whose keys are judged one by one.

    A key's state is None (absent) or (value, version, exact): if not exact, the version is greater than that.
    """

    name = "kv"
    pure = frozenset({_GET, _NOT_SWAPPED})

    def __init__(self, initial: Any = None) -> None:
        self.initial = initial if initial is None or initial is ANY else (freeze(initial), -1, False)
        self.codes = {
            "get": _GET, "put": _PUT, "cas": _KV_CAS, "delete": _DELETE, "read": _GET, "write": _PUT, "set": _PUT,
        }  # fmt: skip

    def key(self, operation: Operation) -> Any:
        if operation.key is None:
            raise UsageError(f"{operation.name} has no key")
        return freeze(operation.key)

    def calls(self, operation: Operation, code: int) -> Iterator[Call]:
        outcome, value, result = operation.outcome, operation.value, operation.result
        if outcome == "fail" or (code == _GET and outcome == "unknown"):
            return
        version = result.get("version") if isinstance(result, dict) else None
        if version is not None and type(version) is not int:
            raise UsageError(f"the version in the result of {operation.name} is {show(version)}, expected an integer")
        if code == _GET:
            if isinstance(result, dict) and result.keys() == {"value", "version"}:
                yield Call(operation, code, seen=(freeze(result["value"]), version))
            else:
                yield Call(operation, code, seen=(freeze(result), None))
        elif code == _PUT:
            yield Call(operation, code, freeze(value), version)
        elif code == _DELETE:
            there = bool(result) if isinstance(result, int) else None
            yield Call(operation, code, _expected(value), there)
        else:
            code = _NOT_SWAPPED if result is False else code
            if isinstance(value, dict) and value.keys() == {"version", "value"}:
                yield Call(operation, code, (True, _expected(value), freeze(value["value"])), version)
            else:
                yield Call(operation, code, (False, *_pair(operation)), version)

    def step(self, state: Any, call: Call) -> Any:
        code = call.code
        if code == _GET:
            value, version = call.seen
            if state is None or state is ANY:
                if version is None:
                    if value is None:
                        return None
                    return (value, -1, False) if state is ANY else REFUSED
                return (value, version, True) if state is ANY else REFUSED
            if state[0] != value:
                return REFUSED
            return state if version is None else _at(state, version)
        if code == _PUT:
            return _after(state, call.given, call.seen)
        if code == _DELETE:
            return self._delete(state, call.given, call.seen)
        by_version, old, new = call.given
        if code == _KV_CAS:
            if not _fits(state, by_version, old):
                return REFUSED
            if by_version and old is not None:
                state = ("", old, True)
            return _after(state, new, call.seen)
        if state is ANY:
            return state
        if by_version and old is not None:
            return REFUSED if state is not None and state[2] and state[1] == old else state
        return REFUSED if _fits(state, by_version, old) else state

    def _delete(self, state: Any, version: int | None, deleted: bool | None) -> Any:
        if state is ANY:
            return state if deleted is False and version is not None else None
        if version is None:
            there = state is not None
            return None if deleted is None or deleted is there else REFUSED
        if deleted is False:
            return REFUSED if state is not None and state[2] and state[1] == version else state
        return None if _fits(state, True, version) else REFUSED

    def explain(self, state: Any, call: Call) -> str:
        held = "the key is " + self.describe(state)
        if call.code == _GET:
            value, version = call.seen
            return f"it got {show(value)}{'' if version is None else f' at version {version}'}, {held}"
        if call.code == _PUT:
            return f"it made version {call.seen}, {held}"
        if call.code == _DELETE:
            if call.given is not None:
                return f"it {'did not find' if call.seen is False else 'found'} version {call.given}, {held}"
            return f"it found the key {'present' if call.seen else 'absent'}, {held}"
        by_version, old, _ = call.given
        expected = "no key" if old is None else f"version {old}" if by_version else show(old)
        if call.code == _NOT_SWAPPED:
            return f"it did not find {expected}, {held}"
        if _fits(state, by_version, old):
            return f"it made version {call.seen}, {held}"
        return f"it found {expected}, {held}"

    def describe(self, state: Any) -> str:
        if state is None or state is ANY:
            return "absent" if state is None else "not known"
        value, version, exact = state
        if exact:
            return f"{show(value)} at version {version}"
        return show(value) if version < 0 else f"{show(value)} after version {version}"

    def prepare(self, calls: list[Call]) -> list[Call]:
        # As for registers. Versions and whether a delete found something tell of writes whose values nobody saw.
        expected = set()
        for call in calls:
            code = call.code
            if code == _NOT_SWAPPED or (code == _DELETE and (call.seen is not None or call.given is not None)):
                return calls
            if code == _KV_CAS:
                if call.given[0]:
                    return calls
                expected.add(call.given[1])
        versioned = any(call.seen is not None for call in calls if call.code in (_PUT, _KV_CAS))
        seen = {call.seen[0] for call in calls if call.code == _GET} | expected
        versioned = versioned or any(call.seen[1] is not None for call in calls if call.code == _GET)

        def needed(call: Call) -> bool:
            if call.known or call.code not in (_PUT, _DELETE):
                return True
            if call.code == _DELETE:
                return versioned or None in seen
            return call.given in seen

        return [call for call in calls if needed(call)]


def _expected(value: Any) -> int | None:
    """The version that a conditional operation expects, None for none."""
    version = value.get("version") if isinstance(value, dict) else None
    if version is not None and type(version) is not int:
        raise UsageError(f"the expected version is {show(version)}, expected an integer")
    return version


def _fits(state: Any, by_version: bool, old: Any) -> bool:
    if state is ANY:
        return True
    if state is None:
        return old is None
    if not by_version:
        return bool(state[0] == old)
    if old is None:
        return False
    return bool(state[1] == old if state[2] else state[1] < old)


def _at(state: Any, version: int) -> Any:
    """``state`` once its version is known to be ``version``."""
    if state[2]:
        return state if state[1] == version else REFUSED
    return (state[0], version, True) if version > state[1] else REFUSED


def _after(state: Any, value: Any, version: int | None) -> Any:
    """``value`` put over ``state``, giving ``version`` if that is known."""
    bound = -1 if state is None or state is ANY else state[1]
    if version is None:
        return (value, bound, False)
    return (value, version, True) if version > bound else REFUSED
