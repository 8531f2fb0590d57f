"""Answers as Consul's JSON has them."""

import json
from base64 import b64encode
from collections.abc import Iterable
from random import Random
from typing import Any
from uuid import UUID

from quorate.kv import commands
from quorate.kv.consul.parsing import go_duration
from quorate.kv.entries import Entry
from quorate.kv.machine import CHOSEN_ELSEWHERE, Lease
from quorate.runtime.http import Response

BEHAVIOURS = {"release": commands.RELEASE_LOCKS, "delete": commands.DELETE_LOCKED}
DATACENTER = "dc1"


def answer(value: object, index: int = 0, *, led: bool = True, status: int = 200) -> Response:
    """``index``: the X-Consul-Index, 0 for none."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(status, body, "application/json", headers(index, led))


def headers(index: int, led: bool = True) -> tuple[tuple[str, str], ...]:
    if not index:
        return ()
    return (
        ("X-Consul-Index", str(index)),
        ("X-Consul-KnownLeader", "true" if led else "false"),
        ("X-Consul-LastContact", "0"),
    )


def entry_shape(entry: Entry, leases: dict[int, Lease], *, value: bool = True) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "LockIndex": entry.lock_index,
        "Key": entry.key.decode("utf-8", "replace"),
        "Flags": entry.flags,
        # an empty value is null, as Go encodes bytes that are not there
        "Value": b64encode(entry.value).decode() if value and entry.value else None,
    }
    holder = leases.get(entry.holder)
    if holder is not None:
        shape["Session"] = session_id(holder)
    shape["CreateIndex"] = entry.created
    shape["ModifyIndex"] = entry.modified
    return shape


# ---- sessions


def new_session_id(random: Random) -> tuple[str, int]:
    """A random id, and the number of the lease that stands for it: its last 64 bits, of which UUIDs fix the first."""
    fresh = UUID(int=random.getrandbits(128), version=4)
    return str(fresh), lease_of(str(fresh))


def lease_of(session: str) -> int:
    """0 for what is no id of a session."""
    try:
        number = UUID(session).int & ((1 << 64) - 1)
    except ValueError:
        return 0
    return number if number >= CHOSEN_ELSEWHERE else 0


def session_meta(lease: Lease) -> dict[str, Any] | None:
    """None for a lease that is no session."""
    if not lease.meta:
        return None
    found: dict[str, Any] = json.loads(lease.meta)
    return found


def session_id(lease: Lease) -> str:
    meta = session_meta(lease)
    return "" if meta is None else str(meta["ID"])


def session_shape(lease: Lease) -> dict[str, Any]:
    meta = session_meta(lease)
    assert meta is not None
    behaviour = next(name for name, value in BEHAVIOURS.items() if value == lease.behaviour)
    return {
        "ID": meta["ID"],
        "Name": meta["Name"],
        "Node": meta["Node"],
        "LockDelay": lease.lock_delay_ms * 1_000_000,
        "Behavior": behaviour,
        "TTL": go_duration(lease.ttl_ms * 1_000_000) if lease.ttl_ms else "",
        "NodeChecks": meta["Checks"],
        "ServiceChecks": None,
        "CreateIndex": lease.created,
        "ModifyIndex": lease.created,
    }


def sessions_of(leases: Iterable[Lease]) -> list[Lease]:
    """Those that are sessions, in the order of their ids."""
    return sorted((lease for lease in leases if lease.meta), key=session_id)
