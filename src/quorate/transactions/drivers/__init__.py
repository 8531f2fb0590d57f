"""Connections as their drivers make them, each as a ``sql.session.Session``. A driver is imported only where a connection of its kind comes in, so that nobody needs
one that he does not use."""

import socket
import weakref
from typing import Any

from quorate.errors import UsageError
from quorate.transactions.sql.session import Session

_known: "weakref.WeakKeyDictionary[type[Any], bool]" = weakref.WeakKeyDictionary()
"""Of the kinds that were looked at, which are SQLAlchemy's."""
POSTGRES, MARIADB = "PostgreSQL", "MariaDB"


def session_for(connection: Any) -> tuple[str, Session]:
    """Of which server a connection is, and its session. Raises UsageError if the driver is none that we know."""
    for kind in type(connection).__mro__:
        module = kind.__module__.partition(".")[0]
        if module == "psycopg":
            from quorate.transactions.drivers.psycopg import PsycopgSession

            return POSTGRES, PsycopgSession(connection)
        if module == "asyncpg":
            from quorate.transactions.drivers.asyncpg import AsyncpgSession

            return POSTGRES, AsyncpgSession(connection)
        if module == "pymysql":
            from quorate.transactions.drivers.pymysql import PyMySQLSession

            return MARIADB, PyMySQLSession(connection)
        if module == "MySQLdb":
            from quorate.transactions.drivers.mysqlclient import MysqlclientSession

            return MARIADB, MysqlclientSession(connection)
        if module in ("aiomysql", "asyncmy"):
            from quorate.transactions.drivers.aiomysql import AiomysqlSession

            return MARIADB, AiomysqlSession(connection)
    kind = type(connection)
    raise UsageError(
        f"{kind.__module__}.{kind.__qualname__} is no connection that can be enlisted; known are those of psycopg 3, asyncpg, PyMySQL, "
        "mysqlclient, aiomysql and asyncmy"
    )


def is_sqlalchemys(what: Any) -> bool:
    """Whether that is an engine, a connection or a session of SQLAlchemy's, which nobody needs to have."""
    kind = type(what)
    found = _known.get(kind)
    if found is None:
        found = any(base.__module__.partition(".")[0] == "sqlalchemy" for base in kind.__mro__)
        _known[kind] = found
    return found


def shut_down(descriptor: int) -> None:
    """End both directions of a socket that somebody else owns: whoever waits on it sees its end."""
    try:
        with socket.socket(fileno=socket.dup(descriptor)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except (OSError, ValueError):
        return
