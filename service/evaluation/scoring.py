"""One detector, fitted once and asked once: features of a run's originals → a result."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray

from attacks.common.digests import arrays_digest
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.splits import split_originals
from models.errors import InputError
from models.features import FeatureRequest, Features
from service.cache import EvaluationCache, code_digest
from service.evaluation.protocols import Run
from service.evaluation.records import NATURAL, DetectorResult, noisy_name
from service.evaluation.sets import ExtractedSet
from service.evaluation.settings import BASELINES

__all__ = ["Fitting", "Scorer", "Testing", "can_calibrate"]

Rows = NDArray[np.int64]

_KIND = "results"


@dataclass(frozen=True, eq=False)
class Fitting:
    """What a detector is fitted on in one run.

    Args:
        natural: originals to fit on.
        reference: originals that it is prepared with, none of `natural`; None: with a set of their own.
        fitted_on: names of the sets.
        outliers: rows of each outlier set among them.
    """

    natural: Rows
    reference: Rows | None
    fitted_on: tuple[str, ...]
    outliers: Mapping[str, Rows]


@dataclass(frozen=True, eq=False)
class Testing:
    """What it is calibrated and tested on: originals, rows of each tested set, and the rates of thresholds."""

    calibrate: Rows
    rows: Mapping[str, Rows]
    rates: tuple[float, ...]


class Scorer:
    """Fits detectors on observed sets and keeps what they say.

    Args:
        sets: by name, the natural images among them.
        reference: images that detectors are prepared with, with their labels; None: a share of each run's own.
        noisy: whether the noisy copies of an attack's originals count as natural.
    """

    def __init__(
        self,
        sets: Mapping[str, ExtractedSet],
        cache: EvaluationCache,
        *,
        reference: ExtractedSet | None = None,
        noisy: bool = False,
    ) -> None:
        self._sets, self._cache, self._reference, self._noisy = sets, cache, reference, noisy
        self._code = code_digest("detector", "models.features.extraction")
        self._prepared: dict[str, Detector] = {}

    def fitting(
        self, run: Run, detector: Detector, fitted_on: tuple[str, ...], outliers: Mapping[str, Rows]
    ) -> Fitting:
        """Which originals a detector is prepared with and fitted on.

        A detector that needs a reference and is given none apart gets a quarter of the run's, by class. Natural images
        are those of the originals that some of the sets hold, so that a detector is not drowned in natural images where
        an attack was tried on a few.
        """
        natural, reference = run.fit, None
        if detector.needs_reference and self._reference is None:
            labels = self._labels(natural)
            parts = split_originals(len(natural), (0.25, 0.75), labels=labels, seed=run.number)
            reference, natural = natural[parts.fit], natural[parts.test]
        attacked = [self._sets[name].images.originals for name in fitted_on if name not in outliers]
        if attacked and len(attacked) == len(fitted_on):
            natural = natural[np.isin(natural, np.concatenate(attacked))]
        return Fitting(natural, reference, fitted_on, outliers)

    def feature_requests(self, label: str, detector: Detector, fitting: Fitting) -> Sequence[FeatureRequest]:
        """What has to be measured of all sets for this detector, which is prepared if it must be."""
        return self._ready(label, detector, fitting).feature_requests()

    def result(self, label: str, detector: Detector, run: Run, fitting: Fitting, testing: Testing) -> DetectorResult:
        """What the detector, fitted on the one, says of the other; from the cache where it is known.

        Raises:
            InputError: too few images to fit, prepare or calibrate this detector.
        """
        key = self._key(label, detector, fitting, testing)
        known = self._cache.load(_KIND, key)
        entry = known or self._judged(label, detector, fitting, testing)
        if known is None:
            self._cache.save(_KIND, key, *entry)
        arrays, more = entry
        names = list(testing.rows)
        votes = {
            name: {vote: arrays[f"{index}.votes.{vote}"] for vote in more["votes"]} for index, name in enumerate(names)
        }
        return DetectorResult(
            detector=label, fitted_on=fitting.fitted_on, run=run.number,
            thresholds={float(rate): float(threshold) for rate, threshold in more["thresholds"]},
            calibrated_on=len(testing.calibrate) if len(testing.calibrate) else None,
            rows=dict(testing.rows), scores={name: arrays[f"{index}.scores"] for index, name in enumerate(names)},
            votes=votes if more["votes"] else {}, costs=dict(more["costs"]), baseline=label in BASELINES,
        )  # fmt: skip

    def fitted(self, label: str, detector: Detector, fitting: Fitting) -> tuple[Detector, float]:
        """The fitted detector, and the seconds that fitting took."""
        ready = self._ready(label, detector, fitting)
        names = [each.name for each in ready.feature_requests()]
        natural = self._sets[NATURAL]
        rows = natural.rows_of(fitting.natural)
        parts, labels = [natural.take(rows, names)], [self._labels(fitting.natural)]
        found = []
        for name in fitting.fitted_on:
            observed = self._sets[name]
            chosen = fitting.outliers[name] if name in fitting.outliers else observed.rows_of(fitting.natural)
            found.append(observed.take(chosen, names))
            if self._noisy and name not in fitting.outliers:
                copies = self._sets[noisy_name(name)]
                parts.append(copies.take(copies.rows_of(fitting.natural), names))
                labels.append(_labels(copies, copies.rows_of(fitting.natural)))
        start = time.perf_counter()
        ready.fit(Features.concatenated(parts), Features.concatenated(found) if found else None, np.concatenate(labels))
        return ready, time.perf_counter() - start

    def calibration(self, detector: Detector, originals: Rows, rate: float) -> Calibration:
        """A threshold of the fitted detector's score, from natural images."""
        return Calibration(detector.score(self._held_out(detector, originals)), rate)

    def calibration_of_vote(self, detector: Detector, originals: Rows, rate: float, vote: str) -> Calibration | None:
        """The same of one of its votes; None for a detector that casts no such vote."""
        votes = detector.score_components(self._held_out(detector, originals)).components
        return Calibration(votes[vote], rate) if vote in votes else None

    def _held_out(self, detector: Detector, originals: Rows) -> Features:
        natural = self._sets[NATURAL]
        return natural.take(natural.rows_of(originals), [each.name for each in detector.feature_requests()])

    def _judged(
        self, label: str, detector: Detector, fitting: Fitting, testing: Testing
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        fitted, fit_seconds = self.fitted(label, detector, fitting)
        names = [each.name for each in fitted.feature_requests()]
        arrays: dict[str, NDArray[Any]] = {}
        seconds, votes = 0.0, []
        for index, (name, rows) in enumerate(testing.rows.items()):
            features = self._sets[name].take(rows, names)
            start = time.perf_counter()
            judged = fitted.score_components(features)
            seconds += time.perf_counter() - start
            arrays |= {f"{index}.scores": judged.score}
            arrays |= {f"{index}.votes.{vote}": values for vote, values in judged.components.items()}
            votes = list(judged.components)
        thresholds = [
            (rate, self.calibration(fitted, testing.calibrate, rate).threshold)
            for rate in testing.rates
            if rate == testing.rates[0] or can_calibrate(len(testing.calibrate), rate)
        ]
        costs = {"fit": fit_seconds, "score": seconds / sum(map(len, testing.rows.values()))}
        known = self._sets[NATURAL].images.costs
        parts = [known.get(name) for name in ("network", *names)]
        if all(part is not None for part in parts):
            costs["measure"] = float(sum(part for part in parts if part is not None))
        return arrays, {"thresholds": thresholds, "votes": votes, "costs": costs}

    def _ready(self, label: str, detector: Detector, fitting: Fitting) -> Detector:
        """An unfitted detector of one's own, prepared if it must be."""
        if not detector.needs_reference:
            return copy.deepcopy(detector)
        if fitting.reference is None:
            assert self._reference is not None
            if label not in self._prepared:
                self._prepared[label] = self._prepare(detector, self._reference, np.arange(len(self._reference.images)))
            return copy.deepcopy(self._prepared[label])
        natural = self._sets[NATURAL]
        return self._prepare(detector, natural, natural.rows_of(fitting.reference))

    def _prepare(self, detector: Detector, observed: ExtractedSet, rows: Rows) -> Detector:
        names = [each.name for each in detector.feature_requests()]
        return copy.deepcopy(detector).prepare(observed.take(rows, names), _labels(observed, rows))

    def _labels(self, originals: Rows) -> Rows:
        natural = self._sets[NATURAL]
        return _labels(natural, natural.rows_of(originals))

    def _key(self, label: str, detector: Detector, fitting: Fitting, testing: Testing) -> dict[str, Any]:
        """Everything that decides what the detector will say."""
        parameters = {name: value for name, value in detector.parameters().items() if name != "n_jobs"}
        rows = {"natural": fitting.natural, "calibrate": testing.calibrate}
        rows |= {f"test.{name}": each for name, each in testing.rows.items()}
        rows |= {f"outliers.{name}": each for name, each in fitting.outliers.items()}
        if fitting.reference is not None:
            rows["reference"] = fitting.reference
        names = {NATURAL, *fitting.fitted_on, *testing.rows}
        names |= {noisy_name(name) for name in fitting.fitted_on if self._noisy and name not in fitting.outliers}
        return {
            "code": self._code, "scikit-learn": sklearn.__version__, "numpy": np.__version__,
            "detector": detector.name, "parameters": parameters,
            "fitted_on": list(fitting.fitted_on), "tested_on": list(testing.rows), "rates": list(testing.rates),
            "rows": arrays_digest(rows), "sets": {name: self._sets[name].key for name in sorted(names)},
            "reference": self._reference.key if detector.needs_reference and self._reference else None,
        }  # fmt: skip


def _labels(observed: ExtractedSet, rows: Rows) -> Rows:
    if observed.images.labels is None:
        raise InputError(f"expected labelled natural images, got {observed.images.name}")
    return observed.images.labels[rows]


def can_calibrate(count: int, rate: float) -> bool:
    """Whether so many natural images give a threshold for that false-positive rate."""
    try:
        Calibration(np.zeros(count), rate)
    except InputError:
        return False
    return True
