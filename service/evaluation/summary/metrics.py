"""The figures of one detector on one set in one run, of both protocols, as JSON values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration, clopper_pearson
from detector.metrics import accuracy_at, auroc, fpr_at_tpr, separation, system_accuracy
from service.evaluation.records import NATURAL, VOTES, DetectorResult, Evaluation, ImageSet, noisy_name
from service.evaluation.summary.intervals import LEVEL

__all__ = ["false_positives_of_run", "interval", "result_of_run", "worst_case_of_run"]

_SECOND_RATE = 0.01  # reported beside the operating rate

Scores = NDArray[np.float64]


def result_of_run(
    evaluation: Evaluation, detector_result: DetectorResult, name: str, seed: int, resamples: int
) -> dict[str, Any]:
    """The figures of one result on one set.

    Detection is measured against all natural images of the run, the thesis' figures against the natural (and noisy)
    images of the same originals.

    Args:
        evaluation: with the set.
        detector_result: of the run.
        name: of the set.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0 leaves its intervals out.
    """
    images, rows = evaluation.sets[name], detector_result.rows[name]
    scores, natural = detector_result.scores[name], _natural_scores(detector_result, name)
    success = None if images.success is None else images.success[rows]
    groups = {"successful": success, "failed": None if success is None else ~success}

    def separated(chosen: NDArray[np.bool_] | None) -> dict[str, Any] | None:
        if chosen is None or not chosen.any():
            return None
        return _separated(natural, scores[chosen], detector_result, seed, resamples)

    return {
        "run": detector_result.run,
        "images": len(rows),
        **{group: separated(chosen) for group, chosen in groups.items()},
        "all": separated(np.ones(len(rows), dtype=np.bool_)),
        "system_accuracy": _system_accuracy(evaluation, detector_result, name),
        "paper": _paper(evaluation, detector_result, name, success),
    }


def _natural_scores(detector_result: DetectorResult, name: str) -> Scores:
    """Scores of the natural images that the set is compared with, and of its noisy copies, which count as natural."""
    noisy = detector_result.scores.get(noisy_name(name))
    natural = detector_result.scores[NATURAL]
    return natural if noisy is None else np.concatenate([natural, noisy])


def _separated(
    natural: Scores, found: Scores, detector_result: DetectorResult, seed: int, resamples: int
) -> dict[str, Any]:
    # Sorted, so that resamples do not depend on the order of the rows.
    figures = {"images": len(found), **separation(np.sort(natural), np.sort(found), resamples, seed)}
    for key, threshold in (
        ("flagged", detector_result.threshold),
        ("flagged_at_1", detector_result.thresholds.get(_SECOND_RATE)),
    ):
        flagged = None if threshold is None else found >= threshold
        figures[key] = None if flagged is None else float(flagged.mean())
        figures[f"{key}_interval"] = None if flagged is None else interval(flagged)
    return figures


def _system_accuracy(evaluation: Evaluation, detector_result: DetectorResult, name: str) -> dict[str, float] | None:
    """Accuracy of network and detector together on the set and on its natural originals; outliers: on all of them."""
    if detector_result.threshold is None:
        return None
    images, rows = evaluation.sets[name], detector_result.rows[name]
    twins = _twins(evaluation, detector_result, name)
    natural = evaluation.sets[NATURAL].right[detector_result.rows[NATURAL]][twins]
    return system_accuracy(
        detector_result.scores[NATURAL][twins],
        natural,
        detector_result.scores[name],
        images.right[rows],
        detector_result.threshold,
    )


def _twins(evaluation: Evaluation, detector_result: DetectorResult, name: str) -> NDArray[np.int64]:
    """The places of the set's originals among the tested natural images; all places for outliers."""
    images, natural = evaluation.sets[name], evaluation.sets[NATURAL]
    if images.kind == "outlier":
        return np.arange(len(detector_result.rows[NATURAL]))
    tested = natural.originals[detector_result.rows[NATURAL]]
    order = np.argsort(tested)
    places: NDArray[np.int64] = order[
        np.searchsorted(tested, images.originals[detector_result.rows[name]], sorter=order)
    ]
    return places


