"""Bytes of connections in words: what production encoders make is named, cut anywhere, and garbage never raises."""

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.binary import INT, LONG, pack_buffer, pack_string
from quorate.consensus.zab.messages import (
    REQUEST,
    REVALIDATE,
    SYNC,
    AckEpoch,
    Acks,
    Commits,
    Diff,
    Entry,
    FollowerInfo,
    LeaderInfo,
    Message,
    NewLeader,
    Notification,
    Ping,
    Proposals,
    Service,
    Snap,
    State,
    Trunc,
    UpToDate,
    Vote,
)
from quorate.consensus.zab.wire import SNAPSHOT_SIGNATURE, encode, encode_notification, greeting
from quorate.simulation.describing import Describer, Kind
from quorate.zookeeper.acl import OPEN_ACL, pack_acl
from quorate.zookeeper.constants import Code, Event, Op
from quorate.zookeeper.handshake import encode_connect_response, encode_refusal
from quorate.zookeeper.snapshot import snapshot_stream
from quorate.zookeeper.tree import DataTree
from quorate.zookeeper.txns import Create, CreateSession, Error, Multi, Record, SetData, Txn
from quorate.zookeeper.watches import event_frame

E1 = 1 << 32
SESSION = 0x1000000000A0001


def entry(counter: int, record: Record, session: int = SESSION) -> Entry:
    return Entry(E1 + counter, Txn(session, counter, E1 + counter, 0, record).pack())


def frame(body: bytes) -> bytes:
    return INT.pack(len(body)) + body


QUORUM: list[tuple[Message, str]] = [
    (FollowerInfo(2, 3, False), "FOLLOWERINFO from 2, accepted epoch 3"),
    (FollowerInfo(4, 3, True), "OBSERVERINFO from 4, accepted epoch 3"),
    (LeaderInfo(4), "LEADERINFO epoch 4"),
    (AckEpoch(E1 + 9, 1), "ACKEPOCH 0x100000009, current epoch 1"),
    (Diff(E1 + 4), "DIFF 0x100000004"),
    (Trunc(E1 + 4), "TRUNC 0x100000004"),
    (NewLeader(2 * E1), "NEWLEADER 0x200000000"),
    (UpToDate(), "UPTODATE"),
    (Ping(E1), "PING"),
    (Acks(E1 + 1, E1 + 3), "ACK 0x100000001..3"),
    (Acks(E1 + 1, E1 + 1), "ACK 0x100000001"),
    (Commits(E1 + 1, E1 + 2), "COMMIT 0x100000001..2"),
    (Proposals([entry(1, SetData("/a", b"x", 3))]), "PROPOSAL 0x100000001 setData /a version 3 by 0x1000000000a0001"),
    (Proposals([entry(1, CreateSession(4000), 0)], inform=True), "INFORM 0x100000001 createSession"),
    (
        Proposals([entry(1, Error(Code.NO_NODE)), entry(2, Create(Op.CREATE2, "/b", None, OPEN_ACL, False, 1))]),
        "PROPOSAL 0x100000001 error NO_NODE by 0x1000000000a0001; PROPOSAL 0x100000002 create2 /b by 0x1000000000a0001",
    ),
    (
        Proposals([entry(n, SetData("/a", b"", n)) for n in range(1, 20)]),
        "PROPOSAL 0x100000001..13 (19 transactions)",
    ),
    (
        Proposals([entry(7, Multi([SetData("/a", b"", 1), SetData("/b", b"", 1)]), 0)]),
        "PROPOSAL 0x100000007 multi [setData /a version 1, setData /b version 1]",
    ),
    (
        Service(REQUEST, Struct(">qii").pack(SESSION, 5, Op.SET_DATA) + pack_string("/a"), ()),
        "REQUEST setData /a xid 5 of 0x1000000000a0001",
    ),
    (Service(REVALIDATE, Struct(">qi").pack(SESSION, 4000)), "REVALIDATE 0x1000000000a0001 timeout 4000 ms"),
    (Service(REVALIDATE, Struct(">q?").pack(SESSION, False)), "REVALIDATE 0x1000000000a0001 not valid"),
    (Service(SYNC, None), "SYNC"),
]


@pytest.mark.parametrize(("message", "words"), QUORUM)
def test_every_packet_of_the_quorum_port_is_named(message: Message, words: str) -> None:
    assert Describer("quorum", toward_server=True).feed(encode(message)) == words


def test_frames_of_one_chunk_are_joined_and_a_part_of_one_is_said_to_be_one() -> None:
    describer = Describer("quorum", toward_server=False)
    data = encode(Diff(E1)) + encode(NewLeader(2 * E1))
    assert describer.feed(data[:30]) == "DIFF 0x100000000"
    assert describer.feed(data[30:32]) == "partial frame, 12 bytes so far"
    assert describer.feed(data[32:] + encode(UpToDate())) == "NEWLEADER 0x200000000; UPTODATE"


def test_a_snapshot_is_followed_through_its_stream() -> None:
    tree = DataTree()
    data = encode(Snap(E1)) + b"".join(snapshot_stream(tree)) + SNAPSHOT_SIGNATURE
    describer = Describer("quorum", toward_server=False)
    assert describer.feed(data[:40]) == "SNAP stream begins"
    assert describer.feed(data[40:60]) == "SNAP stream, 60 bytes so far"
    assert describer.feed(data[60:] + encode(UpToDate())) == "SNAP 0x100000000 complete; UPTODATE"
    # a learner sends none
    assert Describer("quorum", toward_server=True).feed(data).startswith("garbage")


