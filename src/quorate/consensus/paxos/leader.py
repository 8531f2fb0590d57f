"""A member as proposer: phase 1, then the pipeline of phase 2, what is chosen, and reads without a write.

Phase 1 is done once for the whole log. Of the logs of a phase-1 quorum that with the greatest (accepted ballot, length) is adopted
entire: whatever was chosen is in it. It is proposed again in our ballot, and only what a phase-2 quorum accepts in our
ballot counts as chosen (to count acceptances of older ballots is the mistake of figure 8 in the Raft paper).

A read asks nobody for the log: it notes what is decided and waits until a phase-2 quorum has confirmed, by answering a heartbeat sent
after the read came, that it has promised nobody else (such a quorum meets every phase-1 quorum). With a lease the answers to earlier
heartbeats will do for a while: acceptors that answered are bound for ``lease``, counted from before they were asked and by a clock that
may go wrong by ``clock_error``.
"""

from collections import deque
from collections.abc import Hashable, Iterable

from quorate.consensus.contract import Outbox
from quorate.consensus.paxos.acceptor import Acceptor
from quorate.consensus.paxos.members import unpack
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Behind,
    Entries,
    Entry,
    Heartbeat,
    HeartbeatReply,
    Kind,
    Lead,
    Message,
    Prepare,
    Promise,
    ReadFailed,
    ReadReady,
    RoleChange,
)
from quorate.consensus.paxos.settings import Settings

_MILLION = 1_000_000
_NOTHING: Entries = ()


class _Follower:
    """``accepted``: durable there, in our ballot; ``heard``: the number of our latest heartbeat it answered; ``synced``: it was sent our
    log, and is sent what is proposed, too."""

    __slots__ = ("accepted", "heard", "synced")

    def __init__(self) -> None:
        self.accepted = 0
        self.heard = 0
        self.synced = False


