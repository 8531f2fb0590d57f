"""Random requests from several connections, the same to Apache ZooKeeper 3.8 and to us: equal replies, events and stats.

Seeds are fixed; QUORATE_DIFFERENTIAL_SEEDS=first..last runs others. What differs on purpose is not generated (see
differential_scripts): access lists always allow READ, and no connection watches one path in two modes. Nor does checkWatches
occur, which 3.8.0 answers with success if any connection watches the path, nor removeWatches by type for a persistent watch,
of which 3.8.0 removes half; we do as the newer release does.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.originals import differential_scripts as d
from tests.support.ensembles import OURS, THEIRS, Ensemble
from tests.support.raw import OPEN, RawClient, create_body
from tests.support.scripts import Run, Script, Step

from quorate.binary import pack_string
from quorate.zookeeper.constants import Op

Server = tuple[str, int]

FIRST, _, LAST = os.environ.get("QUORATE_DIFFERENTIAL_SEEDS", "1..12").partition("..")
SEEDS = range(int(FIRST), int(LAST or FIRST) + 1)
STEPS = 150
ONCE = "ab"
"""Connections with one-time watches."""
FOREVER = "c"
"""The connection with persistent watches: recursive at the script's root, plain below."""

ACLS = [
    OPEN,
    [(1, "world", "anyone")],
    [(31, "auth", ""), (1, "world", "anyone")],
    [(31, "digest", d.digest("ann", "secret")), (1, "world", "anyone")],
    [(31, "ip", "127.0.0.1")],
    [(1 | 2 | 16, "world", "anyone")],
    [(31, "ip", "10.0.0.0/8"), (1, "world", "anyone")],
    [],
]


