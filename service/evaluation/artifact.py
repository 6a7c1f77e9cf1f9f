"""An artifact in an evaluation: judged as it is, on every image that it has not seen, and trivial baselines beside it.

Nothing of a finished artifact is fitted again, so its images need no split. The baselines need some: the threshold of
max_softmax and energy is calibrated on a quarter of the unseen originals and judged on the others; pixel_statistics is
fitted on one half of the originals, for each attack by itself, and judges the other half, both ways round. It has no
threshold; its decision is a vote of 0.5.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks import Attack
from detector.artifact import Artifact
from detector.calibration import Calibration
from detector.splits import split_originals
from models.errors import ArtifactError
from service.evaluation.protocols import Run, two_folds
from service.evaluation.records import NATURAL, DetectorResult, threat
from service.evaluation.scoring import Fitting, Scorer, Testing, can_calibrate
from service.evaluation.sets import ExtractedSet
from service.evaluation.settings import EvaluationSettings, Plan

__all__ = ["artifact_results", "threats_fitted_on"]

Rows = NDArray[np.int64]
Sets = Mapping[str, ExtractedSet]


def artifact_results(
    artifact: Artifact, sets: Sets, plan: Plan, scorer: Scorer, unseen: Rows, settings: EvaluationSettings, alone: bool
) -> list[DetectorResult]:
    """The artifact's result on the originals `unseen`; if it stands `alone`, those of the baselines as well."""
    rows = _tested(sets, plan, unseen, settings.seed)
    found = [_of_artifact(artifact, sets, plan, rows, settings)]
    if not alone:
        return found
    for label, detector in plan.detectors.items():
        if not detector.needs_adversarial:
            found.append(_of_plain_baseline(label, sets, plan, scorer, unseen, settings))
        else:
            found += [
                _cross_fitted(label, name, sets, plan, scorer, unseen, settings.seed)
                for name in plan.tested
                if len(rows.get(name, ())) > 1
            ]
    return found


def threats_fitted_on(recorded: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Each attack that an artifact's provenance says it was fitted on, as `threat` has it.

    Raises:
        ArtifactError: the provenance says it in another way.
    """
    try:
        return [threat(each["attack"], each["parameters"]) for each in recorded.get("attacks", [])]
    except (TypeError, KeyError, AttributeError) as exc:
        raise ArtifactError(
            "expected the attacks that the artifact was fitted on in its provenance; fit again"
        ) from exc


def _of_artifact(
    artifact: Artifact, sets: Sets, plan: Plan, rows: Mapping[str, Rows], settings: EvaluationSettings
) -> DetectorResult:
    pipeline = artifact.pipeline
    names = [each.name for each in pipeline.detector.feature_requests()]
    start = time.perf_counter()
    judged = {name: pipeline.detector.score_components(sets[name].take(each, names)) for name, each in rows.items()}
    seconds = (time.perf_counter() - start) / sum(map(len, rows.values()))
    held_out = pipeline.calibration.scores
    thresholds = {
        rate: Calibration(held_out, rate).threshold
        for rate in settings.rates
        if rate == settings.operating_rate or can_calibrate(len(held_out), rate)
    }
    return DetectorResult(
        detector="artifact", fitted_on=_fitted_on(artifact, plan.attacks), run=0, thresholds=thresholds,
        calibrated_on=len(held_out), rows=rows, scores={name: each.score for name, each in judged.items()},
        votes={name: each.components for name, each in judged.items()}, costs={"score": seconds},
    )  # fmt: skip


def _fitted_on(artifact: Artifact, attacks: Mapping[str, Attack]) -> tuple[str, ...]:
    """The attacks it was fitted on, by the evaluation's own labels where the evaluation has them."""
    labels = {threat(attack.name, attack.parameters()): label for label, attack in attacks.items()}
    threats = threats_fitted_on(artifact.manifest["provenance"])
    named = (labels.get(each, each[0] if each[2] is None else f"{each[0]}:epsilon={each[2]:g}") for each in threats)
    return tuple(dict.fromkeys(named))


def _of_plain_baseline(
    label: str, sets: Sets, plan: Plan, scorer: Scorer, unseen: Rows, settings: EvaluationSettings
) -> DetectorResult:
    """A detector that learns nothing, with a threshold from a quarter of the originals."""
    labels = sets[NATURAL].images.labels
    assert labels is not None
    natural = sets[NATURAL].rows_of(unseen)
    held_out, tested = unseen, unseen
    rates: tuple[float, ...] = ()
    if can_calibrate(len(unseen) // 4, settings.operating_rate):
        parts = split_originals(len(unseen), (0.25, 0.75), labels=labels[natural], seed=settings.seed)
        held_out, tested, rates = unseen[parts.fit], unseen[parts.test], settings.rates
    fitting = Fitting(held_out, None, (), {})
    testing = Testing(held_out if rates else np.empty(0, np.int64), _tested(sets, plan, tested, settings.seed), rates)
    run = Run(0, held_out, held_out, tested)
    return scorer.result(label, plan.detectors[label], run, fitting, testing)


def _cross_fitted(
    label: str, name: str, sets: Sets, plan: Plan, scorer: Scorer, unseen: Rows, seed: int
) -> DetectorResult:
    """A learnt baseline on one attack: each half of the originals is judged by what the other half taught."""
    labels = sets[NATURAL].images.labels
    assert labels is not None
    natural, attacked = sets[NATURAL], sets[name]
    both = attacked.images.originals[attacked.rows_of(unseen)]
    halves = [both[fold] for fold in two_folds(labels[natural.rows_of(both)], seed)]
    rows: dict[str, list[Rows]] = {NATURAL: [], name: []}
    scores: dict[str, list[NDArray[np.float64]]] = {NATURAL: [], name: []}
    votes: dict[str, list[Mapping[str, NDArray[np.float64]]]] = {NATURAL: [], name: []}
    seconds = 0.0
    for number, (learnt, asked) in enumerate((halves, halves[::-1])):
        fitting = Fitting(learnt, None, (name,), {})
        testing = Testing(np.empty(0, np.int64), {NATURAL: natural.rows_of(asked), name: attacked.rows_of(asked)}, ())
        run = Run(number, learnt, np.empty(0, np.int64), asked)
        detector_result = scorer.result(label, plan.detectors[label], run, fitting, testing)
        seconds += detector_result.costs["fit"]
        for each in rows:
            rows[each].append(detector_result.rows[each])
            scores[each].append(detector_result.scores[each])
            votes[each].append(detector_result.votes[each])
    return DetectorResult(
        detector=label, fitted_on=(name,), run=0, thresholds={}, calibrated_on=None,
        rows={each: np.concatenate(parts) for each, parts in rows.items()},
        scores={each: np.concatenate(parts) for each, parts in scores.items()},
        votes={
            each: {vote: np.concatenate([part[vote] for part in parts]) for vote in parts[0]}
            for each, parts in votes.items()
        },
        costs={**detector_result.costs, "fit": seconds}, baseline=True,
    )  # fmt: skip


def _tested(sets: Sets, plan: Plan, originals: Rows, seed: int) -> dict[str, Rows]:
    """Rows of these originals in every tested set; of outliers, as many by lot as there are natural images."""
    rows = {name: sets[name].rows_of(originals) for name in (NATURAL, *plan.tested)}
    for name in plan.outliers:
        drawn = np.random.default_rng([seed, 4]).permutation(len(sets[name].images))
        rows[name] = np.sort(drawn[: len(originals)])
    return {name: each for name, each in rows.items() if len(each)}
