from random import Random

import pytest

from quorate.consensus.paxos.members import Member, pack
from quorate.consensus.paxos.messages import (
    Entry,
    Event,
    Heartbeat,
    Kind,
    Lead,
    Promise,
    ReadReady,
    ReadReply,
    ReadRequest,
    ballot_of,
)
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


def test_a_reply_to_a_read_of_the_process_before_is_nobody_s() -> None:
    """It says what was decided when that one was asked. Found by the simulation (seed 309914)."""
    ballot = ballot_of(1, 2)
    answers: list[list[Event]] = []
    request = 0
    for life in range(2):
        peer = Peer(Settings(1, (1, 2, 3)), 0, Random(f"life {life}"), promised=ballot, accepted=ballot)
        peer.connected(2)
        peer.receive(2, Heartbeat(ballot, 1, 0))
        peer.drain()
        peer.read("key")
        (sent,) = [message for message in peer.drain().messages[2] if isinstance(message, ReadRequest)]
        request = request or sent.number
        peer.receive(2, ReadReply(request, 0))
        answers.append(peer.drain().events)
    assert [isinstance(event, ReadReady) for event in answers[0]] == [True]
    assert answers[1] == []
