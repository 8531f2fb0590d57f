"""Ensembles for tests: members of ours, of Apache's, or both, on free ports.

    with Ensemble(["quorate"] * 3, tmp_path) as ensemble:
        client = KazooClient(ensemble.addresses)

A kind is "quorate" or "apache"; one member makes a standalone server.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest
from tests.support.processes import (
    ServerProcess,
    apache_command,
    four_letter_word,
    free_ports,
    quorate_command,
    wait_until,
    why_no_apache,
)
from tests.support.raw import OF_APACHES

OURS = "quorate"
THEIRS = "apache"

START_SECONDS = {OURS: 15.0, THEIRS: 60.0}

SETTINGS = {"tickTime": "2000", "initLimit": "10", "syncLimit": "5", "4lw.commands.whitelist": "*"}


class Member:
    """One member: its process, folder and ports."""

    def __init__(self, ensemble: "Ensemble", sid: int, kind: str, host: str, prefix: list[str] | None) -> None:
        self.sid = sid
        self.kind = kind
        self.host = host
        self.folder = ensemble.folder / str(sid)
        self.folder.mkdir(parents=True)
        self.config = ensemble.folder / f"{sid}.cfg"
        self.client_port, self.quorum_port, self.election_port = free_ports(3)
        self.process = ServerProcess(ensemble.command(kind, self.config), ensemble.folder / f"{sid}.log", prefix)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.client_port}"

    def configure(self, settings: dict[str, str]) -> None:
        lines = [f"{key}={value}" for key, value in settings.items()]
        self.config.write_text("\n".join([f"dataDir={self.folder}", f"clientPort={self.client_port}", *lines, ""]))
        (self.folder / "myid").write_text(f"{self.sid}\n")

    def start(self) -> None:
        (OF_APACHES.add if self.kind == THEIRS else OF_APACHES.discard)(self.client_port)
        self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> int:
        return self.process.stop()

    def pause(self) -> None:
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Empty the data folder of a member that does not run, but for myid."""
        assert not self.process.alive
        shutil.rmtree(self.folder / "version-2", ignore_errors=True)

    def srvr(self) -> dict[str, str]:
        """The fields of the srvr command; empty while it does not serve."""
        lines = four_letter_word(self.host, self.client_port, "srvr").splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    @property
    def mode(self) -> str:
        """leader, follower, observer, standalone; empty while it does not serve."""
        return self.srvr().get("Mode", "")

    @property
    def zxid(self) -> int:
        return int(self.srvr().get("Zxid", "0x0"), 16)

    def wait_serving(self) -> None:
        """Raises AssertionError if the process ends (with the end of its log) or does not serve in time."""

        def look() -> bool:
            if not self.process.alive:
                raise AssertionError(f"member {self.sid} ({self.kind}) ended:\n{self.process.output()[-2000:]}")
            return bool(self.mode)

        wait_until(look, START_SECONDS[self.kind], f"member {self.sid} ({self.kind}) serves")


class Ensemble:
    """Members 1 to n. ``settings`` are further lines of every zoo.cfg; ``observers`` the sids that do not vote.

    ``properties`` are Java properties of Apache's members. ``hosts`` and ``prefixes``, one per member, put members into
    network namespaces.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        folder: Path,
        settings: dict[str, str] | None = None,
        observers: Sequence[int] = (),
        properties: dict[str, str] | None = None,
        hosts: Sequence[str] = (),
        prefixes: Sequence[list[str]] = (),
        java_heap: str = "-Xmx256m",
    ) -> None:
        if THEIRS in kinds and (reason := why_no_apache()):
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self.folder = folder
        self.properties = properties or {}
        self.java_heap = java_heap
        self.members = [
            Member(
                self,
                index + 1,
                kind,
                hosts[index] if hosts else "127.0.0.1",
                prefixes[index] if prefixes else None,
            )
            for index, kind in enumerate(kinds)
        ]
        servers: dict[str, str] = {}
        if len(self.members) > 1:
            for member in self.members:
                role = "observer" if member.sid in observers else "participant"
                servers[f"server.{member.sid}"] = f"{member.host}:{member.quorum_port}:{member.election_port}:{role}"
        for member in self.members:
            peer = {"peerType": "observer"} if member.sid in observers else {}
            admin = {"admin.enableServer": "false"}
            member.configure({**SETTINGS, **admin, **(settings or {}), **servers, **peer})

    def command(self, kind: str, config: Path) -> list[str]:
        return quorate_command(config) if kind == OURS else apache_command(config, self.properties, self.java_heap)

    def replace(self, member: Member, kind: str) -> None:
        """Let a server of another kind take a stopped member's place: same configuration file, same data folder."""
        assert not member.process.alive
        member.kind = kind
        member.process = ServerProcess(self.command(kind, member.config), member.process.log)

    def __enter__(self) -> "Ensemble":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start every member that does not run and wait until all serve."""
        try:
            for member in self.members:
                if not member.process.alive:
                    member.start()
            for member in self.members:
                member.wait_serving()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for member in self.members:
            member.resume()
            member.process.signal(signal.SIGTERM)
        for member in self.members:
            member.stop()

    def member(self, sid: int) -> Member:
        return self.members[sid - 1]

    @property
    def addresses(self) -> str:
        """All client addresses, as clients take them."""
        return ",".join(member.address for member in self.members)

    def leader(self) -> Member:
        """The member that leads; waits for one."""
        found: list[Member] = []

        def look() -> bool:
            found[:] = [member for member in self.members if member.process.alive and member.mode == "leader"]
            return bool(found)

        wait_until(look, 60, "a leader")
        return found[0]

    def wait_converged(self, seconds: float = 30) -> None:
        """Wait until all running members serve and have applied the same last zxid."""
        wait_until(
            lambda: (
                len({member.zxid if member.mode else -member.sid for member in self.members if member.process.alive})
                == 1
            ),
            seconds,
            "all members have the same last zxid",
        )
