"""A member as reports see it: the :class:`quorate.zookeeper.view.MemberView` of a running :class:`Member`."""

from collections.abc import Collection, Mapping, Sequence

from quorate.consensus.zab.leader import Phase as LearnerPhase
from quorate.consensus.zab.learner import Phase as SyncPhase
from quorate.consensus.zab.messages import State, first_zxid
from quorate.runtime.environment import MILLISECOND
from quorate.runtime.process import ProcessUsage, host_environment, usage
from quorate.zookeeper import view
from quorate.zookeeper.config import MemberConfig, PeerType
from quorate.zookeeper.digest import DIGEST_VERSION
from quorate.zookeeper.member import Member
from quorate.zookeeper.stats import ServerStats
from quorate.zookeeper.view import ConnectionInfo, EnsembleMember, LearnerInfo, Phase, Role, WatchSummary, ZxidDigest


class MemberReport:
    """Implements MemberView."""

    def __init__(self, config: MemberConfig, initial: str, properties: Mapping[str, str]) -> None:
        """``initial``: the text of the configuration file; ``properties``: its keys as Java properties."""
        self.trace_mask = 306
        self._member: Member | None = None
        self._file = config
        self._initial = initial
        self._properties = properties

    def attach(self, member: Member) -> None:
        """The member exists now; nothing may be asked before."""
        self._member = member

    @property
    def member(self) -> Member:
        assert self._member is not None
        return self._member

    # ---- always answered

    @property
    def serving(self) -> bool:
        return self._member is not None and self._member.server.serving

    @property
    def role(self) -> Role:
        member = self.member
        if member.peer is None:
            return Role.STANDALONE
        if not member.server.serving:
            return Role.LOOKING
        return {State.LEADING: Role.LEADER, State.FOLLOWING: Role.FOLLOWER, State.OBSERVING: Role.OBSERVER}[
            member.role.state
        ]

    @property
    def phase(self) -> Phase | None:
        peer = self.member.peer
        if peer is None:
            return None
        if self.member.server.serving:
            return Phase.BROADCAST
        if peer.learner is not None:
            return Phase.DISCOVERY if peer.learner.phase < SyncPhase.SYNC_START else Phase.SYNCHRONIZATION
        if peer.leader is not None:
            return Phase.DISCOVERY if peer.leader.epoch < 0 else Phase.SYNCHRONIZATION
        return Phase.ELECTION

    @property
    def config(self) -> view.MemberConfig:
        config = self._file
        return view.MemberConfig(
            server_id=config.my_id,
            client_port=-1 if config.client_address is None else config.client_address.port,
            secure_client_port=-1,
            data_dir=f"{config.data_dir}/version-2",
            data_log_dir=f"{config.data_log_dir}/version-2",
            tick_time=config.tick_time,
            max_client_cnxns=config.max_client_connections,
            min_session_timeout=config.min_session_timeout,
            max_session_timeout=config.max_session_timeout,
            client_port_listen_backlog=config.client_port_listen_backlog,
            init_limit=config.init_limit_ticks,
            sync_limit=config.sync_limit_ticks,
            observer=config.peer_type is PeerType.OBSERVER,
            initial=self._initial,
        )

    @property
    def stats(self) -> ServerStats:
        return self.member.server.stats

    def elapsed_ms(self) -> int:
        return self.member.env.now() // MILLISECOND

    def wall_ms(self) -> int:
        return self.member.env.wall_ms()

    def uptime_ms(self) -> int:
        return (self.member.env.now() - self.member.started) // MILLISECOND

    def environment(self) -> Sequence[tuple[str, str]]:
        return host_environment()

    def system_properties(self) -> Mapping[str, str]:
        return self._properties

    def process(self) -> ProcessUsage:
        return usage()

    # ---- the tree

    def last_zxid(self) -> int:
        """In an epoch without transactions its zero, as an Apache leader shows it."""
        member = self.member
        applied = member.server.tree.last_zxid
        return (
            max(applied, first_zxid(member.role.epoch)) if member.peer is not None and member.role.serving else applied
        )

    def node_count(self) -> int:
        return self.member.server.tree.node_count

    def ephemerals_count(self) -> int:
        return self.member.server.tree.ephemeral_count

    def data_size(self) -> int:
        return self.member.server.tree.approximate_data_size()

    def ephemerals(self) -> Mapping[int, Collection[str]]:
        return {
            session: sorted(paths) for session, paths in sorted(self.member.server.tree.ephemerals.items()) if paths
        }

    def digests(self) -> Sequence[ZxidDigest]:
        return [ZxidDigest(zxid, DIGEST_VERSION, digest) for zxid, digest in self.member.server.tree.digest_log]

    def last_snapshot(self) -> tuple[int, int] | None:
        return self.member.last_snapshot

    def data_dir_size(self) -> int:
        return self.member.store.data_size()

    def log_dir_size(self) -> int:
        return self.member.store.log_size()

    # ---- watches

    def watch_count(self) -> int:
        return self.member.server.tree.watches.count()

    def watch_summary(self) -> WatchSummary:
        return WatchSummary(*self.member.server.tree.watches.summary())

    def watches_by_session(self) -> Mapping[int, Collection[str]]:
        return self.member.server.tree.watches.by_session()

    def watches_by_path(self) -> Mapping[str, Collection[int]]:
        return self.member.server.tree.watches.by_path()

    # ---- sessions and connections

    def sessions(self) -> Mapping[int, int]:
        return self.member.server.tree.sessions

    def session_expiries(self) -> Mapping[int, Collection[int]] | None:
        tracker = self.member.server.tracker
        if tracker is None:
            return None
        return {expiry // MILLISECOND: sessions for expiry, sessions in tracker.expiries().items()}

    def connections(self) -> Sequence[ConnectionInfo]:
        return [
            ConnectionInfo(
                address=connection.address,
                session=connection.session,
                timeout=connection.timeout,
                established=connection.established_ms,
                expires=connection.last_heard // MILLISECOND + connection.timeout,
                queued=len(connection.pending),
                reading=connection.reading,
                stats=connection.stats,
            )
            for connection in self.member.server.connections
        ]

    def connection_count(self) -> int:
        return len(self.member.server.connections)

    def outstanding_requests(self) -> int:
        return self.member.server.outstanding

    def reset_connection_stats(self) -> None:
        for connection in self.member.server.connections:
            connection.stats.reset()

    # ---- the ensemble

    def ensemble(self) -> Sequence[EnsembleMember]:
        if self.member.peer is None:
            return []
        return [
            EnsembleMember(
                sid=server.id,
                quorum=server.quorum,
                election=server.election,
                client=server.client,
                observer=server.peer_type is PeerType.OBSERVER,
            )
            for server in sorted(self._file.servers, key=lambda server: server.id)
        ]

    def membership(self) -> str:
        return self._file.ensemble_text()

    def leader(self) -> tuple[int, str] | None:
        member = self.member
        if member.peer is None or not member.server.serving:
            return None
        sid = member.role.leader
        host = next((server.quorum.host for server in self._file.servers if server.id == sid), "")
        return sid, host

    # ---- asked of a leader only

    def learners(self) -> Sequence[LearnerInfo]:
        member = self.member
        leader = None if member.peer is None else member.peer.leader
        if leader is None:
            return []
        found: list[LearnerInfo] = []
        for learner in leader.learners.values():
            link = member.quorum_links.links.get(learner.link)
            if link is None or learner.sid < 0:
                continue
            found.append(
                LearnerInfo(
                    sid=learner.sid,
                    address=link.address,
                    observer=learner.observer,
                    synced=learner.phase == LearnerPhase.SYNCED,
                    established=link.established_ms,
                    queued_packets=link.queued_messages,
                    queued_bytes=link.queued_bytes,
                    packets_received=link.packets_received,
                    packets_sent=link.packets_sent,
                    requests=link.requests,
                    last_zxid=learner.acked,
                )
            )
        return sorted(found, key=lambda info: info.sid)

    def leader_uptime_ms(self) -> int:
        return (self.member.env.now() - self.member.role_since) // MILLISECOND

    def pending_syncs(self) -> int:
        peer = self.member.peer
        return 0 if peer is None or peer.leader is None else peer.leader.pending_syncs

    def reset_observer_stats(self) -> None:
        for link in self.member.quorum_links.links.values():
            link.reset_counts()
