"""Access control lists: who may do what to a znode.

An ACL is an interned tuple of entries, so that equal lists are one object and the common open list is an identity test.
"""

from typing import NamedTuple

from quorate.binary import INT, Reader, pack_string
from quorate.zookeeper.constants import ALL, READ


class Id(NamedTuple):
    """An identity: what an authentication scheme says of a client (``digest``, ``alice:hash``)."""

    scheme: str
    id: str


class AclEntry(NamedTuple):
    """``perms`` is a sum of the permission bits in ``constants``."""

    perms: int
    scheme: str
    id: str


Acl = tuple[AclEntry, ...]

_interned: dict[Acl, Acl] = {}


def intern_acl(acl: Acl) -> Acl:
    return _interned.setdefault(acl, acl)


OPEN_ACL: Acl = intern_acl((AclEntry(ALL, "world", "anyone"),))
READ_ACL: Acl = intern_acl((AclEntry(READ, "world", "anyone"),))

PACKED_OPEN_ACL = INT.pack(1) + INT.pack(ALL) + pack_string("world") + pack_string("anyone")


def pack_acl(acl: Acl) -> bytes:
    """``vector<ACL>``."""
    if acl is OPEN_ACL:
        return PACKED_OPEN_ACL
    parts = [INT.pack(len(acl))]
    for perms, scheme, id_ in acl:
        parts += (INT.pack(perms), pack_string(scheme), pack_string(id_))
    return b"".join(parts)


def read_acl(reader: Reader) -> Acl:
    """``vector<ACL>``; null reads as empty. Raises RemoteProtocolError."""
    if reader.data.startswith(PACKED_OPEN_ACL, reader.offset):
        reader.offset += len(PACKED_OPEN_ACL)
        return OPEN_ACL
    count = reader.count(12)
    return intern_acl(tuple([AclEntry(reader.int32(), reader.text(), reader.text()) for _ in range(count)]))
