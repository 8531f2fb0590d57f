"""The errors Quorate raises on purpose. Anything else that escapes is a bug of ours."""


class QuorateError(Exception):
    """Base of every error Quorate raises on purpose; its text is one sentence fit for a user."""


class UsageError(QuorateError):
    """The user asked for something that cannot be done as asked (exit status 2)."""


class ConfigError(UsageError):
    """A configuration file is wrong. The text starts with ``file:line:`` where a line is to blame."""

    def __init__(self, message: str, file: str | None = None, line: int | None = None) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + message)
        self.file = file
        self.line = line


class StorageError(QuorateError):
    """The disk refused a read or a write; the member must stop and never acknowledge again."""


class CorruptionError(StorageError):
    """Bytes on disk are not what was written, before the torn tail that a crash explains."""

    def __init__(self, file: str, offset: int, message: str) -> None:
        super().__init__(f"{file}: offset {offset}: {message}")
        self.file = file
        self.offset = offset


class RemoteProtocolError(QuorateError):
    """A peer or client sent bytes that its protocol does not allow; its connection is closed."""


class LocalProtocolError(QuorateError):
    """We were about to break the protocol: a bug of ours, raised before anything is sent."""
