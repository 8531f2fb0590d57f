"""PostgreSQL and MariaDB, as far as two-phase commit goes, with what was seen of the real ones: votes that are told by a tag alone, branches that only their owner can
end, and commits that are acknowledged and lost.

They understand the statements that our adapters send, and ``write``, which stands for a program's work. Every branch's work is a mark with its
transaction's name; what became of it is what the judge looks at.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from quorate.simulation.scheduler import MILLISECOND, SECOND, Scheduler, Stream
from quorate.simulation.transactions.shell import Waiting
from quorate.transactions.errors import ConnectionBroken
from quorate.transactions.flow import Done, Failed
from quorate.transactions.gtid import parse
from quorate.transactions.sql import session as sessions
from quorate.transactions.sql.session import Answer, SqlError

EPOCH = 1_700_000_000.0
"""Seconds since 1970 at the beginning of a run."""
ACTIVE, PREPARED, ENDED = "active", "prepared", "ended"


class Txn:
    """``name``: the branch's (gid or xid). ``owner``: the connection that it is bound to; 0 for none."""

    __slots__ = ("failed", "kind", "lock", "lost", "name", "number", "owner", "releasing", "state", "witness", "wrote")

    def __init__(self, name: str, lock: str, owner: int) -> None:
        self.name = name
        self.lock = lock
        self.owner = owner
        self.state = ACTIVE
        self.number = 0
        self.wrote = False
        """A program's work."""
        self.witness = False
        """A row of the adapter's own."""
        self.failed = False
        self.kind = 0
        """Of its witness."""
        self.releasing = False
        """Its owner is gone, and the server is just about to let go of it."""
        self.lost = False
        """Taken for ended by the server's list, and prepared in its engine."""


class Judge:
    """Told of every end of a branch: (server, branch's name, committed, it was prepared)."""

    def __init__(self, tell: Callable[["Server", str, bool, bool], None]) -> None:
        self.tell = tell


