"""How a server process logs: one line per event on standard error, in the form that readers of ZooKeeper's logs know."""

import argparse
import logging

LEVELS = ("debug", "info", "warning", "error")


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="least severe events to log (default: info)"
    )


def configure(level: str, my_id: int | None) -> None:
    """Log events of ``level`` and above, marked with the member's number; None: it is no member of anything."""
    # WARNING and CRITICAL are longer than the column; the others line up
    logging.addLevelName(logging.WARNING, "WARN")
    logging.addLevelName(logging.CRITICAL, "FATAL")
    # no thread or process names in the lines, so none are looked up
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler()
    mark = "" if my_id is None else f" [myid:{my_id}]"
    handler.setFormatter(logging.Formatter(f"%(asctime)s{mark} %(levelname)-5s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
