"""Fit one detector on the originals of one run, and score the test images."""

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
from models.errors import InputError
from models.features import FeatureRequest, Features
from service.cache import EvaluationCache, code_digest
from service.evaluation.planning.plan import EvaluationPlan
from service.evaluation.planning.protocols import Run, can_calibrate
from service.evaluation.planning.selection import BASELINES
from service.evaluation.records import NATURAL, DetectorResult, noisy_name
from service.evaluation.running.sets import ExtractedSet
from service.inputs import split_in_two

__all__ = ["Fitting", "Scorer", "Testing", "fitting_of"]

Rows = NDArray[np.int64]

_KIND = "results"


@dataclass(frozen=True, eq=False)
class Fitting:
    """The images that a detector is fitted on in one run.

    Args:
        natural: originals to fit on.
        reference: originals that it compares with, none of `natural`; None: the reference set.
        fitted_on: names of the attacked sets and outlier sets.
        outliers: name of the outlier set → its rows to fit on.
    """

    natural: Rows
    reference: Rows | None
    fitted_on: tuple[str, ...]
    outliers: Mapping[str, Rows]


@dataclass(frozen=True, eq=False)
class Testing:
    """The images that a detector is calibrated and tested on in one run.

    Args:
        calibrate: originals to calibrate on; may be empty.
        rows: name of the set → its rows to test on.
        rates: false-positive rates of the thresholds.
    """

    calibrate: Rows
    rows: Mapping[str, Rows]
    rates: tuple[float, ...]