class Server:
    def __init__(self, name: str, scheduler: Scheduler, stream: Stream, delay: int, judge: Judge) -> None:
        self.name = name
        self.scheduler = scheduler
        self.stream = stream
        self.delay = delay
        self.judge = judge
        self.up = True
        self.sessions: dict[int, SimSession] = {}
        self.txns: dict[str, Txn] = {}
        """Active and prepared, by the branch's name."""
        self.resets = 0.0
        self.slow = 0.0
        self._issued = 0

    # ---- connections

    def connect(self) -> Waiting:
        waiting = Waiting()
        self.scheduler.after(2 * self._delay(), self._connected, waiting)
        return waiting

    def _connected(self, waiting: Waiting) -> None:
        if not self.up:
            waiting.tell(Failed(ConnectionBroken(f"{self.name} is down")))
            return
        self._issued += 1
        session = SimSession(self, self._issued)
        self.sessions[session.id] = session
        waiting.tell(Done(session))

    def _delay(self) -> int:
        slow = 200 if self.slow and self.stream.chance(self.slow) else 1
        return 1 + self.stream.around(self.delay) * slow

    def send(self, session: "SimSession", statement: str) -> Waiting:
        waiting = Waiting()
        broken = self.resets and self.stream.chance(self.resets)
        if broken and self.stream.chance(0.5):
            # it never got there
            self.scheduler.after(self._delay(), self._break, session, waiting)
            return waiting
        at = max(self.scheduler.now + self._delay(), session.last_arrival + 1)
        session.last_arrival = at
        self.scheduler.at(at, self._arrive, session, statement, waiting, bool(broken))
        return waiting

    def _break(self, session: "SimSession", waiting: Waiting) -> None:
        session.broken = True
        waiting.tell(Failed(ConnectionBroken("the connection was reset")))
        self.end_session(session)

    def _arrive(self, session: "SimSession", statement: str, waiting: Waiting, broken: bool) -> None:
        if not self.up or session.id not in self.sessions:
            session.broken = True
            self.scheduler.after(self._delay(), waiting.tell, Failed(ConnectionBroken("the connection is lost")))
            return
        result: Done[Any] | Failed
        try:
            result = Done(self.answer(session, statement))
        except (SqlError, ConnectionBroken) as error:
            result = Failed(error)
        if broken:
            self.scheduler.after(self._delay(), self._break, session, waiting)
            return
        self.scheduler.after(self._delay(), self._replied, session, waiting, result)

    def _replied(self, session: "SimSession", waiting: Waiting, result: Done[Any] | Failed) -> None:
        if session.broken or not self.up:
            session.broken = True
            result = Failed(ConnectionBroken("the connection is lost"))
        waiting.tell(result)

    def hung_up(self, session: "SimSession") -> None:
        """By the client: the server gets to know after what was sent before."""
        at = max(self.scheduler.now + self._delay(), session.last_arrival + 1)
        self.scheduler.at(at, self.end_session, session)

    def end_session(self, session: "SimSession") -> None:
        if self.sessions.pop(session.id, None) is None:
            return
        for txn in list(self.txns.values()):
            if txn.owner == session.id:
                self.abandoned(txn)

    def abandoned(self, txn: Txn) -> None:
        """Its connection is gone."""
        if txn.state == ACTIVE:
            self.end(txn, False)
        else:
            txn.owner = 0

    def endable(self) -> list[Txn]:
        """What an operator could end by hand: listed as prepared, and nobody's."""
        if not self.up:
            return []
        return [
            txn
            for txn in self.txns.values()
            if txn.state == PREPARED and txn.wrote and not (txn.owner or txn.releasing or txn.lost)
        ]

    # ---- the server's life

    def crash(self) -> None:
        self.up = False
        for session in self.sessions.values():
            session.broken = True
        self.sessions.clear()
        for txn in list(self.txns.values()):
            if txn.state == ACTIVE:
                self.end(txn, False)
            else:
                txn.owner = 0
                txn.releasing = txn.lost = False

    def restart(self) -> None:
        self.up = True

    # ---- branches

    def end(self, txn: Txn, committed: bool) -> None:
        prepared = txn.state == PREPARED
        txn.state = ENDED
        del self.txns[txn.name]
        self.remember(txn, committed)
        if txn.wrote:
            self.judge.tell(self, txn.name, committed, prepared)

    def remember(self, txn: Txn, committed: bool) -> None:
        raise NotImplementedError

    def of(self, session: "SimSession") -> Txn | None:
        for txn in self.txns.values():
            if txn.owner == session.id:
                return txn
        return None

    def answer(self, session: "SimSession", statement: str) -> Answer:
        raise NotImplementedError

    def left(self) -> Sequence[str]:
        """What is not ended."""
        return list(self.txns)


class SimSession:
    blocks = False
    several = True

    def __init__(self, server: Server, id_: int) -> None:
        self.connection = self
        self.server = server
        self.id = id_
        self.broken = False
        self.last_arrival = 0
        self.status = sessions.IDLE
        self.attached = False

    def execute(self, statement: str) -> Waiting:
        if self.broken:
            raise ConnectionBroken("the connection is lost")
        return self.server.send(self, statement)

    def state(self) -> str:
        if self.broken:
            return sessions.BROKEN
        return sessions.OPEN if self.attached and isinstance(self.server, SimMariaDB) else self.status

    def attach(self) -> None:
        self.attached = True

    def detach(self) -> None:
        self.attached = False

    def hang_up(self) -> None:
        if not self.broken:
            self.broken = True
            self.server.hung_up(self)

    close = hang_up


_GID = re.compile(r"'(q\.[^']+)'")


