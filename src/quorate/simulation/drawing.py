"""A run drawn as one HTML page that needs nothing else: time runs downward, a lane for each machine, messages as arrows."""

import html
import json
from collections.abc import Mapping
from heapq import merge
from importlib import resources
from typing import Any

from quorate.simulation.result import Result
from quorate.simulation.trace import FAULT, Event


def strikes(options: Mapping[str, object]) -> list[Event]:
    """The schedule of faults as events of the run as a whole: not every fault shows otherwise."""
    schedule = options.get("schedule")
    if not isinstance(schedule, list):
        return []
    return [Event(when, FAULT, "", "", " ".join(map(_plain, strike)), 0) for when, *strike in schedule]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _time(event: Event) -> int:
    return event.time


def page(result: Result) -> str:
    """The page of a run that was made with its trace."""
    assert result.trace is not None, "the run was made without a trace"
    kinds: dict[str, int] = {}
    lanes = {name: number for number, name in enumerate(result.lanes)}
    events: list[list[Any]] = [
        [
            event.time,
            kinds.setdefault(event.kind, len(kinds)),
            lanes.get(event.where, -1),
            lanes.get(event.other, -1),
            event.text,
            event.link,
        ]
        for event in merge(strikes(result.options), result.trace, key=_time)
    ]
    title = f"seed {result.seed}"
    data = {
        "title": f"{title}: {result.events:,} events, {result.operations:,} operations, digest {result.digest:08x}",
        "failure": result.failure,
        "lanes": list(result.lanes),
        "kinds": list(kinds),
        "events": events,
        "options": dict(result.options),
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    # nothing in it may end the element that it stands in
    text = text.replace("<", "\\u003c")
    template = resources.files("quorate.simulation").joinpath("trace.html").read_text(encoding="utf-8")
    head, _, rest = template.partition("TITLE")
    middle, _, tail = rest.partition("DATA")
    return f"{head}{html.escape(title)}{middle}{text}{tail}"
