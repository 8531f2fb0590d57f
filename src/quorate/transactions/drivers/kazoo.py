"""An ensemble of ZooKeeper's, Apache's or ours, through kazoo's client: requests that are pipelined, answered in time, and never sent twice.

kazoo retries only what it is asked to (``client.retry``), and that is nothing here: whether a write whose answer was lost was done is found out by whoever
knows what to look at. Such a write may also be done later: kazoo sends what waits for a connection when there is one again, in order.

A session sees what it has seen once, and what came after, on whichever member it is (its client names the last zxid it saw, and a member that is behind
refuses it). A new session does not know what the one before it saw. So requests that have to see one history are sent together, and that
they were answered in one session is made sure of.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from quorate.errors import QuorateError, UsageError

SCHEME = "zookeeper://"
CONNECT_SECONDS = 10.0
_RETRY = {"max_tries": -1, "delay": 0.05, "max_delay": 1.0}
"""Of connecting again; kazoo's own would come to wait for an hour."""
_PATH = re.compile(r"(/[^/\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]+)+\Z")
_FRAME_BYTES = 64
"""More than a request, an operation of one, and an entry of an ACL need besides their texts."""


Request = Callable[[Any], Any]
"""Given the KazooClient, it sends itself; what comes back is kazoo's IAsyncResult."""

NO_NODE, NO_AUTH, BAD_VERSION, NO_CHILDREN_FOR_EPHEMERALS, NODE_EXISTS, NOT_EMPTY = -101, -102, -103, -108, -110, -111
"""What an ensemble says of a znode, by its protocol."""
_WORDS = {
    NO_AUTH: "its ACL does not allow that",
    NO_CHILDREN_FOR_EPHEMERALS: "its parent is ephemeral",
    NODE_EXISTS: "it exists",
    NOT_EMPTY: "it has children",
}
_REFUSALS = {NO_NODE, BAD_VERSION, *_WORDS}


class EnsembleError(QuorateError):
    """The ensemble does not answer, or not as it should. What was asked may have been done, or be done yet."""


class Refused:
    """What was asked cannot be done as things are. ``code``: ZooKeeper's; ``error``: kazoo's exception."""

    __slots__ = ("code", "error")

    def __init__(self, error: Any) -> None:
        self.code: int = error.code
        self.error = error


class Operation:
    """One of those that are done together or not at all. ``version``: only if the znode has it, -1 for any."""

    __slots__ = ("acl", "kind", "path", "value", "version")

    def __init__(self, kind: str, path: str, value: bytes = b"", version: int = -1, acl: Sequence[Any] = ()) -> None:
        self.kind = kind
        self.path = path
        self.value = value
        self.version = version
        self.acl = list(acl)

    def size(self) -> int:
        """In bytes, at most."""
        return len(self.path.encode()) + len(self.value) + _FRAME_BYTES * (1 + len(self.acl))

    def __repr__(self) -> str:
        return f"Operation({self.kind!r}, {self.path!r}, {self.value!r}, {self.version})"


def create(path: str, value: bytes = b"", acl: Sequence[Any] = ()) -> Operation:
    return Operation("create", path, value, acl=acl)


def replace(path: str, value: bytes, version: int = -1) -> Operation:
    return Operation("set_data", path, value, version)


def delete(path: str, version: int = -1) -> Operation:
    return Operation("delete", path, version=version)


def check(path: str, version: int = -1) -> Operation:
    """That the znode is there, and has that version."""
    return Operation("check", path, version=version)


def check_path(path: Any) -> str:
    """Raises UsageError for what is no znode's path, or that of the root."""
    if not isinstance(path, str) or not _PATH.match(path) or {".", ".."} & set(path.split("/")):
        raise UsageError(f"{path!r} is no path of a znode, expected one like /app/leader")
    return path


