"""Consul's API through an unmodified client (py-consul), on any member of a real cluster."""

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import consul
import pytest
from tests.support.kvcluster import KvCluster
from tests.support.processes import ROOT

Consuls = list[consul.Consul]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvCluster]:
    with KvCluster(tmp_path_factory.mktemp("consul")) as running:
        yield running


@pytest.fixture
def members(cluster: KvCluster) -> Consuls:
    found = [consul.Consul(port=cluster.ports[sid][2]) for sid in (1, 2, 3)]
    found[0].kv.delete("", recurse=True)
    return found


def ask(cluster: KvCluster, method: str, path: str, body: bytes = b"") -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(f"http://{cluster.http(1)}{path}", data=body or None, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode("latin-1"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_keys_on_any_member(members: Consuls) -> None:
    one, two, three = members
    assert one.kv.get("foo")[1] is None
    assert one.kv.put("foo", "bar")
    assert two.kv.get("foo")[1]["Value"] == b"bar"
    assert three.kv.put("foo", "baz", flags=42)
    _, item = one.kv.get("foo")
    assert (item["Value"], item["Flags"], item["LockIndex"]) == (b"baz", 42, 0)
    assert item["CreateIndex"] < item["ModifyIndex"]
    assert not two.kv.put("foo", "no", cas=item["CreateIndex"])
    assert not two.kv.put("foo", "no", cas=0)
    assert two.kv.put("foo", "yes", cas=item["ModifyIndex"])
    assert two.kv.put("new", "yes", cas=0)
    assert not two.kv.delete("foo", cas=item["ModifyIndex"])
    assert two.kv.delete("foo")
    assert three.kv.get("foo")[1] is None


def test_prefixes(members: Consuls) -> None:
    one, two, _ = members
    for key in ("p/a", "p/b", "p/c/d", "p/c/e", "q"):
        one.kv.put(key, key)
    assert [item["Key"] for item in two.kv.get("p/", recurse=True)[1]] == ["p/a", "p/b", "p/c/d", "p/c/e"]
    assert two.kv.get("p/", keys=True)[1] == ["p/a", "p/b", "p/c/d", "p/c/e"]
    assert two.kv.get("p/", keys=True, separator="/")[1] == ["p/a", "p/b", "p/c/"]
    assert two.kv.delete("p/", recurse=True)
    assert one.kv.get("", keys=True)[1] == ["q"]
    assert one.kv.get("p/", recurse=True)[1] is None


def test_sessions_hold_locks(members: Consuls) -> None:
    one, two, three = members
    session = one.session.create("mine", ttl=10, lock_delay=0)
    assert two.kv.put("lock", "held", acquire=session)
    assert three.kv.get("lock")[1]["Session"] == session
    other = two.session.create("other", behavior="delete")
    assert not three.kv.put("lock", "taken", acquire=other)
    assert three.kv.put("lock", "written by anyone")
    assert one.session.renew(session)["Name"] == "mine"
    info = three.session.info(session)[1]
    assert (info["TTL"], info["Behavior"], info["LockDelay"]) == ("10s", "release", 0)
    assert {found["ID"] for found in two.session.list()[1]} >= {session, other}
    assert one.session.destroy(session)
    item = two.kv.get("lock")[1]
    assert "Session" not in item
    assert item["LockIndex"] == 0, "a write without the lock"
    assert two.kv.put("lock", "taken", acquire=other)
    assert two.kv.get("lock")[1]["LockIndex"] == 1
    assert not one.kv.put("lock", "", release=session)
    assert one.kv.put("lock", "", release=other)
    assert one.kv.put("lock", "", acquire=other)
    assert two.session.destroy(other)
    assert one.kv.get("lock")[1] is None, "its behaviour was to delete"
    with pytest.raises(consul.NotFound):
        one.session.renew(session)


def test_a_lock_that_was_lost_is_delayed(members: Consuls) -> None:
    one, two, _ = members
    first, second = one.session.create(lock_delay=1), one.session.create(lock_delay=0)
    assert one.kv.put("delayed", "", acquire=first)
    assert one.session.destroy(first)
    assert not two.kv.put("delayed", "", acquire=second)
    index, _ = two.kv.get("delayed")
    done = threading.Event()
    while not two.kv.put("delayed", "", acquire=second):
        done.wait(0.05)
    assert int(two.kv.get("delayed")[0]) > int(index)


def test_a_read_waits_for_a_change(members: Consuls) -> None:
    one, two, three = members
    one.kv.put("w/a", "1")
    index, _ = two.kv.get("w/", recurse=True)
    told: list[bytes] = []
    waiting = threading.Thread(
        target=lambda: told.append(two.kv.get("w/", recurse=True, index=index, wait="30s")[1][1]["Value"])
    )
    waiting.start()
    three.kv.put("elsewhere", "")
    three.kv.put("w/b", "2")
    waiting.join(20)
    assert told == [b"2"]
    index, _ = two.kv.get("w/a")
    assert two.kv.get("w/a", index=index, wait="100ms")[1]["Value"] == b"1", "when the time is up it is as it was"
    index, _ = two.kv.get("missing")
    threading.Timer(0.1, lambda: one.kv.put("missing", "there")).start()
    assert two.kv.get("missing", index=index, wait="30s")[1]["Value"] == b"there"


def test_transactions(members: Consuls) -> None:
    one, two, _ = members
    one.kv.put("t/a", "1")
    _, item = one.kv.get("t/a")
    done = two.txn.put(
        [
            {"KV": {"Verb": "cas", "Key": "t/a", "Value": "Mg==", "Index": item["ModifyIndex"]}},
            {"KV": {"Verb": "set", "Key": "t/b", "Value": "Mg==", "Flags": 7}},
            {"KV": {"Verb": "get-tree", "Key": "t/"}},
        ]
    )
    assert [found["KV"]["Key"] for found in done["Results"]] == ["t/a", "t/b", "t/a", "t/b"]
    assert [found["KV"]["Value"] for found in done["Results"]] == [None, None, "Mg==", "Mg=="]
    with pytest.raises(
        consul.ConsulException, match=r'"OpIndex":1,"What":"failed to delete key \\"t/a\\", index is stale"'
    ):
        one.txn.put(
            [
                {"KV": {"Verb": "set", "Key": "t/c", "Value": ""}},
                {"KV": {"Verb": "delete-cas", "Key": "t/a", "Index": item["ModifyIndex"]}},
            ]
        )
    assert one.kv.get("t/c")[1] is None


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/kv/", 400, "Missing key name"),
        ("GET", "/v1/kv/k?index=x", 400, "Invalid index"),
        ("GET", "/v1/kv/k?index=1&wait=5", 400, "Invalid wait time"),
        ("GET", "/v1/kv/k?stale&consistent", 400, "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ("GET", "/v1/kv/k?dc=mars", 500, "No path to datacenter"),
        ("POST", "/v1/kv/k", 405, "method POST not allowed"),
        ("PUT", "/v1/kv/k?acquire=nobody", 500, 'invalid session "nobody"'),
        (
            "PUT",
            "/v1/session/renew/00000000-0000-4000-8000-000000000000",
            404,
            "Session id '00000000-0000-4000-8000-000000000000' not found",
        ),
    ],
)
def test_mistakes_are_told_as_consul_does(cluster: KvCluster, method: str, path: str, status: int, text: str) -> None:
    found, body, _ = ask(cluster, method, path, b"x" if method == "PUT" else b"")
    assert (found, body) == (status, text)


def test_who_leads_and_what_this_is(cluster: KvCluster, members: Consuls) -> None:
    peers = members[0].status.peers()
    assert peers == sorted(f"127.0.0.1:{cluster.ports[sid][0]}" for sid in (1, 2, 3))
    assert members[1].status.leader() in peers
    config = members[2].agent.self()["Config"]
    assert (config["Datacenter"], config["NodeName"], config["Server"]) == ("dc1", "node-3", True)


def test_a_missing_key_has_an_index_and_bodies_are_as_documented(cluster: KvCluster) -> None:
    status, body, headers = ask(cluster, "GET", "/v1/kv/missing")
    assert (status, body) == (404, "")
    assert int(headers["X-Consul-Index"]) >= 1
    assert headers["X-Consul-KnownLeader"] == "true"
    assert ask(cluster, "PUT", "/v1/kv/a%2Fb?flags=1", b"\xff\x00")[1] == "true"
    status, body, headers = ask(cluster, "GET", "/v1/kv/a/b?raw")
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    (item,) = json.loads(ask(cluster, "GET", "/v1/kv/a/b")[1])
    assert (item["Key"], item["Value"], item["Flags"]) == ("a/b", "/wA=", 1)


def test_programs_in_go(cluster: KvCluster) -> None:
    """Consul's own client library for Go: keys, transactions, blocking reads, locks, semaphores and keys of sessions, against all members."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    program = ROOT / "build" / "consulgo"
    program.parent.mkdir(exist_ok=True)
    built = subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=Path(__file__).with_name("consulgo"),
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"Consul's client library for Go cannot be had here: {built.stderr.strip().splitlines()[-1]}")
    ended = subprocess.run(
        [str(program), *[cluster.http(sid) for sid in (1, 2, 3)]],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout.split() == ["keys", "transaction", "blocking", "locks", "semaphores", "ephemeral"]
