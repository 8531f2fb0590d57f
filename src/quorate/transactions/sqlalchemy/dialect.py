"""What the dialect of an engine does otherwise once a coordinator has a part in it.

The dialect object is given a class made of its own and ``Coordinated``, so that the engine, its pool and all engines derived from it by
``execution_options`` are of one mind. It overrides the methods that SQLAlchemy documents for dialects to override: those of two-phase transactions;
``do_commit`` and ``do_rollback``, which must not end a coordinator's branch; ``do_execute``, which begins the branch of a Connection's own
two-phase transaction, for whether it is a Session's is known only after ``begin_twophase`` (``listeners``).

Two-phase transactions whose xid the user chose are left as SQLAlchemy makes them.
"""

from typing import Any, cast

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.default import DefaultDialect

from quorate.errors import UsageError
from quorate.transactions import aio, drivers, sync
from quorate.transactions.databases import same_place
from quorate.transactions.gtid import Gtid, parse
from quorate.transactions.records import Decision
from quorate.transactions.sqlalchemy import byhand
from quorate.transactions.sqlalchemy.unit import (
    KEY,
    Coordinator,
    Seat,
    Transaction,
    TwoPhase,
    Unit,
    check_kind,
    seat_of,
)

_KINDS = {"postgresql": drivers.POSTGRES, "mysql": drivers.MARIADB, "mariadb": drivers.MARIADB}


class Binding:
    """Whose decisions an engine follows, and under which name recovery finds its branches."""

    __slots__ = ("coordinator", "participant", "timeout")

    def __init__(self, coordinator: Coordinator, participant: Any, timeout: float | None) -> None:
        self.coordinator = coordinator
        self.participant = participant
        self.timeout = timeout

    def xid(self, gtid: Gtid) -> str:
        return f"{gtid.text}/{self.participant.name}"

    def gtid(self, xid: object) -> Gtid | None:
        """None if the xid is none of a branch of this engine's."""
        text, _, name = str(xid).rpartition("/")
        return parse(text) if name == self.participant.name else None

    def new_transaction(self, gtid: Gtid) -> Transaction:
        coordinator = self.coordinator
        coordinator.engine.metrics.begun()
        if isinstance(coordinator, aio.Coordinator):
            return aio.Transaction(coordinator, gtid, False)
        return sync.Transaction(coordinator, gtid, False)


class Coordinated(DefaultDialect):
    """Comes before the dialect's own class."""

    quorate: Binding | None = None

    # ---- two-phase transactions

    def create_xid(self) -> Any:
        binding = self.quorate
        if binding is None:
            return super().create_xid()  # type: ignore[no-untyped-call]  # SQLAlchemy has no types there
        return binding.xid(binding.coordinator.engine.new_gtid(binding.timeout))

    def do_begin_twophase(self, connection: Connection, xid: Any) -> None:
        if self.quorate is None or self.quorate.gtid(xid) is None:
            super().do_begin_twophase(connection, xid)
        else:
            Seat(connection, xid)

    def do_prepare_twophase(self, connection: Connection, xid: Any) -> None:
        seat = seat_of(connection, xid)
        if seat is None:
            super().do_prepare_twophase(connection, xid)
            return
        self._unit(connection, seat).prepare()

    def do_commit_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        seat = seat_of(connection, xid)
        if seat is not None:
            try:
                self._unit(connection, seat).commit(seat)
            finally:
                seat.leave()
        elif not self._by_hand(Decision.COMMIT, xid):
            super().do_commit_twophase(connection, xid, is_prepared, recover)

    def do_rollback_twophase(
        self, connection: Connection, xid: Any, is_prepared: bool = True, recover: bool = False
    ) -> None:
        seat = seat_of(connection, xid)
        if seat is not None:
            self._roll_back(connection.connection, seat)
        elif not self._by_hand(Decision.ABORT, xid):
            super().do_rollback_twophase(connection, xid, is_prepared, recover)

    def do_recover_twophase(self, connection: Connection) -> list[Any]:
        """What is prepared here by this engine's name, and what is not a coordinator's at all."""
        listed = super().do_recover_twophase(connection)
        binding = self.quorate
        if binding is None:
            return listed
        texts = [xid.decode("utf-8", "replace") if isinstance(xid, bytes) else str(xid) for xid in listed]
        foreign = [xid for xid, text in zip(listed, texts, strict=True) if parse(text.partition("/")[0]) is None]
        return [*byhand.prepared(binding.coordinator, binding.participant), *foreign]

    def _by_hand(self, decision: Decision, xid: Any) -> bool:
        """Whether the xid is that of a branch of ours."""
        gtid = None if self.quorate is None else self.quorate.gtid(xid)
        if self.quorate is None or gtid is None:
            return False
        byhand.resolve(self.quorate.coordinator, gtid, decision)
        return True

    def _unit(self, connection: Connection, seat: Seat) -> Unit:
        """A connection that no Session has taken up by now is one by itself."""
        unit = seat.unit
        if unit is None:
            binding = self.quorate
            assert binding is not None
            gtid = binding.gtid(seat.xid)
            assert gtid is not None
            unit = TwoPhase(binding.coordinator, binding.new_transaction(gtid))
            unit.take(seat, connection, binding.participant)
        elif seat.part is None:
            # it could not be begun
            unit.check()
        return unit

    # ---- statements

    def do_execute(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        self._at_work(context)
        super().do_execute(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]  # see create_xid

    def do_executemany(self, cursor: Any, statement: Any, parameters: Any, context: Any = None) -> None:
        self._at_work(context)
        super().do_executemany(cursor, statement, parameters, context)  # type: ignore[no-untyped-call]  # see create_xid

    def do_execute_no_params(self, cursor: Any, statement: Any, context: Any = None) -> None:
        self._at_work(context)
        super().do_execute_no_params(cursor, statement, context)  # type: ignore[no-untyped-call]  # see create_xid

    def _at_work(self, context: Any) -> None:
        if context is None:
            return
        seat = seat_of(context.root_connection)
        if seat is not None and seat.part is None:
            self._unit(context.root_connection, seat)

    # ---- the ends of other transactions

    def do_commit(self, dbapi_connection: Any) -> None:
        seat = _seat_at(dbapi_connection)
        if seat is None:
            super().do_commit(dbapi_connection)  # type: ignore[no-untyped-call]  # see create_xid
            return
        try:
            if seat.unit is not None:
                seat.unit.commit(seat)
        finally:
            seat.leave()

    def do_rollback(self, dbapi_connection: Any) -> None:
        seat = _seat_at(dbapi_connection)
        if seat is None:
            super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]  # see create_xid
        else:
            self._roll_back(dbapi_connection, seat)

    def _roll_back(self, dbapi_connection: Any, seat: Seat) -> None:
        try:
            if seat.unit is not None:
                seat.unit.rollback(seat)
        finally:
            seat.leave()
        if seat.part is None:
            # nothing was begun, but maybe by a cursor of the driver's own
            self.do_rollback(dbapi_connection)


