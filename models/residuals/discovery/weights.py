"""Weights, module names and batch axes of traced calls."""

from models.residuals.tracing.trace import Call, Trace

__all__ = ["batch_axis", "common_module", "contains", "weights_of"]


def batch_axis(shape: tuple[int, ...], batch: int) -> int | None:
    """0 or 1, the axis whose size is the batch; None if it is neither, or if the tensor has no further axes."""
    if len(shape) > 1 and shape[0] == batch:
        return 0
    return 1 if len(shape) > 2 and shape[1] == batch else None


def weights_of(traced: Trace, calls: int, addition: Call) -> tuple[tuple[int, int, int], list[str]]:
    """Weights in a set of calls, and the modules that contain them.

    Without a mixing layer (a convolution, a matrix product), a branch counts only if its parameters belong to a module
    of their own: x + gamma · x written out inside one module is a normalisation, not a residual step.

    Args:
        traced: the trace of the network.
        calls: the set, as bits.
        addition: the sum that ends the branch.

    Returns:
        ``(mixing layers, calls with parameters, parameters)``, to be compared in this order, and the layers' modules.
    """
    chosen = []
    while calls:  # from the lowest set bit to the highest
        lowest = calls & -calls
        chosen.append(traced.calls[lowest.bit_length() - 1])
        calls ^= lowest
    mixing = [call for call in chosen if call.mixes]
    parametric = [call for call in chosen if call.parametric]
    if not mixing and all(call.frame is addition.frame for call in parametric):
        return (0, 0, 0), []
    count = (len(mixing), len(parametric), sum(call.parameters for call in parametric))
    return count, [call.frame.module for call in mixing or parametric]


def common_module(names: list[str]) -> str:
    """The deepest module that contains all the named ones."""
    paths = [name.split(".") for name in names]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def contains(outer: str, inner: str) -> bool:
    """Whether the module `inner` is `outer` or a part of it, by their dotted names."""
    return inner == outer or inner.startswith(f"{outer}.")
