"""A bridge to Zope's ``transaction``: participants of a coordinator in its transactions, beside its other data managers.

    with transaction.manager:
        ours = join(coordinator)
        ours.enlist("orders").execute("insert into orders …")
        zodb_root["last"] = …

``transaction`` calls ``tpc_begin`` of all its data managers, in the order of their sort keys, then ``commit`` of all, ``tpc_vote`` of all, ``tpc_finish`` of
all. What is refused before the last vote is undone everywhere; ``tpc_finish`` must not fail. Ours follows from that:

- ``commit`` prepares. Whatever ordinary reason a participant has to say no, it says before anybody has voted, so also before those data managers that
  commit for good when they vote (zope.sqlalchemy without two phases, whose keys begin with "~").
- ``tpc_vote`` takes the decision, as the last of all votes: the sort key is the highest there can be. The decision can still be refused (the time is up,
  recovery was faster, a key of the store has changed), so it belongs into a vote; and nobody may say no after it, so it belongs at the end.
- ``tpc_finish`` carries it out, after the others have finished: the shorter is the time in which a crash leaves them behind. It does not fail; who cannot be reached
  follows by recovery.

So one lost answer splits nothing that is enlisted here. What stays open beside data managers that keep no decision log is theirs: one that fails in its ``tpc_finish``,
or whose process dies between our decision and its ``tpc_finish``, is left behind; and if our decision log cannot say whether it took the decision (InDoubt), they
are told to abort.

There is one decision in a transaction, so it takes data managers of one coordinator only.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import transaction as package
from transaction.interfaces import IDataManagerSavepoint, IRetryDataManager, ISavepointDataManager
from zope.interface import implementer

from quorate.errors import UsageError
from quorate.optimistic.conflicts import is_conflict
from quorate.transactions.commit import Ended, Part
from quorate.transactions.engine import ACTIVE, COMMITTED, IN_DOUBT, PREPARED
from quorate.transactions.errors import InDoubt
from quorate.transactions.flow import Flow, call
from quorate.transactions.riding import SyncKv
from quorate.transactions.sync import Coordinator, Transaction

log = logging.getLogger("quorate.transactions")

_LAST = "\U0010ffff"
"""The highest code point: no key that does not begin with it comes after it."""
_OURS = object()
"""Under this the data manager is found in its transaction."""


def join(
    coordinator: Coordinator, transaction: Any = None, *, timeout: float | None = None, acknowledge: str | None = None
) -> "DataManager":
    """The coordinator's data manager in a transaction of ``transaction``, or in the current one of a manager, by default of the thread's; made if there is none.
    ``timeout`` and ``acknowledge``: as in ``Coordinator.transaction``, when it is made. Raises UsageError."""
    if not isinstance(coordinator, Coordinator):
        raise UsageError(
            f"{type(coordinator).__name__} is not a Coordinator of quorate.transactions.sync, and Zope's transaction knows no event loop"
        )
    manager = package.manager if transaction is None else transaction
    if callable(getattr(manager, "get", None)):
        current = manager.get()
    else:
        current, manager = transaction, getattr(transaction, "_manager", None)
    try:
        found: DataManager | None = current.data(_OURS)
    except KeyError:
        found = None
    if found is not None and found.joined:
        if found.coordinator is not coordinator:
            raise UsageError(
                "another coordinator's data manager is in this transaction already, and there can be only one decision: "
                "give all participants to one coordinator"
            )
        return found
    made = DataManager(coordinator, manager, timeout, acknowledge)
    current.join(made)
    current.set_data(_OURS, made)
    coordinator.engine.metrics.begun()
    return made


@implementer(ISavepointDataManager, IRetryDataManager)
class DataManager:
    """Made by ``join``. ``joined``: it takes part; once it was aborted a new one has to."""

    def __init__(self, coordinator: Coordinator, manager: Any, timeout: float | None, acknowledge: str | None) -> None:
        self.coordinator = coordinator
        self.transaction_manager = manager
        self.joined = True
        self._tx: Transaction = coordinator.transaction(timeout, acknowledge=acknowledge)
        self._ended: Ended | None = None
        self._savepoints: list[_Savepoint] = []
        self._names = 0

    @property
    def gtid(self) -> str:
        return self._tx.gtid

    @property
    def state(self) -> str:
        """See ``sync.Transaction.state``."""
        return self._tx.state

    # ---- work

    def enlist(self, what: Any, resource: Any = None) -> Any:
        """See ``sync.Transaction.enlist``. The connection is not to be committed or rolled back by itself."""
        known = len(self._tx._work.parts)
        given = self._tx.enlist(what, resource)
        for part in self._tx._work.parts[known:]:
            # to a savepoint from before it took part it goes back by undoing everything
            if self._savepoints:
                undo = self._mark(part)
                for savepoint in self._savepoints:
                    savepoint.undo.append(undo)
        return given

    @property
    def kv(self) -> SyncKv:
        """See ``sync.Transaction.kv``."""
        if self._tx._kv is None:
            undo = self._tx.kv.rider.mark()
            for savepoint in self._savepoints:
                savepoint.undo.append(undo)
        return self._tx.kv

    # ---- savepoints

    @property
    def savepoint(self) -> "Callable[[], _Savepoint]":
        """There is none as long as a participant takes part that can do without: ``transaction`` then knows what to do."""
        for part in self._tx._work.parts:
            if not hasattr(part.participant, "session_of"):
                raise AttributeError(f"{part.name} has no savepoints")
        return self._savepoint

    def _savepoint(self) -> "_Savepoint":
        made = _Savepoint([self._mark(part) for part in self._tx._work.parts])
        if self._tx._kv is not None:
            made.undo.append(self._tx._kv.rider.mark())
        self._savepoints.append(made)
        return made

    def _mark(self, part: Part) -> Callable[[], None]:
        """What undoes all that the participant does from now on."""
        session = part.participant.session_of(part.branch) if hasattr(part.participant, "session_of") else None
        if session is None:
            return partial(_cannot, part.name)
        self._names += 1
        name = f"quorate_{self._names}"

        def ask(statement: str) -> Flow[None]:
            yield from call(f"{part.name}: {statement}", session.execute, statement, blocks=session.blocks)

        self.coordinator.shell.run(ask(f"SAVEPOINT {name}"))
        return lambda: self.coordinator.shell.run(ask(f"ROLLBACK TO SAVEPOINT {name}"))

    # ---- the end

    def sortKey(self) -> str:  # noqa: N802  # as IDataManager has it
        return f"{_LAST}quorate:{self.gtid}"

    def abort(self, transaction: Any) -> None:
        self._leave()

    def tpc_begin(self, transaction: Any) -> None:
        return

    def commit(self, transaction: Any) -> None:
        """Prepare, unless nobody else is there to wait for. Raises Aborted."""
        if not self._alone(transaction):
            self._tx.prepare()

    def tpc_vote(self, transaction: Any) -> None:
        """Decide. Raises Aborted, InDoubt."""
        self._ended = self._tx.decide()

    def tpc_finish(self, transaction: Any) -> None:
        self._carry_out()

    def tpc_abort(self, transaction: Any) -> None:
        if self._ended is not None and not self._ended.applied:
            log.error(
                "%s is committed, and another data manager of its transaction failed after the decision",
                self.gtid, extra={"gtid": self.gtid},
            )  # fmt: skip
            self._carry_out()
        else:
            self._leave()

    def _carry_out(self) -> None:
        self.joined = False
        ended, self._ended = self._ended, None
        if ended is None or ended.applied:
            return
        if self._tx._work.early and self.coordinator.later(partial(self._tx.apply, ended)):
            return
        try:
            self._tx.apply(ended)
        except Exception:
            # it is decided: the rest can be done by recovery, and nobody could do anything about it here
            log.exception("%s is committed, and was not carried out here", self.gtid, extra={"gtid": self.gtid})

    def _leave(self) -> None:
        """Roll back, unless it is decided or in doubt."""
        self.joined = False
        if self._tx.state in (ACTIVE, PREPARED):
            self._tx.rollback()

    def _alone(self, transaction: Any) -> bool:
        """Whether the transaction has no other data manager; then a single participant need not prepare. It does not say so in public: if it cannot be known, we prepare."""
        resources = getattr(transaction, "_resources", None)
        return isinstance(resources, list) and len(resources) == 1 and resources[0] is self

    # ---- again

    def should_retry(self, exception: BaseException) -> bool:
        """Whether it lost to another transaction and can be done again: never if it may be committed."""
        if self._tx.state in (COMMITTED, IN_DOUBT) or isinstance(exception, InDoubt):
            return False
        return is_conflict(exception, lock_wait_timeout=True)


@implementer(IDataManagerSavepoint)
class _Savepoint:
    """``undo``: for each participant, and for the keys."""

    def __init__(self, undo: list[Callable[[], None]]) -> None:
        self.undo = undo

    def rollback(self) -> None:
        for undo in self.undo:
            undo()


def _cannot(name: str) -> None:
    raise TypeError("Savepoints unsupported", name)
