"""The local decision log as several processes use it: each takes what the others have written, whatever its size, and damage is told from what is merely torn."""

import random
from pathlib import Path

import pytest

from quorate.errors import CorruptionError
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.logs.local import LocalLog
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record

NOW = 1_700_000_000.0


def record(number: int, tokens: int = 1) -> Record:
    gtid = new("log", NOW + number, 5.0, number)
    branches = [Branch(gtid, f"part-{index}", "7" * (number % 40)) for index in range(tokens)]
    return Record(gtid, Decision.COMMIT, branches, NOW, "test")


def names(log: LocalLog) -> set[str]:
    return {found.gtid.text for found in log.records()}


@pytest.mark.parametrize("seed", range(3))
def test_each_sees_what_others_wrote_since_its_last_turn(tmp_path: Path, seed: int) -> None:
    """Few and many, short and long, so that every way to end a read is met: in an entry's head, in its body, right behind it."""
    chance = random.Random(seed)
    one, other = LocalLog(tmp_path / "log"), LocalLog(tmp_path / "log")
    written: dict[str, Record] = {}
    number = 0
    for _ in range(20):
        writer, reader = chance.choice([(one, other), (other, one)])
        for _ in range(chance.choice([1, 2, 15, 16, 17, 40])):
            number += 1
            made = record(number, chance.choice([1, 1, 1, 30]))
            written[made.gtid.text] = made
            assert writer.decide(made) is made
        gtid = chance.choice(list(written.values())).gtid
        found = reader.decide(Record(gtid, Decision.ABORT, [], NOW, "too late"))
        assert found.decision is Decision.COMMIT
        assert names(reader) == set(written)
    one.close()
    other.close()
    again = LocalLog(tmp_path / "log")
    assert names(again) == set(written)
    again.close()


def fill(path: Path, count: int) -> list[Gtid]:
    log = LocalLog(path)
    made = [record(number) for number in range(count)]
    for one in made:
        log.decide(one)
    log.close()
    return [one.gtid for one in made]


def test_a_torn_end_is_cut(tmp_path: Path) -> None:
    gtids = fill(tmp_path / "log", 50)
    data = bytearray((tmp_path / "log").read_bytes())
    end = len(data.rstrip(b"\0"))
    data[end - 5 : end] = bytes(5)
    (tmp_path / "log").write_bytes(data)
    log = LocalLog(tmp_path / "log")
    assert names(log) == {gtid.text for gtid in gtids[:-1]}
    log.decide(record(100))
    log.close()
    assert len(names(LocalLog(tmp_path / "log"))) == 50


@pytest.mark.parametrize("hole", [64, 4096, 9000])
def test_something_that_is_missing_is_an_error(tmp_path: Path, hole: int) -> None:
    """Zeros where entries were, with whole ones behind: a page that a crash kept from the disk."""
    fill(tmp_path / "log", 200)
    data = bytearray((tmp_path / "log").read_bytes())
    data[5000 : 5000 + hole] = bytes(hole)
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(CorruptionError, match="whole ones behind"):
        LocalLog(tmp_path / "log")
