"""Handshake records and session passwords, against bytes that Apache ZooKeeper 3.8.0 sent."""

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.errors import RemoteProtocolError
from quorate.zookeeper.handshake import (
    MAX_REQUEST_BYTES,
    decode_connect_request,
    encode_connect_response,
    encode_refusal,
    negotiate_timeout,
)
from quorate.zookeeper.password import password_matches, session_password

FROM_APACHE = [
    (0x100001C91150002, "7bb24134da68041afdac48e14c6d09f4"),
    (0x100001C91150005, "009a18343a7a1ffcb1811b11152b998f"),
    (0x100001C91150009, "4d1e0134baa89c0f868db8be644eebc3"),
]


@pytest.mark.parametrize(("session", "password"), FROM_APACHE)
def test_passwords_are_apaches(session: int, password: str) -> None:
    assert session_password(session) == bytes.fromhex(password)
    assert password_matches(session, bytes.fromhex(password))


def test_a_password_opens_its_own_session_only() -> None:
    password = session_password(0x100001C91150002)
    assert not password_matches(0x100001C91150003, password)
    assert not password_matches(0x100001C91150002, password[:15])
    assert not password_matches(0, session_password(0))


def test_ids_of_high_servers_are_negative_and_have_passwords_too() -> None:
    session = -0x100001C91150002
    assert len(session_password(session)) == 16
    # java.util.Random looks at the low 48 bits only
    assert session_password(session) == session_password(session & ((1 << 64) - 1))


def request(read_only: bytes, password: bytes = b"\x07" * 16) -> bytes:
    return pack(">iqiqi", 0, 0x500000009, 10000, 0x1234, len(password)) + password + read_only


@pytest.mark.parametrize(("tail", "read_only"), [(b"", None), (b"\0", False), (b"\1", True), (b"\1later", True)])
def test_a_request_is_read_with_and_without_the_read_only_byte(tail: bytes, read_only: bool | None) -> None:
    found = decode_connect_request(request(tail))
    assert (found.protocol, found.last_zxid, found.timeout, found.session) == (0, 0x500000009, 10000, 0x1234)
    assert (found.password, found.read_only) == (b"\x07" * 16, read_only)


def test_a_null_password_reads_as_empty() -> None:
    found = decode_connect_request(pack(">iqiqi", 0, 0, 10000, 0, -1))
    assert (found.password, found.read_only) == (b"", None)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "connect request of 0 bytes, expected at least 28"),
        (request(b"")[:27], "connect request of 27 bytes, expected at least 28"),
        (request(b"")[:-1], "record ends at byte 43, but a field at byte 28 needs 16"),
        (pack(">iqiqi", 0, 0, 0, 0, -2), "buffer at byte 24 has length -2"),
        (pack(">iqiqi", 0, 0, 0, 0, 1 << 30), "record ends at byte 28"),
        (request(b"", bytes(MAX_REQUEST_BYTES)), "connect request of 1052 bytes, expected at most 1024"),
    ],
)
def test_a_malformed_request_is_refused_and_said_why(frame: bytes, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        decode_connect_request(frame)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_a_protocol_error(frame: bytes) -> None:
    try:
        found = decode_connect_request(frame)
    except RemoteProtocolError:
        return
    assert len(found.password) <= len(frame)


def test_the_response_is_byte_for_byte_apaches() -> None:
    session, password = FROM_APACHE[0]
    frame = encode_connect_response(4000, session, bytes.fromhex(password), False)
    assert frame.hex() == "000000250000000000000fa00100001c9115000200000010" + password + "00"
    frame = encode_connect_response(4000, session, bytes.fromhex(password), None)
    assert frame.hex() == "000000240000000000000fa00100001c9115000200000010" + password
    assert encode_connect_response(4000, session, bytes.fromhex(password), True)[-1:] == b"\1"


def test_the_refusal_is_byte_for_byte_apaches() -> None:
    # what 3.8.0 answers to a wrong password
    assert encode_refusal(False).hex() == "00000025" + "00" * 16 + "00000010" + "00" * 17
    assert encode_refusal(None).hex() == "00000024" + "00" * 16 + "00000010" + "00" * 16


@pytest.mark.parametrize(
    ("asked", "granted"), [(-5, 4000), (0, 4000), (4000, 4000), (10000, 10000), (40001, 40000), (1 << 30, 40000)]
)
def test_the_timeout_is_kept_within_the_servers_bounds(asked: int, granted: int) -> None:
    assert negotiate_timeout(asked, 4000, 40000) == granted
