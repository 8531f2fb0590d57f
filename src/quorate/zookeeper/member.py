"""A member of a ZooKeeper ensemble, or a standalone server: the Zab core, its links, the durable store and the server.

The member is the core's driver. Whatever happens (bytes, timers, completed writes) only changes state and asks for a drain;
the drain then runs once for all that happened: writes go to the store, committed entries to the tree, messages and replies to
their connections. That is where batching comes from: one sync, one socket write per connection, for a whole batch.
"""

from collections import deque
from collections.abc import Callable, Iterator
from logging import getLogger

from quorate.consensus.contract import NEVER
from quorate.consensus.zab.election_links import ElectionLinks
from quorate.consensus.zab.messages import Entry, Message, Notification, Packet, Ping, State
from quorate.consensus.zab.peer import Drained, Peer
from quorate.consensus.zab.quorum_links import QuorumLinks
from quorate.consensus.zab.replica import (
    Adopt,
    Append,
    InstallSnapshot,
    LearnerLost,
    Received,
    RoleChange,
    ServiceEvent,
    Settings,
    StoreAcceptedEpoch,
    StoreCurrentEpoch,
    Synced,
    Touched,
    Truncate,
    WriteRequest,
)
from quorate.consensus.zab.standalone import Standalone
from quorate.errors import RemoteProtocolError, StorageError
from quorate.runtime.environment import MILLISECOND, Environment, Listener, Timer
from quorate.zookeeper.config import WILDCARD, MemberConfig
from quorate.zookeeper.constants import CONFIG_NODE
from quorate.zookeeper.server import Server
from quorate.zookeeper.settings import Settings as RequestSettings
from quorate.zookeeper.snapshot import SnapshotParser, snapshot_stream
from quorate.zookeeper.store import Store
from quorate.zookeeper.tree import DataTree

log = getLogger(__name__)

PACKET_MAX = 64 << 20
"""Bytes of data in one packet between members: a transaction can be longer than any request (a session's ephemerals)."""

_STATES = {
    State.LOOKING: "LOOKING",
    State.FOLLOWING: "FOLLOWING",
    State.LEADING: "LEADING",
    State.OBSERVING: "OBSERVING",
}


