"""The table of what a history can be judged by, for ``quorate check`` and for tests that take the name from a history.

A checker of another kind than the linearizability of a model joins the table with a function that returns what is wrong,
one sentence each (``findings``).
"""

import time
from collections.abc import Callable
from typing import Any, Final, Literal

from quorate.errors import UsageError
from quorate.verification import linearizability, list_append, zookeeper
from quorate.verification.fifo import Queue
from quorate.verification.history import History
from quorate.verification.lock import Lock
from quorate.verification.models import KeyValue, Model, Register
from quorate.verification.timeline import html_page, text_report
from quorate.verification.values import ANY, show
from quorate.verification.znode import Znode

Outcome = Literal["ok", "violation", "unknown"]


class Options:
    """``time_limit`` in seconds of ``clock``; ``initial`` is a state (ANY for one not known); ``reads`` is for znodes."""

    __slots__ = ("clock", "initial", "reads", "time_limit")

    def __init__(
        self,
        time_limit: float | None = None,
        initial: Any = None,
        reads: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.time_limit = time_limit
        self.initial = initial
        self.reads = reads
        self.clock = clock


class Report:
    """``summary`` is one sentence, ``details`` text for people ("" if there is nothing to add), ``page`` HTML of the same."""

    __slots__ = ("details", "outcome", "page", "summary")

    def __init__(self, outcome: Outcome, summary: str, details: str = "", page: str | None = None) -> None:
        self.outcome: Outcome = outcome
        self.summary = summary
        self.details = details
        self.page = page


Checker = Callable[[History, Options], Report]


def linearizable(make: Callable[[Options], Model]) -> Checker:
    """The checker of a model that takes of the options what it knows; the others must be left alone."""

    def check(history: History, options: Options) -> Report:
        verdict = linearizability.check(history, make(options), time_limit=options.time_limit, clock=options.clock)
        judged = f"{_count(len(history.operations), 'operation')} on {_count(verdict.keys, 'key')}"
        if verdict.failure is not None:
            key = verdict.failure.key
            where = "" if key is None else f": no order of the operations on {show(key)} explains them"
            return Report(
                "violation", f"not linearizable{where}", text_report(verdict.failure), html_page(verdict.failure)
            )
        if verdict.outcome == "unknown":
            keys = ", ".join(show(key) for key in verdict.undecided[:5] if key is not None)
            more = len(verdict.undecided) - 5
            named = f" ({keys}{f' and {more} more' if more > 0 else ''})" if keys else ""
            return Report(
                "unknown",
                f"undecided: {verdict.reason}, with {len(verdict.undecided)} of {_count(verdict.keys, 'key')}{named} still open",
            )
        return Report("ok", f"linearizable: {judged}")

    return check


def findings(check: Callable[[History], list[str]]) -> Checker:
    """The checker of a function that returns what is wrong."""

    def judge(history: History, options: Options) -> Report:
        if options.initial is not None or options.reads:
            raise UsageError("this model takes no initial state and no choice of reads")
        wrong = check(history)
        if wrong:
            return Report("violation", f"{_count(len(wrong), 'finding')}", "".join(f"{w}\n" for w in wrong))
        return Report("ok", f"nothing is wrong: {len(history.operations):,} operations")

    return judge


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _without_state(make: Callable[[], Model]) -> Callable[[Options], Model]:
    def made(options: Options) -> Model:
        if options.initial is not None:
            raise UsageError("this model takes no initial state")
        return make()

    return made


def _without_reads(make: Callable[[Options], Model]) -> Checker:
    checker = linearizable(make)

    def check(history: History, options: Options) -> Report:
        if options.reads:
            raise UsageError("only the model znode has reads to choose")
        return checker(history, options)

    return check


CHECKERS: Final[dict[str, tuple[str, Checker]]] = {
    "register": ("one value, read and written", _without_reads(lambda o: Register(initial=o.initial))),
    "cas-register": ("the same with compare and set", _without_reads(lambda o: Register(cas=True, initial=o.initial))),
    "kv": (
        "keys with get, put, delete and cas, with or without versions",
        _without_reads(lambda o: KeyValue(o.initial)),
    ),
    "queue": ("first in, first out", _without_reads(_without_state(Queue))),
    "lock": ("one holder at a time, growing fencing tokens", _without_reads(_without_state(Lock))),
    "list-append": ("transactions of reads and appends: strictly serializable", findings(list_append.check)),
    "zookeeper": ("all that ZooKeeper guarantees its clients", findings(zookeeper.check)),
    "znode": ("writes to each ZooKeeper node", linearizable(lambda o: Znode(o.initial, reads=o.reads))),
}
"""Name to purpose and checker."""


def judge(history: History, model: str | None = None, options: Options | None = None) -> Report:
    """Judge by ``model``, or by the one that the history names. Raises UsageError."""
    name = model or history.model
    if name is None:
        raise UsageError("the history names no model, so one must be given")
    if name not in CHECKERS:
        raise UsageError(f"no model {name!r}, expected one of {', '.join(CHECKERS)}")
    return CHECKERS[name][1](history, options or Options())


__all__ = ["ANY", "CHECKERS", "Checker", "Options", "Outcome", "Report", "findings", "judge", "linearizable"]
