"""The results of an artifact on every image that it has not seen, and of trivial baselines on the same images.

The artifact is not fitted again, so its images need no split. The baselines need some: the threshold of max_softmax and
energy is calibrated on a quarter of the unseen originals, and they are tested on the others. pixel_statistics is fitted
on one half of the originals of each attack and tested on the other half, both ways round. It has no threshold; it flags
at a vote of 0.5.
"""

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from attacks import Attack
from detector.artifact import Artifact
from detector.calibration import Calibration
from service.evaluation.planning.plan import EvaluationPlan, UnseenImages
from service.evaluation.planning.protocols import Run, can_calibrate
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.records import NATURAL, DetectorResult
from service.evaluation.running.scoring import Fitting, Scorer, Testing
from service.evaluation.running.sets import ExtractedSet
from service.evaluation.threats import threat, threats_fitted_on
from service.inputs import split_in_two

__all__ = ["artifact_results"]

Rows = NDArray[np.int64]
Sets = Mapping[str, ExtractedSet]

_NONE = np.empty(0, np.int64)


def artifact_results(plan: EvaluationPlan, unseen: UnseenImages, sets: Sets, scorer: Scorer) -> list[DetectorResult]:
    """The artifact's result on the unseen images; if it is evaluated alone, also those of the baselines.

    Args:
        plan: of the evaluation.
        unseen: the artifact and its unseen images.
        sets: by name.
        scorer: of these sets, for the baselines.
    """
    rows = _tested(plan, sets, unseen.rows)
    results = [_of_artifact(plan, unseen.artifact, sets, rows)]
    if not plan.artifact_only:
        return results
    for label, detector in plan.selection.detectors.items():
        if not detector.needs_adversarial:
            results.append(_calibrated_baseline(plan, label, unseen.rows, sets, scorer))
        else:
            results += [
                _cross_fitted_baseline(plan, label, name, unseen.rows, sets, scorer)
                for name in plan.selection.tested
                if len(rows.get(name, ())) > 1
            ]
    return results


def _of_artifact(plan: EvaluationPlan, artifact: Artifact, sets: Sets, rows: Mapping[str, Rows]) -> DetectorResult:
    detector, calibration = artifact.pipeline.detector, artifact.pipeline.calibration
    names = [each.name for each in detector.feature_requests()]
    start = time.perf_counter()
    scored = {name: detector.score_components(sets[name].take(each, names)) for name, each in rows.items()}
    seconds = (time.perf_counter() - start) / sum(map(len, rows.values()))
    return DetectorResult(
        detector="artifact", fitted_on=_fitted_on(artifact, plan.selection.attacks), run=0,
        thresholds=_thresholds(calibration.scores, plan.settings), calibrated_on=len(calibration.scores), rows=rows,
        scores={name: each.score for name, each in scored.items()},
        components={name: each.components for name, each in scored.items()}, costs={"score": seconds},
        component_info=detector.component_info(),
        main_components={name: np.array(each.main_components(), dtype=np.str_) for name, each in scored.items()},
        main_parts={
            name: np.array(each.main_parts(), dtype=np.str_) for name, each in scored.items() if each.parts
        },
    )  # fmt: skip


def _thresholds(scores: NDArray[np.float64], settings: EvaluationSettings) -> dict[float, float]:
    return {
        rate: Calibration(scores, rate).threshold
        for rate in settings.rates
        if rate == settings.operating_rate or can_calibrate(len(scores), rate)
    }


def _fitted_on(artifact: Artifact, attacks: Mapping[str, Attack]) -> tuple[str, ...]:
    """The attacks that it was fitted on, by the evaluation's own labels where it has them."""
    labels = {threat(attack.name, attack.parameters()): label for label, attack in attacks.items()}
    threats = threats_fitted_on(artifact.manifest["provenance"])
    named = (labels.get(each, each[0] if each[2] is None else f"{each[0]}:epsilon={each[2]:g}") for each in threats)
    return tuple(dict.fromkeys(named))


def _calibrated_baseline(plan: EvaluationPlan, label: str, unseen: Rows, sets: Sets, scorer: Scorer) -> DetectorResult:
    """A detector that is not fitted on attacks, with a threshold from a quarter of the originals if they suffice."""
    calibrate, tested = unseen, unseen
    rates: tuple[float, ...] = ()
    if can_calibrate(len(unseen) // 4, plan.settings.operating_rate):
        quarter, rest = split_in_two(len(unseen), 0.25, labels=plan.images.data.labels[unseen], seed=plan.settings.seed)
        calibrate, tested, rates = unseen[quarter], unseen[rest], plan.settings.rates
    fitting = Fitting(calibrate, None, (), {})
    testing = Testing(calibrate if rates else _NONE, _tested(plan, sets, tested), rates)
    return scorer.result(label, plan.selection.detectors[label], Run(0, calibrate, calibrate, tested), fitting, testing)


def _cross_fitted_baseline(
    plan: EvaluationPlan, label: str, name: str, unseen: Rows, sets: Sets, scorer: Scorer
) -> DetectorResult:
    """A detector on one attack: each half of the originals is scored by the detector fitted on the other half."""
    natural, attacked = sets[NATURAL], sets[name]
    originals = attacked.images.originals[attacked.rows_of(unseen)]
    halves = split_in_two(len(originals), 0.5, labels=plan.images.data.labels[originals], seed=plan.settings.seed)
    results = []
    for number, (fit, test) in enumerate((halves, halves[::-1])):
        fitted, tested = originals[fit], originals[test]
        testing = Testing(_NONE, {NATURAL: natural.rows_of(tested), name: attacked.rows_of(tested)}, ())
        run, fitting = Run(number, fitted, _NONE, tested), Fitting(fitted, None, (name,), {})
        results.append(scorer.result(label, plan.selection.detectors[label], run, fitting, testing))
    return _joined(results)


def _joined(results: list[DetectorResult]) -> DetectorResult:
    """One result on the images of all, which are disjoint; fitted as often, and without a threshold."""
    first, last = results[0], results[-1]
    return DetectorResult(
        detector=first.detector, fitted_on=first.fitted_on, run=0, thresholds={}, calibrated_on=None,
        rows={name: np.concatenate([each.rows[name] for each in results]) for name in first.rows},
        scores={name: np.concatenate([each.scores[name] for each in results]) for name in first.rows},
        components={
            name: {part: np.concatenate([each.components[name][part] for each in results]) for part in parts}
            for name, parts in first.components.items()
        },
        costs={**last.costs, "fit": sum(each.costs["fit"] for each in results)}, baseline=True,
    )  # fmt: skip


def _tested(plan: EvaluationPlan, sets: Sets, originals: Rows) -> dict[str, Rows]:
    """Rows of these originals in every tested set; of outliers, a random sample of as many."""
    rows = {name: sets[name].rows_of(originals) for name in (NATURAL, *plan.selection.tested)}
    for name in plan.selection.outliers:
        order = np.random.default_rng([plan.settings.seed, 4]).permutation(len(sets[name].images))
        rows[name] = np.sort(order[: len(originals)])
    return {name: each for name, each in rows.items() if len(each)}
