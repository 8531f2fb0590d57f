"""``quorate txn``: an owner for transactions in doubt: who is, since when, why, and what to do about it.

Exit statuses, for scripts: ``list`` 1 if somebody could not be asked; ``show`` 1 if nobody knows the transaction, or somebody could not be asked; ``resolve`` 1 if a
participant has not followed yet, or was ended otherwise; ``sweep`` 1 if anything is left that somebody has to see to: a participant that
cannot be reached, a branch whose time is up and that is not ended, an outcome that is heuristic or cannot be told. Foreign branches are told, and are no failure.
"""

import argparse
import getpass
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quorate.cli import logs, txnviews
from quorate.errors import ConfigError, QuorateError, UsageError
from quorate.kv.config import split
from quorate.kv.decisions import GRACE_SECONDS
from quorate.toml import is_address
from quorate.transactions.config import Config, load
from quorate.transactions.gtid import parse
from quorate.transactions.operate import Operator
from quorate.transactions.recovery import Report
from quorate.transactions.survey import survey
from quorate.transactions.sync import Coordinator

ENVIRONMENT = "QUORATE_TXN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--config",
        metavar="FILE.toml",
        default=os.environ.get(ENVIRONMENT),
        help=f"names the space, the decision log and the participants (default: ${ENVIRONMENT})",
    )
    common = argparse.ArgumentParser(add_help=False, parents=[where])
    common.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", parents=[common], help="show what is not finished: in the log, and at each participant"
    )
    listing.add_argument("--all", action="store_true", help="finished ones too, as long as they are kept")
    show = actions.add_parser(
        "show", parents=[common], help="show one transaction, its branches, what they lock and who waits for it"
    )
    show.add_argument("gtid", metavar="TRANSACTION")
    resolve = actions.add_parser(
        "resolve", parents=[common], help="decide to abort, carry a decision out, or acknowledge a heuristic outcome"
    )
    resolve.add_argument("gtid", metavar="TRANSACTION")
    how = resolve.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--abort", action="store_true", help="abort it if it is undecided, and roll back what is prepared, now"
    )
    how.add_argument("--commit", action="store_true", help="commit what is prepared, now; only if that is decided")
    how.add_argument(
        "--acknowledge", action="store_true", help="what was ended against the decision has been mended by hand"
    )
    resolve.add_argument("--reason", default="", metavar="TEXT", help="is kept with the decision")
    actions.add_parser("sweep", parents=[common], help="make a round of recovery now, and tell what it did and found")
    serve = actions.add_parser(
        "serve", parents=[where], help="sweep again and again, and serve metrics and health over HTTP"
    )
    serve.add_argument("--http", metavar="HOST:PORT", help="where /metrics and /health are served (default: nowhere)")
    logs.add_argument(serve)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError, QuorateError."""
    if not arguments.config:
        raise UsageError(f"no configuration: name a file with --config or in ${ENVIRONMENT} (docs/transactions.md)")
    config = load(arguments.config)
    _check_log(config)
    if arguments.action == "serve":
        return _serve(config, arguments)
    # what recovery would log is in the answer
    logging.getLogger("quorate").addHandler(logging.NullHandler())
    action: Callable[[Coordinator, argparse.Namespace], int] = _ACTIONS[arguments.action]
    with Coordinator(**config.options({"sweep_every": None})) as coordinator:
        return action(coordinator, arguments)


def _check_log(config: Config) -> None:
    """A log that is made now is empty, and recovery against it would abort what is committed."""
    if isinstance(config.decisions, Path) and not config.decisions.exists():
        raise ConfigError(
            f"transactions.decisions: there is no decision log at {config.decisions}; coordinators make it with their first transaction",
            config.file,
        )


def _operator(coordinator: Coordinator) -> Operator:
    engine = coordinator.engine
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # a container's user need not be in the password file
        user = str(os.getuid())
    return Operator(engine.participants, engine.log, engine.space, f"operator {user}@{socket.gethostname()}")


def _list(coordinator: Coordinator, arguments: argparse.Namespace) -> int:
    engine = coordinator.engine
    found = coordinator.shell.run(survey(engine.participants, engine.log, engine.space))
    if arguments.json:
        _print_json(txnviews.survey_json(found, arguments.all))
    else:
        sys.stdout.write(txnviews.survey_text(found, arguments.all))
    return 1 if found.unreachable or found.log_error else 0


def _show(coordinator: Coordinator, arguments: argparse.Namespace) -> int:
    operator = _operator(coordinator)
    examined = coordinator.shell.run(operator.examine(operator.gtid(arguments.gtid), locks=True))
    if examined.nothing and not examined.unreachable:
        raise QuorateError(
            f"nobody knows of transaction {examined.gtid}: it never was, or it is finished and its record is forgotten"
        )
    if arguments.json:
        _print_json(txnviews.examined_json(examined))
    else:
        sys.stdout.write(txnviews.examined_text(examined))
    return 1 if examined.unreachable or any(found.error for found in examined.branches) else 0


def _resolve(coordinator: Coordinator, arguments: argparse.Namespace) -> int:
    operator = _operator(coordinator)
    gtid = operator.gtid(arguments.gtid)
    reason = " ".join(arguments.reason.split())
    if arguments.acknowledge:
        record = coordinator.shell.run(operator.acknowledge(gtid, reason))
        if arguments.json:
            _print_json(txnviews.acknowledged_json(record))
        else:
            told = ", ".join(f"{name} {what}" for name, what in sorted(record.heuristic.items()))
            sys.stdout.write(f"transaction {gtid} is closed: {told}; acknowledged by {operator.by}\n")
        return 0
    carried = coordinator.shell.run(operator.commit(gtid) if arguments.commit else operator.abort(gtid, reason))
    if arguments.json:
        _print_json(txnviews.carried_json(carried))
    else:
        sys.stdout.write(txnviews.carried_text(carried))
    return 1 if carried.waiting or carried.against() else 0


def _sweep(coordinator: Coordinator, arguments: argparse.Namespace) -> int:
    report = coordinator.sweep()
    if arguments.json:
        _print_json(txnviews.report_json(report))
    else:
        sys.stdout.write(txnviews.report_text(report))
    return 1 if needs_somebody(report, time.time()) else 0


def needs_somebody(report: Report, now: float) -> bool:
    """Whether anything is left that will not end by itself in its time."""
    late = False
    for text, _, _ in report.in_doubt:
        gtid = parse(text)
        late = late or (gtid is not None and now > gtid.deadline + GRACE_SECONDS)
    return bool(late or report.unreachable or report.unknown or txnviews.heuristics(report))


def _serve(config: Config, arguments: argparse.Namespace) -> int:
    if arguments.http is not None and not is_address(arguments.http):
        raise UsageError(f"--http {arguments.http!r} is not an address, expected HOST:PORT")
    logs.configure(arguments.log_level, None)
    # imported here, so that a mistake is told without loading a server
    from quorate.node import transactions

    return transactions.run(config, None if arguments.http is None else split(arguments.http))


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


_ACTIONS = {"list": _list, "show": _show, "resolve": _resolve, "sweep": _sweep}
