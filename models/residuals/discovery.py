"""Finds the residual branches of a network that nobody prepared for us, in execution order.

One small batch goes through the network and is traced (`models.residuals.tracing`). Wherever two tensors of one shape
are added that both come from the image, the operand with more layers of weights since the two parted is the branch,
its value is the residue r_m, and the other operand is the skip. Of parallel branches x + f(x) + g(x) each is one: the
running sum is the skip of the next, however many layers it has passed. Class names and module names play no part. A
network without any such addition is read as x_{m+1} = g_m(x_m), and its residues are x_{m+1} - x_m over the layers
that keep the shape (the thesis, section 5.3.1).

Not found: additions inside scripted or compiled modules, and inside functions that torch treats as one. A block that
joins its input with what its layers made of it in another way than by adding is left out by name.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.residuals.hooks import evaluation_mode, require_watchable
from models.residuals.statistics import BlockTensor
from models.residuals.tracing import Call, CapturePoint, Frame, Path, Trace, trace

__all__ = ["Branch", "Discovery", "SkippedBranch", "Site", "Term", "discover", "example_images", "sites"]

# An odd number that is rarely the size of any other axis, so that the batch axis can be told from the others.
_BATCH = 3

_ADDITIONS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_IDENTITIES = frozenset({"clone", "contiguous", "detach"})
_PRODUCTS = frozenset({"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__", "matmul", "bmm"})
_SUBTRACTIONS = frozenset({"sub", "sub_", "subtract", "subtract_", "__sub__", "__isub__"})

_CONSTANT = "adds something that does not depend on the image"


@dataclass(frozen=True)
class Term:
    """A tensor to pick up, and its factor in the sum that makes a residue or an embedding."""

    capture_point: CapturePoint
    factor: float = 1.0


@dataclass(frozen=True)
class Branch:
    """One residual branch.

    Args:
        name: dotted name of the deepest module that holds all the branch's weights; "#2" and so on where one module
            makes several branches.
        shape: of one residue, without the batch axis.
        kind: "addition", the branch's output at a sum x + r(x), whatever comes after the sum; or "block_difference",
            x_{m+1} - x_m of a layer that keeps its input's shape, in networks without residual additions.
        batch_axis: where the batch axis is in the network's own tensors (0, or 1 in sequence-first transformers).
        residue, embedding: what to pick up, and with which factors, to get r_m and x_{m+1}.
        skip: what to pick up to get x_m as it enters the sum (for a layer: its input).
        site, side: which call of the trace ends (or, for a layer, begins) the block, and which operand the branch is.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["addition", "block_difference"]
    batch_axis: int = field(default=0, repr=False)
    residue: tuple[Term, ...] = field(default=(), repr=False)
    embedding: tuple[Term, ...] = field(default=(), repr=False)
    skip: tuple[Term, ...] = field(default=(), repr=False)
    site: int = field(default=-1, repr=False)
    side: int = field(default=0, repr=False)

    def terms(self, quantity: BlockTensor) -> tuple[Term, ...]:
        """The captures whose weighted sum is the residue or the embedding.

        Raises:
            NetworkError: the sum after the branch cannot be captured.
        """
        terms = self.residue if quantity == "residues" else self.embedding
        if not terms:
            raise NetworkError(
                f"the {quantity} of branch {self.name!r} cannot be captured; "
                "use the residues, or branches that discover() returns"
            )
        return terms


@dataclass(frozen=True)
class SkippedBranch:
    """A block or an addition that is not watched, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Discovery:
    """Residual branches in execution order, and what was left out."""

    branches: tuple[Branch, ...]
    skipped_branches: tuple[SkippedBranch, ...]


@dataclass(frozen=True)
class Site:
    """A sum or a layer of a trace, whether or not it is a residual branch's."""

    call: int
    shape: tuple[int, ...]
    operands: tuple[int, ...]
    before: int
    after: int


@dataclass(frozen=True)
class _Found:
    """A branch, the module in which its sum is, its skip, and the calls from the fork to the sum, as bits."""

    branch: Branch
    home: str
    skip: int = -1
    calls: int = 0


