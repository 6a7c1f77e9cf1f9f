"""How one detector fares on one set of one run: the metrics of EVALUATION's two protocols, as JSON values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration, clopper_pearson
from detector.metrics import accuracy_at, auroc, fpr_at_tpr, separation, system_accuracy
from service.evaluation.records import NATURAL, VOTES, ImageSet, Judgement, Study, noisy_name

__all__ = ["LEVEL", "false_positives_of_run", "interval", "result_of_run", "worst_case_of_run"]

LEVEL = 0.95  # of every interval
_SECOND_RATE = 0.01  # EVALUATION: operating rate (5 % unless chosen otherwise), and also 1 %

Scores = NDArray[np.float64]


def result_of_run(study: Study, judgement: Judgement, name: str, seed: int, resamples: int) -> dict[str, Any]:
    """The figures of one judgement on the set `name`.

    Detection is measured against all natural images of the run, the thesis' own figures against the natural (and noisy)
    images of the same originals.
    """
    images, rows = study.sets[name], judgement.rows[name]
    scores, natural = judgement.scores[name], _natural_scores(judgement, name)
    success = None if images.success is None else images.success[rows]
    groups = {"successful": success, "failed": None if success is None else ~success}

    def separated(chosen: NDArray[np.bool_] | None) -> dict[str, Any] | None:
        if chosen is None or not chosen.any():
            return None
        return _separated(natural, scores[chosen], judgement, seed, resamples)

    return {
        "run": judgement.run,
        "images": len(rows),
        **{group: separated(chosen) for group, chosen in groups.items()},
        "all": separated(np.ones(len(rows), dtype=np.bool_)),
        "system_accuracy": _system_accuracy(study, judgement, name),
        "paper": _paper(study, judgement, name, success),
    }


def _natural_scores(judgement: Judgement, name: str) -> Scores:
    """Scores of the natural images that the set is told from: noisy copies made for it count as natural."""
    noisy = judgement.scores.get(noisy_name(name))
    natural = judgement.scores[NATURAL]
    return natural if noisy is None else np.concatenate([natural, noisy])


def _separated(natural: Scores, found: Scores, judgement: Judgement, seed: int, resamples: int) -> dict[str, Any]:
    # Sorted, so that the order of the rows does not decide which of them a resample draws.
    figures = {"images": len(found), **separation(np.sort(natural), np.sort(found), resamples, seed)}
    for key, threshold in (("flagged", judgement.threshold), ("flagged_at_1", judgement.thresholds.get(_SECOND_RATE))):
        flagged = None if threshold is None else found >= threshold
        figures[key] = None if flagged is None else float(flagged.mean())
        figures[f"{key}_interval"] = None if flagged is None else interval(flagged)
    return figures


def _system_accuracy(study: Study, judgement: Judgement, name: str) -> dict[str, float] | None:
    """Accuracy of network and detector together on the set and on its natural originals; outliers: on all of them."""
    if judgement.threshold is None:
        return None
    images, rows = study.sets[name], judgement.rows[name]
    twins = _twins(study, judgement, name)
    natural = study.sets[NATURAL].right[judgement.rows[NATURAL]][twins]
    return system_accuracy(
        judgement.scores[NATURAL][twins], natural, judgement.scores[name], images.right[rows], judgement.threshold
    )


def _twins(study: Study, judgement: Judgement, name: str) -> NDArray[np.int64]:
    """Where the originals of the set's rows stand among the judged natural images; all of those for outliers."""
    images, natural = study.sets[name], study.sets[NATURAL]
    if images.kind == "outlier":
        return np.arange(len(judgement.rows[NATURAL]))
    judged = natural.originals[judgement.rows[NATURAL]]
    order = np.argsort(judged)
    places: NDArray[np.int64] = order[np.searchsorted(judged, images.originals[judgement.rows[name]], sorter=order)]
    return places


def _paper(
    study: Study, judgement: Judgement, name: str, success: NDArray[np.bool_] | None
) -> dict[str, float | None] | None:
    """The thesis' figures (5.4.2, H.4 to H.7): decision at a vote of 0.5 of either classifier.

    None for a detector without the two votes, whose score has no 0.5 to decide at.
    """
    if not judgement.has_votes:
        return None
    before = {vote: judgement.votes[NATURAL][vote][_twins(study, judgement, name)] for vote in VOTES}
    if noisy_name(name) in judgement.votes:
        copies = judgement.votes[noisy_name(name)]
        before = {vote: np.concatenate([before[vote], copies[vote]]) for vote in VOTES}
    after = judgement.votes[name]
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


def false_positives_of_run(judgement: Judgement, nominal: float) -> dict[str, Any]:
    """The realised false-positive rate of a threshold, and whether the one asked for can be behind it.

    Where the number of calibration images is known, both samples' luck is counted; else only that of these images.
    """
    flagged = judgement.scores[NATURAL] >= judgement.thresholds[nominal]
    realised, bounds, expected = float(flagged.mean()), interval(flagged), None
    if judgement.calibrated_on is not None:
        # The law of the realised rate depends on how many scores there were, not on which.
        calibration = Calibration(np.arange(judgement.calibrated_on, dtype=np.float64), nominal)
        law = calibration.expected_realised_rate(len(flagged))
        expected = [law.low, law.high]
    low, high, rate = (*bounds, nominal) if expected is None else (*expected, realised)
    return {
        "run": judgement.run,
        "images": len(flagged),
        "flagged": int(flagged.sum()),
        "realised": realised,
        "interval": bounds,
        "calibrated_on": judgement.calibrated_on,
        "expected": expected,
        "compatible": bool(low <= rate <= high),
    }


def worst_case_of_run(study: Study, judgement: Judgement, names: list[str]) -> dict[str, Any]:
    """An image counts as detected only when it is flagged under every attack tried on it and successful there."""
    threshold, natural = judgement.threshold, study.sets[NATURAL]
    judged = judgement.rows[NATURAL]
    lowest = np.full(len(judged), np.inf)
    tried, passed_wrong = np.zeros((2, len(judged)), dtype=np.bool_)
    for name in names:
        images, rows, twins = study.sets[name], judgement.rows[name], _twins(study, judgement, name)
        scores, success = judgement.scores[name], _success(images, rows)
        tried[twins] = True
        lowest[twins] = np.minimum(lowest[twins], np.where(success, scores, np.inf))
        if threshold is not None:
            passed_wrong[twins] |= (scores < threshold) & ~images.right[rows]
    beaten = np.isfinite(lowest)
    detected = None if threshold is None or not beaten.any() else lowest[beaten] >= threshold
    system = None
    if threshold is not None:
        # Right and let through as it is, and under no attack wrong and let through.
        passed = natural.right[judged] & (judgement.scores[NATURAL] < threshold)
        system = float((passed & ~passed_wrong)[tried].mean())
    return {
        "run": judgement.run,
        "images": int(tried.sum()),
        "successful": int(beaten.sum()),
        "detected": None if detected is None else int(detected.sum()),
        "share": None if detected is None else float(detected.mean()),
        "interval": None if detected is None else interval(detected),
        "auroc": auroc(judgement.scores[NATURAL], lowest[beaten]) if beaten.any() else None,
        "system_accuracy": system,
    }


def _success(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    assert images.success is not None
    return images.success[rows]


def interval(hits: NDArray[np.bool_]) -> list[float]:
    """The exact binomial interval of a share of images."""
    bounds = clopper_pearson(int(hits.sum()), len(hits), LEVEL)
    return [bounds.low, bounds.high]
