"""Limits of a connection: silent, slow and excessive clients are disconnected, and others are not affected."""

import gc
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from detector.artifact import Artifact
from service.http.connection.protocol import MAX_PIPELINED
from tests.service.http.live import Connection, LiveServer, blocked, wait_until

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
MAX_CONNECTIONS = 6
MAX_HEADER_BYTES = 2048
LARGE = "/docs/swagger-ui-bundle.js"


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[LiveServer]:
    running = LiveServer(
        artifact,
        idle_s=1,
        header_timeout_s=0.4,
        receive_timeout_s=3,
        receive_grace_s=0.5,
        min_receive_rate=2000,
        send_timeout_s=0.5,
        max_connections=MAX_CONNECTIONS,
        max_header_bytes=MAX_HEADER_BYTES,
    )
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _check_that_nothing_is_left(server: LiveServer) -> Iterator[None]:
    """After each test the server has no connections and no reserved capacity, and it responds."""
    yield
    wait_until(lambda: not server.protocols)
    assert server.figure("plumbline_connections") == 0
    wait_until(lambda: server.figure("plumbline_admitted_images", model="model") == 0)
    with Connection(server.port) as other:
        other.send(LIVE)
        assert_live(other)
    wait_until(lambda: not server.protocols)


@pytest.fixture
def connect(server: LiveServer) -> Iterator[Callable[..., Connection]]:
    opened: list[Connection] = []

    def connect(**given: Any) -> Connection:
        opened.append(Connection(server.port, **given))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def assert_live(connection: Connection) -> None:
    answer = connection.answer()
    assert answer is not None
    assert (answer.status, answer.json()) == (200, {"live": True, "ready": True})


def assert_refused(connection: Connection, status: int, code: str) -> None:
    """Check that the next response is this error in JSON with an id, and the last one."""
    answer = connection.answer()
    assert answer is not None
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "expected" in error["message"]
    assert connection.rest() == b""


def post(path: str, size: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("begun", [b"", b"GET ", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "a word", "a line"])
def test_missing_headers_end_the_connection(
    server: LiveServer, connect: Callable[..., Connection], begun: bytes
) -> None:
    before = server.figure("plumbline_connections_refused_total", reason="request_timeout")
    connection = connect()
    if begun:
        connection.send(begun)
    assert_refused(connection, 408, "request_timeout")
    assert server.figure("plumbline_connections_refused_total", reason="request_timeout") == before + 1


@pytest.mark.parametrize("after_an_answer", [False, True])
def test_slow_headers_end_the_connection(connect: Callable[..., Connection], after_an_answer: bool) -> None:
    connection = connect()
    if after_an_answer:
        connection.send(LIVE)
        assert_live(connection)
    ended = threading.Event()

    def trickle() -> None:
        try:
            connection.send(b"GET / HTTP/1.1\r\nX: ")
            while not ended.wait(0.05):
                connection.send(b"x")
        except ConnectionError:
            pass

    sender = threading.Thread(target=trickle)
    sender.start()
    answer = connection.answer()
    ended.set()
    sender.join()
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")


def grows_without_end(connection: Connection, begin: bytes, more: bytes) -> bytes:
    """The response to `begin` and 64 MiB of `more`, which the server must not read."""
    with pytest.raises(ConnectionError):  # noqa: PT012
        connection.send(begin)
        for _ in range(64 * 1024 * 1024 // len(more)):
            connection.send(more)
    return connection.rest()


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\nX: ", b"GET /", b"G", b"GET / HTTP/1.1\r\n"], ids=["value", "path", "method", "name"]
)
def test_endless_headers_end_the_connection(connect: Callable[..., Connection], begin: bytes) -> None:
    said = grows_without_end(connect(), begin, b"G" * 1024)
    # The second byte of the method is invalid; the rest is too long.
    assert said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] in ("headers_too_large", "bad_request")


def test_endless_short_headers_end_the_connection(connect: Callable[..., Connection]) -> None:
    said = grows_without_end(connect(), b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 200)
    assert said.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES - 200, MAX_HEADER_BYTES + 200])
def test_headers_are_limited_in_one_piece_and_in_parts(connect: Callable[..., Connection], length: int) -> None:
    for cut in (0, 500):
        connection = connect()
        head = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX: " + b"x" * length + b"\r\n\r\n"
        connection.send(head[:cut] or head)
        if cut:
            connection.send(head[cut:])
        answer = connection.answer()
        assert answer is not None
        assert answer.status == (431 if length > MAX_HEADER_BYTES else 200)
        connection.close()