def discover(network: nn.Module, image_shape: tuple[int, int, int] = (3, 32, 32)) -> Discovery:
    """The network's residual branches in execution order, found by one pass of three noise images.

    The network is left as found, and so are its mode and the global random state.

    Args:
        network: any module from images ``(B, 3, H, W)`` to whatever it gives out.
        image_shape: (channels, height, width) of the images it takes.

    Raises:
        NetworkError: the network is compiled, does not take such images, or has neither a residual addition nor a
            layer that keeps its input's shape.
    """
    require_watchable(network)
    images = example_images(network, image_shape)
    devices = [images.device] if images.device.type == "cuda" else []
    with evaluation_mode(network), torch.random.fork_rng(devices=devices):
        try:
            traced = trace(network, images)
        except Exception as exc:
            raise NetworkError(
                f"expected a network that takes images of shape {tuple(images.shape)} and {images.dtype}, but its "
                f"forward pass failed: {type(exc).__name__}: {exc}; pass the image_shape that it was built for"
            ) from exc
    discovery = read(traced)
    if not discovery.branches:
        reasons = (
            "; ".join(f"{item.name}: {item.why}" for item in discovery.skipped_branches[:5])
            or "no layer was seen at all"
        )
        raise NetworkError(
            "expected a network with residual additions x + r(x), or with layers that keep their input's shape; "
            f"found neither ({reasons}). Use a network with at least one, and unscripted"
        )
    return discovery


def example_images(network: nn.Module, image_shape: tuple[int, int, int], batch: int = _BATCH) -> Tensor:
    """Noise images ``(batch, *image_shape)`` in [0, 1], always the same, where and in the precision the network is."""
    noise = torch.rand((batch, *image_shape), generator=torch.Generator().manual_seed(0))
    first = next((p for p in (*network.parameters(), *network.buffers()) if p.is_floating_point()), noise)
    return noise.to(device=first.device, dtype=first.dtype)


def read(traced: Trace) -> Discovery:
    """Branches and left-outs of a trace: additions if there are any, otherwise block differences."""
    skipped_branches: list[SkippedBranch] = []
    sums: dict[int, _Found] = {}
    for call in traced.calls:
        item = _addition(traced, call, sums, skipped_branches)
        if item is not None:
            sums[call.index] = item
    found = list(sums.values())
    siblings = _siblings(traced, found)
    skipped_branches += [*siblings, *_untold(traced, found, skipped_branches, siblings)]
    if not found:
        found = [item for call in traced.calls if (item := _difference(traced, call, skipped_branches)) is not None]
    return Discovery(tuple(_unique(item.branch for item in found)), tuple(skipped_branches))


def sites(traced: Trace, kind: Literal["addition", "block_difference"]) -> list[Site]:
    """All sums of two tensors of one shape, or all layers with weights, that depend on the image; in order.

    The same list comes out of the network's own trace and of its graph's, which is how the two are matched.
    """
    result = []
    for call in traced.calls:
        places = (_summands(traced, call) or ()) if kind == "addition" else call.arguments
        images = [value for _, value in places if traced.values[value].image]
        fits = len(images) == 2 if kind == "addition" else call.mixes and len(set(images)) == 1
        if fits and call.results:
            after = call.results[0][1] if kind == "addition" else _end_of_layer(traced, call.results[0][1])
            result.append(Site(call.index, traced.values[after].shape, tuple(images), images[0], after))
    return result


# --- additions


def _addition(
    traced: Trace, call: Call, sums: Mapping[int, _Found], skipped_branches: list[SkippedBranch]
) -> _Found | None:
    """The residual branch that ends in this call, if the call is such a sum; `sums` holds those before it, by call."""
    places = _summands(traced, call)
    if places is None:
        return None
    values = [traced.values[value] for _, value in places]
    where = call.frame.module or "the network"
    if not all(value.image for value in values):
        if any(value.image for value in values):
            skipped_branches.append(SkippedBranch(where, _CONSTANT))
        return None
    axis = _batch_axis(values[0].shape, traced.batch)
    if axis is None:
        skipped_branches.append(SkippedBranch(where, f"a sum of shape {values[0].shape} has no batch axis in front"))
        return None
    own = [_weights_of(traced, values[i].calls & ~values[1 - i].calls, call) for i in (0, 1)]
    running = [any(own[1 - i][0]) and _runs_on(traced, places[i][1], places[1 - i][1], sums) for i in (0, 1)]
    if all(running):
        why = "both operands of the sum hold the input of the fork unchanged, so neither is a residue"
        skipped_branches.append(SkippedBranch(where, why))
        return None
    if own[0][0] == own[1][0] and not any(running):
        why = "no layer of weights lies between the fork and the sum"
        if any(own[0][0]):
            why = "both operands of the sum pass as many layers and weights since the fork, so neither is the skip"
        skipped_branches.append(SkippedBranch(where, why))
        return None
    side = running.index(False) if any(running) else int(own[1][0] > own[0][0])
    factor = _factor(call, side)
    if factor is None:
        skipped_branches.append(
            SkippedBranch(where, "the branch has something subtracted from it, which is no residual step")
        )
        return None
    path, value = places[side]
    skip_path, skip = places[1 - side]
    total = next((result for _, result in call.results), None)
    embedding = None if total is None else traced.capture_after(total)
    shape = values[side].shape
    branch = Branch(
        name=_common_module(own[side][1]) or call.frame.module or "network",
        shape=shape[:axis] + shape[axis + 1 :],
        kind="addition",
        batch_axis=axis,
        residue=(Term(traced.capture_before(value, call, path), factor),),
        embedding=() if embedding is None else (Term(embedding),),
        skip=(
            Term(
                traced.capture_before(skip, call, skip_path), 1.0 if side else float(call.constants.get("alpha", 1.0))
            ),
        ),
        site=call.index,
        side=side,
    )
    calls = (values[0].calls ^ values[1].calls) | 1 << call.index
    return _Found(branch, call.frame.module, skip, calls)


