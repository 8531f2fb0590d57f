"""What a member shows of itself: the interface between the server and everything that reports on it.

The server implements :class:`MemberView`; the four-letter words, the admin server's commands and the metrics read it.
Calls are made when somebody asks, so the server keeps nothing for them: a method may take time in proportion to what it
returns. Of a member that is not ``serving``, only what the protocol says is asked.

Times are milliseconds: ``elapsed`` ones on the environment's clock, ``wall`` ones since the Unix epoch.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from quorate import __version__
from quorate.runtime.process import ProcessUsage
from quorate.zookeeper.stats import ConnectionStats, ServerStats

# Clients read this: kazoo the digits, go-zookeeper the whole line, with a date in the order of ZooKeeper 3.4 to 3.6.
VERSION = f"3.8.0-quorate-{__version__}, built on 11/23/2026 00:00 UTC"
"""The version we answer with: the ZooKeeper release we stand in for, then our own."""


class Role(StrEnum):
    """What a member is, by the names the Mode line shows."""

    LEADER = "leader"
    FOLLOWER = "follower"
    OBSERVER = "observer"
    STANDALONE = "standalone"
    READ_ONLY = "read-only"
    LOOKING = "looking"


class Phase(StrEnum):
    """How far a member of an ensemble is in Zab (QuorumPeer.ZabState)."""

    ELECTION = "election"
    DISCOVERY = "discovery"
    SYNCHRONIZATION = "synchronization"
    BROADCAST = "broadcast"


class ConnectionInfo(NamedTuple):
    """One client connection."""

    address: tuple[str, int]
    session: int
    """0 before the handshake, and for the connection of a four-letter word."""
    timeout: int
    """Of the session, ms."""
    established: int
    """Wall ms."""
    expires: int
    """Elapsed ms: when it is dropped if nothing more comes."""
    queued: int
    """Requests received and not answered."""
    reading: bool
    """False while reading is paused."""
    stats: ConnectionStats


class LearnerInfo(NamedTuple):
    """One learner of a leader."""

    sid: int
    address: tuple[str, int]
    observer: bool
    synced: bool
    """It has acknowledged NEWLEADER, and is told what is committed."""
    established: int
    """Wall ms."""
    queued_packets: int
    queued_bytes: int
    packets_received: int
    packets_sent: int
    requests: int
    """Requests it has forwarded."""
    last_zxid: int


class EnsembleMember(NamedTuple):
    """One server of the configuration; addresses are (host, port), ``client`` is None if the configuration has none."""

    sid: int
    quorum: tuple[str, int]
    election: tuple[str, int]
    client: tuple[str, int] | None
    observer: bool


class MemberConfig(NamedTuple):
    """The settings in force, as the conf command shows them. Ports are -1 for none, times ms, limits ticks."""

    server_id: int
    client_port: int
    secure_client_port: int
    data_dir: str
    """Where snapshots are: dataDir/version-2."""
    data_log_dir: str
    tick_time: int
    max_client_cnxns: int
    min_session_timeout: int
    max_session_timeout: int
    client_port_listen_backlog: int
    init_limit: int
    sync_limit: int
    observer: bool
    initial: str
    """The text of the configuration file."""


class WatchSummary(NamedTuple):
    connections: int
    paths: int
    watches: int


class ZxidDigest(NamedTuple):
    """The tree's digest after the transaction ``zxid``."""

    zxid: int
    version: int
    digest: int


class MemberView(Protocol):
    """One member, read only but for the resets and the trace mask."""

    # ---- always answered

    @property
    def serving(self) -> bool:
        """Whether clients are served now; False while looking for a leader."""

    @property
    def role(self) -> Role: ...

    @property
    def phase(self) -> Phase | None:
        """None for a standalone server."""

    @property
    def config(self) -> MemberConfig: ...

    @property
    def stats(self) -> ServerStats: ...

    trace_mask: int
    """Set and told for the sake of gtmk and stmk (306 at first, as Apache); it changes nothing."""

    def elapsed_ms(self) -> int: ...

    def wall_ms(self) -> int: ...

    def uptime_ms(self) -> int:
        """Since the process began to serve."""

    def environment(self) -> Sequence[tuple[str, str]]:
        """Names and values for envi, without zookeeper.version."""

    def system_properties(self) -> Mapping[str, str]:
        """The settings as Java properties would have them: zookeeper.<key> from the configuration file."""

    def process(self) -> ProcessUsage: ...

    # ---- the tree

    def last_zxid(self) -> int:
        """Of the last transaction applied."""

    def node_count(self) -> int: ...

    def ephemerals_count(self) -> int: ...

    def data_size(self) -> int:
        """Approximate bytes of paths and data."""

    def ephemerals(self) -> Mapping[int, Collection[str]]:
        """Session to its nodes, for sessions that have any."""

    def digests(self) -> Sequence[ZxidDigest]:
        """The digest log, oldest first."""

    def last_snapshot(self) -> tuple[int, int] | None:
        """Its zxid and when it was written (seconds since the epoch); None if there is none."""

    def data_dir_size(self) -> int:
        """Bytes of all snapshots."""

    def log_dir_size(self) -> int:
        """Bytes of all transaction logs."""

    # ---- watches

    def watch_count(self) -> int:
        """All watches of all kinds."""

    def watch_summary(self) -> WatchSummary:
        """Of data watches (getData, exists and persistent ones), as Apache's reports are."""

    def watches_by_session(self) -> Mapping[int, Collection[str]]:
        """Data watches: session to paths."""

    def watches_by_path(self) -> Mapping[str, Collection[int]]:
        """Data watches: path to sessions."""

    # ---- sessions and connections

    def sessions(self) -> Mapping[int, int]:
        """All sessions of the ensemble: id to timeout in ms."""

    def session_expiries(self) -> Mapping[int, Collection[int]] | None:
        """Elapsed ms to the sessions that expire then; None on a learner, whose leader keeps them."""

    def connections(self) -> Sequence[ConnectionInfo]: ...

    def connection_count(self) -> int: ...

    def outstanding_requests(self) -> int: ...

    def reset_connection_stats(self) -> None: ...

    # ---- the ensemble

    def ensemble(self) -> Sequence[EnsembleMember]:
        """Ascending by sid; empty for a standalone server."""

    def membership(self) -> str:
        """The configuration as it is exchanged between servers: server.N=... lines and version=<hex>, no final newline."""

    def leader(self) -> tuple[int, str] | None:
        """The leader's sid and host; None if there is none or the server is standalone."""

    # ---- asked of a leader only

    def learners(self) -> Sequence[LearnerInfo]:
        """Ascending by sid."""

    def leader_uptime_ms(self) -> int: ...

    def pending_syncs(self) -> int: ...

    def reset_observer_stats(self) -> None: ...
