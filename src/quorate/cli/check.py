"""``quorate check HISTORY --model MODEL``: does what clients saw agree with what the system promises?

Reads our recorder's JSON lines and Jepsen's EDN. Standard output has one line if all is well; if not, or if that could not be
decided in time, the counter-example or what was left open.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from quorate.errors import UsageError
from quorate.verification.checkers import CHECKERS, Options, judge
from quorate.verification.reading import read_history
from quorate.verification.values import ANY

_DEFAULT_TIME_LIMIT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    models = "; ".join(f"{name}: {purpose}" for name, (purpose, _) in CHECKERS.items())
    parser.add_argument(
        "history", metavar="HISTORY", type=Path, help="a file of JSON lines, a JSON array, or Jepsen's EDN"
    )
    parser.add_argument("--model", metavar="MODEL", help=f"what to judge by (default: what the file names). {models}")
    parser.add_argument(
        "--time-limit",
        metavar="SECONDS",
        type=float,
        default=_DEFAULT_TIME_LIMIT,
        help=f"give up after this long (default: {_DEFAULT_TIME_LIMIT:g})",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="draw the counter-example of a violation into this file"
    )
    parser.add_argument(
        "--initial", metavar="VALUE", help="the state at the start: a JSON value, or the word any if it is not known"
    )
    parser.add_argument("--reads", action="store_true", help="hold reads of znodes to the order of writes as well")
    parser.add_argument(
        "--independent",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="values are Jepsen's [key value] (default: find out)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Status 0 if the history agrees with the model, 1 if it does not or that is undecided."""
    if not 0 < arguments.time_limit <= 1e6:
        raise UsageError("the time limit must be a positive number of seconds")
    model: str | None = arguments.model
    if model is not None and model not in CHECKERS:
        raise UsageError(f"no model {model!r}, expected one of {', '.join(CHECKERS)}")
    file: Path = arguments.history
    try:
        history = read_history(file, independent=arguments.independent)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    options = Options(arguments.time_limit, _initial(arguments.initial), arguments.reads)
    began = time.perf_counter()
    report = judge(history, model, options)
    seconds = time.perf_counter() - began
    sys.stdout.write(f"{file}: {report.summary}, checked in {seconds:.2f} s\n")
    if report.details:
        sys.stdout.write(f"\n{report.details}")
    if arguments.html is not None and report.page is not None:
        arguments.html.write_text(report.page, encoding="utf-8")
        sys.stdout.write(f"\ndrawn in {arguments.html}\n")
    return 0 if report.outcome == "ok" else 1


def _initial(text: str | None) -> Any:
    if text is None:
        return None
    if text == "any":
        return ANY
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f'the initial state {text!r} is not JSON, expected a value such as 0 or "a", or any') from None
