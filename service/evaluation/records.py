"""The result of an evaluation: sets of images, the scores of detectors on them, and the evaluation with both.

natural ─┐                                       ┌─ transport, fitted on fgm, run 0
fgm      ├─ ImageSet each: images and network    ├─ DetectorResult each: one detector fitted once,
pgd …    │  alone, made once                     │  on the test rows of one run
ood:… ───┘                                       └─ …
                          Evaluation → service.evaluation.summary: JSON values
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detector.common.result import ComponentInfo
from models.errors import InputError

__all__ = [
    "NATURAL",
    "VOTES",
    "ImageSet",
    "DetectorResult",
    "Kind",
    "Protocol",
    "Evaluation",
    "adaptive_evaluations",
    "noisy_name",
]

Kind = Literal["natural", "attack", "outlier"]
Protocol = Literal["paper", "sound"]

NATURAL = "natural"  # the name of the set of natural images, which every evaluation has
# Components of the class-conditional classifiers; the thesis compares the larger one with 0.5.
VOTES = ("all_class", "predicted_class")


def noisy_name(attack: str) -> str:
    """The name of the set of noisy copies of an attacked set's originals."""
    return f"noisy:{attack}"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and the network's predictions, one row per image in any order; no detector is involved.

    Args:
        name: "natural", an attack's label, "ood:" and a data set, or "noisy:" and an attack's label.
        kind: noisy copies are of kind "natural".
        originals: int64 ``(N,)``, the row of each image's original in its data set, each once.
        labels: int64 ``(N,)``, the true classes; None for outliers.
        predicted: int64 ``(N,)``, the predicted classes.
        probability: float64 ``(N,)``, their softmax probabilities.
        statistics: float32 ``(N, F)``, for drawing paths.
        success: bool ``(N,)`` for an attacked set: the natural original was classified correctly, this image is not.
        attack: the attacked set's summary, JSON values.
        costs: seconds per image: "attack", "network" and each feature request's; None where not measured.

    Raises:
        InputError: arrays of other lengths or types, no rows, an original twice, numbers that are not finite, or
            labels or success that do not match the kind.
    """

    name: str
    kind: Kind
    originals: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    statistics: NDArray[np.float32]
    success: NDArray[np.bool_] | None
    attack: dict[str, Any] | None
    costs: dict[str, float | None]

    def __post_init__(self) -> None:
        if self.kind not in ("natural", "attack", "outlier"):
            raise InputError(f"expected the set {self.name!r} to be natural, attack or outlier, got {self.kind!r}")
        count = len(self.originals)
        if not count:
            raise InputError(f"expected images in the set {self.name!r}, got none")
        for what, wanted in (("labels", self.kind != "outlier"), ("success", self.kind == "attack")):
            if (getattr(self, what) is not None) != wanted:
                raise InputError(
                    f"expected {what if wanted else 'no ' + what} in the set {self.name!r} of kind {self.kind}, "
                    f"got {'none' if wanted else 'some'}"
                )
        for what, values in self._columns().items():
            if np.shape(values) != (count,):
                raise InputError(
                    f"expected {what} of the set {self.name!r} of shape ({count},), one per original, "
                    f"got {np.shape(values)}"
                )
        if self.success is not None and self.success.dtype != np.bool_:
            raise InputError(f"expected success of the set {self.name!r} as bool, got {self.success.dtype}")
        if np.ndim(self.statistics) != 2 or len(self.statistics) != count:
            raise InputError(
                f"expected statistics of the set {self.name!r} of shape ({count}, F), got {np.shape(self.statistics)}"
            )
        for what in ("probability", "statistics"):
            if not np.isfinite(getattr(self, what)).all():
                raise InputError(f"expected finite {what} in the set {self.name!r}, got NaN or infinity")
        if len(np.unique(self.originals)) != count:
            raise InputError(f"expected each original once in the set {self.name!r}, got some of them several times")

    def _columns(self) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any] | None] = {
            "labels": self.labels, "predicted": self.predicted, "probability": self.probability,
            "success": self.success,
        }  # fmt: skip
        return {what: values for what, values in columns.items() if values is not None}

    def __len__(self) -> int:
        return len(self.originals)

    @property
    def right(self) -> NDArray[np.bool_]:
        """``(N,)``: whether the predicted class is the true one; False for outliers, which have no true class."""
        if self.labels is None:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.predicted == self.labels)


@dataclass(frozen=True, eq=False)
class DetectorResult:
    """The scores of one detector, fitted once, on the test rows of one run.

    Args:
        detector: its label, such as "transport", "mahalanobis:magnitude=0.0014" or "artifact".
        fitted_on: names of the attacked sets and outlier sets that it was fitted on.
        run: number of the run, from 0.
        thresholds: nominal false-positive rate → threshold; the first is the operating one. Empty in the paper's
            protocol, whose decision is a vote of 0.5.
        calibrated_on: number of natural images that the thresholds were calibrated on; None if unknown.
        rows: set name → int64, the rows of that set that were scored.
        scores: set name → float64, higher = more anomalous.
        components: set name → component → float64; may be empty.
        costs: "fit" in seconds, "score" in seconds per image, and optionally "measure", seconds per image from pixels
            to the detector's features.
        baseline: whether it is one of the trivial detectors of every table.
        component_info: title and description of components, by name.
        main_components: set name → name of the component that contributes most to the score of each row.
        main_parts: set name → name of the least natural part of the score of each row; empty for a score without parts.

    Raises:
        InputError: no natural images, arrays of different lengths, numbers that are not finite.
    """

    detector: str
    fitted_on: tuple[str, ...]
    run: int
    thresholds: dict[float, float]
    calibrated_on: int | None
    rows: Mapping[str, NDArray[np.int64]]
    scores: Mapping[str, NDArray[np.float64]]
    components: Mapping[str, Mapping[str, NDArray[np.float64]]]
    costs: dict[str, float]
    baseline: bool = False
    component_info: Mapping[str, ComponentInfo] = field(default_factory=dict)
    main_components: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    main_parts: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        who = self._who()
        if NATURAL not in self.rows:
            raise InputError(f"expected natural images scored by {who}, got {', '.join(self.rows) or 'no set'}")
        if set(self.rows) != set(self.scores) or not set(self.components) <= set(self.rows):
            raise InputError(
                f"expected scores of the sets {sorted(self.rows)} by {who}, got {sorted(self.scores)} and components "
                f"on {sorted(self.components)}"
            )
        for name, rows in self.rows.items():
            if rows.ndim != 1 or rows.dtype != np.int64 or not len(rows) or len(np.unique(rows)) != len(rows):
                raise InputError(
                    f"expected some int64 rows of {name!r}, each once, scored by {who}, got {rows.dtype} {rows.shape}"
                )
            parts = {"scores": self.scores[name], **self.components.get(name, {})}
            for what, values in parts.items():
                if values.shape != rows.shape or not np.isfinite(values).all():
                    raise InputError(
                        f"expected {len(rows)} finite {what} on {name!r} by {who}, got shape {values.shape} or NaN"
                    )
        for rate, threshold in self.thresholds.items():
            if not 0 < rate < 1 or not np.isfinite(threshold):
                raise InputError(
                    f"expected finite thresholds for rates between 0 and 1 from {who}, got {rate}: {threshold}"
                )

    def _who(self) -> str:
        return f"{self.detector} (run {self.run}, fitted on {', '.join(self.fitted_on) or 'natural images only'})"

    @property
    def has_votes(self) -> bool:
        """Whether the score is the larger of two classifiers' votes, so that 0.5 is a threshold."""
        return set(VOTES) <= set(self.components.get(NATURAL, {}))

    @property
    def threshold(self) -> float | None:
        """The threshold that images are flagged at: the first calibrated one, or a vote of 0.5; None for neither."""
        if self.thresholds:
            return next(iter(self.thresholds.values()))
        return 0.5 if self.has_votes else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that a report shows.

    Args:
        protocol: "paper" or "sound".
        sets: by name, with "natural"; every original of an attacked set is also one of the natural set.
        detector_results: in the order of the tables; one per run of a detector fitted on the same sets.
        branches: names of the residual blocks, in execution order.
        columns_per_block: 2 plus the number of further directions.
        band: float32 ``(3, F)``, natural quantiles 0.05, 0.5 and 0.95 of the statistics.
        provenance: network, data sets, splits, settings, machine and versions, as JSON values.
        adaptive: figures of adaptive attacks as JSON values, by the attacked detector and what it was fitted on.

    Raises:
        InputError: parts that contradict each other.
    """

    protocol: Protocol
    sets: Mapping[str, ImageSet]
    detector_results: tuple[DetectorResult, ...]
    branches: tuple[str, ...]
    columns_per_block: int
    band: NDArray[np.float32]
    provenance: dict[str, Any]
    adaptive: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "sound"):
            raise InputError(f"expected the protocol paper or sound, got {self.protocol!r}")
        if NATURAL not in self.sets or self.sets[NATURAL].kind != "natural":
            raise InputError(f"expected natural images in a set {NATURAL!r}, got {', '.join(self.sets) or 'none'}")
        columns = len(self.branches) * self.columns_per_block
        if self.band.shape != (3, columns):
            raise InputError(f"expected a natural band of shape (3, {columns}), got {self.band.shape}")
        for name, images in self.sets.items():
            if images.name != name:
                raise InputError(f"expected the set {name!r} under its own name, got {images.name!r}")
            if images.statistics.shape[1] != columns:
                raise InputError(
                    f"expected {columns} columns of statistics in {name!r}, got {images.statistics.shape[1]}"
                )
            if images.kind != "outlier" and not np.isin(images.originals, self.sets[NATURAL].originals).all():
                raise InputError(
                    f"expected every original of {name!r} among the natural images, got others; add those too"
                )
        for result in self.detector_results:
            self._check_result(result)
        if len({(each.detector, each.fitted_on, each.run) for each in self.detector_results}) < len(
            self.detector_results
        ):
            raise InputError("expected one result per detector, sets to fit on and run, got one of them twice")

    def _check_result(self, result: DetectorResult) -> None:
        who = result._who()
        # `fitted_on` may name other sets: an artifact may come from attacks that are not tested.
        if unknown := [name for name in result.rows if name not in self.sets]:
            raise InputError(f"expected sets of the evaluation scored by {who}, got {', '.join(unknown)}")
        for name, rows in result.rows.items():
            if rows.min() < 0 or rows.max() >= len(self.sets[name]):
                raise InputError(
                    f"expected rows of {name!r} below {len(self.sets[name])} from {who}, got up to {rows.max()}"
                )
        tested = self.sets[NATURAL].originals[result.rows[NATURAL]]
        for name, rows in result.rows.items():
            images = self.sets[name]
            if images.kind != "outlier" and not np.isin(images.originals[rows], tested).all():
                raise InputError(
                    f"expected {who} to score the natural original of every image of {name!r}, got others; an "
                    "attacked image belongs to the same part of a split as its original"
                )

    @property
    def runs(self) -> tuple[int, ...]:
        """Numbers of the runs, sorted."""
        return tuple(sorted({result.run for result in self.detector_results}))

    def detectors(self) -> dict[tuple[str, tuple[str, ...]], list[DetectorResult]]:
        """(detector, fitted_on) → its results by run, in the order of `detector_results`."""
        groups: dict[tuple[str, tuple[str, ...]], list[DetectorResult]] = {}
        for result in self.detector_results:
            groups.setdefault((result.detector, result.fitted_on), []).append(result)
        return {key: sorted(group, key=lambda each: each.run) for key, group in groups.items()}


def adaptive_evaluations(given: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(title, figures) of every detector that was attacked, of an evaluation's adaptive figures.

    Figures are mappings with the key "attacks", at the top or nested in mappings and lists.
    """
    if isinstance(given, Mapping) and isinstance(given.get("attacks"), Mapping):
        title = given.get("detector")
        yield (title if isinstance(title, str) else ""), given
    elif isinstance(given, Mapping):
        for name, inner in given.items():
            for _, figures in adaptive_evaluations(inner):
                yield str(name), figures
    elif isinstance(given, list):
        for inner in given:
            yield from adaptive_evaluations(inner)
