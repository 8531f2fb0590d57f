"""What clients of a store of several shards see of transactions over them that somebody left unfinished at each point."""

import asyncio
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.support.kvcluster import KvCluster
from tests.support.processes import wait_until
from tests.support.shards import SHARDS, Steps

from quorate.kv import commands, entries, wire
from quorate.kv.client import (
    Conflict,
    DeadlineExceeded,
    Locked,
    Refused,
    absent,
    delete,
    delete_prefix,
    exists,
    put,
    version_is,
)
from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.sync import Client, Transaction
from quorate.kv.decisions import GRACE_SECONDS
from quorate.transactions.records import Decision

KEYS = ("a", "n", "z")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("shards"), settings=SHARDS) as running:
        yield running


@pytest.fixture
def kv(cluster: KvCluster) -> Iterator[Client]:
    """Empty but for KEYS with the value ``old``. At the end nothing may be prepared."""
    with cluster.client() as client:
        for item in client.list():
            client.delete(item.key)
        for key in KEYS:
            client.put(key, b"old")
        yield client
        assert [held for group in client.groups() for held in client.held(group)] == []


def values(kv: Client) -> list[bytes | None]:
    return [None if item is None else item.value for item in map(kv.get, KEYS)]


# ---- readers


def test_what_is_decided_is_in_force_for_every_reader_at_once(kv: Client, cluster: KvCluster) -> None:
    """Its coordinator died between the decision and telling anybody."""
    for number, key in enumerate(KEYS):
        steps = Steps(kv)
        value = b"%d" % number
        steps.prepare(*KEYS, value=value)
        assert kv.get(key) is not None
        steps.decide()
        with cluster.client() as somebody:
            item = somebody.get(key)
            assert item is not None
            assert item.value == value
        assert steps.outcome(key) == commands.COMMITTED
        assert values(kv) == [value] * 3
        # nobody does it a second time
        assert [item.version for item in map(kv.get, KEYS) if item is not None] == [number + 2] * 3


def test_a_list_finishes_what_it_comes_across_in_all_shards(kv: Client) -> None:
    steps = Steps(kv)
    steps.prepare(*KEYS, "aa", "o")
    assert [item.value for item in kv.list(end="q")] == [b"old"] * 2
    steps.decide()
    assert [(item.key, item.value) for item in kv.list(end="q")] == [(key, b"new") for key in ("a", "aa", "n", "o")]
    assert kv.list(start="z", limit=1)[0].value == b"new"


def test_a_page_of_a_list_is_of_after_what_was_decided_behind_it(kv: Client, cluster: KvCluster) -> None:
    """It goes on at the revision of its first page: what that lacks the others would lack."""
    for at in range(5):
        kv.put(f"b{at}", b"old")
    steps = Steps(kv)
    steps.prepare("b4", "n")
    steps.decide()
    found = asyncio.run(_pages(cluster.addresses))
    assert found == [("a", b"old"), *[(f"b{at}", b"old") for at in range(4)], ("b4", b"new")]
    assert values(kv) == [b"old", b"new", b"old"]


async def _pages(addresses: Any) -> list[tuple[str, bytes]]:
    async with AsyncClient(addresses) as client:
        deadline = asyncio.get_running_loop().time() + 5
        found = []
        at, revision = b"a", 0
        while at:
            page = await client.page(at, b"c", 2, revision, deadline, 5)
            found += [(item.key, item.value) for item in page.items]
            at, revision = page.next, revision or page.revision
        return found


def test_what_was_aborted_is_gone_for_readers(kv: Client) -> None:
    steps = Steps(kv)
    steps.prepare(*KEYS)
    steps.decide(Decision.ABORT)
    assert values(kv) == [b"old"] * 3
    assert [steps.outcome(key) for key in KEYS] == [commands.ABORTED] * 3


