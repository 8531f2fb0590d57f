"""Transactions to bytes and back, and bytes that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.binary import INT, INT_INT, pack_buffer, pack_string
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.acl import OPEN_ACL, PACKED_OPEN_ACL, Acl, AclEntry, intern_acl
from quorate.zookeeper.constants import Op
from quorate.zookeeper.txns import (
    DIGEST,
    HEADER,
    Check,
    CloseSession,
    Create,
    CreateSession,
    Delete,
    Error,
    Multi,
    Record,
    SetAcl,
    SetData,
    Txn,
    unpack_txn,
)

ints = st.integers(-(1 << 31), (1 << 31) - 1)
longs = st.integers(-(1 << 63), (1 << 63) - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
data = st.none() | st.binary(max_size=50)
acls = st.just(OPEN_ACL) | st.lists(st.builds(AclEntry, ints, texts, texts), max_size=3).map(tuple).map(intern_acl)

part_records = st.one_of(
    st.builds(Create, st.sampled_from([Op.CREATE, Op.CREATE2]), texts, data, acls, st.booleans(), ints),
    st.builds(Create, st.just(Op.CREATE_CONTAINER), texts, data, acls, st.just(False), ints),
    st.builds(Create, st.just(Op.CREATE_TTL), texts, data, acls, st.just(False), ints, longs),
    st.builds(Delete, st.sampled_from([Op.DELETE, Op.DELETE_CONTAINER]), texts),
    st.builds(SetData, texts, data, ints, st.sampled_from([Op.SET_DATA, Op.RECONFIG])),
    st.builds(SetAcl, texts, acls, ints),
    st.builds(Check, texts, ints),
    st.builds(Error, ints),
)
records = st.one_of(
    part_records,
    st.builds(CreateSession, ints),
    st.builds(CloseSession, st.none() | st.lists(texts, max_size=3)),
    st.builds(Multi, st.lists(part_records, max_size=4)),
)
digests = st.integers(0, (1 << 64) - 1)
txns = st.builds(Txn, longs, ints, longs, longs, records, st.none() | digests)


def fields(record: object) -> object:
    """What a record says, comparable."""
    if isinstance(record, list):
        return [fields(part) for part in record]
    if isinstance(record, Record | Txn):
        names = [*type(record).__slots__, *(["op"] if isinstance(record, Record) else [])]
        return type(record), [(name, fields(getattr(record, name))) for name in names]
    return record


@given(txns)
def test_round_trip(txn: Txn) -> None:
    if isinstance(txn.record, CloseSession) and txn.record.paths is None:
        # that is how old logs have it, and they have no digest
        txn.digest = None
    assert fields(unpack_txn(txn.pack())) == fields(txn)


@given(txns, st.data())
def test_damaged_bytes_are_refused_or_read(txn: Txn, chance: st.DataObject) -> None:
    """Whatever arrives, there is a transaction or one clear error."""
    raw = bytearray(txn.pack())
    for _ in range(chance.draw(st.integers(1, 3))):
        raw[chance.draw(st.integers(0, len(raw) - 1))] = chance.draw(st.integers(0, 255))
    del raw[chance.draw(st.integers(0, len(raw))) :]
    try:
        again = unpack_txn(bytes(raw))
    except RemoteProtocolError:
        return
    assert isinstance(again.record, Record)


def test_bytes_of_a_create() -> None:
    """Written by hand from zookeeper.jute: header, path, data, list, ephemeral, parent's version, digest."""
    raw = bytes.fromhex(
        "0100004134fe000000000001000000000000000200000180000000000000000100000002"
        "2f6100000001780000000100"
        "00001f00000005776f726c6400000006616e796f6e6500000000010000000200000000ffffffff"
    )
    txn = unpack_txn(raw)
    record = txn.record
    assert isinstance(record, Create)
    assert (txn.session, txn.cxid, txn.zxid, txn.time) == (0x0100004134FE0000, 1, 2, 0x18000000000)
    assert (record.path, record.data, record.ephemeral, record.parent_cversion) == ("/a", b"x", False, 1)
    assert record.acl is OPEN_ACL
    assert txn.digest == 0xFFFFFFFF
    assert txn.pack() == raw


def test_create_of_an_old_log_has_no_parent_version() -> None:
    body = pack_string("/a") + pack_buffer(b"") + PACKED_OPEN_ACL + b"\x01"
    record = unpack_txn(HEADER.pack(1, 2, 3, 4, Op.CREATE) + body).record
    assert isinstance(record, Create)
    assert record.ephemeral
    assert record.parent_cversion == -1


def test_digest_of_another_version_is_ignored() -> None:
    raw = HEADER.pack(1, 2, 3, 4, Op.ERROR) + INT.pack(-101) + DIGEST.pack(1, 77)
    assert unpack_txn(raw).digest is None
    assert unpack_txn(raw[:-12] + DIGEST.pack(2, 77)).digest == 77


def test_equal_access_lists_are_one_object() -> None:
    acl: Acl = intern_acl((AclEntry(1, "digest", "user:hash"),))
    record = unpack_txn(Txn(1, 2, 3, 4, SetAcl("/a", acl, 5)).pack()).record
    assert isinstance(record, SetAcl)
    assert record.acl is acl


@pytest.mark.parametrize(
    ("op", "body", "reason"),
    [
        (77, b"", "transaction type 77 is unknown"),
        (Op.GET_DATA, b"", "transaction type 4 is unknown"),
        (Op.MULTI, INT.pack(1000) + bytes(100), "claims 1000 items"),
        (Op.MULTI, INT.pack(1) + INT_INT.pack(Op.MULTI, 4) + INT.pack(0), "a multi inside a multi"),
        (Op.CLOSE_SESSION, INT.pack(1 << 30), "claims 1073741824 items"),
        (Op.SET_DATA, INT.pack(1 << 30) + b"/a", "needs 1073741824"),
        (Op.SET_DATA, pack_string("/a") + INT.pack(-2), "has length -2"),
        (Op.DELETE, INT.pack(2) + b"\xff\xff", "is not UTF-8"),
        (Op.SET_ACL, pack_string("/a") + INT.pack(-5), "claims -5 items"),
    ],
)
def test_malformed(op: int, body: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        unpack_txn(HEADER.pack(1, 2, 3, 4, op) + body)


def test_shorter_than_a_header() -> None:
    with pytest.raises(RemoteProtocolError, match="31 bytes is shorter than its header"):
        unpack_txn(bytes(31))
