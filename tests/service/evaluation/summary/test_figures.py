"""Figures of evaluations against counts worked out by hand, and against an independent reference."""

import doctest
import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

import service.formatting
import service.inputs.names
import service.jsonable
from models.errors import InputError
from service.evaluation.records import NATURAL, DetectorResult, Evaluation, ImageSet, noisy_name
from service.evaluation.summary.figures import figures
from service.evaluation.threats import threat
from service.jsonable import as_json
from tests.service.evaluations import detector_result, evaluation, image_set, random_evaluation


def by_hand() -> Evaluation:
    """Four originals; one natural image flagged; two of three successful images flagged."""
    fgm = image_set(
        "fgm", 4, kind="attack", right=[0, 0, 0, 1], success=[1, 1, 1, 0], attack={"parameters": {"epsilon": 0.03}},
        costs={"attack": 0.5, "network": 0.1},
    )  # fmt: skip
    said = detector_result(
        "transport", {NATURAL: [0.1, 0.2, 0.3, 0.9], "fgm": [0.8, 0.95, 0.2, 0.1]}, fitted_on=("fgm",),
        thresholds={0.05: 0.5, 0.01: 0.85}, costs={"fit": 2.0, "score": 1e-4, "measure": 1e-3},
    )  # fmt: skip
    return evaluation([image_set(NATURAL, 4), fgm], [said])


def shuffled(given: Evaluation, rng: np.random.Generator) -> Evaluation:
    """The same evaluation with the rows of every set, and of every result, in another order."""
    sets, detector_results = {}, given.detector_results
    for name, images in given.sets.items():
        order = rng.permutation(len(images))
        places = np.argsort(order)
        names = ["originals", "labels", "predicted", "probability", "statistics", "success"]
        rows: dict[str, Any] = {key: value[order] for key in names if (value := getattr(images, key)) is not None}
        sets[name] = replace(images, **rows)
        detector_results = tuple(
            replace(each, rows={**each.rows, name: places[each.rows[name]]}) if name in each.rows else each
            for each in detector_results
        )
    mixed = []
    for each in detector_results:
        orders = {name: rng.permutation(len(rows)) for name, rows in each.rows.items()}
        mixed.append(
            replace(
                each,
                rows={name: rows[orders[name]] for name, rows in each.rows.items()},
                scores={name: scores[orders[name]] for name, scores in each.scores.items()},
                components={n: {v: x[orders[n]] for v, x in votes.items()} for n, votes in each.components.items()},
            )
        )
    return replace(given, sets=sets, detector_results=tuple(mixed))


def test_counts_worked_out_by_hand() -> None:
    found = figures(by_hand(), resamples=50)
    (result,) = found["results"]
    (run,) = result["runs"]
    values = [result[key] for key in ("detector", "fitted_on", "tested_on", "kind", "seen", "baseline")]
    assert values == ["transport", ["fgm"], "fgm", "attack", True, False]
    natural, fgm = found["sets"]
    assert found["natural"]["accuracy"] == natural["accuracy"] == fgm["natural_accuracy"] == 1.0
    assert (fgm["accuracy"], fgm["success_rate"], fgm["seconds_per_image"]) == (0.25, 0.75, 0.5)
    assert fgm["attack"] == {"parameters": {"epsilon": 0.03}}
    rates, at_one = found["false_positives"]
    assert (at_one["nominal"], at_one["runs"][0]["flagged"]) == (0.01, 1)
    rate = rates["runs"][0]
    assert (rates["nominal"], rate["flagged"], rate["images"], rate["realised"]) == (0.05, 1, 4, 0.25)
    reference = stats.binomtest(1, 4).proportion_ci(0.95, method="exact")
    assert rate["interval"] == pytest.approx([reference.low, reference.high])
    successful, failed, everything = (run[group] for group in ("successful", "failed", "all"))
    # 0.8 exceeds three natural scores, 0.95 all four, and 0.2 one, with one tie counted half.
    assert successful["auroc"] == pytest.approx(8.5 / 12)
    assert everything["auroc"] == pytest.approx(9 / 16)
    assert failed["auroc"] == pytest.approx(0.5 / 4)
    assert (successful["images"], successful["flagged"], successful["flagged_at_1"]) == (3, pytest.approx(2 / 3), 1 / 3)
    assert (failed["images"], failed["flagged"]) == (1, 0.0)
    assert everything["flagged"] == 0.5
    # No threshold that spares all four natural images finds more than the one at 0.95.
    assert successful["tpr_at_5_fpr"] == successful["tpr_at_1_fpr"] == pytest.approx(1 / 3)
    assert successful["fpr_at_95_tpr"] == 0.75
    # Natural: the fourth is rejected. Attacked: two are rejected, one is still classified correctly.
    assert run["system_accuracy"] == {"natural": 0.75, "adversarial": 0.75, "balanced": 0.75}
    assert run["paper"] is None
    low, high = successful["auroc_interval"]
    assert 0 <= low <= successful["auroc"] <= high <= 1
    assert found["costs"] == [
        {
            "detector": "transport", "fitted_on": ["fgm"], "fit_seconds": 2.0, "measure_seconds_per_image": 1e-3,
            "score_seconds_per_image": 1e-4,
        }
    ]  # fmt: skip