class SimPostgres(Server):
    def __init__(self, name: str, scheduler: Scheduler, stream: Stream, delay: int, judge: Judge) -> None:
        super().__init__(name, scheduler, stream, delay, judge)
        self._number = 1000
        self._flushed = self._number
        """Numbers that a crash does not give again: whoever commits or prepares flushes what was written before, too."""
        self._life = 0
        self._ended: dict[int, bool] = {}
        self.deferred_failures = 0.0

    def remember(self, txn: Txn, committed: bool) -> None:
        if txn.number:
            self._ended[txn.number] = committed
            if committed:
                self._flushed = self._number

    def crash(self) -> None:
        super().crash()
        self._life += 1
        for number in range(self._flushed + 1, self._number + 1):
            self._ended.pop(number, None)
        self._number = self._flushed

    def abandoned(self, txn: Txn) -> None:
        super().abandoned(txn)
        txn.lock = ""

    def answer(self, session: SimSession, statement: str) -> Answer:
        found = self._answer(session, statement)
        txn = self.of(session)
        session.status = sessions.IDLE if txn is None else sessions.FAILED if txn.failed else sessions.OPEN
        return found

    def _answer(self, session: SimSession, statement: str) -> Answer:
        txn = self.of(session)
        verb = statement.split(" ", 1)[0]
        if statement.startswith("begin"):
            (name,) = _GID.findall(statement)
            lock = statement.rpartition("(")[2].rstrip(")")
            self.txns[name] = Txn(name, lock, session.id)
            return Answer("SELECT 1", [(None,)])
        if verb == "write" and txn is not None:
            self._number += 1
            txn.wrote, txn.number = True, self._number
            return Answer("UPDATE 1")
        if statement == "fail" and txn is not None:
            txn.failed = True
            raise SqlError("division by zero (22012)", "22012")
        if statement.startswith("select pg_current_xact_id_if_assigned"):
            if txn is None:
                return Answer("SELECT 1", [(None, "")])
            if txn.failed:
                raise SqlError("current transaction is aborted (25P02)", "25P02")
            return Answer("SELECT 1", [(str(txn.number) if txn.number else None, txn.name)])
        if statement in ("commit", "rollback"):
            if txn is not None:
                committed = statement == "commit" and not txn.failed
                self.end(txn, committed)
                return Answer("COMMIT" if committed else "ROLLBACK")
            return Answer(statement.upper())
        question, _, prepare = statement.rpartition("; ")
        if prepare.startswith("prepare transaction"):
            asked = self._ask_and_number(txn) if question else []
            return Answer(self._prepare(txn, prepare).tag, asked)
        if verb in ("commit", "rollback"):
            (name,) = _GID.findall(statement)
            prepared = self.txns.get(name)
            if prepared is None or prepared.state != PREPARED:
                raise SqlError(f'prepared transaction with identifier "{name}" does not exist (42704)', "42704")
            self.end(prepared, verb == "commit")
            return Answer(f"{verb.upper()} PREPARED")
        return self._question(statement)

    def _ask_and_number(self, txn: Txn | None) -> list[Any]:
        """The transaction's name, its number if it had one, and its number."""
        if txn is None:
            return [("", None, "0")]
        if txn.failed:
            raise SqlError("current transaction is aborted (25P02)", "25P02")
        wrote = str(txn.number) if txn.number else None
        if not txn.number:
            self._number += 1
            txn.number = self._number
        return [(txn.name, wrote, str(txn.number))]

    def _prepare(self, txn: Txn | None, statement: str) -> Answer:
        (name,) = _GID.findall(statement)
        if txn is None or txn.failed:
            if txn is not None:
                self.end(txn, False)
            return Answer("ROLLBACK")
        if self.deferred_failures and self.stream.chance(self.deferred_failures):
            self.end(txn, False)
            raise SqlError("insert violates a deferred foreign key (23503)", "23503")
        assert txn.name == name
        txn.state, txn.owner = PREPARED, 0
        self._flushed = self._number
        return Answer("PREPARE TRANSACTION")

    def _question(self, statement: str) -> Answer:
        if statement.startswith("select current_setting"):
            return Answer("SELECT 1", [(64, "f", 150000, "db", "app", "f", "at once", str(self._life))])
        if statement.startswith("select gid"):
            rows = [(txn.name, str(txn.number), 0.0, "app") for txn in self.txns.values() if txn.state == PREPARED]
            return Answer("SELECT", rows)
        if statement.startswith("select pid"):
            high, low = (int(part) for part in re.findall(r"= (\d+)::bigint", statement))
            unsigned = high << 32 | low
            key = unsigned - (1 << 64) if unsigned >> 63 else unsigned
            owners = [txn.owner for txn in self.txns.values() if txn.owner and txn.lock == str(key)]
            if "pg_terminate_backend" in statement:
                for owner in owners:
                    target = self.sessions[owner]
                    target.broken = True
                    self.scheduler.after(self._delay(), self.end_session, target)
            return Answer("SELECT", [(owner, "t") for owner in owners])
        if statement.startswith("select exists"):
            (name,) = _GID.findall(statement)[:1]
            known = self.txns.get(name)
            number = re.search(r"pg_xact_status\('(\d+)'", statement)
            status = None
            if number is not None:
                if int(number.group(1)) > self._number:
                    raise SqlError("transaction ID is in the future (22023)", "22023")
                ended = self._ended.get(int(number.group(1)))
                status = {None: "in progress", True: "committed", False: "aborted"}[ended]
            prepared = "t" if known is not None and known.state == PREPARED else "f"
            return Answer("SELECT 1", [(prepared, status, str(self._life))])
        if statement.startswith("select pg_stat_get_bgwriter"):
            return Answer("SELECT 1", [(str(self._life), "f")])
        raise AssertionError(f"{self.name} does not understand {statement!r}")


