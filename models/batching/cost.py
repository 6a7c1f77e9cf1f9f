"""Speed and memory of a network per image, and the batch sizes that follow."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.batching.budget import memory_budget
from models.batching.probe import bytes_per_image, gradient_step
from models.residuals import evaluation_mode

__all__ = ["NetworkCost", "network_cost"]

_MAX_FORWARD, _MAX_GRADIENT = 256, 128  # as `extract_features` and `Attack`
_TIMED = 8  # images per timed batch


@dataclass(frozen=True)
class NetworkCost:
    """Costs per image of one network, on one device and for one size of images.

    Args:
        forward_bytes: memory of a forward pass, kernels included.
        forward_seconds: of a forward pass.
        forward_batch: images per batch that the memory budget allows, at most 256.
        gradient_bytes, gradient_seconds, gradient_batch: of a forward and a backward pass, at most 128 images; None if
            the logits have no gradient with respect to the images.
    """

    forward_bytes: int
    forward_seconds: float
    forward_batch: int
    gradient_bytes: int | None = None
    gradient_seconds: float | None = None
    gradient_batch: int | None = None


def network_cost(
    network: nn.Module, image_shape: tuple[int, int, int], *, device: str | torch.device = "cpu"
) -> NetworkCost:
    """Measure a network on random images, in evaluation mode, with batches of at most 8 images.

    Args:
        network: takes images in [0, 1]; moved to `device`.
        image_shape: (3, H, W).
        device: where the network runs.

    Raises:
        Exception: what the network raises in a forward pass.
    """
    network.to(device)
    image = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with evaluation_mode(network), torch.no_grad():
        forward = _measure(network, image, _MAX_FORWARD)
        try:
            gradient = _measure(gradient_step(network), image, _MAX_GRADIENT)
        except RuntimeError:  # no gradient reaches the images
            return NetworkCost(*forward)
    return NetworkCost(*forward, *gradient)


def _measure(step: Callable[[Tensor], object], image: Tensor, most: int) -> tuple[int, float, int]:
    """Bytes, seconds and batch size."""
    step(image)  # what a first pass allocates once is not of the image
    size = bytes_per_image(step, image)
    batch = max(1, min(most, memory_budget(image.device) // size))
    images = image.repeat(min(_TIMED, batch), 1, 1, 1)
    step(images)
    start = time.perf_counter()
    step(images)
    if image.is_cuda:
        torch.cuda.synchronize(image.device)
    return size, (time.perf_counter() - start) / len(images), batch
