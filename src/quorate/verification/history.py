"""What clients did to a system and what came of it: the record that every checker reads.

An operation is invoked and ends at most once: ``ok`` (it took effect, ``result`` is what came back), ``fail`` (it surely had no
effect) or ``unknown`` (the reply was lost: it may have taken effect once, at any time after its invocation). One that never
ended counts as unknown. ``began`` and ``finished`` count the history's own steps: they order what happened even where two
times are equal. Times are integer nanoseconds of any one clock, virtual or monotonic.

One recorder serves the simulation, tests with real processes and users' own tests; it is safe to use from several threads.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

Outcome = Literal["ok", "fail", "unknown"]

NEVER: Final = 1 << 62
"""``ended`` and ``finished`` of an operation that has not ended."""


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
    """Operations in the order of their invocations."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.operations: list[Operation] = []
        self._clock = clock
        self._steps = 0
        self._guard = threading.Condition()

    def invoke(self, process: str, name: str, key: Any = None, value: Any = None) -> Operation:
        with self._guard:
            operation = Operation(process, name, key, value, self._clock(), self._steps)
            self._steps += 1
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
            self._guard.notify_all()
