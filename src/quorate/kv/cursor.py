"""Reads bytes from outside, piece by piece, and nothing beyond their end or the limits."""

from struct import Struct

from quorate.errors import RemoteProtocolError
from quorate.kv.commands import KEY_MAX, U32, VALUE_MAX


class Cursor:
    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def take(self, size: int, what: str) -> bytes:
        at = self.at
        if size > self.end - at:
            raise RemoteProtocolError(f"{what} of {size} bytes where {self.end - at} are left")
        self.at = at + size
        return self.data[at : at + size]

    def number(self, struct: Struct, what: str) -> int:
        return int(struct.unpack(self.take(struct.size, what))[0])

    def key(self, size: int, least: int = 1) -> bytes:
        if not least <= size <= KEY_MAX:
            raise RemoteProtocolError(f"a key of {size} bytes, expected {least} to {KEY_MAX}")
        return self.take(size, "a key")

    def value(self) -> bytes:
        size = self.number(U32, "a length")
        if size > VALUE_MAX:
            raise RemoteProtocolError(f"a value of {size} bytes, at most {VALUE_MAX} can be")
        return self.take(size, "a value")
