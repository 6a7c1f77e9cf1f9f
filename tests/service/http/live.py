"""A server in a thread of this process, configured as in `service.http.server.run`, and connections to it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import orjson
import uvicorn

from detector.artifact import Artifact
from service.http.connection.protocol import bounded_protocol
from service.http.inference.model import ModelSource, ServedModel
from service.http.inference.repository import ModelRepository
from service.http.observability.metrics import Metrics
from service.http.server.app import create_app
from service.http.settings import Settings

__all__ = ["Answer", "Connection", "LiveServer", "blocked", "scoring_with", "wait_until"]

T = TypeVar("T")

TIMEOUT_S = 30.0  # for a busy machine


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


class _Server(uvicorn.Server):
    loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)


class LiveServer:
    """A server that runs from its construction until `stop`.

    Args:
        models: as `create_app` takes them.
        idle_s: how long a connection may be kept without a request.
        given: settings that differ from the tests' own.
    """

    def __init__(self, models: Artifact | Mapping[str, ModelSource], *, idle_s: int = 5, **given: Any) -> None:
        self.settings = Settings(**{"torch_threads": 1, "decode_threads": 1, "canary_interval_s": 0, **given})
        self.app = create_app(models, self.settings)
        self.repository: ModelRepository = self.app.state.repository
        self.metrics: Metrics = self.app.state.metrics
        config = uvicorn.Config(
            self.app,
            port=0,
            lifespan="on",
            log_config=None,
            http=bounded_protocol(self.settings, self.metrics),
            ws="none",
            access_log=False,
            timeout_keep_alive=idle_s,
            timeout_graceful_shutdown=5,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, name="live-server")
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive())
        assert self._server.started, "it ended before it answered"
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def protocols(self) -> list[Any]:
        """The protocol objects of the open connections."""
        return list(self._server.server_state.connections)

    def in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._server.loop).result(TIMEOUT_S)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)

    def figure(self, name: str, **labels: str) -> float:
        """A value of /metrics, 0 if it does not exist yet."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()


class _ReplacedScoring:
    """A pipeline with another `score`."""

    def __init__(self, pipeline: Any, score: Callable[..., Any]) -> None:
        self._pipeline = pipeline
        self.score = score

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


@contextmanager
def scoring_with(model: ServedModel | None, score: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``score(pixels, right)`` replaces the model's scoring; ``right(pixels)`` are the model's own verdicts."""
    assert model is not None
    inference: Any = model.inference
    pipeline = inference.scorer.pipeline

    def score_instead(pixels: Any, path: bool) -> Any:
        return score(pixels, lambda some: pipeline.score(some, path=path))

    inference.scorer.pipeline = _ReplacedScoring(pipeline, score_instead)
    try:
        yield
    finally:
        inference.scorer.pipeline = pipeline


@contextmanager
def blocked(model: ServedModel | None) -> Iterator[threading.Event]:
    """Inside, batches of the model wait; the yielded event is set once one does."""
    entered, gate = threading.Event(), threading.Event()

    def wait_and_score(pixels: Any, right: Callable[[Any], Any]) -> Any:
        entered.set()
        assert gate.wait(TIMEOUT_S)
        return right(pixels)

    with scoring_with(model, wait_and_score):
        try:
            yield entered
        finally:
            gate.set()


@dataclass(frozen=True)
class Answer:
    """One HTTP response; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class Connection:
    """A socket to a server on loopback.

    Args:
        port: the server's.
        receive_buffer: bytes that the kernel takes before the test reads; None: as many as it likes.
    """

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect(("127.0.0.1", port))
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> Answer | None:
        """The next response; None if the server closes the connection."""
        line = self._stream.readline()
        if not line:
            return None
        headers = {}
        while (field := self._stream.readline().strip()) != b"":
            name, _, value = field.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        body = self._stream.read(int(headers.get("content-length", "0")))
        return Answer(int(line.split()[1]), headers, body)

    def rest(self) -> bytes:
        """All bytes until the server closes or resets the connection."""
        parts = []
        try:
            while part := self._stream.read1(65_536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)
