"""Znodes in a transaction: those of the ensemble that the decisions lie in, Apache's or ours.

An ensemble knows no prepare, and its protocol is what it is. So the tree takes part by carrying the decision: what was read is checked, what is written is
written, and the decision is recorded in one multi. See docs/decisions/0012-znodes-ride-in-the-decision.md, also for what is not offered and why: lists of
children, sequential and ephemeral znodes.
"""

from collections.abc import Sequence
from typing import Any

from quorate.transactions.drivers.kazoo import (
    NO_NODE,
    Ensemble,
    EnsembleError,
    Refused,
    check,
    check_path,
    exists,
    get,
    why_not,
)
from quorate.transactions.flow import Flow, call
from quorate.transactions.riding import ZnodeRider
from quorate.transactions.shells import aio, blocking


def look(ensemble: Ensemble, rider: ZnodeRider, path: str) -> Flow[Any]:
    """Value and stat of the znode, None if there is none; in that case what has to be so for it not to be there is noted."""
    check_path(path)
    names = path.split("/")
    above = ["/".join(names[:end]) or "/" for end in range(1, len(names))]
    while True:
        (found,) = yield from call("znodes: get", lambda: ensemble.ask(get(path), synced=True), blocks=True)
        if not isinstance(found, Refused):
            return found
        if found.code != NO_NODE:
            raise EnsembleError(why_not(check(path), found))
        stats = yield from call(
            "znodes: exists",
            lambda: ensemble.ask(*[exists(one) for one in [*above, path]], synced=True),
            blocks=True,
        )
        missing = next((index for index, stat in enumerate(stats) if stat is None), None)
        if missing is None:
            # it has been created since
            continue
        parent = stats[missing - 1] if missing else None
        if parent is not None and parent.ephemeralOwner:
            # it has no children as long as it is there
            rider.saw(above[missing - 1], parent.version)
        else:
            rider.saw_none([*above, path][missing])
        return None


def read(ensemble: Ensemble, rider: ZnodeRider, path: str) -> Flow[bytes | None]:
    found = yield from look(ensemble, rider, path)
    if found is None:
        return None
    value, stat = found
    rider.saw(path, stat.version)
    return bytes(value)


def there(ensemble: Ensemble, rider: ZnodeRider, path: str) -> Flow[bool]:
    check_path(path)
    (stat,) = yield from call("znodes: exists", lambda: ensemble.ask(exists(path), synced=True), blocks=True)
    if isinstance(stat, Refused):
        raise EnsembleError(why_not(check(path), stat))
    if stat is None and (yield from look(ensemble, rider, path)) is None:
        return False
    rider.saw(path, -1)
    return True


class _Writes:
    """What both kinds have: nothing is done before the commit, and then in this order."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.rider = ZnodeRider()
        self._ensemble = ensemble

    def create(self, path: str, value: bytes = b"", *, acl: Sequence[Any] | None = None) -> None:
        """``acl``: kazoo's ACLs; by default the client's ``default_acl``, or open to all. If it exists then, or its parent does not, the transaction aborts."""
        self.rider.create(path, value, acl)

    def set(self, path: str, value: bytes, *, version: int | None = None) -> None:
        """``version``: only if it has that one."""
        self.rider.set(path, value, version)

    def delete(self, path: str, *, version: int | None = None) -> None:
        self.rider.delete(path, version)

    def check(self, path: str, version: int) -> None:
        """Abort unless the znode has that version then; -1: unless it exists."""
        self.rider.check(path, version)


class Znodes(_Writes):
    """Reads are synced, and hold until the commit: if what was read has been set, deleted or created since, the transaction is aborted. Writes are done with
    the commit; reads do not see them before."""

    def __init__(self, ensemble: Ensemble, shell: blocking.Shell) -> None:
        super().__init__(ensemble)
        self._shell = shell

    def get(self, path: str) -> bytes | None:
        """None if there is no such znode. Raises UsageError, EnsembleError."""
        return self._shell.run(read(self._ensemble, self.rider, path))

    def exists(self, path: str) -> bool:
        """Only that has to hold until the commit, whatever is written to it."""
        return self._shell.run(there(self._ensemble, self.rider, path))


class AsyncZnodes(_Writes):
    """See ``Znodes``."""

    def __init__(self, ensemble: Ensemble, shell: aio.Shell) -> None:
        super().__init__(ensemble)
        self._shell = shell

    async def get(self, path: str) -> bytes | None:
        return await self._shell.run(read(self._ensemble, self.rider, path))

    async def exists(self, path: str) -> bool:
        return await self._shell.run(there(self._ensemble, self.rider, path))