class Generator:
    """Makes one script from a seed. Paths are few, so that requests meet."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.root = f"/random{seed}"
        names = ["x", "y", "z"]
        self.paths = [f"{self.root}/{a}" for a in names]
        self.paths += [f"{self.root}/{a}/{b}" for a in names for b in names]
        self.paths += [f"{self.root}/x/x/deep", f"{self.root}/s0000000001", f"{self.root}/s0000000003"]
        self.makers: list[tuple[int, Callable[[], Step]]] = [
            (24, self.create),
            (12, self.put),
            (9, self.delete),
            (14, self.read),
            (10, self.multi),
            (4, self.set_acl),
            (3, self.get_acl),
            (3, self.multi_read),
            (3, self.count),
            (3, self.ephemerals),
            (2, self.auth),
            (4, self.add_watch),
            (3, self.unwatch),
            (2, self.rewatch),
            (1, self.sync),
            (1, self.reconnect),
        ]

    def script(self) -> Script:
        weights = [weight for weight, _ in self.makers]
        makers = [maker for _, maker in self.makers]
        steps = [d.create("a", self.root)]
        steps += [maker() for maker in self.random.choices(makers, weights, k=STEPS)]
        return steps + [d.children2(name, self.root) for name in "abc"]

    def who(self) -> str:
        return self.random.choice("abc")

    def path(self) -> str:
        return self.random.choice(self.paths)

    def version(self) -> int:
        return self.random.choice([-1, -1, -1, 0, 1, 2])

    def flags(self) -> int:
        return self.random.choices([0, 1, 2, 3], [8, 4, 2, 2])[0]

    def data(self) -> bytes | None:
        return self.random.choice([None, b"", b"data", b"longer data"])

    def new_path(self, flags: int) -> str:
        return f"{self.root}/{self.random.choice(['s', 'x/s'])}" if flags & 2 else self.path()

    def create(self) -> Step:
        kind = self.random.randrange(10)
        if kind == 0:
            return d.container(self.who(), self.path())
        if kind == 1:
            return d.ttl(self.who(), self.path(), self.random.choice([3_600_000, 0, -1]))
        flags = self.flags()
        make = d.create if kind < 7 else d.create2
        acl = self.random.choice(ACLS) if self.random.random() < 0.3 else None
        return make(self.who(), self.new_path(flags), self.data(), flags, acl)

    def put(self) -> Step:
        return d.put(self.who(), self.path(), self.data(), self.version())

    def delete(self) -> Step:
        return d.delete(self.who(), self.path(), self.version())

    def read(self) -> Step:
        who = self.who()
        read = self.random.choice([d.get, d.exists, d.children, d.children2])
        return read(who, self.path(), who in ONCE and self.random.random() < 0.6)

    def multi(self) -> Step:
        return d.multi(self.who(), *[self.part() for _ in range(self.random.randrange(1, 5))])

    def part(self) -> tuple[int, bytes]:
        kind = self.random.randrange(5)
        if kind == 0:
            return d.m_delete(self.path(), self.version())
        if kind == 1:
            return d.m_set(self.path(), self.data() or b"", self.version())
        if kind == 2:
            return d.m_check(self.path(), self.version())
        flags = self.flags()
        op = self.random.choice([Op.CREATE, Op.CREATE2])
        return op, create_body(self.new_path(flags), self.data(), None, flags)

    def multi_read(self) -> Step:
        parts = [(self.random.choice([Op.GET_DATA, Op.GET_CHILDREN]), self.path()) for _ in range(3)]
        return d.multi_read(self.who(), *parts)

    def set_acl(self) -> Step:
        return d.set_acl(self.who(), self.path(), self.random.choice(ACLS), self.version())

    def get_acl(self) -> Step:
        return d.get_acl(self.who(), self.path())

    def count(self) -> Step:
        return Step(self.who(), Op.GET_ALL_CHILDREN_NUMBER, pack_string(self.random.choice([self.root, self.path()])))

    def ephemerals(self) -> Step:
        return Step(self.who(), Op.GET_EPHEMERALS, pack_string(self.random.choice([self.root, self.path(), "/"])))

    def auth(self) -> Step:
        return d.auth(self.who(), "digest", self.random.choice([b"ann:secret", b"bob:pw"]))

    def add_watch(self) -> Step:
        if self.random.random() < 0.3:
            return d.add_watch(FOREVER, self.root, 1)
        return d.add_watch(FOREVER, self.path(), 0)

    def unwatch(self) -> Step:
        who = self.who()
        type_ = self.random.choice([1, 2, 3]) if who in ONCE else 3
        return d.remove_watches(who, self.random.choice([self.root, self.path()]), type_)

    def rewatch(self) -> Step:
        lists = [[self.path()] for _ in range(3)]
        return d.set_watches(self.random.choice(ONCE), self.random.choice([0, 1 << 60]), *lists)

    def sync(self) -> Step:
        return d.sync(self.who(), self.path())

    def reconnect(self) -> Step:
        return Step(self.who(), "reconnect")


@pytest.fixture(scope="module", params=[1, 3], ids=["standalone", "follower"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """An Apache server and one of ours, with TTL nodes on."""
    folder: Path = tmp_path_factory.mktemp("random")
    settings = {"extendedTypesEnabled": "true"}
    with (
        Ensemble([THEIRS] * request.param, folder / "theirs", settings=settings) as theirs,
        Ensemble([OURS] * request.param, folder / "ours", settings=settings) as ours,
    ):
        yield _pick(theirs), _pick(ours)


def _pick(ensemble: Ensemble) -> Server:
    first = ensemble.members[0]
    with RawClient(first.host, first.client_port) as client:
        client.call(Op.CLOSE_SESSION)
    ensemble.wait_converged()
    member = next(member for member in ensemble.members if member.mode in ("follower", "standalone"))
    return member.host, member.client_port


@pytest.mark.parametrize("seed", SEEDS)
def test_random_requests_are_answered_equally(servers: tuple[Server, Server], seed: int) -> None:
    script = Generator(seed).script()
    theirs, ours = (Run(*server, script).run() for server in servers)
    for number, (expected, got) in enumerate(zip(theirs, ours, strict=False)):
        before = "\n".join(theirs[max(0, number - 8) : number])
        assert got == expected, f"seed {seed}, line {number}; before it:\n{before}"
    assert len(ours) == len(theirs)


def test_scripts_depend_on_the_seed_alone() -> None:
    assert Generator(1).script() == Generator(1).script()
    assert Generator(1).script() != Generator(2).script()
