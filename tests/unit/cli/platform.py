"""A program that supervises members of ``member.py``: platform.py DIR STOP_SECONDS PORT=BEHAVIOUR…"""

import os
import sys
from pathlib import Path

from quorate.cli.fourletter import fields
from quorate.cli.supervisor import ELECTING, Member, Probe, Supervisor
from quorate.errors import QuorateError


def main() -> int:
    folder, stop_seconds, *wanted = sys.argv[1:]
    members = []
    for index, text in enumerate(wanted, 1):
        port, behaviour = text.split("=")
        command = [sys.executable, str(Path(__file__).with_name("member.py")), port, behaviour]
        address = ("127.0.0.1", int(port))
        probe = Probe(address, "srvr", lambda text: fields(text).get("Mode", ELECTING))
        members.append(Member(f"member/{index}", address, probe, "-", command, f"{folder}/{index}.log"))
    lock = os.open(folder, os.O_RDONLY)

    def ready() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    try:
        return Supervisor("a test", members, lock, ready, float(stop_seconds)).run()
    except QuorateError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


sys.exit(main())
