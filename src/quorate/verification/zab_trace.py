"""What the members of an ensemble did, in the terms of the specification spec/Zab.tla; and whether it is a behaviour of it.

A trace is a list of steps in the order in which they happened. Its file has one step a line, a JSON list
``[event, member, epoch, counter]``, after a first line ``{"voters": n}``. Events:

- ``looking``: the member was started, or gave up its leader or its lead;
- ``accepted``: its disk holds the accepted epoch ``epoch``; ``counter`` is the member that proposed the epoch, maybe itself,
  or 0 if that is not known;
- ``begun``: as the leader of ``epoch`` it has a quorum that accepted it, and sends its history (NEWLEADER);
- ``history``: the log on its disk ends with the zxid (``epoch``, ``counter``) now;
- ``entered``: its disk holds the current epoch ``epoch``;
- ``established``: as the leader it has a quorum that acknowledged NEWLEADER;
- ``serving``: as a follower it was told so (UPTODATE);
- ``proposed``: as the leader it proposed all up to the zxid;
- ``applied``: all up to the zxid is in its state.

What the disk may not hold yet is not told, so that acknowledging it breaks the trace.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from quorate.errors import UsageError
from quorate.verification import tlc

EVENTS: Final = (
    "looking",
    "accepted",
    "begun",
    "history",
    "entered",
    "established",
    "serving",
    "proposed",
    "applied",
)
STEPS_MAX: Final = 100_000
LINE_MAX: Final = 200
"""Characters of one line."""

Step = tuple[str, int, int, int]
"""event, member, epoch, counter; epoch and counter are 0 for events that have none."""


class Verdict:
    """``accepted``: the trace is a behaviour of the specification. If not, ``line`` (from 0) is the step that no action explains,
    or after which the invariant ``violated`` does not hold."""

    __slots__ = ("line", "step", "violated")

    def __init__(self, line: int, step: Step | None, violated: str) -> None:
        self.line = line
        self.step = step
        self.violated = violated

    @property
    def accepted(self) -> bool:
        return self.step is None

    def __str__(self) -> str:
        if self.step is None:
            return f"all {self.line} steps are steps of the specification"
        event, member, epoch, counter = self.step
        what = f"member {member} {event}, epoch {epoch}, counter {counter}"
        if self.violated:
            return f"step {self.line} ({what}) breaks {self.violated}"
        return f"step {self.line} ({what}) is no step of the specification"


def validate(spec: Path, voters: int, steps: Sequence[Step], *, memory_mb: int = 1024, timeout: float = 600) -> Verdict:
    """Ask TLC; ``spec`` is the folder that holds ZabTrace.tla. Raises tlc.TlcMissing and tlc.TlcError."""
    with TemporaryDirectory(prefix="quorate-trace-") as folder:
        scratch = Path(folder)
        (scratch / "Recorded.tla").write_text(recorded(voters, steps))
        outcome = tlc.run(
            spec / "ZabTrace.tla", spec / "ZabTrace.cfg", scratch, spec, memory_mb=memory_mb, timeout=timeout
        )
    taken = outcome.depth - 1
    if outcome.violated:
        return Verdict(taken - 1, steps[taken - 1], outcome.violated)
    if taken == len(steps):
        return Verdict(taken, None, "")
    return Verdict(taken, steps[taken], "")


def recorded(voters: int, steps: Sequence[Step]) -> str:
    """The module Recorded that ZabTrace.tla reads the trace from."""
    sequence = ",\n".join(f'  <<"{event}", {member}, {epoch}, {counter}>>' for event, member, epoch, counter in steps)
    return (
        "---- MODULE Recorded ----\n"
        "EXTENDS Integers\n"
        f"RecordedServers == 1..{voters}\n"
        f"RecordedEpochs == {max([1, *[epoch for _, _, epoch, _ in steps]])}\n"
        f"RecordedTransactions == {max([1, *[counter for _, _, _, counter in steps]])}\n"
        f"Trace == <<\n{sequence}\n>>\n"
        "====\n"
    )


def write(path: Path, voters: int, steps: Iterable[Step]) -> None:
    lines = [json.dumps({"voters": voters}), *[json.dumps(step) for step in steps]]
    path.write_text("\n".join(lines) + "\n")


def read(path: Path) -> tuple[int, list[Step]]:
    """Number of voters, and the steps. Raises UsageError, which says which line is wrong."""
    voters = 0
    steps: list[Step] = []
    try:
        with path.open() as file:
            number = 0
            while line := file.readline(LINE_MAX + 1):
                number += 1
                if len(line) > LINE_MAX:
                    raise UsageError(f"{path}:{number}: a line of at most {LINE_MAX} characters is expected")
                if number == 1:
                    voters = _voters(path, line)
                elif len(steps) == STEPS_MAX:
                    raise UsageError(f"{path}:{number}: at most {STEPS_MAX} steps are read")
                else:
                    steps.append(_step(path, number, line, voters))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the trace cannot be read: {error}") from error
    if not voters:
        raise UsageError(f'{path}:1: {{"voters": n}} is expected, the file is empty')
    return voters, steps


def _voters(path: Path, line: str) -> int:
    value = _json(line)
    voters = value.get("voters") if isinstance(value, dict) else None
    if type(voters) is not int or not 1 <= voters <= 255:
        raise UsageError(f'{path}:1: {{"voters": n}}, n from 1 to 255, is expected')
    return voters


def _step(path: Path, number: int, line: str, voters: int) -> Step:
    value = _json(line)
    if isinstance(value, list) and len(value) == 4:
        event, member, epoch, counter = value
        if (
            event in EVENTS
            and type(member) is type(epoch) is type(counter) is int
            and 1 <= member <= voters
            and 0 <= epoch < 1 << 31
            and 0 <= counter < 1 << 31
        ):
            return event, member, epoch, counter
    raise UsageError(
        f"{path}:{number}: [event, member, epoch, counter] is expected, with member from 1 to {voters} and event one of "
        f"{', '.join(EVENTS)}"
    )


def _json(line: str) -> object:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value
