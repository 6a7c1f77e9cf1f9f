"""Judged sets → figures: how well natural and attacked images are told apart, and what to be careful about.

    natural ─┐
    fgm      ├─ JudgedSet each → Evaluation → figures(): a dict of JSON values, documented in docs/report.md
    pgd …   ─┘

Nothing here loads, attacks or judges an image. The rows of a set may come in any order; the original's index says which
rows of two sets belong to one image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration, clopper_pearson
from detector.metrics import accuracy_at, auroc, summarise, system_accuracy
from models.errors import InputError
from service.cautions import cautions
from service.jsonable import as_json

__all__ = ["SCHEMA", "Evaluation", "JudgedSet", "figures"]

SCHEMA = 1  # of the figures; counted up when a key changes its place or its meaning

_LEVEL = 0.95  # of every interval
_FORESTS = ("all_class", "predicted_class")  # the votes that a forest of the Transport detector casts


@dataclass(frozen=True, eq=False)
class JudgedSet:
    """What network and detector said of a set of images; one row per image.

    Args:
        name: "natural", or the attack's name, with its budget where one attack is there twice.
        originals: int64 ``(N,)``, each image's original in the data set; none twice.
        labels, predicted: int64 ``(N,)``, the true class and the network's answer.
        scores, p_values: float64 ``(N,)``; a higher score and a lower p-value are more anomalous.
        flagged: bool ``(N,)``, at the calibrated threshold.
        votes: the parts of the score by name, float64 ``(N,)`` each; may be empty.
        statistics: float32 ``(N, F)``.
        success: bool ``(N,)`` for an attacked set: the natural original was classified correctly, this image is not.
        attack: the attacked set's summary, JSON values.
        seen: whether the detector was fitted on that attack; None where that is not known.

    Raises:
        InputError: arrays of different lengths, an original twice, no rows, or scores that are not finite.
    """

    name: str
    originals: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    statistics: NDArray[np.float32]
    votes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    success: NDArray[np.bool_] | None = None
    attack: dict[str, Any] | None = None
    seen: bool | None = None

    def __post_init__(self) -> None:
        count = len(self.originals)
        if not count:
            raise InputError(f"expected judged images in the set {self.name!r}, got none")
        columns: dict[str, NDArray[Any]] = {"labels": self.labels, "predicted": self.predicted, "scores": self.scores}
        columns |= {"p_values": self.p_values, "flagged": self.flagged, **self.votes}
        if self.success is not None:
            columns["success"] = self.success
        for what, values in {"originals": self.originals, **columns}.items():
            if np.shape(values) != (count,):
                raise InputError(
                    f"expected {what} of the set {self.name!r} of shape ({count},), one per original, "
                    f"got {np.shape(values)}"
                )
        for what in ("flagged", "success"):
            if what in columns and columns[what].dtype != np.bool_:
                raise InputError(f"expected {what} of the set {self.name!r} as bool, got {columns[what].dtype}")
        for what in ("scores", "p_values", *self.votes):
            if not np.isfinite(columns[what]).all():
                raise InputError(f"expected finite {what} in the set {self.name!r}, got NaN or infinity")
        if np.ndim(self.statistics) != 2 or len(self.statistics) != count:
            raise InputError(
                f"expected statistics of the set {self.name!r} of shape ({count}, F), got {np.shape(self.statistics)}"
            )
        if len(np.unique(self.originals)) != count:
            raise InputError(f"expected each original once in the set {self.name!r}, got some of them several times")

    def __len__(self) -> int:
        return len(self.originals)

    @property
    def right(self) -> NDArray[np.bool_]:
        """``(N,)``: the network's answer is the true class."""
        return np.asarray(self.predicted == self.labels)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything a report is made of.

    Args:
        natural: the natural images; every original of an attacked set is among them.
        attacked: one set per attack, of different names.
        threshold: an image is flagged when its score reaches it.
        fpr: the false-positive rate that it was calibrated to.
        branches: names of the watched blocks, in execution order.
        columns_per_block: 2 plus the number of further directions.
        band: float32 ``(3, F)``, natural quantiles 0.05, 0.5 and 0.95 of the statistics.
        facts: where this comes from, as JSON values: artifact, network, detector, data set, counts, provenance.
        calibrated_on: how many natural images the threshold was taken from, where that is known.

    Raises:
        InputError: sets that do not belong together.
    """

    natural: JudgedSet
    attacked: tuple[JudgedSet, ...]
    threshold: float
    fpr: float
    branches: tuple[str, ...]
    columns_per_block: int
    band: NDArray[np.float32]
    facts: dict[str, Any]
    calibrated_on: int | None = None

    def __post_init__(self) -> None:
        names = [judged.name for judged in (self.natural, *self.attacked)]
        if len(set(names)) != len(names):
            raise InputError(f"expected sets of different names, got {', '.join(names)}; add the budget to the name")
        for judged in (self.natural, *self.attacked):
            if not np.array_equal(judged.flagged, judged.scores >= self.threshold):
                raise InputError(
                    f"expected an image of {judged.name!r} to be flagged exactly when its score is at least "
                    f"{self.threshold}, got others; judge all sets with one artifact"
                )
            wanted = len(self.branches) * self.columns_per_block
            if judged.statistics.shape[1] != wanted:
                raise InputError(
                    f"expected {wanted} columns of statistics in {judged.name!r}, got {judged.statistics.shape[1]}"
                )
        for judged in self.attacked:
            if judged.success is None:
                raise InputError(
                    f"expected to know which images of {judged.name!r} were attacked successfully, got None"
                )
            if not np.isin(judged.originals, self.natural.originals).all():
                raise InputError(
                    f"expected every original of {judged.name!r} among the natural images, got others; judge those too"
                )


def figures(evaluation: Evaluation, *, seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
    """The figures of an evaluation as JSON values; every key is explained in docs/report.md.

    Neither the order of the rows nor that of a set's originals changes anything. A figure that cannot be given is None,
    and a sentence in "warnings" says why.

    Args:
        seed: of the bootstrap intervals.
        resamples: of the bootstrap, natural and attacked images apart; 0 leaves its intervals out.

    Raises:
        InputError: a fact that is no JSON value.
    """
    natural = _by_original(evaluation.natural)
    attacked = [_by_original(judged) for judged in evaluation.attacked]
    threshold = evaluation.threshold
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "bootstrap": {"level": _LEVEL, "resamples": resamples, "seed": seed},
        "threshold": threshold,
        "natural": _natural(natural),
        "false_positives": _false_positives(natural, evaluation.fpr, evaluation.calibrated_on),
        "attacks": [_attack(natural, judged, threshold, seed, resamples) for judged in attacked],
        "worst_case": _worst_case(natural, attacked, threshold) if attacked else None,
    }
    notes = cautions(found, natural, attacked)
    _, lost = as_json(evaluation.facts, "facts")
    for entry, judged in zip(found["attacks"], attacked, strict=True):
        entry["attack"], more = as_json(judged.attack, judged.name)
        lost += more
    found["warnings"] = notes + [f"{place} is not a finite number and is given as null." for place in lost]
    return found


def _natural(natural: JudgedSet) -> dict[str, Any]:
    """The network on natural images: alone, and where the detector lets its answer through."""
    passed = ~natural.flagged
    return {
        "images": len(natural),
        "accuracy": float(natural.right.mean()),
        "accuracy_interval": _interval(natural.right),
        "accuracy_of_passed": float(natural.right[passed].mean()) if passed.any() else None,
        "system_accuracy": float((natural.right & passed).mean()),
    }


def _false_positives(natural: JudgedSet, nominal: float, calibrated_on: int | None) -> dict[str, Any]:
    """The realised rate, and whether the one asked for can be behind it.

    Where the number of calibration images is known, both samples' luck is counted; else only that of these images.
    """
    realised, interval = float(natural.flagged.mean()), _interval(natural.flagged)
    expected = None
    if calibrated_on is not None:
        # The law of the realised rate depends on how many scores there were, not on which.
        law = Calibration(np.arange(calibrated_on, dtype=np.float64), nominal).expected_realised_rate(len(natural))
        expected = [law.low, law.high]
    low, high, rate = (*interval, nominal) if expected is None else (*expected, realised)
    return {
        "nominal": nominal,
        "images": len(natural),
        "flagged": int(natural.flagged.sum()),
        "realised": realised,
        "interval": interval,
        "calibrated_on": calibrated_on,
        "expected": expected,
        "compatible": bool(low <= rate <= high),
    }


def _attack(natural: JudgedSet, judged: JudgedSet, threshold: float, seed: int, resamples: int) -> dict[str, Any]:
    """The figures of one attack. Detection is against all natural images; accuracies are on the attack's originals."""
    success, twins = judged.success, _rows_of(natural, judged.originals)
    assert success is not None
    right = natural.right[twins]
    groups = {"successful": success, "failed": ~success, "all": np.ones_like(success)}
    return {
        "name": judged.name,
        "seen": judged.seen,
        "images": len(judged),
        "natural_accuracy": float(right.mean()),
        "accuracy": float(judged.right.mean()),
        "success_rate": float(success.sum() / right.sum()) if right.any() else None,
        "detection": {
            group: _detection(natural.scores, judged.scores[chosen], threshold, seed, resamples)
            for group, chosen in groups.items()
        },
        "system_accuracy": system_accuracy(natural.scores[twins], right, judged.scores, judged.right, threshold),
        "paper": _paper(natural, judged, twins),
    }


