"""What clients did to a system and what came of it: the record that every checker reads.

An operation is invoked and ends at most once: ``ok`` (it took effect, ``result`` is what came back), ``fail`` (it surely had no
effect) or ``unknown`` (the reply was lost: it may have taken effect once, at any time after its invocation). One that never
ended counts as unknown. ``began`` and ``finished`` count the history's own steps: they order what happened even where two
times are equal. Times are integer nanoseconds of any one clock, virtual or monotonic.

One recorder serves the simulation, tests with real processes and users' own tests; it is safe to use from several threads.

A history in a file is JSON lines, in the order in which things happened, so that it can be written while it grows::

    {"quorate-history": 1, "model": "kv"}
    {"type": "invoke", "id": 0, "process": "c1", "name": "put", "key": "x", "value": 3, "time": 1200}
    {"type": "ok", "id": 0, "result": null, "time": 1900}

``type`` of an ending is ``ok``, ``fail`` or ``unknown``; ``id`` numbers the invocations. ``model`` and ``key`` are left out
where there is none. What JSON cannot hold is written as its ``repr``. ``reading`` reads it back.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TextIO

Outcome = Literal["ok", "fail", "unknown"]

NEVER: Final = 1 << 62
"""``ended`` and ``finished`` of an operation that has not ended."""

FORMAT: Final = 1
HEADER: Final = "quorate-history"
"""The word of a file's first line whose value is the version of the format."""

_SECOND = 1_000_000_000


class Operation:
    """One call of one client. ``process`` is sequential: it has one operation open at a time unless the checker says otherwise.

    ``name`` and the shapes of ``value`` and ``result`` are the model's (see ``models``); ``key`` is what a model can be
    split by, None if there is none.
    """

    __slots__ = ("began", "ended", "finished", "invoked", "key", "name", "outcome", "process", "result", "value")

    def __init__(self, process: str, name: str, key: Any, value: Any, invoked: int, began: int) -> None:
        self.process = process
        self.name = name
        self.key = key
        self.value = value
        self.invoked = invoked
        self.began = began
        self.ended = NEVER
        self.finished = NEVER
        self.outcome: Outcome = "unknown"
        self.result: Any = None

    def __repr__(self) -> str:
        key = "" if self.key is None else f" {self.key!r}"
        return f"{self.process} {self.name}{key} {self.value!r} -> {self.outcome} {self.result!r} [{self.began} {self.finished}]"


class History:
    """Operations in the order of their invocations.

    ``model`` names what the history is to be judged by (see ``checkers``), None if that is left to whoever checks it.
    ``stream`` gets each line of the file format as it happens; the caller closes it.
    """

    def __init__(
        self, clock: Callable[[], int] = time.monotonic_ns, *, model: str | None = None, stream: TextIO | None = None
    ) -> None:
        self.operations: list[Operation] = []
        self.model = model
        self.source: str | None = None
        """The file that the history was read from."""
        self.lines: list[int] = []
        """The line of each operation's invocation in ``source``."""
        self.last_ok = 0
        """When the latest of the operations that succeeded was invoked."""
        self._clock = clock
        self._steps = 0
        self._guard = threading.Condition()
        self._stream = stream
        self._ids: dict[Operation, int] = {}
        if stream is not None:
            stream.write(_header(model))

    def invoke(self, process: str, name: str, key: Any = None, value: Any = None) -> Operation:
        with self._guard:
            operation = Operation(process, name, key, value, self._clock(), self._steps)
            self._steps += 1
            if self._stream is not None:
                self._ids[operation] = len(self.operations)
                self._stream.write(_invocation(operation, len(self.operations)))
            self.operations.append(operation)
        return operation

    def end(self, operation: Operation, outcome: Outcome, result: Any = None) -> None:
        """Raises ValueError if it has ended already."""
        with self._guard:
            if operation.finished != NEVER:
                raise ValueError(f"ended twice: {operation}")
            operation.outcome = outcome
            operation.result = result
            operation.ended = self._clock()
            operation.finished = self._steps
            self._steps += 1
            if self._stream is not None:
                self._stream.write(_ending(operation, self._ids.pop(operation)))
            if outcome == "ok":
                self.last_ok = max(self.last_ok, operation.invoked)
            self._guard.notify_all()

    @contextmanager
    def call(
        self,
        process: str,
        name: str,
        key: Any = None,
        value: Any = None,
        *,
        refused: tuple[type[BaseException], ...] = (),
    ) -> Iterator[Operation]:
        """Record what the block does as one operation; the block leaves its result in ``operation.result``.

        An exception of ``refused`` says that the operation had no effect (``fail``), any other leaves that unknown; all
        go on to the caller. A block may also end the operation itself. ::

            with history.call("c1", "put", "x", 3, refused=(NotLeader,)) as operation:
                operation.result = client.put("x", 3)
        """
        operation = self.invoke(process, name, key, value)
        outcome: Outcome = "unknown"
        try:
            yield operation
            outcome = "ok"
        except refused as error:
            outcome = "fail"
            if operation.result is None:
                operation.result = str(error)
            raise
        finally:
            if operation.finished == NEVER:
                self.end(operation, outcome, operation.result)

    def wait_ok_after(self, moment: int, seconds: float) -> float:
        """Wait until an operation invoked after ``moment`` (nanoseconds of the history's clock) has succeeded.

        The seconds from ``moment`` to that success; raises TimeoutError after ``seconds`` of real time.
        """
        deadline = time.monotonic() + seconds
        with self._guard:
            while self.last_ok <= moment:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no operation succeeded for {seconds:g} s")
                self._guard.wait(left)
            first = min(op.ended for op in self.operations if op.outcome == "ok" and op.invoked > moment)
        return (first - moment) / _SECOND

    def acknowledged(self) -> int:
        """How many operations succeeded."""
        with self._guard:
            return sum(op.outcome == "ok" for op in self.operations)

    def ended(self, name: str, *outcomes: Outcome) -> list[Operation]:
        """The operations called ``name`` that came to one of ``outcomes``, in the order of their invocations."""
        with self._guard:
            return [op for op in self.operations if op.name == name and op.outcome in outcomes]

    def place(self, number: int) -> str:
        """Where operation ``number`` stands, for a message: ``file:line``, or its number."""
        return f"{self.source}:{self.lines[number]}" if self.lines else f"operation {number}"

    def write(self, file: Path) -> None:
        """Write what has happened so far. Raises OSError."""
        with self._guard:
            lines = [(op.began, _invocation(op, number)) for number, op in enumerate(self.operations)]
            lines += [(op.finished, _ending(op, n)) for n, op in enumerate(self.operations) if op.finished != NEVER]
        lines.sort()
        with file.open("w", encoding="utf-8") as out:
            out.write(_header(self.model))
            out.writelines(line for _, line in lines)


def _header(model: str | None) -> str:
    return _line({HEADER: FORMAT} if model is None else {HEADER: FORMAT, "model": model})


def _invocation(op: Operation, number: int) -> str:
    record = {"type": "invoke", "id": number, "process": op.process, "name": op.name, "value": op.value}
    if op.key is not None:
        record["key"] = op.key
    record["time"] = op.invoked
    return _line(record)


def _ending(op: Operation, number: int) -> str:
    return _line({"type": op.outcome, "id": number, "result": op.result, "time": op.ended})


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, default=repr) + "\n"
