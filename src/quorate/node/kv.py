"""One member of the key-value store as a process: its disks, its groups, and its ports for members, clients and HTTP."""

import logging
import os
from typing import Any

from quorate.consensus.paxos.group import Limits
from quorate.consensus.paxos.host import Host, HostSettings
from quorate.consensus.replicated import Replica
from quorate.errors import UsageError
from quorate.kv.admin import PREFIX, Administration
from quorate.kv.config import KvConfig
from quorate.kv.consul.backend import Backend
from quorate.kv.consul.router import ConsulRouter
from quorate.kv.forward import Forwarder
from quorate.kv.front import Front
from quorate.kv.metrics import PATH, Metrics
from quorate.kv.service import KvService
from quorate.runtime import loop
from quorate.runtime.environment import MILLISECOND, Environment, Listener
from quorate.runtime.files import FileDisk
from quorate.runtime.http import HttpServer, Pending, Request, Response, not_found
from quorate.runtime.network import AsyncioEnvironment

log = logging.getLogger(__name__)


def run(config: KvConfig) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises UsageError, StorageError, CorruptionError."""
    return loop.run(lambda env: KvProcess(env, config).stop)


class KvProcess:
    """Everything the process owns. Started by its construction."""

    def __init__(self, env: AsyncioEnvironment, config: KvConfig) -> None:
        self._env = env
        self._config = config
        self._listeners: list[Listener] = []
        self._disks: list[FileDisk] = []
        self.front = Front(env, self._describe)
        self.forwarder = Forwarder(env, self._client_addresses)
        self.host: Host | None = None
        try:
            self._start()
        except BaseException:
            self.stop(lambda: None)
            raise

    def _start(self) -> None:
        env, config = self._env, self._config
        try:
            os.makedirs(config.data_dir, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{config.file}: node.data_dir: {config.data_dir}: {(error.strerror or '').lower()}"
            ) from None
        # two on one folder, so that snapshots do not delay the journal
        self._disks = [FileDisk(config.data_dir, env.loop), FileDisk(config.data_dir, env.loop)]
        self._disks[0].lock()
        self.host = Host(env, self._disks[0], self._disks[1], host_settings(config), self._service, self._fail)
        self.front.serve([self._service_of(group) for group in self.host.groups])
        self.host.start()
        administration = Administration(self.host)
        metrics = Metrics(self.host, self.front, self._disks[0].syncs)
        consul = ConsulRouter(Backend(env, self.front, self.forwarder, f"node-{config.sid}"))

        def route(request: Request) -> Response | Pending:
            if request.path.startswith(PREFIX):
                return administration(request)
            if request.path == PATH:
                return metrics(request)
            return consul(request) if request.path.startswith("/v1/") else not_found()

        self._listeners.append(env.listen(*config.address("client"), self.front.accept))
        self._listeners.append(env.listen(*config.address("http"), HttpServer(env, route).accept))

    def _service(self, env: Environment, replica: Replica) -> KvService:
        shards = self._config.shards
        number = replica.group - 1
        end = shards[number + 1] if number + 1 < len(shards) else b""
        return KvService(env, replica, shards[number], end, self._config.history, self.front.flush)

    def _service_of(self, group: int) -> KvService:
        assert self.host is not None
        service = self.host.groups[group].service
        assert isinstance(service, KvService)
        return service

    def _describe(self) -> dict[str, Any]:
        assert self.host is not None
        members = self.host.groups[1].peer.members
        return {"id": self._config.sid, "members": [{"id": member.sid, **member.addresses} for member in members]}

    def _client_addresses(self) -> dict[int, str]:
        assert self.host is not None
        members = self.host.groups[1].peer.members
        return {member.sid: member.addresses["client"] for member in members if "client" in member.addresses}

    def _fail(self, reason: str) -> None:
        log.error("%s", reason)
        self._env.end(1)

    def stop(self, stopped: Any) -> None:
        for listener in self._listeners:
            listener.close()
        if self.host is not None:
            self.host.stop()
            self.front.close()
            self.forwarder.close()
            for group in self.host.groups:
                self._service_of(group).stop()
        for disk in self._disks:
            disk.close()
        stopped()


def host_settings(config: KvConfig) -> HostSettings:
    members = config.members
    if config.join:
        members = tuple(member for member in members if member.sid != config.sid)
    return HostSettings(
        config.sid,
        members,
        config.address("peer"),
        cluster=config.cluster,
        groups=range(1, len(config.shards) + 1),
        accept_quorum=config.accept_quorum,
        heartbeat=config.heartbeat_ms * MILLISECOND,
        election_timeout=config.election_timeout_ms * MILLISECOND,
        lease=config.lease_ms * MILLISECOND,
        clock_error=config.clock_error_ppm,
        limits=Limits(snapshot_bytes=config.snapshot_mib << 20),
        folder=config.data_dir,
    )
