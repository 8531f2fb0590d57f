"""What ZooKeeper guarantees its clients, judged by what they saw, and by the committed log where it is to be had.

Linearizable writes, FIFO order of each client, views that never go back, watch events before what they announce, sessions and
their ephemerals, sequential names, all or nothing of a multi ("ZooKeeper: Wait-free coordination for Internet-scale systems",
2010, section 2.3; "ZooKeeper Programmer's Guide").

The operations of a history, all of JSON; a process is one session, and a client's next session is another process. Requests may
be on their way at the same time; their replies come in order::

    name      key   value                                        result, if ok
    connect   -     {"timeout": ms}                              {"session": int, "zxid": the last one seen}
    create    path  {"data", "ephemeral", "sequential", "container"} {"path"}
    delete    path  {"version"}                                  {}
    set       path  {"data", "version"}                          {"stat"}
    get       path  {"watch": bool}                              {"data", "stat"}
    exists    path  {"watch": bool}                              {"stat": Stat or None}
    children  path  {"watch": bool}                              {"children": sorted names, "stat"}
    multi     -     {"ops": [[name, path, value], ...]}          {"results": a result for each}
    sync      path  {}                                           {}
    close     -     {}                                           {}

Results also have ``"zxid"``, that of the reply's header, unless the client's library does not tell it: then less can be judged.
Whatever the server refused is ``fail`` with ``{"zxid", "error": code}`` (a multi with ``"results"``, a code for each part). Data
are strings; a Stat is ``{"czxid", "mzxid", "pzxid", "version", "cversion", "aversion", "ephemeralOwner", "dataLength",
"numChildren"}``. Three things happen to a session without being asked for, as operations that end at once: ``event`` (path,
``{"type": "created" | "deleted" | "changed" | "child"}``), ``disconnected`` and ``expired``.
"""

from quorate.verification.history import History
from quorate.verification.zookeeper import order, watches
from quorate.verification.zookeeper.known import Known
from quorate.verification.zookeeper.replay import Log, Replay, differences

__all__ = ["Log", "Replay", "check", "differences"]


def check(history: History, replay: Replay | None = None) -> list[str]:
    """What is wrong with the history, a sentence each. ``replay`` is of the history and every committed transaction."""
    found = order.check(history)
    if replay is None:
        known = Known(history)
        return [*found, *known.findings(history), *watches.check(history, known.changes)]
    return [*found, *replay.findings, *watches.check(history, replay.changes)]