class Leader:
    """From Prepare to the loss of the ballot. ``established``: phase 1 is over."""

    def __init__(
        self,
        settings: Settings,
        acceptor: Acceptor,
        outbox: "Outbox[Message]",
        now: int,
        ballot: int,
        token: int,
        learners: Iterable[int] = (),
        released: int = 0,
    ) -> None:
        """``learners``: those that are sent the log though they are no members yet."""
        self.ballot = ballot
        self.established = False
        self.ready = False
        """Something is chosen in our ballot, and so is all before it."""
        self._settings = settings
        self._acceptor = acceptor
        self._outbox = outbox
        self._released = released
        self.asked: set[int] = set()
        """Whoever was sent a Prepare."""
        self._token = token
        """Of our own promise."""
        self.outranked = False
        """This ballot cannot succeed: we are no member any more, or lack entries."""
        self.lagging = 0
        """The member that has what we lack, as a snapshot; 0 if nothing is lacking."""
        self.handing_to = 0
        """The member that is to lead next: no more commands until it does; 0 if none is."""
        self._handed = False
        """It was told to. Whatever comes of that, our lease may be over at any time."""
        self._promises: dict[int, Promise] = {}
        self._adopted = (0, 0)
        """(accepted ballot, last index) of the log that we adopted."""
        self._first = 0
        """The index of our ballot's first entry."""
        self._followers: dict[int, _Follower] = {}
        """Those that hold our log and are sent what is proposed."""
        self._bound: set[int] = set()
        """Those that another leader's lease still keeps from promising."""
        self._queue: list[Entry] = []
        self._unsynced: deque[tuple[int, int]] = deque()
        """(token, last index) of our own appends under way."""
        self._durable = 0
        """What our own disk has accepted in our ballot."""
        self._told = 0
        """The decided index that followers were told of."""
        self._number = 0
        self._sent: deque[tuple[int, int]] = deque()
        """(number, time) of heartbeats that a lease may still begin with."""
        self._lease_until = 0
        self._confirmed = 0
        """The latest heartbeat that a phase-2 quorum has answered."""
        self.confirmed_at = now
        """When a quorum was last heard from."""
        self._reads: deque[tuple[int, Hashable, int]] = deque()
        """(heartbeat to be confirmed, key, index)."""
        for sid in (*acceptor.log.sids, *learners):
            if sid not in self.asked:
                self.prepare(sid)

    # ---- phase 1

    def prepare(self, sid: int) -> None:
        """Ask a member for its promise: all at first, and whoever is connected anew."""
        if sid == self._settings.sid:
            return
        self.asked.add(sid)
        self._promises.pop(sid, None)
        self._followers.pop(sid, None)
        acceptor = self._acceptor
        log = acceptor.log
        prepare = Prepare(self.ballot, acceptor.accepted, log.last, log.decided, self._released)
        # a ballot that our disk does not know of yet might be used again after a crash
        self._outbox.send_after(self._token, sid, prepare)

    def refused(self, sid: int) -> None:
        """It will promise later: it is asked again with the next heartbeat."""
        self._bound.add(sid)

    def ask_again(self) -> None:
        bound, self._bound = self._bound, set()
        for sid in sorted(bound):
            self.prepare(sid)

    def promised(self, now: int, sender: int, promise: Promise) -> None:
        follower = self._followers.get(sender)
        if promise.ballot != self.ballot or (follower is not None and follower.synced):
            return
        self._promises[sender] = promise
        if self.established:
            self._synchronise(sender, promise)
        else:
            self.consider(now)

    def consider(self, now: int) -> None:
        """Phase 1 ends when a quorum has promised, we among them: of those who are members by the log that is to be adopted."""
        if self.established or self.outranked or self._outbox.durable < self._token:
            return
        acceptor = self._acceptor
        log = acceptor.log
        source, best = max(
            self._promises.items(), key=lambda item: (item[1].accepted, item[1].last, -item[0]), default=(0, None)
        )
        first, entries = log.last + 1, _NOTHING
        if best is not None and (best.accepted, best.last) > (acceptor.accepted, log.last):
            first, entries = best.first, best.entries
            if first > (log.decided if best.accepted > acceptor.accepted else log.last) + 1:
                self.outranked, self.lagging = True, source
                return
            adopted = best.accepted, best.last
        else:
            adopted = acceptor.accepted, log.last
        sids = self._members_with(first, entries)
        if self._settings.sid not in sids:
            self.outranked = True
            return
        for sid in sids:
            if sid not in self.asked:
                self.prepare(sid)
        if 1 + sum(sid in sids for sid in self._promises) < self._settings.quorums(len(sids))[0]:
            return
        self.established = True
        self._adopted = adopted
        self.confirmed_at = now
        decided = max((promise.decided for promise in self._promises.values()), default=0)
        token = acceptor.adopt(self.ballot, first, (*entries, Entry(Kind.NOTHING, b"")))
        self._first = log.last
        acceptor.learn(min(decided, adopted[1]))
        self._unsynced.append((token, log.last))
        for sid, promise in self._promises.items():
            self._synchronise(sid, promise)

    def _members_with(self, first: int, entries: Entries) -> tuple[int, ...]:
        """The sids of the members that the log would have with ``entries`` from ``first`` on."""
        log = self._acceptor.log
        # a snapshot that came in the midst of phase 1 stands for what the promises have up to its base
        kept = max(first - 1, log.base)
        for entry in reversed(entries[kept + 1 - first :]):
            if entry.kind == Kind.MEMBERS:
                return tuple([member.sid for member in unpack(entry.payload)])
        return log.sids if log.members_at <= kept else tuple([member.sid for member in log.members_of(kept)])

    def _synchronise(self, sid: int, promise: Promise) -> None:
        log = self._acceptor.log
        accepted, last = self._adopted
        if promise.accepted == self.ballot:
            first = promise.last + 1  # it came back: all it has is ours
        elif promise.accepted == accepted:
            first = max(min(promise.last, last), promise.decided) + 1
        else:
            first = promise.decided + 1
        follower = self._followers[sid] = _Follower()
        if first <= log.base:
            self._outbox.send(sid, Behind(self.ballot, log.base))
            return
        follower.synced = True
        self._outbox.send(sid, AcceptSync(self.ballot, first, log.after(first - 1), log.decided))

    def progress(self, sid: int) -> int:
        """The index up to which a member holds the log durably, in our ballot."""
        follower = self._followers.get(sid)
        return 0 if follower is None else follower.accepted

    # ---- phase 2

    def propose(self, entry: Entry) -> None:
        self._queue.append(entry)

    @property
    def changing(self) -> bool:
        """A change of members is about to be written."""
        return any(entry.kind == Kind.MEMBERS for entry in self._queue)

    def flush(self) -> None:
        """Write and send what was proposed since the last drain, and tell what is decided."""
        acceptor = self._acceptor
        log = acceptor.log
        entries = tuple(self._queue)
        if not entries and self._told == log.decided:
            return
        self._told = log.decided
        first = log.last + 1
        message = Accept(self.ballot, first, entries, log.decided)
        for sid, follower in self._followers.items():
            if follower.synced:
                self._outbox.send(sid, message)
        if entries:
            self._queue = []
            known = log.sids
            self._unsynced.append((acceptor.append(entries), log.last))
            if log.sids != known:
                for sid in log.sids:
                    if sid not in self.asked:
                        self.prepare(sid)

    def accepted(self, sender: int, message: Accepted) -> None:
        follower = self._followers.get(sender)
        if message.ballot == self.ballot and follower is not None and message.last > follower.accepted:
            follower.accepted = message.last
            self._choose()
            if sender == self.handing_to:
                self._hand_over()

    def persisted(self, now: int) -> None:
        durable = self._outbox.durable
        unsynced = self._unsynced
        grown = False
        while unsynced and unsynced[0][0] <= durable:
            self._durable = unsynced.popleft()[1]
            grown = True
        if grown:
            self._choose()
        self.consider(now)

    def _choose(self) -> None:
        """Whatever a phase-2 quorum has accepted in this ballot is chosen."""
        followers, own = self._followers, self._settings.sid
        sids = self._acceptor.log.sids
        held = [followers[sid].accepted for sid in sids if sid in followers]
        if own in sids:
            held.append(self._durable)
        held.sort(reverse=True)
        quorum = self._settings.quorums(len(sids))[1]
        if len(held) < quorum or held[quorum - 1] < self._first:
            return
        acceptor = self._acceptor
        acceptor.learn(held[quorum - 1])
        if not self.ready:
            self.ready = True
            acceptor.events.append(RoleChange(self._settings.sid, self.ballot, True))
            self._answer_reads()

    # ---- heartbeats and reads

    def heartbeat(self, now: int) -> None:
        self._number += 1
        self._sent.append((self._number, now))
        message = Heartbeat(self.ballot, self._number, self._acceptor.log.decided)
        for sid in self._followers:
            self._outbox.send(sid, message)
        self._confirm(now)

    def heard(self, now: int, sender: int, reply: HeartbeatReply) -> None:
        follower = self._followers.get(sender)
        if reply.ballot == self.ballot and follower is not None and follower.heard < reply.number <= self._number:
            follower.heard = reply.number
            self._confirm(now)

    def _confirm(self, now: int) -> None:
        followers, own = self._followers, self._settings.sid
        sids = self._acceptor.log.sids
        heard = [followers[sid].heard for sid in sids if sid in followers]
        if own in sids:
            heard.append(self._number)
        heard.sort(reverse=True)
        quorum = self._settings.quorums(len(sids))[1]
        confirmed = heard[quorum - 1] if len(heard) >= quorum else 0
        if confirmed <= self._confirmed:
            return
        self._confirmed = confirmed
        self.confirmed_at = now
        sent = 0
        while self._sent and self._sent[0][0] <= confirmed:
            sent = self._sent.popleft()[1]
        lease = self._settings.lease
        self._lease_until = sent + lease - lease * self._settings.clock_error // _MILLION
        self._answer_reads()

    def leased(self, now: int) -> bool:
        """Nobody else can lead before the lease ends: what we know to be decided is all there is."""
        return self.ready and not self._handed and now < self._lease_until

    def read(self, now: int, key: Hashable) -> None:
        """A ReadReady follows, or a ReadFailed if the ballot is lost."""
        index = self._acceptor.log.decided
        if self._settings.lease and self.leased(now):
            self._acceptor.events.append(ReadReady(key, index))
            return
        # an answer that is under way may have been given before the read was asked for: it waits for the next heartbeat
        self._reads.append((self._number + 1, key, index))

    @property
    def wants_heartbeat(self) -> bool:
        """A read waits for one that has not been sent."""
        return bool(self._reads) and self._reads[-1][0] > self._number

    def _answer_reads(self) -> None:
        reads, events = self._reads, self._acceptor.events
        while self.ready and reads and reads[0][0] <= self._confirmed:
            _, key, index = reads.popleft()
            # what was decided when it was asked for may not have been known to be before we were ready
            events.append(ReadReady(key, max(index, self._first)))

    def fail_reads(self) -> None:
        self._acceptor.events.extend(ReadFailed(key) for _, key, _ in self._reads)
        self._reads.clear()

    # ---- members

    def hand_over(self, sid: int) -> None:
        """Let the member ``sid`` lead, once it holds all we have; until then no command is to be proposed."""
        self.handing_to = sid
        self._hand_over()

    def keep(self) -> None:
        """It did not take over: go on."""
        self.handing_to = 0

    def _hand_over(self) -> None:
        log = self._acceptor.log
        if not self._queue and self.progress(self.handing_to) == log.last:
            self._handed = True
            self._outbox.send(self.handing_to, Lead(self.ballot))

    def disconnected(self, sid: int) -> None:
        self._followers.pop(sid, None)
        self._promises.pop(sid, None)
        self._bound.discard(sid)

    # ---- for explorers

    def state(self, now: int) -> Hashable:
        """Canonical: tokens from the durable one, times from now, reads by what they wait for."""
        ahead = self._outbox.ahead
        return (
            (self.ballot, self.established, self.ready, self._adopted, self._first, ahead(self._token)),
            tuple([(sid, self._promises[sid]) for sid in sorted(self._promises)]),
            tuple([(sid, f.accepted, f.heard, f.synced) for sid, f in sorted(self._followers.items())]),
            (
                tuple(sorted(self._bound)),
                tuple(sorted(self.asked)),
                self.outranked,
                self.lagging,
                self.handing_to,
                self._handed,
            ),
            tuple(self._queue),
            tuple([(ahead(token), last) for token, last in self._unsynced]),
            (self._durable, self._told, self._number, self._confirmed),
            tuple([(number, now - sent) for number, sent in self._sent]),
            (max(self._lease_until - now, 0), now - self.confirmed_at),
            tuple(self._reads),
        )
