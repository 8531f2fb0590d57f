"""Our own store as a participant: a branch is an intent in each shard that a transaction touches.

The store that the decisions lie in takes part by itself, for what ``tx.kv`` has in other shards than the decision's: its intents name the key of the decision, so
that readers and writers of the store finish them by themselves (``kv.resolving``). Other stores, and stores where the decisions lie elsewhere, are given to
the coordinator (``Kv("inventory", "host:port")``): who meets their intents waits for the coordinator, or for recovery.

What was read is part of the branch: it is locked at the prepare like what is written, and a branch that only reads is prepared all the same. It must
not drop out at its vote, for what it read has to hold until the last other branch is prepared. Transactions are strictly serializable by that.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.kv import commands
from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.errors import Conflict, Locked, Refused
from quorate.kv.client.records import Held
from quorate.kv.client.sync import Client
from quorate.kv.commands import Condition, Write
from quorate.transactions.errors import ConnectionBroken, UnknownBranch, VotedNo
from quorate.transactions.flow import Done, Failed, Flow, call, now, side_by_side
from quorate.transactions.gtid import check_name, parse
from quorate.transactions.logs.kv import KvLog, Riding
from quorate.transactions.participant import Branch, Outcome, Prepared, Vote
from quorate.transactions.riding import AsyncKv, Rider, SyncKv

STORE = "quorate-kv"
"""The name of the participant for the store that the decisions lie in."""
ASK_SECONDS = 5.0
_LEAST_SECONDS = 0.05
_TIDY_SECONDS = 60.0
"""Outcomes are forgotten by the minute."""
_OUTCOMES = {
    commands.UNDECIDED: Outcome.UNKNOWN,
    commands.COMMITTED: Outcome.COMMITTED,
    commands.ABORTED: Outcome.ABORTED,
    commands.PREPARED: Outcome.PREPARED,
}


class _Work:
    """Of one branch, in this process. ``shards``: by group what is read and written there; ``asked``: something may be prepared or committed;
    ``at_once``: it was to be committed without a prepare."""

    __slots__ = ("asked", "at_once", "rider", "shards")

    def __init__(self, rider: Rider) -> None:
        self.rider = rider
        self.shards: dict[int, tuple[list[Condition], list[Write]]] | None = None
        self.asked = False
        self.at_once = False


class Kv:
    """``store``: addresses of its members as the client takes them, or a client of the kind that fits the coordinator. ``decisions``: the log, if that lies
    in this very store."""

    def __init__(
        self, name: str, store: str | Sequence[str] | Client | AsyncClient, decisions: KvLog | None = None
    ) -> None:
        self.name = check_name(name)
        self._addresses = store if isinstance(store, str | list | tuple) else None
        self._opened: Any = None if self._addresses is not None else store
        self._decisions = decisions
        self._work: dict[str, _Work] = {}
        self._tidied = 0.0

    # ---- for the coordinator

    def attach(self, asynchronous: bool) -> None:
        """Open a client, if none was given. Raises UsageError."""
        if self._addresses is not None and self._opened is None:
            self._opened = AsyncClient(self._addresses) if asynchronous else Client(self._addresses)
        if self._decisions is None and isinstance(self._opened, Client if asynchronous else AsyncClient):
            raise UsageError(f"{self.name}: its client is of the other kind than the coordinator")

    def detach(self) -> Any:
        """Close the client, if it was opened here."""
        opened = self._opened
        if self._addresses is None or opened is None:
            return None
        self._opened = None
        return opened.close()

    @property
    def client(self) -> Any:
        if self._opened is None:
            raise UsageError(f"{self.name} was not given to a coordinator yet, or that is closed")
        return self._opened

    def _call(self, point: str, method: str, *arguments: Any, seconds: float = ASK_SECONDS, **named: Any) -> Flow[Any]:
        client = self.client
        function = partial(getattr(client, method), *arguments, timeout=seconds, **named)
        return (yield from call(f"{self.name}: {point}", function, blocks=isinstance(client, Client)))

    # ---- a transaction's work

    def begin(self, branch: Branch) -> "AsyncKv | SyncKv":
        """What the user reads and writes with. Raises UsageError."""
        if self._decisions is not None:
            raise UsageError(f"{self.name} takes part by itself: read and write with the transaction's kv")
        keys = SyncKv(self.client) if isinstance(self.client, Client) else AsyncKv(self.client)
        self._work[branch.gtid.text] = _Work(keys.rider)
        return keys

    def ride(self, branch: Branch, rider: Rider) -> Flow[tuple[Riding | None, bool]]:
        """What of it is in the decision's shard, and rides in the decision; and whether there is more, for which this takes part."""
        assert self._decisions is not None
        conditions, writes = rider.conditions(), rider.writes()
        if not conditions and not writes:
            return None, False
        shards = yield from self._shards(rider, self._decisions.key(branch.gtid))
        own = shards.pop(0, None)
        if shards:
            work = self._work[branch.gtid.text] = _Work(rider)
            work.shards = shards
        return None if own is None else Riding(*own), bool(shards)

    def _shards(self, rider: Rider, decision: str = "") -> Flow[dict[int, tuple[list[Condition], list[Write]]]]:
        """By group; 0 stands for the one that has the decision's key."""
        parts: list[Condition | Write] = [*rider.conditions(), *rider.writes()]
        keys = [part.key for part in parts]
        groups: Sequence[int] = yield from self._call("shards", "groups", [*([decision] if decision else []), *keys])
        if decision:
            groups = [0 if group == groups[0] else group for group in groups[1:]]
        found: dict[int, tuple[list[Condition], list[Write]]] = {}
        for group, part in zip(groups, parts, strict=True):
            conditions, writes = found.setdefault(group, ([], []))
            if isinstance(part, Condition):
                conditions.append(part)
            else:
                writes.append(part)
        return found

    def _of(self, branch: Branch) -> Flow[_Work]:
        work = self._work.get(branch.gtid.text)
        if work is None:
            raise UnknownBranch("nothing of it is known in this process")
        if work.shards is None:
            rider = work.rider
            work.shards = (yield from self._shards(rider)) if rider.conditions() or rider.writes() else {}
        return work

    def let_go(self, branch: Branch) -> None:
        self._work.pop(branch.gtid.text, None)

    # ---- the end

    def can_decide(self, branch: Branch) -> Flow[bool]:
        """Whether all of it is in one shard."""
        work = yield from self._of(branch)
        return work.shards is not None and len(work.shards) == 1

    def commit_one_phase(self, branch: Branch) -> Flow[None]:
        work = yield from self._of(branch)
        assert work.shards is not None
        ((group, (conditions, writes)),) = work.shards.items()
        work.asked = work.at_once = True
        try:
            yield from self._prepare(branch, group, conditions, writes, True)
        except VotedNo:
            raise
        except QuorateError as error:
            raise ConnectionBroken(str(error)) from error

    def prepare(self, branch: Branch) -> Flow[Vote]:
        work = yield from self._of(branch)
        assert work.shards is not None
        if not work.shards:
            return Vote.READ_ONLY
        work.asked = True
        found = yield from side_by_side(
            [self._prepare(branch, group, *parts, False) for group, parts in work.shards.items()]
        )
        for result in found:
            if isinstance(result, Failed):
                raise result.error
        branch.token = ",".join(str(group) for group in sorted(work.shards))
        return Vote.YES

    def _prepare(
        self, branch: Branch, group: int, conditions: Sequence[Condition], writes: Sequence[Write], at_once: bool
    ) -> Flow[None]:
        gtid = branch.gtid
        decision = "" if self._decisions is None else self._decisions.key(gtid)
        left = max(gtid.deadline - (yield from now()), _LEAST_SECONDS)
        arguments = (group, self._id(branch), decision, gtid.deadline, conditions, writes)
        try:
            yield from self._call("prepare", "prepare", *arguments, at_once=at_once, seconds=left)
        except (Conflict, Locked, Refused) as error:
            raise VotedNo(str(error)) from error

    def commit(self, branch: Branch) -> Flow[None]:
        kinds = yield from self._finish(branch, True, (yield from self._groups(branch)))
        if any(kind != commands.COMMITTED for kind in kinds):
            raise UnknownBranch(f"{self._id(branch)} is not prepared in every shard")

    def rollback(self, branch: Branch) -> Flow[None]:
        """Also where nothing is prepared: so that nothing will be."""
        work = self._work.get(branch.gtid.text)
        if work is not None and not work.asked:
            return
        kinds = yield from self._finish(branch, False, (yield from self._groups(branch)))
        if any(kind != commands.ABORTED for kind in kinds):
            raise UnknownBranch(f"{self._id(branch)} is not prepared in every shard")

    def _finish(self, branch: Branch, committing: bool, groups: Sequence[int]) -> Flow[list[int]]:
        """What became of it in each."""
        arguments = (self._id(branch), committing, branch.gtid.deadline)
        verb = "commit" if committing else "rollback"
        found = yield from side_by_side([self._call(verb, "finish", group, *arguments) for group in groups])
        return [kind for kind, _ in _values(found)]

    # ---- recovery

    def recover(self) -> Flow[Sequence[Prepared]]:
        groups = yield from self._call("shards", "groups")
        found = yield from side_by_side([self._call("recover", "held", group) for group in groups])
        listed: dict[str, Prepared] = {}
        for helds in _values(found):
            for held in helds:
                self._list(held, listed)
        return list(listed.values())

    def _list(self, held: Held, listed: dict[str, Prepared]) -> None:
        text, _, participant = held.id.rpartition("/")
        gtid = parse(text)
        branch = None if gtid is None or participant != self.name else Branch(gtid, self.name)
        if gtid is not None and self._decisions is not None and self._decisions.key(gtid) != held.decision:
            # another space's, whose own recovery looks after it
            return
        listed.setdefault(held.id, Prepared(held.id, branch))

    def fence(self, branch: Branch) -> Flow[None]:
        """Ending it does that: what came of a branch is remembered, and it cannot be prepared again."""
        yield from ()

    def outcome(self, branch: Branch) -> Flow[Outcome]:
        work = self._work.get(branch.gtid.text)
        groups = yield from self._groups(branch)
        if work is not None and work.at_once:
            # what may still be on its way is to be refused: then there is an answer
            kinds = yield from self._finish(branch, False, groups)
        else:
            found = yield from side_by_side(
                [self._call("outcome", "outcome", group, self._id(branch)) for group in groups]
            )
            kinds = [kind for kind, _ in _values(found)]
        if not branch.token and work is None:
            # which shards it has is not known: those that know nothing have none of it
            kinds = [kind for kind in kinds if kind != commands.UNDECIDED]
        # one that is not committed is told: the transaction is not done everywhere
        for kind in (commands.PREPARED, commands.ABORTED, commands.UNDECIDED):
            if kind in kinds:
                return _OUTCOMES[kind]
        return Outcome.COMMITTED if kinds else Outcome.UNKNOWN

    def tidy(self, before: float, space: str) -> Flow[None]:
        if before < self._tidied + _TIDY_SECONDS:
            return
        groups = yield from self._call("shards", "groups")
        prefix = f"q.{space}."
        _values((yield from side_by_side([self._call("tidy", "tidy", group, prefix, before) for group in groups])))
        self._tidied = before

    # ----

    def _id(self, branch: Branch) -> str:
        return f"{branch.gtid.text}/{self.name}"

    def _groups(self, branch: Branch) -> Flow[Sequence[int]]:
        """Those that have a part of it; all, if that is not known."""
        if branch.token:
            return [int(group) for group in branch.token.split(",")]
        work = self._work.get(branch.gtid.text)
        if work is not None and work.shards is not None:
            return list(work.shards)
        groups: Sequence[int] = yield from self._call("shards", "groups")
        return groups


def _values(found: Sequence[Done[Any] | Failed]) -> list[Any]:
    """Raises the first error."""
    values = []
    for result in found:
        if isinstance(result, Failed):
            raise result.error
        values.append(result.value)
    return values
