"""The decision log in a file: what several processes and threads make of it, and what is left of it after whatever may happen to a disk."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quorate.errors import CorruptionError, QuorateError, StorageError
from quorate.transactions.gtid import Gtid, new
from quorate.transactions.log import TOO_LATE
from quorate.transactions.logs import local
from quorate.transactions.logs.local import LocalLog
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record

NOW = 1_700_000_000.0
PAGE = 4096


def gtid(number: int, at: float = NOW) -> Gtid:
    return new("unit", at, 5.0, number)


def record(number: int, decision: Decision = Decision.COMMIT, reason: str = "") -> Record:
    named = gtid(number)
    return Record(named, decision, [Branch(named, "a", "1"), Branch(named, "b")], NOW, "me", reason)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions"


def decisions(log: LocalLog) -> dict[str, str]:
    return {found.gtid.text: found.decision.value for found in log.records()}


# ---- the interface


def test_the_first_decision_stands(path: Path) -> None:
    log = LocalLog(path)
    assert log.decide(record(1)).decision is Decision.COMMIT
    assert log.decide(record(1, Decision.ABORT)).decision is Decision.COMMIT
    assert LocalLog(path).decide(record(1, Decision.ABORT)).decision is Decision.COMMIT
    found = log.read(gtid(1))
    assert found is not None
    assert found.pack() == record(1).pack()
    assert log.read(gtid(2)) is None


def test_what_is_forgotten_cannot_be_decided_again_nor_amended(path: Path) -> None:
    log, other = LocalLog(path), LocalLog(path)
    log.decide(record(1))
    other.forget([gtid(1)], gtid(1).deadline + 0.001)
    for one in (log, other, LocalLog(path)):
        stands = one.decide(record(1))
        assert (stands.decision, stands.reason) == (Decision.ABORT, TOO_LATE)
        one.amend([record(1)])
        assert one.records() == []


def test_one_of_two_sweeps(path: Path) -> None:
    log, other = LocalLog(path), LocalLog(path)
    assert log.claim_sweep("one", NOW, 10.0)
    assert not other.claim_sweep("two", NOW + 9.0, 10.0)
    assert other.claim_sweep("two", NOW + 10.0, 10.0)
    assert log.claim_sweep("one", NOW - 3600.0, 10.0), "a clock was put back"


# ---- several at once


def test_threads_share_flushes_and_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = 0
    genuine = os.fdatasync
    gate = threading.Event()

    def counted(descriptor: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == 1:
            # until all others have written
            assert gate.wait(10.0)
        genuine(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    log = LocalLog(path)

    def decide(number: int) -> None:
        log.decide(record(number))

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(decide, 0)
        others = [pool.submit(decide, number) for number in range(1, 8)]
        while len(log._records) < 8:
            """They write while the first one flushes."""
        gate.set()
        for done in (first, *others):
            done.result()
    assert flushes == 2
    assert len(LocalLog(path).records()) == 8


_CHILD = """
import sys
from quorate.transactions.logs.local import LocalLog
from tests.unit.transactions.test_local_log import record
from quorate.transactions.records import Decision
log = LocalLog(sys.argv[1])
won = 0
for number in range(200):
    mine = record(number, reason=sys.argv[2])
    won += log.decide(mine).reason == sys.argv[2]
