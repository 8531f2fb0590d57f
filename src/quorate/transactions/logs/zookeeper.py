"""The decision log in a ZooKeeper ensemble, Apache's or ours: a znode for each decision.

    /quorate/txn/<space>/d/<bucket>/<gtid>    the record; 256 buckets, by the name's CRC-32
    /quorate/txn/<space>/horizon              before which nothing is decided any more
    /quorate/txn/<space>/sweep                who swept last, and when

A decision is one multi: create the record, if the horizon still has the version that was compared with. What a transaction writes to other znodes of the
ensemble rides in it: then its conditions, its writes and the decision are one entry of the ensemble's log.

Creating the record comes first in the multi, for an ensemble tells of the first operation that cannot be done, and of no other: whoever asks again for
what was done already, its answer lost, has to hear of the record, not of a znode that its own first attempt has changed.

Buckets, because the answer that lists a znode's children is one message, and clients take no more than jute.maxbuffer (1 MiB): some 15,000 names.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from quorate.errors import RemoteProtocolError
from quorate.transactions.drivers.kazoo import (
    BAD_VERSION,
    NO_NODE,
    NODE_EXISTS,
    Ensemble,
    EnsembleError,
    Operation,
    Refused,
    Request,
    check,
    check_path,
    children,
    create,
    delete,
    get,
    replace,
    why_not,
)
from quorate.transactions.errors import VotedNo
from quorate.transactions.flow import Flow, call
from quorate.transactions.gtid import Gtid, check_space
from quorate.transactions.log import presumed_abort
from quorate.transactions.records import Record, merged, unpack

ROOT = "/quorate/txn"
REQUEST_MAX = 1_000_000
"""Bytes: a server hangs up on a request of more than jute.maxbuffer, which is 1,048,575 if nobody set it."""
_BUCKETS = 256
_CHUNK = 500
_CHUNK_BYTES = 200_000
_WINDOW = 250
"""Reads under way at once; a server takes a thousand requests of all clients before it lets them wait."""


class Riding:
    """What is done to other znodes with the decision, in this order."""

    __slots__ = ("operations",)

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = list(operations)


class ZooKeeperLog:
    """``client``: a KazooClient (started, with its default handler; its ``default_acl`` is that of the records), or an address
    ``zookeeper://host:port,host:port/chroot``. ``timeout``: seconds, of one request. ``request_max``: bytes of a decision with all that rides in it.

    Raises UsageError.
    """

    def __init__(
        self,
        client: Any,
        space: str = "default",
        *,
        root: str = ROOT,
        timeout: float = 5.0,
        request_max: int = REQUEST_MAX,
    ) -> None:
        self.root = f"{check_path(root)}/{check_space(space)}"
        self.ensemble = Ensemble(client, timeout)
        self.request_max = request_max
        self.unreadable: list[str] = []
        """Of the last list: znodes among the records that hold none, and why."""
        self._horizon: tuple[int, float] | None = None
        """Its version and its value, as last seen."""

    def _path(self, gtid: Gtid) -> str:
        return f"{self.root}/d/{zlib.crc32(gtid.text.encode()) % _BUCKETS:02x}/{gtid.text}"

    def _call(self, point: str, function: Callable[..., Any], *arguments: Any) -> Flow[Any]:
        return (yield from call(f"log: {point}", function, *arguments, blocks=True))

    # ---- the interface

    def decide(self, record: Record, riding: Riding | None = None) -> Flow[Record]:
        path = self._path(record.gtid)
        operations = [] if riding is None else riding.operations
        while True:
            # If this is old, so is its version: the multi's check finds out.
            version, horizon = self._horizon or (yield from self._see_horizon())
            if record.gtid.deadline < horizon:
                found = yield from self.read(record.gtid)
                if found is None:
                    raise EnsembleError("ZooKeeper answers with what is older than what it said before")
                return found
            writes = [create(path, record.pack()), check(self.root + "/horizon", version), *operations]
            self._check_size(writes)
            # If the answer is lost, this may have been done, or be done yet when there is a connection again. Asked once more, the ensemble says that
            # there is a record, and what it says stands; once the horizon has been raised, its check keeps what is late from being done.
            refused = yield from self._call("commit", self.ensemble.multi, writes)
            if refused is None:
                return record
            index, error = refused
            if index == 0 and error.code == NODE_EXISTS:
                stands = yield from self.read(record.gtid)
                if stands is not None:
                    return stands
                # forgotten meanwhile, or an old answer: the next round tells
            elif index == 1 and error.code == BAD_VERSION:
                yield from self._see_horizon()
            elif index < 2:
                raise EnsembleError(f"the decision cannot be written: {why_not(writes[index], error)}")
            else:
                raise VotedNo(why_not(writes[index], error))

    def _check_size(self, operations: Sequence[Operation]) -> None:
        size = sum(operation.size() for operation in operations)
        if size > self.request_max:
            raise VotedNo(
                f"the decision and what is written with it are {size} bytes, and a request to ZooKeeper has {self.request_max} at most"
            )

    def read(self, gtid: Gtid) -> Flow[Record | None]:
        """None may be old news in spite of the sync, for a leader that was deposed without knowing it answers one. That is harmless: nobody concludes
        anything from it but that it is worth trying to decide, which goes by compare-and-set.

        That a record is forgotten is concluded, so it has to be true. The horizon is read first, and the record in the same session, which goes back in no
        member's history: if the horizon was beyond the deadline already, nothing can have been decided between the two.
        """
        path = self._path(gtid)
        horizon, found = yield from self._synced("read", get(self.root + "/horizon"), get(path))
        if not isinstance(found, Refused):
            return unpack(found[0])
        if found.code != NO_NODE:
            raise EnsembleError(f"the decision cannot be read: {why_not(check(path), found)}")
        if isinstance(horizon, Refused):
            # there is no log yet
            yield from self._see_horizon()
            return None
        at = float(horizon[0])
        return presumed_abort(gtid, at, "recovery") if gtid.deadline < at else None

    def records(self) -> Flow[Sequence[Record]]:
        """Synced, for recovery lets participants forget what is older than the oldest decision that it sees unfinished. What is decided while it is
        listed may be missing."""
        buckets = [f"{self.root}/d/{number:02x}" for number in range(_BUCKETS)]
        listed = yield from self._synced("list", *[children(bucket) for bucket in buckets])
        paths: list[str] = []
        for bucket, names in zip(buckets, listed, strict=True):
            if not isinstance(names, Refused):
                paths += [f"{bucket}/{name}" for name in names]
            elif names.code != NO_NODE:
                raise EnsembleError(f"the decisions cannot be listed: {why_not(check(bucket), names)}")
        found: list[Record] = []
        unreadable: list[str] = []
        for at in range(0, len(paths), _WINDOW):
            window = paths[at : at + _WINDOW]
            items = yield from self._synced("list", *[get(path) for path in window])
            for path, item in zip(window, items, strict=True):
                if not isinstance(item, Refused):
                    try:
                        found.append(unpack(item[0]))
                    except RemoteProtocolError as error:
                        # nobody's recovery waits for somebody to mend another's record
                        unreadable.append(f"{path}: {error}")
                elif item.code != NO_NODE:
                    raise EnsembleError(f"the decision cannot be read: {why_not(check(path), item)}")
        self.unreadable = unreadable
        return found

    def amend(self, records: Sequence[Record]) -> Flow[None]:
        """Records that were written once, as most, are written over if they still are as they were; what somebody else has changed since is read before, so that
        nothing is lost of it."""
        by_path = {self._path(record.gtid): record for record in records}
        changed = yield from self._all_there(
            "amend", [replace(path, record.pack(), 0) for path, record in by_path.items()]
        )
        for path in changed:
            yield from self._amend_one(path, by_path[path])

    def _amend_one(self, path: str, record: Record) -> Flow[None]:
        while True:
            (found,) = yield from self._synced("read before it is amended", get(path))
            if isinstance(found, Refused):
                if found.code == NO_NODE:
                    return
                raise EnsembleError(f"the decision cannot be read: {why_not(check(path), found)}")
            value, stat = found
            change = [replace(path, merged(unpack(value), record).pack(), stat.version)]
            refused = yield from self._call("amend one", self.ensemble.multi, change)
            if refused is None or refused[1].code == NO_NODE:
                return
            if refused[1].code != BAD_VERSION:
                raise EnsembleError(f"the decision log cannot be changed: {why_not(change[0], refused[1])}")

    def forget(self, gtids: Sequence[Gtid], horizon: float) -> Flow[None]:
        path = self.root + "/horizon"
        while True:
            version, stands = yield from self._see_horizon()
            if stands >= horizon:
                break
            change = [replace(path, repr(horizon).encode(), version)]
            refused = yield from self._call("raise the horizon", self.ensemble.multi, change)
            if refused is not None and refused[1].code != BAD_VERSION:
                raise EnsembleError(f"the horizon cannot be raised: {why_not(change[0], refused[1])}")
        yield from self._all_there("forget", [delete(self._path(gtid)) for gtid in gtids])

    def claim_sweep(self, by: str, now: float, every: float) -> Flow[bool]:
        """If the claim's answer is lost, nobody sweeps this time."""
        path = self.root + "/sweep"
        (found,) = yield from self._synced("last sweep", get(path))
        if isinstance(found, Refused):
            yield from self._see_horizon()
            (found,) = yield from self._synced("last sweep", get(path))
        if isinstance(found, Refused):
            raise EnsembleError(f"the last sweep cannot be read: {why_not(check(path), found)}")
        value, stat = found
        last = json.loads(value)[0]
        if last <= now < last + every:
            return False
        claim = [replace(path, json.dumps([now, by]).encode(), stat.version)]
        refused = yield from self._call("claim the sweep", self.ensemble.multi, claim)
        return refused is None

    def close(self) -> None:
        """Ends the connection, if it was made from an address."""
        self.ensemble.close()

    # ---- parts

    def _synced(self, point: str, *requests: Request) -> Flow[list[Any]]:
        answers: list[Any] = yield from self._call(point, partial(self.ensemble.ask, *requests, synced=True))
        return answers

    def _see_horizon(self) -> Flow[tuple[int, float]]:
        path = self.root + "/horizon"
        (found,) = yield from self._synced("horizon", get(path))
        if isinstance(found, Refused) and found.code == NO_NODE:
            yield from self._make()
            (found,) = yield from self._synced("horizon", get(path))
        if isinstance(found, Refused):
            raise EnsembleError(f"there is no horizon, so that nothing can be decided: {why_not(check(path), found)}")
        value, stat = found
        self._horizon = (stat.version, float(value))
        return self._horizon

    def _make(self) -> Flow[None]:
        """Once for all; in one piece, so that a log that has lost its horizon is not taken for a new one."""
        parts = self.root.split("/")
        for end in range(2, len(parts)):
            above = create("/".join(parts[:end]))
            refused = yield from self._call("make", self.ensemble.multi, [above])
            if refused is not None and refused[1].code != NODE_EXISTS:
                told = why_not(above, refused[1])
                if end == 2 and self.ensemble.client.chroot:
                    told = (
                        f"the ensemble has no {self.ensemble.client.chroot}, the path in the address; create it first"
                    )
                raise EnsembleError(f"no decision log can be made: {told}")
        whole = [
            create(self.root),
            create(self.root + "/horizon", b"0.0"),
            create(self.root + "/sweep", json.dumps([0.0, ""]).encode()),
            create(self.root + "/d"),
            *[create(f"{self.root}/d/{number:02x}") for number in range(_BUCKETS)],
        ]
        refused = yield from self._call("make", self.ensemble.multi, whole)
        if refused is not None and refused[1].code != NODE_EXISTS:
            raise EnsembleError(f"no decision log can be made: {why_not(whole[refused[0]], refused[1])}")

    def _all_there(self, point: str, operations: Sequence[Operation]) -> Flow[list[str]]:
        """Each of those whose znode is there, many in a multi; one by one where one is missing. The paths of those that have another version."""
        left = list(operations)
        changed: list[str] = []
        while left:
            size = count = 0
            while count < min(len(left), _CHUNK) and (not count or size + left[count].size() <= _CHUNK_BYTES):
                size += left[count].size()
                count += 1
            chunk, left = left[:count], left[count:]
            refused = yield from self._call(point, self.ensemble.multi, chunk)
            if refused is None:
                continue
            for one, why in zip(chunk, (yield from self._call(point, self.ensemble.one_by_one, chunk)), strict=True):
                if why is not None and why.code == BAD_VERSION:
                    changed.append(one.path)
                elif why is not None and why.code != NO_NODE:
                    raise EnsembleError(f"the decision log cannot be changed: {why_not(one, why)}")
        return changed
