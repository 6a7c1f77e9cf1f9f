"""An evaluation's report: its files hold what the figures say, whatever the evaluation holds."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from sklearn.metrics import roc_auc_score, roc_curve

import service.formatting
import service.inputs.names
import service.report.sections.costs
from detector.common.result import ComponentInfo
from models.errors import InputError
from service.evaluation.records import NATURAL, Evaluation
from service.evaluation.summary.figures import figures
from service.report import as_table, draw_paths, write_evaluation_report
from service.report.figures.curves import rejection_points, roc_points
from service.report.html.heat import area_step, shades, share_step
from service.report.results.baselines import baselines_beside
from service.report.results.epsilon import budgeted_attacks, epsilon_of
from service.report.results.outliers import distance_of, outlier_means
from service.report.results.selection import selected_results
from tests.service.evaluations import detector_result, evaluation, image_set, random_evaluation
from tests.service.pages import Page

HOSTILE = '<script>alert("$x$ & more")</script>'
EXAMPLES = (service.formatting, service.inputs.names, service.report.sections.costs)


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def written_area(value: float) -> str:
    """Three decimals, and never a rounded 1 or 0."""
    text = f"{value:.3f}"
    ends = {"1.000": "1" if value > 1 - 1e-9 else ">0.999", "0.000": "0" if value < 1e-9 else "<0.001"}
    return ends.get(text, text)


def whole(rng: np.random.Generator, **more: Any) -> Evaluation:
    """An evaluation with something in every section."""
    return random_evaluation(
        rng, count=120, runs=2, blocks=4,
        attacks={"fgm": 0.9, "pgd:epsilon=2/255": 0.4, "pgd": 0.7},
        outliers={"ood:cifar100": 0.3, "ood:mnist": 0.9},
        detectors={"transport": 1.0, "knn": 0.7, "max_softmax": 0.3, "pixel_statistics": 0.5},
        provenance={"network": "resnet20", "dataset": {"name": "cifar10"}, "seed": 3},
        adaptive=ADAPTIVE, **more,
    )  # fmt: skip


EVADED = {
    "attempted": 40, "evaded": 10, "share": 0.25, "interval": [0.127, 0.412], "not_confirmed": 0,
    "within": [{"norm": "l2", "limit": 0.5, "evaded": 4, "share": 0.1, "interval": [0.03, 0.24]}],
    "l2_median": 0.71, "linf_median": 0.031, "queries_median": 1234.0, "gradients_median": 0.0,
}  # fmt: skip
ADAPTIVE: dict[str, Any] = {
    "detector": "Transport()",
    "images": 200,
    "natural": {"accuracy": 0.91, "accuracy_interval": [0.86, 0.95], "flagged": 0.06},
    "carlini_wagner": {"fooled": 180, "detected": 90, "detected_share": 0.5, "l2_median": 0.2},
    "attacks": {
        "black_box": EVADED,
        "orthogonal": {"budgets": [{"epsilon": 8 / 255, **EVADED}], "unlimited": EVADED, "few_steps": EVADED},
    },
    "robustness": [{"epsilon": 8 / 255, "robust": 0.4, "sentence": "Robust detection at ε implies something."}],
    "warnings": ["the surrogate is on the wrong side"],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation, dict[str, Any]]:
    """One report of a whole evaluation, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("evaluation") / "new" / "report"
    given = whole(np.random.default_rng(11))
    return folder, given, write_evaluation_report(folder, given, resamples=10, per_image_csv=True)


def test_the_files_agree(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    folder, given, found = written
    assert sorted(path.name for path in folder.iterdir()) == ["images.csv", "report.csv", "report.html", "report.json"]
    read = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=no_constant)
    assert read.pop("facts") == read.pop("provenance") == given.provenance
    assert read == found
    rows = rows_of(folder / "report.csv")
    assert len(rows) == sum(len(entry["runs"]) + 2 for entry in found["results"])
    for entry in found["results"]:
        own = {
            row["run"]: row
            for row in rows
            if (row["detector"], row["fitted_on"], row["tested_on"])
            == (entry["detector"], "+".join(entry["fitted_on"]), entry["tested_on"])
        }
        for number, values in [*((str(run["run"]), run) for run in entry["runs"]), ("mean", entry["mean"])]:
            for group in ("successful", "failed", "all", "system_accuracy", "paper"):
                for key, value in (values[group] or {}).items():
                    if not key.endswith("interval"):
                        text = own[number][f"{group}_{key}"]
                        assert text == "" if value is None else float(text) == value


