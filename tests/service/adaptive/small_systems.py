"""Small pipelines on digits, and adaptive attacks on them with small budgets."""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from attacks import build_attack
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.common.result import ScoreResult
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.features import Features, extract_features
from models.residuals import StatisticsSpec, discover
from service.adaptive.budgets import Budgets
from service.adaptive.records import AdaptiveAttacks, AdaptiveSet
from service.adaptive.running import attack_adaptively, run_adaptive
from service.adaptive.settings import AdaptiveSettings
from tests.attacks.digits import digits
from tests.conftest import SEED

COUNT = 16
BUDGETS = dataclasses.replace(Budgets.small(), descent_steps=10, surrogate_rounds=1, matching_steps=12)


class OnlyClass(Detector):
    """Flags all images not predicted as one class; on images of this class, exactly the misclassified ones."""

    def __init__(self, *, trusted: int = 0) -> None:
        self.trusted = trusted

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        pass

    def _score(self, features: Features) -> ScoreResult:
        return ScoreResult((features.predicted != self.trusted).astype(np.float64), {})

    def _state(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        pass


@functools.cache
def all_digits() -> tuple[torch.Tensor, torch.Tensor]:
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    return F.interpolate(images, scale_factor=2).contiguous(), torch.tensor(bunch.target, dtype=torch.int64)


@functools.cache
def attacked_digits(first: int, last: int) -> torch.Tensor:
    images, labels = (part[first:last] for part in all_digits())
    return build_attack("carlini_wagner", BUDGETS.carlini_wagner)(digits(SEED).network, images, labels)


def pipeline_of(detector: Detector, *, fpr: float = 0.1) -> Pipeline:
    """A calibrated pipeline, fitted on Carlini and Wagner's images if needed, with disjoint digits for each purpose."""
    network = copy.deepcopy(digits(SEED).network).requires_grad_(False)
    discovery = discover(network, (3, 16, 16))
    images, labels = all_digits()
    reference, fitting, held_out = slice(0, 300), slice(300, 420), slice(420, 600)

    def features(batch: torch.Tensor) -> Features:
        return extract_features(network, batch, discovery=discovery, feature_requests=detector.feature_requests())

    if detector.needs_reference:
        detector.prepare(features(images[reference]), labels[reference].numpy())
    natural, adversarial = features(images[fitting]), None
    if detector.needs_adversarial:
        adversarial = features(attacked_digits(fitting.start, fitting.stop))
    detector.fit(natural, adversarial)
    return Pipeline(
        network=network,  # type: ignore[arg-type]
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(features(images[held_out])), fpr),
        classes=[str(digit) for digit in range(10)],
        band=natural_band(natural.statistics),
        image_shape=(3, 16, 16),
    )


def attacked(
    pipeline: Pipeline,
    images: torch.Tensor,
    labels: torch.Tensor,
    attacks: Sequence[str] = AdaptiveSettings.attacks,
    **settings: Any,
) -> AdaptiveAttacks:
    """Results of the attacks with small budgets."""
    chosen = AdaptiveSettings(attacks=attacks, **{"budgets": BUDGETS, **settings})
    return attack_adaptively(pipeline, images, labels, chosen, progress=False)


def figures_of(
    pipeline: Pipeline,
    images: torch.Tensor,
    labels: torch.Tensor,
    attacks: Sequence[str] = AdaptiveSettings.attacks,
    **settings: Any,
) -> dict[str, Any]:
    """Figures of the attacks with small budgets."""
    chosen = AdaptiveSettings(attacks=attacks, **{"budgets": BUDGETS, **settings})
    return run_adaptive(pipeline, images, labels, chosen, progress=False)


def everything(found: AdaptiveAttacks) -> tuple[AdaptiveSet, ...]:
    return (*found.sets, *found.unlimited, *found.few_steps)
