"""The hook for adaptive attacks in an evaluation: whose pipelines are attacked, and on which images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.datasets.base import ImageDataset
from service.adaptive.running import run_adaptive
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
    shared: dict[str, Any] = {
        "budgets": settings.adaptive_budgets, "cache": settings.cache, "seed": settings.seed, "progress": progress,
    }  # fmt: skip
    images, labels = data.tensor(chosen), data.labels[chosen]
    found = {who: run_adaptive(pipeline, images, labels, settings.adaptive, **shared)}
    if one_vote is not None:
        figures = run_adaptive(
            pipeline, images, labels, settings.adaptive, ensemble=False, calibration=one_vote, **shared
        )
        found[f"{who}, {_ONE_VOTE} vote alone"] = figures
    return found
