"""Checks before a body is read, on the ASGI interface, where a test controls the arrival of the body."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from detector.artifact import Artifact
from tests.service.http.conftest import application

KEY = "a-key-of-sixteen-characters-at-least"
Headers = list[tuple[bytes, bytes]]


@dataclass
class Exchange:
    """One request on the ASGI interface, whose body the test sends piece by piece."""

    app: FastAPI
    path: str = "/v1/predict"
    method: str = "POST"
    headers: Headers = field(default_factory=list)
    pieces: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    received: int = 0
    status: int = 0
    answer: bytes = b""
    answer_headers: dict[str, str] = field(default_factory=dict)

    async def receive(self) -> dict[str, Any]:
        self.received += 1
        return await self.pieces.get()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer += message.get("body", b"")

    def put(self, body: bytes, more: bool = False) -> None:
        self.pieces.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def go(self) -> None:
        self.pieces.put_nowait({"type": "http.disconnect"})

    async def run(self) -> "Exchange":
        scope = {
            "type": "http", "http_version": "1.1", "method": self.method, "path": self.path, "raw_path": b"",
            "query_string": b"", "root_path": "", "headers": [(b"host", b"x"), *self.headers], "scheme": "http",
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"}, "state": {},
        }  # fmt: skip
        await asyncio.wait_for(self.app(scope, self.receive, self.send), 30)
        return self

    @property
    def error(self) -> dict[str, str]:
        fields: dict[str, str] = orjson.loads(self.answer)["error"]
        return fields


@asynccontextmanager
async def started(artifact: Artifact, **given: Any) -> AsyncIterator[FastAPI]:
    app = application(artifact, **given)
    async with app.router.lifespan_context(app):
        yield app


def length(size: int) -> Headers:
    return [(b"content-length", str(size).encode())]


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[[Artifact, bytes], None]:
    """A test of an artifact and an image, run on its own event loop."""

    def run(artifact: Artifact, png: bytes) -> None:
        asyncio.run(test(artifact, png))  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


@in_loop
async def test_a_body_announced_too_large_is_refused_before_reading(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_body_bytes=1000) as app:
        for path in ("/v1/predict", "/v2/health/live", "/nowhere"):
            refused = await Exchange(app, path=path, headers=length(1001)).run()
            assert (refused.status, refused.received) == (413, 0)
        huge = await Exchange(app, headers=length(10**15)).run()
        assert (huge.status, huge.answer_headers["connection"]) == (413, "close")


@in_loop
async def test_a_body_of_unknown_length_is_refused_at_the_first_excess_byte(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_body_bytes=1000) as app:
        exchange = Exchange(app, headers=[(b"transfer-encoding", b"chunked")])
        for _ in range(20):
            exchange.put(bytes(400), more=True)
        await exchange.run()
        assert (exchange.status, exchange.error["code"], exchange.received) == (413, "body_too_large", 3)
        assert exchange.answer_headers["connection"] == "close"


@in_loop
async def test_a_slow_body_is_refused_after_its_time(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, receive_timeout_s=0.2) as app:
        exchange = Exchange(app, headers=length(len(png)))
        exchange.put(png[:10], more=True)
        await exchange.run()
        assert (exchange.status, exchange.error["code"]) == (408, "request_timeout")
        assert exchange.answer_headers["connection"] == "close"


@in_loop
async def test_long_or_many_headers_are_refused(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_header_bytes=1000, max_header_count=10) as app:
        many = await Exchange(app, method="GET", path="/v1/models", headers=[(b"x", b"y")] * 11).run()
        long = await Exchange(app, method="GET", path="/v1/models", headers=[(b"x", b"y" * 1000)]).run()
        fine = await Exchange(app, method="GET", path="/v1/models", headers=[(b"x", b"y" * 900)]).run()
        assert (many.status, long.status, fine.status) == (431, 431, 200)
        assert many.error["code"] == "headers_too_large"


@in_loop
async def test_a_full_server_refuses_before_reading_and_recovers(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_queue_images=2, max_images_per_request=2) as app:
        waiting = [Exchange(app, headers=length(len(png))) for _ in range(2)]
        tasks = [asyncio.create_task(exchange.run()) for exchange in waiting]
        while not all(exchange.received for exchange in waiting):
            await asyncio.sleep(0)
        refused = await Exchange(app, headers=length(len(png))).run()
        assert (refused.status, refused.error["code"], refused.received) == (429, "overloaded", 0)
        assert int(refused.answer_headers["retry-after"]) >= 1
        health = await Exchange(app, method="GET", path="/v2/health/ready").run()
        assert health.status == 200
        for exchange in waiting:
            exchange.put(png)
        await asyncio.gather(*tasks)
        assert [exchange.status for exchange in waiting] == [200, 200]
        again = Exchange(app, headers=length(len(png)))
        again.put(png)
        assert (await again.run()).status == 200


@in_loop
async def test_the_limit_on_bytes_counts_announced_and_other_bytes(artifact: Artifact, png: bytes) -> None:
    limits = {"max_queue_bytes": 10_000, "max_body_bytes": 9_000, "max_images_per_request": 1}
    async with started(artifact, **limits) as app:
        announced = Exchange(app, headers=length(8_500))
        task = asyncio.create_task(announced.run())
        while not announced.received:
            await asyncio.sleep(0)
        assert (await Exchange(app, headers=length(8_500)).run()).status == 429
        small = Exchange(app)  # reserves its decoded image, then exceeds the remaining capacity
        small.put(bytes(600), more=True)
        assert (await small.run()).status == 429
        announced.put(png)
        await task
        assert announced.status == 200
        unannounced = Exchange(app)
        unannounced.put(png[:100], more=True)
        unannounced.put(png[100:])
        assert (await unannounced.run()).status == 200


@in_loop
async def test_images_beyond_the_capacity_are_refused(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_queue_images=2, max_images_per_request=2) as app:
        waiting = Exchange(app, headers=length(len(png)))
        task = asyncio.create_task(waiting.run())
        while not waiting.received:
            await asyncio.sleep(0)
        two = Exchange(app, headers=[(b"content-type", b"application/json")])
        two.put(orjson.dumps({"images": ["", ""]}))
        assert (await two.run()).status == 429
        waiting.put(png)
        await task


@in_loop
async def test_a_disconnect_frees_all_capacity(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_queue_delay_ms=1000) as app:
        inference = app.state.repository.find().inference
        other = app.state.repository.find().capacity.admit(1, 1)  # a batch waits for it
        sending, waiting = Exchange(app), Exchange(app)
        sending.put(png[:10], more=True)
        sending.go()
        await sending.run()
        assert sending.status == 0
        waiting.put(png)
        task = asyncio.create_task(waiting.run())
        while not inference._batcher.queued:
            await asyncio.sleep(0.001)
        waiting.go()
        await task
        assert waiting.status == 0
        other.release()
        assert inference._batcher.queued == 0
        text = app.state.metrics.exposition().decode()
        assert 'plumbline_requests_total{route="/v1/predict",status="499"} 2.0' in text
        assert 'plumbline_admitted_images{model="model"} 0.0' in text
        assert 'plumbline_admitted_bytes{model="model"} 0.0' in text


@in_loop
async def test_a_defect_outside_scoring_is_a_counted_500_with_an_id(artifact: Artifact, png: bytes) -> None:
    async with started(artifact) as app:
        inference = app.state.repository.find().inference
        decode, inference._decode = inference._decode, None  # calling None fails
        failing = Exchange(app, headers=[(b"x-request-id", b"mine")])
        failing.put(png)
        await failing.run()
        assert (failing.status, failing.error["code"], failing.error["request_id"]) == (500, "internal_error", "mine")
        assert failing.answer_headers["x-request-id"] == "mine"
        assert b"NoneType" not in failing.answer
        inference._decode = decode
        again = Exchange(app)
        again.put(png)
        assert (await again.run()).status == 200
        text = app.state.metrics.exposition().decode()
        assert 'plumbline_requests_total{route="/v1/predict",status="500"} 1.0' in text
        assert 'plumbline_errors_total{reason="internal_error"} 1.0' in text
        assert 'status="0"' not in text
        assert 'plumbline_admitted_bytes{model="model"} 0.0' in text


@in_loop
async def test_a_defect_within_a_response_ends_it(artifact: Artifact, png: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    async def answer() -> StreamingResponse:
        return StreamingResponse(pieces())

    app = application(artifact)
    app.add_api_route("/half", answer)
    async with app.router.lifespan_context(app):
        exchange = Exchange(app, path="/half", method="GET")
        with pytest.raises(ZeroDivisionError):
            await exchange.run()
        assert (exchange.status, exchange.answer) == (200, b"half")


@in_loop
async def test_a_response_past_its_deadline_is_a_503(artifact: Artifact, png: bytes) -> None:
    async with started(artifact, max_queue_delay_ms=1000, request_timeout_s=0.1) as app:
        app.state.repository.find().capacity.admit(1, 1)  # a batch waits for it
        exchange = Exchange(app)
        exchange.put(png)
        await exchange.run()
        assert (exchange.status, exchange.error["code"]) == (503, "deadline_exceeded")
        assert app.state.repository.find().inference._batcher.queued == 0


@pytest.mark.parametrize("value", [b"-1", b"x", b"", "²".encode(), b"1,1"])
def test_an_invalid_content_length_is_refused(artifact: Artifact, value: bytes) -> None:
    async def run() -> None:
        async with started(artifact) as app:
            refused = await Exchange(app, headers=[(b"content-length", value)]).run()
            assert (refused.status, refused.received) == (400, 0)

    asyncio.run(run())


def test_with_keys_every_route_but_health_needs_one(artifact: Artifact, png: bytes, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{KEY}\n")

    async def run() -> None:
        async with started(artifact, api_keys_file=keys) as app:
            for path in ("/v2/health/live", "/v2/health/ready"):
                assert (await Exchange(app, method="GET", path=path).run()).status == 200
            wrong: list[Headers] = [
                [],
                [(b"x-api-key", b"")],
                [(b"x-api-key", KEY[:-1].encode())],
                [(b"authorization", KEY.encode())],
                [(b"authorization", b"Basic " + KEY.encode())],
                [(b"x-api-key", "ключ".encode())],
                [(b"x-api-key", b"# ours")],
            ]
            for path in (
                "/v1/predict",
                "/v1/status",
                "/v2",
                "/v2/models/model/infer",
                "/openapi.json",
                "/nowhere",
                "/v2/health/live/",
            ):
                for headers in wrong:
                    refused = await Exchange(app, method="POST", path=path, headers=headers).run()
                    assert (refused.status, refused.received) == (401, 0)
                    assert refused.answer_headers["www-authenticate"] == "Bearer"
            for header in ((b"x-api-key", KEY.encode()), (b"authorization", b"bearer " + KEY.encode())):
                allowed = Exchange(app, headers=[header])
                allowed.put(png)
                assert (await allowed.run()).status == 200

    asyncio.run(run())
