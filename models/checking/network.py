"""The checks that every network has to pass before it is attacked or fitted."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.checking.batches import check_batch_independence
from models.checking.determinism import check_determinism
from models.checking.outputs import check_logits
from models.checking.passes import logits_of, unchanged_buffers
from models.checking.result import CheckResult
from models.errors import NetworkError

__all__ = ["check_network", "require_usable"]

_IMAGES, _MIN_IMAGES = 6, 3


def check_network(network: nn.Module, images: Tensor) -> list[CheckResult]:
    """Check that the outputs are finite logits, deterministic, and independent of the batch.

    The list ends with the first failure, since a failed check makes the later ones meaningless. The network, its
    buffers and the global random state stay unchanged.

    Args:
        network: images to logits ``(B, K)``, on the device of the images.
        images: natural images ``(B, 3, H, W)`` in [0, 1], at least one; some of them are used.

    Raises:
        NetworkError: the network fails, or returns no matrix with one row per image.
    """
    few = images[:_IMAGES]
    if len(few) < _MIN_IMAGES:  # the negatives differ from them
        few = torch.cat([few, 1 - few, few.flip(1)])
    checks: list[Callable[[], CheckResult]] = [
        lambda: check_logits(logits_of(network, few)),
        lambda: check_determinism(network, few),
        lambda: check_batch_independence(network, few),
    ]
    results: list[CheckResult] = []
    devices = [images.device] if images.device.type == "cuda" else []
    with unchanged_buffers(network), torch.random.fork_rng(devices=devices):
        for check in checks:
            results.append(check())
            if results[-1].status == "fail":
                break
    return results


def require_usable(network: nn.Module, images: Tensor) -> list[str]:
    """Refuse a network that fails a check of `check_network`; the messages of the warnings.

    Raises:
        NetworkError: a check failed; the message states which, and the remedy.
    """
    results = check_network(network, images)
    for result in results:
        if result.status == "fail":
            raise NetworkError(result.message)
    return [result.message for result in results if result.status == "warning"]
