"""The local decision log as several processes use it: each takes what the others have written, whatever its size, and damage is told from what is merely torn."""

import random
import threading
from pathlib import Path

import pytest

from quorate.errors import CorruptionError, StorageError
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


def test_threads_that_decide_at_once(tmp_path: Path) -> None:
    """Half of them contend for the same transactions: one record stands for each, and all are told of that one, by whichever of two logs."""
    logs = [LocalLog(tmp_path / "log"), LocalLog(tmp_path / "log")]
    answers: list[tuple[int, Record]] = []
    start = threading.Barrier(12)

    def work(worker: int) -> None:
        start.wait()
        for number in range(15):
            mine = number if worker % 2 else 1000 * (worker + 1) + number
            proposed = Record(record(mine).gtid, Decision.COMMIT, [], NOW, f"worker {worker}")
            answers.append((mine, logs[worker % 3 % 2].decide(proposed)))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 12 * 15
    stands: dict[int, str] = {}
    for mine, found in answers:
        assert stands.setdefault(mine, found.by) == found.by
    assert len(stands) == 6 * 15 + 15
    for log in logs:
        assert names(log) == {record(mine).gtid.text for mine in stands}
        log.close()
    again = LocalLog(tmp_path / "log")
    for mine, by in stands.items():
        kept = again.read(record(mine).gtid)
        assert kept is not None
        assert kept.by == by
    again.close()


def test_who_is_answered_by_another_thread_hears_of_its_failure(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    log.close()
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            log.decide(record(number))
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8


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


@pytest.mark.parametrize("hole", [64, 2048, 5000])
def test_what_was_not_flushed_may_be_on_the_disk_in_part(tmp_path: Path, hole: int) -> None:
    """A crash kept a page from the disk, and the next ones got there: nothing of it was promised to anybody."""
    gtids = fill(tmp_path / "log", 60)
    log = LocalLog(tmp_path / "log")
    flushed = len((tmp_path / "log").read_bytes().rstrip(b"\0"))
    log.amend([Record(one.gtid, one.decision, one.branches, one.at, one.by, "", True) for one in log.records()])
    log.close()
    data = bytearray((tmp_path / "log").read_bytes())
    data[flushed + 1000 : flushed + 1000 + hole] = bytes(hole)
    assert any(data[flushed + 1000 + hole :])
    (tmp_path / "log").write_bytes(data)
    log = LocalLog(tmp_path / "log")
    assert names(log) == {gtid.text for gtid in gtids}
    assert log.decide(record(100)).decision is Decision.COMMIT
    log.close()
    assert len(names(LocalLog(tmp_path / "log"))) == 61


@pytest.mark.parametrize("hole", [64, 4096, 9000])
def test_something_that_is_missing_is_an_error(tmp_path: Path, hole: int) -> None:
    """Zeros where entries were, with whole ones behind: a page that a crash kept from the disk."""
    fill(tmp_path / "log", 200)
    data = bytearray((tmp_path / "log").read_bytes())
    data[5000 : 5000 + hole] = bytes(hole)
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(CorruptionError, match="though it was on disk"):
        LocalLog(tmp_path / "log")
