"""The coordinator for asyncio.

orders = Postgres("orders", "host=db1 dbname=shop user=app")
stock = MariaDB("stock", host="db2", database="shop", user="app")

async with Coordinator("127.0.0.1:7002", [orders, stock]) as coordinator:
    async with coordinator.transaction(timeout=5) as tx:
        connection = await tx.enlist(orders)
        await connection.execute("insert into orders …")
        connection = await tx.enlist(stock)
        async with connection.cursor() as cursor:
            await cursor.execute("update stock set …")
    # here it is committed everywhere, or an exception says that it is nowhere, or names it as in doubt
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quorate.errors import QuorateError, UsageError
from quorate.kv.client.aio import Client
from quorate.transactions import config
from quorate.transactions.commit import Ended
from quorate.transactions.drivers import is_sqlalchemys
from quorate.transactions.drivers.kazoo import SCHEME
from quorate.transactions.engine import APPLYING_MAX, OPEN, SWEEP_SECONDS, Engine, Work, early_of, finished
from quorate.transactions.flow import ask
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.logs.local import LocalLog
from quorate.transactions.logs.zookeeper import ZooKeeperLog
from quorate.transactions.records import Record
from quorate.transactions.recovery import KEEP_SECONDS, Report
from quorate.transactions.riding import AsyncKv, log_for
from quorate.transactions.shells.aio import Shell, Watch, _nobody, _seen
from quorate.transactions.sql.session import Session
from quorate.transactions.znodes import AsyncZnodes

if TYPE_CHECKING:
    from quorate.transactions.sqlalchemy.enlisted import Enlisted

log = logging.getLogger("quorate.transactions")
_CLOSE_SECONDS = 5.0
_BATCH_SECONDS = 0.1
_IDLE_MAX = 64


class Coordinator:
    """``decisions``: the address of a store's member, of a ZooKeeper ensemble (``zookeeper://host:port,host:port/chroot``), the path of a file, or a
    DecisionLog. ``participants``: all that may take part, for recovery looks
    after each of them. ``space``: a name that all who share these databases and decisions use. ``timeout``: seconds, of a transaction.
    ``acknowledge``: "applied" (a commit returns when every participant has committed) or "decided" (when it is sure that they will).
    ``sweep_every``: seconds between rounds of recovery, of all coordinators together; None: this one makes none by itself.

    Raises UsageError, StorageError.
    """

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
        elif isinstance(decisions, str) and decisions.startswith(SCHEME):
            chosen = ZooKeeperLog(decisions, space)
        elif isinstance(decisions, str):
            self._client = Client(decisions)
            chosen = KvLog(self._client, space)
        else:
            chosen = decisions
        self.engine = Engine(chosen, participants, space, timeout, acknowledge, sweep_every, keep)
        self.shell = Shell(watch)
        self._owns_log = chosen is not decisions
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._followed: list[Record] = []
        self._noting: asyncio.Task[None] | None = None
        self._idle: dict[str, list[Session]] = {}
        self.applying = 0
        self._closed = False

    @classmethod
    def from_file(cls, file: str | Path, **options: Any) -> "Coordinator":
        """As the file says (``config``), but for ``options``. Raises ConfigError, and what making one does."""
        return cls(**config.load(file).options(options))

    @property
    def metrics(self) -> Any:
        return self.engine.metrics

    async def __aenter__(self) -> "Coordinator":
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to sweep. Transactions can do without."""
        if self._sweeper is None and self.engine.sweep_every is not None:
            self._sweeper = asyncio.create_task(self._sweep_always(self.engine.sweep_every))

    async def close(self) -> None:
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        await self._note()
        for sessions in self._idle.values():
            for session in sessions:
                closing = session.close()
                if asyncio.iscoroutine(closing):
                    await closing
        for participant in self.engine.participants.values():
            if hasattr(participant, "pool"):
                participant.pool.close()
            if hasattr(participant, "detach"):
                closing = participant.detach()
                if asyncio.iscoroutine(closing):
                    await closing
        if self._owns_log:
            await asyncio.to_thread(self.engine.log.close)
        if self._client is not None:
            await self._client.close()

    # ---- transactions

    def transaction(self, timeout: float | None = None, *, acknowledge: str | None = None) -> "Transaction":
        """For ``async with``."""
        return Transaction(self, self.engine.new_gtid(timeout), early_of(self.engine, acknowledge))

    def bind(self, engine: Any, participant: Any = None, *, timeout: float | None = None) -> Any:
        """Make this coordinator decide the two-phase transactions of a SQLAlchemy engine, see ``quorate.transactions.sqlalchemy``. The engine."""
        from quorate.transactions.sqlalchemy import bind

        return bind(self, engine, participant, timeout=timeout)

    def in_background(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def session(self, participant: Any) -> Session | None:
        """One for a transaction that was not handed a connection; None for participants that have none."""
        if not hasattr(participant, "connect_async"):
            return None
        idle = self._idle.get(participant.name, [])
        while idle:
            session = idle.pop()
            if session.state() == "idle":
                return session
            session.hang_up()
        made: Session = await participant.connect_async()
        return made

    def give_back(self, participant: Any, session: Session) -> None:
        idle = self._idle.setdefault(participant.name, [])
        if session.state() == "idle" and len(idle) < _IDLE_MAX and not self._closed:
            idle.append(session)
        else:
            session.hang_up()

    def followed(self, record: Record) -> None:
        """All participants have followed: written down when there is time, so that recovery need not ask them."""
        self._followed.append(finished(record))
        if self._noting is None:
            self._noting = self.in_background(self._note_soon())

    async def _note_soon(self) -> None:
        try:
            await asyncio.sleep(_BATCH_SECONDS)
        finally:
            self._noting = None
        await self._note()

    async def _note(self) -> None:
        records, self._followed = self._followed, []
        if not records:
            return
        try:
            await self.shell.run(ask("log: amend", self.engine.log, "amend", records))
        except QuorateError as error:
            # recovery asks the participants instead
            log.info("finished transactions were not noted: %s", error)

    # ---- recovery

    async def sweep(self) -> Report:
        """A round of recovery, now. Raises QuorateError if the decision log cannot be had."""
        return await self.shell.run(self.engine.sweep_now())

    async def _sweep_always(self, every: float) -> None:
        while True:
            try:
                await self.shell.run(self.engine.sweep())
            except QuorateError as error:
                log.warning("no recovery this time: %s", error)
            except Exception:
                log.exception("no recovery this time")
            await asyncio.sleep(every)


async def _shielded(task: "asyncio.Task[Any]") -> None:
    """What comes of it; it goes on if whoever waits is cancelled, and what comes of it then is in the log alone."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_seen)
        raise


class Transaction:
    """Made by ``Coordinator.transaction``. Leaving the block commits, leaving it by an exception rolls back."""

    def __init__(self, coordinator: Coordinator, gtid: Gtid, early: bool) -> None:
        self._coordinator = coordinator
        self._work = Work(coordinator.engine, gtid, early)
        self._kv: AsyncKv | None = None
        self._enlisted: Enlisted | None = None
        self._znodes: AsyncZnodes | None = None
        self._is_forsaken = False
        """Whoever waited for its prepare was cancelled: nobody would end it before its time is up."""

    @property
    def gtid(self) -> str:
        return self._work.gtid.text

    @property
    def state(self) -> str:
        """``active``, ``prepared``, ``committing``, ``committed``, ``aborted`` or ``in doubt``."""
        return self._work.state

    async def __aenter__(self) -> "Transaction":
        self._work.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._work.state not in OPEN:
                return
            if error is None:
                await self.commit()
            else:
                self._work.cause = error
                await self.rollback()
        finally:
            self._work.leave()

    async def enlist(self, what: Any, resource: Any = None) -> Any:
        """Take part with a connection (idle, and the caller's: it is handed back as it was), or with a participant, or with the participant of that name,
        for which a connection is opened. The connection, in the transaction; of other participants what their ``begin`` gives.

        ``resource``: which participant a connection belongs to, where that cannot be seen from it. Raises UsageError, ConfigurationError,
        ParticipantError, Aborted if the time is up. Engines, connections and sessions of SQLAlchemy: see ``quorate.transactions.sqlalchemy``.
        """
        if is_sqlalchemys(what):
            from quorate.transactions.sqlalchemy.enlisted import Enlisted, in_greenlet

            if self._enlisted is None:
                self._enlisted = Enlisted(self)
            return await in_greenlet(self._enlisted.enlist, what, resource)
        work = self._work
        participant, session, part = work.find(what, resource)
        if part is not None:
            return part.given
        if session is None:
            session = await self._coordinator.session(participant)
            if session is not None:
                work.borrowed.append((participant, session))
        return await self._coordinator.shell.run(work.begin(participant, session))

    @property
    def kv(self) -> "AsyncKv":
        """Keys of the store that the decisions lie in, of whatever shards."""
        if self._kv is None:
            self._work.check_active()
            decisions = log_for("kv", KvLog, self._coordinator.engine.log)
            if not isinstance(decisions.client, Client):
                raise UsageError("the decision log's client is of the other kind than the coordinator")
            self._kv = AsyncKv(decisions.client)
            self._work.rider = self._kv.rider
        return self._kv

    async def prepare(self) -> None:
        """The first half of a commit alone: after it the transaction can only be committed or rolled back. Raises Aborted."""
        task = self._coordinator.in_background(self._prepare())
        try:
            await _shielded(task)
        except asyncio.CancelledError:
            self._is_forsaken = True
            raise

    async def _prepare(self) -> None:
        try:
            await self._coordinator.shell.run(self._work.prepare())
        except BaseException:
            self._return_sessions()
            raise
        if self._is_forsaken:
            await self._rollback()

    @property
    def znodes(self) -> "AsyncZnodes":
        """Znodes of the ensemble that the decisions lie in."""
        self._work.check_active()
        if self._znodes is None:
            decisions = log_for("znodes", ZooKeeperLog, self._coordinator.engine.log)
            self._znodes = AsyncZnodes(decisions.ensemble, self._coordinator.shell)
            self._work.rider = self._znodes.rider
        return self._znodes

    async def commit(self) -> None:
        """Raises Aborted, InDoubt, NotYetApplied, HeuristicOutcome."""
        if self._enlisted is None:
            await self.end_by_commit()
        else:
            from quorate.transactions.sqlalchemy.enlisted import in_greenlet

            await in_greenlet(self._enlisted.commit)

    async def end_by_commit(self) -> None:
        """``commit`` without SQLAlchemy's part in it."""
        # whoever is cancelled while it is decided leaves it to its end
        await _shielded(self._coordinator.in_background(self._commit()))

    async def _commit(self) -> None:
        work, shell = self._work, self._coordinator.shell
        try:
            ended: Ended = await shell.run(work.commit())
        except BaseException:
            self._return_sessions()
            raise
        if ended.applied:
            self._return_sessions()
            if ended.decided is not None:
                self._coordinator.followed(ended.decided)
        elif self._coordinator.applying < APPLYING_MAX:
            self._coordinator.in_background(self._apply(ended))
        else:
            # more is decided than can be applied: whoever adds to it waits
            await self._apply(ended)

    async def _apply(self, ended: Ended) -> None:
        self._coordinator.applying += 1
        try:
            record = await self._coordinator.shell.run(self._work.apply(ended))
        except Exception:
            log.exception("%s is committed, and was not applied", self.gtid, extra={"gtid": self.gtid})
            return
        finally:
            self._coordinator.applying -= 1
            self._return_sessions()
        if record is not None:
            self._coordinator.followed(record)

    async def rollback(self) -> None:
        if self._enlisted is None:
            await self.end_by_rollback()
        else:
            from quorate.transactions.sqlalchemy.enlisted import in_greenlet

            await in_greenlet(self._enlisted.rollback)

    async def end_by_rollback(self) -> None:
        """``rollback`` without SQLAlchemy's part in it."""
        await _shielded(self._coordinator.in_background(self._rollback()))

    async def _rollback(self) -> None:
        try:
            await self._coordinator.shell.run(self._work.rollback())
        finally:
            self._return_sessions()

    def _return_sessions(self) -> None:
        """Unless somebody else is ending the transaction with them."""
        while self._work.borrowed and not self._work.busy:
            self._coordinator.give_back(*self._work.borrowed.pop())