def test_the_images_file_gives_the_figures_again(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    folder, given, found = written
    rows = rows_of(folder / "images.csv")
    assert len(rows) == sum(len(rows) for each in given.detector_results for rows in each.rows.values())
    entry = next(entry for entry in found["results"] if entry["detector"] == "knn" and entry["tested_on"] == "pgd")
    for run in entry["runs"]:
        own = [
            row
            for row in rows
            if (row["detector"], row["fitted_on"], row["run"]) == ("knn", "+".join(entry["fitted_on"]), str(run["run"]))
        ]
        chosen = [row for row in own if row["set"] == NATURAL or (row["set"] == "pgd" and row["success"] == "1")]
        auroc = roc_auc_score([row["set"] == "pgd" for row in chosen], [float(row["score"]) for row in chosen])
        assert run["successful"]["auroc"] == pytest.approx(auroc, abs=1e-12)
        flagged = [row["flagged"] == "1" for row in own if row["set"] == "pgd" and row["success"] == "1"]
        assert run["successful"]["flagged"] == pytest.approx(np.mean(flagged))
    assert {row["label"] for row in rows if row["set"] == "ood:mnist"} == {""}


def test_the_page_stands_alone_and_is_well_formed(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not re.search(r"https?://|//[a-z]", text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    references = {value for one in page.values for value in re.findall(r"(?:url\(#|^#)([^)]+)", one)}
    assert references <= set(page.ids)
    assert page.labels
    assert all(page.labels)
    sections = {
        "results", "matrix", "worst-case", "false-positives", "outliers", "curves", "rejection", "scores", "paths",
        "budgets", "adaptive", "costs", "sets", "provenance",
    }  # fmt: skip
    assert sections <= set(page.ids)
    assert len(text) < 2_000_000


def test_every_colour_of_the_page_has_a_dark_value(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    style, _, body = text.partition("</style>")
    light, dark = re.findall(r":root \{(.*?)\}", style)
    for name in set(re.findall(r"var\(--([a-z0-9-]+)\)", text)):
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    # A colour left as a number would stay as it is in the dark.
    assert not re.search(r"(?:fill|stroke|background|color): ?#", body)
    assert len(re.findall(r"\.h20 \{", style)) == 2


def test_the_page_prints_the_figures_of_the_json(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    folder, _, found = written
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    cells = {cell for row in page.rows for cell in row}

    for entry in found["results"]:
        group = "successful" if entry["kind"] == "attack" else "all"
        mean = entry["mean"][group]
        # The AUROC is in the row of its set, with the interval of the mean, and alone in the matrix.
        assert written_area(mean["auroc"]) in cells
        low, high = map(written_area, mean["auroc_interval"])
        assert f"{written_area(mean['auroc'])} {low}–{high}" in cells
        if 0.001 < mean["flagged"] < 0.999:
            assert any(cell.startswith(f"{100 * mean['flagged']:.1f} %") for cell in cells)
    for worst in found["worst_case"]:
        share = worst["mean"]["share"]
        if 0.001 < share < 0.999:
            assert f"{100 * share:.1f} %" in cells
    for rate in found["false_positives"]:
        if rate["mean"]["realised"] > 0.001:
            assert any(cell.startswith(f"{100 * rate['mean']['realised']:.1f} %") for cell in cells)
    for warning in found["warnings"]:
        assert warning in "".join(page.text)
    words = page.words
    assert "25.0 % 12.7–41.2" in words
    assert "1,234" in words
    assert "Robust detection at ε implies something." in words
    assert "the surrogate is on the wrong side" in words


def test_baselines_stand_in_every_table_and_apart(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    folder, _, found = written
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    headers = [row for row in page.rows if row[0] == "tested on" and "AUROC of max softmax" in row]
    fits = {(e["detector"], tuple(e["fitted_on"])) for e in found["results"] if not e["baseline"]}
    assert len(headers) == len(fits)
    assert all("AUROC of pixel statistics" in row for row in headers)
    assert "baseline" in page.classes
    assert "seen-cell" in page.classes


def test_names_from_outside_are_escaped(tmp_path: Path, rng: np.random.Generator) -> None:
    long = "n" * 1000
    given = random_evaluation(
        rng, count=60, runs=1, blocks=2, fit_on=[(HOSTILE,)],
        attacks={HOSTILE: 0.6, f"{HOSTILE}:epsilon=1/255": 0.5, "Ж 雪 🦊 _x": 0.5}, outliers={f"ood:{long}": 0.4},
        detectors={HOSTILE: 0.9, long: 0.8, "max_softmax": 0.3},
        provenance={"network": HOSTILE, "dataset": {"name": long}, "classes": [HOSTILE], HOSTILE: 1},
        adaptive={HOSTILE: {"attacks": {HOSTILE: EVADED}, "warnings": [HOSTILE], HOSTILE: HOSTILE}},
    )  # fmt: skip
    given = replace(given, branches=(HOSTILE, long))
    found = write_evaluation_report(tmp_path, given, resamples=2, per_image_csv=True)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    assert HOSTILE in "".join(page.text)
    assert any(HOSTILE in label for label in page.labels)
    assert long not in text.partition('id="provenance"')[0]
    assert {row["tested_on"] for row in rows_of(tmp_path / "report.csv")} == set(given.sets) - {NATURAL}
    assert all(len(line) <= 120 for line in as_table(found).splitlines())


def test_components_are_explained(tmp_path: Path, rng: np.random.Generator) -> None:
    given = random_evaluation(rng, count=40, runs=1, blocks=1, attacks={"fgm": 0.5}, outliers={})
    info = {"all_class": ComponentInfo("All classes", HOSTILE), "absent": ComponentInfo("Another", "not in the score")}
    results = tuple(replace(each, component_info=info) for each in given.detector_results)
    write_evaluation_report(tmp_path, replace(given, detector_results=results), resamples=0)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"All classes {HOSTILE}" in Page(text).words
    assert "<script" not in text
    assert "not in the score" not in text


def only_natural(rng: np.random.Generator) -> Evaluation:
    return random_evaluation(rng, count=30, runs=1, attacks={}, outliers={}, detectors={"energy": 0.5})


def only_outliers(rng: np.random.Generator) -> Evaluation:
    return random_evaluation(rng, count=40, runs=1, attacks={}, detectors={"knn": 0.5, "energy": 0.5}, fit_on=[()])


def only_baselines(rng: np.random.Generator) -> Evaluation:
    return random_evaluation(rng, count=40, runs=1, outliers={}, attacks={"fgm": 0.7}, detectors={"energy": 0.5})


def of_the_paper(rng: np.random.Generator) -> Evaluation:
    return random_evaluation(rng, count=60, runs=3, protocol="paper", attacks={"fgm": 0.5}, outliers={}, blocks=1)


def no_success(rng: np.random.Generator) -> Evaluation:
    given = random_evaluation(rng, count=40, runs=2, attacks={"fgm": 0.5}, outliers={})
    fgm = replace(given.sets["fgm"], success=np.zeros(40, dtype=bool), attack=None)
    return replace(given, sets={**given.sets, "fgm": fgm})


def no_judgement(rng: np.random.Generator) -> Evaluation:
    return replace(random_evaluation(rng, count=20, runs=1), detector_results=())


def nothing_known(_: np.random.Generator) -> Evaluation:
    """Two images, equal scores, no threshold, no votes, no costs, no summary."""
    sets = [image_set(NATURAL, 2), image_set("still", 2, kind="attack", right=[0, 0], success=[1, 0])]
    scores = {NATURAL: [0.0, 0.0], "still": [0.0, 0.0]}
    return evaluation(sets, [detector_result("own", scores, threshold=None)])


def long_tail(rng: np.random.Generator) -> Evaluation:
    sets = [image_set(NATURAL, 200), image_set("far", 200, kind="attack", right=np.zeros(200), success=np.ones(200))]
    scores = {NATURAL: rng.normal(size=200), "far": 1e9 * rng.random(200)}
    return evaluation(sets, [detector_result("own", scores, threshold=1e3)])


@pytest.mark.parametrize(
    "make",
    [only_natural, only_outliers, only_baselines, of_the_paper, no_success, no_judgement, nothing_known, long_tail],
    ids=lambda make: make.__name__,
)
def test_unusual_studies_make_a_report_too(
    tmp_path: Path, rng: np.random.Generator, make: Callable[[np.random.Generator], Evaluation]
) -> None:
    given = make(rng)
    found = write_evaluation_report(tmp_path, given, resamples=5, per_image_csv=True)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"nan", "None", "null"} & set(page.words.split())
    assert page.labels or not found["results"]
    assert ("curves" in page.ids) == any(not entry["baseline"] for entry in found["results"])
    for warning in found["warnings"]:
        assert warning in "".join(page.text)
    assert all(len(line) <= 120 for line in as_table(found).splitlines())
    json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=no_constant)


def test_the_same_study_gives_the_same_files_and_leaves_matplotlib_as_it_was(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    given = random_evaluation(rng, count=40, runs=1, blocks=2, attacks={"fgm": 0.5}, outliers={})
    before: dict[str, Any] = dict(matplotlib.rcParams)
    write_evaluation_report(tmp_path / "one", given, resamples=5, per_image_csv=True)
    write_evaluation_report(tmp_path / "two", given, resamples=5)
    for file in ("report.html", "report.csv", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert Gcf.get_all_fig_managers() == []
    # A report without a file for images takes an earlier one's away, whose figures it does not hold.
    assert (tmp_path / "one" / "images.csv").exists()
    write_evaluation_report(tmp_path / "one", only_natural(rng), resamples=0)
    assert not (tmp_path / "one" / "images.csv").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder to write the report to"):
        write_evaluation_report(tmp_path / "file" / "report", only_natural(rng), resamples=0)


# --- what the parts compute


def test_what_is_drawn_is_chosen_without_looking_at_figures(rng: np.random.Generator) -> None:
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
def test_every_shade_can_be_read(dark: bool) -> None:
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


def test_a_baseline_stands_beside_as_fitted_alike_else_on_the_set_itself() -> None:
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


def test_budgets_of_one_attack_are_put_together() -> None:
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


# --- the terminal


def test_one_detector_has_a_table_of_its_own(rng: np.random.Generator) -> None:
    given = random_evaluation(
        rng, runs=1, attacks={"fgm": 0.9, "a-name-too-long-for-any-table-to-hold": 0.15}, fit_on=[("fgm",)], outliers={}
    )
    found = figures(given, resamples=20)
    table = as_table(found)
    lines = table.splitlines()
    first, second = lines[5:7]
    assert lines[0] == "transport, fitted on fgm"
    assert first.split()[:2] == ["fgm", "seen"]
    assert second.startswith("a-name-too-lon…e-to-hold ")
    assert " unseen " in second
    entry = next(e for e in found["results"] if e["detector"] == "transport" and e["tested_on"].startswith("a-name"))
    figures_there = entry["runs"][0]["successful"]
    assert f"{figures_there['auroc']:.3f}" in second
    assert f"{100 * figures_there['flagged']:.1f} %" in second
    baseline = next(
        e for e in found["results"] if e["detector"] == "max_softmax" and e["tested_on"].startswith("a-name")
    )
    assert f"{baseline['mean']['successful']['auroc']:.3f}" in second
    # Right-aligned columns end where their headers end.
    assert {len(line) for line in lines[3:7]} == {len(lines[4])}
    (rate,) = (r for r in found["false_positives"] if r["detector"] == "transport" and r["nominal"] == 0.05)
    said = re.search(
        r"\(95 % interval <?([\d.]+) to ([\d.]+) %\) of 150 natural images; nominal: 5 %\.", " ".join(table.split())
    )
    assert said is not None
    assert [float(bound) for bound in said.groups()] == pytest.approx(
        [100 * bound for bound in rate["runs"][0]["interval"]], abs=0.1
    )


def test_many_detectors_share_matrices(rng: np.random.Generator) -> None:
    attacks = {f"attack{place}": 0.05 * place for place in range(11)}
    given = random_evaluation(
        rng, count=30, runs=1, attacks=attacks, detectors={"transport": 1.0, "knn": 0.5, "energy": 0.2},
        fit_on=[("attack3",), ("attack9", "attack10")],
    )  # fmt: skip
    found = figures(given, resamples=0)
    table = as_table(found)
    assert all(len(line) <= 120 for line in table.splitlines())
    for entry in found["results"]:
        figures_there = entry["mean"]["successful" if entry["kind"] == "attack" else "all"]
        text = "–" if figures_there is None else written_area(figures_there["auroc"]).replace("0.", ".")
        assert re.search(rf"(?<![.\d]){re.escape(text)}{'[*]' if entry['seen'] else '(?![*0-9])'}", table)
    assert "[12] ood:noise" in " ".join(table.split())


# --- the page that explains it


def test_every_key_is_documented(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    folder, _, found = written

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if isinstance(value, dict):
            return set(value).union(*(keys(item) for name, item in value.items() if name != "attack"))
        return set()

    plain = keys(found)
    columns = set(rows_of(folder / "images.csv")[0]) - {"vote_all_class", "vote_predicted_class"}
    columns |= {"detector", "fitted_on", "run"}
    missing = {key for key in plain | columns if f"`{key}`" not in text}
    assert missing == set()
    assert f"schema {found['schema']}" in text


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_examples_in_docstrings(module: Any) -> None:
    import doctest

    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed
