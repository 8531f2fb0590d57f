"""Bugs in what a member does for requests: preparing, answering, reading, syncing, watches, snapshots for learners."""

from collections.abc import Iterator
from typing import Final

from quorate.binary import LONG
from quorate.consensus.zab.peer import Peer
from quorate.simulation.zookeeper.mutations.mutation import Mutation, Patch
from quorate.zookeeper import connection, prepare, reads
from quorate.zookeeper.acl import Acl
from quorate.zookeeper.changes import Change
from quorate.zookeeper.connection import ClientConnection, Pending
from quorate.zookeeper.constants import PERSISTENT_SEQUENTIAL, Code, Op
from quorate.zookeeper.handshake import ConnectRequest, decode_connect_request
from quorate.zookeeper.member import Member
from quorate.zookeeper.paths import parent_path
from quorate.zookeeper.prepare import Preparer
from quorate.zookeeper.reads import READS, ReadClient
from quorate.zookeeper.request import Request, RequestError
from quorate.zookeeper.server import HERE, Server
from quorate.zookeeper.snapshot import snapshot_stream
from quorate.zookeeper.tree import DataTree, Outcome
from quorate.zookeeper.txns import Create, Multi, SetData, Txn
from quorate.zookeeper.watches import Watcher, Watches, WatchTable

_create = Preparer._create
_set_data = Preparer._set_data
_take_back = Preparer._take_back
_next_version = prepare._next_version
_process = Server._process
_route = Server._route
_request = ClientConnection._request
_committed = ClientConnection.committed
_restore_watches = reads._restore_watches
_apply_multi = DataTree._multi
_fire = WatchTable.fire

# ---- preparing


def _any_version(current: int, expected: int) -> int:
    return _next_version(current, -1)


def _compare_with_applied(
    self: Preparer, request: Request, zxid: int, time: int, path: str, data: bytes | None, expected: int
) -> SetData:
    node = self._tree.nodes.get(path)
    if node is not None and expected != -1:
        if expected != node.version:
            raise RequestError(Code.BAD_VERSION)
        expected = -1
    return _set_data(self, request, zxid, time, path, data, expected)


def _number_by_children(
    self: Preparer,
    request: Request,
    zxid: int,
    time: int,
    op: int,
    path: str,
    data: bytes | None,
    acl: Acl,
    flags: int,
    ttl: int,
) -> Create:
    parent = self._find(path[: path.rfind("/")] or "/")
    if parent is not None and flags & PERSISTENT_SEQUENTIAL:
        path += f"{parent.children:010d}"
        flags &= ~PERSISTENT_SEQUENTIAL
    return _create(self, request, zxid, time, op, path, data, acl, flags, ttl)


def _keep_parents(self: Preparer, undo: dict[str, Change | None], zxid: int, digest: int) -> None:
    parents = {parent_path(path) for path in undo if path != "/"}
    changed = {path: self._changes[path] for path in sorted(parents) if path in self._changes}
    _take_back(self, undo, zxid, digest)
    for path, change in changed.items():
        self._changes[path] = change
        self._order.append((zxid, path))


def _twice(self: Server, request: Request) -> None:
    _process(self, request)
    if request.origin != HERE and request.op in (Op.CREATE, Op.CREATE2, Op.SET_DATA, Op.DELETE):
        _process(self, request)


def _zxid_of_the_batch(self: Peer) -> int:
    leader = self.leader
    assert leader is not None
    return leader._proposed[0].zxid if leader._proposed else leader.next_zxid


# ---- answering

_ANSWER: Final = 1 << 20
_REFUSAL: Final = _ANSWER + 1


