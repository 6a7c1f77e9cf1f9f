"""Published figures are paired with comparable figures of an evaluation only."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import InputError
from service.evaluation.records import Evaluation
from service.evaluation.summary.figures import figures
from service.report import write_evaluation_report
from service.report.csv_files import beside_paper_csv
from service.report.results.beside_paper import beside_paper
from service.report.results.published import chosen_rows, read_published
from tests.service.evaluations import random_evaluation
from tests.service.pages import Page

HEADER = "table,network,dataset,training,detector,setting,detector_trained_on,tested_on,metric,mean_percent,std"
ROWS = """\
12,ResNet110,CIFAR10,VAN,TR,seen,,FGM,accuracy,97.1,
12,ResNet110,CIFAR10,LAP,TR,seen,,FGM,accuracy,98.7,
12,ResNet110,CIFAR10,VAN,MH,seen,,FGM,accuracy,87.8,
32,ResNet110,CIFAR10,VAN,TR,seen,,FGM,accuracy,97.14,0.59
13,ResNet110,CIFAR10,VAN,TR,unseen,FGM,DF,accuracy,91.02,
38,ResNet110,CIFAR10,VAN,TR,seen,,PGD,detection_rate_successful,99.0,
40,ResNet110,CIFAR10,VAN,TR,seen,,PGD,fpr,2.0,
42,ResNet110,CIFAR10,VAN,MH,seen,,FGM,auroc,94.5,0.4
44,ResNet110,CIFAR10,VAN,TR,ood-seen,CIFAR100,CIFAR100,auroc,99.64,0.13
45,ResNet110,CIFAR10,VAN,TR,ood-unseen,CW-CIFAR10,SVHN,fpr_at_95_tpr,20.0,3.0
46,ResNeXt50,CIFAR100,VAN,TR,ood-seen,CW-CIFAR100,CW-CIFAR100,auroc,99.0,0.1"""


def published(folder: Path, rows: str = ROWS) -> Path:
    path = folder / "published.csv"
    path.write_text(f"{HEADER}\n{rows}\n", encoding="utf-8")
    return path


def ours(rng: np.random.Generator) -> Evaluation:
    """Runs of a transport detector and a Mahalanobis one without votes, as the published tables ask for."""
    given = random_evaluation(
        rng, count=60, runs=2, protocol="paper",
        attacks={
            "fgm": 0.5, "deepfool": 0.2, "carlini_wagner": 0.4, "pgd:epsilon=2/255": 0.3, "pgd:epsilon=8/255": 0.6,
        },
        outliers={"ood:cifar100": 0.3, "ood:svhn": 0.7},
        detectors={"mahalanobis": 0.6, "transport:classifier=none": 0.2, "transport": 1.0},
        fit_on=[("fgm",), ("pgd:epsilon=8/255",), ("ood:cifar100",), ("carlini_wagner",)],
        provenance={"network": {"name": "resnet20"}, "dataset": {"name": "cifar10"}},
    )  # fmt: skip
    without = [
        replace(each, components={}) if each.detector == "mahalanobis" else each for each in given.detector_results
    ]
    return replace(given, detector_results=tuple(without))


def pairs(given: Evaluation, path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    return by_row(beside_paper(figures(given, resamples=0), given.provenance, read_published(path)))


def by_row(beside: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    return {
        (row["table"], row["training"], row["detector"], row["tested_on"], row["metric"]): row for row in beside["rows"]
    }


def entry(found: dict[str, Any], detector: str, fitted_on: str, tested_on: str) -> dict[str, Any]:
    (one,) = (
        e for e in found["results"]
        if (e["detector"], e["fitted_on"], e["tested_on"]) == (detector, [fitted_on], tested_on)
    )  # fmt: skip
    return one


def test_published_figures_are_paired_with_ours(tmp_path: Path, rng: np.random.Generator) -> None:
    given = ours(rng)
    found = figures(given, resamples=0)
    rows = by_row(beside_paper(found, given.provenance, read_published(published(tmp_path))))
    assert len(rows) == 10  # those of CIFAR10, and not ResNeXt50's
    fgm = rows["12", "VAN", "TR", "FGM", "accuracy"]
    assert fgm["published"] == {"mean": 0.971, "std": 0.0059}
    own = entry(found, "transport", "fgm", "fgm")
    assert fgm["ours"]["mean"] == own["mean"]["paper"]["accuracy"]
    assert fgm["ours"]["std"] == own["std"]["paper"]["accuracy"]
    assert (fgm["ours"]["detector"], fgm["ours"]["runs"], fgm["ours"]["images"]) == ("transport", 2, 30)
    assert (fgm["ours"]["decision"], fgm["ours"]["notes"]) == ("vote of 0.5", [])
    # Another training is another network.
    assert rows["12", "LAP", "TR", "FGM", "accuracy"]["ours"] is None
    # A detector without votes has no accuracy at 0.5, and an AUROC of its score.
    assert rows["12", "VAN", "MH", "FGM", "accuracy"]["ours"] is None
    auroc = rows["42", "VAN", "MH", "FGM", "auroc"]["ours"]
    assert auroc["mean"] == entry(found, "mahalanobis", "fgm", "fgm")["mean"]["all"]["auroc"]
    assert auroc["notes"] == ["from the score, no votes", "means and covariance from a quarter of the fitting images"]
    compared = replace(given, provenance={**given.provenance, "reference": {"name": "cifar10"}})
    auroc = pairs(compared, published(tmp_path))["42", "VAN", "MH", "FGM", "auroc"]["ours"]
    assert auroc["notes"] == ["from the score, no votes"]
    unseen = rows["13", "VAN", "TR", "DF", "accuracy"]["ours"]
    assert unseen["mean"] == entry(found, "transport", "fgm", "deepfool")["mean"]["paper"]["accuracy"]
    # 8/255 is near the published 0.03 and noted, 2/255 is another attack.
    for table, metric, key in (("38", "detection_rate_successful", "flagged_successful"), ("40", "fpr", "fpr")):
        pgd = rows[table, "VAN", "TR", "PGD", metric]["ours"]
        own = entry(found, "transport", "pgd:epsilon=8/255", "pgd:epsilon=8/255")
        assert pgd["mean"] == own["mean"]["paper"][key]
        assert pgd["notes"] == ["ε 8/255"]
    outliers = rows["44", "VAN", "TR", "CIFAR100", "auroc"]["ours"]
    own = entry(found, "transport", "ood:cifar100", "ood:cifar100")
    assert outliers["mean"] == own["mean"]["paper"]["auroc_all_class"]
    attack_to_outliers = rows["45", "VAN", "TR", "SVHN", "fpr_at_95_tpr"]["ours"]
    assert attack_to_outliers["fitted_on"] == ["carlini_wagner"]
    assert attack_to_outliers["tested_on"] == "ood:svhn"


def test_missing_deviations_are_taken_from_the_appendix(tmp_path: Path) -> None:
    figure = "A,B,VAN,TR,seen,,FGM,accuracy"
    rows = read_published(published(tmp_path, f"12,{figure},97.1,\n32,{figure},97.14,0.59"))
    assert [row.std for row in rows] == [0.0059, 0.0059]
    assert [row.mean for row in rows] == [0.971, 0.9714]


def test_our_training_chooses_the_rows(tmp_path: Path, rng: np.random.Generator) -> None:
    provenance = {"dataset": {"name": "cifar10"}, "trained": {"objective": {"name": "least_action"}}}
    given = random_evaluation(
        rng, count=40, runs=1, attacks={"fgm": 0.6}, detectors={"transport": 1.0}, provenance=provenance
    )
    rows = pairs(given, published(tmp_path))
    assert rows["12", "VAN", "TR", "FGM", "accuracy"]["ours"] is None
    assert rows["12", "LAP", "TR", "FGM", "accuracy"]["ours"] is not None


def test_the_sound_protocol_is_noted(tmp_path: Path, rng: np.random.Generator) -> None:
    given = random_evaluation(rng, count=60, runs=1, attacks={"fgm": 0.6}, provenance={"dataset": {"name": "cifar10"}})
    notes = pairs(given, published(tmp_path))["12", "VAN", "TR", "FGM", "accuracy"]["ours"]["notes"]
    assert notes == ["sound protocol's split"]


def test_an_artifact_is_compared_by_its_detector(tmp_path: Path, rng: np.random.Generator) -> None:
    given = random_evaluation(
        rng, count=60, runs=1, attacks={"fgm": 0.6}, detectors={"artifact": 1.0},
        provenance={"dataset": {"name": "cifar10"}, "detector": {"name": "mahalanobis"}},
    )  # fmt: skip
    rows = pairs(given, published(tmp_path))
    assert rows["12", "VAN", "MH", "FGM", "accuracy"]["ours"]["detector"] == "artifact"
    assert rows["12", "VAN", "TR", "FGM", "accuracy"]["ours"] is None


def test_rows_are_chosen_by_data_set_or_name(tmp_path: Path) -> None:
    rows = read_published(published(tmp_path))
    assert len(chosen_rows(rows, "npz:some/cifar10-test.npz")) == 10
    with pytest.raises(InputError, match="--published beside --beside-paper for digits"):
        chosen_rows(rows, "digits")
    assert [row.network for row in chosen_rows(rows, "cifar10", "resnext50")] == ["ResNeXt50"]
    with pytest.raises(InputError, match=r"a published network or data set out of CIFAR10, .* got 'vgg'"):
        chosen_rows(rows, "cifar10", "vgg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("table,network\n12,A\n", "columns table, network, .* none named dataset"),
        (f"{HEADER}\n12,A,B,VAN,TR,seen,,FGM,accuracy,much,\n", "numbers in line 2"),
        (None, "a CSV file of published figures"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "file.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_published(path)


def test_the_report_contains_the_published_figures(tmp_path: Path, rng: np.random.Generator) -> None:
    given = random_evaluation(
        rng, count=40, runs=2, blocks=1, attacks={"fgm": 0.5}, outliers={}, detectors={"transport": 1.0},
        provenance={"dataset": {"name": "cifar10"}},
    )  # fmt: skip
    folder = tmp_path / "report"
    found = write_evaluation_report(folder, given, resamples=0, beside_paper=published(tmp_path))
    beside = found["beside_paper"]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["beside_paper"] == beside
    text = (folder / "beside-paper.csv").read_text(encoding="utf-8")
    assert text == beside_paper_csv(beside)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(beside["rows"])
    for row, pair in zip(rows, beside["rows"], strict=True):
        assert float(row["published_percent"]) == pytest.approx(100 * pair["published"]["mean"])
        if pair["ours"] is None:
            assert row["our_percent"] == "not run"
        else:
            assert float(row["our_percent"]) == pytest.approx(100 * pair["ours"]["mean"], abs=1e-6)
            assert row["our_fitted_on"] == "+".join(pair["ours"]["fitted_on"])
    explained = (Path(__file__).parents[3] / "docs" / "report.md").read_text(encoding="utf-8")
    documented_keys = {
        key for row in beside["rows"] for part in (row, row["published"], row["ours"] or {}) for key in part
    }
    assert {key for key in documented_keys | set(beside) if f"`{key}`" not in explained} == set()
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert "beside-paper" in page.ids
    printed = [row for row in page.rows if row[0] in ("VAN TR", "LAP TR", "VAN MH")]
    assert len(printed) == len(beside["rows"])
    assert sum("not run" in row for row in printed) == sum(pair["ours"] is None for pair in beside["rows"])
    assert any(row[:4] == ["VAN TR", "FGM", "the same", "97.1 % ± 0.6"] for row in printed)
