"""Ensembles of Apache ZooKeeper 3.8 and ours: each follows the other by SNAP, DIFF and TRUNC, and acknowledges its writes.

After every scenario all members hold the same tree to the last field of every stat, and nobody has seen the digest that
a leader puts into its transactions differ from its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import wait_until
from tests.support.raw import RawClient, create_body, path_version_body, path_watch_body, set_body
from tests.support.tails import append_uncommitted_create
from tests.support.trees import assert_equal_trees, metrics

from quorate.zookeeper.constants import Code, Op

PROPERTIES = {"zookeeper.snapshotSizeFactor": "-1"}
"""Apache's leader sends what its memory no longer has as a SNAP, never from its log files."""
SETTINGS = {"tickTime": "500", "initLimit": "40", "syncLimit": "10"}
BEYOND_MEMORY = 250
"""Nodes to write for more transactions than a leader keeps in memory (500)."""
SNAP = "Getting a snapshot from leader"
DIFF = "Getting a diff from the leader"
TRUNC = "Truncating log to get in sync with the leader"


@contextmanager
def mixed(folder: Path, *kinds: str, observers: tuple[int, ...] = ()) -> Iterator[Ensemble]:
    """An ensemble, not started; at the end its members, all of which must run, are compared."""
    ensemble = Ensemble(kinds, folder, settings=SETTINGS, observers=observers, properties=PROPERTIES)
    try:
        yield ensemble
        assert_equal_trees(ensemble)
        for member in ensemble.members:
            assert metrics(member)["digest_mismatches_count"] == "0", f"member {member.sid}"
            assert "Digests are not matching" not in member.process.output(), f"member {member.sid}"
    finally:
        ensemble.close()


def start(*members: Member) -> None:
    for member in members:
        member.start()
    for member in members:
        member.wait_serving()


def call(client: RawClient, op: int, body: bytes) -> None:
    reply = client.call(op, body)[-1]
    assert reply.err == 0, f"{Op(op).name}: error {reply.err}"


def write(member: Member, prefix: str, count: int = 20) -> None:
    """At least two transactions for each of ``count`` nodes: created, set, some with sequential children, some deleted."""
    with RawClient(member.host, member.client_port) as client:
        call(client, Op.CREATE, create_body(prefix, b"parent"))
        for number in range(count):
            path = f"{prefix}/{number}"
            call(client, Op.CREATE, create_body(path, b"%d" % number))
            call(client, Op.SET_DATA, set_body(path, b"set %d" % number))
            if number % 4 == 0:
                call(client, Op.CREATE2, create_body(f"{path}/child-", b"", None, 2))
            elif number % 5 == 0:
                call(client, Op.DELETE, path_version_body(path))
        call(client, Op.CLOSE_SESSION, b"")


def exists(member: Member, path: str) -> bool:
    with RawClient(member.host, member.client_port) as client:
        call(client, Op.SYNC, path_version_body(path)[:-4])
        error = client.call(Op.EXISTS, path_watch_body(path))[-1].err
        call(client, Op.CLOSE_SESSION, b"")
    assert error in (0, Code.NO_NODE)
    return error == 0


def new_output(member: Member, before: str) -> str:
    return member.process.output()[len(before) :]


def rejoin_with_uncommitted_tail(ensemble: Ensemble, member: Member, path: str) -> None:
    """Stop ``member``, put a transaction into its log that nobody else has, and start it again."""
    ensemble.wait_converged()
    zxid = member.zxid
    member.stop()
    assert ensemble.leader().zxid == zxid, "nothing is written meanwhile"
    append_uncommitted_create(member.folder, zxid + 1, path)
    start(member)


def test_ours_follows_theirs(tmp_path: Path) -> None:
    """Sid 1 never wins against an equal history, so Apache leads."""
    with mixed(tmp_path, OURS, THEIRS, THEIRS) as ensemble:
        ours, *theirs = ensemble.members
        start(*theirs)
        leader = ensemble.leader()
        write(leader, "/before", BEYOND_MEMORY)

        start(ours)
        assert ours.mode == "follower"
        assert metrics(leader)["snap_count"] != "0", "joined an empty folder by SNAP"
        assert_equal_trees(ensemble)
        write(ours, "/through-us")

        ours.stop()
        write(leader, "/absent")
        sent = metrics(leader)
        start(ours)
        now = metrics(leader)
        assert int(now["diff_count"]) == int(sent["diff_count"]) + 1, "came back by DIFF"
        assert now["snap_count"] == sent["snap_count"]
        assert_equal_trees(ensemble)

        rejoin_with_uncommitted_tail(ensemble, ours, "/uncommitted")
        assert ours.mode == "follower"
        assert "cutting the log" in ours.process.output()
        assert not exists(ours, "/uncommitted")
        write(ours, "/after-truncation")

        ours.kill()
        write(leader, "/killed")
        start(ours)
        assert_equal_trees(ensemble)

        other = next(member for member in theirs if member is not leader)
        other.stop()
        write(leader, "/on-our-acknowledgement")
        write(ours, "/on-our-acknowledgement-through-us")
        start(other)


