"""MariaDB as a participant: XA, with what it takes to make its answers true.

- While the connection that prepared a branch lives, no other can end it (XAER_NOTA); and one that tries in the milliseconds after that connection
  broke may be told OK while the branch stays prepared, locked, and unlisted until the server restarts. So every branch's connection holds a
  user lock named after the branch: ``IS_USED_LOCK`` tells whose it is, and it is let go only after the branch is detached. Before a branch is ended from
  elsewhere, its owner is killed and waited for.
- XAER_NOTA does not say what became of a branch, and MariaDB remembers no outcomes. So every branch that wrote anything inserts a *witness row*: it is there if
  the branch committed. A fence inserts the same row first, and a late prepare fails on it.
- A branch that wrote nothing commits at once: the session's own count of rows written tells. To read it takes MariaDB longer than all the rest of a
  vote, so it is not read where branches end with a write anyway: ROW_COUNT tells that for nothing (``habit``).
- One compound statement does each step, so that a step is one round trip.

MariaDB 10.11: XA Transactions, BEGIN NOT ATOMIC, GET_LOCK. Names are given as hex, for XA takes no parameters.
"""

import hashlib
from collections.abc import Mapping, Sequence

from quorate.errors import UsageError
from quorate.transactions.errors import ConnectionBroken, ParticipantError, UnknownBranch, VotedNo
from quorate.transactions.flow import Flow, call, now, sleep
from quorate.transactions.gtid import check_name, parse
from quorate.transactions.participant import Blocking, Branch, Outcome, Prepared, Vote, Waiter
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.habit import Habit
from quorate.transactions.sql.mariadb_setup import MariaDBSetup
from quorate.transactions.sql.pool import Pool
from quorate.transactions.sql.session import Answer, Session, SqlError

FORMAT = 0x51524154
"""Of our xids, "QRAT"."""
WITNESS = "quorate_txn"
_NO_SUCH_XID = "1397"
_ROLLED_BACK = ("1402", "1213", "1614")
_DUPLICATE = "1062"
_LOCK_WAIT = "1205"
_NO_SUCH_TABLE = "1146"
_IN_TRANSACTION = ("1399", "1400")
_NO_SUCH_THREAD = "1094"
_NOT_ALLOWED = "1227"
STATEMENT_MAX = 200
FENCE_SECONDS = 5.0
_POLL_SECONDS = 0.01
_INNODB_SECONDS = 0.15
"""InnoDB's tables of transactions show what they did before to whoever looks again within 0.1 s (``CACHE_MIN_IDLE_TIME`` in its source)."""
BRANCH_ROW, FENCE_ROW, ALONE_ROW = 0, 1, 2
"""Kinds of witnesses: of a branch with a decision; against one; of one that was committed in one phase."""
CLOCKS_SECONDS = 60
"""By how much the clocks of a coordinator and of the server may differ."""
ALONE_SECONDS = 3 * CLOCKS_SECONDS
"""How long after its deadline, by the server's clock, the witness of a commit in one phase is kept: its coordinator asks for it, at most until then."""
TIDY_ROWS = 10_000

_WRITTEN = (
    "(SELECT SUM(VARIABLE_VALUE) FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME IN "
    "('HANDLER_WRITE', 'HANDLER_UPDATE', 'HANDLER_DELETE'))"
)


_WROTE_LAST, _YES, _READ_ONLY = "yes, and its last statement wrote", "yes", "read only"


def _hex(text: str) -> str:
    return f"X'{text.encode().hex()}'"


def xid(branch: Branch) -> str:
    return f"{_hex(branch.gtid.text)},{_hex(branch.participant)},{FORMAT}"


def _until(branch: Branch) -> int:
    """In milliseconds since 1970: witnesses lie in the order in which they can go."""
    return round(branch.gtid.deadline * 1000)


def lock_name(branch: Branch) -> str:
    """Of the user lock: at most 64 characters can be."""
    digest = hashlib.blake2b(f"{branch.gtid.text}/{branch.participant}".encode(), digest_size=24).hexdigest()
    return f"'quorate {digest}'"