def _detection(
    natural: NDArray[np.float64], adversarial: NDArray[np.float64], threshold: float, seed: int, resamples: int
) -> dict[str, Any] | None:
    """How well some attacked images are told from the natural ones; None where there are none."""
    if not len(adversarial):
        return None
    found = summarise(natural, adversarial, threshold, resamples=resamples, seed=seed)
    flagged = found["detection"]["all"]
    return {
        "images": len(adversarial),
        **found["all"],
        "flagged": flagged["rate"],
        "flagged_interval": flagged["interval"],
    }


def _paper(natural: JudgedSet, judged: JudgedSet, twins: NDArray[np.int64]) -> dict[str, Any] | None:
    """The thesis' figures (5.4.2, H.4 to H.6): decision at a vote of 0.5 of either forest, on as many natural images.

    None for a detector without the two forests, whose score has no 0.5 to decide at.
    """
    if not set(_FORESTS) <= set(natural.votes) & set(judged.votes):
        return None
    before = np.maximum(*(natural.votes[forest][twins] for forest in _FORESTS))
    after = np.maximum(*(judged.votes[forest] for forest in _FORESTS))
    success = judged.success
    assert success is not None
    return {
        "images": 2 * len(judged),
        "accuracy": accuracy_at(before, after, 0.5),
        "fpr": float((before >= 0.5).mean()),
        "flagged": float((after >= 0.5).mean()),
        "flagged_successful": float((after[success] >= 0.5).mean()) if success.any() else None,
        "auroc_all_class": auroc(natural.votes["all_class"][twins], judged.votes["all_class"]),
    }