def test_the_election_port() -> None:
    vote = Notification(State.LOOKING, Vote(3, E1 + 4, 1), 2)
    caller, called = Describer("election", toward_server=True), Describer("election", toward_server=False)
    words = "Notification LOOKING round 2 vote 3 (epoch 1, 0x100000004)"
    data = greeting(5, "10.0.0.5:3888") + encode_notification(vote)
    assert caller.feed(data[:6]) == "partial frame, 6 bytes so far"
    assert caller.feed(data[6:]) == f"greeting from 5; {words}"
    assert called.feed(encode_notification(vote) * 2) == f"{words}; {words}"


def test_what_clients_send() -> None:
    describer = Describer("client", toward_server=True)
    hello = Struct(">iqiq").pack(0, E1 + 2, 4000, 0) + pack_buffer(bytes(16)) + b"\0"
    assert describer.feed(frame(hello)) == "connect new session timeout 4000 ms, seen 0x100000002"
    set_a = Struct(">ii").pack(5, Op.SET_DATA) + pack_string("/a") + pack_buffer(b"x") + INT.pack(-1)
    assert describer.feed(frame(set_a)) == "setData /a xid 5"
    part = Struct(">i?i").pack(Op.CREATE, False, -1) + pack_string("/m") + pack_buffer(None)
    part += pack_acl(OPEN_ACL) + INT.pack(0)
    multi = Struct(">ii").pack(6, Op.MULTI) + part + Struct(">i?i").pack(-1, True, -1)
    ping = Struct(">ii").pack(-2, Op.PING)
    close = Struct(">ii").pack(7, Op.CLOSE_SESSION)
    assert (
        describer.feed(frame(multi) + frame(ping) + frame(close)) == "multi [create /m] xid 6; ping; closeSession xid 7"
    )
    assert describer.feed(frame(Struct(">ii").pack(8, Op.EXISTS) + b"\xff")) == "exists malformed xid 8"
    assert describer.feed(frame(Struct(">ii").pack(9, 777) + pack_string("/a"))) == "type 777 /a xid 9"


def test_what_servers_answer() -> None:
    describer = Describer("client", toward_server=False)
    assert describer.feed(encode_connect_response(4000, SESSION, bytes(16), False)) == (
        "connected session 0x1000000000a0001 timeout 4000 ms"
    )
    header = Struct(">iqi")
    data = (
        frame(header.pack(5, E1 + 1, 0)) + frame(header.pack(6, E1 + 1, Code.NO_NODE)) + frame(header.pack(-2, E1, 0))
    )
    assert (
        describer.feed(data)
        == "reply xid 5 zxid 0x100000001 OK; reply xid 6 zxid 0x100000001 NO_NODE; pong zxid 0x100000000"
    )
    assert describer.feed(event_frame("/a", Event.DELETED, -1)) == "event DELETED /a zxid -1"
    assert Describer("client", toward_server=False).feed(encode_refusal(False)) == "expired session"


def test_a_four_letter_word_and_its_answer() -> None:
    describer = Describer("client", toward_server=True)
    assert describer.feed(b"ruok") == "command ruok"
    assert describer.feed(b"\n") == "text 1 bytes"


def test_control_characters_and_long_paths_stay_on_one_short_line() -> None:
    describer = Describer("client", toward_server=True)
    describer.feed(frame(Struct(">iqiq").pack(0, 0, 1, 0) + pack_buffer(bytes(16))))
    said = describer.feed(frame(Struct(">ii").pack(1, Op.SYNC) + pack_string("/a\n\u2028" + "x" * 500)))
    assert said.startswith("sync /a\\n\\u2028xxx")
    assert len(said) < 120


KINDS: list[Kind] = ["quorum", "election", "client"]


@given(st.sampled_from(KINDS), st.booleans(), st.lists(st.binary(max_size=80), max_size=6))
def test_garbage_never_raises(kind: Kind, toward_server: bool, chunks: list[bytes]) -> None:
    describer = Describer(kind, toward_server)
    for chunk in chunks:
        assert describer.feed(chunk)


@given(st.integers(0, 400), st.integers(0, 255), st.integers(1, 60))
def test_one_wrong_byte_never_raises(at: int, value: int, cut: int) -> None:
    data = bytearray(b"".join(encode(message) for message, _ in QUORUM))
    data[at % len(data)] = value
    describer = Describer("quorum", toward_server=False)
    assert all(describer.feed(bytes(data[n : n + cut])) for n in range(0, len(data), cut))


@given(st.data())
def test_where_the_chunks_are_cut_does_not_matter(data: st.DataObject) -> None:
    messages = [message for message, _ in QUORUM]
    stream = b"".join(encode(message) for message in messages)
    expected = [Describer("quorum", toward_server=True).feed(encode(message)) for message in messages]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    describer = Describer("quorum", toward_server=True)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    said = [text for piece in pieces if not (text := describer.feed(piece)).startswith("partial")]
    # runs of like packets may be cut apart, everything else is said once and in order
    assert _single("; ".join(said)) == _single("; ".join(expected))


def _single(said: str) -> list[str]:
    return [text for text in said.split("; ") if not text.startswith(("ACK ", "PROPOSAL", "COMMIT"))]


def test_after_garbage_nothing_more_is_read() -> None:
    describer = Describer("client", toward_server=False)
    assert describer.feed(LONG.pack(-5)) == "garbage 8 bytes: frame of -1 bytes"
    assert describer.feed(b"abc") == "garbage 3 bytes"
