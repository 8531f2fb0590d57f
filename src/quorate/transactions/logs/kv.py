"""The decision log in our own store, replicated by Multi-Paxos: a key for each decision. How they lie there is told in ``kv.decisions``.

A decision is one commit under conditions: that there is no record, and that the horizon is the one that was compared with. What a transaction writes to the
decision's shard itself may ride in the same commit: then its vote, its writes and the decision are one entry of one log.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.kv import decisions
from quorate.kv.client.aio import Client as AsyncClient
from quorate.kv.client.errors import Conflict, Locked
from quorate.kv.client.records import Item, delete, modified_at, put, version_is
from quorate.kv.client.sync import Client
from quorate.kv.commands import Condition, Write
from quorate.transactions.errors import VotedNo
from quorate.transactions.flow import Flow, call, now
from quorate.transactions.gtid import Gtid, check_space
from quorate.transactions.log import presumed_abort
from quorate.transactions.records import Record, merged, unpack

_CHUNK = 500
_LEAST_SECONDS = 0.05


class Riding:
    """What is written to the store with the decision."""

    __slots__ = ("conditions", "writes")

    def __init__(self, conditions: Sequence[Condition], writes: Sequence[Write]) -> None:
        self.conditions = list(conditions)
        self.writes = list(writes)


class KvLog:
    """``client``: of either kind, as fits the coordinator."""

    def __init__(self, client: Client | AsyncClient, space: str = "default") -> None:
        self.client = client
        self.prefix = decisions.prefix_of(check_space(space))
        self._blocks = isinstance(client, Client)
        self._horizon: tuple[int, float] | None = None
        """Its revision and its value, as last seen."""
        self.unreadable: list[str] = []
        """Keys in which no records are, as last listed, and why."""

    def key(self, gtid: Gtid) -> str:
        """Of its decision."""
        return decisions.key_of(self.prefix, gtid.text)

    def _call(self, point: str, function: Any, *arguments: Any, **named: Any) -> Flow[Any]:
        return (yield from call(f"log: {point}", partial(function, *arguments, **named), blocks=self._blocks))

    def _see_horizon(self) -> Flow[tuple[int, float]]:
        item: Item | None = yield from self._call("horizon", self.client.get, self.prefix + "horizon")
        self._horizon = (0, 0.0) if item is None else (item.modified, float(item.value))
        return self._horizon

    def decide(self, record: Record, riding: Riding | None = None) -> Flow[Record]:
        key = self.key(record.gtid)
        while True:
            revision, horizon = self._horizon or (yield from self._see_horizon())
            if record.gtid.deadline < horizon:
                found = yield from self.read(record.gtid)
                return found or presumed_abort(record.gtid, record.at, record.by)
            conditions = decisions.undecided(decisions.Place(self.prefix, record.gtid.text), revision)
            writes = [put(key, record.pack())]
            named: dict[str, Any] = {}
            if riding is not None:
                conditions += riding.conditions
                writes += riding.writes
                left = record.gtid.deadline - (yield from now())
                named = {"timeout": max(left, _LEAST_SECONDS), "transaction": record.gtid.text}
            try:
                yield from self._call("commit", self.client.commit, conditions, writes, **named)
                return record
            except Locked as error:
                raise VotedNo(str(error)) from error
            except Conflict as conflict:
                keys = {found.key.decode("utf-8", "surrogateescape") for found in conflict.conflicts}
                if key in keys:
                    stands = yield from self.read(record.gtid)
                    if stands is not None:
                        return stands
                elif self.prefix + "horizon" in keys:
                    yield from self._see_horizon()
                else:
                    raise VotedNo(str(conflict)) from conflict

    def read(self, gtid: Gtid) -> Flow[Record | None]:
        item: Item | None = yield from self._call("read", self.client.get, self.key(gtid))
        if item is None:
            _, horizon = yield from self._see_horizon()
            if gtid.deadline >= horizon:
                return None
            # it may have been decided since, and the horizon raised past it
            item = yield from self._call("read", self.client.get, self.key(gtid))
        return presumed_abort(gtid, horizon, "recovery") if item is None else unpack(item.value)

    def records(self) -> Flow[Sequence[Record]]:
        items: Sequence[Item] = yield from self._call("list", self.client.list, self.prefix + "d/")
        found, unreadable = [], []
        for item in items:
            try:
                found.append(unpack(item.value))
            except RemoteProtocolError as error:
                # nobody's recovery waits for somebody to mend another's record
                unreadable.append(f"{item.key!s}: {error}")
        self.unreadable = unreadable
        return found

    def amend(self, records: Sequence[Record]) -> Flow[None]:
        """Records that were written once, as most, are written over if they still are as they were; what somebody else has changed since is read before, so that
        nothing is lost of it, and what is forgotten stays so."""
        for at in range(0, len(records), _CHUNK):
            chunk = {self.key(record.gtid): record for record in records[at : at + _CHUNK]}
            while chunk:
                try:
                    conditions = [version_is(key, 1) for key in chunk]
                    writes = [put(key, record.pack()) for key, record in chunk.items()]
                    yield from self._call("amend", self.client.commit, conditions, writes)
                    break
                except Conflict as conflict:
                    for changed in conflict.conflicts:
                        record = chunk.pop(changed.key.decode("utf-8", "surrogateescape"), None)
                        if record is not None:
                            yield from self._amend_one(record)

    def _amend_one(self, record: Record) -> Flow[None]:
        key = self.key(record.gtid)
        while True:
            item: Item | None = yield from self._call("read before it is amended", self.client.get, key)
            if item is None:
                return
            change = merged(unpack(item.value), record)
            try:
                yield from self._call(
                    "amend one", self.client.commit, [modified_at(key, item.modified)], [put(key, change.pack())]
                )
            except Conflict:
                continue
            return

    def forget(self, gtids: Sequence[Gtid], horizon: float) -> Flow[None]:
        key = self.prefix + "horizon"
        while True:
            revision, stands = yield from self._see_horizon()
            if stands >= horizon:
                break
            try:
                yield from self._call(
                    "raise the horizon",
                    self.client.commit,
                    [modified_at(key, revision)],
                    [put(key, repr(horizon).encode())],
                )
            except Conflict:
                continue
        for at in range(0, len(gtids), _CHUNK):
            writes = [delete(self.key(gtid)) for gtid in gtids[at : at + _CHUNK]]
            yield from self._call("forget", self.client.commit, [], writes)

    def claim_sweep(self, by: str, now: float, every: float) -> Flow[bool]:
        key = self.prefix + "sweep"
        item: Item | None = yield from self._call("last sweep", self.client.get, key)
        if item is not None and json.loads(item.value)[0] <= now < json.loads(item.value)[0] + every:
            return False
        revision = 0 if item is None else item.modified
        try:
            yield from self._call(
                "claim the sweep",
                self.client.commit,
                [modified_at(key, revision)],
                [put(key, json.dumps([now, by]).encode())],
            )
        except Conflict:
            return False
        return True

    def close(self) -> Any:
        """The client is the caller's."""
        return
