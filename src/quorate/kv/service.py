"""One shard on one member: the state machine, and what clients wait for. Implements consensus.replicated.StateMachine.

Writes that come in one batch of events are proposed as one entry; their answers go out when that very entry is applied. Reads of a batch
share one question for an index. Only the leader takes writes; any member answers reads and watches.
"""

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence

from quorate.consensus.replicated import Replica
from quorate.consensus.replicated import Restorer as AnyRestorer
from quorate.kv import commands
from quorate.kv.commands import COMMIT, HEAD
from quorate.kv.expiry import Expiry
from quorate.kv.machine import Machine
from quorate.kv.snapshot import Restorer, snapshot
from quorate.kv.turns import Turns
from quorate.kv.watches import Watch, Watches
from quorate.runtime.environment import MILLISECOND, Environment, Timer

log = logging.getLogger(__name__)

PAYLOAD_BYTES = 1 << 20
"""Commands of a batch beyond so many bytes go into another entry."""
UNDER_WAY_MAX = 64 << 20
"""Bytes of commands that were proposed and are not applied; more are refused until then."""

_MANY = 4
"""Commands of a batch from which on its clients' next ones are waited for."""
_HOLD = MILLISECOND
"""For so long at most a command waits for others."""

Answer = Callable[[bytes | None], None]
"""Called with a write's result; with None if this member stopped leading, so that it may be done or not."""


Asker = Callable[[bool], None]
"""Who asked for a read: called with True if it can be answered now, with False if nobody leads."""


class _Batch:
    """An entry that was proposed, and who waits for its commands, in their order."""

    __slots__ = ("answers", "payload")

    def __init__(self, payload: bytes, answers: list[Answer]) -> None:
        self.payload = payload
        self.answers = answers


