"""The scripts of the differential suite: what clients send, by subject. Each script works under a path of its own.

Left out is what Apache itself changed after Debian's 3.8.0, where we do as the newer release does: exists needs READ (3.8.4),
events are withheld from watchers without READ (3.8.4), one watcher may watch a path in several modes.
"""

import struct
from base64 import b64encode
from hashlib import sha1
from typing import Any

from tests.support.raw import (
    OPEN,
    create_body,
    multi_body,
    pack_acl,
    path_version_body,
    path_watch_body,
    set_body,
    strings_body,
)
from tests.support.scripts import Script, Step

from quorate.binary import pack_buffer, pack_string
from quorate.zookeeper.constants import AUTH_XID, SET_WATCHES_XID, Op

# ---- short words for steps


def create(
    c: str, path: str, data: bytes | None = b"", flags: int = 0, acl: list[tuple[int, str, str]] | None = None
) -> Step:
    return Step(c, Op.CREATE, create_body(path, data, acl, flags))


def create2(
    c: str, path: str, data: bytes | None = b"", flags: int = 0, acl: list[tuple[int, str, str]] | None = None
) -> Step:
    return Step(c, Op.CREATE2, create_body(path, data, acl, flags))


def container(c: str, path: str, flags: int = 4) -> Step:
    return Step(c, Op.CREATE_CONTAINER, create_body(path, b"", None, flags))


def ttl(c: str, path: str, ms: int, flags: int = 5) -> Step:
    return Step(c, Op.CREATE_TTL, create_body(path, b"", None, flags) + struct.pack(">q", ms))


def delete(c: str, path: str, version: int = -1) -> Step:
    return Step(c, Op.DELETE, path_version_body(path, version))


def exists(c: str, path: str, watch: bool = False) -> Step:
    return Step(c, Op.EXISTS, path_watch_body(path, watch))


def get(c: str, path: str, watch: bool = False) -> Step:
    return Step(c, Op.GET_DATA, path_watch_body(path, watch))


def put(c: str, path: str, data: bytes | None, version: int = -1) -> Step:
    return Step(c, Op.SET_DATA, set_body(path, data, version))


def children(c: str, path: str, watch: bool = False) -> Step:
    return Step(c, Op.GET_CHILDREN, path_watch_body(path, watch))


def children2(c: str, path: str, watch: bool = False) -> Step:
    return Step(c, Op.GET_CHILDREN2, path_watch_body(path, watch))


def get_acl(c: str, path: str) -> Step:
    return Step(c, Op.GET_ACL, pack_string(path))


def set_acl(c: str, path: str, acl: list[tuple[int, str, str]], version: int = -1) -> Step:
    return Step(c, Op.SET_ACL, pack_string(path) + pack_acl(acl) + struct.pack(">i", version))


def sync(c: str, path: str) -> Step:
    return Step(c, Op.SYNC, pack_string(path))


def auth(c: str, scheme: str, data: bytes) -> Step:
    return Step(c, Op.AUTH, struct.pack(">i", 0) + pack_string(scheme) + pack_buffer(data), AUTH_XID)


def add_watch(c: str, path: str, mode: int) -> Step:
    return Step(c, Op.ADD_WATCH, pack_string(path) + struct.pack(">i", mode))


def check_watches(c: str, path: str, type_: int) -> Step:
    return Step(c, Op.CHECK_WATCHES, pack_string(path) + struct.pack(">i", type_))


def remove_watches(c: str, path: str, type_: int) -> Step:
    return Step(c, Op.REMOVE_WATCHES, pack_string(path) + struct.pack(">i", type_))


def set_watches(c: str, zxid: int, data: list[str], exist: list[str], child: list[str]) -> Step:
    body = struct.pack(">q", zxid) + strings_body(data) + strings_body(exist) + strings_body(child)
    return Step(c, Op.SET_WATCHES, body, SET_WATCHES_XID)