CHUNKED = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (CHUNKED + b"5\r\nabcde\r\n0\r\nX: ", b"x" * 1024),
        (CHUNKED + b"5\r\nabcde\r\n0\r\n", b"A: b\r\n" * 200),
        (CHUNKED + b"5;x=", b"x" * 1024),
        (CHUNKED + b"0" * 8, b"0" * 1024),
    ],
    ids=["trailer value", "trailers", "chunk extension", "chunk length"],
)
def test_endless_trailers_end_the_connection(connect: Callable[..., Connection], begin: bytes, more: bytes) -> None:
    said = grows_without_end(connect(), begin, more)
    assert said == b"" or said.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


def test_trailers_do_not_reach_the_application(connect: Callable[..., Connection], png: bytes) -> None:
    connection = connect()
    chunk = b"%x\r\n%s\r\n" % (len(png), png)
    trailers = b"X-Request-ID: from-the-trailer\r\nContent-Encoding: gzip\r\nContent-Type: text/css\r\n\r\n"
    connection.send(CHUNKED + chunk + b"0\r\n" + trailers)
    answer = connection.answer()
    assert answer is not None
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "from-the-trailer"
    assert answer.json()["results"][0]["label"] >= 0


def test_a_connection_beyond_the_limit_gets_a_503_and_the_others_continue(
    server: LiveServer, connect: Callable[..., Connection], png: bytes
) -> None:
    before = server.figure("plumbline_connections_refused_total", reason="too_many_connections")
    kept = [connect() for _ in range(MAX_CONNECTIONS)]
    for connection in kept:
        connection.send(LIVE)
        assert_live(connection)
    for data in (b"", LIVE, post("/v1/predict", len(png)) + png):
        refused = connect()
        if data:
            refused.send(data)
        answer = refused.answer()
        assert answer is not None
        assert (answer.status, answer.json()["error"]["code"]) == (503, "too_many_connections")
        assert answer.headers["retry-after"] == "1"
        assert server.figure("plumbline_connections") == MAX_CONNECTIONS
    assert server.figure("plumbline_connections_refused_total", reason="too_many_connections") == before + 3
    for connection in kept:
        connection.send(LIVE)
        assert_live(connection)
    kept.pop().close()
    wait_until(lambda: server.figure("plumbline_connections") == MAX_CONNECTIONS - 1)
    late = connect()
    late.send(LIVE)
    assert_live(late)


def test_an_unread_response_ends_the_connection(
    server: LiveServer, connect: Callable[..., Connection], png: bytes
) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + png + b"\r\n"
    form = part * 128 + b"--b--\r\n"
    request = post("/v1/predict?path=true", len(form), "Content-Type: multipart/form-data; boundary=b") + form
    before = server.figure("plumbline_connections_refused_total", reason="answer_not_read")
    connection = connect(receive_buffer=4096)

    def ask() -> None:
        try:
            while True:
                connection.send(request)
        except (ConnectionError, TimeoutError):
            pass

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: server.figure("plumbline_connections_refused_total", reason="answer_not_read") == before + 1)
    asking.join()


