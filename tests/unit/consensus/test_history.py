"""The window of committed entries and the uncommitted tail."""

import pytest
from tests.unit.consensus.harness import entries, entry, zxid

from quorate.consensus.zab.history import History, follows
from quorate.errors import LocalProtocolError


@pytest.mark.parametrize(
    ("previous", "following", "expected"),
    [
        (zxid(1, 4), zxid(1, 5), True),
        (zxid(1, 4), zxid(1, 6), False),
        (zxid(1, 4), zxid(1, 4), False),
        (zxid(1, 4), zxid(3, 1), True),
        (zxid(1, 4), zxid(3, 2), False),
        (zxid(1, 4), zxid(2, 0), False),
        (zxid(2, 0), zxid(2, 1), True),
        (zxid(3, 1), zxid(2, 1), False),
        (0, 1, True),
        (0, zxid(1, 1), True),
    ],
)
def test_zxids_are_consecutive_and_an_epoch_starts_at_one(previous: int, following: int, expected: bool) -> None:
    assert follows(previous, following) is expected


def test_recovered_entries_are_a_tail_of_unknown_fate() -> None:
    history = History(zxid(1, 2), entries(1, 3, 5), 10)
    assert (history.base, history.committed, history.last) == (zxid(1, 2), zxid(1, 2), zxid(1, 5))
    assert history.tail() == entries(1, 3, 5)


def test_append_refuses_a_hole() -> None:
    history = History(0, entries(1, 1, 2), 10)
    with pytest.raises(LocalProtocolError, match="does not follow"):
        history.append(entry(1, 4))
    history.append(entry(1, 3))
    history.append(entry(4, 1))
    assert history.last == zxid(4, 1)


def test_commit_returns_each_entry_once_and_in_order() -> None:
    history = History(0, entries(1, 1, 5), 10)
    assert history.commit(zxid(1, 3)) == entries(1, 1, 3)
    assert history.commit(zxid(1, 2)) == []
    assert history.commit(zxid(1, 5)) == entries(1, 4, 5)
    assert history.committed == history.last == zxid(1, 5)


def test_commit_beyond_the_end_is_a_bug_of_ours() -> None:
    with pytest.raises(AssertionError):
        History(0, entries(1, 1, 2), 10).commit(zxid(1, 3))


def test_the_window_keeps_the_newest_committed_entries_and_moves_the_base() -> None:
    history = History(0, entries(1, 1, 6), 2)
    history.commit(zxid(1, 5))
    assert history.base == zxid(1, 3)
    assert history.after(history.base) == entries(1, 4, 6)
    assert zxid(1, 3) in history
    assert zxid(1, 2) not in history


def test_truncate_drops_the_tail_alone() -> None:
    history = History(0, entries(1, 1, 5), 10)
    history.commit(zxid(1, 2))
    assert history.truncate(zxid(1, 3)) == zxid(1, 3)
    assert history.last == zxid(1, 3)
    assert history.truncate(zxid(1, 2)) == zxid(1, 2)
    with pytest.raises(LocalProtocolError, match="cannot forget committed"):
        history.truncate(zxid(1, 1))


def test_truncate_to_a_zxid_it_lacks_says_where_it_ends() -> None:
    history = History(0, [*entries(1, 1, 2), *entries(5, 1, 2)], 10)
    assert history.truncate(zxid(4, 7)) == zxid(1, 2)


def test_before_and_after_meet_at_a_common_point() -> None:
    history = History(zxid(1, 1), [*entries(1, 2, 3), *entries(4, 1, 2)], 10)
    history.commit(zxid(1, 3))
    assert history.before(zxid(3, 9)) == zxid(1, 3)
    assert history.before(zxid(4, 2)) == zxid(4, 1)
    assert history.before(zxid(1, 2)) == zxid(1, 1)
    assert history.after(zxid(1, 3)) == entries(4, 1, 2)


def test_a_replacement_starts_over_from_a_snapshot() -> None:
    history = History(0, entries(1, 1, 5), 10).replacement(zxid(1, 4))
    assert (history.base, history.committed, history.last) == (zxid(1, 4),) * 3
    assert history.after(zxid(1, 4)) == []
    history.append(entry(1, 5))


def test_state_is_hashable_and_tells_histories_apart() -> None:
    one, other = History(0, entries(1, 1, 3), 10), History(0, entries(1, 1, 3), 10)
    assert one.state() == other.state()
    other.commit(zxid(1, 1))
    assert one.state() != other.state()
    assert hash(one.state()) != hash(other.state())
