"""The digest of a tree, version 2, by which members notice that their trees differ (DigestCalculator, AdHash).

A node's digest is the CRC-32 of its path, data and persisted Stat; a tree's is the sum of its nodes' modulo 2**64, so
that a change costs the nodes it touches and the order of changes does not matter. The leader puts the digest that the
tree will have into every transaction. Nodes below ``/zookeeper/`` count nothing, because members keep quota statistics
each for itself; the access list is not part of it either.
"""

from struct import Struct
from typing import Final
from zlib import crc32

from quorate.zookeeper.node import Node

DIGEST_VERSION: Final = 2
DIGEST_MASK: Final = (1 << 64) - 1

_STAT = Struct(">qqqqqiiiq")
"""czxid mzxid pzxid ctime mtime version cversion aversion ephemeralOwner"""
_pack = _STAT.pack


def node_digest(path: str, node: Node) -> int:
    """The digest of ``node`` as it is now, 0 to 2**32 - 1; the root's path is ``/``."""
    if path.startswith("/zookeeper/"):
        return 0
    crc = crc32(path.encode()) if path != "/" else 0
    data = node.data
    if data:
        crc = crc32(data, crc)
    return crc32(
        _pack(
            node.czxid,
            node.mzxid,
            node.pzxid,
            node.ctime,
            node.mtime,
            node.version,
            node.cversion,
            node.aversion,
            node.owner,
        ),
        crc,
    )


def digest_of(
    path: str,
    data: bytes | None,
    czxid: int,
    mzxid: int,
    pzxid: int,
    ctime: int,
    mtime: int,
    version: int,
    cversion: int,
    aversion: int,
    owner: int,
) -> int:
    """The digest that a node with these fields would have."""
    if path.startswith("/zookeeper/"):
        return 0
    crc = crc32(path.encode()) if path != "/" else 0
    if data:
        crc = crc32(data, crc)
    return crc32(_pack(czxid, mzxid, pzxid, ctime, mtime, version, cversion, aversion, owner), crc)
