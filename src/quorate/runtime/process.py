"""What the operating system says of this process and its host (procfs(5), getrusage(2)).

Linux tells everything; elsewhere what cannot be had is -1. Read when somebody asks for metrics, never on a hot path.
"""

import getpass
import os
import platform
import resource
import socket
from typing import NamedTuple

_MIB = 1 << 20


class ProcessUsage(NamedTuple):
    """-1 where the system does not say. Bytes and seconds."""

    resident_bytes: int
    virtual_bytes: int
    cpu_seconds: float
    started: float
    """Seconds since the epoch."""
    open_files: int
    max_files: int


def usage() -> ProcessUsage:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resident, virtual = _memory()
    return ProcessUsage(
        resident_bytes=resident,
        virtual_bytes=virtual,
        cpu_seconds=spent.ru_utime + spent.ru_stime,
        started=_started(),
        open_files=_open_files(),
        max_files=-1 if limit == resource.RLIM_INFINITY else limit,
    )


def host_environment() -> list[tuple[str, str]]:
    """The host and the user, under the names that Java's system properties have for them."""
    system = platform.uname()
    resident, _ = _memory()
    memory = _host_memory()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not be in the password file
        user = str(os.getuid())
    return [
        ("host.name", socket.gethostname()),
        ("os.name", system.system),
        ("os.arch", system.machine),
        ("os.version", system.release),
        ("user.name", user),
        ("user.home", os.path.expanduser("~")),
        ("user.dir", os.getcwd()),
        ("os.memory.free", f"{memory.get('MemAvailable', -_MIB) // _MIB}MB"),
        ("os.memory.max", f"{memory.get('MemTotal', -_MIB) // _MIB}MB"),
        ("os.memory.total", f"{resident // _MIB}MB"),
        ("python.version", platform.python_version()),
        ("python.implementation", platform.python_implementation()),
    ]


def _memory() -> tuple[int, int]:
    """Resident and virtual bytes."""
    try:
        with open("/proc/self/statm") as file:
            virtual, resident = file.read().split()[:2]
    except OSError:
        return -1, -1
    page = resource.getpagesize()
    return int(resident) * page, int(virtual) * page


def _started() -> float:
    try:
        with open("/proc/self/stat") as file:
            # the command's name, in brackets, may hold blanks; the start time is the 20th field after it
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/stat") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    except (OSError, StopIteration):
        return -1.0
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _open_files() -> int:
    try:
        # the listing itself holds one open
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return -1


def _host_memory() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    found: dict[str, int] = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                name, _, rest = line.partition(":")
                words = rest.split()
                found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    except OSError:
        return {}
    return found
