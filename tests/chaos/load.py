"""Clients that send valid images continuously, and compare every response with the pipeline without a server."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx

from detector.pipeline import Verdict
from models.errors import ImageError
from tests.fuzz.health import Reference, difference
from tests.fuzz.process import ServerProcess

__all__ = ["Load", "under_load"]


class Load:
    """Results of several clients.

    Args:
        server: receives the requests.
        images: the files, sent in turn.
        references: expected verdicts, by the digest of the artifact in the response.
    """

    def __init__(self, server: ServerProcess, images: Sequence[bytes], references: Mapping[str, Reference]) -> None:
        self._server = server
        self._images = images
        self._expected: dict[str, list[Verdict | ImageError]] = {
            digest: [reference.score(image) for image in images] for digest, reference in references.items()
        }
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.artifacts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unanswered: list[str] = []
        self.latencies: list[float] = []

    @property
    def answered(self) -> int:
        """Number of responses."""
        return sum(self.statuses.values())

    def wait_for(self, answers: int) -> None:
        """Wait for this many more responses, up to a time limit."""
        wanted, end = self.answered + answers, time.monotonic() + 60
        while self.answered < wanted and time.monotonic() < end:
            time.sleep(0.005)

    def client(self, number: int) -> None:
        """Send until stopped, or until a response ends the connection."""
        try:
            with httpx.Client(base_url=self._server.url, timeout=60, trust_env=False) as http:
                while not self.stopping.is_set():
                    number = (number + 1) % len(self._images)
                    started = time.monotonic()
                    answer = http.post("/v1/predict", content=self._images[number])
                    self._note(number, answer, time.monotonic() - started)
                    if answer.headers.get("connection") == "close":
                        return
        except httpx.HTTPError as exc:
            with self._lock:
                self.unanswered.append(f"{type(exc).__name__}: {exc}")

    def _note(self, number: int, answer: httpx.Response, seconds: float) -> None:
        with self._lock:
            self.statuses[answer.status_code] += 1
            self.latencies.append(seconds)
            if answer.status_code != 200:
                return
            digest = answer.json()["artifact"]
            self.artifacts[digest] += 1
            if digest not in self._expected:
                self.wrong.append(f"a response of an unknown artifact {digest}")
            elif wrong := difference(self._expected[digest][number], answer):
                self.wrong.append(wrong)


@contextmanager
def under_load(load: Load, *, clients: int) -> Iterator[Load]:
    """`load` with this number of running clients; they are stopped and joined at the end."""
    threads = [threading.Thread(target=load.client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for thread in threads:
            thread.join(120)
