"""The report's files hold what the figures say, in a form that any reader can take."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import matplotlib
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from models.errors import InputError
from service.evaluation import Evaluation, figures
from service.report import as_table, draw_paths, write_report
from service.report.plots import draw_roc, draw_scores
from tests.service.judging import drawn_by_lot, evaluation, judged

HOSTILE = '<script>alert("$x$ & more")</script>'
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Tags, ids and text of a page; an unbalanced tag is an assertion that fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.values: list[str] = []
        self.text: list[str] = []
        self.labels: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.values += [value or "" for value in found.values()]
        self.ids += [found["id"] or ""] if "id" in found else []
        if tag == "svg":
            assert found["role"] == "img"
            self.labels.append(found["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def drawn(given: Evaluation) -> Figure:
    return draw_paths(
        given.natural,
        given.attacked,
        branches=given.branches,
        columns_per_block=given.columns_per_block,
        band=given.band,
    )


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "report.csv").read_text(encoding="utf-8"))))


def test_three_files_that_agree(tmp_path: Path, rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=120, calibrated_on=400)
    found = write_report(tmp_path / "new" / "report", given, resamples=30)
    folder = tmp_path / "new" / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.csv", "report.html", "report.json"]
    read = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=no_constant)
    assert read.pop("facts") == given.facts
    assert read == found
    rows = rows_of(folder)
    assert len(rows) == 120 * (1 + len(given.attacked))
    natural = np.array([float(row["score"]) for row in rows if row["set"] == "natural"])
    assert np.array_equal(natural, given.natural.scores)
    for entry in found["attacks"]:
        own = [row for row in rows if row["set"] == entry["name"]]
        scores = np.array([float(row["score"]) for row in own])
        success = np.array([row["success"] == "1" for row in own])
        for group, chosen in (("successful", success), ("failed", ~success), ("all", np.ones_like(success))):
            truth = np.repeat([0, 1], [len(natural), chosen.sum()])
            auroc = roc_auc_score(truth, np.concatenate([natural, scores[chosen]]))
            assert entry["detection"][group]["auroc"] == pytest.approx(auroc, abs=1e-12)
        accuracy = np.mean([row["label"] == row["predicted"] for row in own])
        assert entry["accuracy"] == pytest.approx(accuracy)
    assert {row["success"] for row in rows if row["set"] == "natural"} == {""}
    assert float(rows[0]["vote_all_class"]) == given.natural.votes["all_class"][0]
    flagged = np.mean([row["flagged"] == "1" for row in rows if row["set"] == "natural"])
    assert found["false_positives"]["realised"] == pytest.approx(flagged)


def test_the_page_stands_alone_and_is_well_formed(tmp_path: Path, rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=60)
    found = write_report(tmp_path, given, resamples=10)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert not re.search(r"https?://|//[a-z]", text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    references = {value for one in page.values for value in re.findall(r"(?:url\(#|^#)([^)]+)", one)}
    assert references <= set(page.ids)
    # A curve each for all, then scores and paths of every attack, each told in words too.
    assert page.tags.count("svg") == len(page.labels) == 1 + 2 * len(given.attacked)
    assert all(page.labels)
    words = " ".join(page.text)
    for entry in found["attacks"]:
        assert f"{100 * entry['accuracy']:.1f} %" in words
    assert "unseen" in words
    assert "prefers-color-scheme: dark" in text


def test_every_colour_of_the_page_has_a_dark_value(tmp_path: Path, rng: np.random.Generator) -> None:
    write_report(tmp_path, drawn_by_lot(rng, count=40), resamples=0)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    style, _, body = text.partition("</style>")
    light, dark = re.findall(r":root \{(.*?)\}", style)
    for name in set(re.findall(r"var\(--([a-z0-9-]+)\)", text)):
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    # A colour left as a number would stay as it is in the dark.
    assert not re.search(r"(?:fill|stroke): ?#", body)


def test_names_from_outside_are_escaped(tmp_path: Path, rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=40, attacks={HOSTILE: (0.6, True), "Ж 雪 🦊 _x": (0.5, None)})
    given = replace(
        given,
        branches=(HOSTILE, *given.branches[1:]),
        facts={"network": HOSTILE, "detector": {"name": HOSTILE}, "classes": [HOSTILE], HOSTILE: 1},
    )
    write_report(tmp_path, given, resamples=10)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    assert HOSTILE in "".join(page.text)
    assert any(HOSTILE in label for label in page.labels)
    assert {row["set"] for row in rows_of(tmp_path)} == {"natural", HOSTILE, "Ж 雪 🦊 _x"}


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path, rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=40)
    for name in ("one", "two"):
        write_report(tmp_path / name, given, resamples=10)
    for file in ("report.html", "report.csv", "report.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def no_success(rng: np.random.Generator) -> Evaluation:
    given = drawn_by_lot(rng, count=40)
    return replace(given, attacked=tuple(replace(one, success=np.zeros(40, dtype=bool)) for one in given.attacked))


def all_equal(_: np.random.Generator) -> Evaluation:
    natural = judged("natural", np.zeros(20), threshold=0.5)
    attacked = judged("still", np.zeros(20), threshold=0.5, right=np.zeros(20), success=np.ones(20))
    return evaluation(natural, attacked, threshold=0.5)


def long_tail(rng: np.random.Generator) -> Evaluation:
    natural = judged("natural", rng.normal(size=200), threshold=1e3)
    attacked = judged("far", 1e9 * rng.random(200), threshold=1e3, right=np.zeros(200), success=np.ones(200))
    return evaluation(natural, attacked, threshold=1e3)


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: drawn_by_lot(rng, count=30, blocks=1),
        lambda rng: drawn_by_lot(
            rng, count=30, blocks=60, attacks={f"attack {i}": (0.5, i % 2 == 0) for i in range(10)}
        ),
        lambda rng: drawn_by_lot(rng, count=30, attacks={}),
        lambda rng: drawn_by_lot(rng, count=2),
        no_success,
        all_equal,
        long_tail,
    ],
    ids=["one block", "ten attacks", "no attack", "two images", "no success", "all scores equal", "long tail"],
)
def test_unusual_sets_make_a_report_too(
    tmp_path: Path, rng: np.random.Generator, make: Callable[[np.random.Generator], Evaluation]
) -> None:
    given = make(rng)
    found = write_report(tmp_path, given, resamples=10)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.tags.count("svg") == (1 + 2 * len(given.attacked) if given.attacked else 0)
    assert "nan" not in " ".join(page.text).lower().split()
    for warning in found["warnings"]:
        assert warning in "".join(page.text)
    assert all(len(line) <= 100 for line in as_table(found).splitlines())
    drawn(given).savefig(tmp_path / "paths.png")
    assert (tmp_path / "paths.png").stat().st_size > 1000


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder to write the report to"):
        write_report(tmp_path / "file" / "report", drawn_by_lot(rng, count=20), resamples=0)


def test_the_table_shows_the_figures(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, attacks={"fgm": (0.9, True), "a-name-too-long-for-any-table-to-hold": (0.15, False)})
    found = figures(given, resamples=50)
    table = as_table(found)
    lines = table.splitlines()
    assert all(len(line) <= 100 for line in lines)
    first, second = lines[3:5]
    assert first.split()[:2] == ["fgm", "seen"]
    assert f"{100 * found['attacks'][0]['accuracy']:.1f} %" in first
    assert second.startswith("a-name-too-long-for-any…")
    assert " unseen " in second
    detection = found["attacks"][1]["detection"]["successful"]
    assert f"{detection['auroc']:.3f}" in second
    assert f"{100 * detection['tpr_at_5_fpr']:.1f} %" in second
    assert second.endswith(f"{100 * detection['flagged']:.1f} %")
    # Right-aligned columns end where their headers end.
    assert {len(line) for line in lines[1:5]} == {len(lines[2])}
    low, high = found["false_positives"]["interval"]
    notes = " ".join(table.split())
    assert f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %) of 300 natural images; asked for: 5 %." in notes


def test_paths_show_medians_of_successful_images(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=60, blocks=5)
    figure = drawn(given)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert len(panels) == 2 * len(given.attacked)
    for place, attacked in enumerate(given.attacked):
        for statistic in (0, 1):
            panel = panels[statistic * len(given.attacked) + place]
            expected = np.median(attacked.statistics[attacked.success][:, statistic::2], axis=0)
            lines = [np.asarray(line.get_ydata(), float) for line in panel.get_lines()]
            assert any(len(line) == 5 and np.allclose(line, expected, rtol=1e-5) for line in lines)
            assert any(len(line) == 5 and np.allclose(line, given.band[1, statistic::2]) for line in lines)
    shown = [panel.get_title(loc="left") for panel in panels]
    assert "fgm (seen)" in shown
    assert "bim (unseen)" in shown


def test_panels_of_one_statistic_share_their_scale(rng: np.random.Generator) -> None:
    figure = drawn(drawn_by_lot(rng, count=60))
    rows = [panel for panel in figure.axes if panel.get_visible()]
    half = len(rows) // 2
    for row in (rows[:half], rows[half:]):
        assert len({panel.get_ylim() for panel in row}) == 1


def test_paths_of_other_blocks_are_refused(rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=20)
    with pytest.raises(InputError, match="expected 2 blocks of 2 columns"):
        draw_paths(given.natural, [], branches=("a", "b"), columns_per_block=2, band=given.band)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path, rng: np.random.Generator) -> None:
    given = drawn_by_lot(rng, count=40)
    before: dict[str, Any] = dict(matplotlib.rcParams)
    write_report(tmp_path, given, resamples=0)
    for figure in (drawn(given), draw_roc(given), draw_scores(given, 0)):
        assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before
    assert Gcf.get_all_fig_managers() == []


def test_every_key_is_documented(rng: np.random.Generator) -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    found = figures(drawn_by_lot(rng, count=40, calibrated_on=400), resamples=5)

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(keys, value))
        if isinstance(value, dict):
            return set(value).union(*(keys(item) for name, item in value.items() if name != "attack"))
        return set()

    missing = {key for key in keys(found) if f"`{key}`" not in text}
    assert missing == set()
    assert f"schema {found['schema']}" in text
