"""The HTTP server against a real HTTP client core (h11's), over a fake link with a clock that the test turns."""

from collections.abc import Callable
from random import Random

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.runtime.environment import Handler, Listener, Timer
from quorate.runtime.http import (
    MAX_HEADER_BYTES,
    HttpConnection,
    HttpServer,
    Pending,
    Request,
    Response,
    Router,
    error_response,
    http_date,
    json_response,
)

SECOND = 1_000_000_000
WALL = 1795430524000


class Call:
    """A scheduled call of the world (``environment.Timer``)."""

    def __init__(self, when: int, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.done = False

    def cancel(self) -> None:
        self.done = True


class World:
    """An environment whose time passes only when the test says so; it has no network of its own."""

    def __init__(self) -> None:
        self.random = Random(1)
        self.time = 5 * SECOND
        self.calls: list[Call] = []

    def now(self) -> int:
        return self.time

    def wall_ms(self) -> int:
        return WALL

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.calls.append(Call(self.time, callback))

    def call_at(self, when: int, callback: Callable[[], None]) -> Timer:
        call = Call(when, callback)
        self.calls.append(call)
        return call

    def listen(self, host: str, port: int, accept: Callable[[], Handler], backlog: int = 0) -> Listener:
        raise NotImplementedError("links are made by the test")

    def connect(self, host: str, port: int, handler: Handler, timeout_ms: int) -> None:
        raise NotImplementedError("links are made by the test")

    def waiting(self) -> int:
        return sum(not call.done for call in self.calls)

    def pass_time(self, seconds: float) -> None:
        end = self.time + int(seconds * SECOND)
        while True:
            due = [call for call in self.calls if not call.done and call.when <= end]
            if not due:
                break
            call = min(due, key=lambda call: call.when)
            call.done = True
            self.time = max(self.time, call.when)
            call.callback()
        self.time = end


class Link:
    """The server's end of a connection; what it writes piles up in ``sent``."""

    def __init__(self, handler: HttpConnection) -> None:
        self.handler = handler
        self.sent = b""
        self.state = "open"
        self._reading = True
        self.slow = False
        handler.connected(self)

    @property
    def peer(self) -> tuple[str, int]:
        return ("192.0.2.7", 4711)

    @property
    def local(self) -> tuple[str, int]:
        return ("192.0.2.1", 8080)

    def write(self, data: bytes) -> None:
        assert self.state == "open", "written after close"
        self.sent += data
        if self.slow:
            self.handler.writing_paused()

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def is_reading(self) -> bool:
        return self._reading

    def queued(self) -> int:
        return len(self.sent)

    def hang_up(self) -> None:
        self.handler.closed("the client hung up")


class Client:
    """A client on a link of its own."""

    def __init__(self, server: HttpServer) -> None:
        self.link = Link(server.accept())
        self.parser = h11.Connection(h11.CLIENT)
        self.read = 0

    def raw(self, data: bytes) -> None:
        self.link.handler.received(data)

    def send(self, method: str, target: str, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.raw(self.encode(method, target, body, *headers))

    def encode(self, method: str, target: str, body: bytes = b"", *headers: tuple[str, str]) -> bytes:
        fields = [("Host", "here"), *headers]
        if body:
            fields.append(("Content-Length", str(len(body))))
        parts = [self.parser.send(h11.Request(method=method, target=target, headers=fields))]
        if body:
            parts.append(self.parser.send(h11.Data(data=body)))
        parts.append(self.parser.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        """The next whole response."""
        self.parser.receive_data(self.link.sent[self.read :])
        self.read = len(self.link.sent)
        head: h11.Response | None = None
        body = b""
        while True:
            event = self.parser.next_event()
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse), f"{event} instead of a response"
        assert head is not None
        if self.parser.our_state is h11.DONE and self.parser.their_state is h11.DONE:
            self.parser.start_next_cycle()
        return head.status_code, {k.decode(): v.decode() for k, v in head.headers}, body

    def get(self, target: str, *headers: tuple[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.send("GET", target, b"", *headers)
        return self.receive()


def echo(request: Request) -> Response:
    return json_response([request.method, request.path, request.query, request.body.decode()])


def start(router: Router = echo, **bounds: int) -> tuple[World, HttpServer, Client]:
    world = World()
    server = HttpServer(world, router, **bounds)
    return world, server, Client(server)


def test_an_answer_is_complete_and_the_connection_stays() -> None:
    _, _, client = start(lambda request: Response(200, b"hello", headers=(("X-One", "1"),)))
    for _ in range(3):
        status, headers, body = client.get("/")
        assert (status, body) == (200, b"hello")
        assert headers == {
            "date": "Mon, 23 Nov 2026 10:42:04 GMT",
            "content-type": "text/plain; charset=utf-8",
            "x-one": "1",
            "content-length": "5",
        }
    assert client.link.state == "open"
    assert client.link.sent.startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_request_is_decoded() -> None:
    seen: list[Request] = []

    def router(request: Request) -> Response:
        seen.append(request)
        return Response(204)

    _, _, client = start(router)
    client.send("PUT", "/a%20b/%C3%A9?x=1&raw&x=2%2F", b"body", ("X-Token", "t"), ("Accept", "a"), ("Accept", "b"))
    assert client.receive()[0] == 204
    request = seen[0]
    assert (request.method, request.path, request.body, request.peer) == ("PUT", "/a b/é", b"body", ("192.0.2.7", 4711))
    assert request.query == [("x", "1"), ("raw", ""), ("x", "2/")]
    assert (request.argument("x"), request.argument("raw"), request.argument("none")) == ("1", "", None)
    assert (request.headers["x-token"], request.headers["accept"]) == ("t", "a, b")


def test_head_is_answered_like_get_without_the_body() -> None:
    _, _, client = start()
    client.send("HEAD", "/x")
    status, headers, body = client.receive()
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) == len(client.get("/x")[2]) > 0


def test_requests_may_come_byte_by_byte_or_many_at_once() -> None:
    _, _, client = start()
    one = b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    for byte in one:
        client.raw(bytes([byte]))
    client.raw(one.replace(b" /1", b" /2") + one.replace(b" /1", b" /3"))
    for path in ("/1", "/2", "/3"):
        assert f'"{path}"'.encode() in client.link.sent
    assert client.link.sent.count(b"HTTP/1.1 200 OK") == 3


def test_a_chunked_body_is_joined() -> None:
    _, _, client = start()
    client.raw(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert b'"abcde"' in client.link.sent


def test_connection_close_and_http_1_0_end_the_connection() -> None:
    _, _, client = start()
    assert client.get("/", ("Connection", "close"))[0] == 200
    assert client.link.state == "closed"
    _, _, client = start()
    client.raw(b"GET / HTTP/1.0\r\n\r\n")
    assert client.link.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.link.state == "closed"


def test_a_client_that_asks_whether_to_go_on_is_told() -> None:
    _, _, client = start(max_body=10)
    client.raw(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.link.sent == b"HTTP/1.1 100 \r\n\r\n"
    client.raw(b"abc")
    assert b'"abc"' in client.link.sent
    _, _, client = start(max_body=10)
    client.raw(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n")
    assert client.link.sent.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert client.link.state == "closed"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.1\r\nHost: h\r\n\r\n", 505),
        (b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /?a=%ff HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /?" + b"&".join([b"a=1"] * 101) + b" HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * MAX_HEADER_BYTES, 431),
        (b"G" * (MAX_HEADER_BYTES + 1), 431),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_connection_closed(data: bytes, status: int) -> None:
    _, _, client = start(max_body=10)
    client.raw(data)
    assert client.link.sent.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in client.link.sent
    assert client.link.state == "closed"
    sent = client.link.sent
    client.raw(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.link.sent == sent, "nothing is served after a refusal"


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_leave_the_handler_whole(pieces: list[bytes]) -> None:
    _, server, client = start()
    for piece in pieces:
        client.raw(piece)
    client.link.hang_up()
    assert server.connections == 0
    assert server.environment.now() == 5 * SECOND


def test_a_router_that_fails_gives_500_and_the_error_is_not_swallowed() -> None:
    def router(request: Request) -> Response:
        raise LookupError("a bug")

    _, _, client = start(router)
    with pytest.raises(LookupError, match="a bug"):
        client.send("GET", "/")
    assert client.receive()[0] == 500
    assert client.link.state == "closed"


def test_an_idle_connection_is_dropped() -> None:
    world, server, client = start(idle_ms=1000)
    world.pass_time(0.9)
    client.get("/")
    world.pass_time(0.9)
    assert client.link.state == "open", "an answer starts the time anew"
    world.pass_time(0.2)
    assert client.link.state == "aborted"
    client.link.hang_up()
    assert (server.connections, world.waiting()) == (0, 0)


def test_a_request_that_trickles_in_is_dropped() -> None:
    world, _, client = start(idle_ms=1000)
    for byte in b"GET / HTTP/1.1\r":
        client.raw(bytes([byte]))
        world.pass_time(0.1)
    assert client.link.state == "aborted"


def test_a_client_that_does_not_take_the_last_answer_is_dropped() -> None:
    world, _, client = start(idle_ms=1000)
    client.get("/", ("Connection", "close"))
    assert client.link.state == "closed"
    world.pass_time(1.1)
    assert client.link.state == "aborted"


def test_a_pending_answer_comes_later_and_in_order() -> None:
    waiting: list[Pending] = []

    def router(request: Request) -> Response | Pending:
        if request.path == "/wait":
            waiting.append(Pending())
            return waiting[-1]
        return Response(200, request.path.encode())

    world, _, client = start(router, idle_ms=1000)
    client.raw(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\nGET /after HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.link.sent == b""
    assert not client.link.is_reading(), "what is sent ahead stays in the network"
    world.pass_time(100)
    assert client.link.state == "open", "the client is not to blame for our time"
    waiting[0].respond(Response(200, b"waited"))
    assert client.link.sent.index(b"waited") < client.link.sent.index(b"/after")
    assert client.link.is_reading()
    waiting[0].respond(Response(200, b"again"))
    assert b"again" not in client.link.sent
    world.pass_time(1.1)
    assert client.link.state == "aborted"


def test_a_pending_answer_may_be_there_already() -> None:
    def router(request: Request) -> Pending:
        pending = Pending()
        pending.respond(Response(200, request.path.encode()))
        return pending

    _, _, client = start(router)
    client.raw(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.link.sent.index(b"/1") < client.link.sent.index(b"/2")
    assert client.link.is_reading()


def test_whoever_answers_later_is_told_that_the_client_is_gone() -> None:
    gone: list[str] = []
    pending = Pending(cancelled=lambda: gone.append("gone"))
    _, _, client = start(lambda request: pending)
    client.send("GET", "/")
    client.link.hang_up()
    assert gone == ["gone"]
    pending.respond(Response(200))
    assert client.link.sent == b""


def test_a_slow_reader_is_served_no_further_and_then_dropped() -> None:
    world, _, client = start(idle_ms=1000)
    client.link.slow = True
    request = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
    client.raw(b"".join(request % number for number in range(5)))
    assert client.link.sent.count(b"HTTP/1.1 200") == 1
    assert not client.link.is_reading()
    client.link.slow = False
    client.link.handler.writing_resumed()
    assert client.link.sent.count(b"HTTP/1.1 200") == 5
    assert client.link.is_reading()
    client.link.slow = True
    client.raw(request % 9)
    world.pass_time(1.1)
    assert client.link.state == "aborted"


def test_connections_beyond_the_limit_are_turned_away() -> None:
    _, server, first = start(max_connections=1)
    second = Client(server)
    assert second.link.sent.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert second.link.state == "closed"
    second.link.hang_up()
    assert server.connections == 1
    first.link.hang_up()
    assert Client(server).get("/")[0] == 200


def test_dates() -> None:
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert http_date(951827696789) == "Tue, 29 Feb 2000 12:34:56 GMT"


def test_errors_have_a_text() -> None:
    assert error_response(404).body == b"Not Found\n"
    assert error_response(400, "no such thing").body == b"no such thing\n"
    assert error_response(599).body == b"599\n"
