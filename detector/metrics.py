"""Metrics of the separation of adversarial from natural images, as pure functions of scores.

Adversarial images are the positives throughout, and higher scores mean more anomalous. Out-of-distribution work often
takes natural images as positives, and "FPR at 95 % TPR" is stated that way there; here it is the share of natural
images that are flagged when 95 % of the adversarial ones are.
"""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detector.calibration import Interval
from models.errors import InputError

__all__ = [
    "accuracy_at",
    "aupr",
    "auroc",
    "bootstrap_intervals",
    "fpr_at_tpr",
    "separation",
    "system_accuracy",
]


def auroc(natural: np.ndarray, adversarial: np.ndarray) -> float:
    """Probability that an adversarial image scores higher than a natural one; ties count half."""
    return float(roc_auc_score(*_labelled(natural, adversarial)))


def aupr(natural: np.ndarray, adversarial: np.ndarray) -> float:
    """Average precision with adversarial images as positives. It depends on the numbers of images of both kinds."""
    return float(average_precision_score(*_labelled(natural, adversarial)))


def fpr_at_tpr(natural: np.ndarray, adversarial: np.ndarray, tpr: float = 0.95) -> float:
    """Smallest share of flagged natural images over all thresholds that flag at least `tpr` of the adversarial ones."""
    false, true, _ = roc_curve(*_labelled(natural, adversarial), drop_intermediate=False)
    return float(false[true >= tpr].min())


def accuracy_at(natural: np.ndarray, adversarial: np.ndarray, threshold: float = 0.5) -> float:
    """Share of all images on the correct side of `threshold`; 0.5 is the decision of the thesis (5.4.2)."""
    labels, scores = _labelled(natural, adversarial)
    return float(np.mean((scores >= threshold) == labels))


def system_accuracy(
    natural: np.ndarray,
    natural_correct: np.ndarray,
    adversarial: np.ndarray,
    adversarial_correct: np.ndarray,
    threshold: float,
) -> dict[str, float]:
    """Shares of natural and of adversarial images that classifier and detector handle correctly, and their mean.

    A natural image is handled correctly if it is classified correctly and not flagged. An adversarial one is handled
    correctly if it is flagged or classified correctly.
    """
    let_through = _finite(natural, "natural") < threshold
    rejected = _finite(adversarial, "adversarial") >= threshold
    for which, scores, correct in (
        ("natural", let_through, natural_correct),
        ("adversarial", rejected, adversarial_correct),
    ):
        if np.shape(correct) != scores.shape or not len(scores):
            raise InputError(f"expected {len(scores)} answers, correct or not, for {which} images, got another number")
    right_natural = float(np.mean(let_through & np.asarray(natural_correct, dtype=bool)))
    right_adversarial = float(np.mean(rejected | np.asarray(adversarial_correct, dtype=bool)))
    return {
        "natural": right_natural,
        "adversarial": right_adversarial,
        "balanced": (right_natural + right_adversarial) / 2,
    }


def bootstrap_intervals(
    natural: np.ndarray,
    adversarial: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of the metrics without a threshold, by name, over resamples with replacement.

    Natural and adversarial images are drawn separately (stratified). A natural image and its attacked copy are drawn
    independently, which makes the intervals slightly too wide.
    """
    natural, adversarial = _finite(natural, "natural"), _finite(adversarial, "adversarial")
    random = np.random.default_rng(seed)
    tail = (1 - confidence) / 2
    values: dict[str, list[np.ndarray]] = {name: [] for name in _THRESHOLD_FREE}
    # The number of resamples at a time limits the tables of counts to some tens of megabytes.
    step = max(1, 2_000_000 // (len(natural) + len(adversarial)))
    for start in range(0, resamples, step):
        drawn = min(step, resamples - start)
        for name, value in _resampled(natural, adversarial, drawn, random).items():
            values[name].append(value)
    bounds = {name: np.quantile(np.concatenate(value), [tail, 1 - tail]) for name, value in values.items()}
    return {name: Interval(float(low), float(high)) for name, (low, high) in bounds.items()}


def _resampled(
    natural: np.ndarray, adversarial: np.ndarray, resamples: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """The metrics without a threshold on each of some resamples, by name, each ``(resamples,)``.

    A resample only changes the frequency of each score, so the scores are sorted once, and each resample is a row of
    counts. The columns of the tables below are distinct scores in descending order.
    """
    distinct, rank = np.unique(-np.concatenate([natural, adversarial]), return_inverse=True)

    def flagged(ranks: np.ndarray) -> np.ndarray:
        drawn = ranks[random.integers(len(ranks), size=(resamples, len(ranks)))]
        cells = drawn + np.arange(resamples)[:, None] * len(distinct)
        counts = np.bincount(cells.ravel(), minlength=resamples * len(distinct)).reshape(resamples, len(distinct))
        return np.cumsum(counts, axis=1)

    return _from_counts(flagged(rank[: len(natural)]), flagged(rank[len(natural) :]))


def _once(natural: np.ndarray, adversarial: np.ndarray) -> dict[str, float]:
    """The metrics without a threshold, by name, from one sort for all of them."""
    distinct, rank = np.unique(-np.concatenate([natural, adversarial]), return_inverse=True)
    parts = (rank[: len(natural)], rank[len(natural) :])
    false, true = (np.cumsum(np.bincount(part, minlength=len(distinct)))[None] for part in parts)
    return {name: float(value[0]) for name, value in _from_counts(false, true).items()}


def _from_counts(false: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of each row ``(R,)``, from the numbers of flagged images of both kinds ``(R, distinct)``."""
    fpr, tpr = false / false[:, -1:], true / true[:, -1:]
    rise, run = np.diff(tpr, axis=1, prepend=0.0), np.diff(fpr, axis=1, prepend=0.0)
    precision = true / np.maximum(true + false, 1)  # while no image is flagged, precision does not count
    return {
        "auroc": (run * (tpr - rise / 2)).sum(axis=1),
        "aupr": (rise * precision).sum(axis=1),
        "tpr_at_5_fpr": np.where(fpr <= 0.05, tpr, 0.0).max(axis=1),
        "tpr_at_1_fpr": np.where(fpr <= 0.01, tpr, 0.0).max(axis=1),
        "fpr_at_95_tpr": np.where(tpr >= 0.95, fpr, 1.0).min(axis=1),
    }


def separation(natural: np.ndarray, adversarial: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """The metrics that need no threshold, and the bootstrap's interval of each as ``<name>_interval``.

    Args:
        resamples: of the bootstrap; 0 leaves the intervals out.
    """
    separation: dict[str, Any] = dict(_once(_finite(natural, "natural"), _finite(adversarial, "adversarial")))
    if resamples:
        intervals = bootstrap_intervals(natural, adversarial, resamples=resamples, seed=seed)
        separation |= {f"{name}_interval": [interval.low, interval.high] for name, interval in intervals.items()}
    return separation


_THRESHOLD_FREE = ("auroc", "aupr", "tpr_at_5_fpr", "tpr_at_1_fpr", "fpr_at_95_tpr")


def _labelled(natural: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels, scores) with adversarial images as class 1."""
    natural, adversarial = _finite(natural, "natural"), _finite(adversarial, "adversarial")
    return np.repeat([0, 1], [len(natural), len(adversarial)]), np.concatenate([natural, adversarial])


def _finite(scores: np.ndarray, which: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise InputError(f"expected at least one {which} score in a vector, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise InputError(f"expected finite {which} scores, got NaN or infinity; remove the images that cause them")
    return scores
