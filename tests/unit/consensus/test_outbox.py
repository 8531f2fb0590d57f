"""The durability rule: what promises a write leaves when the write is durable, and not before."""

import pytest

from quorate.consensus.contract import Outbox
from quorate.consensus.zab.messages import Ping, UpToDate

PROMISE = Ping(1)
OTHER = Ping(2)


def test_a_message_without_a_promise_leaves_at_once() -> None:
    outbox: Outbox[Ping] = Outbox()
    outbox.token()
    outbox.send(7, OTHER)
    assert outbox.take() == {7: [OTHER]}
    assert outbox.take() == {}


def test_a_promise_waits_for_its_write_and_every_write_before_it() -> None:
    outbox: Outbox[Ping] = Outbox()
    first, second = outbox.token(), outbox.token()
    outbox.send_after(second, 7, PROMISE)
    assert outbox.take() == {}
    outbox.persisted(first)
    assert outbox.take() == {}
    outbox.persisted(second)
    assert outbox.take() == {7: [PROMISE]}


def test_one_sync_releases_all_that_it_covers_in_order() -> None:
    outbox: Outbox[Ping] = Outbox()
    for number in range(3):
        outbox.send_after(outbox.token(), 7, Ping(number))
    outbox.persisted(outbox.issued)
    assert outbox.take() == {7: [Ping(0), Ping(1), Ping(2)]}


def test_a_promise_on_a_durable_write_leaves_at_once() -> None:
    outbox: Outbox[Ping] = Outbox()
    token = outbox.token()
    outbox.persisted(token)
    outbox.send_after(token, 7, PROMISE)
    assert outbox.take() == {7: [PROMISE]}


def test_what_a_lost_channel_was_promised_is_never_sent() -> None:
    outbox: Outbox[Ping] = Outbox()
    token = outbox.token()
    outbox.send(7, OTHER)
    outbox.send_after(token, 7, PROMISE)
    outbox.send_after(token, 8, PROMISE)
    outbox.forget(7)
    outbox.persisted(token)
    assert outbox.take() == {8: [PROMISE]}


def test_promises_are_made_in_the_order_of_their_writes() -> None:
    outbox: Outbox[Ping] = Outbox()
    first, second = outbox.token(), outbox.token()
    outbox.send_after(second, 7, PROMISE)
    with pytest.raises(AssertionError):
        outbox.send_after(first, 7, OTHER)


@pytest.mark.parametrize("token", [0, 3])
def test_only_writes_under_way_can_become_durable(token: int) -> None:
    outbox: Outbox[Ping] = Outbox()
    outbox.persisted(outbox.token())
    outbox.token()
    with pytest.raises(AssertionError):
        outbox.persisted(token)


def test_state_tells_held_from_ready() -> None:
    ready: Outbox[UpToDate] = Outbox()
    held: Outbox[UpToDate] = Outbox()
    ready.send(1, UpToDate())
    held.send_after(held.token(), 1, UpToDate())
    assert ready.state() != held.state()
    assert hash(ready.state()) == hash(ready.state())


def test_what_is_sent_after_an_empty_box_was_taken_is_not_in_what_was_taken() -> None:
    """A driver that handles events after the drain, and sends what comes of them, must not send it again with the next."""
    box: Outbox[str] = Outbox()
    taken = box.take()
    box.send(1, "later")
    assert taken == {}
    assert box.take() == {1: ["later"]}
    assert box.take() == {}
