"""Mixed ensembles when a member dies in the middle of things: real uncommitted tails, and kazoo's clients that move on.

test_mixed_ensemble.py joins members with a tail made by hand, in a log file of its own. Here the tail is what a leader
leaves that logged proposals nobody else got, so it stands in the middle of a file that holds committed transactions too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from tests.originals.test_mixed_ensemble import TRUNC, call, exists, mixed, new_output, start, write
from tests.support.ensembles import OURS, THEIRS, Ensemble, Member
from tests.support.processes import four_letter_word, wait_until
from tests.support.raw import RawClient, create_body
from tests.support.trees import assert_equal_trees

from quorate.zookeeper.constants import Op

TAIL = [f"/tail-{number}" for number in range(5)]
PATIENCE = 30.0
CUT = "cutting the log"
REPLACED = "quorate.zookeeper.store: snapshot 0x2"
"""A snapshot of the second epoch is installed: taken from the leader."""


def logged(member: Member, text: str) -> bool:
    """Whether ``text`` stands in one of the member's log files."""
    return any(text.encode() in file.read_bytes() for file in (member.folder / "version-2").glob("log.*"))


def stands_still(member: Member) -> bool:
    """Whether SIGSTOP has stopped every thread: Java's go on for a moment after the signal."""
    tasks = Path(f"/proc/{member.process.pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for task in tasks)


def leave_uncommitted_tail(leader: Member, followers: list[Member]) -> None:
    """Let ``leader`` log creates of TAIL that the followers never get to see, and kill all three.

    The followers are killed while they stand still: what their sockets hold for them is never read.
    """
    with RawClient(leader.host, leader.client_port) as client:
        call(client, Op.CREATE, create_body("/last-committed"))
        for follower in followers:
            wait_until(lambda f=follower: logged(f, "/last-committed"), PATIENCE, "logged by all")  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            follower.pause()
        wait_until(lambda: all(map(stands_still, followers)), PATIENCE, "the followers stand still")
        for path in TAIL:
            client.send(Op.CREATE, create_body(path))
        wait_until(lambda: all(logged(leader, path) for path in TAIL), PATIENCE, "the leader logs the tail")
        for member in (leader, *followers):
            member.kill()
    for follower in followers:
        assert not any(logged(follower, path) for path in TAIL)


@pytest.mark.parametrize(
    ("survivors", "old", "writes", "told"),
    [
        pytest.param(THEIRS, OURS, False, CUT, id="ours-rejoins-theirs"),
        pytest.param(THEIRS, OURS, True, REPLACED, id="ours-rejoins-theirs-in-a-later-epoch"),
        pytest.param(OURS, THEIRS, False, TRUNC, id="theirs-rejoins-ours"),
        pytest.param(OURS, THEIRS, True, TRUNC, id="theirs-rejoins-ours-in-a-later-epoch"),
        pytest.param(OURS, OURS, True, CUT, id="ours-rejoins-ours-in-a-later-epoch"),
    ],
)
def test_the_tail_of_a_dead_leader_is_cut(survivors: str, old: str, writes: bool, told: str, tmp_path: Path) -> None:
    """Apache sends no TRUNC across an epoch, but a SNAP: then the tail stays in the old log, below the snapshot."""
    with mixed(tmp_path, survivors, survivors, old) as ensemble:
        first, second, leader = ensemble.members
        start(first, leader)
        start(second)
        assert leader.mode == "leader", "of equal histories the greatest sid leads"
        write(leader, "/before")
        leave_uncommitted_tail(leader, [first, second])

        start(first, second)
        if writes:
            write(ensemble.leader(), "/since")
        output = leader.process.output()
        start(leader)
        assert leader.mode == "follower"
        assert told in new_output(leader, output)
        for member in ensemble.members:
            assert not any(exists(member, path) for path in TAIL)
        write(leader, "/after")

        leader.kill()
        start(leader)
        tree = assert_equal_trees(ensemble)
        assert {"/before", "/last-committed", "/after"} <= tree.keys()
        assert not tree.keys() & set(TAIL), "nor does it come back when the log is read again"


def holder(ensemble: Ensemble, session: int) -> Member | None:
    """The member that the session is connected to."""
    for member in ensemble.members:
        if f"sid=0x{session:x}" in four_letter_word(member.host, member.client_port, "cons"):
            return member
    return None


def becomes(read: Callable[[], Any], value: object, what: str) -> None:
    wait_until(lambda: bool(read() == value), PATIENCE, what)


def test_a_kazoo_client_moves_on_when_its_member_dies(tmp_path: Path) -> None:
    """From Apache to ours and back, several times, with its session, its ephemeral and its watch."""
    with mixed(tmp_path, THEIRS, OURS, OURS) as ensemble:
        ensemble.start()
        client = KazooClient(ensemble.addresses, timeout=10.0, randomize_hosts=False)
        client.start(timeout=PATIENCE)
        try:
            session = client.client_id[0]
            client.create("/mine", b"", ephemeral=True)
            client.create("/seen", b"")
            seen: list[bytes] = []
            client.DataWatch("/seen", lambda data, _stat: seen.append(data))
            kinds: list[str] = []
            for round_ in range(5):
                wait_until(lambda: holder(ensemble, session) is not None, PATIENCE, "connected")
                member = holder(ensemble, session)
                assert member is not None
                kinds.append(member.kind)
                member.kill()
                ensemble.leader()
                value = b"%d" % round_
                client.retry(client.set, "/mine", value)
                assert client.client_id[0] == session, "the session went on"
                other = next(other for other in ensemble.members if other is not member)
                other.wait_serving()
                with RawClient(other.host, other.client_port) as writer:
                    call(writer, Op.SET_DATA, b"\0\0\0\5/seen" + b"\0\0\0\1" + value + b"\xff\xff\xff\xff")
                    call(writer, Op.CLOSE_SESSION, b"")
                becomes(lambda: seen[-1:], [value], "the watch moved along")
                start(member)
            assert {OURS, THEIRS} <= set(kinds), kinds
            for member in ensemble.members:
                assert exists(member, "/mine")
        finally:
            client.stop()
            client.close()
        for member in ensemble.members:
            assert not exists(member, "/mine"), "gone with its session"
