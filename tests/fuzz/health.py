"""Health of a server: unchanged verdicts, no growth of memory or descriptors, no traceback in its log."""

import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from detector.artifact import Artifact, load_artifact
from detector.pipeline import Verdict
from models.errors import ImageError
from models.images.decoding import decode_image
from tests.fuzz.process import ServerProcess
from tests.images import encoded, noise

__all__ = ["MOST_DESCRIPTORS", "MOST_GROWTH_BYTES", "Health", "Reference", "difference", "forms_of"]

# The allocator keeps the memory of bodies of up to 32 MiB; a leak of a kilobyte per request exceeds it in minutes.
MOST_GROWTH_BYTES = 96 * 2**20
MOST_DESCRIPTORS = 8
_SAME_SCORE = 1e-6
_SETTLE_S = 10.0


class Reference:
    """The pipeline without a server: the expected verdict on a file.

    Args:
        folder: of the artifact.
        network_file: of a network from a user's file.
    """

    def __init__(self, folder: Path, network_file: str | None = None) -> None:
        self.artifact: Artifact = load_artifact(folder, network_file=network_file)

    def score(self, data: bytes) -> Verdict | ImageError:
        """The verdict on an image file, or the error."""
        try:
            pixels = decode_image(data, self.artifact.preprocessing)
        except ImageError as exc:
            return exc
        [verdict] = self.artifact.pipeline.score(torch.from_numpy(pixels[None]).float().div_(255))
        return verdict


def difference(expected: Verdict | ImageError, answer: httpx.Response) -> str | None:
    """The difference between the response to one image and the expected one, or None."""
    if isinstance(expected, ImageError):
        error = answer.json().get("error", {})
        if answer.status_code == 422 and (error["code"], error["message"]) == ("image_refused", str(expected)):
            return None
        return f"expected the refusal {str(expected)!r}, got {answer.status_code} {answer.text[:300]}"
    if answer.status_code != 200:
        return f"expected 200, got {answer.status_code} {answer.text[:300]}"
    [result] = answer.json()["results"]
    if (result.get("label"), result.get("flagged")) == (expected.label, expected.flagged) and abs(
        result["score"] - expected.score
    ) <= _SAME_SCORE:
        return None
    return f"expected {expected.label}, {expected.flagged}, {expected.score}, got {result}"


def forms_of(data: bytes) -> list[dict[str, Any]]:
    """The three ways to send one image, as arguments of httpx."""
    return [
        {"content": data},
        {"files": {"image": ("file", data)}},
        {"json": {"images": [b64encode(data).decode()]}},
    ]


class Health:
    """The state of a server at the construction, for later comparison.

    Args:
        server: the process.
        reference: the expected verdicts.
        rng: samples the valid images.
    """

    def __init__(self, server: ServerProcess, reference: Reference, rng: np.random.Generator) -> None:
        self._server = server
        self._files = [encoded(noise(rng)) for _ in range(4)]
        self._expected = [reference.score(data) for data in self._files]
        self._seen_lines = 0
        self._resident = self._descriptors = 0
        self.problems()  # the first requests allocate memory that is kept
        self._resident = server.resident_bytes()
        self._descriptors = server.descriptors()

    @property
    def good(self) -> bytes:
        """A valid image."""
        return self._files[0]

    def grown_bytes(self) -> int:
        """Growth of the resident memory in bytes."""
        return self._server.resident_bytes() - self._resident

    def grown_descriptors(self) -> int:
        """Growth of the number of open descriptors."""
        return self._server.descriptors() - self._descriptors

    def problems(self) -> list[str]:
        """The current problems; connections get a few seconds to close."""
        if (code := self._server.process.poll()) is not None:
            return [f"the server ended with {code}: {''.join(self._server.lines[-5:])}"]
        found, self._seen_lines = self._server.tracebacks(self._seen_lines), len(self._server.lines)
        with httpx.Client(base_url=self._server.url, timeout=60, trust_env=False) as client:
            for data, expected in zip(self._files, self._expected, strict=True):
                for form in forms_of(data):
                    if wrong := difference(expected, client.post("/v1/predict", **form)):
                        found.append(f"a valid image has another verdict: {wrong}")
            if (ready := client.get("/v2/health/ready")).status_code != 200:
                found.append(f"not ready: {ready.text}")
        if not self._resident:
            return found
        end = time.monotonic() + _SETTLE_S
        while self.grown_descriptors() > MOST_DESCRIPTORS and time.monotonic() < end:
            time.sleep(0.1)
        if self.grown_descriptors() > MOST_DESCRIPTORS:
            found.append(
                f"{self.grown_descriptors()} more descriptors than at first, at most {MOST_DESCRIPTORS} expected"
            )
        if self.grown_bytes() > MOST_GROWTH_BYTES:
            found.append(f"{self.grown_bytes()} bytes more than at first, at most {MOST_GROWTH_BYTES} expected")
        return found
