"""What a loss of power, or a failed sync, leaves of the changes to one file that were not synced.

The model is that of a journalling file system such as ext4 with ``data=ordered``, over a drive that writes sectors of 512
bytes whole or not at all:

- Data wait in the system's cache and go to the drive when it pleases, sector by sector or page by page, in any order. What
  is written of a sector is its content at one moment: a later write to it is never there without an earlier one.
- A write may have been caught in the midst of being copied into the cache: the last of what is there may end at any byte.
- A file's size is part of the journal: it may have grown less far than the data, which are not seen then, or further: what
  is missing reads as zeros (never as somebody else's old blocks, which ``data=ordered`` rules out).
- The journal keeps order: of a truncation that is not there nothing that was written after it is there either.

Zookeeper's log relies on just this (see ``zookeeper.txnlog``: "What a crash explains").
"""

from typing import Final

from quorate.simulation.scheduler import Stream

WRITE: Final = 0
EXTEND: Final = 1
RESIZE: Final = 2

Change = tuple[int, int, bytes]
"""(WRITE, offset, data), (EXTEND, size, b"") for a file that is at least that long then, or (RESIZE, size, b"")."""

SECTOR: Final = 512
PAGE: Final = 4096


def survivors(changes: list[Change], size: int, stream: Stream) -> list[Change]:
    """Which of ``changes``, made in this order to a file of ``size`` bytes, are there; to be made in the order given."""
    how = stream.between(0, 7)
    if how == 0:
        return []
    if how == 1:
        return changes
    if how <= 4:
        return _beginning(changes, size, stream)
    return _sectors(changes, size, stream)


def _beginning(changes: list[Change], size: int, stream: Stream) -> list[Change]:
    """All up to some byte."""
    count = stream.between(0, len(changes) - 1)
    kept = changes[:count]
    kind, offset, data = changes[count]
    if kind == WRITE:
        kept.append((WRITE, offset, data[: stream.between(0, len(data))]))
        if stream.chance(0.5):
            kept.append((EXTEND, offset + len(data), b""))
    return kept


def _sectors(changes: list[Change], size: int, stream: Stream) -> list[Change]:
    """Any sectors or pages, each as it was at some moment."""
    unit = stream.choice((SECTOR, SECTOR, PAGE))
    probability = stream.choice((0.1, 0.5, 0.9))
    last = len(changes) - 1
    moments: dict[int, int] = {}
    """Sector: the last change that it shows, -1 for none."""
    result: list[Change] = []
    kept: list[Change] = []
    """What survives since the last truncation."""
    base = end = size
    for index, (kind, offset, data) in enumerate(changes):
        if kind == RESIZE:
            if not stream.chance(0.5):
                break
            result += kept
            kept = []
            result.append((RESIZE, offset, b""))
            base = end = offset
        elif kind == EXTEND:
            end = max(end, offset)
        else:
            stop = offset + len(data)
            end = max(end, stop)
            at = offset
            while at < stop:
                sector = at // unit
                after = min((sector + 1) * unit, stop)
                moment = moments.get(sector)
                if moment is None:
                    moment = -1
                    if stream.chance(probability):
                        moment = last if stream.chance(0.75) else stream.between(index, last)
                    moments[sector] = moment
                if index <= moment:
                    kept.append((WRITE, at, data[at - offset : after - offset]))
                at = after
    if kept and stream.chance(0.25):
        _tear(kept, stream)
    result += kept
    if end > base and stream.chance(0.25):
        end = stream.between(base, end)
        result.append((RESIZE, end, b""))
    elif end > base and stream.chance(0.9):
        result.append((EXTEND, end, b""))
    return result


def _tear(kept: list[Change], stream: Stream) -> None:
    """Cut the data that reach furthest at any byte."""
    furthest = len(kept) - 1
    for index in range(len(kept) - 2, -1, -1):
        if kept[index][1] + len(kept[index][2]) > kept[furthest][1] + len(kept[furthest][2]):
            furthest = index
    kind, offset, data = kept[furthest]
    kept[furthest] = (kind, offset, data[: stream.between(0, len(data))])