def _runs_on(traced: Trace, value: int, other: int, sums: Mapping[int, _Found]) -> bool:
    """Whether a value is a running sum x + f(x) + … of an x from which the other value comes too."""
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


def _summands(traced: Trace, call: Call) -> tuple[tuple[Path, int], tuple[Path, int]] | None:
    """The two tensors of one floating shape that a call adds or subtracts, the one that alpha multiplies last."""
    if call.function not in _ADDITIONS | _SUBTRACTIONS or call.ordinal < 0:
        return None
    operands = [item for item in call.arguments if item[0] != (1, "out")]
    if len(operands) != 2 or operands[0][1] == operands[1][1]:
        return None
    if operands[0][0] == (1, "other"):  # keywords come in any order
        operands.reverse()
    first, second = (traced.values[value] for _, value in operands)
    if not (first.floating and second.floating and len(first.shape) == len(second.shape)):
        return None
    alike = first.shape == second.shape
    # A constant may lack the batch axis: positional embeddings, which are worth telling about.
    shapes = first.shape, second.shape
    constant = not (first.image and second.image) and any(
        shapes[0][:axis] + shapes[0][axis + 1 :] == shapes[1][:axis] + shapes[1][axis + 1 :] for axis in (0, 1)
    )
    return (operands[0], operands[1]) if alike or constant else None


def _batch_axis(shape: tuple[int, ...], batch: int) -> int | None:
    if len(shape) > 1 and shape[0] == batch:
        return 0
    return 1 if len(shape) > 2 and shape[1] == batch else None


def _weights_of(traced: Trace, calls: int, addition: Call) -> tuple[tuple[int, int, int], list[str]]:
    """(layers of mixing weights, calls with any parameter, parameters) of a set of calls, and the layers' modules.

    Without a mixing layer (a convolution, a matrix) a branch counts only if its parameters sit in a module of their
    own: x + gamma · x written out inside one module is a normalisation, not a step.
    """
    chosen = []
    while calls:
        lowest = calls & -calls
        chosen.append(traced.calls[lowest.bit_length() - 1])
        calls ^= lowest
    mixing = [call for call in chosen if call.mixes]
    parametric = [call for call in chosen if call.parametric]
    if not mixing and all(call.frame is addition.frame for call in parametric):
        return (0, 0, 0), []
    count = (len(mixing), len(parametric), sum(call.parameters for call in parametric))
    return count, [call.frame.module for call in mixing or parametric]


def _factor(call: Call, side: int) -> float | None:
    """The branch's factor in the sum, from ``alpha`` and the sign; None where the skip is what is subtracted."""
    if call.function in _SUBTRACTIONS and side == 0:
        return None
    sign = -1.0 if call.function in _SUBTRACTIONS else 1.0
    return sign * float(call.constants.get("alpha", 1.0)) if side == 1 else 1.0


def _siblings(traced: Trace, found: list[_Found]) -> list[SkippedBranch]:
    """Blocks of the same kind as those where branches were found, but in which none was."""
    homes = {item.home for item in found} - {""}
    kinds = {traced.kinds[home] for home in homes if home in traced.kinds}
    blocks = [name for name, kind in traced.kinds.items() if kind in kinds and name in traced.shapes]
    missing = [name for name in blocks if not any(_holds(name, home) for home in homes)]
    result = []
    for name in missing:
        before, after = traced.shapes[name]
        why = "it adds nothing to its input"
        if before != after:
            why += f", whose shape {before} is not its output's {after}"
        result.append(SkippedBranch(name, why))
    return result


