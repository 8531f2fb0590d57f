"""Session tracking: who is alive, and whose connection a session is (SessionTrackerImpl, ExpiryQueue, LearnerSessionTracker).

The leader (and a standalone server) keeps a :class:`SessionTracker`. Sessions expire in buckets one tick apart: an
expiry time is rounded up to the next tick, so that a touch mostly changes nothing, and thousands of sessions end in one
pass. A learner keeps no clocks: it collects who was heard of in :class:`LearnerSessions` and tells the leader with every
PING.

Session ids and timeouts (ms) are the protocol's; ``now`` and deadlines are nanoseconds on the environment's clock.
"""

from struct import Struct

from quorate.consensus.contract import NEVER
from quorate.errors import RemoteProtocolError
from quorate.runtime.environment import MILLISECOND
from quorate.zookeeper.constants import CONTAINER_OWNER, Code

_TOUCH = Struct(">qi")

# plain integers: to look an enumeration's member up costs as much as the check
_OK = int(Code.OK)
_EXPIRED = int(Code.SESSION_EXPIRED)
_MOVED = int(Code.SESSION_MOVED)

MAX_TOUCHES = 1_000_000
"""Sessions one PING may name: more than a server has connections, and bounds what a peer can make us keep."""


class Session:
    """A session as the tracker knows it. ``expires`` counts ticks; ``owner`` is the origin it last came by, 0 or a link.

    ``owner`` is NO_OWNER until the first request or re-attachment tells.
    """

    __slots__ = ("closing", "expires", "id", "owner", "timeout")

    def __init__(self, id_: int, timeout: int, expires: int) -> None:
        self.id = id_
        self.timeout = timeout
        self.expires = expires
        self.owner = NO_OWNER
        self.closing = False


NO_OWNER = 1
"""No origin: those are 0 (the leader itself) and the numbers of its links, which are negative (quorum_links)."""


class SessionTracker:
    """All sessions of the ensemble, on the leader or a standalone server.

    A session is in exactly one bucket, by its ``expires``, from ``add`` until it expires or is removed; an expired one
    stays known, marked closing, until its closeSession transaction is applied and ``remove`` called.
    """

    __slots__ = ("_buckets", "_next", "_sessions", "_tick")

    def __init__(self, tick_ms: int) -> None:
        assert tick_ms > 0, "a tick lasts"
        self._tick = tick_ms * MILLISECOND
        self._sessions: dict[int, Session] = {}
        self._buckets: dict[int, dict[int, Session]] = {}
        self._next = NEVER
        """No bucket is earlier, NEVER if there is none; the bucket itself may have emptied since."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: int) -> bool:
        return session in self._sessions

    def add(self, session: int, timeout: int, now: int) -> bool:
        """Track a session, or touch it if it is tracked already; True if it is new."""
        known = self._sessions.get(session)
        if known is not None:
            known.timeout = timeout
            self.touch(session, timeout, now)
            return False
        expires = (now + timeout * MILLISECOND) // self._tick + 1
        entry = Session(session, timeout, expires)
        self._sessions[session] = entry
        self._put(entry, expires)
        return True

    def touch(self, session: int, timeout: int, now: int) -> bool:
        """The session was heard of. False if it is not tracked or is closing: its client must be told it expired."""
        entry = self._sessions.get(session)
        if entry is None or entry.closing:
            return False
        expires = (now + timeout * MILLISECOND) // self._tick + 1
        if expires != entry.expires:
            self._take(entry)
            entry.expires = expires
            self._put(entry, expires)
        return True

    def expired(self, now: int) -> list[int]:
        """The sessions whose time is up, in the order of their ids; each is told once, and is closing from here on."""
        due = now // self._tick
        if self._next == NEVER or self._next > due:
            return []
        ids: list[int] = []
        for bucket in [bucket for bucket in self._buckets if bucket <= due]:
            for entry in self._buckets.pop(bucket).values():
                entry.closing = True
                ids.append(entry.id)
        self._next = min(self._buckets, default=NEVER)
        ids.sort()
        return ids

    def next_expiry(self) -> int:
        """When ``expired`` must next be called, NEVER if there is nothing to wait for."""
        return NEVER if self._next == NEVER else self._next * self._tick

    def set_closing(self, session: int) -> None:
        """A closeSession is on its way: requests that come after it are refused."""
        entry = self._sessions.get(session)
        if entry is not None:
            entry.closing = True

    def remove(self, session: int) -> None:
        """The session's closeSession transaction is applied."""
        entry = self._sessions.pop(session, None)
        if entry is not None:
            self._take(entry)

    def check(self, session: int, origin: int) -> int:
        """May a request of ``session`` that came by ``origin`` go ahead: OK, SESSION_EXPIRED or SESSION_MOVED.

        The first origin that asks owns the session until another one attaches it (``set_owner``).
        """
        entry = self._sessions.get(session)
        if entry is None or entry.closing:
            return _EXPIRED
        if entry.owner == origin:
            return _OK
        if entry.owner == NO_OWNER:
            entry.owner = origin
            return _OK
        return _MOVED

    def set_owner(self, session: int, origin: int) -> int:
        """The session's client has connected by ``origin``: OK, or SESSION_EXPIRED if it is gone or closing."""
        entry = self._sessions.get(session)
        if entry is None or entry.closing:
            return _EXPIRED
        entry.owner = origin
        return _OK

    def timeouts(self) -> dict[int, int]:
        """Session to timeout in ms."""
        return {session: entry.timeout for session, entry in self._sessions.items()}

    def expiries(self) -> dict[int, list[int]]:
        """Expiry time to the sessions that expire then, both ascending."""
        return {bucket * self._tick: sorted(self._buckets[bucket]) for bucket in sorted(self._buckets)}

    def _put(self, entry: Session, expires: int) -> None:
        bucket = self._buckets.get(expires)
        if bucket is None:
            self._buckets[expires] = {entry.id: entry}
            if self._next == NEVER or expires < self._next:
                self._next = expires
        else:
            bucket[entry.id] = entry

    def _take(self, entry: Session) -> None:
        # a bucket that empties stays until its time: dropping it now would make every touch look for the next one
        bucket = self._buckets.get(entry.expires)
        if bucket is not None:
            bucket.pop(entry.id, None)


