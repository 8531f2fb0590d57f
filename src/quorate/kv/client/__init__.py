"""Clients of the key-value store: ``aio.Client`` for asyncio, ``sync.Client`` for everyone else; conditions, writes and errors by name."""

from quorate.kv.client.errors import (
    Compacted,
    Conflict,
    DeadlineExceeded,
    KvError,
    LeaseExpired,
    Locked,
    OutcomeUnknown,
    Refused,
)
from quorate.kv.client.records import (
    Committed,
    Event,
    Item,
    absent,
    delete,
    delete_prefix,
    exists,
    modified_at,
    put,
    value_is,
    version_is,
)

__all__ = [
    "Committed",
    "Compacted",
    "Conflict",
    "DeadlineExceeded",
    "Event",
    "Item",
    "KvError",
    "LeaseExpired",
    "Locked",
    "OutcomeUnknown",
    "Refused",
    "absent",
    "delete",
    "delete_prefix",
    "exists",
    "modified_at",
    "put",
    "value_is",
    "version_is",
]
