"""The session handshake: a client's ConnectRequest and our ConnectResponse (zookeeper.jute, module proto).

ConnectRequest: int protocolVersion, long lastZxidSeen, int timeOut, long sessionId, buffer passwd, boolean readOnly.
ConnectResponse: int protocolVersion, int timeOut, long sessionId, buffer passwd, boolean readOnly. Clients older than
3.4 know no readOnly: they leave it out, and must not be sent it.
"""

from struct import Struct

from quorate.binary import Reader
from quorate.errors import RemoteProtocolError
from quorate.zookeeper.password import PASSWORD_BYTES

MAX_REQUEST_BYTES = 1024
"""No ConnectRequest is longer: it has 45 bytes with a 16-byte password. Bounds what a stranger can make us keep."""

_FIXED = Struct(">iqiqi")
_RESPONSE = Struct(">iiiqi16s")
_RESPONSE_READ_ONLY = Struct(">iiiqi16s?")

NO_PASSWORD = bytes(PASSWORD_BYTES)


class ConnectRequest:
    """``timeout`` in ms as the client asks for it, ``session`` 0 for a new one, ``last_zxid`` the newest it has seen.

    ``read_only`` says that a read-only server will do; None comes from a client that does not know the field.
    """

    __slots__ = ("last_zxid", "password", "protocol", "read_only", "session", "timeout")

    def __init__(
        self, protocol: int, last_zxid: int, timeout: int, session: int, password: bytes, read_only: bool | None
    ) -> None:
        self.protocol = protocol
        self.last_zxid = last_zxid
        self.timeout = timeout
        self.session = session
        self.password = password
        self.read_only = read_only


def decode_connect_request(frame: bytes) -> ConnectRequest:
    """The request in the first frame of a connection (without its length). Raises RemoteProtocolError.

    Bytes after the record are ignored, as Apache's servers do.
    """
    if len(frame) > MAX_REQUEST_BYTES:
        raise RemoteProtocolError(f"connect request of {len(frame)} bytes, expected at most {MAX_REQUEST_BYTES}")
    if len(frame) < _FIXED.size:
        raise RemoteProtocolError(f"connect request of {len(frame)} bytes, expected at least {_FIXED.size}")
    protocol, last_zxid, timeout, session, _ = _FIXED.unpack_from(frame)
    reader = Reader(frame, _FIXED.size - 4)
    password = reader.buffer() or b""
    read_only = reader.boolean() if reader.remaining() else None
    return ConnectRequest(protocol, last_zxid, timeout, session, password, read_only)


def encode_connect_response(timeout: int, session: int, password: bytes, read_only: bool | None) -> bytes:
    """The whole frame. ``read_only`` says whether this server is; None leaves it out, for a client that left it out.

    ``timeout`` is the negotiated one in ms; ``password`` has 16 bytes.
    """
    assert len(password) == PASSWORD_BYTES, f"a session password of {len(password)} bytes"
    if read_only is None:
        return _RESPONSE.pack(_RESPONSE.size - 4, 0, timeout, session, PASSWORD_BYTES, password)
    return _RESPONSE_READ_ONLY.pack(
        _RESPONSE_READ_ONLY.size - 4, 0, timeout, session, PASSWORD_BYTES, password, read_only
    )


def encode_refusal(read_only: bool | None) -> bytes:
    """The frame that says the session is expired or not this client's; the connection is closed after it."""
    return encode_connect_response(0, 0, NO_PASSWORD, read_only)


def negotiate_timeout(asked: int, minimum: int, maximum: int) -> int:
    """The session timeout granted, in ms: what was asked for, within the server's bounds."""
    if asked < minimum:
        return minimum
    return min(asked, maximum)
