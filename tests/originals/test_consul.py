"""One script of requests to our cluster and to real Consul: the answers must be the same.

What two systems cannot have in common is made comparable: indexes are replaced by their ranks among all that a script met, ids of sessions by the
order in which they were made. Scripts with drawn requests come from a seed that is printed.
"""

import base64
import http.client
import json
import os
import random
import re
import secrets
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.support.consul import Consul, why_no_consul
from tests.support.kvcluster import KvCluster

Request = tuple[str, str, str]
"""(method, path, body); ``{session:0}`` stands for the first session made, ``{index:k}`` for the ModifyIndex that key k was last seen to have."""
INDEXES = ("CreateIndex", "ModifyIndex")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    if reason := why_no_consul():
        pytest.skip(reason)
    with (
        KvCluster(tmp_path_factory.mktemp("ours")) as cluster,
        Consul(tmp_path_factory.mktemp("theirs") / "consul") as consul,
    ):
        yield cluster.http(1), consul.http


class Asked:
    """A script carried out on one of the two."""

    def __init__(self, address: str, script: Sequence[Request]) -> None:
        self.sessions: list[str] = []
        self.modified: dict[str, int] = {}
        self.indexes: set[int] = {0}
        self.answers: list[tuple[int, Any]] = []
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            for method, path, body in script:
                connection.request(method, self._filled(path), self._filled(body).encode() or None)
                answer = connection.getresponse()
                self._take(answer.status, answer.read().decode())
        finally:
            connection.close()

    def _filled(self, text: str) -> str:
        text = re.sub(r"\{session:(\d+)\}", lambda found: self.sessions[int(found[1])], text)
        return re.sub(r"\{index:([^}]*)\}", lambda found: str(self.modified.get(found[1], 0)), text)

    def _take(self, status: int, text: str) -> None:
        try:
            body = json.loads(text)
        except ValueError:
            body = text.strip()
        if isinstance(body, dict) and body.keys() == {"ID"}:
            self.sessions.append(body["ID"])
        self._look(body)
        self.answers.append((status, body))

    def _look(self, found: Any) -> None:
        if isinstance(found, list):
            for item in found:
                self._look(item)
        elif isinstance(found, dict):
            self.indexes |= {found[name] for name in INDEXES if name in found}
            if "Key" in found and "ModifyIndex" in found:
                self.modified[found["Key"]] = found["ModifyIndex"]
            for item in found.values():
                self._look(item)

    def comparable(self) -> list[tuple[int, Any]]:
        ranks = {index: rank for rank, index in enumerate(sorted(self.indexes))}
        return [(status, self._plain(body, ranks)) for status, body in self.answers]

    def _plain(self, found: Any, ranks: dict[int, int]) -> Any:
        if isinstance(found, list):
            return [self._plain(item, ranks) for item in found]
        if isinstance(found, dict):
            return {
                name: ranks[item] if name in INDEXES else self._plain(item, ranks)
                for name, item in sorted(found.items())
            }
        if isinstance(found, str):
            # the index of a transaction that comes to nothing is used again by one of us, and not by the other
            # what is wrong with a text that is no JSON is each parser's own to say
            found = re.sub(r"^(Request decode failed|Failed to parse body): .*", r"\1", found)
            found = re.sub(r"(?<=current modify index )\d+ != \d+", "another", found)
            return ID.sub(
                lambda id_: f"session {self.sessions.index(id_[0])}" if id_[0] in self.sessions else id_[0], found
            )
        return found


def txn(*operations: dict[str, Any]) -> Request:
    encoded = []
    for operation in operations:
        value = operation.get("Value")
        encoded.append(
            {"KV": operation if value is None else {**operation, "Value": base64.b64encode(value.encode()).decode()}}
        )
    # an index is filled in as a number
    return "PUT", "/v1/txn", re.sub(r'"(\{index:[^}]*\})"', r"\1", json.dumps(encoded))


