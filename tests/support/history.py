"""What clients did to a system under faults: one record per invocation and one per outcome, in the order they happened.

An operation whose outcome is not known (the connection went away) may have taken effect once, now or later. Written as
JSON lines, so that a failed run can be looked into.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "fail", "unknown"]


class Operation:
    """``invoked`` and ``ended`` are monotonic seconds; ``outcome`` is None while it runs, ``result`` what came of it."""

    __slots__ = ("ended", "invoked", "name", "outcome", "process", "result", "value")

    def __init__(self, process: str, name: str, value: Any, invoked: float) -> None:
        self.process = process
        self.name = name
        self.value = value
        self.invoked = invoked
        self.ended = float("inf")
        self.outcome: Outcome | None = None
        self.result: Any = None

    def __repr__(self) -> str:
        return f"{self.process} {self.name} {self.value!r} -> {self.outcome} {self.result!r} [{self.invoked:.3f} {self.ended:.3f}]"


class History:
    """Thread-safe. Every operation is ended exactly once."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.last_ok = 0.0
        """When the latest of the operations that succeeded was invoked."""
        self._guard = threading.Lock()
        self._acknowledged = threading.Condition(self._guard)

    def invoke(self, process: str, name: str, value: Any) -> Operation:
        with self._guard:
            operation = Operation(process, name, value, time.monotonic())
            self.operations.append(operation)
        return operation

    def end(self, operation: Operation, outcome: Outcome, result: Any = None) -> None:
        with self._guard:
            assert operation.outcome is None, f"ended twice: {operation}"
            operation.outcome = outcome
            operation.result = result
            operation.ended = time.monotonic()
            if outcome == "ok":
                self.last_ok = max(self.last_ok, operation.invoked)
                self._acknowledged.notify_all()

    def wait_ok_after(self, moment: float, seconds: float) -> float:
        """Wait until an operation invoked after ``moment`` (monotonic seconds) has succeeded.

        The seconds from ``moment`` to that success; raises TimeoutError.
        """
        deadline = time.monotonic() + seconds
        with self._acknowledged:
            while self.last_ok <= moment:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no operation succeeded for {seconds:g} s")
                self._acknowledged.wait(left)
            return min(op.ended for op in self.operations if op.outcome == "ok" and op.invoked > moment) - moment

    def acknowledged(self) -> int:
        return sum(op.outcome == "ok" for op in self.operations)

    def ended(self, name: str, *outcomes: Outcome) -> list[Operation]:
        return [op for op in self.operations if op.name == name and (op.outcome or "unknown") in outcomes]

    def write(self, file: Path) -> None:
        with file.open("w") as out:
            for op in self.operations:
                record = {"process": op.process, "op": op.name, "value": op.value, "invoked": op.invoked}
                if op.outcome is not None:
                    record |= {"outcome": op.outcome, "result": op.result, "ended": op.ended}
                out.write(json.dumps(record, default=repr) + "\n")