def set_watches2(c: str, zxid: int, *lists: list[str]) -> Step:
    return Step(c, Op.SET_WATCHES2, struct.pack(">q", zxid) + b"".join(map(strings_body, lists)), SET_WATCHES_XID)


def multi(c: str, *parts: tuple[int, bytes]) -> Step:
    return Step(c, Op.MULTI, multi_body(list(parts)))


def multi_read(c: str, *parts: tuple[int, str]) -> Step:
    return Step(c, Op.MULTI_READ, multi_body([(op, path_watch_body(path)) for op, path in parts]))


def m_create(path: str, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
    return Op.CREATE, create_body(path, data, None, flags)


def m_delete(path: str, version: int = -1) -> tuple[int, bytes]:
    return Op.DELETE, path_version_body(path, version)


def m_set(path: str, data: bytes, version: int = -1) -> tuple[int, bytes]:
    return Op.SET_DATA, set_body(path, data, version)


def m_check(path: str, version: int = -1) -> tuple[int, bytes]:
    return Op.CHECK, path_version_body(path, version)


def digest(user: str, password: str) -> str:
    return f"{user}:{b64encode(sha1(f'{user}:{password}'.encode()).digest()).decode()}"


WHO = Op.WHO_AM_I
P = "a"

SCRIPTS: dict[str, Script] = {
    "create, get, set, delete and every stat on the way": [
        create(P, "/crud", b"one"),
        get(P, "/crud"),
        exists(P, "/"),
        put(P, "/crud", b"two", 0),
        get(P, "/crud"),
        put(P, "/crud", b"three", 0),
        put(P, "/crud", b"three", 1),
        put(P, "/crud", b"", -1),
        get(P, "/crud"),
        put(P, "/crud", None, -1),
        get(P, "/crud"),
        delete(P, "/crud", 1),
        delete(P, "/crud", 4),
        delete(P, "/crud"),
        get(P, "/crud"),
        exists(P, "/crud"),
        exists(P, "/"),
    ],
    "create with null data": [create(P, "/null", None), get(P, "/null"), delete(P, "/null")],
    "create errors": [
        create(P, "/ce"),
        create(P, "/ce"),
        create(P, "/missing/child"),
        create(P, "/ce/x", flags=99),
        create(P, "/ce/x", flags=-1),
        create(P, "/ce/x", acl=[]),
        delete(P, "/ce"),
    ],
    "create2": [
        create2(P, "/c2", b"x"),
        create2(P, "/c2", b"x"),
        create2(P, "/c2/e", b"x", 1),
        create2(P, "/c2/s-", b"x", 2),
        create2(P, "/c2/es-", b"x", 3),
        exists(P, "/c2"),
        delete(P, "/c2/e"),
        delete(P, "/c2/s-0000000001"),
        delete(P, "/c2/es-0000000002"),
        exists(P, "/c2"),
        delete(P, "/c2"),
    ],
    "paths": [
        *[
            create(P, path)
            for path in (
                "",
                "x",
                "/p/",
                "//p",
                "/p//q",
                "/.",
                "/..",
                "/p/.",
                "/p/../q",
                "/p\0q",
                "/p\x01q",
                "/p\x7fq",
                "/p\x9fq",
                "/p\ufff0",
                "/p\uf000",
                "/.p",
                "/p.q",
                "/...",
                "/ü\U0001f600",
            )
        ],
        *[delete(P, path) for path in ("/.p", "/p.q", "/...", "/ü\U0001f600")],
        exists(P, "x"),
        get(P, ""),
        children(P, "/nothing"),
        delete(P, "/"),
        delete(P, ""),
        put(P, "/nothing", b""),
        put(P, "x", b""),
        sync(P, "/"),
        sync(P, "/nothing"),
        sync(P, "x"),
    ],
    "the system's nodes": [
        children(P, "/"),
        get(P, "/"),
        get_acl(P, "/"),
        children2(P, "/zookeeper"),
        get(P, "/zookeeper"),
        get_acl(P, "/zookeeper"),
        exists(P, "/zookeeper/quota"),
        get_acl(P, "/zookeeper/quota"),
        get_acl(P, "/zookeeper/config"),
        put(P, "/zookeeper/config", b"x"),
        delete(P, "/zookeeper"),
        delete(P, "/zookeeper/quota"),
        delete(P, "/zookeeper/config"),
        put(P, "/", b""),
        create(P, "/"),
        create(P, "/zookeeper"),
    ],
    "children": [
        create(P, "/ch"),
        *[create(P, f"/ch/{name}") for name in ("b", "a", "c")],
        create(P, "/ch/a/x"),
        children(P, "/ch"),
        children2(P, "/ch"),
        Step(P, Op.GET_ALL_CHILDREN_NUMBER, pack_string("/ch")),
        Step(P, Op.GET_ALL_CHILDREN_NUMBER, pack_string("/nothing")),
        delete(P, "/ch/a"),
        delete(P, "/ch"),
        delete(P, "/ch/a/x"),
        *[delete(P, f"/ch/{name}") for name in ("b", "a", "c")],
        exists(P, "/ch"),
        children2(P, "/ch"),
        delete(P, "/ch"),
    ],
    "sequential": [
        create(P, "/seq"),
        create(P, "/seq/n-", b"", 2),
        create(P, "/seq/n-", b"", 2),
        delete(P, "/seq/n-0000000000"),
        create(P, "/seq/n-", b"", 2),
        create(P, "/seq/plain"),
        create(P, "/seq/", b"", 2),
        create(P, "/seq/e-", b"", 3),
        children(P, "/seq"),
        exists(P, "/seq"),
        *[
            delete(P, f"/seq/{name}")
            for name in ("n-0000000001", "n-0000000002", "plain", "0000000004", "e-0000000005")
        ],
        children(P, "/seq"),
        delete(P, "/seq"),
    ],
    "ephemeral": [
        create("a", "/eph", b"", 1),
        exists("b", "/eph"),
        create("a", "/eph/child"),
        create("b", "/eph/child", b"", 1),
        put("b", "/eph", b"by b"),
        Step("a", Op.GET_EPHEMERALS, pack_string("/")),
        Step("b", Op.GET_EPHEMERALS, pack_string("/")),
        Step("a", Op.GET_EPHEMERALS, pack_string("/nothing")),
        Step("a", Op.GET_EPHEMERALS, pack_string("")),
        delete("b", "/eph"),
        Step("a", Op.GET_EPHEMERALS, pack_string("/")),
    ],
    "ephemerals go with their session, and watchers hear of it": [
        create("b", "/gone"),
        create("a", "/gone/1", b"", 1),
        get("b", "/gone/1", True),
        children("b", "/gone", True),
        Step("a", Op.CLOSE_SESSION),
        exists("b", "/gone"),
        children2("b", "/gone"),
        create("c", "/gone/2-", b"", 3),
        create("c", "/gone/3-", b"", 3),
        Step("c", Op.CLOSE_SESSION),
        children2("b", "/gone"),
        delete("b", "/gone"),
    ],
    "container nodes": [
        container(P, "/con"),
        exists(P, "/con"),
        create(P, "/con/x"),
        delete(P, "/con/x"),
        exists(P, "/con"),
        delete(P, "/con"),
        container(P, "/missing/con"),
    ],
    "ttl nodes are off": [ttl(P, "/ttl", 1000), exists(P, "/ttl"), create(P, "/ttl5", b"", 5)],
    "acl: world": [
        create(P, "/acl", b"d", acl=[(1, "world", "anyone")]),
        get(P, "/acl"),
        put(P, "/acl", b"no"),
        create(P, "/acl/x"),
        set_acl(P, "/acl", OPEN),
        get_acl(P, "/acl"),
        delete(P, "/acl"),
    ],
    "acl: set and versions": [
        create(P, "/aclv"),
        set_acl(P, "/aclv", [(31, "world", "anyone"), (31, "world", "anyone")]),
        get_acl(P, "/aclv"),
        set_acl(P, "/aclv", OPEN, 0),
        set_acl(P, "/aclv", OPEN, 1),
        exists(P, "/aclv"),
        set_acl(P, "/aclv", []),
        set_acl(P, "/aclv", [(31, "world", "somebody")]),
        set_acl(P, "/aclv", [(31, "nonsense", "x")]),
        set_acl(P, "/aclv", [(31, "digest", "no-colon")]),
        set_acl(P, "/aclv", [(31, "ip", "not an address")]),
        set_acl(P, "/aclv", [(31, "auth", "")]),
        set_acl(P, "/missing", OPEN),
        get_acl(P, "/missing"),
        get_acl(P, ""),
        delete(P, "/aclv"),
    ],
    "acl: invalid ones at creation": [
        create(P, "/ia", acl=[(31, "world", "x")]),
        create(P, "/ia", acl=[(31, "auth", "")]),
        create(P, "/ia", acl=[(31, "digest", "user")]),
        create(P, "/ia", acl=[(31, "ip", "300.1.1.1")]),
        create(P, "/ia", acl=[(31, "ip", "10.0.0.0/99")]),
        exists(P, "/ia"),
    ],
    "auth: digest": [
        auth("a", "digest", b"ann:secret"),
        create("a", "/dig", b"d", acl=[(31, "auth", "")]),
        get_acl("a", "/dig"),
        get("b", "/dig"),
        put("b", "/dig", b"x"),
        create("b", "/dig/x"),
        get_acl("b", "/dig"),
        set_acl("b", "/dig", OPEN),
        children("b", "/dig"),
        auth("b", "digest", b"ann:wrong"),
        get("b", "/dig"),
        auth("b", "digest", b"ann:secret"),
        get("b", "/dig"),
        Step("b", Op.WHO_AM_I),
        create("b", "/dig/x"),
        delete("b", "/dig/x"),
        delete("a", "/dig"),
    ],
    "auth: masked digests": [
        auth("a", "digest", b"eve:pw"),
        create("a", "/mask", b"", acl=[(31, "digest", digest("eve", "pw")), (1, "world", "anyone")]),
        get_acl("a", "/mask"),
        get_acl("b", "/mask"),
        delete("a", "/mask"),
    ],
    "auth: ip": [
        create(P, "/ip", b"", acl=[(31, "ip", "127.0.0.1")]),
        get(P, "/ip"),
        create(P, "/ip/net", b"", acl=[(1, "ip", "127.0.0.0/8"), (8, "world", "anyone")]),
        get(P, "/ip/net"),
        put(P, "/ip/net", b"x"),
        create(P, "/ip/far", b"n", acl=[(31, "ip", "10.1.2.3")]),
        get(P, "/ip/far"),
        delete(P, "/ip/far"),
        delete(P, "/ip/net"),
        delete(P, "/ip"),
        Step(P, Op.WHO_AM_I),
    ],
    "auth: ip scheme in an auth packet": [auth(P, "ip", b"x"), Step(P, Op.WHO_AM_I)],
    "auth: unknown scheme hangs up": [auth(P, "nonsense", b"x"), exists("b", "/")],
    "auth: permissions one by one": [
        create(P, "/perm", b"", acl=[(1 | 4 | 8 | 16, "world", "anyone")]),
        put(P, "/perm", b"x"),
        create(P, "/perm/w", b"", acl=[(2, "world", "anyone")]),
        get(P, "/perm/w"),
        children(P, "/perm/w"),
        get_acl(P, "/perm/w"),
        put(P, "/perm/w", b"x"),
        create(P, "/perm/w/x"),
        set_acl(P, "/perm/w", OPEN),
        delete(P, "/perm/w"),
        delete(P, "/perm"),
    ],
    "multi: all of it": [
        multi(P, m_create("/m", b"1"), m_create("/m/a"), m_set("/m", b"2"), m_check("/m", 1), m_delete("/m/a")),
        get(P, "/m"),
        multi(P, m_create("/m/s-", flags=2), m_create("/m/s-", flags=2), m_set("/m", b"3", 1)),
        children2(P, "/m"),
        multi(P, m_delete("/m/s-0000000001"), m_delete("/m/s-0000000002"), m_delete("/m", 2)),
        exists(P, "/m"),
        multi(P),
    ],
    "multi: failures": [
        create(P, "/mf", b"x"),
        multi(P, m_set("/mf", b"y"), m_check("/mf", 7), m_delete("/mf")),
        multi(P, m_create("/mf"), m_delete("/mf")),
        multi(P, m_delete("/mf"), m_delete("/mf")),
        multi(P, m_create("/mf/a"), m_create("/mf/a/b"), m_create("/no/b")),
        multi(P, m_create("/mf/a"), m_delete("/mf")),
        multi(P, m_set("/missing", b"")),
        multi(P, m_check("/missing")),
        multi(P, m_create("bad path")),
        multi(P, m_create("/mf/e", flags=1), m_create("/mf/e/x")),
        multi(P, m_check("/mf", 0), m_check("/mf", -1)),
        get(P, "/mf"),
        children(P, "/mf"),
        delete(P, "/mf"),
    ],
    "multi: an operation that does not belong": [multi(P, (Op.GET_DATA, path_watch_body("/"))), exists(P, "/")],
    "multi and watches": [
        create("a", "/mw", b"1"),
        get("b", "/mw", True),
        children("b", "/mw", True),
        exists("b", "/mw/n", True),
        multi("a", m_set("/mw", b"2"), m_create("/mw/n"), m_set("/mw/n", b"x"), m_delete("/mw/n")),
        multi("a", m_set("/mw", b"3"), m_check("/mw", 99)),
        delete("a", "/mw"),
    ],
    "multiRead": [
        create(P, "/mr", b"d"),
        create(P, "/mr/x"),
        multi_read(
            P, (Op.GET_DATA, "/mr"), (Op.GET_CHILDREN, "/mr"), (Op.GET_DATA, "/missing"), (Op.GET_CHILDREN, "/mr/x")
        ),
        multi_read(P),
        delete(P, "/mr/x"),
        delete(P, "/mr"),
    ],
    "watches: data": [
        create("a", "/wd", b"1"),
        get("b", "/wd", True),
        put("a", "/wd", b"2"),
        put("a", "/wd", b"3"),
        get("b", "/wd", True),
        get("b", "/wd", True),
        get("a", "/wd", True),
        put("a", "/wd", b"4"),
        get("b", "/wd", True),
        delete("a", "/wd"),
        get("b", "/wd", True),
        create("a", "/wd"),
        delete("a", "/wd"),
    ],
    "watches: exists": [
        exists("b", "/we", True),
        create("a", "/we", b"1"),
        exists("b", "/we", True),
        put("a", "/we", b"2"),
        exists("b", "/we", True),
        delete("a", "/we"),
        exists("b", "/we", True),
        children("b", "/we", True),
        create("a", "/we"),
        delete("a", "/we"),
    ],
    "watches: children": [
        create("a", "/wc"),
        children("b", "/wc", True),
        create("a", "/wc/x"),
        create("a", "/wc/y"),
        children2("b", "/wc", True),
        put("a", "/wc/x", b"1"),
        put("a", "/wc", b"1"),
        delete("a", "/wc/x"),
        children("b", "/wc", True),
        get("b", "/wc", True),
        delete("a", "/wc/y"),
        children("b", "/wc", True),
        delete("a", "/wc"),
    ],
    "watches: one's own, before the reply": [
        create(P, "/own", b"1"),
        get(P, "/own", True),
        children(P, "/own", True),
        create(P, "/own/x"),
        put(P, "/own", b"2"),
        exists(P, "/own/x", True),
        delete(P, "/own/x"),
        delete(P, "/own"),
    ],
    "watches: many watchers": [
        create("a", "/many", b"1"),
        *[get(c, "/many", True) for c in "bcde"],
        *[children(c, "/many", True) for c in "de"],
        put("a", "/many", b"2"),
        create("a", "/many/x"),
        *[exists(c, "/many/x", True) for c in "bcd"],
        delete("a", "/many/x"),
        delete("a", "/many"),
    ],
    "watches: persistent": [
        create("a", "/wp"),
        add_watch("b", "/wp", 0),
        put("a", "/wp", b"1"),
        put("a", "/wp", b"2"),
        create("a", "/wp/x"),
        put("a", "/wp/x", b"1"),
        delete("a", "/wp/x"),
        delete("a", "/wp"),
        create("a", "/wp"),
        check_watches("b", "/wp", 3),
        remove_watches("b", "/wp", 3),
        put("a", "/wp", b"3"),
        delete("a", "/wp"),
    ],
    "watches: recursive": [
        create("a", "/wr"),
        add_watch("b", "/wr", 1),
        create("a", "/wr/x"),
        create("a", "/wr/x/y"),
        put("a", "/wr/x/y", b"1"),
        put("a", "/wr", b"1"),
        delete("a", "/wr/x/y"),
        delete("a", "/wr/x"),
        get("b", "/wr", True),
        put("a", "/wr", b"2"),
        delete("a", "/wr"),
        remove_watches("b", "/wr", 3),
    ],
    "watches: recursive at the root, and modes that are none": [
        add_watch("b", "/", 1),
        create("a", "/rr"),
        delete("a", "/rr"),
        remove_watches("b", "/", 3),
        add_watch("b", "/", 7),
        add_watch("c", "bad", 0),
    ],
    "watches: check and remove": [
        create("a", "/wcr"),
        check_watches("a", "/wcr", 1),
        check_watches("a", "/wcr", 2),
        check_watches("a", "/wcr", 3),
        get("a", "/wcr", True),
        check_watches("a", "/wcr", 1),
        check_watches("a", "/wcr", 2),
        check_watches("a", "/wcr", 3),
        remove_watches("a", "/wcr", 1),
        remove_watches("a", "/wcr", 2),
        remove_watches("a", "/wcr", 2),
        children("a", "/wcr", True),
        remove_watches("a", "/wcr", 3),
        put("a", "/wcr", b"1"),
        delete("a", "/wcr"),
    ],
    "setWatches: missed changes are told, the rest is armed": [
        create("a", "/sw", b"1"),
        create("a", "/sw/x"),
        set_watches("b", 0, ["/sw", "/sw/missing"], ["/sw/x", "/sw/later"], ["/sw", "/sw/nothing"]),
        set_watches("b", 1 << 60, ["/sw"], ["/sw/later"], ["/sw"]),
        put("a", "/sw", b"2"),
        create("a", "/sw/later"),
        delete("a", "/sw/later"),
        delete("a", "/sw/x"),
        delete("a", "/sw"),
    ],
    "setWatches2": [
        create("a", "/sw2", b"1"),
        set_watches2("b", 1 << 60, ["/sw2"], [], [], ["/sw2"], []),
        set_watches2("c", 1 << 60, [], [], ["/sw2"], [], []),
        set_watches2("d", 1 << 60, [], [], [], [], ["/sw2"]),
        create("a", "/sw2/x"),
        put("a", "/sw2", b"2"),
        delete("a", "/sw2/x"),
        delete("a", "/sw2"),
        set_watches2("b", 0, ["/sw2"], ["/sw2"], ["/sw2"], [], []),
    ],
    "sessions: a new connection to the same session": [
        create("a", "/sess", b"", 1),
        get("a", "/sess", True),
        Step("a", "reconnect"),
        exists("a", "/sess"),
        put("b", "/sess", b"x"),
        Step("a", Op.GET_EPHEMERALS, pack_string("/")),
        delete("a", "/sess"),
    ],
    "quota nodes": [
        create(P, "/q", b"12345"),
        create(P, "/q/child", b"123"),
        create(P, "/zookeeper/quota/q"),
        create(P, "/zookeeper/quota/q/zookeeper_limits", b"count=3,bytes=100"),
        create(P, "/zookeeper/quota/q/zookeeper_stats", b"count=0,bytes=0"),
        get(P, "/zookeeper/quota/q/zookeeper_stats"),
        create(P, "/q/more", b"1"),
        put(P, "/q/more", b"1234"),
        get(P, "/zookeeper/quota/q/zookeeper_stats"),
        create(P, "/q/toomany", b"1"),
        delete(P, "/q/toomany"),
        delete(P, "/q/more"),
        get(P, "/zookeeper/quota/q/zookeeper_stats"),
        delete(P, "/zookeeper/quota/q/zookeeper_limits"),
        delete(P, "/zookeeper/quota/q/zookeeper_stats"),
        delete(P, "/zookeeper/quota/q"),
        delete(P, "/q/child"),
        delete(P, "/q"),
    ],
    "reconfig is off": [
        Step(P, Op.RECONFIG, pack_string("x") + pack_string(None) + pack_string(None) + struct.pack(">q", -1)),
    ],
    "sasl without configuration": [Step(P, Op.SASL, pack_buffer(b"token"))],
    "unknown operations hang up": [Step("a", 98), Step("b", -5), Step("c", 1000), exists("d", "/")],
    "malformed bodies": [
        Step("a", Op.GET_DATA, b""),
        Step("b", Op.CREATE, b"\0\0"),
        Step("c", Op.SET_DATA, struct.pack(">i", 100) + b"/x"),
        Step("d", Op.GET_CHILDREN, struct.pack(">i", -5)),
        exists("e", "/"),
    ],
    "frames that are none": [
        Step("a", "raw", struct.pack(">i", -1)),
        Step("b", "raw", struct.pack(">i", 0x7FFFFFFF)),
        Step("c", "raw", struct.pack(">i", 2_000_000)),
        exists("d", "/"),
    ],
    "data as large as it may be": [
        create(P, "/big", b"x" * 1_000_000),
        put(P, "/big", b"y" * 1_040_000),
        exists(P, "/big"),
        delete(P, "/big"),
    ],
    "pipelining keeps the order": [
        Step(
            "a",
            "raw",
            b"".join(
                pack_buffer(struct.pack(">ii", 1000 + i, op) + body)
                for i, (op, body) in enumerate(
                    [
                        (Op.CREATE, create_body("/pipe", b"1")),
                        (Op.GET_DATA, path_watch_body("/pipe")),
                    ]
                )
            ),
        ),
        delete("b", "/pipe"),
    ],
    "closing twice": [Step("a", Op.CLOSE_SESSION), exists("b", "/")],
}

HANDSHAKES: dict[str, dict[str, Any]] = {
    "new": {},
    "least timeout": {"timeout_ms": 1},
    "no timeout": {"timeout_ms": 0},
    "negative timeout": {"timeout_ms": -5},
    "greatest timeout": {"timeout_ms": 10_000_000},
    "without the readOnly byte": {"read_only": None},
    "read-only": {"read_only": True},
    "unknown session": {"session": 12345},
    "unknown session, without the readOnly byte": {"session": 12345, "read_only": None},
    "a zxid from the future": {"last_zxid": 1 << 50},
    "negative zxid": {"last_zxid": -1},
    "a new session with a password": {"password": b"0123456789abcdef"},
    "an empty password": {"password": b""},
}