SCRIPTS: dict[str, list[Request]] = {
    "keys": [
        ("GET", "/v1/kv/none", ""),
        ("PUT", "/v1/kv/a", "1"),
        ("GET", "/v1/kv/a", ""),
        ("GET", "/v1/kv/a?raw", ""),
        ("PUT", "/v1/kv/a", "2"),
        ("PUT", "/v1/kv/a?flags=42", "2"),
        ("GET", "/v1/kv/a", ""),
        ("PUT", "/v1/kv/a?flags=-1", "2"),
        ("PUT", "/v1/kv/a?flags=18446744073709551615", "2"),
        ("GET", "/v1/kv/a", ""),
        ("PUT", "/v1/kv/a?flags=18446744073709551616", "2"),
        ("PUT", "/v1/kv/empty", ""),
        ("GET", "/v1/kv/empty", ""),
        ("DELETE", "/v1/kv/a", ""),
        ("DELETE", "/v1/kv/a", ""),
        ("GET", "/v1/kv/a", ""),
        ("PUT", "/v1/kv/a", "again"),
        ("GET", "/v1/kv/a", ""),
        ("PUT", "/v1/kv/with%20space/%C3%A4", "x"),
        ("GET", "/v1/kv/with%20space?recurse", ""),
        ("PUT", "/v1/kv/", "x"),
        ("GET", "/v1/kv/", ""),
        ("DELETE", "/v1/kv/", ""),
        ("PUT", "/v1/kv//lead", "x"),
        ("GET", "/v1/kv//lead", ""),
    ],
    "compare and set": [
        ("PUT", "/v1/kv/c?cas=0", "1"),
        ("PUT", "/v1/kv/c?cas=0", "2"),
        ("GET", "/v1/kv/c", ""),
        ("PUT", "/v1/kv/c?cas={index:c}", "3"),
        ("PUT", "/v1/kv/c?cas={index:c}", "4"),
        ("GET", "/v1/kv/c", ""),
        ("DELETE", "/v1/kv/c?cas=1", ""),
        ("DELETE", "/v1/kv/c?cas=0", ""),
        ("GET", "/v1/kv/c", ""),
        ("DELETE", "/v1/kv/c?cas={index:c}", ""),
        ("GET", "/v1/kv/c", ""),
        ("DELETE", "/v1/kv/c?cas=7", ""),
        ("PUT", "/v1/kv/c?cas=x", "1"),
        ("DELETE", "/v1/kv/c?cas=x", ""),
    ],
    "prefixes": [
        *[("PUT", f"/v1/kv/{key}", key) for key in ("p/a", "p/b", "p/c/d", "p/c/e", "q", "p")],
        ("GET", "/v1/kv/p/?recurse", ""),
        ("GET", "/v1/kv/p?recurse", ""),
        ("GET", "/v1/kv/p/?keys", ""),
        ("GET", "/v1/kv/p/?keys&separator=/", ""),
        ("GET", "/v1/kv/?keys&separator=/", ""),
        ("GET", "/v1/kv/p/?keys&separator=c", ""),
        ("GET", "/v1/kv/?recurse", ""),
        ("GET", "/v1/kv/none?recurse", ""),
        ("GET", "/v1/kv/none?keys", ""),
        ("DELETE", "/v1/kv/p/?recurse", ""),
        ("GET", "/v1/kv/?keys", ""),
        ("DELETE", "/v1/kv/?recurse", ""),
        ("GET", "/v1/kv/?keys", ""),
    ],
    "locks": [
        ("PUT", "/v1/session/create", '{"Name": "one", "LockDelay": "0s"}'),
        ("PUT", "/v1/session/create", '{"Name": "other", "LockDelay": "0s", "Behavior": "delete"}'),
        ("PUT", "/v1/kv/l?acquire={session:0}", "held"),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/kv/l?acquire={session:0}", "again"),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/kv/l?acquire={session:1}", "taken"),
        ("PUT", "/v1/kv/l?release={session:1}", "no"),
        ("PUT", "/v1/kv/l", "written by anyone"),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/kv/l?release={session:0}", "free"),
        ("PUT", "/v1/kv/l?release={session:0}", "free"),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/kv/l?acquire={session:1}", "mine"),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/session/destroy/{session:1}", ""),
        ("GET", "/v1/kv/l", ""),
        ("PUT", "/v1/kv/k?acquire={session:0}", ""),
        ("PUT", "/v1/session/destroy/{session:0}", ""),
        ("GET", "/v1/kv/k", ""),
        ("PUT", "/v1/session/destroy/{session:0}", ""),
        ("PUT", "/v1/kv/l?acquire={session:0}", ""),
        ("PUT", "/v1/kv/l?release={session:0}", ""),
        ("PUT", "/v1/kv/l?acquire=", ""),
        ("PUT", "/v1/session/renew/{session:0}", ""),
        ("PUT", "/v1/session/create", '{"Behavior": "keep"}'),
        ("PUT", "/v1/session/create", '{"TTL": "1s"}'),
        ("PUT", "/v1/session/create", '{"TTL": "x"}'),
        ("PUT", "/v1/session/create", '{"LockDelay": "x"}'),
        ("PUT", "/v1/session/create", "no json"),
        ("GET", "/v1/session/info/{session:0}", ""),
        ("GET", "/v1/session/create", ""),
    ],
    "transactions": [
        txn({"Verb": "set", "Key": "t/a", "Value": "1"}, {"Verb": "get", "Key": "t/a"}),
        txn({"Verb": "cas", "Key": "t/a", "Value": "2", "Index": "{index:t/a}"}),
        txn({"Verb": "cas", "Key": "t/a", "Value": "3", "Index": 1}, {"Verb": "set", "Key": "t/b", "Value": "no"}),
        txn({"Verb": "set", "Key": "t/b", "Value": "x", "Flags": 9}, {"Verb": "get-tree", "Key": "t/"}),
        txn({"Verb": "get", "Key": "none"}),
        txn({"Verb": "get-tree", "Key": "none"}),
        txn({"Verb": "check-index", "Key": "t/a", "Index": 1}),
        txn({"Verb": "check-index", "Key": "t/b", "Index": "{index:t/b}"}),
        txn({"Verb": "check-not-exists", "Key": "t/a"}),
        txn({"Verb": "check-not-exists", "Key": "none"}, {"Verb": "set", "Key": "none", "Value": "now"}),
        txn({"Verb": "delete-cas", "Key": "t/a", "Index": 1}),
        txn({"Verb": "delete", "Key": "t/a"}, {"Verb": "delete", "Key": "t/a"}),
        txn({"Verb": "delete-tree", "Key": "t/"}, {"Verb": "get-tree", "Key": "t/"}),
        txn({"Verb": "cas", "Key": "t/new", "Value": "1", "Index": 0}),
        txn({"Verb": "cas", "Key": "t/new", "Value": "1", "Index": 0}),
        txn({"Verb": "nonsense", "Key": "t/new"}),
        ("PUT", "/v1/session/create", '{"LockDelay": "0s"}'),
        txn({"Verb": "lock", "Key": "t/l", "Value": "1", "Session": "{session:0}"}),
        txn({"Verb": "check-session", "Key": "t/l", "Session": "{session:0}"}),
        txn({"Verb": "unlock", "Key": "t/l", "Value": "2", "Session": "{session:0}"}),
        txn({"Verb": "unlock", "Key": "t/l", "Value": "2", "Session": "{session:0}"}),
        txn({"Verb": "check-session", "Key": "t/l", "Session": "{session:0}"}),
        txn(),
        ("PUT", "/v1/txn", "no json"),
        ("PUT", "/v1/txn", "{}"),
        ("GET", "/v1/txn", ""),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_answers_are_those_of_consul(name: str, addresses: tuple[str, str]) -> None:
    compare(SCRIPTS[name], addresses)


def test_drawn_requests(addresses: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("QUORATE_SEED") or secrets.randbelow(1 << 32))
    with capsys.disabled():
        sys.stdout.write(f"\nrequests to Consul and to us, seed {seed}")
    stream = random.Random(seed)
    for _ in range(20):
        compare(drawn(stream), addresses)


def drawn(stream: random.Random) -> list[Request]:
    keys = ["r", "r/a", "r/b", "r/a/c", "s"]
    script: list[Request] = [("PUT", "/v1/session/create", '{"LockDelay": "0s"}') for _ in range(2)]
    for number in range(40):
        key = stream.choice(keys)
        value = str(number)
        where = urllib.parse.quote(key)
        index = stream.choice([f"{{index:{key}}}", f"{{index:{key}}}", "0", "1"])
        session = f"{{session:{stream.randrange(2)}}}"
        kind = stream.randrange(11)
        if kind < 2:
            script.append(("PUT", f"/v1/kv/{where}?flags={number}", value))
        elif kind == 2:
            script.append(("PUT", f"/v1/kv/{where}?cas={index}", value))
        elif kind == 3:
            script.append(("DELETE", f"/v1/kv/{where}{stream.choice(['', '?recurse', '?cas=' + index])}", ""))
        elif kind < 6:
            script.append(
                ("PUT", f"/v1/kv/{where}?{stream.choice(['acquire', 'acquire', 'release'])}={session}", value)
            )
        elif kind < 9:
            script.append(
                ("GET", f"/v1/kv/{where}{stream.choice(['', '?recurse', '?keys', '?keys&separator=/', '?raw'])}", "")
            )
        else:
            operations: list[dict[str, Any]] = []
            for _ in range(stream.randint(1, 4)):
                verb = stream.choice(["set", "cas", "get", "get-tree", "check-index", "check-not-exists", "delete", "delete-cas", "delete-tree", "lock", "unlock", "check-session"])  # fmt: skip
                operation: dict[str, Any] = {"Verb": verb, "Key": stream.choice(keys)}
                if verb in ("set", "cas", "lock", "unlock"):
                    operation["Value"] = value
                if verb in ("cas", "check-index", "delete-cas"):
                    operation["Index"] = int(index) if index.isdigit() else index
                if verb in ("lock", "unlock", "check-session"):
                    operation["Session"] = session
                operations.append(operation)
            script.append(txn(*operations))
    return script


def compare(script: Sequence[Request], addresses: tuple[str, str]) -> None:
    clean = [("DELETE", "/v1/kv/?recurse", "")]
    ours, theirs = (Asked(address, [*clean, *script]).comparable()[1:] for address in addresses)
    different = [
        f"{number}: {request}\n   ours: {mine}\n theirs: {other}"
        for number, (request, mine, other) in enumerate(zip(script, ours, theirs, strict=True))
        if mine != other
    ]
    assert not different, "\n".join(different)