def test_before_the_decision_readers_see_what_was_there_and_do_not_wait(kv: Client) -> None:
    steps = Steps(kv, timeout=60.0)
    steps.prepare(*KEYS)
    assert values(kv) == [b"old"] * 3
    assert [item.value for item in kv.list(end="q")] == [b"old"] * 2
    assert [steps.outcome(key) for key in KEYS] == [commands.PREPARED] * 3
    steps.decide()
    assert values(kv) == [b"new"] * 3


@pytest.mark.parametrize("staleness", [0.0, 5.0])
def test_readers_abort_what_nobody_decided_in_time(kv: Client, staleness: float) -> None:
    steps = Steps(kv, timeout=0.001)
    steps.prepare(*KEYS)

    def aborted() -> bool:
        item = kv.get("n", staleness=staleness)
        assert item is not None
        assert item.value == b"old"
        return steps.outcome("n") == commands.ABORTED

    wait_until(aborted, 30.0, "a reader has aborted it")
    record = steps.read()
    assert record is not None
    assert (record.decision, record.reason) == (Decision.ABORT, "undecided, and its time is up")
    assert time.time() > steps.gtid.deadline + GRACE_SECONDS
    # whoever comes back late loses
    assert steps.decide().decision is Decision.ABORT
    with pytest.raises(Refused, match="aborted before it was prepared"):
        steps.prepare("n")
    assert values(kv) == [b"old"] * 3


def test_what_is_forgotten_is_aborted(kv: Client) -> None:
    """The horizon has passed it: there will be no decision."""
    steps = Steps(kv, timeout=0.001)
    steps.prepare("n")
    horizon = steps.log.prefix + "horizon"
    kv.put(horizon, repr(time.time() + 3600).encode())
    wait_until(lambda: kv.get("n") is not None and steps.outcome("n") == commands.ABORTED, 30.0, "it is aborted")
    assert kv.get(steps.log.key(steps.gtid)) is None
    kv.delete(horizon)


# ---- writers


def test_writers_go_on_after_what_is_decided(kv: Client) -> None:
    for decision, version in ((Decision.COMMIT, 3), (Decision.ABORT, 4)):
        steps = Steps(kv)
        steps.prepare(*KEYS)
        steps.decide(decision)
        assert kv.put("a", b"mine") == version
        kv.commit([exists("n")], [put("o", b"")])
        assert kv.delete("z") is True
        kv.put("z", b"old")
        assert kv.get("a").value == b"mine"  # type: ignore[union-attr]  # it was just put
    kv.put("z", b"old")


def test_a_writer_waits_for_the_decision(kv: Client, cluster: KvCluster) -> None:
    steps = Steps(kv, timeout=60.0)
    steps.prepare(*KEYS)
    done: list[int] = []
    with cluster.client() as other:
        writer = threading.Thread(target=lambda: done.append(other.put("a", b"mine")))
        writer.start()
        with pytest.raises(Locked, match=f"keys are locked by transaction {steps.gtid.text}") as caught:
            kv.put("n", b"impatient", timeout=0.2)
        assert caught.value.transactions == [steps.gtid.text]
        assert not caught.value.maybe_done
        assert isinstance(caught.value, DeadlineExceeded)
        assert not done
        steps.decide()
        writer.join()
    assert done == [3]
    assert [item.value for item in kv.list(end="q")] == [b"mine", b"new"]
    assert values(kv)[2] == b"new"


@pytest.mark.parametrize(
    "what", ["put", "put on a version", "commit", "delete", "range", "transact", "reads in a transaction"]
)
def test_writers_abort_what_nobody_decided_in_time(kv: Client, what: str) -> None:
    steps = Steps(kv, timeout=0.001)
    steps.prepare(*KEYS)

    def transaction(tx: Transaction) -> None:
        tx.get("n")
        tx.put("nn" if what.startswith("reads") else "n", b"")

    ways: dict[str, Callable[[], object]] = {
        "put": lambda: kv.put("n", b""),
        "put on a version": lambda: kv.put("n", b"", version=1),
        "commit": lambda: kv.commit([version_is("n", 1)], [put("o", b"")]),
        "delete": lambda: kv.delete("n"),
        "range": lambda: kv.commit([], [delete_prefix("n")]),
    }
    ways.get(what, lambda: kv.transact(transaction))()
    assert steps.outcome("n") == commands.ABORTED
    record = steps.read()
    assert record is not None
    assert record.decision is Decision.ABORT
    assert values(kv)[::2] == [b"old"] * 2
    kv.put("n", b"old")


