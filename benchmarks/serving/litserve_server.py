"""LitServe, for comparison: batches of up to 64 images within a millisecond, as in Plumbline.

    python -m benchmarks serving.litserve_server --artifact A --port P --threads N --engine torch

The command needs the package litserve. A request is JSON, ``{"image": base64}``. `--engine pipeline` returns the fields
of the verdict. The other engines run the network alone, and return class and probability: torch runs it eagerly, as
users of LitServe write it; onnxruntime and openvino run the exported network.
"""

import argparse
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch
from torch import Tensor

from detector.artifact import load_artifact
from models.images.decoding import decode_image
from models.memory import keep_freed_memory

MAX_BATCH_SIZE = 64
BATCH_TIMEOUT_S = 0.001


class Api(litserve.LitAPI):
    """Decode images, run batches and return the fields of a verdict, or class and probability."""

    def __init__(self, folder: Path, threads: int, engine: str, precision: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_S)
        self._folder = folder
        self._threads = threads
        self._engine, self._precision = engine, precision

    def setup(self, device: str) -> None:
        """Load the artifact in the process that scores."""
        if self._engine != "torch":
            keep_freed_memory()
        torch.set_num_threads(self._threads)
        artifact = load_artifact(self._folder)
        self._preprocessing = artifact.preprocessing
        if self._engine == "pipeline":
            self._answers: Callable[[Tensor], list[dict[str, Any]]] = lambda images: [
                verdict.to_json() for verdict in artifact.pipeline.score(images)
            ]
        else:
            pipeline = artifact.pipeline
            logits = runner(pipeline.network, pipeline.image_shape, self._engine, self._precision, self._threads)
            self._answers = lambda images: classified(logits(images))

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        """Pixels of the request's image."""
        return decode_image(base64.b64decode(request["image"]), self._preprocessing)

    def batch(self, inputs: list[np.ndarray]) -> Tensor:
        """Images in [0, 1]."""
        return torch.from_numpy(np.stack(inputs)).float().div_(255)

    def predict(self, x: Tensor) -> list[dict[str, Any]]:
        """Answers of a batch."""
        return self._answers(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer per request."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer."""
        return output


def runner(
    network: torch.nn.Module, shape: tuple[int, int, int], engine: str, precision: str, threads: int
) -> Callable[[Tensor], Tensor]:
    """A function from images to logits, in that engine."""
    if engine == "torch":
        return torch.inference_mode()(network)
    graph = exported(network, shape)
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision]}
    compiled = core.compile_model(core.read_model(graph), "CPU", hints | {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    return lambda images: torch.from_numpy(request.infer([images.numpy()], share_inputs=True)[0].copy())


def exported(network: torch.nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The network alone as an ONNX model, with a dynamic batch."""
    program = torch.onnx.export(
        network.eval(), (torch.rand(2, *shape),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"], external_data=False, verbose=False,
    )  # fmt: skip
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def classified(logits: Tensor) -> list[dict[str, Any]]:
    """Class and probability of each row."""
    probabilities, labels = logits.softmax(dim=1).max(dim=1)
    return [
        {"label": label, "probability": probability}
        for label, probability in zip(labels.tolist(), probabilities.tolist(), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--engine", default="pipeline", choices=["pipeline", "torch", "onnxruntime", "openvino"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    api = Api(options.artifact, options.threads, options.engine, options.precision)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