def test_means_and_deviations_are_over_the_runs_that_have_the_figure() -> None:
    given = by_hand()
    (first,) = given.detector_results
    # In the second run no test image is a success.
    second = replace(
        first, run=1, rows={NATURAL: np.arange(2, 4), "fgm": np.array([3])},
        scores={NATURAL: np.array([0.1, 0.2]), "fgm": np.array([0.7])},
    )  # fmt: skip
    found = figures(replace(given, detector_results=(first, second)), resamples=0)
    (result,) = found["results"]
    assert (found["runs"], [run["run"] for run in result["runs"]]) == (2, [0, 1])
    assert result["runs"][1]["successful"] is None
    assert result["mean"]["successful"]["auroc"] == pytest.approx(8.5 / 12)
    assert result["std"]["successful"]["auroc"] is None
    areas = [9 / 16, 1.0]
    assert result["mean"]["all"]["auroc"] == pytest.approx(np.mean(areas))
    assert result["std"]["all"]["auroc"] == pytest.approx(np.std(areas, ddof=1))
    assert result["mean"]["system_accuracy"]["natural"] == pytest.approx((0.75 + 1) / 2)
    assert "auroc_interval" not in result["mean"]["all"]
    assert found["false_positives"][0]["mean"]["realised"] == pytest.approx(0.125)
    assert found["worst_case"][0]["mean"]["share"] == pytest.approx(2 / 3)


def test_an_interval_stands_beside_the_mean_over_runs_and_contains_it(rng: np.random.Generator) -> None:
    found = figures(random_evaluation(rng, count=120, runs=3), resamples=50)
    result = found["results"][0]
    for key in ("auroc", "aupr", "flagged", "flagged_at_1"):
        low, high = result["mean"]["all"][f"{key}_interval"]
        assert low <= result["mean"]["all"][key] <= high
    for entry, key in ((found["false_positives"][0], "realised"), (found["worst_case"][0], "share")):
        low, high = entry["mean"]["interval"]
        assert low <= entry["mean"][key] <= high
    alone = figures(random_evaluation(rng, count=120, runs=1), resamples=50)["results"][0]
    assert alone["mean"]["all"]["auroc_interval"] == alone["runs"][0]["all"]["auroc_interval"]


def test_perfect_separation(rng: np.random.Generator) -> None:
    attacked = image_set("pgd", 50, kind="attack", right=np.zeros(50), success=np.ones(50))
    said = detector_result("transport", {NATURAL: rng.random(50) * 0.4, "pgd": 0.6 + rng.random(50) * 0.4})
    found = figures(evaluation([image_set(NATURAL, 50), attacked], [said]), resamples=20)
    run = found["results"][0]["runs"][0]
    for group in ("successful", "all"):
        assert run[group]["auroc"] == run[group]["aupr"] == run[group]["tpr_at_1_fpr"] == run[group]["flagged"] == 1.0
        assert run[group]["fpr_at_95_tpr"] == 0.0
    assert run["failed"] is None
    assert found["worst_case"][0]["runs"][0]["share"] == 1.0


def test_equal_scores_have_an_auroc_of_one_half(rng: np.random.Generator) -> None:
    scores = rng.random(300)
    attacked = image_set("noise", 300, kind="attack", right=np.zeros(300), success=np.ones(300))
    said = detector_result("energy", {NATURAL: scores, "noise": rng.permutation(scores)}, threshold=0.95)
    figure = figures(evaluation([image_set(NATURAL, 300), attacked], [said]), resamples=300)["results"][0]["runs"][0][
        "all"
    ]
    assert figure["auroc"] == pytest.approx(0.5)
    low, high = figure["auroc_interval"]
    assert low < 0.5 < high
    assert high - low < 0.15


