"""The parts of the fuzz tests; each sends requests for a limited time and returns its counts and problems."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.fuzz.health import Reference, difference, forms_of
from tests.fuzz.http_client import answers_in, exchange
from tests.fuzz.mutations import MutatedCorpus
from tests.fuzz.process import MODEL, ServerProcess
from tests.fuzz.raw_requests import RawRequest, draw

__all__ = ["Part", "images", "openapi", "raw"]

_SHORT = ("--phases", "fuzzing", "--max-examples", "4")
_CONNECTIONS = 24
_KEPT_PROBLEMS = 20
# No schema can specify which bytes are an image; these statuses are therefore allowed for valid requests.
_CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 413, 415, 422]
"""
_MAX_REPEATED = 600  # bytes of a request in a problem's text


@dataclass
class Part:
    """The result of one part.

    Args:
        name: of the part.
        cases: requests sent, or connections made.
        counts: numbers of requests by kind, and of responses by status.
        problems: messages with the data that reproduces them.
    """

    name: str
    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def problem(self, text: str) -> None:
        """Record a problem; after a few, only count them."""
        self.counts["problems"] += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(text)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "part": self.name, "cases": self.cases, "seconds": round(self.seconds, 1),
            "counts": dict(sorted(self.counts.items())), "problems": self.problems,
        }  # fmt: skip


def raw(server: ServerProcess, rng: np.random.Generator, png: bytes, *, seconds: float, cases: int) -> Part:
    """Send malformed bytes over sockets, up to the time or number of cases."""
    part = Part("raw sockets")
    started = time.monotonic()

    async def worker() -> None:
        while part.cases < cases and time.monotonic() < started + seconds:
            part.cases += 1
            request = draw(rng, png)
            received = await exchange(
                server.port, request.pieces, pause_s=request.pause_s, half_close=request.half_close
            )
            _examine(part, request, received)

    async def run() -> None:
        await asyncio.gather(*(worker() for _ in range(_CONNECTIONS)))

    asyncio.run(run())
    part.seconds = time.monotonic() - started
    return part


def _examine(part: Part, request: RawRequest, received: bytes) -> None:
    answers = answers_in(received)
    part.counts[f"sent: {request.kind}"] += 1
    if not answers:
        part.counts["answered: nothing"] += 1
    sent = b"".join(request.pieces)[:_MAX_REPEATED]
    if received and not answers:
        part.problem(f"{request.kind}: {sent!r} was answered by {received[:200]!r}, which is not HTTP")
    for answer in answers:
        part.counts[f"answered: {answer.status}"] += 1
        if answer.status >= 500:
            part.problem(f"{request.kind}: {sent!r} was answered {answer.status} {answer.body[:300]!r}")
        if wrong := answer.refusal():
            part.problem(f"{request.kind}: {sent!r} was answered {wrong}")
    final = [answer for answer in answers if answer.status >= 200]
    if request.max_responses is not None and len(final) > request.max_responses:
        part.problem(f"{request.kind}: {sent!r} got {len(final)} answers, at most {request.max_responses} expected")


def images(
    server: ServerProcess, reference: Reference, rng: np.random.Generator, *, seconds: float, cases: int
) -> Part:
    """Send damaged images in all request forms, and compare the responses with the pipeline without a server."""
    part = Part("damaged images")
    corpus = MutatedCorpus(rng)
    started = time.monotonic()
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        while part.cases < cases and time.monotonic() < started + seconds:
            part.cases += 1
            data = corpus.draw()
            expected = reference.score(data)
            form = int(rng.integers(3))
            answer = client.post("/v1/predict", **forms_of(data)[form])
            part.counts[f"answered: {answer.status_code}"] += 1
            if (wrong := difference(expected, answer)) and (data or form):  # an empty body has no image
                part.problem(f"{data[:_MAX_REPEATED].hex()} in form {form}: {wrong}")
            if rng.integers(4) == 0:
                _infer(part, client, reference, data)
    part.seconds = time.monotonic() - started
    return part


def _infer(part: Part, client: httpx.Client, reference: Reference, data: bytes) -> None:
    """The same image by the Open Inference Protocol, as one binary tensor."""
    tensor = len(data).to_bytes(4, "little") + data
    inputs = {"name": "IMAGE", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tensor)}}
    header = json.dumps({"inputs": [inputs]}).encode()
    lengths = {"Inference-Header-Content-Length": str(len(header))}
    answer = client.post(f"/v2/models/{MODEL}/infer", content=header + tensor, headers=lengths)
    part.counts[f"answered by /v2: {answer.status_code}"] += 1
    expected = reference.score(data)
    if isinstance(expected, Exception):
        if answer.status_code != 422 or not isinstance(answer.json()["error"], str):
            part.problem(
                f"{data[:_MAX_REPEATED].hex()} by /v2: expected 422, got {answer.status_code} {answer.text[:300]}"
            )
        return
    outputs = {output["name"]: output["data"][0] for output in answer.json().get("outputs", [])}
    same = (outputs.get("label"), outputs.get("flagged")) == (expected.label, expected.flagged)
    if answer.status_code != 200 or not same or abs(outputs["score"] - expected.score) > 1e-6:
        part.problem(f"{data[:_MAX_REPEATED].hex()} by /v2: expected {expected}, got {answer.text[:300]}")


def openapi(
    server: ServerProcess, seed: int, *, seconds: float, port: int | None = None, name: str = "", short: bool = False
) -> Part:
    """Schemathesis with all its checks on the OpenAPI description; needs its command beside Python.

    Args:
        seconds: it is repeated for this time.
        port: another port than the main port; part of the name.
        short: only a few cases of each route.
    """
    part = Part(f"schemathesis{name}")
    started = time.monotonic()
    url = f"http://127.0.0.1:{port or server.port}/openapi.json"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(_CONFIGURATION)
        report = Path(folder) / "events.ndjson"
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run", url, "--checks", "all"),
                *(_SHORT if short else ("--max-time", str(max(1, int(seconds))))),
                *("--seed", str(seed), "--continue-on-failure"),
                *("--generation-database", "none", "--no-color"),
                *("--report", "ndjson", "--report-ndjson-path", str(report)),
                *("--request-timeout", "60", "--warnings", "off"),
            ],
            cwd=folder, capture_output=True, text=True, timeout=seconds * 3 + 120, check=False,
        )  # fmt: skip
        part.seconds = time.monotonic() - started
        events = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    _read_events(part, events)
    if done.returncode != 0:
        part.problem(f"schemathesis ended with {done.returncode}: {done.stdout[-6000:]}{done.stderr[-500:]}")
    elif not part.cases:
        part.problem(f"schemathesis sent nothing: {done.stdout[-1000:]}")
    return part


def _read_events(part: Part, events: list[dict[str, Any]]) -> None:
    for event in events:
        for kind, content in event.items():
            if kind != "ScenarioFinished":
                continue
            for node in content.get("recorder", {}).get("interactions", {}).values():
                part.cases += 1
                response = node.get("response")
                part.counts[f"answered: {response['status_code']}" if response else "answered: nothing"] += 1
                if response and response["status_code"] >= 500:
                    part.problem(f"{node['request']['method']} {node['request']['uri']} was answered {response}"[:2000])