def test_ours_leads_theirs(tmp_path: Path) -> None:
    """Sids 2 and 3, ours, win against an equal history."""
    with mixed(tmp_path, THEIRS, OURS, OURS) as ensemble:
        theirs, *ours = ensemble.members
        start(*ours)
        leader = ensemble.leader()
        write(leader, "/before", BEYOND_MEMORY * 2)

        start(theirs)
        assert theirs.mode == "follower"
        assert SNAP in theirs.process.output()
        assert_equal_trees(ensemble)
        write(theirs, "/through-them")

        theirs.stop()
        write(leader, "/absent")
        output = theirs.process.output()
        start(theirs)
        assert DIFF in new_output(theirs, output)
        assert SNAP not in new_output(theirs, output)
        assert_equal_trees(ensemble)

        output = theirs.process.output()
        rejoin_with_uncommitted_tail(ensemble, theirs, "/uncommitted")
        assert theirs.mode == "follower"
        assert TRUNC in new_output(theirs, output)
        assert not exists(theirs, "/uncommitted")
        write(theirs, "/after-truncation")

        theirs.stop()
        theirs.wipe()
        output = theirs.process.output()
        start(theirs)
        assert SNAP in new_output(theirs, output)
        assert_equal_trees(ensemble)

        other = next(member for member in ours if member is not leader)
        other.kill()
        write(leader, "/on-their-acknowledgement")
        write(theirs, "/on-their-acknowledgement-through-them")
        start(other)


def test_leadership_moves_between_kinds(tmp_path: Path) -> None:
    """Kill whoever leads, again and again: each time another history must win and the killed one follow it."""
    with mixed(tmp_path, THEIRS, OURS, THEIRS) as ensemble:
        ensemble.start()
        leaders = []
        for round_ in range(5):
            leader = ensemble.leader()
            leaders.append(leader.kind)
            write(leader, f"/round-{round_}")
            leader.kill()
            survivor = ensemble.leader()
            survivor.wait_serving()
            write(survivor, f"/round-{round_}-without")
            start(leader)
            assert_equal_trees(ensemble)
        assert set(leaders) == {OURS, THEIRS}, "of two survivors with equal histories the greater sid leads: 2 is ours"


def test_sessions_move_between_kinds(tmp_path: Path) -> None:
    with mixed(tmp_path, THEIRS, OURS, OURS) as ensemble:
        ensemble.start()
        theirs, first, second = ensemble.members
        watcher = RawClient(second.host, second.client_port)
        client = RawClient(theirs.host, theirs.client_port, timeout_ms=8000)
        shake = client.handshake
        call(client, Op.CREATE, create_body("/mine", b"", None, 1))
        for member in (first, theirs, second, theirs, first):
            client.close()
            client = RawClient(
                member.host, member.client_port, timeout_ms=8000, session=shake.session, password=shake.password
            )
            assert client.handshake.session == shake.session
            assert client.handshake.password == shake.password
            call(client, Op.SET_DATA, set_body("/mine", b"%d" % member.sid))
        call(watcher, Op.SYNC, path_version_body("/mine")[:-4])
        assert watcher.call(Op.EXISTS, path_watch_body("/mine", True))[-1].err == 0
        call(client, Op.CLOSE_SESSION, b"")
        client.close()
        event = watcher.read()
        assert event.xid == -1, "told of the deletion"
        for member in ensemble.members:
            assert not exists(member, "/mine")

        mortal = RawClient(theirs.host, theirs.client_port, timeout_ms=2000)
        call(mortal, Op.CREATE, create_body("/mortal", b"", None, 1))
        mortal.close()
        wait_until(lambda: not exists(second, "/mortal"), 30, "our leader expires a session of their follower's client")
        watcher.call(Op.CLOSE_SESSION)
        watcher.close()


def test_observers_of_both_kinds(tmp_path: Path) -> None:
    with mixed(tmp_path, THEIRS, OURS, THEIRS, OURS, THEIRS, observers=(4, 5)) as ensemble:
        voters, (our_observer, their_observer) = ensemble.members[:3], ensemble.members[3:]
        start(voters[0], voters[2])
        start(voters[1], our_observer, their_observer)
        assert our_observer.mode == "observer"
        assert their_observer.mode == "observer"
        assert ensemble.leader() is voters[2], "of the two that were there first the greater sid"
        write(our_observer, "/through-our-observer")
        write(their_observer, "/through-their-observer")
        assert_equal_trees(ensemble)
        our_observer.stop()
        write(ensemble.leader(), "/absent")
        start(our_observer)
        assert_equal_trees(ensemble)

        voters[2].stop()
        assert ensemble.leader().kind == OURS, "of sids 1 and 2 with equal histories, 2"
        for observer in (our_observer, their_observer):
            wait_until(lambda o=observer: o.mode == "observer", 60, "observes our leader")  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
        write(our_observer, "/ours-leads-our-observer")
        write(their_observer, "/ours-leads-their-observer")
        start(voters[2])


def test_members_are_replaced_one_by_one(tmp_path: Path) -> None:
    """An ensemble of theirs becomes one of ours on the same data folders, without a pause, and theirs again."""
    with mixed(tmp_path, THEIRS, THEIRS, THEIRS) as ensemble:
        ensemble.start()
        write(ensemble.leader(), "/theirs")
        for kind in (OURS, THEIRS):
            for member in ensemble.members:
                ensemble.wait_converged()
                member.stop()
                ensemble.replace(member, kind)
                start(member)
                ensemble.leader()
                wait_until(lambda m=member: bool(m.mode), 60, "serves under a leader")  # type: ignore[misc]  # as above
                write(member, f"/{kind}-{member.sid}")
            tree = assert_equal_trees(ensemble)
            assert {"/theirs", f"/{kind}-1", f"/{kind}-2", f"/{kind}-3"} <= tree.keys()
