"""What a member does for clients: sessions, the way of a request, the application of transactions.

The server is the same on a leader, a learner and a standalone server; what differs is where a write goes first. On the
leader (and standalone) it is prepared and proposed here; a learner forwards it. Either way it comes back as a committed entry,
is applied to the tree, and answers the client that waits for it.

``member`` drives it: it reports roles and delivers committed entries, and flushes the connections once per batch.

Sources: ZooKeeperServer.java, PrepRequestProcessor.java, LearnerZooKeeperServer.java, CommitProcessor.java.
"""

from collections import deque
from collections.abc import Callable
from logging import getLogger
from struct import Struct
from typing import Protocol

from quorate.binary import BOOL, INT, LONG
from quorate.consensus.zab.messages import REQUEST, REVALIDATE, SYNC, Entry, Service
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import Environment
from quorate.zookeeper.acl import Id
from quorate.zookeeper.connection import ClientConnection
from quorate.zookeeper.constants import Code, Op
from quorate.zookeeper.prepare import Preparer
from quorate.zookeeper.request import Request
from quorate.zookeeper.sessions import LearnerSessions, SessionIds, SessionTracker, parse_touches
from quorate.zookeeper.settings import Settings
from quorate.zookeeper.stats import ServerStats
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import CloseSession, CreateSession, Error, Txn, unpack_txn

log = getLogger(__name__)

_FORWARDED = Struct(">qii")
"""session, cxid, type; the request's record follows."""
_VALIDATION = Struct(">qi")
_VALIDATED = Struct(">q?")

HERE = 0
"""The origin of requests that clients of this very member sent."""


class Replication(Protocol):
    """What the server asks of its core (consensus.zab.peer.Peer or standalone.Standalone)."""

    @property
    def leading(self) -> bool: ...

    @property
    def following(self) -> bool: ...

    @property
    def next_zxid(self) -> int: ...

    def propose(self, payload: bytes, decoded: object) -> int: ...

    def sync(self, link: int, key: tuple[int, int]) -> None: ...

    def send_to_leader(self, message: Service) -> None: ...

    def send_to_learner(self, link: int, message: Service) -> None: ...


