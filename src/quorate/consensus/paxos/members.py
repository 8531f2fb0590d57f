"""Who the members of a group are, as its log says it: the payload of an entry of Kind.MEMBERS.

Members change one at a time, and a new configuration counts from where it stands in the log, chosen or not: any quorum of the old one
meets any of the new one, so that nothing can be chosen without the knowledge of both (Ongaro, "Consensus", 2014, 4.1 and 4.2). Two
conditions make that true: the configuration before is chosen, and so is something in the leader's own ballot.
"""

import struct
from collections.abc import Iterable
from struct import Struct

from quorate.errors import RemoteProtocolError, UsageError

_COUNT = Struct(">H")
_MEMBER = Struct(">HH")
MEMBERS_MAX = 31
ADDRESSES_MAX = 1024


class Member:
    """``addresses``: "host:port" by what is there (``peer``, ``client``, …); nothing of it matters to the protocol."""

    __slots__ = ("addresses", "sid")

    def __init__(self, sid: int, addresses: dict[str, str]) -> None:
        self.sid = sid
        self.addresses = addresses

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Member) and other.sid == self.sid and other.addresses == self.addresses

    def __hash__(self) -> int:
        return hash(self.sid)

    def __repr__(self) -> str:
        return f"Member({self.sid}, {self.addresses})"


Members = tuple[Member, ...]


def pack(members: Iterable[Member]) -> bytes:
    """In the order of their sids. Raises UsageError for more than MEMBERS_MAX, or addresses of more than ADDRESSES_MAX bytes."""
    ordered = sorted(members, key=lambda member: member.sid)
    if len(ordered) > MEMBERS_MAX:
        raise UsageError(f"{len(ordered)} members: at most {MEMBERS_MAX} can be")
    pieces = [_COUNT.pack(len(ordered))]
    for member in ordered:
        text = "\n".join(f"{name}={address}" for name, address in sorted(member.addresses.items())).encode()
        if len(text) > ADDRESSES_MAX:
            raise UsageError(
                f"member {member.sid}: its addresses take {len(text)} bytes, at most {ADDRESSES_MAX} can be"
            )
        pieces += (_MEMBER.pack(member.sid, len(text)), text)
    return b"".join(pieces)


def unpack(payload: bytes) -> Members:
    """Raises RemoteProtocolError."""
    found: list[Member] = []
    try:
        (count,) = _COUNT.unpack_from(payload)
        at = _COUNT.size
        for _ in range(count):
            sid, length = _MEMBER.unpack_from(payload, at)
            at += _MEMBER.size
            text = payload[at : at + length].decode()
            at += length
            addresses = dict(line.split("=", 1) for line in text.split("\n")) if text else {}
            found.append(Member(sid, addresses))
    except (ValueError, OverflowError) as error:
        raise RemoteProtocolError(f"a list of members that cannot be read: {error}") from None
    except struct.error as error:
        raise RemoteProtocolError(f"a list of members that ends early: {error}") from None
    sids = [member.sid for member in found]
    if at != len(payload) or sids != sorted(set(sids)) or len(sids) > MEMBERS_MAX or 0 in sids:
        raise RemoteProtocolError(f"a list of {count} members, numbered {sids}, in {len(payload)} bytes")
    return tuple(found)
