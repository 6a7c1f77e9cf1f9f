"""The pipeline behind LitServe, for comparison: batches of up to 64 images within a millisecond, as in Plumbline.

    python -m benchmarks serving.litserve_server --artifact A --port P --threads N

The command needs the package litserve. A request is JSON, ``{"image": base64}``.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch

from detector.artifact import load_artifact
from detector.pipeline import Verdict
from models.images.decoding import decode_image
from models.memory import keep_freed_memory

MAX_BATCH_SIZE = 64
BATCH_TIMEOUT_S = 0.001


class Api(litserve.LitAPI):
    """Decode images, score batches and return the fields of the verdict."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
        self._folder = folder
        self._threads = threads

    def setup(self, device: str) -> None:
        """Load the artifact in the process that scores."""
        keep_freed_memory()
        torch.set_num_threads(self._threads)
        self._artifact = load_artifact(self._folder)

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """Pixels of the request's image."""
        return decode_image(base64.b64decode(request["image"]), self._artifact.preprocessing)

    def batch(self, inputs: list[np.ndarray]) -> torch.Tensor:
        """Images in [0, 1]."""
        return torch.from_numpy(np.stack(inputs)).float().div_(255)

    def predict(self, x: torch.Tensor) -> list[Verdict]:
        """Verdicts of a batch."""
        return self._artifact.pipeline.score(x)

    def unbatch(self, output: list[Verdict]) -> list[Verdict]:
        """One verdict per request."""
        return output

    def encode_response(self, output: Verdict) -> dict[str, Any]:
        """The verdict's fields."""
        return output.to_json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    server = litserve.LitServer(Api(options.artifact, options.threads), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
