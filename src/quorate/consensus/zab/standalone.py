"""The core of an ensemble of one: what is logged is committed.

Answers the same calls as ``peer`` as far as a server without peers needs them. Like a standalone Apache server it stays in
the epoch of its last transaction and keeps no epoch files.
"""

from collections.abc import Hashable

from quorate.consensus.contract import NEVER, Outbox
from quorate.consensus.zab.history import History
from quorate.consensus.zab.messages import Entry, Message, Service, State, epoch_of
from quorate.consensus.zab.peer import Drained
from quorate.consensus.zab.replica import Append, RoleChange, ServiceEvent, Synced, WriteRequest, write_state
from quorate.errors import LocalProtocolError


class Standalone:
    def __init__(self, base: int, tail: list[Entry], window: int) -> None:
        """``base``, ``tail`` and ``window`` as for ``peer.Peer``; the tail counts as committed from the start."""
        self.outbox: Outbox[Message] = Outbox()
        self.history = History(base, tail, window)
        self.reason = ""
        self.leading = False
        self.following = False
        self._started = False
        self._last = self.history.last
        self._proposed: list[Entry] = []
        self._logged: list[tuple[int, int]] = []
        self._writes: list[WriteRequest] = []
        self._events: list[ServiceEvent] = []
        self._syncs: list[tuple[int, Synced]] = []

    def recovering(self) -> int:
        """The token of a first write, before ``start``: the one that makes what was recovered durable; see ``peer.Peer``."""
        return self.outbox.token()

    def start(self, now: int) -> None:
        """Serve, as soon as what was recovered is durable: clients must not see what a loss of power could take back."""
        self._started = True
        self._consider_serving()

    def _consider_serving(self) -> None:
        if self._started and not self.leading and self.outbox.durable == self.outbox.issued:
            self._events.extend(self.history.commit(self.history.last))
            self._events.append(RoleChange(State.LEADING, 0, self.epoch, True))
            self.leading = True

    def tick(self, now: int) -> None:
        """Nothing here depends on time."""

    def deadline(self) -> int:
        return NEVER

    @property
    def epoch(self) -> int:
        return epoch_of(self._last)

    @property
    def next_zxid(self) -> int:
        return self._last + 1

    def propose(self, payload: bytes, decoded: object = None) -> int:
        zxid = self._last = self._last + 1
        entry = Entry(zxid, payload, decoded)
        self.history.append(entry)
        self._proposed.append(entry)
        return zxid

    def sync(self, link: int, key: Hashable) -> None:
        event = Synced(link, key)
        if self._last <= self.history.committed:
            self._events.append(event)
        else:
            self._syncs.append((self._last, event))

    def send_to_leader(self, message: Service) -> None:
        raise LocalProtocolError("a standalone server has no leader")

    def send_to_learner(self, link: int, message: Service) -> None:
        raise LocalProtocolError("a standalone server has no learners")

    def receive(self, sender: int, message: Message) -> None:
        raise LocalProtocolError("a standalone server has no peers")

    def persisted(self, token: int) -> None:
        self.outbox.persisted(token)
        self._consider_serving()
        committed = 0
        logged = self._logged
        while logged and logged[0][0] <= token:
            committed = logged.pop(0)[1]
        if committed:
            # each sync in its place: its session may have written since, and is answered in order
            while self._syncs and self._syncs[0][0] <= committed:
                zxid, event = self._syncs.pop(0)
                self._events.extend(self.history.commit(zxid))
                self._events.append(event)
            self._events.extend(self.history.commit(committed))

    def drain(self) -> Drained:
        if self._proposed:
            token = self.outbox.token()
            self._writes.append(Append(self._proposed, token))
            self._logged.append((token, self._proposed[-1].zxid))
            self._proposed = []
        drained = Drained(self._writes, self._events, {}, [], None)
        self._writes, self._events = [], []
        return drained

    def state(self) -> Hashable:
        return (
            self.history.state(),
            self.outbox.state(),
            self._started,
            self.leading,
            self._last,
            tuple(self._proposed),
            tuple([(self.outbox.ahead(token), zxid) for token, zxid in self._logged]),
            tuple([write_state(write, self.outbox) for write in self._writes]),
            tuple(self._events),
            tuple(self._syncs),
        )
