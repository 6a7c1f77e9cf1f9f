"""Memory per image of a step, such as a forward pass, or a forward and a backward pass."""

import logging
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.batching.alive import AliveMemory

__all__ = ["bytes_per_image", "gradient_bytes", "gradient_step"]

# Kernels use memory of their own, for other layouts of their tensors. EfficientNet-Lite0 needs up to a third more than
# its tensors.
_KERNELS = 1.33

_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[object, ...], int]] = weakref.WeakKeyDictionary()

_log = logging.getLogger(__name__)


def bytes_per_image(step: Callable[[Tensor], object], image: Tensor) -> int:
    """Bytes that each further image of a batch needs at the peak of `step`, kernels included.

    The step runs on batches of one and two copies of the image; the difference of their peaks leaves out what does not
    depend on the batch. The state of the random generators is restored.

    Args:
        step: takes a batch ``(B, 3, H, W)`` on its own device.
        image: ``(1, 3, H, W)``.
    """
    device = [image.device] if image.is_cuda else []
    with torch.random.fork_rng(devices=device):
        one, two = (_peak(step, image.repeat(count, 1, 1, 1)) for count in (1, 2))
    return int(_KERNELS * max(two - one, image.nbytes))


def gradient_bytes(network: nn.Module, image: Tensor) -> int:
    """As `bytes_per_image`, of a forward and a backward pass; measured once for a network and a size of images.

    If the network has no gradient, of a forward pass alone; if it fails, 0.

    Args:
        network: in evaluation mode.
        image: ``(1, 3, H, W)`` on its device.
    """
    known = _known.setdefault(network, {})
    key = (image.shape, image.device)
    if key not in known:
        known[key] = 0
        for step in (gradient_step(network), network):
            try:
                known[key] = bytes_per_image(step, image)
                break
            except Exception:  # appears again when the network runs
                _log.debug("the memory per image could not be measured", exc_info=True)
    return known[key]


def gradient_step(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A forward pass and the gradient of its logits with respect to the images; raises RuntimeError if there is none.

    The weights require no gradient meanwhile, since their gradients would need more memory.
    """

    def step(images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad(), _frozen(network):
            inputs = images.detach().clone().requires_grad_()
            # A clone, since some networks change their input in place, which torch forbids for a leaf.
            (gradient,) = torch.autograd.grad(network(inputs.clone()).sum(), inputs)
        return gradient

    return step


def _peak(step: Callable[[Tensor], object], images: Tensor) -> int:
    """Bytes of tensors, and of arrays of NumPy, which some features are computed with."""
    memory, traced = AliveMemory([images]), tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with memory:
            step(images)
        _, arrays = tracemalloc.get_traced_memory()
    finally:
        if not traced:
            tracemalloc.stop()
    return memory.peak + arrays - before


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