def _seat_at(fairy: Any) -> Seat | None:
    """Of what the pool handed out."""
    try:
        seat: Seat | None = fairy.info.get(KEY)
    except NotImplementedError:
        # SQLAlchemy looks at the first connection of an engine before its pool has it
        return None
    if seat is None or seat.is_of(fairy):
        return seat
    del fairy.info[KEY]
    seat.abandon()
    return None


def _closed(dbapi_connection: Any, record: Any) -> None:
    seat: Seat | None = record.info.get(KEY)
    if seat is not None:
        seat.lost()


_classes: dict[type[Any], type[Any]] = {}


def install(engine: Engine) -> Coordinated:
    """The engine's dialect, made to leave a coordinator's branches alone. Changes nothing for connections that take no part."""
    dialect = engine.dialect
    if not isinstance(dialect, Coordinated):
        own = type(dialect)
        if own not in _classes:
            _classes[own] = type(
                own.__name__, (Coordinated, own), {"supports_statement_cache": own.supports_statement_cache}
            )
        dialect.__class__ = _classes[own]
    if not event.contains(engine.pool, "close", _closed):
        event.listen(engine.pool, "close", _closed)
    return cast(Coordinated, dialect)


def bind(coordinator: Coordinator, engine: Any, participant: Any = None, *, timeout: float | None = None) -> Any:
    """Make ``coordinator`` decide the two-phase transactions of ``engine`` (an Engine or AsyncEngine), which is given back. ``participant``: the coordinator's, or
    its name, that is this engine's database; may be left out if that can be seen from the engine's URL. ``timeout``: seconds, of its
    transactions; by default the coordinator's.

    Raises UsageError.
    """
    blocking: Engine = getattr(engine, "sync_engine", engine)
    check_kind(coordinator, blocking.dialect)
    chosen = _participant(coordinator, blocking, participant)
    dialect = install(blocking)
    known = dialect.quorate
    if known is not None and (known.coordinator is not coordinator or known.participant is not chosen):
        raise UsageError(f"the engine {blocking.url!r} is bound already, as {known.participant.name!r}")
    coordinator.engine.new_gtid(timeout)
    dialect.quorate = Binding(coordinator, chosen, timeout)
    return engine


def _participant(coordinator: Coordinator, engine: Engine, participant: Any) -> Any:
    known = coordinator.engine.participants
    kind = _KINDS.get(engine.dialect.name)
    if kind is None:
        raise UsageError(f"an engine of {engine.dialect.name} cannot be bound, expected one of PostgreSQL or MariaDB")
    if participant is not None:
        chosen = coordinator.engine.named(participant) if isinstance(participant, str) else participant
        if not any(chosen is one for one in known.values()):
            raise UsageError(f"the participant {chosen.name!r} is not one of the coordinator's")
        if getattr(chosen, "kind", kind) != kind:
            raise UsageError(f"the engine is of {kind}, and {chosen.name!r} is {chosen.kind}")
        return chosen
    url = engine.url
    port = url.port or (5432 if kind == drivers.POSTGRES else 3306)
    place = (url.host or "", port, url.database or (url.username or "" if kind == drivers.POSTGRES else ""))
    fitting = [one for one in known.values() if getattr(one, "kind", None) == kind and same_place(one.where, place)]
    if len(fitting) != 1:
        raise UsageError(
            f"which participant {url!r} is cannot be told; name it: bind(engine, …), one of {', '.join(sorted(known)) or 'none'}"
        )
    return fitting[0]
