"""A run's trace as JSON lines, for programs: the run first, then each event. Equal runs give equal bytes.

The first line is ``{"seed", "failure", "digest", "lanes", "options"}``, the others are ``[time, kind, where, other, text, link]``
as :class:`quorate.simulation.trace.Event` has them.
"""

import json
from collections.abc import Iterator

from quorate.simulation.result import Result


def lines(result: Result) -> Iterator[str]:
    """The lines, each with its end, of a run that was made with its trace."""
    assert result.trace is not None, "the run was made without a trace"
    head = {
        "seed": result.seed,
        "failure": result.failure,
        "digest": f"{result.digest:08x}",
        "lanes": list(result.lanes),
        "options": dict(result.options),
    }
    yield json.dumps(head, separators=(",", ":")) + "\n"
    for event in result.trace:
        yield json.dumps(event, separators=(",", ":")) + "\n"
