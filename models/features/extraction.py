"""Features of many images, batch by batch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import InputError
from models.features.extractor import FeatureExtractor
from models.features.features import Features
from models.features.requests import FeatureRequest
from models.progress import progress_bar
from models.residuals import Discovery, StatisticsSpec, discover, evaluation_mode

__all__ = ["extract_features"]


def extract_features(
    network: nn.Module,
    images: Tensor | NDArray[np.float32],
    *,
    discovery: Discovery | None = None,
    statistics_spec: StatisticsSpec | None = None,
    feature_requests: Sequence[FeatureRequest] = (),
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Features:
    """Features of N images ``(N, 3, H, W)``, in their order, from one forward pass each and without gradients.

    The network runs in evaluation mode on `device` and stays there; its mode is restored. The result does not depend on
    `batch_size`, except for rounding.

    Args:
        network: any module from images to logits ``(B, K)``.
        images: float32 in [0, 1], on any device; moved to the network batch by batch.
        discovery: the network's branches; by default the result of `discover`.
        statistics_spec: the statistics of each branch; by default of the residues.
        feature_requests: further values, for `Features.requested`. A request that needs gradients or further passes
            makes them.
        batch_size: images per forward pass.
        device: where the network runs.
        progress: show a progress bar.

    Raises:
        InputError: images of another dtype or shape, outside [0, 1] or not finite; a batch size below 1.
        NetworkError: logits that are not finite or not ``(B, K)``, or statistics or requested values that are not
            finite.
    """
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}; pass a larger one")
    batches = torch.split(_require_images(images), batch_size)
    network.to(device)
    if discovery is None:
        height, width = batches[0].shape[-2:]
        discovery = discover(network, (3, height, width))
    extractor = FeatureExtractor(network, discovery, statistics_spec, feature_requests)
    parts = []
    with evaluation_mode(network), torch.inference_mode():
        for batch in progress_bar(batches, what="features", unit="batch", show=progress):
            _require_range(batch)
            parts.append(extractor.extract(batch.to(device)))
    return Features.concatenated(parts)


def _require_images(images: Tensor | NDArray[np.float32]) -> Tensor:
    if not isinstance(images, Tensor | np.ndarray):
        raise InputError(f"expected a tensor or an array of images, got {type(images).__name__}; convert them first")
    if str(images.dtype).removeprefix("torch.") != "float32" or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"expected float32 images (N, 3, H, W) in [0, 1], got {images.dtype} of shape {tuple(images.shape)}; "
            "convert bytes by dividing by 255, and move the channels to the second axis"
        )
    if 0 in images.shape:
        raise InputError(f"expected at least one image, got shape {tuple(images.shape)}; check their source")
    return images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))


def _require_range(batch: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(batch))
    if not (low >= 0.0 and high <= 1.0):  # NaN fails both comparisons
        raise InputError(
            f"expected images in [0, 1], got values from {low:g} to {high:g}; scale bytes by 1/255, and let the "
            "network normalise inside (models.normalization.Normalized)"
        )
