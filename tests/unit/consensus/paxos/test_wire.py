"""Messages as bytes: what is packed comes back, and what is no message is refused before memory is taken."""

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.consensus.paxos import wire
from quorate.consensus.paxos.members import Member, pack, unpack
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Behind,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Lead,
    Message,
    Nack,
    Prepare,
    Probe,
    ProbeReply,
    Promise,
    ReadReply,
    ReadRequest,
)
from quorate.errors import RemoteProtocolError, UsageError

numbers = st.integers(0, (1 << 64) - 1)
entries = st.lists(st.builds(Entry, st.integers(0, 2), st.binary(max_size=50)), max_size=4).map(tuple)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Probe, numbers),
    st.builds(ProbeReply, numbers, st.booleans(), numbers),
    st.builds(Prepare, numbers, numbers, numbers, numbers, numbers),
    st.builds(Promise, numbers, numbers, numbers, numbers, numbers, entries),
    st.builds(AcceptSync, numbers, numbers, entries, numbers),
    st.builds(Accept, numbers, numbers, entries, numbers),
    st.builds(Accepted, numbers, numbers),
    st.builds(Behind, numbers, numbers),
    st.builds(Lead, numbers),
    st.builds(ReadRequest, numbers),
    st.builds(ReadReply, numbers, st.integers(-1, (1 << 63) - 1)),
    st.builds(Nack, numbers, numbers),
)


@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), messages), max_size=5), st.integers(1, 50))
def test_whatever_is_packed_comes_back_however_it_is_cut(sent: list[tuple[int, Message]], cut: int) -> None:
    pieces = [piece for group, message in sent for piece in wire.pack(group, message)]
    data = wire.frame(pieces)
    frames = wire.Frames()
    found = [frame for at in range(0, len(data), cut) for frame in frames.feed(data[at : at + cut])]
    assert len(found) == 1
    assert [(group, wire.unpack(kind, body)) for group, kind, body in wire.items(found[0])] == sent


@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), numbers, numbers, numbers), max_size=5))
def test_heartbeats_of_many_groups_are_one_item(rows: list[tuple[int, int, int, int]]) -> None:
    beats = [(group, Heartbeat(ballot, number, decided)) for group, ballot, number, decided in rows]
    replies = [(group, HeartbeatReply(ballot, number)) for group, ballot, number, _ in rows]
    found = wire.items(wire.frame([*wire.pack_heartbeats(beats), *wire.pack_heartbeat_replies(replies)])[4:])
    assert [kind for _, kind, _ in found] == [wire.HEARTBEATS, wire.HEARTBEAT_REPLIES]
    assert wire.unpack_heartbeats(found[0][2]) == beats
    assert wire.unpack_heartbeat_replies(found[1][2]) == replies


@given(st.integers(0, 20), st.binary(max_size=80))
def test_other_bytes_are_refused_and_nothing_else_happens(kind: int, body: bytes) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: wire.unpack(kind, body),
        lambda: wire.items(body),
        lambda: wire.unpack_heartbeats(body),
        lambda: unpack(body),
    )
    for call in calls:
        with suppress(RemoteProtocolError):
            call()


def test_lengths_are_checked_before_anything_is_kept() -> None:
    with pytest.raises(RemoteProtocolError, match="a frame of 4294967295 bytes, at most"):
        wire.Frames().feed(b"\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError, match="an item of 100 bytes where 1 are left"):
        wire.items(struct.pack(">IBI", 1, wire.PROBE, 100) + b"x")
    with pytest.raises(RemoteProtocolError, match="an entry of kind 0 and 1000 bytes where 2 bytes are left"):
        wire.unpack(wire.ACCEPT, bytes(24) + struct.pack(">BI", 0, 1000) + b"xx")
    with pytest.raises(RemoteProtocolError, match="unknown kind 77"):
        wire.unpack(77, b"")


def test_members_are_packed_in_order_and_bounded() -> None:
    members = (Member(3, {"peer": "h3:1"}), Member(1, {"peer": "h1:1", "client": "h1:2"}), Member(2, {}))
    assert unpack(pack(members)) == (members[1], members[2], members[0])
    with pytest.raises(UsageError, match="40 members: at most 31"):
        pack([Member(sid, {}) for sid in range(1, 41)])
    with pytest.raises(UsageError, match="member 1: its addresses take 2005 bytes"):
        pack([Member(1, {"peer": "x" * 2000})])
    with pytest.raises(RemoteProtocolError, match=r"a list of 2 members, numbered \[1, 1\]"):
        unpack(struct.pack(">HHHHH", 2, 1, 0, 1, 0))


def test_an_accept_on_the_wire() -> None:
    message = Accept(0x10001, 7, (Entry(0, b"ab"), Entry(1, b"")), 6)
    assert wire.frame(wire.pack(5, message)).hex() == (
        "0000002d" "00000005" "06" "00000024"
        "0000000000010001" "0000000000000007" "0000000000000006"
        "00" "00000002" "6162" "01" "00000000"
    )  # fmt: skip