class KvService:
    """``start`` and ``end`` bound the shard's keys; an end of b"" is none. ``history``: revisions kept for the past, 0 for all."""

    def __init__(
        self,
        env: Environment,
        replica: Replica,
        start: bytes,
        end: bytes,
        history: int,
        flushed: Callable[[], None],
    ) -> None:
        """``flushed`` is called when the answers of a batch are made."""
        self.env = env
        self.replica = replica
        self.start = start
        self.end = end
        self.machine = Machine()
        self.expiry = Expiry(self.machine)
        self.watches = Watches()
        self.turns = Turns()
        self.leader = 0
        self.proposed_commands = 0
        """As leader, so far; and the batches they made."""
        self.proposed_batches = 0
        self._history = history
        self._flushed = flushed
        self._gathered: list[bytes] = []
        self._answers: list[Answer] = []
        self._gathered_bytes = 0
        self._enough = 0
        """So many gathered commands make a batch at once; 0 if nothing is waited for."""
        self._holding: Timer | None = None
        self._under_way = 0
        self._batches: deque[_Batch] = deque()
        self._reads: dict[int, list[Asker]] = {}
        """By their staleness."""
        self._scheduled = False
        self._timer: Timer | None = None
        self._timer_at = -1
        self._compacting = 0
        """The revision that a compaction was proposed for."""

    # ---- writes

    @property
    def leading(self) -> bool:
        return self.replica.leading

    @property
    def busy(self) -> bool:
        """Too much is under way: a write should be refused for now."""
        return self._under_way > UNDER_WAY_MAX

    def submit(self, command: bytes, answer: Answer) -> None:
        """A command that was checked, on the leader."""
        self._gathered.append(command)
        self._answers.append(answer)
        self._gathered_bytes += len(command)
        if self._gathered_bytes >= PAYLOAD_BYTES:
            self._propose()
        elif len(self._gathered) == self._enough:
            self._enough = 0
            self._propose()
        elif not self._scheduled:
            self._scheduled = True
            self.env.call_soon(self._gather)

    def submit_in_turn(
        self, owner: object, conditional: bool, keys: Sequence[bytes], command: bytes, answer: Answer
    ) -> None:
        """The same, but after the turn of somebody else, if it is conditional and touches the keys of one; ends the owner's turn."""
        turns = self.turns
        if not turns:
            self.submit(command, answer)
            return
        turn = turns.of(owner)
        if turn is not None and conditional:

            def answered(result: bytes | None) -> None:
                answer(result)
                # not before it is applied: whoever is next shall read what it wrote
                turns.end(self.env.now(), turn)

            self.submit(command, answered)
            return
        blocking = turns.blocking(owner, keys) if conditional else None
        if blocking is None:
            self.submit(command, answer)
        else:
            blocking.held.append(lambda: self._submit_held(command, answer))

    def _submit_held(self, command: bytes, answer: Answer) -> None:
        if self.leading:
            self.submit(command, answer)
        else:
            answer(None)

    def _gather(self) -> None:
        self._scheduled = False
        if self._gathered:
            if self._batches or self._enough:
                self._hold()
            else:
                self._propose()
        if self._reads:
            reads, self._reads = self._reads, {}
            for staleness, askers in reads.items():
                self.replica.read(_Reads(askers), staleness)
        self._flushed()

    def _next(self, answered: int) -> None:
        """A batch is done. Those whose commands were answered are likely to come again at once: where they are many they are waited for."""
        expected = len(self._gathered) + answered
        if answered >= _MANY:
            self._enough = max(expected - expected // 8, len(self._gathered) + 1)
            self._hold()
        elif self._gathered:
            self._propose()

    def _hold(self) -> None:
        """What is gathered waits for the batch under way, or for more, and shares the next one's messages and syncs: but not for long."""
        if self._holding is None:
            self._holding = self.env.call_at(self.env.now() + _HOLD, self._held)

    def _held(self) -> None:
        self._holding = None
        self._enough = 0
        if self._gathered:
            self._propose()
            self._flushed()

    def _propose(self) -> None:
        self._enough = 0
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        gathered, answers = self._gathered, self._answers
        self._gathered, self._answers, self._gathered_bytes = [], [], 0
        if not self.replica.leading:
            for answer in answers:
                answer(None)
            return
        self.proposed_commands += len(gathered)
        self.proposed_batches += 1
        payload = b"".join(gathered)
        self._batches.append(_Batch(payload, answers))
        self._under_way += len(payload)
        self.replica.propose(payload)

    # ---- reads

    def read(self, asker: Asker, staleness: int = 0) -> None:
        """``asker`` is called once, when a read of the machine is as fresh as asked for."""
        self._reads.setdefault(staleness, []).append(asker)
        if not self._scheduled:
            self._scheduled = True
            self.env.call_soon(self._gather)

    # ---- consensus.replicated.StateMachine

    def apply(self, index: int, payload: bytes) -> None:
        store = self.machine.store
        before = store.revision
        results = self.machine.apply(payload)
        batches = self._batches
        if batches and batches[0].payload is payload:
            batch = batches.popleft()
            self._under_way -= len(payload)
            for answer, result in zip(batch.answers, results, strict=True):
                answer(result)
            if not batches:
                self._next(len(batch.answers))
        if store.revision != before and len(self.watches):
            self.watches.tell(store.revision, list(store.changes_after(before)))

    def role_changed(self, leader: int, leading: bool) -> None:
        self.leader = leader
        if leading:
            self.expiry.begin(self.env.now())
            return
        self.expiry.end()
        self._compacting = 0
        batches, self._batches = self._batches, deque()
        self._under_way = 0
        if self._gathered:
            self._propose()
        for batch in batches:
            for answer in batch.answers:
                answer(None)
        for commit in self.turns.clear():
            commit()

    def read_ready(self, key: Hashable) -> None:
        assert isinstance(key, _Reads)
        for asker in key.askers:
            asker(True)

    def read_failed(self, key: Hashable) -> None:
        assert isinstance(key, _Reads)
        for asker in key.askers:
            asker(False)

    def flush(self) -> None:
        if self.replica.leading:
            self._lead()
        self.watches.progress(self.machine.store.revision)
        self._flushed()

    def snapshot(self) -> Iterator[bytes]:
        return snapshot(self.machine)

    def restorer(self) -> Restorer:
        return Restorer()

    def adopt(self, restorer: AnyRestorer) -> None:
        assert isinstance(restorer, Restorer)
        store = self.machine.store
        watches = self.watches.clear()
        for watch in watches:
            if not watch.behind:
                watch.after = store.revision
        self.machine = restorer.machine
        self.expiry = Expiry(self.machine)
        for watch in watches:
            self.watches.add(self.machine.store, watch)
        self._flushed()

    # ---- watches

    def watch(self, watch: Watch) -> None:
        self.watches.add(self.machine.store, watch)

    def goes_on(self, watch: Watch) -> None:
        """Its connection takes more."""
        if watch.behind:
            self.watches.catch_up(self.machine.store, watch)

    # ---- what only a leader does

    def _lead(self) -> None:
        now = self.env.now()
        self.expiry.look(now)
        for command in self.expiry.due(now):
            self.submit(command, _nobody)
        store = self.machine.store
        if (
            self._history
            and store.revision - store.compacted > 2 * self._history
            and self._compacting <= store.compacted
        ):
            self._compacting = store.revision - self._history
            body = commands.numbers_body([self._compacting])
            self.submit(commands.pack_command(commands.COMPACT, body), _nobody)
        self.arm()

    def arm(self) -> None:
        """One timer for the earliest end of a lease, session, delay or turn."""
        deadline = min((at for at in (self.expiry.deadline(), self.turns.deadline()) if at >= 0), default=-1)
        if deadline < 0 or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self.env.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        self.turns.expire(self.env.now())
        if self.replica.leading:
            self._lead()
        self._flushed()

    def stop(self) -> None:
        for timer in (self._timer, self._holding):
            if timer is not None:
                timer.cancel()


class _Reads:
    """The key of reads that wait together."""

    __slots__ = ("askers",)

    def __init__(self, askers: list[Asker]) -> None:
        self.askers = askers


def _nobody(result: bytes | None) -> None:
    """What a leader proposes by itself is answered to nobody."""


def is_conditional(command: bytes) -> bool:
    """Whether a checked command is a commit with conditions."""
    return command[4] == COMMIT and command[HEAD.size : HEAD.size + 2] != b"\0\0"
