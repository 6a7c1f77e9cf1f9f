"""Fourier spectra of the image or of its embeddings: magnitudes, phases or both (Harder et al., 2021; thesis E.2.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from detector.base.requested_columns import RequestedColumns
from detector.features.embeddings import chosen_blocks
from detector.features.image_statistics import spectrum
from detector.features.image_statistics.fourier import Part
from models.errors import InputError
from models.features import FeatureRequest, ForwardPass, Needs

__all__ = ["Fourier"]

Layers = Literal["input", "all", "stages"]

_MOST_BLOCKS = 10_000


class Fourier(RequestedColumns):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given the spectrum of image or embeddings.

    See `detector.features.image_statistics.spectrum` for the columns and
    `detector.base.columns.ColumnsDetector` for the classifiers. The image has one spectrum per channel. The embedding
    of a block has one spectrum, averaged over its channels, with at most 544 magnitudes and 544 phases for every
    network. The paper uses a spectrum per channel, and therefore only few layers.

    Args:
        of: "magnitude" (the paper's MFS), "phase" (its PFS) or "both".
        layers: "input" for the image itself; "all" for the embeddings of all recorded blocks; "stages" for those of the
            last block of each run of blocks of one shape; or the blocks' numbers, from 0.
        options: see `ColumnsDetector`. The paper's classifier is "logistic_regression".
    """

    def __init__(
        self,
        *,
        of: Part = "magnitude",
        layers: Layers | Sequence[int] = "input",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.of = of
        self.layers = layers

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.of not in get_args(Part):
            raise InputError(f"expected of='magnitude', 'phase' or 'both', got {self.of!r:.200}")
        if self.layers in get_args(Layers):
            return
        if (
            not isinstance(self.layers, list | tuple)
            or not self.layers
            or not all(type(block) is int and 0 <= block < _MOST_BLOCKS for block in self.layers)
            or len(set(self.layers)) < len(self.layers)
        ):
            raise InputError(
                "expected layers='input', 'all', 'stages' or different numbers of blocks from 0 on, "
                f"got {self.layers!r:.200}"
            )

    def _request(self) -> FeatureRequest:
        return _Measured(self.of, self.layers if isinstance(self.layers, str) else tuple(self.layers))


@dataclass(frozen=True)
class _Measured:
    of: Part
    layers: Layers | tuple[int, ...]

    @property
    def name(self) -> str:
        layers = self.layers if isinstance(self.layers, str) else ",".join(map(str, self.layers))
        return f"fourier:{layers}:{self.of}"

    @property
    def needs(self) -> Needs:
        return Needs(embeddings=self.layers != "input")

    def __call__(self, context: ForwardPass) -> Tensor:
        if self.layers == "input":
            return spectrum(context.images, self.of)
        parts = [spectrum(_maps(embedding), self.of, average=True) for embedding in self._chosen(context.embeddings)]
        return torch.cat(parts, dim=1)

    def _chosen(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        if isinstance(self.layers, str):
            shapes = [tuple(embedding.shape[1:]) for embedding in embeddings]
            blocks = chosen_blocks(shapes, "stages" if self.layers == "stages" else "blocks")
            return [embeddings[block] for block in blocks]
        if max(self.layers) >= len(embeddings):
            raise InputError(
                f"expected numbers of the network's {len(embeddings)} blocks, from 0 on, got {max(self.layers)}; "
                "choose other layers"
            )
        return [embeddings[block] for block in self.layers]


def _maps(embedding: Tensor) -> Tensor:
    """Maps ``(B, C, H, W)`` of an embedding: tokens ``(B, T, C)`` on their square grid, without the class token.

    Without such a grid, tokens are a map of one row, and so are the values of an embedding without positions.
    """
    if embedding.dim() == 4:
        _, first, second, third = embedding.shape
        return embedding.movedim(-1, 1) if first == second != third else embedding
    if embedding.dim() != 3:
        return embedding.flatten(1)[:, None, None, :]
    tokens = embedding.transpose(1, 2)
    for patches in (tokens, tokens[:, :, 1:]):
        side = math.isqrt(patches.shape[2])
        if side and side * side == patches.shape[2]:
            return patches.reshape(*patches.shape[:2], side, side)
    return tokens[:, :, None, :]
