"""Sessions, sent to Apache ZooKeeper 3.8 and to us: who may re-attach, what the old connection hears, what is left behind.

What cannot be told as one request and one reply: two connections of one session, expiry, passwords, zxids from the future.
Every scenario tells what it saw as text, and the two texts must be equal.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import Closed, RawClient, create_body, path_watch_body, set_body, strings_body

from quorate.binary import pack_string
from quorate.zookeeper.constants import Code, Op

SETTINGS = {"tickTime": "500", "initLimit": "40", "syncLimit": "10"}
Told = list[str]


class Pair:
    """A leader and a follower of one ensemble, or one standalone server twice."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.members = [*ensemble.members]
        self.home = next(member for member in self.members if member.mode in ("follower", "standalone"))
        self.other = next((member for member in self.members if member is not self.home), self.home)


@pytest.fixture(scope="module", params=[1, 3], ids=["standalone", "ensemble"])
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Pair]]:
    folder: Path = tmp_path_factory.mktemp("sessions")
    with (
        Ensemble([THEIRS] * request.param, folder / "theirs", settings=SETTINGS) as theirs,
        Ensemble([OURS] * request.param, folder / "ours", settings=SETTINGS) as ours,
    ):
        yield Pair(theirs), Pair(ours)


def attach(member: Member, client: RawClient, **options: bytes | int) -> RawClient:
    shake = client.handshake
    wanted = {"session": shake.session, "password": shake.password, **options}
    return RawClient(member.host, member.client_port, timeout_ms=shake.timeout, **wanted)  # type: ignore[arg-type]  # the names' types are RawClient's


def fresh(member: Member, timeout_ms: int = 8000) -> RawClient:
    return RawClient(member.host, member.client_port, timeout_ms=timeout_ms)


def error_of(client: RawClient, op: int, body: bytes = b"") -> str:
    try:
        return str(client.call(op, body)[-1].err)
    except Closed:
        return "closed"


def hung_up(client: RawClient) -> str:
    """Whether the server ends the connection, without being asked anything."""
    try:
        return f"frame {client.read().xid}"
    except Closed:
        return "closed"


def exists(client: RawClient, path: str) -> str:
    client.call(Op.SYNC, pack_string(path))
    return error_of(client, Op.EXISTS, path_watch_body(path))


def moved(pair: Pair) -> Told:
    """The session goes to another member; the old connection's next write."""
    old = fresh(pair.home)
    told = [error_of(old, Op.CREATE, create_body("/moved", b"", None, 1))]
    new = attach(pair.other, old)
    told.append(f"same {new.handshake.session == old.handshake.session} {new.handshake.timeout}")
    told.append("new " + error_of(new, Op.SET_DATA, set_body("/moved", b"new")))
    told.append("old " + error_of(old, Op.SET_DATA, set_body("/moved", b"old")))
    told.append("new " + error_of(new, Op.SET_DATA, set_body("/moved", b"new")))
    told.append("close " + error_of(new, Op.CLOSE_SESSION))
    told.append("after " + hung_up(new))
    with fresh(pair.home) as another:
        told.append("gone " + exists(another, "/moved"))
    old.close()
    return told


def wrong_password(pair: Pair) -> Told:
    """Refused, and the session lives on."""
    client = fresh(pair.home)
    told = [error_of(client, Op.CREATE, create_body("/kept", b"", None, 1))]
    for member in (pair.home, pair.other):
        for password in (b"\1" * 16, b"", b"short"):
            try:
                thief = attach(member, client, password=password)
                told.append(f"{thief.handshake.session} {thief.handshake.timeout} {thief.handshake.password.hex()}")
                told.append(hung_up(thief))
                thief.close()
            except Closed:
                told.append("closed at once")
    again = attach(pair.home, client)
    told.append(f"same {again.handshake.session == client.handshake.session}")
    told.append(error_of(again, Op.SET_DATA, set_body("/kept", b"x")))
    told.append(error_of(again, Op.CLOSE_SESSION))
    return told


def expired(pair: Pair) -> Told:
    """Nobody pings: the ephemerals go, the watcher hears it, and the session is refused ever after."""
    told: Told = []
    watcher = fresh(pair.other)
    client = fresh(pair.home, 1000)
    told.append(f"timeout {client.handshake.timeout}")
    for path in ("/expired-a", "/expired-b"):
        told.append(error_of(client, Op.CREATE, create_body(path, b"", None, 1)))
    watcher.call(Op.SYNC, pack_string("/expired-b"))
    told.append(error_of(watcher, Op.EXISTS, path_watch_body("/expired-b", True)))
    told.append("client " + hung_up(client))
    told.append(f"watcher {hung_up(watcher)}")
    told += [exists(watcher, path) for path in ("/expired-a", "/expired-b")]
    try:
        again = attach(pair.home, client)
        told.append(f"{again.handshake.session} {again.handshake.timeout} {hung_up(again)}")
    except Closed:
        told.append("closed at once")
    told.append(error_of(watcher, Op.CLOSE_SESSION))
    return told


