"""What the coordinator for event loops and the one for threads have in common: names, participants, and a transaction's course from its begin to its end."""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quorate.errors import QuorateError, UsageError
from quorate.transactions import gtid as gtids
from quorate.transactions.commit import Ended, Part, abort, apply, commit, commit_prepared, give_up, prepare
from quorate.transactions.drivers import session_for
from quorate.transactions.errors import Aborted, HeuristicOutcome, NotYetApplied, TransactionError
from quorate.transactions.flow import Done, Flow, ask, side_by_side
from quorate.transactions.kv import STORE, Kv
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs.kv import KvLog
from quorate.transactions.metrics import Metrics
from quorate.transactions.observing import Observer, observed
from quorate.transactions.participant import Branch
from quorate.transactions.records import Decision, Record
from quorate.transactions.recovery import Report, sweep
from quorate.transactions.riding import Rider, ZnodeRider
from quorate.transactions.sql.session import Session
from quorate.transactions.survey import why_foreign_name
from quorate.transactions.tracing import trace_of

log = logging.getLogger("quorate.transactions")

ACKNOWLEDGE = ("applied", "decided")
ACTIVE, COMMITTING, COMMITTED, ABORTED, IN_DOUBT = "active", "committing", "committed", "aborted", "in doubt"
PREPARED = "prepared"
OPEN = (ACTIVE, PREPARED)
SWEEP_SECONDS = 10.0
MEASURE_SECONDS = 5.0
APPLYING_MAX = 16
"""Transactions that are decided and acknowledged, and not applied yet; each has its connections still."""
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
        self.pid = os.getpid()
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
        if os.getpid() != self.pid:
            raise UsageError(
                "the coordinator was made before this process was forked off, and its connections are the other process's; make one in each process"
            )
        seconds = self.timeout if timeout is None else timeout
        return gtids.new(self.space, time.time(), seconds, secrets.randbits(gtids.RANDOM_BITS))

    def find(self, what: Any, resource: Any) -> tuple[Any, Session | None]:
        """The participant, and the session of the connection that was given, if one was. Raises UsageError."""
        if isinstance(what, str):
            return self.named(what), None
        if any(what is participant for participant in self.participants.values()):
            return what, None
        if all(callable(getattr(what, method, None)) for method in _METHODS):
            raise _stranger(what)
        kind, session = session_for(what)
        if resource is not None:
            participant = self.named(resource) if isinstance(resource, str) else resource
            if all(participant is not own for own in self.participants.values()):
                raise _stranger(participant)
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
        try:
            report = yield from sweep(self.participants, self.log, self.space, self.by, keep=self.keep)
        except QuorateError:
            self.metrics.sweep_failed()
            raise
        # of several databases on one server each lists the others' branches too
        report.foreign = [
            (participant, name)
            for participant, name in report.foreign
            if why_foreign_name(name, self.participants, self.space) is not None
        ]
        self.metrics.swept(report, self.participants, (yield from self._measure(report)))
        told = [
            *[(logging.WARNING, "recovery committed %s at %s", of, at) for of, at in report.committed],
            *[(logging.WARNING, "recovery rolled %s back at %s", of, at) for of, at in report.aborted],
            *[
                (logging.ERROR, f"%s was {what} at %s, against its decision", of, at)
                for of, at, what in report.heuristic
            ],
            *[
                (logging.ERROR, "%s is decided, and whether %s has followed cannot be told", of, at)
                for of, at in report.unknown
            ],
        ]
        for level, message, gtid, participant in told:
            log.log(level, message, gtid, participant, extra={"gtid": gtid, "participant": participant})
        for why in report.unreadable:
            log.error("the decision log holds something that is no record: %s", why)
        for participant, why in report.unreachable.items():
            log.warning("recovery cannot reach %s: %s", participant, why, extra={"participant": participant})
        return report

    def _measure(self, report: Report) -> Flow[dict[str, Mapping[str, float]]]:
        """What participants that can be reached tell of themselves."""
        listing = {name for _, name, _ in report.in_doubt}
        names = [
            name
            for name, participant in self.participants.items()
            if (name not in report.unreachable or name in listing) and hasattr(participant, "measure")
        ]
        results = yield from side_by_side(
            [ask(f"sweep {name}: measure", self.participants[name], "measure") for name in names], MEASURE_SECONDS
        )
        return {name: result.value for name, result in zip(names, results, strict=True) if isinstance(result, Done)}


