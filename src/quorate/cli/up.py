"""``quorate up``: a whole platform on this machine, one process per member, on loopback.

Standard output carries two lines once all members serve, for scripts to wait for: ``ready``, then the service's name and
its addresses. Everything for people goes to standard error.
"""

import argparse
import os
import sys

from quorate import __version__
from quorate.cli import logs
from quorate.cli.datafolder import HOST, PORTS_SPANNED, DataFolder
from quorate.cli.supervisor import Member, Supervisor
from quorate.errors import UsageError

_SERVICES = ("zookeeper",)


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
        "--services", metavar="NAME[,NAME]", default="zookeeper", help="what to start (default and only one: zookeeper)"
    )
    logs.add_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Start the platform and stay until SIGINT or SIGTERM; 0 then. Raises UsageError before anything is started."""
    for service in arguments.services.split(","):
        if service not in _SERVICES:
            raise UsageError(f"there is no service {service!r}; the services are: {', '.join(_SERVICES)}")
    base = arguments.port_base
    if base is not None and not 1 <= base <= 65536 - PORTS_SPANNED:
        raise UsageError(f"--port-base must be from 1 to {65536 - PORTS_SPANNED}, as {PORTS_SPANNED} ports follow it")
    folder = DataFolder(arguments.data_dir)
    for change in folder.choose_ports(arguments.nodes, base):
        sys.stderr.write(f"{change}\n")
    folder.write()
    members = [_member(folder, number, arguments.log_level) for number in range(1, len(folder.ports) + 1)]
    addresses = ",".join(f"{HOST}:{ports.client}" for ports in folder.ports)

    def ready() -> None:
        try:
            sys.stdout.write(f"ready\nzookeeper {addresses}\n")
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
    return Member(f"zookeeper/{number}", (HOST, ports.client), admin, command, os.path.join(where, "log"))
