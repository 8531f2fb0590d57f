"""The bodies of replies to writes (FinalRequestProcessor.java, MultiResponse.java).

A reply has a body only if its header has no error. A failed multi counts as no error there: its header says 0 and its
results say what happened.
"""

import struct
from struct import Struct
from typing import Final

from quorate.binary import pack_string
from quorate.zookeeper.bodies import read_path
from quorate.zookeeper.constants import Code, Op
from quorate.zookeeper.request import RequestError
from quorate.zookeeper.tree import Outcome
from quorate.zookeeper.txns import Check, Create, Delete, Multi, Record, SetData

# plain numbers: looking up a member of an enumeration costs more than comparing with it
_CREATE: Final = int(Op.CREATE)
_CREATE2: Final = int(Op.CREATE2)
_CREATE_CONTAINER: Final = int(Op.CREATE_CONTAINER)
_CREATE_TTL: Final = int(Op.CREATE_TTL)
_MULTI: Final = int(Op.MULTI)
_SET_ACL: Final = int(Op.SET_ACL)
_SET_DATA: Final = int(Op.SET_DATA)

_RESULT = Struct(">i?i")
"""MultiHeader: type, done, error"""
_ERROR_RESULT = Struct(">i?ii")
"""MultiHeader and the ErrorResponse after it"""
_END = _RESULT.pack(-1, True, -1)
_OF_DELETE = _RESULT.pack(Op.DELETE, False, 0)
_OF_CHECK = _RESULT.pack(Op.CHECK, False, 0)
_OF_SET_DATA = _RESULT.pack(Op.SET_DATA, False, 0)
_OF_CREATE = _RESULT.pack(Op.CREATE, False, 0)
_OF_CREATE2 = _RESULT.pack(Op.CREATE2, False, 0)


def reply_body(op: int, outcome: Outcome, record: Record) -> bytes:
    """The body for a request of type ``op`` whose transaction ``record`` was applied with ``outcome`` (of code 0)."""
    if op == _SET_DATA or op == _SET_ACL:
        return _stat(outcome)
    if op == _CREATE:
        return pack_string(outcome.path)
    if op == _CREATE2 or op == _CREATE_CONTAINER or op == _CREATE_TTL:
        return pack_string(outcome.path) + _stat(outcome)
    if op == _MULTI:
        assert isinstance(record, Multi), "a multi that is applied is a multi"
        return _results(outcome, record)
    return b""


def sync_body(body: bytes) -> bytes:
    """The reply to a sync with this body: its path, back. Raises RequestError(MARSHALLING_ERROR) if there is none."""
    if body[:4] == b"\xff\xff\xff\xff":
        return body[:4]
    try:
        return pack_string(read_path(body, 0)[0])
    except struct.error:
        raise RequestError(Code.MARSHALLING_ERROR) from None


def _stat(outcome: Outcome) -> bytes:
    stat = outcome.stat
    assert stat is not None, "the tree packs the Stat of what changed"
    return stat


def _results(outcome: Outcome, multi: Multi) -> bytes:
    outcomes = outcome.parts
    assert outcomes is not None, "the outcome of a multi has parts"
    if any(part.code for part in outcomes):
        results = [_ERROR_RESULT.pack(Op.ERROR, False, part.code, part.code) for part in outcomes]
        results.append(_END)
        return b"".join(results)
    results = []
    for part, record in zip(outcomes, multi.parts, strict=True):
        if isinstance(record, SetData):
            results += (_OF_SET_DATA, _stat(part))
        elif isinstance(record, Create):
            if record.op == _CREATE:
                results += (_OF_CREATE, pack_string(part.path))
            else:
                results += (_OF_CREATE2, pack_string(part.path), _stat(part))
        elif isinstance(record, Delete):
            results.append(_OF_DELETE)
        else:
            assert isinstance(record, Check), f"a multi has no {type(record).__name__}"
            results.append(_OF_CHECK)
    results.append(_END)
    return b"".join(results)
