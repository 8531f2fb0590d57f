"""How decisions lie in the store: what is read there is what the decision log writes, and nothing is written anywhere else."""

import pytest

from quorate.errors import RemoteProtocolError
from quorate.kv import commands, decisions
from quorate.kv.entries import Entry
from quorate.kv.results import Locker
from quorate.transactions import gtid as gtids
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record, unpack

GTID = gtids.new("shop", 1_700_000_000.0, 5.0, 7)
KEY = f"quorate/txn/shop/d/{GTID.text}"


def entry(value: bytes, modified: int = 3) -> Entry:
    return Entry(b"k", value, 1, modified, modified)


def test_the_place_of_a_decision() -> None:
    place = decisions.place_of(Locker(f"{GTID.text}/kv".encode(), KEY.encode(), 0))
    assert place is not None
    assert (place.key, place.horizon, place.gtid) == (KEY.encode(), b"quorate/txn/shop/horizon", GTID.text)
    assert decisions.key_of(decisions.prefix_of("shop"), GTID.text) == KEY
    assert KEY.encode().startswith(commands.RESERVED)
    assert commands.RESERVED < KEY.encode() < commands.RESERVED_END
    assert len(f"{GTID.text}/{'p' * gtids.NAME_MAX}") <= commands.ID_MAX
    assert len(KEY) <= commands.DECISION_KEY_MAX


@pytest.mark.parametrize(
    "decision",
    ["", "x", KEY[:-1], KEY + "x", f"quorate/txn//d/{GTID.text}", f"quorate/txn/a/b/d/{GTID.text}", f"other/d/{GTID.text}", f"quorate/txn/shop/{GTID.text}"],
)  # fmt: skip
def test_what_is_no_place_of_this_decision(decision: str) -> None:
    assert decisions.place_of(Locker(f"{GTID.text}/kv".encode(), decision.encode(), 0)) is None


def test_a_key_that_is_no_text_is_no_place() -> None:
    assert decisions.place_of(Locker(b"\xff/kv", b"quorate/txn/shop/d/\xff", 0)) is None


def test_an_abort_is_a_record_of_the_decision_log() -> None:
    write = decisions.abort(decisions.Place("quorate/txn/shop/", GTID.text), 1_700_000_009.25, "h:1")
    record = unpack(write.value)
    assert (write.kind, write.key) == (commands.PUT, KEY.encode())
    assert (record.gtid, record.decision, record.at, record.by) == (GTID, Decision.ABORT, 1_700_000_009.25, "h:1")
    assert (record.reason, record.branches, record.done) == ("undecided, and its time is up", [], False)


def test_records_of_the_decision_log_are_understood() -> None:
    branches = [Branch(GTID, "kv", "1,2")]
    for decision in Decision:
        assert decisions.is_commit(entry(Record(GTID, decision, branches, 1.0, "h:1").pack())) is (
            decision is Decision.COMMIT
        )


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b"\xff", b'{"v":2,"decision":"commit"}', b'{"v":1,"decision":"x"}']
)
def test_what_is_no_record_is_told(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="holds no decision of version 1"):
        decisions.is_commit(entry(value))


def test_the_horizon() -> None:
    assert decisions.horizon_of(None) == (0, 0.0)
    assert decisions.horizon_of(entry(b"12.5")) == (3, 12.5)
    with pytest.raises(RemoteProtocolError, match="is no horizon"):
        decisions.horizon_of(entry(b"soon"))
