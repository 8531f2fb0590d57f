"""Deliberate bugs in two-phase commit, its adapters, its log and its recovery: each must be noticed, or what the simulation finds in good code means nothing."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from quorate.simulation.mutation import Mutation, Patch
from quorate.simulation.scheduler import MILLISECOND, SECOND
from quorate.simulation.transactions import options as swarm
from quorate.simulation.transactions.servers import PREPARED, Server
from quorate.transactions import commit as commits
from quorate.transactions import recovery
from quorate.transactions.commit import Part
from quorate.transactions.errors import Aborted, InDoubt, UnknownBranch
from quorate.transactions.flow import Flow, ask, now
from quorate.transactions.gtid import Gtid
from quorate.transactions.log import DecisionLog
from quorate.transactions.logs.kv import KvLog, Riding
from quorate.transactions.participant import Branch, Outcome, Vote
from quorate.transactions.records import Decision, Record
from quorate.transactions.sql.mariadb import MariaDBParticipant
from quorate.transactions.sql.postgres import PostgresParticipant, gid
from quorate.transactions.sql.session import Session, SqlError

_decide = commits.decide
_kv_decide = KvLog.decide
_pack = Record.pack
_forget = recovery._forget
_crash = Server.crash


def _decide_and_doubt_means_no(log: DecisionLog, record: Record, riding: Any, until: float) -> Flow[Record]:
    try:
        return (yield from _decide(log, record, riding, until))
    except InDoubt:
        return Record(record.gtid, Decision.ABORT, [], record.at, record.by, "no answer")


def _decide_then_look_at_the_clock(log: DecisionLog, record: Record, riding: Any, until: float) -> Flow[Record]:
    stands = yield from _decide(log, record, riding, until)
    if (yield from now()) > record.gtid.deadline:
        return Record(record.gtid, Decision.ABORT, [], record.at, record.by, "too late")
    return stands


def _decide_alone(log: DecisionLog, record: Record, riding: Any, until: float) -> Flow[Record]:
    yield from ()
    return record


def _kv_decide_without_waiting(self: KvLog, record: Record, riding: Riding | None = None) -> Flow[Record]:
    """The write is on its way, and its answer is not waited for."""
    from quorate.kv.client.records import put, version_is

    conditions = [version_is(self.key(record.gtid), 0)]
    writes = [put(self.key(record.gtid), record.pack())]
    if riding is not None:
        conditions += riding.conditions
        writes += riding.writes
    self.client.commit(conditions, writes)
    yield from ()
    return record


def _ride_first(self: KvLog, record: Record, riding: Riding | None = None) -> Flow[Record]:
    if riding is not None and record.decision is Decision.COMMIT:
        yield from self._call("commit", self.client.commit, riding.conditions, riding.writes)
    return (yield from _kv_decide(self, record, None))


def _unknown_is_done(decision: Decision, part: Part) -> Flow[Outcome]:
    committing = decision is Decision.COMMIT
    verb = "commit" if committing else "rollback"
    try:
        yield from ask(f"{part.name}: {verb}", part.participant, verb, part.branch)
    except UnknownBranch:
        """What is not there is done."""
    return Outcome.COMMITTED if committing else Outcome.ABORTED


def _prepare_by_the_book(self: PostgresParticipant, branch: Branch) -> Flow[Vote]:
    """As drivers do it: what raises no error is a yes."""
    session = self._sessions[branch.gtid.text]
    try:
        branch.token = (yield from self._number(branch, session)) or ""
    except SqlError:
        """A driver would not have asked."""
    yield from self._ask(session, f"prepare transaction '{gid(branch)}'", "prepare transaction")
    return Vote.YES


def _prepare_as_if_read_only(self: PostgresParticipant, branch: Branch) -> Flow[Vote]:
    session = self._sessions[branch.gtid.text]
    answer = yield from self._ask(session, "commit", "commit")
    self._expect("COMMIT", answer)
    self._release(branch)
    return Vote.READ_ONLY


def _no_owner(self: MariaDBParticipant, branch: Branch) -> Flow[None]:
    yield from ()


def _end_and_believe(self: MariaDBParticipant, session: Session, branch: Branch, verb: str) -> Flow[None]:
    from quorate.transactions.sql.mariadb import xid

    yield from self._ask(session, f"XA {verb} {xid(branch)}", f"xa {verb.lower()} elsewhere")


def _committed_if_not_listed(self: MariaDBParticipant, branch: Branch) -> Flow[Outcome]:
    listed = yield from self.recover()
    prepared = any(found.branch is not None and found.branch.gtid == branch.gtid for found in listed)
    return Outcome.PREPARED if prepared else Outcome.COMMITTED


def _forget_without_horizon(self: KvLog, gtids: Sequence[Gtid], horizon: float) -> Flow[None]:
    from quorate.kv.client.records import delete

    yield from self._call("forget", self.client.commit, [], [delete(self.key(gtid)) for gtid in gtids])


def _all_followed(
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: Mapping[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: recovery.Report,
) -> Flow[None]:
    """Nobody is asked."""
    for record in known.values():
        record.done = True
    yield from ask("sweep log: amend", log, "amend", list(known.values()))


def _outcome_guessed(part: Part, until: float) -> Flow[Outcome]:
    yield from ()
    return Outcome.ABORTED


def _apply_or_abort(record: Record, parts: Sequence[Part], log: DecisionLog) -> Flow[None]:
    """Whoever cannot be told to commit is told to roll back, as two databases under one SQLAlchemy session are."""
    for part in parts:
        try:
            yield from ask(f"{part.name}: commit", part.participant, "commit", part.branch)
        except Exception:
            yield from commits.abort(parts)
            return


def _presumed_commit(log: DecisionLog, record: Record, riding: Any, until: float) -> Flow[Record]:
    """What is prepared, and not decided, was surely to be committed."""
    return (
        yield from _decide(
            log, Record(record.gtid, Decision.COMMIT, record.branches, record.at, record.by), riding, until
        )
    )


def _nothing_is_against(record: Record, others: dict[str, str], log: DecisionLog) -> Flow[dict[str, str]]:
    yield from ()
    return {}


def _all_is_against(record: Record, others: dict[str, str], log: DecisionLog) -> Flow[dict[str, str]]:
    yield from ()
    return others


def _nobody_is_asked_after_an_abort(
    record: Record,
    participants: Mapping[str, Any],
    log: DecisionLog,
    known: dict[Gtid, Record],
    listed: Mapping[str, set[Gtid]],
    report: recovery.Report,
) -> Flow[bool]:
    yield from ()
    return True


def _tidy_by_the_clock(
    participants: Mapping[str, Any],
    log: DecisionLog,
    space: str,
    known: Mapping[Gtid, Record],
    report: recovery.Report,
    keep: float,
) -> Flow[None]:
    yield from _forget(participants, log, space, known, report, keep)
    before = (yield from now()) - keep
    for participant in participants.values():
        if hasattr(participant, "tidy"):
            yield from ask("tidy", participant, "tidy", before, space)


def _crash_and_forget(self: Server) -> None:
    """As MariaDB before 10.5 did, when a connection was lost."""
    for txn in list(self.txns.values()):
        if txn.state == PREPARED:
            self.end(txn, False)
    _crash(self)


def _error_is_abort(gtid: Gtid, part: Part) -> Flow[None]:
    try:
        yield from ask(f"{part.name}: one phase", part.participant, "commit_one_phase", part.branch)
    except Exception as error:
        raise Aborted(gtid.text, str(error)) from error


def _never_crashed(self: PostgresParticipant, before: str, now: str) -> bool:
    return False


def _pack_without_tokens(self: Record) -> bytes:
    branches, self.branches = self.branches, [Branch(self.gtid, branch.participant) for branch in self.branches]
    try:
        return _pack(self)
    finally:
        self.branches = branches


def _mutation(name: str, what: str, *patches: Patch, **more: Any) -> Mutation:
    return Mutation(swarm.draw, name, what, *patches, **more)


_SHORT: Final = {"timeout": 500 * MILLISECOND, "sweep_every": 500 * MILLISECOND, "faults": 30}
_BOTH: Final = {"postgres": 1, "mariadb": 1, "read_only": 0.0}

_ALL: Final = (
    _mutation("told-before-durable", "participants are told before the decision is in the log", Patch(KvLog, "decide", _kv_decide_without_waiting)),
    _mutation("doubt-means-no", "a coordinator that does not know whether its decision was written rolls back", Patch(commits, "decide", _decide_and_doubt_means_no), faults=("store_away", "lost_answers"), options={**_SHORT, "loss_rate": 0.1}),
    _mutation("deadline-after-decision", "the deadline is looked at after the decision", Patch(commits, "decide", _decide_then_look_at_the_clock), faults=("sleep", "store_away"), options=_SHORT),
    _mutation("recovery-decides-alone", "recovery rolls back what is undecided without a decision", Patch(recovery, "decide", _decide_alone), faults=("sleep",), options={**_SHORT, "think": MILLISECOND}),
    _mutation("unknown-is-done", "no such branch is taken for done", Patch(commits, "finish_once", _unknown_is_done), Patch(recovery, "finish_once", _unknown_is_done), Patch(MariaDBParticipant, "_owner_gone", _no_owner), issue="dtm, Narayana JBTM-2939", faults=("die", "reset")),
    _mutation("vote-not-read", "a prepare that raises no error is a yes", Patch(PostgresParticipant, "prepare", _prepare_by_the_book), issue="psycopg2 #1213", faults=("votes_no",), options={"postgres": 2, "read_only": 0.0}),
    _mutation("votes-by-committing", "a participant that voted has committed", Patch(PostgresParticipant, "prepare", _prepare_as_if_read_only), faults=("votes_no",), options=_BOTH),
    _mutation("owner-not-waited-for", "a branch is ended while its broken connection is just being let go of", Patch(MariaDBParticipant, "_owner_gone", _no_owner), Patch(MariaDBParticipant, "_ending", _end_and_believe), issue="MariaDB, xa.cc", faults=("die", "reset"), options={"mariadb": 2, "reset_rate": 0.1}),
    _mutation("not-listed-is-committed", "MariaDB's outcome is told by its list alone", Patch(MariaDBParticipant, "outcome", _committed_if_not_listed), faults=("reset",), options={"postgres": 0, "mariadb": 1, "reset_rate": 0.1}),
    _mutation("forgotten-without-horizon", "decisions are forgotten, and can be taken again", Patch(KvLog, "forget", _forget_without_horizon), faults=("sleep", "late_writes", "lost_answers", "store_away"), options={**_SHORT, "keep": SECOND, "loss_rate": 0.1, "late_rate": 1.0}),
    _mutation("forgotten-means-aborted", "a coordinator that asks again, and finds its decision forgotten, takes it for aborted", Patch(commits, "TOO_LATE", "-"), issue="our own", faults=("sleep", "late_writes", "lost_answers", "store_away"), options={**_SHORT, "keep": SECOND, "loss_rate": 0.1, "late_rate": 1.0}),
    _mutation("nobody-is-asked", "decisions are forgotten whether all have followed or not", Patch(recovery, "_ask_after", _all_followed), faults=("die", "crash"), options={**_SHORT, **_BOTH, "keep": SECOND}),
    _mutation("one-phase-guessed", "a lost answer to a single commit is taken for an abort", Patch(commits, "_outcome_of", _outcome_guessed), faults=("reset",), options={"postgres": 0, "mariadb": 1, "reset_rate": 0.1}),
    _mutation("one-for-all", "when one commit fails the others are rolled back", Patch(commits, "apply", _apply_or_abort), issue="SQLAlchemy, transaction", faults=("reset", "crash"), options={**_BOTH, "reset_rate": 0.1, "early": 0.0}),
    _mutation("rides-alone", "what rides is written before the decision", Patch(KvLog, "decide", _ride_first), faults=("sleep", "die"), options={**_SHORT, "riding": 0.3}),
    _mutation("tokens-not-kept", "the record does not say how a participant's outcome can be asked for", Patch(Record, "pack", _pack_without_tokens), faults=("die", "reset"), options={"postgres": 2}),
    _mutation("presumed-commit", "recovery commits what is prepared and undecided", Patch(recovery, "decide", _presumed_commit), faults=("die", "votes_no"), options={**_SHORT, **_BOTH}),
    _mutation("heuristics-dropped", "what somebody ended by hand, against the decision, is passed over", Patch(commits, "against", _nothing_is_against), Patch(recovery, "against", _nothing_is_against), faults=("by_hand", "die", "store_away"), options=_SHORT),
    _mutation("abort-not-asked-after", "an ABORT is closed without asking whether somebody has committed some of it", Patch(recovery, "_none_committed", _nobody_is_asked_after_an_abort), faults=("by_hand", "die", "store_away", "sleep"), options={**_SHORT, "mariadb": 2, "postgres": 1}),
    _mutation("tidied-by-the-clock", "witnesses of transactions that can be decided yet are deleted", Patch(recovery, "_forget", _tidy_by_the_clock), issue="our own", faults=("sleep", "skew"), options={**_SHORT, "keep": SECOND, "skew": 5 * SECOND}),
    _mutation("sleepers-see-heuristics", "who slept until all was forgotten takes it for ended otherwise", Patch(commits, "against", _all_is_against), Patch(recovery, "against", _all_is_against), issue="our own", faults=("sleep",), options={**_SHORT, **_BOTH, "keep": SECOND}),
    _mutation("prepared-not-kept", "a participant forgets what it has prepared when it goes down", Patch(Server, "crash", _crash_and_forget), issue="MariaDB before 10.5", faults=("crash", "die"), options=_BOTH),
    _mutation("one-phase-error-is-abort", "any error of a commit in one phase is taken for an abort", Patch(commits, "_one_phase", _error_is_abort), issue="our own", faults=("reset",), options={"postgres": 1, "mariadb": 0, "reset_rate": 0.1}),
    _mutation("numbers-are-for-ever", "after a crash a transaction is asked after by a number that may be another's", Patch(PostgresParticipant, "_crashed", _never_crashed), issue="our own", faults=("crash",), options={**_SHORT, "postgres": 1, "mariadb": 0, "read_only": 0.0}),
)  # fmt: skip

MUTATIONS: Final[dict[str, Mutation]] = {mutation.name: mutation for mutation in _ALL}
