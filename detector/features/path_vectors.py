"""Feature requests for the path, a short vector per block, and for logits, of the image and of a view of it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from detector.features.embeddings import padded
from models.features import ForwardPass, Needs
from models.images.views import IMAGE, View

__all__ = ["CompanionLogits", "PathVectors", "ViewLogits", "ViewStatistics", "ViewVectors"]

WIDTH = 256  # maximum length of a vector; the precision matrices of L blocks have L · WIDTH² entries


@dataclass(frozen=True)
class PathVectors:
    """Float32 ``(B, L, D)``: the embeddings or residues of all blocks, averaged over the positions in the image.

    A vector wider than 256 is projected to that many fixed random directions. Narrower blocks are padded with zeros.
    """

    of: Literal["embeddings", "residues"] = "embeddings"

    needs = Needs(pooled=True)

    @property
    def name(self) -> str:
        """Contains the option."""
        return f"path_vectors:{self.of}"

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return _vectors(context, self.of)


@dataclass(frozen=True)
class ViewVectors:
    """`PathVectors` of the embeddings of a view."""

    view: View

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_vectors:{self.view.name}"

    @property
    def needs(self) -> Needs:
        """Pooled vectors of the view."""
        return Needs(pooled=True, views=(self.view,))

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return _vectors(context.views[self.view], "embeddings")


@dataclass(frozen=True)
class ViewLogits:
    """Float32 ``(B, K)``: the logits of a view."""

    view: View

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_logits:{self.view.name}"

    @property
    def needs(self) -> Needs:
        """The view."""
        return Needs(views=(self.view,))

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return context.views[self.view].logits.float()


@dataclass(frozen=True)
class CompanionLogits:
    """Float32 ``(B, K)``: the logits of a second network.

    Args:
        view: of the image; `IMAGE` is the image itself.
    """

    view: View = IMAGE

    @property
    def name(self) -> str:
        """With the view."""
        return f"companion_logits:{self.view.name or 'image'}"

    @property
    def needs(self) -> Needs:
        """The companion."""
        return Needs(companion=(self.view,))

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return context.companion[self.view].float()


@dataclass(frozen=True)
class ViewStatistics:
    """Float32 ``(B, F)``: the statistics of a view."""

    view: View

    @property
    def name(self) -> str:
        """With the view."""
        return f"view_statistics:{self.view.name}"

    @property
    def needs(self) -> Needs:
        """The view."""
        return Needs(views=(self.view,))

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return context.views[self.view].statistics.float()


def _vectors(context: ForwardPass, of: Literal["embeddings", "residues"]) -> Tensor:
    vectors = context.pooled_embeddings if of == "embeddings" else context.pooled_residues
    widths = context.discovery.pooled_widths
    if max(widths) > WIDTH:
        assert vectors is not None
        vectors = _narrowed(vectors, widths)
        widths = tuple(min(width, WIDTH) for width in widths)
    return padded(vectors, widths)


def _narrowed(vectors: Tensor, widths: Sequence[int]) -> Tensor:
    """Vectors ``(B, Σ D_m)`` with each wide D_m projected, ``(B, Σ min(D_m, WIDTH))``."""
    runs = [(width, len(list(run))) for width, run in groupby(widths)]
    parts = list(torch.split(vectors, [width * blocks for width, blocks in runs], dim=1))
    for index, (width, blocks) in enumerate(runs):
        if width > WIDTH:
            # One product per image: the order of addition of a single product depends on the number of images.
            directions = _directions(width, vectors.device).expand(len(vectors), -1, -1)
            parts[index] = torch.bmm(parts[index].reshape(len(vectors), blocks, width), directions).flatten(1)
    return torch.cat(parts, dim=1)


@functools.cache
def _directions(width: int, device: torch.device) -> Tensor:
    """Fixed random directions ``(width, WIDTH)``, from torch's CPU generator on every device."""
    with torch.inference_mode(False):
        numbers: Tensor = torch.randn(width, WIDTH, generator=torch.Generator().manual_seed(width))
        return (numbers / math.sqrt(WIDTH)).to(device)
