"""Quotas: limits on the number of nodes and bytes below a path (StatsTrack, Quotas, PathTrie, ZooKeeperServer.checkQuota).

The limit on ``/a/b`` is the node ``/zookeeper/quota/a/b/zookeeper_limits``, what is used of it the node
``zookeeper_stats`` beside it, which every member keeps up to date for itself as it applies transactions. The deepest
limited ancestor of a node (or the node itself) is the one that counts.

Text of both nodes: ``count=1,bytes=2`` and, for hard limits, ``count=-1,bytes=-1=;byteHardLimit=2;countHardLimit=1``; -1
is no limit. Only hard limits are enforced, and only if the server is told to (``enforceQuota``). A node whose text is
malformed (any client with the permission can write it) reads as if it said nothing.
"""

import re
from typing import TYPE_CHECKING, Final

from quorate.zookeeper.constants import QUOTA_ROOT
from quorate.zookeeper.node import Node

if TYPE_CHECKING:
    from quorate.zookeeper.tree import DataTree

LIMITS: Final = "zookeeper_limits"
STATS: Final = "zookeeper_stats"
_PREFIX: Final = QUOTA_ROOT + "/"

_PAIR = re.compile(r"([^=,;]+)=([+-]?[0-9]{1,19})?(?:=[^,;]*)?\Z")
_SEPARATORS = re.compile(r"[,;]+")


def parse_stats(data: bytes | None) -> dict[str, int]:
    """The text of a limits or stats node. An empty value reads as -1; pairs that are none are left out."""
    if not data:
        return {}
    stats: dict[str, int] = {}
    for pair in _SEPARATORS.split(data.decode("utf-8", "replace")):
        match = _PAIR.match(pair)
        if match is not None:
            stats[match[1]] = int(match[2] or -1)
    return stats


def format_stats(stats: dict[str, int]) -> bytes:
    """The text as Java writes it: count, bytes, then the other keys in order behind a ``=`` that stops old parsers."""
    text = f"count={stats.get('count', -1)},bytes={stats.get('bytes', -1)}"
    others = [f";{key}={stats[key]}" for key in sorted(stats) if key != "count" and key != "bytes"]
    return (text + "=" + "".join(others) if others else text).encode()


def limits_path(path: str) -> str:
    return f"{QUOTA_ROOT}{path}/{LIMITS}"


def stats_path(path: str) -> str:
    return f"{QUOTA_ROOT}{path}/{STATS}"


def limited_by(path: str) -> str | None:
    """The path that the limits node ``path`` limits; None if ``path`` is no limits node."""
    return _subject(path, LIMITS)


def measured_by(path: str) -> str | None:
    """The path that the stats node ``path`` measures; None if ``path`` is no stats node."""
    return _subject(path, STATS)


def _subject(path: str, name: str) -> str | None:
    if not path.startswith(_PREFIX) or not path.endswith("/" + name):
        return None
    # a limit on the root has nothing between: Apache keeps none there
    return path[len(QUOTA_ROOT) : -len(name) - 1] or None


def covering(limited: set[str], path: str) -> str | None:
    """The deepest of the ``limited`` paths that ``path`` is or lies below."""
    while path not in limited:
        slash = path.rfind("/")
        if slash <= 0:
            return None
        path = path[:slash]
    return path


def measure(nodes: dict[str, Node], path: str) -> dict[str, int]:
    """Count and bytes of data of the subtree at ``path``, itself included; zeros if there is none."""
    count = size = 0
    waiting = [path]
    while waiting:
        path = waiting.pop()
        node = nodes.get(path)
        if node is not None:
            count += 1
            if node.data is not None:
                size += len(node.data)
            if node.children is not None:
                waiting += [f"{path}/{name}" for name in node.children]
    return {"count": count, "bytes": size}


def exceeds(tree: "DataTree", path: str, bytes_diff: int, count_diff: int) -> bool:
    """Whether a change of so many bytes and nodes at ``path`` breaks a hard limit, going by what ``tree`` has applied.

    A create counts 1 and the bytes of its data, a setData 0 and the difference.
    """
    if not tree.limited:
        return False
    subject = covering(tree.limited, path)
    if subject is None:
        return False
    node = tree.nodes.get(limits_path(subject))
    if node is None:
        return False
    limits = parse_stats(node.data)
    count_limit = limits.get("countHardLimit", -1)
    bytes_limit = limits.get("byteHardLimit", -1)
    if count_limit < 0 and bytes_limit < 0:
        return False
    node = tree.nodes.get(stats_path(subject))
    if node is None:
        return False
    stats = parse_stats(node.data)
    if count_limit >= 0 and count_diff != 0 and stats.get("count", -1) + count_diff > count_limit:
        return True
    return bytes_limit >= 0 and bytes_diff != 0 and stats.get("bytes", -1) + bytes_diff > bytes_limit
