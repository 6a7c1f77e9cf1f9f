"""Pooled embeddings of an image: one short vector per recorded block, as most published detectors use.

The embedding of a block is x_{m+1}, averaged over the positions in the image. Blocks differ in width; in one array,
narrow ones are padded with zeros, which change no distance between images.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.features import ForwardPass, Needs

__all__ = ["Layers", "PooledEmbeddings", "chosen_blocks", "padded"]

Layers = Literal["blocks", "stages"]


@dataclass(frozen=True)
class PooledEmbeddings:
    """Float32 ``(B, L, D)``: the pooled embeddings of L blocks, padded with zeros to the width of the widest.

    Args:
        layers: "blocks" for every recorded block; "stages" for the last of each run of blocks of one shape.
        network: state a need of the network, which a later request of the same detector has.
    """

    layers: Layers = "blocks"
    network: bool = False

    @property
    def needs(self) -> Needs:
        """Pooled embeddings, and perhaps the network."""
        return Needs(pooled=True, network=self.network)

    @property
    def name(self) -> str:
        """ "embeddings" of all blocks, or "embeddings:stages"."""
        return "embeddings" if self.layers == "blocks" else f"embeddings:{self.layers}"

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        shapes = tuple(branch.shape for branch in context.discovery.branches)
        return padded(context.pooled_embeddings, context.discovery.pooled_widths, _chosen(shapes, self.layers))


def chosen_blocks(shapes: Sequence[tuple[int, ...]], layers: Layers) -> list[int]:
    """The indices of all blocks, or of the last block of each run of blocks of one shape."""
    count = len(shapes)
    return [
        block
        for block in range(count)
        if layers == "blocks" or block == count - 1 or shapes[block + 1] != shapes[block]
    ]


_chosen = functools.cache(lambda shapes, layers: tuple(chosen_blocks(shapes, layers)))


def padded(vectors: Tensor | None, widths: tuple[int, ...], blocks: tuple[int, ...] | None = None) -> Tensor:
    """Vectors ``(B, L, D)`` of some blocks, the narrow ones padded with zeros to the width of the widest.

    Args:
        vectors: ``(B, Σ D_m)`` of all blocks, block after block.
        widths: D_m.
        blocks: indices; None for all.
    """
    assert vectors is not None
    shape, places = _places(widths, blocks, vectors.device)
    if places is not None:  # the last column is the padding
        vectors = torch.nn.functional.pad(vectors, (0, 1)).index_select(1, places)
    return vectors.view(len(vectors), *shape)


@functools.cache
def _places(
    widths: tuple[int, ...], blocks: tuple[int, ...] | None, device: torch.device
) -> tuple[tuple[int, int], Tensor | None]:
    """L and D, and the column of each entry of `padded`; None if every block of one width is chosen."""
    chosen = range(len(widths)) if blocks is None else blocks
    starts, width = [sum(widths[:block]) for block in chosen], max(widths[block] for block in chosen)
    if len(chosen) * width == sum(widths):
        return (len(chosen), width), None
    columns = [
        start + column if column < widths[block] else sum(widths)
        for block, start in zip(chosen, starts, strict=True)
        for column in range(width)
    ]
    with torch.inference_mode(False):
        return (len(chosen), width), torch.tensor(columns, device=device)
