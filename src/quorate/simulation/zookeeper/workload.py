"""What the clients of a run ask for: few nodes, so that they get in each other's way, and every kind of request."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from quorate.simulation.scheduler import Scheduler, Stream
from quorate.simulation.zookeeper.client import Client
from quorate.verification.history import NEVER, Operation

REGISTERS: Final = ("/r0", "/r1", "/r2")
PARENTS: Final = ("/p0", "/p1")
EPHEMERALS: Final = ("/e0", "/e1", "/p0/e")
CHILDREN: Final = ("/p0/a", "/p0/b", "/p1/a")
CONTAINER: Final = "/box"
EVERYWHERE: Final = (*REGISTERS, *REGISTERS, *PARENTS, *EPHEMERALS, *CHILDREN, CONTAINER)
MOST_OPEN: Final = 12
"""Requests that a client may have on their way at once."""

_KINDS: Final = (
    *("set",) * 20,
    *("create",) * 12,
    *("sequential",) * 6,
    *("ephemeral",) * 8,
    *("delete",) * 10,
    *("get",) * 20,
    *("exists",) * 8,
    *("children",) * 8,
    *("multi",) * 8,
    *("sync",) * 6,
    "container",
    "close",
)


class Workload:
    """``pace``: nanoseconds between two requests, of whatever client, on average."""

    def __init__(self, scheduler: Scheduler, stream: Stream, clients: Sequence[Client], pace: int) -> None:
        self._scheduler = scheduler
        self._stream = stream
        self._clients = clients
        self._pace = pace
        self._asking = True
        self._values = 0
        self._versions: dict[tuple[Client, str], int] = {}
        """The version that a client has last seen of a node."""

    def start(self) -> None:
        self._scheduler.after(self._stream.around(self._pace), self._next)

    def quiet(self) -> None:
        self._asking = False

    def _next(self) -> None:
        if not self._asking:
            return
        stream = self._stream
        client = stream.choice(self._clients)
        count = stream.between(2, 6) if stream.chance(0.2) else 1
        client.act(lambda: self._ask(client, count))
        self._scheduler.after(stream.around(self._pace * count), self._next)

    def _ask(self, client: Client, count: int) -> None:
        for _ in range(count):
            if self._asking and client.connected and client.outstanding < MOST_OPEN:
                getattr(self, f"_{self._stream.choice(_KINDS)}")(client)

    def seen(self, client: Client, operation: Operation) -> None:
        """An operation of this client has succeeded."""
        result = operation.result
        stat = result.get("stat") if isinstance(result, dict) and operation.name in ("get", "set", "exists") else None
        if stat is not None:
            self._versions[client, operation.key] = stat["version"]

    # ---- requests

    def _data(self, client: Client) -> str:
        """No two are alike."""
        self._values += 1
        return f"{client.name} {self._values}"

    def _version(self, client: Client, path: str) -> int:
        return -1 if self._stream.chance(0.4) else self._versions.get((client, path), 0)

    def _set(self, client: Client) -> None:
        path = self._stream.choice(EVERYWHERE)
        client.submit("set", path, {"data": self._data(client), "version": self._version(client, path)})

    def _create(self, client: Client) -> None:
        client.submit("create", self._stream.choice(EVERYWHERE), {"data": self._data(client)})

    def _sequential(self, client: Client) -> None:
        parent = self._stream.choice(PARENTS)
        value = {"data": self._data(client), "sequential": True, "ephemeral": self._stream.chance(0.5)}
        client.submit("create", f"{parent}/s-", value)

    def _ephemeral(self, client: Client) -> None:
        client.submit("create", self._stream.choice(EPHEMERALS), {"data": self._data(client), "ephemeral": True})

    def _container(self, client: Client) -> None:
        client.submit("create", CONTAINER, {"data": self._data(client), "container": True})

    def _delete(self, client: Client) -> None:
        path = self._stream.choice(EVERYWHERE)
        client.submit("delete", path, {"version": self._version(client, path)})

    def _get(self, client: Client) -> None:
        client.submit("get", self._stream.choice(EVERYWHERE), {"watch": self._stream.chance(0.4)})

    def _exists(self, client: Client) -> None:
        client.submit("exists", self._stream.choice(EVERYWHERE), {"watch": self._stream.chance(0.5)})

    def _children(self, client: Client) -> None:
        path = self._stream.choice(("/", *PARENTS))
        client.submit("children", path, {"watch": self._stream.chance(0.5)})

    def _sync(self, client: Client) -> None:
        path = self._stream.choice(REGISTERS)
        client.submit("sync", path, {})
        client.submit("get", path, {"watch": False})

    def _close(self, client: Client) -> None:
        client.submit("close", None, {})

    def _multi(self, client: Client) -> None:
        stream = self._stream
        ops: list[list[Any]] = []
        for _ in range(stream.between(1, 4)):
            path = stream.choice(EVERYWHERE)
            kind = stream.choice(("set", "set", "create", "delete", "check"))
            version = self._version(client, path)
            if kind == "set":
                ops.append([kind, path, {"data": self._data(client), "version": version}])
            elif kind == "create":
                sequential = stream.chance(0.3)
                value = {"data": self._data(client), "ephemeral": stream.chance(0.3), "sequential": sequential}
                ops.append([kind, path, value])
            else:
                ops.append([kind, path, {"version": version}])
        client.submit("multi", None, {"ops": ops})

    # ---- the end of a run

    def one_write(self) -> Callable[[], bool]:
        """Ask for one write, again until it succeeds; whether it has."""
        asked: list[Operation] = []
        waiting: list[int] = []

        def ask(client: Client) -> None:
            waiting.clear()
            if client.connected:
                asked.append(client.submit("set", "/", {"data": self._data(client), "version": -1}))

        def succeeded() -> bool:
            if asked and asked[-1].outcome == "ok":
                return True
            if not waiting and (not asked or asked[-1].finished != NEVER):
                connected = [client for client in self._clients if client.connected]
                if connected:
                    client = connected[0]
                    waiting.append(1)
                    client.act(lambda: ask(client))
            return False

        return succeeded