print(won)
"""


def test_processes_decide_each_transaction_once(path: Path) -> None:
    root = Path(__file__).parents[3]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), name],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
        )
        for name in ("one", "two")
    ]
    won = [int(child.communicate(timeout=120)[0]) for child in children]
    assert sum(won) == 200
    assert len(LocalLog(path).records()) == 200


def test_a_child_of_a_fork_takes_turns_with_its_parent(path: Path) -> None:
    """The lock on the file belongs to what both have open: they would write over one another."""
    log = LocalLog(path)
    log.decide(record(1000))
    child = os.fork()
    if not child:
        code = 1
        try:
            for number in range(100):
                log.decide(record(number, reason="child"))
            code = 0
        finally:
            os._exit(code)
    for number in range(100):
        log.decide(record(number, reason="parent"))
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert len(LocalLog(path).records()) == 101
    assert len(log.records()) == 101


def test_a_child_that_was_forked_while_a_thread_had_the_lock_can_go_on(path: Path) -> None:
    log = LocalLog(path)
    with log._turn():
        child = os.fork()
        if not child:
            os._exit(0 if log._lock.acquire(timeout=5.0) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0


# ---- crashes


def entries(path: Path) -> list[int]:
    """Where each begins, and where the last one ends."""
    data = path.read_bytes()
    at = len(local._MAGIC)
    found = [at]
    while (entry := local._entry(data, at)) is not None:
        at = entry[3]
        found.append(at)
    return found


def overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_torn_end_is_cut_at_each_byte_of_it(path: Path, tmp_path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(1))
    log.decide(record(2))
    *_, start, end = entries(path)
    whole = path.read_bytes()
    for cut in range(start, end):
        torn = tmp_path / f"torn{cut}"
        torn.write_bytes(whole[:cut] + bytes(len(whole) - cut))
        reopened = LocalLog(torn)
        assert list(decisions(reopened)) == [gtid(1).text]
        reopened.decide(record(3))
        assert list(decisions(LocalLog(torn))) == [gtid(1).text, gtid(3).text]


def test_a_file_that_ends_exactly_behind_an_entry_is_whole(path: Path, tmp_path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(1))
    short = tmp_path / "short"
    short.write_bytes(path.read_bytes()[: entries(path)[-1]])
    reopened = LocalLog(short)
    reopened.decide(record(2))
    assert len(LocalLog(short).records()) == 2


def test_every_length_that_could_be_one_is_not_believed(path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(1))
    end = entries(path)[-1]
    for length in (1, 8, 9, 10, 100, local.ENTRY_MAX, local.ENTRY_MAX + 1, 2**32 - 1):
        overwrite(path, end, length.to_bytes(4) + b"garbage that is no entry at all" * 3)
        assert list(decisions(LocalLog(path))) == [gtid(1).text]


def test_pages_that_were_not_flushed_come_in_any_order_and_none_is_believed(path: Path) -> None:
    """Of what was written and not flushed, a machine that went down had a later page on its disk, and not the earlier one. Those entries are whole. When the gap is
    filled by as many of the same size, they must not come back to life: theirs are decisions that nobody was ever told."""
    log = LocalLog(path)
    log.decide(record(0))
    flushed = entries(path)[-1]
    with log._turn():
        for number in range(1, 60):
            log._append([(local._RECORD, record(number).pack(), None)])
    gap = (flushed // PAGE + 1) * PAGE
    boundary = next(at for at in entries(path) if at >= gap)
    overwrite(path, flushed, bytes(boundary - flushed))
    log.close()
    reopened = LocalLog(path)
    assert len(reopened.records()) == 1
    number = 100
    while entries(path)[-1] < boundary:
        reopened.decide(record(number, Decision.ABORT, "again"))
        number += 1
    assert all(found.gtid == gtid(0) or found.reason == "again" for found in LocalLog(path).records())


def test_the_same_after_the_gap_is_filled_to_the_byte(path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(0))
    flushed = entries(path)[-1]
    with log._turn():
        log._append([(local._RECORD, record(1).pack(), None)])
        boundary = log._at
        log._append([(local._RECORD, record(2).pack(), None)])
    overwrite(path, flushed, bytes(boundary - flushed))
    log.close()
    reopened = LocalLog(path)
    reopened.decide(record(1))
    assert entries(path)[-1] == boundary
    assert list(decisions(reopened)) == [gtid(0).text, gtid(1).text]
    assert list(decisions(LocalLog(path))) == [gtid(0).text, gtid(1).text]


def test_damage_to_what_was_flushed_is_an_error_and_nothing_is_changed(path: Path) -> None:
    log = LocalLog(path)
    for number in range(4):
        log.decide(record(number))
    start, second, *_ = entries(path)[1:]
    damaged = bytearray(path.read_bytes())
    damaged[(start + second) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptionError, match=f"offset {start}: an entry that is not what was written"):
        LocalLog(path)
    assert path.read_bytes() == damaged


def test_zeros_where_something_was_flushed_are_an_error(path: Path) -> None:
    log = LocalLog(path)
    for number in range(4):
        log.decide(record(number))
    start, second, *_ = entries(path)[1:]
    overwrite(path, start, bytes(second - start))
    with pytest.raises(CorruptionError):
        LocalLog(path)


def test_something_else_is_no_log(path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\nrm -rf /\n")
    with pytest.raises(CorruptionError, match="no decision log"):
        LocalLog(path)
    assert path.read_bytes().startswith(b"#!")


# ---- disks


def test_after_a_flush_that_failed_nothing_is_promised_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(path)
    log.decide(record(1))

    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(StorageError, match="Input/output error"):
        log.decide(record(2))
    monkeypatch.undo()
    for number in (2, 3):
        with pytest.raises(StorageError):
            log.decide(record(number))
    with pytest.raises(StorageError):
        log.read(gtid(2))


def test_a_full_disk_is_said_and_nothing_is_torn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets full in the middle of an entry."""
    log = LocalLog(path)
    log.decide(record(1))
    genuine = os.pwrite
    full = True

    def half(descriptor: int, data: bytes, at: int) -> int:
        if full and any(data):
            return genuine(descriptor, data[: len(data) // 2], at)
        return genuine(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(StorageError, match="No space left"):
        log.decide(record(2))
    other = LocalLog(path)
    assert list(decisions(other)) == [gtid(1).text]
    full = False
    log.decide(record(3))
    assert list(decisions(other)) == [gtid(1).text, gtid(3).text]


def test_whoever_is_interrupted_in_a_flush_leaves_it_to_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(path)

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdatasync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.decide(record(1))
    monkeypatch.undo()
    thread = threading.Thread(target=log.decide, args=[record(2)], daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive()


def test_a_log_that_was_taken_away_is_an_error_and_not_an_empty_one(path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(1))
    path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        log.decide(record(2))
    assert not path.exists()


def test_nor_is_one_that_another_has_taken_the_place_of(path: Path, tmp_path: Path) -> None:
    log = LocalLog(path)
    log.decide(record(1))
    path.unlink()
    LocalLog(path).decide(record(2))
    with pytest.raises(StorageError, match="another decision log has taken the place"):
        log.decide(record(3))


def test_operating_system_errors_come_as_ours(path: Path) -> None:
    log = LocalLog(path)
    os.close(log._descriptor)
    with pytest.raises(QuorateError):
        log.records()
    log._descriptor = -1


# ---- written anew


def fill(log: LocalLog, count: int, name: str = "me", first: int = 0) -> None:
    """Decided and forgotten."""
    for start in range(first, first + count, 50):
        numbers = range(start, min(start + 50, first + count))
        with log._turn():
            log._catch_up()
            for number in numbers:
                log._append([(local._RECORD, record(number, reason=name).pack(), None)])
        log.forget([gtid(number) for number in numbers], 0.0)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_file_that_is_mostly_of_removed_records_is_written_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However long its records are."""
    monkeypatch.setattr(local, "_REWRITE_BYTES", 100_000)
    monkeypatch.setattr(local, "_AHEAD", 10_000)
    log = LocalLog(path)
    log.decide(record(10_000))
    log.forget([], 123.0)
    before = log._file
    fill(log, 2000, "x" * size)
    assert log._file > before
    assert path.stat().st_size < 400_000
    assert list(decisions(log)) == [gtid(10_000).text]
    reopened = LocalLog(path)
    assert (reopened._horizon, list(decisions(reopened))) == (123.0, [gtid(10_000).text])
    assert reopened._live_bytes == log._live_bytes == len(record(10_000).pack())


def test_others_follow_to_the_new_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that have written to the old one and flush only now: what they wrote was flushed with the new one."""
    monkeypatch.setattr(local, "_REWRITE_BYTES", 1)
    log, other = LocalLog(path), LocalLog(path)
    old = path.stat().st_ino
    genuine = os.fdatasync
    rewritten: list[int] = []

    def rewrites_first(descriptor: int) -> None:
        if not rewritten:
            rewritten.append(1)
            fill(other, 20, first=100)
        genuine(descriptor)

    monkeypatch.setattr(os, "fdatasync", rewrites_first)
    log.decide(record(1))
    assert path.stat().st_ino != old
    assert list(decisions(LocalLog(path))) == [gtid(1).text]
    log.decide(record(2))
    other.decide(record(3))
    for one in (log, other, LocalLog(path)):
        assert list(decisions(one)) == [gtid(1).text, gtid(2).text, gtid(3).text]


def test_damage_to_what_was_written_anew_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_REWRITE_BYTES", 1)
    log = LocalLog(path)
    log.decide(record(1))
    fill(log, 20, first=100)
    log.records()
    at = entries(path)[1]
    data = bytearray(path.read_bytes())
    data[at + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError):
        LocalLog(path)


def test_a_rewrite_that_was_broken_off_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_REWRITE_BYTES", 1)
    log = LocalLog(path)
    log.decide(record(1))

    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StorageError, match="No space left"):
        fill(log, 50, first=100)
    monkeypatch.undo()
    assert list(decisions(log)) == list(decisions(LocalLog(path))) == [gtid(1).text]
