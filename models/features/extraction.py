"""Features of many images, batch by batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.batching import run_batches
from models.engines import Engine
from models.errors import InputError
from models.features.extractor import FeatureExtractor
from models.features.features import Features
from models.features.requests import FeatureRequest
from models.images.stored import ImageSequence, as_float
from models.progress import progress_bar
from models.residuals import Discovery, StatisticsSpec, discover, evaluation_mode

__all__ = ["extract_features"]


def extract_features(
    network: nn.Module,
    images: ImageSequence,
    *,
    discovery: Discovery | None = None,
    statistics_spec: StatisticsSpec | None = None,
    feature_requests: Sequence[FeatureRequest] = (),
    engine: Engine | None = None,
    companion: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Features:
    """Features of N images ``(N, 3, H, W)``, in their order, from one forward pass each and without gradients.

    The network runs in evaluation mode on `device` and stays there; its mode is restored. The result does not depend on
    `batch_size`, except for rounding. Images are read and converted batch by batch.

    Args:
        network: any module from images to logits ``(B, K)``.
        images: float32 in [0, 1], on any device, or uint8.
        discovery: the network's branches; by default the result of `discover`.
        statistics_spec: the statistics of each branch; by default of the residues.
        feature_requests: further values, for `Features.requested`. A request that needs gradients or further passes
            makes them.
        engine: runs the network, see `FeatureExtractor`; None: torch, recorded with hooks.
        companion: a second network on `device`, see `FeatureExtractor`.
        batch_size: images per forward pass; None: at most 256, as memory allows.
        device: where the network runs.
        progress: show a progress bar.

    Raises:
        InputError: images of another dtype or shape, outside [0, 1] or not finite; a batch size below 1; no companion
            for a request that needs one.
        NetworkError: logits that are not finite or not ``(B, K)``, or statistics or requested values that are not
            finite.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}; pass a larger one")
    _require_images(images)
    count, *shape = images.shape
    network.to(device)
    if discovery is None:
        discovery = discover(network, (shape[0], shape[1], shape[2]))
    extractor = FeatureExtractor(
        network, discovery, statistics_spec, feature_requests, engine=engine, companion=companion
    )

    def extract(part: slice) -> Features:
        batch = as_float(images[part])
        _require_range(batch)
        return extractor.extract(batch.to(device))

    parts = []
    bar = progress_bar(total=count, what="features", unit="image", show=progress)
    with evaluation_mode(network), torch.inference_mode(), bar:
        size = batch_size or extractor.batch_size(as_float(images[:1]).to(device), count)
        for part, features in run_batches(extract, count, size):
            parts.append(features)
            bar.update(part.stop - part.start)
    return Features.concatenated(parts)


def _require_images(images: ImageSequence) -> None:
    if not all(hasattr(images, name) for name in ("shape", "dtype", "__getitem__")):
        raise InputError(f"expected a tensor or an array of images, got {type(images).__name__}; convert them first")
    dtype, shape = str(images.dtype).removeprefix("torch."), tuple(images.shape)
    if dtype not in ("float32", "uint8") or len(shape) != 4 or shape[1] != 3:
        raise InputError(
            f"expected float32 images (N, 3, H, W) in [0, 1] or uint8 images, got {dtype} of shape {shape}; "
            "convert them, and move the channels to the second axis"
        )
    if 0 in shape:
        raise InputError(f"expected at least one image, got shape {shape}; check their source")


def _require_range(batch: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(batch))
    if not (low >= 0.0 and high <= 1.0):  # NaN fails both comparisons
        raise InputError(
            f"expected images in [0, 1], got values from {low:g} to {high:g}; scale bytes by 1/255, and let the "
            "network normalise inside (models.normalization.Normalized)"
        )
