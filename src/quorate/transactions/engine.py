"""What the coordinator for event loops and the one for threads have in common: names, participants, and a transaction's course from its begin to its end."""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.transactions import gtid as gtids
from quorate.transactions.commit import Ended, Part, abort, apply, commit
from quorate.transactions.drivers import session_for
from quorate.transactions.errors import Aborted, HeuristicOutcome, InDoubt, NotYetApplied
from quorate.transactions.flow import Flow, ask
from quorate.transactions.kv import STORE, Kv
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs.kv import KvLog, Riding
from quorate.transactions.metrics import Metrics
from quorate.transactions.participant import Branch
from quorate.transactions.records import Record
from quorate.transactions.recovery import Report, sweep
from quorate.transactions.riding import Rider
from quorate.transactions.sql.session import Session

log = logging.getLogger("quorate.transactions")

ACKNOWLEDGE = ("applied", "decided")
ACTIVE, COMMITTING, COMMITTED, ABORTED, IN_DOUBT = "active", "committing", "committed", "aborted", "in doubt"
SWEEP_SECONDS = 10.0
_METHODS = ("prepare", "commit", "rollback", "recover", "fence", "outcome")


class Engine:
    def __init__(
        self,
        decisions: DecisionLog,
        participants: Iterable[Any],
        space: str,
        timeout: float,
        acknowledge: str,
        sweep_every: float | None,
        keep: float,
        asynchronous: bool = True,
    ) -> None:
        self.log = decisions
        self.asynchronous = asynchronous
        self.space = gtids.check_space(space)
        self.timeout = timeout
        self.early = _early(acknowledge)
        self.sweep_every = sweep_every
        self.keep = keep
        self.by = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.participants: dict[str, Any] = {}
        self.metrics = Metrics()
        for participant in participants:
            self.register(participant)
        self.store: Kv | None = None
        """The store that the decisions lie in, for what is in other shards of it."""
        if isinstance(decisions, KvLog):
            self.store = Kv(STORE, decisions.client, decisions)
            self.register(self.store)

    def register(self, participant: Any) -> None:
        lacking = [method for method in _METHODS if not callable(getattr(participant, method, None))]
        if lacking:
            raise UsageError(f"{participant!r} is no participant: it has no {', '.join(lacking)}")
        name = gtids.check_name(participant.name)
        if self.participants.get(name, participant) is not participant:
            raise UsageError(f"there are two participants named {name!r}")
        if hasattr(participant, "attach"):
            participant.attach(self.asynchronous)
        self.participants[name] = participant

    def new_gtid(self, timeout: float | None) -> gtids.Gtid:
        seconds = self.timeout if timeout is None else timeout
        return gtids.new(self.space, time.time(), seconds, secrets.randbits(gtids.RANDOM_BITS))

    def find(self, what: Any, resource: Any) -> tuple[Any, Session | None]:
        """The participant, and the session of the connection that was given, if one was. Raises UsageError."""
        if isinstance(what, str):
            return self.named(what), None
        if any(what is participant for participant in self.participants.values()):
            return what, None
        if all(callable(getattr(what, method, None)) for method in _METHODS):
            raise UsageError(
                f"the participant {what.name!r} is not one of the coordinator's: recovery would not find its branches; give it to the Coordinator"
            )
        kind, session = session_for(what)
        if resource is not None:
            participant = self.named(resource) if isinstance(resource, str) else resource
            if getattr(participant, "kind", kind) != kind:
                raise UsageError(f"the connection is of {kind}, and {participant.name!r} is {participant.kind}")
            return participant, session
        fitting = [
            participant
            for participant in self.participants.values()
            if getattr(participant, "kind", None) == kind and participant.is_where(what)
        ]
        if len(fitting) != 1:
            known = ", ".join(sorted(self.participants)) or "none"
            how = (
                "none of the coordinator's participants is"
                if not fitting
                else "several of the coordinator's participants are"
            )
            raise UsageError(
                f"{how} the {kind} database that this connection is of, so that recovery would not know where to look; "
                f"name it: enlist(connection, resource=…), one of {known}"
            )
        return fitting[0], session

    def named(self, name: str) -> Any:
        try:
            return self.participants[name]
        except KeyError:
            known = ", ".join(sorted(self.participants)) or "none"
            raise UsageError(f"there is no participant {name!r}; the coordinator has {known}") from None

    # ---- recovery

    def sweep(self, now: Callable[[], float] = time.time) -> Flow[Report | None]:
        """A round of recovery; None if somebody else had one just now. Raises QuorateError."""
        if self.sweep_every is not None:
            claimed = yield from ask("sweep log: claim", self.log, "claim_sweep", self.by, now(), self.sweep_every)
            if not claimed:
                return None
        return (yield from self.sweep_now())

    def sweep_now(self) -> Flow[Report]:
        report = yield from sweep(self.participants, self.log, self.space, self.by, keep=self.keep)
        self.metrics.swept(report)
        told = [
            *[(logging.WARNING, "recovery committed %s at %s", of, at) for of, at in report.committed],
            *[(logging.WARNING, "recovery rolled %s back at %s", of, at) for of, at in report.aborted],
            *[
                (logging.ERROR, f"%s was {what} at %s, against its decision", of, at)
                for of, at, what in report.heuristic
            ],
            *[
                (logging.ERROR, "%s is committed, and whether it is at %s cannot be told", of, at)
                for of, at in report.unknown
            ],
        ]
        for level, message, gtid, participant in told:
            log.log(level, message, gtid, participant, extra={"gtid": gtid, "participant": participant})
        for participant, why in report.unreachable.items():
            log.warning("recovery cannot reach %s: %s", participant, why, extra={"participant": participant})
        return report


