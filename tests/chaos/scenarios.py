"""One function per fault; each returns measurements and problems of a server process.

In every scenario each response is compared with the pipeline without a server: it is correct, or an error.
"""

import asyncio
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from models.engines import Precision
from service.http.server.run import FAILED_EXIT_CODE
from tests.chaos import poisoned_network
from tests.chaos.load import Load, under_load
from tests.fuzz.health import Reference
from tests.fuzz.process import ServerProcess, serving
from tests.images import encoded, noise
from tests.tiny_artifact import save_tiny_artifact

__all__ = ["NETWORK", "SCENARIOS", "Chaos", "Outcome"]

NETWORK = f"{poisoned_network.__file__}:poisoned"
_PATIENCE_S = 60.0


@dataclass
class Outcome:
    """The result of a scenario.

    Args:
        figures: measurements: durations in seconds, counts.
        bars: name of a figure → its maximum; only `make fuzz` fails if it is exceeded.
        problems: failures that do not depend on the speed of the machine.
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def require(self, condition: bool, text: str) -> None:
        """Record `text` as a problem if the condition is false."""
        if not condition:
            self.problems.append(text)

    def missed(self) -> list[str]:
        """The exceeded limits."""
        return [
            f"{name} is {self.figures[name]:.2f}, at most {bar:g} expected"
            for name, bar in self.bars.items()
            if self.figures[name] > bar
        ]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "scenario": self.name, "figures": self.figures, "bars": self.bars, "missed": self.missed(),
            "problems": self.problems,
        }  # fmt: skip


class Chaos:
    """Artifacts of a network with faults, valid images, and functions to start servers.

    Args:
        folder: an empty folder for artifacts.
        seed: of artifacts and images.
        scale: share of the clients of a full run.
        engine, precision: what runs the network. Any other than torch in float32 gets the faults outside its graph.
    """

    def __init__(
        self, folder: Path, seed: int, *, scale: float = 1.0, engine: str = "torch", precision: Precision = "float32"
    ) -> None:
        rng = np.random.default_rng(seed)
        self._in_network = (engine, precision) == ("torch", "float32")
        self._network = NETWORK if self._in_network else None
        self.artifact, self.other_artifact = (
            save_tiny_artifact(folder / name, seed + more, self._network, engine=engine, precision=precision)
            for name, more in (("tiny", 0), ("other", 1))
        )
        self.reference = self.reference_of(self.artifact)
        self.images = [encoded(noise(rng)) for _ in range(8)]
        self._rng = rng
        self._scale = scale
        self._shared: ServerProcess | None = None

    def reference_of(self, artifact: Path) -> Reference:
        """The pipeline of the artifact without a server."""
        return Reference(artifact, self._network)

    def clients(self, full: int) -> int:
        """Number of clients in this run, for `full` in a full run."""
        return max(2, round(full * self._scale))

    def poison(self, fault: int) -> bytes:
        """An image that triggers this fault of the network."""
        pixels = np.asarray(noise(self._rng)).copy()
        pixels[0] = np.array(poisoned_network.marker(fault), np.uint8)[:, None] * 255
        return encoded(Image.fromarray(pixels))

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Inside, one server is shared by the scenarios without own settings that leave it running."""
        with self.serving() as server:
            self._shared = server
            try:
                yield
            finally:
                self._shared = None

    @contextmanager
    def serving(self, **settings: object) -> Iterator[ServerProcess]:
        """A server with faults."""
        if self._shared is not None and not settings:
            yield self._shared
            return
        given = {"max_batch_size": 16, "shutdown_grace_s": 0.3, "canary_interval_s": 0, **settings}
        if self._in_network:
            with serving(self.artifact, "--network", NETWORK, **given) as server:
                yield server
        else:
            with serving(self.artifact, module="tests.chaos.poisoned_engine", **given) as server:
                yield server

    def load(self, server: ServerProcess) -> Load:
        """Clients of that server."""
        return Load(server, self.images, {self.reference.artifact.digest: self.reference})


