"""Passes of a network in evaluation mode, and differences between them that rounding does not explain.

A batch of another size has other rounding errors, and a narrow or discontinuous network enlarges them. A difference
counts only if a copy of the network in double precision has it too.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.residuals import evaluation_mode

__all__ = ["forward", "logits_of", "precise_copy", "relative_difference", "unexplained_difference", "unchanged_buffers"]

TOLERANCE = 1e-4  # of logits, relative to the largest
_MAX_UNITS = 64  # units in the last place, for networks that have no copy in double precision

Compare = Callable[[nn.Module], float]


def forward(network: nn.Module, images: Tensor) -> object:
    """The output of one pass in evaluation mode, without gradients; images as float64 for a copy in that precision."""
    numbers = next((each for each in (*network.parameters(), *network.buffers()) if each.is_floating_point()), images)
    with evaluation_mode(network), torch.no_grad():
        return network(images.double() if numbers.dtype == torch.float64 else images)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` of one pass in evaluation mode and in the network's precision, on the CPU.

    Raises:
        NetworkError: the pass fails, or returns something else.
    """
    try:
        output = forward(network, images)
    except Exception as exc:  # a user's network may raise anything
        raise NetworkError(
            f"the network fails for a batch of {len(images)} images: {type(exc).__name__}: {exc}; accept batches of "
            "every size"
        ) from exc
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise NetworkError(f"expected logits ({len(images)}, K) from the network, got {got}; return one row per image")
    return output.detach().cpu()


def relative_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest finite value; two NaN are equal."""
    one, other = one.double(), other.double()
    different = (one != other) & ~(one.isnan() & other.isnan())
    if not bool(different.any()):
        return 0.0
    largest = float((one - other)[different].abs().max())
    return largest / float(one.abs().nan_to_num(0.0, 0.0, 0.0).max().clamp_min(1e-30)) if largest == largest else 1e30


def unexplained_difference(network: nn.Module, compare: Compare) -> float:
    """The relative difference that `compare` measures on the network; 0 if rounding explains it."""
    measured = compare(network)
    if measured <= TOLERANCE:
        return 0.0
    precise = precise_copy(network)
    try:
        explained = precise is not None and compare(precise) <= TOLERANCE
    except NetworkError:  # the copy does not run
        precise = None
    if precise is None:
        explained = measured <= _MAX_UNITS * torch.finfo(_precision(network)).eps
    return 0.0 if explained else measured


def precise_copy(network: nn.Module) -> nn.Module | None:
    """A copy of the network in double precision; None if it cannot be copied."""
    try:
        return copy.deepcopy(network).double()
    except Exception:  # a user's modules may refuse to be copied or converted, in any way
        return None


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Restore the network's buffers afterwards: a network in training mode updates its running statistics."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _precision(network: nn.Module) -> torch.dtype:
    """The least precise floating-point type of the network's parameters; float32 without any."""
    types = {each.dtype for each in network.parameters() if each.is_floating_point()}
    return max(types, key=lambda each: torch.finfo(each).eps, default=torch.float32)