class Scorer:
    """Fits detectors on extracted sets, and caches their scores.

    Args:
        sets: by name, with the natural images; sets may be added later.
        cache: of scores.
        reference: labelled images that detectors compare with; None: a share of each run's images.
        noisy: whether the noisy copies of an attack's originals count as natural.
        successful: whether detectors are fitted on successful attacks only.
    """

    def __init__(
        self,
        sets: Mapping[str, ExtractedSet],
        cache: EvaluationCache,
        *,
        reference: ExtractedSet | None = None,
        noisy: bool = False,
        successful: bool = False,
    ) -> None:
        self._sets, self._cache, self._reference, self._noisy = sets, cache, reference, noisy
        self._successful = successful
        self._code = code_digest("detector", "models.features.extraction")
        self._prepared: dict[str, Detector] = {}

    def fitting(
        self, run: Run, detector: Detector, fitted_on: tuple[str, ...], outliers: Mapping[str, Rows]
    ) -> Fitting:
        """The images that a detector is fitted on.

        Without a reference set, a detector that needs one gets a quarter of the run's originals, by class. Natural
        images are the originals that some of the attacks were tried on, so that a detector does not learn from many
        more natural images than attacked ones.

        Args:
            run: whose originals it is fitted on.
            detector: unfitted.
            fitted_on: names of the attacked sets and outlier sets.
            outliers: name of the outlier set → its rows to fit on.
        """
        natural, reference = run.fit, None
        if detector.needs_reference and self._reference is None:
            compare, fit = split_in_two(len(natural), 0.25, labels=self._labels(natural), seed=run.number)
            reference, natural = natural[compare], natural[fit]
        attacked = [self._sets[name].images.originals for name in fitted_on if name not in outliers]
        if attacked and len(attacked) == len(fitted_on):
            natural = natural[np.isin(natural, np.concatenate(attacked))]
        return Fitting(natural, reference, fitted_on, outliers)

    def feature_requests(self, label: str, detector: Detector, fitting: Fitting) -> Sequence[FeatureRequest]:
        """The features that this detector requests, prepared with its reference images if it needs any."""
        return self._ready(label, detector, fitting).feature_requests()

    def result(self, label: str, detector: Detector, run: Run, fitting: Fitting, testing: Testing) -> DetectorResult:
        """The detector's scores of the test images, after fitting and calibration; from the cache if known.

        Args:
            label: of the detector.
            detector: unfitted.
            run: of the evaluation.
            fitting: what it is fitted on.
            testing: what it is calibrated and tested on.

        Raises:
            InputError: too few images to fit, prepare or calibrate this detector.
        """
        key = self._key(detector, fitting, testing)
        known = self._cache.load(_KIND, key)
        entry = known or self._scored(label, detector, fitting, testing)
        if known is None:
            self._cache.save(_KIND, key, *entry)
        arrays, more = entry
        names = list(testing.rows)
        known_names = more["components"]
        components = {
            name: {part: arrays[f"{index}.component.{part}"] for part in known_names}
            for index, name in enumerate(names)
        }
        main = {name: np.array(known_names)[arrays[f"{index}.main"]] for index, name in enumerate(names) if known_names}
        parts = np.array(more["parts"])
        main_parts = {name: parts[arrays[f"{index}.part"]] for index, name in enumerate(names) if len(parts)}
        return DetectorResult(
            detector=label, fitted_on=fitting.fitted_on, run=run.number,
            thresholds={float(rate): float(threshold) for rate, threshold in more["thresholds"]},
            calibrated_on=len(testing.calibrate) if len(testing.calibrate) else None,
            rows=dict(testing.rows), scores={name: arrays[f"{index}.scores"] for index, name in enumerate(names)},
            components=components if known_names else {}, costs=dict(more["costs"]), baseline=label in BASELINES,
            component_info=detector.component_info(), main_components=main, main_parts=main_parts,
        )  # fmt: skip

    def fitted(self, label: str, detector: Detector, fitting: Fitting) -> tuple[Detector, float]:
        """The fitted detector, and the seconds that fitting took."""
        ready = self._ready(label, detector, fitting)
        names = [each.name for each in ready.feature_requests()]
        natural = self._sets[NATURAL]
        rows = natural.rows_of(fitting.natural)
        parts, labels = [natural.take(rows, names)], [self._labels(fitting.natural)]
        anomalous = []
        for name in fitting.fitted_on:
            extracted = self._sets[name]
            chosen = fitting.outliers[name] if name in fitting.outliers else extracted.rows_of(fitting.natural)
            if self._successful and extracted.images.success is not None:
                chosen = chosen[extracted.images.success[chosen]]
            anomalous.append(extracted.take(chosen, names))
            if self._noisy and name not in fitting.outliers:
                copies = self._sets[noisy_name(name)]
                parts.append(copies.take(copies.rows_of(fitting.natural), names))
                labels.append(_labels(copies, copies.rows_of(fitting.natural)))
        start = time.perf_counter()
        ready.fit(
            Features.concatenated(parts),
            Features.concatenated(anomalous) if anomalous else None,
            np.concatenate(labels),
        )
        return ready, time.perf_counter() - start

    def calibration(self, detector: Detector, originals: Rows, rate: float) -> Calibration:
        """The calibration of the fitted detector's score on natural originals."""
        result = detector.score_components(self._natural_features(detector, originals))
        return Calibration(result.score, rate, parts=result.parts)

    def calibration_of_component(
        self, detector: Detector, originals: Rows, rate: float, name: str
    ) -> Calibration | None:
        """The calibration of one of its components; None for a detector without that component."""
        components = detector.score_components(self._natural_features(detector, originals)).components
        return Calibration(components[name], rate) if name in components else None

    def _natural_features(self, detector: Detector, originals: Rows) -> Features:
        natural = self._sets[NATURAL]
        return natural.take(natural.rows_of(originals), [each.name for each in detector.feature_requests()])

    def _scored(
        self, label: str, detector: Detector, fitting: Fitting, testing: Testing
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        fitted, fit_seconds = self.fitted(label, detector, fitting)
        names = [each.name for each in fitted.feature_requests()]
        arrays: dict[str, NDArray[Any]] = {}
        seconds, components, parts = 0.0, list[str](), fitted.part_names()
        for index, (name, rows) in enumerate(testing.rows.items()):
            features = self._sets[name].take(rows, names)
            start = time.perf_counter()
            result = fitted.score_components(features)
            seconds += time.perf_counter() - start
            arrays |= {f"{index}.scores": result.score}
            arrays |= {f"{index}.component.{part}": values for part, values in result.components.items()}
            if components := list(result.components):
                places = [components.index(part) for part in result.main_components() if part is not None]
                arrays[f"{index}.main"] = np.array(places, dtype=np.int64)
            if parts:
                places = [parts.index(part) for part in result.main_parts() if part is not None]
                arrays[f"{index}.part"] = np.array(places, dtype=np.int64)
        thresholds = [
            (rate, self.calibration(fitted, testing.calibrate, rate).threshold)
            for rate in testing.rates
            if rate == testing.rates[0] or can_calibrate(len(testing.calibrate), rate)
        ]
        costs = {"fit": fit_seconds, "score": seconds / sum(map(len, testing.rows.values()))}
        known = self._sets[NATURAL].images.costs
        measured = [known.get(name) for name in ("network", *names)]
        if all(each is not None for each in measured):
            costs["measure"] = float(sum(each for each in measured if each is not None))
        return arrays, {"thresholds": thresholds, "components": components, "parts": parts, "costs": costs}

    def _ready(self, label: str, detector: Detector, fitting: Fitting) -> Detector:
        """An unfitted copy of the detector, prepared with its reference images if it needs any."""
        if not detector.needs_reference:
            return copy.deepcopy(detector)
        if fitting.reference is None:
            assert self._reference is not None
            if label not in self._prepared:
                self._prepared[label] = self._prepare(detector, self._reference, np.arange(len(self._reference.images)))
            return copy.deepcopy(self._prepared[label])
        natural = self._sets[NATURAL]
        return self._prepare(detector, natural, natural.rows_of(fitting.reference))

    def _prepare(self, detector: Detector, extracted: ExtractedSet, rows: Rows) -> Detector:
        names = [each.name for each in detector.feature_requests()]
        return copy.deepcopy(detector).prepare(extracted.take(rows, names), _labels(extracted, rows))

    def _labels(self, originals: Rows) -> Rows:
        natural = self._sets[NATURAL]
        return _labels(natural, natural.rows_of(originals))

    def _key(self, detector: Detector, fitting: Fitting, testing: Testing) -> dict[str, Any]:
        """Everything that determines the scores, as JSON values."""
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
            **({"successful": True} if self._successful else {}),
        }  # fmt: skip


def _labels(extracted: ExtractedSet, rows: Rows) -> Rows:
    if extracted.images.labels is None:
        raise InputError(f"expected labelled natural images, got {extracted.images.name}")
    return extracted.images.labels[rows]


def fitting_of(plan: EvaluationPlan, scorer: Scorer, run: Run, label: str, fitted_on: tuple[str, ...]) -> Fitting:
    """The images that one detector is fitted on in one run.

    Args:
        plan: of the evaluation.
        scorer: of its sets.
        run: whose images it is fitted on.
        label: of the detector.
        fitted_on: names of the attacked sets and outlier sets.
    """
    rows = {name: plan.outlier_parts(name, run)[0] for name in fitted_on if name in plan.images.outliers}
    return scorer.fitting(run, plan.selection.detectors[label], fitted_on, rows)
