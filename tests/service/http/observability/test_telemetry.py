"""OpenTelemetry spans of requests, received by its SDK."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from detector.artifact import Artifact
from models.errors import InputError
from tests.service.http.conftest import application
from tests.service.http.live import Connection, LiveServer, blocked, wait_until
from tests.service.http.server.test_app import inference_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[ReadableSpan]]]:
    """The finished spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process can set its provider only once; the test replaces the tracer instead.
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield lambda: list(exporter.get_finished_spans())
    provider.shutdown()


@pytest.fixture
def client(spans: Callable[[], list[ReadableSpan]], start: Callable[..., TestClient]) -> TestClient:
    return start(telemetry=True)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_is_a_span_in_the_trace_of_the_client(
    client: TestClient, spans: Callable[[], list[ReadableSpan]], artifact: Artifact, png: bytes
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": "mine-3"}
    assert client.post("/v1/models/model/predict", content=png, headers=headers).status_code == 200
    [span] = spans()
    assert span.name == "POST /v1/models/{model}/predict"
    assert span.kind == trace.SpanKind.SERVER
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert attributes(span) == {
        "http.request.method": "POST",
        "url.path": "/v1/models/model/predict",
        "http.route": "/v1/models/{model}/predict",
        "http.response.status_code": 200,
        "plumbline.request_id": "mine-3",
        "plumbline.model": "model",
        "plumbline.version": artifact.digest[:12],
    }
    assert span.status.is_unset


def test_without_a_parent_each_request_is_a_trace_of_its_own(
    client: TestClient, spans: Callable[[], list[ReadableSpan]], png: bytes
) -> None:
    for headers in ({}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}):
        assert client.post("/v1/predict", content=png, headers=headers).status_code == 200
    assert [span.parent for span in spans()] == [None] * 3
    assert len({span.context.trace_id for span in spans() if span.context}) == 3


def test_errors_have_spans(
    client: TestClient, spans: Callable[[], list[ReadableSpan]], png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("ours")

    assert client.get("/nowhere/at/all").status_code == 404
    assert client.post("/v1/predict", content=b"no image").status_code == 422
    assert client.post("/v1/predict", content=b"x", headers={"Content-Length": "9" * 12}).status_code == 413
    monkeypatch.setattr(inference_of(client), "score", fail)
    assert client.post("/v1/predict", content=png).status_code == 500
    seen = [(span.name, attributes(span)["http.response.status_code"], span.status.status_code) for span in spans()]
    unset, error = trace.StatusCode.UNSET, trace.StatusCode.ERROR
    assert [(status, code) for _, status, code in seen] == [(404, unset), (422, unset), (413, unset), (500, error)]
    assert [name for name, _, _ in seen] == ["GET request", *["POST /v1/predict"] * 3]
    assert all(attributes(span)["plumbline.request_id"] for span in spans())


def test_a_disconnect_is_not_an_error(spans: Callable[[], list[ReadableSpan]], artifact: Artifact, png: bytes) -> None:
    server = LiveServer(artifact, telemetry=True)
    try:
        with blocked(server.repository.find()) as entered:
            with Connection(server.port) as connection:
                connection.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png) + png)
                assert entered.wait(30)
            wait_until(lambda: len(spans()) == 1)
        with Connection(server.port) as connection:
            connection.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            wait_until(lambda: server.figure("plumbline_admitted_images", model="model") == 1)
        wait_until(lambda: len(spans()) == 2)
    finally:
        server.stop()
    for span in spans():
        assert (attributes(span)["http.response.status_code"], span.events) == (499, ())
        assert span.status.is_unset
    assert server.figure("plumbline_requests_total", route="/v1/predict", status="499") == 2


def test_a_long_path_is_truncated(client: TestClient, spans: Callable[[], list[ReadableSpan]]) -> None:
    assert client.get("/" + "x" * 5000).status_code == 404
    [span] = spans()
    assert attributes(span)["url.path"] == "/" + "x" * 255


def test_telemetry_is_off_by_default(
    spans: Callable[[], list[ReadableSpan]], start: Callable[..., TestClient], png: bytes
) -> None:
    assert start().post("/v1/predict", content=png).status_code == 200
    assert spans() == []


def test_a_missing_opentelemetry_names_the_extra(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    with pytest.raises(InputError, match=r"plumbline\[telemetry\]"):
        application(artifact, telemetry=True)
    application(artifact)