def test_figures_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    given = random_evaluation(rng, runs=1)
    found = figures(given, resamples=0)
    said = {(each.detector, each.fitted_on, each.run): each for each in given.detector_results}
    for result in found["results"]:
        for run in result["runs"]:
            scored = said[result["detector"], tuple(result["fitted_on"]), run["run"]]
            scores = scored.scores[result["tested_on"]]
            images = given.sets[result["tested_on"]]
            group = "all"
            if images.success is not None:
                group, scores = "successful", scores[images.success[scored.rows[result["tested_on"]]]]
            truth = np.repeat([0, 1], [len(scored.scores[NATURAL]), len(scores)])
            both = np.concatenate([scored.scores[NATURAL], scores])
            assert run[group]["auroc"] == pytest.approx(roc_auc_score(truth, both))
            assert run[group]["aupr"] == pytest.approx(average_precision_score(truth, both))
            assert "auroc_interval" not in run[group]


def test_worst_case_needs_every_successful_attack_to_be_flagged() -> None:
    natural = image_set(NATURAL, originals=[3, 4, 5, 6, 7], right=[1, 1, 1, 1, 0])
    one = image_set("one", kind="attack", originals=[3, 4, 5, 6], right=[0, 0, 1, 0], success=[1, 1, 0, 1])
    # In another order and without original 6; 4 goes unnoticed here, 5 is noticed.
    other = image_set("other", kind="attack", originals=[5, 4, 3], right=[0, 0, 0], success=[1, 1, 1])
    scores = {NATURAL: [0.1] * 5, "one": [0.9, 0.9, 0.2, 0.9], "other": [0.8, 0.3, 0.9]}
    (worst,) = figures(evaluation([natural, one, other], [detector_result("lid", scores)]), resamples=0)["worst_case"]
    (run,) = worst["runs"]
    assert worst["attacks"] == ["one", "other"]
    assert (run["images"], run["successful"], run["detected"]) == (4, 4, 3)
    assert run["share"] == 0.75
    assert run["auroc"] == 1.0  # the lowest successful scores are 0.9, 0.3, 0.8 and 0.9, natural ones 0.1
    assert run["system_accuracy"] == 0.75  # only original 4 slips through wrong


def votes(all_class: list[float], predicted_class: list[float]) -> dict[str, np.ndarray]:
    return {"all_class": np.array(all_class), "predicted_class": np.array(predicted_class)}


def voted(said: dict[str, dict[str, np.ndarray]], **more: Any) -> DetectorResult:
    """A result as the class-conditional classifiers give it, without a threshold."""
    scores = {name: np.maximum(*both.values()) for name, both in said.items()}
    return detector_result("transport", scores, components=said, threshold=None, **more)


def test_the_papers_decision_takes_either_vote_on_a_balanced_set() -> None:
    said = {
        NATURAL: votes([0.1, 0.6, 0.2, 0.3], [0.2, 0.1, 0.5, 0.4]),
        "fgm": votes([0.7, 0.3], [0.1, 0.2]),
    }  # fmt: skip
    fgm = image_set("fgm", 2, kind="attack", right=[0, 1], success=[1, 0])
    given = evaluation([image_set(NATURAL, 4), fgm], [voted(said)], protocol="paper")
    found = figures(given, resamples=0)
    run = found["results"][0]["runs"][0]
    assert run["paper"] == {
        "accuracy": 0.5,  # of originals 0 and 1, natural 1 is flagged by mistake and attacked 1 is missed
        "fpr": 0.5,
        "flagged": 0.5,
        "flagged_successful": 1.0,
        "auroc_all_class": 0.75,
        "fpr_at_95_tpr": 0.5,  # both attacked are found from 0.3 on, where natural 1 is as well
    }
    # Without a threshold, 0.5 is what images are flagged at; natural 1 and 2 are.
    assert (run["successful"]["flagged"], run["successful"]["flagged_at_1"]) == (1.0, None)
    assert run["all"]["auroc"] == pytest.approx((4 + 1) / 8)
    assert run["system_accuracy"] == {"natural": 0.5, "adversarial": 1.0, "balanced": 0.75}
    assert found["false_positives"] == []
    assert any("thesis' protocol" in warning for warning in found["warnings"])


