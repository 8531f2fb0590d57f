"""What the state machine is told of its configuration (zoo.cfg and Apache's system properties)."""

MAX_BUFFER = 0xFFFFF
"""The default of jute.maxbuffer, bytes."""


class Settings:
    """``max_buffer`` is jute.maxbuffer in bytes; ``super_digest`` is ``user:base64(sha1("user:password"))`` or None."""

    __slots__ = (
        "digest_enabled",
        "enforce_quota",
        "extended_types_enabled",
        "max_buffer",
        "skip_acl",
        "super_digest",
    )

    def __init__(
        self,
        super_digest: str | None = None,
        extended_types_enabled: bool = False,
        enforce_quota: bool = False,
        digest_enabled: bool = True,
        max_buffer: int = MAX_BUFFER,
        skip_acl: bool = False,
    ) -> None:
        self.super_digest = super_digest
        self.extended_types_enabled = extended_types_enabled
        self.enforce_quota = enforce_quota
        self.digest_enabled = digest_enabled
        self.max_buffer = max_buffer
        self.skip_acl = skip_acl
