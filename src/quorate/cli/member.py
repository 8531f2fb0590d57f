"""``quorate member``: who the members of a cluster are, and how they become others; over the members' HTTP addresses.

A cluster's groups (one for each shard) have their own leaders; a change is made in one group after the other, by each one's leader. Whatever
fails may be asked for again by the same command: what is done stays as it is, and the rest is gone on with.
"""

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from quorate.cli.table import table
from quorate.errors import QuorateError, UsageError

ENVIRONMENT = "QUORATE_HTTP"
_PREFIX = "/quorate/v1/"
_STATUS_SECONDS = 5.0
_GRACE_SECONDS = 5.0
"""After what a change may take; then its leader is taken for dead."""
_LEADER_SECONDS = 40.0
"""For somebody to lead, or to answer."""
_PAUSE_SECONDS = 0.2
_DAY_SECONDS = 86_400
_MISDIRECTED = 421
_WRONG = 400
_AGAIN = "then the same command may be given again: it goes on where this one ended"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--address",
        metavar="HOST:PORT[,…]",
        default=os.environ.get(ENVIRONMENT),
        help=f"HTTP addresses of members, as `quorate up` prints them after `registry` (default: ${ENVIRONMENT})",
    )
    where.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long a new member may take to catch up, in each group (default: %(default)g)",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", parents=[where], help="show the members of every group and who leads")
    add = actions.add_parser("add", parents=[where], help="add a member, which has to run already")
    replace = actions.add_parser(
        "replace", parents=[where], help="add a member, then remove the one whose place it takes"
    )
    replace.add_argument("old", type=int, metavar="OLD", help="the number of the member to remove; it may be dead")
    for sub in (add, replace):
        sub.add_argument("id", type=int, metavar="ID", help="the new member's number, which no member had before")
        for name in ("peer", "client", "http"):
            sub.add_argument(f"--{name}", metavar="HOST:PORT", required=True, help=f"its {name} address")
    remove = actions.add_parser("remove", parents=[where], help="remove a member; it may be dead")
    remove.add_argument("id", type=int, metavar="ID")
    lead = actions.add_parser(
        "lead", parents=[where], help="let a member lead every group, before another is restarted, say"
    )
    lead.add_argument("id", type=int, metavar="ID")


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError, QuorateError."""
    if not arguments.address:
        raise UsageError(f"no address: name members' HTTP addresses with --address or in ${ENVIRONMENT}")
    if not 0 < arguments.timeout <= _DAY_SECONDS:
        raise UsageError(
            f"--timeout: expected more than 0 and at most {_DAY_SECONDS} seconds, found {arguments.timeout:g}"
        )
    cluster = Cluster([_address(text) for text in arguments.address.split(",")], arguments.timeout)
    query = f"?timeout_ms={int(arguments.timeout * 1000)}"
    if arguments.action == "list":
        _list(cluster)
        return 0
    for group in cluster.groups():
        if arguments.action in ("add", "replace"):
            addresses = {name: getattr(arguments, name) for name in ("peer", "client", "http")}
            for text in addresses.values():
                _address(text)
            cluster.change(group, "PUT", f"groups/{group}/members/{arguments.id}{query}", addresses)
        if arguments.action in ("remove", "replace"):
            gone = arguments.old if arguments.action == "replace" else arguments.id
            cluster.change(group, "DELETE", f"groups/{group}/members/{gone}{query}")
        if arguments.action == "lead" and cluster.leader(group) != arguments.id:
            cluster.change(group, "PUT", f"groups/{group}/leader/{arguments.id}")
    _list(cluster)
    return 0


def _list(cluster: "Cluster") -> None:
    rows = [("group", "member", "role", "peer", "client", "http")]
    status = cluster.status()
    for group in status["groups"]:
        leader = cluster.leader(group["group"])
        for member in group["members"]:
            role = "leader" if member["id"] == leader else "follower"
            rows.append(
                (
                    str(group["group"]),
                    str(member["id"]),
                    role,
                    *[member.get(name, "-") for name in ("peer", "client", "http")],
                )
            )
    sys.stdout.write(table(rows))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} is no address, expected host:port")
    return host.strip("[]"), int(port)


class Cluster:
    """Known by the HTTP addresses of some members; finds the others. ``seconds``: what a change may take in a group."""

    def __init__(self, addresses: list[tuple[str, int]], seconds: float) -> None:
        self._addresses = addresses
        self._seconds = seconds

    def status(self) -> dict[str, Any]:
        """Of the first member that answers. Raises QuorateError."""
        reasons = []
        for address in self._addresses:
            try:
                status, body = _ask(address, "GET", "status", _STATUS_SECONDS)
            except OSError as error:
                reasons.append(f"{address[0]}:{address[1]}: {error.strerror or error}")
                continue
            if status == 200 and isinstance(body, dict):
                return body
            reasons.append(f"{address[0]}:{address[1]}: status {status}")
        raise QuorateError(f"no member answers: {'; '.join(reasons)}")

    def groups(self) -> list[int]:
        return [group["group"] for group in self.status()["groups"]]

    def leader(self, group: int) -> int:
        """Waits until there is one. Raises QuorateError."""
        found = self._until(lambda: self._group(group)["leader"] or None, _LEADER_SECONDS)
        if found is None:
            raise QuorateError(f"group {group} has no leader")
        return int(found)

    def _group(self, group: int) -> dict[str, Any]:
        return next(found for found in self.status()["groups"] if found["group"] == group)

    def _until(self, look: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found is not None or time.monotonic() > deadline:
                return found
            # who answered may be cut off from the others, or removed: another one is asked first
            self._addresses = [*self._addresses[1:], *self._addresses[:1]]
            time.sleep(_PAUSE_SECONDS)

    def change(self, group: int, method: str, path: str, body: dict[str, str] | None = None) -> None:
        """Ask the group's leader, whoever it is by then. Raises QuorateError with what it says."""
        reason = ""

        def attempt() -> bool | None:
            nonlocal reason
            known = self._group(group)
            address = next((member.get("http") for member in known["members"] if member["id"] == known["leader"]), None)
            if not address:
                reason = f"group {group} has no leader"
                return None
            try:
                status, answer = _ask(_address(address), method, path, self._seconds + _GRACE_SECONDS, body)
            except OSError as error:
                reason = f"{address}: {error.strerror or error}"
                return None
            if status == 200:
                return True
            reason = answer.get("error", "") if isinstance(answer, dict) else str(answer)
            if status == _MISDIRECTED:
                return None
            raise QuorateError(f"group {group}: {reason}" if status == _WRONG else f"group {group}: {reason}; {_AGAIN}")

        if self._until(attempt, self._seconds + _LEADER_SECONDS) is None:
            raise QuorateError(f"group {group}: {reason}; {_AGAIN}")


def _ask(
    address: tuple[str, int], method: str, path: str, seconds: float, body: dict[str, str] | None = None
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*address, timeout=seconds)
    try:
        connection.request(method, _PREFIX + path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        data = response.read(1 << 20)
    except http.client.HTTPException as error:
        raise QuorateError(f"{address[0]}:{address[1]} does not speak HTTP: {error}") from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, data.decode("utf-8", "replace").strip()