def test_a_condition_on_what_is_about_to_change_is_decided_after_it(kv: Client) -> None:
    steps = Steps(kv)
    steps.prepare(*KEYS)
    steps.decide()
    with pytest.raises(Conflict):
        kv.put("n", b"", version=1)
    steps = Steps(kv)
    steps.prepare(*KEYS, value=b"newer")
    steps.decide(Decision.ABORT)
    assert kv.put("n", b"", version=2) == 3
    values(kv)


def test_where_the_decision_lies_elsewhere_readers_see_the_old_and_writers_name_it(kv: Client) -> None:
    steps = Steps(kv, timeout=0.001, decided_here=False)
    steps.prepare("n")
    assert kv.get("n").value == b"old"  # type: ignore[union-attr]  # it is there
    with pytest.raises(Locked, match=rf"locked by transaction {steps.gtid.text}, whose decision lies elsewhere"):
        kv.put("n", b"", timeout=GRACE_SECONDS + 0.5)
    (held,) = kv.held(kv.groups(["n"])[0])
    assert (held.id, held.decision, held.deadline) == (steps.id, "", steps.gtid.deadline)
    kv.finish(held.group, held.id, True, held.deadline)
    assert kv.get("n").value == b"new"  # type: ignore[union-attr]  # the same


def test_nobody_writes_a_decision_where_none_can_be(kv: Client) -> None:
    """Whoever prepares says where the decision lies: that must be no way to have others write somewhere."""
    wrong = [
        "n2",
        "quorate/txn/x",
        f"quorate/txn/x/d/{'y' * 10}",
        "quorate/txn/a/b/d/{}",
        "quorate/txn//d/{}",
        "o/d/{}",
    ]
    found: list[tuple[str, Steps]] = []
    for number, decision in enumerate(wrong):
        steps = Steps(kv, timeout=0.001)
        steps.decision = decision.format(steps.gtid.text)
        steps.prepare(f"n/{number}")
        found.append((f"n/{number}", steps))
    late = found[-1][1].gtid.deadline + GRACE_SECONDS
    wait_until(lambda: time.time() > late, 30.0, "their time is up")
    for key, steps in found:
        with pytest.raises(Locked):
            kv.put(key, b"", timeout=0.5)
        assert kv.get(key) is None
        kv.finish(2, steps.id, False, steps.gtid.deadline)
        assert kv.get(steps.decision) is None


# ---- transactions of one shard


def test_a_transaction_that_only_reads_sees_all_that_was_decided_before_it_began(
    kv: Client, cluster: KvCluster
) -> None:
    """What it read first was of a revision without it; it was finished before the next read, so that nothing was in the way there."""
    steps = Steps(kv)
    steps.prepare("nb", "z")
    kv.put("na", b"old")
    steps.decide()
    assert kv.get("z").value == b"new"  # type: ignore[union-attr]  # it was just committed
    tries: list[int] = []
    with cluster.client() as other:

        def look(tx: Transaction) -> tuple[object, object]:
            tries.append(0)
            first = tx.get("na")
            if len(tries) == 1:
                assert other.get("nb") is not None
            return first, tx.get("nb")

        _, second = kv.transact(look)
    assert second is not None
    assert len(tries) == 2


