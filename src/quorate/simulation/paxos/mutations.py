"""Deliberate bugs in Paxos, its disk, its host and the store: each must be noticed, or what the simulation finds in good code means nothing."""

from collections.abc import Hashable, Iterator
from typing import Any, Final

from quorate.consensus.contract import Outbox
from quorate.consensus.paxos import journal as journals
from quorate.consensus.paxos import peer as peers
from quorate.consensus.paxos import snapshots
from quorate.consensus.paxos.acceptor import Acceptor
from quorate.consensus.paxos.group import Group
from quorate.consensus.paxos.journal import Journal
from quorate.consensus.paxos.leader import Leader
from quorate.consensus.paxos.links import Links
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    Adopt,
    Append,
    Prepare,
    Promise,
    ReadReady,
    Write,
    ballot_of,
)
from quorate.consensus.paxos.peer import Peer
from quorate.consensus.paxos.settings import Settings
from quorate.kv import service as services
from quorate.kv.machine import Machine
from quorate.kv.snapshot import snapshot
from quorate.simulation.mutation import Mutation as Mutation
from quorate.simulation.mutation import Patch
from quorate.simulation.paxos import options as swarm
from quorate.simulation.scheduler import MILLISECOND
from quorate.storage.disk import Done, Sync

_LEASED: Final = {"heartbeat": 20 * MILLISECOND, "election_timeout": 160 * MILLISECOND, "lease": 160 * MILLISECOND}
_UNLEASED: Final = {"lease": 0}
_THREE: Final = {"members": 3, "accept_quorum": 0}

_promise = Acceptor.promise
_synchronise = Leader._synchronise
_peer = Peer.__init__
_pack = Journal._pack
_maybe_snapshot = Group._maybe_snapshot
_quorums = Settings.quorums


def _send_at_once(self: Outbox[Any], token: int, channel: int, message: Any) -> None:
    self.send(channel, message)


def _promise_in_memory(self: Acceptor, ballot: int) -> int:
    self.promised = ballot
    return self._outbox.issued


def _minority_accepts(self: Settings, size: int) -> tuple[int, int]:
    prepare, accept = _quorums(self, size)
    return prepare, max(accept - 1, 1)


def _minority_promises(self: Settings, size: int) -> tuple[int, int]:
    prepare, accept = _quorums(self, size)
    return max(prepare - 1, 1), accept


def _describe_nothing(self: Acceptor, prepare: Prepare) -> Promise:
    return Promise(prepare.ballot, 0, 0, 0, 1, ())


def _accept_older(self: Acceptor, sender: int, message: Accept) -> None:
    """As the original, without its look at what was promised since."""
    if message.ballot != self._synced or (message.entries and message.first != self.log.last + 1):
        return
    if message.entries:
        token = self.append(message.entries)
        self._outbox.send_after(token, sender, Accepted(message.ballot, self.log.last))
    self.learn(message.decided)


def _count_promises(self: Leader, sid: int, promise: Promise) -> None:
    _synchronise(self, sid, promise)
    self._first = 0
    if sid in self._followers:
        self._followers[sid].accepted = min(promise.last, self._adopted[1])
        self._choose()


def _may_always_promise(self: Acceptor, now: int, ballot: int) -> bool:
    return ballot >= self.promised


def _free_at_restart(self: Peer, *arguments: Any, **named: Any) -> None:
    _peer(self, *arguments, **named)
    self.acceptor.bound_until = 0


def _drain_untimed(self: Group) -> Any:
    if self._asking:
        keys, self._asking = self._asking, []
        from quorate.consensus.paxos.group import _Reads

        self.peer.read(_Reads(self._owner.env.now(), keys))
    return self.peer.drain()


def _read_at_once(self: Leader, now: int, key: Hashable) -> None:
    self._acceptor.events.append(ReadReady(key, self._acceptor.log.decided))


def _read_by_old_heartbeat(self: Leader, now: int, key: Hashable) -> None:
    self._reads.append((self._number, key, self._acceptor.log.decided))
    self._answer_reads()


def _pack_in_pieces(self: Journal, group: int, write: Write, pieces: list[bytes]) -> None:
    if isinstance(write, Adopt) and write.entries:
        _pack(self, group, Adopt(write.ballot, write.first, (), write.token), pieces)
        _pack(self, group, Append(write.entries, write.token), pieces)
    else:
        _pack(self, group, write, pieces)


def _apply_unchosen(self: Acceptor, sender: int, message: Accept) -> None:
    _accept_older(self, sender, message)
    if message.ballot == self._synced:
        self.learn(self.log.last)


def _sync_folder(path: str) -> Sync:
    return Sync(path.rpartition("/")[0] or path)


def _trim_early(self: Group, asked: bool = False) -> None:
    idle = self._writer is None
    _maybe_snapshot(self, asked)
    if idle and self._writer is not None:
        self._trim(self.applied)


def _forgetful_snapshot(machine: Machine) -> Iterator[bytes]:
    kept = [(session, session.replies) for session in machine.sessions.values()]
    for session, _ in kept:
        session.replies = {}
    pieces = list(snapshot(machine))
    for session, replies in kept:
        session.replies = replies
    return iter(pieces)


def _twice(self: Machine, kind: int, body: bytes, id_: int, seq: int, acked: int) -> bytes:
    return self._carry_out(kind, body)


def _anonymous_ballot(round_: int, sid: int) -> int:
    return ballot_of(round_, 1)


def _settled_at_once(self: Journal, done: Done) -> None:
    done(None)


def _own_members(self: Leader, first: int, entries: Any) -> tuple[int, ...]:
    return self._acceptor.log.sids


