"""What members of a Zab ensemble say to one another, and the entries they replicate.

Two channels, as in Apache ZooKeeper: the election port carries :class:`Notification`, the quorum port the packets of
discovery, synchronisation and broadcast. Field names are those of the Zab papers where they have one; ``wire`` turns
them into Apache's bytes.

A zxid is ``epoch << 32 | counter``.
"""

from collections.abc import Hashable


def epoch_of(zxid: int) -> int:
    return zxid >> 32


def first_zxid(epoch: int) -> int:
    """The zxid of an epoch before its first proposal; what NEWLEADER carries."""
    return epoch << 32


class Entry:
    """One replicated entry. ``payload`` is opaque to Zab; ``decoded`` is whatever the service keeps with it."""

    __slots__ = ("decoded", "payload", "zxid")

    def __init__(self, zxid: int, payload: bytes, decoded: object = None) -> None:
        self.zxid = zxid
        self.payload = payload
        self.decoded = decoded

    def __repr__(self) -> str:
        return f"Entry({self.zxid:#x}, {self.payload!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and other.zxid == self.zxid and other.payload == self.payload

    def __hash__(self) -> int:
        return hash((self.zxid, self.payload))


class Message:
    """Base of all messages: equality, hash and text by fields (used by explorers and tests, not on hot paths)."""

    __slots__: tuple[str, ...] = ()

    def fields(self) -> tuple[Hashable, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and type(other) is type(self) and other.fields() == self.fields()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.fields()))

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{name}={value:#x}" if name.endswith("zxid") and isinstance(value, int) else f"{name}={value!r}"
            for name, value in zip(self.__slots__, self.fields(), strict=True)
        )
        return f"{type(self).__name__}({inner})"
