"""Columns and score of `path`, `views` and `fusion` as an attacker differentiates them, through the views too."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.base.composite import SignsDetector
from detector.common.result import ScoreResult
from detector.density.gaussians import Gaussians
from detector.density.natural import NaturalColumns, Surprise
from detector.features.path_groups import PathGaussians
from detector.features.path_vectors import PathVectors, ViewLogits, ViewStatistics, ViewVectors
from models.features import Features, needs_of
from models.images.views import View
from models.residuals import BlockTensor

__all__ = ["SignColumns", "distances_to_means"]


class SignColumns:
    """The columns of a detector by signs, as numbers to judge by and as tensors with a gradient in the images."""

    name = "sign_columns"

    def __init__(self, detector: SignsDetector) -> None:
        self._detector = detector
        self._views = needs_of(detector.feature_requests()).views
        self.replaces = tuple(each.name for each in detector.feature_requests())

    def requested(self, features: Features) -> NDArray[np.float32]:
        """``(N, F)`` float32."""
        columns: NDArray[np.float32] = self._detector.columns(features)
        return columns

    def judge(self, columns: NDArray[np.float32], predicted: NDArray[np.int64]) -> ScoreResult:
        """What the detector says of images with these columns ``(N, F)`` and predicted classes ``(N,)``."""
        return self._detector.score_columns(columns, predicted)

    @property
    def is_score(self) -> bool:
        """Whether `outlier_score` is the detector's score: no classifier stands between."""
        return self._detector.classifier == "none"

    def __call__(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, F)`` float32 of logits, statistics and measurements as they come out of a pass, differentiable."""
        groups = _path_groups(logits, statistics, requested, self._detector.gaussians_)
        for view in self._views:
            groups |= _view_groups(view, logits, statistics, requested, self._detector.gaussians_)
        return torch.cat([groups[name] for name in self._detector.chosen_groups()], dim=1).float()

    def outlier_score(self, columns: Tensor, predicted: Tensor) -> Tensor:
        """The score float64 ``(b,)`` of classifier="none" from columns ``(b, F)`` and predicted classes ``(b,)``."""
        total = torch.zeros(len(columns), dtype=torch.float64, device=columns.device)
        for sign in self._detector.chosen_signs():
            looked_at = columns[:, self._detector.places(sign)].double()
            if sign.by == "value":
                number = looked_at[:, sign.column]
            else:
                number = _natural_distance(self._detector.naturals_[sign.name], looked_at, predicted)
            total = total + _surprise(self._detector.surprises_[sign.name], number).square()
        scales = torch.from_numpy(self._detector.scales_).to(columns.device)
        # The root's slope at 0 has no end.
        return total.clamp_min(1e-12).sqrt() / scales[predicted]


def _path_groups(
    logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor], gaussians: PathGaussians
) -> dict[str, Tensor]:
    """`detector.features.path_groups.path_groups`, of what was measured."""
    ordered = logits.double().sort(dim=1, descending=True).values[:, :3]
    ordered = torch.cat([ordered, ordered[:, -1:].expand(-1, max(0, 3 - ordered.shape[1]))], dim=1)
    first, second, third = ordered.T
    margins = torch.stack([first - second, second - third, first, logits.double().logsumexp(dim=1)], dim=1)
    groups = {
        "statistics": statistics,
        "logits": margins.sign() * torch.log10(1 + 1000 * margins.abs()),
        "energy": -logits.double().logsumexp(dim=1, keepdim=True),
    }
    likeliest = _likeliest(logits)
    for of in ("embeddings", "residues"):
        vectors = requested.get(PathVectors(of).name)
        if vectors is not None:
            groups[of] = _class_distances(vectors, likeliest, gaussians, of)
    if "embeddings" in groups:
        near, next_, nearest, everyone = groups["embeddings"].chunk(4, dim=1)
        groups["contrasts"] = torch.cat([near - next_, near - nearest, near - everyone, nearest - everyone], dim=1)
    return groups


def _view_groups(
    view: View, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor], gaussians: PathGaussians
) -> dict[str, Tensor]:
    """`detector.features.path_groups.view_groups`, of what was measured."""
    own, other = logits.double(), requested[ViewLogits(view).name].double()
    predicted = own.argmax(dim=1, keepdim=True)
    ordered = other.sort(dim=1, descending=True).values
    rivals = other.scatter(1, predicted, -torch.inf) if own.shape[1] > 1 else other
    p, q = own.log_softmax(dim=1), other.log_softmax(dim=1)
    middle = torch.logaddexp(p, q) - np.log(2)
    divergence = ((p.exp() * (p - middle)).sum(dim=1) + (q.exp() * (q - middle)).sum(dim=1)) / 2
    second = ordered[:, 1] if own.shape[1] > 1 else ordered[:, 0]
    outputs = [
        rivals.amax(dim=1) - other.gather(1, predicted)[:, 0],
        (other - own).square().sum(dim=1).clamp_min(1e-24).sqrt(),
        divergence,
        ordered[:, 0] - second,
        ordered[:, 0],
        other.logsumexp(dim=1),
    ]
    likeliest = _likeliest(logits)
    distances = [
        _class_distances(requested[each.name], likeliest, gaussians, "embeddings")
        for each in (PathVectors("embeddings"), ViewVectors(view))
    ]
    return {
        "outputs": torch.stack(outputs, dim=1),
        "view_statistics": requested[ViewStatistics(view).name] - statistics,
        "view_distances": _relative_distances(
            requested[PathVectors("embeddings").name], requested[ViewVectors(view).name]
        ),
        "view_classes": distances[1] - distances[0],
        "view_energy": -(own.logsumexp(dim=1) + other.logsumexp(dim=1))[:, None],
    }


def _relative_distances(vectors: Tensor, view_vectors: Tensor) -> Tensor:
    own, other = vectors.double(), view_vectors.double()
    return (other - own).square().sum(dim=2) / own.square().sum(dim=2).clamp_min(1e-12)


def _likeliest(logits: Tensor) -> Tensor:
    order = logits.argsort(dim=1, descending=True, stable=True)[:, :2]
    return order.expand(-1, 2) if order.shape[1] == 1 else order


def _class_distances(vectors: Tensor, likeliest: Tensor, gaussians: PathGaussians, of: BlockTensor) -> Tensor:
    """`detector.features.path_columns.class_distances`, float64 ``(b, 4·L)``."""
    to_classes = distances_to_means(vectors, gaussians.parts[f"{of}.classes"])
    chosen = to_classes.gather(2, likeliest[:, None].expand(-1, to_classes.shape[1], -1))
    everyone = distances_to_means(vectors, gaussians.parts[f"{of}.everyone"])[:, :, 0]
    return torch.cat([chosen[:, :, 0], chosen[:, :, 1], to_classes.amin(dim=2), everyone], dim=1)


def distances_to_means(vectors: Tensor, gaussians: Gaussians) -> Tensor:
    """To the mean of every class, float64 ``(b, L, C)``, of vectors ``(b, L, D)``."""
    arrays = (gaussians.centre, gaussians.whitening, gaussians.whitened_means)
    centre, whitening, means = (torch.from_numpy(array).to(vectors.device) for array in arrays)
    whitened = torch.einsum("bld,lde->ble", vectors.double() - centre, whitening)
    distances: Tensor = (whitened[:, :, None] - means).square().sum(dim=3)
    return distances


def _natural_distance(natural: NaturalColumns, columns: Tensor, predicted: Tensor) -> Tensor:
    centre, scale = (torch.from_numpy(array).to(columns.device) for array in (natural.centre, natural.scale))
    distances = distances_to_means(((columns - centre) / scale)[:, None], natural.gaussians)[:, 0]
    return distances.gather(1, predicted[:, None])[:, 0]


def _surprise(surprise: Surprise, numbers: Tensor) -> Tensor:
    """`Surprise` of numbers ``(b,)``: straight lines between the knots, and on beyond the last."""
    knots, levels = (torch.from_numpy(array).to(numbers.device) for array in (surprise.knots, surprise.levels))
    inside = numbers.clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, inside.detach()).clamp(1, len(knots) - 1)
    left = right - 1
    width = (knots[right] - knots[left]).clamp_min(1e-300)
    within = levels[left] + (levels[right] - levels[left]) * (inside - knots[left]) / width
    beyond: Tensor = (numbers - knots[-1]).clamp_min(0) / (surprise.excess * np.log(10))
    return within + beyond
