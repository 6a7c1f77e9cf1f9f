"""The tables of the terminal."""

import re

import numpy as np
import pytest

from service.evaluation.summary.figures import figures
from service.report import as_table
from tests.service.evaluations import random_evaluation
from tests.service.report.examples import written_area


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