def test_a_small_unread_remainder_ends_the_connection(server: LiveServer, connect: Callable[..., Connection]) -> None:
    """Less than the write buffer's high-water mark, so that only the idle timeout detects it."""
    connection = connect(receive_buffer=4096)
    wait_until(lambda: len(server.protocols) == 1)
    [protocol] = server.protocols
    for _ in range(1000):
        done = protocol.server_state.total_requests + 4
        connection.send(b"GET /assets/page.css HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
        wait_until(lambda done=done: protocol.server_state.total_requests == done)  # type: ignore[misc]
        if protocol.transport.get_write_buffer_size():
            break
    assert 0 < protocol.transport.get_write_buffer_size() < 65_536
    wait_until(lambda: not server.protocols)
    connection.rest()


def test_a_large_response_passes_a_small_window(connect: Callable[..., Connection]) -> None:
    connection = connect(receive_buffer=4096)
    connection.send(f"GET {LARGE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    said = connection.rest()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"


def test_pipelined_requests_are_answered_in_order(connect: Callable[..., Connection], png: bytes) -> None:
    connection = connect()
    for _ in range(3):
        connection.send(LIVE)
        assert_live(connection)
    names = [f"number-{n}" for n in range(1 + MAX_PIPELINED)]
    requests = [
        post("/v1/predict", len(png), f"X-Request-ID: {name}") + png
        if n % 2
        else LIVE.replace(b"Host: x", b"Host: x\r\nX-Request-ID: " + name.encode())
        for n, name in enumerate(names)
    ]
    connection.send(b"".join(requests))
    answers = [connection.answer() for _ in names]
    assert [(answer.status, answer.headers["x-request-id"]) for answer in answers if answer] == [
        (200, name) for name in names
    ]
    assert [("results" in answer.json()) for answer in answers if answer] == [bool(n % 2) for n in range(len(names))]


def assert_answered(connection: Connection) -> None:
    """As `assert_live`, but a blocked batch may still count as stalled."""
    answer = connection.answer()
    assert answer is not None
    assert (answer.status, answer.json()["live"]) == (200, True)


def cycles() -> int:
    gc.collect()
    return sum(type(each) is RequestResponseCycle for each in gc.get_objects())


@pytest.mark.parametrize("behind", ["an answer under way", "nothing"])
def test_pipelined_requests_are_limited(
    server: LiveServer, connect: Callable[..., Connection], png: bytes, behind: str
) -> None:
    refused, before = server.figure("plumbline_connections_refused_total", reason="too_many_pipelined"), cycles()
    connection = connect()
    first = post("/v1/predict", len(png)) + png if behind != "nothing" else b""
    with blocked(server.repository.find()) as entered:
        if first:
            connection.send(first)
            assert entered.wait(30)
        with suppress(ConnectionError):
            connection.send(LIVE * 15_000)
        said = connection.rest()
        assert cycles() <= before + 2
        with connect() as other:
            other.send(LIVE)
            assert_answered(other)
    wait_until(lambda: server.repository.ready)
    assert said.count(b"HTTP/1.1 ") < 1000
    assert server.figure("plumbline_connections_refused_total", reason="too_many_pipelined") == refused + 1


def test_pipelined_bodies_are_read_in_turn(server: LiveServer, connect: Callable[..., Connection], png: bytes) -> None:
    padded = png + bytes(1_000_000)  # much more than one read
    connection = connect()

    def send() -> None:
        with suppress(ConnectionError):
            connection.send((post("/v1/predict", len(padded)) + padded + LIVE) * 3)

    with blocked(server.repository.find()) as entered:
        sending = threading.Thread(target=send)
        sending.start()
        assert entered.wait(30)
        [protocol] = server.protocols
        assert len(protocol.pipeline) + 1 <= 1 + MAX_PIPELINED
        assert sum(len(cycle.body) for cycle, _ in protocol.pipeline) < 1_000_000
    for _ in range(3):
        answer = connection.answer()
        assert answer is not None
        assert answer.status == 200
        assert_answered(connection)
    sending.join()
    wait_until(lambda: server.repository.ready)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX y\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_that_are_not_http_get_an_error_with_an_id(connect: Callable[..., Connection], junk: bytes) -> None:
    connection = connect()
    connection.send(junk)
    assert_refused(connection, 400, "bad_request")


def test_bytes_that_are_not_http_after_a_request_end_the_connection(
    connect: Callable[..., Connection], png: bytes
) -> None:
    connection = connect()
    connection.send(LIVE)
    assert_live(connection)
    connection.send(b"\x00\x01\x02\r\n\r\n")
    assert_refused(connection, 400, "bad_request")
    both = connect()
    both.send(post("/v1/predict", len(png)) + png + b"\x00\x01\x02\r\n\r\n")
    said = both.rest()
    assert said == b"" or said.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))


def test_a_missing_body_frees_its_capacity(server: LiveServer, connect: Callable[..., Connection], png: bytes) -> None:
    connection = connect()
    connection.send(post("/v1/predict", 1_000_000) + png[:10])
    wait_until(lambda: server.figure("plumbline_admitted_bytes", model="model") > 1_000_000)
    assert_refused(connection, 408, "request_timeout")
    wait_until(lambda: server.figure("plumbline_admitted_bytes", model="model") == 0)


def test_a_body_below_the_minimum_rate_is_refused(connect: Callable[..., Connection], png: bytes) -> None:
    connection = connect()
    connection.send(post("/v1/predict", 1_000_000))
    ended = threading.Event()

    def trickle() -> None:
        try:
            while not ended.wait(0.05):
                connection.send(b"x" * 10)
        except ConnectionError:
            pass

    sender = threading.Thread(target=trickle)
    sender.start()
    answer = connection.answer()
    ended.set()
    sender.join()
    assert answer is not None
    assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")


