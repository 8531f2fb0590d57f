"""Writes, syncs and reads of one session that are all under way at once: each is answered, in order, on whichever member the session is; and so are
syncs after one that was somebody's who should not have asked."""

from contextlib import suppress
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss
from tests.support.ensembles import OURS, THEIRS, Ensemble

ROUNDS = 150


@pytest.mark.parametrize("kinds", [[OURS], [OURS] * 3, [OURS, OURS, THEIRS]], ids=["alone", "ours", "mixed"])
def test_syncs_between_writes_are_answered(kinds: list[str], tmp_path: Path) -> None:
    with Ensemble(kinds, tmp_path) as ensemble:
        for member in ensemble.members:
            client = KazooClient(member.address)
            client.start()
            try:
                path = f"/at-{member.sid}"
                client.create(path)
                asked = []
                for number in range(ROUNDS):
                    asked += [client.set_async(path, b"%d" % number), client.sync_async(path), client.get_async(path)]
                answers = [one.get(timeout=30) for one in asked]
                assert [stat.version for stat in answers[::3]] == list(range(1, ROUNDS + 1))
                # a read sees what was written before it, and what the one after it writes may be done by then
                assert all(int(value) >= number for number, (value, _) in enumerate(answers[2::3]))
            finally:
                client.stop()
                client.close()


def test_a_sync_over_the_old_connection_of_a_session_that_moved(tmp_path: Path) -> None:
    """Whatever comes of it, it takes nobody else's answer."""
    with Ensemble([OURS] * 3, tmp_path) as ensemble:
        leader = ensemble.leader()
        follower = next(member for member in ensemble.members if member is not leader)
        old, bystander = KazooClient(follower.address), KazooClient(follower.address)
        old.start()
        bystander.start()
        moved = KazooClient(leader.address, client_id=old.client_id)
        moved.start()
        try:
            moved.create("/moved")
            with suppress(ConnectionLoss):
                old.sync_async("/").get(timeout=30)
            for _ in range(3):
                assert bystander.sync_async("/").get(timeout=10) == "/"
        finally:
            for client in (moved, old, bystander):
                client.stop()
                client.close()
