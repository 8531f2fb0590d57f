"""A small HTTP/1.1 server: one handler per connection, on h11's sans-I/O parser (RFC 9112).

A service gives a *router*, a call from :class:`Request` to :class:`Response`. One that cannot answer yet returns a
:class:`Pending` and answers it later; the connection waits, and requests pipelined behind it wait too.

Everything a client can make us keep is bounded: the header section, the body, what it sends ahead while an answer is
pending, and the answers it does not read. A connection on which no whole request arrives in the idle time, or that
leaves its answers unread that long, is dropped.
"""

import json
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_to_bytes

from quorate.runtime.environment import MILLISECOND, Connection, Environment, Timer

if TYPE_CHECKING:
    import h11

MAX_HEADER_BYTES = 16 << 10
MAX_BODY_BYTES = 1 << 20
IDLE_MS = 30_000
"""Milliseconds from the end of one answer to the end of the next request."""

_REASONS = {
    200: "OK",
    204: "No Content",
    301: "Moved Permanently",
    304: "Not Modified",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Request:
    """One whole request. A HEAD request arrives as GET; its answer's body is left out on the wire.

    ``path`` is percent-decoded and has no query; ``query`` holds the pairs in their order, ``headers`` lower-case names.
    """

    __slots__ = ("body", "headers", "method", "path", "peer", "query")

    def __init__(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: bytes,
        peer: tuple[str, int],
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.peer = peer

    def argument(self, name: str) -> str | None:
        """The first value of ``name`` in the query, None if it is not there."""
        for key, value in self.query:
            if key == name:
                return value
        return None


class Response:
    """An answer; length, date and connection headers are added on the wire."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers


class Pending:
    """An answer that comes later: ``respond`` once. ``cancelled`` is called instead if the client goes away first."""

    __slots__ = ("_answer", "_early", "cancelled")

    def __init__(self, cancelled: Callable[[], None] | None = None) -> None:
        self.cancelled = cancelled
        self._answer: Callable[[Response], None] | None = None
        self._early: Response | None = None

    def respond(self, response: Response) -> None:
        """Send the answer. Nothing happens if the client is gone."""
        answer = self._answer
        self._answer = None
        self.cancelled = None
        if answer is None:
            self._early = response
        else:
            answer(response)

    def attach(self, answer: Callable[[Response], None]) -> None:
        """For the connection: where the answer goes."""
        if self._early is not None:
            answer(self._early)
        else:
            self._answer = answer

    def cancel(self) -> None:
        """For the connection: nobody waits any more."""
        cancelled = self.cancelled
        self._answer = None
        self.cancelled = None
        if cancelled is not None:
            cancelled()


Router = Callable[[Request], Response | Pending]


def json_response(value: object, status: int = 200) -> Response:
    """Indented, as people read these answers as often as programs do."""
    body = json.dumps(value, indent=2, separators=(",", " : ")).encode()
    return Response(status, body, "application/json")


def error_response(status: int, message: str = "") -> Response:
    return Response(status, f"{message or _REASONS.get(status, str(status))}\n".encode())


def not_found() -> Response:
    return error_response(404)


def method_not_allowed(allowed: str) -> Response:
    """``allowed`` lists the methods that are."""
    response = error_response(405)
    response.headers = (("Allow", allowed),)
    return response


def http_date(wall_ms: int) -> str:
    """An IMF-fixdate: ``Mon, 23 Nov 2026 10:42:04 GMT``."""
    days, seconds = divmod(wall_ms // 1000, 86400)
    day = date.fromordinal(_EPOCH_DAY + days)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{_DAYS[day.weekday()]}, {day.day:02} {_MONTHS[day.month - 1]} {day.year} {clock} GMT"


class HttpServer:
    """What to answer, and within which bounds; ``accept`` makes the handler of a new connection.

    ``environment.listen(host, port, HttpServer(environment, router).accept)`` starts serving.
    """

    __slots__ = ("connections", "environment", "idle", "max_body", "max_connections", "router")

    def __init__(
        self,
        environment: Environment,
        router: Router,
        *,
        max_body: int = MAX_BODY_BYTES,
        idle_ms: int = IDLE_MS,
        max_connections: int = 256,
    ) -> None:
        self.environment = environment
        self.router = router
        self.max_body = max_body
        self.idle = idle_ms * MILLISECOND
        self.max_connections = max_connections
        self.connections = 0

    def accept(self) -> "HttpConnection":
        return HttpConnection(self)


class _Refused(Exception):
    """The request is answered with this status, and the connection closed."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(status, message)
        self.response = error_response(status, message)


class HttpConnection:
    """One connection (an ``environment.Handler``)."""

    __slots__ = (
        "_body",
        "_body_size",
        "_connection",
        "_counted",
        "_deadline",
        "_parser",
        "_pending",
        "_request",
        "_running",
        "_server",
        "_stalled",
        "_timer",
    )

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._parser: h11.Connection | None = None
        self._timer: Timer | None = None
        self._deadline = 0
        """Nanoseconds on the environment's clock; 0 while the client is waiting for us."""
        self._request: h11.Request | None = None
        self._body: list[bytes] = []
        self._body_size = 0
        self._pending: Pending | None = None
        self._stalled = False
        """The client does not read: no further request is handled until it does."""
        self._running = False
        self._counted = False

    # ---- the environment's events

    def connected(self, connection: Connection) -> None:
        # imported with the first connection: it takes a tenth of the time a server has to start
        import h11

        server = self._server
        self._connection = connection
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        if server.connections >= server.max_connections:
            self._send_only(error_response(503, "too many connections"))
            return
        server.connections += 1
        self._counted = True
        self._await_client()

    def received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        parser.receive_data(data)
        self._run()

    def writing_paused(self) -> None:
        self._stalled = True
        if self._connection is not None:
            self._connection.pause_reading()
        self._await_client()

    def writing_resumed(self) -> None:
        self._stalled = False
        if self._pending is not None:
            self._deadline = 0
            return
        if self._connection is not None:
            self._connection.resume_reading()
        self._await_client()
        self._run()

    def closed(self, reason: str) -> None:
        self._parser = None
        self._connection = None
        if self._counted:
            self._counted = False
            self._server.connections -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()

    # ---- time

    def _await_client(self) -> None:
        """From now on the client has the idle time to do its part."""
        environment = self._server.environment
        self._deadline = environment.now() + self._server.idle
        if self._timer is None:
            self._timer = environment.call_at(self._deadline, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        connection = self._connection
        if connection is None or not self._deadline:
            return
        environment = self._server.environment
        if environment.now() < self._deadline:
            # the deadline has moved since the timer was set: one timer serves many requests
            self._timer = environment.call_at(self._deadline, self._timed_out)
            return
        self._parser = None
        connection.abort()

    # ---- requests

    def _run(self) -> None:
        """Handle what has arrived, one request after the other."""
        import h11

        if self._running:
            return
        self._running = True
        try:
            while self._parser is not None and self._pending is None and not self._stalled:
                if not self._step(self._parser):
                    break
        except h11.RemoteProtocolError as error:
            self._send_only(error_response(error.error_status_hint, str(error)))
        except _Refused as refused:
            self._send_only(refused.response)
        finally:
            self._running = False

    def _step(self, parser: "h11.Connection") -> bool:
        """Take one event; False if there is none to take."""
        import h11

        event = parser.next_event()
        if event is h11.NEED_DATA:
            if parser.they_are_waiting_for_100_continue and self._connection is not None:
                go_on = parser.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._connection.write(go_on or b"")
            return False
        if isinstance(event, h11.Request):
            self._request = event
            self._body = []
            self._body_size = 0
            self._check(event)
        elif isinstance(event, h11.Data):
            self._body_size += len(event.data)
            if self._body_size > self._server.max_body:
                raise _Refused(413, f"a body may have {self._server.max_body} bytes")
            self._body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._handle()
        elif isinstance(event, h11.ConnectionClosed):
            self._close()
            return False
        else:
            return False
        return True

    def _check(self, request: "h11.Request") -> None:
        """Refuse another protocol version, and a body that is announced too long before any of it is sent."""
        if not request.http_version.startswith(b"1."):
            raise _Refused(505)
        for name, value in request.headers:
            # a number of that many digits is not worth converting
            if name == b"content-length" and (len(value) > 18 or int(value) > self._server.max_body):
                raise _Refused(413, f"a body may have {self._server.max_body} bytes")

    def _handle(self) -> None:
        assert self._request is not None, "a body ends only after its request began"
        assert self._connection is not None, "events come only while connected"
        request = _decode(self._request, b"".join(self._body), self._connection.peer)
        self._body = []
        self._deadline = 0
        try:
            answer = self._server.router(request)
        except Exception:
            # our bug: the client is told, and whoever runs the loop gets the error
            self._send_only(error_response(500))
            raise
        if isinstance(answer, Response):
            self._answer(answer)
            return
        self._pending = answer
        # what the client sends ahead stays in the network's buffers
        self._connection.pause_reading()
        answer.attach(self._answer_later)

    def _answer_later(self, response: Response) -> None:
        self._pending = None
        connection = self._connection
        if connection is None or self._parser is None:
            return
        self._answer(response)
        if not self._stalled:
            connection.resume_reading()
        self._run()

    def _answer(self, response: Response) -> None:
        """Send ``response`` and be ready for the next request, if there may be one."""
        import h11

        parser = self._parser
        assert parser is not None, "answered on a closed connection"
        self._write(parser, response)
        if parser.our_state is h11.MUST_CLOSE:
            self._close()
        else:
            parser.start_next_cycle()
            self._await_client()

    def _write(self, parser: "h11.Connection", response: Response) -> None:
        import h11

        request = self._request
        headers = [
            ("Date", http_date(self._server.environment.wall_ms())),
            ("Content-Type", response.content_type),
            *response.headers,
        ]
        bodiless = response.status == 204 or response.status == 304
        if not bodiless:
            headers.append(("Content-Length", str(len(response.body))))
        reason = _REASONS.get(response.status, "")
        parts = [parser.send(h11.Response(status_code=response.status, headers=headers, reason=reason.encode()))]
        if response.body and not bodiless and not (request is not None and request.method == b"HEAD"):
            parts.append(parser.send(h11.Data(data=response.body)))
        parts.append(parser.send(h11.EndOfMessage()))
        self._request = None
        if self._connection is not None:
            self._connection.write(b"".join([part for part in parts if part]))

    def _send_only(self, response: Response) -> None:
        """Answer, if an answer is still possible, and close."""
        import h11

        parser = self._parser
        if parser is not None and parser.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response.headers = (*response.headers, ("Connection", "close"))
            self._write(parser, response)
        self._close()

    def _close(self) -> None:
        """Hang up once everything is sent; a client that does not take it has the idle time to do so."""
        self._parser = None
        if self._connection is not None:
            self._await_client()
            self._connection.close()


def _decode(request: "h11.Request", body: bytes, peer: tuple[str, int]) -> Request:
    """Raises _Refused for a target that is not a path or not UTF-8."""
    method = request.method.decode("ascii")
    raw_path, _, raw_query = request.target.partition(b"?")
    if not raw_path.startswith(b"/"):
        raise _Refused(400, "the request target is not a path")
    headers: dict[str, str] = {}
    try:
        path = unquote_to_bytes(raw_path).decode()
        query = parse_qsl(raw_query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise _Refused(400, "the request target is not well-formed") from None
    for name, value in request.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Request("GET" if method == "HEAD" else method, path, query, headers, body, peer)
