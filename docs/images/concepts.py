"""Draw the figures of docs/concepts.md from the output of `make demo`.

    python docs/images/concepts.py demo

Reads demo/artifact, demo/natural.png and demo/attacked.png; writes concepts-*.png beside this file and prints the
numbers of the worked example.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from detector.artifact import load_artifact
from detector.base.composite import CompositeDetector
from detector.pipeline import Pipeline, Verdict

HERE = Path(__file__).parent
COLOURS = {"natural": "#2166ac", "attacked": "#b2182b"}
BAND = "#d9d9d9"
TITLES = {"classifier": "Classifiers"}


def main(demo: Path) -> None:
    pipeline = load_artifact(demo / "artifact").pipeline
    pictures = [np.asarray(Image.open(demo / f"{kind}.png").convert("RGB")) for kind in COLOURS]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    verdicts = dict(zip(COLOURS, pipeline.score(images, path=True), strict=True))
    tail_scores = _tail_scores(pipeline, images)
    for kind, verdict in verdicts.items():
        print(f"{kind}: {verdict.class_name} {verdict.probability:.3f}, score {verdict.score:.2f}", end="")
        print(f", p-value {verdict.p_value:.4f}, flagged {verdict.flagged}, mainly {verdict.main_component}")
        print("  tail scores:", {name: round(values[kind], 2) for name, values in tail_scores.items()})
    _save(_flow(verdicts), "concepts-flow")
    _save(_paths(pictures, verdicts), "concepts-path")
    _save(_bars(tail_scores), "concepts-tail-scores")
    _save(_scores(pipeline, verdicts), "concepts-score")


def _tail_scores(pipeline: Pipeline, images: torch.Tensor) -> dict[str, dict[str, float]]:
    """Tail score of every component, by readable name and kind of image."""
    detector = pipeline.detector
    assert isinstance(detector, CompositeDetector)
    info = detector.component_info()
    columns = detector.tail_scores(pipeline.features(images))
    titles = {name: TITLES.get(name) or info[name].title for name in columns}
    return {titles[name]: dict(zip(COLOURS, values.tolist(), strict=True)) for name, values in columns.items()}


def _flow(verdicts: dict[str, Verdict]) -> Figure:
    """The steps from an image to a flag, with the numbers of the attacked image."""
    verdict = verdicts["attacked"]
    steps = [
        ("image", "32 × 32 pixels"),
        ("path", "one residue\nper residual block"),
        ("statistics", "two numbers\nper block"),
        ("components", "one number\nper property"),
        ("tail scores", "how rare among\nnatural images"),
        ("score", f"{verdict.score:.2f}"),
        ("p-value", f"{verdict.p_value:.3f}"),
        ("flag", "p-value ≤ 0.05"),
    ]
    figure = Figure(figsize=(11, 1.1), layout="constrained")
    axes = figure.subplots()
    for position, (name, note) in enumerate(steps):
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#f0f4fa", "edgecolor": COLOURS["natural"]}
        axes.text(position, 0.7, name, ha="center", va="center", fontsize=10, weight="bold", bbox=box)
        axes.text(position, 0.16, note, ha="center", va="center", fontsize=8, color="#444444")
        if position:
            arrow = {"arrowstyle": "->", "color": "#444444"}
            axes.annotate("", (position - 0.42, 0.7), (position - 0.6, 0.7), arrowprops=arrow)
    axes.set(xlim=(-0.5, len(steps) - 0.5), ylim=(0, 1))
    axes.axis("off")
    return figure


def _paths(pictures: list[np.ndarray], verdicts: dict[str, Verdict]) -> Figure:
    """Both images, and their statistics block by block over the band of natural images."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 2, 2])
    for axes, picture, (kind, verdict) in zip(panels[:2], pictures, verdicts.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(f"{kind}\n“{verdict.class_name}”, {verdict.probability:.1%}", color=COLOURS[kind], fontsize=10)
        axes.axis("off")
    names = ("transport cost ‖r‖²/d", "direction cos(r, 1)")
    for column, (axes, name) in enumerate(zip(panels[2:], names, strict=True)):
        for kind, verdict in verdicts.items():
            path = verdict.path
            assert path is not None
            blocks = np.arange(1, len(path.branches) + 1)
            if kind == "natural":
                low, high = (np.array(rows)[:, column] for rows in (path.low, path.high))
                axes.fill_between(blocks, low, high, color=BAND, label="natural images")
            axes.plot(blocks, np.array(path.statistics)[:, column], "o-", ms=4, color=COLOURS[kind], label=kind)
        axes.set(title=name, xlabel="residual block", xticks=blocks)
    panels[2].set_yscale("log")
    panels[3].legend(fontsize=8)
    return figure


def _bars(tail_scores: dict[str, dict[str, float]]) -> Figure:
    """Tail scores of the components, for both images."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes: Axes = figure.subplots()
    positions = np.arange(len(tail_scores))[::-1]
    for offset, kind in ((0.2, "natural"), (-0.2, "attacked")):
        values = [each[kind] for each in tail_scores.values()]
        bars: Any = axes.barh(positions + offset, values, 0.38, color=COLOURS[kind], label=kind)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(positions, list(tail_scores))
    for share, label in ((1, "1 in 10"), (2, "1 in 100"), (3, "1 in 1000")):
        axes.axvline(share, color="#999999", linewidth=0.7, linestyle=":")
        axes.text(share, len(tail_scores) - 0.4, label, fontsize=7, ha="center", color="#666666")
    axes.set(xlabel="tail score", ylim=(-0.6, len(tail_scores)))
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _scores(pipeline: Pipeline, verdicts: dict[str, Verdict]) -> Figure:
    """The calibration scores, the threshold, and the scores of both images."""
    calibration = pipeline.calibration
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes: Axes = figure.subplots()
    largest = 1.1 * max(calibration.scores[-1], *(verdict.score for verdict in verdicts.values()))
    axes.hist(calibration.scores, np.linspace(0, largest, 60), color=BAND, label="calibration images (natural)")
    axes.axvline(calibration.threshold, color="black", linestyle="--", label=f"threshold {calibration.threshold:.2f}")
    top = axes.get_ylim()[1]
    for kind, verdict in verdicts.items():
        axes.axvline(verdict.score, color=COLOURS[kind])
        text = f" {kind}\n score {verdict.score:.2f}\n p-value {verdict.p_value:.3f}"
        axes.text(verdict.score, 0.97 * top, text, color=COLOURS[kind], va="top", fontsize=9)
    axes.set(xlabel="score", ylabel="number of images", xlim=(0, largest))
    axes.legend(fontsize=8, loc="center right")
    return figure


def _save(figure: Figure, name: str) -> None:
    figure.savefig(HERE / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
