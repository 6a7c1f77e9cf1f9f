"""The files of a report hold the figures of the evaluation."""

import csv
import errno
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from sklearn.metrics import roc_auc_score

import service.formatting
import service.inputs.names
import service.report.sections.costs
from detector.common.result import ComponentInfo
from models import files
from models.errors import InputError
from service.evaluation.records import NATURAL, VOTES, Evaluation
from service.report import as_table, write_evaluation_report
from service.report.csv_files import images_csv
from tests.service.evaluations import detector_result, evaluation, image_set, random_evaluation
from tests.service.pages import Page
from tests.service.report.examples import EVADED, HOSTILE, no_constant, rows_of, written_area

EXAMPLES = (service.formatting, service.inputs.names, service.report.sections.costs)


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


def test_the_figures_can_be_computed_from_the_images_file(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
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


def test_former_columns_repeat_the_components(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
    rows = rows_of(written[0] / "images.csv")
    assert any(row["component_all_class"] for row in rows)
    assert all(row[f"vote_{name}"] == row[f"component_{name}"] for row in rows for name in VOTES)
    given = written[1]
    renamed = {"all_class": "logit_shift", "predicted_class": "prediction_disagreement"}
    results = tuple(
        replace(each, components={s: {renamed[n]: x for n, x in parts.items()} for s, parts in each.components.items()})
        for each in given.detector_results
    )
    (row, *_) = csv.DictReader(io.StringIO(images_csv(replace(given, detector_results=results))))
    assert {name for name in row if name.startswith("vote_")} == {"vote_change", "vote_dispute"}


def test_the_page_is_self_contained_and_well_formed(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
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


def test_baselines_are_in_every_table(written: tuple[Path, Evaluation, dict[str, Any]]) -> None:
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
    results = tuple(
        replace(
            each, component_info=info, main_parts={n: np.array(["attack"] * len(s)) for n, s in each.scores.items()}
        )
        for each in given.detector_results
    )
    write_evaluation_report(tmp_path, replace(given, detector_results=results), resamples=0)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"All classes {HOSTILE}" in Page(text).words
    assert "<script" not in text
    assert "not in the score" not in text
    rows = csv.DictReader(io.StringIO(images_csv(replace(given, detector_results=results))))
    assert {row["main_part"] for row in rows} == {"attack"}
    assert "flagged mainly as attack 100 %; flagged mainly by" in Page(text).words
    flagged = Page(text).words.partition("flagged mainly by ")[2]
    assert re.search(r"^(All classes|predicted_class) \d+(\.\d+)? %", flagged)


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


def no_result(rng: np.random.Generator) -> Evaluation:
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
    [only_natural, only_outliers, only_baselines, of_the_paper, no_success, no_result, nothing_known, long_tail],
    ids=lambda make: make.__name__,
)
def test_unusual_evaluations_are_reported(
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


def test_equal_evaluations_give_equal_files_and_leave_matplotlib_unchanged(
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


def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        write_evaluation_report(tmp_path / "file" / "report", only_natural(rng), resamples=0)


def test_a_full_disk_leaves_no_half_report(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_for_csv(path: Path, content: bytes) -> None:
        if ".csv" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)

    monkeypatch.setattr(files, "write_synced", full_for_csv)
    with pytest.raises(InputError, match="No space left on device; free space there"):
        write_evaluation_report(tmp_path / "report", only_natural(rng), resamples=0)
    assert list((tmp_path / "report").iterdir()) == []


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
    columns = set(rows_of(folder / "images.csv")[0]) - {
        f"{prefix}_{name}" for prefix in ("component", "vote") for name in VOTES
    }
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