def poisoned_image(chaos: Chaos) -> Outcome:
    """The network raises on one image of a batch: only this image gets an error."""
    outcome = Outcome("the network raises on one image of a batch")
    with chaos.serving() as server, under_load(chaos.load(server), clients=chaos.clients(6)) as load:
        load.wait_for(20)
        expected = [chaos.reference.score(image) for image in chaos.images]
        rounds = chaos.clients(20)
        for number in range(rounds):
            at = number % len(chaos.images)
            files = [*chaos.images[:at], chaos.poison(poisoned_network.RAISE), *chaos.images[at:]]
            answer = httpx.post(
                f"{server.url}/v1/predict", files=[("image", ("x", f)) for f in files], timeout=60, trust_env=False
            )
            outcome.require(
                answer.status_code == 200, f"the batch was answered {answer.status_code} {answer.text[:200]}"
            )
            results = answer.json().get("results", [])
            errors = [result["index"] for result in results if "error" in result]
            outcome.require(errors == [at], f"errors of images {errors}, of image {at} alone expected")
            for verdict, result in zip(expected, [r for r in results if r["index"] != at], strict=False):
                same = (result.get("label"), result.get("flagged")) == (verdict.label, verdict.flagged)
                outcome.require(same and abs(result["score"] - verdict.score) <= 1e-6, f"a neighbour got {result}")
        _all_answered(outcome, load)
        outcome.require(_ready(server), "the server is not ready afterwards")
    outcome.figures = {"poisoned_batches": rounds, "other_requests": load.answered}
    return outcome


def hang_for_a_while(chaos: Chaos) -> Outcome:
    """A batch takes seconds: not ready during it, ready afterwards, every request gets a response."""
    outcome = Outcome("a batch hangs for a while", bars={"not_ready_after_s": 1.0})
    with chaos.serving() as server, under_load(chaos.load(server), clients=chaos.clients(6)) as load:
        load.wait_for(20)
        with _sent(server, chaos.poison(poisoned_network.HANG_FOR_A_WHILE)):
            outcome.figures["not_ready_after_s"] = _until(lambda: not _ready(server))
            outcome.figures["ready_again_after_s"] = _until(lambda: _ready(server))
        load.wait_for(20)
        _all_answered(outcome, load)
        outcome.require(server.process.poll() is None, "the process ended")
    outcome.figures["other_requests"] = load.answered
    return outcome


def hang_for_good(chaos: Chaos) -> Outcome:
    """A batch never ends: soon not ready, every request gets a response, the process exits for a restart."""
    outcome = Outcome("a batch hangs for good", bars={"not_ready_after_s": 1.0})
    hang_timeout_s = 2.0
    outcome.figures["hang_timeout_s"] = hang_timeout_s
    with chaos.serving(hang_timeout_s=hang_timeout_s, drain_timeout_s=5) as server:
        with under_load(chaos.load(server), clients=chaos.clients(6)) as load:
            load.wait_for(20)
            with _sent(server, chaos.poison(poisoned_network.HANG)) as answers:
                outcome.figures["not_ready_after_s"] = _until(lambda: not _ready(server))
                _ended(outcome, server)
        _refused_or_right(outcome, load, answers)
    return outcome


def thread_killed(chaos: Chaos) -> Outcome:
    """The inference thread dies: neither ready nor live, every request gets a 503, the process exits."""
    outcome = Outcome("the inference thread is killed", bars={"not_ready_after_s": 1.0, "not_live_after_s": 1.0})
    with chaos.serving() as server:
        with under_load(chaos.load(server), clients=chaos.clients(6)) as load:
            load.wait_for(20)
            with _sent(server, chaos.poison(poisoned_network.DIE)) as answers:
                started = time.monotonic()
                _until(lambda: not _ready(server))
                outcome.figures["not_ready_after_s"] = time.monotonic() - started
                _until(lambda: _status(server, "/v2/health/live") != 200)
                outcome.figures["not_live_after_s"] = time.monotonic() - started
                _ended(outcome, server)
        _refused_or_right(outcome, load, answers)
    return outcome


