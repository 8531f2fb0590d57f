"""One client's connection: frames in, replies and watch events out, in the order ZooKeeper promises.

Replies come in the order of the requests. A read that follows an unanswered write of the same session waits for it; other
reads are answered from this member's tree at once. What a write changed reaches every watcher before its reply: both are
queued on the connections in the order the tree was changed, and each connection's queue is written once per batch.

Flow control: a connection stops reading while its peer does not take what it was sent, while the server has too many
requests outstanding, and until its session is established. Everything it queues is bounded.

Sources: NIOServerCnxn.java, ZooKeeperServer.processPacket, FinalRequestProcessor.java, CommitProcessor.java.
"""

from collections import deque
from logging import getLogger
from struct import Struct
from typing import TYPE_CHECKING

from quorate.binary import INT, Reader
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND, Connection, Timer
from quorate.zookeeper.acl import Id
from quorate.zookeeper.auth import authenticate, ip_identity
from quorate.zookeeper.constants import AUTH_XID, Code, Op
from quorate.zookeeper.fourletter import ARGUMENT_BYTES, FOUR_LETTER_WORDS
from quorate.zookeeper.handshake import (
    ConnectRequest,
    decode_connect_request,
    encode_connect_response,
    encode_refusal,
    negotiate_timeout,
)
from quorate.zookeeper.password import session_password
from quorate.zookeeper.reads import READS
from quorate.zookeeper.replies import reply_body, sync_body
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.stats import ConnectionStats
from quorate.zookeeper.tree import Outcome
from quorate.zookeeper.txns import CreateSession, Txn

if TYPE_CHECKING:
    from quorate.zookeeper.server import Server

log = getLogger(__name__)

_REQUEST = Struct(">iii")
"""frame length, xid, type"""
_REPLY = Struct(">iiqi")
"""frame length, xid, zxid, error"""

FLUSH_BYTES = 256 * 1024
"""Replies are written when so many bytes of them are queued, and reading goes on only if the peer takes them."""
UNREAD_MAX = 64 << 20
"""Bytes queued for a client that does not read (watch events can still come), before it is dropped."""
PENDING_MAX = 2000
"""Requests of one connection waiting for a write before it stops reading."""
HANDSHAKE_TIMEOUT = 10_000 * MILLISECOND

_CXID_MASK = 0x7FFFFFFF

_WRITES = frozenset(
    (
        Op.CREATE,
        Op.CREATE2,
        Op.CREATE_CONTAINER,
        Op.CREATE_TTL,
        Op.DELETE,
        Op.SET_DATA,
        Op.SET_ACL,
        Op.CHECK,
        Op.MULTI,
        Op.RECONFIG,
        Op.SYNC,
        Op.CLOSE_SESSION,
    )
)
"""Requests that go to the leader. SYNC is no transaction but is ordered like one."""

# states
_NEW, _CONNECTING, _ESTABLISHED, _CLOSED = range(4)


class Pending:
    """A request that waits: a write for its commit, anything else for the writes before it.

    ``xid`` is the client's number for it, ``cxid`` ours (0 if nobody needs one)."""

    __slots__ = ("body", "cxid", "op", "since", "write", "xid")

    def __init__(self, xid: int, cxid: int, op: int, body: bytes, write: bool, since: int) -> None:
        self.xid = xid
        self.cxid = cxid
        self.op = op
        self.body = body
        self.write = write
        self.since = since