def test_a_body_above_the_minimum_rate_is_accepted(
    server: LiveServer, connect: Callable[..., Connection], png: bytes
) -> None:
    """It takes longer than the grace time, at twice the minimum rate."""
    padded = png + bytes(4000)  # bytes after the end of a PNG file are ignored
    connection = connect()
    connection.send(post("/v1/predict", len(padded)))
    pause = threading.Event()
    for at in range(0, len(padded), 200):
        pause.wait(0.05)
        connection.send(padded[at : at + 200])
    answer = connection.answer()
    assert answer is not None
    assert answer.status == 200


@pytest.mark.parametrize(
    ("request_line", "pieces"),
    [("GET /v2/health/live", 1), ("POST /nowhere", 1000), ("GET /v1/predict", 0)],
    ids=["a byte", "all", "nothing"],
)
def test_an_unsent_rest_of_an_unwanted_body_ends_the_connection(
    connect: Callable[..., Connection], request_line: str, pieces: int
) -> None:
    connection = connect()
    connection.send(f"{request_line} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
    answer = connection.answer()
    assert answer is not None
    assert answer.status in (200, 404, 405)
    connection.send(b"x" * pieces)
    connection.rest()


def test_a_request_after_an_unwanted_body_is_served(connect: Callable[..., Connection]) -> None:
    connection = connect()
    connection.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert_live(connection)
    connection.send(b"x" * 999)
    connection.send(b"x" + LIVE)
    assert_live(connection)


UPGRADES = {
    "h2c as Java sends it": ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAA"],
    "websocket": ["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13"],
    "in two headers": ["Connection: keep-alive", "Connection: Upgrade", "Upgrade: TLS/1.0", "Upgrade: h2c"],
    "no protocol": ["Connection: Upgrade"],
    "no connection": ["Upgrade: h2c"],
}


@pytest.mark.parametrize("pieces", ["together", "head first", "one byte", "mid-body"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_a_request_for_another_protocol_is_served_as_http_with_its_body(
    connect: Callable[..., Connection], png: bytes, upgrade: list[str], chunked: bool, pieces: str
) -> None:
    # The body contains a request, which must not be served.
    inner = png + b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = post("/v1/predict", len(inner), *upgrade)
    body = inner
    if chunked:
        head = head.replace(b"Content-Length: %d" % len(inner), b"Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    cuts = {"together": [], "head first": [len(head)], "one byte": [1, len(head) - 1], "mid-body": [len(head) + 9]}
    connection = connect()
    start = 0
    for stop in [*cuts[pieces], None]:
        connection.send((head + body)[start:stop])
        start = stop or 0
    answer = connection.answer()
    assert answer is not None
    assert (answer.status, len(answer.json()["results"])) == (200, 1)
    connection.send(LIVE)
    assert_live(connection)


def test_a_pipelined_request_after_an_upgrade_is_answered_in_order(
    connect: Callable[..., Connection], png: bytes
) -> None:
    upgrade = post("/v1/predict", len(png), "Connection: Upgrade", "Upgrade: h2c") + png
    connection = connect()
    connection.send(LIVE + upgrade + LIVE)
    assert_live(connection)
    answer = connection.answer()
    assert answer is not None
    assert answer.status == 200
    assert_live(connection)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 400),
        ("Host: x\r\nHost: x", 400),
        ("Host: x\r\nTransfer-Encoding: gzip, chunked", 501),
        ("Host: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
    ],
)
def test_ambiguous_headers_are_refused(connect: Callable[..., Connection], headers: str, status: int) -> None:
    connection = connect()
    lines = ["POST /v1/predict HTTP/1.1", *filter(None, [headers]), "", ""]
    connection.send("\r\n".join(lines).encode())
    assert_refused(connection, status, "bad_request" if status == 400 else "not_implemented")


@pytest.mark.parametrize("length", ["\t{}", "{}\t", "\t {} \t"])
def test_tabs_around_the_length_are_accepted(connect: Callable[..., Connection], png: bytes, length: str) -> None:
    connection = connect()
    head = post("/v1/predict", 0).replace(b" 0", length.format(len(png)).encode())
    connection.send(head + png)
    answer = connection.answer()
    assert answer is not None
    assert answer.status == 200


def test_a_request_of_http_1_0_needs_no_host(connect: Callable[..., Connection]) -> None:
    connection = connect()
    connection.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert_live(connection)
