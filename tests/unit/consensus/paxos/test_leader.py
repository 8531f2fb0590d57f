from random import Random

import pytest

from quorate.consensus.paxos.members import Member, pack
from quorate.consensus.paxos.messages import Entry, Kind, Lead, Promise, ballot_of
from quorate.consensus.paxos.peer import Peer
from quorate.consensus.paxos.settings import Settings

THREE = tuple(Member(sid, {}) for sid in (1, 2, 3))
FOUR = (*THREE, Member(4, {}))


def command(number: int) -> Entry:
    return Entry(Kind.COMMAND, b"%d" % number)


@pytest.mark.parametrize("members", [THREE, FOUR])
def test_a_snapshot_that_comes_in_the_midst_of_phase_1_stands_for_what_is_promised_before_it(
    members: tuple[Member, ...],
) -> None:
    """The candidate asks with two entries decided, installs a snapshot of five, and is then promised what follows the two. Found by the
    simulation (seed 235)."""
    settings = Settings(1, (1, 2, 3))
    before, ballot, newer = ballot_of(1, 2), ballot_of(2, 1), ballot_of(1, 3)
    peer = Peer(settings, 0, Random(1), entries=[command(1), command(2)], decided=2, promised=before, accepted=before)
    peer.connected(2)
    peer.connected(3)
    peer.following = before
    peer.receive(2, Lead(before))
    peer.persisted(peer.drain().writes[-1].token)
    assert peer.leader is not None
    assert peer.leader.ballot == ballot
    peer.installed(5, members)
    fourth = command(4) if members == THREE else Entry(Kind.MEMBERS, pack(members))
    entries = (command(3), fourth, command(5), command(6))
    peer.receive(2, Promise(ballot, newer, 6, 5, 3, entries))
    assert peer.leader.established is (members == THREE), "two of four are no quorum"
    peer.receive(3, Promise(ballot, newer, 6, 5, 3, entries))
    assert peer.leader.established
    log = peer.acceptor.log
    assert (log.base, log.last) == (5, 7)
    assert log.members == members
    assert [entry.kind for entry in log.after(5)] == [Kind.COMMAND, Kind.NOTHING]