class ClientConnection:
    """A runtime.environment.Handler, and the watcher of the watches its client sets."""

    __slots__ = (
        "_answered",
        "_connection",
        "_dirty",
        "_first_cxid",
        "_last_answered",
        "_out",
        "_out_bytes",
        "_paused",
        "_rest",
        "_server",
        "_state",
        "_throttled",
        "_timer",
        "_unwritten",
        "address",
        "established_ms",
        "identities",
        "last_heard",
        "pending",
        "read_only_aware",
        "session",
        "skip_acl",
        "stats",
        "timeout",
    )

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._connection: Connection | None = None
        self._state = _NEW
        self._rest = b""
        """Bytes received and not yet processed."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dirty = False
        """The server flushes it at the end of the batch."""
        self._first_cxid = 0
        """What is added to the client's xids. Where a session goes on over another connection, requests of the one before may
        still become transactions, and some clients (kazoo) count from 1 again: the same number would be another request's."""
        self._paused = False
        """The peer does not take what it is sent."""
        self._throttled = False
        self._answered = 0
        """Replies to requests that waited, since the last flush."""
        self._last_answered: Pending | None = None
        self._timer: Timer | None = None
        self.address = ("", 0)
        self.session = 0
        self.timeout = 0
        """Negotiated, ms."""
        self.identities: tuple[Id, ...] = ()
        self.pending: deque[Pending] = deque()
        self.read_only_aware: bool | None = None
        """Whether the client's handshake had the readOnly byte (and what it said); its answer has it too."""
        self.skip_acl = server.settings.skip_acl
        self.stats = ConnectionStats()
        self.established_ms = 0
        self.last_heard = 0

    # ---- the stream

    def connected(self, connection: Connection) -> None:
        self._connection = connection
        self.address = connection.peer
        self.identities = (ip_identity(connection.peer[0]),)
        server = self._server
        self.established_ms = server.env.wall_ms()
        self.last_heard = server.env.now()
        self._timer = server.env.call_at(self.last_heard + HANDSHAKE_TIMEOUT, self._handshake_late)
        refusal = server.admit(self)
        if refusal:
            log.warning("refused a connection from %s: %s", self.address[0], refusal)
            connection.abort()

    def _handshake_late(self) -> None:
        if self._state == _NEW and self._connection is not None:
            self._server.stats.sessionless_connections_expired += 1
            self._connection.abort()

    def received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._state == _ESTABLISHED and not self._paused and not self._throttled:
            self._requests(data)
        elif self._state == _NEW:
            self._first_bytes(data)
        else:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        """Keep bytes for later; nothing more is read meanwhile."""
        if self._state != _CLOSED:
            self._rest = data
            assert self._connection is not None
            self._connection.pause_reading()

    def _go_on(self) -> None:
        if self._connection is None or self._paused or self._throttled or self._state == _CLOSED:
            return
        connection = self._connection
        connection.resume_reading()
        if self._rest:
            rest, self._rest = self._rest, b""
            try:
                self.received(rest)
            except RemoteProtocolError as error:
                log.warning("closing the connection of %s:%d: %s", *self.address, error)
                connection.abort()

    def writing_paused(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def writing_resumed(self) -> None:
        self._paused = False
        self._server.soon(self._go_on)

    def throttle(self) -> None:
        """Stop reading until the server has fewer requests outstanding."""
        self._throttled = True
        if self._connection is not None:
            self._connection.pause_reading()

    def unthrottle(self) -> None:
        self._throttled = False
        self._go_on()

    def closed(self, reason: str) -> None:
        log.debug("client %s:%d session %#x: %s", *self.address, self.session, reason)
        self._state = _CLOSED
        self._connection = None
        self._rest = b""
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._server.gone(self)
        self.pending.clear()

    def close(self) -> None:
        """Send what is queued and hang up."""
        self.flush()
        self._state = _CLOSED
        if self._connection is not None:
            self._connection.close()

    @property
    def reading(self) -> bool:
        return not self._paused and not self._throttled

    # ---- the first bytes: a four-letter word or a handshake

    def _first_bytes(self, data: bytes) -> None:
        if len(data) < 4:
            self._rest = data
            return
        server = self._server
        word = data[:4]
        if word in FOUR_LETTER_WORDS:
            argument = ARGUMENT_BYTES.get(word, 0)
            if len(data) < 4 + argument:
                self._rest = data
                return
            assert self._connection is not None
            self._connection.write(server.answer_word(word, data[4 : 4 + argument]))
            self._state = _CLOSED
            self._connection.close()
            return
        size: int = INT.unpack_from(data)[0]
        if not 0 < size <= server.max_buffer:
            raise RemoteProtocolError(f"first frame of {size} bytes is neither a handshake nor a four-letter word")
        if len(data) < 4 + size:
            self._rest = data
            return
        self._rest = data[4 + size :]
        if not server.serving or not server.takes_clients:
            server.stats.cnxn_closed_without_zk_server_running += 1
            self.close()
            return
        self._connect(decode_connect_request(data[4 : 4 + size]))

    def _connect(self, request: ConnectRequest) -> None:
        server = self._server
        server.stats.connection_request_count += 1
        if request.last_zxid > server.tree.last_zxid:
            log.info(
                "refusing the session of %s:%d: it has seen zxid %#x, we are at %#x; it must try another member",
                *self.address,
                request.last_zxid,
                server.tree.last_zxid,
            )
            self.close()
            return
        self._state = _CONNECTING
        self.read_only_aware = request.read_only
        self.timeout = negotiate_timeout(request.timeout, server.min_session_timeout, server.max_session_timeout)
        assert self._connection is not None
        self._connection.pause_reading()
        if request.session == 0:
            server.create_session(self)
            return
        server.stats.connection_revalidate_count += 1
        self.session = request.session
        self._first_cxid = server.env.random.getrandbits(31)
        if request.password == session_password(request.session):
            server.reopen_session(self)
        else:
            log.warning("client %s:%d gave a wrong password for session %#x", *self.address, request.session)
            self.established(False)

    def established(self, valid: bool) -> None:
        """The session exists, or does not: tell the client."""
        if self._state != _CONNECTING:
            return
        if not valid:
            self._send(encode_refusal(None if self.read_only_aware is None else False))
            self.close()
            return
        self._state = _ESTABLISHED
        if self._timer is not None:
            self._timer.cancel()
        read_only = None if self.read_only_aware is None else False
        self._send(encode_connect_response(self.timeout, self.session, session_password(self.session), read_only))
        self._server.soon(self._go_on)

    # ---- requests

    def _requests(self, data: bytes) -> None:
        """Handle every complete frame of ``data``, keep the rest."""
        server = self._server
        started = self.last_heard = server.env.now()
        server.touch(self)
        tree = server.tree
        unpack = _REQUEST.unpack_from
        reads = READS
        pending = self.pending
        out = self._out
        pack = _REPLY.pack
        limit = server.max_buffer
        offset, end = 0, len(data)
        answered = count = 0
        op = xid = 0
        ops = server.stats.ops
        server.stats.bytes_received_count += end
        while end - offset >= 12:
            size, xid, op = unpack(data, offset)
            frame_end = offset + 4 + size
            if not 8 <= size <= limit:
                self._bad_length(size)
                return
            if frame_end > end:
                break
            body = data[offset + 12 : frame_end]
            offset = frame_end
            count += 1
            read = reads.get(op)
            if read is not None and not pending:
                ops[op] += 1
                try:
                    reply = read(tree, body, self)
                except RequestError as error:
                    out.append(pack(16, xid, tree.last_zxid, error.code))
                    self._out_bytes += 20
                else:
                    out.append(pack(16 + len(reply), xid, tree.last_zxid, 0))
                    out.append(reply)
                    self._out_bytes += 20 + len(reply)
                answered += 1
                if self._out_bytes >= FLUSH_BYTES:
                    self.flush()
                    if self._paused:
                        break
            elif op == Op.PING and not pending:
                out.append(pack(16, xid, tree.last_zxid, 0))
                self._out_bytes += 20
                answered += 1
            else:
                self._request(xid, op, body, started)
                if self._state != _ESTABLISHED:
                    return
        else:
            if end - offset >= 4:
                size = INT.unpack_from(data, offset)[0]
                if not 8 <= size <= limit:
                    self._bad_length(size)
                    return
        server.stats.packets_received += count
        self.stats.received += count
        if offset < end:
            self._rest = data[offset:]
        if answered:
            finished = server.env.now()
            server.stats.packets_sent += answered
            self.stats.sent += answered
            server.stats.readlatency.record(finished - started, answered)
            self.stats.record(op, xid, tree.last_zxid, finished, finished - started, answered)
        if out and not self._dirty:
            self.flush()
        if len(pending) > PENDING_MAX or server.overloaded:
            server.throttle(self)

    def _bad_length(self, size: int) -> None:
        self._server.stats.large_requests_rejected += 1
        self.flush()
        raise RemoteProtocolError(f"request of {size} bytes, expected 8 to {self._server.max_buffer} (jute.maxbuffer)")

    def _request(self, xid: int, op: int, body: bytes, now: int) -> None:
        """A request that is not a read answered at once."""
        if op in _WRITES:
            self._server.stats.ops[op] += 1
            cxid = xid + self._first_cxid & _CXID_MASK if self._first_cxid else xid
            self.pending.append(Pending(xid, cxid, op, body, True, now))
            self._server.submit(self, cxid, op, body)
        elif op == Op.AUTH:
            self._auth(xid, body)
        elif op == Op.PING or op in READS:
            self.pending.append(Pending(xid, 0, op, body, False, now))
        elif op == Op.SASL:
            # without SASL configured Apache answers with an empty token
            self._reply_at(xid, 0, 0, INT.pack(-1))
        else:
            log.warning("client %s:%d session %#x sent unknown request type %d", *self.address, self.session, op)
            self._reply_at(xid, -1, Code.UNIMPLEMENTED, b"")
            self.close()

    def _auth(self, xid: int, body: bytes) -> None:
        reader = Reader(body)
        reader.int32()
        scheme, data = reader.text(), reader.buffer() or b""
        proven = authenticate(scheme, data, self._server.settings)
        if proven is None:
            self._server.stats.auth_failed_count += 1
            log.warning("client %s:%d failed to authenticate by scheme %r", *self.address, scheme[:32])
            self._reply_at(AUTH_XID, 0, Code.AUTH_FAILED, b"")
            self.close()
            return
        self.identities += tuple([identity for identity in proven if identity not in self.identities])
        self._reply_at(xid, 0, 0, b"")

    # ---- answers

    def committed(self, txn: Txn, outcome: Outcome) -> None:
        """A transaction of this session was applied; answer it if it is the request we wait for."""
        pending = self.pending
        if self._state == _CONNECTING:
            if isinstance(txn.record, CreateSession):
                self.established(True)
            return
        if not pending or pending[0].cxid != txn.cxid or not pending[0].write:
            return
        waiting = pending.popleft()
        self._server.finished(1)
        code = outcome.code
        op = waiting.op
        if code == Code.SESSION_MOVED:
            log.info("session %#x has moved to another member; closing its old connection", self.session)
            self.close()
            return
        body = b"" if code else reply_body(op, outcome, txn.record)
        self._send(_REPLY.pack(16 + len(body), waiting.xid, self._server.tree.last_zxid, code) + body)
        self._answered += 1
        self._last_answered = waiting
        if op == Op.CLOSE_SESSION:
            self.close()
        elif pending:
            self._drain()

    def synced(self, cxid: int) -> None:
        """The sync is done: everything committed before it has been applied here."""
        pending = self.pending
        if not pending or pending[0].cxid != cxid or pending[0].op != Op.SYNC:
            return
        waiting = pending.popleft()
        self._server.finished(1)
        try:
            self._reply(waiting.xid, 0, sync_body(waiting.body))
        except RequestError as error:
            self._reply(waiting.xid, error.code, b"")
        self._answered += 1
        self._last_answered = waiting
        if pending:
            self._drain()

    def _drain(self) -> None:
        """Answer the reads up to the next write."""
        pending = self.pending
        tree = self._server.tree
        while pending and not pending[0].write:
            waiting = pending.popleft()
            if waiting.op == Op.PING:
                self._reply(waiting.xid, 0, b"")
            else:
                try:
                    body = READS[waiting.op](tree, waiting.body, self)
                except RequestError as error:
                    self._reply(waiting.xid, error.code, b"")
                else:
                    self._reply(waiting.xid, 0, body)
            self._answered += 1
            self._last_answered = waiting
            # many may be due at once: what the client does not take must be seen before all of it is made
            if self._out_bytes >= FLUSH_BYTES:
                self.flush()
                if self._state == _CLOSED:
                    return

    def _count_answered(self) -> None:
        """Once per batch: its requests came together or nearly so, and the last one's latency stands for all."""
        count, self._answered = self._answered, 0
        waiting = self._last_answered
        assert waiting is not None
        server = self._server
        now = server.batch_time
        latency = now - waiting.since
        self.stats.sent += count
        server.stats.packets_sent += count
        (server.stats.updatelatency if waiting.write else server.stats.readlatency).record(latency, count)
        self.stats.record(waiting.op, waiting.xid, server.tree.last_zxid, now, latency, count)

    def _reply(self, xid: int, code: int, body: bytes) -> None:
        self._reply_at(xid, self._server.tree.last_zxid, code, body)

    def _reply_at(self, xid: int, zxid: int, code: int, body: bytes) -> None:
        """A reply with a zxid that says nothing, as Apache's to what is no operation on the tree."""
        self._send(_REPLY.pack(16 + len(body), xid, zxid, code) + body)

    def notify(self, frame: bytes) -> None:
        """A watch of this client fired; the frame is shared with other watchers."""
        self._send(frame)

    def _send(self, data: bytes) -> None:
        if self._state == _CLOSED:
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._dirty:
            self._dirty = True
            self._server.flush_later(self)

    def flush(self) -> None:
        """Write what is queued, at once."""
        self._dirty = False
        if self._answered:
            self._count_answered()
        out = self._out
        connection = self._connection
        if out and connection is not None:
            connection.write(b"".join(out))
            out.clear()
            self._out_bytes = 0
            if self._paused and connection.queued() > UNREAD_MAX:
                log.warning("client %s:%d session %#x does not read; dropping it", *self.address, self.session)
                self._state = _CLOSED
                connection.abort()