def test_a_watch_sees_a_transaction_at_its_finish_and_at_one_revision(kv: Client, cluster: KvCluster) -> None:
    steps = Steps(kv, timeout=60.0)
    kv.put("nz", b"before")
    steps.prepare("n", "na", "a")
    with cluster.client() as other:
        item = kv.get("nz")
        assert item is not None
        with closing(other.watch("n", after=item.modified - 1)) as events:  # type: ignore[type-var]  # it is a generator
            assert next(events).key == "nz"
            kv.put("nz", b"meanwhile")
            assert next(events).key == "nz"
            steps.decide()
            assert kv.get("n") is not None
            found = [next(events), next(events)]
        assert [(event.key, event.item.value) for event in found if event.item] == [("n", b"new"), ("na", b"new")]
        assert found[0].revision == found[1].revision
    assert values(kv) == [b"new", b"new", b"old"]


# ---- the wire


class Raw:
    """A client of an older version, byte by byte."""

    def __init__(self, address: str, version: int | None = 1) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self.greeted = self.ask(wire.HELLO, wire.MAGIC + bytes((version,))) if version is not None else (0, b"")

    def ask(self, op: int, body: bytes) -> tuple[int, bytes]:
        self._socket.sendall(wire.request(7, op, body))
        length, _, status = wire.HEAD.unpack(self._take(wire.HEAD.size))
        return status, self._take(length - 5)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more
            data += more
        return data

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("version", [1, None])
def test_older_clients_go_on_where_no_intent_is_concerned(kv: Client, cluster: KvCluster, version: int | None) -> None:
    steps = Steps(kv, timeout=60.0)
    steps.prepare("n")
    leader = next(shard["leader"] for shard in kv.status()["shards"] if shard["group"] == 2)
    raw = Raw(cluster.client_address(leader), version)
    assert raw.greeted[0] == wire.DONE
    try:
        status, body = raw.ask(wire.GET, wire.GET_HEAD.pack(0, 0) + b"na")
        assert (status, body[8:]) == (wire.DONE, b"\0")
        kv.put("na", b"x")
        status, body = raw.ask(wire.GET, wire.GET_HEAD.pack(0, 0) + b"na")
        assert (status, body[8], entries.unpack_entry(body, 9)[0].value) == (wire.DONE, 1, b"x")
        listing = wire.LIST_HEAD.pack(0, 0, 0, 0)
        status, body = raw.ask(wire.LIST, listing + wire.pack_range(b"na", b"nb"))
        assert (status, struct.unpack_from(">I", body, 8)) == (wire.DONE, (1,))
        write = commands.pack_command(commands.COMMIT, commands.commit_body([], [put("na", b"y")]))
        assert raw.ask(wire.WRITE, wire.TWO_U32.pack(2, 0) + write)[0] == wire.DONE
        told = rb"a transaction over shards is about to change what was asked for, which version 1 of the protocol cannot be told"
        locked = commands.pack_command(commands.COMMIT, commands.commit_body([], [put("n", b"y")]))
        for op, request in (
            (wire.GET, wire.GET_HEAD.pack(0, 0) + b"n"),
            (wire.LIST, listing + wire.pack_range(b"n", b"o")),
            (wire.WRITE, wire.TWO_U32.pack(2, 0) + locked),
        ):
            status, body = raw.ask(op, request)
            assert status == wire.REFUSED
            assert body.startswith(told)
    finally:
        raw.close()
        kv.finish(2, steps.id, False, steps.gtid.deadline)


def test_a_version_that_is_not_spoken_is_refused(cluster: KvCluster) -> None:
    raw = Raw(cluster.client_address(1), 3)
    assert raw.greeted == (wire.REFUSED, b"version 3 is not spoken here, 1 and 2 are")
    raw.close()


def test_who_prepares_over_shards_or_what_is_not_allowed_is_refused(kv: Client) -> None:
    with pytest.raises(Refused, match="the keys are in several shards"):
        kv.prepare(1, "x/y", "", 0.0, [], [put("a", b""), put("z", b"")])


# ---- Consul's interface


