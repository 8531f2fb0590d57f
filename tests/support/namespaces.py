"""Network namespaces: one per server, joined by a bridge that this process is on too. Needs root.

    with Network(3) as network:
        network.host(0), network.prefix(0)   # the address of server 0, and what puts a command into its namespace
        network.cut(0, [1, 2])               # servers 0 and 1, 0 and 2 no longer hear each other; clients hear all

A cut is silent, as a broken switch is: no reset, no "unreachable". Each side is made to send the other's frames to a
hardware address that nobody has.
"""

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType

import pytest
from tests.support.processes import why_no_namespaces

NOBODY = "02:00:00:00:00:fe"
_numbers = count()


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


class Network:
    """A bridge and ``size`` namespaces; raises OSError if the kernel refuses."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._id = f"{os.getpid() % 100000}x{next(_numbers)}"
        self._bridge = f"qb{self._id}"
        octet = os.getpid() * 7 + next(_numbers)
        self._subnet = f"10.{200 + octet % 50}.{octet // 50 % 250}"

    def _name(self, index: int) -> str:
        return f"qn{self._id}-{index}"

    def _link(self, index: int) -> str:
        return f"qv{self._id}-{index}"

    def host(self, index: int) -> str:
        return f"{self._subnet}.{index + 1}"

    def prefix(self, index: int) -> list[str]:
        return ["ip", "netns", "exec", self._name(index)]

    def __enter__(self) -> "Network":
        self.open()
        return self

    def open(self) -> None:
        """Make it all; raises OSError, with nothing left, if the kernel refuses."""
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("address", "add", f"{self._subnet}.254/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for index in range(self._size):
                name, link = self._name(index), self._link(index)
                _ip("netns", "add", name)
                _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
                _ip("link", "set", link, "master", self._bridge, "up")
                _ip("-n", name, "address", "add", f"{self.host(index)}/24", "dev", "eth0")
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything that was made; what is not there is passed over."""
        for index in range(self._size):
            for arguments in (["link", "delete", self._link(index)], ["netns", "delete", self._name(index)]):
                subprocess.run(["ip", *arguments], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)

    def cut(self, index: int, others: Iterable[int]) -> None:
        """Server ``index`` and each of ``others`` stop hearing each other."""
        for other in others:
            for one, two in ((index, other), (other, index)):
                to = self.host(two)
                _ip(
                    "-n",
                    self._name(one),
                    "neighbour",
                    "replace",
                    to,
                    "lladdr",
                    NOBODY,
                    "dev",
                    "eth0",
                    "nud",
                    "permanent",
                )

    def isolate(self, index: int) -> None:
        """Nobody, clients neither, hears server ``index`` any more."""
        _ip("link", "set", self._link(index), "nomaster")

    def heal(self) -> None:
        """Undo every cut."""
        for index in range(self._size):
            _ip("link", "set", self._link(index), "master", self._bridge)
            for other in range(self._size):
                if other != index:
                    arguments = ["-n", self._name(index), "neighbour", "delete", self.host(other), "dev", "eth0"]
                    subprocess.run(["ip", *arguments], capture_output=True, check=False)


@contextmanager
def network_or_skip(size: int) -> Iterator[Network]:
    """A network for the block's time; skips the test, with the reason, where there can be none."""
    network = Network(size)
    try:
        if reason := why_no_namespaces():
            pytest.skip(reason)
        try:
            network.open()
        except OSError as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        yield network
    finally:
        network.close()
