"""Session tracking: when sessions expire, who owns them, what learners report."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.consensus.contract import NEVER
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.constants import Code
from quorate.zookeeper.sessions import LearnerSessions, SessionIds, SessionTracker, parse_touches

MS = 1_000_000
TICK = 2000
TICK_NS = TICK * MS


def test_an_expiry_is_rounded_up_to_the_next_tick() -> None:
    tracker = SessionTracker(TICK)
    assert tracker.next_expiry() == NEVER
    tracker.add(1, 4000, 0)
    # exactly on a tick still goes to the next one, as ExpiryQueue.roundToNextInterval does
    assert tracker.next_expiry() == 6000 * MS
    assert tracker.expired(6000 * MS - 1) == []
    assert tracker.expired(6000 * MS) == [1]
    assert tracker.expired(60000 * MS) == []
    assert tracker.next_expiry() == NEVER


def test_sessions_expire_in_the_order_of_their_ids_and_once() -> None:
    tracker = SessionTracker(TICK)
    for session in (5, -3, 9, 1):
        tracker.add(session, 4000, 0)
    tracker.add(2, 8000, 0)
    tracker.add(0x7F, 40000, 0)
    assert tracker.expired(10000 * MS) == [-3, 1, 2, 5, 9]
    assert tracker.expired(10000 * MS) == []
    assert tracker.next_expiry() == 42000 * MS
    assert len(tracker) == 6, "expired sessions are known until they are removed"


def test_a_touch_prolongs() -> None:
    tracker = SessionTracker(TICK)
    tracker.add(1, 4000, 0)
    assert tracker.touch(1, 4000, 3000 * MS)
    assert tracker.expired(6000 * MS) == []
    assert tracker.next_expiry() == 8000 * MS
    assert tracker.expired(8000 * MS) == [1]


def test_closing_and_unknown_sessions_cannot_be_touched() -> None:
    tracker = SessionTracker(TICK)
    assert not tracker.touch(1, 4000, 0)
    tracker.add(1, 4000, 0)
    tracker.set_closing(1)
    tracker.set_closing(2)
    assert not tracker.touch(1, 4000, 0)
    tracker.remove(1)
    tracker.remove(1)
    assert 1 not in tracker
    assert not tracker.touch(1, 4000, 0)
    assert tracker.expired(1 << 60) == []


def test_adding_a_known_session_touches_it() -> None:
    tracker = SessionTracker(TICK)
    assert tracker.add(1, 4000, 0)
    assert not tracker.add(1, 20000, 1000 * MS)
    assert tracker.timeouts() == {1: 20000}
    assert tracker.expired(20000 * MS) == []
    assert tracker.expired(22000 * MS) == [1]


def test_the_first_origin_owns_a_session_until_another_attaches_it() -> None:
    tracker = SessionTracker(TICK)
    tracker.add(1, 4000, 0)
    assert tracker.check(1, 7) == Code.OK
    assert tracker.check(1, 7) == Code.OK
    assert tracker.check(1, 0) == Code.SESSION_MOVED
    assert tracker.set_owner(1, 0) == Code.OK
    assert tracker.check(1, 0) == Code.OK
    assert tracker.check(1, 7) == Code.SESSION_MOVED


def test_requests_of_sessions_that_are_gone_or_going_are_refused() -> None:
    tracker = SessionTracker(TICK)
    assert tracker.check(1, 0) == Code.SESSION_EXPIRED
    assert tracker.set_owner(1, 0) == Code.SESSION_EXPIRED
    tracker.add(1, 4000, 0)
    assert tracker.expired(6000 * MS) == [1]
    assert tracker.check(1, 0) == Code.SESSION_EXPIRED
    assert tracker.set_owner(1, 0) == Code.SESSION_EXPIRED


def test_expiries_are_sorted_for_reports() -> None:
    tracker = SessionTracker(TICK)
    for session, timeout in ((3, 9000), (2, 4000), (1, 4500)):
        tracker.add(session, timeout, 0)
    assert tracker.expiries() == {6000 * MS: [1, 2], 10000 * MS: [3]}


class Model:
    """The same, without buckets: every session with the tick at which it expires."""

    def __init__(self) -> None:
        self.sessions: dict[int, int] = {}
        self.closing: set[int] = set()
        self.told: set[int] = set()


OPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "touch", "close", "remove", "expire"]),
        st.integers(-4, 4),
        st.integers(0, 12000),
        st.integers(0, 5000),
    ),
    max_size=60,
)


@given(OPS)
@settings(max_examples=300)
def test_any_sequence_of_calls_expires_what_a_plain_table_would(ops: list[tuple[str, int, int, int]]) -> None:
    tracker = SessionTracker(TICK)
    model = Model()
    now = 0
    for name, session, timeout, pause in ops:
        now += pause * MS
        expires = ((now + timeout * MS) // TICK_NS + 1) * TICK_NS
        alive = session in model.sessions and session not in model.closing
        if name == "add":
            assert tracker.add(session, timeout, now) == (session not in model.sessions)
            if session not in model.sessions or alive:
                model.sessions[session] = expires
        elif name == "touch":
            assert tracker.touch(session, timeout, now) == alive
            if alive:
                model.sessions[session] = expires
        elif name == "close":
            tracker.set_closing(session)
            if session in model.sessions:
                model.closing.add(session)
        elif name == "remove":
            tracker.remove(session)
            model.sessions.pop(session, None)
            model.closing.discard(session)
            model.told.discard(session)
        else:
            due = sorted(s for s, when in model.sessions.items() if when <= now and s not in model.told)
            assert tracker.expired(now) == due
            model.told.update(due)
            model.closing.update(due)
        waiting = [when for s, when in model.sessions.items() if s not in model.told]
        if waiting:
            # the deadline may be early (a bucket that has emptied), never late
            assert NEVER != tracker.next_expiry() <= min(waiting)


def test_a_learner_reports_each_session_once_and_starts_afresh() -> None:
    sessions = LearnerSessions()
    assert sessions.take() == b""
    sessions.touch(-2, 4000)
    sessions.touch(0x100001C91150002, 10000)
    sessions.touch(-2, 5000)
    sessions.touch(3, 1)
    sessions.forget(3)
    sessions.forget(4)
    data = sessions.take()
    assert data.hex() == "fffffffffffffffe" + "00001388" + "0100001c91150002" + "00002710"
    assert parse_touches(data) == [(-2, 5000), (0x100001C91150002, 10000)]
    assert sessions.take() == b""


def test_ping_data_that_is_no_table_is_refused() -> None:
    assert parse_touches(b"") == []
    with pytest.raises(RemoteProtocolError, match="ping data of 13 bytes, expected a multiple of 12"):
        parse_touches(bytes(13))
    with pytest.raises(RemoteProtocolError, match="ping names 1000001 sessions, expected at most 1000000"):
        parse_touches(bytes(12_000_012))


def test_ids_start_from_the_server_and_the_time() -> None:
    ids = SessionIds(1, 0x1B3ABA)
    assert [ids.next(), ids.next()] == [0x100001B3ABA0000, 0x100001B3ABA0001]
    # only 40 bits of the time fit
    assert SessionIds(2, 1 << 40 | 0xABC).next() == 2 << 56 | 0xABC << 16


def test_ids_of_high_servers_are_negative_and_special_ones_are_skipped() -> None:
    assert SessionIds(0xFE, 1).next() == (0xFE << 56 | 1 << 16) - (1 << 64)
    # a container's ephemeralOwner is 0x8000000000000000, and 0 asks for a new session
    assert SessionIds(0x80, 0).next() == -(1 << 63) + 1
    assert SessionIds(0, 0).next() == 1


def test_a_server_that_restarts_gives_out_other_ids() -> None:
    before = SessionIds(3, 1795430512829)
    given_out = {before.next() for _ in range(1000)}
    after = SessionIds(3, 1795430512830)
    assert given_out.isdisjoint({after.next() for _ in range(1000)})


def test_every_link_can_own_a_session() -> None:
    """Links are numbered -1, -2, ...: the first one is an owner like any other."""
    for owner, other in ((-1, -2), (-2, -1), (0, -1), (-1, 0)):
        tracker = SessionTracker(2000)
        tracker.add(7, 4000, 0)
        assert tracker.set_owner(7, owner) == Code.OK
        assert tracker.check(7, other) == Code.SESSION_MOVED
        assert tracker.check(7, owner) == Code.OK
