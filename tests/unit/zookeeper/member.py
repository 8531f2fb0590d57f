"""A member of three with two clients, whose every value is known: what the reports on it are tested against."""

from collections.abc import Collection, Mapping, Sequence

from quorate.runtime.process import ProcessUsage
from quorate.zookeeper.constants import Op
from quorate.zookeeper.stats import ConnectionStats, ServerStats
from quorate.zookeeper.view import (
    ConnectionInfo,
    EnsembleMember,
    LearnerInfo,
    MemberConfig,
    MemberView,
    Phase,
    Role,
    WatchSummary,
    ZxidDigest,
)

MS = 1_000_000
FIRST = 0x100001B3ABA0000
SECOND = 0x100001B3ABA0001
WALL = 1795430512829  # 2026-11-23 10:41:52.829 UTC


def _first_connection() -> ConnectionStats:
    stats = ConnectionStats()
    stats.received = stats.sent = 11
    stats.record(Op.CREATE, 0x9, 4, 1818220 * MS, 11 * MS)
    stats.record(Op.GET_DATA, 0xA, 4, 1818227 * MS, 1 * MS, count=10)
    return stats


def _second_connection() -> ConnectionStats:
    stats = ConnectionStats()
    stats.received = 1
    return stats


class Member(MemberView):
    """Attributes may be changed by a test; methods give them back."""

    def __init__(self, role: Role = Role.LEADER, phase: Phase | None = Phase.BROADCAST) -> None:
        self._role = role
        self._phase = phase
        self._serving = True
        self._stats = ServerStats()
        self._stats.packets_received = 22
        self._stats.packets_sent = 21
        self._stats.record(1 * MS, update=False, count=8)
        self._stats.record(11 * MS, update=True)
        self._stats.proposal_size.record(91)
        self._stats.proposal_size.record(48)
        self._stats.ops[Op.CREATE2] = 3
        self._stats.ops[Op.CLOSE_SESSION] = 1
        self.trace_mask = 306
        self.connection_resets = 0
        self.observer_resets = 0
        self.shown_connections = [
            ConnectionInfo(("127.0.0.1", 39114), FIRST, 10000, WALL, 1822000, 0, True, _first_connection()),
            ConnectionInfo(("::1", 39130), 0, 0, WALL, 1812000, 2, False, _second_connection()),
        ]
        self.shown_digests = [ZxidDigest(0x100000080, 2, 1234567890123), ZxidDigest(0x100000100, 2, (1 << 64) - 5)]

    @property
    def serving(self) -> bool:
        return self._serving

    @property
    def role(self) -> Role:
        return self._role

    @property
    def phase(self) -> Phase | None:
        return self._phase

    def become(self, role: Role, phase: Phase | None, serving: bool = True) -> None:
        self._role, self._phase, self._serving = role, phase, serving

    @property
    def config(self) -> MemberConfig:
        return MemberConfig(
            server_id=0 if self._phase is None else 3,
            client_port=2181,
            secure_client_port=-1,
            data_dir="/data/version-2",
            data_log_dir="/log/version-2",
            tick_time=2000,
            max_client_cnxns=60,
            min_session_timeout=4000,
            max_session_timeout=40000,
            client_port_listen_backlog=-1,
            init_limit=10,
            sync_limit=5,
            observer=False,
            initial="tickTime=2000\n",
        )

    @property
    def stats(self) -> ServerStats:
        return self._stats

    def elapsed_ms(self) -> int:
        return 1818231

    def wall_ms(self) -> int:
        return WALL

    def uptime_ms(self) -> int:
        return 34007

    def environment(self) -> Sequence[tuple[str, str]]:
        return [("host.name", "one.example.org"), ("os.name", "Linux")]

    def system_properties(self) -> Mapping[str, str]:
        return {"zookeeper.tickTime": "2000", "zookeeper.admin.serverPort": "8080"}

    def process(self) -> ProcessUsage:
        return ProcessUsage(30 << 20, 200 << 20, 1.5, 1795430478.5, 41, 20000)

    def last_zxid(self) -> int:
        return 0x200000008

    def node_count(self) -> int:
        return 8

    def ephemerals_count(self) -> int:
        return 2

    def data_size(self) -> int:
        return 57

    def ephemerals(self) -> Mapping[int, Collection[str]]:
        return {SECOND: {"/b"}, FIRST: {"/a/z", "/a/e"}}

    def digests(self) -> Sequence[ZxidDigest]:
        return self.shown_digests

    def last_snapshot(self) -> tuple[int, int] | None:
        return 0x100000011, 1795430567

    def data_dir_size(self) -> int:
        return 1024

    def log_dir_size(self) -> int:
        return 67109337

    def watch_count(self) -> int:
        return 5

    def watch_summary(self) -> WatchSummary:
        return WatchSummary(2, 3, 4)

    def watches_by_session(self) -> Mapping[int, Collection[str]]:
        return {SECOND: {"/a"}, FIRST: {"/zzz", "/a/b", "/a"}}

    def watches_by_path(self) -> Mapping[str, Collection[int]]:
        return {"/zzz": {FIRST}, "/a/b": {FIRST}, "/a": {SECOND, FIRST}}

    def sessions(self) -> Mapping[int, int]:
        return {SECOND: 10000, FIRST: 4000}

    def session_expiries(self) -> Mapping[int, Collection[int]] | None:
        if self._role in (Role.LEADER, Role.STANDALONE):
            return {1830000: {SECOND, FIRST}, 1828000: set()}
        return None

    def connections(self) -> Sequence[ConnectionInfo]:
        return self.shown_connections

    def connection_count(self) -> int:
        return len(self.shown_connections)

    def outstanding_requests(self) -> int:
        return 2

    def reset_connection_stats(self) -> None:
        self.connection_resets += 1

    def ensemble(self) -> Sequence[EnsembleMember]:
        if self._phase is None:
            return []
        hosts = [("one", False), ("two", False), ("three", False), ("four", True)]
        return [
            EnsembleMember(sid, (host, 2888), (host, 3888), None if observer else (host, 2181), observer)
            for sid, (host, observer) in enumerate(hosts, 1)
        ]

    def membership(self) -> str:
        return "server.1=one:2888:3888:participant;one:2181\nversion=0"

    def leader(self) -> tuple[int, str] | None:
        return None if self._phase is None else (3, "three")

    def learners(self) -> Sequence[LearnerInfo]:
        return [
            LearnerInfo(1, ("10.0.0.1", 5001), False, True, WALL, 0, 0, 10, 11, 3, 8),
            LearnerInfo(2, ("10.0.0.2", 5002), False, False, WALL, 4, 400, 1, 2, 0, 7),
            LearnerInfo(4, ("10.0.0.4", 5004), True, True, WALL, 1, 90, 5, 6, 2, 8),
            LearnerInfo(9, ("10.0.0.9", 5009), False, True, WALL, 0, 0, 5, 6, 0, 8),
        ]

    def leader_uptime_ms(self) -> int:
        return 33000

    def pending_syncs(self) -> int:
        return 1

    def reset_observer_stats(self) -> None:
        self.observer_resets += 1
