"""Apache's command-line client (ZooKeeperMain, Java) with several addresses: what others change, and the loss of its member.

Its session, ephemeral nodes and watches go with it to another member. The same on an ensemble of Apache's and on one of
ours, with the same output; ``test_zkcli.py`` compares its commands one by one.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import classpath, four_letter_word, wait_until, why_no_apache
from tests.support.raw import RawClient, create_body, path_version_body, set_body

from quorate.zookeeper.constants import Op

pytestmark = pytest.mark.skipif(bool(why_no_apache()) and not os.environ.get("CI"), reason=why_no_apache())


class CommandLine:
    """One run of the client, typed at line by line; ``log`` takes what it prints."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def type(self, *commands: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{command}\n" for command in commands))
        self._process.stdin.flush()

    @property
    def lines(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line and line != "WATCHER::"]

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Until ``count`` lines match."""
        wait_until(
            lambda: sum(bool(re.search(pattern, line)) for line in self.lines) >= count,
            30,
            f"{count} times {pattern!r} in {self.lines}",
        )

    def quit(self) -> None:
        self.type("quit")
        assert self._process.wait(30) == 0


@contextmanager
def command_line(addresses: str, log: Path) -> Iterator[CommandLine]:
    options = ["-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", classpath()]
    command = ["java", *options, "org.apache.zookeeper.ZooKeeperMain", "-server", addresses]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True)
    try:
        yield CommandLine(process, log)
    finally:
        process.kill()
        process.communicate()


def followers_command_line(ensemble: Ensemble, folder: Path) -> AbstractContextManager[CommandLine]:
    """At a follower: when that is lost there is no election, which would disconnect clients once more, or not."""
    leader = ensemble.leader()
    addresses = ",".join(member.address for member in ensemble.members if member is not leader)
    return command_line(addresses, folder / "client.log")


def member_of(ensemble: Ensemble) -> Member:
    """The member that holds the only session."""
    holders = [
        member
        for member in ensemble.members
        if member.process.alive and "sid=0x" in four_letter_word(member.host, member.client_port, "cons")
    ]
    assert len(holders) == 1, holders
    return holders[0]


def change(member: Member, op: int, body: bytes) -> None:
    with RawClient(member.host, member.client_port) as client:
        assert client.call(op, body)[-1].err == 0
        assert client.call(Op.CLOSE_SESSION)[-1].err == 0


def session(kind: str, folder: Path) -> list[str]:
    """What the client printed, times and ids masked."""
    with Ensemble([kind] * 3, folder) as ensemble, followers_command_line(ensemble, folder) as client:
        client.type("create /seen one", "create -e /mortal mine", "create /once x", "addWatch /seen", "get -w /once")
        client.type("stat /mortal")
        client.wait_for("numChildren = 0")
        theirs = member_of(ensemble)
        others = [member for member in ensemble.members if member is not theirs]

        change(others[0], Op.SET_DATA, set_body("/seen", b"two"))
        client.wait_for("NodeDataChanged path:/seen")
        change(others[1], Op.CREATE, create_body("/seen/child", b"x"))
        client.wait_for("NodeCreated path:/seen/child")
        change(others[0], Op.DELETE, path_version_body("/seen/child"))
        client.wait_for("NodeDeleted path:/seen/child")

        theirs.kill()
        client.wait_for("state:Disconnected type:None")
        client.wait_for("state:SyncConnected type:None", 2)
        for member in others:
            member.wait_serving()
        # the watches came along: the persistent one fires again, the one for once fires its first time
        change(others[0], Op.SET_DATA, set_body("/once", b"y"))
        client.wait_for("NodeDataChanged path:/once")
        change(others[1], Op.SET_DATA, set_body("/seen", b"three"))
        client.wait_for("NodeDataChanged path:/seen", 2)
        change(others[0], Op.SET_DATA, set_body("/once", b"z"))
        client.type("sync /once", "get /once", "get /mortal", "getEphemerals /", "set -s /seen four", "ls -R /")
        client.wait_for("NodeDataChanged path:/seen", 3)
        client.wait_for("^/zookeeper/quota$")
        client.quit()
        # and the ephemeral node goes with the session
        with RawClient(others[0].host, others[0].client_port) as last:
            assert last.call(Op.SYNC, b"\0\0\0\1/")[-1].err == 0
            assert last.call(Op.EXISTS, b"\0\0\0\7/mortal\0")[-1].err == -101
        return masked(client.lines)


def masked(lines: list[str]) -> list[str]:
    text = "\n".join(lines)
    text = re.sub(r"(127\.0\.0\.1:\d+,?)+", "HOSTS", text)
    text = re.sub(r"time = .*", "time = TIME", text)
    text = re.sub(r"Zxid = 0x\w+", "Zxid = ZXID", text)
    text = re.sub(r"ephemeralOwner = 0x(?!0\n)\w+", "ephemeralOwner = SESSION", text)
    return text.splitlines()


def told(lines: list[str]) -> tuple[list[str], list[str]]:
    """Events come on a thread of their own, between the lines of the answers: told apart, each in its order."""
    events = [line for line in lines if line.startswith("WatchedEvent")]
    return [line for line in lines if not line.startswith("WatchedEvent")], events


def test_the_session_outlives_its_member_as_with_apache(tmp_path: Path) -> None:
    answers, events = told(session(OURS, tmp_path / "ours"))
    their_answers, their_events = told(session(THEIRS, tmp_path / "theirs"))
    assert answers == their_answers
    assert events == their_events
