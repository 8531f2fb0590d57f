"""Whether a connection to PostgreSQL, and the server behind it, can take part: looked at once for each connection, before any work is done on it.

What recovery needs is looked at here, too, for it is not needed before the first crash: that it may end what the connection's user prepares (PostgreSQL lets only that
user do so, and superusers: PREPARE TRANSACTION, COMMIT PREPARED), and that it looks at the same database of the same server.

PgBouncer's transaction pooling does no harm: everything up to PREPARE TRANSACTION is one transaction, and so is what comes after it. Its statement pooling does not
work, and says so itself.
"""

import weakref
from collections.abc import Callable
from typing import Any

from quorate.transactions.errors import ConfigurationError
from quorate.transactions.flow import Flow
from quorate.transactions.sql.session import Answer, Session

LIFE = "pg_stat_get_bgwriter_stat_reset_time()::text"
"""Another one after every crash, for statistics are lost with whatever else was not on disk. An orderly restart loses neither, and the death of a backend, after which
PostgreSQL recovers as from a crash, leaves ``pg_postmaster_start_time`` as it was."""
_FACTS = (
    "select current_setting('max_prepared_transactions')::int, pg_is_in_recovery(), current_setting('server_version_num')::int, "
    "current_database()::text, current_user::text, (select rolsuper from pg_roles where rolname = current_user), "
    f"pg_postmaster_start_time()::text, {LIFE}"
)
_YES = (True, "t")


class Facts:
    __slots__ = ("database", "life", "server", "superuser", "user")

    def __init__(self, server: str, life: str, database: str, user: str, superuser: bool) -> None:
        self.server = server
        """When it was started, to the microsecond."""
        self.life = life
        self.database = database
        self.user = user
        self.superuser = superuser


class PostgresSetup:
    """``ask``: a statement on a session; ``elsewhere``: on one of recovery's."""

    def __init__(
        self,
        name: str,
        ask: Callable[[Session, str, str], Flow[Answer]],
        elsewhere: Callable[[str, str], Flow[Answer]],
    ) -> None:
        self._name = name
        self._ask = ask
        self._elsewhere = elsewhere
        self._recovery: Facts | None = None
        self._seen: weakref.WeakKeyDictionary[Any, Facts] = weakref.WeakKeyDictionary()

    def life(self, session: Session) -> str:
        """Of the server, as it was when the session's connection was checked: no connection outlives a crash."""
        seen = self._seen.get(session.connection)
        return "" if seen is None else seen.life

    def forget(self) -> None:
        """The server is not what it was."""
        self._recovery = None
        self._seen.clear()

    def check(self, session: Session) -> Flow[None]:
        """Raises ConfigurationError."""
        if session.connection in self._seen:
            return
        found = self._facts((yield from self._ask(session, _FACTS, "check")))
        if self._recovery is None or self._recovery.server != found.server:
            self._recovery = self._facts((yield from self._elsewhere(_FACTS, "check recovery")))
        recovery = self._recovery
        if found.server != recovery.server:
            raise ConfigurationError(
                f"{self._name}: the connection is to another server than recovery's, which would not find what is prepared on it"
            )
        if found.database != recovery.database:
            raise ConfigurationError(
                f"{self._name}: the connection is to the database {found.database}, and recovery's to {recovery.database}, "
                "from where PostgreSQL lets nobody end what is prepared in another"
            )
        if found.user != recovery.user and not recovery.superuser:
            raise ConfigurationError(
                f"{self._name}: the connection's user is {found.user}, and recovery's is {recovery.user}: PostgreSQL lets only {found.user} or a superuser "
                "end what it prepared; let recovery connect as one of them"
            )
        self._seen[session.connection] = found

    def _facts(self, answer: Answer) -> Facts:
        ((slots, standby, version, database, user, superuser, server, life),) = answer.rows
        if int(version) < 130000:
            raise ConfigurationError(
                f"{self._name}: PostgreSQL {int(version) // 10000} is older than 13, which tells no outcomes in the way that is needed"
            )
        if standby in _YES:
            raise ConfigurationError(f"{self._name}: the server is a standby, which cannot prepare transactions")
        if int(slots) == 0:
            raise ConfigurationError(
                f"{self._name}: max_prepared_transactions is 0, so PostgreSQL refuses to prepare transactions; "
                "set it to the number of connections or more and restart the server"
            )
        return Facts(str(server), str(life), str(database), str(user), superuser in _YES)
