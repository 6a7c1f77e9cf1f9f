"""Statistics of an image's path that no detector uses, measured beside those that do: candidates for `search`.

Functions of tensors and arrays, and measurements that apply them; those of whole residues make a pass of their own.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from detector.features.embeddings import filled, pooled
from models.features import ForwardPass, Needs
from models.residuals import record_residues

__all__ = [
    "ClassProjections", "Curvature", "PooledMoments", "SpectralShares", "class_projections", "exit_agreement",
    "high_frequency_share", "moments", "successive_cosines",
]  # fmt: skip

Array = np.ndarray


@dataclass(frozen=True)
class Curvature:
    """Float32 ``(B, P)``: `successive_cosines` of the residues; a straight path has ones."""

    name = "curvature"
    needs = Needs()

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return successive_cosines(_residues(context))


@dataclass(frozen=True)
class SpectralShares:
    """Float32 ``(B, L)``: `high_frequency_share` of every residue that is a map."""

    name = "spectral_shares"
    needs = Needs()

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        maps = [residue for residue in _residues(context) if residue.dim() == 4]
        if not maps:
            return context.logits.new_zeros((len(context.logits), 0), dtype=torch.float32)
        return torch.stack([high_frequency_share(each) for each in maps], dim=1)


@dataclass(frozen=True)
class PooledMoments:
    """Float32 ``(B, L, D)``: of every channel of the embeddings, deviation or mean square over the places."""

    of: Literal["deviations", "squares"]

    needs = Needs(embeddings=True)

    @property
    def name(self) -> str:
        """With its option."""
        return f"pooled_moments:{self.of}"

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        return filled([moments(embedding, self.of) for embedding in context.embeddings])


@dataclass(frozen=True)
class ClassProjections:
    """Float32 ``(B, 3·L)``: `class_projections` of the residues as wide as the classifier, onto its rows."""

    name = "class_projections"
    needs = Needs(embeddings=True)

    def __call__(self, context: ForwardPass) -> Tensor:
        """See the class."""
        module = None if context.head is None else context.head.module
        if not isinstance(module, nn.Linear):
            return context.logits.new_zeros((len(context.logits), 0), dtype=torch.float32)
        late = [vector for residue in _residues(context) if (vector := pooled(residue)).shape[1] == module.in_features]
        return class_projections(late, context.logits, module.weight)


def _residues(context: ForwardPass) -> tuple[Tensor, ...]:
    with record_residues(context.network, context.discovery, keep=True, statistics=False) as steps:
        context.network(context.images)
    return steps.residues


def successive_cosines(residues: Sequence[Tensor]) -> Tensor:
    """Cosines of every residue ``(B, …)`` with the one before it, where both have one shape: float32 ``(B, P)``."""
    found = []
    for before, after in itertools.pairwise(residues):
        if before.shape != after.shape:
            continue
        first, second = before.float().flatten(1), after.float().flatten(1)
        size = (first.square().sum(1) * second.square().sum(1)).sqrt().clamp_min(1e-12)  # a residue may be 0 everywhere
        found.append((first * second).sum(1) / size)
    return torch.stack(found, dim=1) if found else residues[0].new_zeros((len(residues[0]), 0)).float()


def high_frequency_share(maps: Tensor) -> Tensor:
    """``(B,)``: the share of the energy of maps ``(B, C, H, W)`` that half their resolution could not hold.

    That is what is at a quarter of a cycle per place or more, in either direction.
    """
    energy = torch.fft.fft2(maps.float()).abs().square().sum(dim=1)
    vertical, horizontal = (torch.fft.fftfreq(size, device=maps.device).abs() for size in maps.shape[2:])
    high = torch.maximum(vertical[:, None], horizontal[None]) >= 0.25
    share: Tensor = (energy * high).sum(dim=(1, 2)) / energy.sum(dim=(1, 2)).clamp_min(1e-12)
    return share


def moments(embedding: Tensor, of: Literal["deviations", "squares"]) -> Tensor:
    """Of every channel ``(B, D)``: its standard deviation over the places, or the mean of its squares."""
    squares = pooled(embedding.float().square())
    if of == "squares":
        return squares
    return (squares - pooled(embedding).square()).clamp_min(0).sqrt()


def class_projections(vectors: Sequence[Tensor], logits: Tensor, rows: Tensor) -> Tensor:
    """Products of vectors ``(B, D)`` with the classifier's rows ``(K, D)`` of the two likeliest classes.

    Float32 ``(B, 3·L)``: all with the first, then all with the second, then the differences.
    """
    if not vectors:
        return logits.new_zeros((len(logits), 0), dtype=torch.float32)
    likeliest = logits.argsort(dim=1, descending=True, stable=True)
    stacked = torch.stack(list(vectors), dim=1).float()
    first, second = ((stacked * rows[likeliest[:, rank], None].float()).sum(2) for rank in (0, 1))
    return torch.cat([first, second, first - second], dim=1)


def exit_agreement(distances: Array) -> Array:
    """Where the nearest class mean is that of the answer, by `path_columns.class_distances`: float64 ``(N, L + 2)``.

    1 or 0 per block, their mean, and the share of blocks, counted from the end, after which they all agree.
    """
    own, _, nearest, _ = np.split(distances, 4, axis=1)
    agrees = (own <= nearest).astype(np.float64)
    settled = np.cumprod(agrees[:, ::-1], axis=1).mean(axis=1)
    return np.concatenate([agrees, agrees.mean(axis=1, keepdims=True), settled[:, None]], axis=1)
