"""Names of transactions and the records of decisions: what they hold, and what is none."""

import json
from typing import Any

import pytest

from quorate.errors import RemoteProtocolError, UsageError
from quorate.transactions import gtid as gtids
from quorate.transactions.gtid import Gtid, new, parse
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record, amended, unpack

NOW = 1_700_000_000.125


@pytest.mark.parametrize("timeout", [0.001, 0.5, 5.0, 3600.0, gtids.TIMEOUT_MAX])
@pytest.mark.parametrize("random", [0, 1, (1 << 80) - 1])
@pytest.mark.parametrize("space", ["a", "shop", "a-b_c-0", "x" * gtids.SPACE_MAX])
def test_a_name_says_whose_it_is_and_until_when(space: str, random: int, timeout: float) -> None:
    made = new(space, NOW, timeout, random)
    assert len(made.text) <= 64, "XA's limit"
    found = parse(made.text)
    assert found is not None
    assert (found, found.space, found.began, found.deadline) == (made, made.space, made.began, made.deadline)
    assert found.deadline == pytest.approx(NOW + timeout, abs=0.001)


def test_names_sort_by_their_time() -> None:
    names = [new("a", NOW + number, 5.0, 7).text for number in range(100)]
    assert names == sorted(names)


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.0001, gtids.TIMEOUT_MAX + 1, float("inf"), float("nan")])
def test_a_timeout_that_is_none(timeout: float) -> None:
    with pytest.raises(UsageError, match="expected"):
        new("a", NOW, timeout, 0)


GOOD = new("shop", NOW, 5.0, 1).text


@pytest.mark.parametrize(
    "text",
    [
        "", "q", "q.", GOOD + " ", GOOD + "\n", " " + GOOD, GOOD.upper(), GOOD.replace("q.", "p."), GOOD + "/orders", GOOD[:-4], GOOD.replace("shop", "Shop"),
        GOOD.replace("shop", "s" * 21), GOOD.replace("shop", ""), "q.shop.01hf7yat", "q.shop." + "u" * 26 + ".4w8", "q.shop." + "0" * 26 + ".", "x" * 100_000,
        "q.shop." + "0" * 26 + ".999999999", "q.shop.٠" + "0" * 25 + ".4w8",
        # nobody's deadline: years, or none
        "q.shop." + "0" * 26 + ".zzzzzzzz", f"q.shop.{'0' * 26}.{gtids._encode(86_400_001)}", "q.shop." + "0" * 26 + ".0",
    ],
)  # fmt: skip
def test_what_is_no_name_of_ours(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "a'b", "x" * 41, "é", "a\n"])
def test_names_of_participants_and_spaces(name: str) -> None:
    for check in (gtids.check_name, gtids.check_space):
        with pytest.raises(UsageError, match="expected 1 to"):
            check(name)


def record(**more: Any) -> Record:
    gtid = new("shop", NOW, 5.0, 1)
    return Record(gtid, Decision.COMMIT, [Branch(gtid, "a", "17"), Branch(gtid, "b")], NOW, "me", **more)


def test_a_record_comes_back_as_it_was() -> None:
    for made in (record(), record(reason="why", done=True, heuristic={"a": "rolled back"})):
        found = unpack(made.pack())
        assert found.pack() == made.pack()
        assert [(branch.gtid, branch.participant, branch.token) for branch in found.branches] == [
            (made.gtid, "a", "17"), (made.gtid, "b", ""),
        ]  # fmt: skip
        assert (found.decision, found.at, found.by, found.reason, found.done) == (
            made.decision, made.at, made.by, made.reason, made.done,
        )  # fmt: skip
        assert found.heuristic == made.heuristic


def damaged() -> list[bytes]:
    good = json.loads(record().pack())
    found = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'"q"',
        b"\xff\xfe",
        b"{",
        record().pack()[:-1],
        record().pack() + b"x",
        b"[" * 100_000,
    ]
    values: tuple[Any, ...] = (None, [], {}, "x", -1, 10**400, float("nan"), {"a": {"b": "c"}})
    for key in good:
        for value in values:
            if key in ("at", "by") and not isinstance(value, (dict, list)) and value is not None:
                continue
            if (key, value) == ("branches", {}) or (key == "by") or (key == "branches" and isinstance(value, dict)):
                continue
            found.append(json.dumps({**good, key: value}).encode())
        found.append(json.dumps({name: value for name, value in good.items() if name != key}).encode())
    found.append(json.dumps({**good, "at": 10**400}).encode())
    found.append(json.dumps({**good, "heuristic": ["a"]}).encode())
    return found


@pytest.mark.parametrize("data", damaged())
def test_what_is_no_record_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(data)


def test_a_later_version_is_not_guessed_at() -> None:
    with pytest.raises(RemoteProtocolError, match="a decision record of version 2, expected 1"):
        unpack(record().pack().replace(b'"v":1', b'"v":2'))


def test_amending_adds_and_takes_nothing_away() -> None:
    stands = record(done=True, heuristic={"a": "rolled back"})
    gtid: Gtid = stands.gtid
    found = amended(stands, heuristic={"b": "rolled back"}, branches=[Branch(gtid, "a", "18"), Branch(gtid, "c", "3")])
    assert found.done
    assert found.heuristic == {"a": "rolled back", "b": "rolled back"}
    assert {branch.participant: branch.token for branch in found.branches} == {"a": "17", "b": "", "c": "3"}
    assert stands.heuristic == {"a": "rolled back"}
    assert len(stands.branches) == 2
    found = amended(found, branches=[Branch(gtid, "b", "19")])
    assert {branch.participant: branch.token for branch in found.branches} == {"a": "17", "b": "19", "c": "3"}
