"""Functions for writing and reading artifacts: entries of the manifest, the probe image, consistency of the parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.features.path_vectors import CompanionLogits
from detector.pipeline import Pipeline
from models.errors import InputError
from models.features import Features
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec
from models.residuals import Discovery

__all__ = [
    "branch_entries",
    "probe_arrays",
    "probe_features",
    "probe_image",
    "require_matching_companion",
    "require_matching_parts",
]


def require_matching_parts(classes: Sequence[str], spec: NetworkSpec, preprocessing: Preprocessing) -> None:
    """Raise InputError if the parts contradict one another."""
    if (preprocessing.height, preprocessing.width) != spec.image_shape[1:]:
        raise InputError(
            f"expected preprocessing to {spec.image_shape[1]}×{spec.image_shape[2]} pixels, as the network takes, got "
            f"{preprocessing.height}×{preprocessing.width}; give --resize and --crop that match"
        )
    if len(classes) != spec.num_classes:
        raise InputError(f"expected {spec.num_classes} class names, got {len(classes)}")


def require_matching_companion(spec: NetworkSpec, companion: NetworkSpec) -> None:
    """Raise InputError if an artifact of a network cannot contain this companion."""
    for name in ("num_classes", "image_shape"):
        if getattr(companion, name) != getattr(spec, name):
            raise InputError(
                f"expected a companion with the network's {name} {getattr(spec, name)}, got "
                f"{getattr(companion, name)}; give a companion of the same classes and size"
            )
    if companion.source == "file" and companion.source_sha256 != spec.source_sha256:
        raise InputError(
            "the companion comes from another Python file than the network; put both functions into one file"
        )


def probe_image(image_shape: tuple[int, int, int]) -> Tensor:
    """One fixed image float32 ``(1, 3, H, W)``: a smooth wave per channel, which activates every layer."""
    _, height, width = image_shape
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    channels = [0.5 + 0.45 * torch.sin(2 * torch.pi * (k * down + (4 - k) * across)) for k in (1, 2, 3)]
    return torch.stack(channels)[None].to(torch.float32)


def probe_features(pipeline: Pipeline) -> Features:
    """Features of the probe image."""
    features = pipeline.features(probe_image(pipeline.image_shape))
    pipeline.detector.score_components(features)  # raises if the network's outputs do not fit the detector's inputs
    return features


def probe_arrays(features: Features) -> dict[str, np.ndarray]:
    """The arrays of the probe image that an artifact stores, by name."""
    arrays = {"probe_logits": features.logits, "probe_statistics": features.statistics}
    name = CompanionLogits().name
    return arrays | ({"probe_companion": features.requested[name]} if name in features.requested else {})


def branch_entries(discovery: Discovery) -> list[dict[str, Any]]:
    return [{"name": b.name, "shape": list(b.shape), "kind": b.kind} for b in discovery.branches]
