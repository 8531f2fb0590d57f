"""Whether a connection to MariaDB, and the server behind it, can take part: the server is looked at once, each connection once, before any work is done on it.

What recovery needs is looked at here, too, for it is not needed before the first crash: the witness table, the rights on it, the right to end the connections of the
user whose branches it ends, and that it looks at the same server.

Known defects: before 10.5.2 a prepared branch is rolled back when its connection is lost (MDEV-742); Galera Cluster has no XA; with the binary log on, a crash between
the log and the engine can leave the two at odds about a prepared branch (MDEV-32830 and MDEV-33168), and replicas hold its row locks until it is ended
(MDEV-32020): that is warned of.
"""

import weakref
from collections.abc import Callable
from typing import Any

from quorate.transactions.errors import ConfigurationError
from quorate.transactions.flow import Flow
from quorate.transactions.sql.session import Answer, Session, SqlError

OLDEST = (10, 5, 2)
_DENIED = ("1142", "1143", "1044")
_READ_ONLY = "1290"
_MAY_KILL = ("CONNECTION ADMIN", "SUPER", "ALL PRIVILEGES")


class MariaDBSetup:
    """``table``: the witness table, as it is quoted; ``schema``: its database in hex. ``ask``: a statement on a session; ``elsewhere``: on one of recovery's.
    ``warnings``: what is to be said besides, once."""

    def __init__(
        self,
        name: str,
        database: str,
        schema: str,
        table: str,
        ignored: frozenset[str],
        ask: Callable[[Session, str, str], Flow[Answer]],
        elsewhere: Callable[[str, str], Flow[Answer]],
    ) -> None:
        self._name = name
        self._database = database
        self._schema = schema
        self._table = table
        self._ignored = ignored
        self._ask = ask
        self._elsewhere = elsewhere
        self._user = ""
        """Recovery's; "" until the server was looked at."""
        self._may_kill = False
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.warnings: list[str] = []

    def check(self, session: Session, lock: str) -> Flow[None]:
        """``lock``: the quoted name of a user lock that nobody else takes. Raises ConfigurationError."""
        if session.connection in self._seen:
            return
        if not self._user:
            yield from self._check_server()
        yield from self._check_connection(session, lock)
        self._seen.add(session.connection)

    # ---- the server, by recovery's connection

    def _check_server(self) -> Flow[None]:
        answer = yield from self._elsewhere(
            "SELECT VERSION(), @@innodb_read_only, @@log_bin, CURRENT_USER(), (SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES "
            "WHERE VARIABLE_NAME = 'WSREP_ON')",
            "check",
        )
        ((version, read_only, binary_log, user, cluster),) = answer.rows
        self._check_version(str(version))
        if str(read_only) not in ("0", "OFF"):
            raise ConfigurationError(f"{self._name}: the server is read only")
        if str(cluster) in ("1", "ON"):
            raise ConfigurationError(f"{self._name}: the server is of a Galera Cluster, which has no XA")
        yield from self._check_engines()
        yield from self._check_witness()
        grants = yield from self._elsewhere("SHOW GRANTS", "check grants")
        self._may_kill = any(
            " ON *.* " in f"{grant} " and any(right in str(grant) for right in _MAY_KILL) for (grant,) in grants.rows
        )
        if str(binary_log) in ("1", "ON"):
            self.warnings.append(
                f"{self._name}: the server writes a binary log: after a crash of the server it may be at odds with the tables about prepared branches "
                "(MDEV-32830, MDEV-33168), and replicas keep their rows locked until they are ended (MDEV-32020)"
            )
        self._user = str(user)

    def _check_version(self, version: str) -> None:
        if "MariaDB" not in version:
            raise ConfigurationError(
                f"{self._name}: the server is MySQL {version}, whose XA was not tried; MariaDB 10.5 or newer can take part"
            )
        numbers = tuple(int(digits) for digits in version.partition("-")[0].split(".")[:3])
        if numbers < OLDEST:
            raise ConfigurationError(
                f"{self._name}: MariaDB {version} rolls prepared branches back when their connection is lost (MDEV-742); 10.5.2 is the first that keeps them"
            )

    def _check_engines(self) -> Flow[None]:
        answer = yield from self._elsewhere(
            "SELECT t.TABLE_NAME, t.ENGINE FROM information_schema.TABLES t JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE "
            f"WHERE t.TABLE_SCHEMA = {self._schema} AND t.TABLE_TYPE = 'BASE TABLE' AND e.XA <> 'YES' ORDER BY t.TABLE_NAME",
            "check engines",
        )
        wrong = [(str(table), str(engine)) for table, engine in answer.rows if str(table) not in self._ignored]
        if wrong:
            table, engine = wrong[0]
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ConfigurationError(
                f"{self._name}: the table {table}{more} is of the engine {engine}, which is not transactional: its rows would survive a rollback; "
                "make it InnoDB, or name it in ignore_tables"
            )

    def _check_witness(self) -> Flow[None]:
        try:
            there = yield from self._elsewhere(
                f"SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {self._schema} AND TABLE_NAME = 'quorate_txn'",
                "look for the witness table",
            )
            if not int(there.rows[0][0]):
                yield from self._elsewhere(
                    f"CREATE TABLE IF NOT EXISTS {self._table} (until BIGINT NOT NULL, gtrid VARBINARY(64) NOT NULL, branch VARBINARY(64) NOT NULL, "
                    "kind TINYINT NOT NULL, PRIMARY KEY (until, gtrid, branch)) ENGINE = InnoDB",
                    "make the witness table",
                )
        except SqlError as error:
            raise ConfigurationError(
                f"{self._name}: the witness table {self._database}.quorate_txn is not there and cannot be made ({error})"
            ) from error
        # refused or not by the rights alone: they do nothing, and look at no row, for the first one may be locked by a branch that nobody has ended yet
        for statement in (
            f"SELECT kind FROM {self._table} WHERE 1 = 0",
            f"INSERT INTO {self._table} SELECT 0, '', '', 0 FROM DUAL WHERE 1 = 0",
            f"DELETE FROM {self._table} WHERE 1 = 0",
        ):
            try:
                yield from self._elsewhere(statement, "check rights")
            except SqlError as error:
                raise self._refused(error, "recovery's user", "SELECT, INSERT and DELETE") from error

    def _refused(self, error: SqlError, whose: str, rights: str) -> Exception:
        if error.code == _READ_ONLY:
            return ConfigurationError(f"{self._name}: the server is read only ({error})")
        if error.code in _DENIED:
            return ConfigurationError(
                f"{self._name}: {whose} lacks {rights} on the witness table {self._database}.quorate_txn ({error})"
            )
        return error

    # ---- the connection

    def _check_connection(self, session: Session, lock: str) -> Flow[None]:
        answer = yield from self._ask(
            session, f"SELECT CURRENT_USER(), CONNECTION_ID(), GET_LOCK({lock}, 0)", "check connection"
        )
        ((user, connection, _),) = answer.rows
        found = yield from self._elsewhere(f"SELECT IS_USED_LOCK({lock})", "check the server")
        yield from self._ask(session, f"DO RELEASE_LOCK({lock})", "check connection, done")
        holder = found.rows[0][0]
        if holder is None or int(holder) != int(connection):
            raise ConfigurationError(
                f"{self._name}: the connection is to another server than recovery's, which would not find what is prepared on it"
            )
        if str(user) == self._user:
            return
        try:
            yield from self._ask(
                session,
                f"INSERT INTO {self._table} SELECT 0, '', '', 0 FROM DUAL WHERE 1 = 0",
                "check the connection's rights",
            )
        except SqlError as error:
            raise self._refused(error, f"the connection's user {user}", "INSERT") from error
        if not self._may_kill:
            raise ConfigurationError(
                f"{self._name}: the connection's user is {user}, and recovery's is {self._user}, who lacks the right CONNECTION ADMIN to end a connection "
                "of another: recovery could not end what it prepared while the connection lives; grant it, or use one user for both"
            )