def ask(cluster: KvCluster, sid: int, method: str, path: str, body: bytes = b"") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{cluster.http(sid)}{path}", data=body or None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("sid", [1, 2, 3])
def test_consul_reads_what_is_decided_on_every_member(kv: Client, cluster: KvCluster, sid: int) -> None:
    steps = Steps(kv)
    steps.prepare(*KEYS, "nn")
    assert ask(cluster, sid, "GET", "/v1/kv/n?raw") == (200, "old")
    steps.decide()
    assert ask(cluster, sid, "GET", "/v1/kv/n?raw") == (200, "new")
    status, body = ask(cluster, sid, "GET", "/v1/kv/?keys")
    assert (status, [key for key in json.loads(body) if "/" not in key]) == (200, ["a", "n", "nn", "z"])
    assert values(kv) == [b"new"] * 3


def test_consul_writes_wait_a_little_and_say_for_whom(kv: Client, cluster: KvCluster) -> None:
    steps = Steps(kv, timeout=60.0)
    steps.prepare(*KEYS)
    told = (500, f"keys are locked by transaction {steps.gtid.text}, which is not decided yet")
    operations = json.dumps([{"KV": {"Verb": "get", "Key": "n"}}]).encode()
    assert ask(cluster, 1, "PUT", "/v1/kv/n", b"mine") == told
    assert ask(cluster, 2, "PUT", "/v1/txn", operations) == told
    assert ask(cluster, 3, "PUT", "/v1/kv/na", b"mine") == (200, "true")
    steps.decide()
    assert json.loads(ask(cluster, 2, "PUT", "/v1/txn", operations)[1])["Results"][0]["KV"]["Value"] == "bmV3"
    assert ask(cluster, 1, "PUT", "/v1/kv/a", b"mine") == (200, "true")
    assert ask(cluster, 3, "DELETE", "/v1/kv/z") == (200, "true")
    assert values(kv) == [b"mine", b"new", None]
    steps = Steps(kv, timeout=0.001)
    steps.prepare("n", value=b"late")
    time.sleep(max(steps.gtid.deadline + GRACE_SECONDS - time.time(), 0))
    assert ask(cluster, 1, "PUT", "/v1/kv/n?cas=0", b"no") == (200, "false")
    assert steps.outcome("n") == commands.ABORTED


def test_a_blocking_query_of_consul_is_answered_by_the_finish(kv: Client, cluster: KvCluster) -> None:
    item = kv.get("n")
    assert item is not None
    steps = Steps(kv, timeout=60.0)
    steps.prepare(*KEYS)
    answers: list[tuple[int, str]] = []
    path = f"/v1/kv/n?raw&index={item.modified}&wait=60s"
    waiting = threading.Thread(target=lambda: answers.append(ask(cluster, 2, "GET", path)))
    waiting.start()
    steps.decide()
    assert values(kv) == [b"new"] * 3
    waiting.join()
    assert answers == [(200, "new")]


def test_consul_transactions_over_shards_stay_refused(cluster: KvCluster) -> None:
    operations = [{"KV": {"Verb": "get", "Key": key}} for key in ("a", "n")]
    status, body = ask(cluster, 1, "PUT", "/v1/txn", json.dumps(operations).encode())
    assert (status, body) == (400, "the keys are in several shards, and a transaction of this interface is of one")


def test_metrics_count_them(kv: Client, cluster: KvCluster) -> None:
    steps = Steps(kv, timeout=60.0)
    steps.prepare("n")
    assert kv.put("other", b"", version=0) == 1
    assert 'quorate_kv_intents{group="2"} 1.0' in _shown(cluster, kv)
    kv.finish(2, steps.id, False, steps.gtid.deadline)
    assert 'quorate_kv_intents{group="2"} 0.0' in _shown(cluster, kv)
    kv.commit([absent("nobody")], [delete("other")])


def _shown(cluster: KvCluster, kv: Client) -> str:
    leader = next(shard["leader"] for shard in kv.status()["shards"] if shard["group"] == 2)
    with urllib.request.urlopen(f"http://{cluster.http(leader)}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
