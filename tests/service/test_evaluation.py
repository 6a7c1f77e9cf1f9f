"""Figures against counts worked out by hand, and against an independent reference."""

import doctest
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

import service.jsonable
import service.wording
from models.errors import InputError
from service.evaluation import Evaluation, JudgedSet, figures
from service.jsonable import as_json
from tests.service.judging import drawn_by_lot, evaluation, judged


def by_hand() -> Evaluation:
    """Four originals; one natural image flagged; two of three successful images flagged."""
    natural = judged("natural", [0.1, 0.2, 0.3, 0.9], threshold=0.5)
    fgm = judged(
        "fgm", [0.8, 0.95, 0.2, 0.1], threshold=0.5, right=[0, 0, 0, 1], success=[1, 1, 1, 0], seen=True,
        attack={"parameters": {"epsilon": 0.03}},
    )  # fmt: skip
    return evaluation(natural, fgm, threshold=0.5, fpr=0.05)


def permuted(judged_set: JudgedSet, rng: np.random.Generator) -> JudgedSet:
    order = rng.permutation(len(judged_set))
    names = ["originals", "labels", "predicted", "scores", "p_values", "flagged", "statistics", "success"]
    rows: dict[str, Any] = {name: value[order] for name in names if (value := getattr(judged_set, name)) is not None}
    return replace(judged_set, **rows, votes={name: votes[order] for name, votes in judged_set.votes.items()})


def test_counts_worked_out_by_hand() -> None:
    found = figures(by_hand(), resamples=50)
    (fgm,) = found["attacks"]
    assert found["natural"]["accuracy"] == 1.0
    assert found["natural"]["system_accuracy"] == 0.75
    rates = found["false_positives"]
    assert (rates["flagged"], rates["images"], rates["realised"], rates["nominal"]) == (1, 4, 0.25, 0.05)
    reference = stats.binomtest(1, 4).proportion_ci(0.95, method="exact")
    assert rates["interval"] == pytest.approx([reference.low, reference.high])
    assert (fgm["name"], fgm["seen"], fgm["accuracy"], fgm["success_rate"]) == ("fgm", True, 0.25, 0.75)
    successful, failed, everything = (fgm["detection"][group] for group in ("successful", "failed", "all"))
    # 0.8 exceeds three natural scores, 0.95 all four, and 0.2 one, with one tie counted half.
    assert successful["auroc"] == pytest.approx(8.5 / 12)
    assert everything["auroc"] == pytest.approx(9 / 16)
    assert failed["auroc"] == pytest.approx(0.5 / 4)
    assert (successful["images"], successful["flagged"]) == (3, pytest.approx(2 / 3))
    assert (failed["images"], failed["flagged"]) == (1, 0.0)
    assert everything["flagged"] == 0.5
    # No threshold that spares all four natural images finds more than the one at 0.95.
    assert successful["tpr_at_5_fpr"] == successful["tpr_at_1_fpr"] == pytest.approx(1 / 3)
    assert successful["fpr_at_95_tpr"] == 0.75
    # Natural: the fourth is rejected. Attacked: two are rejected, one is still classified correctly.
    assert fgm["system_accuracy"] == {"natural": 0.75, "adversarial": 0.75, "balanced": 0.75}
    assert fgm["attack"] == {"parameters": {"epsilon": 0.03}}
    assert fgm["paper"] is None


def test_perfect_separation(rng: np.random.Generator) -> None:
    natural = judged("natural", rng.random(50) * 0.4, threshold=0.5)
    attacked = judged("pgd", 0.6 + rng.random(50) * 0.4, threshold=0.5, right=np.zeros(50), success=np.ones(50))
    found = figures(evaluation(natural, attacked, threshold=0.5), resamples=20)
    detection = found["attacks"][0]["detection"]
    for group in ("successful", "all"):
        assert detection[group]["auroc"] == detection[group]["aupr"] == detection[group]["tpr_at_1_fpr"] == 1.0
        assert detection[group]["fpr_at_95_tpr"] == 0.0
        assert detection[group]["flagged"] == 1.0
    assert detection["failed"] is None
    assert found["worst_case"]["share"] == 1.0
    assert found["natural"]["accuracy_of_passed"] == 1.0


def test_the_same_scores_twice_are_not_told_apart(rng: np.random.Generator) -> None:
    scores = rng.random(300)
    natural = judged("natural", scores, threshold=0.95)
    attacked = judged("noise", rng.permutation(scores), threshold=0.95, right=np.zeros(300), success=np.ones(300))
    figure = figures(evaluation(natural, attacked, threshold=0.95), resamples=300)["attacks"][0]["detection"]["all"]
    assert figure["auroc"] == pytest.approx(0.5)
    low, high = figure["auroc_interval"]
    assert low < 0.5 < high
    assert high - low < 0.15