class Ensemble:
    """``client``: a KazooClient that somebody else starts and stops, or an address, ``zookeeper://host:port,host:port/chroot``, which is connected to in the
    background from now on. ``seconds``: how long an answer is waited for.

    Raises UsageError.
    """

    def __init__(self, client: Any, seconds: float) -> None:
        self.seconds = seconds
        self._own = isinstance(client, str)
        self.client: Any = _client_for(client) if isinstance(client, str) else client
        self.name = ",".join(f"{host}:{port}" for host, port in self.client.hosts)
        self._guard = threading.Lock()
        self._closed = False
        self._connected = threading.Event()
        self.client.add_listener(self._state_changed)
        if self._own:
            self.client.start_async()
        elif self.client.connected:
            self._connected.set()

    def _state_changed(self, state: Any) -> None:
        """Called on kazoo's thread."""
        if state == "CONNECTED":
            self._connected.set()
        else:
            self._connected.clear()

    def _connect(self, until: float) -> None:
        if self._closed:
            raise EnsembleError(f"the connection to ZooKeeper at {self.name} is closed")
        if not self._connected.wait(max(0.0, until - time.monotonic())):
            how = "" if self._own else f"; the KazooClient is {self.client.client_state}, and whoever made it starts it"
            raise EnsembleError(f"no connection to ZooKeeper at {self.name} in {self.seconds:g} s{how}")

    def close(self) -> None:
        self.client.remove_listener(self._state_changed)
        with self._guard:
            closed, self._closed = self._closed, True
        if self._own and not closed:
            self.client.stop()
            self.client.close()

    # ---- asking

    def ask(self, *requests: Request, synced: bool = False) -> list[Any]:
        """The answer to each, in one session; Refused where that is the answer. ``synced``: after the member that answers has caught up with the leader.
        Raises EnsembleError."""
        from kazoo.exceptions import ZookeeperError

        until = time.monotonic() + self.seconds
        self._connect(until)
        session = self.client.client_id
        waiting = [request(self.client) for request in ((_sync, *requests) if synced else requests)]
        answers: list[Any] = []
        for one in waiting:
            try:
                answers.append(one.get(timeout=max(0.0, until - time.monotonic())))
            except self.client.handler.timeout_exception as error:
                raise EnsembleError(f"ZooKeeper at {self.name} does not answer in {self.seconds:g} s") from error
            except ZookeeperError as error:
                if error.code not in _REFUSALS:
                    raise EnsembleError(f"ZooKeeper at {self.name}: {_told(error)}") from error
                answers.append(Refused(error))
            except Exception as error:
                raise EnsembleError(f"ZooKeeper at {self.name}: {_told(error)}") from error
        if len(waiting) > 1 and (session is None or self.client.client_id != session):
            raise EnsembleError(f"ZooKeeper at {self.name}: the session changed while it was asked")
        if not synced:
            return answers
        if isinstance(answers[0], Refused):
            raise EnsembleError(f"ZooKeeper at {self.name}: no sync: {_told(answers[0].error)}")
        return answers[1:]

    def multi(self, operations: Sequence[Operation]) -> tuple[int, Refused] | None:
        """All or none. The first that cannot be done, and why; None if all are done. Raises EnsembleError."""
        (answer,) = self.ask(_multi(operations))
        return self._first_refused(operations, answer)

    def one_by_one(self, operations: Sequence[Operation]) -> list[Refused | None]:
        """Each by itself: why it cannot be done, None if it is done. Raises EnsembleError."""
        answers = self.ask(*[_multi([operation]) for operation in operations])
        found = [self._first_refused([one], answer) for one, answer in zip(operations, answers, strict=True)]
        return [None if one is None else one[1] for one in found]

    def _first_refused(self, operations: Sequence[Operation], answer: Any) -> tuple[int, Refused] | None:
        if isinstance(answer, Refused):
            raise EnsembleError(f"ZooKeeper at {self.name}: {_told(answer.error)}")
        if len(answer) != len(operations):
            raise EnsembleError(f"ZooKeeper at {self.name}: {len(answer)} results of {len(operations)} operations")
        failed = [(index, result) for index, result in enumerate(answer) if isinstance(result, Exception)]
        # those before the one that cannot be done have no error of their own, and those after it another one
        for index, result in failed:
            if getattr(result, "code", 0):
                return index, Refused(result)
        if failed:
            raise EnsembleError(f"ZooKeeper at {self.name}: a multi was rolled back, and why is not said")
        return None


def _sync(client: Any) -> Any:
    return client.sync_async("/")


def get(path: str) -> Request:
    """Its value and its stat."""
    return lambda client: client.get_async(path)


def exists(path: str) -> Request:
    """Its stat, None if there is no such znode."""
    return lambda client: client.exists_async(path)


def children(path: str) -> Request:
    return lambda client: client.get_children_async(path)


def why_not(operation: Operation, refused: Refused) -> str:
    """A sentence for the user."""
    code = refused.code
    if code == BAD_VERSION:
        told = "it has been changed" if operation.kind == "check" else f"its version is not {operation.version}"
    elif code == NO_NODE:
        told = "its parent does not exist" if operation.kind == "create" else "it does not exist"
    else:
        told = _WORDS.get(code) or _told(refused.error)
    return f"znode {operation.path}: {told}"


def _multi(operations: Sequence[Operation]) -> Request:
    def send(client: Any) -> Any:
        request = client.transaction()
        for operation in operations:
            _add(request, operation)
        return request.commit_async()

    return send


def _add(request: Any, operation: Operation) -> None:
    if operation.kind == "create":
        request.create(operation.path, operation.value, acl=operation.acl or None)
    elif operation.kind == "set_data":
        request.set_data(operation.path, operation.value, operation.version)
    elif operation.kind == "delete":
        request.delete(operation.path, operation.version)
    else:
        request.check(operation.path, operation.version)


def _told(error: BaseException) -> str:
    words = type(error).__name__.removesuffix("Error")
    return " ".join(re.findall("[A-Z][a-z]*", words)).lower() + (f" ({error})" if str(error) else "")


def _client_for(address: str) -> Any:
    hosts = address.removeprefix(SCHEME)
    try:
        from kazoo.client import KazooClient
    except ImportError:
        raise UsageError(
            f"decisions at {address} need kazoo, which is not installed: pip install 'quorate[kazoo]'"
        ) from None
    servers, _, chroot = hosts.partition("/")
    try:
        if not all(servers.split(",")):
            raise ValueError("a host is missing")
        if chroot:
            check_path("/" + chroot)
        return KazooClient(hosts, timeout=CONNECT_SECONDS, connection_retry=dict(_RETRY))
    except (ValueError, UsageError) as error:
        raise UsageError(
            f"{address!r} is no address ({error}), expected zookeeper://host:port,host:port/chroot"
        ) from None
