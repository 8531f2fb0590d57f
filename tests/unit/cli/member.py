"""A program that the supervisor takes for a member, and that misbehaves as it is told.

Usage: member.py PORT BEHAVIOUR. It answers any four-letter command as a leader would (as one
without a leader where it is told ``electing``), and logs the line ``serving``.
"""

import signal
import socket
import sys


def main() -> int:
    port, behaviour = int(sys.argv[1]), sys.argv[2]
    if behaviour == "mistaken":
        sys.stderr.write("member: the configuration is wrong\n")
        return 2
    if behaviour == "crashing":
        sys.stderr.write("member: it broke\n\n")
        return 1
    reply = (
        b"This ZooKeeper instance is not currently serving requests\n" if behaviour == "electing" else b"Mode: leader\n"
    )
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with socket.create_server(("127.0.0.1", port)) as listener:
        sys.stderr.write("serving\n")
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4)
                connection.sendall(reply)


sys.exit(main())