class Work:
    """One transaction. ``rider``: what it has in the store that the decisions lie in."""

    def __init__(self, engine: Engine, gtid: gtids.Gtid, early: bool) -> None:
        self.engine = engine
        self.gtid = gtid
        self.early = early
        self.state = ACTIVE
        self.busy = False
        """Its sessions are in use for its end."""
        self._ending = threading.Lock()
        self.parts: list[Part] = []
        self.voted_yes: list[Part] = []
        """Once it is prepared."""
        self.borrowed: list[tuple[Any, Session]] = []
        """Sessions that were opened for this transaction."""
        self._lent: list[Part] = []
        """Those with connections of the caller's, which are his again when the commit returns."""
        self.rider: Rider | ZnodeRider | None = None
        self._riding: Any = None
        """What of it rides in the decision, once that is known."""
        self.cause: BaseException | None = None
        """What ended the program's block, if it is rolled back."""
        self._observer = Observer(engine.metrics, trace_of(gtid.text))

    def left(self) -> float:
        """Seconds until the time is up. Raises Aborted."""
        left = self.gtid.deadline - time.time()
        if left <= 0:
            raise Aborted(self.gtid.text, "the time is up")
        return left

    def check_active(self) -> None:
        self._check(ACTIVE)

    def check_open(self) -> None:
        """It is neither ended nor about to be."""
        self._check(*OPEN)

    def _check(self, *states: str) -> None:
        if self.state not in states:
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
        part = Part(branch, participant)
        given = None
        if session is not None:
            yield from participant.begin(branch, session, self.left())
            given = session.connection
            if all(session is not own for _, own in self.borrowed):
                self._lent.append(part)
        elif hasattr(participant, "begin"):
            given = yield from ask(f"{participant.name}: begin", participant, "begin", branch)
        part.given = given
        self.parts.append(part)
        warnings: list[str] = getattr(participant, "warnings", [])
        while warnings:
            log.warning("%s", warnings.pop(), extra={"participant": participant.name})
        return given

    def _leave_open(self, state: str) -> str:
        """Of several who want to end it, on several threads or tasks, one may. The state it was in. Raises UsageError."""
        with self._ending:
            self.check_open()
            before, self.state = self.state, state
            self.busy = True
        return before

    def prepare(self) -> Flow[None]:
        """The first half of a commit that somebody else has a part in: all have voted, and nothing more can be done in it. ``commit`` or ``rollback``
        has to follow. Raises Aborted, HeuristicOutcome."""
        with self._ending:
            self.check_active()
            self.state = COMMITTING
            self.busy = True
        started = time.perf_counter()
        try:
            yield from self._share()
            flow = prepare(self.gtid, self.parts, self.engine.log, self.engine.by)
            self.voted_yes = yield from observed(flow, self._observer)
        except BaseException as error:
            # only a decision could commit it, and nobody but us would write that
            outcome = "heuristic" if isinstance(error, HeuristicOutcome) else "aborted"
            self._ended(ABORTED, outcome, started, error, logging.INFO)
            self.let_go()
            raise
        self.state = PREPARED

    def _hand_back(self) -> bool:
        """Whether the caller's connections could be given back at the decision: those that their branches are bound to cannot."""
        return not any(getattr(part.participant, "bound_to_session", False) for part in self._lent)

    def commit(self) -> Flow[Ended]:
        """Of one that is prepared the second half. Raises what ``commit.commit`` does."""
        ended = yield from self._commit(self.early and self._hand_back())
        if not ended.applied:
            for part in self._lent:
                if hasattr(part.participant, "let_go"):
                    part.participant.let_go(part.branch)
        return ended

    def decide(self) -> Flow[Ended]:
        """The same, but that the caller applies it, before he gives connections back. Raises Aborted, InDoubt."""
        return (yield from self._commit(True))

    def _commit(self, early: bool) -> Flow[Ended]:
        decisions, by = self.engine.log, self.engine.by
        was_prepared = self._leave_open(COMMITTING) == PREPARED
        started = time.perf_counter()
        applying_later = False
        try:
            if not was_prepared:
                yield from self._share()
            riding = self._riding
            if was_prepared:
                flow = commit_prepared(self.gtid, self.voted_yes, decisions, by, riding, early)
            else:
                flow = commit(self.gtid, self.parts, decisions, by, riding, early)
            ended = yield from observed(flow, self._observer)
            self._ended(COMMITTED, "committed", started, None, logging.DEBUG)
            applying_later = not ended.applied
            return ended
        except Aborted as error:
            self._ended(ABORTED, "aborted", started, error, logging.INFO)
            raise
        except NotYetApplied as error:
            self._ended(COMMITTED, "not yet applied", started, error, logging.WARNING)
            raise
        except HeuristicOutcome as error:
            state = COMMITTED if error.decision == Decision.COMMIT.value else ABORTED
            self._ended(state, "heuristic", started, error, logging.ERROR)
            raise
        except BaseException as error:
            self._ended(IN_DOUBT, "in doubt", started, error, logging.WARNING)
            raise
        finally:
            if not applying_later:
                self.let_go()

    def _share(self) -> Flow[None]:
        """What of the log's own store rides in the decision, and what is in other shards of it and becomes a branch. Raises Aborted."""
        store = self.engine.store
        if isinstance(self.rider, ZnodeRider):
            self._riding = self.rider.riding()
        elif self.rider is not None and store is not None:
            branch = Branch(self.gtid, store.name)
            try:
                self._riding, more = yield from ask(f"{store.name}: shards", store, "ride", branch, self.rider)
            except QuorateError as error:
                yield from abort(self.parts)
                raise Aborted(self.gtid.text, f"{store.name}: {error}") from error
            if more:
                self.parts.append(Part(branch, store))

    def _ended(self, state: str, outcome: str, started: float | None, error: BaseException | None, level: int) -> None:
        """What the program is told, counted, logged and traced."""
        self.state = state
        seconds = None if started is None else time.perf_counter() - started
        self.engine.metrics.ended(outcome, seconds)
        if isinstance(error, HeuristicOutcome):
            self.engine.metrics.heuristic(self.gtid.text, error.others)
        if self._observer.trace is not None:
            self._observer.trace.ended(outcome, error)
        if log.isEnabledFor(level):
            told = error if isinstance(error, TransactionError) else f"transaction {self.gtid}: {outcome}"
            log.log(
                level,
                "%s",
                told,
                extra={
                    "gtid": self.gtid.text,
                    "outcome": outcome,
                    "seconds": seconds,
                    "participants": [part.name for part in self.parts],
                },
            )

    def apply(self, ended: Ended) -> Flow[Record | None]:
        """What was left for after the decision. The record, if all have followed."""
        assert ended.decided is not None
        try:
            yield from observed(apply(ended.decided, ended.parts, self.engine.log), self._observer)
        except (NotYetApplied, HeuristicOutcome) as error:
            level = logging.WARNING
            if isinstance(error, HeuristicOutcome):
                level = logging.ERROR
                self.engine.metrics.heuristic(self.gtid.text, error.others)
            log.log(level, "%s", error, extra={"gtid": self.gtid.text})
            return None
        finally:
            self.let_go()
        return ended.decided

    def rollback(self) -> Flow[None]:
        """Raises HeuristicOutcome, if somebody has committed by hand what was prepared."""
        was_prepared = self._leave_open(ABORTED) == PREPARED
        self._ended(ABORTED, "aborted", None, self.cause, logging.DEBUG)
        flow: Flow[Any] = abort(self.parts)
        if was_prepared:
            flow = give_up(self.gtid, self.voted_yes, self.engine.log, self.engine.by, "its program rolled it back")
        try:
            yield from observed(flow, self._observer)
        except HeuristicOutcome as error:
            self.engine.metrics.heuristic(self.gtid.text, error.others)
            log.error("%s", error, extra={"gtid": self.gtid.text})
            raise
        finally:
            self.let_go()

    def enter(self) -> None:
        """The program's block begins."""
        self.engine.metrics.begun()
        if self._observer.trace is not None:
            self._observer.trace.enter()

    def leave(self) -> None:
        if self._observer.trace is not None:
            self._observer.trace.leave()

    def let_go(self) -> None:
        """Connections that still hold a branch are broken off, so that recovery can end it."""
        for part in self.parts:
            if hasattr(part.participant, "let_go"):
                part.participant.let_go(part.branch)
        self.busy = False


def _stranger(participant: Any) -> UsageError:
    name = getattr(participant, "name", participant)
    return UsageError(
        f"the participant {name!r} is not one of the coordinator's: recovery would not find its branches; give it to the Coordinator"
    )


def _early(acknowledge: str) -> bool:
    if acknowledge not in ACKNOWLEDGE:
        raise UsageError(f"acknowledge is {acknowledge!r}, expected one of {', '.join(ACKNOWLEDGE)}")
    return acknowledge == "decided"


def early_of(engine: Engine, acknowledge: str | None) -> bool:
    return engine.early if acknowledge is None else _early(acknowledge)


def finished(record: Record) -> Record:
    """The record that says that all have followed."""
    return Record(
        record.gtid, record.decision, record.branches, record.at, record.by, record.reason, True, record.heuristic, record.resolved
    )  # fmt: skip
