"""Metrics against cases worked by hand and against scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detector import metrics
from models.errors import InputError

NATURAL = np.array([0.1, 0.2, 0.3, 0.4])
ADVERSARIAL = np.array([0.35, 0.4, 0.9, 0.95, 0.99])


def tpr_at_fpr(natural: np.ndarray, adversarial: np.ndarray, fpr: float) -> float:
    """By scikit-learn: the largest share of flagged adversarial images where at most `fpr` of the natural ones are."""
    labels = np.repeat([0, 1], [len(natural), len(adversarial)])
    false, true, _ = roc_curve(labels, np.concatenate([natural, adversarial]), drop_intermediate=False)
    return float(true[false <= fpr].max())


def test_auroc_by_hand() -> None:
    # Of 20 pairs, 3 + 3.5 + 4 + 4 + 4 are the right way round, a tie counting half.
    assert metrics.auroc(NATURAL, ADVERSARIAL) == pytest.approx(18.5 / 20)


def test_higher_is_more_anomalous() -> None:
    assert metrics.auroc(NATURAL, NATURAL + 1) == 1.0
    assert metrics.auroc(NATURAL, NATURAL - 1) == 0.0


def test_scores_are_ranked_and_never_squashed() -> None:
    """Scores of thousands that a sigmoid would make equal."""
    assert metrics.auroc(NATURAL + 5000, ADVERSARIAL + 5000) == pytest.approx(18.5 / 20)


def test_rates_at_rates_by_hand() -> None:
    assert metrics.fpr_at_tpr(NATURAL, ADVERSARIAL, 0.95) == pytest.approx(1 / 4)
    assert metrics.fpr_at_tpr(NATURAL, ADVERSARIAL, 0.6) == 0.0


def test_accuracy_at_half_is_the_papers_decision() -> None:
    # A vote of exactly 0.5 is an attack: score >= 0.5.
    assert metrics.accuracy_at(np.array([0.1, 0.5]), np.array([0.5, 0.4])) == 0.5


def test_system_accuracy_by_hand() -> None:
    accuracy = metrics.system_accuracy(
        NATURAL, np.array([True, True, False, True]), ADVERSARIAL, np.array([True, False, False, False, True]), 0.4
    )
    # Natural: the third is misclassified, the fourth rejected. Adversarial: only the first is let through, and right.
    assert accuracy == {"natural": 0.5, "adversarial": 1.0, "balanced": 0.75}
    nothing_rejected = metrics.system_accuracy(NATURAL, np.ones(4, bool), ADVERSARIAL, np.arange(5) < 2, 2.0)
    assert nothing_rejected == {"natural": 1.0, "adversarial": 0.4, "balanced": 0.7}


def test_separation_equals_scikit_learn(rng: np.random.Generator) -> None:
    for levels in (3, 40, 10**6):  # from mostly ties to none
        natural, adversarial = rng.integers(levels, size=150) / levels, rng.integers(levels, size=90) / levels + 0.1
        found = metrics.separation(natural, adversarial, resamples=0, seed=0)
        assert found == pytest.approx(
            {
                "auroc": metrics.auroc(natural, adversarial),
                "aupr": metrics.aupr(natural, adversarial),
                "tpr_at_5_fpr": tpr_at_fpr(natural, adversarial, 0.05),
                "tpr_at_1_fpr": tpr_at_fpr(natural, adversarial, 0.01),
                "fpr_at_95_tpr": metrics.fpr_at_tpr(natural, adversarial),
            },
            abs=1e-12,
        )


def test_bootstrap_resamples_equal_scikit_learn(rng: np.random.Generator, seed: int) -> None:
    """The counted resamples are the ones that drawing the images would give, and so are their metrics."""
    natural = np.round(rng.normal(size=60), 1)
    adversarial = np.round(rng.normal(1, size=45), 1)
    counted = metrics._resampled(natural, adversarial, 30, np.random.default_rng(seed))
    random = np.random.default_rng(seed)
    drawn_natural = natural[random.integers(60, size=(30, 60))]
    drawn_adversarial = adversarial[random.integers(45, size=(30, 45))]
    labels = np.repeat([0, 1], [60, 45])
    for i, (one, other) in enumerate(zip(drawn_natural, drawn_adversarial, strict=True)):
        scores = np.concatenate([one, other])
        assert counted["auroc"][i] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert counted["aupr"][i] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
        assert counted["tpr_at_5_fpr"][i] == pytest.approx(tpr_at_fpr(one, other, 0.05), abs=1e-12)
        assert counted["tpr_at_1_fpr"][i] == pytest.approx(tpr_at_fpr(one, other, 0.01), abs=1e-12)
        assert counted["fpr_at_95_tpr"][i] == pytest.approx(metrics.fpr_at_tpr(one, other), abs=1e-12)


def test_bootstrap_interval_has_the_width_of_the_metrics_spread(rng: np.random.Generator) -> None:
    """Against the AUROC's standard deviation over fresh samples of the same size."""
    fresh = [metrics.auroc(rng.normal(size=200), rng.normal(1, size=200)) for _ in range(200)]
    intervals = [
        metrics.bootstrap_intervals(rng.normal(size=200), rng.normal(1, size=200), resamples=300)["auroc"]
        for _ in range(5)
    ]
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.4)


def test_bootstrap_is_seeded(rng: np.random.Generator) -> None:
    first, again, other = (metrics.bootstrap_intervals(NATURAL, ADVERSARIAL, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first["auroc"].high == other["auroc"].high == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.auroc(np.array([]), ADVERSARIAL),
        lambda: metrics.auroc(NATURAL, np.array([0.1, np.nan])),
        lambda: metrics.auroc(NATURAL[:, None], ADVERSARIAL),
        lambda: metrics.system_accuracy(NATURAL, np.ones(3), ADVERSARIAL, np.ones(5), 0.5),
    ],
)
def test_scores_and_masks_that_do_not_fit_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()