def test_figures_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng)
    for entry, attacked in zip(figures(given, resamples=0)["attacks"], given.attacked, strict=True):
        assert attacked.success is not None
        scores = attacked.scores[attacked.success]
        truth = np.repeat([0, 1], [len(given.natural), len(scores)])
        both = np.concatenate([given.natural.scores, scores])
        detection = entry["detection"]["successful"]
        assert detection["auroc"] == pytest.approx(roc_auc_score(truth, both))
        assert detection["aupr"] == pytest.approx(average_precision_score(truth, both))
        assert "auroc_interval" not in detection


def test_worst_case_needs_every_successful_attack_to_be_flagged() -> None:
    natural = judged("natural", [0.1] * 5, threshold=0.5, right=[1, 1, 1, 1, 0], originals=[3, 4, 5, 6, 7])
    one = judged(
        "one", [0.9, 0.9, 0.2, 0.9], threshold=0.5, originals=[3, 4, 5, 6], right=[0, 0, 1, 0], success=[1, 1, 0, 1]
    )
    # In another order and without original 6; 4 goes unnoticed here, 5 is noticed.
    other = judged("other", [0.8, 0.3, 0.9], threshold=0.5, originals=[5, 4, 3], right=[0, 0, 0], success=[1, 1, 1])
    worst = figures(evaluation(natural, one, other, threshold=0.5), resamples=0)["worst_case"]
    assert (worst["attacks"], worst["images"], worst["successful"], worst["detected"]) == (2, 4, 4, 3)
    assert worst["share"] == 0.75
    assert worst["auroc"] == 1.0  # the lowest successful scores are 0.9, 0.3, 0.8 and 0.9, natural ones 0.1
    assert worst["system_accuracy"] == 0.75  # only original 4 slips through wrong


def test_the_papers_decision_takes_either_forest_on_a_balanced_set() -> None:
    votes = {"all_class": np.array([0.1, 0.6, 0.2, 0.3]), "predicted_class": np.array([0.2, 0.1, 0.5, 0.4])}
    natural = judged("natural", np.maximum(*votes.values()), threshold=0.9, votes=votes)
    attacked_votes = {"all_class": np.array([0.7, 0.3]), "predicted_class": np.array([0.1, 0.2])}
    attacked = judged(
        "fgm", np.maximum(*attacked_votes.values()), threshold=0.9, originals=[0, 1], right=[0, 1], success=[1, 0],
        votes=attacked_votes,
    )  # fmt: skip
    paper = figures(evaluation(natural, attacked, threshold=0.9), resamples=0)["attacks"][0]["paper"]
    assert paper == {
        "images": 4,
        "accuracy": 0.5,  # of originals 0 and 1, natural 1 is flagged by mistake and attacked 1 is missed
        "fpr": 0.5,
        "flagged": 0.5,
        "flagged_successful": 1.0,
        "auroc_all_class": 0.75,
    }


def test_votes_that_are_no_forests_have_no_decision_at_half() -> None:
    given = by_hand()
    votes = {"too_low": np.ones(4), "too_high": np.ones(4)}
    given = replace(
        given,
        natural=replace(given.natural, votes=votes),
        attacked=tuple(replace(one, votes=votes) for one in given.attacked),
    )
    assert figures(given, resamples=0)["attacks"][0]["paper"] is None


def test_the_order_of_rows_changes_nothing(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=80)
    shuffled = replace(
        given,
        natural=permuted(given.natural, rng),
        attacked=tuple(permuted(one, rng) for one in given.attacked),
    )
    assert figures(shuffled, resamples=40) == figures(given, resamples=40)