def _untold(
    traced: Trace, found: list[_Found], sums: list[SkippedBranch], siblings: list[SkippedBranch]
) -> list[SkippedBranch]:
    """Modules that keep their input's shape and join what parted in them, but by no addition that was seen.

    A module with a branch in it or around it is none of them, nor one that is left out already for its sums or as a
    sibling, in part or as a part. Products are no such joins, since what they make is a gate; nor are joins of values
    between which no layer of weights lies.
    """
    watched = 0
    for item in found:
        watched |= item.calls
    inner = [item.name for item in (*sums, *siblings) if item.why != _CONSTANT]
    outer = [item.name for item in siblings]
    blocks: dict[str, None] = {}
    for call in traced.calls:
        if watched >> call.index & 1 or not _joins(traced, call):
            continue
        name = _block_around(traced, call)
        if name is None or any(_holds(name, item) for item in inner) or any(_holds(item, name) for item in outer):
            continue
        if not any(watched >> part.index & 1 for part in traced.calls if _holds(name, part.frame.module)):
            blocks[name] = None
    outermost = [name for name in blocks if not any(name != other and _holds(other, name) for other in blocks)]
    why = "its residue could not be told: no addition of two tensors of one shape was seen in it"
    return [SkippedBranch(name, why) for name in outermost]


def _joins(traced: Trace, call: Call) -> bool:
    """Whether a call makes one thing of two image-dependent tensors of one shape that differ by a layer of weights."""
    if call.function in _PRODUCTS or not any(traced.values[result].floating for _, result in call.results):
        return False
    numbers = {number for _, number in call.arguments}
    values = [value for value in (traced.values[number] for number in numbers) if value.image and value.floating]
    return any(
        one.shape == other.shape and any(_weights_of(traced, one.calls & ~other.calls, call)[0])
        for one in values
        for other in values
        if one is not other
    )


def _block_around(traced: Trace, call: Call) -> str | None:
    """The innermost module around a join that keeps its input's shape and holds layers; else one that it goes around.

    The latter is a module whose input and output are both joined, by the code that called it.
    """
    frame: Frame | None = call.frame
    while frame is not None:
        if frame.module and _keeps_shape(traced, frame.module):
            return frame.module
        frame = frame.parent
    joined = {value for _, value in call.arguments}
    doors: dict[str, set[str]] = {}
    for event in traced.events:
        if event.value in joined and event.time < call.time:
            doors.setdefault(event.frame.module, set()).add(event.kind)
    return next((name for name, kinds in doors.items() if len(kinds) == 2 and _keeps_shape(traced, name)), None)


def _keeps_shape(traced: Trace, name: str) -> bool:
    before, after = traced.shapes.get(name, (None, None))
    return (
        before is not None
        and before == after
        and any(call.mixes for call in traced.calls if _holds(name, call.frame.module))
    )


def _holds(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}.")


# --- block differences


def _difference(traced: Trace, call: Call, skipped_branches: list[SkippedBranch]) -> _Found | None:
    """The layer that begins with this call, if it has weights and keeps its input's shape.

    The layer runs from a call with weights up to the next one: what follows it alone, element by element or channel by
    channel, in one shape (normalisation, activation) belongs to it.
    """
    inputs = [(path, value) for path, value in call.arguments if traced.values[value].image]
    if not call.mixes or len({value for _, value in inputs}) != 1 or not call.results:
        return None
    path, before = inputs[0]
    after = _end_of_layer(traced, call.results[0][1])
    shapes = traced.values[before].shape, traced.values[after].shape
    name = call.frame.module or "network"
    axis = _batch_axis(shapes[1], traced.batch)
    if shapes[0] != shapes[1] or axis is None:
        skipped_branches.append(
            SkippedBranch(name, f"input {shapes[0][1:]} and output {shapes[1][1:]} differ in shape")
        )
        return None
    start, end = traced.capture_before(before, call, path), traced.capture_after(after)
    if end is None or (start.kind == "call" and call.ordinal < 0):
        skipped_branches.append(SkippedBranch(name, "its input or output is inside code that cannot be watched"))
        return None
    shape = shapes[1][:axis] + shapes[1][axis + 1 :]
    residue = (Term(end), Term(start, -1.0))
    branch = Branch(name, shape, "block_difference", axis, residue, (Term(end),), (Term(start),), call.index)
    return _Found(branch, call.frame.module)


def _end_of_layer(traced: Trace, value: int) -> int:
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


# --- names


def _common_module(names: list[str]) -> str:
    """The deepest module that holds all the named ones."""
    paths = [name.split(".") for name in names]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _unique(branches: Iterable[Branch]) -> list[Branch]:
    seen: Counter[str] = Counter()
    result = []
    for branch in branches:
        seen[branch.name] += 1
        again = seen[branch.name]
        result.append(branch if again == 1 else replace(branch, name=f"{branch.name}#{again}"))
    return result
