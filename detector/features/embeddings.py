"""Pooled embeddings of an image: one short vector per recorded block, as most published detectors use.

The embedding of a block is x_{m+1}, averaged over the positions in the image. Blocks differ in width; in one array,
narrow ones are padded with zeros, which change no distance between images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from models.features import ForwardPass, Needs

__all__ = ["Layers", "PooledEmbeddings", "chosen_blocks", "filled"]

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
        shapes = [branch.shape for branch in context.discovery.branches]
        return filled([context.pooled_embeddings[block] for block in chosen_blocks(shapes, self.layers)])


def chosen_blocks(shapes: Sequence[tuple[int, ...]], layers: Layers) -> list[int]:
    """The indices of all blocks, or of the last block of each run of blocks of one shape."""
    count = len(shapes)
    return [
        block
        for block in range(count)
        if layers == "blocks" or block == count - 1 or shapes[block + 1] != shapes[block]
    ]


def filled(vectors: Sequence[Tensor]) -> Tensor:
    """L matrices ``(B, ≤ D)`` as one array ``(B, L, D)``, the narrow ones padded with zeros."""
    width, parts = max(vector.shape[1] for vector in vectors), []
    for own, run in groupby(vectors, key=lambda vector: vector.shape[1]):  # a padding of each vector takes long
        stacked = torch.stack(list(run), dim=1)
        parts.append(stacked if own == width else torch.nn.functional.pad(stacked, (0, width - own)))
    return torch.cat(parts, dim=1)
