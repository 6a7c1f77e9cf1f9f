"""Logits and path statistics of many images, batch by batch: what detectors are fitted on and judge."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.discovery import Discovery, discover
from models.errors import InputError, NetworkError
from models.hooks import evaluation_mode
from models.progress import progress_bar
from models.residues import Measure, record_residues

__all__ = ["Features", "extract_features"]


class Features(NamedTuple):
    """What one pass over N images gives every detector: logits ``(N, K)`` and statistics ``(N, F)``, both float32."""

    logits: NDArray[np.float32]
    statistics: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the largest logit, ``(N,)``."""
        classes: NDArray[np.int64] = np.argmax(self.logits, axis=1).astype(np.int64)
        return classes

    def take(self, indices: NDArray[np.integer] | NDArray[np.bool_]) -> "Features":
        """The features of the chosen images, by numbers or by a mask, in that order."""
        return Features(self.logits[indices], self.statistics[indices])


def extract_features(
    network: nn.Module,
    images: Tensor | NDArray[np.float32],
    *,
    discovery: Discovery | None = None,
    measure: Measure | None = None,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Features:
    """Features of N images ``(N, 3, H, W)``, in their order, from one forward pass each and without gradients.

    The network runs in evaluation mode, on `device`, where it stays; its mode is restored. The result does not depend
    on `batch_size`, except for rounding.

    Args:
        images: float32 in [0, 1], on any device; moved to the network batch by batch.
        discovery: the network's branches; found where not given.
        measure: what is measured of them.
        progress: show a progress bar.

    Raises:
        InputError: images of another dtype or shape, outside [0, 1] or not finite; a batch size below 1.
        NetworkError: logits that are not finite or not ``(B, K)``, statistics that are not finite.
    """
    if batch_size < 1:
        raise InputError(f"expected a batch size of at least 1, got {batch_size}; pass a larger one")
    batches = torch.split(_checked(images), batch_size)
    network.to(device)
    if discovery is None:
        height, width = batches[0].shape[-2:]
        discovery = discover(network, (3, height, width))
    logits, statistics = [], []
    with evaluation_mode(network), torch.inference_mode(), record_residues(network, discovery, measure=measure) as path:
        for batch in progress_bar(batches, what="features", unit="batch", show=progress):
            _check_range(batch)
            output = network(batch.to(device))
            logits.append(_checked_output(output, len(batch)).cpu())
            statistics.append(_finite(path.statistics, "statistics").cpu())
    return Features(torch.cat(logits).numpy(), torch.cat(statistics).numpy())


def _checked(images: Tensor | NDArray[np.float32]) -> Tensor:
    if not isinstance(images, Tensor | np.ndarray):
        raise InputError(f"expected a tensor or an array of images, got {type(images).__name__}; convert them first")
    if str(images.dtype).removeprefix("torch.") != "float32" or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"expected float32 images (N, 3, H, W) in [0, 1], got {images.dtype} of shape {tuple(images.shape)}; "
            "convert bytes by dividing by 255, and move the channels to the second axis"
        )
    if 0 in images.shape:
        raise InputError(f"expected at least one image, got shape {tuple(images.shape)}; check where they come from")
    return images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))


def _check_range(batch: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(batch))
    if not (low >= 0.0 and high <= 1.0):  # a NaN fails both
        raise InputError(
            f"expected images in [0, 1], got values from {low:g} to {high:g}; scale bytes by 1/255, and let the "
            "network normalise inside (models.normalization.Normalized)"
        )


def _checked_output(output: object, batch: int) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != batch:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(
            f"expected logits of shape ({batch}, K) from the network, got {got}; wrap it so that it gives only logits"
        )
    return _finite(output.float(), "logits")


def _finite(tensor: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).any(dim=1).sum())
        raise NetworkError(
            f"expected finite {what}, got {bad} of {len(tensor)} images with NaN or infinite ones; "
            "check the network's weights and its precision"
        )
    return tensor
