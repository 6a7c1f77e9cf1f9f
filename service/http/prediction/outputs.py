"""Output tensors of the Open Inference Protocol: fields of `detector.pipeline.Verdict`, one row per image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detector.pipeline import Verdict

__all__ = ["OUTPUTS", "describe_outputs", "output_tensors"]

# Field → the protocol's name of its type.
OUTPUTS = {"label": "INT64", "probabilities": "FP32", "score": "FP32", "p_value": "FP32", "flagged": "BOOL"}

_DTYPES = {"INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}


def describe_outputs(num_classes: int) -> list[dict[str, Any]]:
    """Name, type and shape of each output."""
    return [
        {"name": name, "datatype": datatype, "shape": [-1, num_classes] if name == "probabilities" else [-1]}
        for name, datatype in OUTPUTS.items()
    ]


def output_tensors(verdicts: Sequence[Verdict]) -> dict[str, np.ndarray]:
    """All outputs by name, one row per verdict."""
    return {
        name: np.array([getattr(verdict, name) for verdict in verdicts], _DTYPES[datatype])
        for name, datatype in OUTPUTS.items()
    }
