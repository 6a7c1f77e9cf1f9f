"""Discovery of the residual branches of an arbitrary `nn.Module`, in execution order.

One small batch passes through the network and is traced (`models.residuals.tracing`). The rules for residual additions
(`additions`) apply to every call; class names and module names play no part. If the network has no residual addition,
the rules for layers (`block_differences`) apply instead. With a pattern of module names, the named modules are the
blocks (`named_blocks`).

Not found: additions inside scripted or compiled modules, and inside functions that torch treats as one. A block that
combines its input with the output of its layers otherwise than by addition is reported as skipped.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.residuals.discovery.additions import FoundBranch, find_addition
from models.residuals.discovery.block_differences import find_block_difference
from models.residuals.discovery.branches import Branch, Discovery, SkippedBranch
from models.residuals.discovery.named_blocks import find_named_blocks
from models.residuals.discovery.skipped import siblings_without_branch, unreadable_blocks
from models.residuals.hooks import evaluation_mode, require_uncompiled
from models.residuals.tracing.trace import Trace
from models.residuals.tracing.tracer import trace

__all__ = ["discover", "example_images"]

_BATCH = 3  # rarely the size of another axis, so that the batch axis can be identified by its size


def discover(
    network: nn.Module, image_shape: tuple[int, int, int] = (3, 32, 32), blocks: str | None = None
) -> Discovery:
    """The network's residual branches in execution order, from passes of three noise images.

    The network, its mode and the global random state stay unchanged.

    Args:
        network: any module with images ``(B, 3, H, W)`` as its argument.
        image_shape: (channels, height, width) of its images.
        blocks: pattern of the names of the modules that are the blocks, such as "blocks.*" (`find_named_blocks`); None
            to find residual additions, or layers.

    Raises:
        NetworkError: the network is compiled, does not take such images, or has neither a residual addition nor a
            layer that keeps its input's shape; or no module with a matching name keeps its input's shape.
    """
    require_uncompiled(network)
    images = example_images(network, image_shape)
    devices = [images.device] if images.device.type == "cuda" else []
    with evaluation_mode(network), torch.random.fork_rng(devices=devices):
        try:
            with torch.no_grad():  # networks may make tensors in their first pass and keep them
                network(images)
            traced = trace(network, images)
        except Exception as exc:
            raise NetworkError(
                f"the network's forward pass failed for images of shape {tuple(images.shape)} and {images.dtype}: "
                f"{type(exc).__name__}: {exc}; pass the image_shape that it was built for"
            ) from exc
    discovery = _read(traced) if blocks is None else _read_named(traced, blocks)
    if not discovery.branches:
        reasons = (
            "; ".join(f"{item.name}: {item.why}" for item in discovery.skipped_branches[:5]) or "no layer is visible"
        )
        if blocks is not None:
            raise NetworkError(
                f"no module whose name ends in {blocks!r} keeps its input's shape ({reasons}); give the names of "
                "modules, such as 'blocks.*'"
            )
        raise NetworkError(
            "expected a network with residual additions x + r(x), or with layers that keep their input's shape; "
            f"got neither ({reasons}); use an unscripted network with at least one"
        )
    return discovery


def example_images(network: nn.Module, image_shape: tuple[int, int, int], batch: int = _BATCH) -> Tensor:
    """Fixed noise images ``(batch, *image_shape)`` in [0, 1], on the network's device and in its precision."""
    noise = torch.rand((batch, *image_shape), generator=torch.Generator().manual_seed(0))
    first = next((p for p in (*network.parameters(), *network.buffers()) if p.is_floating_point()), noise)
    return noise.to(device=first.device, dtype=first.dtype)


def _read(traced: Trace) -> Discovery:
    """Branches and skipped branches of a trace: additions if there are any, otherwise block differences."""
    skipped: list[SkippedBranch] = []
    sums: dict[int, FoundBranch] = {}
    for call in traced.calls:
        if (found := find_addition(traced, call, sums, skipped)) is not None:
            sums[call.index] = found
    branches = list(sums.values())
    siblings = siblings_without_branch(traced, branches)
    skipped += [*siblings, *unreadable_blocks(traced, branches, skipped, siblings)]
    if not branches:
        layers = (find_block_difference(traced, call, skipped) for call in traced.calls)
        branches = [layer for layer in layers if layer is not None]
    return Discovery(tuple(_with_unique_names(found.branch for found in branches)), tuple(skipped))


def _read_named(traced: Trace, pattern: str) -> Discovery:
    """The named blocks of a trace."""
    skipped: list[SkippedBranch] = []
    branches = find_named_blocks(traced, pattern, skipped)
    return Discovery(tuple(_with_unique_names(branches)), tuple(skipped), pattern)


def _with_unique_names(branches: Iterable[Branch]) -> list[Branch]:
    seen: Counter[str] = Counter()
    result = []
    for branch in branches:
        seen[branch.name] += 1
        again = seen[branch.name]
        result.append(branch if again == 1 else replace(branch, name=f"{branch.name}#{again}"))
    return result