class LearnerSessions:
    """The sessions a learner has heard of since its last PING: {i64 session, i32 timeout}* in the reply's data."""

    __slots__ = ("_touched",)

    def __init__(self) -> None:
        self._touched: dict[int, int] = {}

    def touch(self, session: int, timeout: int) -> None:
        self._touched[session] = timeout

    def forget(self, session: int) -> None:
        """The session has ended or left for another server; to touch it from here would keep it alive."""
        self._touched.pop(session, None)

    def take(self) -> bytes:
        """The data of the PING reply; the table is empty after."""
        touched = self._touched
        if not touched:
            return b""
        self._touched = {}
        pack = _TOUCH.pack
        return b"".join([pack(session, timeout) for session, timeout in touched.items()])


def parse_touches(data: bytes) -> list[tuple[int, int]]:
    """The (session, timeout) pairs in a learner's PING. Raises RemoteProtocolError."""
    if len(data) % _TOUCH.size:
        raise RemoteProtocolError(f"ping data of {len(data)} bytes, expected a multiple of {_TOUCH.size}")
    if len(data) > MAX_TOUCHES * _TOUCH.size:
        raise RemoteProtocolError(f"ping names {len(data) // _TOUCH.size} sessions, expected at most {MAX_TOUCHES}")
    return list(_TOUCH.iter_unpack(data))


class SessionIds:
    """Ids for new sessions: the server's id in the first byte, then 40 bits of ms since the epoch, then a count.

    Starting from the time, a server that restarts does not give out an id again. Ids are signed 64-bit.
    """

    __slots__ = ("_next",)

    def __init__(self, server: int, wall_ms: int) -> None:
        assert 0 <= server <= 0xFF, f"server id {server} does not fit the first byte of a session id"
        self._next = server << 56 | (wall_ms & 0xFFFFFFFFFF) << 16

    def next(self) -> int:
        unsigned = self._next & 0xFFFFFFFFFFFFFFFF
        session = unsigned - (1 << 64) if unsigned >> 63 else unsigned
        self._next += 1
        # 0 asks for a new session, and a container's nodes are told by their owner
        return self.next() if session in (0, CONTAINER_OWNER) else session
