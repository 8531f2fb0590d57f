"""Which exceptions say that a transaction lost to another and may well succeed if it is done again from its beginning.

Nothing is imported for that: an exception is known by what its class and its attributes are called, so that whoever does not use a database
does not need its driver. Wrapped ones (SQLAlchemy's ``orig``, causes, groups) are looked into.

Sources: PostgreSQL 15, 13.5 and appendix A (40001, 40P01); MariaDB's error codes (1213 a deadlock, 1020 a record that changed since it was read, 1205 a
lock that was waited for in vain); SQLAlchemy, "Configuring a Version Counter"; ZooKeeper's BadVersion.
"""

from collections.abc import Iterator

SQLSTATES = frozenset(("40001", "40P01"))
"""Serialization failures and deadlocks of PostgreSQL: psycopg 3 and asyncpg say ``sqlstate``, psycopg2 ``pgcode``."""
MYSQL_CODES = frozenset((1213, 1020))
"""Of MariaDB and MySQL: the whole transaction was rolled back."""
LOCK_WAIT_TIMEOUT = 1205
"""Of MariaDB and MySQL. By default only the statement was rolled back: a conflict only where the function rolls back whatever happens."""
_CODED_MODULES = ("pymysql", "MySQLdb", "mariadb", "mysql", "aiomysql", "asyncmy")
_NAMED = frozenset((("sqlalchemy", "StaleDataError"), ("kazoo", "BadVersionError")))
_PARTICIPANT = ("quorate.transactions.errors", "ParticipantError")
"""Its ``code`` is what the database said, whichever it is."""
_DEPTH = 8


def is_conflict(error: BaseException, *, lock_wait_timeout: bool = False) -> bool:
    """Whether ``error``, or what it was raised for, is a conflict. ``lock_wait_timeout``: so is MariaDB's error 1205.

    An exception of your own is one if its class has an attribute ``__optimistic_conflict__`` that is true.
    """
    codes = MYSQL_CODES | {LOCK_WAIT_TIMEOUT} if lock_wait_timeout else MYSQL_CODES
    return any(_is_one(found, codes) for found in _related(error, _DEPTH))


def _is_one(error: BaseException, codes: frozenset[int]) -> bool:
    if getattr(type(error), "__optimistic_conflict__", False):
        return True
    kind = type(error)
    if any((base.__module__.partition(".")[0], base.__name__) in _NAMED for base in kind.__mro__):
        return True
    if any((base.__module__, base.__name__) == _PARTICIPANT for base in kind.__mro__):
        # what one of a transaction's databases said, of which the transaction was aborted
        said = getattr(error, "code", "")
        return said in SQLSTATES or said in {str(code) for code in codes}
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str) and state in SQLSTATES:
        return True
    if kind.__module__.partition(".")[0] in _CODED_MODULES:
        code = getattr(error, "errno", None)
        if not isinstance(code, int):
            code = error.args[0] if error.args else None
        return code in codes
    return False


def _related(error: BaseException, depth: int) -> Iterator[BaseException]:
    """The exception, what it wraps, and what it was raised for."""
    yield error
    if depth == 0:
        return
    inner: list[object] = [getattr(error, "orig", None), error.__cause__]
    if isinstance(error, BaseExceptionGroup):
        inner += error.exceptions
    for found in inner:
        if isinstance(found, BaseException):
            yield from _related(found, depth - 1)
