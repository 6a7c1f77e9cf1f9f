"""Evaluations made by hand or at random, for the tests of figures and report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detector.calibration import Calibration
from detector.features.statistics import natural_band
from service.evaluation.records import NATURAL, DetectorResult, Evaluation, ImageSet

BLOCKS = 3
CLASSES = 10


def image_set(
    name: str,
    count: int = 0,
    *,
    kind: Any = "natural",
    originals: Sequence[int] | np.ndarray | None = None,
    right: Sequence[bool] | Sequence[int] | np.ndarray | None = None,
    success: Sequence[bool] | Sequence[int] | np.ndarray | None = None,
    statistics: np.ndarray | None = None,
    attack: dict[str, Any] | None = None,
    costs: dict[str, float | None] | None = None,
    blocks: int = BLOCKS,
) -> ImageSet:
    """A set whose labels are the originals modulo 10; the network is right by default."""
    originals = np.arange(count) if originals is None else np.asarray(originals, dtype=np.int64)
    labels = originals % CLASSES
    answers = np.ones(len(originals), dtype=bool) if right is None else np.asarray(right, dtype=bool)
    return ImageSet(
        name=name,
        kind=kind,
        originals=originals,
        labels=None if kind == "outlier" else labels,
        predicted=np.where(answers, labels, (labels + 1) % CLASSES),
        probability=np.full(len(originals), 0.9),
        statistics=np.ones((len(originals), 2 * blocks), np.float32) if statistics is None else statistics,
        success=None if success is None else np.asarray(success, dtype=bool),
        attack=attack,
        costs=costs or {},
    )


def detector_result(
    detector: str,
    scores: Mapping[str, Sequence[float] | np.ndarray],
    *,
    rows: Mapping[str, Sequence[int] | np.ndarray] | None = None,
    threshold: float | None = 0.5,
    components: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    **more: Any,
) -> DetectorResult:
    """A result of these scores, by set; rows are the first ones of each set by default."""
    given: dict[str, Any] = {"fitted_on": (), "run": 0, "calibrated_on": None, "costs": {}, **more}
    given.setdefault("thresholds", {} if threshold is None else {0.05: threshold})
    return DetectorResult(
        detector=detector,
        rows={n: np.asarray((rows or {}).get(n, np.arange(len(s))), dtype=np.int64) for n, s in scores.items()},
        scores={name: np.asarray(values, dtype=np.float64) for name, values in scores.items()},
        components=components or {},
        **given,
    )


def evaluation(sets: Sequence[ImageSet], detector_results: Sequence[DetectorResult], **more: Any) -> Evaluation:
    """An evaluation of these sets and results."""
    natural = next(images for images in sets if images.name == NATURAL)
    blocks = natural.statistics.shape[1] // 2
    given: dict[str, Any] = {"protocol": "sound", "provenance": {}, **more}
    return Evaluation(
        sets={images.name: images for images in sets},
        detector_results=tuple(detector_results),
        branches=tuple(f"stages.{block // 3}.{block % 3}" for block in range(blocks)),
        columns_per_block=2,
        band=natural_band(natural.statistics),
        **given,
    )


def random_evaluation(
    rng: np.random.Generator,
    *,
    count: int = 300,
    runs: int = 2,
    blocks: int = 9,
    protocol: Any = "sound",
    attacks: Mapping[str, float] | None = None,
    outliers: Mapping[str, float] | None = None,
    detectors: Mapping[str, float] | None = None,
    fit_on: Sequence[tuple[str, ...]] | None = None,
    **more: Any,
) -> Evaluation:
    """An evaluation as a real one might be: paths drift under attack, two votes rise, half the originals are tested.

    Args:
        attacks, outliers: by name, how strongly they move paths and scores (0 to 1).
        detectors: by label, how much of that they notice (0 to 1). Those named max_softmax, energy and pixel_statistics
            are baselines, and the first two have no votes and are fitted on nothing.
        fit_on: the sets that each other detector is fitted on in turn; on others it notices half as much.
    """
    attacks = {"fgm": 0.9, "pgd:epsilon=2/255": 0.6, "deepfool": 0.15} if attacks is None else attacks
    outliers = {"ood:noise": 0.95} if outliers is None else outliers
    detectors = {"transport": 1.0, "max_softmax": 0.3, "pixel_statistics": 0.5} if detectors is None else detectors
    fit_on = [(name,) for name in list(attacks)[:2]] if fit_on is None else fit_on
    natural = _random_set(rng, NATURAL, "natural", 0.0, np.arange(count) + 5000, blocks, None)
    shifts = {**attacks, **outliers}
    sets = [natural] + [
        _random_set(rng, name, "attack" if name in attacks else "outlier", shift, natural.originals, blocks, natural)
        for name, shift in shifts.items()
    ]
    detector_results = [
        _random_result(rng, label, strength, sets, {NATURAL: 0.0, **shifts}, fitted_on, run, protocol)
        for run in range(runs)
        for label, strength in detectors.items()
        for fitted_on in ([()] if label in ("max_softmax", "energy") else fit_on)
    ]
    provenance = more.pop("provenance", {"network": "resnet20", "dataset": {"name": "digits"}})
    return evaluation(sets, detector_results, protocol=protocol, provenance=provenance, **more)


def _random_set(
    rng: np.random.Generator,
    name: str,
    kind: str,
    shift: float,
    originals: np.ndarray,
    blocks: int,
    natural: ImageSet | None,
) -> ImageSet:
    count = len(originals)
    along = np.linspace(0, 1, blocks)
    base = np.geomspace(0.02, 2, blocks) if blocks > 1 else np.ones(1)
    norms = base * rng.lognormal(0.9 * shift * along, 0.25, (count, blocks))
    angles = np.linspace(-0.2, 0.3, blocks) - 0.3 * shift * along + rng.normal(0, 0.06, (count, blocks))
    right = rng.random(count) < (0.93 if natural is None else 0.2)
    attack = None
    if kind == "attack":
        size = {"mean": 0.03, "median": 0.03, "max": 0.03}
        head, _, option = name.partition(":epsilon=")
        attack = {"attack": head, "parameters": {"epsilon": option or 0.03}, "unchanged": 0.0, "linf": size, "l2": size}
    return image_set(
        name,
        kind=kind,
        originals=originals,
        right=right,
        success=natural.right & ~right if kind == "attack" and natural is not None else None,
        statistics=np.stack([norms, angles], axis=2).reshape(count, 2 * blocks).astype(np.float32),
        attack=attack,
        costs={"network": 0.001, **({"attack": 0.02} if kind == "attack" else {})},
        blocks=blocks,
    )


def _random_result(
    rng: np.random.Generator,
    label: str,
    strength: float,
    sets: Sequence[ImageSet],
    shifts: Mapping[str, float],
    fitted_on: tuple[str, ...],
    run: int,
    protocol: str,
) -> DetectorResult:
    rows = np.sort(rng.permutation(len(sets[0]))[: max(1, len(sets[0]) // 2)]).astype(np.int64)

    def votes(shift: float, size: int) -> dict[str, np.ndarray]:
        drawn = np.clip(rng.normal(0.08 + 0.8 * shift * strength, 0.09, (2, size)), 0, 1)
        return {n: np.round(v, 2) for n, v in zip(("all_class", "predicted_class"), drawn, strict=True)}

    noticed = {n: shift if not fitted_on or n in fitted_on else shift / 2 for n, shift in shifts.items()}
    parts = {images.name: votes(noticed[images.name], len(rows)) for images in sets}
    held_out = np.maximum(*votes(0, 400).values())
    thresholds = {rate: Calibration(held_out, rate).threshold for rate in (0.05, 0.01)}
    plain = label in ("max_softmax", "energy")
    return DetectorResult(
        detector=label,
        fitted_on=fitted_on,
        run=run,
        thresholds=thresholds if protocol == "sound" else {},
        calibrated_on=400 if protocol == "sound" else None,
        rows={images.name: rows for images in sets},
        scores={name: np.maximum(*both.values()) for name, both in parts.items()},
        components={} if plain else parts,
        main_components={} if plain else {n: np.array(list(p))[np.argmax([*p.values()], 0)] for n, p in parts.items()},
        costs={"fit": 0.0 if plain else 1.5, "score": 2e-5, "measure": 1e-3},
        baseline=plain or label == "pixel_statistics",
    )
