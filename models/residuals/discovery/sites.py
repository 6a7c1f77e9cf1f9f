"""The sums or layers of a trace, to match a network's trace with that of its graph."""

from dataclasses import dataclass
from typing import Literal

from models.residuals.discovery.additions import summands
from models.residuals.discovery.block_differences import end_of_layer
from models.residuals.tracing.trace import Trace

__all__ = ["Site", "sites"]


@dataclass(frozen=True)
class Site:
    """A sum or a layer of a trace, whether or not a residual branch ends there.

    Args:
        call: index of the call.
        shape: of the result.
        operands: the image-dependent arguments, as values.
        before, after: the value that enters the layer (for a sum: the first operand), and the result.
    """

    call: int
    shape: tuple[int, ...]
    operands: tuple[int, ...]
    before: int
    after: int


def sites(traced: Trace, kind: Literal["addition", "block_difference"]) -> list[Site]:
    """All sums of two tensors of one shape, or all layers with weights, that depend on the image; in order.

    A network and its graph give the same list, so that their sites can be matched by position.
    """
    result = []
    for call in traced.calls:
        places = (summands(traced, call) or ()) if kind == "addition" else call.arguments
        images = [value for _, value in places if traced.values[value].image]
        fits = len(images) == 2 if kind == "addition" else call.mixes and len(set(images)) == 1
        if fits and call.results:
            after = call.results[0][1] if kind == "addition" else end_of_layer(traced, call.results[0][1])
            result.append(Site(call.index, traced.values[after].shape, tuple(images), images[0], after))
    return result
