"""What the adapters of databases need of a connection, whichever driver it is of (``drivers``)."""

from collections.abc import Sequence
from typing import Any, Protocol

from quorate.transactions.errors import ParticipantError

IDLE, OPEN, FAILED, BROKEN = "idle", "open", "failed", "broken"
"""States of a session: outside of a transaction; in one; in one that can only be rolled back; without a connection."""


class Answer:
    """``tag``: the server's word for the last statement, such as ``COMMIT PREPARED``; "" where it says none. ``rows``: of every statement
    that gave some."""

    __slots__ = ("rows", "tag")

    def __init__(self, tag: str, rows: Sequence[Sequence[Any]] = ()) -> None:
        self.tag = tag
        self.rows = rows


class SqlError(ParticipantError):
    """The server refused a statement; ``code``: SQLSTATE of PostgreSQL, number of MariaDB."""


class Request(Protocol):
    """A statement that was sent: several can be under way on several connections without a thread for each."""

    def fileno(self) -> int: ...

    def advance(self) -> bool:
        """Take what has come (called when the descriptor can be read). Whether the answer is whole."""

    def answer(self) -> Answer:
        """Raises SqlError, ConnectionBroken."""


class Session(Protocol):
    """``execute`` answers with a Request, or with an awaitable or an Answer; errors as ``Request.answer`` raises them."""

    connection: Any
    """The driver's, as the user gave it."""
    blocks: bool
    """``execute`` keeps its thread waiting."""

    def execute(self, statement: str) -> Any: ...

    def state(self) -> str: ...

    def attach(self) -> None:
        """From now on transactions are begun and ended by statements of ours. Raises UsageError if one is open."""

    def detach(self) -> None:
        """Give the connection back as it was."""

    def hang_up(self) -> None:
        """Break the connection, whoever may be waiting on it; from any thread."""

    def close(self) -> Any: ...
