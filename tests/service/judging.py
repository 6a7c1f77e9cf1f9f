"""Judged sets made by hand or by lot, for the tests of figures and report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from detector.calibration import Calibration
from detector.statistics import natural_band
from service.evaluation import Evaluation, JudgedSet

BLOCKS = 3


def judged(
    name: str,
    scores: Sequence[float] | np.ndarray,
    *,
    threshold: float,
    right: Sequence[bool] | np.ndarray | None = None,
    success: Sequence[bool] | np.ndarray | None = None,
    originals: Sequence[int] | np.ndarray | None = None,
    statistics: np.ndarray | None = None,
    votes: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> JudgedSet:
    """A set of these scores; labels alternate between two classes, and the network is right unless told otherwise."""
    scores = np.asarray(scores, dtype=np.float64)
    count = len(scores)
    originals = np.arange(count) if originals is None else np.asarray(originals, dtype=np.int64)
    labels = originals % 2
    answers = np.ones(count, dtype=bool) if right is None else np.asarray(right, dtype=bool)
    if statistics is None:
        statistics = np.ones((count, 2 * BLOCKS), np.float32)
    return JudgedSet(
        name=name,
        originals=originals,
        labels=labels,
        predicted=np.where(answers, labels, 1 - labels),
        scores=scores,
        p_values=np.full(count, 0.5),
        flagged=scores >= threshold,
        statistics=statistics,
        votes=votes or {},
        success=None if success is None else np.asarray(success, dtype=bool),
        **more,
    )


def evaluation(
    natural: JudgedSet, *attacked: JudgedSet, threshold: float, fpr: float = 0.05, **more: Any
) -> Evaluation:
    """An evaluation of these sets."""
    given: dict[str, Any] = {"facts": {}, "branches": tuple(f"stage.{block}" for block in range(BLOCKS)), **more}
    return Evaluation(
        natural=natural,
        attacked=attacked,
        threshold=threshold,
        fpr=fpr,
        columns_per_block=2,
        band=natural_band(natural.statistics),
        **given,
    )


def drawn_by_lot(
    rng: np.random.Generator,
    *,
    count: int = 300,
    blocks: int = 9,
    attacks: dict[str, tuple[float, bool | None]] | None = None,
    **more: Any,
) -> Evaluation:
    """An evaluation as a Transport detector's might be: scores are the larger of two votes, paths drift under attack.

    Args:
        attacks: by name, how strongly an attack moves the paths (0 to 1), and whether it was seen.
    """
    if attacks is None:
        attacks = {"fgm": (0.9, True), "bim": (0.7, False), "deepfool": (0.15, False)}
    calibration = Calibration(np.maximum(*_votes(rng, 400, 0).values()), 0.05)
    base = np.geomspace(0.02, 2, blocks) if blocks > 1 else np.ones(1)
    cosines = np.linspace(-0.2, 0.3, blocks)

    def drawn(name: str, shift: float, **also: Any) -> JudgedSet:
        norms = base * rng.lognormal(0.9 * shift * np.linspace(0, 1, blocks), 0.25, (count, blocks))
        angles = cosines - 0.3 * shift * np.linspace(0, 1, blocks) + rng.normal(0, 0.06, (count, blocks))
        votes = _votes(rng, count, shift)
        labels = np.arange(count) % 10
        correct = rng.random(count) < (0.93 if shift == 0 else 0.2)
        scores = np.maximum(*votes.values())
        return JudgedSet(
            name=name,
            originals=np.arange(count) + 5000,
            labels=labels,
            predicted=np.where(correct, labels, (labels + 1) % 10),
            scores=scores,
            p_values=calibration.p_values(scores),
            flagged=calibration.flags(scores),
            statistics=np.stack([norms, angles], axis=2).reshape(count, 2 * blocks).astype(np.float32),
            votes=votes,
            **also,
        )

    natural = drawn("natural", 0)
    attacked = []
    for name, (shift, seen) in attacks.items():
        judged_set = drawn(name, shift, seen=seen, attack={"attack": name, "parameters": {"epsilon": 0.03}})
        success = (natural.predicted == natural.labels) & (judged_set.predicted != judged_set.labels)
        object.__setattr__(judged_set, "success", success)
        attacked.append(judged_set)
    return Evaluation(
        natural=natural,
        attacked=tuple(attacked),
        threshold=calibration.threshold,
        fpr=0.05,
        branches=tuple(f"stages.{block // 3}.{block % 3}" for block in range(blocks)),
        columns_per_block=2,
        band=natural_band(natural.statistics),
        facts=more.pop(
            "facts", {"network": "resnet20", "detector": {"name": "transport"}, "dataset": {"name": "digits"}}
        ),
        **more,
    )


def _votes(rng: np.random.Generator, count: int, shift: float) -> dict[str, np.ndarray]:
    """Votes of two forests of 100 trees."""
    middle = 0.08 + 0.8 * shift
    drawn = np.clip(rng.normal(middle, 0.09, (2, count)), 0, 1)
    return {name: np.round(votes, 2) for name, votes in zip(("all_class", "predicted_class"), drawn, strict=True)}