def test_noisy_copies_count_as_natural() -> None:
    said = {NATURAL: votes([0.1], [0.1]), noisy_name("fgm"): votes([0.6], [0.2]), "fgm": votes([0.4], [0.9])}
    sets = [
        image_set(NATURAL, 1), image_set("fgm", 1, kind="attack", right=[0], success=[1]),
        image_set(noisy_name("fgm"), 1),
    ]  # fmt: skip
    run = figures(evaluation(sets, [voted(said)], protocol="paper"), resamples=0)["results"][0]["runs"][0]
    assert (run["paper"]["accuracy"], run["paper"]["fpr"]) == (pytest.approx(2 / 3), 0.5)
    assert (run["paper"]["auroc_all_class"], run["all"]["auroc"]) == (0.5, 1.0)


def test_outliers_have_neither_success_nor_twins() -> None:
    sets = [image_set(NATURAL, 4, right=[1, 1, 1, 0]), image_set("ood:mnist", 6, kind="outlier")]
    said = detector_result("knn", {NATURAL: [0.1, 0.2, 0.9, 0.3], "ood:mnist": [0.8, 0.1]}, rows={"ood:mnist": [5, 1]})
    found = figures(evaluation(sets, [said]), resamples=0)
    (result,) = found["results"]
    (run,) = result["runs"]
    assert (result["kind"], run["successful"], run["failed"], run["all"]["images"]) == ("outlier", None, None, 2)
    assert run["all"]["auroc"] == pytest.approx((3 + 0.5) / 8)
    assert run["system_accuracy"] == {"natural": 0.5, "adversarial": 0.5, "balanced": 0.5}
    assert found["worst_case"] == []
    assert found["sets"][1]["accuracy"] is None


def test_a_score_that_is_neither_calibrated_nor_a_vote_flags_nothing() -> None:
    fgm = image_set("fgm", 2, kind="attack", right=[0, 0], success=[1, 1])
    said = detector_result("energy", {NATURAL: [-3.0, -2.0], "fgm": [1.0, 2.0]}, threshold=None)
    found = figures(evaluation([image_set(NATURAL, 2), fgm], [said], protocol="paper"), resamples=5)
    run = found["results"][0]["runs"][0]
    assert run["all"]["flagged"] is run["all"]["flagged_interval"] is run["system_accuracy"] is run["paper"] is None
    assert run["all"]["auroc"] == 1.0
    worst = found["worst_case"][0]["runs"][0]
    assert (worst["successful"], worst["auroc"]) == (2, 1.0)
    assert worst["detected"] is worst["share"] is worst["interval"] is worst["system_accuracy"] is None


def test_an_attack_is_seen_by_its_name_and_budget_whatever_its_steps() -> None:
    def attacked(name: str, attack: str, epsilon: float) -> ImageSet:
        parameters = {"epsilon": epsilon, "norm": "linf", "steps": len(name)}
        return image_set(
            name, 2, kind="attack", right=[0, 0], success=[1, 1], attack={"attack": attack, "parameters": parameters}
        )

    sets = [
        image_set(NATURAL, 2), attacked("pgd", "pgd", 0.03), attacked("pgd:steps=9", "pgd", 0.03),
        attacked("pgd:epsilon=2/255", "pgd", 2 / 255), attacked("bim", "bim", 0.03),
    ]  # fmt: skip
    said = detector_result("transport", {images.name: [0.1, 0.7] for images in sets}, fitted_on=("pgd", "apgd"))
    found = figures(evaluation(sets, [said]), resamples=0)
    assert {entry["tested_on"]: entry["seen"] for entry in found["results"]} == {
        "pgd": True, "pgd:steps=9": True, "pgd:epsilon=2/255": False, "bim": False,
    }  # fmt: skip


def test_a_set_that_pixels_distinguish_is_broken(rng: np.random.Generator) -> None:
    given = random_evaluation(rng, detectors={"transport": 1.0, "pixel_statistics": 1.0}, fit_on=[("fgm",)], runs=1)
    found = figures(given, resamples=0)
    assert {entry["name"]: entry["broken"] for entry in found["sets"]}["fgm"]
    assert any("fgm: the attacked set is broken" in warning for warning in found["warnings"])
    given = random_evaluation(rng, detectors={"transport": 1.0, "pixel_statistics": 0.05}, fit_on=[("fgm",)], runs=1)
    assert not any(entry["broken"] for entry in figures(given, resamples=0)["sets"])


