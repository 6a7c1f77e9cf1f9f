"""What detectors compare along a path: a short vector per block, of the image and of another view of it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detector.embeddings import filled, pooled
from models.features import Pass
from models.views import View

__all__ = ["PathVectors", "ViewDistances", "ViewLogits", "ViewStatistics", "ViewVectors"]

WIDTH = 256  # of a vector, at most; the precision matrices of L blocks take L · WIDTH² numbers each


@dataclass(frozen=True)
class PathVectors:
    """Float32 ``(B, L, D)``: the embeddings or residues of all blocks, averaged over the places in the image.

    A vector wider than 256 is projected to that many fixed random directions. Narrower blocks have zeros behind.
    """

    of: Literal["embeddings", "residues"] = "embeddings"

    needs_embeddings = True

    @property
    def name(self) -> str:
        """With its option."""
        return f"path_vectors:{self.of}"

    def __call__(self, context: Pass) -> Tensor:
        """See the class."""
        return _vectors(context.embeddings if self.of == "embeddings" else context.residues)


@dataclass(frozen=True)
class ViewVectors:
    """`PathVectors` of the embeddings of a view."""

    view: View

    needs_embeddings = True

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_vectors:{self.view.name}"

    def __call__(self, context: Pass) -> Tensor:
        """See the class."""
        return _vectors(context.views[self.view].embeddings)


@dataclass(frozen=True)
class ViewLogits:
    """Float32 ``(B, K)``: the logits of a view."""

    view: View

    needs_embeddings = False

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_logits:{self.view.name}"

    def __call__(self, context: Pass) -> Tensor:
        """See the class."""
        return context.views[self.view].logits.float()


@dataclass(frozen=True)
class ViewStatistics:
    """Float32 ``(B, F)``: the statistics of a view."""

    view: View

    needs_embeddings = False

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_statistics:{self.view.name}"

    def __call__(self, context: Pass) -> Tensor:
        """See the class."""
        statistics = context.views[self.view].statistics
        assert statistics is not None
        return statistics.float()


@dataclass(frozen=True)
class ViewDistances:
    """Float32 ``(B, L)``: per block, how far the view's embedding is from the image's: ‖x′ − x‖² / ‖x‖².

    Maps of a mirrored image are mirrored back first, so that each place is compared with itself.
    """

    view: View

    needs_embeddings = True

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_distances:{self.view.name}"

    def __call__(self, context: Pass) -> Tensor:
        """See the class."""
        found = []
        for own, other in zip(context.embeddings, context.views[self.view].embeddings, strict=True):
            first, second = own.float().flatten(1), self.view.back(other).float().flatten(1)
            size = first.square().mean(dim=1).clamp_min(1e-12)  # an embedding may be 0 everywhere
            found.append((second - first).square().mean(dim=1) / size)
        return torch.stack(found, dim=1)


def _vectors(tensors: Sequence[Tensor]) -> Tensor:
    return filled([_narrowed(pooled(tensor)) for tensor in tensors])


def _narrowed(vectors: Tensor) -> Tensor:
    width = vectors.shape[1]
    return vectors if width <= WIDTH else vectors @ _directions(width).to(vectors)


@functools.cache
def _directions(width: int) -> Tensor:
    """Fixed random directions ``(width, WIDTH)``, the same on every machine for a width."""
    with torch.inference_mode(False):
        numbers: Tensor = torch.randn(width, WIDTH, generator=torch.Generator().manual_seed(width))
        return numbers / math.sqrt(WIDTH)