class MariaDBParticipant:
    """See ``PostgresParticipant`` for the life of sessions. ``database`` holds the witness table. ``ignore_tables``: those known to have no transactions."""

    bound_to_session = True
    """A prepared branch is ended by its own connection, or by breaking it off."""

    def __init__(self, name: str, pool: Pool, where: tuple[str, int, str], ignore_tables: Sequence[str] = ()) -> None:
        self.name = check_name(name)
        self.where = where
        self.pool = pool
        self.database = where[2]
        self._table = f"`{self.database.replace('`', '``')}`.{WITNESS}"
        self._sessions: dict[str, Session] = {}
        self.habit = Habit()
        self._uncounted: set[str] = set()
        """Transactions in whose branches no rows were counted at the begin, and so cannot be at the vote."""
        self._setup = MariaDBSetup(
            self.name,
            self.database,
            _hex(self.database),
            self._table,
            frozenset(ignore_tables),
            self._ask,
            self._elsewhere,
        )

    unknown_for_now = True
    """Whether an outcome that is UNKNOWN will be known: when a connection has ended, or the server was restarted."""

    # ---- work

    def begin(self, branch: Branch, session: Session, seconds: float) -> Flow[None]:
        if session.state() != sessions.IDLE:
            raise UsageError(
                f"{self.name}: the connection is in a transaction already; commit or roll back before it is enlisted"
            )
        yield from self._setup.check(session, lock_name(branch))
        session.attach()
        wait = max(1, round(seconds))
        time = round((yield from now()))
        if self.habit.steady:
            written = "NULL"
            self._uncounted.add(branch.gtid.text)
        else:
            written = f"COALESCE(@quorate_written, {_WRITTEN})"
        try:
            yield from self._ask(
                session,
                f"BEGIN NOT ATOMIC IF ABS(UNIX_TIMESTAMP() - {time}) > {CLOCKS_SECONDS} THEN "
                "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'its clock and ours differ by more than a minute'; "
                f"ELSEIF GET_LOCK({lock_name(branch)}, 0) = 1 THEN "
                f"XA START {xid(branch)}; SET @quorate_written = {written}, "
                f"@quorate_wait = @@innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = {wait}; "
                "ELSE SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'somebody else holds the lock of this branch'; END IF; END",
                "begin",
            )
        except SqlError as error:
            self._uncounted.discard(branch.gtid.text)
            try:
                yield from self._ask(session, f"DO RELEASE_LOCK({lock_name(branch)})", "begin, undone")
            except (ConnectionBroken, SqlError):
                session.hang_up()
            session.detach()
            if error.code in _IN_TRANSACTION:
                raise UsageError(f"{self.name}: the connection is in a transaction already ({error})") from error
            raise
        except BaseException:
            self._uncounted.discard(branch.gtid.text)
            # nobody knows how far it came
            session.hang_up()
            session.detach()
            raise
        self._sessions[branch.gtid.text] = session

    @property
    def warnings(self) -> list[str]:
        """What the coordinator should say about the server; it takes them out."""
        return self._setup.warnings

    def session_of(self, branch: Branch) -> Session | None:
        return self._sessions.get(branch.gtid.text)

    def _witness(self, branch: Branch, kind: int) -> str:
        return f"INSERT INTO {self._table} VALUES ({_until(branch)}, {_hex(branch.gtid.text)}, {_hex(branch.participant)}, {kind})"

    def _this_witness(self, branch: Branch) -> str:
        return (
            f"{self._table} WHERE until = {_until(branch)} AND gtrid = {_hex(branch.gtid.text)} AND branch = {_hex(branch.participant)} "
            f"AND kind <> {FENCE_ROW}"
        )

    def _vote(self, branch: Branch, write: str, kind: int) -> str:
        """One statement: ``write`` if rows were written, else commit."""
        name = xid(branch)
        yes = f"{self._witness(branch, kind)}; XA END {name}; {write} {name}{{}}; "
        said = f"SELECT IF(changed > 0, '{_WROTE_LAST}', '{_YES}'); "
        if branch.gtid.text in self._uncounted:
            return f"BEGIN NOT ATOMIC DECLARE changed BIGINT DEFAULT ROW_COUNT(); {yes}{said}END"
        return (
            f"BEGIN NOT ATOMIC DECLARE changed BIGINT DEFAULT ROW_COUNT(); DECLARE n BIGINT DEFAULT {_WRITTEN}; "
            # fewer, too: FLUSH STATUS begins to count anew
            f"IF n <> @quorate_written THEN {yes}SET @quorate_written = n + 1; {said}"
            f"ELSE XA END {name}; XA COMMIT {name} ONE PHASE; {self._after(branch)} SELECT '{_READ_ONLY}'; END IF; END"
        )

    def _after(self, branch: Branch) -> str:
        """What makes the session as it was."""
        return f"SET SESSION innodb_lock_wait_timeout = COALESCE(@quorate_wait, @@innodb_lock_wait_timeout); DO RELEASE_LOCK({lock_name(branch)});"

    def insist(self, branch: Branch) -> Flow[None]:
        """The branch will be prepared, even if it wrote nothing."""
        yield from self._ask(self._sessions[branch.gtid.text], "SET @quorate_written = -1", "count as written")

    def prepare(self, branch: Branch) -> Flow[Vote]:
        session = self._sessions[branch.gtid.text]
        try:
            answer = yield from self._ask(session, self._vote(branch, "XA PREPARE", BRANCH_ROW).format(""), "prepare")
        except SqlError as error:
            raise VotedNo(_said(error, branch), error.code) from error
        self._learn(branch, answer)
        if answer.rows[0][0] == _READ_ONLY:
            self._release(branch)
            return Vote.READ_ONLY
        return Vote.YES

    def commit_one_phase(self, branch: Branch) -> Flow[None]:
        session = self._sessions[branch.gtid.text]
        statement = self._vote(branch, "XA COMMIT", ALONE_ROW).format(f" ONE PHASE; {self._after(branch).rstrip(';')}")
        try:
            answer = yield from self._ask(session, statement, "commit one phase")
        except SqlError as error:
            if error.code in _ROLLED_BACK or _is_fenced(error, branch):
                raise VotedNo(_said(error, branch), error.code) from error
            # which of the statements failed is not told: it may be one after the commit
            raise
        self._learn(branch, answer)
        self._release(branch)

    def _learn(self, branch: Branch, answer: Answer) -> None:
        if answer.rows[0][0] == _WROTE_LAST:
            self.habit.wrote()
        else:
            self.habit.did_not(branch.gtid.text not in self._uncounted)

    # ---- the end

    def commit(self, branch: Branch) -> Flow[None]:
        yield from self._finish(branch, "COMMIT")

    def rollback(self, branch: Branch) -> Flow[None]:
        session = self._sessions.get(branch.gtid.text)
        if session is not None and session.state() == sessions.OPEN:
            # in whichever state the branch is; an XA END of an ended one is refused, and so is that of one that a deadlock rolled back
            statement = (
                f"BEGIN NOT ATOMIC BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; XA END {xid(branch)}; END; "
                f"XA ROLLBACK {xid(branch)}; {self._after(branch)} END"
            )
            try:
                yield from self._ask(session, statement, "rollback")
            except (ConnectionBroken, SqlError):
                # the connection takes the branch along unless it is prepared; the rest is done from elsewhere
                self._drop(branch)
            else:
                self._release(branch)
                return
        yield from self._finish(branch, "ROLLBACK")

    def _finish(self, branch: Branch, verb: str) -> Flow[None]:
        session = self._sessions.get(branch.gtid.text)
        if session is not None and session.state() != sessions.BROKEN:
            statement = f"BEGIN NOT ATOMIC XA {verb} {xid(branch)}; {self._after(branch)} END"
            try:
                yield from self._ask(session, statement, f"xa {verb.lower()}")
            except SqlError as error:
                self._drop(branch)
                if error.code == _NO_SUCH_XID:
                    raise UnknownBranch(str(error), error.code) from error
                raise
            except ConnectionBroken:
                self._drop(branch)
                raise
            self._release(branch)
            return
        self._drop(branch)
        yield from self._owner_gone(branch)
        yield from self.pool.use(lambda session: self._ending(session, branch, verb))

    def _ending(self, session: Session, branch: Branch, verb: str) -> Flow[None]:
        try:
            yield from self._ask(session, f"XA {verb} {xid(branch)}", f"xa {verb.lower()} elsewhere")
        except SqlError as error:
            if error.code == _NO_SUCH_XID:
                raise UnknownBranch(str(error), error.code) from error
            raise
        if verb == "COMMIT" and not (yield from self._has_witness(branch)):
            raise ParticipantError(
                "MariaDB said that it committed, and what it should have committed is not there; the branch will be listed again after the server's restart"
            )

    def recover(self) -> Flow[Sequence[Prepared]]:
        answer = yield from self._elsewhere("XA RECOVER", "recover")
        found = []
        for format_, gtrid_size, _, data in answer.rows:
            raw = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogateescape")
            gtrid = raw[: int(gtrid_size)].decode("ascii", "replace")
            participant = raw[int(gtrid_size) :].decode("ascii", "replace")
            gtid = parse(gtrid) if int(format_) == FORMAT else None
            branch = None if gtid is None or participant != self.name else Branch(gtid, self.name)
            live = False
            if branch is not None:
                live = (yield from self._owner(branch)) is not None
            found.append(Prepared(f"{gtrid}/{participant}", branch, None, "", live))
        return found

    def _owner(self, branch: Branch) -> Flow[int | None]:
        """The connection that works for the branch."""
        answer = yield from self._elsewhere(f"SELECT IS_USED_LOCK({lock_name(branch)})", "owner")
        found = answer.rows[0][0]
        return None if found is None else int(found)

    def _owner_gone(self, branch: Branch) -> Flow[None]:
        """End the branch's connection, and wait until the server has let go of it."""
        owner = yield from self._owner(branch)
        if owner is None:
            return
        until = (yield from now()) + FENCE_SECONDS
        try:
            yield from self._elsewhere(f"KILL {owner}", "kill the owner")
        except SqlError as error:
            if error.code != _NO_SUCH_THREAD:
                raise
        while (yield from self._owner(branch)) is not None:
            if (yield from now()) > until:
                raise ParticipantError(f"the connection {owner} was killed, and the server has not let go of it")
            yield from sleep(_POLL_SECONDS)

    def fence(self, branch: Branch) -> Flow[None]:
        """No connection works for the branch any more, and none that comes later can prepare it."""
        yield from self._owner_gone(branch)
        statement = (
            f"BEGIN NOT ATOMIC SET @w = @@innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = 0; "
            f"BEGIN DECLARE CONTINUE HANDLER FOR {_DUPLICATE}, {_LOCK_WAIT} BEGIN END; {self._witness(branch, FENCE_ROW)}; END; "
            "SET SESSION innodb_lock_wait_timeout = @w; END"
        )
        yield from self._several(statement, "fence")

    def outcome(self, branch: Branch) -> Flow[Outcome]:
        if (yield from self._has_witness(branch)):
            return Outcome.COMMITTED
        answer = yield from self._elsewhere("XA RECOVER", "recover")
        wanted = (branch.gtid.text + branch.participant).encode()
        for format_, _, _, data in answer.rows:
            raw = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogateescape")
            if int(format_) == FORMAT and raw == wanted:
                return Outcome.PREPARED
        if (yield from self._owner(branch)) is not None or (yield from self._locked(branch)):
            # at work, or lost by the server until it restarts: its row is there and uncommitted
            return Outcome.UNKNOWN
        return Outcome.COMMITTED if (yield from self._has_witness(branch)) else Outcome.ABORTED

    def _has_witness(self, branch: Branch) -> Flow[bool]:
        try:
            answer = yield from self._elsewhere(
                f"SELECT COUNT(*) FROM {self._this_witness(branch)}",
                "witness",
            )
        except SqlError as error:
            if error.code == _NO_SUCH_TABLE:
                return False
            raise
        return int(answer.rows[0][0]) > 0

    def _locked(self, branch: Branch) -> Flow[bool]:
        """Whether an open transaction holds the witness row: it is seen uncommitted."""
        try:
            answer = yield from self._several(
                "BEGIN NOT ATOMIC SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; "
                f"SELECT COUNT(*) FROM {self._this_witness(branch)}; END",
                "uncommitted witness",
            )
        except SqlError as error:
            if error.code == _NO_SUCH_TABLE:
                return False
            raise
        return int(answer.rows[0][0]) > 0

    def tidy(self, before: float, space: str) -> Flow[None]:
        """Delete witnesses of the space's transactions whose deadline was before that, of which nobody will ask any more; and those of commits in one phase, which
        no decision speaks of, when they are old by the server's clock. What somebody has locked is left for later."""
        # A DELETE of a range waits for every row that it looks at, the first one beyond its end among them, and any may be a prepared branch's, for days. So
        # rows are looked for without locks, and deleted one by one.
        statement = (
            f"BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR {_LOCK_WAIT} BEGIN END; "
            "SET @w = @@innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = 0; "
            # at SERIALIZABLE, if that is the default, what is only looked at would be locked
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION; "
            f"FOR old IN (SELECT until, gtrid, branch FROM {self._table} WHERE gtrid >= {_hex(f'q.{space}.')} "
            f"AND gtrid < {_hex(f'q.{space}/')} AND (until < {round(before * 1000)} AND kind <> {ALONE_ROW} "
            f"OR kind = {ALONE_ROW} AND until < (UNIX_TIMESTAMP() - {ALONE_SECONDS}) * 1000) LIMIT {TIDY_ROWS}) DO "
            f"DELETE FROM {self._table} WHERE until = old.until AND gtrid = old.gtrid AND branch = old.branch; END FOR; "
            "COMMIT; SET SESSION innodb_lock_wait_timeout = @w; END"
        )
        try:
            yield from self._several(statement, "tidy")
        except SqlError as error:
            if error.code != _NO_SUCH_TABLE:
                raise

    # ---- for operators

    def blocking(self, branch: Branch) -> Flow[Blocking]:
        """InnoDB does not tell which xid a transaction has: it is found by its connection, and those without one are told together."""
        owner = (yield from self._owner(branch)) or 0
        found = yield from self._elsewhere(
            f"SELECT trx_rows_locked, trx_tables_locked FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = {owner}",
            "locks",
        )
        waiters = yield from self._elsewhere(
            "SELECT DISTINCT r.trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, r.trx_wait_started, NOW()), l.lock_table, "
            f"COALESCE(LEFT(r.trx_query, {STATEMENT_MAX}), '') FROM information_schema.INNODB_LOCK_WAITS w "
            "JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id "
            "JOIN information_schema.INNODB_TRX r ON r.trx_id = w.requesting_trx_id "
            "JOIN information_schema.INNODB_LOCKS l ON l.lock_id = w.requested_lock_id "
            f"WHERE b.trx_mysql_thread_id = {owner} ORDER BY r.trx_wait_started",
            "waiters",
        )
        several = len(found.rows) > 1
        return Blocking(
            [f"{rows} rows in {tables} tables" for rows, tables in found.rows],
            [
                Waiter(
                    f"{thread}",
                    None if seconds is None else float(seconds),
                    str(lock),
                    " ".join(str(statement).split()),
                )
                for thread, seconds, lock, statement in waiters.rows
            ],
            "of this branch and of others whose connection is gone: InnoDB does not tell them apart" if several else "",
        )

    def measure(self) -> Flow[Mapping[str, float]]:
        """Branches that the server keeps prepared and locked and does not list: only a restart brings them back. Nothing if the user lacks the right
        PROCESS."""
        try:
            before = yield from self._detached()
            listed = yield from self.recover()
            # of other people's branches it is not known whether a connection still has them
            let_go = sum(1 for prepared in listed if not prepared.live)
            after: set[str] = set()
            if len(before) > let_go:
                yield from sleep(_INNODB_SECONDS)
                after = yield from self._detached()
        except SqlError as error:
            if error.code == _NOT_ALLOWED:
                return {}
            raise
        # what was detached before and after
        lost = max(0, len(before & after) - let_go)
        return {"lost_branches": float(lost), "prepared_branches": float(len(listed))}

    def _detached(self) -> Flow[set[str]]:
        """InnoDB's transactions that no connection has."""
        answer = yield from self._elsewhere(
            "SELECT trx_id FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id = 0", "detached"
        )
        return {str(row[0]) for row in answer.rows}

    # ---- sessions

    def _ask(self, session: Session, statement: str, what: str) -> Flow[Answer]:
        answer: Answer = yield from call(f"{self.name}: {what}", session.execute, statement, blocks=session.blocks)
        return answer

    def _elsewhere(self, statement: str, what: str) -> Flow[Answer]:
        return (yield from self.pool.use(lambda session: self._ask(session, statement, what)))

    def _several(self, statement: str, what: str) -> Flow[Answer]:
        """A compound statement on such a session. If a part of it fails, settings may be left as they were meant for another part, or a transaction open, in which whoever
        asks next would see the past; and an error does not say so."""

        def work(session: Session) -> Flow[Answer]:
            try:
                return (yield from self._ask(session, statement, what))
            except SqlError:
                session.hang_up()
                raise

        return (yield from self.pool.use(work))

    def _release(self, branch: Branch) -> None:
        self._uncounted.discard(branch.gtid.text)
        session = self._sessions.pop(branch.gtid.text, None)
        if session is not None:
            session.detach()

    def _drop(self, branch: Branch) -> None:
        self._uncounted.discard(branch.gtid.text)
        session = self._sessions.pop(branch.gtid.text, None)
        if session is not None:
            session.hang_up()

    def let_go(self, branch: Branch) -> None:
        """See ``PostgresParticipant.let_go``: a connection that still has the branch is broken off, so that others can end it."""
        self._drop(branch)


def _said(error: SqlError, branch: Branch) -> str:
    if error.code in _ROLLED_BACK:
        return f"MariaDB rolled the branch back: {error}"
    if _is_fenced(error, branch):
        return "recovery has fenced the branch off"
    return str(error)


def _is_fenced(error: SqlError, branch: Branch) -> bool:
    return error.code == _DUPLICATE and branch.gtid.text in str(error)