def future(pair: Pair) -> Told:
    """A client that has seen more than the server is sent away; its session lives on."""
    client = fresh(pair.home)
    told = []
    for zxid in (1 << 60, (1 << 62) + 5):
        try:
            ahead = attach(pair.home, client, last_zxid=zxid)
            told.append(f"taken {ahead.handshake.session == client.handshake.session}")
            ahead.close()
        except Closed:
            told.append("closed")
    told.append(error_of(client, Op.EXISTS, path_watch_body("/")))
    told.append(error_of(client, Op.CLOSE_SESSION))
    return told


def timeouts(pair: Pair) -> Told:
    """Negotiated between 2 and 20 ticks; on re-attaching, the new wish counts."""
    told = []
    for wish in (1, 999, 1000, 1001, 5000, 9999, 10_000, 10_001, 60_000):
        with fresh(pair.home, wish) as client:
            told.append(f"{wish}: {client.handshake.timeout}")
            error_of(client, Op.CLOSE_SESSION)
    client = fresh(pair.home, 4000)
    shake = client.handshake
    for wish in (2000, 9000, 50_000):
        client.close()
        client = RawClient(
            pair.other.host, pair.other.client_port, timeout_ms=wish, session=shake.session, password=shake.password
        )
        told.append(f"again {wish}: {client.handshake.timeout}")
    told.append(error_of(client, Op.CLOSE_SESSION))
    return told


def watches_do_not_move(pair: Pair) -> Told:
    """A watch belongs to the connection: setWatches brings it along, told at once of what was missed."""
    client, other = fresh(pair.home), fresh(pair.other)
    told = [error_of(other, Op.CREATE, create_body("/wm", b"1"))]
    client.call(Op.SYNC, pack_string("/wm"))
    seen = client.call(Op.GET_DATA, path_watch_body("/wm", True))[-1].zxid
    client.close()
    told.append(error_of(other, Op.SET_DATA, set_body("/wm", b"2")))
    client = attach(pair.other, client)
    body = seen.to_bytes(8, "big") + strings_body(["/wm"]) + strings_body(["/wm-none"]) + strings_body([])
    told += [f"{frame.xid} {frame.err} {frame.body.hex()}" for frame in client.call(Op.SET_WATCHES, body, -8)]
    told.append(error_of(other, Op.CREATE, create_body("/wm-none")))
    told += [f"{frame.xid} {frame.err} {frame.body.hex()}" for frame in client.ping()]
    told += [error_of(other, Op.DELETE, pack_string(path) + b"\xff" * 4) for path in ("/wm", "/wm-none")]
    told += [f"{frame.xid} {frame.err}" for frame in client.ping()]
    told += [error_of(each, Op.CLOSE_SESSION) for each in (client, other)]
    return told


def closed_in_a_pipeline(pair: Pair) -> Told:
    """Requests behind closeSession in the same packet."""
    client = fresh(pair.home)
    xids = [client.send(Op.CREATE, create_body("/cp", b"", None, 1)), client.send(Op.CLOSE_SESSION)]
    told = []
    try:
        while True:
            frame = client.read()
            told.append(f"{frame.xid in xids} {frame.err}")
    except Closed:
        told.append("closed")
    with fresh(pair.other) as other:
        told.append(exists(other, "/cp"))
        error_of(other, Op.CLOSE_SESSION)
    return told


SCENARIOS: list[Callable[[Pair], Told]] = [
    moved,
    wrong_password,
    expired,
    future,
    timeouts,
    watches_do_not_move,
    closed_in_a_pipeline,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_sessions_equal_apaches(pairs: tuple[Pair, Pair], scenario: Callable[[Pair], Told]) -> None:
    theirs, ours = pairs
    expected = scenario(theirs)
    assert scenario(ours) == expected
    assert len(expected) >= 3


def test_an_ephemeral_goes_while_its_member_is_down(tmp_path: Path) -> None:
    """The member with the connection dies: the leader expires the session, as everybody sees."""
    told = []
    for kind in (THEIRS, OURS):
        with Ensemble([kind] * 3, tmp_path / kind, settings=SETTINGS) as ensemble:
            leader = ensemble.leader()
            home = next(member for member in ensemble.members if member is not leader)
            client = fresh(home, 2000)
            seen = [error_of(client, Op.CREATE, create_body("/orphan", b"", None, 1))]
            home.kill()
            seen.append(hung_up(client))
            with fresh(leader) as other:
                seen.append(exists(other, "/orphan"))
                wait_until(lambda o=other: exists(o, "/orphan") == str(int(Code.NO_NODE)), 30, "expired")  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
                error_of(other, Op.CLOSE_SESSION)
            told.append(seen)
    assert told[0] == told[1]
