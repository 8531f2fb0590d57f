"""The core of an ensemble of one, and the voter that is alone in its ensemble."""

import pytest
from tests.unit.consensus.harness import Solo, entries, zxid

from quorate.consensus.contract import NEVER
from quorate.consensus.zab.messages import REQUEST, Entry, Ping, Service, State
from quorate.consensus.zab.replica import Append, RoleChange, StoreAcceptedEpoch, StoreCurrentEpoch, Synced
from quorate.consensus.zab.standalone import Standalone
from quorate.errors import LocalProtocolError


def zxids(events: list[object]) -> list[int]:
    return [event.zxid for event in events if isinstance(event, Entry)]


def test_what_it_logged_before_is_committed_at_the_start() -> None:
    core = Standalone(zxid(1, 2), entries(1, 3, 4), 10)
    core.start(0)
    events = core.drain().events
    assert zxids([*events]) == [zxid(1, 3), zxid(1, 4)]
    assert events[-1] == RoleChange(State.LEADING, 0, 1, True)
    assert core.leading
    assert core.next_zxid == zxid(1, 5)
    assert core.deadline() == NEVER


def test_what_it_recovered_is_not_served_before_it_is_durable() -> None:
    core = Standalone(0, entries(0, 1, 2), 10)
    recovered = core.recovering()
    core.start(0)
    assert core.drain().events == []
    assert not core.leading
    core.persisted(recovered)
    assert zxids([*core.drain().events]) == [1, 2]
    assert core.leading


def test_nothing_is_committed_before_it_is_durable() -> None:
    core = Standalone(0, [], 10)
    core.start(0)
    core.drain()
    first, second = core.propose(b"a"), core.propose(b"b")
    drained = core.drain()
    assert [first, second] == [1, 2]
    assert drained.events == []
    (write,) = drained.writes
    assert isinstance(write, Append)
    assert [entry.payload for entry in write.entries] == [b"a", b"b"]
    core.propose(b"c")
    core.persisted(write.token)
    drained = core.drain()
    assert zxids([*drained.events]) == [1, 2]
    core.persisted(drained.writes[0].token)
    assert zxids([*core.drain().events]) == [3]


def test_sync_waits_for_what_was_proposed_before_it() -> None:
    core = Standalone(0, [], 10)
    core.start(0)
    core.sync(0, "early")
    assert core.drain().events[-1] == Synced(0, "early")
    core.propose(b"a")
    core.sync(0, "late")
    (write,) = core.drain().writes
    core.persisted(write.token)
    assert core.drain().events[-1] == Synced(0, "late")


def test_sync_has_its_place_among_what_is_committed_at_once() -> None:
    core = Standalone(0, [], 10)
    core.start(0)
    core.drain()
    core.propose(b"a")
    core.sync(0, "first")
    core.sync(0, "second")
    core.propose(b"b")
    core.sync(0, "third")
    (write,) = core.drain().writes
    core.persisted(write.token)
    told = [event.zxid if isinstance(event, Entry) else event for event in core.drain().events]
    assert told == [1, Synced(0, "first"), Synced(0, "second"), 2, Synced(0, "third")]


def test_there_is_nobody_to_talk_to() -> None:
    core = Standalone(0, [], 10)
    with pytest.raises(LocalProtocolError):
        core.send_to_leader(Service(REQUEST, b""))
    with pytest.raises(LocalProtocolError):
        core.send_to_learner(-1, Service(REQUEST, b""))
    with pytest.raises(LocalProtocolError):
        core.receive(-1, Ping(0))


def test_state_follows_what_happened() -> None:
    one, other = Standalone(0, [], 10), Standalone(0, [], 10)
    assert one.state() == other.state()
    other.start(0)
    assert one.state() != other.state()
    hash(other.state())


def test_a_single_voter_elects_itself_and_enters_a_new_epoch_in_order() -> None:
    solo = Solo(1, voters=(1,), tail=entries(3, 1, 2), accepted_epoch=4, current_epoch=3)
    assert solo.role.state == State.LEADING
    assert not solo.role.serving
    done = solo.persist()
    assert [type(write) for write in done] == [StoreAcceptedEpoch, StoreCurrentEpoch]
    assert solo.applied() == [zxid(3, 1), zxid(3, 2)]
    assert solo.role == RoleChange(State.LEADING, 1, 5, True)
    assert solo.peer.propose(b"x") == zxid(5, 1)
    solo.drain()
    assert solo.applied() == [zxid(3, 1), zxid(3, 2)]
    solo.persist()
    assert solo.applied()[-1] == zxid(5, 1)


def test_a_single_voter_serves_its_observers() -> None:
    solo = Solo(1, voters=(1,), observers=(2,))
    solo.persist()
    solo.inform(-1, 2, observer=True)
    assert solo.take(-1) != []
