"""One suite of requests, sent to Apache ZooKeeper 3.8 and to us: equal replies, field by field."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.originals.differential_scripts import HANDSHAKES, SCRIPTS
from tests.support.ensembles import OURS, THEIRS, Ensemble
from tests.support.raw import RawClient
from tests.support.scripts import Run, handshake

from quorate.zookeeper.constants import Op

Server = tuple[str, int]


@pytest.fixture(scope="module", params=[1, 3], ids=["standalone", "ensemble"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """An Apache server and one of ours; of three members each, a follower."""
    count: int = request.param
    folder: Path = tmp_path_factory.mktemp("differential")
    with Ensemble([THEIRS] * count, folder / "theirs") as theirs, Ensemble([OURS] * count, folder / "ours") as ours:
        yield _pick(theirs), _pick(ours)


def _pick(ensemble: Ensemble) -> Server:
    member = ensemble.members[0]
    with RawClient(member.host, member.client_port) as client:
        client.call(
            Op.CLOSE_SESSION
        )  # until there is a transaction in the epoch, Apache's members show different zxids
    ensemble.wait_converged()
    member = next(member for member in ensemble.members if member.mode in ("follower", "standalone"))
    return member.host, member.client_port


@pytest.mark.parametrize("name", SCRIPTS)
def test_replies_equal_apaches(servers: tuple[Server, Server], name: str) -> None:
    theirs, ours = servers
    expected = Run(*theirs, SCRIPTS[name]).run()
    assert Run(*ours, SCRIPTS[name]).run() == expected


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshakes_equal_apaches(servers: tuple[Server, Server], name: str) -> None:
    theirs, ours = servers
    assert handshake(*ours, **HANDSHAKES[name]) == handshake(*theirs, **HANDSHAKES[name])


def test_the_suite_is_a_few_hundred_requests() -> None:
    assert sum(map(len, SCRIPTS.values())) >= 300
