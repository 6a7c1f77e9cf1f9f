"""Deliveries to a receiver on loopback, and their signatures against `hmac`."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from models.errors import InputError
from service.monitoring.webhook import Webhook, read_secret, signature

NOT_HTTP = 0
SECRET = b"a secret of more than twenty-four bytes"


class Receiver(HTTPServer):
    """Records requests, and responds with the given statuses, then with 204."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/alarms"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        if status == NOT_HTTP:
            self.wfile.write(b"garbage\r\n\r\n")
            return
        self.send_response(status)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def deliver(url: str, *events: dict[str, object], waits_s: tuple[float, ...] = (0, 0, 0)) -> list[str]:
    """The outcomes of these events."""
    outcomes: list[str] = []
    done = threading.Event()

    def count(outcome: str) -> None:
        outcomes.append(outcome)
        if len(outcomes) == len(events):
            done.set()

    webhook = Webhook(url, SECRET, count, waits_s=waits_s)
    webhook.start()
    for event in events:
        webhook.send(event)
    assert done.wait(30)
    webhook.stop()
    return outcomes


def test_a_delivery_is_signed(receiver: Receiver) -> None:
    assert deliver(receiver.url, {"change": "page"}) == ["sent"]
    [(headers, body)] = receiver.received
    assert json.loads(body) == {"change": "page"}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_the_one_of_the_specification() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


def test_a_failed_delivery_is_repeated_with_the_same_id(receiver: Receiver) -> None:
    receiver.statuses = [500, 503]
    assert deliver(receiver.url, {"n": 1}) == ["sent"]
    assert len(receiver.received) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1


def test_attempts_are_bounded_and_redirections_are_failures(receiver: Receiver) -> None:
    receiver.statuses = [302, 500, 500]
    assert deliver(receiver.url, {"n": 1}, {"n": 2}) == ["failed", "sent"]
    assert len(receiver.received) == 4


def test_an_answer_that_is_not_http_is_a_failure_and_the_next_event_is_sent(receiver: Receiver) -> None:
    receiver.statuses = [NOT_HTTP]
    assert deliver(receiver.url, {"n": 1}, {"n": 2}, waits_s=(0,)) == ["failed", "sent"]


def test_a_full_queue_drops_events_and_a_dead_receiver_does_not_delay_the_end() -> None:
    outcomes: list[str] = []
    webhook = Webhook("http://127.0.0.1:9", SECRET, outcomes.append)
    for number in range(105):
        webhook.send({"n": number})
    assert outcomes == ["dropped"] * 5
    webhook.stop()  # not started


@pytest.mark.parametrize("content", [b"", b"whsec_", b"whsec_c2hvcnQ=", b"c2hvcnQ=", b"\xff", b"whsec_%%%"])
def test_a_file_without_a_secret_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(InputError, match="no secret"):
        read_secret(tmp_path / "secret")


def test_a_secret_is_read_and_a_missing_one_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"whsec_{base64.b64encode(SECRET).decode()}\n")
    assert read_secret(tmp_path / "secret") == SECRET
    with pytest.raises(InputError, match="cannot read"):
        read_secret(tmp_path / "nowhere")
    with pytest.raises(InputError, match="https://"):
        Webhook("ftp://example.org", SECRET, print)