_XID = re.compile(r"X'([0-9a-f]*)',X'([0-9a-f]*)',(\d+)")
_ROW = re.compile(r"VALUES \((\d+), X'([0-9a-f]*)', X'([0-9a-f]*)', (\d)\)")
_LOCK = re.compile(r"'(quorate [0-9a-f]+)'")
_TIDIED = re.compile(r"until < (-?\d+) AND kind <> 2 OR kind = 2 AND until < \(UNIX_TIMESTAMP\(\) - (\d+)\) \* 1000")
_WHERE = re.compile(r"until = (\d+) AND gtrid = X'([0-9a-f]*)' AND branch = X'([0-9a-f]*)'")


class SimMariaDB(Server):
    def __init__(self, name: str, scheduler: Scheduler, stream: Stream, delay: int, judge: Judge) -> None:
        super().__init__(name, scheduler, stream, delay, judge)
        self.witnesses: dict[str, int] = {}
        """Committed rows: the branch's name → kind."""
        self._checks: dict[str, int] = {}
        """Locks of connections that are being checked."""
        self.loses = 0.0

    def remember(self, txn: Txn, committed: bool) -> None:
        if committed and txn.witness:
            self.witnesses[txn.name] = txn.kind

    def abandoned(self, txn: Txn) -> None:
        if txn.state == ACTIVE:
            self.end(txn, False)
            return
        # listed at once, and let go of a little later: the window of fact 2
        txn.releasing = True
        self.scheduler.after(self.stream.around(20 * MILLISECOND), self._released, txn)

    def _released(self, txn: Txn) -> None:
        txn.releasing = False
        txn.owner = 0
        txn.lock = ""

    def answer(self, session: SimSession, statement: str) -> Answer:
        txn = self.of(session)
        if statement == "write" and txn is not None:
            txn.wrote = True
            return Answer("")
        if statement == "fail":
            raise SqlError("duplicate entry (1062)", "1062")
        named = _XID.search(statement)
        name = "" if named is None else f"{_text(named.group(1))}/{_text(named.group(2))}"
        if "GET_LOCK" in statement and "XA START" in statement:
            lock = re.search(r"GET_LOCK\('([^']*)'", statement)
            assert lock is not None
            self.txns[name] = Txn(name, lock.group(1), session.id)
            return Answer("")
        if statement.startswith("SELECT CURRENT_USER()"):
            self._checks[_LOCK.findall(statement)[0]] = session.id
            return Answer("", [("app@%", session.id, 1)])
        if "DECLARE changed" in statement:
            return self._vote(txn, statement)
        if statement.startswith(
            ("BEGIN NOT ATOMIC XA", "BEGIN NOT ATOMIC BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION")
        ):
            if txn is None or txn.name != name:
                raise SqlError("XAER_NOTA: Unknown XID (1397)", "1397")
            self.end(txn, "XA COMMIT" in statement)
            return Answer("")
        if statement.startswith(("XA COMMIT", "XA ROLLBACK")):
            return self._elsewhere(name, statement)
        return self._question(statement)

    def _vote(self, txn: Txn | None, statement: str) -> Answer:
        if txn is None:
            raise SqlError("XAER_NOTA: Unknown XID (1397)", "1397")
        if not txn.wrote and "DECLARE n" in statement:
            self.end(txn, True)
            return Answer("", [("read only",)])
        if txn.name in self.witnesses:
            gtid = txn.name.partition("/")[0]
            raise SqlError(f"Duplicate entry '{gtid}' for key 'PRIMARY' (1062)", "1062")
        row = _ROW.search(statement)
        assert row is not None
        txn.kind = int(row.group(4))
        txn.witness = True
        said = "yes, and its last statement wrote" if txn.wrote else "yes"
        if "XA PREPARE" in statement:
            txn.state = PREPARED
        else:
            self.end(txn, True)
        return Answer("", [(said,)])

    def _elsewhere(self, name: str, statement: str) -> Answer:
        txn = self.txns.get(name)
        if txn is None or txn.lost or txn.state != PREPARED or (txn.owner and not txn.releasing):
            raise SqlError("XAER_NOTA: Unknown XID (1397)", "1397")
        if txn.releasing:
            if self.stream.chance(0.5):
                raise SqlError("XAER_NOTA: Unknown XID (1397)", "1397")
            txn.lost = True
            return Answer("")
        self.end(txn, statement.startswith("XA COMMIT"))
        return Answer("")

    def _question(self, statement: str) -> Answer:
        tidied = _TIDIED.search(statement)
        if tidied is not None:
            self._tidy(int(tidied.group(1)), (self.seconds() - int(tidied.group(2))) * 1000)
            return Answer("")
        if statement == "XA RECOVER":
            rows = []
            for txn in self.txns.values():
                if txn.state == PREPARED and not txn.lost:
                    gtid, _, branch = txn.name.partition("/")
                    rows.append((0x51524154, len(gtid), len(branch), (gtid + branch).encode()))
            return Answer("", rows)
        if statement.startswith("SELECT IS_USED_LOCK"):
            lock = statement.partition("('")[2].partition("')")[0]
            owners = [txn.owner for txn in self.txns.values() if txn.lock == lock and txn.owner]
            checking = self._checks.get(lock)
            if checking in self.sessions:
                owners.append(checking)
            return Answer("", [(owners[0] if owners else None,)])
        if statement.startswith("KILL"):
            target = self.sessions.get(int(statement.split()[1]))
            if target is None:
                raise SqlError("Unknown thread id (1094)", "1094")
            target.broken = True
            self.scheduler.after(self._delay(), self.end_session, target)
            return Answer("")
        row = _ROW.search(statement)
        if row is not None:
            name = f"{_text(row.group(2))}/{_text(row.group(3))}"
            open_ = self.txns.get(name)
            if name not in self.witnesses and not (open_ is not None and open_.state == PREPARED):
                self.witnesses[name] = int(row.group(4))
            return Answer("")
        where = _WHERE.search(statement)
        if where is not None:
            name = f"{_text(where.group(2))}/{_text(where.group(3))}"
            there = self.witnesses.get(name) in (0, 2)
            if "READ UNCOMMITTED" in statement:
                open_ = self.txns.get(name)
                there = there or (open_ is not None and open_.state == PREPARED)
            return Answer("", [(int(there),)])
        if statement.startswith("SELECT VERSION"):
            return Answer("", [("10.11.19-MariaDB", "0", "0", "app@%", "0")])
        if statement.startswith("SELECT COUNT(*) FROM information_schema.TABLES"):
            return Answer("", [(1,)])
        if statement.startswith(
            ("SELECT kind", "INSERT INTO `db`.quorate_txn SELECT", "SHOW GRANTS", "DO RELEASE_LOCK")
        ):
            return Answer("")
        if statement.startswith(("SELECT t.TABLE_NAME", "DELETE")):
            return Answer("")
        raise AssertionError(f"{self.name} does not understand {statement!r}")

    def seconds(self) -> float:
        return EPOCH + self.scheduler.now / SECOND

    def _tidy(self, before: int, alone_before: float) -> None:
        for name, kind in list(self.witnesses.items()):
            gtid = parse(name.partition("/")[0])
            assert gtid is not None
            if gtid.deadline * 1000 < (alone_before if kind == 2 else before):
                del self.witnesses[name]


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode()
