"""What happened in a run: a digest of everything, and, if asked for, the events that a drawing or a reader needs.

The digest is what "the same run" means: two runs with equal digests delivered the same bytes at the same virtual times to
the same machines, and the same faults struck.
"""

from typing import Final, NamedTuple
from zlib import crc32

# kinds of events, and what `text` says
START: Final = "start"
"""A process starts on the machine ``where``."""
CRASH: Final = "crash"
"""The process is gone; the text says whether it was killed or failed."""
PAUSE: Final = "pause"
RESUME: Final = "resume"
SEND: Final = "send"
"""Bytes leave ``where`` for ``other``; ``link`` is this message's number, the text describes what is in them."""
DELIVER: Final = "deliver"
"""The message ``link`` arrives at ``where`` from ``other``."""
CONNECT: Final = "connect"
CLOSE: Final = "close"
ROLE: Final = "role"
"""A member's role: LOOKING, FOLLOWING, LEADING or OBSERVING, its epoch and leader."""
COMMIT: Final = "commit"
"""``where`` applies a committed entry; the text is its zxid and operation."""
WRITE: Final = "write"
"""The disk has made something durable."""
FAULT: Final = "fault"
"""A fault strikes ``where`` (and ``other``, for a cut between two); also the beginning and end of partitions."""
CLIENT: Final = "client"
"""A client invokes or ends an operation."""
PHASE: Final = "phase"
"""The run goes on to its next phase."""
FAILURE: Final = "failure"
"""The violation that ended the run."""


class Event(NamedTuple):
    time: int
    """Virtual nanoseconds."""
    kind: str
    where: str
    """The machine's name; "" for the run as a whole."""
    other: str
    text: str
    link: int
    """Pairs a SEND with its DELIVER; 0 for other kinds."""


class Trace:
    __slots__ = ("digest", "events")

    def __init__(self, keep: bool) -> None:
        self.digest = 0
        self.events: list[Event] | None = [] if keep else None

    def note(self, time: int, kind: str, where: str, other: str = "", text: str = "") -> None:
        self.digest = crc32(f"{time} {kind} {where} {other} {text}".encode(), self.digest)
        if self.events is not None:
            self.events.append(Event(time, kind, where, other, text, 0))

    def show(self, time: int, kind: str, where: str, other: str, text: str, link: int) -> None:
        """Something that only a drawing needs: the digest knows it from what is delivered."""
        if self.events is not None:
            self.events.append(Event(time, kind, where, other, text, link))

    def fold(self, data: bytes, time: int) -> None:
        """Take delivered bytes into the digest."""
        self.digest = crc32(data, self.digest ^ (time & 0xFFFFFFFF))
