"""The coordinator for programs without an event loop; any thread may use it.

    with Coordinator("127.0.0.1:7002", [orders, stock]) as coordinator:
        with coordinator.transaction(timeout=5) as tx:
            tx.enlist(orders).execute("insert into orders …")
            with tx.enlist(stock).cursor() as cursor:
                cursor.execute("update stock set …")

What is asked of several participants at once is sent to all, and waited for in the calling thread; one thread of the coordinator's own
sweeps, and does what is left to do after a commit.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.kv.client.sync import Client
from quorate.transactions.commit import Ended
from quorate.transactions.engine import ACTIVE, SWEEP_SECONDS, Engine, Work, early_of, finished
from quorate.transactions.flow import ask
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.logs.local import LocalLog
from quorate.transactions.records import Record
from quorate.transactions.recovery import KEEP_SECONDS, Report
from quorate.transactions.riding import SyncKv
from quorate.transactions.shells.aio import Watch, _nobody
from quorate.transactions.shells.blocking import Shell
from quorate.transactions.sql.session import Session

log = logging.getLogger("quorate.transactions")
_BATCH_SECONDS = 0.1
_IDLE_MAX = 32
_THREADS = 16


class Coordinator:
    """See ``aio.Coordinator``."""

    def __init__(
        self,
        decisions: str | Path | DecisionLog,
        participants: Iterable[Any] = (),
        *,
        space: str = "default",
        timeout: float = 5.0,
        acknowledge: str = "applied",
        sweep_every: float | None = SWEEP_SECONDS,
        keep: float = KEEP_SECONDS,
        watch: Watch = _nobody,
    ) -> None:
        self._client: Client | None = None
        chosen: DecisionLog
        if isinstance(decisions, Path):
            chosen = LocalLog(decisions)
        elif isinstance(decisions, str):
            self._client = Client(decisions)
            chosen = KvLog(self._client, space)
        else:
            chosen = decisions
        self.engine = Engine(chosen, participants, space, timeout, acknowledge, sweep_every, keep, False)
        self._owns_log = chosen is not decisions
        self.threads = ThreadPoolExecutor(_THREADS, "quorate-transactions")
        self.shell = Shell(watch, self.threads)
        self._followed: list[Record] = []
        self._later: list[Callable[[], None]] = []
        self._work_to_do = threading.Condition()
        self._closing = False
        self._sweeping = False
        self._idle: dict[str, list[Session]] = {}
        self._helper = threading.Thread(target=self._help, name="quorate-transactions-helper", daemon=True)
        self._helper.start()

    @property
    def metrics(self) -> Any:
        return self.engine.metrics

    def __enter__(self) -> "Coordinator":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to sweep. Transactions can do without."""
        with self._work_to_do:
            self._sweeping = self.engine.sweep_every is not None
            self._work_to_do.notify()

    def close(self) -> None:
        with self._work_to_do:
            if self._closing:
                return
            self._closing = True
            self._work_to_do.notify()
        self._helper.join()
        self.threads.shutdown()
        for sessions in self._idle.values():
            for session in sessions:
                session.close()
        for participant in self.engine.participants.values():
            if hasattr(participant, "pool"):
                participant.pool.close()
            if hasattr(participant, "detach"):
                participant.detach()
        if self._owns_log:
            self.engine.log.close()
        if self._client is not None:
            self._client.close()

    # ---- transactions

    def transaction(self, timeout: float | None = None, *, acknowledge: str | None = None) -> "Transaction":
        """For ``with``."""
        return Transaction(self, self.engine.new_gtid(timeout), early_of(self.engine, acknowledge))

    def session(self, participant: Any) -> Session | None:
        """One for a transaction that was not handed a connection; None for participants that have none."""
        if not hasattr(participant, "connect"):
            return None
        idle = self._idle.setdefault(participant.name, [])
        while True:
            try:
                session = idle.pop()
            except IndexError:
                break
            if session.state() == "idle":
                return session
            session.hang_up()
        made: Session = participant.connect()
        return made

    def give_back(self, participant: Any, session: Session) -> None:
        idle = self._idle.setdefault(participant.name, [])
        if session.state() == "idle" and len(idle) < _IDLE_MAX:
            idle.append(session)
        else:
            session.hang_up()

    def followed(self, record: Record) -> None:
        """All participants have followed: written down when there is time, so that recovery need not ask them."""
        with self._work_to_do:
            self._followed.append(finished(record))
            if len(self._followed) == 1:
                self._work_to_do.notify()

    def later(self, work: Callable[[], None]) -> None:
        with self._work_to_do:
            self._later.append(work)
            self._work_to_do.notify()

    # ---- the helper

    def _help(self) -> None:
        sweep_at = 0.0
        while True:
            with self._work_to_do:
                while not (self._later or self._followed or self._closing):
                    wait = None if not self._sweeping else sweep_at - time.monotonic()
                    if wait is not None and wait <= 0:
                        break
                    self._work_to_do.wait(wait)
                closing = self._closing
                if self._followed and not closing and not self._later:
                    # more will follow
                    self._work_to_do.wait(_BATCH_SECONDS)
                work, self._later = self._later, []
                records, self._followed = self._followed, []
            for do in work:
                self.threads.submit(do)
            if records:
                self._guarded("finished transactions were not noted", partial(self._note, records))
            if closing:
                return
            if self._sweeping and time.monotonic() >= sweep_at:
                self._guarded("no recovery this time", lambda: self.shell.run(self.engine.sweep()))
                sweep_at = time.monotonic() + (self.engine.sweep_every or 0.0)

    def _note(self, records: list[Record]) -> None:
        self.shell.run(ask("log: amend", self.engine.log, "amend", records))

    def _guarded(self, what: str, do: Callable[[], Any]) -> None:
        try:
            do()
        except QuorateError as error:
            log.warning("%s: %s", what, error)
        except Exception:
            log.exception(what)

    def sweep(self) -> Report:
        """A round of recovery, now. Raises QuorateError if the decision log cannot be had."""
        return self.shell.run(self.engine.sweep_now())


