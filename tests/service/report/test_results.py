"""Selection, look-ups, points of curves and colours of the report."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from models.errors import InputError
from service.evaluation.records import NATURAL
from service.evaluation.summary.figures import figures
from service.report import draw_paths
from service.report.figures.curves import rejection_points, roc_points
from service.report.html.heat import area_step, shades, share_step
from service.report.results.baselines import baselines_beside
from service.report.results.epsilon import budgeted_attacks, epsilon_of
from service.report.results.outliers import distance_of, outlier_means
from service.report.results.selection import selected_results
from tests.service.evaluations import random_evaluation


def test_the_choice_of_drawn_results_does_not_depend_on_figures(rng: np.random.Generator) -> None:
    fits = [("fgm",), ("fgm", "deepfool"), ("deepfool",)]
    given = random_evaluation(
        rng, count=20, detectors={"max_softmax": 0.2, "transport": 1, "knn": 1, "lid": 1}, fit_on=fits,
        attacks={"fgm": 0.5, "deepfool": 0.1},
    )  # fmt: skip
    chosen = [(each.detector, each.fitted_on, each.run) for each in selected_results(given)]
    assert chosen == [("transport", fits[1], 0), ("knn", fits[1], 0), ("transport", fits[0], 0)]


def test_curves_are_those_of_the_scores(rng: np.random.Generator) -> None:
    natural, other = rng.normal(size=50), rng.normal(1, 1, 40)
    fpr, tpr = roc_points(natural, other)
    reference = roc_curve(np.repeat([0, 1], [50, 40]), np.concatenate([natural, other]))
    assert np.array_equal(fpr, reference[0])
    assert np.array_equal(tpr, reference[1])
    given = random_evaluation(rng, count=60, runs=1)
    result = given.detector_results[0]
    for name, rows in result.rows.items():
        images, scores = given.sets[name], result.scores[name]
        rejected, correctly = rejection_points(given, result, name)
        assert (rejected[0], rejected[-1]) == (0, 1)
        for threshold in (0.1, 0.3, float(result.threshold or 0)):
            share = np.mean(result.scores[NATURAL] >= threshold)
            right = images.right[rows]
            passed = scores < threshold
            expected = np.mean(right & passed) if name == NATURAL else np.mean(~passed | right)
            # Points are at natural scores: the last one that rejects no more than the threshold does.
            if threshold in result.scores[NATURAL]:
                assert np.any(np.isclose(rejected, share) & np.isclose(correctly, expected))


def test_paths_show_medians_of_successful_images(rng: np.random.Generator) -> None:
    given = random_evaluation(rng, count=60, blocks=5, runs=1)
    result = given.detector_results[0]
    figure = draw_paths(given, result, title="Paths")
    panels = [panel for panel in figure.axes if panel.get_visible()]
    attacks = [name for name, images in given.sets.items() if images.kind == "attack"]
    assert len(panels) == 2 * len(attacks)
    for place, name in enumerate(attacks):
        images, rows = given.sets[name], result.rows[name]
        chosen = rows[images.success[rows]] if images.success is not None else rows
        for statistic in (0, 1):
            panel = panels[statistic * len(attacks) + place]
            lines = [np.asarray(line.get_ydata(), float) for line in panel.get_lines()]
            for expected in (
                np.median(images.statistics[chosen][:, statistic::2], axis=0),
                given.band[1, statistic::2],
            ):
                natural = np.allclose(expected, given.band[1, statistic::2])
                assert natural or any(len(line) == 5 and np.allclose(line, expected, rtol=1e-5) for line in lines)
        assert panels[place].get_title(loc="left").startswith(name[:10])
    with pytest.raises(InputError, match="expected sets scored by transport, got other"):
        draw_paths(given, result, ["other"])


@pytest.mark.parametrize("dark", [False, True])
def test_every_shade_has_enough_contrast(dark: bool) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    grounds = []
    for shade in shades(dark):
        ground, text = luminance(shade.ground), luminance(shade.text)
        assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5
        grounds.append(ground)
    assert len(set(grounds)) == 21
    assert (area_step(0.5), area_step(1), area_step(0), share_step(0), share_step(1)) == (10, 20, 0, 10, 20)


def test_a_baseline_is_fitted_on_the_same_sets_or_else_on_the_tested_set() -> None:
    def entry(detector: str, fitted_on: list[str], tested_on: str, baseline: bool = True) -> dict[str, Any]:
        return {"detector": detector, "fitted_on": fitted_on, "tested_on": tested_on, "baseline": baseline}

    results = [
        entry("pixels", ["pgd"], "pgd"), entry("pixels", ["fgm"], "fgm"), entry("pixels", ["fgm"], "pgd"),
        entry("energy", [], "pgd"), entry("transport", ["fgm"], "pgd", baseline=False), entry("odd", ["bim"], "pgd"),
    ]  # fmt: skip
    beside = baselines_beside(results, "transport", ["fgm"])
    assert {label: set(found) for label, found in beside.items()} == {"pixels": {"fgm", "pgd"}, "energy": {"pgd"}}
    assert beside["pixels"]["pgd"]["fitted_on"] == ["fgm"]
    assert baselines_beside(results, "transport", ("bim",))["pixels"]["pgd"]["fitted_on"] == ["pgd"]


def test_budgets_of_one_attack_are_grouped() -> None:
    def entry(name: str, epsilon: Any) -> dict[str, Any]:
        return {"name": name, "kind": "attack", "attack": {"parameters": {"epsilon": epsilon}}}

    sets = [entry("pgd", 0.03), entry("pgd:epsilon=2/255", "2/255"), entry("pgd:steps=5", 0.03), entry("fgm", 0.1)]
    found = budgeted_attacks({"sets": [*sets, {"name": "natural", "kind": "natural", "attack": None}]})
    assert {name: [round(255 * epsilon, 3) for epsilon, _ in group] for name, group in found.items()} == {
        "pgd": [2.0, 7.65]
    }
    assert [epsilon_of({"parameters": {"epsilon": value}}) for value in (None, "x", "1/0", True, 0)] == [None] * 5
    assert epsilon_of(None) is None


def test_means_over_near_and_far_outliers(rng: np.random.Generator) -> None:
    given = random_evaluation(
        rng, count=80, runs=1, attacks={"fgm": 0.5}, detectors={"transport": 1.0},
        outliers={"ood:cifar100": 0.2, "ood:mnist": 0.9, "ood:noise": 0.5},
        fit_on=[(), ("ood:mnist",)], provenance={"dataset": {"name": "npz:somewhere/cifar10-test.npz"}},
    )  # fmt: skip
    found = figures(given, resamples=0)
    free, fitted = outlier_means(found, given.provenance)
    areas = {
        (tuple(entry["fitted_on"]), entry["tested_on"]): entry["mean"]["all"]["auroc"] for entry in found["results"]
    }
    assert free["near"]["sets"] == ["ood:cifar100"]
    assert free["far"]["auroc"] == pytest.approx((areas[(), "ood:mnist"] + areas[(), "ood:noise"]) / 2)
    # A set it was fitted on says nothing about others.
    assert fitted["far"]["sets"] == ["ood:noise"]
    assert fitted["far"]["auroc"] == pytest.approx(areas[("ood:mnist",), "ood:noise"])
    assert distance_of("ood:cifar100", {"dataset": {"name": "digits"}}) == "unknown"