def test_the_seed_sets_the_intervals_and_nothing_else(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=80, attacks={"deepfool": (0.15, False)})
    one, again, other = (figures(given, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert one == again
    figure, changed = (found["attacks"][0]["detection"]["all"] for found in (one, other))
    assert figure["auroc_interval"] != changed["auroc_interval"]
    assert figure["auroc"] == changed["auroc"]


def test_json_is_strict_even_where_facts_are_not(rng: np.random.Generator) -> None:
    given = by_hand()
    attacked = replace(given.attacked[0], attack={"success_rate": float("nan"), "sizes": np.arange(3)})
    given = replace(given, attacked=(attacked,), facts={"loss": [1.0, float("inf")]})
    found = figures(given, resamples=0)
    json.dumps(found, allow_nan=False)
    assert found["attacks"][0]["attack"] == {"success_rate": None, "sizes": [0, 1, 2]}
    assert any("facts.loss[1]" in warning for warning in found["warnings"])
    assert any("fgm.success_rate" in warning for warning in found["warnings"])
    with pytest.raises(InputError, match=r"JSON values in facts\.network, got object"):
        as_json({"network": object()}, "facts")


def test_the_rate_is_judged_with_the_calibrations_luck() -> None:
    scores = np.where(np.arange(200) < 18, 0.9, 0.1)  # 9 % are flagged
    given = evaluation(judged("natural", scores, threshold=0.5), threshold=0.5, fpr=0.05)
    alone = figures(given)["false_positives"]
    assert (alone["compatible"], alone["expected"]) == (False, None)
    # With only 60 calibration images a threshold may well let 9 % through.
    few = figures(replace(given, calibrated_on=60))["false_positives"]
    assert few["compatible"]
    assert few["expected"][1] > 0.09
    many = figures(replace(given, calibrated_on=100_000))["false_positives"]
    assert not many["compatible"]


def warned(given: Evaluation, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in figures(given, resamples=0)["warnings"])


def large(rng: np.random.Generator, *attacked: JudgedSet, right: float = 0.95, flagged: int = 20) -> Evaluation:
    """400 natural images, 5 % of them flagged: nothing in it to warn of."""
    scores = np.where(np.arange(400) < flagged, 0.9, 0.1) + 0.05 * rng.random(400)
    natural = judged("natural", scores, threshold=0.5, right=np.arange(400) < 400 * right)
    return evaluation(natural, *attacked, threshold=0.5)


def good(rng: np.random.Generator, **changes: Any) -> JudgedSet:
    given: dict[str, Any] = {"right": np.arange(400) >= 300, "success": np.arange(400) < 300, "seen": False, **changes}
    return judged("bim", given.pop("scores", 0.6 + 0.3 * rng.random(400)), threshold=0.5, **given)


def test_nothing_is_warned_of_without_reason(rng: np.random.Generator) -> None:
    assert figures(large(rng, good(rng)), resamples=0)["warnings"] == []


def test_warnings_on_natural_images(rng: np.random.Generator) -> None:
    assert warned(by_hand(), "Only 4 natural images")
    assert warned(large(rng, good(rng), right=0.5), "no better than always naming the commonest class", "50.0 %")
    assert warned(large(rng, good(rng), flagged=60), "15.0 %", "more than the 5 % asked for")
    assert warned(large(rng, good(rng), flagged=2), "0.5 %", "fewer than the 5 % asked for")
    everything = large(rng, good(rng), flagged=400)
    assert warned(everything, "Every natural image is flagged")
    assert figures(everything, resamples=0)["natural"]["accuracy_of_passed"] is None
    one_class = evaluation(judged("natural", [0.1] * 3, threshold=0.5, originals=[2, 4, 6]), threshold=0.5)
    assert warned(one_class, "of one class")


def test_warnings_on_attacks(rng: np.random.Generator) -> None:
    none = large(rng, good(rng, success=np.zeros(400), right=np.ones(400)))
    assert warned(none, "bim", "no figures on successful images")
    assert warned(none, "no worst case")
    found = figures(none, resamples=0)
    assert found["attacks"][0]["detection"]["successful"] is None
    assert found["worst_case"]["share"] is None
    few = good(rng, success=np.arange(400) < 5, right=np.arange(400) >= 5)
    assert warned(large(rng, few), "only 5 images attacked successfully")
    assert warned(large(rng, few), "succeeds on 1.3 %")
    assert warned(large(rng, good(rng, scores=0.05 * rng.random(400))), "bim", "below 0.5")
    assert warned(large(rng, good(rng, right=np.ones(400))), "300 images counted as successful")
    assert warned(large(rng, good(rng, attack={"unchanged": 0.25})), "25.0 %", "exactly as they were")
    assert warned(large(rng, good(rng, seen=True)), "nothing about attacks it has not seen")
    assert warned(large(rng), "No attack was run")
    assert figures(large(rng), resamples=0)["worst_case"] is None
    assert warned(large(rng, good(rng), right=0.0), "no original is classified correctly")


def test_sets_that_do_not_belong_together_are_refused() -> None:
    given = by_hand()
    natural, (fgm,) = given.natural, given.attacked
    with pytest.raises(InputError, match="different names, got natural, fgm, fgm"):
        replace(given, attacked=(fgm, fgm))
    with pytest.raises(InputError, match=r"flagged exactly when its score is at least 0\.7"):
        replace(given, natural=judged("natural", [0.1, 0.6], threshold=0.5), threshold=0.7, attacked=())
    with pytest.raises(InputError, match="every original of 'fgm' among the natural"):
        replace(given, attacked=(replace(fgm, originals=np.array([0, 1, 2, 9])),))
    with pytest.raises(InputError, match="attacked successfully, got None"):
        replace(given, attacked=(replace(fgm, success=None),))
    with pytest.raises(InputError, match="expected 4 columns of statistics"):
        replace(given, branches=("a", "b"))
    for change, message in (
        ({"scores": natural.scores[:3]}, r"scores of the set 'natural' of shape \(4,\)"),
        ({"scores": np.array([0.1, 0.2, np.nan, 0.9])}, "finite scores"),
        ({"votes": {"all_class": np.ones(3)}}, "all_class of the set"),
        ({"flagged": np.zeros(4)}, "flagged of the set 'natural' as bool, got float64"),
        ({"originals": np.array([0, 1, 1, 2])}, "each original once"),
        ({"statistics": np.ones((3, 6), np.float32)}, r"shape \(4, F\)"),
    ):
        with pytest.raises(InputError, match=message):
            replace(natural, **change)
    with pytest.raises(InputError, match="expected judged images in the set 'none', got none"):
        judged("none", [], threshold=0.5)


@pytest.mark.parametrize("module", [service.wording, service.jsonable])
def test_examples_in_docstrings_hold(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