def test_the_order_of_rows_changes_nothing(rng: np.random.Generator) -> None:
    given = random_evaluation(rng, count=60, runs=1)
    assert figures(shuffled(given, rng), resamples=10) == figures(given, resamples=10)


def test_the_seed_sets_the_intervals_and_nothing_else(rng: np.random.Generator) -> None:
    given = random_evaluation(rng, count=80, attacks={"deepfool": 0.15}, outliers={}, runs=1)
    one, again, other = (figures(given, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert one == again
    figure, changed = (found["results"][0]["runs"][0]["all"] for found in (one, other))
    assert figure["auroc_interval"] != changed["auroc_interval"]
    assert figure["auroc"] == changed["auroc"]
    with pytest.raises(InputError, match="0 leaves intervals out"):
        figures(given, resamples=-1)


def test_json_is_strict_even_if_provenance_is_not() -> None:
    given = by_hand()
    attacked = replace(given.sets["fgm"], attack={"success_rate": float("nan"), "sizes": np.arange(3)})
    given = replace(given, sets={**given.sets, "fgm": attacked}, provenance={"loss": [1.0, float("inf")]})
    given = replace(given, adaptive={"transport": {"share": float("nan")}})
    found = figures(given, resamples=0)
    json.dumps(found, allow_nan=False)
    assert found["sets"][1]["attack"] == {"success_rate": None, "sizes": [0, 1, 2]}
    assert found["adaptive"] == {"transport": {"share": None}}
    for place in ("provenance.loss[1]", "fgm.success_rate", "adaptive.transport.share"):
        assert any(place in warning for warning in found["warnings"])
    with pytest.raises(InputError, match=r"JSON values in provenance\.network, got object"):
        as_json({"network": object()}, "provenance")


def test_the_nominal_rate_is_compared_within_both_samples_variation() -> None:
    def rate(calibrated_on: int | None) -> dict[str, Any]:
        scores = np.where(np.arange(200) < 18, 0.9, 0.1)  # 9 % are flagged
        said = detector_result("energy", {NATURAL: scores}, calibrated_on=calibrated_on)
        run: dict[str, Any] = figures(evaluation([image_set(NATURAL, 200)], [said]))["false_positives"][0]["runs"][0]
        return run

    assert (rate(None)["compatible"], rate(None)["expected"]) == (False, None)
    # With only 60 calibration images a threshold may well let 9 % through.
    assert rate(60)["compatible"]
    assert rate(60)["expected"][1] > 0.09
    assert not rate(100_000)["compatible"]


def warned(given: Evaluation, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in figures(given, resamples=0)["warnings"])


def large(
    rng: np.random.Generator, *attacked: ImageSet, right: float = 0.95, flagged: int = 20, low: bool = False,
    fitted_on: tuple[str, ...] = (),
) -> Evaluation:  # fmt: skip
    """400 natural images, 5 % of them flagged: nothing in it to warn of."""
    scores = {NATURAL: np.where(np.arange(400) < flagged, 0.9, 0.1) + 0.05 * rng.random(400)}
    scores |= {images.name: (0.0 if low else 0.6) + 0.05 * rng.random(len(images)) for images in attacked}
    natural = image_set(NATURAL, 400, right=np.arange(400) < 400 * right)
    return evaluation([natural, *attacked], [detector_result("transport", scores, fitted_on=fitted_on)])


def good(**changes: Any) -> ImageSet:
    given: dict[str, Any] = {"right": np.arange(400) >= 300, "success": np.arange(400) < 300, **changes}
    return image_set("bim", 400, kind="attack", **given)


def test_no_warning_without_a_reason(rng: np.random.Generator) -> None:
    assert figures(large(rng, good()), resamples=0)["warnings"] == []


def test_warnings_on_natural_images(rng: np.random.Generator) -> None:
    assert warned(by_hand(), "Only 4 natural images")
    assert warned(large(rng, good(), right=0.05), "no better than always predicting the most frequent class", "5.0 %")
    assert warned(large(rng, good(), flagged=60), "transport", "15.0 %", "more than the nominal 5 %")
    assert warned(large(rng, good(), flagged=2), "0.5 %", "fewer than the nominal 5 %")
    one_class = evaluation(
        [image_set(NATURAL, originals=[2, 12, 22])], [detector_result("energy", {NATURAL: [0.1] * 3})]
    )
    assert warned(one_class, "of one class")


def test_warnings_on_attacks(rng: np.random.Generator) -> None:
    none = large(rng, good(success=np.zeros(400), right=np.ones(400)))
    assert warned(none, "bim", "no figures on successful images")
    assert warned(none, "no worst case")
    found = figures(none, resamples=0)
    assert found["results"][0]["runs"][0]["successful"] is None
    assert found["worst_case"][0]["runs"][0]["share"] is None
    few = good(success=np.arange(400) < 5, right=np.arange(400) >= 5)
    assert warned(large(rng, few), "only 5 images attacked successfully")
    assert warned(large(rng, few), "succeeds on 1.3 %")
    assert warned(large(rng, good(), low=True), "bim", "below 0.5")
    assert warned(large(rng, good(right=np.zeros(400), success=np.ones(400)), right=1.0), "no figures on failed ones")
    assert warned(large(rng, good(attack={"unchanged": 0.25})), "25.0 %", "exactly as they were")
    assert warned(large(rng, good(), fitted_on=("bim",)), "nothing about attacks it has not seen")
    assert warned(large(rng), "No attack was run")
    assert warned(large(rng, good(), right=0.0), "no original is classified correctly")


@pytest.mark.parametrize("module", [service.formatting, service.inputs.names, service.jsonable])
def test_examples_in_docstrings_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_a_set_without_unseen_images_causes_a_warning(rng: np.random.Generator) -> None:
    given = large(rng, good())
    (detector_result, *others) = given.detector_results
    dropped = next(name for name in detector_result.rows if given.sets[name].kind == "attack")
    without = {name: rows for name, rows in detector_result.rows.items() if name != dropped}
    scores = {name: detector_result.scores[name] for name in without}
    votes = {name: detector_result.components[name] for name in without if name in detector_result.components}
    artifact = replace(detector_result, detector="artifact", rows=without, scores=scores, components=votes)
    assert warned(replace(given, detector_results=(artifact, *others)), dropped, "the artifact has seen every image")
    whole = replace(detector_result, detector="artifact")
    assert not warned(replace(given, detector_results=(whole, *others)), "the artifact has seen every image")


def test_an_attack_with_another_aim_is_another_attack() -> None:
    plain = {"norm": "l2", "steps": 10, "confidence": 0.0, "target": None}
    assert threat("carlini_wagner", plain) == threat("carlini_wagner", {**plain, "steps": 99})
    assert threat("carlini_wagner", plain) == threat("carlini_wagner", {"norm": "l2"})
    for other in ({"confidence": 20.0}, {"target": "runner_up"}, {"norm": "linf"}):
        assert threat("carlini_wagner", plain) != threat("carlini_wagner", {**plain, **other})
    assert threat("carlini_wagner", plain) != threat("fab", plain)


def test_warnings_of_adaptive_attacks_are_included(rng: np.random.Generator) -> None:
    summary = {"attacks": {}, "warnings": ["its shares are lower bounds only"], "detector": "transport"}
    for adaptive in (summary, {"transport": summary}):
        given = replace(large(rng, good()), adaptive=adaptive)
        assert warned(given, "transport", "lower bounds only")


def test_an_area_that_chance_puts_below_a_half_is_no_warning(rng: np.random.Generator) -> None:
    given = large(rng, good())
    # Natural scores evenly on both sides of 0, all others a little below: an area a little below a half, in every draw.
    near = {
        name: rng.permutation(np.linspace(-1, 1, len(scores))) if name == "natural" else np.full(len(scores), -0.01)
        for name, scores in given.detector_results[0].scores.items()
    }
    far = {name: scores - (3.0 if name != "natural" else 0.0) for name, scores in near.items()}
    for scores, expected in ((near, False), (far, True)):
        evaluation = replace(
            given, detector_results=(replace(given.detector_results[0], scores=scores, components={}),)
        )
        warnings = figures(evaluation, resamples=200)["warnings"]
        assert any("AUROC is below 0.5" in warning for warning in warnings) is expected
