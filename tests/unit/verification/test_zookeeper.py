"""ZooKeeper's guarantees: a run of real members and clients passes, and whatever is changed in what they saw is found."""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quorate.simulation.zookeeper import options as swarm
from quorate.simulation.zookeeper.run import Run
from quorate.verification.history import History, Operation
from quorate.verification.zookeeper import Replay, check, differences
from quorate.verification.zookeeper.order import zxid_of
from quorate.zookeeper.txns import Create, Error, SetData, Txn, unpack_txn

Log = list[tuple[int, Txn]]


class Seen:
    """What one run leaves to be judged."""

    def __init__(self, history: History, log: Log) -> None:
        self.history = history
        self.log = log

    def findings(self) -> list[str]:
        return check(self.history, Replay(self.history, self.log))

    def some(self, fits: Callable[[Operation], bool]) -> Operation:
        return next(op for op in self.history.operations if fits(op))

    def all(self, fits: Callable[[Operation], bool]) -> Iterator[Operation]:
        return (op for op in self.history.operations if fits(op))


@pytest.fixture(scope="module")
def original() -> Seen:
    """A run with partitions and crashes, of three clients."""
    options = swarm.complete(
        11,
        {
            "voters": 3,
            "clients": 3,
            "requests": 400,
            "duration": 20_000_000_000,
            "tick": 200_000_000,
            "enabled": ["crash", "partition", "reset"],
            "faults": 8,
        },
    )
    run = Run(11, options, keep_trace=False)
    result = run.execute()
    assert not result.failure
    log = [(zxid, unpack_txn(payload)) for zxid, payload in run.world.judge.log()]
    return Seen(run.clients.history, log)


@pytest.fixture
def seen(original: Seen) -> Seen:
    history = History(clock=lambda: 0)
    history.operations = copy.deepcopy(original.history.operations)
    return Seen(history, list(original.log))


def ok(*names: str) -> Callable[[Operation], bool]:
    return lambda op: op.name in names and op.outcome == "ok"


def test_what_happened_is_right(seen: Seen) -> None:
    assert seen.findings() == []
    assert check(seen.history) == []
    counts = {
        name: sum(1 for _ in seen.all(ok(name))) for name in ("get", "set", "create", "multi", "event", "children")
    }
    assert min(counts.values()) > 3, counts


def expect(seen: Seen, kind: str) -> None:
    found = seen.findings()
    assert any(finding.startswith(kind) for finding in found), found[:5]


def test_an_acknowledged_write_that_is_not_in_the_log(seen: Seen) -> None:
    zxid = zxid_of(list(seen.all(ok("set")))[-1])
    seen.log = [entry for entry in seen.log if entry[0] != zxid]
    expect(seen, "durability: ")


def test_a_write_that_is_in_the_log_twice(seen: Seen) -> None:
    zxid, txn = seen.log[-1]
    original = seen.some(lambda op: ok("set")(op) and op.key == "/r0")
    session = next(op.result["session"] for op in seen.all(ok("connect")) if op.process == original.process)
    again = SetData("/", original.value["data"].encode(), 1)
    seen.log.append((zxid + 1, Txn(session, 0, zxid + 1, txn.time, again)))
    expect(seen, "log: ")


def test_a_read_of_other_data(seen: Seen) -> None:
    seen.some(ok("get")).result["data"] = "other"
    expect(seen, "reads: ")


@pytest.mark.parametrize("field", ["czxid", "mzxid", "pzxid", "version", "cversion", "ephemeralOwner", "numChildren"])
def test_a_wrong_field_of_a_stat(seen: Seen, field: str) -> None:
    seen.some(ok("get")).result["stat"][field] += 1
    expect(seen, "reads: ")


def test_a_child_too_few(seen: Seen) -> None:
    seen.some(lambda op: ok("children")(op) and len(op.result["children"]) > 1).result["children"].pop()
    expect(seen, "reads: ")


def test_a_node_that_is_there_and_is_not_found(seen: Seen) -> None:
    op = seen.some(ok("get"))
    op.outcome = "fail"
    op.result = {"zxid": op.result["zxid"], "error": -101}
    expect(seen, "reads: ")


def test_a_read_of_what_was_never_committed(seen: Seen) -> None:
    last = seen.log[-1][0]
    read = max(seen.all(ok("get")), key=lambda op: op.finished)
    read.result["zxid"] = last + 5
    expect(seen, "dirty read: ")


def test_a_wrong_error(seen: Seen) -> None:
    seen.some(lambda op: op.name == "set" and op.outcome == "fail").result["error"] = -110
    expect(seen, "writes: ")


def test_a_write_that_should_have_failed(seen: Seen) -> None:
    op = seen.some(lambda op: ok("set")(op) and op.value["version"] >= 0)
    op.value["version"] += 7
    expect(seen, "writes: ")


def test_a_failed_multi_with_wrong_codes(seen: Seen) -> None:
    seen.some(lambda op: op.name == "multi" and op.outcome == "fail").result["results"][0] = -111
    expect(seen, "writes: ")


def test_a_sequential_node_of_another_name(seen: Seen) -> None:
    op = seen.some(lambda op: ok("create")(op) and op.value.get("sequential", False))
    op.result["path"] = f"{op.key}0000000999"
    expect(seen, "writes: ")


