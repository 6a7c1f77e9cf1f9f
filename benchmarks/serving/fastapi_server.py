"""The pipeline behind plain FastAPI without batches, for comparison.

python -m benchmarks serving.fastapi_server --artifact A --port P --threads N
"""

import argparse
import threading
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from detector.artifact import load_artifact
from models.images.decoding import decode_image
from models.memory import keep_freed_memory


def create_app(folder: Path) -> FastAPI:
    """POST /predict with an image file as the body: one forward pass per request."""
    artifact = load_artifact(folder)
    app, lock = FastAPI(), threading.Lock()

    def scored(data: bytes) -> dict[str, Any]:
        pixels = torch.from_numpy(decode_image(data, artifact.preprocessing)[None]).float().div_(255)
        with lock:  # a network is not safe for concurrent threads
            [verdict] = artifact.pipeline.score(pixels)
        return verdict.to_json()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(scored, await request.body())

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    uvicorn.run(create_app(options.artifact), port=options.port, access_log=False)


if __name__ == "__main__":
    main()
