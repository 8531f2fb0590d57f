"""One member's configuration, as the file zoo.cfg of Apache ZooKeeper gives it (``zoocfg`` reads it).

Names carry what the file leaves unsaid: times are milliseconds unless they say ticks, sizes are bytes. Defaults are those
of Apache ZooKeeper 3.8 (QuorumPeerConfig.java and the properties that its server reads).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

WILDCARD = "0.0.0.0"
"""The host of an address that means every interface."""

# fmt: off
FOUR_LETTER_WORDS = frozenset((
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst", "srvr", "stat", "stmk",
    "wchc", "wchp", "wchs",
))
# fmt: on


class PeerType(StrEnum):
    """Whether a member votes. The values are the words of the file."""

    PARTICIPANT = "participant"
    OBSERVER = "observer"


class Address(NamedTuple):
    """A host (name or address, IPv6 without brackets) and a port. ``str()`` is the form of the file."""

    host: str
    port: int

    @property
    def bind_host(self) -> str:
        """The host to listen at: '' (every interface, IPv4 and IPv6, as Java takes a wildcard) or ``host``."""
        return "" if self.host in (WILDCARD, "::") else self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServerSpec(NamedTuple):
    """One ``server.N`` line. ``client`` is what stands after its semicolon, if anything does."""

    id: int
    quorum: Address
    election: Address
    peer_type: PeerType = PeerType.PARTICIPANT
    client: Address | None = None

    def __str__(self) -> str:
        text = f"{self.quorum}:{self.election.port}:{self.peer_type}"
        return text if self.client is None else f"{text};{self.client}"


class Warned(NamedTuple):
    """Something in the file that the user should know of; the member starts nevertheless."""

    message: str
    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}: {self.message}" if self.line is None else f"{self.file}:{self.line}: {self.message}"


_DEFAULT_ADMIN_ADDRESS = Address(WILDCARD, 8080)


@dataclass(slots=True)
class MemberConfig:
    """Everything one member is told. Times are milliseconds unless the name says ticks, sizes are bytes."""

    file: str
    data_dir: str = ""
    data_log_dir: str = ""
    """Folder of the transaction log; ``data_dir`` where the file does not say."""
    my_id: int = 1
    """From ``dataDir/myid``; without that file (standalone only) the only server's number, or 1."""

    tick_time: int = 3000
    init_limit_ticks: int = 0
    sync_limit_ticks: int = 0
    connect_to_leader_limit_ticks: int = 0
    """connectToLearnerMasterLimit; 0 = ``init_limit_ticks``, as in Apache."""
    servers: tuple[ServerSpec, ...] = ()
    """Every ``server.N``, by number; what a standalone member ignores."""
    config_version: int = 0
    """The version of the member list: from the dynamic file's name or the key ``version``."""
    peer_type: PeerType = PeerType.PARTICIPANT
    standalone_enabled: bool = True
    quorum_listen_on_all_ips: bool = False

    client_address: Address | None = None
    client_port_listen_backlog: int = -1
    """-1 = the operating system's."""
    max_client_connections: int = 60
    """Per address; <= 0 = no limit."""
    min_session_timeout: int = -1
    max_session_timeout: int = -1
    max_buffer: int = 0xFFFFF
    """jute.maxbuffer: the longest request."""
    global_outstanding_limit: int = 1000
    leader_serves: bool = True
    four_letter_words: frozenset[str] = frozenset(("srvr",))

    snap_count: int = 100_000
    snap_size_limit: int = 4_194_304 * 1024
    """Bytes of log after which a snapshot is taken; <= 0 = by ``snap_count`` alone."""
    preallocate: int = 65_536 * 1024
    """Bytes by which a log file grows."""
    purge_snapshots_kept: int = 3
    purge_interval: int = 0
    """0 = never purge."""
    commit_log_count: int = 500
    force_sync: bool = True
    fsync_warning_threshold: int = 1000
    digest_enabled: bool = True

    extended_types_enabled: bool = False
    enforce_quota: bool = False
    skip_acl: bool = False
    super_digest: str | None = None
    """``super:hash``, what a client must authenticate as to be above all access lists."""
    container_check_interval: int = 60_000

    admin_enabled: bool = True
    admin_address: Address = _DEFAULT_ADMIN_ADDRESS
    admin_command_url: str = "/commands"
    admin_idle_timeout: int = 30_000
    metrics_address: Address | None = None
    """Where Prometheus may scrape; None unless metricsProvider.className asks for it."""

    warnings: list[Warned] = field(default_factory=list)

    @property
    def participants(self) -> tuple[ServerSpec, ...]:
        return tuple([server for server in self.servers if server.peer_type is PeerType.PARTICIPANT])

    @property
    def standalone(self) -> bool:
        """Whether the member serves alone, without elections (QuorumPeerConfig.isDistributed, negated)."""
        count = len(self.participants)
        return count == 0 or (count == 1 and self.standalone_enabled)

    @property
    def myself(self) -> ServerSpec | None:
        """This member's line; None for a standalone member without one."""
        for server in self.servers:
            if server.id == self.my_id:
                return server
        return None

    def ensemble_text(self, version: int | None = None) -> str:
        """The member list as ``/zookeeper/config`` and NEWLEADER carry it (QuorumMaj.toString)."""
        lines = [f"server.{server.id}={server}" for server in self.servers]
        return "\n".join([*lines, f"version={self.config_version if version is None else version:x}"])
