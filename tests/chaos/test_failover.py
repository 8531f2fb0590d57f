"""How long writes stand still when the leader goes away, with the settings people use, as one client sees it.

The client keeps one session. It reconnects at once to the next member, without the pauses of a client library, so that the
time is the ensemble's own. The times are reported, not judged: only that writes go on, that the session and its ephemeral
survive the move, and that nothing acknowledged is missing. QUORATE_TEST_KIND=apache measures Apache ZooKeeper.
"""

import os
import statistics
import time
from collections.abc import Sequence
from itertools import count, cycle
from pathlib import Path

import pytest
from tests.chaos.test_chaos import KIND, KINDS
from tests.support.ensembles import Ensemble, Member
from tests.support.namespaces import network_or_skip
from tests.support.processes import TimedOut, wait_until
from tests.support.raw import NO_PASSWORD, Closed, RawClient, create_body
from tests.support.trees import assert_equal_trees

from quorate.zookeeper.constants import Code, Op

KILLS = int(os.environ.get("QUORATE_FAILOVER_KILLS", "5"))
CUTS = int(os.environ.get("QUORATE_FAILOVER_CUTS", "3"))
PATIENCE = 60.0
SESSION_MS = 20_000
EPHEMERAL = "/mine"


class Probe:
    """One session that writes a node of its own each time. ``acknowledged`` are the paths it was told are written."""

    def __init__(self, member: Member) -> None:
        self.acknowledged: list[str] = []
        self._numbers = count()
        self._id, self._password = 0, NO_PASSWORD
        self._client = self._connect(member)
        assert self._client.call(Op.CREATE, create_body(EPHEMERAL, b"", None, 1))[-1].err == 0

    def _connect(self, member: Member) -> RawClient:
        client = RawClient(
            member.host,
            member.client_port,
            timeout_ms=SESSION_MS,
            session=self._id,
            password=self._password,
            patience=PATIENCE,
        )
        shake = client.handshake
        if self._id and shake.session != self._id:
            client.close()
            raise AssertionError(f"session {self._id:#x} is refused by member {member.sid}")
        self._id, self._password = shake.session, shake.password
        return client

    def move(self, member: Member) -> None:
        self._client.close()
        self._client = self._connect(member)

    def write(self) -> None:
        """Raises Closed if the outcome is unknown."""
        path = f"/probe-{next(self._numbers):06}"
        error = self._client.call(Op.CREATE, create_body(path))[-1].err
        if error in (Code.CONNECTION_LOSS, Code.SESSION_MOVED):
            raise Closed(f"error {error}")
        assert error == 0, f"{path}: error {error}"
        self.acknowledged.append(path)

    def write_at_one_of(self, members: Sequence[Member]) -> None:
        """Write until it is acknowledged, moving on at once whenever a member hangs up."""
        deadline = time.monotonic() + PATIENCE
        others = cycle(members)
        while True:
            try:
                self.write()
                return
            except Closed as error:
                if time.monotonic() > deadline:
                    raise TimedOut(f"no write for {PATIENCE:g} s: {error}") from None
            while True:
                try:
                    self.move(next(others))
                    break
                except (Closed, OSError) as error:
                    if time.monotonic() > deadline:
                        raise TimedOut(f"no member takes the session for {PATIENCE:g} s: {error}") from None

    def close(self) -> None:
        assert self._client.call(Op.CLOSE_SESSION)[-1].err == 0
        self._client.close()


def steady(ensemble: Ensemble) -> Member:
    """Wait until one member leads and both others follow it; that one."""
    wait_until(
        lambda: sorted(member.mode for member in ensemble.members) == ["follower", "follower", "leader"],
        PATIENCE,
        "one leader and two followers",
    )
    return ensemble.leader()


def check(ensemble: Ensemble, probe: Probe) -> None:
    tree = assert_equal_trees(ensemble)
    missing = [path for path in probe.acknowledged if path not in tree]
    assert not missing, f"acknowledged and lost: {missing}"
    assert EPHEMERAL in tree, "the session lives, its ephemeral is gone"
    probe.close()
    assert EPHEMERAL not in assert_equal_trees(ensemble)
    for member in ensemble.members:
        assert "Traceback" not in member.process.output(), f"member {member.sid}"


def summary(what: str, times: list[float]) -> str:
    rounded = [round(seconds, 3) for seconds in times]
    return f"{KIND}, {what}: next write acknowledged after {rounded} s, median {statistics.median(rounded):.3f} s"


@pytest.mark.timeout(600)
def test_the_leader_is_killed(tmp_path: Path, report: list[str]) -> None:
    """The client is on the leader that dies: it has to find another member, too."""
    times = []
    with Ensemble(KINDS, tmp_path) as ensemble:
        probe = Probe(steady(ensemble))
        for _ in range(KILLS):
            leader = steady(ensemble)
            probe.move(leader)
            probe.write()
            others = [member for member in ensemble.members if member is not leader]
            began = time.monotonic()
            leader.kill()
            probe.write_at_one_of(others)
            times.append(time.monotonic() - began)
            ensemble.start()
        steady(ensemble)
        check(ensemble, probe)
    report.append(summary("leader killed, tickTime 2000, syncLimit 5", times))


@pytest.mark.timeout(600)
def test_the_leader_is_cut_off_silently(tmp_path: Path, report: list[str]) -> None:
    """No reset, no end of stream: followers must give the leader up by its silence. The client is on a follower."""
    times = []
    with (
        network_or_skip(3) as network,
        Ensemble(
            KINDS,
            tmp_path,
            settings={"tickTime": "500"},
            hosts=[network.host(i) for i in range(3)],
            prefixes=[network.prefix(i) for i in range(3)],
        ) as ensemble,
    ):
        probe = Probe(steady(ensemble))
        for _ in range(CUTS):
            leader = steady(ensemble)
            others = [member for member in ensemble.members if member is not leader]
            probe.move(others[0])
            probe.write()
            began = time.monotonic()
            network.isolate(leader.sid - 1)
            probe.write_at_one_of(others)
            times.append(time.monotonic() - began)
            network.heal()
        steady(ensemble)
        check(ensemble, probe)
    report.append(summary("leader cut off, tickTime 500, syncLimit 5", times))