class Server:
    def __init__(
        self,
        env: Environment,
        sid: int,
        settings: Settings,
        tick_ms: int,
        session_timeouts: tuple[int, int],
        connections_per_address: int,
        outstanding_limit: int,
        answer_word: Callable[[bytes, bytes], bytes],
        schedule: Callable[[], None],
    ) -> None:
        """``session_timeouts``: least and greatest, ms. ``connections_per_address``: 0 for no limit. ``schedule`` asks the
        member for a drain after the events at hand."""
        self.env = env
        self.settings = settings
        self.max_buffer = settings.max_buffer
        self.min_session_timeout, self.max_session_timeout = session_timeouts
        self.stats = ServerStats()
        self.tree = DataTree()
        self.connections: dict[ClientConnection, None] = {}
        self.by_session: dict[int, ClientConnection] = {}
        self.batch_time = env.now()
        """The time of the batch of commits being applied, for latencies."""
        self.serving = False
        self.takes_clients = False
        self.tracker: SessionTracker | None = None
        """All sessions and their deadlines, on the leader; None on a learner."""
        self.outstanding = 0
        """Writes submitted by our clients and not yet answered."""
        self.answer_word = answer_word
        self._dirty: list[ClientConnection] = []
        """Connections with something to write at the end of the batch."""
        self._core: Replication | None = None
        self._schedule = schedule
        self._ids = SessionIds(sid & 0xFF, env.wall_ms())
        self._tick_ms = tick_ms
        self._preparer: Preparer | None = None
        self._touched = LearnerSessions()
        self._per_address: dict[str, int] = {}
        self._address_limit = connections_per_address
        self._outstanding_limit = outstanding_limit
        self._throttled: list[ClientConnection] = []
        self._syncs: deque[tuple[int, int]] = deque()
        """(session, xid) of the syncs forwarded to the leader, which answers them in order."""
        self._revalidating: dict[int, ClientConnection] = {}
        self._authinfo: tuple[tuple[str, str], ...] | None = None
        """What was last forwarded, and the same as identities: a client's requests share one object."""
        self._identities: tuple[Id, ...] = ()

    # ---- roles

    def lead(self, core: Replication, clients: bool) -> None:
        """Serve as the leader, or standalone: every session starts afresh with its whole timeout. ``clients``: whether clients
        of its own are taken (leaderServes)."""
        self._core = core
        self.takes_clients = clients
        self._preparer = Preparer(self.tree, self.settings)
        tracker = self.tracker = SessionTracker(self._tick_ms)
        now = self.env.now()
        for session, timeout in sorted(self.tree.sessions.items()):
            tracker.add(session, timeout, now)
        self.serving = True

    def follow(self, core: Replication) -> None:
        self._core = core
        self.takes_clients = True
        self.serving = True

    def stop_serving(self) -> None:
        """No leader: hang up on all clients, who look for a member that serves. Their sessions live on."""
        self.serving = False
        self._core = None
        self._preparer = None
        self.tracker = None
        self._touched = LearnerSessions()
        self._syncs.clear()
        self._revalidating.clear()
        for connection in list(self.connections):
            connection.pending.clear()
            connection.close()
        self.outstanding = 0
        self._throttled.clear()

    def adopt(self, tree: DataTree) -> None:
        """The leader sent its whole state."""
        assert not self.serving, "the state of a serving member is its own"
        self.tree = tree

    # ---- connections

    def accept(self) -> ClientConnection:
        return ClientConnection(self)

    def admit(self, connection: ClientConnection) -> str:
        """Take in a new connection; why not, if not."""
        host = connection.address[0]
        count = self._per_address.get(host, 0)
        self.connections[connection] = None
        self._per_address[host] = count + 1
        if self._address_limit and count >= self._address_limit:
            self.stats.connection_rejected += 1
            return f"too many connections from it, maxClientCnxns is {self._address_limit}"
        return ""

    def gone(self, connection: ClientConnection) -> None:
        if connection not in self.connections:
            return
        del self.connections[connection]
        host = connection.address[0]
        count = self._per_address[host] - 1
        if count:
            self._per_address[host] = count
        else:
            del self._per_address[host]
        self.stats.connection_drop_count += 1
        self.tree.watches.remove_watcher(connection)
        session = connection.session
        if self.by_session.get(session) is connection:
            del self.by_session[session]
        if self._revalidating.get(session) is connection:
            del self._revalidating[session]
        self.finished(sum(pending.write for pending in connection.pending))

    def soon(self, callback: Callable[[], None]) -> None:
        self.env.call_soon(callback)

    # ---- flow control

    @property
    def overloaded(self) -> bool:
        return self.outstanding > self._outstanding_limit

    def throttle(self, connection: ClientConnection) -> None:
        self.stats.request_throttle_wait_count += 1
        connection.throttle()
        self._throttled.append(connection)

    def finished(self, count: int) -> None:
        """Requests answered or given up."""
        self.outstanding -= count
        if self._throttled and self.outstanding <= self._outstanding_limit // 2:
            throttled, self._throttled = self._throttled, []
            for connection in throttled:
                self.soon(connection.unthrottle)

    # ---- sessions

    def touch(self, connection: ClientConnection) -> None:
        if self.tracker is None:
            self._touched.touch(connection.session, connection.timeout)
        else:
            self.tracker.touch(connection.session, connection.timeout, connection.last_heard)

    def take_touched(self) -> bytes:
        """On a learner: the answer to the leader's ping."""
        return self._touched.take()

    def touched(self, data: bytes) -> None:
        """On a leader: a learner's answer to a ping."""
        tracker = self.tracker
        if tracker is not None:
            now = self.env.now()
            for session, timeout in parse_touches(data):
                tracker.touch(session, timeout, now)

    def create_session(self, connection: ClientConnection) -> None:
        session = connection.session = self._ids.next()
        self.by_session[session] = connection
        self._route(Request(session, 0, Op.CREATE_SESSION, INT.pack(connection.timeout), connection.identities, HERE))

    def reopen_session(self, connection: ClientConnection) -> None:
        """A client comes back to its session, perhaps from another member or a connection that we still hold."""
        session = connection.session
        old = self.by_session.get(session)
        if old is not None and old is not connection:
            old.close()
        self.by_session[session] = connection
        if self.tracker is not None:
            valid = self.tracker.touch(session, connection.timeout, self.env.now())
            if valid:
                self.tracker.set_owner(session, HERE)
            connection.established(valid)
            return
        self._revalidating[session] = connection
        assert self._core is not None
        if self._core.following:
            self._core.send_to_leader(Service(REVALIDATE, _VALIDATION.pack(session, connection.timeout), zxid=-1))
            self._schedule()

    def expire(self, now: int) -> None:
        """On a leader: close the sessions whose time is up."""
        tracker = self.tracker
        if tracker is None:
            return
        for session in tracker.expired(now):
            log.info("session %#x expired", session)
            self._propose(Request(session, 0, Op.CLOSE_SESSION, b"", (), HERE))

    def next_expiry(self) -> int:
        return -1 if self.tracker is None else self.tracker.next_expiry()

    # ---- requests

    def submit(self, connection: ClientConnection, cxid: int, op: int, body: bytes) -> None:
        self.outstanding += 1
        self._route(Request(connection.session, cxid, op, body, connection.identities, HERE))

    def _route(self, request: Request) -> None:
        if self._preparer is not None:
            self._process(request)
        elif self._core is not None and self._core.following:
            if request.op == Op.SYNC:
                self._syncs.append((request.session, request.cxid))
            elif request.op == Op.CLOSE_SESSION:
                self._touched.forget(request.session)
            data = _FORWARDED.pack(request.session, request.cxid, request.op) + request.body
            self._core.send_to_leader(Service(REQUEST, data, request.identities))
        # else the leader was lost just now: the coming drain hangs up on this client, who never had an answer
        self._schedule()

    def received(self, link: int, message: Service) -> None:
        """A service message from a learner (on the leader) or from the leader. Raises RemoteProtocolError."""
        data = message.data or b""
        if message.type == REQUEST:
            if len(data) < _FORWARDED.size:
                raise RemoteProtocolError(f"forwarded request of {len(data)} bytes")
            if self.tracker is None:
                raise RemoteProtocolError("a request forwarded to a member that does not lead")
            session, cxid, op = _FORWARDED.unpack_from(data)
            authinfo = message.authinfo
            if authinfo is not self._authinfo:
                self._authinfo = authinfo
                self._identities = tuple([Id(scheme, id_) for scheme, id_ in authinfo or ()])
            self._process(Request(session, cxid, op, data[_FORWARDED.size :], self._identities, link))
        elif message.type == SYNC:
            if self._syncs:
                self.sync_done(*self._syncs.popleft())
        elif self.tracker is not None:
            self._revalidate(link, data)
        else:
            self._revalidated(data)

    def _process(self, request: Request) -> None:
        """On the leader: the first step of every write of the ensemble."""
        op = request.op
        session = request.session
        tracker, core = self.tracker, self._core
        assert tracker is not None
        assert core is not None
        if not core.leading:
            return  # the coming drain hangs up on whoever sent it
        if op == Op.SYNC and request.origin != HERE:
            # the learner gives the answers that come to its syncs in order, so that each has to have one, whoever asked
            core.sync(request.origin, (session, request.cxid))
            return
        if op == Op.CREATE_SESSION:
            if len(request.body) < 4:
                raise RemoteProtocolError("createSession without a timeout")
            tracker.add(session, INT.unpack_from(request.body)[0], self.env.now())
            tracker.set_owner(session, request.origin)
        elif op == Op.CLOSE_SESSION:
            tracker.set_closing(session)
        else:
            code = tracker.check(session, request.origin)
            if code != Code.OK:
                self._propose_txn(Txn(session, request.cxid, core.next_zxid, self.env.wall_ms(), Error(code)))
                return
        if op == Op.SYNC:
            core.sync(request.origin, (session, request.cxid))
            return
        self._propose(request)

    def _propose(self, request: Request) -> None:
        core, preparer = self._core, self._preparer
        assert core is not None
        assert preparer is not None
        if core.leading:
            self._propose_txn(preparer.prepare(request, core.next_zxid, self.env.wall_ms()))

    def _propose_txn(self, txn: Txn) -> None:
        assert self._core is not None
        payload = txn.pack()
        self.stats.proposal_count += 1
        self.stats.proposal_size.record(len(payload))
        self._core.propose(payload, txn)

    def delete_container(self, path: str) -> None:
        """On a leader: remove a container or TTL node that nobody needs any more, if that is still so."""
        self._propose(Request(0, 0, Op.DELETE_CONTAINER, INT.pack(len(path.encode())) + path.encode(), (), HERE))

    def _revalidate(self, link: int, data: bytes) -> None:
        """On the leader: a client of a learner comes back to its session."""
        if len(data) < _VALIDATION.size:
            raise RemoteProtocolError(f"REVALIDATE of {len(data)} bytes")
        session, timeout = _VALIDATION.unpack_from(data)
        tracker, core = self.tracker, self._core
        assert tracker is not None
        assert core is not None
        self.stats.revalidate_count += 1
        valid = tracker.touch(session, timeout, self.env.now())
        if valid:
            tracker.set_owner(session, link)
        core.send_to_learner(link, Service(REVALIDATE, LONG.pack(session) + BOOL.pack(valid), zxid=-1))

    def _revalidated(self, data: bytes) -> None:
        if len(data) < _VALIDATED.size:
            raise RemoteProtocolError(f"REVALIDATE of {len(data)} bytes")
        session, valid = _VALIDATED.unpack_from(data)
        connection = self._revalidating.pop(session, None)
        if connection is not None:
            connection.established(valid)

    # ---- commits

    def apply(self, entry: Entry) -> None:
        """Apply a committed entry and answer its client."""
        decoded = entry.decoded
        if isinstance(decoded, Txn):
            txn = decoded
            entry.decoded = None
        else:
            txn = unpack_txn(entry.payload)
        tree = self.tree
        connection = self.by_session.get(txn.session)
        outcome = tree.apply(txn, connection is not None)
        if txn.digest is not None and self.serving and tree.digest != txn.digest and self.settings.digest_enabled:
            self._digest_differs(txn)
        record = txn.record
        self.stats.commit_count += 1
        if self._preparer is not None:
            self._preparer.applied(txn.zxid)
        if isinstance(record, CloseSession):
            if self.tracker is not None:
                self.tracker.remove(txn.session)
            self._touched.forget(txn.session)
        elif self.tracker is not None and isinstance(record, CreateSession):
            self.tracker.add(txn.session, record.timeout, self.batch_time)
        if connection is not None:
            connection.committed(txn, outcome)
            if isinstance(record, CloseSession):
                connection.close()

    def _digest_differs(self, txn: Txn) -> None:
        if self.stats.digest_mismatches_count == 0:
            log.error(
                "Digests are not matching: after zxid %#x the leader's tree has %#x, ours %#x",
                txn.zxid,
                txn.digest,
                self.tree.digest,
            )
        self.stats.digest_mismatches_count += 1

    def sync_done(self, session: int, xid: int) -> None:
        connection = self.by_session.get(session)
        if connection is not None:
            connection.synced(xid)

    def flush_later(self, connection: ClientConnection) -> None:
        self._dirty.append(connection)
        self._schedule()

    def flush(self) -> None:
        """Write everything that the batch queued, once per connection."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for connection in dirty:
                connection.flush()

    # ---- housekeeping of the leader

    def reap_containers(self, wall_ms: int) -> None:
        """Propose to delete childless containers that once had a child, and childless TTL nodes whose time is up."""
        tree = self.tree
        for path in sorted(tree.containers):
            node = tree.nodes.get(path)
            if node is not None and node.cversion > 0 and not node.children:
                self.delete_container(path)
        for path in sorted(tree.ttl_nodes):
            node = tree.nodes.get(path)
            if node is not None and not node.children:
                ttl = node.owner & ((1 << 40) - 1)
                if wall_ms - node.mtime > ttl:
                    self.delete_container(path)