class Transaction:
    """Made by ``Coordinator.transaction``. Leaving the block commits, leaving it by an exception rolls back."""

    def __init__(self, coordinator: Coordinator, gtid: Gtid, early: bool) -> None:
        self._coordinator = coordinator
        self._work = Work(coordinator.engine, gtid, early)
        self._kv: SyncKv | None = None

    @property
    def gtid(self) -> str:
        return self._work.gtid.text

    @property
    def state(self) -> str:
        """``active``, ``committing``, ``committed``, ``aborted`` or ``in doubt``."""
        return self._work.state

    def __enter__(self) -> "Transaction":
        self._coordinator.engine.metrics.begun()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if self._work.state == ACTIVE:
                self.rollback()
            return
        if self._work.state == ACTIVE:
            self.commit()

    def enlist(self, what: Any, resource: Any = None) -> Any:
        """See ``aio.Transaction.enlist``."""
        work = self._work
        participant, session, part = work.find(what, resource)
        if part is not None:
            return part.given
        if session is None:
            session = self._coordinator.session(participant)
            if session is not None:
                work.borrowed.append((participant, session))
        return self._coordinator.shell.run(work.begin(participant, session))

    @property
    def kv(self) -> "SyncKv":
        """Keys of the store that the decisions lie in, of whatever shards."""
        if self._kv is None:
            self._work.check_active()
            decisions = self._coordinator.engine.log
            if not isinstance(decisions, KvLog) or not isinstance(decisions.client, Client):
                raise UsageError(
                    "the decision log of this coordinator is in no store, so there are no keys to write to"
                )
            self._kv = SyncKv(decisions.client)
            self._work.rider = self._kv.rider
        return self._kv

    def commit(self) -> None:
        """Raises Aborted, InDoubt, NotYetApplied, HeuristicOutcome."""
        coordinator, work = self._coordinator, self._work
        try:
            ended: Ended = coordinator.shell.run(work.commit())
        except BaseException:
            self._return_sessions()
            raise
        if not ended.applied:
            coordinator.later(lambda: self._apply(ended))
            return
        self._return_sessions()
        if ended.decided is not None:
            coordinator.followed(ended.decided)

    def _apply(self, ended: Ended) -> None:
        try:
            record = self._coordinator.shell.run(self._work.apply(ended))
        finally:
            self._return_sessions()
        if record is not None:
            self._coordinator.followed(record)

    def rollback(self) -> None:
        self._work.check_active()
        try:
            self._coordinator.shell.run(self._work.rollback())
        finally:
            self._return_sessions()

    def _return_sessions(self) -> None:
        borrowed, self._work.borrowed = self._work.borrowed, []
        for participant, session in borrowed:
            self._coordinator.give_back(participant, session)