class Work:
    """One transaction. ``rider``: what it has in the store that the decisions lie in."""

    def __init__(self, engine: Engine, gtid: gtids.Gtid, early: bool) -> None:
        self.engine = engine
        self.gtid = gtid
        self.early = early
        self.state = ACTIVE
        self.parts: list[Part] = []
        self.borrowed: list[tuple[Any, Session]] = []
        """Sessions that were opened for this transaction."""
        self.rider: Rider | None = None

    def left(self) -> float:
        """Seconds until the time is up. Raises Aborted."""
        left = self.gtid.deadline - time.time()
        if left <= 0:
            raise Aborted(self.gtid.text, "the time is up")
        return left

    def check_active(self) -> None:
        if self.state != ACTIVE:
            raise UsageError(f"transaction {self.gtid.text} is {self.state}: nothing can be done in it any more")

    def find(self, what: Any, resource: Any) -> tuple[Any, Session | None, Part | None]:
        """The participant, the session, and the part if it is enlisted already."""
        self.check_active()
        participant, session = self.engine.find(what, resource)
        for part in self.parts:
            if part.participant is participant:
                known = participant.session_of(part.branch) if hasattr(participant, "session_of") else None
                if session is None or (known is not None and known.connection is session.connection):
                    return participant, known, part
                raise UsageError(f"{participant.name} takes part already, with another connection")
        return participant, session, None

    def begin(self, participant: Any, session: Session | None) -> Flow[Any]:
        """Start the participant's branch; what its ``begin`` gives back."""
        branch = Branch(self.gtid, participant.name)
        given = None
        if session is not None:
            yield from participant.begin(branch, session, self.left())
            given = session.connection
        elif hasattr(participant, "begin"):
            given = yield from ask(f"{participant.name}: begin", participant, "begin", branch)
        self.parts.append(Part(branch, participant, given))
        return given

    def commit(self) -> Flow[Ended]:
        """Raises what ``commit.commit`` does."""
        self.check_active()
        self.state = COMMITTING
        started = time.perf_counter()
        metrics = self.engine.metrics
        applying_later = False
        try:
            riding = yield from self._riding()
            ended = yield from commit(self.gtid, self.parts, self.engine.log, self.engine.by, riding, self.early)
            self.state = COMMITTED
            applying_later = not ended.applied
            metrics.committed(time.perf_counter() - started)
            return ended
        except Aborted as error:
            self.state = ABORTED
            metrics.aborted()
            log.info("aborted: %s", error, extra={"gtid": self.gtid.text})
            raise
        except NotYetApplied as error:
            self.state = COMMITTED
            metrics.in_doubt()
            log.warning("%s", error, extra={"gtid": self.gtid.text})
            raise
        except HeuristicOutcome as error:
            self.state = COMMITTED
            metrics.heuristic()
            log.error("%s", error, extra={"gtid": self.gtid.text})
            raise
        except InDoubt as error:
            self.state = IN_DOUBT
            metrics.in_doubt()
            log.warning("%s", error, extra={"gtid": self.gtid.text})
            raise
        except BaseException:
            self.state = IN_DOUBT
            raise
        finally:
            if not applying_later:
                self.let_go()

    def _riding(self) -> Flow[Riding | None]:
        """What is written with the decision; what is in other shards is a branch. Raises Aborted."""
        store = self.engine.store
        if self.rider is None or store is None:
            return None
        branch = Branch(self.gtid, store.name)
        try:
            riding, more = yield from ask(f"{store.name}: shards", store, "ride", branch, self.rider)
        except QuorateError as error:
            yield from abort(self.parts)
            raise Aborted(self.gtid.text, f"{store.name}: {error}") from error
        if more:
            self.parts.append(Part(branch, store))
        found: Riding | None = riding
        return found

    def apply(self, ended: Ended) -> Flow[Record | None]:
        """What was left for after the decision. The record, if all have followed."""
        assert ended.decided is not None
        try:
            yield from apply(ended.decided, ended.parts)
        except (NotYetApplied, HeuristicOutcome) as error:
            log.warning("%s", error, extra={"gtid": self.gtid.text})
            return None
        finally:
            self.let_go()
        return ended.decided

    def rollback(self) -> Flow[None]:
        self.state = ABORTED
        self.engine.metrics.aborted()
        try:
            yield from abort(self.parts)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Connections that still hold a branch are broken off, so that recovery can end it."""
        for part in self.parts:
            if hasattr(part.participant, "let_go"):
                part.participant.let_go(part.branch)


def _early(acknowledge: str) -> bool:
    if acknowledge not in ACKNOWLEDGE:
        raise UsageError(f"acknowledge is {acknowledge!r}, expected one of {', '.join(ACKNOWLEDGE)}")
    return acknowledge == "decided"


def early_of(engine: Engine, acknowledge: str | None) -> bool:
    return engine.early if acknowledge is None else _early(acknowledge)


def finished(record: Record) -> Record:
    """The record that says that all have followed."""
    return Record(
        record.gtid, record.decision, record.branches, record.at, record.by, record.reason, True, record.heuristic
    )