def disconnect_storm(chaos: Chaos) -> Outcome:
    """Clients disconnect while they send or wait: all their resources are freed."""
    outcome = Outcome("clients leave in a storm")
    count = chaos.clients(300)
    with chaos.serving() as server, under_load(chaos.load(server), clients=2) as load:
        load.wait_for(20)
        lines = len(server.lines)
        resident, descriptors = server.resident_bytes(), server.descriptors()
        asyncio.run(_storm(server, chaos.images[0], count))
        outcome.figures["queue_empty_after_s"] = _until(lambda: _admitted(server) <= 2)
        outcome.figures["descriptors_closed_after_s"] = _until(lambda: server.descriptors() <= descriptors + 8)
        load.wait_for(20)
        _all_answered(outcome, load)
        grown = server.resident_bytes() - resident
        outcome.require(grown < 64 * 2**20, f"{grown} bytes of memory did not return")
        outcome.require(not server.tracebacks(lines), f"logged: {server.tracebacks(lines)}")
        outcome.figures |= {"leaving_clients": count, "grown_bytes": grown}
    outcome.figures["other_requests"] = load.answered
    return outcome


def slow_senders(chaos: Chaos) -> Outcome:
    """Many connections with slow bodies: the other clients are served."""
    outcome = Outcome("many clients send slowly")
    count = chaos.clients(200)
    with chaos.serving(max_connections=400) as server:
        with under_load(chaos.load(server), clients=2) as before:
            before.wait_for(chaos.clients(60))
        ended = threading.Event()
        slow = threading.Thread(target=lambda: asyncio.run(_trickle(server, chaos.images[0], count, ended)))
        slow.start()
        _until(lambda: server.descriptors() >= count)
        with under_load(chaos.load(server), clients=2) as during:
            during.wait_for(chaos.clients(60))
        ended.set()
        slow.join()
        for load in (before, during):
            _all_answered(outcome, load)
        outcome.require(_ready(server), "the server is not ready afterwards")
    for name, load in (("without", before), ("with", during)):
        outcome.figures[f"median_latency_{name}_them_s"] = statistics.median(load.latencies)
    outcome.figures["slow_clients"] = count
    return outcome


def sigterm(chaos: Chaos) -> Outcome:
    """SIGTERM under load: not ready, every accepted request gets its response, the process exits with 0."""
    outcome = Outcome("SIGTERM under load", bars={"not_ready_after_s": 1.0})
    with chaos.serving() as server:
        with under_load(chaos.load(server), clients=chaos.clients(16)) as load:
            load.wait_for(40)
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            outcome.figures["not_ready_after_s"] = _until(lambda: not _ready(server))
            code = server.wait()
            outcome.figures["ended_after_s"] = time.monotonic() - started
        outcome.require(code == 0, f"the process ended with {code}")
        _all_answered(outcome, load)
        outcome.require(not server.tracebacks(), f"logged: {server.tracebacks()}")
    outcome.figures["other_requests"] = load.answered
    return outcome


def sighup(chaos: Chaos) -> Outcome:
    """SIGHUP under load: the new artifact replaces the current one without an error; a damaged one has no effect."""
    outcome = Outcome("SIGHUP under load")
    other = chaos.reference_of(chaos.other_artifact)
    references = {reference.artifact.digest: reference for reference in (chaos.reference, other)}
    first, second = references
    spare = chaos.artifact.with_name("spare")
    shutil.copytree(chaos.artifact, spare)
    with chaos.serving() as server:
        try:
            with under_load(Load(server, chaos.images, references), clients=chaos.clients(8)) as load:
                _until(lambda: load.artifacts[first] > 0)
                load.wait_for(20)
                outcome.require(load.artifacts[second] == 0, "the second artifact answered before it was there")
                _replace(chaos.artifact, chaos.other_artifact)
                server.signal(signal.SIGHUP)
                outcome.figures["reloaded_after_s"] = _until(lambda: load.artifacts[second] > 0)
                load.wait_for(20)
                weights = chaos.artifact / "network.safetensors"
                weights.write_bytes(weights.read_bytes()[:-1])
                lines = len(server.lines)
                server.signal(signal.SIGHUP)
                _until(lambda: any("expected" in line for line in server.lines[lines:]))
                before = load.artifacts.copy()
                load.wait_for(20)
                outcome.require(load.artifacts[second] > before[second], "the good artifact no longer answers")
                outcome.require(load.artifacts[first] == before[first], "the first artifact came back")
            _all_answered(outcome, load)
            outcome.require(_ready(server), "the server is not ready afterwards")
        finally:
            _replace(chaos.artifact, spare)
            shutil.rmtree(spare)
            server.signal(signal.SIGHUP)
            _until(lambda: server.process.poll() is not None or _artifact_of(server, chaos.images[0]) == first)
    outcome.figures["other_requests"] = load.answered
    return outcome


