"""``quorate up``: a whole platform on this machine, one process per member, on loopback.

Standard output carries some lines once all members serve, for scripts to wait for: ``ready``, then for each service its name and
addresses. Everything for people goes to standard error.
"""

import argparse
import json
import os
import sys

from quorate import __version__
from quorate.cli import logs
from quorate.cli.datafolder import HOST, PORTS_SPANNED, DataFolder
from quorate.cli.fourletter import fields
from quorate.cli.supervisor import ELECTING, Member, Probe, Supervisor
from quorate.errors import UsageError

_SERVICES = ("zookeeper", "kv", "registry")
_KV = frozenset(("kv", "registry"))
"""The names of what the members of the key-value store serve: its own protocol, and Consul's over HTTP."""
_STATUS = "GET /quorate/v1/status HTTP/1.0\r\n\r\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", metavar="DIR", default="./data", help="where everything is kept (default: ./data)"
    )
    parser.add_argument(
        "--port-base",
        metavar="N",
        type=int,
        help=f"first of {PORTS_SPANNED} ports to use (default: as before, or free ones)",
    )
    parser.add_argument(
        "--nodes", type=int, choices=(1, 3, 5), help="members of the ensemble (default: as before, or 3)"
    )
    parser.add_argument(
        "--services",
        metavar="NAME[,NAME]",
        default=",".join(_SERVICES),
        help="what to start (default: %(default)s; kv and registry are one)",
    )
    logs.add_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Start the platform and stay until SIGINT or SIGTERM; 0 then. Raises UsageError before anything is started."""
    services = arguments.services.split(",")
    for service in services:
        if service not in _SERVICES:
            raise UsageError(f"there is no service {service!r}; the services are: {', '.join(_SERVICES)}")
    base = arguments.port_base
    if base is not None and not 1 <= base <= 65536 - PORTS_SPANNED:
        raise UsageError(f"--port-base must be from 1 to {65536 - PORTS_SPANNED}, as {PORTS_SPANNED} ports follow it")
    folder = DataFolder(arguments.data_dir)
    for change in folder.choose_ports(arguments.nodes, base):
        sys.stderr.write(f"{change}\n")
    folder.write()
    numbers = range(1, len(folder.ports) + 1)
    members: list[Member] = []
    lines = ["ready"]
    if "zookeeper" in services:
        members += [_member(folder, number, arguments.log_level) for number in numbers]
        lines.append(f"zookeeper {','.join(f'{HOST}:{ports.client}' for ports in folder.ports)}")
    if not _KV.isdisjoint(services):
        members += [_kv_member(folder, number, arguments.log_level) for number in numbers]
        lines.append(f"kv {','.join(f'{HOST}:{ports.kv}' for ports in folder.ports)}")
        lines.append(f"registry {','.join(f'{HOST}:{ports.registry}' for ports in folder.ports)}")

    def ready() -> None:
        try:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # whoever waited is gone; the shutdown must not try to flush once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return Supervisor(f"quorate {__version__}, data in {folder.path}", members, folder.lock, ready).run()


def _member(folder: DataFolder, number: int, log_level: str) -> Member:
    ports = folder.ports[number - 1]
    where = folder.member(number)
    command = [
        sys.executable, "-m", "quorate", "zookeeper", os.path.join(where, "zoo.cfg"), "--log-level", log_level,
    ]  # fmt: skip
    admin = f"http://{HOST}:{ports.admin}/commands"
    address = (HOST, ports.client)
    probe = Probe(address, "srvr", lambda text: fields(text).get("Mode", ELECTING))
    return Member(f"zookeeper/{number}", address, probe, admin, command, os.path.join(where, "log"))


def _kv_member(folder: DataFolder, number: int, log_level: str) -> Member:
    ports = folder.ports[number - 1]
    where = folder.kv_member(number)
    command = [
        sys.executable, "-m", "quorate", "serve", os.path.join(where, "node.toml"), "--log-level", log_level,
    ]  # fmt: skip
    admin = f"http://{HOST}:{ports.registry}/quorate/v1/status"
    probe = Probe((HOST, ports.registry), _STATUS, _kv_role)
    return Member(f"kv/{number}", (HOST, ports.kv), probe, admin, command, os.path.join(where, "log"))


def _kv_role(text: str) -> str:
    """By the answer to _STATUS: a member serves once every group has a leader."""
    try:
        groups = json.loads(text.partition("\r\n\r\n")[2])["groups"]
        if all(group["leader"] for group in groups):
            return "leader" if any(group["leading"] for group in groups) else "follower"
    except (ValueError, KeyError, TypeError):
        return ELECTING
    return ELECTING
