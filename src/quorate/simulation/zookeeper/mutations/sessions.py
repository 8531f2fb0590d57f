"""Bugs in sessions: their beginning, end, expiry and moves, and their ephemeral nodes."""

from collections.abc import Iterator
from typing import Final

from quorate.consensus.zab.messages import Message
from quorate.runtime.environment import MILLISECOND
from quorate.simulation.zookeeper.mutations.mutation import Mutation, Patch
from quorate.zookeeper import member, snapshot
from quorate.zookeeper.connection import ClientConnection
from quorate.zookeeper.constants import Op
from quorate.zookeeper.member import Member
from quorate.zookeeper.prepare import Preparer
from quorate.zookeeper.request import Request
from quorate.zookeeper.server import HERE, Replication, Server
from quorate.zookeeper.sessions import SessionIds, SessionTracker
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import CloseSession, Txn

_lead = Server.lead
_gone = Server.gone
_create_session = Server.create_session
_reopen_session = Server.reopen_session
_expired = SessionTracker.expired
_check = SessionTracker.check
_prepare = Preparer.prepare
_ids = SessionIds.__init__
_stream = snapshot.snapshot_stream

# ---- beginning


def _same_ids(self: SessionIds, server: int, wall_ms: int) -> None:
    _ids(self, server, 0)


def _established_at_once(self: Server, connection: ClientConnection) -> None:
    _create_session(self, connection)
    connection.established(True)


def _judged_here(self: Server, connection: ClientConnection) -> None:
    if self.tracker is not None:
        _reopen_session(self, connection)
        return
    self.by_session[connection.session] = connection
    connection.established(connection.session in self.tree.sessions)


def _never_moved(self: SessionTracker, session: int, origin: int) -> int:
    entry = self._sessions.get(session)
    if entry is not None:
        entry.owner = origin
    return _check(self, session, origin)


# ---- end


def _touches_dropped(self: Member, messages: list[Message]) -> None:
    self.server.take_touched()


def _deadlines_passed(self: Server, core: Replication, clients: bool) -> None:
    _lead(self, core, clients)
    assert self.tracker is not None
    for session, timeout in sorted(self.tree.sessions.items()):
        self.tracker.touch(session, timeout, self.env.now() - timeout * MILLISECOND)


def _ends_with_the_connection(self: Server, connection: ClientConnection) -> None:
    session = connection.session
    lost = self.by_session.get(session) is connection
    _gone(self, connection)
    if lost and self.tracker is not None and session in self.tracker:
        self.tracker.set_closing(session)
        self._propose(Request(session, 0, Op.CLOSE_SESSION, b"", (), HERE))


def _expire_unlogged(self: Server, now: int) -> None:
    if self.tracker is not None:
        self.tracker.expired(now)


def _expired_still_open(self: SessionTracker, now: int) -> list[int]:
    ids = _expired(self, now)
    for session in ids:
        self._sessions[session].closing = False
    return ids


def _never_closing(self: SessionTracker, session: int) -> None:
    """Nothing is remembered: that is the bug."""


def _forget_the_closing(self: Preparer, request: Request, zxid: int, time_ms: int) -> Txn:
    self._closing.clear()
    return _prepare(self, request, zxid, time_ms)


# ---- ephemerals


def _close_the_applied(self: Preparer, session: int, zxid: int) -> CloseSession:
    paths = [path for path in sorted(self._tree.ephemerals.get(session, ())) if self._exists(path)]
    for path in paths:
        change = self._find(path)
        above = path[: path.rfind("/")] or "/"
        parent = self._find(above)
        assert change is not None
        assert parent is not None
        self._gone(path, change, above, parent, zxid)
    self._closing[session] = zxid
    return CloseSession(paths)


def _delete_the_named(self: DataTree, record: CloseSession, session: int, zxid: int) -> None:
    for path in record.paths or ():
        self._delete(path, zxid)
    self.sessions.pop(session, None)


def _without_sessions(tree: DataTree, chunk_bytes: int = snapshot.CHUNK_BYTES) -> Iterator[bytes]:
    sessions, tree.sessions = tree.sessions, {}
    try:
        return _stream(tree, chunk_bytes)
    finally:
        tree.sessions = sessions


MUTATIONS: Final = (
    Mutation(
        "session-ids-repeat",
        "A member that restarts gives out session ids again.",
        Patch(SessionIds, "__init__", _same_ids),
    ),
    Mutation(
        "session-before-commit",
        "A client is told that its session exists before that is committed.",
        Patch(Server, "create_session", _established_at_once),
    ),
    Mutation(
        "session-judged-by-follower",
        "A follower decides by its own tree whether a client's session still exists.",
        Patch(Server, "reopen_session", _judged_here),
    ),
    Mutation(
        "session-moves-ignored",
        "A request that a session sent by its former member is carried out though the session has moved on.",
        Patch(SessionTracker, "check", _never_moved),
        issue="ZK-417",
    ),
    Mutation(
        "touches-dropped",
        "A learner does not tell its leader which of its clients are alive.",
        Patch(Member, "_fill_pings", _touches_dropped),
    ),
    Mutation(
        "expires-at-election",
        "A new leader does not give sessions their whole timeout anew.",
        Patch(Server, "lead", _deadlines_passed),
        options={"voters": 3, "expiry": True},
    ),
    Mutation(
        "expires-with-connection",
        "A session ends when its connection to the leader breaks.",
        Patch(Server, "gone", _ends_with_the_connection),
    ),
    Mutation(
        "expiry-not-logged",
        "The leader forgets an expired session without a transaction that ends it.",
        Patch(Server, "expire", _expire_unlogged),
        faults=("silent_client",),
    ),
    Mutation(
        "request-after-close",
        "Requests of a session whose end is proposed already are still carried out.",
        Patch(SessionTracker, "set_closing", _never_closing),
        Patch(SessionTracker, "expired", _expired_still_open),
        Patch(Preparer, "prepare", _forget_the_closing),
        issue="ZK-1208",
        faults=("silent_client",),
    ),
    Mutation(
        "ephemeral-outlives-session",
        "The end of a session removes those of its ephemeral nodes that were applied when it was proposed.",
        Patch(Preparer, "_close_session", _close_the_applied),
        Patch(DataTree, "_close_session", _delete_the_named),
    ),
    Mutation(
        "snapshot-without-sessions",
        "Snapshots do not hold the sessions.",
        Patch(snapshot, "snapshot_stream", _without_sessions),
        Patch(member, "snapshot_stream", _without_sessions),
    ),
)
