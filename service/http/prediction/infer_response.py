"""The body of a response of the Open Inference Protocol."""

from typing import Any

import numpy as np
import orjson

from service.http.prediction.infer_request import InferRequest
from service.http.prediction.outputs import OUTPUTS

__all__ = ["encode_response"]


def encode_response(
    request: InferRequest, tensors: dict[str, np.ndarray], model: str, version: str
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if binary tensors follow, else None.

    Args:
        request: names the outputs and which of them are binary.
        tensors: all outputs by name.
        model: name of the model.
        version: of the model.
    """
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, binary in request.outputs.items():
        tensor = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": list(tensor.shape)}
        if binary:
            raw.append(tensor.tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = tensor.ravel().tolist()
        described.append(entry)
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        fields["id"] = request.id
    head = orjson.dumps(fields)
    return (head, None) if not raw else (b"".join([head, *raw]), len(head))
