"""The program ``quorate``: picks the command, imports it alone, and turns errors into one sentence and an exit status.

Exit statuses: 0 for success, 1 for a failure, 2 for a user's mistake. An exception that is none of ours is a bug and
keeps its traceback. Commands are imported only when asked for, because a member's start-up time counts.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol

from quorate import __version__
from quorate.errors import QuorateError, UsageError

_COMMANDS = {
    "up": "start a whole platform on this machine and keep it running",
    "zookeeper": "run one ZooKeeper member from its zoo.cfg",
    "serve": "run one node of a deployment from its configuration file",
    "kv": "read and write the key-value store",
    "txn": "show transactions in doubt, and end them",
    "member": "show and change the members of a cluster",
    "status": "show how ZooKeeper members are doing",
    "check": "check what clients saw against what the system promises",
    "simulate": "run a protocol with faults in virtual time, from seeds",
    "explore": "visit every state of a small ensemble, and draw the way to one that must not be",
}

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


class Command(Protocol):
    """What the module of a command offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


class _OneSentenceParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with ``argv`` (without its name) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except UsageError as error:
        return _say(error, 2)
    except (QuorateError, OSError) as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(words: list[str]) -> int:
    parser = _OneSentenceParser("quorate", description="Keeps distributed systems consistent.")
    parser.add_argument("--version", action="version", version=f"quorate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    name = next((word for word in words if not word.startswith("-")), "")
    command: Command | None = None
    for known, purpose in _COMMANDS.items():
        sub = commands.add_parser(known, help=purpose, description=purpose[0].upper() + purpose[1:] + ".")
        if known == name:
            command = _load(known)
            command.add_arguments(sub)
    arguments = parser.parse_args(words)
    if command is None:
        raise UsageError("a command is missing (see quorate --help)")
    return command.run(arguments)


def _load(name: str) -> Command:
    module: Command = import_module(f"quorate.cli.{name}")
    return module


def _say(error: Exception, status: int) -> int:
    sys.stderr.write(f"quorate: {' '.join(str(error).split())}\n")
    return status
