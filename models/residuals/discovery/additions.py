"""Rules for residual additions x + r(x).

Wherever two tensors of one shape are added that both depend on the images, both come from a common ancestor, the fork.
The operand with more layers of weights since the fork is the branch, and its value is the residue r_m; the other
operand is the skip connection. Two details need care:

- Parallel branches x + f(x) + g(x) are two sums. The first sum x + f(x) has passed as many layers as g(x) or more, and
  is still the skip connection of the second sum. `_is_running_sum` recognises it: it is x plus known branches.
- The layers since the fork are the calls on which one operand depends and the other does not. These sets are bits of
  integers (`Value.calls`), so the difference is ``a & ~b``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from models.residuals.discovery.branches import Branch, SkippedBranch, Term
from models.residuals.discovery.weights import batch_axis, common_module, weights_of
from models.residuals.tracing.structures import Path
from models.residuals.tracing.trace import Call, Trace

__all__ = ["CONSTANT", "FoundBranch", "find_addition", "summands"]

CONSTANT = "adds something that does not depend on the image"

_ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_SUBTRACTIONS = frozenset({"sub", "sub_", "subtract", "subtract_", "__sub__", "__isub__"})
_IDENTITIES = frozenset({"clone", "contiguous", "detach"})


@dataclass(frozen=True)
class FoundBranch:
    """A branch with its position in the trace.

    Args:
        home: the module in which the sum is computed.
        skip: the value of the skip connection; -1 for a layer.
        calls: the calls from the fork to the sum, as bits.
    """

    branch: Branch
    home: str
    skip: int = -1
    calls: int = 0


def find_addition(
    traced: Trace, call: Call, sums: Mapping[int, FoundBranch], skipped_branches: list[SkippedBranch]
) -> FoundBranch | None:
    """The residual branch that ends in this call, or None if the call is no such sum.

    Args:
        traced: the trace of the network.
        call: the call to examine.
        sums: the branches found so far, by the index of their call.
        skipped_branches: receives an entry for a sum that is no residual addition.
    """

    def skip_because(why: str) -> None:
        skipped_branches.append(SkippedBranch(call.frame.module or "the network", why))

    # 1. Both operands depend on the images and have a batch axis.
    places = summands(traced, call)
    if places is None:
        return None
    values = [traced.values[value] for _, value in places]
    if not all(value.image for value in values):
        if any(value.image for value in values):
            skip_because(CONSTANT)
        return None
    axis = batch_axis(values[0].shape, traced.batch)
    if axis is None:
        skip_because(f"a sum of shape {values[0].shape} has no batch axis in front")
        return None

    # 2. The branch is the operand with more layers of weights since the fork, unless that operand is a running sum.
    own = [weights_of(traced, values[i].calls & ~values[1 - i].calls, call) for i in (0, 1)]
    running = [any(own[1 - i][0]) and _is_running_sum(traced, places[i][1], places[1 - i][1], sums) for i in (0, 1)]
    if all(running):
        skip_because("both operands of the sum contain the input of the fork unchanged, so neither is a residue")
        return None
    if own[0][0] == own[1][0] and not any(running):
        if any(own[0][0]):
            skip_because(
                "both operands of the sum pass as many layers and weights since the fork, so neither is the skip"
            )
            return None
        skip_because("no layer of weights lies between the fork and the sum")
        return None
    side = running.index(False) if any(running) else int(own[1][0] > own[0][0])
    factor = _factor(call, side)
    if factor is None:
        skip_because("the branch has something subtracted from it, which is no residual step")
        return None

    # 3. Capture points for the residue, the sum and the skip connection.
    path, value = places[side]
    skip_path, skip = places[1 - side]
    total = next((result for _, result in call.results), None)
    embedding = None if total is None else traced.capture_after(total)
    skip_factor = 1.0 if side else float(call.constants.get("alpha", 1.0))
    shape = values[side].shape
    branch = Branch(
        name=common_module(own[side][1]) or call.frame.module or "network",
        shape=shape[:axis] + shape[axis + 1 :],
        kind="addition",
        batch_axis=axis,
        residue=(Term(traced.capture_before(value, call, path), factor),),
        embedding=() if embedding is None else (Term(embedding),),
        skip=(Term(traced.capture_before(skip, call, skip_path), skip_factor),),
        site=call.index,
        side=side,
    )
    calls = (values[0].calls ^ values[1].calls) | 1 << call.index
    return FoundBranch(branch, call.frame.module, skip, calls)


def summands(traced: Trace, call: Call) -> tuple[tuple[Path, int], tuple[Path, int]] | None:
    """The two tensors of one shape that a call adds or subtracts, with their paths; None for another call.

    The operand that ``alpha`` multiplies is the last.
    """
    if call.function not in _ADDITIONS | _SUBTRACTIONS or call.ordinal < 0:
        return None
    operands = [item for item in call.arguments if item[0] != (1, "out")]
    if len(operands) != 2 or operands[0][1] == operands[1][1]:
        return None
    if operands[0][0] == (1, "other"):  # keywords may be in any order
        operands.reverse()
    first, second = (traced.values[value] for _, value in operands)
    if not (first.floating and second.floating and len(first.shape) == len(second.shape)):
        return None
    alike = first.shape == second.shape
    # A constant may lack the batch axis; positional embeddings do, and they are reported as skipped.
    shapes = first.shape, second.shape
    constant = not (first.image and second.image) and any(
        shapes[0][:axis] + shapes[0][axis + 1 :] == shapes[1][:axis] + shapes[1][axis + 1 :] for axis in (0, 1)
    )
    return (operands[0], operands[1]) if alike or constant else None


def _is_running_sum(traced: Trace, value: int, other: int, sums: Mapping[int, FoundBranch]) -> bool:
    """Whether a value is a running sum x + f(x) + … of an x on which the other value depends too.

    The search goes back from sum to skip connection, through functions that return their argument as it is.
    """
    while True:
        maker = traced.values[value].maker
        while maker is not None and maker.function in _IDENTITIES and len(maker.arguments) == 1:
            value = maker.arguments[0][1]
            maker = traced.values[value].maker
        if maker is None or maker.index not in sums or all(value != result for _, result in maker.results):
            return False
        value = sums[maker.index].skip
        if not traced.values[value].calls & ~traced.values[other].calls:
            return True


def _factor(call: Call, side: int) -> float | None:
    """The branch's factor in the sum, from ``alpha`` and the sign; None if the branch is the minuend."""
    if call.function in _SUBTRACTIONS and side == 0:
        return None
    sign = -1.0 if call.function in _SUBTRACTIONS else 1.0
    return sign * float(call.constants.get("alpha", 1.0)) if side == 1 else 1.0
