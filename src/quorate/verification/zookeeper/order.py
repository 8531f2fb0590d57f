"""In which order things happened: what holds between operations whatever is in the tree.

"ZooKeeper: Wait-free coordination for Internet-scale systems" (2010), section 2.3: writes are linearizable, and all requests of a
client are executed in the order in which it sent them. The zxid of a reply tells both orders.
"""

from collections.abc import Iterator
from typing import Final

from quorate.verification.history import NEVER, History, Operation

WRITES: Final = frozenset(("create", "delete", "set", "multi", "close"))
REQUESTS: Final = WRITES | {"get", "exists", "children", "sync"}

_EPOCH_BITS: Final = 32


def zxid_of(operation: Operation) -> int:
    """The zxid of the reply; -1 if there is none or the client's library does not tell it."""
    result = operation.result
    if operation.outcome == "unknown" or not isinstance(result, dict):
        return -1
    zxid = result.get("zxid", -1)
    return zxid if isinstance(zxid, int) else -1


def by_end(operations: list[Operation]) -> list[Operation]:
    return sorted((op for op in operations if op.finished != NEVER), key=lambda op: op.finished)


def check(history: History) -> list[str]:
    """What is wrong, a sentence each."""
    requests = [op for op in history.operations if op.name in REQUESTS]
    return [
        *_writes_in_real_time(requests),
        *_one_write_each(requests),
        *_syncs(requests),
        *_each_client(history),
    ]


def _writes_in_real_time(requests: list[Operation]) -> Iterator[str]:
    """A write that was asked for after another one had been acknowledged comes after it."""
    done = by_end([op for op in requests if op.name in WRITES and zxid_of(op) >= 0])
    latest: Operation | None = None
    place = 0
    for op in sorted(done, key=lambda op: op.began):
        while place < len(done) and done[place].finished < op.began:
            if latest is None or zxid_of(done[place]) > zxid_of(latest):
                latest = done[place]
            place += 1
        if latest is not None and zxid_of(op) <= zxid_of(latest):
            yield (
                f"real time: {told(op)} was asked for after {told(latest)} had been acknowledged, "
                f"but does not come after it"
            )


def _one_write_each(requests: list[Operation]) -> Iterator[str]:
    """No two writes are the same transaction."""
    seen: dict[int, Operation] = {}
    for op in requests:
        if op.name in WRITES and op.outcome == "ok" and zxid_of(op) >= 0:
            other = seen.setdefault(zxid_of(op), op)
            if other is not op:
                yield f"zxids: {told(other)} and {told(op)} have the same"


def _syncs(requests: list[Operation]) -> Iterator[str]:
    """A sync shows what its leader had committed. It asks no quorum, so that a leader that has been replaced and does not
    know it yet may still answer: what later epochs wrote is not compared."""
    writes = by_end([op for op in requests if op.name in WRITES and op.outcome == "ok" and zxid_of(op) >= 0])
    latest: dict[int, Operation] = {}
    place = 0
    syncs = [op for op in requests if op.name == "sync" and op.outcome == "ok" and zxid_of(op) >= 0]
    for op in sorted(syncs, key=lambda op: op.began):
        while place < len(writes) and writes[place].finished < op.began:
            write = writes[place]
            epoch = zxid_of(write) >> _EPOCH_BITS
            if epoch not in latest or zxid_of(write) > zxid_of(latest[epoch]):
                latest[epoch] = write
            place += 1
        known = latest.get(zxid_of(op) >> _EPOCH_BITS)
        if known is not None and zxid_of(op) < zxid_of(known):
            yield f"sync: {told(op)} does not show {told(known)}, which had been acknowledged before it was asked for"


def _each_client(history: History) -> Iterator[str]:
    """Replies come in the order of the requests, and what a client sees never goes back, whichever servers it asks."""
    sessions: dict[str, list[Operation]] = {}
    for op in history.operations:
        sessions.setdefault(op.process, []).append(op)
    for operations in sessions.values():
        yield from _one_client(operations)


def _one_client(operations: list[Operation]) -> Iterator[str]:
    seen: Operation | None = None
    asked: Operation | None = None
    for op in by_end(operations):
        if op.name not in REQUESTS or op.outcome == "unknown":
            continue
        if asked is not None and op.began < asked.began:
            yield f"FIFO: the reply to {told(op)} comes after that to {told(asked)}, which was asked for later"
        asked = op
        if zxid_of(op) < 0:
            continue
        if seen is not None and zxid_of(op) < zxid_of(seen):
            yield f"going back: {told(op)} shows an older state than {told(seen)} before it"
        seen = op


def told(op: Operation) -> str:
    key = "" if op.key is None else f" {op.key}"
    return f"{op.process} {op.name}{key} ({zxid_of(op):#x})"
