"""The feature-matching attack: accepted features first, then an image that has them (thesis 5.4.5, equation 42)."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.adaptive.black_box import find_features, nearest_starts
from attacks.adaptive.feature_matching import match_features
from attacks.adaptive.result import AdaptiveResult
from models.features import Features
from service.adaptive.context import AttackContext
from service.adaptive.system import predicted_by

__all__ = ["FeatureMatching"]

_PROBES = 32  # random images beside the natural ones, to find the parts that the score depends on


class FeatureMatching:
    """The attack on the rows of a context."""

    def __init__(self, context: AttackContext) -> None:
        self._context = context

    @functools.cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of the features to match: those that the score depends on, or the logits if there are no others."""
        context = self._context
        # Random images too: among natural images of one class, exchanged parts may leave every score unchanged.
        shape = (_PROBES, *context.images.shape[1:])
        probes = torch.rand(shape, generator=torch.Generator().manual_seed(context.settings.seed)).to(context.images)
        used = context.system.used_parts(Features.concatenated([context.natural, context.system.features(probes)]))
        return tuple(name for name in used if name != "logits") or ("logits",)

    def unavailable(self) -> str | None:
        """The reason why the features cannot be matched; None if they can."""
        if missing := [name for name in self.parts if name not in self._context.system.differentiable]:
            name = self._context.system.pipeline.detector.name
            return f"{name} depends on {', '.join(missing)}, which has no gradient in the images"
        return None

    def __call__(self, rows: NDArray[np.int64], seed: int) -> tuple[AdaptiveResult, dict[str, Tensor]]:
        """Result on these rows, and the flag "features_found" for images with accepted features."""
        context = self._context
        features = self._find_features(rows, seed)
        found = features.evaded.nonzero().squeeze(1)
        images, evaded = context.fooled[rows].clone(), torch.zeros_like(features.evaded)
        queries, gradients = features.queries.clone(), torch.zeros_like(features.queries)
        if len(found):
            matched = self._match(rows, found, features.images[found])
            images[found], evaded[found] = matched.images, matched.evaded
            queries[found] += matched.queries
            gradients[found] += matched.gradients
        return AdaptiveResult(images, evaded, queries, gradients), {"features_found": features.evaded}

    def _find_features(self, rows: NDArray[np.int64], seed: int) -> AdaptiveResult:
        """HopSkipJump in feature space; the logits stay those of the detected image."""
        context, names = self._context, self.parts
        given = context.system.parts(context.fooled_features.take(rows))
        widths = [given[name].shape[1] for name in names]

        def passes(points: Tensor, which: Tensor) -> Tensor:
            queried = which.cpu().numpy()
            parts = {name: values[queried] for name, values in given.items()}
            split = np.split(points.float().cpu().numpy(), np.cumsum(widths)[:-1], axis=1)
            parts |= dict(zip(names, split, strict=True))
            wrong = predicted_by(parts) != context.truth[rows[queried]]
            return context.tensor((context.system.margins_of(parts) < 0) & wrong)

        accepted_classes = context.natural.predicted[None, context.accepted]
        allowed = context.fooled_features.predicted[rows][:, None] == accepted_classes
        if names == ("logits",):  # the class follows from the features themselves, so that any wrong class will do
            allowed = context.truth[rows][:, None] != accepted_classes
        everything = self._columns_of_all_images()
        low, high = context.tensor(everything.min(0)), context.tensor(everything.max(0))
        extent = torch.where(high > low, high - low, torch.ones_like(low))
        detected = context.tensor(_columns(given, names))
        natural = context.tensor(self._natural_columns[context.accepted])
        # The nearest start in the scaled box, where the attack measures distances.
        starts, _ = nearest_starts((detected - low) / extent, (natural - low) / extent, context.tensor(allowed))
        options = context.hop_skip_jump_options(seed)
        return find_features(passes, detected, low + starts * extent, low=low, high=high, **options)

    def _match(self, rows: NDArray[np.int64], found: Tensor, targets: Tensor) -> AdaptiveResult:
        """Images with the target features, by gradients of equation 42, for these of the rows."""
        context, names = self._context, self.parts
        labels = context.labels[rows][found]

        def forward(points: Tensor) -> tuple[Tensor, Tensor]:
            logits, parts = context.system.forward(points)
            return logits, torch.cat([parts[name] for name in names], dim=1)

        natural_spread = self._natural_columns.std(0)
        spread = np.where(natural_spread > 0, natural_spread, self._columns_of_all_images().std(0))
        scale = context.tensor(spread)
        return match_features(
            forward,
            context.decide(lambda predicted, which: predicted != labels[which]),
            context.images[rows][found],
            context.fooled[rows][found],
            labels,
            targets,
            scale=torch.where(scale > 0, scale, torch.ones_like(scale)),
            weights=context.budgets.matching_weights,
            distance_weight=context.budgets.matching_distance,
            loss=context.budgets.matching_loss,
            steps=context.budgets.matching_steps,
        )

    @functools.cached_property
    def _natural_columns(self) -> NDArray[np.float32]:
        return _columns(self._context.system.parts(self._context.natural), self.parts)

    def _columns_of_all_images(self) -> NDArray[np.float32]:
        fooled = _columns(self._context.system.parts(self._context.fooled_features), self.parts)
        return np.concatenate([self._natural_columns, fooled])


def _columns(parts: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> NDArray[np.float32]:
    return np.concatenate([parts[name] for name in names], axis=1)
