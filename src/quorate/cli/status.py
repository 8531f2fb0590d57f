"""``quorate status HOST:PORT…``: one line per member, from the four-letter commands ``mntr`` and ``srvr``.

Works with any ZooKeeper server. A server that allows ``srvr`` alone (Apache's default) shows what that one tells.
"""

import argparse
import selectors
import sys
from functools import partial

from quorate.cli.fourletter import Asker, fields
from quorate.cli.table import table
from quorate.errors import UsageError
from quorate.zookeeper.zoocfg import parse_address

_DEFAULT_PORT = 2181
_HEADS = ("member", "role", "epoch", "zxid", "sessions", "watches", "latency ms (min/avg/max)")
_UNKNOWN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", metavar="HOST:PORT", nargs="+", help="client addresses; commas may join several")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=3.0, help="how long to wait (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """Status 0 if every member serves, 1 if one does not or cannot be reached."""
    if not 0 < arguments.timeout <= 3600:
        raise UsageError("the timeout must be a positive number of seconds")
    members = [_address(part) for text in arguments.members for part in text.split(",") if part]
    replies = _ask(members, arguments.timeout)
    rows: list[tuple[str, ...]] = [_HEADS]
    serving = True
    for index, (host, port) in enumerate(members):
        row, serves = _row(*replies[index])
        rows.append((f"[{host}]:{port}" if ":" in host else f"{host}:{port}", *row))
        serving = serving and serves
    sys.stdout.write(table(rows))
    return 0 if serving else 1


def _address(text: str) -> tuple[str, int]:
    try:
        host, *rest = parse_address(text)
        if not host or len(rest) > 1:
            raise ValueError
        port = int(rest[0]) if rest else _DEFAULT_PORT
        if not 1 <= port <= 65535:
            raise ValueError
    except ValueError:
        raise UsageError(f"{text!r} is not an address, expected HOST:PORT") from None
    return host, port


def _ask(members: list[tuple[str, int]], timeout: float) -> list[tuple[str | None, str | None, str]]:
    """Per member: the reply to ``mntr``, the reply to ``srvr``, and why that one is missing."""
    replies: list[tuple[str | None, str | None, str]] = [(None, None, "")] * len(members)
    with selectors.DefaultSelector() as selector:
        asker = Asker(selector)

        def monitored(index: int, text: str | None, _: str) -> None:
            replies[index] = (text, *replies[index][1:])

        def served(index: int, text: str | None, reason: str) -> None:
            replies[index] = (replies[index][0], text, reason)

        for index, (host, port) in enumerate(members):
            asker.ask(host, port, "mntr", timeout, partial(monitored, index))
            asker.ask(host, port, "srvr", timeout, partial(served, index))
        while asker.pending:
            asker.turn()
    return replies


def _row(mntr: str | None, srvr: str | None, reason: str) -> tuple[tuple[str, ...], bool]:
    if srvr is None:
        return (f"unreachable ({reason})", *[_UNKNOWN] * 5), False
    server = fields(srvr)
    if "Mode" not in server:
        return ("not serving", *[_UNKNOWN] * 5), False
    monitor = fields(mntr or "")
    zxid = _number(server.get("Zxid", ""))
    sessions = [
        monitor[name] for name in ("zk_global_sessions", "zk_local_sessions") if monitor.get(name, "").isdigit()
    ]
    return (
        server["Mode"],
        _UNKNOWN if zxid is None else str(zxid >> 32),
        _UNKNOWN if zxid is None else f"0x{zxid:x}",
        str(sum(int(count) for count in sessions)) if sessions else _UNKNOWN,
        monitor.get("zk_watch_count", _UNKNOWN),
        server.get("Latency min/avg/max", _UNKNOWN),
    ), True


def _number(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
