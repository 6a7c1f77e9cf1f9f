"""Scores and columns of detectors that an attacker can differentiate as they are, without a stand-in."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.detectors.base import Detector, Judged
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.embeddings import PooledEmbeddings
from detector.gaussians import Gaussians
from models.features import Features

__all__ = ["Distances", "exact_margins"]

DISTANCES = "distances"  # name of the part of the features that stands in for the embeddings


class Distances:
    """The columns of a Mahalanobis detector, one distance per layer, as numbers to judge by and as tensors.

    An attacker has to reach these few numbers, not the hundreds of the embeddings that they are made of.

    Args:
        detector: fitted.
        sums: the Gaussians whose distances are added up, each with its sign.
    """

    def __init__(self, detector: Mahalanobis | RelativeMahalanobis, sums: list[tuple[float, Gaussians]]) -> None:
        self._detector, self._sums = detector, sums
        self.embeddings = PooledEmbeddings(detector.layers).name

    @classmethod
    def of(cls, detector: Detector) -> "Distances | None":
        """Those of the detector; None where it judges by other columns, or by distances of moved images."""
        if isinstance(detector, Mahalanobis) and not detector.magnitude:
            return cls(detector, [(1.0, detector.gaussians_)])
        if isinstance(detector, RelativeMahalanobis):
            return cls(detector, [(1.0, detector.classes_), (-1.0, detector.everyone_)])
        return None

    def measured(self, features: Features) -> NDArray[np.float32]:
        """``(N, L)``, from the embeddings."""
        embeddings = features.measured[self.embeddings]
        columns: NDArray[np.float32] = np.sum(
            [sign * gaussians.distances(embeddings) for sign, gaussians in self._sums], axis=0
        ).astype(np.float32)
        return columns

    def judge(self, distances: NDArray[np.float32], predicted: NDArray[np.int64]) -> Judged:
        """What the detector says of images with these distances ``(N, L)`` and predicted classes ``(N,)``."""
        if self._detector.classifier == "none":
            return Judged(self.outlier_score(torch.from_numpy(distances.astype(np.float64))).numpy(), {})
        return self._detector.conditional_.judge(distances, predicted)

    def outlier_score(self, distances: Tensor) -> Tensor:
        """The score ``(N,)`` of classifier="none" from distances ``(N, L)``."""
        return distances.sum(1) if self._detector.combine == "sum" else distances[:, -1]

    @property
    def is_score(self) -> bool:
        """Whether the detector's score is `outlier_score`: no classifier stands between."""
        return self._detector.classifier == "none"

    def __call__(self, embeddings: Tensor) -> Tensor:
        """``(b, L)`` float32 of pooled embeddings ``(b, L, D)``, differentiable."""
        total = torch.zeros(embeddings.shape[:2], dtype=torch.float64, device=embeddings.device)
        for sign, gaussians in self._sums:
            arrays = (gaussians.centre, gaussians.whitening, gaussians.whitened_means)
            centres, whitening, means = (torch.from_numpy(array).to(embeddings.device) for array in arrays)
            whitened = torch.einsum("bld,lde->ble", embeddings.double() - centres, whitening)
            total = total + sign * (whitened[:, :, None] - means).square().sum(3).amin(2)
        return total.float()


def exact_margins(
    detector: Detector, distances: Distances | None, threshold: float
) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """Parts of the features → margins ``(b,)``, above 0 where flagged, differentiable; None where there is no such.

    A margin may be any rising function of score − threshold that is 0 where it is.
    """
    if isinstance(detector, Energy):
        return lambda parts: -torch.logsumexp(parts["logits"].double(), 1) - threshold
    if isinstance(detector, MaxSoftmax) and 0 < threshold < 1:
        # Log-odds: one minus a probability has no slope left where the network is sure.
        odds = math.log(threshold) - math.log1p(-threshold)
        return lambda parts: _odds_against_largest(parts["logits"].double()) - odds
    if distances is not None and distances.is_score:
        return lambda parts: distances.outlier_score(parts[DISTANCES].double()) - threshold
    return None


def _odds_against_largest(logits: Tensor) -> Tensor:
    """log((1 − p) / p) of the largest probability p"""
    ordered = logits.sort(1, descending=True).values
    return torch.logsumexp(ordered[:, 1:], 1) - ordered[:, 0]