SCENARIOS: dict[str, Callable[[Chaos], Outcome]] = {
    function.__name__: function
    for function in (
        *(poisoned_image, hang_for_a_while, hang_for_good, thread_killed, disconnect_storm, slow_senders),
        *(sigterm, sighup),
    )
}


# --- shared by the scenarios


def _replace(folder: Path, other: Path) -> None:
    for path in other.iterdir():
        shutil.copy(path, folder / path.name)


def _all_answered(outcome: Outcome, load: Load) -> None:
    """Require a correct response with status 200 to every request."""
    outcome.require(not load.wrong, f"wrong answers: {load.wrong[:3]}")
    outcome.require(not load.unanswered, f"unanswered: {load.unanswered[:3]}")
    outcome.require(set(load.statuses) == {200}, f"statuses {dict(load.statuses)}, 200 alone expected")


def _refused_or_right(outcome: Outcome, load: Load, answers: list[int]) -> None:
    """Require a correct response or a 503 to every request, and a 503 to the poisoned one."""
    outcome.require(not load.wrong, f"wrong answers: {load.wrong[:3]}")
    outcome.require(not load.unanswered, f"unanswered: {load.unanswered[:3]}")
    outcome.require(set(load.statuses) <= {200, 503}, f"statuses {dict(load.statuses)}, 200 and 503 expected")
    outcome.require(answers == [503], f"the poisoned image was answered {answers}, 503 expected")
    outcome.figures["other_requests"] = load.answered
    outcome.figures["refused"] = load.statuses[503]


def _ended(outcome: Outcome, server: ServerProcess) -> None:
    started = time.monotonic()
    code = server.wait()
    outcome.figures["ended_after_s"] = time.monotonic() - started
    outcome.require(code == FAILED_EXIT_CODE, f"the process ended with {code}, {FAILED_EXIT_CODE} expected")


@contextmanager
def _sent(server: ServerProcess, image: bytes) -> Iterator[list[int]]:
    """Send the image by a separate client; the list gets the status of the response."""
    answers: list[int] = []

    def send() -> None:
        with suppress(httpx.HTTPError):
            url = f"{server.url}/v1/predict"
            answers.append(httpx.post(url, content=image, timeout=_PATIENCE_S, trust_env=False).status_code)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield answers
    thread.join(_PATIENCE_S)


def _status(server: ServerProcess, path: str) -> int:
    """The status of a GET; 0 without a response."""
    try:
        return httpx.get(f"{server.url}{path}", timeout=_PATIENCE_S, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def _ready(server: ServerProcess) -> bool:
    return _status(server, "/v2/health/ready") == 200


def _admitted(server: ServerProcess) -> int:
    answer = httpx.get(f"{server.url}/v1/status", timeout=_PATIENCE_S, trust_env=False)
    return int(answer.json()["models"][0]["admitted_images"])


def _artifact_of(server: ServerProcess, image: bytes) -> str:
    """The digest of the current artifact."""
    answer = httpx.post(f"{server.url}/v1/predict", content=image, timeout=_PATIENCE_S, trust_env=False)
    return str(answer.json()["artifact"])


def _until(condition: Callable[[], bool]) -> float:
    """Seconds until the condition is true.

    Raises:
        TimeoutError: it did not for a long time.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() > started + _PATIENCE_S:
            raise TimeoutError(f"expected a change within {_PATIENCE_S:g} s, got none")
        time.sleep(0.01)
    return time.monotonic() - started


async def _storm(server: ServerProcess, image: bytes, count: int) -> None:
    """Clients that disconnect: half of them within their body, the others after it."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)

    async def leave(number: int) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head + (image[: len(image) // 2] if number % 2 else image))
            await writer.drain()
            await asyncio.sleep(0.02 * (number % 5))
            writer.transport.abort()

    await asyncio.gather(*(leave(number) for number in range(count)))


async def _trickle(server: ServerProcess, image: bytes, count: int, ended: threading.Event) -> None:
    """Clients that send a byte from time to time until stopped."""
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image)

    async def trickle() -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(head)
            for at in range(len(image) - 1):
                if ended.is_set():
                    break
                writer.write(image[at : at + 1])
                await writer.drain()
                await asyncio.sleep(0.1)
            writer.transport.abort()

    await asyncio.gather(*(trickle() for _ in range(count)))
