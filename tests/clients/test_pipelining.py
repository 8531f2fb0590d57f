"""Writes, syncs and reads of one session that are all under way at once: each is answered, in order, on whichever member the session is."""

from pathlib import Path

import pytest
from kazoo.client import KazooClient
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
