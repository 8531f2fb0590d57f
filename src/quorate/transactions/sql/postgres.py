"""PostgreSQL as a participant: PREPARE TRANSACTION, with what its documentation does not tell one to look out for.

- PREPARE TRANSACTION of a failed transaction succeeds and rolls back: only the command's tag tells a yes from a no, and so it does for COMMIT.
- A transaction that has no number wrote nothing: it commits at once, without a flush. Where branches write anyway (``habit``), the question and
  PREPARE TRANSACTION are one message; the mark and the number are looked at before the vote is told, for whoever is prepared can be rolled back.
- ``pg_xact_status`` tells later what became of a transaction, if one knows its number: that is the branch's token. A crash gives numbers again whose transactions were not
  on disk yet: the token of a branch that was not prepared says before which crash that was.
- Every branch holds a shared advisory lock of its own, so that its session can be found in ``pg_locks`` and ended (fenced). A prepared branch
  holds it without a session.

PostgreSQL 15 documentation: PREPARE TRANSACTION, COMMIT PREPARED, pg_prepared_xacts, pg_xact_status.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence

from quorate.errors import UsageError
from quorate.transactions.errors import (
    ConnectionBroken,
    ParticipantError,
    UnknownBranch,
    VotedNo,
)
from quorate.transactions.flow import Flow, call, now, sleep
from quorate.transactions.gtid import check_name, parse
from quorate.transactions.participant import Blocking, Branch, Outcome, Prepared, Vote, Waiter
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.habit import Habit
from quorate.transactions.sql.pool import Pool
from quorate.transactions.sql.postgres_setup import LIFE, PostgresSetup
from quorate.transactions.sql.session import Answer, Session, SqlError

GID_MAX = 199
_NO_SUCH_OBJECT = "42704"
_NOT_ALLOWED = "42501"
_PREPARED_OFF = _BUSY = "55000"
"""Of PREPARE TRANSACTION, and of COMMIT and ROLLBACK PREPARED."""
_TOO_MANY = "53200"
_NUMBER_IS_AHEAD = "22023"
WHOLE_NUMBER = "x - (((x - transaction::text::bigint + 2147483648) & 4294967295) - 2147483648)"
"""Of a transaction that is listed without the upper half of its number, by a number ``x`` of about that time: half a turn before it at most, or after it, for
the list may be younger than the snapshot that tells ``x``."""
_LOCK_PREFIX = b"quorate"
_MARK = "quorate.branch"
"""A setting that lasts as long as the transaction: whether it is still the one that was begun."""
_ENDED = "the transaction was ended on the connection itself; what it did until then is out of our hands"
STATEMENT_MAX = 200
"""Characters of a waiting session's statement that are shown."""
_LOCK_TAG = (
    "locktype", "database", "relation", "page", "tuple", "virtualxid", "transactionid", "classid", "objid", "objsubid",
)  # fmt: skip
FENCE_SECONDS = 5.0
_POLL_SECONDS = 0.01


def gid(branch: Branch) -> str:
    return f"{branch.gtid.text}/{branch.participant}"


def lock_key(branch: Branch) -> int:
    """Of the advisory lock: 64 bits, signed."""
    digest = hashlib.blake2b(gid(branch).encode(), digest_size=8, person=_LOCK_PREFIX).digest()
    (key,) = struct.unpack(">q", digest)
    return int(key)