def _answer(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    return body


def _refuse(tree: DataTree, body: bytes, client: ReadClient) -> bytes:
    raise RequestError(LONG.unpack(body)[0])


def _read_on_arrival(self: ClientConnection, xid: int, op: int, body: bytes, now: int) -> None:
    if op not in READS:
        _request(self, xid, op, body, now)
        return
    try:
        answer = READS[op](self._server.tree, body, self)
    except RequestError as error:
        self.pending.append(Pending(xid, 0, _REFUSAL, LONG.pack(error.code), False, now))
    else:
        self.pending.append(Pending(xid, 0, _ANSWER, answer, False, now))


def _answer_whoever_waits(self: ClientConnection, txn: Txn, outcome: Outcome) -> None:
    if self.pending and self.pending[0].op == getattr(txn.record, "op", -1):
        txn.cxid = self.pending[0].cxid
    _committed(self, txn, outcome)


def _sync_here(self: Server, request: Request) -> None:
    core = self._core
    if request.op == Op.SYNC and core is not None and core.following:
        client = self.by_session.get(request.session)
        if client is not None and client.pending[0].xid == request.cxid:
            client.synced(request.cxid)
            return
    _route(self, request)


def _seen_nothing(frame: bytes) -> ConnectRequest:
    request = decode_connect_request(frame)
    request.last_zxid = 0
    return request


def _named_by_the_log(self: Member) -> tuple[int, Iterator[bytes]]:
    return self.store.last_zxid, snapshot_stream(self.server.tree)


# ---- watches


def _notify_later(self: ClientConnection, frame: bytes) -> None:
    self._server.soon(lambda: self._send(frame))


def _fire_and_keep(self: WatchTable, path: str) -> dict[Watcher, int]:
    return dict(self.watchers.get(path, {}))


def _fire_the_first(self: WatchTable, path: str) -> dict[Watcher, int]:
    watchers = _fire(self, path)
    return dict(list(watchers.items())[:1])


def _restore_from_now(tree: DataTree, body: bytes, client: ReadClient, kinds: int) -> bytes:
    return _restore_watches(tree, LONG.pack((1 << 63) - 1) + body[8:], client, kinds)


def _silent_multi(self: DataTree, multi: Multi, txn: Txn, reply: bool) -> Outcome:
    watches, self.watches = self.watches, Watches()
    try:
        return _apply_multi(self, multi, txn, reply)
    finally:
        self.watches = watches


MUTATIONS: Final = (
    Mutation(
        "version-ignored",
        "A version that a client expects is not compared.",
        Patch(prepare, "_next_version", _any_version),
    ),
    Mutation(
        "version-of-applied",
        "A version is compared with that of the tree as it is, not as it will be after what is proposed already.",
        Patch(Preparer, "_set_data", _compare_with_applied),
    ),
    Mutation(
        "sequence-by-children",
        "A sequential node's number is how many children there are, not how many there ever were.",
        Patch(Preparer, "_create", _number_by_children),
    ),
    Mutation(
        "multi-leaks",
        "What a failed multi predicted of its nodes' parents is not taken back.",
        Patch(Preparer, "_take_back", _keep_parents),
        issue="ZK-1624",
    ),
    Mutation(
        "forwarded-twice",
        "A request that a learner forwards is carried out twice.",
        Patch(Server, "_process", _twice),
    ),
    Mutation(
        "zxid-reused",
        "All requests of one batch are stamped with the zxid of its first.",
        Patch(Peer, "next_zxid", property(_zxid_of_the_batch)),
    ),
    Mutation(
        "read-on-arrival",
        "A read that follows a write of its session is carried out before that write is, and answered after it.",
        Patch(ClientConnection, "_request", _read_on_arrival),
        Patch(connection, "READS", {**READS, _ANSWER: _answer, _REFUSAL: _refuse}),
    ),
    Mutation(
        "reply-to-whoever-waits",
        "A transaction of a session's earlier connection answers the request that its new one waits for.",
        Patch(ClientConnection, "committed", _answer_whoever_waits),
    ),
    Mutation(
        "sync-at-follower",
        "A follower answers sync without asking its leader.",
        Patch(Server, "_route", _sync_here),
        issue="ZK-1675",
    ),
    Mutation(
        "seen-zxid-ignored",
        "A member takes a client that has seen later states than its own.",
        Patch(connection, "decode_connect_request", _seen_nothing),
    ),
    Mutation(
        "snap-named-by-log",
        "The snapshot for a learner is labelled with the last zxid logged, not the last applied.",
        Patch(Member, "snapshot_stream", _named_by_the_log),
        issue="ZK-3642",
        options={"commit_log": 1},
    ),
    Mutation(
        "watch-after-reply",
        "A watch's event leaves after the replies of its batch.",
        Patch(ClientConnection, "notify", _notify_later),
    ),
    Mutation(
        "watch-fires-again",
        "A watch stays when it has fired.",
        Patch(WatchTable, "fire", _fire_and_keep),
    ),
    Mutation(
        "watch-fires-for-one",
        "Of several clients that watch a node only the first is told.",
        Patch(WatchTable, "fire", _fire_the_first),
    ),
    Mutation(
        "watch-lost-at-reconnect",
        "Watches that a reconnecting client sets again are not compared with what it has seen.",
        Patch(reads, "_restore_watches", _restore_from_now),
    ),
    Mutation(
        "watch-silent-in-multi",
        "What a multi changes fires no watches.",
        Patch(DataTree, "_multi", _silent_multi),
    ),
)
