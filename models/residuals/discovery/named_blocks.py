"""Rules for blocks that the caller names: each call of a named module is a block.

Its residue is x_{m+1} − x_m, the module's output minus its input, whatever layers the module contains. A plain network
is thus measured block by block like the same network with identity maps (Gai & Zhang compare the two).
"""

from collections.abc import Container
from fnmatch import fnmatchcase

from models.residuals.discovery.branches import Branch, SkippedBranch, Term
from models.residuals.discovery.weights import batch_axis
from models.residuals.tracing.trace import Frame, ModuleEvent, Trace

__all__ = ["find_named_blocks"]


def find_named_blocks(traced: Trace, pattern: str, skipped_branches: list[SkippedBranch]) -> list[Branch]:
    """The blocks in execution order; a module inside another block is part of it.

    Args:
        traced: the trace of the network.
        pattern: matches the last components of a module's dotted name, component by component, with the wildcards of
            file names: "blocks.*" matches "network.blocks.0".
        skipped_branches: gets the matching modules that change the shape of their input.
    """
    found: dict[int, tuple[Frame, Branch | SkippedBranch]] = {}  # by the frame's identity, in order
    for event in traced.events:
        frame = event.frame
        if event.kind == "output" and id(frame) not in found and _matches(frame.module, pattern):
            found[id(frame)] = frame, _block(traced, frame, event)
    skipped_branches += [each for _, each in found.values() if isinstance(each, SkippedBranch)]
    blocks = {key for key, (_, each) in found.items() if isinstance(each, Branch)}
    return [each for frame, each in found.values() if isinstance(each, Branch) and not _inside(frame, blocks)]


def _block(traced: Trace, frame: Frame, end: ModuleEvent) -> Branch | SkippedBranch:
    inputs = (event for event in traced.events if event.kind == "input" and event.frame is frame)
    start = next((event for event in inputs if traced.values[event.value].floating), None)
    if start is None:
        return SkippedBranch(frame.module, "it has no input that depends on the image")
    before, after = traced.values[start.value].shape, traced.values[end.value].shape
    axis = batch_axis(after, traced.batch)
    if before != after or axis is None:
        return SkippedBranch(frame.module, f"input {before[1:]} and output {after[1:]} differ in shape")
    first, last = traced.capture_at(start), traced.capture_at(end)
    shape = after[:axis] + after[axis + 1 :]
    residue = (Term(last), Term(first, -1.0))
    return Branch(frame.module, shape, "block_difference", axis, residue, (Term(last),), (Term(first),))


def _inside(frame: Frame, blocks: Container[int]) -> bool:
    outer = frame.parent
    while outer is not None and id(outer) not in blocks:
        outer = outer.parent
    return outer is not None


def _matches(name: str, pattern: str) -> bool:
    wanted = pattern.split(".")
    last = name.split(".")[-len(wanted) :]
    return len(last) == len(wanted) and all(map(fnmatchcase, last, wanted))