def _hand_over_keeping_the_lease(self: Leader) -> None:
    from quorate.consensus.paxos.messages import Lead

    if not self._queue and self.progress(self.handing_to) == self._acceptor.log.last:
        self._outbox.send(self.handing_to, Lead(self.ballot))


_heartbeat = Peer._heartbeat


def _learn_in_any_ballot(self: Peer, sender: int, message: Any) -> None:
    self.acceptor.learn(message.decided)
    _heartbeat(self, sender, message)


_redial = Links._redial


def _lesser_waits(self: Links, sid: int) -> None:
    if sid < self._sid:
        _redial(self, sid)


def _mutation(name: str, what: str, *patches: Patch, **more: Any) -> Mutation:
    return Mutation(swarm.draw, name, what, *patches, **more)


_ALL: Final = (
    _mutation("send-before-durable", "promises leave before they are on disk", Patch(Outbox, "send_after", _send_at_once), faults=("power", "blackout")),
    _mutation("promise-in-memory", "a promise is not written", Patch(Acceptor, "promise", _promise_in_memory), faults=("crash", "blackout")),
    _mutation("minority-accepts", "one acceptance too few makes an entry chosen", Patch(Settings, "quorums", _minority_accepts)),
    _mutation("minority-promises", "one promise too few makes a leader", Patch(Settings, "quorums", _minority_promises), faults=("partition",)),
    _mutation("own-log-preferred", "a new leader ignores what others accepted", Patch(Acceptor, "describe", _describe_nothing), faults=("crash",)),
    _mutation("older-ballot-accepted", "entries of a ballot older than the promised one are accepted", Patch(Acceptor, "accept", _accept_older), faults=("late_words",), options={**_THREE, "clients": 6, "requests": 1000, "faults": 40, "disk_latency": 4 * MILLISECOND}),
    _mutation("promises-count-as-acceptances", "what was accepted in older ballots counts as chosen", Patch(Leader, "_synchronise", _count_promises), issue="Raft, figure 8", faults=("crash", "partition")),
    _mutation("lease-not-kept", "an acceptor bound by a lease promises another", Patch(Acceptor, "may_promise", _may_always_promise), faults=("oneway", "partition", "hand_over"), options=_LEASED),
    _mutation("lease-forgotten", "a member that restarts does not wait out the lease it may be bound by", Patch(Peer, "__init__", _free_at_restart), faults=("forgetful_voter",), options={**_LEASED, **_THREE, "faults": 40}),
    _mutation("lease-by-last-event", "a lease is judged by the time of the last event", Patch(Group, "drain", _drain_untimed), issue="etcd #20418", faults=("sleeping_leader",), options=_LEASED),
    _mutation("read-at-once", "a leader answers reads without asking", Patch(Leader, "read", _read_at_once), faults=("partition", "pause"), options=_UNLEASED),
    _mutation("read-by-old-heartbeat", "a read is confirmed by a heartbeat sent before it", Patch(Leader, "read", _read_by_old_heartbeat), faults=("deaf_leader",), options={"lease": 0, "clients": 6, "requests": 1000, "faults": 40}),
    _mutation("adopted-in-pieces", "a log is cut, then appended to, and a crash comes between", Patch(Journal, "_pack", _pack_in_pieces), faults=("crash_at_adoption", "crash", "late_words"), options={"requests": 1000, "faults": 40}),
    _mutation("applied-unchosen", "a follower applies what it has accepted", Patch(Acceptor, "accept", _apply_unchosen)),
    _mutation("journal-not-synced", "the journal is written and not synced", Patch(journals, "Sync", _sync_folder), faults=("power", "blackout")),
    _mutation("snapshot-not-synced", "a snapshot gets its name before it is on disk", Patch(snapshots, "Sync", _sync_folder), faults=("power",), options={"snapshot_entries": 5, "kept_entries": 0}),
    _mutation("trimmed-early", "the log is trimmed before its snapshot is on disk", Patch(Group, "_maybe_snapshot", _trim_early), faults=("crash", "power"), options={"snapshot_entries": 5, "kept_entries": 0}),
    _mutation("answers-not-in-snapshot", "the answers that are kept for repeated commands are not in snapshots", Patch(services, "snapshot", _forgetful_snapshot), faults=("crash", "power"), options={"snapshot_entries": 5, "kept_entries": 0}),
    _mutation("done-twice", "a repeated command is done again", Patch(Machine, "_once", _twice), faults=("crash",)),
    _mutation("ballots-shared", "two members may use one ballot", Patch(peers, "ballot_of", _anonymous_ballot), faults=("partition",)),
    _mutation("not-settled", "a member speaks before what it recovered is durable", Patch(Journal, "settle", _settled_at_once), faults=("word_lost", "crash")),
    _mutation("members-of-own-log", "a new leader counts its quorum by the members its own log names", Patch(Leader, "_members_with", _own_members), faults=("members", "partition", "crash")),
    _mutation("lease-kept-when-handed-over", "a leader that hands over goes on answering reads alone", Patch(Leader, "_hand_over", _hand_over_keeping_the_lease), faults=("hand_over", "oneway"), options=_LEASED),
    _mutation("learned-in-any-ballot", "a follower takes its own entries for decided that the leader's log does not have", Patch(Peer, "_heartbeat", _learn_in_any_ballot), faults=("partition", "oneway")),
    _mutation("lesser-waits", "of two members the lesser waits until the greater dials, who may know nothing of it", Patch(Links, "_redial", _lesser_waits), faults=("members", "hand_over"), options=_THREE),
)  # fmt: skip

MUTATIONS: Final[dict[str, Mutation]] = {mutation.name: mutation for mutation in _ALL}
