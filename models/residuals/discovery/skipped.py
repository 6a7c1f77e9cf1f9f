"""Reports of blocks in which no branch was found."""

from models.residuals.discovery.additions import CONSTANT, FoundBranch
from models.residuals.discovery.branches import SkippedBranch
from models.residuals.discovery.weights import contains, weights_of
from models.residuals.tracing.trace import Call, Frame, Trace

__all__ = ["siblings_without_branch", "unreadable_blocks"]

# A product is a gate, not a residual sum.
_PRODUCTS = frozenset({"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__", "matmul", "bmm"})


def siblings_without_branch(traced: Trace, found: list[FoundBranch]) -> list[SkippedBranch]:
    """Blocks of the same class as blocks with branches, but without a branch."""
    homes = {item.home for item in found} - {""}
    kinds = {traced.kinds[home] for home in homes if home in traced.kinds}
    blocks = [name for name, kind in traced.kinds.items() if kind in kinds and name in traced.shapes]
    missing = [name for name in blocks if not any(contains(name, home) for home in homes)]
    result = []
    for name in missing:
        before, after = traced.shapes[name]
        why = "it adds nothing to its input"
        if before != after:
            why += f", whose shape {before} is not its output's {after}"
        result.append(SkippedBranch(name, why))
    return result


def unreadable_blocks(
    traced: Trace, found: list[FoundBranch], sums: list[SkippedBranch], siblings: list[SkippedBranch]
) -> list[SkippedBranch]:
    """Modules that keep their input's shape and join two paths, but not by a visible addition.

    A module is not reported if it contains a branch or lies in one, or if it, a part of it or a module around it is
    already skipped for its sums or as a sibling. Products do not count as joins, and neither do joins of two values
    without a layer of weights between them.

    Args:
        traced: the trace of the network.
        found: its branches.
        sums: the sums that are skipped.
        siblings: the blocks that are skipped as siblings.
    """
    recorded = 0  # the calls of all branches, as bits
    for item in found:
        recorded |= item.calls
    inner = [item.name for item in (*sums, *siblings) if item.why != CONSTANT]
    outer = [item.name for item in siblings]
    blocks: dict[str, None] = {}
    for call in traced.calls:
        if recorded >> call.index & 1 or not _joins(traced, call):
            continue
        name = _block_around(traced, call)
        if name is None or any(contains(name, item) for item in inner) or any(contains(item, name) for item in outer):
            continue
        if not any(recorded >> part.index & 1 for part in traced.calls if contains(name, part.frame.module)):
            blocks[name] = None
    outermost = [name for name in blocks if not any(name != other and contains(other, name) for other in blocks)]
    why = "its residue is unknown: it contains no visible addition of two tensors of one shape"
    return [SkippedBranch(name, why) for name in outermost]


def _joins(traced: Trace, call: Call) -> bool:
    """Whether a call combines two image-dependent tensors of one shape that differ by a layer of weights."""
    if call.function in _PRODUCTS or not any(traced.values[result].floating for _, result in call.results):
        return False
    numbers = {number for _, number in call.arguments}
    values = [value for value in (traced.values[number] for number in numbers) if value.image and value.floating]
    return any(
        one.shape == other.shape and any(weights_of(traced, one.calls & ~other.calls, call)[0])
        for one in values
        for other in values
        if one is not other
    )


def _block_around(traced: Trace, call: Call) -> str | None:
    """The innermost module around a join that keeps its input's shape and contains layers.

    If there is none: a module whose input and output the call joins, which the calling code skips over.
    """
    frame: Frame | None = call.frame
    while frame is not None:
        if frame.module and _keeps_shape(traced, frame.module):
            return frame.module
        frame = frame.parent
    joined = {value for _, value in call.arguments}
    boundaries: dict[tuple[str, int], set[str]] = {}  # of one call of a module: it may run several times
    for event in traced.events:
        if event.value in joined and event.time < call.time:
            boundaries.setdefault((event.frame.module, event.frame.call_index), set()).add(event.kind)
    names = (name for (name, _), kinds in boundaries.items() if len(kinds) == 2)
    return next((name for name in names if _keeps_shape(traced, name)), None)


def _keeps_shape(traced: Trace, name: str) -> bool:
    before, after = traced.shapes.get(name, (None, None))
    return (
        before is not None
        and before == after
        and any(call.mixes for call in traced.calls if contains(name, call.frame.module))
    )
