"""A member as acceptor and learner: what it has promised and accepted, and what it answers.

Rules. A promise is durable before it is sent, and so is what is accepted; a ballot below the promised one is refused. A lease binds the
acceptor: until it ends no other proposer gets a promise (so that the leader may answer reads alone), and after a restart, when
it cannot know to whom it was bound, it waits for a whole one.
"""

from collections.abc import Hashable

from quorate.consensus.contract import Outbox, until
from quorate.consensus.paxos.log import Log
from quorate.consensus.paxos.members import Members
from quorate.consensus.paxos.messages import (
    Accept,
    Accepted,
    AcceptSync,
    Adopt,
    Append,
    Chosen,
    Entries,
    Event,
    Install,
    Message,
    Nack,
    Prepare,
    Promise,
    StorePromise,
    Write,
    proposer_of,
)
from quorate.errors import RemoteProtocolError


class Acceptor:
    """``promised``, ``accepted`` and ``log`` are as they will be when all ``writes`` so far are durable."""

    def __init__(self, log: Log, promised: int, accepted: int, outbox: "Outbox[Message]") -> None:
        self.log = log
        self.promised = promised
        self.accepted = accepted
        """The ballot in which the whole log was accepted."""
        self.bound_until = 0
        """No promise to another proposer than that of ``bound_to`` before this time."""
        self.bound_to = 0
        """The ballot whose leader has a lease."""
        self._synced = 0
        """The ballot whose log we follow entry by entry."""
        self.writes: list[Write] = []
        self.events: list[Event] = []
        self._outbox = outbox

    # ---- phase 1

    def may_promise(self, now: int, ballot: int) -> bool:
        return ballot >= self.promised and (
            now >= self.bound_until or proposer_of(ballot) == proposer_of(self.bound_to)
        )

    def promise(self, ballot: int) -> int:
        """Promise ``ballot``; the token to wait for."""
        assert ballot >= self.promised
        if ballot > self.promised:
            self.promised = ballot
            token = self._outbox.token()
            self.writes.append(StorePromise(ballot, token))
        return self._outbox.issued

    def prepare(self, now: int, sender: int, prepare: Prepare) -> bool:
        """Answer a Prepare; whether it was promised."""
        if prepare.released and prepare.released == self.bound_to:
            self.bound_until = now  # who held the lease gave it up
        if not self.may_promise(now, prepare.ballot):
            self._outbox.send(sender, Nack(prepare.ballot, self.promised))
            return False
        token = self.promise(prepare.ballot)
        self._outbox.send_after(token, sender, self.describe(prepare))
        return True

    def describe(self, prepare: Prepare) -> Promise:
        log, accepted = self.log, self.accepted
        if accepted > prepare.accepted:
            first = min(prepare.decided, log.last) + 1
        elif accepted == prepare.accepted and log.last > prepare.last:
            first = prepare.last + 1
        else:
            first = log.last + 1
        first = max(first, log.base + 1)  # of what is trimmed there is only a snapshot
        return Promise(prepare.ballot, accepted, log.last, log.decided, first, log.after(first - 1))

    # ---- phase 2

    def adopt(self, ballot: int, first: int, entries: Entries) -> int:
        """The log from ``first`` on becomes ``entries``, accepted in ``ballot``; the token to wait for."""
        skipped = self.log.base + 1 - first
        if skipped > 0:  # a snapshot of ours stands for these
            first, entries = first + skipped, entries[skipped:]
        self.log.replace(first, entries)
        self.accepted = self.promised = self._synced = ballot
        token = self._outbox.token()
        self.writes.append(Adopt(ballot, first, entries, token))
        return token

    def append(self, entries: Entries) -> int:
        """``entries`` follow the log, in the ballot it was adopted in; the token to wait for."""
        self.log.append(entries)
        token = self._outbox.token()
        self.writes.append(Append(entries, token))
        return token

    def accept_sync(self, sender: int, message: AcceptSync) -> None:
        if message.ballot < self.promised:
            self._outbox.send(sender, Nack(message.ballot, self.promised))
            return
        if message.ballot > self.promised:
            raise RemoteProtocolError(f"a log in ballot {message.ballot:#x}, which was never promised")
        token = self.adopt(message.ballot, message.first, message.entries)
        self._outbox.send_after(token, sender, Accepted(message.ballot, self.log.last))
        self.learn(message.decided)

    def accept(self, sender: int, message: Accept) -> None:
        if message.ballot < self.promised:
            self._outbox.send(sender, Nack(message.ballot, self.promised))
            return
        if message.ballot != self._synced:
            return  # what it follows never came, and phase 1 is on its way again
        if message.entries:
            if message.first != self.log.last + 1:
                raise RemoteProtocolError(f"entries from {message.first} on do not follow {self.log.last}")
            token = self.append(message.entries)
            self._outbox.send_after(token, sender, Accepted(message.ballot, self.log.last))
        self.learn(message.decided)

    # ---- snapshots

    def trim(self, base: int) -> int:
        """A snapshot that is on disk stands for the entries up to ``base``; the token to wait for."""
        self.log.trim(base)
        token = self._outbox.token()
        self.writes.append(Install(base, token))
        return token

    def install(self, base: int, base_members: Members) -> int:
        """A snapshot of what is chosen up to ``base`` came from another member, and is on disk; the token to wait for.

        The ballot in which the log was accepted stays: if what was chosen up to ``base`` was chosen in a later one, every phase-1 quorum
        has a member that accepted in that, and this log is not adopted.
        """
        self.log.install(base, base_members)
        self._synced = 0
        token = self._outbox.token()
        self.writes.append(Install(base, token))
        return token

    # ---- what is chosen

    def learn(self, decided: int) -> None:
        """All up to ``decided`` is chosen, as the leader says in whose ballot our log was accepted: what of it we hold is, too."""
        log = self.log
        decided = min(decided, log.last)
        if decided > log.decided:
            first = log.decided + 1
            log.decided = decided
            self.events.append(Chosen(first, log.between(first, decided)))

    def state(self, now: int) -> Hashable:
        bound = until(self.bound_until, now)
        return self.log.state(), self.promised, self.accepted, self._synced, bound, self.bound_to if bound else 0