def _paper(
    evaluation: Evaluation, detector_result: DetectorResult, name: str, success: NDArray[np.bool_] | None
) -> dict[str, float | None] | None:
    """The thesis' figures (5.4.2, H.4 to H.7): decision at a vote of 0.5 of either classifier.

    None for a detector without the two votes, whose score has no 0.5 to decide at.
    """
    if not detector_result.has_votes:
        return None
    before = {
        vote: detector_result.components[NATURAL][vote][_twins(evaluation, detector_result, name)] for vote in VOTES
    }
    if noisy_name(name) in detector_result.components:
        copies = detector_result.components[noisy_name(name)]
        before = {vote: np.concatenate([before[vote], copies[vote]]) for vote in VOTES}
    after = detector_result.components[name]
    natural, found = (np.maximum(*(votes[vote] for vote in VOTES)) for votes in (before, after))
    caught = found >= 0.5
    return {
        "accuracy": accuracy_at(natural, found, 0.5),
        "fpr": float((natural >= 0.5).mean()),
        "flagged": float(caught.mean()),
        "flagged_successful": float(caught[success].mean()) if success is not None and success.any() else None,
        "auroc_all_class": auroc(before["all_class"], after["all_class"]),
        "fpr_at_95_tpr": fpr_at_tpr(natural, found),
    }


def false_positives_of_run(detector_result: DetectorResult, nominal: float) -> dict[str, Any]:
    """The realised false-positive rate of a threshold, and whether it is compatible with the nominal rate.

    If the number of calibration images is known, compatibility allows for the variation of both samples; otherwise only
    for that of these images.
    """
    flagged = detector_result.scores[NATURAL] >= detector_result.thresholds[nominal]
    realised, bounds, expected = float(flagged.mean()), interval(flagged), None
    if detector_result.calibrated_on is not None:
        # The distribution of the realised rate depends on the number of scores only.
        calibration = Calibration(np.arange(detector_result.calibrated_on, dtype=np.float64), nominal)
        law = calibration.expected_realised_rate(len(flagged))
        expected = [law.low, law.high]
    low, high, rate = (*bounds, nominal) if expected is None else (*expected, realised)
    return {
        "run": detector_result.run,
        "images": len(flagged),
        "flagged": int(flagged.sum()),
        "realised": realised,
        "interval": bounds,
        "calibrated_on": detector_result.calibrated_on,
        "expected": expected,
        "compatible": bool(low <= rate <= high),
    }


def worst_case_of_run(evaluation: Evaluation, detector_result: DetectorResult, names: list[str]) -> dict[str, Any]:
    """The worst case over attacks: an image is detected if it is flagged under every attack that succeeded on it.

    Args:
        evaluation: with the attacked sets.
        detector_result: of the run.
        names: of the attacked sets that were tested.
    """
    threshold, natural = detector_result.threshold, evaluation.sets[NATURAL]
    tested = detector_result.rows[NATURAL]
    lowest = np.full(len(tested), np.inf)
    tried, passed_wrong = np.zeros((2, len(tested)), dtype=np.bool_)
    for name in names:
        images, rows, twins = (
            evaluation.sets[name],
            detector_result.rows[name],
            _twins(evaluation, detector_result, name),
        )
        scores, success = detector_result.scores[name], _success(images, rows)
        tried[twins] = True
        lowest[twins] = np.minimum(lowest[twins], np.where(success, scores, np.inf))
        if threshold is not None:
            passed_wrong[twins] |= (scores < threshold) & ~images.right[rows]
    beaten = np.isfinite(lowest)
    detected = None if threshold is None or not beaten.any() else lowest[beaten] >= threshold
    system = None
    if threshold is not None:
        # Classified correctly and not flagged as it is, and under no attack classified wrongly and not flagged.
        passed = natural.right[tested] & (detector_result.scores[NATURAL] < threshold)
        system = float((passed & ~passed_wrong)[tried].mean())
    return {
        "run": detector_result.run,
        "images": int(tried.sum()),
        "successful": int(beaten.sum()),
        "detected": None if detected is None else int(detected.sum()),
        "share": None if detected is None else float(detected.mean()),
        "interval": None if detected is None else interval(detected),
        "auroc": auroc(detector_result.scores[NATURAL], lowest[beaten]) if beaten.any() else None,
        "system_accuracy": system,
    }


def _success(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    assert images.success is not None
    return images.success[rows]


def interval(hits: NDArray[np.bool_]) -> list[float]:
    """The exact binomial interval of a share of images."""
    bounds = clopper_pearson(int(hits.sum()), len(hits), LEVEL)
    return [bounds.low, bounds.high]
