"""The key-value store through its own clients, over real processes."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.kvcluster import PATIENCE, KvCluster

from quorate.errors import UsageError
from quorate.kv.client import (
    Compacted,
    Conflict,
    DeadlineExceeded,
    Event,
    LeaseExpired,
    Refused,
    absent,
    delete,
    delete_prefix,
    exists,
    modified_at,
    put,
    value_is,
    version_is,
)
from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.sync import Client, Transaction
from quorate.kv.client.transaction import Transaction as AsyncTransaction
from quorate.kv.commands import DELETE_RANGE, Write


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("kv"), settings="history = 200") as running:
        yield running


@pytest.fixture
def kv(cluster: KvCluster) -> Iterator[Client]:
    with cluster.client() as client:
        for item in client.list():
            client.delete(item.key)
        yield client


def test_versions_are_checked_and_told(kv: Client) -> None:
    assert kv.get("k") is None
    assert kv.put("k", b"one", version=0) == 1
    assert kv.put("k", b"two") == 2
    item = kv.get("k")
    assert item is not None
    assert (item.key, item.value, item.version, item.lease) == ("k", b"two", 2, 0)
    assert item.created < item.modified
    with pytest.raises(Conflict, match=r"^conflict: k is at version 2$") as caught:
        kv.put("k", b"three", version=1)
    assert [(found.key, found.version, found.modified) for found in caught.value.conflicts] == [
        (b"k", 2, item.modified)
    ]
    assert kv.put("k", b"three", revision=item.modified) == 3
    with pytest.raises(Conflict, match=r"^conflict: other does not exist$"):
        kv.delete("other", version=1)
    assert kv.delete("k", version=3)
    assert not kv.delete("k")
    assert kv.put(b"\xff\x00bytes", b"") == 1
    assert kv.list()[0].key.encode("utf-8", "surrogateescape") == b"\xff\x00bytes"


def test_a_commit_is_whole(kv: Client) -> None:
    kv.put("a", b"1")
    done = kv.commit([version_is("a", 1), absent("b")], [put("a", b"2"), put("b", b"2"), delete("c")])
    assert done.versions == [2, 1, 0]
    with pytest.raises(Conflict) as caught:
        kv.commit(
            [exists("a"), exists("c"), value_is("a", b"1"), modified_at("b", done.revision)],
            [put("a", b"3"), delete_prefix("b")],
        )
    assert [(found.part, found.key) for found in caught.value.conflicts] == [(1, b"c"), (2, b"a")]
    assert [item.value for item in kv.list()] == [b"2", b"2"]
    assert kv.commit([], [delete_prefix("a"), delete_prefix("b")]).versions == [1, 1]
    assert kv.list() == []


def test_lists_and_the_past(kv: Client) -> None:
    for number in range(30):
        kv.put(f"dir/{number:02}", b"x" * number)
    kv.put("dis", b"")
    assert [item.key for item in kv.list("dir/")] == [f"dir/{number:02}" for number in range(30)]
    assert [item.key for item in kv.list("dir/", limit=3)] == ["dir/00", "dir/01", "dir/02"]
    assert [item.key for item in kv.list(start="dir/28", end="dis")] == ["dir/28", "dir/29"]
    assert [item.value for item in kv.list("dir/", keys_only=True, limit=2)] == [b"", b""]
    before = kv.list("dir/")[-1].modified
    kv.commit([], [delete_prefix("dir/")])
    assert kv.list("dir/") == []
    assert len(kv.list("dir/", revision=before)) == 30
    past = kv.get("dir/07", revision=before)
    assert past is not None
    assert past.value == b"x" * 7
    with pytest.raises(Refused, match=r"^the store is at revision"):
        kv.get("dir/07", revision=before + 10**9)


def test_a_past_that_is_compacted_is_told(kv: Client) -> None:
    kv.put("k", b"")
    item = kv.get("k")
    assert item is not None
    for _ in range(450):
        kv.put("other", b"")
    with pytest.raises(Compacted, match=r"^revisions before"):
        kv.get("k", revision=item.modified)
    with pytest.raises(Compacted):
        next(kv.watch(after=item.modified))


def test_the_past_is_compacted_when_it_is_asked_for(cluster: KvCluster, kv: Client) -> None:
    kv.put("k", b"1")
    kv.put("k", b"2")
    item = kv.get("k")
    assert item is not None
    assert kv.get("k", revision=item.modified - 1) is not None
    assert kv.compact(item.modified) == item.modified
    assert kv.get("k", revision=item.modified) is not None
    with pytest.raises(Compacted):
        kv.get("k", revision=item.modified - 1)
    with pytest.raises(Refused, match="compact: the store has no such revision"):
        kv.compact(item.modified + 1000)
    with pytest.raises(UsageError, match="a compaction at revision -1"):
        kv.compact(-1)
    assert quorate(cluster, "kv", "compact", str(item.modified)) == (0, f"{item.modified}\n", "")
    status, _, err = quorate(cluster, "kv", "compact", str(item.modified + 1000))
    assert (status, err) == (1, "quorate: compact: the store has no such revision\n")


def test_members_are_watched_by_prometheus(cluster: KvCluster, kv: Client) -> None:
    kv.put("k", b"1")
    leader = cluster.steady()
    shown = []
    for sid in (1, 2, 3):
        with urllib.request.urlopen(f"http://{cluster.http(sid)}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = text_string_to_metric_families(answer.read().decode())
            shown.append({sample.name: sample for family in families for sample in family.samples})
    assert [found["quorate_paxos_leading"].value for found in shown] == [float(sid == leader) for sid in (1, 2, 3)]
    assert {found["quorate_paxos_leader"].value for found in shown} == {float(leader)}
    assert {found["quorate_kv_keys"].value for found in shown} == {1.0}
    of_leader = shown[leader - 1]
    assert of_leader["quorate_kv_revision"].labels == {"group": "1"}
    assert of_leader["quorate_kv_commands_total"].value >= of_leader["quorate_kv_batches_total"].value > 0
    for found in shown:
        assert found["quorate_paxos_members"].value == 3
        assert found["quorate_journal_syncs_total"].value > 0
        assert found["quorate_journal_sync_seconds_total"].value > 0
        assert found["process_resident_memory_bytes"].value > 0


@pytest.mark.parametrize("staleness", [0.0, 1.0, 1e9])
def test_every_member_answers_reads(cluster: KvCluster, kv: Client, staleness: float) -> None:
    kv.put("k", b"v")
    for address in cluster.addresses:
        with Client(address, timeout=PATIENCE) as client:
            item = client.get("k", staleness=staleness)
            if staleness == 0.0:
                assert item is not None
                assert item.value == b"v"


def test_a_closed_client_says_so(cluster: KvCluster) -> None:
    client = Client(cluster.addresses)
    client.close()
    client.close()
    with pytest.raises(Refused, match="closed"):
        client.get("k")

    async def closed() -> None:
        client = cluster.async_client()
        await client.close()
        await client.get("k")

    with pytest.raises(Refused, match="closed"):
        asyncio.run(closed())


def test_transactions_of_many_clients_are_each_done_once(cluster: KvCluster, kv: Client) -> None:
    kv.put("sum", b"0")

    async def work() -> list[int]:
        clients = [cluster.async_client() for _ in range(4)]

        async def increment(transaction: AsyncTransaction) -> int:
            item = await transaction.get("sum")
            assert item is not None
            await transaction.put("sum", b"%d" % (int(item.value) + 1))
            return int(item.value)

        try:
            return list(await asyncio.gather(*[clients[number % 4].transact(increment) for number in range(100)]))
        finally:
            for client in clients:
                await client.close()

    assert sorted(asyncio.run(work())) == list(range(100))
    item = kv.get("sum")
    assert item is not None
    assert (item.value, item.version) == (b"100", 101)


def test_a_transaction_sees_one_state_and_phantoms_conflict(cluster: KvCluster, kv: Client) -> None:
    kv.put("acc/a", b"50")
    kv.put("acc/b", b"50")
    attempts: list[None] = []
    with cluster.client() as other:

        def audit(transaction: Transaction) -> int:
            attempts.append(None)
            first = transaction.get("acc/a")
            assert first is not None
            if len(attempts) == 1:
                other.commit([], [put("acc/a", b"0"), put("acc/b", b"90"), put("acc/c", b"10")])
            total = sum(int(item.value) for item in transaction.list("acc/"))
            assert total == 100, "what it sees never existed"
            transaction.put("sum", b"%d" % total)
            return total

        assert kv.transact(audit) == 100
    assert len(attempts) == 2, "the first one read what was changed before it committed"


def test_a_transaction_that_always_loses_ends_at_its_deadline(cluster: KvCluster, kv: Client) -> None:
    kv.put("acc", b"0")
    with cluster.client() as other:

        def hopeless(transaction: Transaction) -> None:
            transaction.get("acc")
            other.put("acc", b"0")
            transaction.put("never", b"")

        with pytest.raises(DeadlineExceeded, match=r"^transaction: not answered within 0\.3 s \(it lost \d+ times\)$"):
            kv.transact(hopeless, timeout=0.3)
    assert kv.get("never") is None


def test_what_a_transaction_wrote_is_gone_if_its_function_fails(kv: Client) -> None:
    def fails(transaction: Transaction) -> None:
        transaction.put("k", b"")
        raise KeyError("of the user's")

    with pytest.raises(KeyError, match="of the user's"):
        kv.transact(fails)
    assert kv.get("k") is None


def test_watches_tell_each_change_once_and_in_order(cluster: KvCluster, kv: Client) -> None:
    kv.put("w/before", b"")
    before = kv.get("w/before")
    assert before is not None
    seen: list[Event] = []

    def collect() -> None:
        with cluster.client() as other:
            for event in other.watch("w/", after=before.modified):
                seen.append(event)
                if event.key == "w/end":
                    return

    thread = threading.Thread(target=collect)
    thread.start()
    for number in range(50):
        kv.put(f"w/{number % 3}", b"%d" % number)
        kv.put("elsewhere", b"")
    kv.delete("w/1")
    kv.commit([], [put("w/x", b""), put("w/end", b"")])
    thread.join(PATIENCE)
    values = [(event.key, event.item.value if event.item else None) for event in seen]
    assert values == [
        *[(f"w/{number % 3}", b"%d" % number) for number in range(50)],
        ("w/1", None),
        ("w/end", b""),
    ] or values == [
        *[(f"w/{number % 3}", b"%d" % number) for number in range(50)],
        ("w/1", None),
        ("w/end", b""),
        ("w/x", b""),
    ]
    revisions = [event.revision for event in seen]
    assert revisions == sorted(revisions)


def test_a_lease_lives_as_long_as_its_client(cluster: KvCluster, kv: Client) -> None:
    events = kv.watch(key="mine")

    async def work() -> None:
        client = cluster.async_client()
        lease = await client.lease(0.6)
        await client.put("mine", b"", lease=lease)
        await asyncio.sleep(1.5)  # more than twice its time: it was kept alive
        assert await client.get("mine") is not None
        await client.close()

    started = threading.Event()
    seen: list[Event] = []

    def collect() -> None:
        started.set()
        for event in events:
            seen.append(event)
            if event.item is None:
                return

    thread = threading.Thread(target=collect)
    thread.start()
    started.wait()
    asyncio.run(work())
    thread.join(PATIENCE)
    assert seen[-1].item is None, "nobody keeps it alive any more"
    with kv.lease(10) as lease:
        kv.put("mine", b"", lease=lease)
    assert kv.get("mine") is None
    with pytest.raises(LeaseExpired):
        kv.put("mine", b"", lease=lease)


def test_mistakes_are_told_in_a_sentence(cluster: KvCluster, kv: Client) -> None:
    with pytest.raises(UsageError, match=r"^a key of 0 bytes, expected 1 to 4096$"):
        kv.get("")
    with pytest.raises(UsageError, match=r"^a value of 1048577 bytes, at most 1048576 can be$"):
        kv.put("k", b"x" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match=r"'nowhere' is no address of a member, expected host:port"):
        Client("nowhere")
    with (
        pytest.raises(DeadlineExceeded, match=r"^no member can be reached"),
        Client("127.0.0.1:1", timeout=0.2) as client,
    ):
        client.get("k")


def test_shards_are_found_and_commits_over_them_refused(tmp_path: Path) -> None:
    with KvCluster(tmp_path, 3, settings='shards = ["", "g", "p"]') as cluster, cluster.client() as kv:
        for key in ("a", "f", "g", "k", "p", "z"):
            assert kv.put(key, key.encode()) == 1
        assert [item.key for item in kv.list()] == ["a", "f", "g", "k", "p", "z"]
        assert [item.key for item in kv.list(start="f", end="q", limit=3)] == ["f", "g", "k"]
        kv.commit([exists("a")], [put("b", b""), put("f", b"")])
        with pytest.raises(Refused, match="in several shards"):
            kv.commit([exists("a")], [put("z", b"")])
        for prefix in ("f", "fz"):
            assert kv.commit([], [delete_prefix(prefix)]).versions == [1 if prefix == "f" else 0]
        with pytest.raises(Refused, match="in several shards"):
            kv.commit([], [Write(DELETE_RANGE, b"a", b"h")])
        with pytest.raises(Refused, match="in several shards"):
            kv.commit([], [Write(DELETE_RANGE, b"a", b"")])
        assert kv.commit([], [Write(DELETE_RANGE, b"p", b"")]).versions == [2]
        kv.commit([], [put("p", b""), put("z", b"")])
        with pytest.raises(Refused, match="a watch is of one shard"):
            next(kv.watch(start="a", end="z"))

        def over(transaction: Transaction) -> None:
            transaction.get("a")
            transaction.put("z", b"")

        with pytest.raises(UsageError, match="in another shard"):
            kv.transact(over)
        with kv.lease(30, key="z") as lease:
            kv.put("zz", b"", lease=lease)
        assert kv.get("zz") is None


def test_sessions_survive_the_loss_of_any_member(tmp_path: Path) -> None:
    """Every increment is done once, though leaders are killed under them."""

    async def work(cluster: KvCluster) -> None:
        done = 0
        more = asyncio.Event()
        async with AsyncClient(cluster.addresses, timeout=60) as kv:
            await kv.put("n", b"0")

            async def increment(transaction: AsyncTransaction) -> None:
                item = await transaction.get("n")
                assert item is not None
                await transaction.put("n", b"%d" % (int(item.value) + 1))

            async def worker() -> None:
                nonlocal done
                while not over:
                    await kv.transact(increment)
                    done += 1
                    more.set()

            over = False
            workers = [asyncio.create_task(worker()) for _ in range(8)]
            for _ in range(3):
                before = done
                leader = await asyncio.to_thread(cluster.leader)
                cluster.kill(leader)
                async with asyncio.timeout(PATIENCE):
                    while done < before + 20:
                        more.clear()
                        await more.wait()
                cluster.start(leader)
            over = True
            await asyncio.gather(*workers)
            item = await kv.get("n")
            assert item is not None
            assert (int(item.value), item.version) == (done, done + 1)

    with KvCluster(tmp_path, 3) as cluster:
        asyncio.run(work(cluster))


def quorate(cluster: KvCluster, *words: str, text: str = "", http: bool = False) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "QUORATE_KV": ",".join(cluster.addresses),
        "QUORATE_HTTP": f"{cluster.http(1)},{cluster.http(2)}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "quorate", *words],
        input=text,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_line(cluster: KvCluster, kv: Client) -> None:
    assert quorate(cluster, "kv", "put", "k", "value") == (0, "1\n", "")
    assert quorate(cluster, "kv", "get", "k") == (0, "value", "")
    assert quorate(cluster, "kv", "put", "k", "-", "--version", "1", text="from a pipe") == (0, "2\n", "")
    assert quorate(cluster, "kv", "put", "k", "x", "--version", "1") == (
        1,
        "",
        "quorate: conflict: k is at version 2\n",
    )
    assert quorate(cluster, "kv", "list") == (0, "k\tfrom a pipe\n", "")
    status, out, _ = quorate(cluster, "kv", "get", "k", "--json")
    assert status == 0
    assert json.loads(out)["version"] == 2
    txn = json.dumps({"if": [{"key": "k", "version": 2}], "then": [{"put": "l", "value": "1"}, {"delete": "k"}]})
    status, out, err = quorate(cluster, "kv", "txn", "-", text=txn)
    assert (status, err) == (0, "")
    assert out.startswith("committed at revision ")
    assert quorate(cluster, "kv", "txn", "-", text=txn)[0] == 1
    assert quorate(cluster, "kv", "get", "k") == (1, "", "quorate: there is no key k\n")
    assert quorate(cluster, "kv", "delete", "l") == (0, "", "")
    for text, message in (
        ("nothing", "standard input: no JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            '{"then": [{"put": "k"}]}',
            'standard input: then[0]: expected {"put": key, "value": text}, {"delete": key} or {"delete_prefix": prefix}',
        ),
        (
            '{"if": [{"key": "k", "version": "1"}]}',
            "standard input: if[0]: version: '1' is no version, revision, truth or text that it could be",
        ),
    ):
        assert quorate(cluster, "kv", "txn", "-", text=text) == (2, "", f"quorate: {message}\n")
    kv.put("w", b"1")
    item = kv.get("w")
    assert item is not None
    assert quorate(cluster, "kv", "watch", "--after", str(item.modified - 1), "--count", "1") == (
        0,
        f"{item.modified}\tw\tversion 1\t1\n",
        "",
    )


def test_members_are_listed_added_replaced_and_removed(tmp_path: Path) -> None:
    with KvCluster(tmp_path, 3, spare=2) as cluster, cluster.client() as kv:
        for number in range(100):
            kv.put(f"k{number}", b"x")
        status, out, _ = quorate(cluster, "member", "list")
        assert status == 0
        assert [line.split()[1] for line in out.splitlines()[1:]] == ["1", "2", "3"]
        cluster.kill(3)
        cluster.start(4, join=True)
        status, out, err = quorate(cluster, "member", "replace", "3", "4", *cluster.options(4))
        assert (status, err) == (0, "")
        assert [line.split()[1] for line in out.splitlines()[1:]] == ["1", "2", "4"]
        assert quorate(cluster, "member", "lead", "4")[0] == 0
        assert cluster.leader() == 4
        cluster.kill(1)
        assert kv.put("after", b"") == 1
        cluster.kill(4)
        cluster.start(4)
        assert kv.put("after", b"") == 2
        cluster.start(1)
        status, out, err = quorate(cluster, "member", "remove", "1")
        assert (status, err) == (0, "")
        assert [line.split()[1] for line in out.splitlines()[1:]] == ["2", "4"]
        assert kv.put("after", b"") == 3
        status, _, err = quorate(cluster, "member", "add", "99", *cluster.options(5), "--timeout", "1")
        assert status == 1
        assert "member 99 did not catch up in 1 s: there is no connection with it; see that it runs" in err
        assert cluster.options(5)[1] in err
        assert "then the same command may be given again" in err
