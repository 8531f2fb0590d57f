"""Jute, the big-endian record encoding of ZooKeeper's wire and disk formats (reference: zookeeper.jute).

``int`` is 4 bytes, ``long`` 8, ``boolean`` 1; ``ustring`` and ``buffer`` are an int32 length and bytes, -1 for null;
``vector<T>`` is an int32 count and items, -1 for null. Records are concatenated fields without tags.

Decoding is bounded: every length is checked against the bytes that are there before anything is taken. Hot paths use
the precompiled structs directly; everything else goes through :class:`Reader`.
"""

from struct import Struct

from quorate.errors import RemoteProtocolError

INT = Struct(">i")
LONG = Struct(">q")
BOOL = Struct(">?")
INT_INT = Struct(">ii")

NULL = INT.pack(-1)


class Reader:
    """Reads Jute fields from ``data`` starting at ``offset``.

    Raises RemoteProtocolError, naming the offset, when the data ends early or a length is impossible. Callers that
    read files turn it into a CorruptionError.
    """

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset
        self.end = len(data)

    def _take(self, size: int) -> int:
        offset = self.offset
        if offset + size > self.end:
            raise RemoteProtocolError(f"record ends at byte {self.end}, but a field at byte {offset} needs {size}")
        self.offset = offset + size
        return offset

    def int32(self) -> int:
        value: int = INT.unpack_from(self.data, self._take(4))[0]
        return value

    def int64(self) -> int:
        value: int = LONG.unpack_from(self.data, self._take(8))[0]
        return value

    def boolean(self) -> bool:
        return self.data[self._take(1)] != 0

    def buffer(self) -> bytes | None:
        """A length-prefixed byte string, None for null."""
        size = self.int32()
        if size < 0:
            if size != -1:
                raise RemoteProtocolError(f"buffer at byte {self.offset - 4} has length {size}")
            return None
        start = self._take(size)
        return self.data[start : start + size]

    def string(self) -> str | None:
        """A length-prefixed UTF-8 string, None for null."""
        raw = self.buffer()
        if raw is None:
            return None
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError(f"string ending at byte {self.offset} is not UTF-8") from None

    def text(self) -> str:
        """A string that may not be null; null reads as empty, as Java servers treat it."""
        return self.string() or ""

    def count(self, item_size: int) -> int:
        """A vector's count, 0 for null; each item takes ``item_size`` bytes at least, which bounds it."""
        count = self.int32()
        if count == -1:
            return 0
        if count < 0 or count * item_size > self.end - self.offset:
            raise RemoteProtocolError(f"vector at byte {self.offset - 4} claims {count} items")
        return count

    def remaining(self) -> int:
        return self.end - self.offset


def pack_buffer(data: bytes | None) -> bytes:
    return NULL if data is None else INT.pack(len(data)) + data


def pack_string(text: str | None) -> bytes:
    if text is None:
        return NULL
    raw = text.encode()
    return INT.pack(len(raw)) + raw