def _worst_case(natural: JudgedSet, attacked: Sequence[JudgedSet], threshold: float) -> dict[str, Any]:
    """An image counts as detected only when it is flagged under every attack tried on it and successful there."""
    lowest = np.full(len(natural), np.inf)
    tried = np.zeros(len(natural), dtype=bool)
    passed_wrong = np.zeros(len(natural), dtype=bool)
    for judged in attacked:
        rows = _rows_of(natural, judged.originals)
        tried[rows] = True
        passed_wrong[rows] |= ~judged.flagged & ~judged.right
        success = judged.success
        assert success is not None
        lowest[rows] = np.minimum(lowest[rows], np.where(success, judged.scores, np.inf))
    beaten = np.isfinite(lowest)
    detected = lowest[beaten] >= threshold
    return {
        "attacks": len(attacked),
        "images": int(tried.sum()),
        "successful": int(beaten.sum()),
        "detected": int(detected.sum()),
        "share": float(detected.mean()) if len(detected) else None,
        "interval": _interval(detected) if len(detected) else None,
        "auroc": auroc(natural.scores, lowest[beaten]) if len(detected) else None,
        # Right and let through as it is, and under no attack wrong and let through.
        "system_accuracy": float((natural.right & ~natural.flagged & ~passed_wrong)[tried].mean()),
    }


def _interval(hits: NDArray[np.bool_]) -> list[float]:
    interval = clopper_pearson(int(hits.sum()), len(hits), _LEVEL)
    return [interval.low, interval.high]


def _rows_of(natural: JudgedSet, originals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the originals are in a natural set that is ordered by original."""
    return np.searchsorted(natural.originals, originals)


def _by_original(judged: JudgedSet) -> JudgedSet:
    """The same set with its rows in the originals' order, so that no figure depends on how they came."""
    rows = np.argsort(judged.originals)
    return replace(
        judged,
        originals=judged.originals[rows],
        labels=judged.labels[rows],
        predicted=judged.predicted[rows],
        scores=judged.scores[rows],
        p_values=judged.p_values[rows],
        flagged=judged.flagged[rows],
        statistics=judged.statistics[rows],
        votes={name: values[rows] for name, values in judged.votes.items()},
        success=None if judged.success is None else judged.success[rows],
    )
