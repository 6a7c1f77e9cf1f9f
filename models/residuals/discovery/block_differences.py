"""Rules for networks without residual additions: each layer x_{m+1} = g_m(x_m) is a block.

The residue of a block is x_{m+1} - x_m, over the layers that keep the shape (the thesis, section 5.3.1).
"""

from models.residuals.discovery.additions import FoundBranch
from models.residuals.discovery.branches import Branch, SkippedBranch, Term
from models.residuals.discovery.weights import batch_axis
from models.residuals.tracing.trace import Call, Trace

__all__ = ["end_of_layer", "find_block_difference"]


def find_block_difference(traced: Trace, call: Call, skipped_branches: list[SkippedBranch]) -> FoundBranch | None:
    """The layer that begins with this call; None if the call has no weights or the layer changes the shape.

    The layer extends from a call with weights up to the next one: operations on its output alone that keep the shape
    (normalisation, activation) belong to it.
    """
    inputs = [(path, value) for path, value in call.arguments if traced.values[value].image]
    if not call.mixes or len({value for _, value in inputs}) != 1 or not call.results:
        return None
    path, before = inputs[0]
    after = end_of_layer(traced, call.results[0][1])
    shapes = traced.values[before].shape, traced.values[after].shape
    name = call.frame.module or "network"
    axis = batch_axis(shapes[1], traced.batch)
    if shapes[0] != shapes[1] or axis is None:
        skipped_branches.append(
            SkippedBranch(name, f"input {shapes[0][1:]} and output {shapes[1][1:]} differ in shape")
        )
        return None
    start, end = traced.capture_before(before, call, path), traced.capture_after(after)
    if end is None or (start.kind == "call" and call.ordinal < 0):
        skipped_branches.append(SkippedBranch(name, "its input or output is inside code that cannot be captured"))
        return None
    shape = shapes[1][:axis] + shapes[1][axis + 1 :]
    residue = (Term(end), Term(start, -1.0))
    branch = Branch(name, shape, "block_difference", axis, residue, (Term(end),), (Term(start),), call.index)
    return FoundBranch(branch, call.frame.module)


def end_of_layer(traced: Trace, value: int) -> int:
    """The last value of the layer that begins with this value.

    Operations on this value alone that keep its shape belong to the layer.
    """
    while True:
        here = traced.values[value]
        if len(here.users) != 1:
            return value
        user = here.users[0]
        images = {argument for _, argument in user.arguments if traced.values[argument].image}
        if user.mixes or len(images) != 1 or len(user.results) != 1:
            return value
        following = user.results[0][1]
        if traced.values[following].shape != here.shape or not traced.values[following].floating:
            return value
        value = following
