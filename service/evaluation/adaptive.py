"""The hook for adaptive attacks in an evaluation: whose pipelines are attacked, and on which images."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.datasets.base import ImageDataset
from service.adaptive.budgets import Budgets
from service.adaptive.running import run_adaptive
from service.adaptive.settings import AdaptiveSettings
from service.evaluation.sets import ExtractedSet, Subject
from service.evaluation.settings import EvaluationSettings

__all__ = ["attacked_adaptively", "pipeline_of"]

_ONE_VOTE = "all_class"


def pipeline_of(subject: Subject, detector: Detector, calibration: Calibration, natural: ExtractedSet) -> Pipeline:
    """A detector fitted in an evaluation as what is served, so that it can be attacked whole."""
    return Pipeline(
        network=subject.network, discovery=subject.discovery, statistics_spec=subject.statistics_spec,
        detector=detector,
        calibration=calibration, classes=subject.classes, band=natural_band(natural.features.statistics),
        image_shape=subject.image_shape, device=subject.device,
    )  # fmt: skip


def attacked_adaptively(
    who: str,
    pipeline: Pipeline,
    data: ImageDataset,
    tested: NDArray[np.int64],
    settings: EvaluationSettings,
    *,
    one_vote: Calibration | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Name → figures of `run_adaptive`: of the pipeline and, where it is calibrated, of its all-class vote alone.

    Args:
        tested: originals that the detector was neither fitted nor calibrated on; some of them by lot are attacked.
        one_vote: threshold of the vote "all_class" of a detector whose score is the larger of two votes.
    """
    chosen = np.random.default_rng([settings.seed, 5]).permutation(tested)[: settings.adaptive_images]
    chosen = np.sort(chosen)
    adaptive = AdaptiveSettings(
        attacks=settings.adaptive,
        budgets=settings.adaptive_budgets or Budgets(),
        cache=settings.cache,
        seed=settings.seed,
    )
    images, labels = data.tensor(chosen), data.labels[chosen]
    figures = {who: run_adaptive(pipeline, images, labels, adaptive, progress=progress)}
    if one_vote is not None:
        adaptive = dataclasses.replace(adaptive, ensemble=False, calibration=one_vote)
        name = f"{who}, {_ONE_VOTE} vote alone"
        figures[name] = run_adaptive(pipeline, images, labels, adaptive, progress=progress)
    return figures
