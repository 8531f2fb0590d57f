"""Hosts of a small service, over TCP and files, on one loop: the real thing but for the processes."""

import asyncio
import json
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path

from tests.support.processes import free_ports

from quorate.consensus.paxos.group import Limits
from quorate.consensus.paxos.host import PEER, Host, HostSettings
from quorate.consensus.paxos.members import Member
from quorate.consensus.paxos.settings import MILLISECOND
from quorate.consensus.replicated import Replica, Restorer
from quorate.errors import CorruptionError, QuorateError
from quorate.runtime.environment import Environment
from quorate.runtime.files import FileDisk
from quorate.runtime.network import AsyncioEnvironment


class Copy:
    """A snapshot that comes."""

    def __init__(self) -> None:
        self.data = b""
        self.values: list[str] = []

    def feed(self, piece: bytes) -> None:
        self.data += piece

    def finish(self) -> None:
        try:
            self.values = json.loads(self.data)
        except ValueError as error:
            raise CorruptionError("snapshot", 0, str(error)) from None


class Journalist:
    """A service that keeps what it is told, in order."""

    def __init__(self, env: Environment, replica: Replica) -> None:
        self.replica = replica
        self.values: list[str] = []
        self.reads: dict[Hashable, str] = {}
        self.roles: list[tuple[int, bool]] = []

    def apply(self, index: int, payload: bytes) -> None:
        self.values.append(payload.decode())

    def role_changed(self, leader: int, leading: bool) -> None:
        self.roles.append((leader, leading))

    def read_ready(self, key: Hashable) -> None:
        self.reads[key] = "ready"

    def read_failed(self, key: Hashable) -> None:
        self.reads[key] = "failed"

    def flush(self) -> None:
        """There is nobody to tell."""

    def snapshot(self) -> Iterator[bytes]:
        data = json.dumps(self.values).encode()
        return iter([data[at : at + 1000] for at in range(0, len(data), 1000)])

    def restorer(self) -> Copy:
        return Copy()

    def adopt(self, restorer: Restorer) -> None:
        assert isinstance(restorer, Copy)
        self.values = list(restorer.values)


class Hosts:
    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        groups: tuple[int, ...] = (1,),
        limits: Limits | None = None,
        segment: int = 64 << 10,
    ) -> None:
        self.folder = folder
        self.groups = groups
        self.limits = limits
        self.segment = segment
        self.ports = dict(enumerate(free_ports(size + 2), 1))
        self.members = tuple(self.member(sid) for sid in range(1, size + 1))
        self.hosts: dict[int, Host] = {}
        self.disks: dict[int, tuple[FileDisk, FileDisk]] = {}
        self.failures: list[str] = []
        self.env = AsyncioEnvironment(asyncio.get_running_loop())

    def member(self, sid: int) -> Member:
        return Member(sid, {PEER: f"127.0.0.1:{self.ports[sid]}"})

    def start(self, sid: int) -> Host:
        folder = self.folder / str(sid)
        folder.mkdir(exist_ok=True)
        disks = FileDisk(str(folder), self.env.loop), FileDisk(str(folder), self.env.loop)
        settings = HostSettings(
            sid,
            self.members,
            ("127.0.0.1", self.ports[sid]),
            groups=self.groups,
            heartbeat=20 * MILLISECOND,
            election_timeout=200 * MILLISECOND,
            limits=self.limits,
            segment=self.segment,
            preallocate=self.segment // 4,
        )
        host = Host(self.env, *disks, settings, Journalist, self.failures.append)
        self.hosts[sid], self.disks[sid] = host, disks
        host.start()
        return host

    def stop(self, sid: int) -> None:
        self.hosts.pop(sid).stop()
        for disk in self.disks.pop(sid):
            disk.close()

    def close(self) -> None:
        for sid in list(self.hosts):
            self.stop(sid)
        self.env.close()

    def service(self, sid: int, group: int = 1) -> Journalist:
        service = self.hosts[sid].groups[group].service
        assert isinstance(service, Journalist)
        return service

    async def until(self, condition: Callable[[], bool], patience: float = 20.0) -> None:
        async with asyncio.timeout(patience):
            while not condition():
                assert not self.failures, self.failures
                await asyncio.sleep(0.005)

    def leading(self, group: int = 1) -> int:
        return next((sid for sid, host in self.hosts.items() if host.groups[group].leading), 0)

    async def leader(self, group: int = 1) -> Host:
        await self.until(lambda: self.leading(group) != 0)
        return self.hosts[self.leading(group)]

    async def propose(self, *values: str, group: int = 1) -> None:
        """Until the leader has applied them; they are chosen once."""
        host = await self.leader(group)
        service = self.service(host.settings.sid, group)
        for value in values:
            host.groups[group].propose(value.encode())
        await self.until(lambda: not values or values[-1] in service.values)

    async def change(self, sid: int, wanted: bool, group: int = 1) -> QuorateError | None:
        host = await self.leader(group)
        told: list[QuorateError | None] = []
        if wanted:
            host.add_member(group, self.member(sid), 10_000 * MILLISECOND, told.append)
        else:
            host.remove_member(group, sid, 10_000 * MILLISECOND, told.append)
        await self.until(lambda: bool(told))
        return told[0]
