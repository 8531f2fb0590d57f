"""Sessions of a real client (kazoo) when the member it is on, the leader, or every member goes away."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.protocol.states import KazooState
from tests.support.ensembles import OURS, Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import RawClient

from quorate.zookeeper.constants import Op

PATIENCE = 60.0
SETTINGS = {"tickTime": "500", "initLimit": "40", "syncLimit": "10"}

Connect = Callable[..., KazooClient]


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    """Members of this test's own: it ends some."""
    with Ensemble([os.environ.get("QUORATE_TEST_KIND", OURS)] * 3, tmp_path, settings=SETTINGS) as members:
        yield members


def member_of(ensemble: Ensemble, client: KazooClient) -> Member:
    """The member that ``client`` is connected to."""
    port = client._connection._socket.getpeername()[1]
    return next(member for member in ensemble.members if member.client_port == port)


def wait_answered(client: KazooClient, path: str) -> None:
    def look() -> bool:
        return client.connected and client.retry(client.exists, path) is not None

    wait_until(look, PATIENCE, f"{path} is read")


def test_a_session_outlives_its_member(ensemble: Ensemble, connect: Connect) -> None:
    """It moves, with its ephemeral and its watch, and tells of the loss of connection, not of the session."""
    client, other = connect(timeout=10.0), connect(timeout=10.0)
    states: list[str] = []
    client.add_listener(states.append)
    session = client.client_id
    client.create("/watched", b"before")
    client.create("/mine", b"", ephemeral=True)
    seen: list[bytes] = []
    client.DataWatch("/watched", lambda data, stat: seen.append(data))  # watches anew after each connection

    member = member_of(ensemble, client)
    member.kill()
    wait_until(lambda: states[-2:] == [KazooState.SUSPENDED, KazooState.CONNECTED], PATIENCE, "reconnected")
    wait_answered(client, "/mine")
    assert member_of(ensemble, client) is not member
    assert client.client_id == session
    assert client.exists("/mine").owner_session_id == session[0]

    other.retry(other.set, "/watched", b"after")
    wait_until(lambda: seen[-1:] == [b"after"], PATIENCE, "the change is seen")
    assert seen == [b"before", b"after"]
    assert KazooState.LOST not in states


def test_sessions_outlive_the_leader(ensemble: Ensemble, connect: Connect) -> None:
    clients = [connect(timeout=10.0) for _ in range(6)]
    for number, client in enumerate(clients):
        client.create(f"/e{number}", b"", ephemeral=True)
    sessions = [client.client_id for client in clients]
    leader = ensemble.leader()
    leader.kill()
    for number, client in enumerate(clients):
        wait_answered(client, f"/e{number}")
    assert [client.client_id for client in clients] == sessions
    owners = [clients[0].retry(clients[0].exists, f"/e{number}").owner_session_id for number in range(len(clients))]
    assert owners == [session[0] for session in sessions]


def test_sessions_and_data_outlive_a_restart_of_everything(ensemble: Ensemble, connect: Connect) -> None:
    client = connect(timeout=10.0)
    session = client.client_id
    for number in range(50):
        client.create(f"/n{number}", b"%d" % number)
    client.create("/mine", b"", ephemeral=True)
    before = {name: client.get(f"/{name}") for name in client.get_children("/") if name != "zookeeper"}
    for member in ensemble.members:
        member.kill()
    ensemble.start()
    wait_answered(client, "/mine")
    assert client.client_id == session
    assert {name: client.get(f"/{name}") for name in client.get_children("/") if name != "zookeeper"} == before


def test_a_client_whose_session_was_ended_is_told(ensemble: Ensemble, connect: Connect) -> None:
    """Somebody closes its session from another member: it is refused, says LOST, and gets a new session."""
    client = connect(timeout=10.0)
    states: list[str] = []
    client.add_listener(states.append)
    client.create("/mine", b"", ephemeral=True)
    session, password = client.client_id
    member = next(member for member in ensemble.members if member is not member_of(ensemble, client))
    with RawClient(member.host, member.client_port, session=session, password=password) as thief:
        assert thief.handshake.session == session
        thief.call(Op.CLOSE_SESSION)
    wait_until(lambda: states[-2:] == [KazooState.LOST, KazooState.CONNECTED], PATIENCE, "lost, then connected anew")
    assert client.client_id[0] != session
    assert client.exists("/mine") is None


def test_what_is_read_after_a_sync_is_newest(ensemble: Ensemble, connect: Connect) -> None:
    """On every member, a sync catches up with what was acknowledged on any other before."""
    writer = connect()
    writer.create("/newest", b"")
    readers = [KazooClient(hosts=member.address) for member in ensemble.members]
    try:
        for reader in readers:
            reader.start(timeout=PATIENCE)
        for number in range(30):
            writer.set("/newest", b"%d" % number)
            for reader in readers:
                reader.sync("/newest")
                assert reader.get("/newest")[0] == b"%d" % number
    finally:
        for reader in readers:
            reader.stop()
            reader.close()
