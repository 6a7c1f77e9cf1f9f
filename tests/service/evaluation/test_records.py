"""Sets, results and evaluations: what does not belong together is refused."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.errors import InputError
from service.evaluation.records import NATURAL, DetectorResult, Evaluation
from tests.service.evaluations import detector_result, evaluation, image_set


def small() -> Evaluation:
    fgm = image_set("fgm", originals=[1, 2], kind="attack", right=[0, 1], success=[1, 0])
    outliers = image_set("ood:mnist", 5, kind="outlier")
    said = detector_result(
        "transport", {NATURAL: [0.1, 0.2, 0.3], "fgm": [0.6, 0.7], "ood:mnist": [0.5]}, rows={"ood:mnist": [4]}
    )
    return evaluation([image_set(NATURAL, 3), fgm, outliers], [said])


def changed(said: DetectorResult, **changes: Any) -> DetectorResult:
    return replace(said, **changes)


def test_outliers_are_never_right() -> None:
    assert not small().sets["ood:mnist"].right.any()
    assert small().sets["fgm"].right.tolist() == [False, True]


def test_results_are_grouped_by_detector_and_ordered_by_run() -> None:
    given = small()
    (said,) = given.detector_results
    other = replace(said, detector="knn")
    both = replace(given, detector_results=(replace(said, run=1), other, said))
    assert both.runs == (0, 1)
    assert {key[0]: [each.run for each in group] for key, group in both.detectors().items()} == {
        "transport": [0, 1], "knn": [0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "noise"}, "natural, attack or outlier, got 'noise'"),
        ({"originals": np.empty(0, np.int64)}, "expected images in the set 'fgm', got none"),
        ({"labels": None}, "expected labels in the set 'fgm' of kind attack"),
        ({"success": None}, "expected success in the set 'fgm' of kind attack"),
        ({"kind": "natural"}, "expected no success in the set 'fgm'"),
        ({"kind": "outlier", "success": None}, "expected no labels in the set 'fgm'"),
        ({"predicted": np.zeros(3, np.int64)}, "predicted of the set 'fgm' of shape (2,)"),
        ({"success": np.zeros(2)}, "success of the set 'fgm' as bool, got float64"),
        ({"statistics": np.ones((3, 6), np.float32)}, "shape (2, F)"),
        ({"probability": np.array([0.5, np.nan])}, "finite probability"),
        ({"originals": np.array([1, 1])}, "each original once"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_sets_that_are_no_sets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(small().sets["fgm"], **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {}, "scores": {}}, "expected natural images scored by transport"),
        ({"scores": {NATURAL: np.ones(3)}}, "expected scores of the sets"),
        ({"components": {"pgd": {}}}, "components on ['pgd']"),
        ({"thresholds": {0.0: 0.5}}, "rates between 0 and 1"),
        ({"thresholds": {0.05: np.inf}}, "finite thresholds"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_contradictory_results_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        changed(small().detector_results[0], **changes)


@pytest.mark.parametrize(
    ("rows", "scores", "message"),
    [
        (np.array([0, 0, 1]), np.ones(3), "each once"),
        (np.array([0.0, 1, 2]), np.ones(3), "int64 rows"),
        (np.array([0, 1]), np.ones(3), "2 finite scores on 'natural'"),
        (np.array([0, 1, 2]), np.array([0.1, np.nan, 0.2]), "3 finite scores on 'natural'"),
    ],
)
def test_rows_and_scores_that_do_not_fit_are_refused(rows: Any, scores: Any, message: str) -> None:
    said = small().detector_results[0]
    with pytest.raises(InputError, match=re.escape(message)):
        changed(said, rows={**said.rows, NATURAL: rows}, scores={**said.scores, NATURAL: scores})


def test_parts_that_do_not_belong_together_are_refused() -> None:
    given = small()
    (said,) = given.detector_results
    fgm = given.sets["fgm"]
    for changes, message in (
        ({"protocol": "honest"}, "paper or sound"),
        ({"sets": {"fgm": fgm}}, "expected natural images in a set"),
        ({"sets": {**given.sets, "pgd": fgm}}, "the set 'pgd' under its own name, got 'fgm'"),
        ({"sets": {**given.sets, "fgm": replace(fgm, originals=np.array([1, 9]))}}, "every original of 'fgm'"),
        ({"branches": ("a", "b")}, "band of shape (3, 4)"),
        ({"branches": ("a", "b"), "band": np.ones((3, 4), np.float32)}, "4 columns of statistics"),
        ({"detector_results": (said, said)}, "got one of them twice"),
        ({"sets": {name: given.sets[name] for name in (NATURAL, "fgm")}}, "got ood:mnist"),
        ({"detector_results": (replace(said, rows={**said.rows, "ood:mnist": np.array([5])}),)}, "below 5"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            replace(given, **changes)


def test_an_attacked_image_is_scored_together_with_its_original() -> None:
    given = small()
    (said,) = given.detector_results
    apart = replace(
        said, rows={**said.rows, NATURAL: np.array([0, 1])}, scores={**said.scores, NATURAL: np.array([0.1, 0.2])}
    )
    with pytest.raises(InputError, match="same part of a split as its original"):
        replace(given, detector_results=(apart,))


def test_a_vote_of_a_half_decides_where_nothing_is_calibrated() -> None:
    votes = {NATURAL: {"all_class": np.array([0.1]), "predicted_class": np.array([0.6])}}
    assert detector_result("transport", {NATURAL: [0.6]}, components=votes, threshold=None).threshold == 0.5
    assert detector_result("transport", {NATURAL: [0.6]}, components=votes, threshold=0.7).threshold == 0.7
    assert detector_result("energy", {NATURAL: [0.6]}, threshold=None).threshold is None
