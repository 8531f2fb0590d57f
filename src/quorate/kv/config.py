"""The ``[node]`` and ``[kv]`` tables of a deployment's file (TOML), for ``quorate serve``.

    [node]
    id = 1                          # this member's number
    data_dir = "data/1"             # relative to the file

    [kv]
    cluster = "orders"              # members of another one are refused
    shards = ["", "m"]              # the first key of each range; one group of members carries each

    [[kv.members]]                  # all that the cluster begins with, this one among them
    id = 1
    peer = "10.0.0.1:7001"          # where the other members reach it
    client = "10.0.0.1:7002"        # where clients of the store do
    http = "10.0.0.1:8500"          # Consul's API, and the cluster's administration

    [kv.listen]                     # where this member listens, if elsewhere than where the others reach it
    client = "0.0.0.0:7002"

A member that is to be added to a running cluster has ``join = true`` in ``[kv]``.
"""

import os
from collections.abc import Mapping

from quorate import toml
from quorate.consensus.paxos.members import Member, Members
from quorate.errors import ConfigError
from quorate.kv.commands import RESERVED
from quorate.toml import Table

ADDRESSES = ("peer", "client", "http")
SHARDS_MAX = 64
_MS = 1_000_000


class KvConfig:
    """Times are milliseconds, ``clock_error`` millionths."""

    __slots__ = (
        "accept_quorum",
        "clock_error_ppm",
        "cluster",
        "data_dir",
        "election_timeout_ms",
        "file",
        "heartbeat_ms",
        "history",
        "join",
        "lease_ms",
        "listen",
        "members",
        "shards",
        "sid",
        "snapshot_mib",
    )

    def __init__(
        self,
        file: str,
        sid: int,
        data_dir: str,
        members: Members,
        *,
        cluster: str = "quorate",
        shards: tuple[bytes, ...] = (b"",),
        join: bool = False,
        accept_quorum: int = 0,
        heartbeat_ms: int = 50,
        election_timeout_ms: int = 500,
        lease_ms: int = 0,
        clock_error_ppm: int = 1000,
        snapshot_mib: int = 64,
        history: int = 10_000,
        listen: Mapping[str, str] | None = None,
    ) -> None:
        """``history``: so many revisions are kept for reads of the past and watches."""
        self.file = file
        self.sid = sid
        self.data_dir = data_dir
        self.members = members
        self.cluster = cluster
        self.shards = shards
        self.join = join
        self.accept_quorum = accept_quorum
        self.heartbeat_ms = heartbeat_ms
        self.election_timeout_ms = election_timeout_ms
        self.lease_ms = lease_ms
        self.clock_error_ppm = clock_error_ppm
        self.snapshot_mib = snapshot_mib
        self.history = history
        self.listen = dict(listen or {})

    @property
    def myself(self) -> Member:
        return next(member for member in self.members if member.sid == self.sid)

    def address(self, name: str) -> tuple[str, int]:
        """Where this member listens for what ``name`` says."""
        return split(self.listen.get(name) or self.myself.addresses[name])


def split(address: str) -> tuple[str, int]:
    """The host and the port of what ``load`` has checked."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def load(file: str) -> KvConfig:
    """Raises ConfigError, which names the file and the key."""
    top = toml.read(file)
    node, kv = top.table("node"), top.table("kv")
    top.nothing_else()
    sid = node.number("id", 1, 0xFFFF)
    data_dir = os.path.join(os.path.dirname(os.path.abspath(file)), node.text("data_dir"))
    node.nothing_else()
    members = tuple(sorted((_member(table) for table in kv.tables("members")), key=lambda member: member.sid))
    sids = [member.sid for member in members]
    if len(set(sids)) != len(sids):
        raise ConfigError(f"kv.members: two members have one id, of {sids}", file)
    if sid not in sids:
        raise ConfigError(f"node.id: {sid} is none of kv.members, which are {sids}", file)
    shards = _shards(kv)
    accept_quorum = kv.number("accept_quorum", 0, len(sids), 0)
    heartbeat = kv.number("heartbeat_ms", 1, 60_000, 50)
    election = kv.number("election_timeout_ms", 10, 600_000, 500)
    if election < 3 * heartbeat:
        raise ConfigError(
            f"kv.election_timeout_ms: {election} is too short for a heartbeat every {heartbeat} ms, expected at least 3 times that",
            file,
        )
    config = KvConfig(
        file,
        sid,
        data_dir,
        members,
        cluster=kv.text("cluster", "quorate"),
        shards=shards,
        join=kv.truth("join", False),
        accept_quorum=accept_quorum,
        heartbeat_ms=heartbeat,
        election_timeout_ms=election,
        lease_ms=kv.number("lease_ms", 0, election, 0),
        clock_error_ppm=kv.number("clock_error_ppm", 0, 500_000, 1000),
        snapshot_mib=kv.number("snapshot_mib", 1, 1 << 16, 64),
        history=kv.number("history", 0, 1 << 40, 10_000),
        listen=_listen(kv),
    )
    kv.nothing_else()
    return config


def _member(table: Table) -> Member:
    sid = table.number("id", 1, 0xFFFF)
    addresses = {name: table.address(name) for name in ADDRESSES}
    table.nothing_else()
    return Member(sid, addresses)


def _listen(kv: Table) -> dict[str, str]:
    if not kv.has("listen"):
        return {}
    table = kv.table("listen")
    found = {name: table.address(name) for name in ADDRESSES if table.has(name)}
    table.nothing_else()
    return found


def _shards(kv: Table) -> tuple[bytes, ...]:
    shards = tuple(text.encode() for text in kv.texts("shards", [""]))
    if not 1 <= len(shards) <= SHARDS_MAX or shards[0] != b"" or list(shards) != sorted(set(shards)):
        raise ConfigError(
            f"kv.shards: expected 1 to {SHARDS_MAX} keys in ascending order, the first of them empty, found {[s.decode() for s in shards]}",
            kv.file,
        )
    for shard in shards:
        if shard.startswith(RESERVED) and shard != RESERVED:
            # a decision, the horizon that it is compared with, and what is amended with it are of one commit
            raise ConfigError(
                f"kv.shards: {shard.decode()!r} would part the decisions of transactions, which begin with {RESERVED.decode()!r}",
                kv.file,
            )
    return shards