class PostgresParticipant:
    """``pool``: of sessions for recovery. ``where``: host, port and database. A branch that is begun here keeps its session until it
    is ended."""

    def __init__(self, name: str, pool: Pool, where: tuple[str, int, str]) -> None:
        self.name = check_name(name)
        self.where = where
        self.pool = pool
        self._sessions: dict[str, Session] = {}
        self.habit = Habit()
        self._setup = PostgresSetup(self.name, self._ask, self._elsewhere)

    # ---- work

    def begin(self, branch: Branch, session: Session, seconds: float) -> Flow[None]:
        """Start the branch on ``session``, which is idle. Statements wait no longer than ``seconds`` for locks, for no server sees a deadlock
        over two databases."""
        if session.state() != sessions.IDLE:
            raise UsageError(
                f"{self.name}: the connection is in a transaction already; commit or roll back before it is enlisted"
            )
        yield from self._setup.check(session)
        session.attach()
        options = getattr(session, "begin_options", "")
        try:
            yield from self._ask(
                session,
                f"begin{options}; select set_config('lock_timeout', '{max(1, int(seconds * 1000))}', true), "
                f"set_config('{_MARK}', '{gid(branch)}', true), pg_advisory_xact_lock_shared({lock_key(branch)})",
                "begin",
            )
        except BaseException:
            session.detach()
            if session.state() != sessions.IDLE:
                # half begun: nobody should find it so
                session.hang_up()
            raise
        self._sessions[branch.gtid.text] = session

    def session_of(self, branch: Branch) -> Session | None:
        return self._sessions.get(branch.gtid.text)

    def insist(self, branch: Branch) -> Flow[None]:
        """The branch will be prepared, even if it wrote nothing."""
        yield from self._ask(self._sessions[branch.gtid.text], "select pg_current_xact_id()", "take a number")

    def prepare(self, branch: Branch) -> Flow[Vote]:
        session = self._sessions[branch.gtid.text]
        self._still_open(session)
        if self.habit.steady and getattr(session, "several", False):
            yield from self._prepare_at_once(branch, session)
            return Vote.YES
        number = yield from self._number(branch, session)
        if number is None:
            self.habit.did_not(asked=True)
            answer = yield from self._ask(session, "commit", "commit, for nothing was written")
            self._expect("COMMIT", answer)
            self._release(branch)
            return Vote.READ_ONLY
        self.habit.wrote()
        branch.token = number
        yield from self._preparing(branch, session, "")
        return Vote.YES

    def _prepare_at_once(self, branch: Branch, session: Session) -> Flow[None]:
        """PREPARE TRANSACTION gives a number to whoever has none: it is asked for before, for it is the token."""
        answer = yield from self._preparing(
            branch,
            session,
            f"select current_setting('{_MARK}', true), pg_current_xact_id_if_assigned()::text, pg_current_xact_id()::text; ",
        )
        ((mark, wrote, number),) = answer.rows
        branch.token = str(number)
        if mark != gid(branch):
            raise VotedNo(_ENDED)
        if wrote is None:
            self.habit.did_not(asked=False)

    def _preparing(self, branch: Branch, session: Session, before: str) -> Flow[Answer]:
        try:
            answer = yield from self._ask(
                session, f"{before}prepare transaction '{gid(branch)}'", "prepare transaction"
            )
        except SqlError as error:
            if error.code == _PREPARED_OFF:
                self._setup.forget()
            told = str(error)
            if error.code == _TOO_MANY:
                told += "; " + (yield from self._slots())
            raise VotedNo(told, error.code) from error
        self._expect("PREPARE TRANSACTION", answer)
        return answer

    def _slots(self) -> Flow[str]:
        """Who has the slots for prepared transactions."""
        try:
            answer = yield from self._elsewhere(
                "select count(*), count(*) filter (where gid like 'q.%'), current_setting('max_prepared_transactions') from pg_prepared_xacts",
                "slots",
            )
        except ParticipantError as error:
            return str(error)
        ((used, ours, slots),) = answer.rows
        return f"{used} of max_prepared_transactions = {slots} are in use, {ours} by us"

    def commit_one_phase(self, branch: Branch) -> Flow[None]:
        session = self._sessions[branch.gtid.text]
        try:
            self._still_open(session)
            # it is what tells the outcome if the answer to the commit is lost
            number = yield from self._number(branch, session)
            branch.token = "" if number is None else f"{number} {self._setup.life(session)}"
        except ConnectionBroken as error:
            raise VotedNo(f"{error}, before it was committed", error.code) from error
        try:
            answer = yield from self._ask(session, "commit", "commit")
        except SqlError as error:
            raise VotedNo(str(error), error.code) from error
        except ConnectionBroken as error:
            if branch.token:
                raise
            raise VotedNo(f"{error}; nothing was written", error.code) from error
        self._expect("COMMIT", answer)
        self._release(branch)

    def _number(self, branch: Branch, session: Session) -> Flow[str | None]:
        """The transaction's, None if it wrote nothing."""
        answer = yield from self._ask(
            session, f"select pg_current_xact_id_if_assigned()::text, current_setting('{_MARK}', true)", "number"
        )
        ((number, mark),) = answer.rows
        if mark != gid(branch):
            raise VotedNo(_ENDED)
        return None if number is None else str(number)

    def _still_open(self, session: Session) -> None:
        state = session.state()
        if state == sessions.FAILED:
            raise VotedNo("a statement failed, and so did the transaction with it")
        if state == sessions.IDLE:
            raise VotedNo(_ENDED)
        if state == sessions.BROKEN:
            raise ConnectionBroken("the connection is lost")

    def _expect(self, tag: str, answer: Answer) -> None:
        """The server says by the command's tag alone that it did something else."""
        if answer.tag != tag:
            raise VotedNo(
                f"PostgreSQL answered {answer.tag!r} where {tag!r} was expected: the transaction is rolled back"
            )

    # ---- the end

    def commit(self, branch: Branch) -> Flow[None]:
        yield from self._finish(branch, f"commit prepared '{gid(branch)}'")

    def rollback(self, branch: Branch) -> Flow[None]:
        session = self._sessions.get(branch.gtid.text)
        if session is not None and session.state() in (sessions.OPEN, sessions.FAILED):
            try:
                yield from self._ask(session, "rollback", "rollback")
            except (ConnectionBroken, SqlError):
                # a session that ends takes its open transaction along, unless it was prepared
                self._drop(branch)
            else:
                self._release(branch)
                return
        yield from self._finish(branch, f"rollback prepared '{gid(branch)}'")

    def _finish(self, branch: Branch, statement: str) -> Flow[None]:
        """By the branch's own session while there is one, else by any."""
        own = self._sessions.get(branch.gtid.text)
        if own is not None:
            if own.state() == sessions.IDLE:
                try:
                    yield from self._ending(own, statement)
                except UnknownBranch:
                    self._release(branch)
                    raise
                except ConnectionBroken:
                    self._drop(branch)
                    raise
                self._release(branch)
                return
            self._drop(branch)
        yield from self.pool.use(lambda session: self._ending(session, statement))

    def _ending(self, session: Session, statement: str) -> Flow[None]:
        verb = "commit prepared" if statement.startswith("commit") else "rollback prepared"
        until = (yield from now()) + FENCE_SECONDS
        while True:
            try:
                answer = yield from self._ask(session, statement, verb)
            except SqlError as error:
                if error.code == _NO_SUCH_OBJECT:
                    raise UnknownBranch(str(error), error.code) from error
                # it is listed a moment before the session that prepares it has let go of it
                if error.code != _BUSY or (yield from now()) > until:
                    raise
                yield from sleep(_POLL_SECONDS)
            else:
                self._expect(verb.upper(), answer)
                return

    def recover(self) -> Flow[Sequence[Prepared]]:
        """Of this database: others of the server cannot be ended from here."""
        answer = yield from self._elsewhere(
            f"select gid, ({WHOLE_NUMBER})::text, extract(epoch from now() - prepared)::float8, "
            "owner::text from pg_prepared_xacts, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint x) s "
            "where database = current_database() order by prepared",
            "recover",
        )
        found = []
        for name, number, age, owner in answer.rows:
            text, _, participant = name.rpartition("/")
            gtid = parse(text)
            branch = None if gtid is None or participant != self.name else Branch(gtid, self.name, str(number))
            found.append(Prepared(name, branch, float(age), owner))
        return found

    def fence(self, branch: Branch) -> Flow[None]:
        """End the session that works for the branch, if there is one."""
        key = lock_key(branch) & ((1 << 64) - 1)
        high, low = key >> 32, key & 0xFFFFFFFF
        holders = (
            "from pg_locks where locktype = 'advisory' and objsubid = 1 and pid is not null and "
            f"database = (select oid from pg_database where datname = current_database()) and classid = {high}::bigint::oid "
            f"and objid = {low}::bigint::oid"
        )
        until = (yield from now()) + FENCE_SECONDS
        answer = yield from self._elsewhere(f"select pid, pg_terminate_backend(pid) {holders}", "fence")
        while answer.rows:
            if (yield from now()) > until:
                raise ParticipantError(f"the session {answer.rows[0][0]} was told to end, and does not")
            yield from sleep(_POLL_SECONDS)
            answer = yield from self._elsewhere(f"select pid {holders}", "fence, again")

    def outcome(self, branch: Branch) -> Flow[Outcome]:
        """By the transaction's number. Without it only "prepared" can be told."""
        number, alone, life = branch.token.partition(" ")
        status = f"pg_xact_status('{int(number)}'::xid8)" if number else "null"
        try:
            answer = yield from self._elsewhere(
                f"select exists (select from pg_prepared_xacts where gid = '{gid(branch)}'), {status}, {LIFE}",
                "outcome",
            )
        except SqlError as error:
            if error.code != _NUMBER_IS_AHEAD:
                raise
            return (yield from self._lost(life))
        ((prepared, found, lives),) = answer.rows
        if prepared in (True, "t"):
            return Outcome.PREPARED
        if found == "committed" and alone and self._crashed(life, lives):
            # perhaps it was another transaction, that got the number after the crash
            return Outcome.UNKNOWN
        return {"committed": Outcome.COMMITTED, "aborted": Outcome.ABORTED}.get(found, Outcome.UNKNOWN)

    def _lost(self, life: str) -> Flow[Outcome]:
        """Of a branch whose number the server has not given yet. If it was not prepared, a crash has taken all of it; otherwise the server was restored from an older
        backup, or is a standby that is not so far yet."""
        if not life:
            return Outcome.UNKNOWN
        ((lives, standby),) = (yield from self._elsewhere(f"select {LIFE}, pg_is_in_recovery()", "outcome, lost")).rows
        return Outcome.ABORTED if self._crashed(life, lives) and standby in (False, "f") else Outcome.UNKNOWN

    def _crashed(self, before: str, now: str) -> bool:
        """Whether the server may have, in between. ``before`` is "" if its life was not known."""
        return before != now

    # ---- for operators

    def blocking(self, branch: Branch) -> Flow[Blocking]:
        """A prepared transaction has no process, and is process 0 among those that block. Its locks lie under the virtual number of the session that made it
        (or -1 after a restart): the same as its lock on its own number does."""
        mine = (
            "h.pid is null and h.virtualtransaction = (select n.virtualtransaction from pg_locks n join pg_prepared_xacts x "
            f"on n.transactionid = x.transaction where n.locktype = 'transactionid' and n.pid is null and n.granted and x.gid = '{gid(branch)}')"
        )
        locks = yield from self._elsewhere(
            "select coalesce(h.relation::regclass::text, h.locktype), h.mode, count(*) from pg_locks h "
            f"where h.locktype not in ('transactionid', 'virtualxid', 'advisory') and {mine} group by 1, 2 order by 1, 2",
            "locks",
        )
        same = " and ".join(f"w.{column} is not distinct from h.{column}" for column in _LOCK_TAG)
        waiters = yield from self._elsewhere(
            f"with recursive direct as (select distinct w.pid from pg_locks w join pg_locks h on {same} "
            f"where not w.granted and h.granted and {mine} and 0 = any(pg_blocking_pids(w.pid))), "
            "blocked as (select pid from direct union select a.pid from pg_stat_activity a join blocked b on b.pid = any(pg_blocking_pids(a.pid))) "
            "select a.pid, a.usename::text, coalesce(a.application_name, ''), extract(epoch from clock_timestamp() - a.query_start)::float8, "
            f"coalesce(left(a.query, {STATEMENT_MAX}), ''), (select string_agg(distinct coalesce(w.relation::regclass::text, 'a row'), ', ') from pg_locks w "
            "where w.pid = a.pid and not w.granted) from pg_stat_activity a join blocked using (pid) order by a.query_start",
            "waiters",
        )
        return Blocking(
            [f"{what} {mode}" for what, mode, _ in locks.rows],
            [
                Waiter(
                    f"{pid} ({user}{f', {application}' if application else ''})",
                    None if seconds is None else float(seconds),
                    str(lock or ""),
                    " ".join(str(statement).split()),
                )
                for pid, user, application, seconds, statement, lock in waiters.rows
            ],
        )

    def measure(self) -> Flow[Mapping[str, float]]:
        """Of the server, other databases' too. The oldest prepared transaction keeps vacuum from removing what died after it."""
        answer = yield from self._elsewhere(
            "select count(*), current_setting('max_prepared_transactions')::int, coalesce(max(age(transaction)), 0) from pg_prepared_xacts",
            "measure",
        )
        ((used, slots, age),) = answer.rows
        return {
            "prepared_slots_used": float(used),
            "prepared_slots_max": float(slots),
            "oldest_prepared_age_transactions": float(age),
        }

    # ---- sessions

    def _ask(self, session: Session, statement: str, what: str) -> Flow[Answer]:
        answer: Answer = yield from call(f"{self.name}: {what}", session.execute, statement, blocks=session.blocks)
        return answer

    def _elsewhere(self, statement: str, what: str) -> Flow[Answer]:
        """On a session that has nothing to do with a branch."""
        return (yield from self.pool.use(lambda session: self._ask(session, statement, what)))

    def _release(self, branch: Branch) -> None:
        session = self._sessions.pop(branch.gtid.text, None)
        if session is not None:
            session.detach()

    def _drop(self, branch: Branch) -> None:
        session = self._sessions.pop(branch.gtid.text, None)
        if session is not None:
            session.hang_up()

    def let_go(self, branch: Branch) -> None:
        """Whatever became of the branch, its session is not ours any more; one that is not idle is broken."""
        session = self._sessions.get(branch.gtid.text)
        if session is None:
            return
        if session.state() == sessions.IDLE:
            self._release(branch)
        else:
            self._drop(branch)
