"""PostgreSQL as a participant: PREPARE TRANSACTION, with what its documentation does not tell one to look out for.

- PREPARE TRANSACTION of a failed transaction succeeds and rolls back: only the command's tag tells a yes from a no, and so it does for COMMIT.
- A transaction that has no number wrote nothing: it commits at once, without a flush.
- ``pg_xact_status`` tells later what became of a transaction, if one knows its number: that is the branch's token.
- Every branch holds a shared advisory lock of its own, so that its session can be found in ``pg_locks`` and ended (fenced). A prepared branch
  holds it without a session.

PostgreSQL 15 documentation: PREPARE TRANSACTION, COMMIT PREPARED, pg_prepared_xacts, pg_xact_status.
"""

import hashlib
import struct
from collections.abc import Sequence

from quorate.errors import UsageError
from quorate.transactions.errors import (
    ConfigurationError,
    ConnectionBroken,
    ParticipantError,
    UnknownBranch,
    VotedNo,
)
from quorate.transactions.flow import Flow, call, now, sleep
from quorate.transactions.gtid import check_name, parse
from quorate.transactions.participant import Branch, Outcome, Prepared, Vote
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.pool import Pool
from quorate.transactions.sql.session import Answer, Session, SqlError

GID_MAX = 199
_NO_SUCH_OBJECT = "42704"
_NOT_ALLOWED = "42501"
_PREPARED_OFF = "55000"
_LOCK_PREFIX = b"quorate"
_MARK = "quorate.branch"
"""A setting that lasts as long as the transaction: whether it is still the one that was begun."""
_ENDED = "the transaction was ended on the connection itself; what it did until then is out of our hands"
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
        self._checked = False

    # ---- work

    def begin(self, branch: Branch, session: Session, seconds: float) -> Flow[None]:
        """Start the branch on ``session``, which is idle. Statements wait no longer than ``seconds`` for locks, for no server sees a deadlock
        over two databases."""
        if session.state() != sessions.IDLE:
            raise UsageError(
                f"{self.name}: the connection is in a transaction already; commit or roll back before it is enlisted"
            )
        if not self._checked:
            yield from self._check(session)
        session.attach()
        options = getattr(session, "begin_options", "")
        try:
            yield from self._ask(
                session,
                f"begin{options}; set local lock_timeout = {max(1, int(seconds * 1000))}; set local {_MARK} = '{gid(branch)}'; "
                f"select pg_advisory_xact_lock_shared({lock_key(branch)})",
                "begin",
            )
        except BaseException:
            session.detach()
            raise
        self._sessions[branch.gtid.text] = session

    def _check(self, session: Session) -> Flow[None]:
        """Mistakes in the server's configuration, told before any work is done."""
        answer = yield from self._ask(
            session,
            "select current_setting('max_prepared_transactions')::int, pg_is_in_recovery(), current_setting('server_version_num')::int",
            "check",
        )
        ((slots, standby, version),) = answer.rows
        if int(version) < 100000:
            raise ConfigurationError(f"{self.name}: PostgreSQL {version} is older than 10, which tells no outcomes")
        if standby in (True, "t"):
            raise ConfigurationError(f"{self.name}: the server is a standby, which cannot prepare transactions")
        if int(slots) == 0:
            raise ConfigurationError(
                f"{self.name}: max_prepared_transactions is 0, so PostgreSQL refuses to prepare transactions; "
                "set it to the number of connections or more and restart the server"
            )
        self._checked = True

    def session_of(self, branch: Branch) -> Session | None:
        return self._sessions.get(branch.gtid.text)

    def insist(self, branch: Branch) -> Flow[None]:
        """The branch will be prepared, even if it wrote nothing."""
        yield from self._ask(self._sessions[branch.gtid.text], "select pg_current_xact_id()", "take a number")

    def prepare(self, branch: Branch) -> Flow[Vote]:
        session = self._sessions[branch.gtid.text]
        self._still_open(session)
        number = yield from self._number(branch, session)
        if number is None:
            answer = yield from self._ask(session, "commit", "commit, for nothing was written")
            self._expect("COMMIT", answer)
            self._release(branch)
            return Vote.READ_ONLY
        branch.token = number
        try:
            answer = yield from self._ask(session, f"prepare transaction '{gid(branch)}'", "prepare transaction")
        except SqlError as error:
            if error.code == _PREPARED_OFF:
                self._checked = False
            raise VotedNo(str(error), error.code) from error
        self._expect("PREPARE TRANSACTION", answer)
        return Vote.YES

    def commit_one_phase(self, branch: Branch) -> Flow[None]:
        session = self._sessions[branch.gtid.text]
        self._still_open(session)
        # it is what tells the outcome if the answer to the commit is lost
        branch.token = (yield from self._number(branch, session)) or ""
        try:
            answer = yield from self._ask(session, "commit", "commit")
        except SqlError as error:
            raise VotedNo(str(error), error.code) from error
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
        try:
            answer = yield from self._ask(session, statement, verb)
        except SqlError as error:
            if error.code == _NO_SUCH_OBJECT:
                raise UnknownBranch(str(error), error.code) from error
            raise
        self._expect(verb.upper(), answer)

    def recover(self) -> Flow[Sequence[Prepared]]:
        """Of this database: others of the server cannot be ended from here."""
        answer = yield from self._elsewhere(
            "select gid, transaction::text, extract(epoch from now() - prepared)::float8, owner::text "
            "from pg_prepared_xacts where database = current_database() order by prepared",
            "recover",
        )
        found = []
        for name, _, age, owner in answer.rows:
            text, _, participant = name.rpartition("/")
            gtid = parse(text)
            branch = None if gtid is None or participant != self.name else Branch(gtid, self.name)
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
        number = branch.token
        status = f"pg_xact_status('{int(number)}'::xid8)" if number else "null"
        try:
            answer = yield from self._elsewhere(
                f"select exists (select from pg_prepared_xacts where gid = '{gid(branch)}'), {status}", "outcome"
            )
        except SqlError as error:
            # the number is ahead of the server's: it was restored from an older backup
            if error.code == "22023":
                return Outcome.UNKNOWN
            raise
        ((prepared, found),) = answer.rows
        if prepared in (True, "t"):
            return Outcome.PREPARED
        return {"committed": Outcome.COMMITTED, "aborted": Outcome.ABORTED}.get(found, Outcome.UNKNOWN)

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
