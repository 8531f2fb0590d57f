"""Which paths a znode may have, and their parts (PathUtils.validatePath, PrepRequestProcessor).

A path is absolute, has no empty, ``.`` or ``..`` component, does not end with a slash (but for the root), and has none of
the characters Java's client refuses: control characters, U+D800 to U+F8FF, U+FFF0 to U+FFFF, and everything beyond U+FFFF,
which Java sees as two surrogates. A string that arrived as malformed UTF-8 holds U+FFFD and is refused by the same rule.
"""

import re
from typing import Final

_UNUSUAL = re.compile(
    "[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]"  # characters
    "|/\\.{0,2}(?=/|\\Z)"  # components: empty, . or ..
)
_UNUSUAL_NAME = re.compile("[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff/]|\\A\\.{0,2}\\Z")

SYSTEM_NODES: Final = frozenset(("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"))
"""Nodes that nobody may delete."""


def valid_path(path: str) -> bool:
    """Whether a znode may have this path."""
    if path[:1] != "/":
        return False
    if path.isascii() and path.isprintable() and "//" not in path and "/." not in path and path[-1] != "/":
        return True
    return path == "/" or _UNUSUAL.search(path) is None


def valid_name(name: str) -> bool:
    """Whether a child of a node with a valid path may have this name."""
    if name.isascii() and name.isprintable() and name and "/" not in name and name[0] != ".":
        return True
    return _UNUSUAL_NAME.search(name) is None


def split_path(path: str) -> tuple[str, str]:
    """The parent's path and the name. The path must hold a slash; the root is its own parent, with an empty name."""
    slash = path.rindex("/")
    return path[:slash] or "/", path[slash + 1 :]


def parent_path(path: str) -> str:
    """The parent's path; the path must hold a slash."""
    return path[: path.rindex("/")] or "/"