class Member:
    def __init__(
        self,
        env: Environment,
        config: MemberConfig,
        store: Store,
        answer_word: Callable[[bytes, bytes], bytes],
        failed: Callable[[str], None],
    ) -> None:
        """``failed(reason)`` is called when the member must stop: its disk no longer keeps its word."""
        self.env = env
        self.config = config
        self.store = store
        self.started = env.now()
        self.role = RoleChange(State.LOOKING, -1, 0, False)
        self.role_since = self.started
        self._failed = failed
        settings = RequestSettings(
            super_digest=config.super_digest,
            extended_types_enabled=config.extended_types_enabled,
            enforce_quota=config.enforce_quota,
            digest_enabled=config.digest_enabled,
            max_buffer=config.max_buffer,
            skip_acl=config.skip_acl,
        )
        self.server = Server(
            env,
            0 if config.standalone else config.my_id,
            settings,
            config.tick_time,
            (config.min_session_timeout, config.max_session_timeout),
            max(config.max_client_connections, 0),
            config.global_outstanding_limit,
            answer_word,
            self.schedule,
        )
        recovered = store.recover()
        self.server.tree = recovered.tree
        base, tail = recovered.snapshot_zxid, recovered.tail
        self.peer: Peer | None = None
        self.core: Peer | Standalone
        if config.standalone:
            self.core = Standalone(base, tail, config.commit_log_count)
        else:
            self.core = self.peer = Peer(
                self._zab_settings(),
                base,
                tail,
                recovered.accepted_epoch,
                recovered.current_epoch,
                config.commit_log_count,
            )
        self.election_links: ElectionLinks | None = None
        self.quorum_links = QuorumLinks(env, self, SnapshotParser, PACKET_MAX)
        self.client_listener: Listener | None = None
        self._scheduled = False
        self._stopped = False
        self._timer: Timer | None = None
        self._timer_at = NEVER
        self._writing: deque[tuple[int, list[bool]]] = deque()
        """(token, [done]) of the writes handed to the store, in their order."""
        store.settle(self._done(self.core.recovering()))
        self._containers_at = NEVER
        self.last_snapshot: tuple[int, int] | None = None
        """Zxid and wall time (s) of the newest snapshot this process took."""

    def _zab_settings(self) -> Settings:
        config = self.config
        voters = tuple([server.id for server in config.participants])
        observers = tuple([server.id for server in config.servers if server.id not in voters])
        return Settings(
            config.my_id,
            voters,
            observers,
            config.tick_time * MILLISECOND,
            config.init_limit_ticks,
            config.sync_limit_ticks,
            config.ensemble_text().encode(),
            config.connect_to_leader_limit_ticks,
        )

    # ---- life

    def start(self) -> None:
        """Listen and begin. Raises UsageError if a port cannot be had."""
        config = self.config
        address = config.client_address
        if address is not None:
            self.client_listener = self.env.listen(
                address.bind_host, address.port, self.server.accept, max(config.client_port_listen_backlog, 0)
            )
        myself = config.myself
        if self.peer is not None:
            assert myself is not None
            host = WILDCARD if config.quorum_listen_on_all_ips else myself.quorum.host
            self.quorum_links.start(host, myself.quorum.port)
            addresses = {server.id: (server.election.host, server.election.port) for server in config.servers}
            self.election_links = ElectionLinks(self.env, config.my_id, addresses, self._notified, self._reachable)
        self.core.start(self.env.now())
        if self.election_links is not None:
            assert myself is not None
            self.election_links.start(WILDCARD if config.quorum_listen_on_all_ips else myself.election.host)
        self.schedule()

    def stop(self) -> None:
        """Hang up and stop; what was acknowledged is on disk already."""
        self._stopped = True
        self.store.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self.client_listener is not None:
            self.client_listener.close()
        self.server.stop_serving()
        if self.election_links is not None:
            self.election_links.close()
        self.quorum_links.close()

    # ---- the drain

    def schedule(self) -> None:
        """Ask for a drain after the events at hand."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self.env.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        try:
            self._carry_out()
        except Exception:
            # a committed entry may be half applied: this state must never be served or built upon
            log.exception("a bug of ours; this member stops")
            self._stopped = True
            self._failed("an internal error")

    def _carry_out(self) -> None:
        server = self.server
        server.batch_time = self.env.now()
        drained = self.core.drain()
        for write in drained.writes:
            self._write(write)
        if drained.events:
            for event in drained.events:
                if type(event) is Entry:
                    server.apply(event)
                else:
                    self._handle(event)
            if server.serving and self.store.should_snapshot():
                self._snapshot()
            self.schedule()
        if drained.messages:
            self._send(drained)
        for link in drained.disconnects:
            self.quorum_links.disconnect(link)
        if drained.dial is not None:
            self._dial(drained.dial)
        server.flush()
        self._arm()

    def _send(self, drained: Drained) -> None:
        following = self.peer is not None and self.peer.learner is not None
        for channel, messages in drained.messages.items():
            if channel >= 0:
                if self.election_links is not None:
                    self.election_links.send(channel, messages)
                continue
            if following:
                self._fill_pings(messages)
            self.quorum_links.send(channel, messages)

    def _fill_pings(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Ping):
                message.data = self.server.take_touched()

    def _dial(self, sid: int) -> None:
        for server in self.config.servers:
            if server.id == sid:
                self.quorum_links.dial(server.quorum.host, server.quorum.port)
                return

    # ---- time

    def _arm(self) -> None:
        """One timer for the earliest deadline of all parts. A later one than armed needs nothing: the timer looks again."""
        deadlines = [d for d in (self.core.deadline(), self.server.next_expiry(), self._containers_at) if d != NEVER]
        if not deadlines or self._stopped:
            return
        deadline = min(deadlines)
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self.env.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self.env.now()
        self.core.tick(now)
        self.server.expire(now)
        if self._containers_at != NEVER and now >= self._containers_at:
            self._containers_at = now + self.config.container_check_interval * MILLISECOND
            if self.core.leading:
                self.server.reap_containers(self.env.wall_ms())
        self.schedule()

    # ---- events of the core

    def _handle(self, event: ServiceEvent) -> None:
        server = self.server
        if isinstance(event, Received):
            try:
                server.received(event.link, event.message)
            except RemoteProtocolError as error:
                log.warning("closing the link: %s", error)
                self.quorum_links.disconnect(event.link)
        elif isinstance(event, Touched):
            try:
                server.touched(event.data)
            except RemoteProtocolError as error:
                log.warning("closing the link: %s", error)
                self.quorum_links.disconnect(event.link)
        elif isinstance(event, Synced):
            key = event.key
            assert isinstance(key, tuple)
            server.sync_done(*key)
        elif isinstance(event, RoleChange):
            self._change_role(event)
        elif isinstance(event, Adopt):
            parser = event.snapshot
            assert isinstance(parser, SnapshotParser)
            parser.tree.last_zxid = event.zxid
            server.adopt(parser.tree)
        elif isinstance(event, LearnerLost):
            log.info("lost a learner")

    def _change_role(self, role: RoleChange) -> None:
        server = self.server
        now = self.env.now()
        if role.state == State.LOOKING:
            server.stats.looking_count += 1
        elif self.role.state == State.LOOKING:
            server.stats.election_time.record(now - self.role_since)
        self.role = role
        self.role_since = now
        if not role.serving:
            if server.serving:
                server.stop_serving()
            self._containers_at = NEVER
            reason = f": {self.core.reason}" if role.state == State.LOOKING else ""
            log.info("%s%s", _STATES[role.state], reason)
            return
        if self.peer is not None:
            self._publish_config()
            log.info("%s, epoch %#x, leader %d: serving", _STATES[role.state], role.epoch, role.leader)
        if role.state == State.LEADING:
            server.lead(self.core, self.peer is None or self.config.leader_serves)
            self._containers_at = self.env.now() + self.config.container_check_interval * MILLISECOND
        else:
            server.follow(self.core)

    def _publish_config(self) -> None:
        """The membership as clients read it: set on each member by itself, as by Apache's with reconfiguration off."""
        node = self.server.tree.nodes.get(CONFIG_NODE)
        if node is not None:
            node.data = self.config.ensemble_text().encode()
            node.mzxid = self.config.config_version
            node.mtime = self.env.wall_ms()
            node.version = -1
            node.packed_stat = None

    # ---- the disk

    def _write(self, write: WriteRequest) -> None:
        done = self._done(write.token)
        if isinstance(write, Append):
            self.server.stats.sync_processor_batch_size.record(len(write.entries))
            self.store.append(write.entries, done)
        elif isinstance(write, Truncate):
            log.warning("cutting the log after %#x, as the leader says", write.zxid)
            self.store.truncate(write.zxid, done)
        elif isinstance(write, StoreAcceptedEpoch):
            self.store.store_accepted_epoch(write.epoch, done)
        elif isinstance(write, StoreCurrentEpoch):
            self.store.store_current_epoch(write.epoch, done)
        elif isinstance(write, InstallSnapshot):
            parser = write.snapshot
            assert isinstance(parser, SnapshotParser)
            parser.tree.last_zxid = write.zxid
            self.store.install(parser.tree, write.zxid, write.entries, done)

    def _done(self, token: int) -> Callable[[StorageError | None], None]:
        """The writes go to several files, but the core is told of them in their order."""
        writing = self._writing
        flag = [False]
        writing.append((token, flag))

        def done(error: StorageError | None) -> None:
            if self._stopped:
                return
            if error is not None:
                self._stopped = True
                self._failed(f"the disk failed, nothing is acknowledged any more: {error}")
                return
            flag[0] = True
            durable = -1
            while writing and writing[0][1][0]:
                durable = writing.popleft()[0]
            if durable >= 0:
                self.core.persisted(durable)
                self.schedule()

        return done

    def _snapshot(self) -> None:
        def done(error: StorageError | None) -> None:
            if error is not None:
                self.server.stats.snapshot_error_count += 1
                log.error("snapshot failed: %s", error)
                return
            self.server.stats.snapshottime.record(int(self.store.snapshot_ms * MILLISECOND))
            self.last_snapshot = (self.store.snapshot_zxid, self.env.wall_ms() // 1000)

        self.store.take_snapshot(self.server.tree, done)

    # ---- events of the links (consensus.zab.quorum_links.QuorumEvents)

    def _notified(self, sid: int, notification: Notification) -> None:
        assert self.peer is not None
        self.peer.tick(self.env.now())
        self.peer.receive(sid, notification)
        self.schedule()

    def _reachable(self, sids: frozenset[int]) -> None:
        assert self.peer is not None
        self.peer.reachable(self.env.now(), sids)
        self.schedule()

    def link_accepted(self, link: int, address: tuple[str, int]) -> None:
        assert self.peer is not None
        self.peer.accepted(self.env.now(), link)
        self.schedule()

    def link_connected(self, link: int) -> None:
        assert self.peer is not None
        self.peer.connected(self.env.now(), link)
        self.schedule()

    def dial_failed(self, reason: str) -> None:
        assert self.peer is not None
        self.peer.dial_failed(self.env.now())
        self.schedule()

    def link_received(self, link: int, packets: list[Packet]) -> None:
        peer = self.peer
        assert peer is not None
        self.schedule()
        peer.tick(self.env.now())
        for packet in packets:
            peer.receive(link, packet)

    def link_closed(self, link: int, reason: str) -> None:
        assert self.peer is not None
        self.peer.disconnected(self.env.now(), link)
        self.schedule()

    def snapshot_stream(self) -> tuple[int, Iterator[bytes]]:
        self.server.stats.snap_count += 1
        tree: DataTree = self.server.tree
        return tree.last_zxid, snapshot_stream(tree)
