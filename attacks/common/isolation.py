"""Context managers that restore the state of a network and of the global random generators after an attack."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["evaluation_mode", "seeded"]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put the network into eval mode and switch off the gradients of its weights inside the context.

    On exit, also after an exception, every module's mode and every parameter's `requires_grad` and `.grad` are restored
    (ART clears `.grad`).
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
    """Seed the global generators of torch, NumPy and Python inside the context; restore their state on exit.

    Attack libraries draw from the global generators. Attacks in this package draw from `ImageNoise`.
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