def test_two_writes_with_one_zxid(seen: Seen) -> None:
    first, second = list(seen.all(ok("set")))[:2]
    second.result["zxid"] = first.result["zxid"]
    expect(seen, "zxids: ")


def test_writes_that_contradict_real_time(seen: Seen) -> None:
    writes = list(seen.all(ok("set", "create")))
    first, last = writes[0], writes[-1]
    first.result["zxid"], last.result["zxid"] = last.result["zxid"], first.result["zxid"]
    expect(seen, "real time: ")


def test_replies_out_of_order(seen: Seen) -> None:
    reads = [op for op in seen.all(ok("get", "exists")) if op.process == "c1.1"]
    reads[0].finished, reads[-1].finished = reads[-1].finished, reads[0].finished
    expect(seen, "FIFO: ")


def test_a_view_that_goes_back(seen: Seen) -> None:
    reads = list(seen.all(ok("get", "exists")))
    late = next(op for op in reversed(reads) if any(other.process == op.process for other in reads[:20]))
    late.result["zxid"] = seen.log[0][0]
    expect(seen, "going back: ")


def test_a_sync_that_does_not_show_what_was_acknowledged(seen: Seen) -> None:
    writes = list(seen.all(ok("set", "create")))
    for sync in seen.all(ok("sync")):
        zxid = sync.result["zxid"]
        before = [zxid_of(op) for op in writes if op.finished < sync.began and zxid_of(op) >> 32 == zxid >> 32]
        if before:
            sync.result["zxid"] = max(before) - 1
            break
    expect(seen, "sync: ")


def test_an_event_that_did_not_come(seen: Seen) -> None:
    seen.history.operations.remove(seen.some(ok("event")))
    expect(seen, "watches: ")


def test_an_event_that_nobody_asked_for(seen: Seen) -> None:
    event = copy.deepcopy(seen.some(ok("event")))
    event.key = "/unwatched"
    seen.history.operations.append(event)
    expect(seen, "watches: ")


def test_an_event_of_another_kind(seen: Seen) -> None:
    event = seen.some(lambda op: op.name == "event" and op.value["type"] == "child")
    event.value["type"] = "created"
    expect(seen, "watches: ")


def test_an_event_after_the_reply_that_shows_the_change(seen: Seen) -> None:
    by_process: dict[str, list[Operation]] = {}
    for op in sorted(seen.history.operations, key=lambda op: op.finished):
        by_process.setdefault(op.process, []).append(op)
    for operations in by_process.values():
        for before, after in itertools.pairwise(operations):
            if before.name == "event" and zxid_of(after) > before.value["zxid"] and after.outcome != "unknown":
                before.finished, after.finished = after.finished, before.finished
                expect(seen, "watches: ")
                return
    pytest.fail("the run has no such event")


def test_an_answer_after_the_session_was_closed(seen: Seen) -> None:
    close = seen.some(ok("close"))
    late = seen.some(lambda op: op.name == "exists" and op.outcome == "ok" and zxid_of(op) > zxid_of(close))
    late.process = close.process
    expect(seen, "sessions: ")


def test_a_transaction_of_a_closed_session(seen: Seen) -> None:
    close = seen.some(ok("close"))
    session = next(op.result["session"] for op in seen.all(ok("connect")) if op.process == close.process)
    zxid = seen.log[-1][0] + 1
    seen.log.append((zxid, Txn(session, 0, zxid, 0, SetData("/", b"", 1))))
    expect(seen, "log: ")


def test_a_transaction_that_makes_no_sense(seen: Seen) -> None:
    place = next(number for number, (_, txn) in enumerate(seen.log) if isinstance(txn.record, Create))
    zxid, txn = seen.log[place]
    seen.log[place] = (zxid, Txn(txn.session, txn.cxid, zxid, txn.time, Error(-101)))
    expect(seen, "log: ")


def test_a_tree_that_is_not_what_the_log_makes_of_it(seen: Seen) -> None:
    tree = Replay(seen.history, seen.log).tree
    shown: dict[str, Any] = {path: (node.data, node.stat()) for path, node in tree.nodes.items()}
    assert list(differences(tree, shown)) == []
    changed = {path: entry for path, entry in shown.items() if path != "/zookeeper/quota"}
    assert any("/zookeeper/quota" in finding for finding in differences(tree, changed))
    data, stat = shown["/"]
    assert list(differences(tree, {**shown, "/": (data, {**stat, "version": 99})})) != []


# ---- by what clients know alone


def test_without_the_log_a_lost_write_is_found(seen: Seen) -> None:
    """A node that nobody deletes, without the latest change that was acknowledged."""
    read = seen.some(
        lambda op: (ok("get")(op) and op.key == "/") or (ok("get")(op) and op.result["stat"]["version"] > 0)
    )
    write = copy.deepcopy(read)
    write.name, write.value = "set", {"data": "lost", "version": -1}
    write.result = {"zxid": read.result["zxid"], "stat": read.result["stat"]}
    write.process = "c9.1"
    seen.history.operations.append(write)
    assert any(finding.startswith("lost: ") for finding in check(seen.history))


def test_without_the_log_other_data_are_found(seen: Seen) -> None:
    written = {(op.key, zxid_of(op)) for op in seen.all(ok("set", "create"))}
    read = seen.some(lambda op: ok("get")(op) and (op.key, op.result["stat"]["mzxid"]) in written)
    read.result["data"] = "other"
    assert any(finding.startswith("reads: ") for finding in check(seen.history))
