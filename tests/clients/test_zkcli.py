"""Apache's own command-line client (ZooKeeperMain, Java) typed at, on a server of theirs and one of ours: the same output.

Masked is what must differ: times, session ids, ports. Zxids are told by their rank among those shown.
"""

import re
import subprocess
from pathlib import Path

import pytest
from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import classpath, why_no_apache

pytestmark = pytest.mark.skipif(bool(why_no_apache()), reason=why_no_apache())

ALICE = "alice:6uFZ/nqXlMNqhG5wUN6ah9DrlVY="

COMMANDS: dict[str, list[str]] = {
    "nodes": [
        "create /a one",
        "create /a two",
        "create /missing/b",
        "create /a/b",
        "create -e /a/e mortal",
        "create -s /a/s- seq",
        "create -s -e /a/se- both",
        "create -s /a/s- seq",
        "create relative",
        "create /trailing/",
        "create /a/e/child",
        "get /a",
        "get -s /a",
        "get /missing",
        "set /a two",
        "set -s /a three",
        "set -v 0 /a four",
        "set -v 2 /a four",
        "stat /a",
        "stat /missing",
        "ls /",
        "ls -s /a",
        "ls -R /a",
        "ls /missing",
        "getAllChildrenNumber /a",
        "getAllChildrenNumber /missing",
        "getEphemerals /",
        "getEphemerals /a/e",
        "getEphemerals /elsewhere",
        "sync /a",
        "sync /missing",
        "delete /a",
        "delete -v 7 /a/b",
        "delete -v 0 /a/b",
        "delete /missing",
        "deleteall /a",
        "deleteall /missing",
        "ls /",
        "delete /zookeeper",
        "delete /",
    ],
    "deep trees": [
        "create /deep",
        *[f"create /deep/{x}" for x in "abc"],
        *[f"create /deep/{x}/{y}" for x in "abc" for y in "xyz"],
        "ls -R /deep",
        "deleteall /deep -b 2",
        "ls -R /",
    ],
    "container and TTL nodes": [
        "create -c /container data",
        "get -s /container",
        "create -c -e /both",
        "create -t 60000 /ttl data",
        "get -s /ttl",
        "create -s -t 60000 /ttl- data",
        "create -t 0 /bad data",
        "create -t -5 /bad data",
        "create -t 999999999999999 /bad data",
        "create -e -t 1000 /bad data",
        "create /container/child",
        "delete /container/child",
        "create /ttl/child",
        "delete /ttl/child",
        "ls /",
    ],
    "access lists": [
        "create /acl data",
        "getAcl /acl",
        "getAcl -s /acl",
        f"setAcl /acl digest:{ALICE}:r",
        "getAcl /acl",
        "get /acl",
        "set /acl x",
        "addauth digest alice:wonder",
        "whoami",
        "get /acl",
        "set /acl x",
        "create /auth data auth::cdrwa",
        "getAcl /auth",
        "setAcl /acl ip:10.0.0.0/33:r",
        "setAcl /acl nosuch:x:r",
        "setAcl /acl digest:malformed:r",
        "setAcl -v 9 /acl world:anyone:cdrwa",
        "setAcl -v 1 -s /acl world:anyone:cdrwa",
        "setAcl -R /acl world:anyone:r",
        "set /acl now",
        "whoami",
    ],
    "quotas": [
        "create /q data",
        "setquota -n 2 /q",
        "listquota /q",
        "setquota -b 100 /q",
        "listquota /q",
        "create /q/1 x",
        "create /q/2 x",
        "create /q/3 x",
        "listquota /q",
        "setquota -N 5 /q",
        "listquota /q",
        "setquota -n 2 /q/1",
        "get /zookeeper/quota/q/zookeeper_limits",
        "get /zookeeper/quota/q/zookeeper_stats",
        "delquota -n /q",
        "listquota /q",
        "delquota /q",
        "listquota /q",
        "ls -R /zookeeper",
        "setquota -n 2 /missing",
    ],
    "watches": [
        "create /w data",
        "get -w /w",
        "set /w more",
        "ls -w /w",
        "create /w/c",
        "addWatch -m PERSISTENT /w",
        "addWatch /w",
        "set /w again",
        "create /w/c/d",
        "removewatches /w",
        "set /w unseen",
        "removewatches /missing",
        "deleteall /w",
    ],
    "an unknown scheme": ["create /before x", "addauth nosuch scheme"],
    "the server": ["version", "whoami", "config", "config -s", "reconfig -remove 1", "nonsense", "ls", "history"],
}


def run(member: Member, commands: list[str]) -> tuple[list[str], list[str]]:
    """What the client prints, and the watch events it prints: these come whenever they come, so they are told sorted. "Closed" is left out: the client tells it to
    itself when it ends, if its process does not end sooner."""
    result = subprocess.run(
        [
            "java",
            "-Xmx128m",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
            "-cp",
            classpath(),
            "org.apache.zookeeper.ZooKeeperMain",
            "-server",
            member.address,
        ],
        input="".join(f"{command}\n" for command in [*commands, "quit"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [unordered(line) for line in result.stdout.splitlines() if line and line != "WATCHER::"]
    events = sorted(line for line in lines if line.startswith("WatchedEvent") and "state:Closed" not in line)
    return normalised([line for line in lines if not line.startswith("WatchedEvent")]), events


def unordered(line: str) -> str:
    """Ephemerals, ``[/a, /b]``, come from a hash set."""
    return f"[{', '.join(sorted(line[1:-1].split(', ')))}]" if re.fullmatch(r"\[/.*\]", line) else line


def normalised(lines: list[str]) -> list[str]:
    text = "\n".join(lines) + "\n"
    who = re.compile(r"(?<=Auth scheme: User\n)((?:ip|digest): .*\n)+")
    text = who.sub(lambda found: "\n".join([*sorted(found[0].splitlines()), ""]), text)  # from a hash set, too
    text = re.sub(r"time = .*", "time = TIME", text)
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+(:\d+)?", "HOST", text)
    text = re.sub(r"ephemeralOwner = 0x(?!0$)\w+", "ephemeralOwner = SESSION", text, flags=re.MULTILINE)
    shown = sorted({int(zxid, 16) for zxid in re.findall(r"Zxid = (0x\w+)", text)})
    return re.sub(r"Zxid = (0x\w+)", lambda found: f"Zxid = #{shown.index(int(found[1], 16))}", text).splitlines()


@pytest.mark.parametrize("count", [1, 3], ids=["standalone", "follower"])
def test_the_java_client_sees_no_difference(count: int, tmp_path: Path) -> None:
    settings = {"extendedTypesEnabled": "true", "enforceQuota": "true"}
    with (
        Ensemble([THEIRS] * count, tmp_path / "theirs", settings=settings) as theirs,
        Ensemble([OURS] * count, tmp_path / "ours", settings=settings) as ours,
    ):
        servers = [
            next(member for member in ensemble.members if member.mode in ("standalone", "follower"))
            for ensemble in (theirs, ours)
        ]
        for subject, commands in COMMANDS.items():
            expected, got = (run(member, commands) for member in servers)
            assert len(expected[0]) >= len(commands) / 2, f"{subject}: the client says too little:\n{expected[0]}"
            assert "\n".join(got[0]) == "\n".join(expected[0]), subject
            assert got[1] == expected[1], f"{subject}: watch events"
