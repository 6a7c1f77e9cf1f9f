"""Adaptive attacks of an evaluation: on the artifact, or on each detector as first fitted in the first run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from service.adaptive.budgets import Budgets
from service.adaptive.running import run_adaptive
from service.adaptive.settings import AdaptiveSettings
from service.evaluation.planning.plan import EvaluationPlan
from service.evaluation.planning.subject import Subject
from service.evaluation.records import NATURAL
from service.evaluation.running.scoring import Scorer, fitting_of
from service.evaluation.running.sets import ExtractedSet
from service.inputs import needs_companion

__all__ = ["attack_adaptively"]

_ONE_VOTE = "all_class"


def attack_adaptively(
    plan: EvaluationPlan, sets: Mapping[str, ExtractedSet], scorer: Scorer, *, progress: bool
) -> dict[str, Any]:
    """The figures of `run_adaptive` by what was attacked: a detector, and its all-class vote alone if it has one.

    Args:
        plan: of the evaluation.
        sets: by name.
        scorer: of these sets.
        progress: show progress bars.
    """
    if plan.unseen is not None:
        pipeline = plan.unseen.artifact.pipeline
        return {"artifact": _figures(plan, pipeline, plan.unseen.rows, progress=progress)}
    run, rate = plan.splits.runs[0], plan.settings.operating_rate
    figures: dict[str, Any] = {}
    for label in plan.settings.attacked_adaptively:
        fit = plan.selection.fits_of(label)[0]
        name = f"{label} fitted on {' and '.join(fit)}" if fit else label
        fitted, _ = scorer.fitted(label, plan.selection.detectors[label], fitting_of(plan, scorer, run, label, fit))
        calibration = scorer.calibration(fitted, run.calibrate, rate)
        pipeline = _pipeline(plan.subject, fitted, calibration, sets[NATURAL])
        figures[name] = _figures(plan, pipeline, run.test, progress=progress)
        one_vote = scorer.calibration_of_component(fitted, run.calibrate, rate, _ONE_VOTE)
        if one_vote is not None:
            figures[f"{name}, {_ONE_VOTE} vote alone"] = _figures(
                plan, pipeline, run.test, progress=progress, ensemble=False, calibration=one_vote
            )
    return figures


def _pipeline(subject: Subject, detector: Detector, calibration: Calibration, natural: ExtractedSet) -> Pipeline:
    """The fitted detector as it would be served, so that network and detector are attacked together."""
    return Pipeline(
        network=subject.network, discovery=subject.discovery, statistics_spec=subject.statistics_spec,
        detector=detector, calibration=calibration, classes=subject.classes,
        band=natural_band(natural.features.statistics), image_shape=subject.image_shape, device=subject.device,
        companion=subject.companion if needs_companion(detector) else None,
        engine=subject.engine,
    )  # fmt: skip


def _figures(
    plan: EvaluationPlan, pipeline: Pipeline, tested: NDArray[np.int64], *, progress: bool, **options: Any
) -> dict[str, Any]:
    """The figures of adaptive attacks on a random sample of the tested originals."""
    settings, data = plan.settings, plan.images.data
    order = np.random.default_rng([settings.seed, 5]).permutation(tested)
    chosen = np.sort(order[: settings.adaptive_images])
    adaptive = AdaptiveSettings(
        attacks=settings.adaptive, budgets=settings.adaptive_budgets or Budgets(), cache=settings.cache,
        seed=settings.seed, **options,
    )  # fmt: skip
    return run_adaptive(pipeline, data.tensor(chosen), data.labels[chosen], adaptive, progress=progress)
