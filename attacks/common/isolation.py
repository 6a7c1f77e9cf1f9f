"""What an attack disturbs while it runs and has to put back: the network's state, the global random generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ImageNoise", "device_of", "left_as_found", "seeded"]


def device_of(network: nn.Module) -> torch.device | None:
    """The device of the network's first parameter or buffer; None for a network that has neither."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return None


@contextmanager
def left_as_found(network: nn.Module) -> Iterator[None]:
    """The network in eval mode and without gradients of its weights, for as long as the context lasts.

    Afterwards, also after an exception, every module is in the mode it was in, every parameter requires a gradient or
    not as before, and holds the same `.grad` as before (ART clears them).
    """
    modes = [(module, module.training) for module in network.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    try:
        network.eval()
        for parameter, _, _ in parameters:
            # Gradients of the weights would cost about as much again as those of the images.
            parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad, grad in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random state of torch, NumPy and Python set from `seed` inside, restored after.

    Attack libraries draw from the global generators; ours do not, see `ImageNoise`.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - ART draws from the legacy generator
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class ImageNoise:
    """Noise for one batch in which every image has a random stream of its own, so that batch size changes nothing.

    Args:
        seed: the attack's seed.
        first: position of the batch's first image among the images of the call.
    """

    def __init__(self, seed: int, first: int) -> None:
        self._seed = seed
        self._first = first

    def uniform(self, images: Tensor, draw: int = 0) -> Tensor:
        """Numbers uniform in [-1, 1), of the images' shape ``(B, C, H, W)``, dtype and device.

        Args:
            draw: number of the draw; the same number gives the same noise (restarts count up).
        """
        rows = [
            # A counter-based generator: seed and position are the key, the draw is part of the counter.
            np.random.Generator(
                np.random.Philox(key=np.array([self._seed, position], dtype=np.uint64), counter=[0, 0, 0, draw])
            ).random(tuple(images.shape[1:]), dtype=np.float32)
            for position in range(self._first, self._first + len(images))
        ]
        return torch.from_numpy(np.stack(rows)).to(images) * 2 - 1

    def generators(self, count: int, device: torch.device) -> list[torch.Generator]:
        """One generator for each of the batch's first `count` images, for attacks that draw as they go."""
        words = [
            np.random.SeedSequence([self._seed, position]).generate_state(1, np.uint64)[0] >> np.uint64(1)
            for position in range(self._first, self._first + count)
        ]
        return [torch.Generator(device).manual_seed(int(word)) for word in words]
